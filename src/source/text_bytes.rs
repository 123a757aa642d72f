//! How many bytes the texts of a file's columns have. Not here: counting them (`inspect`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The size in bytes of the texts of some columns of a file. There may be very many files: it takes no more memory than
/// it needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TextBytes(Box<[(Box<str>, u64)]>);

impl TextBytes {
    /// The size of a column's texts, if it is known.
    pub(super) fn of(&self, column: &str) -> Option<u64> {
        let found = self.0.binary_search_by(|(name, _)| (**name).cmp(column));
        found.ok().map(|index| self.0[index].1)
    }
}

impl FromIterator<(String, u64)> for TextBytes {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(columns: I) -> Self {
        let columns: BTreeMap<String, u64> = columns.into_iter().collect();
        Self(columns.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect())
    }
}
