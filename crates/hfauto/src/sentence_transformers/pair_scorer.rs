//! [`PairScorer`]: how a directory reads a pair of texts and scores it. A pair is two texts, or chat messages that the
//! directory's template renders; its score comes from a classification head, or from the logits of one or two tokens.
//!
//! Not here: batches ([`CrossEncoder`](super::CrossEncoder)), the files ([`SentenceTransformerConfig`]).
//!
//! # Source
//! `cross_encoder/model.py`, `cross_encoder/modules/logit_score.py`, `base/modality.py` and
//! `base/modules/transformer.py` (`_process_chat_messages`) of sentence-transformers at v6.2.

use std::borrow::Cow;

use candle_core::DType;
use serde_json::Value;

use crate::auto::{
    AutoClass, AutoConfig, AutoTokenizer, ChatOptions, ChatTemplate, EncodeOptions, Encoder,
    Encoding, LogitScore, MessageFormat, ModelDtype, ModelWithHead, PairScore,
    SentenceTransformerConfig, TextInput,
};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::TorchActivation;

const SYSTEM: &str = "system";
const QUERY: &str = "query";
const DOCUMENT: &str = "document";

/// Options of [`PairScorer::resolve`]; `None` stands for what the directory says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairOptions<'a> {
    /// The activation applied to the logits.
    pub activation: Option<TorchActivation>,
    /// The prompt: the system message for a directory with a chat template, else a text before the query.
    pub prompt: Option<&'a str>,
    /// The name of one of the directory's prompts.
    pub prompt_name: Option<&'a str>,
    /// As `prompt`, but it must reach the rendered chat template.
    pub instruction: Option<&'a str>,
    /// A chat template over the roles `query` and `document`, or the name of one of the tokenizer's templates.
    pub chat_template: Option<&'a str>,
    /// The token of a relevant document, for a causal language model.
    pub true_token: Option<&'a str>,
    /// The token of an irrelevant document; without it, the logit of `true_token` alone is the score.
    pub false_token: Option<&'a str>,
}

/// Reads and scores pairs of texts, as `CrossEncoder` of sentence-transformers.
#[derive(Debug)]
pub struct PairScorer {
    activation: TorchActivation,
    prompt: String,
    chat: Option<PairChat>,
    logit_score: Option<LogitScore>,
}

/// Renders pairs as chat messages.
#[derive(Debug)]
struct PairChat {
    template: ChatTemplate,
    format: MessageFormat,
    options: ChatOptions,
    /// The maximum number of tokens that the directory sets for rendered pairs.
    max_length: Option<usize>,
    /// The tokens after the document, which replace the last ones of a truncated row.
    suffix: Vec<u32>,
}

impl PairScorer {
    /// Resolves the options for `directory`, whose model computes in `dtype`.
    ///
    /// # Errors
    /// `Unsupported` for a directory that is not a cross-encoder, or has a setting that is not implemented; `Config`
    /// for an option that does not suit the directory; `Model` for a chat template that cannot carry a pair, and for a
    /// language model whose tokenizer lacks `yes` or `no`.
    pub fn resolve(
        directory: &SentenceTransformerConfig,
        tokenizer: &AutoTokenizer,
        dtype: ModelDtype,
        options: &PairOptions<'_>,
    ) -> Result<Self> {
        let logit_score = logit_score(directory, tokenizer, options)?;
        let labels = if logit_score.is_some() { 1 } else { directory.config.num_labels() };
        let own = || default_activation(directory, labels);
        let activation = options.activation.map_or_else(own, Ok)?;
        let in_full = dtype == ModelDtype::Float(DType::F32);
        if !directory.keep_in_fp32_modules.is_empty() && !in_full {
            let names = directory.keep_in_fp32_modules.join(", ");
            let message = format!("`keep_in_fp32_modules: [{names}]` is not implemented");
            return Err(Error::new(ErrorKind::Unsupported, message).hint("set `dtype: f32`"));
        }
        let prompt = prompt(directory, options)?;
        let mut chat = PairChat::resolve(directory, tokenizer, options)?;
        match (&mut chat, options.instruction) {
            (Some(chat), Some(_)) => chat.require_system_message()?,
            (None, Some(_)) => {
                let message =
                    "`instruction` needs a chat template to place it, and the model has none";
                return Err(Error::new(ErrorKind::Config, message)
                    .hint("set `chat_template`, or set `prompt`, a text before the query"));
            }
            (_, None) => {}
        }
        if let Some(chat) = &mut chat
            && directory.pair_messages.restore_suffix
        {
            chat.suffix = chat.find_suffix(tokenizer, &prompt);
        }
        Ok(Self { activation, prompt, chat, logit_score })
    }

