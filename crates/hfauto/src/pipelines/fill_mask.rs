//! `FillMaskPipeline`: the most likely tokens for the masks of texts.
//!
//! # Source
//! `src/transformers/pipelines/fill_mask.py` at v4.57.

use std::collections::BTreeSet;

use super::loaded::{PipelineBuilder, TextModel, TextPipeline, text_pipeline};
use super::scores::softmax;
use crate::auto::{AutoClass, AutoConfig, AutoTokenizer, EncodeOptions, ModelWithHead, logit_rows};
use crate::error::{Error, ErrorKind, Result, RowErrorKind, forward_failed};
use crate::models::Want;

/// The default number of tokens per mask.
const TOP_K: usize = 5;

/// Which tokens to predict, and how many.
#[derive(Clone, Debug)]
pub struct MaskChoice {
    /// The mask token.
    pub mask_token_id: u32,
    /// The padding token, which is removed from filled texts.
    pub pad_token_id: Option<u32>,
    /// The number of tokens per mask.
    pub top_k: usize,
    /// Restricts predictions to these tokens, in the order of their ids.
    pub targets: Option<Vec<u32>>,
    /// Whether a text may have several masks.
    pub multiple_masks: bool,
}

/// A predicted token for a mask.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MaskFill {
    /// The token's text.
    pub token_str: String,
    /// The token's id.
    pub token: u32,
    /// The token's probability.
    pub score: f32,
    /// The text with this mask filled.
    pub sequence: String,
}

impl MaskChoice {
    /// Checks that a row has a mask, and not several unless allowed. `truncated` is true for rows truncated to
    /// `max_length` tokens.
    ///
    /// # Errors
    /// `Data` with the number of masks.
    pub fn check(
        &self,
        ids: &[u32],
        truncated: bool,
        max_length: usize,
        tokenizer: &AutoTokenizer,
    ) -> Result<()> {
        let mask_token = || tokenizer.id_to_token(self.mask_token_id).unwrap_or_default();
        match ids.iter().filter(|id| **id == self.mask_token_id).count() {
            0 if truncated => {
                let message = format!(
                    "the mask token `{}` is after the first {max_length} tokens, to which the text is truncated",
                    mask_token()
                );
                Err(Error::of_row(RowErrorKind::MissingMask, message))
            }
            0 => {
                let message = format!("text without the mask token `{}`", mask_token());
                Err(Error::of_row(RowErrorKind::MissingMask, message))
            }
            masks @ 2.. if !self.multiple_masks => {
                let message = format!("text with {masks} mask tokens, expected one");
                Err(Error::of_row(RowErrorKind::SeveralMasks, message)
                    .hint("set `multiple_masks: true` to fill several"))
            }
            _ => Ok(()),
        }
    }

    /// The most likely tokens for the masks of rows of `(input_ids, token_type_ids)`, in one forward pass: one list per
    /// row, with one list per mask, best first.
    ///
    /// # Errors
    /// `Model` for NaN logits; `Internal` when a tensor operation fails.
    pub fn fill<'a>(
        &self,
        model: &ModelWithHead,
        tokenizer: &AutoTokenizer,
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    ) -> Result<Vec<Vec<Vec<MaskFill>>>> {
        let inputs = model.inputs(rows).map_err(forward_failed)?;
        let output = model.backbone().forward(&inputs, &Want::default()).map_err(forward_failed)?;
        let rows = inputs.lengths.ranges().enumerate().map(|(row, range)| {
            let ids = inputs.row_ids(row);
            let masks: Vec<usize> =
                (0..ids.len()).filter(|&i| ids[i] == self.mask_token_id).collect();
            let fills = masks.iter().map(|&mask| {
                let states = output.last_hidden_state.values.narrow(0, range.start + mask, 1);
                let logits = states.and_then(|states| model.head().project(&states));
                let (logits, _) = logit_rows(&logits.map_err(forward_failed)?)?;
                let fills = self.best(&logits).into_iter().map(|(token, score)| {
                    let mut filled = ids.to_vec();
                    filled[mask] = token;
                    filled.retain(|&id| Some(id) != self.pad_token_id);
                    // As in transformers, the other masks of a text stay visible.
                    let sequence = tokenizer.decode(&filled, masks.len() == 1)?;
                    let token_str = tokenizer.decode(&[token], false)?;
                    Ok(MaskFill { token_str, token, score, sequence })
                });
                fills.collect::<Result<Vec<_>>>()
            });
            fills.collect::<Result<Vec<_>>>()
        });
        rows.collect()
    }

    /// The most likely tokens and their probabilities.
    fn best(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let probabilities = softmax(logits);
        let ids: Vec<u32> = match &self.targets {
            Some(targets) => targets.clone(),
            None => (0..probabilities.len() as u32).collect(),
        };
        let score = |id: u32| probabilities.get(id as usize).copied().unwrap_or(0.0);
        let mut scored: Vec<(u32, f32)> = ids.into_iter().map(|id| (id, score(id))).collect();
        let top_k = self.top_k.min(scored.len());
        let better =
            |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0));
        if top_k < scored.len() {
            scored.select_nth_unstable_by(top_k, better);
            scored.truncate(top_k);
        }
        scored.sort_by(better);
        scored
    }
}

