//! sentence-transformers by its names: [`SentenceTransformer::encode`] makes vectors of texts, and
//! [`CrossEncoder::predict`] makes scores of pairs.
//!
//! Rows are sorted by length and run under a token budget, without padding; results are in the order of the input and do
//! not depend on the other texts. Not here: what a directory says ([`SentenceTransformerConfig`]) and columns of tables.
//!
//! # Source
//! `sentence_transformer/model.py` and `cross_encoder/model.py` of sentence-transformers at v6.2.
//!
//! [`SentenceTransformerConfig`]: crate::auto::SentenceTransformerConfig

mod cross_encoder;
mod embedding;
mod sentence_transformer;

pub use cross_encoder::{CrossEncoder, CrossEncoderBuilder, PairScores, PredictOptions};
pub use embedding::{Embedding, prompt_tokens};
pub use sentence_transformer::{EmbedOptions, SentenceTransformer, SentenceTransformerBuilder};

use candle_core::Device;

/// Batches that run at the same time: on a CPU one for each thread of the current rayon pool, on a card one.
pub(crate) fn workers(device: &Device) -> usize {
    if device.is_cpu() { rayon::current_num_threads() } else { 1 }
}
