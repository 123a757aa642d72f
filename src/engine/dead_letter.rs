//! Rows that failed and were left out, as Parquet files: the row as it was, and its error. A file a unit and
//! step, written before the unit is committed, under a name that a later attempt writes again. Not here: which
//! rows fail (`row_errors`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::row_errors::Letters;
use crate::config::pipeline::{FileFormat, SinkSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Sink, SinkOptions};

/// Writes the rows that left the unit `stem`.
///
/// # Errors
/// `Sink` when the folder cannot be written.
pub(super) fn write(folder: &Path, stem: &str, letters: Vec<Letters>) -> Result<()> {
    for Letters { step, batches } in letters {
        let Some(first) = batches.first() else { continue };
        let path = folder.join(format!("part-{stem}-{}.parquet", plain(&step)));
        let spec = SinkSpec {
            location: path.display().to_string(),
            path,
            format: FileFormat::Parquet,
            compression: None,
            partition_by: Vec::new(),
            target_file_size_bytes: u64::MAX,
        };
        let options = SinkOptions { overwrite: true, ..SinkOptions::default() };
        let mut sink = Sink::create(&spec, first.schema(), options)?;
        for batch in &batches {
            sink.write(batch)?;
        }
        sink.finish()?;
    }
    Ok(())
}

/// Removes the files of units that are not among `stems`: of inputs that have changed, of earlier runs.
///
/// # Errors
/// `Sink` when a file cannot be removed.
pub(super) fn sweep(folder: &Path, stems: &BTreeSet<String>) -> Result<()> {
    let failed = |error: io::Error| {
        let message = format!("cannot clean the dead letters in `{}`", folder.display());
        Error::new(ErrorKind::Sink, message).source(error)
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("part-").filter(|_| name.ends_with(".parquet")) else {
            continue;
        };
        if !stems.iter().any(|stem| rest.strip_prefix(stem).is_some_and(|r| r.starts_with('-'))) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    // Fails, rightly, while something is inside.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// A column's name as a part of a file's.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}
