//! `QuestionAnsweringPipeline`: a question and a context to the span that answers.
//!
//! Spans that cannot answer have a score of 0. Where fewer others exist than `top_k`, transformers fills the list with
//! spans in the order that numpy's partition leaves them in, which depends on the processor; here they come in the order
//! of their tokens.
//!
//! # Source
//! `src/transformers/pipelines/question_answering.py` at v4.57.

mod spans;
mod tokens;

pub use spans::{Answer, Answers, Limits, Span, WindowSpans, best_spans};
pub use tokens::WindowTokens;

use super::characters::Characters;
use super::loaded::{PipelineBuilder, TextModel, TextPipeline, text_pipeline};
use crate::auto::{
    AutoClass, AutoTokenizer, Encoding, Side, TruncationStrategy, Window, WindowOptions,
};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};

/// Tokens of a window, where the model does not say less.
pub const MAX_SEQ_LEN: usize = 384;
/// Tokens that windows share, where that is not more than half of them.
pub const DOC_STRIDE: usize = 128;
/// Logits of a token: to be the start, and the end.
pub const START_AND_END: usize = 2;
/// Tokens of an answer, unless a call says otherwise.
const MAX_ANSWER_LEN: usize = 15;

/// How a question and its context are laid out in windows.
#[derive(Clone, Copy, Debug)]
pub struct QuestionWindows<'a> {
    /// The tokenizer of the model.
    pub tokenizer: &'a AutoTokenizer,
    /// Tokens of a window, special tokens included; `None` for one window of any length.
    pub max_seq_len: Option<usize>,
    /// Tokens that windows share.
    pub doc_stride: usize,
}

impl QuestionWindows<'_> {
    /// Which text of a pair the context is: the one that is filled up at its end comes last.
    pub fn context(tokenizer: &AutoTokenizer) -> usize {
        usize::from(tokenizer.padding_side() == Side::Right)
    }

    /// The windows over the context, with the question in each of them.
    ///
    /// # Errors
    /// `Data` for an empty text, and for a question that leaves no room for the context.
    pub fn encode(&self, question: &str, context: &str) -> Result<Vec<(Window, WindowTokens)>> {
        for (name, text) in [("question", question), ("context", context)] {
            if text.is_empty() {
                return Err(Error::of_row(RowErrorKind::Empty, format!("the {name} is empty")));
            }
        }
        let tokenizer = self.tokenizer;
        let place = Self::context(tokenizer);
        let (first, second, truncation) = match place {
            0 => (context, question, TruncationStrategy::OnlyFirst),
            _ => (question, context, TruncationStrategy::OnlySecond),
        };
        let options = WindowOptions {
            max_length: self.max_seq_len,
            stride: self.doc_stride,
            truncation,
            ..WindowOptions::default()
        };
        let windows = tokenizer.encode_windows(first, Some(second), &options).map_err(|e| {
            let hint = "shorten the question, raise `max_seq_len` or lower `doc_stride`";
            if e.kind() == ErrorKind::Data { e.hint(hint) } else { e }
        })?;
        let cls_token_id = tokenizer.cls_token_id();
        let windows = windows.into_iter().map(|window| {
            let tokens = WindowTokens::new(&window, place, cls_token_id);
            (window, tokens)
        });
        Ok(windows.collect())
    }
}

/// The answers of a context, best first, from its windows and the logits of their tokens, [`START_AND_END`] each.
pub fn answers<'c, 'w>(
    context: &'c str,
    windows: impl IntoIterator<Item = (&'w WindowTokens, &'w [f32])>,
    limits: Limits,
    handle_impossible_answer: bool,
) -> Vec<Answer<'c>> {
    let characters = Characters::new(context);
    let mut answers = Answers::default();
    let mut null_score = f64::INFINITY;
    for (window, logits) in windows {
        let logits = logits.chunks_exact(START_AND_END);
        let (start, end): (Vec<f32>, Vec<f32>) = logits.map(|token| (token[0], token[1])).unzip();
        let best = best_spans(&start, &end, &window.allowed(), limits);
        null_score = null_score.min(best.null_score);
        for span in best.spans {
            let at = window.characters(span.start, span.end);
            answers.push(characters.slice(at.clone()), at, span.score);
        }
    }
    answers.best(limits.top_k, handle_impossible_answer.then_some(null_score))
}

/// A part of a context that answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AnswerSpan {
    /// The text; empty where there is no answer.
    pub answer: String,
    /// Its probability.
    pub score: f32,
    /// Where it starts in the context.
    ///
    /// # Units
    /// Characters, 0-based.
    pub start: usize,
    /// Where it ends, exclusive, in characters.
    pub end: usize,
}

/// Spans of contexts that answer questions, as `pipeline("question-answering")` of transformers.
///
/// # Example
/// ```
/// use hfauto::pipelines::QuestionAnsweringPipeline;
///
/// # fn main() -> hfauto::Result<()> {
/// // Or a hub id, as "distilbert/distilbert-base-cased-distilled-squad".
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/bert-qa");
/// let model = QuestionAnsweringPipeline::from_pretrained(id)?;
/// let context = "By the harbour.";
/// let answers = model.predict(&[("Where?", context)])?;
/// let best = answers[0].as_ref().map(|answer| answer.answer.as_str()).unwrap_or_default();
/// assert!(context.contains(best));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct QuestionAnsweringPipeline {
    model: TextModel,
}

