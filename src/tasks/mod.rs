//! One task a file: what a model does with columns. A [`Task`] knows its column's type from config files
//! alone and turns rows into [`EncodedRow`]s; its [`TaskModel`] holds weights and turns a batch of them
//! into an Arrow array. Not here: batching, order, workers (`crate::engine`).

mod feature_extraction;
mod models;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};

use crate::error::{Error, ErrorKind, Result};

pub use feature_extraction::{FeatureExtractionTask, module_names};
pub use models::{Models, ResolvedModel};

/// What one row gives to a forward pass. Rows that are equal give equal results, so they are computed
/// once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedRow {
    /// Token ids, special tokens included.
    pub input_ids: Vec<u32>,
    /// Segment ids, as many; empty when all are 0.
    pub token_type_ids: Vec<u32>,
    /// Whether the text was longer than the model takes and was cut.
    pub truncated: bool,
}

impl EncodedRow {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }
}

/// What a run says about a model, in plans, reports and lineage.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelSummary {
    /// The task's Hugging Face id.
    pub task: &'static str,
    /// The model as the pipeline names it.
    pub name: String,
    /// Hub id or directory.
    pub repo: String,
    /// The commit that the revision was resolved to; `None` for a local directory.
    pub commit: Option<String>,
    /// `model_type` of its `config.json`.
    pub model_type: String,
    /// The dtype computed in.
    pub dtype: &'static str,
    /// The device computed on.
    pub device: &'static str,
    /// blake3 of the tokenizer's files.
    pub tokenizer: String,
    /// The step's options, as JSON.
    pub options: serde_json::Value,
}

/// The size of a model, read from the tables of contents of its weight files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightSize {
    /// Number of parameters.
    pub parameters: usize,
    /// Bytes in memory, in the dtype computed in.
    pub bytes: usize,
}

/// A task with its model resolved, but without weights: enough for schemas, plans and tokenising.
pub trait Task: std::fmt::Debug + Send + Sync {
    /// The columns that the task reads, as named in the step.
    fn inputs(&self) -> Vec<&str>;

    /// The column that the task adds; known from config files alone.
    fn field(&self) -> &FieldRef;

    /// Checks the types of the input columns, in the order of [`Task::inputs`].
    ///
    /// # Errors
    /// `Config` when a column has a type that the task cannot read.
    fn check_inputs(&self, types: &[&DataType]) -> Result<()>;

    /// Tokenises rows, in parallel on the current rayon pool. Null in, null out. `first_row` is the number
    /// of the first row among all that the step reads, for errors.
    ///
    /// # Errors
    /// `Data` when a row cannot be encoded.
    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>>;

    /// Bytes of output for a row of so many tokens: what a sort window holds in memory.
    fn output_bytes(&self, tokens: usize) -> usize;

    /// Loads the weights.
    ///
    /// # Errors
    /// `Hub` or `Model` when they cannot be had or do not fit the config.
    fn load(&self) -> Result<Box<dyn TaskModel>>;

    /// The size of the weights, without reading them; `None` when they are not on this machine.
    fn weights(&self) -> Option<WeightSize>;

    /// What plans, reports and lineage say.
    fn summary(&self) -> &ModelSummary;
}

/// A task with its weights.
pub trait TaskModel: Send + Sync {
    /// One forward pass: an array with one entry a row, in order.
    ///
    /// # Errors
    /// `Internal` when a tensor operation fails: rows were checked before.
    fn forward(&self, rows: &[&EncodedRow]) -> Result<ArrayRef>;

    /// Called once a sort window, in input order, with the arrays of all its batches; the place for what
    /// depends on more than one batch. The result has the type of [`Task::field`].
    ///
    /// # Errors
    /// `Internal` when an array cannot be built.
    fn finish_window(&self, batches: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        Ok(batches)
    }

    /// The size of the loaded weights.
    fn weights(&self) -> WeightSize;
}

/// Whether a column of this type holds text: Utf8, LargeUtf8, Utf8View or a dictionary of one of them.
pub fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// A text column as views. Every Arrow string type is taken; views share its buffers where they can.
///
/// # Errors
/// `Internal` when the column is not text: plans check it before.
pub fn text_column(column: &ArrayRef) -> Result<StringViewArray> {
    cast(column, &DataType::Utf8View)
        .map(|array| array.as_string_view().clone())
        .map_err(|e| Error::new(ErrorKind::Internal, "column is not text").source(e))
}

/// The error for a column that is not text.
fn not_text(column: &str, data_type: &DataType) -> Error {
    Error::new(ErrorKind::Config, format!("column `{column}` is {data_type}, expected text"))
        .hint(format!("choose a text column, or cast it in a `sql` step: SELECT *, CAST({column} AS STRING) AS {column}_text FROM input"))
}

/// Rows of a text column that are not null.
fn texts(column: &StringViewArray) -> impl Iterator<Item = Option<&str>> {
    (0..column.len()).map(|row| column.is_valid(row).then(|| column.value(row)))
}
