//! `CrossEncoder`: pairs of texts to scores.

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

/// How a directory scores pairs: what comes before the first text, and what makes scores of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct PairScores {
    /// The text before the first text of each pair.
    pub prompt: String,
    /// The activation over logits.
    pub activation: TorchActivation,
}

impl PairScores {
    /// Resolves the options for `directory`, whose model computes in `dtype`: its own activation, or else a sigmoid; its
    /// own prompts, if it was saved as a cross-encoder.
    ///
    /// # Errors
    /// `Unsupported` for a directory that is no cross-encoder, or has a setting that is not implemented; `Config` for a
    /// prompt that it does not have.
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
        // The prompts of a directory that was not saved as a cross-encoder are meant for single texts.
        let prompt = match (directory.encoder, prompt, prompt_name) {
            (_, Some(prompt), _) => prompt.to_owned(),
            (Some(Encoder::CrossEncoder), None, name) => directory.prompt_text(None, name)?,
            (_, None, None) => String::new(),
            (_, None, Some(name)) => {
                let message = format!("the model has no prompt `{name}` for pairs");
                return Err(
                    Error::new(ErrorKind::Config, message).hint("give the text itself as `prompt`")
                );
            }
        };
        Ok(Self { prompt, activation })
    }

    /// The first text of a pair, after the prompt.
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

    /// Tokens of a pair at most, special tokens included; what does not fit is taken from the longer text. Without it,
    /// what the files say.
    #[must_use]
    pub fn max_length(mut self, max_length: usize) -> Self {
        self.max_length = Some(max_length);
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// `Hub` when the files cannot be had; `Unsupported` for a model of several labels or one that is no cross-encoder;
    /// `Config` for a `max_length` that does not fit the model; `Model` when the checkpoint has no head, or its files
    /// cannot be used.
    pub fn load(self) -> Result<CrossEncoder> {
        let described = self.options.describe()?;
        let dtype = described.dtype.unwrap_or(ModelDtype::Float(DType::F32));
        let directory = described.config.clone();
        let labels = directory.config.num_labels();
        if labels != 1 {
            let name = directory.transformer.name();
            let message = format!("model `{name}` has {labels} labels; a cross-encoder needs one");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("use a text-classification pipeline for a model of several labels"));
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
    /// What makes scores of logits; without it, the model's own activation, or else a sigmoid.
    pub activation_fn: Option<TorchActivation>,
    /// The text before the first text of each pair; comes before `prompt_name`.
    pub prompt: Option<String>,
    /// The name of one of the model's prompts; without it, the model's default prompt.
    pub prompt_name: Option<String>,
    /// Tokens of one forward pass. Without it, as many as suit the device and its memory.
    pub max_batch_tokens: Option<usize>,
}

impl PredictOptions {
    /// Makes scores of logits with `activation_fn`.
    #[must_use]
    pub fn activation_fn(mut self, activation_fn: TorchActivation) -> Self {
        self.activation_fn = Some(activation_fn);
        self
    }

    /// Puts `prompt` before the first text of each pair.
    #[must_use]
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.prompt = Some(prompt.into());
        self
    }

    /// Puts the model's prompt of this name before the first text of each pair.
    #[must_use]
    pub fn prompt_name(mut self, prompt_name: impl Into<String>) -> Self {
        self.prompt_name = Some(prompt_name.into());
        self
    }

    /// Limits the tokens of one forward pass; a longer pair has one of its own.
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

    /// The same with options.
    pub fn builder(id: impl Into<String>) -> CrossEncoderBuilder {
        CrossEncoderBuilder { options: LoadOptions::new(id), max_length: None }
    }

    /// One score for each pair, in their order.
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

    /// The same with options.
    ///
    /// # Units
    /// What the activation gives: probabilities for a sigmoid.
    ///
    /// # Errors
    /// `Config` for a prompt that the model does not have; `Unsupported` for a setting that is not implemented; `Data`
    /// for a pair without a token, or with one that the model has no embedding for; `Model` when the model computes what
    /// is not a number; `Internal` when a tensor operation fails.
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

    /// The model under the scores.
    pub fn model(&self) -> &ModelWithHead {
        &self.model
    }

    /// Tokens of a pair at most, special tokens included. `usize::MAX` where the files state no maximum.
    pub fn max_length(&self) -> usize {
        self.max_length
    }
}
