//! `question-answering`: a question and a context to the span that answers, as transformers' pipeline
//! gives it. The windows of a long context are sequences of their own.
//!
//! Spans that cannot answer have a score of 0. Where fewer others are there than `top_k`, transformers
//! fills the list with such spans as numpy's partition leaves them, which depends on the processor; here
//! they come in the order of their tokens.
//!
//! # Source
//! `src/transformers/pipelines/question_answering.py` at v4.57.

mod spans;
mod tokens;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Builder, Int32Builder, ListArray, StringBuilder, StringViewArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use candle_core::Device;

use super::characters::Characters;
use super::classifier::Classifier;
use super::models::Models;
use super::text_input::TextInput;
use super::token_logits::{TokenLogits, TokenLogitsModel, token_logits_type};
use super::{EncodedRow, Note, Results, Sequence, Task, TaskBase, TaskModel, text_column};
use crate::auto::{AutoClass, Side, TruncationStrategy, WindowOptions};
use crate::config::pipeline::{QuestionAnswering, TaskStep};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use spans::{Answer, Answers, Limits, best_spans};
use tokens::WindowTokens;

/// Tokens of a window, where the model does not say less.
const MAX_SEQ_LEN: usize = 384;
/// Tokens that windows share, where that is not more than half of them.
const DOC_STRIDE: usize = 128;
/// Logits of a token: to be the start, and the end.
const START_AND_END: usize = 2;

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub struct QuestionAnsweringTask {
    classifier: Classifier,
    /// The columns, and the tokens of a window.
    input: TextInput,
    doc_stride: usize,
    /// Whether a context of several windows is one; else it is an error.
    windows: bool,
    /// Which text of a pair the context is.
    context: usize,
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
            // The text that is filled up at its end comes last.
            context: usize::from(tokenizer.padding_side() == Side::Right),
            limits: Limits { top_k: list.unwrap_or(1), max_answer_len: options.max_answer_len },
            list: list.is_some(),
            handle_impossible_answer: options.handle_impossible_answer,
            base,
            classifier,
            input,
        })
    }

    fn encode_row(&self, question: &str, context: &str) -> Result<EncodedRow> {
        for (name, text) in [("question", question), ("context", context)] {
            if text.is_empty() {
                return Err(Error::of_row(RowErrorKind::Empty, format!("the {name} is empty")));
            }
        }
        let tokenizer = self.classifier.model.tokenizer();
        let (first, second, truncation) = match self.context {
            0 => (context, question, TruncationStrategy::OnlyFirst),
            _ => (question, context, TruncationStrategy::OnlySecond),
        };
        let options = WindowOptions {
            max_length: self.windows.then_some(self.input.max_length),
            stride: self.doc_stride,
            truncation,
            ..WindowOptions::default()
        };
        let windows = tokenizer.encode_windows(first, Some(second), &options).map_err(|e| {
            let hint = "shorten the question, raise `max_seq_len` or lower `doc_stride`";
            if e.kind() == ErrorKind::Data { e.hint(hint) } else { e }
        })?;
        let cls_token_id = tokenizer.cls_token_id();
        let tokens = windows.iter();
        let tokens = tokens.map(|window| WindowTokens::new(window, self.context, cls_token_id));
        let note: Note = Box::new(RowTokens(tokens.collect()));
        let mut row = EncodedRow { note: Some(note), ..EncodedRow::default() };
        for window in windows {
            self.input.fits(window.len())?;
            row.sequences.push(Sequence::new(window.input_ids, window.token_type_ids));
        }
        Ok(row)
    }

    /// The answers of a row, best first, from the logits of its windows.
    fn answers<'a>(
        &self,
        context: &'a str,
        windows: &[WindowTokens],
        sequences: Range<usize>,
        logits: &TokenLogits<'_>,
    ) -> Vec<Answer<'a>> {
        let characters = Characters::new(context);
        let mut answers = Answers::default();
        let mut null_score = f64::INFINITY;
        for (window, sequence) in windows.iter().zip(sequences) {
            let logits = logits.sequence(sequence).chunks_exact(START_AND_END);
            let (start, end): (Vec<f32>, Vec<f32>) =
                logits.map(|token| (token[0], token[1])).unzip();
            let best = best_spans(&start, &end, &window.allowed(), self.limits);
            null_score = null_score.min(best.null_score);
            for span in best.spans {
                let at = window.characters(span.start, span.end);
                answers.push(characters.slice(at.clone()), at, span.score);
            }
        }
        answers.best(self.limits.top_k, self.handle_impossible_answer.then_some(null_score))
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
            let answers = self.answers(contexts.value(row), windows, range.clone(), &logits);
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
