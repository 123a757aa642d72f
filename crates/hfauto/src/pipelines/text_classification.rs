//! `TextClassificationPipeline`: from texts, or pairs of texts, to labels.
//!
//! # Source
//! `src/transformers/pipelines/text_classification.py` at v4.57.

use super::loaded::{PipelineBuilder, TextModel, TextPipeline, text_pipeline};
use super::scores::{LabelScore, ScoreFunction, labels};
use crate::auto::{AutoClass, Encoding};
use crate::error::{Error, ErrorKind, Result};

/// Classifies texts and pairs of texts, as `pipeline("text-classification")` of transformers. Truncates them to the
/// model's maximum length, the longer text of a pair first.
///
/// # Example
/// ```
/// use hfauto::pipelines::TextClassificationPipeline;
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "distilbert/distilbert-base-uncased-finetuned-sst-2-english".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/bert-sentiment");
/// let classifier = TextClassificationPipeline::from_pretrained(id)?;
/// let labels = classifier.predict(&["The room was quiet.", "A film that is too long."])?;
/// assert_eq!(labels.len(), 2);
/// assert!((0.0..=1.0).contains(&labels[0].score));
/// let of_pairs = classifier.predict_pairs(&[("The room was quiet.", "And it was clean.")])?;
/// assert_eq!(of_pairs.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TextClassificationPipeline {
    model: TextModel,
}

/// Options of [`TextClassificationPipeline::predict_with`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextClassificationOptions {
    /// The number of labels per text, best first; `None` for all.
    pub top_k: Option<usize>,
    /// The function from logits to scores; `None` for the configuration's.
    pub function_to_apply: Option<ScoreFunction>,
}

impl TextClassificationOptions {
    /// Sets the number of labels per text.
    #[must_use]
    pub fn top_k(mut self, top_k: usize) -> Self {
        self.top_k = Some(top_k);
        self
    }

    /// Sets the function from logits to scores.
    #[must_use]
    pub fn function_to_apply(mut self, function_to_apply: ScoreFunction) -> Self {
        self.function_to_apply = Some(function_to_apply);
        self
    }
}

/// Only the best label.
const BEST: TextClassificationOptions =
    TextClassificationOptions { top_k: Some(1), function_to_apply: None };

fn first_labels(rows: Vec<Vec<LabelScore>>) -> Result<Vec<LabelScore>> {
    let none = || Error::new(ErrorKind::Model, "the model's head has no label");
    rows.into_iter().map(|labels| labels.into_iter().next().ok_or_else(none)).collect()
}

impl TextPipeline for TextClassificationPipeline {
    const CLASS: AutoClass = AutoClass::SequenceClassification;

    fn of(model: TextModel) -> Result<Self> {
        Ok(Self { model })
    }
}

impl TextClassificationPipeline {
    text_pipeline!();

    /// The best label of each text, in input order.
    ///
    /// # Errors
    /// As [`predict_with`](Self::predict_with).
    pub fn predict<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<LabelScore>> {
        first_labels(self.predict_with(texts, &BEST)?)
    }

    /// The best label of each pair `(text, text_pair)`, in input order.
    ///
    /// # Errors
    /// As [`predict_with`](Self::predict_with).
    pub fn predict_pairs<A, B>(&self, pairs: &[(A, B)]) -> Result<Vec<LabelScore>>
    where
        A: AsRef<str> + Sync,
        B: AsRef<str> + Sync,
    {
        first_labels(self.predict_pairs_with(pairs, &BEST)?)
    }

    /// The labels of each text, best first.
    ///
    /// # Errors
    /// `Data` for a text without a token, or with one that the model has no embedding for; `Model` when `id2label`
    /// lacks a label or the model computes NaN or infinity; `Internal` when a tensor operation fails.
    pub fn predict_with<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        options: &TextClassificationOptions,
    ) -> Result<Vec<Vec<LabelScore>>> {
        let input = self.model.input();
        let rows = TextModel::encode(texts, "text", |text| input.row(&[text.as_ref()]))?;
        self.classify(&rows, options)
    }

    /// The labels of each pair `(text, text_pair)`, best first. An empty `text_pair` counts as absent, as in
    /// transformers.
    ///
    /// # Errors
    /// As [`predict_with`](Self::predict_with).
    pub fn predict_pairs_with<A, B>(
        &self,
        pairs: &[(A, B)],
        options: &TextClassificationOptions,
    ) -> Result<Vec<Vec<LabelScore>>>
    where
        A: AsRef<str> + Sync,
        B: AsRef<str> + Sync,
    {
        let input = self.model.input();
        let rows = TextModel::encode(pairs, "pair", |(text, pair): &(A, B)| {
            let encoding = input.encode_optional_pair(&[text.as_ref(), pair.as_ref()])?;
            input.check_tokens(&encoding.input_ids, &encoding.token_type_ids)?;
            Ok(encoding)
        })?;
        self.classify(&rows, options)
    }

    fn classify(
        &self,
        rows: &[Encoding],
        options: &TextClassificationOptions,
    ) -> Result<Vec<Vec<LabelScore>>> {
        let input = self.model.input();
        let function = options.function_to_apply.unwrap_or_else(|| ScoreFunction::of(input.config));
        let top_k = options.top_k.unwrap_or(usize::MAX);
        self.model.in_batches(rows, |_, inputs| {
            let (numbers, columns) = self.model.model.logits(inputs.iter().copied())?;
            let rows = numbers.chunks_exact(columns.max(1));
            rows.map(|logits| labels(input.config, logits, function, top_k)).collect()
        })
    }
}