    /// The Auto class of the model.
    pub fn auto_class(&self) -> AutoClass {
        match self.logit_score {
            Some(_) => AutoClass::CausalLM,
            None => AutoClass::SequenceClassification,
        }
    }

    /// The tokens whose logits are needed, for [`HeadRequest`](crate::auto::HeadRequest); `None` for a classification head.
    pub fn vocabulary_rows(&self) -> Option<Vec<u32>> {
        self.logit_score.map(LogitScore::token_ids)
    }

    /// The score by logits; `None` for a classification head.
    pub fn logit_score(&self) -> Option<LogitScore> {
        self.logit_score
    }

    /// The activation applied to the logits.
    pub fn activation(&self) -> TorchActivation {
        self.activation
    }

    /// The prompt: the system message for a chat template, else the text before the query; empty for none.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Whether a pair is rendered by a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat.is_some()
    }

    /// The maximum number of tokens per pair, as [`TextInput::max_tokens`].
    ///
    /// # Errors
    /// As [`TextInput::max_tokens`].
    pub fn max_tokens(
        &self,
        config: &AutoConfig,
        tokenizer: &AutoTokenizer,
        max_length: Option<usize>,
    ) -> Result<usize> {
        let stated = tokenizer.model_max_length();
        match &self.chat {
            // The template writes the special tokens.
            Some(chat) => {
                TextInput::max_tokens_with(config, 0, max_length, chat.max_length.or(stated))
            }
            None => TextInput::max_tokens(config, tokenizer, max_length, stated, true),
        }
    }

    /// The tokens of a pair.
    ///
    /// # Errors
    /// As [`TextInput::encode`]; `Data` when the chat template rejects the pair.
    pub fn encode(&self, input: &TextInput<'_>, query: &str, document: &str) -> Result<Encoding> {
        self.encode_with(input, &self.prompt, query, document)
    }

    /// The tokens of a pair with its own prompt, in place of [`PairScorer::prompt`].
    ///
    /// # Errors
    /// As [`PairScorer::encode`].
    pub fn encode_with(
        &self,
        input: &TextInput<'_>,
        prompt: &str,
        query: &str,
        document: &str,
    ) -> Result<Encoding> {
        let Some(chat) = &self.chat else {
            let first = match prompt {
                "" => Cow::Borrowed(query),
                prompt => Cow::Owned(format!("{prompt}{query}")),
            };
            return input.encode(&[&first, document]);
        };
        let text = chat.render(prompt, query, document)?;
        let mut encoding = input.encode_rendered(&text)?;
        let ids = &mut encoding.input_ids;
        if input.truncation && ids.len() >= input.max_length {
            let kept = chat.suffix.len().min(ids.len());
            let start = ids.len() - kept;
            ids[start..].copy_from_slice(&chat.suffix[chat.suffix.len() - kept..]);
        }
        Ok(encoding)
    }

    /// The scores of rows of `(input_ids, token_type_ids)` in one forward pass, and their number per row.
    ///
    /// # Units
    /// The activation's output.
    ///
    /// # Errors
    /// As [`ModelWithHead::logits`].
    pub fn forward<'a>(
        &self,
        model: &ModelWithHead,
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    ) -> Result<(Vec<f32>, usize)> {
        let (mut scores, mut labels) = model.logits(rows)?;
        if self.logit_score.is_some() {
            scores = scores.chunks_exact(labels.max(1)).map(LogitScore::score).collect();
            labels = 1;
        }
        self.activation.apply(&mut scores, labels);
        Ok((scores, labels))
    }
}

