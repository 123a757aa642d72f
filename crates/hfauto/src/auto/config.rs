//! `config.json` with its overrides, and its model family.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::families::FAMILIES;
use super::family::Family;
use super::{labels, nearest, snapshot};
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Need, Snapshot, refuse_quantized};
use crate::limits;
use crate::models::{Dimensions, Fields};
use crate::nn::AttnImplementation;

/// Settings that every transformers configuration has.
const COMMON_KEYS: [&str; 27] = [
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// The configuration of a checkpoint: its family and all settings, known without weights.
///
/// # Example
/// ```
/// use hfauto::auto::AutoConfig;
///
/// # fn main() -> hfauto::Result<()> {
/// let config = AutoConfig::from_pretrained(concat!(
///     env!("CARGO_MANIFEST_DIR"),
///     "/../../tests/golden/bert"
/// ))?;
/// assert_eq!(config.model_type(), "bert");
/// assert_eq!(config.dimensions().hidden_size, 32);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AutoConfig {
    family: &'static Family,
    json: Map<String, Value>,
    dimensions: Dimensions,
    pub(super) id2label: BTreeMap<i64, String>,
}

/// Options of [`AutoConfig::builder`].
#[derive(Clone, Debug)]
pub struct AutoConfigBuilder {
    id: String,
    revision: Option<String>,
    config: Map<String, Value>,
}

impl AutoConfigBuilder {
    /// The branch, tag or commit; default `main`.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Overrides of `config.json`.
    #[must_use]
    pub fn config(mut self, config: Map<String, Value>) -> Self {
        self.config = config;
        self
    }

    /// Loads the configuration.
    ///
    /// # Errors
    /// As [`AutoConfig::from_snapshot`]; `Hub` if the files cannot be obtained.
    pub fn load(self) -> Result<AutoConfig> {
        let snapshot = snapshot(&self.id, self.revision.as_deref(), Need::Config)?;
        AutoConfig::from_snapshot(&snapshot, &self.config)
    }
}

impl AutoConfig {
    /// Loads the configuration of a hub id or directory.
    ///
    /// # Errors
    /// As [`AutoConfig::from_snapshot`]; `Hub` if the files cannot be obtained.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// As [`AutoConfig::from_pretrained`], with options.
    pub fn builder(id: impl Into<String>) -> AutoConfigBuilder {
        AutoConfigBuilder { id: id.into(), revision: None, config: Map::new() }
    }

    /// Reads `config.json` of `snapshot` and applies `overrides`.
    ///
    /// # Errors
    /// `Unsupported` for a `model_type` or a setting that is not implemented; `Model` if the file is missing or
    /// invalid; `Config` for an override that is not a setting of the family.
    pub fn from_snapshot(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        let at = |error: Error| error.at(format!("config.json of `{}`", snapshot.name()));
        let json = snapshot.json("config.json")?.ok_or_else(|| {
            Error::new(ErrorKind::Model, format!("`{}` has no config.json", snapshot.name()))
        })?;
        let Value::Object(json) = json else {
            return Err(at(Error::new(ErrorKind::Model, "config.json is not a JSON object")));
        };
        refuse_quantized(&Value::Object(json.clone())).map_err(at)?;
        Self::from_json(json, overrides).map_err(at)
    }

    /// Builds the configuration from a parsed `config.json`.
    ///
    /// # Errors
    /// As [`AutoConfig::from_snapshot`].
    pub fn from_json(mut json: Map<String, Value>, overrides: &Map<String, Value>) -> Result<Self> {
        // Old configurations lack it. Only then may an override set it.
        let stated = json.get("model_type").is_some_and(|model_type| !model_type.is_null());
        if let (false, Some(model_type)) = (stated, overrides.get("model_type")) {
            json.insert("model_type".to_owned(), model_type.clone());
        }
        let family = family(&json)?;
        if let Some(key) = family.text_config {
            raise_text_config(&mut json, key)?;
        }
        resolve_attribute_map(family, &mut json);
        apply(family, &mut json, overrides)?;
        check_labels(&json, overrides)?;
        let dimensions = (family.dimensions)(&Fields::new(&json))?;
        let id2label = labels::read(&json)?;
        Ok(Self { family, json, dimensions, id2label })
    }

    /// A configuration without a `config.json`, of a family that is not in the table.
    pub(super) fn of_family(family: &'static Family, dimensions: Dimensions) -> Self {
        Self { family, json: Map::new(), dimensions, id2label: BTreeMap::new() }
    }

