//! `chunk`: divides a text into parts that a model reads whole, with the tokenizer of that model; no weights are loaded. A step
//! makes one row of each chunk. In SQL, the function gives a list.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, ListArray, StringBuilder, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use candle_core::Device;
use hfauto::pipelines::{ChunkBy, ChunkOptions, Chunker, TextChunk};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::classifier::summary;
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
    count,
};
use super::models::{Models, ResolvedModel};
use super::text_input::{check_prompt, encode_rows, max_tokens, place};
use super::{
    Batching, ComputedRows, EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize,
    text_column,
};
use crate::auto::{AutoClass, EncodeOptions, RowTemplate};
use crate::document::{Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::models::Dimensions;

/// Bytes of text per token, to estimate how many chunks a text has.
const BYTES_PER_TOKEN: usize = 4;

/// The options of `chunk`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Chunk {
    /// The text column. The chunks take its place in the rows.
    pub input: String,
    /// The most tokens of a chunk as the model reads it: with special tokens and the prompt. Default: the model's maximum.
    pub max_tokens: Option<std::num::NonZeroU64>,
    /// The tokens of a chunk that the next one repeats, at most half of a chunk. Default: 0.
    pub overlap: Option<u64>,
    /// Where a text is divided. Default: `sentences`.
    pub by: Option<By>,
    /// The text that the step that reads the chunks puts before each of them: its tokens count. It is not added to the
    /// chunks. Default: the model's default prompt.
    pub prompt: Option<String>,
    /// The name of a prompt in the model's `config_sentence_transformers.json`: its tokens count.
    pub prompt_name: Option<String>,
}

/// Where a text is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// At the end of as many tokens as fit, also inside a word.
    Tokens,
    /// At the largest of these that fits: several line breaks, one, a sentence, a word, a character.
    #[default]
    Sentences,
    /// At the largest element of Markdown that fits: headings, blocks, list items; then as `sentences`.
    Markdown,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Sentences => "sentences",
            Self::Markdown => "markdown",
        }
    }
}

pub(super) static CHUNK: TaskDefinition = TaskDefinition {
    id: "chunk",
    aliases: &[],
    summary: "Divides a text into chunks that a model reads whole, one row for each.",
    auto_class: AutoClass::Model,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<Chunk>(),
    function: SqlFunction {
        name: "chunk",
        parameters: &["text"],
        parts: &[],
        description: "The chunks of a text, for unnest: List<Struct<chunk, index, start, end>>.",
        example: "SELECT id, unnest(chunk(text, 'minilm', max_tokens => 256)) FROM documents",
    },
    usual_type: list_type,
    template: include_str!("../../pipelines/chunk.yaml"),
};

/// What a step adds to the name of its column, for each field of a chunk.
const COLUMNS: &[&str] = &["", "_index", "_start", "_end"];

/// The fields of a chunk.
fn fields() -> Fields {
    Fields::from(vec![
        Field::new("chunk", DataType::Utf8, false),
        Field::new("index", DataType::Int64, false),
        Field::new("start", DataType::Int32, false),
        Field::new("end", DataType::Int32, false),
    ])
}

fn list_type() -> DataType {
    DataType::new_list(DataType::Struct(fields()), false)
}

impl TaskOptions for Chunk {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn items(&self) -> Option<&'static [&'static str]> {
        Some(COLUMNS)
    }

    fn check(&self, step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        check_prompt(self.prompt.is_some(), self.prompt_name.is_some(), at, report);
        if self.prompt.as_deref().is_some_and(RowTemplate::is_template) {
            let message = "the length of a prompt with columns depends on the row";
            report.push(Diagnostic::new(at.key("prompt").value, message).hint(
                "leave `prompt` out, and set `max_tokens` lower by the most tokens of the prompt",
            ));
        }
        let others = [
            ("max_length", step.keys.max_length.is_some()),
            ("truncation", step.keys.truncation.is_some()),
        ];
        for (key, _) in others.into_iter().filter(|(_, given)| *given) {
            let message = format!("`{key}` is not an option of this step: chunks are never cut");
            report.push(Diagnostic::new(at.key(key).key, message).hint("set `max_tokens`"));
        }
        if let (Some(max_tokens), Some(overlap)) = (self.max_tokens, self.overlap)
            && overlap > max_tokens.get() / 2
        {
            let message = "`overlap` is more than half of `max_tokens`";
            report.push(
                Diagnostic::new(at.key("overlap").value, message)
                    .related(at.key("max_tokens").value, "the tokens of a chunk"),
            );
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(ChunkTask::resolve(step, self, models)?))
    }
}

