//! Hugging Face models over tables: text columns of Arrow batches through candle models that an Auto class
//! resolved from the checkpoint's own `config.json`, back as typed Arrow columns.
//!
//! The way of a row:
//!
//! ```text
//! config   the pipeline file, checked                    embed.yaml
//! source   files as record batches                       id, text
//! hub      a model's files                               config.json, tokenizer.json, model.safetensors
//! image    a picture's pixels, resized                   RGB
//! auto     model_type -> architecture, tokenizer         AutoConfig, AutoTokenizer, AutoModel
//! batch    longest first, under a token budget           [[7, 2], [0, 5, 1]]
//! models   one forward pass over ragged rows             last_hidden_state
//! nn       what architectures share                      attention, pooling
//! generation   token by token, where a model writes      greedy, sampled, beams
//! tasks    columns -> tokens, tensors -> column          FixedSizeList<Float32, 384>
//! report   what a run says: JSON, Prometheus, HTML      report.json
//! exec     windows, workers, order                       id, text, embedding
//! sql      calls in SQL, as model steps                  embed(text, 'minilm')
//! job      units, runs, progress                         80 of 80 units
//! sink     files, whole or not at all                    part-00000.parquet, _SUCCESS
//! schedule when a pipeline is due                        0 3 * * *
//! cli      what the user types and sees
//! ```
//!
//! `hub`, `image`, `auto`, `batch`, `models`, `nn`, `generation`, and the calls on plain Rust types
//! (`sentence_transformers`, `pipelines`) are the crate [`hfauto`], which needs no tables; they are re-exported here.
//!
//! The entries: [`job::Job`] runs a pipeline, [`auto::AutoModel`] and [`auto::AutoTokenizer`] are the
//! models by themselves.

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod failpoint;
pub mod error;
mod guard;
mod limits;
mod own_file;

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
