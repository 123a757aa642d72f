//! Text-to-text generation with `AutoModelForSeq2SeqLM`, greedy.
//!
//! ```sh
//! cargo run --release --example text2text_generation [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! inputs = tokenizer(texts, return_tensors="pt", padding=True)
//! generated = model.generate(**inputs, max_new_tokens=16)
//! tokenizer.batch_decode(generated, skip_special_tokens=True)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::auto::AutoModelForSeq2SeqLM;
use hfauto_pipe::generation::GenerationConfig;

/// A tiny, untrained T5 in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/t5");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1);
    run(model.as_deref().unwrap_or(MODEL), &["Harbour", "The film is slow"]).map(drop)
}

/// Generates a text for each of `texts`; the tests call this with the repository's model.
pub(crate) fn run(name: &str, texts: &[&str]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let model = AutoModelForSeq2SeqLM::builder(name).require_head().load()?;
    let config = GenerationConfig { max_new_tokens: Some(16), ..model.generation_config()? };
    let generated = model.generate(texts, &config)?;
    for (text, row) in texts.iter().zip(&generated) {
        println!("{text}: {} ({})", row.text, row.finish_reason.name());
    }
    Ok(generated.into_iter().map(|row| row.text).collect())
}
