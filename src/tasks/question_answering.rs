//! `question-answering`: extracts the answer to a question from a context, as transformers' pipeline
//! does. The windows of a long context are separate sequences.
//!
//! Spans that cannot be answers have a score of 0. If fewer than `top_k` spans remain, transformers
//! fills the list with invalid spans. Their order there depends on the processor (numpy's partition);
//! here they come in token order.
//!
//! # Source
//! `src/transformers/pipelines/question_answering.py` at v4.57.

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Builder, Int32Builder, ListArray, StringBuilder, StringViewArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use candle_core::Device;
use hfauto::pipelines::{
    Answer, DOC_STRIDE, Limits, MAX_SEQ_LEN, QuestionWindows, START_AND_END, WindowTokens, answers,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::Classifier;
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
    count,
};
use super::models::Models;
use super::text_input::TextInput;
use super::token_logits::{TokenLogits, TokenLogitsModel, token_logits_type};
use super::{EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, text_column};
use crate::auto::AutoClass;
use crate::document::{Cursor, Diagnostic, Diagnostics, TopK};
use crate::error::{Error, ErrorKind, Result};

/// The options of `question-answering`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct QuestionAnswering {
    /// `{question, context}`.
    pub input: QuestionContext,
    /// The number of answers, highest score first. Default: 1.
    pub top_k: Option<NonZeroU64>,
    /// The overlap of the windows of a long context, in tokens. Default: 128.
    pub doc_stride: Option<u64>,
    /// The maximum length of a window in tokens. Default: 384.
    pub max_seq_len: Option<NonZeroU64>,
    /// The maximum length of the question in tokens. Has no effect, as in transformers with fast
    /// tokenizers.
    pub max_question_len: Option<NonZeroU64>,
    /// The maximum length of an answer in tokens. Default: 15.
    pub max_answer_len: Option<NonZeroU64>,
    /// Whether an empty answer is allowed. Default: false.
    pub handle_impossible_answer: Option<bool>,
}

/// A question and a context.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuestionContext {
    /// The column of the question.
    pub question: String,
    /// The column of the context.
    pub context: String,
}

pub(super) static QUESTION_ANSWERING: TaskDefinition = TaskDefinition {
    id: "question-answering",
    aliases: &[],
    summary: "Extracts the answer to a question from a context.",
    auto_class: AutoClass::QuestionAnswering,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<QuestionAnswering>(),
    function: SqlFunction {
        name: "answer",
        parameters: &["question", "context"],
        parts: &[],
        description: "The span of the context that answers the question: Struct<answer, score, start, end>.",
        example: "SELECT answer('Who wrote it?', text, 'qa')['answer'] FROM pages",
    },
    usual_type: || DataType::Struct(fields()),
    template: include_str!("../../pipelines/question-answering.yaml"),
};

impl TaskOptions for QuestionAnswering {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        let QuestionContext { question, context } = &self.input;
        vec![InputColumn::part("question", question), InputColumn::part("context", context)]
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        if let (Some(stride), Some(window)) = (self.doc_stride, self.max_seq_len)
            && stride >= window.get()
        {
            let message = format!("`doc_stride: {stride}` is not less than the window length");
            report.push(
                Diagnostic::new(at.key("doc_stride").value, message)
                    .related(at.key("max_seq_len").value, "the window length"),
            );
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(QuestionAnsweringTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct QuestionAnsweringTask {
    classifier: Classifier,
    /// The columns and the window length.
    input: TextInput,
    doc_stride: usize,
    /// Whether a long context is split into windows; otherwise it is an error.
    windows: bool,
    limits: Limits,
    /// Whether the column holds lists of answers.
    list: bool,
    handle_impossible_answer: bool,
    base: TaskBase,
}

/// The tokens of a row's windows.
struct RowTokens(Vec<WindowTokens>);

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("answer", DataType::Utf8, false),
        Field::new("score", DataType::Float32, false),
        Field::new("start", DataType::Int32, false),
        Field::new("end", DataType::Int32, false),
    ])
}

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields()), false))
}

