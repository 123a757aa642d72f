//! Encodes record batches, with one encoder per format. Not here: the destination of the bytes.
//!
//! | format  | nulls        | nested values | binary           | lineage            |
//! |---------|--------------|---------------|------------------|--------------------|
//! | Parquet | as they are  | as they are   | as they are      | footer key-values  |
//! | Arrow   | as they are  | as they are   | as they are      | schema metadata    |
//! | CSV     | empty fields | JSON text     | refused          | the manifest alone |
//! | JSONL   | `null`       | JSON          | hexadecimal text | the manifest alone |
//!
//! The module `types` defines how a format stores a type that it lacks. NaN and infinities are `null` in JSON.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use arrow::csv;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::json::writer::{LineDelimited, make_encoder};
use arrow::json::{EncoderOptions, Writer as JsonWriter, WriterBuilder as JsonWriterBuilder};
use flate2::write::GzEncoder;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression as ParquetCodec, GzipLevel, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::disk::OutFile;
use super::types::{check_times, store, stored};
use crate::config::pipeline::{Compression, FileFormat};
use crate::error::{Error, ErrorKind, Result};

/// A row group ends at this many rows or bytes, which bounds a writer's memory.
const ROW_GROUP_ROWS: usize = 1 << 20;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// The default level of zstd, for every format.
const ZSTD_LEVEL: i32 = 3;

pub(super) type Boxed = Box<dyn StdError + Send + Sync>;

/// The encoding of a run's columns, the same for all its files.
#[derive(Clone)]
pub(super) struct Encoding {
    format: FileFormat,
    compression: Compression,
    /// What a file holds.
    schema: SchemaRef,
    properties: WriterProperties,
}

impl Encoding {
    /// Fails when the format cannot hold a column.
    pub(super) fn new(
        format: FileFormat,
        compression: Compression,
        schema: &Schema,
        lineage: &[(String, String)],
        model_columns: &[String],
    ) -> Result<Self> {
        if schema.fields().is_empty() {
            return Err(Error::new(ErrorKind::Config, "there are no columns to write"));
        }
        let fields = schema.fields().iter().map(|field| stored(format, field));
        let fields = fields.collect::<Result<Vec<_>>>()?;
        let mut metadata = schema.metadata().clone();
        if format == FileFormat::Arrow {
            metadata.extend(lineage.iter().cloned());
        }
        let schema = Schema::new_with_metadata(fields, metadata);
        let properties = match format {
            FileFormat::Parquet => properties(compression, &schema, lineage, model_columns)?,
            _ => WriterProperties::default(),
        };
        Ok(Self { format, compression, schema: Arc::new(schema), properties })
    }

    /// What a file holds.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Starts a file.
    pub(super) fn start(&self, file: OutFile) -> Result<Encoder, Boxed> {
        Ok(match self.format {
            FileFormat::Parquet => Encoder::Parquet(Box::new(ArrowWriter::try_new(
                file,
                Arc::clone(&self.schema),
                Some(self.properties.clone()),
            )?)),
            FileFormat::Csv => {
                let mut writer = csv::Writer::new(Codec::new(self.compression, file)?);
                // Without rows, this empty batch writes the header.
                writer.write(&RecordBatch::new_empty(Arc::clone(&self.schema)))?;
                Encoder::Csv(Box::new(writer))
            }
            FileFormat::Jsonl => Encoder::Jsonl(Box::new(
                JsonWriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build(Codec::new(self.compression, file)?),
            )),
            FileFormat::Arrow => {
                let compression = match self.compression {
                    Compression::Zstd => Some(CompressionType::ZSTD),
                    Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
                    _ => None,
                };
                let options = IpcWriteOptions::default().try_with_compression(compression)?;
                Encoder::Arrow(Box::new(FileWriter::try_new_with_options(
                    BufWriter::new(file),
                    &self.schema,
                    options,
                )?))
            }
        })
    }

    /// Converts the columns of a batch to their stored types.
    ///
    /// # Errors
    /// `Data` for a value that the format cannot represent.
    pub(super) fn prepare(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let broken = |error| Error::new(ErrorKind::Internal, "cannot encode rows").source(error);
        let columns =
            batch.columns().iter().zip(batch.schema_ref().fields()).zip(self.schema.fields());
        let columns = columns
            .map(|((column, field), stored)| {
                if self.format.is_text() {
                    check_times(field, column)?;
                }
                match self.format {
                    FileFormat::Csv if column.data_type().is_nested() => {
                        json_text(field, column).map_err(broken)
                    }
                    _ if column.data_type() != stored.data_type() => store(column, stored),
                    _ => Ok(Arc::clone(column)),
                }
            })
            .collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(broken)
    }
}

/// Converts nested values to JSON text, as in CSV.
///
/// # Errors
/// `Config` for a column that JSON cannot represent, and the errors of [`check_text`].
pub fn nested_as_text(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        fields.push(stored(FileFormat::Csv, field)?);
        check_times(field, column)?;
        let is_nested = column.data_type().is_nested();
        columns.push(if is_nested {
            json_text(field, column).map_err(|e| {
                let message = format!("the column `{}` as JSON text", field.name());
                Error::new(ErrorKind::Internal, message).source(e)
            })?
        } else {
            Arc::clone(column)
        });
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|e| Error::new(ErrorKind::Internal, "nested values as text").source(e))
}

