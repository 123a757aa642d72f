//! Shared parts of generation calls: settings from the model's files, the room for prompts, and the texts of tokens.
//!
//! Not here: the decoding loop (`crate::generation`), and the sources of prompts (`super::generate`).

use serde_json::{Map, Value};

use super::reasoning::Answer;
use crate::auto::{AutoConfig, AutoTokenizer, DecodeOptions, EncodeOptions, ModelWithHead};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::generation::{
    FinishReason, Generated, GenerationConfig, PrefixCache, StopStrings, generate_with_prefixes,
    model_defaults, pipeline_defaults,
};
use crate::hub::Snapshot;
use crate::memory;
use crate::models::Dimensions;

/// A text to decode tokens after: at the start of a text, a token's own text may differ.
const BEFORE: &str = "abcdef";

/// The `task_specific_params` of `config.json` for `tasks`, which are names of entries; the first entry that exists is
/// used. A name that ends in `*` is a prefix.
pub fn task_specific_params(config: &AutoConfig, tasks: &[&str]) -> Map<String, Value> {
    let all = config.json().get("task_specific_params").and_then(Value::as_object);
    let found = all.and_then(|all| {
        tasks.iter().find_map(|task| match task.strip_suffix('*') {
            Some(start) => all.iter().find(|(name, _)| name.starts_with(start)).map(|(_, v)| v),
            None => all.get(*task),
        })
    });
    found.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The settings of a generation, in order of precedence: `given`, `task_params`, the model's `generation_config.json`,
/// the defaults of transformers' `pipeline`.
///
/// # Errors
/// As [`GenerationConfig::new`] and [`GenerationConfig::check_lengths`]; `Config` or `Model` when the beams exceed the
/// available memory.
pub fn generation_settings(
    snapshot: &Snapshot,
    config: &AutoConfig,
    pipeline: &Map<String, Value>,
    task_params: &Map<String, Value>,
    given: &Map<String, Value>,
) -> Result<GenerationConfig> {
    let file = snapshot.json("generation_config.json")?;
    let file = file.as_ref().and_then(Value::as_object);
    let model_settings = model_defaults(file, config.json(), config.family().special_token_ids);
    let mut settings = pipeline_defaults(pipeline, &model_settings);
    settings.extend(task_params.clone());
    let generation = GenerationConfig::new(&settings, given)?;
    check_settings(&generation, config, given)?;
    Ok(generation)
}

/// Rejects unbounded lengths, and beams that exceed the available memory.
pub(super) fn check_settings(
    generation: &GenerationConfig,
    config: &AutoConfig,
    given: &Map<String, Value>,
) -> Result<()> {
    generation.check_lengths(config.dimensions().max_position_embeddings, given)?;
    check_beams(generation, config.dimensions(), given)
}

/// Rejects beams whose KV cache exceeds the available memory.
fn check_beams(
    config: &GenerationConfig,
    dimensions: &Dimensions,
    given: &Map<String, Value>,
) -> Result<()> {
    let Some(available) = memory::available_bytes().filter(|_| config.num_beams > 1) else {
        return Ok(());
    };
    let positions = dimensions.position_limit().unwrap_or(usize::MAX);
    let tokens = config.max_new_tokens.or(config.max_length).unwrap_or(1).min(positions);
    let a_token = dimensions.num_hidden_layers.saturating_mul(dimensions.kv_width() * 8);
    let needed = config.num_beams.saturating_mul(tokens).saturating_mul(a_token);
    if needed <= available {
        return Ok(());
    }
    let kind = if given.contains_key("num_beams") { ErrorKind::Config } else { ErrorKind::Model };
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Err(Error::new(
        kind,
        format!(
            "`num_beams: {}` of {tokens} tokens take {:.1} GiB, but {:.1} GiB of memory are left",
            config.num_beams,
            gib(needed),
            gib(available)
        ),
    )
    .hint("lower `num_beams` or `max_new_tokens`"))
}

/// The limits on the prompts of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct PromptRoom {
    /// The caller's maximum number of tokens in a prompt.
    pub max_length: Option<usize>,
    /// The model's maximum number of tokens in prompt and continuation.
    pub total: usize,
    /// Whether longer prompts are truncated at their start.
    pub truncation: bool,
}

