//! sentence-transformers under its own names: [`SentenceTransformer::encode`] embeds texts, [`StaticModel::encode`] does
//! so without a transformer, [`MultiVectorEncoder`] computes a vector per token, and [`CrossEncoder::predict`] scores pairs.
//!
//! Rows are sorted by length and run under a token budget, without padding. Results are in input order and do not
//! depend on the other texts. Not here: the directory's configuration ([`SentenceTransformerConfig`]), and columns of
//! tables.
//!
//! # Source
//! `sentence_transformer/model.py` and `cross_encoder/model.py` of sentence-transformers at v6.2.
//!
//! [`SentenceTransformerConfig`]: crate::auto::SentenceTransformerConfig

mod cross_encoder;
mod embedding;
mod multi_vector;
mod pair_scorer;
mod sentence_transformer;
mod similarity;
mod static_model;
#[cfg(test)]
mod tests;

pub use cross_encoder::{CrossEncoder, CrossEncoderBuilder, PredictOptions};
pub use embedding::{Embedding, prompt_tokens};
pub use multi_vector::{
    MultiVectorEncoder, RoleEncoder, RoleRow, RowOfRole, TokenVectors, token_vectors,
};
pub use pair_scorer::{PairOptions, PairScorer};
pub use sentence_transformer::{EmbedOptions, SentenceTransformer, SentenceTransformerBuilder};
pub use similarity::{cos_sim, dot_score, max_sim};
pub use static_model::{StaticEncoder, StaticModel, StaticOptions, StaticRow};

use candle_core::Device;

/// The number of concurrent batches: one per thread of the current rayon pool on a CPU, one on a GPU.
pub(crate) fn workers(device: &Device) -> usize {
    if device.is_cpu() { rayon::current_num_threads() } else { 1 }
}
