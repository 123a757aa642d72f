//! Classifies texts with `AutoModelForSequenceClassification`.
//!
//! ```sh
//! cargo run --release --example sequence_classification [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! model = AutoModelForSequenceClassification.from_pretrained("distilbert/distilbert-base-uncased-finetuned-sst-2-english")
//! logits = model(**tokenizer(text, return_tensors="pt")).logits
//! model.config.id2label[logits.argmax().item()]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::auto::{AutoModelForSequenceClassification, AutoTokenizer, EncodeOptions};
use hfauto_pipe::models::Want;

/// A tiny, untrained classifier in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/bert-sentiment");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(std::env::args().nth(1).as_deref().unwrap_or(MODEL)).map(drop)
}

/// Classifies two texts; the tests call this with the repository's model.
pub(crate) fn run(name: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let tokenizer = AutoTokenizer::from_pretrained(name)?;
    let model = AutoModelForSequenceClassification::builder(name).require_head().load()?;

    let texts = ["Anna Kowalska met José in Kraków, near the harbour of Porto-Novo.", "Harbour"];
    // Longer texts are truncated to the model's maximum.
    let options =
        EncodeOptions { max_length: tokenizer.model_max_length(), ..EncodeOptions::default() };
    let encodings = tokenizer.encode_batch(&texts, &options)?;
    // Both texts in one pass: rows of different lengths are concatenated without padding.
    let rows = encodings.iter().map(|e| (&e.input_ids[..], &e.token_type_ids[..]));
    let logits = model.forward(&model.inputs(rows)?, &Want::default())?.logits; // (texts, labels)

    let mut chosen = Vec::new();
    for (row, text) in texts.iter().enumerate() {
        let logits: Vec<f32> = logits.get(row)?.to_vec1()?;
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        let label = model.config().label(best.unwrap_or_default())?.to_owned();
        println!("{text}: {label} {logits:?}");
        chosen.push(label);
    }
    Ok(chosen)
}
