//! Failed rows that were left out, as Parquet files: the row as it was, and its error.
//!
//! ```text
//! out/_errors/.pending/reviews-00007-9f8e7d6c-words.parquet   before the unit 9f8e7d6c is committed
//! out/_errors/reviews-00007-9f8e7d6c-words.parquet            once the output is published
//! ```
//!
//! Names begin with that of the pipeline: several may share a folder. A second attempt at a unit replaces its file.
//! Not here: which rows fail (`crate::job`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::storage::storage_of;
use super::{Sink, SinkOptions};
use crate::config::pipeline::{FileFormat, SinkSpec};
use crate::error::{Error, Result};

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
    let spec = spec(folder.join(PENDING).join(name));
    let options = SinkOptions { overwrite: true, ..SinkOptions::default() };
    let mut sink = Sink::create_held(&spec, first.schema(), options)?;
    for batch in batches {
        sink.write(batch)?;
    }
    sink.finish().map(drop)
}

/// Fails if failed rows of a step could not be written. Inspects types only.
///
/// # Errors
/// `Config` when Parquet cannot hold a column.
pub(crate) fn check_letters(folder: &Path, schema: SchemaRef) -> Result<()> {
    Sink::check_columns(&spec(folder.join("letters.parquet")), schema).map_err(|error| {
        let (message, hint) = (error.message(), error.remedy().unwrap_or_default());
        let message = format!("rows that fail cannot be kept: {message}");
        Error::new(error.kind(), message).hint(format!("{hint}; or keep them: `rows: null`"))
    })
}

fn spec(path: PathBuf) -> SinkSpec {
    SinkSpec {
        location: path.display().to_string(),
        path,
        format: FileFormat::Parquet,
        compression: None,
        partition_by: Vec::new(),
        target_file_size_bytes: u64::MAX,
    }
}

/// Makes the letters of `pipeline` those of the published output: the pending ones of `units` (the beginnings of their ids)
/// appear, and those of other units are removed. If the folder is `own`, a part of a rebuilt output, those of other
/// pipelines are removed too. Idempotent.
///
/// # Errors
/// `Sink` when the folder cannot be written.
pub(crate) fn publish_letters(
    folder: &Path,
    pipeline: &str,
    units: &BTreeSet<String>,
    own: bool,
) -> Result<()> {
    let storage = storage_of(folder)?;
    if !storage.exists()? {
        return Ok(());
    }
    // `plain` produces no dash, so the name of no other pipeline starts like this.
    let begin = format!("{}-", plain(pipeline));
    let is_ours = |name: &str| name.starts_with(&begin) && name.ends_with(".parquet");
    if own {
        for (folder, prefix) in [("", String::new()), (PENDING, format!("{PENDING}/"))] {
            let others = storage.files(folder)?.into_keys();
            let others = others.filter(|name| !is_ours(name) && is_letter(name));
            storage.remove_all(&others.map(|name| prefix.clone() + &name).collect::<Vec<_>>())?;
        }
    }
    let letters = |folder: &str| {
        let names = storage.files(folder)?.into_keys();
        Ok::<Vec<String>, Error>(names.filter(|name| is_ours(name)).collect())
    };
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

/// Whether a file is named like a dead letter, of any pipeline.
fn is_letter(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [_, number, unit, .., step] = parts[..] else { return false };
    number.bytes().all(|byte| byte.is_ascii_digit())
        && unit.len() == 8
        && unit.bytes().all(|byte| byte.is_ascii_hexdigit())
        && step.ends_with(".parquet")
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
