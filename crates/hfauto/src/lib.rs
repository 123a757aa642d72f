//! Hugging Face's Auto classes in Rust. A checkpoint's own `config.json` selects the architecture, and results equal
//! those of transformers and sentence-transformers.
//!
//! ```text
//! hub          a model's files                             config.json, tokenizer.json, model.safetensors
//! auto         model_type -> architecture, tokenizer       AutoConfig, AutoTokenizer, AutoModel
//! models       one forward pass over ragged rows           last_hidden_state
//! nn           layers that architectures share              attention, pooling
//! generation   decoding, token by token                    greedy, sampled, beams
//! image        decoded and resized images                  RGB
//! batch        longest first, under a token budget         [[7, 2], [0, 5, 1]]
//! sentence_transformers   texts to vectors, pairs to scores   SentenceTransformer, CrossEncoder
//! pipelines    texts to labels, spans, answers, texts      TokenClassificationPipeline, generate
//! ```
//!
//! The entries: [`auto::AutoModel`], [`auto::AutoTokenizer`], one class per head, and the functions from texts to plain
//! Rust types in [`sentence_transformers`] and [`pipelines`]. Functions block, and may be called inside and outside of
//! a tokio runtime. Loaded models and tokenizers can be shared between threads. Not here: tables; the crate
//! `hfauto-pipe` runs models over them.
//!
//! Features: `hub` (on by default) downloads from the Hugging Face hub, `image` (on by default) decodes images, `cuda`
//! computes on NVIDIA GPUs. Without `hub`, no network library is compiled, and models come from directories or the
//! cache.

mod auto_class;
pub mod blocks;
pub mod error;
pub mod guard;
#[cfg_attr(
    not(all(feature = "hub", feature = "image")),
    allow(dead_code, reason = "some limits belong to an optional feature")
)]
mod limits;
pub mod memory;
pub mod secret;

pub mod hub;
#[cfg(feature = "image")]
pub mod image;
pub mod auto;
pub mod models;
pub mod nn;
pub mod generation;
pub mod batch;
pub mod sentence_transformers;
pub mod pipelines;

pub use auto_class::AutoClass;
pub use error::{Error, ErrorKind, Result, RowErrorKind};
