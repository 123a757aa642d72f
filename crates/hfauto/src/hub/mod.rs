//! A model's files: where they come from, and the tensors in them.
//!
//! [`Hub::snapshot`] turns a hub id or a directory into a [`Snapshot`]: the files of one commit in one local folder.
//! [`Weights::open`] reads the tensors of its [`Snapshot::weight_files`]. With the feature `hub`, `Dataset` reads and
//! commits files of datasets. Not here: the meaning of the files (`crate::auto`).

mod adapter;
#[cfg(feature = "hub")]
mod api;
mod cache;
#[cfg(feature = "hub")]
mod cache_writes;
mod chosen;
#[cfg(feature = "hub")]
mod commit;
#[cfg(feature = "hub")]
mod dataset;
mod delta;
mod download;
mod files;
mod gguf;
#[cfg(feature = "hub")]
mod http;
mod layout;
#[cfg(feature = "hub")]
mod online;
#[cfg(feature = "hub")]
mod part;
mod pickle;
#[cfg(feature = "hub")]
mod refusal;
mod quantized;
mod repo;
mod settings;
mod shards;
mod snapshot;
mod source;
mod torch;
#[cfg(feature = "hub")]
mod transfer;
mod unpickler;
mod weights;

#[cfg(feature = "hub")]
pub use commit::{Change, Content, Prepared, Pushed};
#[cfg(feature = "hub")]
pub use dataset::{Dataset, DatasetFile, Pieces};
pub use download::{Hub, HubProgress};
pub use files::Need;
pub(crate) use quantized::refuse_quantized;
pub use settings::HubSettings;
pub use snapshot::{Snapshot, is_gguf_file};
pub(crate) use source::read_file;
pub use weights::Weights;
