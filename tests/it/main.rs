//! All integration tests, in one binary.

mod cli;
mod config;
mod engine;
mod examples;
mod feature_extraction;
mod hub;
mod invariance;
mod parity;
mod sink;
mod source;
mod support;
mod tidy;
mod tokenizers;
