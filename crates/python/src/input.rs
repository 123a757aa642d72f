//! Arrow data of other libraries as tables of a session.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::datasource::MemTable;
use hfauto_pipe::source::{ROWS_PER_BATCH, stream_error};
use hfauto_pipe::{Error, ErrorKind, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use pyo3_arrow::ffi::{ArrayIterator, ArrayReader};
use pyo3_arrow::{PyArray, PyArrayReader};

/// Rows that are not read yet.
pub(crate) struct Input {
    reader: Box<dyn ArrayReader + Send>,
    /// The Python type, for errors.
    name: String,
}

/// Rows as batches of one schema.
pub(crate) struct Rows {
    pub(crate) schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// Whether they are one column, not a table.
    pub(crate) is_column: bool,
}

impl Input {
    /// An object with the Arrow PyCapsule interface, or a list of texts.
    ///
    /// # Errors
    /// `TypeError` for anything else.
    pub(crate) fn of(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let name = data.get_type().name()?.to_string();
        if data.hasattr("__arrow_c_stream__")? {
            let reader = data.extract::<PyArrayReader>()?.into_reader()?;
            return Ok(Self { reader, name });
        }
        let (array, field) = if data.hasattr("__arrow_c_array__")? {
            data.extract::<PyArray>()?.into_inner()
        } else {
            texts(data, &name)?
        };
        Ok(Self { reader: Box::new(ArrayIterator::new(vec![Ok(array)], field)), name })
    }

    /// Whether it is one column. A column of structs counts as a table, because both look alike.
    pub(crate) fn is_column(&self) -> bool {
        !matches!(self.reader.field().data_type(), DataType::Struct(_))
    }

    /// Reads all rows; a column gets the name `column`. Runs without the GIL, which the other library takes if it needs
    /// it.
    ///
    /// # Errors
    /// `Data` if the other library fails.
    pub(crate) fn read(self, column: &str) -> Result<Rows> {
        let failed = |error: arrow::error::ArrowError| {
            let message = format!("cannot read the rows of `{}`", self.name);
            Error::new(ErrorKind::Data, message).source(error)
        };
        let (field, is_column) = (self.reader.field(), self.is_column());
        let schema = match field.data_type() {
            DataType::Struct(fields) => {
                Schema::new_with_metadata(fields.clone(), field.metadata().clone())
            }
            _ => Schema::new(vec![field.as_ref().clone().with_name(column).with_nullable(true)]),
        };
        let schema = Arc::new(schema);
        let mut batches = Vec::new();
        for array in self.reader {
            let array = array.map_err(failed)?;
            let batch = if is_column {
                RecordBatch::try_new(Arc::clone(&schema), vec![array]).map_err(failed)?
            } else {
                of_structs(array.as_struct(), &schema, &self.name)?
            };
            // A batch of another library may hold the whole table.
            for first in (0..batch.num_rows()).step_by(ROWS_PER_BATCH) {
                batches.push(batch.slice(first, ROWS_PER_BATCH.min(batch.num_rows() - first)));
            }
        }
        Ok(Rows { schema, batches, is_column })
    }
}

/// The rows of a table, which are structs in the C interface.
fn of_structs(rows: &StructArray, schema: &SchemaRef, name: &str) -> Result<RecordBatch> {
    if rows.null_count() > 0 {
        let message = format!("rows of `{name}` are null");
        return Err(Error::new(ErrorKind::Data, message)
            .hint("a column of structs counts as a table: put it into a table"));
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let columns = rows.columns().to_vec();
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|e| {
        let message = format!("the columns of `{name}` do not fit its schema");
        Error::new(ErrorKind::Data, message).source(e)
    })
}

/// A list or tuple of texts, where None is null.
fn texts(data: &Bound<'_, PyAny>, name: &str) -> PyResult<(ArrayRef, Arc<Field>)> {
    if !data.is_instance_of::<PyList>() && !data.is_instance_of::<PyTuple>() {
        let hint = if data.is_instance_of::<PyString>() {
            ": put the text into a list"
        } else if data.hasattr("__dataframe__")? || data.hasattr("to_frame")? {
            ": this version of its library does not have the interface yet; convert it with `pyarrow`"
        } else {
            ""
        };
        return Err(PyTypeError::new_err(format!(
            "expected a table or a column with the Arrow PyCapsule interface (pyarrow, polars, DuckDB, pandas), or a \
             list of texts; found `{name}`{hint}"
        )));
    }
    let mut texts = Vec::new();
    for (index, item) in data.try_iter()?.enumerate() {
        let item = item?;
        if !item.is_none() && !item.is_instance_of::<PyString>() {
            let found = item.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "item {index} of the list is `{found}`, expected a text or None"
            )));
        }
        texts.push(item.extract::<Option<String>>()?);
    }
    let field = Field::new("", DataType::Utf8, true);
    Ok((Arc::new(StringArray::from(texts)), Arc::new(field)))
}

impl Rows {
    /// The number of rows.
    pub(crate) fn len(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }

    /// A table of them, without copies.
    ///
    /// # Errors
    /// `Config` if column names occur twice.
    pub(crate) fn into_table(self) -> Result<MemTable> {
        let table = MemTable::try_new(self.schema, vec![self.batches]);
        table.map_err(|e| stream_error(e, &[]))
    }
}
