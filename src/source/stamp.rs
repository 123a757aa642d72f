//! Detects that a file has changed.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The size and modification time of a file, or the entity tag of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, String)", into = "(u64, String)")]
pub struct FileStamp {
    bytes: u64,
    mark: Mark,
}

/// What else distinguishes two files of one size. There may be very many: a time is stored as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    Modified(DateTime<Utc>),
    Tag(Arc<str>),
}

/// What an entity tag begins with in texts.
const TAG: &str = "etag ";

impl FileStamp {
    pub(super) fn of_file(metadata: &Metadata) -> io::Result<Self> {
        let mark = Mark::Modified(metadata.modified()?.into());
        Ok(Self { bytes: metadata.len(), mark })
    }

    pub(super) fn of_object(meta: &ObjectMeta) -> Self {
        let tag = meta.e_tag.as_deref().map(|tag| Mark::Tag(tag.into()));
        Self { bytes: meta.size, mark: tag.unwrap_or(Mark::Modified(meta.last_modified)) }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Modified(at) => f.write_str(&at.to_rfc3339_opts(SecondsFormat::Nanos, true)),
            Self::Tag(tag) => write!(f, "{TAG}{tag}"),
        }
    }
}

impl fmt::Display for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.bytes, self.mark)
    }
}

impl From<FileStamp> for (u64, String) {
    fn from(stamp: FileStamp) -> Self {
        (stamp.bytes, stamp.mark.to_string())
    }
}

impl From<(u64, String)> for FileStamp {
    fn from((bytes, text): (u64, String)) -> Self {
        let time = || DateTime::parse_from_rfc3339(&text).ok();
        let mark = match text.strip_prefix(TAG) {
            Some(tag) => Mark::Tag(tag.into()),
            // Any other text comes from nobody, and equals no file's.
            None => {
                time().map_or_else(|| Mark::Tag((*text).into()), |at| Mark::Modified(at.into()))
            }
        };
        Self { bytes, mark }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive_their_texts() {
        for text in
            ["2026-12-01T03:55:35.123456789Z", "2026-12-01T03:55:35.000000000Z", "etag \"a b\""]
        {
            let stamp = FileStamp::from((7, text.to_owned()));
            assert_eq!(stamp.to_string(), format!("7 bytes, {text}"));
            assert_eq!(<(u64, String)>::from(stamp.clone()), (7, text.to_owned()));
            assert_eq!(matches!(stamp.mark, Mark::Tag(_)), text.starts_with(TAG));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = FileStamp::of_file(&file.as_file().metadata().unwrap()).unwrap();
        assert_eq!(FileStamp::from(<(u64, String)>::from(stamp.clone())), stamp);
    }
}
