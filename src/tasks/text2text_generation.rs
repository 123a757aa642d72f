//! `text2text-generation`, `summarization`, `translation`: generates text from text with an encoder-decoder model, as
//! transformers' pipelines do.
//!
//! # Source
//! `src/transformers/pipelines/text2text_generation.py` at v4.57. As there, the defaults are four beams and 256
//! tokens, the model and the step may override them, and only `truncation: true` truncates the input.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::pipelines::TextOf;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::classifier::{Classifier, summary};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::generation::{Generator, fields, output_bytes, settings, shown, task_params};
use super::models::Models;
use super::text_input::{encode_rows, max_tokens};
use super::{Batching, EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, EncodeOptions};
use crate::document::{Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{GenerationConfig, PrefixCache};

/// The own options of `text2text-generation`, `summarization` and `translation`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Text2TextGeneration {
    /// The text column.
    pub input: String,
    /// Text prepended to every row, such as `summarize: `.
    pub prefix: Option<String>,
    /// The language of the input.
    pub src_lang: Option<String>,
    /// The language of the output.
    pub tgt_lang: Option<String>,
}

pub(super) static TEXT2TEXT_GENERATION: TaskDefinition = TaskDefinition {
    id: "text2text-generation",
    summary: "Generates text from text with an encoder-decoder model.",
    function: SqlFunction {
        name: "text2text",
        parameters: &["text"],
        parts: &[],
        description: "The text that an encoder-decoder model generates from a text: Struct<text, finish_reason, prompt_tokens, generated_tokens>.",
        example: "SELECT text2text('question: Who? context: Ann.', 't5')['text']",
    },
    template: include_str!("../../pipelines/text2text-generation.yaml"),
    ..TEXT_TO_TEXT
};

pub(super) static SUMMARIZATION: TaskDefinition = TaskDefinition {
    id: "summarization",
    summary: "Summarizes a text.",
    function: SqlFunction {
        name: "summarize",
        parameters: &["text"],
        parts: &[],
        description: "The summary of a text; the type is that of text2text.",
        example: "SELECT summarize(text, 't5')['text'] FROM pages",
    },
    template: include_str!("../../pipelines/summarization.yaml"),
    ..TEXT_TO_TEXT
};

pub(super) static TRANSLATION: TaskDefinition = TaskDefinition {
    id: "translation",
    summary: "Translates a text.",
    function: SqlFunction {
        name: "translate",
        parameters: &["text"],
        parts: &[],
        description: "The translation of a text; the type is that of text2text. The options src_lang and tgt_lang name the languages.",
        example: r#"SELECT translate(text, 't5', options => '{"src_lang": "en", "tgt_lang": "de"}')['text'] FROM pages"#,
    },
    template: include_str!("../../pipelines/translation.yaml"),
    ..TEXT_TO_TEXT
};

/// The definition that the three tasks share.
const TEXT_TO_TEXT: TaskDefinition = TaskDefinition {
    id: "",
    aliases: &[],
    summary: "",
    auto_class: AutoClass::Seq2SeqLM,
    outputs: &[],
    generates: true,
    options: OptionsType::of::<Text2TextGeneration>(),
    function: SqlFunction { name: "", parameters: &[], parts: &[], description: "", example: "" },
    usual_type: || DataType::Struct(fields()),
    template: "",
};

