//! AutoConfig, AutoTokenizer, AutoModel: one table from model_type to architecture.

mod tokenizer;

pub use tokenizer::{AutoTokenizer, EncodeOptions, Encoding};
