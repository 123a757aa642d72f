//! Classifies texts with `TextClassificationPipeline`. `sequence_classification.rs` does the same step by step.
//!
//! ```sh
//! cargo run --release --example text_classification [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! classifier = pipeline("text-classification", "distilbert/distilbert-base-uncased-finetuned-sst-2-english")
//! classifier(texts, top_k=None)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::pipelines::{LabelScore, TextClassificationOptions, TextClassificationPipeline};

/// A tiny, untrained classifier in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/bert-sentiment");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1);
    run(model.as_deref().unwrap_or(MODEL), &["The room was quiet.", "Harbour"]).map(drop)
}

/// All labels of the texts, best first; the tests call this with the repository's model.
pub(crate) fn run(
    name: &str,
    texts: &[&str],
) -> Result<Vec<Vec<LabelScore>>, Box<dyn std::error::Error>> {
    let classifier = TextClassificationPipeline::from_pretrained(name)?;
    let labels = classifier.predict_with(texts, &TextClassificationOptions::default())?;
    for (text, labels) in texts.iter().zip(&labels) {
        let labels = labels.iter().map(|label| format!("{} {:.3}", label.label, label.score));
        println!("{text}: {}", labels.collect::<Vec<_>>().join(", "));
    }
    Ok(labels)
}
