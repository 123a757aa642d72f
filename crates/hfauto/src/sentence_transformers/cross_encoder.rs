//! `CrossEncoder`: from pairs of texts to scores.

use candle_core::DType;
use rayon::prelude::*;

use super::pair_scorer::{PairOptions, PairScorer};
use super::workers;
use crate::auto::{
    AutoTokenizer, LoadOptions, ModelDtype, ModelWithHead, SentenceTransformerConfig, TextInput,
    load_options,
};
use crate::batch::in_batches;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::batch_tokens;
use crate::nn::TorchActivation;

/// A loaded cross-encoder, as `CrossEncoder` of sentence-transformers: a classification head over a pair, or a causal
/// language model that scores by the logits of one or two tokens.
///
/// All methods take `&self` and may be called from several threads; they block.
///
/// # Example
/// ```
/// use hfauto::sentence_transformers::CrossEncoder;
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "cross-encoder/ms-marco-MiniLM-L6-v2".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/bert-rerank");
/// let model = CrossEncoder::from_pretrained(id)?;
///
/// let query = "Where is the harbour?";
/// let scores = model.predict(&[(query, "By the sea."), (query, "The film is slow.")])?;
/// assert_eq!(scores.len(), 2);
/// assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CrossEncoder {
    directory: SentenceTransformerConfig,
    tokenizer: AutoTokenizer,
    model: ModelWithHead,
    dtype: ModelDtype,
    max_length: usize,
    num_labels: usize,
    input: InputOptions,
}

/// Options of [`CrossEncoder::builder`].
#[derive(Clone, Debug)]
pub struct CrossEncoderBuilder {
    options: LoadOptions,
    max_length: Option<usize>,
    input: InputOptions,
}

/// The options of a builder that replace settings of the directory.
#[derive(Clone, Debug, Default)]
struct InputOptions {
    chat_template: Option<String>,
    true_token: Option<String>,
    false_token: Option<String>,
}

impl InputOptions {
    fn pair_options(&self) -> PairOptions<'_> {
        PairOptions {
            chat_template: self.chat_template.as_deref(),
            true_token: self.true_token.as_deref(),
            false_token: self.false_token.as_deref(),
            ..PairOptions::default()
        }
    }
}

impl CrossEncoderBuilder {
    load_options!();

    /// Sets the maximum number of tokens per pair, including special tokens. Truncation shortens the longer text; with a
    /// chat template, it cuts the document and keeps what the template adds after it. The default comes from the files.
    #[must_use]
    pub fn max_length(mut self, max_length: usize) -> Self {
        self.max_length = Some(max_length);
        self
    }

    /// Sets a chat template over messages with the roles `query` and `document`, and `system` for a prompt; or the name
    /// of one of the tokenizer's templates.
    #[must_use]
    pub fn chat_template(mut self, chat_template: impl Into<String>) -> Self {
        self.input.chat_template = Some(chat_template.into());
        self
    }

    /// Sets the token whose logit is the score of a causal language model: a token of the vocabulary, or a text of one
    /// token. By default, the token is that of the directory's LogitScore, or else `yes`.
    #[must_use]
    pub fn true_token(mut self, true_token: impl Into<String>) -> Self {
        self.input.true_token = Some(true_token.into());
        self
    }

    /// Sets the token whose logit is subtracted from that of [`true_token`](Self::true_token).
    #[must_use]
    pub fn false_token(mut self, false_token: impl Into<String>) -> Self {
        self.input.false_token = Some(false_token.into());
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable; `Unsupported` for a model that is not a cross-encoder; `Config` for an
    /// option that does not fit the model; `Model` when the checkpoint has no head, or its files are unusable.
    pub fn load(self) -> Result<CrossEncoder> {
        let described = self.options.describe()?;
        let dtype = described.dtype.unwrap_or(ModelDtype::Float(DType::F32));
        let directory = described.config.clone();
        let tokenizer = &described.tokenizer;
        let input = self.input;
        let scorer = PairScorer::resolve(&directory, tokenizer, dtype, &input.pair_options())?;
        let max_length = scorer.max_tokens(&directory.config, tokenizer, self.max_length)?;
        let rows = scorer.vocabulary_rows();
        let model = described.load_rows(scorer.auto_class(), rows.as_deref())?;
        let num_labels = if rows.is_some() { 1 } else { model.config().num_labels() };
        let tokenizer = described.tokenizer;
        Ok(CrossEncoder { directory, tokenizer, model, dtype, max_length, num_labels, input })
    }
}

/// Options of [`CrossEncoder::predict_with`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PredictOptions {
    /// The activation applied to the logits; by default the model's own, or else a sigmoid for one label and the
    /// identity for several.
    pub activation_fn: Option<TorchActivation>,
    /// Whether a softmax turns the scores of several labels into probabilities, after the activation.
    pub apply_softmax: bool,
    /// The prompt before the first text of each pair, or the system message of a chat template; takes precedence over
    /// `prompt_name`.
    pub prompt: Option<String>,
    /// The name of one of the model's prompts; by default the model's default prompt.
    pub prompt_name: Option<String>,
    /// The token budget of one forward pass; by default, it fits the device and its memory.
    pub max_batch_tokens: Option<usize>,
}

impl PredictOptions {
    /// Sets the activation applied to the logits.
    #[must_use]
    pub fn activation_fn(mut self, activation_fn: TorchActivation) -> Self {
        self.activation_fn = Some(activation_fn);
        self
    }

