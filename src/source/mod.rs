//! Opens files of one format as one DataFusion table in a fixed order. The entry is [`open`]; [`session`] creates the
//! context for it, and [`stream_error`] turns later errors into ours. Not here: SQL steps and models, which work on the
//! [`DataFrame`].
//!
//! - **Order.** Rows keep the order of `source.path`, of paths inside a folder or glob, and of lines or rows inside a
//!   file. The module `listing` defines which files are listed and what a hive partition is.
//! - **Object stores** (module `remote`) are listed and read by URL; `crate::store` opens them.
//! - **Delta tables** (module `delta`) are Parquet files that a log lists, with columns that it declares.
//! - **Formats.** Parquet, CSV, JSONL and Arrow IPC (file and stream). CSV and JSONL may be compressed with gzip, bzip2,
//!   xz or zstd, and have other encodings (module `text`). All files of a source have one format.
//! - **Types.** Parquet and Arrow columns keep the types of the file. Types of CSV and JSONL columns (modules `csv`,
//!   `jsonl`) are inferred from all rows before the run, which also finds malformed rows. With `limit` and without
//!   `where`, only the rows that the limit needs are read.
//! - **Several files** form one table, matched by column name (module `schema`).
//!
//! # Untrusted bytes
//! Files are read under `crate::limits`, and libraries read them inside `guard::guarded`: a panic becomes an error of
//! the file. What would abort instead (a stack overflow, a failed allocation) is prevented beforehand:
//!
//! - `parquet`, `thrift` and `arrow_ipc` compare footers, page headers and messages with the size of the file before a
//!   library allocates memory for them.
//! - `scan` guards every scan: it turns panics into errors, compares the stamps of local files at the end, and counts
//!   rows if no filter skips any. DataFusion gets footers without statistics of floating-point columns, because NaN
//!   makes them wrong.
//! - `reader` reads CSV and JSONL, and files whose columns differ, and converts each file to the table's schema
//!   (`unify`).
//! - Text that is not UTF-8 is located before the run. `invalid` then replaces invalid bytes by U+FFFD, and adds a hidden
//!   column of messages for each column with such text.
//! - `arithmetic` and `sum` replace DataFusion's arithmetic with checked arithmetic; `nesting` bounds the depth of
//!   SQL.

mod arithmetic;
mod arrow_ipc;
mod columns;
mod csv;
pub(crate) mod delta;
mod digest;
mod error;
mod inspect;
mod invalid;
mod json;
mod jsonl;
mod kind;
mod listing;
mod local;
mod nesting;
mod overlap;
mod parquet;
mod parquet_reader;
mod query;
mod quotes;
mod reader;
mod remote;
mod scan;
mod schema;
mod session;
mod shipped;
mod stamp;
mod sum;
mod table;
mod table_file;
mod text;
mod text_bytes;
mod thrift;
mod unify;
#[cfg(feature = "cluster")]
mod unit_scan;
mod units;
mod value_sizes;
mod walk;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::runtime::SpawnedTask;
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::SessionContext;
use datafusion::prelude::ident;
use futures::StreamExt;

#[cfg(feature = "cluster")]
pub(crate) use self::arithmetic::checked_functions;
pub use self::error::{name_cast, query_error, stream_error};
pub(crate) use self::listing::partitions_of;
pub use self::nesting::check_nesting;
pub(crate) use self::overlap::{Output, check_output, check_plan};
pub use self::query::{check_predicate, check_query, why_whole_query};
pub use self::session::{ROWS_PER_BATCH, session, session_config, session_state};
pub use self::stamp::FileStamp;
#[cfg(feature = "cluster")]
pub(crate) use self::unit_scan::{ScansOfUnits, UnitScanExec};
pub use self::units::{StepWork, Unit, UnitSize};

