//! Reads the actions of a checkpoint, which is a Parquet file: one action a row.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};

use super::super::parquet;
use super::super::parquet_reader::CheckedChunks;
use super::actions::Action;
use super::log::{Log, version_of, version_path};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// The leaves that are read: everything except statistics, which may be most of the file.
const WANTED: [&str; 10] = [
    "protocol.",
    "metaData.",
    "txn.",
    "add.path",
    "add.partitionValues.",
    "add.size",
    "add.modificationTime",
    "add.dataChange",
    "add.deletionVector.",
    "sidecar.",
];

const BATCH_ROWS: usize = 1024;

/// Visits the actions of a checkpoint.
///
/// # Errors
/// `Data` if it is damaged.
pub(super) fn each_action(
    log: &Log,
    name: &str,
    visit: &mut dyn FnMut(Action) -> Result<()>,
) -> Result<()> {
    let bytes = log.read(name)?;
    let broken = |what: &dyn std::fmt::Display| log.broken(&format!("`{name}`: {what}"));
    // The library's errors and panics are those of the file.
    let lines = guarded(ErrorKind::Data, &format!("`{name}`"), || Ok(lines(bytes)))?
        .map_err(|error| broken(&error))?;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        visit(serde_json::from_slice(line).map_err(|error| broken(&error))?)?;
    }
    Ok(())
}

/// The rows as JSON, without nulls.
fn lines(bytes: Bytes) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let metadata = Arc::new(parquet::metadata(&bytes)?.0);
    let groups = metadata.row_groups().to_vec();
    let descriptor = metadata.file_metadata().schema_descr_ptr();
    let leaves = descriptor.columns().iter().enumerate().filter_map(|(index, column)| {
        let path = column.path().string();
        let is_wanted = WANTED.iter().any(|wanted| match wanted.strip_suffix('.') {
            Some(_) => path.starts_with(wanted),
            None => path == *wanted,
        });
        is_wanted.then_some(index)
    });
    let mask = ProjectionMask::leaves(&descriptor, leaves);
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::default())?;
    let mut writer = LineDelimitedWriter::new(Vec::new());
    for (number, group) in groups.iter().enumerate() {
        let chunks = CheckedChunks::read(&bytes, group, |_| true)?;
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, metadata.clone())
            .with_row_groups(vec![number])
            .with_projection(mask.clone())
            .with_batch_size(BATCH_ROWS)
            .build()?;
        for batch in batches {
            writer.write(&batch?)?;
        }
    }
    writer.finish()?;
    let mut lines = writer.into_inner();
    lines.flush()?;
    Ok(lines)
}

/// The newest checkpoint up to a version: the version, and the names of its parts.
///
/// # Errors
/// `Data` if the only checkpoints are of a kind that is not read.
pub(super) fn newest(log: &Log, names: &[String], most: u64) -> Result<Option<(u64, Vec<String>)>> {
    let mut best: Option<(u64, Vec<String>)> = None;
    let mut other: Option<u64> = None;
    for name in names {
        let Some((version, rest)) = version_of(name) else { continue };
        if version > most || !rest.starts_with("checkpoint.") {
            continue;
        }
        let kind: Vec<&str> = rest.split('.').collect();
        let found = match kind.as_slice() {
            ["checkpoint", "parquet"] => Some(vec![name.clone()]),
            ["checkpoint", part, parts, "parquet"] => {
                let number = |text: &str| text.parse::<u32>().ok();
                let Some((1, parts)) = number(part).zip(number(parts)) else { continue };
                let all: Vec<String> = (1..=parts.min(100_000))
                    .map(|part| format!("{version:020}.checkpoint.{part:010}.{parts:010}.parquet"))
                    .collect();
                // A writer that died may have left some parts.
                all.iter().all(|part| names.binary_search(part).is_ok()).then_some(all)
            }
            _ => {
                other = other.max(Some(version));
                None
            }
        };
        if let Some(found) = found
            && best.as_ref().is_none_or(|(best, _)| *best <= version)
        {
            best = Some((version, found));
        }
    }
    // Without one that is read, all versions must be there.
    let first = version_path(0);
    let is_whole = first.rsplit('/').next().is_some_and(|name| names.iter().any(|n| n == name));
    match (best, other) {
        (None, Some(version)) if !is_whole => Err(unread(log, version)),
        (best, _) => Ok(best),
    }
}

/// The error for a checkpoint in the form of version 2.
pub(super) fn unread(log: &Log, version: u64) -> Error {
    let message = format!(
        "the Delta table `{}` has a checkpoint of the form V2 at version {version}, which is not read",
        log.table
    );
    Error::new(ErrorKind::Data, message)
        .hint("set `delta.checkpointPolicy` of the table to `classic` and write a checkpoint")
}
