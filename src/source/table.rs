//! A list of files as a DataFusion table whose rows keep the order of the list. DataFusion's own `ListingTable` lists
//! concurrently and sorts files by path. DataFusion's scan, with projection, filter and limit pushdown, reads Parquet and
//! Arrow; the module `reader` reads other formats, and files that must be converted to one schema. Not here: the list and
//! the schema.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat as DataFusionFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use futures::stream::{self, StreamExt};

use super::invalid::{InvalidColumn, Marker};
use super::listing::ListedFile;
use super::local;
use super::parquet_reader::CheckedReaders;
use super::reader::{FilesExec, Reading};
use super::scan::{ScanExec, of_rows};
use super::schema::Merged;
use super::session::ROWS_PER_BATCH;
use super::table_file::TableFile;
#[cfg(feature = "cluster")]
use super::unit_scan::{ScansOfUnits, UnitScanExec};
use super::units::{Part, Unit, UnitSize};
use crate::config::pipeline::{CsvSpec, FileFormat, SourceSpec};

/// The files whose value sizes are inspected concurrently: in a store, each may take a request.
const FILES_AT_ONCE: usize = 16;

/// Files of one format, in order.
#[derive(Debug)]
pub(super) struct FilesTable {
    files: Arc<[TableFile]>,
    format: FileFormat,
    csv: CsvSpec,
    /// Whether DataFusion's scan can convert every file to the schema.
    is_plain: bool,
    table_schema: TableSchema,
    partition_fields: Vec<FieldRef>,
    /// The columns of files, before partitions replace some.
    columns: SchemaRef,
    /// Hidden columns that mark texts that are not UTF-8.
    markers: Vec<Marker>,
    /// The columns of files, their hive partitions, then the markers.
    schema: SchemaRef,
    /// The source spec.
    spec: Arc<SourceSpec>,
    /// The position in `table_schema` of each column of `schema`, except markers.
    positions: Vec<usize>,
}

impl FilesTable {
    /// A table of `files`, converted to the merged schema. Their hive partitions become columns after those of the
    /// files. A partition replaces a file's column of the same name. It takes the column's type if the values of all
    /// folders parse as that type.
    pub(super) fn new(
        files: Vec<TableFile>,
        format: FileFormat,
        spec: &SourceSpec,
        merged: &Merged,
    ) -> Self {
        let (is_plain, file_schema) = (merged.is_plain, &merged.schema);
        let mut partition_fields: Vec<FieldRef> = Vec::new();
        if let Some(first) = files.first() {
            for (index, (key, _)) in first.file.partitions.iter().enumerate() {
                let values: StringArray =
                    files.iter().map(|file| file.file.partitions[index].1.as_deref()).collect();
                let own = file_schema.field_with_name(key).ok();
                let data_type = own
                    .map(Field::data_type)
                    .filter(|data_type| holds(data_type, &values))
                    .cloned()
                    .unwrap_or(DataType::Utf8);
                let is_nullable = values.null_count() > 0;
                partition_fields.push(Arc::new(Field::new(key, data_type, is_nullable)));
            }
        }
        Self::with_partitions(files, format, spec, file_schema, is_plain, partition_fields)
    }

    /// A table of `files` with known columns: `file_schema`, and `partition_fields` for the hive partitions.
    pub(super) fn with_partitions(
        files: Vec<TableFile>,
        format: FileFormat,
        spec: &SourceSpec,
        file_schema: &SchemaRef,
        is_plain: bool,
        partition_fields: Vec<FieldRef>,
    ) -> Self {
        let (read, columns) = beside_partitions(file_schema, &partition_fields, format);
        let table_schema = TableSchema::builder(Arc::new(read))
            .with_table_partition_cols(partition_fields.clone())
            .build();
        let all = table_schema.table_schema();
        let fields: Vec<FieldRef> =
            columns.iter().map(|column| Arc::clone(&all.fields()[*column])).collect();
        let schema = Arc::new(Schema::new(fields));
        let markers = Vec::new();
        let (csv, spec, positions) = (spec.csv.clone(), Arc::new(spec.clone()), columns);
        Self {
            files: files.into(),
            format,
            csv,
            is_plain,
            table_schema,
            partition_fields,
            columns: Arc::clone(file_schema),
            markers,
            schema,
            spec,
            positions,
        }
    }

