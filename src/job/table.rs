//! Publishes a finished output as one version of a Delta table. Its files are moved into the folder of the table, where no
//! reader looks for them before a version names them; the version is a single new file.
//!
//! The version carries a transaction whose application is the job, by its identity: a run that finds it has nothing to do.
//! Between the moves and the version, a run that dies leaves the table as it was, and the next one goes on there. Not
//! here: the log (`crate::source::delta`).

use std::path::Path;

use arrow::datatypes::{Schema, SchemaRef};
use chrono::Utc;

use super::Job;
use crate::config::pipeline::{DeltaSink, SinkSpec, TableMode};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::limits::DELTA_ATTEMPTS;
use crate::report::OutputFile;
use crate::sink::{self, Published, nonce};
use crate::source::delta::{self, Commit, NewFile, Operation, Snapshot};
use crate::source::partitions_of;

/// A Delta table, as a run found it.
pub(super) struct TablePush {
    table: String,
    columns: SchemaRef,
    partition_by: Vec<String>,
    mode: TableMode,
    overwrite: bool,
    /// The application of the job's transaction.
    app: String,
    /// The rows of the output of this very job, if the table has it.
    pub(super) done: Option<u64>,
}

/// The beginning of the names of a job's files in tables.
fn prefix(identity: &str) -> &str {
    identity.get(..12).unwrap_or(identity)
}

impl TablePush {
    /// Looks at the table. Writes nothing.
    ///
    /// # Errors
    /// `Sink` if it exists and is not to be changed, or if the output does not fit it; `NoInput` or `Data` if it cannot be
    /// read.
    pub(super) fn look(
        spec: &SinkSpec,
        delta: &DeltaSink,
        columns: SchemaRef,
        identity: &str,
        overwrite: bool,
    ) -> Result<Self> {
        let mut push = Self {
            table: delta.table.to_string_lossy().into_owned(),
            columns,
            partition_by: spec.partition_by.clone(),
            mode: delta.mode,
            overwrite,
            app: format!("hfauto-pipe/{identity}"),
            done: None,
        };
        delta::check_columns(&push.columns, &push.partition_by)?;
        if let Some(snapshot) = Snapshot::of(&push.table, None)? {
            if push.is_done(&snapshot)? {
                push.done = Some(snapshot.rows_of(prefix(identity)));
            } else {
                push.check(&snapshot)?;
            }
        }
        Ok(push)
    }

    /// What the version does with the rows of a table that exists.
    fn operation(&self) -> Operation {
        match self.mode {
            TableMode::Append => Operation::Append,
            TableMode::Error | TableMode::Overwrite => Operation::Overwrite,
        }
    }

    /// Whether the table has the output of this job.
    fn is_done(&self, snapshot: &Snapshot) -> Result<bool> {
        let Some(version) = snapshot.transaction(&self.app) else { return Ok(false) };
        if self.mode == TableMode::Append && self.overwrite {
            let message = format!(
                "the Delta table `{}` has the rows of this job since version {version}: `--fresh` would \
                 append them a second time",
                self.table
            );
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("`--set sink.mode=overwrite` replaces the rows of the table"));
        }
        Ok(match self.mode {
            TableMode::Append => true,
            // Rows that others have changed since are no longer those of the job.
            TableMode::Error | TableMode::Overwrite => {
                !self.overwrite && snapshot.is_unchanged_since(version)
            }
        })
    }

    fn check(&self, snapshot: &Snapshot) -> Result<()> {
        if self.mode == TableMode::Error && !self.overwrite {
            let message = format!("the Delta table `{}` exists", self.table);
            return Err(Error::new(ErrorKind::Sink, message).hint(
                "`--set sink.mode=append` adds the rows to it, `sink.mode=overwrite` or `--fresh` replaces its \
                 rows; or choose another `sink.path`",
            ));
        }
        snapshot.check_next(&self.columns, &self.partition_by, self.operation())
    }
}

