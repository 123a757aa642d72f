//! `text-generation`: continues a prompt or a conversation, as transformers' pipeline does.
//!
//! # Source
//! `src/transformers/pipelines/text_generation.py` at v4.57. `do_sample` follows the model's files;
//! transformers' pipeline turns it on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, StringBuilder, StringViewArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use candle_core::Device;
use hfauto::pipelines::{PromptRoom, TextOf, ends_in_reasoning};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::classifier::{Classifier, summary};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::generation::{Generator, fields, output_bytes, settings, shown, task_params};
use super::models::{Models, ResolvedModel};
use super::prompt::{Prompt, RowPrompts, check_types};
use super::text_input::{encode_rows, max_tokens, place};
use super::{
    Batching, EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, WeightSize, text_column,
};
use crate::auto::{AutoClass, ChatOptions, ChatTemplate, EncodeOptions};
use crate::document::{ColumnOr, Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{GenerationConfig, PrefixCache};

/// The own options of `text-generation`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct TextGeneration {
    /// The column of the prompt, or `{messages}`.
    pub input: ColumnOr<Messages>,
    /// Text prepended to every row. With columns of the row, `Translate: {{ text }}`, it is a Jinja template of the whole text.
    /// A model with a chat template reads the text as the user's message.
    pub prompt: Option<Prompt>,
    /// The system message before a text, for a model with a chat template. It may have columns of the row.
    pub system: Option<Prompt>,
    /// Whether to include the prompt in the result. Default: false.
    pub return_full_text: Option<bool>,
    /// A chat template that replaces the model's.
    pub chat_template: Option<String>,
    /// Further variables of the chat template, for example `{enable_thinking: false}`.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the text includes the model's reasoning, from `<think>` to `</think>`. With `false`, the text is the answer,
    /// which is empty if the text ends inside the reasoning. Default: true.
    pub include_reasoning: Option<bool>,
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// The column of the messages: lists of `{role, content}`.
    pub messages: String,
}

pub(super) static TEXT_GENERATION: TaskDefinition = TaskDefinition {
    id: "text-generation",
    aliases: &[],
    summary: "Continues a prompt.",
    auto_class: AutoClass::CausalLM,
    outputs: &[],
    generates: true,
    options: OptionsType::of::<TextGeneration>(),
    function: SqlFunction {
        name: "generate",
        parameters: &["prompt"],
        parts: &["messages"],
        description: "The continuation of a prompt, or the reply to a list of messages {role, content}: Struct<text, finish_reason, prompt_tokens, generated_tokens>.",
        example: r#"SELECT generate(prompt, 'gpt2', options => '{"max_new_tokens": 20}')['text'] FROM prompts"#,
    },
    usual_type: || DataType::Struct(fields()),
    template: include_str!("../../pipelines/text-generation.yaml"),
};