impl QuestionAnsweringTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no question answering head; `Config` if
    /// the windows exceed the model's maximum or do not advance.
    fn resolve(step: &TaskStep, options: &QuestionAnswering, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::QuestionAnswering, models)?;
        let model = Arc::clone(&classifier.model);
        let tokenizer = classifier.model.tokenizer();
        let stated = tokenizer.model_max_length().unwrap_or(usize::MAX).min(MAX_SEQ_LEN);
        let input = TextInput::with_stated(
            model,
            [options.input.question.as_str(), options.input.context.as_str()],
            options.max_seq_len.map(count).or(step.max_length),
            Some(stated),
            true,
        )?;
        let max_seq_len = input.max_length;
        let doc_stride = options.doc_stride.map_or((max_seq_len / 2).min(DOC_STRIDE), count);
        input.check_stride("doc_stride", doc_stride)?;
        let top_k = options.top_k.map_or(TopK::ONE, TopK::Number);
        let list = top_k.list();
        let max_answer_len = options.max_answer_len.map_or(15, count);
        let handle_impossible_answer = options.handle_impossible_answer.unwrap_or(false);
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_seq_len": max_seq_len,
                "doc_stride": doc_stride,
                "max_answer_len": max_answer_len,
                "handle_impossible_answer": handle_impossible_answer,
                "top_k": top_k.shown(),
            }),
        );
        let data_type =
            if list.is_some() { DataType::List(item()) } else { DataType::Struct(fields()) };
        let base = TaskBase {
            columns: input.columns.clone(),
            field: Arc::new(Field::new(&step.output, data_type, true)),
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self {
            doc_stride,
            windows: step.truncation.unwrap_or(true),
            limits: Limits { top_k: list.unwrap_or(1), max_answer_len },
            list: list.is_some(),
            handle_impossible_answer,
            base,
            classifier,
            input,
        })
    }

    fn encode_row(&self, question: &str, context: &str) -> Result<EncodedRow> {
        let layout = QuestionWindows {
            tokenizer: self.classifier.model.tokenizer(),
            max_seq_len: self.windows.then_some(self.input.max_length),
            doc_stride: self.doc_stride,
        };
        let mut row = EncodedRow::default();
        let mut tokens = Vec::new();
        for (window, window_tokens) in layout.encode(question, context)? {
            self.input.fits(window.len())?;
            row.sequences.push(Sequence::new(window.input_ids, window.token_type_ids));
            tokens.push(window_tokens);
        }
        row.note = Some(Box::new(RowTokens(tokens)));
        Ok(row)
    }
}

impl Task for QuestionAnsweringTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| self.encode_row(texts[0], texts[1]))
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        tokens * (START_AND_END * size_of::<f32>() + WindowTokens::TOKEN_BYTES) + 64
    }

    fn sequence_type(&self) -> DataType {
        token_logits_type()
    }

    fn is_row_by_row(&self) -> bool {
        false
    }

    fn finish(&self, columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let lost = || Error::new(ErrorKind::Internal, "a row came back without its tokens");
        let contexts: StringViewArray = text_column(columns.get(1).ok_or_else(lost)?)?;
        let logits = TokenLogits::new(&results.values);
        let mut builder = AnswersBuilder::default();
        for (row, (range, note)) in results.rows.iter().zip(results.notes).enumerate() {
            let Some(range) = range else {
                builder.push_null(self.list);
                continue;
            };
            let note = note.as_ref().and_then(|note| note.downcast_ref::<RowTokens>());
            let RowTokens(windows) = note.ok_or_else(lost)?;
            let sequences = range.clone().map(|sequence| logits.sequence(sequence));
            let windows = windows.iter().zip(sequences);
            let impossible = self.handle_impossible_answer;
            let answers = answers(contexts.value(row), windows, self.limits, impossible);
            if answers.is_empty() && !self.list {
                builder.push_null(false);
            } else {
                builder.push(&answers);
            }
        }
        Ok(builder.finish(self.list))
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(TokenLogitsModel::load(&self.classifier, device, START_AND_END)?))
    }
}

/// Builds the column of answers.
#[derive(Default)]
struct AnswersBuilder {
    answers: StringBuilder,
    scores: Float32Builder,
    starts: Int32Builder,
    ends: Int32Builder,
    /// The number of answers of each row.
    lengths: Vec<usize>,
    valid: Vec<bool>,
}

impl AnswersBuilder {
    /// Adds a row's answers.
    fn push(&mut self, answers: &[Answer<'_>]) {
        for Answer { answer, score, start, end } in answers {
            self.answers.append_value(answer);
            self.scores.append_value(*score as f32);
            self.starts.append_value(*start as i32);
            self.ends.append_value(*end as i32);
        }
        self.lengths.push(answers.len());
        self.valid.push(true);
    }

    /// Adds a null row: a null list, or a null struct whose fields nobody reads.
    fn push_null(&mut self, list: bool) {
        let nothing = Answer { answer: "", score: 0.0, start: 0, end: 0 };
        self.push(if list { &[] } else { std::slice::from_ref(&nothing) });
        if let Some(valid) = self.valid.last_mut() {
            *valid = false;
        }
    }

    /// One list per row, or one struct per row.
    fn finish(mut self, list: bool) -> ArrayRef {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.answers.finish()),
            Arc::new(self.scores.finish()),
            Arc::new(self.starts.finish()),
            Arc::new(self.ends.finish()),
        ];
        let nulls = NullBuffer::from(self.valid);
        if !list {
            return Arc::new(StructArray::new(fields(), arrays, Some(nulls)));
        }
        let answers = Arc::new(StructArray::new(fields(), arrays, None));
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        Arc::new(ListArray::new(item(), offsets, answers, Some(nulls)))
    }
}