/// The options with the model's defaults.
#[derive(Clone, Debug)]
struct Settings {
    by: ChunkBy,
    max_tokens: usize,
    overlap: usize,
    prompt: String,
}

impl Settings {
    fn chunker<'m>(&self, model: &'m ResolvedModel) -> Result<Chunker<'m>> {
        let Self { by, max_tokens, overlap, prompt } = self;
        let options = ChunkOptions { by: *by, max_tokens: *max_tokens, overlap: *overlap, prompt };
        Ok(Chunker::new(model.tokenizer(), options)?)
    }
}

/// The task with its tokenizer.
#[derive(Debug)]
struct ChunkTask {
    base: TaskBase,
    settings: Settings,
    /// The most tokens of a chunk beside special tokens and the prompt.
    room: usize,
}

impl ChunkTask {
    /// Resolves the step's tokenizer and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Config` if `max_tokens` is more than the model reads or leaves no room for a text, and for an
    /// overlap of more than half a chunk.
    fn resolve(step: &TaskStep, options: &Chunk, models: &Models) -> Result<Self> {
        let model = models.resolve(&step.model)?;
        let stated = model.tokenizer().model_max_length();
        let positions = model.config().dimensions().position_limit().unwrap_or(usize::MAX);
        let max_tokens = match options.max_tokens.map(count) {
            Some(tokens) if tokens > positions => {
                let message = format!(
                    "`max_tokens: {tokens}` is more than the model's {positions} positions"
                );
                return Err(Error::new(ErrorKind::Config, message));
            }
            Some(tokens) => tokens,
            None => max_tokens(&model, None, stated, false)?,
        };
        if max_tokens == usize::MAX {
            let message = format!("model `{}` has no maximum length", step.model_name);
            return Err(Error::new(ErrorKind::Config, message).hint("set `max_tokens`"));
        }
        let prompt = model
            .sentence_transformer()
            .prompt_text(options.prompt.as_deref(), options.prompt_name.as_deref())?;
        let by = options.by.unwrap_or_default();
        let settings = Settings {
            by: match by {
                By::Tokens => ChunkBy::Tokens,
                By::Sentences => ChunkBy::Sentences,
                By::Markdown => ChunkBy::Markdown,
            },
            max_tokens,
            overlap: options.overlap.map_or(0, count),
            prompt,
        };
        let (room, _) = settings.chunker(&model)?.room_and_overlap();
        let shown = json!({
            "by": by.name(),
            "max_tokens": settings.max_tokens,
            "overlap": settings.overlap,
            "prompt": settings.prompt,
        });
        let summary = summary(step.task.id, step, &model, shown);
        let field = Arc::new(Field::new(&step.output, list_type(), true));
        let base = TaskBase { columns: vec![options.input.clone()], field, model, summary };
        Ok(Self { base, settings, room })
    }
}

