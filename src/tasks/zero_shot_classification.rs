//! `zero-shot-classification`: classifies text by labels from the pipeline file, with a natural language inference
//! model. The text with the hypothesis of each label is one sequence.
//!
//! # Source
//! `src/transformers/pipelines/zero_shot_classification.py` at v4.57.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, ListArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float32Type};
use candle_core::Device;
use hfauto::pipelines::softmax;
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::labels::{LabelsBuilder, label_list_type};
use super::models::Models;
use super::text_input::TextInput;
use super::{EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, WeightSize, template};
use crate::auto::{AutoClass, AutoConfig, EncodeOptions, TruncationStrategy};
use crate::document::{Cursor, Diagnostic, Diagnostics, StringOrList};
use crate::error::{Error, ErrorKind, Result};

/// The options of `zero-shot-classification`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ZeroShotClassification {
    /// The text column.
    pub input: String,
    /// The candidate labels.
    pub candidate_labels: StringOrList,
    /// The hypothesis for a label, which replaces `{}`. Default: `This example is {}.`
    pub hypothesis_template: Option<String>,
    /// Whether several labels can apply to a text. Default: false.
    pub multi_label: Option<bool>,
}

pub(super) static ZERO_SHOT_CLASSIFICATION: TaskDefinition = TaskDefinition {
    id: "zero-shot-classification",
    aliases: &[],
    summary: "Classifies a text by the pipeline's candidate labels.",
    auto_class: AutoClass::SequenceClassification,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<ZeroShotClassification>(),
    function: SqlFunction {
        name: "zero_shot",
        parameters: &["text"],
        parts: &[],
        description: "The scores of the labels in the option candidate_labels, highest first: List<Struct<label, score>>.",
        example: r#"SELECT zero_shot(text, 'nli', options => '{"candidate_labels": ["price", "quality"]}') FROM reviews"#,
    },
    usual_type: label_list_type,
    template: include_str!("../../pipelines/zero-shot-classification.yaml"),
};

/// The labels. As in transformers, a single string may hold several, separated by commas.
pub(super) fn split_labels(candidate_labels: &StringOrList) -> Vec<String> {
    match candidate_labels {
        StringOrList::One(labels) => labels
            .split(',')
            .map(str::trim)
            .filter(|label| !label.is_empty())
            .map(str::to_owned)
            .collect(),
        StringOrList::Many(labels) => labels.clone(),
    }
}

/// Reports missing labels, and a template without a place for the label.
pub(super) fn check_labels(
    candidate_labels: &StringOrList,
    template: &str,
    at: Cursor<'_>,
    report: &mut Diagnostics,
) {
    if split_labels(candidate_labels).is_empty() {
        let here = at.key("candidate_labels");
        report.push(Diagnostic::new(here.value, "`candidate_labels` has no label"));
    }
    if let Err(mut reason) = template::format(template, "label") {
        let here = at.key("hypothesis_template");
        if !here.shown("").is_empty() {
            // The message must not show a variable's value.
            "no usable placeholder for the label".clone_into(&mut reason);
        }
        report.push(
            Diagnostic::new(here.value, format!("`hypothesis_template` has {reason}"))
                .hint("write `{}` in place of the label"),
        );
    }
}

impl ZeroShotClassification {
    fn template(&self) -> &str {
        self.hypothesis_template.as_deref().unwrap_or("This example is {}.")
    }
}

impl TaskOptions for ZeroShotClassification {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        check_labels(&self.candidate_labels, self.template(), at, report);
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(ZeroShotClassificationTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct ZeroShotClassificationTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    labels: Vec<String>,
    hypotheses: Vec<String>,
    truncation: bool,
    /// Scores each label against its contradiction, instead of against the other labels.
    multi_label: bool,
    contradiction: usize,
    entailment: usize,
}

impl ZeroShotClassificationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head.
    fn resolve(step: &TaskStep, options: &ZeroShotClassification, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::SequenceClassification, models)?;
        let truncation = step.truncation.unwrap_or(true);
        let model = Arc::clone(&classifier.model);
        let input = TextInput::new(model, [options.input.as_str()], step.max_length, truncation)?;
        let (entailment, contradiction) = entailment(classifier.model.config())
            .map_err(|e| e.at(format!("model `{}`", classifier.model.snapshot().name())))?;
        let fill = |label: &String| {
            template::format(options.template(), label).map_err(|reason| {
                let message = format!("`hypothesis_template` has {reason}");
                Error::new(ErrorKind::Config, message)
            })
        };
        let labels = split_labels(&options.candidate_labels);
        let multi_label = options.multi_label.unwrap_or(false);
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "candidate_labels": labels,
                "hypothesis_template": options.template(),
                "multi_label": multi_label,
            }),
        );
        let base = TaskBase {
            columns: input.columns.clone(),
            field: Arc::new(Field::new(&step.output, label_list_type(), true)),
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self {
            hypotheses: labels.iter().map(fill).collect::<Result<_>>()?,
            multi_label: multi_label || labels.len() == 1,
            labels,
            entailment,
            contradiction,
            base,
            truncation,
            classifier,
            input,
        })
    }

    fn encode_row(&self, text: &str) -> Result<EncodedRow> {
        let mut row = EncodedRow::default();
        let tokenizer = self.classifier.model.tokenizer();
        for hypothesis in &self.hypotheses {
            // Truncates only the text, so that the labels stay complete.
            let options = EncodeOptions {
                max_length: self.truncation.then_some(self.input.max_length),
                truncation: TruncationStrategy::OnlyFirst,
                ..EncodeOptions::default()
            };
            let encoding = tokenizer.encode_pair(text, hypothesis, &options)?;
            self.input.fits(encoding.input_ids.len())?;
            row.truncated |= encoding.truncated;
            row.sequences.push(Sequence::new(encoding.input_ids, encoding.token_type_ids));
        }
        Ok(row)
    }
}