    /// The family's row in the table.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// `model_type`.
    pub fn model_type(&self) -> &'static str {
        self.family.model_type
    }

    /// `config.json` after the overrides.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// The sizes and the numbering of positions.
    pub fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    /// `architectures`: the classes from which the checkpoint was saved.
    pub fn architectures(&self) -> Vec<&str> {
        strings(&self.json, "architectures")
    }

    /// The kernels that compute attention.
    pub fn attn_implementation(&self) -> AttnImplementation {
        Fields::new(&self.json).attn_implementation()
    }

    /// Checks that the model is T5 or mT5, which `AutoModelForT5` requires.
    ///
    /// # Errors
    /// `Unsupported` for another model.
    pub fn require_t5(&self) -> Result<()> {
        if self.family.auto_model_for_t5 {
            return Ok(());
        }
        let other = self.model_type();
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("`AutoModelForT5` loads T5, but the model_type is `{other}`"),
        )
        .hint(format!("`{other}` works with {}", self.family.class_names())))
    }

    /// The class to which the deprecated `AutoModelWithLMHead` resolves. Logs a deprecation warning.
    ///
    /// # Errors
    /// `Unsupported` if the family has no head over the vocabulary.
    pub fn with_lm_head(&self) -> Result<AutoClass> {
        let classes = [AutoClass::Seq2SeqLM, AutoClass::MaskedLM, AutoClass::CausalLM];
        let class = classes.into_iter().find(|class| self.family.has(*class)).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("model_type `{}` has no head over a vocabulary", self.model_type()),
            )
            .hint(format!(
                "`{}` works with {}",
                self.model_type(),
                self.family.class_names()
            ))
        })?;
        tracing::warn!("`AutoModelWithLMHead` is deprecated: use `{class}` for this model");
        Ok(class)
    }

    /// `problem_type`, if the configuration sets it.
    pub fn problem_type(&self) -> Option<&str> {
        self.json.get("problem_type").and_then(Value::as_str)
    }

    /// Whether attentions are returned by default.
    pub fn output_attentions(&self) -> bool {
        self.json.get("output_attentions").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether hidden states are returned by default.
    pub fn output_hidden_states(&self) -> bool {
        self.json.get("output_hidden_states").and_then(Value::as_bool).unwrap_or(false)
    }
}

fn strings<'a>(json: &'a Map<String, Value>, key: &str) -> Vec<&'a str> {
    let list = json.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The family by `model_type`, or an error with a remedy. As in transformers without `trust_remote_code`, a built-in
/// architecture takes precedence over the Python code that `auto_map` names.
fn family(json: &Map<String, Value>) -> Result<&'static Family> {
    let known = format!("implemented model types: {}", Family::model_types());
    let has_code = json.get("auto_map").is_some_and(|map| !map.is_null());
    let Some(model_type) = json.get("model_type").filter(|value| !value.is_null()) else {
        let architectures = strings(json, "architectures");
        let guess = architectures.iter().find_map(|name| Family::by_architecture(name));
        let hint = match guess {
            Some(family) => format!(
                "its architecture is `{}`: set `model_type: {}` in the model's `config`",
                architectures.join(", "),
                family.model_type
            ),
            None => known,
        };
        return Err(Error::new(ErrorKind::Model, "config.json has no `model_type`").hint(hint));
    };
    let Some(model_type) = model_type.as_str() else {
        return Err(Error::new(
            ErrorKind::Model,
            format!("`model_type` in config.json is `{model_type}`, not a string"),
        ));
    };
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    let remote = Family::find_remote(model_type, text);
    if let Some(family) = remote.or_else(|| Family::find(model_type)) {
        if has_code {
            tracing::debug!(
                model_type,
                "ignoring `auto_map` in config.json: the architecture is built in"
            );
        }
        return Ok(family);
    }
    Err({
        if has_code {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "model_type `{model_type}` needs Python code of the model's repository (`auto_map`), which is not executed"
                ),
            )
            .hint(format!("choose a checkpoint of a built-in architecture; {known}")));
        }
        let names = FAMILIES.iter().map(|family| family.model_type);
        let slip = nearest(model_type, names)
            .map_or_else(String::new, |name| format!("; the nearest name is `{name}`"));
        Error::new(
            ErrorKind::Unsupported,
            format!("model_type `{model_type}` in config.json is not implemented{slip}"),
        )
        .hint(known)
    })
}

