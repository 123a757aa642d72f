//! The most likely tokens for the mask in a text, with `FillMaskPipeline`.
//!
//! ```sh
//! cargo run --release --example fill_mask [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! unmasker = pipeline("fill-mask", "google-bert/bert-base-uncased")
//! unmasker(texts, top_k=2)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::pipelines::{FillMaskOptions, FillMaskPipeline, MaskFill};

/// A tiny, untrained model in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/bert-mlm");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1);
    let options = FillMaskOptions::default();
    run(model.as_deref().unwrap_or(MODEL), &["The film is [MASK]."], &options).map(drop)
}

/// Tokens for each mask of each text; the tests call this with the repository's model.
pub(crate) fn run(
    name: &str,
    texts: &[&str],
    options: &FillMaskOptions,
) -> Result<Vec<Vec<Vec<MaskFill>>>, Box<dyn std::error::Error>> {
    let unmasker = FillMaskPipeline::from_pretrained(name)?;
    let filled = unmasker.predict_with(texts, options)?;
    for fill in filled.iter().flatten().flatten() {
        println!("{:.3} {}", fill.score, fill.sequence);
    }
    Ok(filled)
}
