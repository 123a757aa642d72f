//! `fill-mask`: the best tokens for the masks of a text, as transformers' pipeline gives them.
//!
//! # Source
//! `src/transformers/pipelines/fill_mask.py` at v4.57.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Int64Builder, ListArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use candle_core::Device;

use super::classifier::{Classifier, LoadedClassifier, forward_failed};
use super::labels::{logit_rows, softmax};
use super::models::{Models, ResolvedModel};
use super::text_input::TextInput;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, EncodeOptions};
use crate::config::pipeline::{FillMask, TaskStep};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub struct FillMaskTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    mask_token: String,
    choice: Choice,
}

/// Which tokens are looked for, and how many.
#[derive(Clone, Debug)]
struct Choice {
    mask_token_id: u32,
    pad_token_id: Option<u32>,
    top_k: usize,
    /// Only these tokens, in the order of their ids.
    targets: Option<Vec<u32>>,
    multiple_masks: bool,
}

impl FillMaskTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head or no mask token; `Config`
    /// when no target is a token.
    pub fn resolve(step: &TaskStep, options: &FillMask, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::MaskedLM, models)?;
        let model = Arc::clone(&classifier.model);
        let tokenizer = model.tokenizer();
        let Some(mask_token_id) = tokenizer.mask_token_id() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the tokenizer of model `{}` has no mask token", step.model_name),
            ));
        };
        let targets =
            options.targets.as_deref().map(|targets| target_ids(&model, targets)).transpose()?;
        let input = TextInput::new(
            Arc::clone(&model),
            [options.input.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let choice = Choice {
            mask_token_id,
            pad_token_id: tokenizer.pad_token_id(),
            top_k: options.top_k,
            targets,
            multiple_masks: options.multiple_masks,
        };
        let summary = classifier.summary(
            "fill-mask",
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "top_k": options.top_k,
                "targets": options.targets,
                "multiple_masks": options.multiple_masks,
            }),
        );
        let tokens = DataType::List(item(DataType::Struct(fields())));
        let data_type = if choice.multiple_masks { DataType::List(item(tokens)) } else { tokens };
        let field = Arc::new(Field::new(&step.output, data_type, true));
        let mask_token = tokenizer.id_to_token(mask_token_id).unwrap_or_default();
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, mask_token, choice })
    }

    fn encode_row(&self, text: &str) -> Result<EncodedRow> {
        let row = self.input.encode(&[text])?;
        let is_mask = |id: &&u32| **id == self.choice.mask_token_id;
        let masks: usize =
            row.sequences.iter().map(|s| s.input_ids.iter().filter(is_mask).count()).sum();
        match masks {
            0 if row.truncated => {
                let message = format!(
                    "the mask token `{}` is past the {} tokens that the text is cut to",
                    self.mask_token, self.input.max_length
                );
                Err(Error::of_row(RowErrorKind::MissingMask, message))
            }
            0 => {
                let message = format!("text without the mask token `{}`", self.mask_token);
                Err(Error::of_row(RowErrorKind::MissingMask, message))
            }
            2.. if !self.choice.multiple_masks => {
                let message = format!("text with {masks} mask tokens, one is expected");
                Err(Error::of_row(RowErrorKind::SeveralMasks, message)
                    .hint("set `multiple_masks: true` to fill several"))
            }
            _ => Ok(row),
        }
    }
}