impl PromptRoom {
    /// Truncates a prompt to leave room for generation. Returns its tokens, and whether they were truncated.
    ///
    /// # Errors
    /// `Data` for an empty prompt without a token to start with, and for a prompt that is too long.
    pub fn fit(&self, mut ids: Vec<u32>, config: &GenerationConfig) -> Result<(Vec<u32>, bool)> {
        if ids.is_empty() && config.bos_token_id.is_none() {
            return Err(Error::of_row(
                RowErrorKind::Empty,
                "a prompt has no token, and the model has no `bos_token_id` to begin with",
            ));
        }
        let Self { max_length, total, truncation } = *self;
        let most = max_length.unwrap_or(usize::MAX);
        let mut truncated = false;
        if truncation && let Some(new) = config.max_new_tokens {
            let keep = total.saturating_sub(new).min(most);
            truncated = ids.len() > keep;
            ids.drain(..ids.len().saturating_sub(keep));
        } else if ids.len() > most {
            let message = format!("text of {} tokens, expected at most {most}", ids.len());
            return Err(Error::of_row(RowErrorKind::TooLong, message)
                .hint("set `truncation: true` to truncate longer texts, or raise `max_length`"));
        }
        // An empty prompt starts with the `bos_token_id`.
        let prompt = ids.len().max(1);
        let most = config.max_total_tokens(prompt, Some(total));
        if most <= prompt {
            return Err(no_room(ids.len(), most));
        }
        Ok((ids, truncated))
    }
}

/// The error for a prompt that leaves no room to generate.
fn no_room(tokens: usize, total: usize) -> Error {
    let message = format!(
        "prompt of {tokens} tokens leaves no room to generate: prompt and continuation may have {total} tokens"
    );
    Error::of_row(RowErrorKind::NoRoom, message)
        .hint("set `truncation: true` to keep the end of longer prompts")
}

/// How the tokens of a row are decoded to its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextOf {
    /// The decoded tokens after the prompt, as the text-generation pipeline of transformers 5.24 decodes them.
    Continuation,
    /// The decoded generated tokens, with the decoder's start, as the text2text pipelines of 4.57 decode them.
    Generated,
}

/// A tokenized prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt<'a> {
    /// Its token ids.
    pub input_ids: &'a [u32],
    /// Whether it ends inside the model's reasoning, see [`ends_in_reasoning`](super::ends_in_reasoning).
    pub in_reasoning: bool,
}

/// The generated text for a prompt.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GeneratedText {
    /// The generated text, without the prompt and special tokens, and without the reasoning unless that is included.
    pub text: String,
    /// The tokens after the prompt, including the end token.
    pub token_ids: Vec<u32>,
    /// Why the row ended.
    pub finish_reason: FinishReason,
    /// For beam search: the sum of log-probabilities, divided by the length to the power of `length_penalty`.
    pub sequences_score: Option<f32>,
    /// The number of tokens in the prompt.
    pub prompt_tokens: usize,
    /// The other texts that `num_return_sequences` asks for, best first; their own lists are empty.
    pub others: Vec<Self>,
}

/// A generating model, with the parts that decode its tokens.
#[derive(Clone, Copy, Debug)]
pub struct TextGenerator<'a> {
    /// The model, with a head for generation.
    pub model: &'a ModelWithHead,
    /// Its tokenizer.
    pub tokenizer: &'a AutoTokenizer,
    /// The generation settings.
    pub config: &'a GenerationConfig,
    /// How tokens are decoded to text.
    pub text_of: TextOf,
    /// Whether the text includes the model's reasoning, from `<think>` to `</think>`. Without it, the text is the answer:
    /// empty when the text ends inside the reasoning.
    pub include_reasoning: bool,
    /// The prefixes of prompts that the model has computed.
    pub prefixes: &'a PrefixCache,
}

