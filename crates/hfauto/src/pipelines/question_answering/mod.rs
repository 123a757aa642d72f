//! `QuestionAnsweringPipeline`: from a question and a context to the span with the answer.
//!
//! Impossible spans have a score of 0. If there are fewer other spans than `top_k`, transformers adds impossible ones
//! in the order of numpy's partition, which depends on the processor. Here they are in token order.
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

/// The default number of tokens per window.
pub const MAX_SEQ_LEN: usize = 384;
/// The default number of tokens that adjacent windows share, at most half a window.
pub const DOC_STRIDE: usize = 128;
/// Logits per token: for the start and the end of the answer.
pub const START_AND_END: usize = 2;
/// The default maximum number of tokens in an answer.
const MAX_ANSWER_LEN: usize = 15;

/// How a question and its context are split into windows.
#[derive(Clone, Copy, Debug)]
pub struct QuestionWindows<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a AutoTokenizer,
    /// The maximum number of tokens per window, including special tokens; `None` for a single window of any length.
    pub max_seq_len: Option<usize>,
    /// The number of tokens that adjacent windows share.
    pub doc_stride: usize,
}

impl QuestionWindows<'_> {
    /// Which text of the pair is the context: the one on the padding side comes last.
    pub fn context(tokenizer: &AutoTokenizer) -> usize {
        usize::from(tokenizer.padding_side() == Side::Right)
    }

    /// The windows over the context, each with the question.
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

/// The answers from a context, best first, given its windows and their logits, [`START_AND_END`] per token.
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

/// A span of a context that answers the question.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AnswerSpan {
    /// The text; empty for no answer.
    pub answer: String,
    /// The answer's probability.
    pub score: f32,
    /// The start in the context.
    ///
    /// # Units
    /// Characters, 0-based.
    pub start: usize,
    /// The end in the context, exclusive, in characters.
    pub end: usize,
}

/// Answers questions with spans of their contexts, as `pipeline("question-answering")` of transformers.
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
    /// The maximum number of answers per question, best first.
    pub top_k: usize,
    /// The maximum number of tokens in an answer.
    pub max_answer_len: usize,
    /// The number of tokens that adjacent windows over a long context share; by default 128, or half a window.
    pub doc_stride: Option<usize>,
    /// Whether "no answer" counts as an answer.
    pub handle_impossible_answer: bool,
}

impl Default for QuestionAnsweringOptions {
    /// One answer of at most 15 tokens.
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
    /// Sets the maximum number of answers per question.
    #[must_use]
    pub fn top_k(mut self, top_k: usize) -> Self {
        self.top_k = top_k;
        self
    }

    /// Sets the maximum number of tokens in an answer.
    #[must_use]
    pub fn max_answer_len(mut self, max_answer_len: usize) -> Self {
        self.max_answer_len = max_answer_len;
        self
    }

    /// Sets the number of tokens that adjacent windows share.
    #[must_use]
    pub fn doc_stride(mut self, doc_stride: usize) -> Self {
        self.doc_stride = Some(doc_stride);
        self
    }

    /// Sets whether "no answer" counts as an answer.
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

    /// The best answer to each question from its context, in input order; `None` if no span answers it. Long contexts
    /// are split into windows.
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
    /// `Config` for a `doc_stride` that leaves windows no room; `Data` for an empty text, a question that leaves no
    /// room for its context, and a token that the model has no embedding for; `Model` when the model computes NaN or
    /// infinity; `Internal` when a tensor operation fails.
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