impl PairChat {
    /// The template for pairs; `None` for a directory whose pairs are two texts.
    fn resolve(
        directory: &SentenceTransformerConfig,
        tokenizer: &AutoTokenizer,
        options: &PairOptions<'_>,
    ) -> Result<Option<Self>> {
        let messages = &directory.pair_messages;
        let is_used = messages.used.unwrap_or_else(|| tokenizer.has_chat_template());
        if options.chat_template.is_none() && !is_used {
            return Ok(None);
        }
        let own = messages.chat_template.as_deref();
        let template = match options.chat_template {
            Some(template) => tokenizer.chat_template(Some(template), false)?,
            None => tokenizer
                .chat_template(own, messages.variables.contains_key("tools"))
                .map_err(|e| e.at(format!("model `{}`", directory.transformer.name())))?,
        };
        let source = match options.chat_template {
            Some(template) => Some(template).filter(|t| !tokenizer.has_chat_template_named(t)),
            None => tokenizer.only_chat_template(),
        };
        let format = messages.format.unwrap_or_else(|| MessageFormat::of_template(source));
        let chat = Self {
            template,
            format,
            options: ChatOptions {
                add_generation_prompt: messages.add_generation_prompt,
                extra: messages.variables.clone(),
                ..ChatOptions::default()
            },
            max_length: messages.max_length,
            suffix: Vec::new(),
        };
        chat.require_pair().map_err(|reason| {
            let name = directory.transformer.name();
            let (kind, whose) = match options.chat_template {
                Some(_) => (ErrorKind::Config, "the option `chat_template`".to_owned()),
                None => (ErrorKind::Model, format!("the chat template of `{name}`")),
            };
            let message = format!("{whose} cannot render a query and a document: {reason}");
            Error::new(kind, message).hint(
                "set `chat_template` to one that shows both, for example `<Query>: {{ messages | selectattr('role', 'eq', \
                 'query') | map(attribute='content') | first }} <Document>: {{ messages | selectattr('role', 'eq', \
                 'document') | map(attribute='content') | first }}`",
            )
        })?;
        Ok(Some(chat))
    }

    fn render(&self, prompt: &str, query: &str, document: &str) -> Result<String> {
        let mut messages: Vec<Value> = Vec::with_capacity(3);
        if !prompt.is_empty() {
            messages.push(self.format.message(SYSTEM, prompt));
        }
        messages.push(self.format.message(QUERY, query));
        messages.push(self.format.message(DOCUMENT, document));
        self.template.render(&messages, &self.options)
    }

    /// Checks with sample texts that the template shows the query and the document; returns the reason if it does not.
    fn require_pair(&self) -> std::result::Result<(), String> {
        let render = |query, document| {
            self.render("", query, document).map_err(|e| format!("it fails: {}", e.message()))
        };
        let base = render("alpha", "bravo")?;
        let shows_query = render("charlie", "bravo")? != base;
        let shows_document = render("alpha", "foxtrot")? != base;
        match (shows_query, shows_document) {
            (true, true) => Ok(()),
            (false, true) => Err("it does not show the message with the role `query`".to_owned()),
            (true, false) => {
                Err("it does not show the message with the role `document`".to_owned())
            }
            (false, false) => {
                Err("it shows no message with the role `query` or `document`".to_owned())
            }
        }
    }

    /// Checks with sample texts that the template shows the system message.
    fn require_system_message(&self) -> Result<()> {
        let shown = self.render("alpha", "query", "document")?
            != self.render("charlie", "query", "document")?;
        if shown {
            return Ok(());
        }
        let message =
            "the chat template does not show the system message, which holds `instruction`";
        Err(Error::new(ErrorKind::Config, message)
            .hint("leave `instruction` out, or set a `chat_template` with the instruction"))
    }

    /// The tokens that the template adds after the document: the longest common end of two pairs. Empty if the two
    /// do not differ, or the template rejects them.
    fn find_suffix(&self, tokenizer: &AutoTokenizer, prompt: &str) -> Vec<u32> {
        let tokens = |text| {
            let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
            Ok(tokenizer.encode(&self.render(prompt, text, text)?, &options)?.input_ids)
        };
        // These two share no token at their ends.
        let (first, second): (Vec<u32>, Vec<u32>) = match (tokens("0"), tokens("1 2 3 4")) {
            (Ok(first), Ok(second)) => (first, second),
            (Err(error), _) | (_, Err(error)) => {
                let error: Error = error;
                tracing::warn!(%error, "the end of the chat template is lost in truncated rows");
                return Vec::new();
            }
        };
        let ends = first.iter().rev().zip(second.iter().rev());
        let common = ends.take_while(|(a, b)| a == b).count();
        if common == first.len().min(second.len()) {
            return Vec::new();
        }
        first[first.len() - common..].to_vec()
    }
}

