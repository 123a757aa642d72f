//! AutoConfig, AutoTokenizer, AutoModel: what a checkpoint is, from its `config.json`, through one
//! table of `model_type` × Auto class. Not here: the architectures themselves (`crate::models`), where
//! files come from (`crate::hub`).
//!
//! The entries are [`AutoConfig`], [`AutoModel`] and, for directories of sentence-transformers,
//! [`SentenceTransformerConfig`]. All of them read a [`Snapshot`](crate::hub::Snapshot).
//!
//! # Example
//! The AutoModel tutorial of transformers: tokenise, run, look at the row of `[CLS]`.
//! ```
//! use hfauto::auto::{AutoModel, AutoTokenizer, EncodeOptions};
//! use hfauto::models::Want;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Or a hub id, as "google-bert/bert-base-uncased".
//! let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/bert");
//! let tokenizer = AutoTokenizer::from_pretrained(id)?;
//! let model = AutoModel::from_pretrained(id)?;
//!
//! let text = "Hello, world! This is a test for BERT.";
//! let options = EncodeOptions { max_length: Some(32), ..EncodeOptions::default() };
//! let encoding = tokenizer.encode(text, &options)?;
//! let inputs = model.inputs([(&encoding.input_ids[..], &encoding.token_type_ids[..])])?;
//! let output = model.forward(&inputs, &Want::default())?;
//!
//! let last_hidden_state = output.last_hidden_state.to_padded()?;
//! let seq_len = encoding.input_ids.len();
//! assert_eq!(last_hidden_state.dims(), [1, seq_len, model.hidden_size()]);
//! let cls = last_hidden_state.get(0)?.get(0)?;
//! assert_eq!(cls.dims(), [model.hidden_size()]);
//! # Ok(())
//! # }
//! ```

mod base_families;
mod config;
mod described;
mod device;
mod dtype;
mod families;
mod family;
mod heads;
mod image_families;
#[cfg(feature = "image")]
mod image_processor;
mod labels;
mod load_options;
mod loader;
mod model;
mod model_for;
mod sentence_transformers;
mod text_input;
mod tokenizer;

pub use crate::auto_class::AutoClass;
pub use config::{AutoConfig, AutoConfigBuilder};
pub use device::{auto_devices, auto_dtype, cuda_device};
pub use dtype::ModelDtype;
pub use families::FAMILIES;
pub use family::{Family, RemoteConfig};
pub use heads::{FamilyHead, LoadBackbone};
#[cfg(feature = "image")]
pub use image_processor::{AutoImageProcessor, AutoImageProcessorBuilder};
pub(crate) use load_options::{LoadOptions, load_options};
pub use loader::{LoadReport, NewHead};
pub use model::{AutoModel, AutoModelBuilder};
pub use model_for::{
    AutoModelFor, AutoModelForBuilder, AutoModelForCausalLM, AutoModelForImageClassification,
    AutoModelForMaskedLM, AutoModelForMultipleChoice, AutoModelForNextSentencePrediction,
    AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification,
    AutoModelForT5, AutoModelForTokenClassification, AutoModelForZeroShotImageClassification,
    AutoModelWithLMHead, HeadClass, HeadRequest, LogitsOutput, ModelWithHead, logit_rows,
};
pub use sentence_transformers::{
    Dense, Encoder, Head, LogitScore, MessageFormat, Module, MultiVector, Norm, PairMessages,
    PairScore, QueryExpansion, SentenceTransformerConfig, SparseStatic, SpladeActivation,
    SpladePooling, SpladeStrategy, StaticEmbedding, StaticTokens, TextRole,
};
pub use text_input::TextInput;
pub use tokenizer::{
    AutoTokenizer, AutoTokenizerBuilder, ChatOptions, ChatTemplate, DecodeOptions, EncodeOptions,
    Encoding, RowTemplate, Side, TranslationTokens, TruncationStrategy, Window, WindowOptions,
};

use crate::error::{Result, nearest};
use crate::hub::{Hub, Need, Snapshot};

/// The files of `id`, a local directory or a model of the hub at `revision`: the one place where a
/// `from_pretrained` meets the hub.
fn snapshot(id: &str, revision: Option<&str>, need: Need) -> Result<Snapshot> {
    Hub::from_env().snapshot(id, revision, need, &|_| ())
}