impl TaskOptions for TextGeneration {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        let mut inputs = match &self.input {
            ColumnOr::Column(prompt) => vec![InputColumn::whole(prompt)],
            ColumnOr::Columns(chat) => vec![InputColumn::part("messages", &chat.messages)],
        };
        for (key, prompt) in [("prompt", &self.prompt), ("system", &self.system)] {
            let own = prompt.iter().flat_map(|prompt| prompt.inputs(key, &inputs));
            inputs.extend(own.collect::<Vec<_>>());
        }
        inputs
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        let for_chats = [
            ("chat_template", self.chat_template.is_some()),
            ("chat_template_kwargs", self.chat_template_kwargs.is_some()),
        ];
        let is_text = matches!(self.input, ColumnOr::Column(_));
        let of_text = [("prompt", &self.prompt), ("system", &self.system)];
        let has_prompt = of_text.iter().any(|(_, prompt)| prompt.is_some());
        for (key, _) in for_chats.into_iter().filter(|(_, given)| *given) {
            if is_text && !has_prompt {
                let message =
                    format!("`{key}` applies to conversations, but `input` is a text column");
                report.push(
                    Diagnostic::new(at.key(key).key, message)
                        .hint("write `input: {messages: COLUMN}`, or set `prompt` or `system`"),
                );
            }
        }
        for (key, prompt) in of_text {
            let Some(prompt) = prompt else { continue };
            match &self.input {
                ColumnOr::Column(input) => {
                    let whole = (key == "prompt").then_some(input.as_str());
                    prompt.check(whole, at.key(key), report);
                }
                ColumnOr::Columns(_) => {
                    let message =
                        format!("`{key}` applies to a text column, but `input` is conversations");
                    report.push(
                        Diagnostic::new(at.key(key).key, message)
                            .hint("put it into the messages, in a `sql` step"),
                    );
                }
            }
        }
        for name in self.chat_template_kwargs.iter().flat_map(Map::keys) {
            if ChatOptions::OWN_VARIABLES.contains(&name.as_str()) {
                let message = format!("the step sets the variable `{name}` of the chat template");
                report.push(Diagnostic::new(at.key("chat_template_kwargs").key(name).key, message));
            }
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(TextGenerationTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct TextGenerationTask {
    classifier: Classifier,
    base: TaskBase,
    form: Form,
    config: GenerationConfig,
    room: PromptRoom,
    return_full_text: bool,
    include_reasoning: bool,
}

/// What a row is.
#[derive(Debug)]
enum Form {
    /// A text, after the prefix of the model's files.
    Text { prefix: String, prompt: RowText },
    /// A text as the user's message, after a system message.
    Turn { chat: Chat, system: Option<RowText>, prompt: RowText },
    /// Messages.
    Messages { chat: Chat },
}

/// How conversations become texts.
#[derive(Debug)]
struct Chat {
    template: ChatTemplate,
    kwargs: Map<String, Value>,
}

/// The text of a prompt for each row.
#[derive(Debug)]
enum RowText {
    /// A text that is the same for all rows.
    Fixed(String),
    /// A template with columns of the row.
    Rendered(RowPrompts),
}

impl RowText {
    /// # Errors
    /// As [`Prompt::over`].
    fn new(prompt: Option<&Prompt>, columns: &[String]) -> Result<Self> {
        let rows = prompt.map(|prompt| prompt.over(columns)).transpose()?.flatten();
        let fixed = || prompt.map_or("", Prompt::text).to_owned();
        Ok(rows.map_or_else(|| Self::Fixed(fixed()), Self::Rendered))
    }

    /// The text of each row: the template's, or the fixed text before the value of the first column, if it stands `before` it.
    ///
    /// # Errors
    /// As [`RowPrompts::texts`].
    fn texts(
        &self,
        columns: &[ArrayRef],
        names: &[String],
        first_row: u64,
        before: bool,
    ) -> Result<StringViewArray> {
        let texts = match self {
            Self::Rendered(rows) => return rows.texts(columns, names, 1, first_row),
            Self::Fixed(_) => text_column(&columns[0])?,
        };
        Ok(match self {
            Self::Fixed(prompt) if !before => {
                texts.iter().map(|text| text.map(|_| prompt.as_str())).collect()
            }
            Self::Fixed(prompt) if !prompt.is_empty() => {
                texts.iter().map(|text| text.map(|text| format!("{prompt}{text}"))).collect()
            }
            Self::Fixed(_) | Self::Rendered(_) => texts,
        })
    }
}

impl TextGenerationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no such head or a setting is not implemented;
    /// `Config` for conflicting options, or for conversations without a chat template.
    fn resolve(step: &TaskStep, options: &TextGeneration, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::CausalLM, models)?;
        classifier.require_decoder()?;
        let model = &classifier.model;
        let mut params = task_params(model, &["text-generation"]);
        let prefix = params.shift_remove("prefix");
        let prefix = prefix.as_ref().or(model.config().json().get("prefix"));
        let prefix = prefix.and_then(Value::as_str).unwrap_or_default().to_owned();
        let config = settings(model, &json!({"max_new_tokens": 256}), &params, &step.generation)?;
        let return_full_text = options.return_full_text.unwrap_or(false);
        let columns: Vec<String> =
            options.inputs().into_iter().map(|input| input.name.to_owned()).collect();
        let form = form(options, model, prefix, &columns)?;
        if return_full_text && !matches!(form, Form::Text { .. }) {
            return Err(Error::new(
                ErrorKind::Config,
                "`return_full_text` applies to text prompts, but the model reads a conversation",
            ));
        }
        let stated = model.tokenizer().model_max_length();
        max_tokens(model, step.max_length, stated, false)?;
        let room = PromptRoom {
            max_length: step.max_length,
            total: max_tokens(model, None, stated, false)?,
            truncation: step.truncation.unwrap_or(false),
        };
        if let (true, Some(new)) = (room.truncation, config.max_new_tokens)
            && new >= room.total
        {
            let total = room.total;
            return Err(Error::new(
                ErrorKind::Config,
                format!("`max_new_tokens: {new}` leaves no room for a prompt: the model takes {total} tokens"),
            )
            .hint("set a smaller `max_new_tokens`"));
        }
        let include_reasoning = options.include_reasoning.unwrap_or(true);
        let mut shown_options = json!({
            "max_length": step.max_length,
            "truncation": room.truncation,
            "return_full_text": return_full_text,
            "chat_template": options.chat_template,
            "chat_template_kwargs": options.chat_template_kwargs,
            "include_reasoning": include_reasoning,
            "generation": shown(&config),
        });
        for (key, prompt) in [("prompt", &options.prompt), ("system", &options.system)] {
            if let Some(prompt) = prompt {
                shown_options[key] = prompt.text().into();
            }
        }
        let summary = summary(step.task.id, step, model, shown_options);
        let field = Arc::new(Field::new(&step.output, DataType::Struct(fields()), true));
        let base = TaskBase { columns, field, model: Arc::clone(&classifier.model), summary };
        Ok(Self { classifier, base, form, config, room, return_full_text, include_reasoning })
    }

    /// The tokens of a prompt, truncated to leave room for new tokens. `chat` has the messages of a conversation.
    fn tokens(&self, text: &str, chat: Option<(&[Value], &ChatOptions)>) -> Result<EncodedRow> {
        let options =
            EncodeOptions { add_special_tokens: chat.is_none(), ..EncodeOptions::default() };
        let ids = self.classifier.model.tokenizer().encode(text, &options)?.input_ids;
        let (ids, truncated) = self.room.fit(ids, &self.config)?;
        let in_reasoning = !self.include_reasoning && ends_in_reasoning(text, chat);
        let start = usize::from(in_reasoning);
        let sequence = Sequence { start, ..Sequence::new(ids, Vec::new()) };
        Ok(EncodedRow { truncated, ..sequence.into() })
    }

    fn encode_chat(
        &self,
        Chat { template, kwargs }: &Chat,
        conversations: Vec<Option<Vec<Value>>>,
        first_row: u64,
    ) -> Result<Vec<Option<EncodedRow>>> {
        conversations
            .into_par_iter()
            .enumerate()
            .map(|(row, messages)| {
                let Some(messages) = messages else { return Ok(None) };
                let options =
                    ChatOptions { extra: kwargs.clone(), ..ChatOptions::for_answer(&messages) };
                template
                    .render(&messages, &options)
                    .map_err(Error::from)
                    .and_then(|text| {
                        let row = self.tokens(&text, Some((&messages, &options)))?;
                        self.classifier.model.check_tokens(&row)?;
                        Ok(Some(row))
                    })
                    .map_err(|e| e.at(place(&self.base.columns, first_row + row as u64)))
            })
            .collect()
    }
}

/// What the rows of a step are.
///
/// # Errors
/// `Config` for a conversation without a chat template.
fn form(
    options: &TextGeneration,
    model: &ResolvedModel,
    prefix: String,
    columns: &[String],
) -> Result<Form> {
    let wanted = options.chat_template.as_deref();
    let chat = || {
        let kwargs = options.chat_template_kwargs.clone().unwrap_or_default();
        let tools = kwargs.get("tools").is_some_and(|tools| !tools.is_null());
        let template = model.tokenizer().chat_template(wanted, tools)?;
        Ok::<_, Error>(Chat { template, kwargs })
    };
    if let ColumnOr::Columns(_) = options.input {
        return Ok(Form::Messages { chat: chat()? });
    }
    let prompt = RowText::new(options.prompt.as_ref(), columns)?;
    let for_chats = wanted.is_some() || options.chat_template_kwargs.is_some();
    let is_chat = options.system.is_some()
        || options.prompt.is_some() && (for_chats || model.tokenizer().has_chat_template());
    if !is_chat {
        return Ok(Form::Text { prefix, prompt });
    }
    let system = options.system.as_ref().map(|system| RowText::new(Some(system), columns));
    Ok(Form::Turn { chat: chat()?, system: system.transpose()?, prompt })
}

/// Whether a column holds conversations: lists of structs with `role` and `content`.
fn is_conversation(data_type: &DataType) -> bool {
    let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) =
        data_type
    else {
        return false;
    };
    match item.data_type() {
        DataType::Struct(fields) => {
            ["role", "content"].iter().all(|name| fields.find(name).is_some())
        }
        _ => false,
    }
}

