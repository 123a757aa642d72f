//! `loglikelihood`: computes the log-likelihood of a text, or of a continuation given a context.
//!
//! A text on its own: every token after the first counts. With `stride`, windows slide over a text that
//! exceeds the model's maximum; every token counts once, conditioned on the earlier tokens of its window.
//! A continuation: only its own tokens count, split from the context as in lm-evaluation-harness.

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Float64Builder, Int32Array, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int32Type};
use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::{Classifier, LoadedClassifier, forward_failed};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
    count,
};
use super::models::Models;
use super::text_input::TextInput;
use super::{EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, EncodeOptions};
use crate::document::{ColumnOr, Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::generation::log_probabilities;
use crate::models::Want;

/// The maximum number of logits in memory.
const MAX_LOGITS: usize = 1 << 22;

/// The options of `loglikelihood`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Loglikelihood {
    /// The text column, or `{context, continuation}`.
    pub input: ColumnOr<ContextContinuation>,
    /// The number of tokens by which the windows over a long text advance.
    pub stride: Option<NonZeroU64>,
}

/// A context and its continuation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextContinuation {
    /// The column of the context.
    pub context: String,
    /// The column of the continuation.
    pub continuation: String,
}

pub(super) static LOGLIKELIHOOD: TaskDefinition = TaskDefinition {
    id: "loglikelihood",
    aliases: &[],
    summary: "Computes the log-likelihood of a text.",
    auto_class: AutoClass::CausalLM,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<Loglikelihood>(),
    function: SqlFunction {
        name: "loglikelihood",
        parameters: &["text"],
        parts: &["context", "continuation"],
        description: "The log-likelihood of a text, or of a continuation as {context: …, continuation: …}: Struct<loglikelihood, tokens, perplexity>.",
        example: "SELECT loglikelihood(text, 'gpt2')['perplexity'] FROM reviews",
    },
    usual_type: || DataType::Struct(fields()),
    template: include_str!("../../pipelines/loglikelihood.yaml"),
};

impl TaskOptions for Loglikelihood {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        match &self.input {
            ColumnOr::Column(text) => vec![InputColumn::whole(text)],
            ColumnOr::Columns(ContextContinuation { context, continuation }) => vec![
                InputColumn::part("context", context),
                InputColumn::part("continuation", continuation),
            ],
        }
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        if self.stride.is_some() && matches!(self.input, ColumnOr::Columns(_)) {
            report.push(
                Diagnostic::new(
                    at.key("stride").key,
                    "`stride` applies to a single text, not to a continuation",
                )
                .related(at.key("input").value, "a context and its continuation"),
            );
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(LoglikelihoodTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct LoglikelihoodTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    truncation: bool,
    stride: Option<usize>,
    /// Whether the columns hold a context and its continuation.
    continuation: bool,
}

impl LoglikelihoodTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no LM head; `Config` for a `stride` that
    /// skips tokens.
    fn resolve(step: &TaskStep, options: &Loglikelihood, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::CausalLM, models)?;
        classifier.require_decoder()?;
        let columns = options.inputs().into_iter().map(|input| input.name);
        // The task truncates the tokens itself, because it knows which of them count.
        let input = TextInput::new(Arc::clone(&classifier.model), columns, step.max_length, false)?;
        let stride = options.stride.map(count);
        if let Some(stride) = stride
            && stride > input.max_length
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`stride: {stride}` is more than the {} tokens of a window",
                    input.max_length
                ),
            ));
        }
        let truncation = step.truncation.unwrap_or(true);
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "truncation": truncation,
                "stride": stride,
            }),
        );
        let field = Arc::new(Field::new(&step.output, DataType::Struct(fields()), true));
        let base = TaskBase {
            columns: input.columns.clone(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self {
            classifier,
            input,
            base,
            truncation,
            stride,
            continuation: matches!(options.input, ColumnOr::Columns(_)),
        })
    }

    fn encode_text(&self, text: &str) -> Result<EncodedRow> {
        let tokenizer = self.classifier.model.tokenizer();
        let max = self.input.max_length;
        // One extra token shows that the text is too long.
        let enough = (self.truncation && self.stride.is_none()).then(|| max.saturating_add(1));
        let options = EncodeOptions { max_length: enough, ..EncodeOptions::default() };
        let mut ids = tokenizer.encode(text, &options)?.input_ids;
        if ids.is_empty() {
            return Err(Error::of_row(
                RowErrorKind::Empty,
                "a text without tokens has no likelihood",
            ));
        }
        let Some(stride) = self.stride else {
            let truncated = self.cut(ids.len(), max)?;
            ids.truncate(max);
            return Ok(EncodedRow { truncated, ..sequence(ids, 1).into() });
        };
        let mut row = EncodedRow::default();
        let mut done = 0;
        for begin in (0..ids.len()).step_by(stride) {
            let end = begin.saturating_add(max).min(ids.len());
            let start = if begin == 0 { 1 } else { done - begin };
            row.sequences.push(sequence(ids[begin..end].to_vec(), start));
            done = end;
            if end == ids.len() {
                break;
            }
        }
        Ok(row)
    }

    fn encode_continuation(&self, context: &str, continuation: &str) -> Result<EncodedRow> {
        let tokenizer = self.classifier.model.tokenizer();
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let encode = |text: &str| Ok::<_, Error>(tokenizer.encode(text, &options)?.input_ids);
        // Most tokenizers attach a space to the following word, so the space moves to the continuation.
        let bare = context.trim_end_matches(is_python_space);
        let mut ids = encode(&format!("{context}{continuation}"))?;
        let mut start = if bare.is_empty() { 0 } else { encode(bare)?.len() };
        if bare.is_empty() {
            let Some(end) = tokenizer.eos_token_id() else {
                let message = "a context is empty, and the tokenizer has no end-of-sequence token";
                return Err(Error::of_row(RowErrorKind::Empty, message));
            };
            ids.insert(0, end);
            start = 1;
        }
        // The last token is only a target.
        let max = self.input.max_length.saturating_add(1);
        let truncated = self.cut(ids.len(), max)?;
        let cut = ids.len().saturating_sub(max);
        ids.drain(..cut);
        Ok(EncodedRow { truncated, ..sequence(ids, start.saturating_sub(cut)).into() })
    }

    /// Whether a text of `tokens` tokens is truncated.
    fn cut(&self, tokens: usize, max: usize) -> Result<bool> {
        if tokens > max && !self.truncation {
            let message = format!("text of {tokens} tokens, expected at most {max}");
            return Err(Error::of_row(RowErrorKind::TooLong, message)
                .hint("set `stride` for windows over longer texts, or `truncation: true`"));
        }
        Ok(tokens > max)
    }
}

