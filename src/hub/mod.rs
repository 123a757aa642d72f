//! A model's files: where they come from and what tensors are in them.
//!
//! [`Hub::snapshot`] turns a hub id or a directory into a [`Snapshot`], the files of one commit in one
//! local folder; [`Weights::open`] reads the tensors of its [`Snapshot::weight_files`]. Not here: what
//! the files mean (`crate::auto`).

mod api;
mod cache;
mod download;
mod files;
mod layout;
mod part;
mod pickle;
mod refusal;
mod settings;
mod shards;
mod snapshot;
mod source;
mod torch;
mod transfer;
mod unpickler;
mod weights;

pub use download::{Hub, HubProgress};
pub use files::Need;
pub use settings::HubSettings;
pub use snapshot::Snapshot;
pub(crate) use source::read_file;
pub use weights::Weights;