impl TextGenerator<'_> {
    /// Generates for each of `prompts`, in their order.
    ///
    /// # Errors
    /// As [`generate`]; `Unsupported` for a model that cannot generate.
    pub fn generate(
        &self,
        prompts: &[Prompt<'_>],
        max_batch_tokens: usize,
    ) -> Result<Vec<GeneratedText>> {
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let before = self.tokenizer.encode(BEFORE, &options)?.input_ids;
        let token_text = |id: u32| token_text(self.tokenizer, &before, id);
        let stop = StopStrings::new(&self.config.stop_strings, &token_text);
        let stop = (!self.config.stop_strings.is_empty()).then_some(&stop);
        let decoder = self.model.decoder()?;
        let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.input_ids).collect();
        let (config, prefixes) = (self.config, self.prefixes);
        let results =
            generate_with_prefixes(&*decoder, &ids, config, max_batch_tokens, stop, prefixes)?;
        let texts = prompts.iter().zip(results);
        texts.map(|(prompt, result)| self.generated_text(*prompt, result)).collect()
    }

    fn generated_text(&self, prompt: Prompt<'_>, result: Generated) -> Result<GeneratedText> {
        let text = self.text(prompt, &result.token_ids)?;
        let Generated { token_ids, finish_reason, sequences_score, others } = result;
        let others = others.into_iter().map(|other| self.generated_text(prompt, other));
        Ok(GeneratedText {
            text,
            token_ids,
            finish_reason,
            sequences_score,
            prompt_tokens: prompt.input_ids.len(),
            others: others.collect::<Result<_>>()?,
        })
    }

    /// The text of generated `ids`.
    fn text(&self, prompt: Prompt<'_>, ids: &[u32]) -> Result<String> {
        let Prompt { input_ids, in_reasoning } = prompt;
        if self.include_reasoning {
            return self.decode(input_ids, ids);
        }
        Ok(match Answer::find(self.tokenizer, ids, in_reasoning)? {
            Answer::Whole => self.decode(input_ids, ids)?,
            Answer::From(place) => {
                let (reasoning, answer) = ids.split_at(place);
                let text = self.decode(&[input_ids, reasoning].concat(), answer)?;
                text.trim_start().to_owned()
            }
            Answer::AfterTag => {
                Answer::after_tag(&self.decode(input_ids, ids)?).trim_start().to_owned()
            }
            Answer::Missing => String::new(),
        })
    }

    /// Decodes `ids`, which follow `prompt`.
    fn decode(&self, prompt: &[u32], ids: &[u32]) -> Result<String> {
        let decode = |ids: &[u32], clean_up_tokenization_spaces| {
            let options = DecodeOptions { skip_special_tokens: true, clean_up_tokenization_spaces };
            self.tokenizer.decode_with(ids, &options)
        };
        match self.text_of {
            TextOf::Generated => {
                // The decoder's start token is part of the text, unless it is a special token.
                let start = self.config.decoder_start_token_id.or(self.config.bos_token_id);
                let ids: Vec<u32> = start.into_iter().chain(ids.iter().copied()).collect();
                decode(&ids, Some(false))
            }
            TextOf::Continuation => {
                // The token that an empty prompt begins with is part of the text, unless it is a special token.
                let start = self.config.bos_token_id.filter(|_| prompt.is_empty());
                let ids: Vec<u32> = start.into_iter().chain(ids.iter().copied()).collect();
                decode(&ids, None)
            }
        }
    }
}

/// A token's text within a text.
fn token_text(tokenizer: &AutoTokenizer, before: &[u32], id: u32) -> String {
    let ids = before.iter().chain([&id]);
    let tokens = ids.filter_map(|id| tokenizer.id_to_token(*id)).collect();
    let text = tokenizer.convert_tokens_to_string(tokens).unwrap_or_default();
    let start = text.find(BEFORE).map_or(text.len(), |at| at + BEFORE.len());
    text[start..].to_owned()
}
