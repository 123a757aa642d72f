//! The declaration of a task: a [`TaskDefinition`] in the task's file, beside the type of its options. The keys of a
//! step, the JSON Schema, the checks, the SQL function, the template of `init` and the completions all come from it.
//! Not here: the list of the tasks ([`super::TASKS`]), the task with its model resolved ([`super::Task`]).

use std::any::Any;
use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::generation::GenerationOptions;
use super::{ImagesSpec, ModelSpec, Models, TASKS, Task};
use crate::auto::AutoClass;
use crate::document::{Cursor, Diagnostics};
use crate::error::Result;

/// A task: its name, options, outputs and SQL function.
#[derive(Debug)]
pub struct TaskDefinition {
    /// The Hugging Face id, also the key of a step.
    pub id: &'static str,
    /// Other names of the task, as `pipeline()` of transformers accepts them.
    pub aliases: &'static [&'static str],
    /// A description in one sentence.
    pub summary: &'static str,
    /// The Auto class that loads its model.
    pub auto_class: AutoClass,
    /// The valid values of `outputs`.
    pub outputs: &'static [ModelOutputName],
    /// Whether its steps also accept the generation options.
    pub generates: bool,
    /// The type of its own options.
    pub options: OptionsType,
    /// Its function in SQL.
    pub function: SqlFunction,
    /// The type of its column with default options, for listings. The actual type depends on the model.
    pub usual_type: fn() -> DataType,
    /// The pipeline that `init` starts from; it has a step of the task. A comment names a model of the hub:
    /// `# e.g. org/name`.
    pub template: &'static str,
}

/// A function in SQL that runs a task.
#[derive(Debug)]
pub struct SqlFunction {
    /// Its name.
    pub name: &'static str,
    /// Its parameters before the model, named as the task names its inputs.
    pub parameters: &'static [&'static str],
    /// The keys of a struct that may replace the single column; `messages` names a list instead.
    pub parts: &'static [&'static str],
    /// A description in one sentence.
    pub description: &'static str,
    /// An example call.
    pub example: &'static str,
}

/// The type of a task's own options: its deserializer and its schema.
#[derive(Clone, Copy)]
pub struct OptionsType {
    schema: fn(&mut SchemaGenerator) -> Schema,
    read: fn(&Value) -> serde_json::Result<Arc<dyn TaskOptions>>,
}

impl OptionsType {
    /// The options `T`. The step has further keys, so the type ignores unknown ones; the schema rejects them.
    pub(super) const fn of<T: TaskOptions + DeserializeOwned + JsonSchema>() -> Self {
        Self { schema: T::json_schema, read: |step| Ok(Arc::new(T::deserialize(step)?)) }
    }
}

impl fmt::Debug for OptionsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptionsType").finish_non_exhaustive()
    }
}

/// The options of a task, as given in a step. An option that is not given is `None`; the task or the model has its
/// default.
pub trait TaskOptions: Any + fmt::Debug + Send + Sync {
    /// The columns that the step reads, in the task's order.
    fn inputs(&self) -> Vec<InputColumn<'_>>;

    /// Reports conflicting options and values that the schema cannot rule out. Reads no files.
    fn check(&self, step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        let _ = (step, at, report);
    }

    /// Resolves the task: reads the model's small files, not its weights.
    ///
    /// # Errors
    /// As [`super::resolve`].
    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>>;

    /// For a task whose column is a list of structs, and whose step makes a row of each item: what is added to the name of the
    /// step's column for each field. Those columns take the place of the list and of the input.
    fn items(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// The reason why these options prevent computing the step in units, if they do.
    fn why_whole(&self) -> Option<&'static str> {
        None
    }
}

/// A column that a step reads, and the key that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputColumn<'a> {
    /// Its name.
    pub name: &'a str,
    /// The key of the step that names it: `input`, or that of a prompt.
    pub key: &'static str,
    /// The key of `input` that names the column; `None` if `input` itself names it.
    pub part: Option<&'static str>,
    /// The index in the list under the key.
    pub item: usize,
}

impl<'a> InputColumn<'a> {
    /// The column that `input` names.
    pub(super) fn whole(name: &'a str) -> Self {
        Self::of_key("input", name)
    }

    /// The column that a prompt under `key` names.
    pub(super) fn of_key(key: &'static str, name: &'a str) -> Self {
        Self { name, key, part: None, item: 0 }
    }

    /// The column that the key `part` of `input` names.
    pub(super) fn part(part: &'static str, name: &'a str) -> Self {
        Self { name, key: "input", part: Some(part), item: 0 }
    }
}

/// An output of a model, named as in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelOutputName {
    /// The hidden state of the last layer for every token.
    LastHiddenState,
    /// The pooler's output, one vector per row.
    PoolerOutput,
    /// The hidden states of all layers for every token, the embeddings first.
    HiddenStates,
    /// The attention weights of all layers.
    Attentions,
    /// A classifier's raw scores, before softmax or sigmoid.
    Logits,
}

impl ModelOutputName {
    /// The name in pipeline files, as in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastHiddenState => "last_hidden_state",
            Self::PoolerOutput => "pooler_output",
            Self::HiddenStates => "hidden_states",
            Self::Attentions => "attentions",
            Self::Logits => "logits",
        }
    }
}