use self::delta::Declared;
use self::inspect::{Inspected, Inspection, Rows};
use self::listing::ListedFile;
use self::remote::RemoteFile;
#[cfg(feature = "cluster")]
pub(crate) use self::shipped::{OpenScan, ShippedScan};
pub(crate) use self::shipped::{ShippedTable, ShippedUnit};
use self::table::FilesTable;
use self::table_file::TableFile;
use self::units::Start;
use crate::config::pipeline::SourceSpec;
use crate::error::{Error, ErrorKind, Result};

/// An opened source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its rows: `where`, `limit` and `select` applied, in order.
    pub dataframe: DataFrame,
    /// Its files, in the order that they are read.
    pub files: Vec<Arc<InputFile>>,
    /// The number of rows, if it is known before reading: not with `where`, and not for large Arrow IPC
    /// files in an object store.
    pub rows: Option<u64>,
    /// Differences between the table and its files, as text: columns that are widened, renamed, or null in some files.
    pub notes: Vec<String>,
    /// The same rows with markers, if some texts are not UTF-8.
    pub(crate) marked: Option<MarkedRows>,
    table: Arc<FilesTable>,
}

/// Rows whose texts have U+FFFD in place of bytes that are not UTF-8.
#[derive(Clone, Debug)]
pub(crate) struct MarkedRows {
    /// The columns of the source, then a column of messages for each of `columns`: null where the text is valid.
    pub(crate) dataframe: DataFrame,
    /// The columns with invalid texts.
    pub(crate) columns: Vec<MarkedColumn>,
    table: Arc<FilesTable>,
}

/// A column with texts that are not UTF-8.
#[derive(Clone, Debug)]
pub(crate) struct MarkedColumn {
    /// The column.
    pub(crate) column: String,
    /// Its column of messages.
    pub(crate) marker: String,
    /// Whether its rows fail even if no step reads the column.
    pub(crate) always_fails: bool,
}

/// The handling of texts that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidUtf8 {
    /// They are errors of the file.
    Fail,
    /// They are kept with U+FFFD, and marked. Texts of Parquet files are read once to find them. Those inside lists and
    /// structs, and those of Arrow files, remain errors.
    Mark,
}

impl Source {
    /// The units of its rows, in order.
    pub fn units(&self, size: &UnitSize) -> Vec<Unit> {
        self.table.units(size)
    }

    /// The rows of a unit.
    pub fn unit(&self, unit: &Unit) -> SourceUnit {
        SourceUnit { file: self.table.file_of_unit(unit) }
    }

    /// The rows of a unit that another process described.
    ///
    /// # Errors
    /// `Internal` if the description is wrong, `NoInput` or `Data` if its file cannot be opened.
    pub(crate) fn shipped_unit(&self, unit: &ShippedUnit) -> Result<SourceUnit> {
        Ok(SourceUnit { file: unit.open(self.table.spec())? })
    }

    /// The description of the source for other processes.
    ///
    /// # Errors
    /// `Internal` if the columns cannot be described.
    pub(crate) fn ship(&self) -> Result<ShippedTable> {
        let marked = self.marked.as_ref();
        ShippedTable::of(&self.table, marked.map_or(&[], |marked| marked.table.markers()))
    }

    /// The table of one unit that replaces `table`, with the same columns; `None` if `table` is not a table of this source.
    pub fn unit_table(
        &self,
        table: &Arc<dyn TableProvider>,
        unit: &SourceUnit,
    ) -> Option<Arc<dyn TableProvider>> {
        Some(Arc::new(self.table_like(table)?.of_unit(unit.file.clone())))
    }

    /// Whether this source reads `table`.
    pub fn is_table(&self, table: &Arc<dyn TableProvider>) -> bool {
        self.table_like(table).is_some()
    }

    fn table_like(&self, table: &Arc<dyn TableProvider>) -> Option<&FilesTable> {
        let marked = self.marked.as_ref().map(|marked| &marked.table);
        let tables = [Some(&self.table), marked].into_iter().flatten();
        tables
            .into_iter()
            .find(|own| std::ptr::addr_eq(Arc::as_ptr(own), Arc::as_ptr(table)))
            .map(Arc::as_ref)
    }
}

