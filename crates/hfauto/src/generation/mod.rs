//! From logits to text: which token comes next, when a row ends, which row takes its place.
//!
//! Knows token ids, not texts: prompts come tokenised, and stop strings ask for the text of a token. Not
//! here: architectures (`crate::models`), columns (`crate::tasks`). The entry is [`generate`]: rows under a
//! token budget, where a finished one leaves at once and a waiting one takes its place. What a row becomes
//! depends on neither its neighbours nor their order.
//!
//! # Source
//! `src/transformers/generation` at v4.57: the names, the defaults, the order of the processors, beam
//! search.

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
