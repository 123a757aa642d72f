//! The Transformer module's file: configuration overrides, tokenizer options and truncation.
//!
//! # Source
//! `Transformer.load_config` and `Transformer.__init__` in `sentence_transformers/base/modules/transformer.py` at v6.2.

use serde_json::{Map, Value, json};

use super::keys::{self, File};
use super::messages::{MessageFormat, PairMessages};
use super::{Encoder, object};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;

/// The names of the file in search order; the first one with any key counts.
const FILES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Boolean options of a tokenizer.
const FLAGS: [&str; 4] =
    ["add_prefix_space", "do_lower_case", "strip_accents", "tokenize_chinese_chars"];

/// The settings in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TransformerSettings {
    /// Overrides of `config.json`.
    pub(super) config_kwargs: Map<String, Value>,
    /// Overrides of `tokenizer_config.json`; `model_max_length` comes from whichever key sets it.
    pub(super) processor_kwargs: Map<String, Value>,
    pub(super) do_lower_case: bool,
    /// `transformer_task`, if set.
    pub(super) task: Option<String>,
    /// `processing_kwargs.chat_template`.
    chat_template: PairMessages,
    /// Lengths and expansion of queries and documents.
    pub(super) multi_vector: Map<String, Value>,
    /// `modality_config` and `module_output_name`, if set.
    modality: Option<Value>,
    output_name: Option<Value>,
    /// The name of the file, for errors.
    pub(super) place: String,
}

/// The output of a model that an encoder of sentence-transformers reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadOutput {
    task: &'static str,
    method: &'static str,
    output: &'static str,
    /// The name under which the module passes it on.
    feature: &'static str,
    logit_score: bool,
}

impl TransformerSettings {
    /// Reads the file in the transformer's folder.
    ///
    /// # Errors
    /// `Unsupported`, with its name, for a key that is not implemented; `Model` for a wrong type or an impossible
    /// value.
    pub(super) fn read(transformer: &Snapshot) -> Result<Self> {
        for file in FILES {
            let json = object(transformer, file)?.unwrap_or_default();
            if !json.is_empty() {
                return Self::parse(&json, format!("`{file}`"));
            }
        }
        Ok(Self::default())
    }

