//! One file per task: how a model processes columns. A [`Task`] knows the type of its column from config
//! files alone and turns rows into [`EncodedRow`]s. Its [`TaskModel`] holds the weights and turns a batch of
//! [`Sequence`]s into an Arrow array. Not here: batching, order, workers (`crate::exec`).

mod chunk;
mod classifier;
mod definition;
mod feature_extraction;
mod fill_mask;
mod generation;
mod image_classification;
mod image_feature_extraction;
mod image_input;
mod image_rows;
mod labels;
mod late_interaction;
mod loglikelihood;
pub mod memory;
mod models;
mod multiple_choice;
mod next_sentence_prediction;
mod prompt;
mod question_answering;
mod rerank;
mod rerank_late;
mod sparse_encoding;
mod sparse_rows;
mod sparse_static;
mod spec;
mod template;
mod text2text_generation;
mod text_classification;
mod text_generation;
mod text_input;
mod token_classification;
mod token_count;
mod token_logits;
mod weights;
mod work;
mod zero_shot_classification;
mod zero_shot_image_classification;

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use candle_core::Device;

use crate::auto::{AutoClass, Encoding, HeadRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::models::Dimensions;

pub use crate::document::{ColumnOr, Cursor, StringOrList, TokenIds, TopK};
pub use chunk::{By, Chunk};
pub(crate) use definition::count;
pub use definition::{
    InputColumn, ModelOutputName, OptionsType, RawTaskStep, SqlFunction, StepKeys, TaskDefinition,
    TaskOptions, TaskStep,
};
pub use feature_extraction::{FeatureExtraction, Pooling, Precision, module_names};
pub use fill_mask::FillMask;
pub use generation::GenerationOptions;
pub use image_classification::ImageClassification;
pub use image_feature_extraction::ImageFeatureExtraction;
pub use loglikelihood::{ContextContinuation, Loglikelihood};
pub use models::{ModelPin, Models, ResolvedModel};
pub use multiple_choice::{MultipleChoice, PromptChoices};
pub use next_sentence_prediction::NextSentencePrediction;
pub use prompt::Prompt;
pub use question_answering::{QuestionAnswering, QuestionContext};
pub use rerank::{Activation, QueryDocument, Rerank};
pub use sparse_encoding::SparseEncoding;
pub use spec::{DeviceSpec, Dtype, ImagesSpec, ModelSpec};
pub use text_classification::{TextClassification, TextPair};
pub use text_generation::{Messages, TextGeneration};
pub use text2text_generation::{OnLong, Text2TextGeneration};
pub use token_classification::TokenClassification;
pub use token_count::TokenCount;
pub(crate) use work::operations;
pub use zero_shot_classification::ZeroShotClassification;
pub use zero_shot_image_classification::ZeroShotImageClassification;

/// The tasks, in the order in which schemas, lists and completions show them.
pub static TASKS: [&TaskDefinition; 20] = [
    &feature_extraction::FEATURE_EXTRACTION,
    &text_classification::TEXT_CLASSIFICATION,
    &zero_shot_classification::ZERO_SHOT_CLASSIFICATION,
    &rerank::RERANK,
    &token_classification::TOKEN_CLASSIFICATION,
    &question_answering::QUESTION_ANSWERING,
    &fill_mask::FILL_MASK,
    &sparse_encoding::SPARSE_ENCODING,
    &text_generation::TEXT_GENERATION,
    &loglikelihood::LOGLIKELIHOOD,
    &text2text_generation::TEXT2TEXT_GENERATION,
    &text2text_generation::SUMMARIZATION,
    &text2text_generation::TRANSLATION,
    &multiple_choice::MULTIPLE_CHOICE,
    &next_sentence_prediction::NEXT_SENTENCE_PREDICTION,
    &image_classification::IMAGE_CLASSIFICATION,
    &zero_shot_image_classification::ZERO_SHOT_IMAGE_CLASSIFICATION,
    &image_feature_extraction::IMAGE_FEATURE_EXTRACTION,
    &token_count::TOKEN_COUNT,
    &chunk::CHUNK,
];

/// Resolves the task of a step: reads the model's small files, not its weights.
///
/// # Errors
/// `Hub` if files cannot be obtained, `Unsupported` or `Model` if they cannot be used, `Config` for an
/// option that the model does not support.
pub fn resolve(step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
    check_auto_class(step, models)?;
    step.options.resolve(step, models)
}

/// One input of the model: the item that is sorted by length, batched and deduplicated. Most rows are one
/// sequence; a row may have several (windows of a long text, candidate labels, choices), and
/// [`Task::finish`] combines their results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Token ids, special tokens included.
    pub input_ids: Vec<u32>,
    /// Segment ids, one per token; empty if all are 0.
    pub token_type_ids: Vec<u32>,
    /// The index of the first token that counts; its meaning depends on the task. 0 if all count.
    pub start: usize,
    /// The image, for a task that reads images.
    pub image: Option<ImageSource>,
}

