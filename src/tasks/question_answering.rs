//! `question-answering`: a question and a context to the span that answers, as transformers' pipeline
//! gives it. The windows of a long context are sequences of their own.
//!
//! Spans that cannot answer have a score of 0. Where fewer others are there than `top_k`, transformers
//! fills the list with such spans as numpy's partition leaves them, which depends on the processor; here
//! they come in the order of their tokens.
//!
//! # Source
//! `src/transformers/pipelines/question_answering.py` at v4.57.

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

use super::classifier::Classifier;
use super::models::Models;
use super::text_input::TextInput;
use super::token_logits::{TokenLogits, TokenLogitsModel, token_logits_type};
use super::{EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, text_column};
use crate::auto::AutoClass;
use crate::config::pipeline::{QuestionAnswering, TaskStep};
use crate::error::{Error, ErrorKind, Result};

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub struct QuestionAnsweringTask {
    classifier: Classifier,
    /// The columns, and the tokens of a window.
    input: TextInput,
    doc_stride: usize,
    /// Whether a context of several windows is one; else it is an error.
    windows: bool,
    limits: Limits,
    /// Whether the column holds lists.
    list: bool,
    handle_impossible_answer: bool,
    base: TaskBase,
}

/// What is kept of the windows of a row.
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
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head; `Config` for windows that
    /// the model cannot take, or that do not get anywhere.
    pub fn resolve(step: &TaskStep, options: &QuestionAnswering, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::QuestionAnswering, models)?;
        let model = Arc::clone(&classifier.model);
        let tokenizer = classifier.model.tokenizer();
        let stated = tokenizer.model_max_length().unwrap_or(usize::MAX).min(MAX_SEQ_LEN);
        let input = TextInput::with_stated(
            model,
            [options.question.as_str(), options.context.as_str()],
            options.max_seq_len.or(step.max_length),
            Some(stated),
            true,
        )?;
        let max_seq_len = input.max_length;
        let doc_stride = options.doc_stride.unwrap_or((max_seq_len / 2).min(DOC_STRIDE));
        input.check_stride("doc_stride", doc_stride)?;
        let list = options.top_k.list();
        let summary = classifier.summary(
            "question-answering",
            step,
            serde_json::json!({
                "max_seq_len": max_seq_len,
                "doc_stride": doc_stride,
                "max_answer_len": options.max_answer_len,
                "handle_impossible_answer": options.handle_impossible_answer,
                "top_k": options.top_k.shown(),
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
            limits: Limits { top_k: list.unwrap_or(1), max_answer_len: options.max_answer_len },
            list: list.is_some(),
            handle_impossible_answer: options.handle_impossible_answer,
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
    /// Answers of each row.
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

    /// Adds a null row: no list, or a struct of which nothing is read.
    fn push_null(&mut self, list: bool) {
        let nothing = Answer { answer: "", score: 0.0, start: 0, end: 0 };
        self.push(if list { &[] } else { std::slice::from_ref(&nothing) });
        if let Some(valid) = self.valid.last_mut() {
            *valid = false;
        }
    }

    /// One list, or one struct, a row.
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
