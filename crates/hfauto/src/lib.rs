//! Hugging Face's Auto classes in Rust: a checkpoint's own `config.json` decides the architecture, and results are those
//! of transformers and sentence-transformers.
//!
//! ```text
//! hub          a model's files                             config.json, tokenizer.json, model.safetensors
//! auto         model_type -> architecture, tokenizer       AutoConfig, AutoTokenizer, AutoModel
//! models       one forward pass over ragged rows           last_hidden_state
//! nn           what architectures share                    attention, pooling
//! generation   token by token, where a model writes        greedy, sampled, beams
//! image        a picture's pixels, resized                 RGB
//! ```
//!
//! The entries: [`auto::AutoModel`], [`auto::AutoTokenizer`], and a class for each head. Functions block, and may be
//! called inside and outside of a tokio runtime. Not here: tables, which the crate `hfauto-pipe` runs models over.
//!
//! Features: `hub` (on by default) downloads from the Hugging Face hub, `image` (on by default) reads pictures, `cuda`
//! computes on NVIDIA GPUs. Without `hub` no network library is compiled, and models are directories or in the cache.

mod auto_class;
pub mod error;
pub mod guard;
#[cfg_attr(
    not(all(feature = "hub", feature = "image")),
    allow(dead_code, reason = "some limits are those of a feature")
)]
mod limits;
pub mod secret;

pub mod hub;
#[cfg(feature = "image")]
pub mod image;
pub mod auto;
pub mod models;
pub mod nn;
pub mod generation;

pub use auto_class::AutoClass;
pub use error::{Error, ErrorKind, Result, RowErrorKind};
