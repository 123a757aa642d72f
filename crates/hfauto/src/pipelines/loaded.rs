//! Shared parts of text pipelines: loads a model with its head and tokenizer, and runs texts in batches.

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::auto::{
    AutoClass, AutoTokenizer, Encoding, LoadOptions, ModelWithHead, TextInput, load_options,
};
use crate::batch::in_batches;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::batch_tokens;
use crate::sentence_transformers::workers;

/// A text model with its head and tokenizer.
#[derive(Debug)]
pub struct TextModel {
    pub(super) tokenizer: AutoTokenizer,
    pub(super) model: ModelWithHead,
    pub(super) max_length: usize,
}

impl TextModel {
    pub(super) fn input(&self) -> TextInput<'_> {
        TextInput {
            name: self.model.name(),
            config: self.model.config(),
            tokenizer: &self.tokenizer,
            max_length: self.max_length,
            truncation: true,
        }
    }

    /// Runs `encode` on each of `rows` in parallel. Errors name the row with the noun `what`.
    pub(super) fn encode<R: Sync, E: Send>(
        rows: &[R],
        what: &str,
        encode: impl Fn(&R) -> Result<E> + Sync,
    ) -> Result<Vec<E>> {
        let encode =
            |(number, row): (usize, &R)| encode(row).map_err(|e| e.at(format!("{what} {number}")));
        let encoded: Vec<Result<E>> = rows.par_iter().enumerate().map(encode).collect();
        encoded.into_iter().collect()
    }

    /// Runs `forward` on batches of `rows`, and returns its results in row order. It gets the row numbers and the model
    /// inputs of a batch.
    pub(super) fn in_batches<R: Send>(
        &self,
        rows: &[Encoding],
        forward: impl Fn(&[usize], &[(&[u32], &[u32])]) -> Result<Vec<R>> + Sync,
    ) -> Result<Vec<R>> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.input_ids.len()).collect();
        let (dimensions, device) = (self.model.config().dimensions(), self.model.device());
        let budget = batch_tokens(Some(dimensions), std::slice::from_ref(device), false);
        let input = self.input();
        in_batches(&lengths, budget, workers(device), |batch| {
            let inputs: Vec<_> = batch.iter().map(|&row| input.inputs(&rows[row])).collect();
            forward(batch, &inputs)
        })
    }

    /// The logits of all tokens of `rows`, row by row: `labels` values per token.
    pub(super) fn token_logits(&self, rows: &[Encoding], labels: usize) -> Result<Vec<Vec<f32>>> {
        self.in_batches(rows, |batch, inputs| {
            let (numbers, columns) = self.model.logits(inputs.iter().copied())?;
            if columns != labels {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!("the model's head has {columns} labels, expected {labels}"),
                ));
            }
            let mut start = 0;
            let rows = batch.iter().map(|&row| {
                let end = start + rows[row].input_ids.len() * columns;
                let logits = numbers.get(start..end).map(<[f32]>::to_vec);
                start = end;
                logits.ok_or_else(|| {
                    let message = "the number of logits does not match the number of tokens";
                    Error::new(ErrorKind::Internal, message)
                })
            });
            rows.collect()
        })
    }

    /// The model.
    pub fn model(&self) -> &ModelWithHead {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        &self.tokenizer
    }

    /// The maximum number of tokens per row, including special tokens; `usize::MAX` if the files set no maximum.
    pub fn max_length(&self) -> usize {
        self.max_length
    }
}

/// A text pipeline.
pub trait TextPipeline: Sized {
    /// The Auto class of its model.
    const CLASS: AutoClass;
    /// Whether its rows are pairs of texts.
    const PAIRS: bool = false;
    /// The maximum number of tokens per row, whatever the files say.
    const MAX_LENGTH: Option<usize> = None;

    /// Creates the pipeline over a loaded model.
    ///
    /// # Errors
    /// When the model does not suit this pipeline.
    fn of(model: TextModel) -> Result<Self>;
}

/// Options of a pipeline's `builder`.
#[derive(Clone, Debug)]
pub struct PipelineBuilder<P> {
    options: LoadOptions,
    max_length: Option<usize>,
    pipeline: PhantomData<P>,
}

impl<P: TextPipeline> PipelineBuilder<P> {
    pub(super) fn new(id: impl Into<String>) -> Self {
        Self { options: LoadOptions::new(id), max_length: None, pipeline: PhantomData }
    }

    load_options!();

    /// Sets the maximum number of tokens per row, including special tokens. The default comes from the files.
    #[must_use]
    pub fn max_length(mut self, max_length: usize) -> Self {
        self.max_length = Some(max_length);
        self
    }

    /// Loads the model, which must have the pipeline's head.
    ///
    /// # Errors
    /// `Hub` when the files are unavailable; `Unsupported` when the architecture has no such head; `Config` for a
    /// `max_length` that does not fit the model; `Model` when the checkpoint has no head, or its files are unusable.
    pub fn load(self) -> Result<P> {
        let described = self.options.describe()?;
        let (config, tokenizer) = (&described.config.config, &described.tokenizer);
        let stated = tokenizer.model_max_length();
        let stated = P::MAX_LENGTH.map(|most| stated.unwrap_or(most).min(most)).or(stated);
        let given = self.max_length;
        let max_length = TextInput::max_tokens(config, tokenizer, given, stated, P::PAIRS)?;
        let model = described.load_with_head(P::CLASS)?;
        P::of(TextModel { tokenizer: described.tokenizer, model, max_length })
    }
}

/// The constructors and accessors of a pipeline over the [`TextModel`] in its field `model`.
macro_rules! text_pipeline {
    () => {
        /// Loads a hub id or a directory, in f32 on the CPU.
        ///
        /// # Errors
        /// As [`PipelineBuilder::load`].
        pub fn from_pretrained(id: &str) -> Result<Self> {
            Self::builder(id).load()
        }

        /// Starts a builder with options.
        pub fn builder(id: impl Into<String>) -> PipelineBuilder<Self> {
            PipelineBuilder::new(id)
        }

        /// The model, its tokenizer and its maximum length.
        pub fn model(&self) -> &TextModel {
            &self.model
        }
    };
}
pub(super) use text_pipeline;
