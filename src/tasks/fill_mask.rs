//! `fill-mask`: predicts the most likely tokens for the masks of a text, as transformers' pipeline
//! does.
//!
//! # Source
//! `src/transformers/pipelines/fill_mask.py` at v4.57.

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Int64Builder, ListArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use candle_core::Device;
use hfauto::pipelines::{MaskChoice, target_ids};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep, count,
};
use super::models::{Models, ResolvedModel};
use super::text_input::TextInput;
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::AutoClass;
use crate::document::StringOrList;
use crate::error::{Error, ErrorKind, Result};

/// The options of `fill-mask`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct FillMask {
    /// The text column; each text contains the model's mask token.
    pub input: String,
    /// The number of tokens, most likely first. Default: 5.
    pub top_k: Option<NonZeroU64>,
    /// Candidate words; all other tokens are ignored. Default: the whole vocabulary.
    pub targets: Option<StringOrList>,
    /// Whether a text may contain several masks. Default: false.
    pub multiple_masks: Option<bool>,
}

pub(super) static FILL_MASK: TaskDefinition = TaskDefinition {
    id: "fill-mask",
    aliases: &[],
    summary: "Predicts the most likely tokens for a mask.",
    auto_class: AutoClass::MaskedLM,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<FillMask>(),
    function: SqlFunction {
        name: "fill_mask",
        parameters: &["text"],
        parts: &[],
        description: "The most likely tokens for the mask of a text: List<Struct<token_str, token, score, sequence>>.",
        example: "SELECT fill_mask('Paris is the [MASK] of France.', 'bert')",
    },
    usual_type: || DataType::List(item(DataType::Struct(fields()))),
    template: include_str!("../../pipelines/fill-mask.yaml"),
};

impl TaskOptions for FillMask {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(FillMaskTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct FillMaskTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    choice: MaskChoice,
}

impl FillMaskTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no masked LM head or no mask token;
    /// `Config` if no target is a token.
    fn resolve(step: &TaskStep, options: &FillMask, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::MaskedLM, models)?;
        let model = Arc::clone(&classifier.model);
        let tokenizer = model.tokenizer();
        let Some(mask_token_id) = tokenizer.mask_token_id() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the tokenizer of model `{}` has no mask token", step.model_name),
            ));
        };
        let targets = options
            .targets
            .as_ref()
            .map(|targets| target_ids(tokenizer, model.config(), targets.strings()))
            .transpose()?;
        let input = TextInput::new(
            Arc::clone(&model),
            [options.input.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let choice = MaskChoice {
            mask_token_id,
            pad_token_id: tokenizer.pad_token_id(),
            top_k: options.top_k.map_or(5, count),
            targets,
            multiple_masks: options.multiple_masks.unwrap_or(false),
        };
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "top_k": choice.top_k,
                "targets": options.targets.as_ref().map(StringOrList::strings),
                "multiple_masks": choice.multiple_masks,
            }),
        );
        let tokens = DataType::List(item(DataType::Struct(fields())));
        let data_type = if choice.multiple_masks { DataType::List(item(tokens)) } else { tokens };
        let field = Arc::new(Field::new(&step.output, data_type, true));
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, choice })
    }

    fn encode_row(&self, text: &str) -> Result<EncodedRow> {
        let row = self.input.encode(&[text])?;
        let ids: Vec<u32> = row.sequences.iter().flat_map(|s| s.input_ids.clone()).collect();
        let tokenizer = self.classifier.model.tokenizer();
        self.choice.check(&ids, row.truncated, self.input.max_length, tokenizer)?;
        Ok(row)
    }
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
    choice: MaskChoice,
}

impl TaskModel for FillMaskModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let rows = self.model.rows(sequences);
        let filled = self.choice.fill(&self.model.model, self.resolved.tokenizer(), rows)?;
        let (mut names, mut tokens) = (StringBuilder::new(), Int64Builder::new());
        let (mut scores, mut texts) = (Float32Builder::new(), StringBuilder::new());
        let masks_a_row: Vec<usize> = filled.iter().map(Vec::len).collect();
        let tokens_a_mask: Vec<usize> = filled.iter().flatten().map(Vec::len).collect();
        for fill in filled.iter().flatten().flatten() {
            names.append_value(&fill.token_str);
            tokens.append_value(i64::from(fill.token));
            scores.append_value(fill.score);
            texts.append_value(&fill.sequence);
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