impl TaskOptions for Text2TextGeneration {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn check(&self, step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        for (key, given) in
            [("src_lang", self.src_lang.is_some()), ("tgt_lang", self.tgt_lang.is_some())]
        {
            if given && step.task.id != TRANSLATION.id {
                let message =
                    format!("`{key}` is an option of `translation`, not of `{}`", step.task.id);
                report.push(Diagnostic::new(at.key(key).key, message));
            }
        }
        if self.src_lang.is_some() != self.tgt_lang.is_some() {
            let given = if self.src_lang.is_some() { "src_lang" } else { "tgt_lang" };
            report.push(
                Diagnostic::new(at.key(given).key, "`src_lang` and `tgt_lang` belong together")
                    .hint("set both or neither"),
            );
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(Text2TextGenerationTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct Text2TextGenerationTask {
    classifier: Classifier,
    base: TaskBase,
    prefix: String,
    config: GenerationConfig,
    /// The maximum number of input tokens; `None` for no limit.
    max_length: Option<usize>,
    truncation: bool,
}

impl Text2TextGenerationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no such head or a setting is not implemented; `Config`
    /// for conflicting options.
    fn resolve(step: &TaskStep, options: &Text2TextGeneration, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::Seq2SeqLM, models)?;
        let model = &classifier.model;
        let names = task_names(step.task.id, options);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut params = task_params(model, &names);
        let prefix = params.shift_remove("prefix");
        let prefix = prefix.as_ref().or(model.config().json().get("prefix"));
        let prefix = options.prefix.as_deref().or(prefix.and_then(Value::as_str));
        let prefix = prefix.unwrap_or_default().to_owned();
        let pipeline = json!({"max_new_tokens": 256, "num_beams": 4});
        let config = settings(model, &pipeline, &params, &step.generation)?;

        let truncation = step.truncation.unwrap_or(false);
        let stated = model.tokenizer().model_max_length();
        let max_length = match (step.max_length, truncation) {
            (None, false) => model.config().dimensions().max_position_embeddings,
            (max_length, _) => Some(max_tokens(model, max_length, stated, false)?),
        };
        if truncation && max_length == Some(usize::MAX) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`truncation: true`, but model `{}` has no maximum length",
                    step.model_name
                ),
            )
            .hint("set `max_length`"));
        }
        let summary = summary(
            step.task.id,
            step,
            model,
            json!({
                "prefix": prefix,
                "max_length": max_length,
                "truncation": truncation,
                "generation": shown(&config),
            }),
        );
        let field = Arc::new(Field::new(&step.output, DataType::Struct(fields()), true));
        let base = TaskBase {
            columns: vec![options.input.clone()],
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, base, prefix, config, max_length, truncation })
    }
}

/// The keys of the model's `task_specific_params` that may describe the task; the first match counts.
fn task_names(task_id: &str, options: &Text2TextGeneration) -> Vec<String> {
    if task_id != TRANSLATION.id {
        return vec![task_id.to_owned()];
    }
    match (&options.src_lang, &options.tgt_lang) {
        (Some(src_lang), Some(tgt_lang)) => {
            vec![format!("translation_{src_lang}_to_{tgt_lang}")]
        }
        // Without languages, the first language pair in the model's file.
        _ => vec!["translation".to_owned(), "translation*".to_owned()],
    }
}

impl Task for Text2TextGenerationTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let options = EncodeOptions {
            max_length: self.max_length.filter(|_| self.truncation),
            ..EncodeOptions::default()
        };
        let model = &*self.classifier.model;
        encode_rows(Some(model), &self.base.columns, columns, first_row, |texts| {
            let text = format!("{}{}", self.prefix, texts[0]);
            let encoding = model.tokenizer().encode(&text, &options)?;
            let most = self.max_length.unwrap_or(usize::MAX);
            model.text_input(most, self.truncation).fits(encoding.input_ids.len())?;
            let sequence = Sequence::new(encoding.input_ids, Vec::new());
            Ok(EncodedRow { truncated: encoding.truncated, ..sequence.into() })
        })
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        output_bytes(&self.config)
    }

    fn batching(&self) -> Batching {
        Batching::Share
    }

    fn cached_tokens(&self, prompt: usize) -> usize {
        self.config.num_beams * (prompt + self.config.max_total_tokens(1, None))
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(Text2TextGenerationModel(Generator {
            model: self.classifier.load(device)?.model,
            resolved: Arc::clone(&self.classifier.model),
            config: self.config.clone(),
            text_of: TextOf::Generated,
            include_reasoning: true,
            prefixes: PrefixCache::default(),
        })))
    }
}

/// The task with its weights.
struct Text2TextGenerationModel(Generator);

impl TaskModel for Text2TextGenerationModel {
    fn forward(&self, sequences: &[&Sequence], max_batch_tokens: usize) -> Result<ArrayRef> {
        self.0.forward(sequences, max_batch_tokens)
    }

    fn weights(&self) -> WeightSize {
        self.0.weights()
    }
}
