//! `text2text-generation`, `summarization`, `translation`: generates text from text with an encoder-decoder model, as
//! transformers' pipelines do.
//!
//! # Source
//! `src/transformers/pipelines/text2text_generation.py` at v4.57. As there, the defaults are four beams and 256
//! tokens, the model and the step may override them, and only `truncation: true` truncates the input. Of 5.24 are the
//! special tokens of languages (`_build_translation_inputs` of the tokenizers). The parts of a split text are not of
//! transformers.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::pipelines::{TextOf, split_text};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::classifier::{Classifier, summary};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::generation::{
    Generator, JoinedTexts, fields, output_bytes, settings, shown, task_params,
};
use super::models::Models;
use super::text_input::{encode_rows, max_tokens};
use super::{Batching, EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, AutoTokenizer, EncodeOptions, Encoding, TranslationTokens};
use crate::document::{ColumnOr, Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::generation::{GenerationConfig, PrefixCache};

/// The own options of `text2text-generation`, `summarization` and `translation`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Text2TextGeneration {
    /// The text column, or, for `translation`, `{text, tgt_lang}`.
    pub input: ColumnOr<TextTargetLanguage>,
    /// Text prepended to every row, such as `summarize: `.
    pub prefix: Option<String>,
    /// The language of the input, as the model names it: `en`, `en_XX`, `eng_Latn`.
    pub src_lang: Option<String>,
    /// The language of the output, as the model names it.
    pub tgt_lang: Option<String>,
    /// What happens to texts longer than the model's maximum: `truncate` reads their beginning, `error` fails, `split`
    /// cuts them at the ends of sentences, computes the parts one by one and joins the results. Default: `truncate` with
    /// `truncation: true`, else `error`.
    pub on_long: Option<OnLong>,
}

/// A text and the language to translate it to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextTargetLanguage {
    /// The text column.
    pub text: String,
    /// The column with the language of each row's translation.
    pub tgt_lang: String,
}

