//! Hugging Face models over tables.

pub mod error;

pub mod config;
pub mod source;
pub mod hub;
pub mod auto;
pub mod batch;
pub mod models;
pub mod nn;
pub mod tasks;
pub mod engine;
pub mod sink;
pub mod cli;

pub use error::{Error, ErrorKind, Result};
