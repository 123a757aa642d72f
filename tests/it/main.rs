//! All integration tests, in one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::float_cmp,
    reason = "a test that panics has failed, and says why"
)]

mod chat;
mod chunks;
mod cli;
#[cfg(feature = "cluster")]
mod cluster;
mod compact;
mod config;
mod cross_encoder;
#[cfg(feature = "cuda")]
mod cuda;
mod datasets;
mod delta;
mod docs;
mod embedders;
mod engine;
mod examples;
mod feature_extraction;
mod formats;
mod generation;
mod heads;
mod hostile;
mod hub;
mod image_classification;
mod int8;
mod invalid_text;
mod invariance;
mod join;
mod many_units;
mod memory;
mod notify;
mod object_store;
mod parity;
mod pictures;
mod pipelines;
mod prefixes;
mod process;
mod recipes;
mod prometheus;
mod report;
mod reuse;
mod row_errors;
mod schedule;
mod settings;
mod sink;
mod sink_links;
mod sink_types;
mod slt;
mod source;
mod sql;
mod support;
mod t5;
mod tables;
mod task_commands;
mod tasks;
mod terminal;
mod tidy;
mod tokenizers;
mod units;
mod vit;
mod windows;
mod worker;