/// The rows of one unit of a source.
#[derive(Clone, Debug)]
pub struct SourceUnit {
    file: TableFile,
}

impl SourceUnit {
    /// Its file.
    pub fn file(&self) -> InputFile {
        InputFile::of(&self.file.file, self.file.rows)
    }

    /// The unit, as the only one of its file.
    pub(crate) fn unit(&self) -> Unit {
        let first = self.file.first_row;
        let rows = self.file.part_rows.map(|rows| first..first.saturating_add(rows));
        Unit { file: 0, rows, part: self.file.part.clone() }
    }

    /// The description of the unit for other processes.
    pub(crate) fn ship(&self) -> ShippedUnit {
        ShippedUnit::of(&self.file)
    }
}

/// A file of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct InputFile {
    /// The path, or the URL of an object.
    pub path: Arc<Path>,
    /// Its size on disk.
    pub bytes: u64,
    /// The number of rows without `limit` and `where`, if they were counted.
    pub rows: Option<u64>,
    /// The file as it was when the source was opened.
    pub stamp: FileStamp,
    remote: Option<Arc<RemoteFile>>,
}

impl InputFile {
    fn of(file: &ListedFile, rows: Rows) -> Self {
        Self {
            path: Arc::clone(&file.path),
            bytes: file.bytes,
            rows: rows.exactly(),
            stamp: file.stamp.clone(),
            remote: file.remote.clone(),
        }
    }

    /// Whether it is an object in a store.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// The current stamp of the file. Blocks.
    ///
    /// # Errors
    /// `NoInput` if the file no longer exists.
    pub fn look_again(&self) -> Result<FileStamp> {
        if let Some(remote) = &self.remote {
            return remote.look_again();
        }
        let stamp = std::fs::metadata(&self.path).and_then(|found| FileStamp::of_file(&found));
        stamp.map_err(|error| {
            Error::new(ErrorKind::NoInput, format!("cannot open `{}`", self.path.display()))
                .source(error)
        })
    }
}

/// Opens a source in a context made by [`session`].
///
/// # Errors
/// - `NoInput`: a path does not exist or cannot be opened.
/// - `Data`: a file is broken, or the files' columns have no common type.
/// - `Config`: a column or format does not exist, or `where` is not a predicate.
pub async fn open(ctx: &SessionContext, spec: &SourceSpec) -> Result<Source> {
    open_with(ctx, spec, InvalidUtf8::Fail).await
}

/// Like [`open`], with a policy for texts that are not UTF-8.
pub(crate) async fn open_with(
    ctx: &SessionContext,
    spec: &SourceSpec,
    invalid: InvalidUtf8,
) -> Result<Source> {
    let listing_spec = spec.clone();
    let (files, declared) = blocking(move || listed(&listing_spec)).await?;
    let format = files[0].form.format;

    // A batch reads ahead of the limit: those rows must be valid too.
    let max_rows = match (&spec.predicate, spec.limit) {
        (None, Some(limit)) => limit.max(ROWS_PER_BATCH) as u64,
        _ => u64::MAX,
    };
    let what = Arc::new(Inspection {
        csv: spec.csv.clone(),
        types: spec.types.clone(),
        max_line_bytes: spec.max_line_size_bytes,
        max_columns: spec.max_columns,
        max_rows,
        marks: invalid == InvalidUtf8::Mark,
    });
    let parallel = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut inspections = futures::stream::iter(0..files.len())
        .map(|index| {
            let (file, what) = (files[index].clone(), Arc::clone(&what));
            blocking(move || inspect::inspect(&file, &what))
        })
        .buffered(parallel);
    let mut inspected: Vec<Inspected> = Vec::with_capacity(files.len());
    while let Some(next) = inspections.next().await {
        let mut next = next.map_err(|error| error.at(&spec.location))?;
        if let Some(last) = inspected.last() {
            next.share(last);
        }
        inspected.push(next);
    }
    drop(inspections);
    let mut merged =
        schema::merged(spec, &files, &inspected).map_err(|error| error.at(&spec.location))?;
    if let Some(declared) = &declared {
        let applied = declared.applied(&merged.schema, merged.is_plain, &files);
        (merged.schema, merged.is_plain) = applied.map_err(|error| error.at(&spec.location))?;
        // What files lack and hold in other types is the log's business.
        merged.notes.clear();
    }
    merged.notes.iter().for_each(|note| tracing::warn!("{note}"));

    let rows = match &spec.predicate {
        None => known_rows(&inspected, spec.limit),
        Some(_) => None,
    };
    let input_files: Vec<_> = files
        .iter()
        .zip(&inspected)
        .map(|(file, inspected)| Arc::new(InputFile::of(file, inspected.rows)))
        .collect();

    let none: Arc<[Start]> = Arc::new([]);
    let files = files.into_iter().zip(inspected).map(|(file, inspected)| {
        let Inspected { rows, text_bytes, starts, invalid, layout, .. } = inspected;
        let (part, first_row, part_rows) = (None, 0, None);
        let starts = if starts.is_empty() { Arc::clone(&none) } else { starts.into() };
        TableFile { file, rows, text_bytes, starts, invalid, layout, part, first_row, part_rows }
    });
    let table = FilesTable::new(files.collect(), format, spec, &merged);
    let marked = table.with_markers();
    let notes = merged.notes;
    of_tables(ctx, spec, (table, marked), input_files).await.map(|source| Source {
        rows,
        notes,
        ..source
    })
}

