//! A list of files as a DataFusion table whose rows come in the order of the list. DataFusion's own
//! `ListingTable` lists concurrently and sorts files by path; its scan, with its projection, filter and
//! limit pushdown, is what is used here. Not here: how the list or the schema is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::{CsvOptions, JsonOptions};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat as DataFusionFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use super::inspect::{Rows, Start};
use super::invalid::{InvalidText, LossyFiles, Marker};
use super::listing::{Form, ListedFile};
use super::units::{Part, Unit, units_of};
use crate::config::pipeline::{CsvSpec, FileFormat};

/// Files of one form and schema, in order.
#[derive(Debug)]
pub(super) struct FilesTable {
    files: Vec<TableFile>,
    form: Form,
    csv: CsvSpec,
    table_schema: TableSchema,
    partition_fields: Vec<FieldRef>,
    /// Columns that say which texts are not UTF-8.
    markers: Vec<Marker>,
    /// The columns of files, their hive partitions, then the markers.
    schema: SchemaRef,
}

/// A file of a table, and what is known of its size.
#[derive(Clone, Debug)]
pub(super) struct TableFile {
    pub(super) file: ListedFile,
    pub(super) rows: Rows,
    pub(super) text_bytes: BTreeMap<String, u64>,
    pub(super) starts: Vec<Start>,
    /// Texts that are not UTF-8, where these are no errors.
    pub(super) invalid: Arc<InvalidText>,
    /// The part of it that is read; all of it when `None`.
    pub(super) part: Option<Part>,
    /// The first row of the part.
    pub(super) first_row: u64,
}

impl FilesTable {
    /// A table of `files`, which hold `file_schema`. The hive partitions that the files do not have as
    /// columns of their own become text columns after them: a file's own column has the real type.
    pub(super) fn new(
        mut files: Vec<TableFile>,
        form: Form,
        csv: CsvSpec,
        file_schema: SchemaRef,
    ) -> Self {
        let mut partition_fields: Vec<FieldRef> = Vec::new();
        for TableFile { file, .. } in &mut files {
            file.partitions.retain(|(key, _)| file_schema.field_with_name(key).is_err());
        }
        if let Some(first) = files.first() {
            for (index, (key, _)) in first.file.partitions.iter().enumerate() {
                let nullable = files.iter().any(|file| file.file.partitions[index].1.is_none());
                partition_fields.push(Arc::new(Field::new(key, DataType::Utf8, nullable)));
            }
        }
        let table_schema = TableSchema::builder(file_schema)
            .with_table_partition_cols(partition_fields.clone())
            .build();
        let schema = Arc::clone(table_schema.table_schema());
        Self { files, form, csv, table_schema, partition_fields, markers: Vec::new(), schema }
    }

    /// The same table with a column of messages more for each column that has texts that are not UTF-8; `None`
    /// where there are none.
    pub(super) fn with_markers(&self) -> Option<Self> {
        let mut fields = self.schema.fields().to_vec();
        let mut markers: Vec<Marker> = Vec::new();
        for column in self.files.iter().flat_map(|file| &file.invalid.columns) {
            if markers.iter().any(|marker| marker.column == *column) {
                continue;
            }
            let mut marker = format!("__invalid_utf8_{}", markers.len());
            while fields.iter().any(|field| *field.name() == marker) {
                marker.push('_');
            }
            fields.push(Arc::new(Field::new(&marker, DataType::Utf8, true)));
            markers.push(Marker { column: column.clone(), marker });
        }
        let schema = Arc::new(Schema::new(fields));
        (!markers.is_empty()).then(|| Self { markers, schema, ..self.of_files(self.files.clone()) })
    }

    /// The columns that [`FilesTable::with_markers`] added.
    pub(super) fn markers(&self) -> &[Marker] {
        &self.markers
    }

    fn of_files(&self, files: Vec<TableFile>) -> Self {
        Self {
            files,
            form: self.form,
            csv: self.csv,
            table_schema: self.table_schema.clone(),
            partition_fields: self.partition_fields.clone(),
            markers: self.markers.clone(),
            schema: Arc::clone(&self.schema),
        }
    }

    /// The units of its files, in order.
    pub(super) fn units(&self) -> Vec<Unit> {
        self.files.iter().enumerate().flat_map(|(index, file)| units_of(index, file)).collect()
    }

    /// The table of the rows of one unit.
    pub(super) fn of_unit(&self, unit: &Unit) -> Self {
        let mut file = self.files[unit.file].clone();
        file.part.clone_from(&unit.part);
        file.first_row = unit.rows.as_ref().map_or(0, |rows| rows.start);
        self.of_files(vec![file])
    }

