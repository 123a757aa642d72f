//! AutoConfig, AutoTokenizer, AutoModel: what a checkpoint is, from its `config.json`, through one
//! table of `model_type` × Auto class. Not here: the architectures themselves (`crate::models`), where
//! files come from (`crate::hub`).
//!
//! The entries are [`AutoConfig`], [`AutoModel`] and, for directories of sentence-transformers,
//! [`SentenceTransformer`]. All of them read a [`Snapshot`](crate::hub::Snapshot).
//!
//! # Example
//! ```
//! use hfauto_pipe::auto::AutoModel;
//! use hfauto_pipe::models::Want;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = AutoModel::from_pretrained("tests/golden/bert")?;
//! let input_ids = [2, 282, 116, 154, 280, 3];
//! let inputs = model.inputs([(&input_ids[..], &[0; 6][..])])?;
//! let output = model.forward(&inputs, &Want::default())?;
//! let last_hidden_state = output.last_hidden_state.to_padded()?;
//! assert_eq!(last_hidden_state.dims(), [1, 6, model.hidden_size()]);
//! # Ok(())
//! # }
//! ```

mod config;
mod families;
mod loader;
mod model;
mod sentence_transformers;
mod tokenizer;

pub use config::{AutoConfig, AutoConfigBuilder};
pub use families::{FAMILIES, Family};
pub use loader::LoadReport;
pub use model::{AutoModel, AutoModelBuilder};
pub use sentence_transformers::{Dense, Head, Module, SentenceTransformer};
pub use tokenizer::{AutoTokenizer, EncodeOptions, Encoding};

use crate::error::Result;
use crate::hub::{Hub, Need, Snapshot};

/// The files of `id`, a local directory or a model of the hub at `revision`: the one place where a
/// `from_pretrained` meets the hub.
fn snapshot(id: &str, revision: Option<&str>, need: Need) -> Result<Snapshot> {
    Hub::from_env().snapshot(id, revision, need, &|_| ())
}

/// The candidate that is nearest to `name`, if one is near enough to be a slip.
fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