/// A sequence whose tokens count from `start` on. The first token never counts: nothing precedes it.
fn sequence(ids: Vec<u32>, start: usize) -> Sequence {
    Sequence { start: start.max(1), ..Sequence::new(ids, Vec::new()) }
}

/// Whether Python's `str.rstrip` strips the character.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

fn fields() -> Fields {
    let perplexity = Field::new("perplexity", DataType::Float64, true);
    sequence_fields().iter().cloned().chain([Arc::new(perplexity)]).collect()
}

fn sequence_fields() -> Fields {
    Fields::from(vec![
        Field::new("loglikelihood", DataType::Float64, false),
        Field::new("tokens", DataType::Int32, false),
    ])
}

impl Task for LoglikelihoodTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| match texts {
            [context, continuation] if self.continuation => {
                self.encode_continuation(context, continuation)
            }
            texts => self.encode_text(texts[0]),
        })
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        24
    }

    fn sequence_type(&self) -> DataType {
        DataType::Struct(sequence_fields())
    }

    fn is_row_by_row(&self) -> bool {
        false
    }

    fn finish(&self, _columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let values = results.values.as_struct();
        let sums = values.column(0).as_primitive::<Float64Type>().values();
        let counts = values.column(1).as_primitive::<Int32Type>().values();
        let (mut loglikelihood, mut tokens) = (Vec::new(), Vec::new());
        let mut perplexity = Float64Builder::new();
        for row in results.rows {
            let row = row.clone().unwrap_or(0..0);
            let sum: f64 = sums[row.clone()].iter().sum();
            let count: i32 = counts[row].iter().sum();
            loglikelihood.push(sum);
            tokens.push(count);
            perplexity.append_option((count > 0).then(|| (-sum / f64::from(count)).exp()));
        }
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(loglikelihood)),
            Arc::new(Int32Array::from(tokens)),
            Arc::new(perplexity.finish()),
        ];
        let nulls = results.rows.iter().map(Option::is_some).collect::<NullBuffer>();
        Ok(Arc::new(StructArray::new(fields(), arrays, Some(nulls))))
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let model = self.classifier.load(device)?;
        // Only a causal model defines the likelihood of a text.
        model.model.decoder().map(drop)?;
        Ok(Box::new(LoglikelihoodModel { model }))
    }
}

/// The task with its weights.
struct LoglikelihoodModel {
    model: LoadedClassifier,
}

impl TaskModel for LoglikelihoodModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (mut sums, mut counts) = (vec![0.0; sequences.len()], vec![0; sequences.len()]);
        let counted: Vec<usize> = (0..sequences.len())
            .filter(|&i| sequences[i].input_ids.len() > sequences[i].start)
            .collect();
        if !counted.is_empty() {
            // The logits of a token predict the next one; the last token is only a target.
            let (mut places, mut targets, mut first) = (Vec::new(), Vec::new(), 0);
            let rows = counted.iter().map(|&i| {
                let Sequence { input_ids, start, .. } = sequences[i];
                let read = &input_ids[..input_ids.len() - 1];
                places.extend((start - 1..read.len()).map(|place| (first + place) as u32));
                targets.extend_from_slice(&input_ids[*start..]);
                counts[i] = (input_ids.len() - start) as i32;
                first += read.len();
                (read, &[][..])
            });
            let rows: Vec<(&[u32], &[u32])> = rows.collect();
            let log_probabilities = self.log_probabilities(&rows, places, &targets)?;
            let mut log_probabilities = log_probabilities.into_iter();
            for i in counted {
                sums[i] = log_probabilities.by_ref().take(counts[i] as usize).sum();
            }
        }
        let arrays: Vec<ArrayRef> =
            vec![Arc::new(Float64Array::from(sums)), Arc::new(Int32Array::from(counts))];
        Ok(Arc::new(StructArray::new(sequence_fields(), arrays, None)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}

impl LoglikelihoodModel {
    /// The log-probability of each target, given the logits at the same index.
    fn log_probabilities(
        &self,
        rows: &[(&[u32], &[u32])],
        places: Vec<u32>,
        targets: &[u32],
    ) -> Result<Vec<f64>> {
        let model = &self.model.model;
        let states = || -> candle_core::Result<Tensor> {
            let inputs = model.inputs(rows.iter().copied())?;
            let output = model.backbone().forward(&inputs, &Want::default())?;
            let places = Tensor::new(places, model.device())?;
            output.last_hidden_state.values.index_select(&places, 0)
        };
        let states = states().map_err(forward_failed)?;
        let vocab_size = model.backbone().dimensions().vocab_size;
        Ok(log_probabilities(model.head(), &states, targets, vocab_size, MAX_LOGITS)?)
    }
}
