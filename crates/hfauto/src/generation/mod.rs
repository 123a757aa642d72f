//! Generation: chooses each next token, ends rows, and admits waiting rows.
//!
//! Works on token ids: prompts are tokenized, and stop strings request the text of a token. Not here: architectures
//! (`crate::models`), and columns (the tasks of hfauto-pipe).
//!
//! The entry is [`generate`], which decodes rows under a token budget (continuous batching). A finished row leaves at
//! once, and waiting rows are prefilled into the freed budget. Each row has its own KV cache (`crate::nn::KvCache`),
//! end, and random numbers (from `seed` and the prompt), so its text depends neither on other rows nor on their order.
//! Prompts that begin with the same tokens share the computation of these ([`PrefixCache`]).
//!
//! # Source
//! `src/transformers/generation` at v4.57: the names, the defaults, the order of the processors, beam search.

mod config;
mod logits;
mod sampling;
mod beams;
mod stop;
mod prefixes;
mod generate;
mod loglikelihood;

pub use config::{EarlyStopping, GenerationConfig, model_defaults, pipeline_defaults};
pub use generate::{FinishReason, Generated, generate, generate_with_prefixes};
pub use loglikelihood::log_probabilities;
pub use prefixes::PrefixCache;
pub use stop::StopStrings;