/// Rejects more labels than a head can have before reading any weights: each label is a string.
fn check_labels(json: &Map<String, Value>, overrides: &Map<String, Value>) -> Result<()> {
    let count = |key: &str| match json.get(key) {
        Some(Value::Number(count)) => count.as_f64().unwrap_or(0.0),
        Some(Value::Object(labels)) => labels.len() as f64,
        _ => 0.0,
    };
    for key in ["num_labels", "id2label"] {
        let (found, most) = (count(key), limits::MODEL_LABELS);
        if found > most as f64 {
            let kind =
                if overrides.contains_key(key) { ErrorKind::Config } else { ErrorKind::Model };
            let message =
                format!("`{key}` in config.json has {found} labels, expected at most {most}");
            return Err(Error::new(kind, message));
        }
    }
    Ok(())
}

/// Raises the settings of the text model to the top level.
fn raise_text_config(json: &mut Map<String, Value>, key: &str) -> Result<()> {
    match json.shift_remove(key) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(own)) => {
            let own = own.into_iter();
            let own =
                own.filter(|(key, _)| !matches!(key.as_str(), "model_type" | "architectures"));
            json.extend(own);
            Ok(())
        }
        Some(_) => {
            let text = format!("`{key}` in config.json is not a map");
            Err(Error::new(ErrorKind::Model, text))
        }
    }
}

/// Renames common setting names to the family's own. If both are given, the common name wins, as in transformers.
fn resolve_attribute_map(family: &Family, json: &mut Map<String, Value>) {
    for (common, own) in family.attribute_map {
        if let Some(value) = json.shift_remove(*common) {
            json.insert((*own).to_owned(), value);
        }
    }
}

/// Applies `overrides` to `json`. A key that is not a setting of the family is an error; transformers would ignore
/// it silently.
fn apply(
    family: &Family,
    json: &mut Map<String, Value>,
    overrides: &Map<String, Value>,
) -> Result<()> {
    let defaults = Map::new();
    let fields = Fields::new(&defaults);
    (family.dimensions)(&fields)?;
    let asked = fields.asked();
    let common = family.attribute_map.iter().map(|(common, _)| *common);
    let known: Vec<&str> = asked.iter().copied().chain(COMMON_KEYS).chain(common).collect();
    for key in overrides.keys() {
        if key == "model_type" {
            if overrides.get(key) == json.get(key) {
                continue;
            }
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`model_type` is `{}` in config.json and cannot be overridden",
                    family.model_type
                ),
            ));
        }
        if !known.contains(&key.as_str()) && !json.contains_key(key) {
            let mut hint = format!("settings of `{}` are: {}", family.model_type, {
                let names: Vec<&str> = asked.iter().copied().collect();
                names.join(", ")
            });
            if let Some(name) = nearest(key, known.iter().copied()) {
                hint = format!("the nearest name is `{name}`; {hint}");
            }
            return Err(Error::new(
                ErrorKind::Config,
                format!("`{key}` is not a setting of model_type `{}`", family.model_type),
            )
            .hint(hint));
        }
    }
    let mut overrides = overrides.clone();
    resolve_attribute_map(family, &mut overrides);
    for (key, value) in overrides {
        if matches!(key.as_str(), "output_attentions" | "output_hidden_states")
            && !value.is_boolean()
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`{key}` is `{value}`, not true or false"),
            ));
        }
        if key == "attn_implementation" && !matches!(value.as_str(), Some("eager" | "sdpa")) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("`attn_implementation: {value}` is not implemented"),
            )
            .hint("valid values: eager, sdpa (the fastest kernel for the device)"));
        }
        // As in transformers, a new number of labels resets the label names.
        if key == "num_labels" {
            let labels = json.get("id2label").and_then(Value::as_object).map(Map::len);
            if labels.is_some_and(|labels| Some(labels as u64) != value.as_u64()) {
                json.shift_remove("id2label");
                json.shift_remove("label2id");
            }
        }
        json.insert(key, value);
    }
    Ok(())
}

/// The labels of a head.
impl AutoConfig {
    /// The labels by id: `id2label` of transformers. Ids may have gaps or start above 0; [`AutoConfig::label`]
    /// returns the label of a head output.
    pub fn id2label(&self) -> &BTreeMap<i64, String> {
        &self.id2label
    }

    /// The label of head output `id`.
    ///
    /// # Errors
    /// `Model` when `id2label` has no such id; transformers raises `KeyError`.
    pub fn label(&self, id: usize) -> Result<&str> {
        self.id2label.get(&(id as i64)).map(String::as_str).ok_or_else(|| {
            let ids: Vec<String> = self.id2label.keys().take(20).map(i64::to_string).collect();
            let message = format!("`id2label` in config.json has no label for {id}");
            Error::new(ErrorKind::Model, message).hint(format!(
                "its ids are {}; number them from 0 to {}, one per output of the head",
                ids.join(", "),
                self.num_labels().saturating_sub(1)
            ))
        })
    }

