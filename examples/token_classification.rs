//! Labels spans of texts with `TokenClassificationPipeline`.
//!
//! ```sh
//! cargo run --release --example token_classification [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! tagger = pipeline("token-classification", "dslim/bert-base-NER", aggregation_strategy="simple")
//! tagger(texts)
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::pipelines::{
    AggregationStrategy, EntitySpan, TokenClassificationOptions, TokenClassificationPipeline,
};

/// A tiny, untrained model in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tasks/bert-ner");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options =
        TokenClassificationOptions::default().aggregation_strategy(AggregationStrategy::Simple);
    let model = std::env::args().nth(1);
    run(model.as_deref().unwrap_or(MODEL), &["Anna lives in Kraków."], &options).map(drop)
}

/// The entities of the texts; the tests call this with the repository's model.
pub(crate) fn run(
    name: &str,
    texts: &[&str],
    options: &TokenClassificationOptions,
) -> Result<Vec<Vec<EntitySpan>>, Box<dyn std::error::Error>> {
    let tagger = TokenClassificationPipeline::from_pretrained(name)?;
    let entities = tagger.predict_with(texts, options)?;
    for (text, entities) in texts.iter().zip(&entities) {
        println!("{text}");
        for EntitySpan { label, score, start, end, .. } in entities {
            // Offsets count characters.
            let part: String = text.chars().skip(*start).take(end - start).collect();
            println!("  {label} {score:.3} {start}..{end} {part}");
        }
    }
    Ok(entities)
}