/// The files of a source, and its columns if a table declares them.
fn listed(spec: &SourceSpec) -> Result<(Vec<ListedFile>, Option<Declared>)> {
    let at = |error: Error| error.at(&spec.location);
    let Some(table) = table_of(spec).map_err(at)? else {
        return Ok((listing::list(spec)?, None));
    };
    let (files, declared) = delta::list(table, spec.delta.version).map_err(at)?;
    Ok((files, Some(declared)))
}

/// The Delta table of a source; `None` if it has files instead.
fn table_of(spec: &SourceSpec) -> Result<Option<&str>> {
    // A format of files reads the files of a folder, whatever else is in it.
    if spec.format.is_some() {
        return Ok(None);
    }
    let mut found = None;
    for path in &spec.paths {
        if spec.delta.is_asked || delta::is_table(path, &listing::local_path_of(path))? {
            found = Some(path.as_str());
        }
    }
    if found.is_some() && spec.paths.len() > 1 {
        let message = "a source reads one Delta table, and nothing beside it";
        return Err(Error::new(ErrorKind::Config, message)
            .hint("join or union tables in a `sql` step, or run one pipeline for each"));
    }
    Ok(found)
}

/// Opens a source that another process has listed and inspected. It has no files of its own.
///
/// # Errors
/// As [`open`], for `where` and `select`.
pub(crate) async fn open_shipped(
    ctx: &SessionContext,
    spec: &SourceSpec,
    shipped: &ShippedTable,
) -> Result<Source> {
    of_tables(ctx, spec, shipped.open(spec)?, Vec::new()).await
}

/// The source of a table, and of the table with markers, if there is one.
async fn of_tables(
    ctx: &SessionContext,
    spec: &SourceSpec,
    (table, marked): (FilesTable, Option<FilesTable>),
    files: Vec<Arc<InputFile>>,
) -> Result<Source> {
    let table = Arc::new(table);
    let rows_of = |table: &Arc<FilesTable>| {
        let (table, files) = (Arc::clone(table), &files);
        async move {
            let rows = query(ctx, table, spec, files).await;
            rows.map_err(|error| error.at(&spec.location))
        }
    };
    let dataframe = rows_of(&table).await?;
    let marked = match marked.map(Arc::new) {
        Some(table) => {
            let dataframe = rows_of(&table).await?;
            let has = |name: &str| dataframe.schema().has_column_with_unqualified_name(name);
            let columns = table.markers().iter().filter(|marker| has(&marker.marker));
            let columns = columns.map(|marker| MarkedColumn {
                column: marker.column.clone(),
                marker: marker.marker.clone(),
                always_fails: marker.is_half,
            });
            Some(MarkedRows { columns: columns.collect(), dataframe, table })
        }
        None => None,
    };
    Ok(Source { dataframe, files, rows: None, notes: Vec::new(), marked, table })
}