    /// The labels of all head outputs, in order.
    ///
    /// # Errors
    /// As [`AutoConfig::label`].
    pub fn labels(&self) -> Result<Vec<String>> {
        (0..self.num_labels()).map(|id| self.label(id).map(str::to_owned)).collect()
    }

    /// The number of labels, which is the number of head outputs.
    pub fn num_labels(&self) -> usize {
        self.id2label.len()
    }

    /// The head outputs by label, in file order: `label2id`, or else the inverse of [`AutoConfig::id2label`].
    ///
    /// # Errors
    /// `Model` for a label without a number.
    pub fn label2id(&self) -> Result<Vec<(String, i64)>> {
        let Some(Value::Object(labels)) = self.json().get("label2id") else {
            return Ok(self.id2label.iter().map(|(id, label)| (label.clone(), *id)).collect());
        };
        labels
            .iter()
            .map(|(label, value)| match value.as_i64() {
                Some(id) => Ok((label.clone(), id)),
                None => Err(Error::new(
                    ErrorKind::Model,
                    format!("`label2id` in config.json has `{value}` for `{label}`, not a number"),
                )),
            })
            .collect()
    }

    /// The configuration for a head with `rows` outputs. Old checkpoints have a `num_labels` that conflicts with the
    /// length of `id2label`: if the head has `num_labels` outputs, unnamed labels get a default name. The loader
    /// rejects any other number.
    #[must_use]
    pub(super) fn with_labels_of(mut self, rows: usize) -> Self {
        let stated = self.json().get("num_labels").and_then(Value::as_u64);
        if self.num_labels() < rows && stated == Some(rows as u64) {
            for id in 0..rows as i64 {
                self.id2label.entry(id).or_insert_with(|| format!("LABEL_{id}"));
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(json: Value, overrides: Value) -> Result<AutoConfig> {
        let object = |value: Value| value.as_object().unwrap().clone();
        AutoConfig::from_json(object(json), &object(overrides))
    }

    fn refused(json: Value, overrides: Value) -> (ErrorKind, String) {
        let error = config(json, overrides).unwrap_err();
        (error.kind(), error.to_string())
    }

    #[test]
    fn unknown_model_types_are_refused_with_the_list() {
        let (kind, text) = refused(json!({"model_type": "rberta"}), json!({}));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert_eq!(
            text,
            "model_type `rberta` in config.json is not implemented; the nearest name is `roberta`\n\
             hint: implemented model types: \
             albert, bart, beit, bert, bloom, camembert, clip, clip_text_model, \
             clip_vision_model, convnext, convnextv2, data2vec-vision, deberta, deberta-v2, deit, \
             dinov2, distilbert, electra, \
             embedding_gemma2, embedding_gemma2_text, eurobert, falcon, gemma, gemma2, \
             gemma3_text, gpt2, gpt_neo, gpt_neox, gptj, granite, gte, jina_bert_v2, \
             jina_embeddings_v3, llama, m2m_100, marian, mbart, mistral, mixtral, modernbert, \
             mpnet, mt5, nomic_bert, olmo2, opt, pegasus, phi, phi3, qwen2, qwen3, qwen3_moe, \
             resnet, roberta, siglip, siglip_vision_model, smollm3, stablelm, starcoder2, swin, t5, \
             umt5, vit, xlm-roberta, xlm-roberta-xl"
        );
        let (_, text) = refused(json!({"model_type": "mamba"}), json!({}));
        assert!(text.contains("`mamba`") && !text.contains("nearest"), "{text}");
    }

    #[test]
    fn remote_code_is_told_from_the_family_whose_name_it_has() {
        let read = |json: Value| config(json, json!({})).unwrap().model_type();
        let of = |model_type: &str, positions: &str| json!({"model_type": model_type, "position_embedding_type": positions});
        assert_eq!(read(of("bert", "alibi")), "jina_bert_v2");
        assert_eq!(read(of("bert", "absolute")), "bert");
        assert_eq!(read(of("xlm-roberta", "rotary")), "jina_embeddings_v3");
        assert_eq!(read(of("jina_embeddings_v3", "rotary")), "jina_embeddings_v3");
        let (kind, text) = refused(of("roberta", "alibi"), json!({}));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(text.contains("`position_embedding_type: alibi`"), "{text}");
    }

    #[test]
    fn settings_of_the_text_model_are_those_of_the_model() {
        let json = json!({"model_type": "embedding_gemma2", "vision_config": {"hidden_size": 3},
            "text_config": {"model_type": "embedding_gemma2_text", "embedding_dim": 24}});
        let ours = config(json, json!({"num_hidden_layers": 2})).unwrap();
        assert_eq!(ours.model_type(), "embedding_gemma2");
        assert_eq!(ours.dimensions().hidden_size, 24);
        assert_eq!(ours.dimensions().num_hidden_layers, 2);
        let (_, text) =
            refused(json!({"model_type": "embedding_gemma2", "text_config": 1}), json!({}));
        assert!(text.contains("`text_config`"), "{text}");
    }

    #[test]
    fn a_missing_model_type_is_guessed_but_not_assumed() {
        let (kind, text) = refused(json!({"architectures": ["DistilBertForMaskedLM"]}), json!({}));
        assert_eq!(kind, ErrorKind::Model);
        assert!(text.contains("set `model_type: distilbert`"), "{text}");
        let stated = config(json!({"architectures": ["X"]}), json!({"model_type": "distilbert"}));
        assert_eq!(stated.unwrap().model_type(), "distilbert");
        let (kind, text) = refused(json!({"model_type": "bert"}), json!({"model_type": "roberta"}));
        assert_eq!(kind, ErrorKind::Config);
        assert!(text.contains("is `bert` in config.json"), "{text}");
        let (_, text) = refused(json!({}), json!({}));
        assert!(text.contains("implemented model types: "), "{text}");
    }

    #[test]
    fn code_of_the_repository_is_not_run() {
        let with_code = |model_type: &str| json!({"model_type": model_type, "auto_map": {"AutoModel": "modeling.X"}});
        let (kind, text) = refused(with_code("mine"), json!({}));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(text.contains("auto_map") && text.contains("`mine`"), "{text}");
        assert_eq!(config(with_code("bert"), json!({})).unwrap().model_type(), "bert");
    }

    #[test]
    fn settings_that_are_not_implemented_are_refused() {
        for (key, value) in [
            ("position_embedding_type", json!("rotary")),
            ("add_cross_attention", json!(true)),
            ("hidden_act", json!("mish")),
        ] {
            let (kind, text) = refused(json!({"model_type": "bert", key: value}), json!({}));
            assert_eq!(kind, ErrorKind::Unsupported);
            assert!(text.contains(key), "{text}");
        }
        let (kind, text) = refused(json!({"model_type": "mpnet", "hidden_size": 100}), json!({}));
        assert_eq!(kind, ErrorKind::Model);
        assert!(text.contains("`hidden_size: 100`") && text.contains("12"), "{text}");
    }

    #[test]
    fn overrides_go_by_common_and_own_names() {
        let json = json!({"model_type": "distilbert", "dim": 64, "hidden_size": 96, "n_heads": 8});
        assert_eq!(config(json.clone(), json!({})).unwrap().dimensions().hidden_size, 96);
        let ours = config(json, json!({"num_attention_heads": 4, "output_attentions": true}));
        let ours = ours.unwrap();
        assert_eq!(ours.dimensions().num_attention_heads, 4);
        assert!(ours.output_attentions() && !ours.output_hidden_states());
    }

    #[test]
    fn overrides_that_mean_nothing_are_refused() {
        let (kind, text) = refused(json!({"model_type": "bert"}), json!({"num_hiden_layers": 3}));
        assert_eq!(kind, ErrorKind::Config);
        assert!(text.contains("nearest name is `num_hidden_layers`"), "{text}");
        let (_, text) = refused(json!({"model_type": "bert"}), json!({"output_attentions": 1}));
        assert!(text.contains("not true or false"), "{text}");
        assert!(config(json!({"model_type": "bert", "extra": 1}), json!({"extra": 2})).is_ok());
    }

    #[test]
    fn labels_are_ordered_by_id_and_renewed_by_number() {
        let labels: Map<String, Value> =
            (0..12).rev().map(|i| (i.to_string(), json!(format!("l{i}")))).collect();
        let json = json!({"model_type": "bert", "id2label": labels});
        let ours = config(json.clone(), json!({})).unwrap();
        assert_eq!(ours.labels().unwrap()[9..], ["l9", "l10", "l11"]);
        let ours = config(json, json!({"num_labels": 3})).unwrap();
        assert_eq!(ours.labels().unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert_eq!(config(json!({"model_type": "bert"}), json!({})).unwrap().num_labels(), 2);
    }
}
