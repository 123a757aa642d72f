//! All integration tests, in one binary.

mod cli;
mod config;
mod hub;
mod invariance;
mod parity;
mod sink;
mod source;
mod tidy;
mod tokenizers;
