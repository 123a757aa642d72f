//! Scores how well texts answer a query, with `CrossEncoder`.
//!
//! ```sh
//! cargo run --release --example cross_encoder [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
//! scores = model.predict([(query, document) for document in documents])
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::sentence_transformers::CrossEncoder;

/// A tiny, untrained model in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/bert-rerank");

const QUERY: &str = "Is the inn quiet?";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pairs =
        [(QUERY, "The little inn by the harbour was quiet."), (QUERY, "The bread was warm.")];
    run(std::env::args().nth(1).as_deref().unwrap_or(MODEL), &pairs).map(drop)
}

/// Scores pairs; the tests call this with the repository's model.
pub(crate) fn run(
    name: &str,
    pairs: &[(&str, &str)],
) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let model = CrossEncoder::from_pretrained(name)?;
    let scores = model.predict(pairs)?;
    for ((query, document), score) in pairs.iter().zip(&scores) {
        println!("{score:.3} {query} {document}");
    }
    Ok(scores)
}
