//! Answers questions with spans of their contexts, with `QuestionAnsweringPipeline`.
//!
//! ```sh
//! cargo run --release --example question_answering [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! answerer = pipeline("question-answering", "distilbert/distilbert-base-cased-distilled-squad")
//! answerer(question=question, context=context)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::pipelines::{AnswerSpan, QuestionAnsweringOptions, QuestionAnsweringPipeline};

/// A tiny, untrained model in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/bert-qa");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let questions = [("Where?", "By the harbour.")];
    let options = QuestionAnsweringOptions::default();
    let model = std::env::args().nth(1);
    run(model.as_deref().unwrap_or(MODEL), &questions, &options).map(drop)
}

/// Answers questions from their contexts; the tests call this with the repository's model.
pub(crate) fn run(
    name: &str,
    questions: &[(&str, &str)],
    options: &QuestionAnsweringOptions,
) -> Result<Vec<Vec<AnswerSpan>>, Box<dyn std::error::Error>> {
    let answerer = QuestionAnsweringPipeline::from_pretrained(name)?;
    let answers = answerer.predict_with(questions, options)?;
    for ((question, _), answers) in questions.iter().zip(&answers) {
        println!("{question}");
        for answer in answers {
            println!("  {:.3} {}..{} {}", answer.score, answer.start, answer.end, answer.answer);
        }
    }
    Ok(answers)
}
