//! A conversation with `AutoModelForCausalLM`, rendered by the tokenizer's chat template.
//!
//! ```sh
//! cargo run --release --example chat [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
//! generated = model.generate(inputs, max_new_tokens=12)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::auto::AutoModelForCausalLM;
use hfauto_pipe::generation::GenerationConfig;
use hfauto_pipe::pipelines::GenerateChatOptions;
use serde_json::{Value, json};

/// A tiny, untrained GPT-2 in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/gpt2");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let conversation = vec![json!({"role": "user", "content": "The film is slow"})];
    run(std::env::args().nth(1).as_deref().unwrap_or(MODEL), &[conversation]).map(drop)
}

/// Continues conversations; the tests call this with the repository's model.
pub(crate) fn run(
    name: &str,
    conversations: &[Vec<Value>],
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let model = AutoModelForCausalLM::builder(name).require_head().load()?;
    let config = GenerationConfig { max_new_tokens: Some(12), ..model.generation_config()? };
    let answers = model.generate_chat(conversations, &GenerateChatOptions::default(), &config)?;
    for answer in &answers {
        println!("{}", answer.text);
    }
    Ok(answers.into_iter().map(|answer| answer.text).collect())
}
