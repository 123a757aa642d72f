//! From logits to text: which token comes next, when a row ends, which row takes its place.
//!
//! Works on token ids, not on text: prompts come tokenised, and stop strings ask for the text of a token. Not here:
//! architectures (`crate::models`), columns (the tasks of hfauto-pipe). The entry is [`generate`]: rows under a token
//! budget. Rows are prefilled as room in the caches becomes free; a finished row leaves at once and a waiting one
//! takes its place. Each row has its own keys and values (`crate::nn::KvCache`), random numbers (from `seed` and the
//! prompt) and end, so that its text depends neither on its neighbours nor on their order.
//!
//! # Source
//! `src/transformers/generation` at v4.57: the names, the defaults, the order of the processors, beam search.

mod config;
mod logits;
mod sampling;
mod beams;
mod stop;
mod generate;
mod loglikelihood;

pub use config::{EarlyStopping, GenerationConfig, model_defaults, pipeline_defaults};
pub use generate::{FinishReason, Generated, generate};
pub use loglikelihood::log_probabilities;
pub use stop::StopStrings;