/// What happens to texts that are longer than the model's maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLong {
    /// Read their beginning.
    Truncate,
    /// Fail.
    Error,
    /// Split them at the ends of sentences.
    Split,
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
        parts: &["text", "tgt_lang"],
        description: "The translation of a text, or of {text: …, tgt_lang: …}; the type is that of text2text. The options src_lang and tgt_lang name the languages.",
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
        match &self.input {
            ColumnOr::Column(text) => vec![InputColumn::whole(text)],
            ColumnOr::Columns(TextTargetLanguage { text, tgt_lang }) => {
                vec![InputColumn::part("text", text), InputColumn::part("tgt_lang", tgt_lang)]
            }
        }
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
        let of_rows = matches!(self.input, ColumnOr::Columns(_));
        if of_rows && step.task.id != TRANSLATION.id {
            let message = format!(
                "a column of languages is an input of `translation`, not of `{}`",
                step.task.id
            );
            report.push(Diagnostic::new(at.key("input").value, message));
        } else if of_rows && self.tgt_lang.is_some() {
            report.push(
                Diagnostic::new(
                    at.key("tgt_lang").key,
                    "the language of the output is given twice",
                )
                .related(at.key("input").value, "names a column of languages"),
            );
        } else if !of_rows && self.src_lang.is_some() != self.tgt_lang.is_some() {
            let given = if self.src_lang.is_some() { "src_lang" } else { "tgt_lang" };
            report.push(
                Diagnostic::new(at.key(given).key, "`src_lang` and `tgt_lang` belong together")
                    .hint("set both or neither"),
            );
        }
        if let (Some(on_long), Some(truncation)) = (self.on_long, step.keys.truncation)
            && (on_long == OnLong::Truncate) != truncation
        {
            report.push(
                Diagnostic::new(at.key("on_long").key, "`on_long` and `truncation` conflict")
                    .related(at.key("truncation").key, "the other")
                    .hint("keep `on_long`"),
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
    on_long: OnLong,
    languages: TargetLanguages,
}

/// The special tokens of translations.
#[derive(Debug)]
enum TargetLanguages {
    /// The model has no language codes: the tokenizer's own special tokens count.
    None,
    /// One for all rows.
    Same(TranslationTokens),
    /// By the column; the source language, if it is given.
    OfRows(Option<String>),
}

impl TargetLanguages {
    /// # Errors
    /// `Config` for a language that the model does not know, or that is missing.
    fn resolve(
        step: &TaskStep,
        options: &Text2TextGeneration,
        tokenizer: &AutoTokenizer,
        config: &GenerationConfig,
    ) -> Result<Self> {
        let of_rows = matches!(options.input, ColumnOr::Columns(_));
        if step.task.id != TRANSLATION.id {
            return Ok(Self::None);
        }
        if tokenizer.language_codes().is_empty() {
            if !of_rows {
                return Ok(Self::None);
            }
            let message = format!("model `{}` has no language codes", step.model_name);
            return Err(Error::new(ErrorKind::Config, message).hint(
                "name a text column in `input`, and say the language with `prefix` or in the texts",
            ));
        }
        let src_lang = options.src_lang.as_deref();
        let tokens = tokenizer.translation_tokens(src_lang, options.tgt_lang.as_deref())?;
        let Some(tokens) = tokens else { return Ok(Self::None) };
        if of_rows {
            return Ok(Self::OfRows(options.src_lang.clone()));
        }
        if tokens.forced_bos_token_id.or(config.forced_bos_token_id).is_none() {
            let message = format!(
                "model `{}` translates to many languages, but `tgt_lang` is not set",
                step.model_name
            );
            return Err(Error::new(ErrorKind::Config, message)
                .hint("set `src_lang` and `tgt_lang`, or name a column of languages: `input: {text: …, tgt_lang: …}`"));
        }
        Ok(Self::Same(tokens))
    }
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
        let languages = TargetLanguages::resolve(step, options, model.tokenizer(), &config)?;

        let on_long = options.on_long.unwrap_or(match step.truncation {
            Some(true) => OnLong::Truncate,
            _ => OnLong::Error,
        });
        let stated = model.tokenizer().model_max_length();
        let max_length = match (step.max_length, on_long) {
            (None, OnLong::Error) => model.config().dimensions().position_limit(),
            (max_length, _) => Some(max_tokens(model, max_length, stated, false)?),
        };
        if on_long != OnLong::Error && max_length == Some(usize::MAX) {
            let option = match on_long {
                OnLong::Split => "on_long: split",
                _ => "truncation: true",
            };
            let message =
                format!("`{option}`, but model `{}` has no maximum length", step.model_name);
            return Err(Error::new(ErrorKind::Config, message).hint("set `max_length`"));
        }
        let mut shown_options = json!({
            "prefix": prefix,
            "max_length": max_length,
            "truncation": on_long == OnLong::Truncate,
            "generation": shown(&config),
        });
        if on_long == OnLong::Split {
            shown_options["on_long"] = json!("split");
        }
        if !matches!(languages, TargetLanguages::None) {
            shown_options["src_lang"] = json!(options.src_lang);
            shown_options["tgt_lang"] = json!(options.tgt_lang);
        }
        let summary = summary(step.task.id, step, model, shown_options);
        let field = Arc::new(Field::new(&step.output, DataType::Struct(fields()), true));
        let base = TaskBase {
            columns: options.inputs().into_iter().map(|input| input.name.to_owned()).collect(),
            field,
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, base, prefix, config, max_length, on_long, languages })
    }

    /// The row of a text, and of the language of its translation if a column has it.
    fn encode_row(&self, texts: &[&str]) -> Result<EncodedRow> {
        let of_row;
        let tokens = match (&self.languages, texts) {
            (TargetLanguages::None, _) => None,
            (TargetLanguages::Same(tokens), _) => Some(tokens),
            (TargetLanguages::OfRows(src_lang), [_, tgt_lang, ..]) => {
                let tokenizer = self.classifier.model.tokenizer();
                let found = tokenizer.translation_tokens(src_lang.as_deref(), Some(tgt_lang));
                of_row = found.map_err(|error| {
                    let row = Error::of_row(RowErrorKind::Data, error.message());
                    match error.remedy() {
                        Some(remedy) => row.hint(remedy),
                        None => row,
                    }
                })?;
                of_row.as_ref()
            }
            (TargetLanguages::OfRows(_), _) => None,
        };
        if self.on_long != OnLong::Split {
            return self.encode_text(texts[0], tokens);
        }
        let most = self.max_length.unwrap_or(usize::MAX);
        let count = |part: &str| Ok(self.encoding(part, tokens)?.input_ids.len());
        let parts = split_text(texts[0], most, &count)?;
        let split = parts.len() > 1;
        let mut row = EncodedRow { split, ..EncodedRow::default() };
        let mut ends_line = Vec::with_capacity(parts.len());
        for part in parts {
            let encoded = self.encode_text(part.text, tokens)?;
            row.sequences.extend(encoded.sequences);
            ends_line.push(part.ends_line);
        }
        row.note = Some(Box::new(ends_line));
        Ok(row)
    }

    /// The tokens of a text, truncated if the step says so. `start` of the sequence is above 0 if the translation begins
    /// with a token of its own: one more than its id.
    fn encode_text(&self, text: &str, tokens: Option<&TranslationTokens>) -> Result<EncodedRow> {
        let encoding = self.encoding(text, tokens)?;
        let forced = tokens.and_then(|tokens| tokens.forced_bos_token_id);
        let start = forced.map_or(0, |id| id as usize + 1);
        let sequence = Sequence { start, ..Sequence::new(encoding.input_ids, Vec::new()) };
        Ok(EncodedRow { truncated: encoding.truncated, ..sequence.into() })
    }

    fn encoding(
        &self,
        text: &str,
        tokens: Option<&TranslationTokens>,
    ) -> hfauto::error::Result<Encoding> {
        let tokenizer = self.classifier.model.tokenizer();
        let text = format!("{}{text}", self.prefix);
        let max_length = self.max_length.filter(|_| self.on_long == OnLong::Truncate);
        let options = EncodeOptions { max_length, ..EncodeOptions::default() };
        let Some(tokens) = tokens else { return tokenizer.encode(&text, &options) };
        let special = tokens.before.len() + tokens.after.len();
        let options = EncodeOptions {
            max_length: max_length.map(|most| most.saturating_sub(special)),
            add_special_tokens: false,
            ..options
        };
        let encoding = tokenizer.encode(&text, &options)?;
        let input_ids = [&tokens.before[..], &encoding.input_ids, &tokens.after].concat();
        Ok(Encoding { input_ids, ..encoding })
    }

    /// Rejects a text with more tokens than the model's maximum.
    fn fits(&self, tokens: usize) -> Result<()> {
        let most = self.max_length.unwrap_or(usize::MAX);
        let truncation = self.on_long == OnLong::Truncate;
        Ok(self.classifier.model.text_input(most, truncation).fits(tokens)?)
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
        let model = &*self.classifier.model;
        encode_rows(Some(model), &self.base.columns, columns, first_row, |texts| {
            let row = self.encode_row(texts)?;
            row.sequences.iter().try_for_each(|sequence| self.fits(sequence.tokens()))?;
            Ok(row)
        })
    }

    fn is_row_by_row(&self) -> bool {
        self.on_long != OnLong::Split
    }

    /// Joins the texts of a row's parts.
    fn finish(&self, _columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let mut joined = JoinedTexts::new(&results.values)?;
        for (row, note) in results.rows.iter().zip(results.notes) {
            let ends_line = note.as_ref().and_then(|note| note.downcast_ref::<Vec<bool>>());
            joined.push(row.clone(), ends_line.map_or(&[], Vec::as_slice));
        }
        Ok(joined.finish())
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
            generated_tokens: AtomicU64::new(0),
        })))
    }
}

/// The task with its weights.
struct Text2TextGenerationModel(Generator);

impl TaskModel for Text2TextGenerationModel {
    fn forward(&self, sequences: &[&Sequence], max_batch_tokens: usize) -> Result<ArrayRef> {
        self.0.forward_by_language(sequences, max_batch_tokens)
    }

    fn take_generated_tokens(&self) -> u64 {
        self.0.take_generated_tokens()
    }

    fn weights(&self) -> WeightSize {
        self.0.weights()
    }
}
