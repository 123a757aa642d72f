//! How many bytes the texts of a file's columns have. Not here: counting them (`inspect`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The size in bytes of the texts of some columns of a file. There may be very many files: it takes no more memory than
/// it needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(String, u64)>", into = "Vec<(String, u64)>")]
pub(super) struct TextBytes {
    /// The columns, in ascending order, for all files with the same ones.
    columns: Arc<[Box<str>]>,
    bytes: Box<[u64]>,
}

impl TextBytes {
    /// The size of a column's texts, if it is known.
    pub(super) fn of(&self, column: &str) -> Option<u64> {
        let found = self.columns.binary_search_by(|name| (**name).cmp(column));
        self.bytes.get(found.ok()?).copied()
    }

    /// Uses the names of another file if they are equal.
    pub(super) fn share(&mut self, other: &Self) {
        if self.columns == other.columns {
            self.columns = Arc::clone(&other.columns);
        }
    }
}

impl FromIterator<(String, u64)> for TextBytes {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(columns: I) -> Self {
        let columns: BTreeMap<String, u64> = columns.into_iter().collect();
        let bytes = columns.values().copied().collect();
        Self { columns: columns.into_keys().map(String::into_boxed_str).collect(), bytes }
    }
}

impl From<Vec<(String, u64)>> for TextBytes {
    fn from(columns: Vec<(String, u64)>) -> Self {
        columns.into_iter().collect()
    }
}

impl From<TextBytes> for Vec<(String, u64)> {
    fn from(sizes: TextBytes) -> Self {
        let names = sizes.columns.iter().map(|name| String::from(&**name));
        names.zip(sizes.bytes).collect()
    }
}
