//! Detects that a file has changed.

use std::fmt;
use std::fs::Metadata;
use std::io;

use chrono::{DateTime, SecondsFormat, Utc};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The size and modification time of a file, or the entity tag of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    bytes: u64,
    mark: String,
}

impl FileStamp {
    pub(super) fn of_file(metadata: &Metadata) -> io::Result<Self> {
        let modified = DateTime::<Utc>::from(metadata.modified()?);
        let mark = modified.to_rfc3339_opts(SecondsFormat::Nanos, true);
        Ok(Self { bytes: metadata.len(), mark })
    }

    pub(super) fn of_object(meta: &ObjectMeta) -> Self {
        let mark = meta.e_tag.as_ref().map_or_else(
            || meta.last_modified.to_rfc3339_opts(SecondsFormat::Nanos, true),
            |etag| format!("etag {etag}"),
        );
        Self { bytes: meta.size, mark }
    }
}

impl fmt::Display for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.bytes, self.mark)
    }
}
