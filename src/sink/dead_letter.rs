//! Dead letters: Parquet files of failed rows that were left out, each row unchanged and with its error.
//!
//! ```text
//! out/_errors/.pending/reviews-00007-9f8e7d6c-words.parquet   before the unit 9f8e7d6c is committed
//! out/_errors/reviews-00007-9f8e7d6c-words.parquet            once the output is published
//! ```
//!
//! File names begin with the pipeline's name, because several pipelines may share a folder. A second attempt at a unit
//! replaces its file. Not here: which rows fail (`crate::job`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::storage::storage_of;
use super::{Sink, SinkOptions};
use crate::config::pipeline::{FileFormat, SinkSpec};
use crate::error::{Error, ErrorKind, Result};

/// The folder for units whose output is not published yet; readers skip hidden folders.
const PENDING: &str = ".pending";

/// How long an attempt at a unit waits while another one writes the same file.
const LOCK_TRIES: u32 = 100;
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Writes the failed rows of a step, for the unit of `pipeline` with the file stem `stem`.
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
    let create = || Sink::create_held(&spec, first.schema(), options.clone());
    let mut tries = 0..LOCK_TRIES;
    let mut sink = loop {
        match create() {
            // Another attempt at the unit writes the same rows.
            Err(error) if error.kind() == ErrorKind::Resources && tries.next().is_some() => {
                std::thread::sleep(LOCK_WAIT);
            }
            created => break created?,
        }
    };
    for batch in batches {
        sink.write(batch)?;
    }
    sink.finish().map(drop)
}

/// Fails if Parquet cannot store the failed rows of a step. Inspects types only.
///
/// # Errors
/// `Config` when Parquet cannot hold a column.
pub(crate) fn check_letters(folder: &Path, schema: SchemaRef) -> Result<()> {
    Sink::check_columns(&spec(folder.join("letters.parquet")), schema).map_err(|error| {
        let (message, hint) = (error.message(), error.remedy().unwrap_or_default());
        let message = format!("failed rows cannot be kept as dead letters: {message}");
        Error::new(error.kind(), message)
            .hint(format!("{hint}; or keep the rows in the output: `rows: null`"))
    })
}

fn spec(path: PathBuf) -> SinkSpec {
    SinkSpec {
        delta: None,
        location: path.display().to_string(),
        path,
        format: FileFormat::Parquet,
        compression: None,
        partition_by: Vec::new(),
        target_file_size_bytes: u64::MAX,
    }
}

/// Publishes the letters of `pipeline` with its output: moves the pending ones of `units` (prefixes of unit ids), and
/// removes those of other units. If the folder is `own`, a part of a rebuilt output, also removes those of other
/// pipelines. Idempotent.
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
    // `plain` produces no dash, so this prefix belongs to one pipeline.
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
    let kept: Vec<_> = kept.into_iter().map(|name| (name.clone(), name)).collect();
    storage.publish(PENDING, &kept)?;
    let gone: Vec<String> = gone.iter().map(|name| format!("{PENDING}/{name}")).collect();
    storage.remove_all(&gone)?;
    for folder in [PENDING, ""] {
        storage.remove_if_empty(folder);
    }
    Ok(())
}

/// Whether a file has the name of a dead letter, of any pipeline.
fn is_letter(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [_, number, unit, .., step] = parts[..] else { return false };
    number.bytes().all(|byte| byte.is_ascii_digit())
        && unit.len() == 8
        && unit.bytes().all(|byte| byte.is_ascii_hexdigit())
        && step.ends_with(".parquet")
}

/// Splits names into files of the units and others. The position of a unit in the names may have changed.
fn split(names: Vec<String>, units: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    names
        .into_iter()
        .partition(|name| name.split('-').nth(2).is_some_and(|unit| units.contains(unit)))
}

/// The name of a column or a pipeline, encoded for file names.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}