/// The ids of the target words, in order and without duplicates. A word that is not in the vocabulary is replaced by
/// its first piece, with a warning, as in transformers.
///
/// # Errors
/// `Config` when no word has a token, or a token is outside the model's embedding table.
pub fn target_ids(
    tokenizer: &AutoTokenizer,
    config: &AutoConfig,
    targets: &[String],
) -> Result<Vec<u32>> {
    let mut ids = BTreeSet::new();
    for target in targets {
        if let Some(id) = tokenizer.token_to_id(target) {
            ids.insert(id);
            continue;
        }
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let pieces = tokenizer.encode(target, &options)?.input_ids;
        let Some(&id) = pieces.first() else {
            tracing::warn!("ignoring the target `{target}`, which has no token");
            continue;
        };
        let piece = tokenizer.id_to_token(id).unwrap_or_default();
        tracing::warn!(
            "the target `{target}` is not a token of the model: using `{piece}` instead"
        );
        ids.insert(id);
    }
    if ids.is_empty() {
        return Err(Error::new(ErrorKind::Config, "none of the `targets` is a token of the model"));
    }
    let rows = config.dimensions().vocab_size;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        let token = tokenizer.id_to_token(*id).unwrap_or_default();
        let message = format!(
            "the target `{token}` has the id {id}, but the embedding table of the model has {rows} rows"
        );
        return Err(Error::new(ErrorKind::Config, message).hint("choose another target"));
    }
    Ok(ids.into_iter().collect())
}

/// Predicts the tokens of masks in texts, as `pipeline("fill-mask")` of transformers.
///
/// # Example
/// ```
/// use hfauto::pipelines::FillMaskPipeline;
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "google-bert/bert-base-uncased".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/bert-mlm");
/// let model = FillMaskPipeline::from_pretrained(id)?;
/// let fills = model.predict(&["The film is [MASK]."])?;
/// assert_eq!(fills[0].len(), 5);
/// assert!(fills[0][0].score >= fills[0][1].score);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FillMaskPipeline {
    model: TextModel,
    mask_token_id: u32,
}

/// Options of [`FillMaskPipeline::predict_with`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FillMaskOptions {
    /// The number of tokens per mask, best first.
    pub top_k: usize,
    /// Restricts predictions to these words; empty for all tokens.
    pub targets: Vec<String>,
}

impl Default for FillMaskOptions {
    /// The five most likely of all tokens.
    fn default() -> Self {
        Self { top_k: TOP_K, targets: Vec::new() }
    }
}

impl FillMaskOptions {
    /// Sets the number of tokens per mask.
    #[must_use]
    pub fn top_k(mut self, top_k: usize) -> Self {
        self.top_k = top_k;
        self
    }

    /// Restricts predictions to these words. A word that is not in the vocabulary is replaced by its first piece.
    #[must_use]
    pub fn targets<T: Into<String>>(mut self, targets: impl IntoIterator<Item = T>) -> Self {
        self.targets = targets.into_iter().map(Into::into).collect();
        self
    }
}

impl TextPipeline for FillMaskPipeline {
    const CLASS: AutoClass = AutoClass::MaskedLM;

    fn of(model: TextModel) -> Result<Self> {
        let Some(mask_token_id) = model.tokenizer.mask_token_id() else {
            let name = model.model.name();
            let message = format!("the tokenizer of model `{name}` has no mask token");
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        Ok(Self { model, mask_token_id })
    }
}

impl FillMaskPipeline {
    text_pipeline!();

    /// The five most likely tokens for the one mask of each text, in the order of the texts.
    ///
    /// # Errors
    /// As [`predict_with`](Self::predict_with); `Data` for a text with several masks.
    pub fn predict<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<MaskFill>>> {
        let rows = self.fill(texts, &FillMaskOptions::default(), false)?.into_iter();
        Ok(rows.map(|masks| masks.into_iter().flatten().collect()).collect())
    }

    /// The most likely tokens for the masks of each text: one list per text, with one list per mask, best first.
    ///
    /// # Errors
    /// `Config` when no target is a token of the model; `Data` for a text without a mask, or with a token that the
    /// model has no embedding for; `Model` when the model computes NaN or infinity; `Internal` when a tensor operation
    /// fails.
    pub fn predict_with<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        options: &FillMaskOptions,
    ) -> Result<Vec<Vec<Vec<MaskFill>>>> {
        self.fill(texts, options, true)
    }

    fn fill<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        options: &FillMaskOptions,
        multiple_masks: bool,
    ) -> Result<Vec<Vec<Vec<MaskFill>>>> {
        let input = self.model.input();
        let targets = match options.targets.as_slice() {
            [] => None,
            targets => Some(target_ids(input.tokenizer, input.config, targets)?),
        };
        let choice = MaskChoice {
            mask_token_id: self.mask_token_id,
            pad_token_id: input.tokenizer.pad_token_id(),
            top_k: options.top_k,
            targets,
            multiple_masks,
        };
        let rows = TextModel::encode(texts, "text", |text| {
            let row = input.row(&[text.as_ref()])?;
            choice.check(&row.input_ids, row.truncated, input.max_length, input.tokenizer)?;
            Ok(row)
        })?;
        self.model.in_batches(&rows, |_, inputs| {
            choice.fill(&self.model.model, input.tokenizer, inputs.iter().copied())
        })
    }
}
