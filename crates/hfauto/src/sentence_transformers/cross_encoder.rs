//! `CrossEncoder`: from pairs of texts to scores.

use std::borrow::Cow;

use candle_core::DType;
use rayon::prelude::*;

use super::workers;
use crate::auto::{
    AutoClass, AutoTokenizer, Encoder, LoadOptions, ModelDtype, ModelWithHead,
    SentenceTransformerConfig, TextInput, load_options,
};
use crate::batch::in_batches;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::batch_tokens;
use crate::nn::TorchActivation;

/// How a directory scores pairs: its prompt and its activation.
#[derive(Clone, Debug, PartialEq)]
pub struct PairScores {
    /// The prompt before the first text of each pair.
    pub prompt: String,
    /// The activation applied to the logits.
    pub activation: TorchActivation,
}

impl PairScores {
    /// Resolves the options for `directory`, whose model computes in `dtype`. Defaults to the directory's own
    /// activation, or else a sigmoid, and to its own prompts if it was saved as a cross-encoder.
    ///
    /// # Errors
    /// `Unsupported` for a directory that is not a cross-encoder, or has a setting that is not implemented; `Config`
    /// for an unknown prompt name.
    pub fn resolve(
        directory: &SentenceTransformerConfig,
        dtype: ModelDtype,
        activation: Option<TorchActivation>,
        prompt: Option<&str>,
        prompt_name: Option<&str>,
    ) -> Result<Self> {
        directory.require_cross_encoder()?;
        let activation = match activation {
            Some(activation) => activation,
            None => directory
                .activation()
                .map_err(|e| e.hint("set `activation` to sigmoid or identity"))?
                .unwrap_or(TorchActivation::SIGMOID),
        };
        let in_full = dtype == ModelDtype::Float(DType::F32);
        if !directory.keep_in_fp32_modules.is_empty() && !in_full {
            let names = directory.keep_in_fp32_modules.join(", ");
            let message = format!("`keep_in_fp32_modules: [{names}]` is not implemented");
            return Err(Error::new(ErrorKind::Unsupported, message).hint("set `dtype: f32`"));
        }
        // A directory that was not saved as a cross-encoder has prompts for single texts.
        let prompt = match (directory.encoder, prompt, prompt_name) {
            (_, Some(prompt), _) => prompt.to_owned(),
            (Some(Encoder::CrossEncoder), None, name) => directory.prompt_text(None, name)?,
            (_, None, None) => String::new(),
            (_, None, Some(name)) => {
                let message = format!("the model has no prompt `{name}` for pairs");
                return Err(
                    Error::new(ErrorKind::Config, message).hint("set the text itself as `prompt`")
                );
            }
        };
        Ok(Self { prompt, activation })
    }

    /// The first text of a pair, with the prompt.
    pub fn first<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.prompt.as_str() {
            "" => Cow::Borrowed(text),
            prompt => Cow::Owned(format!("{prompt}{text}")),
        }
    }

    /// The scores of rows of `(input_ids, token_type_ids)`, in one forward pass.
    ///
    /// # Errors
    /// As [`ModelWithHead::logits`].
    pub fn forward<'a>(
        &self,
        model: &ModelWithHead,
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    ) -> Result<Vec<f32>> {
        let (mut scores, labels) = model.logits(rows)?;
        self.activation.apply(&mut scores, labels);
        Ok(scores)
    }
}

/// A loaded cross-encoder with one label, as `CrossEncoder` of sentence-transformers.
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
}

/// Options of [`CrossEncoder::builder`].
#[derive(Clone, Debug)]
pub struct CrossEncoderBuilder {
    options: LoadOptions,
    max_length: Option<usize>,
}

impl CrossEncoderBuilder {
    load_options!();

    /// Sets the maximum number of tokens per pair, including special tokens. Truncation shortens the longer text. The
    /// default comes from the files.
    #[must_use]
    pub fn max_length(mut self, max_length: usize) -> Self {
        self.max_length = Some(max_length);
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable; `Unsupported` for a model with several labels or one that is not a
    /// cross-encoder; `Config` for a `max_length` that does not fit the model; `Model` when the checkpoint has no head,
    /// or its files are unusable.
    pub fn load(self) -> Result<CrossEncoder> {
        let described = self.options.describe()?;
        let dtype = described.dtype.unwrap_or(ModelDtype::Float(DType::F32));
        let directory = described.config.clone();
        let labels = directory.config.num_labels();
        if labels != 1 {
            let name = directory.transformer.name();
            let message = format!("model `{name}` has {labels} labels; a cross-encoder needs one");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("use a text-classification pipeline for a model with several labels"));
        }
        PairScores::resolve(&directory, dtype, None, None, None)?;
        let stated = described.tokenizer.model_max_length();
        let (config, tokenizer) = (&directory.config, &described.tokenizer);
        let max_length = TextInput::max_tokens(config, tokenizer, self.max_length, stated, true)?;
        let model = described.load_with_head(AutoClass::SequenceClassification)?;
        Ok(CrossEncoder { directory, tokenizer: described.tokenizer, model, dtype, max_length })
    }
}

/// Options of [`CrossEncoder::predict_with`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PredictOptions {
    /// The activation applied to the logits; by default the model's own, or else a sigmoid.
    pub activation_fn: Option<TorchActivation>,
    /// The prompt before the first text of each pair; takes precedence over `prompt_name`.
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

    /// Sets the prompt before the first text of each pair.
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
        CrossEncoderBuilder { options: LoadOptions::new(id), max_length: None }
    }

    /// One score per pair, in input order.
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
    /// `Config` for an unknown prompt name; `Unsupported` for a setting that is not implemented; `Data` for a pair
    /// without a token, or with one that the model has no embedding for; `Model` when the model computes NaN or
    /// infinity; `Internal` when a tensor operation fails.
    pub fn predict_with<A, B>(&self, pairs: &[(A, B)], options: &PredictOptions) -> Result<Vec<f32>>
    where
        A: AsRef<str> + Sync,
        B: AsRef<str> + Sync,
    {
        let scores = PairScores::resolve(
            &self.directory,
            self.dtype,
            options.activation_fn,
            options.prompt.as_deref(),
            options.prompt_name.as_deref(),
        )?;
        let input = TextInput {
            name: self.model.name(),
            config: &self.directory.config,
            tokenizer: &self.tokenizer,
            max_length: self.max_length,
            truncation: true,
        };
        let encode = |(number, (first, second)): (usize, &(A, B))| {
            let row = input.row(&[&scores.first(first.as_ref()), second.as_ref()]);
            row.map_err(|e| e.at(format!("pair {number}")))
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
            scores.forward(&self.model, rows.iter().map(|&row| input.inputs(&encodings[row])))
        })
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