/// The keys of every step that runs a model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct StepKeys {
    /// The model: an alias of `models`, a hub id (`org/name`) or a local directory.
    pub model: String,
    /// The name of the new column.
    pub output: String,
    /// The maximum number of tokens per row, special tokens included. Default: the model's maximum.
    pub max_length: Option<NonZeroU64>,
    /// Whether to truncate longer rows. Default: true for tasks that read, false for tasks that generate. With
    /// `false`, a longer row is an error.
    pub truncation: Option<bool>,
    /// The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: the task's.
    pub auto_class: Option<String>,
    /// Whether to accept a checkpoint that lacks the task's head and to initialize the head with random weights.
    /// Default: false.
    pub allow_new_head: Option<bool>,
    /// The model outputs to store.
    pub outputs: Option<Vec<ModelOutputName>>,
}

/// A step that runs a model, as written.
#[derive(Clone, Debug)]
pub struct RawTaskStep {
    /// The task.
    pub task: &'static TaskDefinition,
    /// The keys common to all tasks.
    pub keys: StepKeys,
    /// The generation options; all `None` for a task that does not generate.
    pub generation: GenerationOptions,
    /// The task's own options.
    pub options: Arc<dyn TaskOptions>,
}

impl RawTaskStep {
    /// Deserializes the mapping under the key `task_id`. It must already match the task's schema.
    pub(crate) fn read(task_id: &str, step: &Value) -> serde_json::Result<Self> {
        let task = TaskDefinition::find(task_id)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown task `{task_id}`")))?;
        Ok(Self {
            task,
            keys: StepKeys::deserialize(step)?,
            generation: if task.generates {
                GenerationOptions::deserialize(step)?
            } else {
                GenerationOptions::default()
            },
            options: (task.options.read)(step)?,
        })
    }
}

/// A step that runs a model, in its final form.
#[derive(Clone, Debug)]
pub struct TaskStep {
    /// The task.
    pub task: &'static TaskDefinition,
    /// The task's own options.
    pub options: Arc<dyn TaskOptions>,
    /// The generation options.
    pub generation: GenerationOptions,
    /// The model.
    pub model: ModelSpec,
    /// Its name as written: alias, hub id or directory.
    pub model_name: String,
    /// The name of the new column.
    pub output: String,
    /// The maximum number of tokens per row, special tokens included; `None` means the model's maximum.
    pub max_length: Option<usize>,
    /// Whether to truncate longer rows and count them; with `false`, a longer row is an error. `None` means the
    /// task's default.
    pub truncation: Option<bool>,
    /// The Auto class to load the model with; `None` means the task's.
    pub auto_class: Option<String>,
    /// Whether to initialize a head that the checkpoint lacks with random weights.
    pub allow_new_head: bool,
    /// The model outputs to store, among those of the task.
    pub outputs: Vec<ModelOutputName>,
    /// The base folder of relative image paths.
    pub dir: PathBuf,
    /// The restrictions on images.
    pub images: ImagesSpec,
}

impl TaskStep {
    /// The task's own options, if they are of this type.
    pub fn options<T: TaskOptions>(&self) -> Option<&T> {
        let options: &dyn Any = &*self.options;
        options.downcast_ref()
    }

    /// The names of the columns that the step adds to a pipeline.
    pub(crate) fn columns(&self) -> Vec<String> {
        let suffixes = self.options.items().unwrap_or(&[""]);
        suffixes.iter().map(|suffix| format!("{}{suffix}", self.output)).collect()
    }

    /// Whether the step stores a classifier's logits beside its labels (`outputs: [logits]`).
    pub fn stores_logits(&self) -> bool {
        self.outputs.contains(&ModelOutputName::Logits)
    }
}

impl TaskDefinition {
    /// The task with this id or alias.
    pub fn find(name: &str) -> Option<&'static Self> {
        TASKS.iter().copied().find(|task| task.id == name || task.aliases.contains(&name))
    }

    /// The model of the hub that the template names, if it names one.
    pub fn hub_model(&self) -> Option<&'static str> {
        let mut lines = self.template.lines();
        let repo = lines.find_map(|line| line.trim_start().strip_prefix("repo:"))?;
        let id = repo.split_once("# e.g. ").map_or(repo, |(_, id)| id).trim();
        (!id.starts_with('.')).then_some(id)
    }

    /// The schema of a step: `model` and `input`, the other common keys, the generation options and the task's own
    /// options.
    pub(crate) fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        let mut parts = vec![StepKeys::json_schema(generator)];
        if self.generates {
            parts.push(GenerationOptions::json_schema(generator));
        }
        parts.push((self.options.schema)(generator));
        let mut properties = Map::new();
        let mut required = Vec::new();
        let list = |part: &Schema, key: &str| part.get(key).cloned();
        for first in ["model", "input"] {
            let of = |part: &Schema| part.get("properties").and_then(|map| map.get(first)).cloned();
            properties.extend(parts.iter().find_map(of).map(|value| (first.to_owned(), value)));
        }
        for part in &parts {
            if let Some(Value::Object(own)) = list(part, "properties") {
                for (key, value) in own {
                    properties.entry(key).or_insert(value);
                }
            }
            if let Some(Value::Array(own)) = list(part, "required") {
                required.extend(own);
            }
        }
        let Value::Object(schema) = serde_json::json!({
            "description": format!("`{}`: {}", self.id, self.summary),
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
            "required": required,
        }) else {
            return Schema::default();
        };
        schema.into()
    }
}

/// Converts a count to `usize`.
pub(crate) fn count(number: impl Into<u64>) -> usize {
    usize::try_from(number.into()).unwrap_or(usize::MAX)
}