/// Fails for times without a text form, in place of which the JSON encoders would write an error message.
///
/// # Errors
/// `Data` with the column.
pub fn check_text(batch: &RecordBatch) -> Result<()> {
    let mut columns = batch.schema_ref().fields().iter().zip(batch.columns());
    columns.try_for_each(|(field, column)| check_times(field, column))
}

fn json_text(field: &FieldRef, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(field, column, &options)?;
    let mut text = StringBuilder::with_capacity(column.len(), 0);
    let mut buffer = Vec::new();
    for row in 0..column.len() {
        if encoder.is_null(row) {
            text.append_null();
            continue;
        }
        buffer.clear();
        encoder.encode(row, &mut buffer);
        let value = std::str::from_utf8(&buffer)
            .map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        text.append_value(value);
    }
    Ok(Arc::new(text.finish()))
}

fn properties(
    compression: Compression,
    schema: &Schema,
    lineage: &[(String, String)],
    model_columns: &[String],
) -> Result<WriterProperties> {
    let broken =
        |error| Error::new(ErrorKind::Internal, "cannot set up the Parquet writer").source(error);
    let codec = match compression {
        Compression::Uncompressed => ParquetCodec::UNCOMPRESSED,
        Compression::Zstd => ParquetCodec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).map_err(broken)?),
        Compression::Snappy => ParquetCodec::SNAPPY,
        Compression::Gzip => ParquetCodec::GZIP(GzipLevel::default()),
        Compression::Lz4 => ParquetCodec::LZ4_RAW,
    };
    let key_values = lineage.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let mut builder = WriterProperties::builder()
        .set_compression(codec)
        .set_created_by(format!("hfauto-pipe version {}", env!("CARGO_PKG_VERSION")))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_key_value_metadata(Some(key_values.collect()));
    // Numbers from a model rarely repeat, and queries do not filter by the range of a vector's components.
    let leaves = ArrowSchemaConverter::new().convert(schema).map_err(broken)?;
    for leaf in leaves.columns() {
        let path = leaf.path();
        if path.parts().first().is_some_and(|column| model_columns.contains(column)) {
            builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
    }
    Ok(builder.build())
}

/// The encoder of one file.
pub(super) enum Encoder {
    Parquet(Box<ArrowWriter<OutFile>>),
    Csv(Box<csv::Writer<Codec>>),
    Jsonl(Box<JsonWriter<Codec, LineDelimited>>),
    Arrow(Box<FileWriter<BufWriter<OutFile>>>),
}

impl Encoder {
    /// Appends rows of a prepared batch.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Boxed> {
        match self {
            Self::Parquet(writer) => writer.write(batch)?,
            Self::Csv(writer) => writer.write(batch)?,
            Self::Jsonl(writer) => writer.write(batch)?,
            Self::Arrow(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// The approximate bytes of complete rows that are not on the disk yet.
    pub(super) fn buffered_bytes(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.in_progress_size(),
            _ => 0,
        }
    }

    /// The bytes of memory that [`Self::release`] frees.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.memory_size(),
            _ => 0,
        }
    }

    /// Writes the buffered rows as a row group.
    pub(super) fn release(&mut self) -> Result<(), Boxed> {
        if let Self::Parquet(writer) = self {
            writer.flush()?;
        }
        Ok(())
    }

    /// Finishes the file.
    pub(super) fn finish(self) -> Result<OutFile, Boxed> {
        match self {
            Self::Parquet(writer) => Ok((*writer).into_inner()?),
            Self::Csv(writer) => (*writer).into_inner().finish(),
            Self::Jsonl(mut writer) => {
                writer.finish()?;
                (*writer).into_inner().finish()
            }
            Self::Arrow(mut writer) => {
                writer.finish()?;
                unbuffered((*writer).into_inner()?)
            }
        }
    }
}

/// A text file with optional compression.
pub(super) enum Codec {
    Plain(BufWriter<OutFile>),
    Gzip(GzEncoder<BufWriter<OutFile>>),
    Zstd(zstd::Encoder<'static, BufWriter<OutFile>>),
}

impl Codec {
    fn new(compression: Compression, file: OutFile) -> io::Result<Self> {
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(match compression {
            Compression::Gzip => Self::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(file, ZSTD_LEVEL)?),
            _ => Self::Plain(file),
        })
    }

    fn finish(self) -> Result<OutFile, Boxed> {
        unbuffered(match self {
            Self::Plain(file) => file,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        })
    }
}

impl Write for Codec {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(buffer),
            Self::Gzip(encoder) => encoder.write(buffer),
            Self::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // The CSV writer flushes after every batch, and ending a compressed block each time would ruin the compression.
        // `finish` writes everything.
        Ok(())
    }
}

fn unbuffered(file: BufWriter<OutFile>) -> Result<OutFile, Boxed> {
    file.into_inner().map_err(|error| Boxed::from(error.into_error()))
}

/// The schema in the manifest's form.
pub(super) fn schema_json(schema: &Schema) -> serde_json::Value {
    let fields = schema.fields().iter().map(|field| {
        let metadata: BTreeMap<_, _> = field.metadata().iter().collect();
        let mut shown = serde_json::json!({
            "name": field.name(),
            "type": field.data_type().to_string(),
            "nullable": field.is_nullable(),
        });
        if !metadata.is_empty() {
            shown["metadata"] = serde_json::json!(metadata);
        }
        shown
    });
    fields.collect()
}