/// The head outputs of entailment and contradiction, by transformers' rule: from `label2id`, or the last output if no
/// label starts with `entail`.
fn entailment(config: &AutoConfig) -> Result<(usize, usize)> {
    let rows = config.num_labels();
    let last = rows.saturating_sub(1);
    let labels = config.label2id()?;
    let named = labels.iter().find(|(label, _)| label.to_lowercase().starts_with("entail"));
    let entailment = match named {
        None => {
            let names: Vec<&str> = labels.iter().map(|(label, _)| label.as_str()).collect();
            tracing::warn!(
                labels = ?names,
                "no label of the model starts with `entail`: using the last one as entailment"
            );
            last
        }
        Some((label, id)) => {
            usize::try_from(*id).ok().filter(|row| *row < rows).ok_or_else(|| {
                Error::new(
                    ErrorKind::Model,
                    format!("`label2id` in config.json has {id} for `{label}`, but there are {rows} labels"),
                )
            })?
        }
    };
    let contradiction = if named.is_some() && entailment == 0 { last } else { 0 };
    Ok((entailment, contradiction))
}

/// The type of the contradiction and entailment logits of one sequence.
fn pair_type() -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, false)), 2)
}

impl Task for ZeroShotClassificationTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| self.encode_row(texts[0]))
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        32
    }

    fn sequence_type(&self) -> DataType {
        pair_type()
    }

    fn is_row_by_row(&self) -> bool {
        false
    }

    fn finish(&self, _columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let logits = results.values.as_fixed_size_list().values().as_primitive::<Float32Type>();
        let logits = logits.values();
        let mut builder = LabelsBuilder::default();
        for row in results.rows {
            let Some(row) = row else {
                builder.push([]);
                continue;
            };
            let pairs = logits[2 * row.start..2 * row.end].chunks_exact(2);
            let scores: Vec<f32> = if self.multi_label {
                pairs.map(|pair| softmax(pair)[1]).collect()
            } else {
                softmax(&pairs.map(|pair| pair[1]).collect::<Vec<_>>())
            };
            let mut order: Vec<usize> = (0..scores.len()).collect();
            // The last of equal scores comes first, as in numpy's reversed sort.
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(b.cmp(&a)));
            builder.push(order.into_iter().map(|i| (self.labels[i].as_str(), scores[i])));
        }
        let (field, offsets, values, _) = builder.finish_lists().into_parts();
        let nulls = results.rows.iter().map(Option::is_some).collect::<NullBuffer>();
        Ok(Arc::new(ListArray::new(field, offsets, values, Some(nulls))))
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(ZeroShotClassificationModel {
            model: self.classifier.load(device)?,
            contradiction: self.contradiction,
            entailment: self.entailment,
        }))
    }
}

/// The task with its weights.
struct ZeroShotClassificationModel {
    model: LoadedClassifier,
    contradiction: usize,
    entailment: usize,
}

impl TaskModel for ZeroShotClassificationModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (numbers, columns) = self.model.logits(sequences)?;
        if self.entailment.max(self.contradiction) >= columns {
            return Err(Error::new(
                ErrorKind::Model,
                "the model has fewer labels than its config.json",
            ));
        }
        let pairs = numbers
            .chunks_exact(columns)
            .flat_map(|logits| [logits[self.contradiction], logits[self.entailment]]);
        let values = Arc::new(Float32Array::from_iter_values(pairs));
        let item = Arc::new(Field::new_list_field(DataType::Float32, false));
        Ok(Arc::new(FixedSizeListArray::new(item, 2, values, None)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
