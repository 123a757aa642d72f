//! The results: `Table` and `Array`, which every library with the Arrow PyCapsule interface reads.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StructArray, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use hfauto_pipe::{Error, ErrorKind};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList, PyTuple};
use pyo3_arrow::ffi::{
    ArrayIterator, to_array_pycapsules, to_schema_pycapsule, to_stream_pycapsule,
};

use crate::errors::raise;
use crate::values::{to_list, to_python};

/// A table of Arrow columns. `pyarrow.table(table)`, `polars.from_arrow(table)` and DuckDB read it without copies.
#[pyclass(frozen, module = "hfauto_pipe")]
pub(crate) struct Table {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

/// An Arrow column, in chunks. `pyarrow.chunked_array(array)` and `polars.Series(array)` read it without copies.
#[pyclass(frozen, module = "hfauto_pipe")]
pub(crate) struct Array {
    field: FieldRef,
    chunks: Vec<ArrayRef>,
}

impl Table {
    pub(crate) fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches }
    }

    /// The column with this index.
    pub(crate) fn array(&self, index: usize) -> Array {
        let chunks = self.batches.iter().map(|batch| Arc::clone(batch.column(index)));
        Array { field: Arc::clone(&self.schema.fields()[index]), chunks: chunks.collect() }
    }

    /// The number of columns.
    pub(crate) fn width(&self) -> usize {
        self.schema.fields().len()
    }

    fn field(&self) -> Field {
        let fields = self.schema.fields().clone();
        Field::new_struct("", fields, false).with_metadata(self.schema.metadata().clone())
    }
}

#[pymethods]
impl Table {
    /// The number of rows.
    #[getter]
    fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The names of the columns, in order.
    #[getter]
    fn column_names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The rows as a list of dicts.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows = PyList::empty(py);
        for batch in &self.batches {
            for row in 0..batch.num_rows() {
                let values = PyDict::new(py);
                for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
                    values.set_item(field.name(), to_python(py, column, row)?)?;
                }
                rows.append(values)?;
            }
        }
        Ok(rows)
    }

    /// The column with this name.
    fn __getitem__(&self, name: &str) -> PyResult<Array> {
        let index = self.schema.fields().iter().position(|field| field.name() == name);
        let columns = self.column_names().join("`, `");
        let missing = || PyKeyError::new_err(format!("no column `{name}`: there are `{columns}`"));
        index.map(|index| self.array(index)).ok_or_else(missing)
    }

    fn __len__(&self) -> usize {
        self.num_rows()
    }

    fn __repr__(&self) -> String {
        let mut text = format!("hfauto_pipe.Table of {} rows", self.num_rows());
        for field in self.schema.fields() {
            let _ = write!(text, "\n  {}: {}", field.name(), field.data_type());
        }
        text
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        Ok(to_schema_pycapsule(py, self.schema.as_ref())?)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let batches = self.batches.clone().into_iter();
        let arrays = batches.map(|batch| Ok(Arc::new(StructArray::from(batch)) as ArrayRef));
        let reader = ArrayIterator::new(arrays, Arc::new(self.field()));
        Ok(to_stream_pycapsule(py, Box::new(reader), requested_schema)?)
    }
}

#[pymethods]
impl Array {
    /// The values as a list.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        to_list(py, &self.chunks)
    }

    fn __len__(&self) -> usize {
        self.chunks.iter().map(arrow::array::Array::len).sum()
    }

    fn __repr__(&self) -> String {
        format!("hfauto_pipe.Array of {} values: {}", self.__len__(), self.field.data_type())
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        Ok(to_schema_pycapsule(py, self.field.as_ref())?)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let chunks: Vec<&dyn arrow::array::Array> = self.chunks.iter().map(AsRef::as_ref).collect();
        let whole = match chunks[..] {
            [] => new_empty_array(self.field.data_type()),
            [_] => Arc::clone(&self.chunks[0]),
            _ => concat(&chunks).map_err(|e| {
                let message = "the column does not fit in one array: read it as a stream of chunks";
                raise(py, &Error::new(ErrorKind::Resources, message).source(e))
            })?,
        };
        let field = Arc::clone(&self.field);
        Ok(to_array_pycapsules(py, field, &whole, requested_schema)?)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let chunks: Vec<_> = self.chunks.iter().map(|chunk| Ok(Arc::clone(chunk))).collect();
        let reader = ArrayIterator::new(chunks, Arc::clone(&self.field));
        Ok(to_stream_pycapsule(py, Box::new(reader), requested_schema)?)
    }
}
