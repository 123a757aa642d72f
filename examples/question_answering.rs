//! The span that answers a question, with `AutoModelForQuestionAnswering`.
//!
//! ```sh
//! cargo run --release --example question_answering [MODEL]
//! ```
//!
//! The `question-answering` step does more: windows over long contexts, null answers, several answers.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::auto::{AutoModelForQuestionAnswering, AutoTokenizer, EncodeOptions};
use hfauto_pipe::models::Want;

/// A tiny, untrained model that lies in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/bert-qa");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(std::env::args().nth(1).as_deref().unwrap_or(MODEL)).map(drop)
}

/// Answers one question; the tests call this with the model of the repository.
pub(crate) fn run(name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let tokenizer = AutoTokenizer::from_pretrained(name)?;
    let model = AutoModelForQuestionAnswering::builder(name).require_head().load()?;

    let (question, context) = ("Where?", "By the harbour.");
    let options = EncodeOptions { return_offsets_mapping: true, ..EncodeOptions::default() };
    let encoding = tokenizer.encode_pair(question, context, &options)?;
    let inputs = model.inputs([(&encoding.input_ids[..], &encoding.token_type_ids[..])])?;
    let logits = model.forward(&inputs, &Want::default())?.logits; // (tokens, 2)
    let (start, end) = (logits.narrow(1, 0, 1)?, logits.narrow(1, 1, 1)?);
    let (start, end): (Vec<f32>, Vec<f32>) =
        (start.flatten_all()?.to_vec1()?, end.flatten_all()?.to_vec1()?);

    // The best span of tokens of the context, which has segment 1; the last token is a special one.
    let last = encoding.input_ids.len() - 1;
    let context_tokens: Vec<usize> =
        (0..last).filter(|&token| encoding.token_type_ids[token] == 1).collect();
    let mut best = (f32::NEG_INFINITY, 0, 0);
    for &from in &context_tokens {
        for &to in context_tokens.iter().filter(|&&to| to >= from) {
            if start[from] + end[to] > best.0 {
                best = (start[from] + end[to], from, to);
            }
        }
    }
    // Offsets count characters.
    let offsets = encoding.offset_mapping.unwrap_or_default();
    let (from, to) = (offsets[best.1].0, offsets[best.2].1);
    let answer: String = context.chars().skip(from).take(to - from).collect();
    println!("{question} {answer}");
    Ok(answer)
}