impl Sequence {
    /// A sequence in which all tokens count.
    pub fn new(input_ids: Vec<u32>, token_type_ids: Vec<u32>) -> Self {
        Self { input_ids, token_type_ids, ..Self::default() }
    }

    /// The number of tokens. For an image, the task has set one placeholder per patch.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }
}

/// The location of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A file.
    Path(PathBuf),
    /// An encoded image (JPEG, PNG, WebP, GIF, BMP, TIFF) in memory; shares the column's buffer.
    Bytes(ImageBytes),
}

/// Bytes of an encoded image, compared by content.
#[derive(Clone, Debug)]
pub struct ImageBytes {
    /// The bytes.
    pub buffer: arrow::buffer::Buffer,
    /// The origin for errors: the first row with these bytes.
    pub place: String,
}

impl PartialEq for ImageBytes {
    fn eq(&self, other: &Self) -> bool {
        self.buffer.as_slice() == other.buffer.as_slice()
    }
}

impl Eq for ImageBytes {}

impl Hash for ImageBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.buffer.as_slice().hash(state);
    }
}

/// A row ready for the model.
#[derive(Debug, Default)]
pub struct EncodedRow {
    /// Its sequences, in the order in which [`Task::finish`] receives their results.
    pub sequences: Vec<Sequence>,
    /// Whether the row was truncated to the model's maximum.
    pub truncated: bool,
    /// Whether the row's text was split into several sequences, because it is longer than the model reads.
    pub split: bool,
    /// Further data for [`Task::finish`], such as the offsets of tokens.
    pub note: Option<Note>,
}

/// Data that a task carries from [`Task::encode`] to [`Task::finish`].
pub type Note = Box<dyn Any + Send + Sync>;

impl From<Sequence> for EncodedRow {
    fn from(sequence: Sequence) -> Self {
        Self { sequences: vec![sequence], ..Self::default() }
    }
}

impl From<Encoding> for EncodedRow {
    fn from(encoding: Encoding) -> Self {
        let sequence = Sequence::new(encoding.input_ids, encoding.token_type_ids);
        Self { truncated: encoding.truncated, ..sequence.into() }
    }
}

impl EncodedRow {
    /// The total number of tokens of its sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Sequence::tokens).sum()
    }
}

/// The results of a batch of rows, for [`Task::finish`].
#[derive(Debug)]
pub struct Results<'a> {
    /// For each row, the range of its sequences in `values`; `None` for a null row.
    pub rows: &'a [Option<Range<usize>>],
    /// For each row, the task's note.
    pub notes: &'a [Option<Note>],
    /// One entry per sequence, of [`Task::sequence_type`].
    pub values: ArrayRef,
}

/// How a task's sequences are batched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Sequences of similar length in one forward pass, within the token budget.
    TokenBudget,
    /// A worker's whole share at once. The task batches it itself: generation replaces finished rows with
    /// waiting ones.
    Share,
    /// None: rows are computed while they are tokenized ([`TaskModel::compute_rows`]), neither sorted nor compared,
    /// because the model costs less than that.
    Rows,
}