/// Options of [`QuestionAnsweringPipeline::predict_with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuestionAnsweringOptions {
    /// How many answers a question gets at most, best first.
    pub top_k: usize,
    /// Tokens of an answer.
    pub max_answer_len: usize,
    /// Tokens that the windows over a long context share; without it, 128, or half a window.
    pub doc_stride: Option<usize>,
    /// Whether no answer is an answer too.
    pub handle_impossible_answer: bool,
}

impl Default for QuestionAnsweringOptions {
    /// One answer of 15 tokens at most.
    fn default() -> Self {
        Self {
            top_k: 1,
            max_answer_len: MAX_ANSWER_LEN,
            doc_stride: None,
            handle_impossible_answer: false,
        }
    }
}

impl QuestionAnsweringOptions {
    /// Keeps so many answers a question.
    #[must_use]
    pub fn top_k(mut self, top_k: usize) -> Self {
        self.top_k = top_k;
        self
    }

    /// Limits the tokens of an answer.
    #[must_use]
    pub fn max_answer_len(mut self, max_answer_len: usize) -> Self {
        self.max_answer_len = max_answer_len;
        self
    }

    /// Lets windows share so many tokens.
    #[must_use]
    pub fn doc_stride(mut self, doc_stride: usize) -> Self {
        self.doc_stride = Some(doc_stride);
        self
    }

    /// Takes no answer for an answer too.
    #[must_use]
    pub fn handle_impossible_answer(mut self, handle_impossible_answer: bool) -> Self {
        self.handle_impossible_answer = handle_impossible_answer;
        self
    }
}

impl TextPipeline for QuestionAnsweringPipeline {
    const CLASS: AutoClass = AutoClass::QuestionAnswering;
    const PAIRS: bool = true;
    const MAX_LENGTH: Option<usize> = Some(MAX_SEQ_LEN);

    fn of(model: TextModel) -> Result<Self> {
        Ok(Self { model })
    }
}

impl QuestionAnsweringPipeline {
    text_pipeline!();

    /// The best answer to each question from its context, in their order; `None` where no span answers. Long contexts
    /// are read in windows.
    ///
    /// # Errors
    /// As [`predict_with`](Self::predict_with).
    pub fn predict<Q, C>(&self, questions: &[(Q, C)]) -> Result<Vec<Option<AnswerSpan>>>
    where
        Q: AsRef<str> + Sync,
        C: AsRef<str> + Sync,
    {
        let answers = self.predict_with(questions, &QuestionAnsweringOptions::default())?;
        Ok(answers.into_iter().map(|answers| answers.into_iter().next()).collect())
    }

    /// The answers to each question from its context, best first.
    ///
    /// # Errors
    /// `Config` for a `doc_stride` that leaves windows no room; `Data` for an empty text, a question that leaves no room
    /// for its context, and a token that the model has no embedding for; `Model` when the model computes what is not a
    /// number; `Internal` when a tensor operation fails.
    pub fn predict_with<Q, C>(
        &self,
        questions: &[(Q, C)],
        options: &QuestionAnsweringOptions,
    ) -> Result<Vec<Vec<AnswerSpan>>>
    where
        Q: AsRef<str> + Sync,
        C: AsRef<str> + Sync,
    {
        let input = self.model.input();
        let max_seq_len = self.model.max_length;
        let doc_stride = options.doc_stride.unwrap_or((max_seq_len / 2).min(DOC_STRIDE));
        input.check_stride("doc_stride", doc_stride)?;
        let layout = QuestionWindows {
            tokenizer: input.tokenizer,
            max_seq_len: Some(max_seq_len),
            doc_stride,
        };
        let encoded = TextModel::encode(questions, "question", |(question, context)| {
            let windows = layout.encode(question.as_ref(), context.as_ref())?;
            for (window, _) in &windows {
                input.check_tokens(&window.input_ids, &window.token_type_ids)?;
            }
            Ok(windows)
        })?;
        let windows: Vec<usize> = encoded.iter().map(Vec::len).collect();
        let rows = encoded.into_iter().flatten().map(|(window, tokens)| {
            let (input_ids, token_type_ids) = (window.input_ids, window.token_type_ids);
            (Encoding { input_ids, token_type_ids, ..Encoding::default() }, tokens)
        });
        let (rows, tokens): (Vec<Encoding>, Vec<WindowTokens>) = rows.unzip();
        let logits = self.model.token_logits(&rows, START_AND_END)?;

        let limits = Limits { top_k: options.top_k, max_answer_len: options.max_answer_len };
        let mut rows = tokens.iter().zip(logits.iter().map(Vec::as_slice));
        let found = questions.iter().zip(windows).map(|((_, context), windows)| {
            let windows = rows.by_ref().take(windows);
            let impossible = options.handle_impossible_answer;
            let answers = answers(context.as_ref(), windows, limits, impossible).into_iter();
            let spans = answers.map(|answer| AnswerSpan {
                answer: answer.answer.to_owned(),
                score: answer.score as f32,
                start: answer.start,
                end: answer.end,
            });
            spans.collect()
        });
        Ok(found.collect())
    }
}