/// The name in a table of a part of an output.
fn name_in_table(part: &str, publication: &str) -> String {
    let (folder, name) = part.rsplit_once('/').map_or(("", part), |(folder, name)| (folder, name));
    let (stem, extension) = name.split_once('.').unwrap_or((name, "parquet"));
    let between = if folder.is_empty() { "" } else { "/" };
    format!("{folder}{between}{stem}-{publication}.{extension}")
}

fn files(output: &Published, publication: &str) -> Vec<NewFile> {
    let parts = output.files.iter().zip(&output.file_rows);
    let file = |((part, bytes), rows): (&(String, u64), &u64)| NewFile {
        path: name_in_table(part, publication),
        partition: partitions_of(Path::new(part)),
        bytes: *bytes,
        rows: *rows,
    };
    // A file without rows is only the proof that a run had none.
    parts.map(file).collect()
}

impl Job {
    /// Moves the files of the finished output into the table, and creates the version that names them.
    pub(super) fn commit_version(&self, push: &TablePush) -> Result<()> {
        let (spec, identity) = (&self.pipeline.sink, self.identity());
        let output = sink::published(spec)?.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the output to publish is not finished")
        })?;
        // Another attempt uses the names of this one.
        let publication = match sink::kept_card(spec)? {
            Some(publication) => publication,
            None => format!("{}-{}", prefix(&identity), &nonce()[..8]),
        };
        sink::keep_card(spec, &publication)?;
        let files = files(&output, &publication);
        let moves = output.files.iter().zip(&files);
        let moves: Vec<(String, String)> =
            moves.map(|((part, _), file)| (part.clone(), file.path.clone())).collect();
        sink::move_to_table(spec, &moves)?;
        failpoint("push.uploaded");
        let version = self.create_version(push, &files)?;
        failpoint("push.committed");
        if let Some(version) = version {
            tracing::info!(table = push.table, version, "Delta version written");
        } else {
            tracing::info!(table = push.table, "the table has these rows already");
        }
        let files = files.into_iter().map(|file| OutputFile {
            path: crate::store::join(Path::new(&push.table), &file.path),
            rows: file.rows,
            bytes: file.bytes,
        });
        self.progress.set_output(files.collect());
        Ok(())
    }

    /// Creates the next version, whatever others do meanwhile; `None` if they did the same.
    fn create_version(&self, push: &TablePush, files: &[NewFile]) -> Result<Option<u64>> {
        let commit = Commit {
            files,
            operation: push.operation(),
            app: &push.app,
            pipeline: &self.pipeline.name,
            now: Utc::now().timestamp_millis(),
        };
        let columns: &Schema = &push.columns;
        for _ in 0..DELTA_ATTEMPTS {
            let (name, version, text) = match Snapshot::of(&push.table, None)? {
                None => delta::new_table(&uuid(), columns, &push.partition_by, &commit)?,
                Some(snapshot) => {
                    if push.is_done(&snapshot)? {
                        return Ok(None);
                    }
                    push.check(&snapshot)?;
                    delta::next(&snapshot, &commit)?
                }
            };
            if sink::create_version(&self.pipeline.sink, &name, &text)? {
                return Ok(Some(version));
            }
        }
        let message = format!("others write to the Delta table `{}` all the time", push.table);
        Err(Error::new(ErrorKind::Resources, message).hint("run again later"))
    }
}

/// A random UUID, as the id of a table.
fn uuid() -> String {
    let mut digits: Vec<char> = nonce().chars().collect();
    // Version 4, variant 1.
    digits[12] = '4';
    digits[16] = ['8', '9', 'a', 'b'][digits[16].to_digit(4).unwrap_or(0) as usize];
    let part = |range: std::ops::Range<usize>| digits[range].iter().collect::<String>();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_table_keep_folders_and_extensions() {
        let name = |part| name_in_table(part, "0a-1b");
        assert_eq!(name("part-00000.parquet"), "part-00000-0a-1b.parquet");
        assert_eq!(name("k=a%2Fb/part-00001.parquet"), "k=a%2Fb/part-00001-0a-1b.parquet");
    }

    #[test]
    fn ids_of_tables_are_uuids() {
        let id = uuid();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!((lengths.as_slice(), &id[14..15]), ([8, 4, 4, 4, 12].as_slice(), "4"), "{id}");
    }
}
