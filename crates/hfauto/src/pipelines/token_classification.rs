//! `TokenClassificationPipeline`: from texts to labelled spans.
//!
//! # Source
//! `src/transformers/pipelines/token_classification.py` at v4.57.

use super::aggregate::{Aggregation, AggregationStrategy, TokenScores, merge_windows};
use super::characters::Characters;
use super::loaded::{PipelineBuilder, TextModel, TextPipeline, text_pipeline};
use super::scores::softmax;
use crate::auto::{AutoClass, AutoTokenizer, EncodeOptions, Encoding, WindowOptions};
use crate::error::{Error, ErrorKind, Result};

/// A token of a text, other than special tokens.
#[derive(Clone, Copy, Debug)]
pub struct TextToken {
    /// The token's id.
    pub id: u32,
    /// The index among the tokens of its row, including special tokens.
    pub index: u32,
    /// The start in the text, in characters.
    pub start: u32,
    /// The end in the text, exclusive, in characters.
    pub end: u32,
}

impl TextToken {
    /// The tokens of a row, without special tokens.
    pub fn of_row(ids: &[u32], offsets: &[(usize, usize)], special: &[bool]) -> Vec<Self> {
        let tokens = ids.iter().zip(offsets).zip(special).enumerate();
        let tokens = tokens.filter(|(_, (_, special))| !**special);
        let tokens = tokens.map(|(index, ((&id, &(start, end)), _))| Self {
            id,
            index: index as u32,
            start: start as u32,
            end: end as u32,
        });
        tokens.collect()
    }

    /// The token's text, and whether it continues the previous token's word.
    fn word(&self, tokenizer: &AutoTokenizer, text: &Characters<'_>) -> (String, bool) {
        let (start, end) = (self.start as usize, self.end as usize);
        if Some(self.id) == tokenizer.unk_token_id() {
            return (text.slice(start..end).to_owned(), false);
        }
        let word = tokenizer.id_to_token(self.id).unwrap_or_default();
        let is_subword = if tokenizer.continuing_subword_prefix().is_some() {
            // A subword is longer than its text by the prefix.
            word.chars().count() != text.slice(start..end).chars().count()
        } else {
            start > 0 && !text.slice(start - 1..start + 1).contains(' ')
        };
        (word, is_subword)
    }

    /// The tokens with their words and label probabilities. `scores` has `labels` values for every token of the row.
    ///
    /// # Errors
    /// `Internal` when there are too few scores.
    pub fn scored<'s>(
        tokens: &[Self],
        tokenizer: &AutoTokenizer,
        text: &Characters<'_>,
        scores: &'s [f32],
        labels: usize,
    ) -> Result<Vec<TokenScores<'s>>> {
        let tokens = tokens.iter().map(|token| {
            let (word, is_subword) = token.word(tokenizer, text);
            let Self { index, start, end, .. } = *token;
            let first = index as usize * labels;
            let scores = scores.get(first..first + labels).ok_or_else(|| {
                Error::new(ErrorKind::Internal, "a row came back without its tokens")
            })?;
            Ok(TokenScores { word, scores, start, end, index, is_subword })
        });
        tokens.collect()
    }
}

/// The label probabilities of every token.
pub fn token_scores(logits: &[f32], labels: usize) -> Vec<f32> {
    logits.chunks_exact(labels).flat_map(softmax).collect()
}

/// A labelled span of a text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EntitySpan {
    /// The label, without `B-` or `I-` if tokens are joined.
    pub label: String,
    /// The label's probability.
    pub score: f32,
    /// The span as its tokens spell it.
    pub word: String,
    /// The start in the text.
    ///
    /// # Units
    /// Characters, 0-based.
    pub start: usize,
    /// The end in the text, exclusive, in characters.
    pub end: usize,
    /// The index of the span's first token in its row.
    pub index: usize,
}

/// Labels spans of texts, as `pipeline("token-classification")` of transformers.
///
/// # Example
/// ```
/// use hfauto::pipelines::{AggregationStrategy, TokenClassificationOptions, TokenClassificationPipeline};
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "dslim/bert-base-NER".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/bert-ner");
/// let tagger = TokenClassificationPipeline::from_pretrained(id)?;
/// let options =
///     TokenClassificationOptions::default().aggregation_strategy(AggregationStrategy::Simple);
/// let text = "Anna lives in Kraków.";
/// let entities = tagger.predict_with(&[text], &options)?;
/// for entity in &entities[0] {
///     assert!(entity.start <= entity.end && entity.end <= text.chars().count());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TokenClassificationPipeline {
    model: TextModel,
}

/// Options of [`TokenClassificationPipeline::predict_with`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenClassificationOptions {
    /// How tokens are aggregated to entities.
    pub aggregation_strategy: AggregationStrategy,
    /// Labels whose entities are dropped; `["O"]` by default.
    pub ignore_labels: Vec<String>,
    /// The number of tokens that adjacent windows over a long text share. Without it, long texts are truncated.
    pub stride: Option<usize>,
}

impl Default for TokenClassificationOptions {
    /// One entity per token, without the label `O`.
    fn default() -> Self {
        Self {
            aggregation_strategy: AggregationStrategy::None,
            ignore_labels: vec!["O".to_owned()],
            stride: None,
        }
    }
}