/// Ids of the words looked for, in order and each once; a word that is no token is taken for its first
/// piece, with a warning, as transformers does.
fn target_ids(model: &ResolvedModel, targets: &[String]) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer();
    let mut ids = BTreeSet::new();
    for target in targets {
        if let Some(id) = tokenizer.token_to_id(target) {
            ids.insert(id);
            continue;
        }
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let pieces = tokenizer.encode(target, &options)?.input_ids;
        let Some(&id) = pieces.first() else {
            tracing::warn!("the target `{target}` has no token and is left out");
            continue;
        };
        let piece = tokenizer.id_to_token(id).unwrap_or_default();
        tracing::warn!(
            "the target `{target}` is no token of the model: `{piece}` is looked for instead"
        );
        ids.insert(id);
    }
    if ids.is_empty() {
        return Err(Error::new(ErrorKind::Config, "none of the `targets` is a token of the model"));
    }
    let rows = model.config().dimensions().vocab_size;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        let token = tokenizer.id_to_token(*id).unwrap_or_default();
        let message = format!(
            "the target `{token}` has the id {id}, but the embedding table of the model has {rows} rows"
        );
        return Err(Error::new(ErrorKind::Config, message).hint("choose another target"));
    }
    Ok(ids.into_iter().collect())
}

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("token_str", DataType::Utf8, false),
        Field::new("token", DataType::Int64, false),
        Field::new("score", DataType::Float32, false),
        Field::new("sequence", DataType::Utf8, false),
    ])
}

fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new_list_field(data_type, false))
}

impl Task for FillMaskTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| self.encode_row(texts[0]))
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        self.choice.top_k * (32 + 4 * tokens)
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(FillMaskModel {
            model: self.classifier.load(device)?,
            resolved: Arc::clone(&self.classifier.model),
            choice: self.choice.clone(),
        }))
    }
}

/// The task with its weights.
struct FillMaskModel {
    model: LoadedClassifier,
    resolved: Arc<ResolvedModel>,
    choice: Choice,
}

impl FillMaskModel {
    /// The best tokens and their probabilities.
    fn best(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let probabilities = softmax(logits);
        let ids: Vec<u32> = match &self.choice.targets {
            Some(targets) => targets.clone(),
            None => (0..probabilities.len() as u32).collect(),
        };
        let score = |id: u32| probabilities.get(id as usize).copied().unwrap_or(0.0);
        let mut scored: Vec<(u32, f32)> = ids.into_iter().map(|id| (id, score(id))).collect();
        let top_k = self.choice.top_k.min(scored.len());
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

impl TaskModel for FillMaskModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (inputs, output) = self.model.states(sequences)?;
        let tokenizer = self.resolved.tokenizer();
        let (mut names, mut tokens) = (StringBuilder::new(), Int64Builder::new());
        let (mut scores, mut texts) = (Float32Builder::new(), StringBuilder::new());
        let (mut masks_a_row, mut tokens_a_mask) = (Vec::new(), Vec::new());
        for (row, range) in inputs.lengths.ranges().enumerate() {
            let ids = inputs.row_ids(row);
            let masks: Vec<usize> =
                (0..ids.len()).filter(|&i| ids[i] == self.choice.mask_token_id).collect();
            masks_a_row.push(masks.len());
            for &mask in &masks {
                let states = output.last_hidden_state.values.narrow(0, range.start + mask, 1);
                let logits = states.and_then(|states| self.model.model.head().project(&states));
                let (logits, _) = logit_rows(&logits.map_err(forward_failed)?)?;
                let best = self.best(&logits);
                tokens_a_mask.push(best.len());
                for (token, score) in best {
                    let mut filled = ids.to_vec();
                    filled[mask] = token;
                    filled.retain(|&id| Some(id) != self.choice.pad_token_id);
                    // With several masks the others stay visible, as in transformers.
                    texts.append_value(tokenizer.decode(&filled, masks.len() == 1)?);
                    names.append_value(tokenizer.decode(&[token], false)?);
                    tokens.append_value(i64::from(token));
                    scores.append_value(score);
                }
            }
        }
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(names.finish()),
            Arc::new(tokens.finish()),
            Arc::new(scores.finish()),
            Arc::new(texts.finish()),
        ];
        let structs = StructArray::new(fields(), arrays, None);
        let item_type = item(DataType::Struct(fields()));
        let offsets = OffsetBuffer::from_lengths(tokens_a_mask);
        let masks = ListArray::new(item_type, offsets, Arc::new(structs), None);
        if !self.choice.multiple_masks {
            return Ok(Arc::new(masks));
        }
        let offsets = OffsetBuffer::from_lengths(masks_a_row);
        let item_type = item(DataType::List(item(DataType::Struct(fields()))));
        Ok(Arc::new(ListArray::new(item_type, offsets, Arc::new(masks), None)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
