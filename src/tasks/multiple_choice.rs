//! `multiple-choice`: picks one of several choices for a prompt. The prompt with each choice is one
//! sequence.
//!
//! # Source
//! `…ForMultipleChoice` of transformers v4.57: one logit per choice; scores are their softmax.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Int32Array, ListArray, StringViewArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Float32Type};
use candle_core::Device;
use hfauto::pipelines::{best as best_of, softmax};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, ModelOutputName, OptionsType, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::labels::logits_type;
use super::models::Models;
use super::text_input::{TextInput, place};
use super::{
    EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, WeightSize, is_text, not_text,
    text_column,
};
use crate::auto::AutoClass;
use crate::document::StringOrList;
use crate::error::{Error, ErrorKind, Result, RowErrorKind};

/// The options of `multiple-choice`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct MultipleChoice {
    /// `{prompt, choices}`.
    pub input: PromptChoices,
}

/// A prompt and its choices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptChoices {
    /// The column of the prompt.
    pub prompt: String,
    /// The columns of the choices, or one column of lists.
    pub choices: StringOrList,
}

pub(super) static MULTIPLE_CHOICE: TaskDefinition = TaskDefinition {
    id: "multiple-choice",
    aliases: &[],
    summary: "Picks one of several choices.",
    auto_class: AutoClass::MultipleChoice,
    outputs: &[ModelOutputName::Logits],
    generates: false,
    options: OptionsType::of::<MultipleChoice>(),
    function: SqlFunction {
        name: "choose",
        parameters: &["prompt", "choices"],
        parts: &[],
        description: "The most likely of a list of choices: Struct<choice, scores>.",
        example: "SELECT choose(prompt, [a, b, c], 'swag')['choice'] FROM quiz",
    },
    usual_type: || DataType::Struct(fields(false)),
    template: include_str!("../../pipelines/multiple-choice.yaml"),
};

impl TaskOptions for MultipleChoice {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        let PromptChoices { prompt, choices } = &self.input;
        let choices = choices.strings().iter().enumerate();
        std::iter::once(InputColumn::part("prompt", prompt))
            .chain(
                choices
                    .map(|(item, name)| InputColumn { item, ..InputColumn::part("choices", name) }),
            )
            .collect()
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(MultipleChoiceTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct MultipleChoiceTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    logits: bool,
}

impl MultipleChoiceTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head.
    fn resolve(step: &TaskStep, options: &MultipleChoice, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::MultipleChoice, models)?;
        let columns: Vec<String> =
            options.inputs().into_iter().map(|input| input.name.to_owned()).collect();
        let input = TextInput::new(
            Arc::clone(&classifier.model),
            columns.iter().map(String::as_str),
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let logits = step.stores_logits();
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({"max_length": input.max_length}),
        );
        let field = Field::new(&step.output, DataType::Struct(fields(logits)), true);
        let base = TaskBase {
            columns,
            field: Arc::new(field),
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, logits })
    }
}

/// The choices of every row; `None` if one of them is null.
fn choices(columns: &[ArrayRef]) -> Result<Vec<Option<Vec<String>>>> {
    let rows = columns.first().map_or(0, Array::len);
    if let [_, list] = columns
        && is_list(list.data_type())
    {
        let wrong =
            |e| Error::new(ErrorKind::Internal, "choices are not a list of texts").source(e);
        let item = Arc::new(Field::new_list_field(DataType::Utf8View, true));
        let list = cast(list, &DataType::List(item)).map_err(wrong)?;
        let list = list.as_list::<i32>();
        return Ok((0..rows)
            .map(|row| list.is_valid(row).then(|| texts(list.value(row).as_string_view()))?)
            .collect());
    }
    let texts = columns[1..].iter().map(text_column).collect::<Result<Vec<_>>>()?;
    let choice =
        |column: &StringViewArray, row| column.is_valid(row).then(|| column.value(row).to_owned());
    Ok((0..rows).map(|row| texts.iter().map(|column| choice(column, row)).collect()).collect())
}