/// The activation of `directory`, whose head has `labels`.
fn default_activation(
    directory: &SentenceTransformerConfig,
    labels: usize,
) -> Result<TorchActivation> {
    let own = directory.activation();
    let own = own.map_err(|e| e.hint("set `activation` to sigmoid or identity"))?;
    let default = if labels == 1 { TorchActivation::SIGMOID } else { TorchActivation::IDENTITY };
    Ok(own.unwrap_or(default))
}

/// The prompt of a pair.
fn prompt(directory: &SentenceTransformerConfig, options: &PairOptions<'_>) -> Result<String> {
    // A directory that was not saved as a cross-encoder has prompts for single texts.
    match (directory.encoder, options.instruction.or(options.prompt), options.prompt_name) {
        (_, Some(prompt), _) => Ok(prompt.to_owned()),
        (Some(Encoder::CrossEncoder), None, name) => directory.prompt_text(None, name),
        (_, None, None) => Ok(String::new()),
        (_, None, Some(name)) => {
            let message = format!("the model has no prompt `{name}` for pairs");
            Err(Error::new(ErrorKind::Config, message).hint("set the text itself as `prompt`"))
        }
    }
}

/// The score by logits; `None` for a classification head.
fn logit_score(
    directory: &SentenceTransformerConfig,
    tokenizer: &AutoTokenizer,
    options: &PairOptions<'_>,
) -> Result<Option<LogitScore>> {
    let own = match directory.pair_score()? {
        PairScore::Logits(own) => own,
        PairScore::Labels => {
            let given = options.true_token.map(|_| "true_token");
            let Some(option) = given.or(options.false_token.map(|_| "false_token")) else {
                return Ok(None);
            };
            let name = directory.transformer.name();
            let message = format!(
                "`{option}`: model `{name}` scores by a classification head, not by tokens"
            );
            return Err(Error::new(ErrorKind::Config, message).hint(format!(
                "leave `{option}` out, or choose a causal language model as reranker"
            )));
        }
    };
    let vocab_size = directory.config.dimensions().vocab_size;
    let within = |id: u32, token: &str, kind| {
        if (id as usize) < vocab_size {
            return Ok(id);
        }
        let message = format!(
            "the token `{token}` has the id {id}, but the model's vocabulary has {vocab_size} rows"
        );
        Err(Error::new(kind, message))
    };
    let of_option = |option: &str, token: &str| {
        within(one_token(tokenizer, option, token)?, token, ErrorKind::Config)
    };
    let by_default = |token: &str| {
        let id = tokenizer.token_to_id(token).ok_or_else(|| {
            let message = format!(
                "the tokenizer of `{}` has no token `{token}`, the default of a language model as reranker",
                directory.transformer.name()
            );
            Error::new(ErrorKind::Model, message).hint("set `true_token` and `false_token`")
        })?;
        within(id, token, ErrorKind::Model)
    };
    let score = match (options.true_token, options.false_token, own) {
        (Some(relevant), irrelevant, _) => LogitScore {
            true_token_id: of_option("true_token", relevant)?,
            false_token_id: irrelevant.map(|token| of_option("false_token", token)).transpose()?,
        },
        (None, Some(_), _) => {
            let message = "`false_token` without `true_token`";
            return Err(Error::new(ErrorKind::Config, message)
                .hint("set both, or `true_token` alone to score by its logit"));
        }
        (None, None, Some(own)) => own,
        (None, None, None) => LogitScore {
            true_token_id: by_default("yes")?,
            false_token_id: Some(by_default("no")?),
        },
    };
    Ok(Some(score))
}

/// The id of a token of the vocabulary, or of a text of one token.
fn one_token(tokenizer: &AutoTokenizer, option: &str, text: &str) -> Result<u32> {
    if let Some(id) = tokenizer.token_to_id(text) {
        return Ok(id);
    }
    let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let ids = tokenizer.encode(text, &options)?.input_ids;
    match ids[..] {
        [id] if Some(id) != tokenizer.unk_token_id() => Ok(id),
        [_] => Err(Error::new(
            ErrorKind::Config,
            format!("`{option}: {text}` is not in the model's vocabulary"),
        )
        .hint("choose a text that the tokenizer has a token for")),
        _ => Err(Error::new(
            ErrorKind::Config,
            format!("`{option}: {text}` has {} tokens, expected one", ids.len()),
        )
        .hint("choose a text that is one token of the model's tokenizer")),
    }
}
