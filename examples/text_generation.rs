//! Text generation with `AutoModelForCausalLM`: a batch of prompts, greedy.
//!
//! ```sh
//! cargo run --release --example text_generation [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! inputs = tokenizer(prompts, return_tensors="pt", padding=True)
//! generated = model.generate(**inputs, max_new_tokens=12)
//! tokenizer.batch_decode(generated, skip_special_tokens=True)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::auto::AutoModelForCausalLM;
use hfauto_pipe::generation::GenerationConfig;

/// A tiny, untrained GPT-2 in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/gpt2");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1);
    run(model.as_deref().unwrap_or(MODEL), &["Harbour", "The film is slow"]).map(drop)
}

/// Continues prompts; the tests call this with the repository's model.
pub(crate) fn run(name: &str, prompts: &[&str]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let model = AutoModelForCausalLM::builder(name).require_head().load()?;
    // The checkpoint's own generation_config.json, with one change.
    let config = GenerationConfig { max_new_tokens: Some(12), ..model.generation_config()? };
    let generated = model.generate(prompts, &config)?;
    for (prompt, row) in prompts.iter().zip(&generated) {
        println!("{prompt}|{} ({})", row.text, row.finish_reason.name());
    }
    Ok(generated.into_iter().map(|row| row.text).collect())
}