/// The texts of a list; `None` if one is null.
fn texts(list: &StringViewArray) -> Option<Vec<String>> {
    list.iter().map(|text| text.map(str::to_owned)).collect()
}

fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
    )
}

fn is_list_of_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => is_text(item.data_type()),
        _ => false,
    }
}

fn fields(logits: bool) -> Fields {
    let choice = Field::new("choice", DataType::Int32, false);
    let scores = Field::new("scores", logits_type(), false);
    let logits = logits.then(|| Field::new("logits", logits_type(), false));
    [choice, scores].into_iter().chain(logits).collect()
}

impl Task for MultipleChoiceTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        match types {
            [prompt, _] if !is_text(prompt) => Err(not_text(&self.base.columns[0], prompt)),
            [_, choices] if is_list_of_text(choices) => Ok(()),
            [_, choices] if !is_text(choices) => Err(Error::new(
                ErrorKind::Config,
                format!("column `{}` is {choices}, expected a list of texts", self.base.columns[1]),
            )),
            [_, _] => Err(Error::new(
                ErrorKind::Config,
                format!("`choices` is one column, `{}`, of single texts", self.base.columns[1]),
            )
            .hint("name one column per choice, or a column of lists")),
            _ => match self.base.columns.iter().zip(types).find(|(_, found)| !is_text(found)) {
                Some((column, data_type)) => Err(not_text(column, data_type)),
                None => Ok(()),
            },
        }
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let prompts = text_column(&columns[0])?;
        let choices = choices(columns)?;
        choices
            .into_par_iter()
            .enumerate()
            .map(|(row, choices)| {
                let Some(choices) = choices.filter(|_| prompts.is_valid(row)) else {
                    return Ok(None);
                };
                let at = |e: Error| e.at(place(&self.base.columns, first_row + row as u64));
                if choices.is_empty() {
                    return Err(at(Error::of_row(RowErrorKind::Empty, "a row has no choices")));
                }
                let mut encoded = EncodedRow::default();
                for choice in &choices {
                    let pair = self.input.encode(&[prompts.value(row), choice]).map_err(at)?;
                    encoded.truncated |= pair.truncated;
                    encoded.sequences.extend(pair.sequences);
                }
                self.input.model.check_tokens(&encoded).map_err(at)?;
                Ok(Some(encoded))
            })
            .collect()
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        2 * size_of::<f32>()
    }

    fn sequence_type(&self) -> DataType {
        DataType::Float32
    }

    fn is_row_by_row(&self) -> bool {
        false
    }

    fn finish(&self, _columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let logits = results.values.as_primitive::<Float32Type>().values();
        let (mut best, mut scores, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for row in results.rows {
            let logits = row.clone().map_or(&[][..], |row| &logits[row]);
            best.push(best_of(logits, 1).first().map_or(0, |&place| place as i32));
            scores.extend(softmax(logits));
            lengths.push(logits.len());
        }
        let list = |numbers: Vec<f32>| -> ArrayRef {
            let item = Arc::new(Field::new_list_field(DataType::Float32, false));
            let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
            Arc::new(ListArray::new(item, offsets, Arc::new(Float32Array::from(numbers)), None))
        };
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(best)), list(scores)];
        if self.logits {
            arrays.push(list(logits.to_vec()));
        }
        let nulls = results.rows.iter().map(Option::is_some).collect::<NullBuffer>();
        Ok(Arc::new(StructArray::new(fields(self.logits), arrays, Some(nulls))))
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(MultipleChoiceModel { model: self.classifier.load(device)? }))
    }
}

/// The task with its weights.
struct MultipleChoiceModel {
    model: LoadedClassifier,
}

impl TaskModel for MultipleChoiceModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (numbers, _) = self.model.logits(sequences)?;
        Ok(Arc::new(Float32Array::from(numbers)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
