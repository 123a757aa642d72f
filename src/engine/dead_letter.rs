//! Rows that failed and were left out, as Parquet files: the row as it was, and its error.
//!
//! ```text
//! out/_errors/.pending/reviews-00007-9f8e7d6c-words.parquet   before the unit 9f8e7d6c is committed
//! out/_errors/reviews-00007-9f8e7d6c-words.parquet            once the output is published
//! ```
//!
//! Names begin with that of the pipeline: several may share a folder. A second attempt at a unit writes its file again. Not here: which rows fail (`row_errors`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::row_errors::Letters;
use crate::config::pipeline::{FileFormat, SinkSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Sink, SinkOptions};

/// Files of units whose output is not published yet; readers pass over hidden folders.
const PENDING: &str = ".pending";

/// Writes the rows that left the unit of `pipeline` whose files are called `stem`.
///
/// # Errors
/// `Sink` when the folder cannot be written.
pub(super) fn write(
    folder: &Path,
    pipeline: &str,
    stem: &str,
    letters: Vec<Letters>,
) -> Result<()> {
    for Letters { step, batches } in letters {
        let Some(first) = batches.first() else { continue };
        let name = format!("{}-{stem}-{}.parquet", plain(pipeline), plain(&step));
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
        let mut sink = Sink::create(&spec, first.schema(), options)?;
        for batch in &batches {
            sink.write(batch)?;
        }
        sink.finish()?;
    }
    Ok(())
}

/// Makes the letters of `pipeline` those of the published output: the pending ones of `units` (the beginnings of their ids)
/// appear, those of other units go. May be repeated.
///
/// # Errors
/// `Sink` when the folder cannot be written.
pub(super) fn publish(folder: &Path, pipeline: &str, units: &BTreeSet<String>) -> Result<()> {
    let publish = || -> io::Result<()> {
        for name in letters(folder, pipeline)? {
            if !is_of(&name, units) {
                fs::remove_file(folder.join(name))?;
            }
        }
        let pending = folder.join(PENDING);
        for name in letters(&pending, pipeline)? {
            let from = pending.join(&name);
            if is_of(&name, units) {
                fs::rename(from, folder.join(&name))?;
            } else {
                fs::remove_file(from)?;
            }
        }
        // These fail, rightly, while something is inside.
        let _ = fs::remove_dir(&pending);
        let _ = fs::remove_dir(folder);
        if folder.exists() { fs::File::open(folder)?.sync_all() } else { Ok(()) }
    };
    publish().map_err(|error| {
        let message = format!("cannot put the dead letters into `{}`", folder.display());
        Error::new(ErrorKind::Sink, message).source(error)
    })
}

/// The files of a pipeline's letters in a folder that need not be there.
fn letters(folder: &Path, pipeline: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    // What `plain` gives has no dash: the name of no other pipeline begins like this.
    let begin = format!("{}-", plain(pipeline));
    let is_letter = |name: &String| name.starts_with(&begin) && name.ends_with(".parquet");
    Ok(names.into_iter().filter(is_letter).collect())
}

/// Whether a file is of one of the units: their place among the units may have changed since.
fn is_of(name: &str, units: &BTreeSet<String>) -> bool {
    name.split('-').nth(2).is_some_and(|unit| units.contains(unit))
}

/// The name of a column or a pipeline as a part of a file's.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}
