//! Embeds texts with `SentenceTransformer` and compares them.
//!
//! ```sh
//! cargo run --release --example sentence_embeddings [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
//! embeddings = model.encode(texts)
//! model.encode(texts, prompt_name="query", normalize_embeddings=True, truncate_dim=128)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::sentence_transformers::{EmbedOptions, SentenceTransformer};

/// A small embedding model in this repository, so that the example runs offline. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/mini-embedder");

const TEXTS: [&str; 3] =
    ["The room was quiet.", "A film that is too long by an hour.", "A quiet room."];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1);
    run(model.as_deref().unwrap_or(MODEL), &TEXTS, &EmbedOptions::default()).map(drop)
}

/// Embeds texts; the tests call this with the repository's models.
pub(crate) fn run(
    name: &str,
    texts: &[&str],
    options: &EmbedOptions,
) -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error>> {
    let model = SentenceTransformer::from_pretrained(name)?;
    let embeddings = model.encode_with(texts, options)?;
    for (text, embedding) in texts.iter().zip(&embeddings) {
        println!("{:.3} {text}", cosine(&embeddings[0], embedding));
    }
    Ok(embeddings)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