    /// The same table with an additional column of messages for each column with texts that are not UTF-8; `None` if there
    /// are no such texts.
    pub(super) fn with_markers(&self) -> Option<Self> {
        let mut names: Vec<String> =
            self.schema.fields().iter().map(|field| field.name().clone()).collect();
        let mut markers: Vec<Marker> = Vec::new();
        for InvalidColumn { name, is_half } in
            self.files.iter().flat_map(|file| &file.invalid.columns)
        {
            let is_folder = self.partition_fields.iter().any(|field| field.name() == name);
            let mut known = markers.iter();
            if is_folder || known.any(|known| known.column == *name && known.is_half == *is_half) {
                continue;
            }
            let mut marker = format!("__invalid_utf8_{}", markers.len());
            while names.contains(&marker) {
                marker.push('_');
            }
            names.push(marker.clone());
            markers.push(Marker { column: name.clone(), marker, is_half: *is_half });
        }
        (!markers.is_empty()).then(|| self.marked(markers))
    }

    /// The same table with these columns of messages.
    pub(super) fn marked(&self, markers: Vec<Marker>) -> Self {
        let messages =
            markers.iter().map(|marker| Field::new(&marker.marker, DataType::Utf8, true));
        let fields = self.schema.fields().iter().cloned().chain(messages.map(Arc::new));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()));
        Self { markers, schema, ..self.of_files(Arc::clone(&self.files)) }
    }

    /// The columns of its files, before hive partitions replace some; as [`FilesTable::with_partitions`] takes them.
    pub(super) fn file_columns(&self) -> (&SchemaRef, bool, &[FieldRef]) {
        (&self.columns, self.is_plain, &self.partition_fields)
    }

    /// The format of its files.
    pub(super) fn format(&self) -> FileFormat {
        self.format
    }

    /// The source spec.
    pub(super) fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    /// Its files, in order.
    pub(super) fn files(&self) -> impl Iterator<Item = &ListedFile> {
        self.files.iter().map(|file| &file.file)
    }

    /// The columns that [`FilesTable::with_markers`] adds.
    pub(super) fn markers(&self) -> &[Marker] {
        &self.markers
    }

    /// The same table over other files, or parts of files.
    pub(super) fn of_files(&self, files: impl Into<Arc<[TableFile]>>) -> Self {
        Self {
            files: files.into(),
            format: self.format,
            csv: self.csv.clone(),
            is_plain: self.is_plain,
            table_schema: self.table_schema.clone(),
            partition_fields: self.partition_fields.clone(),
            columns: Arc::clone(&self.columns),
            markers: self.markers.clone(),
            schema: Arc::clone(&self.schema),
            spec: Arc::clone(&self.spec),
            positions: self.positions.clone(),
        }
    }

    /// The units of its files, in order.
    pub(super) fn units(&self, size: &UnitSize) -> Vec<Unit> {
        self.files.iter().enumerate().flat_map(|(index, file)| file.units(index, size)).collect()
    }

    /// The rows of one unit.
    pub(super) fn file_of_unit(&self, unit: &Unit) -> TableFile {
        self.files[unit.file].of_unit(unit)
    }

    /// The same table over the rows of one unit.
    pub(super) fn of_unit(&self, unit: TableFile) -> Self {
        self.of_files(vec![unit])
    }

    /// A scan for other processes, with one partition per unit.
    #[cfg(feature = "cluster")]
    fn scan_units(
        &self,
        files: &[&TableFile],
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut statistics = self.statistics(files, limit).project(Some(&self.positions));
        statistics
            .column_statistics
            .resize(self.schema.fields().len(), ColumnStatistics::default());
        let units = files.iter().enumerate();
        let units = units.flat_map(|(number, file)| {
            let units = file.units(number, &UnitSize::default());
            units.into_iter().map(|unit| file.of_unit(&unit)).collect::<Vec<_>>()
        });
        let units: Vec<TableFile> = units.collect();
        Ok(Arc::new(UnitScanExec {
            format: self.format,
            spec: Arc::clone(&self.spec),
            columns: Arc::clone(&self.columns),
            is_plain: self.is_plain,
            partitions: self.partition_fields.clone(),
            files: files.len(),
            limit,
            statistics: Arc::new(statistics.project(projection)),
            projection: projection.cloned(),
            properties: UnitScanExec::properties_of(
                match projection {
                    Some(projection) => Arc::new(self.schema.project(projection)?),
                    None => Arc::clone(&self.schema),
                },
                units.len(),
            ),
            units,
        }))
    }

    /// A scan by our own readers.
    fn scan_files(
        &self,
        files: &[&TableFile],
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut statistics = self.statistics(files, limit).project(Some(&self.positions));
        statistics
            .column_statistics
            .resize(self.schema.fields().len(), ColumnStatistics::default());
        let known = self.shared(files);
        let rows = files.iter().map(|file| file.known_rows()).sum();
        let reading = Reading {
            files: Arc::clone(&known),
            csv: self.csv.clone(),
            file_schema: Arc::clone(self.table_schema.file_schema()),
            markers: self.markers.clone(),
            schema: match projection {
                Some(projection) => Arc::new(self.schema.project(projection)?),
                None => Arc::clone(&self.schema),
            },
            limit,
        };
        let scan = FilesExec::new(reading, statistics.project(projection));
        Ok(Arc::new(ScanExec::new(Arc::new(scan), known, rows)))
    }

    /// The number of rows per batch of Parquet files: the minimum over all files of the scan.
    async fn batch_rows(
        &self,
        files: &[TableFile],
        projection: Option<&Vec<usize>>,
    ) -> Result<usize> {
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => Arc::clone(&self.schema),
        };
        let files = files.iter().filter(|file| !file.layout.large_values.is_empty());
        let files: Vec<TableFile> = files.cloned().collect();
        let sizes = stream::iter(files).map(|file| {
            let schema = Arc::clone(&schema);
            SpawnedTask::spawn_blocking(move || {
                file.parquet_batch_rows(|name| schema.field_with_name(name).is_ok())
            })
        });
        let mut sizes = sizes.buffered(FILES_AT_ONCE);
        let mut least = ROWS_PER_BATCH;
        while let Some(rows) = sizes.next().await {
            let rows = rows.map_err(|error| DataFusionError::External(Box::new(error)))?;
            least = least.min(rows.map_err(|error| DataFusionError::External(Box::new(error)))?);
        }
        Ok(least)
    }

    /// Files that are left after pruning.
    fn shared(&self, files: &[&TableFile]) -> Arc<[TableFile]> {
        if files.len() == self.files.len() {
            return Arc::clone(&self.files);
        }
        files.iter().map(|file| (*file).clone()).collect()
    }

    /// The files that may have rows for `filters`, by their hive partitions.
    fn pruned(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<&TableFile>> {
        let mut files: Vec<&TableFile> = self.files.iter().collect();
        if self.partition_fields.is_empty() {
            return Ok(files);
        }
        let schema = Arc::new(Schema::new(self.partition_fields.clone()));
        let df_schema = DFSchema::try_from(Arc::clone(&schema))?;
        for filter in filters {
            let only_partitions = filter
                .column_refs()
                .iter()
                .all(|column| schema.field_with_name(column.name()).is_ok());
            if !only_partitions || filter.is_volatile() {
                continue;
            }
            let columns = (0..self.partition_fields.len())
                .map(|index| {
                    let values = files.iter().map(|file| file.file.partitions[index].1.as_deref());
                    let values = values.collect::<StringArray>();
                    Ok(cast(&values, self.partition_fields[index].data_type())?)
                })
                .collect::<Result<Vec<ArrayRef>>>()?;
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
            let kept = state
                .create_physical_expr(filter.clone(), &df_schema)
                .and_then(|filter| filter.evaluate(&batch)?.into_array(files.len()));
            // A filter that cannot be evaluated here fails in the scan, with the rows.
            let Ok(kept) = kept else { continue };
            if let Some(kept) = kept.as_boolean_opt() {
                let mut index = 0;
                files.retain(|_| {
                    index += 1;
                    kept.is_valid(index - 1) && kept.value(index - 1)
                });
            }
        }
        Ok(files)
    }

    /// The rows of `files` and the bytes of their text columns. They are exact only without filter and limit.
    fn statistics(&self, files: &[&TableFile], limit: Option<usize>) -> Statistics {
        let schema = self.table_schema.table_schema();
        let mut statistics = Statistics::new_unknown(schema);
        let rows: Option<u64> = files.iter().map(|file| file.rows.exactly()).sum();
        let Some(rows) = rows.filter(|_| files.iter().all(|file| file.part.is_none())) else {
            return statistics;
        };
        let rows = rows as usize;
        statistics.num_rows = match limit {
            Some(limit) if limit < rows => Precision::Inexact(limit),
            _ => Precision::Exact(rows),
        };
        for (field, column) in schema.fields().iter().zip(&mut statistics.column_statistics) {
            let bytes: Option<u64> =
                files.iter().map(|file| file.text_bytes.of(field.name())).sum();
            let is_of_files = !self.partition_fields.contains(field);
            if let Some(bytes) = bytes.filter(|_| is_of_files && is_text(field.data_type())) {
                column.byte_size = Precision::Inexact(bytes as usize);
            }
        }
        statistics
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether all partition values parse as a type.
fn holds(data_type: &DataType, values: &StringArray) -> bool {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let is_plain = data_type.is_primitive() || *data_type == DataType::Boolean;
    is_plain && cast_with_options(values, data_type, &options).is_ok()
}

/// The columns to read from files with hive partitions, and the position of each table column among them and the
/// partitions, which come after them. A column replaced by a partition is not read; in formats that identify columns by
/// position, it stays in place under another name.
fn beside_partitions(
    file_schema: &Schema,
    partitions: &[FieldRef],
    format: FileFormat,
) -> (Schema, Vec<usize>) {
    let of_folder = |name: &str| partitions.iter().position(|field| field.name() == name);
    let by_position = format == FileFormat::Arrow;
    let mut read: Vec<FieldRef> = Vec::new();
    let mut columns: Vec<Result<usize, usize>> = Vec::new();
    for field in file_schema.fields() {
        match of_folder(field.name()) {
            None => {
                columns.push(Ok(read.len()));
                read.push(Arc::clone(field));
            }
            Some(partition) => {
                columns.push(Err(partition));
                if by_position {
                    let mut name = format!("__file_{}", field.name());
                    while file_schema.field_with_name(&name).is_ok() {
                        name.push('_');
                    }
                    read.push(Arc::new(field.as_ref().clone().with_name(name)));
                }
            }
        }
    }
    let more = (0..partitions.len()).filter(|partition| !columns.contains(&Err(*partition)));
    let more: Vec<_> = more.map(Err).collect();
    let columns = columns.into_iter().chain(more);
    let columns = columns.map(|column| match column {
        Ok(column) => column,
        Err(partition) => read.len() + partition,
    });
    let columns = columns.collect();
    (Schema::new(read), columns)
}

/// A file in the form of DataFusion's scan.
fn partitioned(
    TableFile { file, part, .. }: &TableFile,
    partitions: &[FieldRef],
) -> Result<PartitionedFile> {
    let location = match &file.remote {
        Some(remote) => remote.place.path.clone(),
        // Object store paths have no `..`.
        None => object_store::path::Path::from_absolute_path(&file.real)
            .map_err(object_store::Error::from)
            .map_err(DataFusionError::from)?,
    };
    let values = file
        .partitions
        .iter()
        .zip(partitions)
        .map(|((_, value), field)| ScalarValue::Utf8(value.clone()).cast_to(field.data_type()));
    let values = values.collect::<Result<Vec<_>>>()?;
    let mut partitioned = PartitionedFile::new("", file.bytes);
    partitioned.object_meta.location = location;
    // Distinguishes this file's footer from that of an earlier file at the same path.
    partitioned.object_meta.e_tag = Some(file.stamp.to_string());
    let partitioned = partitioned.with_partition_values(values);
    Ok(match part {
        None => partitioned,
        Some(Part::Bytes(bytes)) => partitioned.with_range(bytes.start as i64, bytes.end as i64),
        Some(Part::Rows { rows, of }) => of_rows(partitioned, rows, *of),
    })
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // Files, row groups and pages without matching rows are skipped; the rest is filtered above.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let files = self.pruned(state, filters)?;
        if files.is_empty() {
            let schema = match projection {
                Some(projection) => Arc::new(self.schema().project(projection)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        #[cfg(feature = "cluster")]
        if state.config().get_extension::<ScansOfUnits>().is_some() {
            return self.scan_units(&files, projection, limit);
        }
        let is_lossy = files.iter().any(|file| !file.invalid.columns.is_empty());
        // DataFusion's scan of Arrow files selects no rows.
        let is_part = self.format == FileFormat::Arrow && files.iter().any(|f| f.part.is_some());
        let is_own = self.format.is_text() || is_part || !self.is_plain;
        if is_own || is_lossy || !self.markers.is_empty() {
            return self.scan_files(&files, projection, limit);
        }
        let statistics = self.statistics(&files, limit);
        let runtime = state.runtime_env();
        let store = match files.first().and_then(|file| file.file.remote.as_ref()) {
            Some(remote) => {
                let place = &remote.place;
                runtime.register_object_store(place.url.as_ref(), Arc::clone(&place.store));
                place.url.clone()
            }
            None => local::register(runtime)?,
        };
        let known = self.shared(&files);
        let rows = files.iter().map(|file| file.known_rows()).sum();
        let files = files.into_iter().map(|file| partitioned(file, &self.partition_fields));
        let files = files.collect::<Result<Vec<_>>>()?;
        let source: Arc<dyn FileSource> = match self.format {
            // Whether strings are view types depends on our schema.
            FileFormat::Parquet => {
                let readers =
                    CheckedReaders::new(store.as_str(), runtime.object_store(store.clone())?);
                let options = ParquetFormat::new();
                let mut source = ParquetSource::new(self.table_schema.clone())
                    .with_table_parquet_options(options.options().clone())
                    .with_parquet_file_reader_factory(Arc::new(readers));
                if let Some(bytes) = options.metadata_size_hint() {
                    source = source.with_metadata_size_hint(bytes);
                }
                Arc::new(source)
            }
            _ => ArrowFormat.file_source(self.table_schema.clone()),
        };
        let batch_rows = match self.format {
            FileFormat::Parquet => Some(self.batch_rows(&known, projection).await?),
            _ => None,
        };
        let is_all =
            self.positions.iter().copied().eq(0..self.table_schema.table_schema().fields().len());
        let projection = match projection {
            None if is_all => None,
            None => Some(self.positions.clone()),
            Some(columns) => Some(columns.iter().map(|column| self.positions[*column]).collect()),
        };
        let config = FileScanConfigBuilder::new(store, source)
            // One group is one partition: files are read one after another in this order.
            .with_file_groups(vec![FileGroup::new(files)])
            .with_preserve_order(true)
            .with_projection_indices(projection)?
            .with_limit(limit)
            .with_statistics(statistics)
            .with_batch_size(batch_rows)
            .build();
        let scan = match self.format {
            // DataFusion's own plan would read files without our checks.
            FileFormat::Parquet => DataSourceExec::from_data_source(config),
            _ => ArrowFormat.create_physical_plan(state, config).await?,
        };
        Ok(Arc::new(ScanExec::new(scan, known, rows)))
    }
}