    fn parse(json: &Map<String, Value>, place: String) -> Result<Self> {
        keys::check(File::Transformer, json, &place)?;
        let wrong = |key: &str, value: &Value| {
            Error::new(ErrorKind::Model, format!("`{key}` in {place} is `{value}`"))
        };
        // A map under its new or its old name; the old name wins, as in sentence-transformers.
        let map = |old: &str, new: &str, file: File| {
            let key = if json.contains_key(old) { old } else { new };
            match json.get(key) {
                None | Some(Value::Null) => Ok(Map::new()),
                Some(Value::Object(map)) => {
                    keys::check(file, map, &format!("`{key}` of {place}"))?;
                    Ok(map.clone())
                }
                Some(value) => Err(wrong(key, value)),
            }
        };
        let model_kwargs = map("model_args", "model_kwargs", File::ModelKwargs)?;
        let mut config_kwargs = map("config_args", "config_kwargs", File::ConfigKwargs)?;
        config_kwargs.retain(|key, _| !keys::is_harmless(File::ConfigKwargs, key));
        if let Some(task) = model_kwargs.get("default_task").filter(|task| !task.is_null()) {
            config_kwargs.insert("default_task".to_owned(), task.clone());
        }
        let mut processor_kwargs =
            map("tokenizer_args", "processor_kwargs", File::ProcessorKwargs)?;
        for key in FLAGS {
            match processor_kwargs.get(key) {
                None | Some(Value::Bool(_)) => {}
                Some(Value::Null) if key == "strip_accents" => {}
                Some(value) => return Err(wrong(key, value)),
            }
        }
        processor_kwargs.retain(|key, _| !keys::is_harmless(File::ProcessorKwargs, key));
        let length = |json: &Map<String, Value>, key: &str| match json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(tokens) if tokens > 0 => Ok(Some(tokens)),
                _ => Err(wrong(key, value)),
            },
        };
        if let Some(tokens) = length(json, "max_seq_length")? {
            processor_kwargs.entry("model_max_length").or_insert_with(|| tokens.into());
        }
        // Call options override those of the tokenizer, and `common` overrides `text`.
        let processing = map("processing_kwargs", "processing_kwargs", File::Processing)?;
        for key in ["text", "common"] {
            match processing.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Object(options)) => {
                    let place = format!("`processing_kwargs.{key}` of {place}");
                    keys::check(File::ProcessingText, options, &place)?;
                    if let Some(tokens) = length(options, "max_length")? {
                        processor_kwargs.insert("model_max_length".to_owned(), tokens.into());
                    }
                }
                Some(value) => return Err(wrong(key, value)),
            }
        }
        let chat_template = match processing.get("chat_template") {
            None | Some(Value::Null) => PairMessages::default(),
            Some(Value::Object(kwargs)) => {
                let place = format!("`processing_kwargs.chat_template` of {place}");
                keys::check(File::ChatTemplate, kwargs, &place)?;
                let max_length = length(kwargs, "max_length")?;
                PairMessages { max_length, ..PairMessages::read(kwargs, &place)? }
            }
            Some(value) => return Err(wrong("chat_template", value)),
        };
        let do_lower_case = match json.get("do_lower_case") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(value) => return Err(wrong("do_lower_case", value)),
        };
        let task = match json.get("transformer_task") {
            None | Some(Value::Null) => None,
            Some(Value::String(task)) => Some(task.clone()),
            Some(value) => return Err(wrong("transformer_task", value)),
        };
        const MULTI_VECTOR: [&str; 3] = ["query_length", "document_length", "query_expansion"];
        let multi_vector = json.iter().filter(|(key, _)| MULTI_VECTOR.contains(&key.as_str()));
        let multi_vector = multi_vector.map(|(key, value)| (key.clone(), value.clone())).collect();
        let said = |key: &str| json.get(key).filter(|value| !value.is_null()).cloned();
        let (modality, output_name) = (said("modality_config"), said("module_output_name"));
        Ok(Self {
            config_kwargs,
            processor_kwargs,
            do_lower_case,
            task,
            chat_template,
            multi_vector,
            modality,
            output_name,
            place,
        })
    }

    /// The output of the model that an encoder reads; `logit_score` means a LogitScore after the module, `own_vectors` a model of
    /// texts and images.
    pub(super) fn output(encoder: Encoder, logit_score: bool, own_vectors: bool) -> ReadOutput {
        let forward = |task, output, feature| ReadOutput {
            task,
            method: "forward",
            output,
            feature,
            logit_score,
        };
        match encoder {
            Encoder::SentenceTransformer if own_vectors => ReadOutput {
                method: "get_text_features",
                ..forward("feature-extraction", "pooler_output", "sentence_embedding")
            },
            Encoder::SentenceTransformer | Encoder::MultiVectorEncoder => {
                forward("feature-extraction", "last_hidden_state", "token_embeddings")
            }
            Encoder::CrossEncoder if logit_score => {
                forward("text-generation", "logits", "causal_logits")
            }
            Encoder::CrossEncoder => forward("sequence-classification", "logits", "scores"),
            Encoder::SparseEncoder => forward("fill-mask", "logits", "token_embeddings"),
        }
    }

    /// Checks that the module suits this kind of encoder, which reads `reads`; `masked` means an MLMTransformer.
    ///
    /// # Errors
    /// `Unsupported` for another task, or another way of passing texts to the model.
    pub(super) fn check_task(
        &self,
        encoder: Encoder,
        masked: bool,
        reads: &ReadOutput,
    ) -> Result<()> {
        let ReadOutput { task: expected, method, output, feature, logit_score, .. } = *reads;
        if let Some(expansion) = self.multi_vector.get("query_expansion").filter(|e| !e.is_null())
            && encoder != Encoder::MultiVectorEncoder
        {
            return Err(keys::not_implemented("query_expansion", expansion, &self.place)
                .hint("only a MultiVectorEncoder scores the tokens that it adds"));
        }
        let default = if masked { "fill-mask" } else { "feature-extraction" };
        let task = self.task.as_deref().unwrap_or(default);
        if task != expected {
            let value = Value::from(task);
            let with = match encoder {
                Encoder::CrossEncoder if logit_score => " before a LogitScore module",
                Encoder::CrossEncoder => ", or `text-generation` before a LogitScore module",
                _ => "",
            };
            return Err(keys::not_implemented("transformer_task", &value, &self.place)
                .hint(format!("a {} has `{expected}`{with}", encoder.name())));
        }
        if let Some(name) = self.output_name.as_ref().filter(|name| *name != feature) {
            return Err(keys::not_implemented("module_output_name", name, &self.place)
                .hint(format!("a {} has `{feature}`", encoder.name())));
        }
        let Some(modality) = &self.modality else { return Ok(()) };
        let outputs = [json!(output), json!([output])];
        let is_plain = |inputs: &Value| {
            inputs.get("method").is_some_and(|found| found == method)
                && inputs.get("method_output_name").is_some_and(|name| outputs.contains(name))
        };
        // Entries for images belong to other tasks. The modality `message` turns every text into a message.
        let allowed = match (modality.get("text"), modality.get("message")) {
            (text, Some(message)) => {
                encoder == Encoder::CrossEncoder
                    && text.is_none_or(is_plain)
                    && is_plain(message)
                    && MessageFormat::of(message.get("format")).is_some()
            }
            (text, None) => text.is_some_and(is_plain),
        };
        if allowed {
            return Ok(());
        }
        let message = if encoder == Encoder::CrossEncoder { "the same for" } else { "without" };
        Err(keys::not_implemented("modality_config", modality, &self.place).hint(format!(
            "implemented is `{{\"text\": {{\"method\": \"{method}\", \"method_output_name\": \"{output}\"}}}}`, {message} \
             `message`"
        )))
    }

    /// How a cross-encoder passes a pair to the model; no other encoder does.
    pub(super) fn pair_messages(&self, encoder: Encoder) -> PairMessages {
        if encoder != Encoder::CrossEncoder {
            return PairMessages::default();
        }
        let messages = self.chat_template.clone();
        match self.modality.as_ref().map(|modality| modality.get("message")) {
            None => messages,
            Some(None) => PairMessages { used: Some(false), ..messages },
            Some(Some(message)) => PairMessages {
                used: Some(true),
                format: MessageFormat::of(message.get("format")).flatten(),
                ..messages
            },
        }
    }
}
