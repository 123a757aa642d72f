//! Rows that failed and were left out, as Parquet files: the row as it was, and its error.
//!
//! ```text
//! out/_errors/.pending/reviews-00007-9f8e7d6c-words.parquet   before the unit 9f8e7d6c is committed
//! out/_errors/reviews-00007-9f8e7d6c-words.parquet            once the output is published
//! ```
//!
//! Names begin with that of the pipeline: several may share a folder. A second attempt at a unit writes its file again. Not here: which rows fail (`crate::engine`).

use std::collections::BTreeSet;
use std::path::Path;

use arrow::array::RecordBatch;

use super::storage::{Storage, storage_of};
use super::{Sink, SinkOptions};
use crate::config::pipeline::{FileFormat, SinkSpec};
use crate::error::Result;

/// Files of units whose output is not published yet; readers pass over hidden folders.
const PENDING: &str = ".pending";

/// Writes the rows that left a step of the unit of `pipeline` whose files are called `stem`.
///
/// # Errors
/// `Sink` when the folder cannot be written.
pub(crate) fn write_letters(
    folder: &Path,
    pipeline: &str,
    stem: &str,
    step: &str,
    batches: &[RecordBatch],
) -> Result<()> {
    let Some(first) = batches.first() else { return Ok(()) };
    let name = format!("{}-{stem}-{}.parquet", plain(pipeline), plain(step));
    let path = folder.join(PENDING).join(name);
    let spec = SinkSpec {
        location: path.display().to_string(),
        path,
        format: FileFormat::Parquet,
        compression: None,
        partition_by: Vec::new(),
        target_file_size_bytes: u64::MAX,
    };
    let options = SinkOptions { overwrite: true, ..SinkOptions::default() };
    let mut sink = Sink::create_held(&spec, first.schema(), options)?;
    for batch in batches {
        sink.write(batch)?;
    }
    sink.finish().map(drop)
}

/// Makes the letters of `pipeline` those of the published output: the pending ones of `units` (the beginnings of their ids)
/// appear, those of other units go. May be repeated.
///
/// # Errors
/// `Sink` when the folder cannot be written.
pub(crate) fn publish_letters(
    folder: &Path,
    pipeline: &str,
    units: &BTreeSet<String>,
) -> Result<()> {
    let storage = storage_of(folder)?;
    if !storage.exists()? {
        return Ok(());
    }
    let letters = |folder: &str| letters(storage.as_ref(), folder, pipeline);
    let (_, gone) = split(letters("")?, units);
    storage.remove_all(&gone)?;
    let (kept, gone) = split(letters(PENDING)?, units);
    storage.publish(PENDING, &kept)?;
    let gone: Vec<String> = gone.iter().map(|name| format!("{PENDING}/{name}")).collect();
    storage.remove_all(&gone)?;
    for folder in [PENDING, ""] {
        storage.remove_if_empty(folder);
    }
    Ok(())
}

/// The files of a pipeline's letters in a folder that need not be there.
fn letters(storage: &dyn Storage, folder: &str, pipeline: &str) -> Result<Vec<String>> {
    // What `plain` gives has no dash: the name of no other pipeline begins like this.
    let begin = format!("{}-", plain(pipeline));
    let is_letter = |name: &String| name.starts_with(&begin) && name.ends_with(".parquet");
    Ok(storage.files(folder)?.into_keys().filter(is_letter).collect())
}

/// Files of the units, and others: their place among the units may have changed since.
fn split(names: Vec<String>, units: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    names
        .into_iter()
        .partition(|name| name.split('-').nth(2).is_some_and(|unit| units.contains(unit)))
}

/// The name of a column or a pipeline as a part of a file's.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}
