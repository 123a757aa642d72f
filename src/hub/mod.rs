//! A model's files: local directories, the Hugging Face cache, downloads, weights. Not here: what the
//! files mean (`crate::auto`).

mod snapshot;
mod weights;

pub use snapshot::Snapshot;
pub use weights::Weights;
