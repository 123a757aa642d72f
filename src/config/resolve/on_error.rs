//! Resolves `on_error`, the policy for rows that fail. Keys without effect under the chosen policy are allowed: changing
//! the policy is then a change of one word.

use std::path::PathBuf;

use super::{Cursor, Resolver};
use crate::config::pipeline::{OnErrorRows, OnErrorSpec, SinkSpec};
use crate::config::raw::{RawOnError, RawRows};

/// The default column of errors.
const COLUMN: &str = "_error";

impl Resolver<'_> {
    pub(super) fn on_error(
        &mut self,
        raw: Option<&RawOnError>,
        at: Cursor<'_>,
        sink: &SinkSpec,
    ) -> OnErrorSpec {
        let rows = match raw.map(|raw| raw.rows) {
            None | Some(RawRows::Fail) => OnErrorRows::Fail,
            Some(RawRows::Null) => OnErrorRows::Null,
            Some(RawRows::Skip) => OnErrorRows::Skip,
        };
        let dead_letter = raw.and_then(|raw| raw.dead_letter.as_deref());
        let dead_letter = dead_letter
            .and_then(|path| self.path(path, at.key("dead_letter"), "dead_letter"))
            .unwrap_or_else(|| beside(sink));
        OnErrorSpec {
            rows,
            column: raw.and_then(|raw| raw.column.clone()).unwrap_or_else(|| COLUMN.to_owned()),
            dead_letter,
            max_fraction: raw.and_then(|raw| raw.max_fraction).unwrap_or(1.0),
            location: self.report.location(at.key),
        }
    }
}

/// The default dead letters: `_errors` in the output folder, which readers skip; beside an output of a single file.
fn beside(sink: &SinkSpec) -> PathBuf {
    if !sink.is_single_file() {
        return sink.shown().join("_errors");
    }
    let name = sink.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    sink.path.with_file_name(format!("{stem}_errors"))
}