impl Task for ChunkTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    /// The tokens of the whole texts, for samples.
    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let options = EncodeOptions::default();
        encode_rows(None, &self.base.columns, columns, first_row, |texts| {
            let encoding = self.base.model.tokenizer().encode(texts[0], &options)?;
            Ok(Sequence::new(encoding.input_ids, Vec::new()).into())
        })
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        tokens * BYTES_PER_TOKEN
    }

    fn batching(&self) -> Batching {
        Batching::Rows
    }

    fn load(&self, _device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(ChunkRows {
            model: Arc::clone(&self.base.model),
            settings: self.settings.clone(),
            columns: self.base.columns.clone(),
        }))
    }

    fn weights(&self) -> Option<WeightSize> {
        Some(WeightSize { parameters: 0, bytes: 0 })
    }

    fn dimensions(&self) -> Option<&Dimensions> {
        None
    }

    fn items_of(&self, bytes: usize) -> Option<(f64, usize)> {
        let chunk = self.room.saturating_mul(BYTES_PER_TOKEN);
        let step = (self.room - self.settings.overlap).saturating_mul(BYTES_PER_TOKEN);
        let more = bytes.saturating_sub(chunk) as f64 / step as f64;
        Some((1.0 + more, bytes.min(chunk)))
    }
}

/// Divides texts; there is no model to load.
struct ChunkRows {
    model: Arc<ResolvedModel>,
    settings: Settings,
    columns: Vec<String>,
}

impl TaskModel for ChunkRows {
    fn forward(&self, _sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        Err(Error::new(ErrorKind::Internal, "texts are divided row by row"))
    }

    fn compute_rows(&self, columns: &[ArrayRef], first_row: u64) -> Result<ComputedRows> {
        let texts = text_column(&columns[0])?;
        let chunker = self.settings.chunker(&self.model)?;
        let chunks_of = |row: usize| -> Result<Option<Vec<TextChunk>>> {
            if texts.is_null(row) {
                return Ok(None);
            }
            let chunks = chunker.chunks(texts.value(row));
            let here = || place(&self.columns, first_row + row as u64);
            chunks.map(Some).map_err(|e| Error::from(e).at(here()))
        };
        let rows: Vec<_> = (0..texts.len()).into_par_iter().map(chunks_of).collect();
        // The first error in the order of rows, whichever thread finds its own first.
        let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;

        let all = || rows.iter().flatten().flatten();
        let bytes: usize = all().map(|chunk| chunk.bytes.len()).sum();
        if i32::try_from(bytes).is_err() {
            let message = format!(
                "the chunks of {} texts together have {bytes} bytes, more than a column holds",
                texts.len()
            );
            return Err(Error::of_row(RowErrorKind::TooLong, message));
        }
        let mut values = StringBuilder::with_capacity(all().count(), bytes);
        for (row, chunks) in rows.iter().enumerate() {
            for chunk in chunks.iter().flatten() {
                values.append_value(&texts.value(row)[chunk.bytes.clone()]);
            }
        }
        let lengths: Vec<usize> =
            rows.iter().map(|chunks| chunks.as_ref().map_or(0, Vec::len)).collect();
        let indexes = lengths.iter().flat_map(|length| 0..*length as i64);
        let (starts, ends) = (
            all().map(|chunk| chunk.characters.start as i32),
            all().map(|chunk| chunk.characters.end as i32),
        );
        let columns: Vec<ArrayRef> = vec![
            Arc::new(values.finish()),
            Arc::new(Int64Array::from_iter_values(indexes)),
            Arc::new(Int32Array::from_iter_values(starts)),
            Arc::new(Int32Array::from_iter_values(ends)),
        ];
        let internal = |e| Error::new(ErrorKind::Internal, "chunks are not a column").source(e);
        let items = StructArray::try_new(fields(), columns, None).map_err(internal)?;
        let item = Arc::new(Field::new_list_field(items.data_type().clone(), false));
        let nulls: NullBuffer = rows.iter().map(Option::is_some).collect::<Vec<bool>>().into();
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = ListArray::try_new(item, offsets, Arc::new(items), Some(nulls));
        let tokens =
            rows.iter().flatten().map(|chunks| chunks.iter().map(|chunk| chunk.tokens).sum());
        Ok(ComputedRows {
            tokens: tokens.collect(),
            values: Arc::new(list.map_err(internal)?),
            truncated: 0,
        })
    }

    fn weights(&self) -> WeightSize {
        WeightSize { parameters: 0, bytes: 0 }
    }
}