/// The results of rows that are computed one by one.
#[derive(Debug)]
pub struct ComputedRows {
    /// One value per row, of the column's type; null for a null row.
    pub values: ArrayRef,
    /// The number of tokens of each row that is not null.
    pub tokens: Vec<usize>,
    /// How many rows were truncated.
    pub truncated: u64,
}

/// The description of a model in plans, reports and lineage.
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
    /// The dtype of the computation.
    pub dtype: &'static str,
    /// The device of the computation.
    pub device: &'static str,
    /// The blake3 hash of the tokenizer's files, or of the image processor's settings.
    pub tokenizer: String,
    /// The step's options, as JSON.
    pub options: serde_json::Value,
}

/// The size of a model, from the headers of its weight files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightSize {
    /// Number of parameters.
    pub parameters: usize,
    /// Size in memory in bytes, in the dtype of the computation.
    pub bytes: usize,
}

/// The fields common to all tasks.
#[derive(Debug)]
pub struct TaskBase {
    /// The columns that it reads, by their names in the step.
    pub columns: Vec<String>,
    /// The column that it adds.
    pub field: FieldRef,
    /// Its model, without weights.
    pub model: Arc<ResolvedModel>,
    /// The summary for plans, reports and lineage.
    pub summary: ModelSummary,
}

/// A task with its model resolved, but without weights: enough for schemas, plans and tokenization.
pub trait Task: std::fmt::Debug + Send + Sync {
    /// Its columns, model and summary.
    fn base(&self) -> &TaskBase;

    /// The columns that the task reads, by their names in the step.
    fn inputs(&self) -> Vec<&str> {
        self.base().columns.iter().map(String::as_str).collect()
    }

    /// The column that the task adds, known from config files alone.
    fn field(&self) -> &FieldRef {
        &self.base().field
    }

    /// Checks the types of the input columns, in the order of [`Task::inputs`]. By default all must be text.
    ///
    /// # Errors
    /// `Config` when a column has a type that the task cannot read.
    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        match self.base().columns.iter().zip(types).find(|(_, found)| !is_text(found)) {
            Some((column, found)) => Err(not_text(column, found)),
            None => Ok(()),
        }
    }

    /// Tokenizes rows in parallel on the current rayon pool. A null row stays null. `first_row` is the index
    /// of the first row among all rows that the step reads, for errors.
    ///
    /// # Errors
    /// `Data` when a row cannot be encoded.
    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>>;

    /// The output size in bytes of a row of `tokens` tokens, which a sort window holds in memory.
    fn output_bytes(&self, tokens: usize) -> usize;

    /// The type of one sequence in the result of [`TaskModel::forward`]: the type of the column, unless the
    /// task combines several sequences.
    fn sequence_type(&self) -> DataType {
        self.field().data_type().clone()
    }

    /// Whether every row is one sequence and its result is the row's. [`Task::finish`] is then not called.
    fn is_row_by_row(&self) -> bool {
        true
    }

    /// For a task whose step makes a row of each item of its list: about how many items a text of `bytes` bytes has, and the
    /// bytes of each.
    fn items_of(&self, bytes: usize) -> Option<(f64, usize)> {
        let _ = bytes;
        None
    }

    /// Whether results depend on the other rows of the sort window, as the ranges of int8 embeddings do. A
    /// plan that stops early then keeps full windows.
    fn needs_whole_windows(&self) -> bool {
        false
    }

    /// How sequences are batched.
    fn batching(&self) -> Batching {
        Batching::TokenBudget
    }

    /// The largest number of tokens whose keys and values a row of `prompt` tokens keeps while it is generated.
    fn cached_tokens(&self, prompt: usize) -> usize {
        prompt
    }

    /// The column of a batch of rows, from the results of their sequences. `columns` are those of the batch,
    /// as in [`Task::encode`].
    ///
    /// # Errors
    /// `Internal` if the results have an unexpected type.
    fn finish(&self, columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let _ = columns;
        Ok(Arc::clone(&results.values))
    }

    /// Loads the weights to `device`, one of the model's devices.
    ///
    /// # Errors
    /// `Hub` or `Model` if the weights cannot be obtained or do not match the config.
    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>>;

    /// The devices that compute batches, each with a copy of the weights; at least one.
    fn devices(&self) -> &[Device] {
        self.base().model.devices()
    }

    /// The size of the weights, without reading them; `None` if they are not on this machine.
    fn weights(&self) -> Option<WeightSize> {
        self.base().model.weight_size(HeadRequest::of(self.auto_class()))
    }

    /// The Auto class that loads the weights: the task's, unless the model computes it another way.
    fn auto_class(&self) -> AutoClass {
        let task = TASKS.iter().find(|task| task.id == self.base().summary.task);
        task.map_or(AutoClass::Model, |task| task.auto_class)
    }

    /// The model's sizes by its configuration; `None` for a task without a model.
    fn dimensions(&self) -> Option<&Dimensions> {
        Some(self.base().model.config().dimensions())
    }

    /// The summary for plans, reports and lineage.
    fn summary(&self) -> &ModelSummary {
        &self.base().summary
    }
}

