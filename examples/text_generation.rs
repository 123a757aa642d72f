//! Text generation with `AutoModelForCausalLM`: a batch of prompts, greedy.
//!
//! ```sh
//! cargo run --release --example text_generation [MODEL]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::auto::{AutoModelForCausalLM, AutoTokenizer, EncodeOptions};
use hfauto_pipe::generation::{GenerationConfig, generate, model_defaults};

/// A tiny, untrained GPT-2 that lies in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/gpt2");

/// Tokens that are in the caches together.
const MAX_BATCH_TOKENS: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(std::env::args().nth(1).as_deref().unwrap_or(MODEL)).map(drop)
}

/// Continues two prompts; the tests call this with the model of the repository.
pub(crate) fn run(name: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let tokenizer = AutoTokenizer::from_pretrained(name)?;
    let model = AutoModelForCausalLM::builder(name).require_head().load()?;

    let prompts = ["Harbour", "The film is slow"];
    let encodings = tokenizer.encode_batch(&prompts, &EncodeOptions::default())?;
    let rows: Vec<&[u32]> = encodings.iter().map(|encoding| &encoding.input_ids[..]).collect();

    let defaults = model_defaults(None, model.config().json());
    let config = GenerationConfig {
        max_new_tokens: Some(12),
        ..GenerationConfig::new(&defaults, &serde_json::Map::new())?
    };
    let generated = generate(&*model.decoder()?, &rows, &config, MAX_BATCH_TOKENS, None)?;

    let mut texts = Vec::new();
    for (prompt, row) in prompts.iter().zip(&generated) {
        let text = tokenizer.decode(&row.token_ids, true)?;
        println!("{prompt}|{text} ({})", row.finish_reason.name());
        texts.push(text);
    }
    Ok(texts)
}