/// Applies `where`, `limit` and `select`, in SQL's order.
async fn query(
    ctx: &SessionContext,
    table: Arc<FilesTable>,
    spec: &SourceSpec,
    files: &[Arc<InputFile>],
) -> Result<DataFrame> {
    let markers = table.markers().to_vec();
    let mut dataframe = ctx.read_table(table).map_err(|error| stream_error(error, files))?;
    let names = dataframe.schema().fields().iter().map(|field| field.name().clone());
    let columns: Vec<String> =
        names.filter(|name| !markers.iter().any(|marker| marker.marker == *name)).collect();
    if let Some(select) = &spec.select {
        check_select(select, &columns)?;
    }
    if let Some(predicate) = &spec.predicate {
        let wrong = |error| {
            let error = stream_error(error, files);
            Error::new(
                ErrorKind::Config,
                format!("`source.where` is not a predicate on the source: {}", error.message()),
            )
            .hint(format!("columns are {}", quoted(&columns)))
        };
        check_nesting(predicate)?;
        let expression = dataframe.parse_sql_expr(predicate).map_err(wrong)?;
        dataframe = dataframe.filter(expression).map_err(wrong)?;
        // Planning checks the types, before any model is loaded.
        dataframe.clone().create_physical_plan().await.map_err(wrong)?;
    }
    let failed = |error| stream_error(error, files);
    if let Some(limit) = spec.limit {
        dataframe = dataframe.limit(0, Some(limit)).map_err(failed)?;
    }
    if let Some(select) = &spec.select {
        // A column keeps its marker.
        let markers = markers.iter().filter(|marker| select.contains(&marker.column));
        let selected = select.iter().chain(markers.map(|marker| &marker.marker)).map(ident);
        dataframe = dataframe.select(selected.collect::<Vec<_>>()).map_err(failed)?;
    }
    Ok(dataframe)
}

fn check_select(select: &[String], columns: &[String]) -> Result<()> {
    for (index, name) in select.iter().enumerate() {
        if select[..index].contains(name) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`source.select` has the column `{name}` twice"),
            ));
        }
        if columns.contains(name) {
            continue;
        }
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        return Err(missing_column("`source.select`: the source has no column", name, &names));
    }
    Ok(())
}

/// The error for a missing column, with the nearest name and all names in the hint. The message is `problem` and the
/// name.
pub fn missing_column(problem: &str, name: &str, columns: &[&str]) -> Error {
    let nearest = columns
        .iter()
        .map(|column| (strsim::jaro_winkler(&column.to_lowercase(), &name.to_lowercase()), column))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let suggestion = match nearest {
        Some((_, column)) => format!("did you mean `{column}`? "),
        None => String::new(),
    };
    Error::new(ErrorKind::Config, format!("{problem} `{name}`"))
        .hint(format!("{suggestion}columns are {}", quoted(columns)))
}

fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

fn known_rows(inspected: &[Inspected], limit: Option<usize>) -> Option<u64> {
    let limit = limit.map(|limit| limit as u64);
    let mut rows = 0u64;
    let mut exact = true;
    for file in inspected {
        match file.rows {
            Rows::Exactly(more) => rows = rows.saturating_add(more),
            Rows::AtLeast(more) => {
                rows = rows.saturating_add(more);
                exact = false;
            }
            Rows::Unknown => exact = false,
        }
    }
    match limit {
        Some(limit) if rows >= limit => Some(limit),
        _ => exact.then_some(rows),
    }
}

/// Runs blocking file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    SpawnedTask::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Internal, "reading the source panicked").source(error))
    })
}