/// The messages of each row as JSON for the chat template. A null field becomes a missing key.
fn conversations(column: &ArrayRef) -> Result<Vec<Option<Vec<Value>>>> {
    let internal = |e| Error::new(ErrorKind::Internal, "messages are not JSON").source(e);
    let field = Field::new("messages", column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema, vec![Arc::clone(column)]).map_err(internal)?;
    let mut lines = Vec::new();
    let mut writer = WriterBuilder::new().build::<_, LineDelimited>(&mut lines);
    writer.write(&batch).and_then(|()| writer.finish()).map_err(internal)?;
    drop(writer);
    let mut rows = Vec::with_capacity(column.len());
    for row in serde_json::Deserializer::from_slice(&lines).into_iter::<Map<String, Value>>() {
        let mut row =
            row.map_err(|e| Error::new(ErrorKind::Internal, "messages are not JSON").source(e))?;
        rows.push(match row.shift_remove("messages") {
            Some(Value::Array(messages)) => Some(messages),
            _ => None,
        });
    }
    Ok(rows)
}

impl Task for TextGenerationTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        let column = &self.base.columns[0];
        match (&self.form, types) {
            (Form::Messages { .. }, [found]) if !is_conversation(found) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "column `{column}` is {found}, expected conversations: lists of {{role, content}}"
                ),
            )),
            (Form::Messages { .. }, _) => Ok(()),
            (Form::Text { .. } | Form::Turn { .. }, types) => {
                check_types(&self.base.columns, types, 1)
            }
        }
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let names = &self.base.columns;
        match &self.form {
            Form::Messages { chat } => {
                self.encode_chat(chat, conversations(&columns[0])?, first_row)
            }
            Form::Turn { chat, system, prompt } => {
                let texts = prompt.texts(columns, names, first_row, true)?;
                let system = system.as_ref();
                let system = system.map(|text| text.texts(columns, names, first_row, false));
                let system = system.transpose()?;
                let turn = |(row, text): (usize, Option<&str>)| {
                    let system = system.as_ref().map(|texts| texts.value(row));
                    let system = system.map(|text| json!({"role": "system", "content": text}));
                    let user = json!({"role": "user", "content": text?});
                    Some(system.into_iter().chain([user]).collect())
                };
                let turns = texts.iter().enumerate().map(turn).collect();
                self.encode_chat(chat, turns, first_row)
            }
            Form::Text { prefix, prompt } => {
                let model = &*self.classifier.model;
                let texts = prompt.texts(columns, names, first_row, true)?;
                let columns = [Arc::new(texts) as ArrayRef];
                encode_rows(Some(model), names, &columns, first_row, |texts| {
                    if prefix.is_empty() {
                        self.tokens(texts[0], None)
                    } else {
                        self.tokens(&format!("{prefix}{}", texts[0]), None)
                    }
                })
            }
        }
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        output_bytes(&self.config) + if self.return_full_text { 6 * tokens } else { 0 }
    }

    fn is_row_by_row(&self) -> bool {
        !self.return_full_text
    }

    fn batching(&self) -> Batching {
        Batching::Share
    }

    fn cached_tokens(&self, prompt: usize) -> usize {
        let positions = self.base.model.config().dimensions().max_position_embeddings;
        self.config.num_beams * self.config.max_total_tokens(prompt, positions)
    }

    fn finish(&self, columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        // The original prompt, even if it was truncated for the model.
        let prompts = match &self.form {
            Form::Text { prompt, .. } => prompt.texts(columns, &self.base.columns, 0, true)?,
            Form::Turn { .. } | Form::Messages { .. } => text_column(&columns[0])?,
        };
        let values = results.values.as_struct();
        let generated = values.column(0).as_string::<i32>();
        let mut texts = StringBuilder::new();
        let mut places = Vec::with_capacity(results.rows.len());
        for (row, range) in results.rows.iter().enumerate() {
            let place = range.as_ref().map(|range| range.start as u32);
            match place {
                Some(place) => {
                    let text = generated.value(place as usize);
                    texts.append_value(format!("{}{text}", prompts.value(row)));
                }
                None => texts.append_value(""),
            }
            places.push(place);
        }
        let places = arrow::array::UInt32Array::from(places);
        let internal = |e| Error::new(ErrorKind::Internal, "cannot gather results").source(e);
        let taken = arrow::compute::take(values, &places, None).map_err(internal)?;
        let (fields, mut arrays, nulls) = taken.as_struct().clone().into_parts();
        // The fields of a null row are never read, but must not be null.
        for array in &mut arrays[1..] {
            let data = array.to_data().into_builder().nulls(None).build();
            *array = arrow::array::make_array(data.map_err(internal)?);
        }
        arrays[0] = Arc::new(texts.finish());
        Ok(Arc::new(StructArray::new(fields, arrays, nulls)))
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let model = self.classifier.load(device)?.model;
        // Fails before any row is read.
        model.decoder().map(drop)?;
        Ok(Box::new(TextGenerationModel(Generator {
            model,
            resolved: Arc::clone(&self.classifier.model),
            config: self.config.clone(),
            text_of: TextOf::Continuation,
            include_reasoning: self.include_reasoning,
            prefixes: PrefixCache::default(),
            generated_tokens: AtomicU64::new(0),
        })))
    }
}

/// The task with its weights.
struct TextGenerationModel(Generator);

impl TaskModel for TextGenerationModel {
    fn forward(&self, sequences: &[&Sequence], max_batch_tokens: usize) -> Result<ArrayRef> {
        self.0.forward(sequences, max_batch_tokens)
    }

    fn take_cached_tokens(&self) -> u64 {
        self.0.prefixes.take_saved_tokens()
    }

    fn take_generated_tokens(&self) -> u64 {
        self.0.take_generated_tokens()
    }

    fn weights(&self) -> WeightSize {
        self.0.weights()
    }
}