    /// A scan of files some of whose texts are not UTF-8.
    fn scan_lossy(
        &self,
        files: Vec<&TableFile>,
        schema: SchemaRef,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let files = LossyFiles {
            files: files.into_iter().cloned().collect(),
            csv: self.csv,
            file_schema: Arc::clone(self.table_schema.file_schema()),
            markers: self.markers.clone(),
            schema: Arc::clone(&schema),
        };
        let partitions: Vec<Arc<dyn PartitionStream>> = vec![Arc::new(files)];
        Ok(Arc::new(StreamingTableExec::try_new(schema, partitions, None, [], false, limit)?))
    }

    fn format(&self) -> Arc<dyn DataFusionFormat> {
        match self.form.format {
            // The view types of strings are a property of the schema, which is ours.
            FileFormat::Parquet => Arc::new(ParquetFormat::new()),
            FileFormat::Arrow => Arc::new(ArrowFormat),
            FileFormat::Csv => Arc::new(CsvFormat::default().with_options(CsvOptions {
                has_header: Some(self.csv.has_header),
                delimiter: self.csv.delimiter,
                newlines_in_values: Some(true),
                compression: self.form.codec,
                ..CsvOptions::default()
            })),
            FileFormat::Jsonl => Arc::new(JsonFormat::default().with_options(JsonOptions {
                compression: self.form.codec,
                ..JsonOptions::default()
            })),
        }
    }

    /// The files that may have rows for `filters`, by their hive partitions alone.
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
                    Arc::new(values.collect::<StringArray>()) as ArrayRef
                })
                .collect();
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
            let kept = state
                .create_physical_expr(filter.clone(), &df_schema)
                .and_then(|filter| filter.evaluate(&batch)?.into_array(files.len()));
            // What cannot be evaluated here fails in the scan, with the rows.
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

    /// Rows, and bytes of text columns, of `files`. They are exact only where nothing cuts them.
    fn statistics(&self, files: &[&TableFile], limit: Option<usize>) -> Statistics {
        let schema = self.schema();
        let mut statistics = Statistics::new_unknown(&schema);
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
                files.iter().map(|file| file.text_bytes.get(field.name()).copied()).sum();
            if let Some(bytes) = bytes.filter(|_| is_text(field.data_type())) {
                column.byte_size = Precision::Inexact(bytes as usize);
            }
        }
        statistics
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A file as DataFusion's scan takes it.
fn partitioned(TableFile { file, part, .. }: &TableFile) -> Result<PartitionedFile> {
    let location = match &file.remote {
        Some(remote) => remote.place.path.clone(),
        // Object store paths have no `..`.
        None => object_store::path::Path::from_absolute_path(file.path.canonicalize()?)
            .map_err(object_store::Error::from)
            .map_err(DataFusionError::from)?,
    };
    let values = file.partitions.iter().map(|(_, value)| ScalarValue::Utf8(value.clone()));
    let mut partitioned = PartitionedFile::new("", file.bytes);
    partitioned.object_meta.location = location;
    let partitioned = partitioned.with_partition_values(values.collect());
    Ok(match part {
        None => partitioned,
        Some(Part::Bytes(bytes)) => partitioned.with_range(bytes.start as i64, bytes.end as i64),
        Some(Part::Rows { rows, of }) => {
            let selectors = vec![
                RowSelector::skip(rows.start as usize),
                RowSelector::select((rows.end - rows.start) as usize),
                RowSelector::skip((of - rows.end) as usize),
            ];
            let selection = ParquetRowSelection::new(RowSelection::from(selectors));
            partitioned.with_extension(selection)
        }
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
        let is_lossy = files.iter().any(|file| !file.invalid.columns.is_empty());
        if files.is_empty() || is_lossy || !self.markers.is_empty() {
            let schema = match projection {
                Some(projection) => Arc::new(self.schema().project(projection)?),
                None => self.schema(),
            };
            if files.is_empty() {
                return Ok(Arc::new(EmptyExec::new(schema)));
            }
            return self.scan_lossy(files, schema, limit);
        }
        let statistics = self.statistics(&files, limit);
        let store = match files.first().and_then(|file| file.file.remote.as_ref()) {
            Some(remote) => {
                let place = &remote.place;
                let store = Arc::clone(&place.store);
                state.runtime_env().register_object_store(place.url.as_ref(), store);
                place.url.clone()
            }
            None => ObjectStoreUrl::local_filesystem(),
        };
        let files = files.into_iter().map(partitioned).collect::<Result<Vec<_>>>()?;
        let format = self.format();
        let source = format.file_source(self.table_schema.clone());
        let config = FileScanConfigBuilder::new(store, source)
            // One group is one partition: files are read one after another in this order.
            .with_file_groups(vec![FileGroup::new(files)])
            .with_preserve_order(true)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_statistics(statistics)
            .build();
        format.create_physical_plan(state, config).await
    }
}