/// A task with its weights.
pub trait TaskModel: Send + Sync {
    /// Computes one batch: an array of [`Task::sequence_type`] with one entry per sequence, in order. A task
    /// that batches its sequences itself respects `max_batch_tokens`.
    ///
    /// # Errors
    /// `Data` if an image cannot be read; `Internal` if a tensor operation fails, because all other input
    /// was checked before.
    fn forward(&self, sequences: &[&Sequence], max_batch_tokens: usize) -> Result<ArrayRef>;

    /// Tokenizes and computes rows in parallel on the current rayon pool, for [`Batching::Rows`]. `first_row` is as in
    /// [`Task::encode`].
    ///
    /// # Errors
    /// `Data` when a row cannot be computed.
    fn compute_rows(&self, columns: &[ArrayRef], first_row: u64) -> Result<ComputedRows> {
        let _ = (columns, first_row);
        Err(Error::new(ErrorKind::Internal, "a task without batches does not compute rows"))
    }

    /// Called once per sort window, in input order, with the arrays of all its batches. Handles whatever
    /// depends on more than one batch. The result has the type of [`Task::sequence_type`].
    ///
    /// # Errors
    /// `Internal` when an array cannot be built.
    fn finish_window(&self, batches: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        Ok(batches)
    }

    /// The prompt tokens that were reused from prefixes of other rows instead of computed, since the last call.
    fn take_cached_tokens(&self) -> u64 {
        0
    }

    /// The tokens that were generated since the last call.
    fn take_generated_tokens(&self) -> u64 {
        0
    }

    /// The time that reading, decoding and scaling images took in [`TaskModel::forward`] since the last call.
    fn take_image_time(&self) -> Duration {
        Duration::ZERO
    }

    /// The size of the loaded weights.
    fn weights(&self) -> WeightSize;
}

/// Checks the two values of `auto_class` that depend on the model. Each task checks the others.
fn check_auto_class(step: &TaskStep, models: &Models) -> Result<()> {
    let class = match step.auto_class.as_deref() {
        Some("AutoModelForT5") => {
            return Ok(models.resolve(&step.model)?.config().require_t5()?);
        }
        Some("AutoModelWithLMHead") => models.resolve(&step.model)?.config().with_lm_head()?,
        _ => return Ok(()),
    };
    let wanted = step.task.auto_class;
    if class == wanted {
        return Ok(());
    }
    let task = step.task.id;
    let message =
        format!("`AutoModelWithLMHead` is `{class}` for this model, `{task}` needs `{wanted}`");
    Err(Error::new(ErrorKind::Config, message).hint(format!("write `auto_class: {wanted}`")))
}

/// Whether a column of this type holds text: Utf8, LargeUtf8, Utf8View or a dictionary of these.
pub fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Converts a text column of any Arrow string type to string views, which share its buffers where possible.
///
/// # Errors
/// `Internal` if the column is not text; plans have checked it before.
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