    /// Sets whether a softmax turns the scores of several labels into probabilities.
    #[must_use]
    pub fn apply_softmax(mut self, apply_softmax: bool) -> Self {
        self.apply_softmax = apply_softmax;
        self
    }

    /// Sets the prompt before the first text of each pair, or the system message of a chat template.
    #[must_use]
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.prompt = Some(prompt.into());
        self
    }

    /// Selects one of the model's prompts by name.
    #[must_use]
    pub fn prompt_name(mut self, prompt_name: impl Into<String>) -> Self {
        self.prompt_name = Some(prompt_name.into());
        self
    }

    /// Sets the token budget of one forward pass; a longer pair gets its own pass.
    #[must_use]
    pub fn max_batch_tokens(mut self, max_batch_tokens: usize) -> Self {
        self.max_batch_tokens = Some(max_batch_tokens);
        self
    }
}

impl CrossEncoder {
    /// Loads a hub id or a directory, in f32 on the CPU.
    ///
    /// # Errors
    /// As [`CrossEncoderBuilder::load`].
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// Starts a builder with options.
    pub fn builder(id: impl Into<String>) -> CrossEncoderBuilder {
        let options = LoadOptions::new(id);
        CrossEncoderBuilder { options, max_length: None, input: InputOptions::default() }
    }

    /// One score per pair, in input order, for a model with one label.
    ///
    /// # Errors
    /// As [`predict_with`](Self::predict_with).
    pub fn predict<A, B>(&self, pairs: &[(A, B)]) -> Result<Vec<f32>>
    where
        A: AsRef<str> + Sync,
        B: AsRef<str> + Sync,
    {
        self.predict_with(pairs, &PredictOptions::default())
    }

    /// Like [`predict`](Self::predict), with options.
    ///
    /// # Units
    /// The activation's output: probabilities for a sigmoid.
    ///
    /// # Errors
    /// As [`predict_labels`](Self::predict_labels); `Unsupported` for a model with several labels.
    pub fn predict_with<A, B>(&self, pairs: &[(A, B)], options: &PredictOptions) -> Result<Vec<f32>>
    where
        A: AsRef<str> + Sync,
        B: AsRef<str> + Sync,
    {
        if self.num_labels != 1 {
            let (name, labels) = (self.model.name(), self.num_labels);
            let message = format!("model `{name}` has {labels} labels: a pair has no single score");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("call `predict_labels`, which returns a score for each label"));
        }
        Ok(self.predict_labels(pairs, options)?.into_iter().flatten().collect())
    }

    /// The scores of each pair, one for each label, in input order.
    ///
    /// # Units
    /// The activation's output; probabilities for a sigmoid, and with
    /// [`apply_softmax`](PredictOptions::apply_softmax).
    ///
    /// # Errors
    /// `Config` for an unknown prompt name; `Unsupported` for a setting that is not implemented; `Data` for a pair
    /// without a token, or with one that the model has no embedding for, or that the chat template rejects; `Model`
    /// when the model computes NaN or infinity; `Internal` when a tensor operation fails.
    pub fn predict_labels<A, B>(
        &self,
        pairs: &[(A, B)],
        options: &PredictOptions,
    ) -> Result<Vec<Vec<f32>>>
    where
        A: AsRef<str> + Sync,
        B: AsRef<str> + Sync,
    {
        let scorer = PairScorer::resolve(
            &self.directory,
            &self.tokenizer,
            self.dtype,
            &PairOptions {
                activation: options.activation_fn,
                prompt: options.prompt.as_deref(),
                prompt_name: options.prompt_name.as_deref(),
                ..self.input.pair_options()
            },
        )?;
        let input = TextInput {
            name: self.model.name(),
            config: &self.directory.config,
            tokenizer: &self.tokenizer,
            max_length: self.max_length,
            truncation: true,
        };
        let encode = |(number, (first, second)): (usize, &(A, B))| {
            let encoding = scorer.encode(&input, first.as_ref(), second.as_ref());
            let checked = encoding.and_then(|encoding| {
                input.check_tokens(&encoding.input_ids, &encoding.token_type_ids)?;
                Ok(encoding)
            });
            checked.map_err(|e| e.at(format!("pair {number}")))
        };
        let encodings: Vec<Result<_>> = pairs.par_iter().enumerate().map(encode).collect();
        let encodings = encodings.into_iter().collect::<Result<Vec<_>>>()?;

        let lengths: Vec<usize> = encodings.iter().map(|e| e.input_ids.len()).collect();
        let device = self.model.device();
        let budget = options.max_batch_tokens.unwrap_or_else(|| {
            let dimensions = self.directory.config.dimensions();
            batch_tokens(Some(dimensions), std::slice::from_ref(device), false)
        });
        in_batches(&lengths, budget, workers(device), |rows| {
            let inputs = rows.iter().map(|&row| input.inputs(&encodings[row]));
            let (mut scores, labels) = scorer.forward(&self.model, inputs)?;
            if options.apply_softmax && labels > 1 {
                TorchActivation::SOFTMAX.apply(&mut scores, labels);
            }
            Ok(scores.chunks_exact(labels.max(1)).map(<[f32]>::to_vec).collect())
        })
    }

    /// The number of scores per pair.
    pub fn num_labels(&self) -> usize {
        self.num_labels
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        &self.tokenizer
    }

    /// The underlying model.
    pub fn model(&self) -> &ModelWithHead {
        &self.model
    }

    /// The maximum number of tokens per pair, including special tokens; `usize::MAX` if the files set no maximum.
    pub fn max_length(&self) -> usize {
        self.max_length
    }
}
