//! The description of a table, and of one unit of it, for another process: it reads the unit without listing or
//! inspecting the other files. Not here: the transport, and what else a process needs to compute a unit (`crate::job`).

use std::io::Cursor;
use std::ops::Range;
#[cfg(feature = "cluster")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
#[cfg(feature = "cluster")]
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::parsers::CompressionTypeVariant as Codec;
#[cfg(feature = "cluster")]
use datafusion::error::{DataFusionError, Result as DataFusionResult};
#[cfg(feature = "cluster")]
use datafusion::physical_plan::ExecutionPlan;
use serde::{Deserialize, Serialize};

use super::inspect::{self, Layout, Rows};
use super::invalid::{InvalidText, Marker};
use super::listing::{Form, ListedFile};
use super::parquet;
use super::remote::RemoteFile;
use super::stamp::FileStamp;
use super::table::FilesTable;
use super::table_file::TableFile;
use super::text_bytes::TextBytes;
#[cfg(feature = "cluster")]
use super::unit_scan::UnitScanExec;
use super::units::Part;
use crate::config::pipeline::{FileFormat, SourceSpec, TextEncoding};
use crate::error::{Error, ErrorKind, Result};

/// The columns of a source, as inspection found them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShippedTable {
    format: FileFormat,
    /// The columns of the files and those of hive partitions, as Arrow IPC.
    columns: Vec<u8>,
    partitions: Vec<u8>,
    is_plain: bool,
    markers: Vec<Marker>,
}

/// The rows of a unit, and the inspection of its file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShippedUnit {
    path: PathBuf,
    real: PathBuf,
    bytes: u64,
    stamp: FileStamp,
    format: FileFormat,
    codec: String,
    /// `None` for a local file.
    object: Option<ShippedObject>,
    partitions: Vec<(String, Option<String>)>,
    rows: Rows,
    text_bytes: TextBytes,
    invalid: InvalidText,
    names: Vec<String>,
    batch_rows: usize,
    needs_repair: bool,
    encoding: String,
    has_large_values: bool,
    part: Option<Part>,
    first_row: u64,
    part_rows: Option<u64>,
}

/// What is known of an object of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ShippedObject {
    etag: Option<String>,
}

impl ShippedTable {
    /// Describes a table, with the markers of its other form.
    pub(super) fn of(table: &FilesTable, markers: &[Marker]) -> Result<Self> {
        Self::of_columns(table.format(), table.file_columns(), markers)
    }

    fn of_columns(
        format: FileFormat,
        (columns, is_plain, partitions): (&SchemaRef, bool, &[FieldRef]),
        markers: &[Marker],
    ) -> Result<Self> {
        Ok(Self {
            format,
            columns: schema_bytes(columns)?,
            partitions: schema_bytes(&Schema::new(partitions.to_vec()))?,
            is_plain,
            markers: markers.to_vec(),
        })
    }

    /// The table without files, and the table with markers if there are any.
    pub(super) fn open(&self, spec: &SourceSpec) -> Result<(FilesTable, Option<FilesTable>)> {
        let (columns, partitions) = (schema_of(&self.columns)?, schema_of(&self.partitions)?);
        let partitions: Vec<FieldRef> = partitions.fields().to_vec();
        let table = FilesTable::with_partitions(
            Vec::new(),
            self.format,
            spec,
            &columns,
            self.is_plain,
            partitions,
        );
        let marked = (!self.markers.is_empty()).then(|| table.marked(self.markers.clone()));
        Ok((table, marked))
    }
}

impl ShippedUnit {
    /// The path or URL of its file.
    #[cfg(feature = "cluster")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of its rows, if it is known.
    #[cfg(feature = "cluster")]
    pub(crate) fn num_rows(&self) -> Option<u64> {
        self.part_rows.or_else(|| self.rows.exactly())
    }

    /// Describes the rows of a unit.
    pub(super) fn of(unit: &TableFile) -> Self {
        let TableFile {
            file, rows, text_bytes, invalid, layout, part, first_row, part_rows, ..
        } = unit;
        let within = match part_rows {
            Some(rows) => *first_row..first_row.saturating_add(*rows),
            None => 0..u64::MAX,
        };
        let text_bytes = if part.is_some() { TextBytes::default() } else { text_bytes.clone() };
        Self {
            path: file.path.to_path_buf(),
            real: file.real.to_path_buf(),
            bytes: file.bytes,
            stamp: file.stamp.clone(),
            format: file.form.format,
            codec: file.form.codec.to_string(),
            object: file
                .remote
                .as_ref()
                .map(|remote| ShippedObject { etag: remote.etag().map(str::to_owned) }),
            partitions: file.partitions.clone(),
            rows: *rows,
            text_bytes,
            invalid: invalid.within(&within),
            names: layout.names.clone(),
            batch_rows: layout.batch_rows,
            needs_repair: layout.needs_repair,
            encoding: layout.encoding.label().to_owned(),
            has_large_values: !layout.large_values.is_empty(),
            part: part.clone(),
            first_row: *first_row,
            part_rows: *part_rows,
        }
    }