impl TokenClassificationOptions {
    /// Sets how tokens are joined.
    #[must_use]
    pub fn aggregation_strategy(mut self, aggregation_strategy: AggregationStrategy) -> Self {
        self.aggregation_strategy = aggregation_strategy;
        self
    }

    /// Sets the labels whose entities are dropped.
    #[must_use]
    pub fn ignore_labels<T: Into<String>>(mut self, labels: impl IntoIterator<Item = T>) -> Self {
        self.ignore_labels = labels.into_iter().map(Into::into).collect();
        self
    }

    /// Splits long texts into windows that share `stride` tokens. Needs a strategy that joins tokens.
    #[must_use]
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = Some(stride);
        self
    }
}

impl TextPipeline for TokenClassificationPipeline {
    const CLASS: AutoClass = AutoClass::TokenClassification;

    fn of(model: TextModel) -> Result<Self> {
        Ok(Self { model })
    }
}

impl TokenClassificationPipeline {
    text_pipeline!();

    /// The labelled tokens of each text, in token order, without the label `O`.
    ///
    /// # Errors
    /// As [`predict_with`](Self::predict_with).
    pub fn predict<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<EntitySpan>>> {
        self.predict_with(texts, &TokenClassificationOptions::default())
    }

    /// The entities of each text, in input order, and within a text in token order.
    ///
    /// # Errors
    /// `Config` for a `stride` that leaves windows no room, or with the strategy `none`; `Data` for a text with a token
    /// that the model has no embedding for; `Model` when `id2label` lacks a label or the model computes NaN or
    /// infinity; `Internal` when a tensor operation fails.
    pub fn predict_with<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        options: &TokenClassificationOptions,
    ) -> Result<Vec<Vec<EntitySpan>>> {
        let input = self.model.input();
        if let Some(stride) = options.stride {
            input.check_stride("stride", stride)?;
            if options.aggregation_strategy == AggregationStrategy::None {
                let message = "`stride` needs an `aggregation_strategy` that joins tokens";
                return Err(Error::new(ErrorKind::Config, message)
                    .hint("set `aggregation_strategy`, for example to `simple`"));
            }
        }
        let encoded = TextModel::encode(texts, "text", |text| {
            let rows = self.rows(text.as_ref(), options.stride)?;
            for (row, _) in &rows {
                input.check_tokens(&row.input_ids, &row.token_type_ids)?;
            }
            Ok(rows)
        })?;
        let windows: Vec<usize> = encoded.iter().map(Vec::len).collect();
        let (rows, tokens): (Vec<Encoding>, Vec<Vec<TextToken>>) =
            encoded.into_iter().flatten().unzip();
        let labels = input.config.num_labels();
        let logits = self.model.token_logits(&rows, labels)?;

        let to_text = |tokens| input.tokenizer.convert_tokens_to_string(tokens);
        let aggregation = Aggregation {
            strategy: options.aggregation_strategy,
            config: input.config,
            ignore_labels: &options.ignore_labels,
            to_text: &to_text,
        };
        let mut rows = tokens.iter().zip(&logits);
        let entities = texts.iter().zip(windows).map(|(text, windows)| {
            let text = Characters::new(text.as_ref());
            let mut entities = Vec::new();
            for (tokens, logits) in rows.by_ref().take(windows) {
                let scores = token_scores(logits, labels);
                let tokens = TextToken::scored(tokens, input.tokenizer, &text, &scores, labels)?;
                entities.extend(aggregation.entities(tokens)?);
            }
            if windows > 1 {
                entities = merge_windows(entities);
            }
            let spans = entities.into_iter().map(|entity| EntitySpan {
                label: entity.label.to_owned(),
                score: entity.score,
                word: entity.word,
                start: entity.start as usize,
                end: entity.end as usize,
                index: entity.index as usize,
            });
            Ok(spans.collect())
        });
        entities.collect()
    }

    /// The rows of a text: its windows, or the truncated text.
    fn rows(&self, text: &str, stride: Option<usize>) -> Result<Vec<(Encoding, Vec<TextToken>)>> {
        let input = self.model.input();
        let Some(stride) = stride else {
            let options = EncodeOptions {
                return_offsets_mapping: true,
                return_special_tokens_mask: true,
                ..input.options()
            };
            let encoding = input.tokenizer.encode(text, &options)?;
            let offsets = encoding.offset_mapping.clone().unwrap_or_default();
            let special = encoding.special_tokens_mask.clone().unwrap_or_default();
            let tokens = TextToken::of_row(&encoding.input_ids, &offsets, &special);
            return Ok(vec![(encoding, tokens)]);
        };
        let max_length = Some(self.model.max_length);
        let options = WindowOptions { max_length, stride, ..WindowOptions::default() };
        let windows = input.tokenizer.encode_windows(text, None, &options)?.into_iter();
        let rows = windows.map(|window| {
            let (offsets, special) = (&window.offset_mapping, &window.special_tokens_mask);
            let tokens = TextToken::of_row(&window.input_ids, offsets, special);
            let (input_ids, token_type_ids) = (window.input_ids, window.token_type_ids);
            (Encoding { input_ids, token_type_ids, ..Encoding::default() }, tokens)
        });
        Ok(rows.collect())
    }
}
