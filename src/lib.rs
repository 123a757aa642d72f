//! Hugging Face models over tables. Models read columns of Arrow batches and return typed Arrow columns; an Auto class
//! resolves the architecture from the checkpoint's `config.json`.
//!
//! The modules on the way of a row:
//!
//! ```text
//! config   the pipeline file, checked                    embed.yaml
//! source   files as record batches                       id, text
//! hub      a model's files                               config.json, tokenizer.json, model.safetensors
//! image    an image's pixels, resized                    RGB
//! auto     model_type -> architecture, tokenizer         AutoConfig, AutoTokenizer, AutoModel
//! batch    longest first, under a token budget           [[7, 2], [0, 5, 1]]
//! models   one forward pass over ragged rows             last_hidden_state
//! nn       what architectures share                      attention, pooling
//! generation   text, token by token                      greedy, sampled, beams
//! tasks    columns -> tokens, tensors -> column          FixedSizeList<Float32, 384>
//! report   the report of a run: JSON, Prometheus, HTML   report.json
//! exec     windows, workers, order                       id, text, embedding
//! sql      calls in SQL, as model steps                  embed(text, 'minilm')
//! job      units, runs, progress                         80 of 80 units
//! sink     files, published all or none                  part-00000.parquet, _SUCCESS
//! schedule when a pipeline is due                        0 3 * * *
//! cluster  units on other machines                    df://host:50050
//! notify   events and webhooks of a run                START, COMPLETE, on_failure
//! cli      what the user types and sees
//! ```
//!
//! The crate [`hfauto`], which works without tables, has `hub`, `image`, `auto`, `batch`, `models`, `nn`, `generation`,
//! and the calls on plain Rust types (`sentence_transformers`, `pipelines`). This crate re-exports them.
//!
//! Entries: [`job::Job`] runs a pipeline; [`auto::AutoModel`] and [`auto::AutoTokenizer`] load a model without one.

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod failpoint;
pub mod error;
mod guard;
mod hub_store;
mod limits;
mod own_file;
pub mod runtime;

mod document;
pub mod tasks;
pub mod config;
mod store;
pub mod source;
pub mod report;
pub mod exec;
pub mod sql;
pub mod job;
pub mod sink;
pub mod schedule;
#[cfg(feature = "cluster")]
mod cluster;
mod notify;
pub mod cli;

pub use error::{Error, ErrorKind, Result, RowErrorKind};
use hfauto::secret;
#[doc(inline)]
pub use hfauto::{
    auto, batch, generation, hub, image, models, nn, pipelines, sentence_transformers,
};

/// The README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