    /// The rows of the unit. Reads the footer of a Parquet file with large values.
    ///
    /// # Errors
    /// `Internal` if the description is wrong; as [`inspect::inspect`].
    pub(super) fn open(&self, spec: &SourceSpec) -> Result<TableFile> {
        let wrong = |what: &str| {
            Error::new(
                ErrorKind::Internal,
                format!("a unit of `{}` has {what}", self.path.display()),
            )
        };
        let codec: Codec = self.codec.parse().map_err(|_| wrong("an unknown compression"))?;
        let encoding = TextEncoding::of_label(&self.encoding);
        let encoding = encoding.ok_or_else(|| wrong("an unknown encoding"))?;
        let is_wrong_part = |rows: &Range<u64>, of: u64| rows.start > rows.end || rows.end > of;
        let is_wrong = match &self.part {
            Some(Part::Rows { rows, of }) => is_wrong_part(rows, *of),
            // Offsets in a decompressed text may be larger than the file.
            Some(Part::Bytes(bytes)) => bytes.start > bytes.end,
            None => false,
        };
        if is_wrong {
            return Err(wrong("rows outside of its file"));
        }
        let remote = match &self.object {
            Some(ShippedObject { etag }) => {
                let url = self.path.to_string_lossy();
                let mut paths = spec.paths.iter().filter(|path| crate::store::is_url(path));
                let path = paths.next().ok_or_else(|| wrong("an object of no store"))?;
                Some(Arc::new(RemoteFile::reopened(path, &url, self.bytes, etag.clone())?))
            }
            None => None,
        };
        let file = ListedFile {
            path: self.path.as_path().into(),
            real: self.real.as_path().into(),
            bytes: self.bytes,
            stamp: self.stamp.clone(),
            form: Form { format: self.format, codec },
            remote,
            partitions: self.partitions.clone(),
        };
        let large_values = if self.has_large_values {
            let path = &*file.path;
            let inspected = match &file.remote {
                Some(remote) => parquet::inspect(path, || Ok(RemoteFile::clone(remote)), None),
                None => parquet::inspect(path, || inspect::open(path), None),
            };
            inspected?.layout.large_values.clone()
        } else {
            Vec::new()
        };
        let layout = Layout {
            large_values,
            names: self.names.clone(),
            batch_rows: self.batch_rows,
            needs_repair: self.needs_repair,
            encoding,
        };
        Ok(TableFile {
            file,
            rows: self.rows,
            text_bytes: self.text_bytes.clone(),
            starts: Arc::new([]),
            invalid: Arc::new(self.invalid.clone()),
            layout: Arc::new(layout),
            part: self.part.clone(),
            first_row: self.first_row,
            part_rows: self.part_rows,
        })
    }
}

/// The description of a scan, without its units.
#[cfg(feature = "cluster")]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShippedScan {
    table: ShippedTable,
    paths: Vec<String>,
    location: String,
    projection: Option<Vec<usize>>,
    limit: Option<usize>,
}

/// A scan that another process described.
#[cfg(feature = "cluster")]
#[derive(Debug)]
pub(crate) struct OpenScan {
    table: FilesTable,
    spec: SourceSpec,
    projection: Option<Vec<usize>>,
    limit: Option<usize>,
}

#[cfg(feature = "cluster")]
impl ShippedScan {
    /// Describes a scan.
    ///
    /// # Errors
    /// `Internal` if the columns cannot be described.
    pub(crate) fn of(scan: &UnitScanExec) -> Result<Self> {
        let columns = (&scan.columns, scan.is_plain, scan.partitions.as_slice());
        Ok(Self {
            table: ShippedTable::of_columns(scan.format, columns, &[])?,
            paths: scan.spec.paths.clone(),
            location: scan.spec.location.clone(),
            projection: scan.projection.clone(),
            limit: scan.limit,
        })
    }

    /// The units of a scan, in order.
    pub(crate) fn units(scan: &UnitScanExec) -> impl Iterator<Item = ShippedUnit> {
        scan.units.iter().map(ShippedUnit::of)
    }

    /// The scan without units. Reads no file.
    ///
    /// # Errors
    /// `Internal` if the description is damaged.
    pub(crate) fn open(&self) -> Result<OpenScan> {
        let mut spec = SourceSpec::of_path(String::new(), &self.location);
        spec.paths.clone_from(&self.paths);
        let (table, _) = self.table.open(&spec)?;
        let width = table.schema().fields().len();
        if self.projection.iter().flatten().any(|column| *column >= width) {
            return Err(Error::new(ErrorKind::Internal, "a scan has columns that its table lacks"));
        }
        let (projection, limit) = (self.projection.clone(), self.limit);
        Ok(OpenScan { table, spec, projection, limit })
    }
}

#[cfg(feature = "cluster")]
impl OpenScan {
    /// Reads the rows of units, in order, as one partition.
    ///
    /// # Errors
    /// As [`ShippedUnit::open`].
    pub(crate) async fn scan(
        &self,
        session: &dyn Session,
        units: &[ShippedUnit],
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let opened = units.iter().map(|unit| unit.open(&self.spec)).collect::<Result<Vec<_>>>();
        let opened = opened.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let table = self.table.of_files(opened);
        table.scan(session, self.projection.as_ref(), &[], self.limit).await
    }
}

fn schema_bytes(schema: &Schema) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let written = StreamWriter::try_new(&mut bytes, schema).and_then(|mut out| out.finish());
    written.map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot describe the columns of the source").source(error)
    })?;
    Ok(bytes)
}

fn schema_of(bytes: &[u8]) -> Result<SchemaRef> {
    let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(|error| {
        Error::new(ErrorKind::Internal, "the columns of the source are unreadable").source(error)
    })?;
    Ok(reader.schema())
}
