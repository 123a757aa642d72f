//! Directories of sentence-transformers: bi-encoders, cross-encoders, sparse and multi-vector encoders, static
//! embeddings. Covers the modules after the transformer, prompts, lengths and tokenizer options.
//!
//! [`SentenceTransformerConfig`] is the description, readable without weights, so an embedding's width is known before
//! any weight is loaded. It loads a [`Head`]. Every key of the files takes effect, has none, or is refused by name, as
//! listed in `keys`. Not here: the transformer itself ([`AutoModel`](super::AutoModel)) and tokenization.
//!
//! # Source
//! `sentence_transformers/base/model.py` and the models beside it at v6.2.

mod keys;
mod listed;
mod messages;
mod modules;
mod multi_vector;
mod prompts;
mod sparse_static;
mod static_embedding;
mod transformer;

use candle_core::Device;
use serde_json::{Map, Value};

use super::config::AutoConfig;
use super::tokenizer::AutoTokenizer;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;
use crate::nn::{Pooling, PoolingMode, TorchActivation};
use keys::File;
use listed::{First, ListedModules};
pub use messages::{MessageFormat, PairMessages};
pub use modules::{
    Dense, Head, LogitScore, Module, Norm, SpladeActivation, SpladePooling, SpladeStrategy,
};
pub use multi_vector::{MultiVector, QueryExpansion, TextRole};
use prompts::named_prompts;
pub use sparse_static::SparseStatic;
pub use static_embedding::{StaticEmbedding, StaticTokens};
use transformer::TransformerSettings;

/// The `model_type` of a multi-vector encoder, and that of PyLate.
const MULTI_VECTOR: &str = "MultiVectorEncoder";
const PYLATE: &str = "ColBERT";

/// The file that describes the whole model.
const MODEL_FILE: &str = "config_sentence_transformers.json";

/// The class that a directory was saved from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoder {
    /// A bi-encoder: encodes a text as a vector.
    #[default]
    SentenceTransformer,
    /// A cross-encoder: scores a pair of texts.
    CrossEncoder,
    /// A sparse encoder: weights the vocabulary for a text.
    SparseEncoder,
    /// A multi-vector encoder: encodes a text as one vector per token.
    MultiVectorEncoder,
}

impl Encoder {
    /// The class name in sentence-transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::SentenceTransformer => "SentenceTransformer",
            Self::CrossEncoder => "CrossEncoder",
            Self::SparseEncoder => "SparseEncoder",
            Self::MultiVectorEncoder => MULTI_VECTOR,
        }
    }
}

/// The outputs that a pair is scored by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairScore {
    /// The labels of a classification head.
    Labels,
    /// The next-token logits of a causal language model; `None`: of the tokens `yes` and `no`.
    Logits(Option<LogitScore>),
}

/// The description of a sentence-transformers directory, without its weights.
///
/// A directory without `modules.json` is a transformer with mean pooling; as in sentence-transformers, its other files
/// of sentence-transformers are ignored.
#[derive(Clone, Debug)]
pub struct SentenceTransformerConfig {
    /// The files of the transformer: the directory itself or its `0_Transformer`.
    pub transformer: Snapshot,
    /// The transformer's configuration.
    pub config: AutoConfig,
    /// The class that the directory was saved from; `None` without `modules.json`.
    pub encoder: Option<Encoder>,
    /// The modules after the transformer, in order.
    pub modules: Vec<Module>,
    /// How a sparse encoder's logits become weights; `None` for other directories.
    pub splade_pooling: Option<SpladePooling>,
    /// The score of a cross-encoder over a causal language model.
    pub logit_score: Option<LogitScore>,
    /// How a multi-vector encoder encodes queries and documents.
    pub multi_vector: Option<MultiVector>,
    /// The table of embeddings that stands in for the transformer.
    pub static_embedding: Option<StaticEmbedding>,
    /// The weights of tokens that stand in for the transformer of a sparse encoder.
    pub sparse_static: Option<SparseStatic>,
    /// How a cross-encoder passes a pair to the transformer.
    pub pair_messages: PairMessages,
    /// Prompts by name, in the order of the file.
    pub prompts: Vec<(String, String)>,
    /// The prompt that is used when none is named.
    pub default_prompt_name: Option<String>,
    /// How embeddings are meant to be compared: `cosine`, `dot`, ….
    pub similarity_fn_name: Option<String>,
    /// The dimensions that embeddings are truncated to.
    pub truncate_dim: Option<usize>,
    /// The number of weights that a sparse encoder keeps per text.
    pub max_active_dims: Option<usize>,
    /// The activation of a cross-encoder, as a Python path, if `config_sentence_transformers.json` has one.
    pub activation_fn: Option<String>,
    /// Linear layers that a cross-encoder computes in f32, whatever the dtype of the others.
    pub keep_in_fp32_modules: Vec<String>,
    /// Overrides of `tokenizer_config.json`, including `model_max_length`, the most tokens of a row.
    pub processor_kwargs: Map<String, Value>,
    /// Whether texts are lower-cased before tokenization.
    pub do_lower_case: bool,
}

impl SentenceTransformerConfig {
    /// Reads the description; `overrides` are those of the transformer's `config.json`.
    ///
    /// # Errors
    /// `Unsupported` for a module or a setting that is not implemented; `Model` for missing, damaged or contradictory
    /// files; the errors of [`AutoConfig::from_snapshot`].
    pub fn from_snapshot(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        Self::read(snapshot, overrides).map_err(|e| e.at(format!("model `{}`", snapshot.name())))
    }

    fn read(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        refuse_adapter(snapshot)?;
        let listed = snapshot.json("modules.json")?;
        if static_embedding::is_model2vec(snapshot)? {
            return Self::model2vec(snapshot, overrides);
        }
        let Some(listed) = listed else {
            let config = AutoConfig::from_snapshot(snapshot, overrides)?;
            if multi_vector::is_stanford(snapshot)? {
                return Self::stanford(snapshot, config);
            }
            return Ok(Self::plain(snapshot.clone(), config));
        };
        let saved = object(snapshot, MODEL_FILE)?.unwrap_or_default();
        let place = format!("`{MODEL_FILE}`");
        keys::check(File::Model, &saved, &place)?;
        let wrong = |key: &str, value: &Value| {
            Error::new(ErrorKind::Model, format!("`{key}` in {place} is `{value}`"))
        };
        let value = |key: &str| saved.get(key).filter(|value| !value.is_null());
        let text = |key: &str| match value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value) => Err(wrong(key, value)),
        };
        let count = |key: &str| match value(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(count) if count > 0 => Ok(Some(count)),
                _ => Err(wrong(key, value)),
            },
        };

        let class = text("model_type")?;
        let is_multi_vector = is_multi_vector(class.as_deref(), &saved);
        let mut modules = ListedModules::read(snapshot, &listed, is_multi_vector)?;
        let encoder = encoder_of(class.as_deref(), is_multi_vector, modules.is_sparse(), &place)?;
        let transformer = modules.transformer;
        refuse_adapter(&transformer)?;
        let settings = match modules.first {
            First::Transformer | First::MLMTransformer => TransformerSettings::read(&transformer)?,
            First::StaticEmbedding | First::SparseStaticEmbedding => TransformerSettings::default(),
        };
        let logit_score = modules.logit_score.take();
        listed::check_logit_score(logit_score.is_some(), encoder)?;
        let (config, table) = match modules.first {
            First::Transformer | First::MLMTransformer => {
                let config = configured(&transformer, &settings.config_kwargs, overrides)?;
                let own = features(&config).filter(|_| encoder == Encoder::SentenceTransformer);
                let output =
                    TransformerSettings::output(encoder, logit_score.is_some(), own.is_some());
                settings.check_task(encoder, modules.first == First::MLMTransformer, &output)?;
                if let Some(own) = own {
                    modules.modules.insert(0, own);
                }
                (config, Table::default())
            }
            first => Table::read(&transformer, first, encoder, overrides)?,
        };
        listed::check_remote_module(modules.remote_module.as_deref(), config.family())?;
        let mut prompts = named_prompts(&saved)?;
        let files = multi_vector::Saved {
            saved: &saved,
            transformer: &settings.multi_vector,
            mask: modules.mask.take(),
            is_pylate: class.as_deref() != Some(MULTI_VECTOR),
            place: &place,
        };
        let multi_vector = files.of(encoder, &mut modules.modules, &mut prompts)?;
        let logit_score = logit_score
            .map(|path| modules::logit_score(snapshot, &path, config.dimensions().vocab_size))
            .transpose()?;
        let description = Self {
            transformer,
            config,
            encoder: Some(encoder),
            modules: modules.modules,
            splade_pooling: modules.splade_pooling,
            logit_score,
            multi_vector,
            static_embedding: table.embedding,
            sparse_static: table.sparse,
            pair_messages: settings.pair_messages(encoder),
            prompts,
            default_prompt_name: text("default_prompt_name")?,
            similarity_fn_name: text("similarity_fn_name")?,
            truncate_dim: count("truncate_dim")?,
            max_active_dims: count("max_active_dims")?,
            activation_fn: text("activation_fn")?,
            keep_in_fp32_modules: match value("keep_in_fp32_modules") {
                None => Vec::new(),
                Some(names) => serde_json::from_value(names.clone())
                    .map_err(|_| wrong("keep_in_fp32_modules", names))?,
            },
            processor_kwargs: settings.processor_kwargs,
            do_lower_case: settings.do_lower_case,
        };
        description.check_default_prompt()?;
        description.check_widths()?;
        Ok(description)
    }

    /// A directory of model2vec: its `modules.json` and the files beside it are for sentence-transformers, which follows
    /// other rules.
    fn model2vec(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        static_embedding::refuse_overrides(overrides)?;
        let table = StaticEmbedding::read(snapshot)?;
        let normalize = table.model2vec.is_some_and(|model2vec| model2vec.normalize);
        Ok(Self {
            encoder: Some(Encoder::SentenceTransformer),
            modules: normalize.then_some(Module::Normalize).into_iter().collect(),
            static_embedding: Some(table.clone()),
            ..Self::plain(snapshot.clone(), table.config())
        })
    }

    /// A checkpoint of Stanford's ColBERT.
    fn stanford(snapshot: &Snapshot, config: AutoConfig) -> Result<Self> {
        let (multi_vector, modules, prompts) = multi_vector::stanford(snapshot)?;
        let description = Self {
            encoder: Some(Encoder::MultiVectorEncoder),
            modules,
            multi_vector: Some(multi_vector),
            prompts,
            ..Self::plain(snapshot.clone(), config)
        };
        description.check_widths()?;
        Ok(description)
    }

    /// Whether the files that describe the directory are not enough: the widths of its vectors are in its weights.
    ///
    /// # Errors
    /// `Model` for damaged files.
    pub fn needs_weights(snapshot: &Snapshot) -> Result<bool> {
        if static_embedding::is_model2vec(snapshot)? {
            return Ok(true);
        }
        match snapshot.json("modules.json")? {
            None => multi_vector::is_stanford(snapshot),
            Some(listed) => Ok(listed[0]["type"]
                .as_str()
                .is_some_and(|kind| kind.ends_with(".StaticEmbedding"))),
        }
    }

    /// Whether a table stands in for the transformer.
    pub fn is_table(&self) -> bool {
        self.static_embedding.is_some() || self.sparse_static.is_some()
    }

    /// The width of the modules' output.
    fn check_widths(&self) -> Result<usize> {
        let pooled = self.static_embedding.is_some();
        modules::check_widths(&self.modules, self.hidden_size(), pooled)
    }

    /// A transformer without files of sentence-transformers: mean pooling, or last-token pooling for a language model.
    fn plain(transformer: Snapshot, config: AutoConfig) -> Self {
        let is_causal = config.json().get("is_causal").and_then(Value::as_bool).unwrap_or(true);
        let last = is_causal && is_causal_lm(&config);
        let mode = if last { PoolingMode::LastToken } else { PoolingMode::Mean };
        let pooling =
            features(&config).unwrap_or_else(|| Module::Pooling(Pooling::new([mode], true)));
        Self {
            transformer,
            config,
            encoder: None,
            modules: vec![pooling],
            splade_pooling: None,
            logit_score: None,
            multi_vector: None,
            static_embedding: None,
            sparse_static: None,
            pair_messages: PairMessages::default(),
            prompts: Vec::new(),
            default_prompt_name: None,
            similarity_fn_name: None,
            truncate_dim: None,
            max_active_dims: None,
            activation_fn: None,
            keep_in_fp32_modules: Vec::new(),
            processor_kwargs: Map::new(),
            do_lower_case: false,
        }
    }

    /// The same files as a bi-encoder, as `SentenceTransformer(…)` loads them.
    ///
    /// # Errors
    /// `Config` for a sparse encoder, `Model` for a bi-encoder without Pooling.
    pub fn bi_encoder(&self) -> Result<Self> {
        match self.encoder {
            Some(Encoder::SparseEncoder) => Err(Error::new(
                ErrorKind::Config,
                format!("model `{}` is a sparse encoder", self.transformer.name()),
            )
            .hint("use `sparse-encoding`, or `outputs: [last_hidden_state]`")),
            Some(Encoder::MultiVectorEncoder) => Err(Error::new(
                ErrorKind::Config,
                format!("model `{}` computes several vectors per text", self.transformer.name()),
            )
            .hint("leave `pooling` out: `prompt_name` is `query` or `document`")),
            // The modules and prompts of a cross-encoder are for pairs. sentence-transformers ignores them too.
            Some(Encoder::CrossEncoder) => {
                let plain = Self::plain(self.transformer.clone(), self.config.clone());
                Ok(Self {
                    processor_kwargs: self.processor_kwargs.clone(),
                    do_lower_case: self.do_lower_case,
                    ..plain
                })
            }
            _ => Ok(self.clone()),
        }
    }

    /// Checks that the modules produce one vector per text.
    ///
    /// # Errors
    /// `Model` without a Pooling module.
    pub fn require_pooling(&self) -> Result<()> {
        let is_pooled = self.static_embedding.is_some() || self.modules.iter().any(is_pooling);
        if is_pooled {
            return Ok(());
        }
        let message =
            format!("modules.json of `{}` has no Pooling module", self.transformer.name());
        Err(Error::new(ErrorKind::Model, message).hint("set `pooling`"))
    }

    /// What `CrossEncoder(…)` scores a pair with.
    ///
    /// # Errors
    /// `Unsupported` for a cross-encoder with modules other than LogitScore after the transformer.
    pub fn pair_score(&self) -> Result<PairScore> {
        if self.encoder != Some(Encoder::CrossEncoder) {
            let causal = is_causal_lm(&self.config);
            return Ok(if causal { PairScore::Logits(None) } else { PairScore::Labels });
        }
        if !self.modules.is_empty() || self.splade_pooling.is_some() {
            let message = format!(
                "model `{}` is a cross-encoder with modules after the transformer, which are not implemented for `rerank`",
                self.transformer.name()
            );
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("a cross-encoder is a Transformer alone, or with LogitScore"));
        }
        Ok(self.logit_score.map_or(PairScore::Labels, |score| PairScore::Logits(Some(score))))
    }

    /// The activation of a cross-encoder, where a file names one.
    ///
    /// # Errors
    /// `Unsupported` for an activation that is not implemented.
    pub fn activation(&self) -> Result<Option<TorchActivation>> {
        let of = |path: &str, place: &str| {
            TorchActivation::from_path(path).map(Some).map_err(|e| e.at(format!("`{place}`")))
        };
        if let (Some(Encoder::CrossEncoder), Some(path)) = (self.encoder, &self.activation_fn) {
            return of(path, MODEL_FILE);
        }
        // Before 5.4, cross-encoders store it in config.json, under one of two names.
        let json = self.config.json();
        let named = match json.get("sentence_transformers") {
            Some(Value::Object(own)) => {
                keys::check(File::ConfigJson, own, "`sentence_transformers` of config.json")?;
                own.get("activation_fn")
            }
            _ => None,
        };
        match named.or_else(|| json.get("sbert_ce_default_activation_function")) {
            None | Some(Value::Null) => Ok(None),
            Some(path) => of(path.as_str().unwrap_or_default(), "config.json"),
        }
    }

    /// The pooling and activation of a sparse encoder, as `SparseEncoder(…)` loads the directory.
    ///
    /// # Errors
    /// `Unsupported` for a bi-encoder, which would get an untrained layer.
    pub fn require_sparse_encoder(&self) -> Result<SpladePooling> {
        match (self.splade_pooling, self.encoder) {
            (Some(pooling), _) => Ok(pooling),
            (None, None | Some(Encoder::CrossEncoder)) => Ok(SpladePooling::default()),
            (None, Some(_)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "model `{}` has no SpladePooling module: a sparse encoder over pooled vectors (SparseAutoEncoder) is \
                     not implemented",
                    self.transformer.name()
                ),
            )
            .hint("use `feature-extraction` for a SentenceTransformer")),
        }
    }

    fn hidden_size(&self) -> usize {
        self.config.dimensions().hidden_size
    }

    /// Overrides the directory's pooling: `modes` replace its Pooling module.
    ///
    /// # Errors
    /// `Config` when a Dense module does not take the new width.
    pub fn with_pooling(mut self, modes: impl IntoIterator<Item = PoolingMode>) -> Result<Self> {
        if self.static_embedding.is_some() {
            let message = "a static embedding is the mean of its tokens: it has no `pooling`";
            return Err(Error::new(ErrorKind::Config, message).hint("leave `pooling` out"));
        }
        let pooling = Module::Pooling(Pooling::new(modes, self.include_prompt()));
        match self.modules.iter_mut().find(|module| is_pooling(module)) {
            Some(module) => *module = pooling,
            None => self.modules.insert(0, pooling),
        }
        self.check_widths().map_err(|error| {
            Error::new(ErrorKind::Config, "the model's modules do not fit this `pooling`")
                .source(error)
        })?;
        Ok(self)
    }

    /// Sets whether vectors are scaled to unit length, whatever the directory says.
    #[must_use]
    pub fn with_normalize(mut self, normalize: bool) -> Self {
        while self.modules.last() == Some(&Module::Normalize) {
            self.modules.pop();
        }
        if normalize {
            self.modules.push(Module::Normalize);
        }
        self
    }

    /// The width of the modules' output, before truncation to `truncate_dim`.
    pub fn embedding_dimension(&self) -> usize {
        self.check_widths().unwrap_or_default()
    }

    /// The tokenizer, with the directory's overrides of its files.
    ///
    /// # Errors
    /// As [`AutoTokenizer::with_config`].
    pub fn tokenizer(&self) -> Result<AutoTokenizer> {
        if self.static_embedding.is_some() {
            return AutoTokenizer::from_tokenizer_json(&self.transformer);
        }
        let model_type = Some(self.config.model_type());
        let options = &self.processor_kwargs;
        let tokenizer = AutoTokenizer::with_config(&self.transformer, model_type, options)?;
        let tokenizer = if self.do_lower_case { tokenizer.lower_cased()? } else { tokenizer };
        match &self.multi_vector {
            Some(multi_vector) => tokenizer.with_markers(&multi_vector.markers),
            None => Ok(tokenizer),
        }
    }

    /// Whether the tokens of the prompt are pooled with the others.
    pub fn include_prompt(&self) -> bool {
        self.modules.iter().all(|module| match module {
            Module::Pooling(pooling) => pooling.include_prompt(),
            _ => true,
        })
    }

    /// The prompt called `name`, or the default prompt.
    ///
    /// # Errors
    /// `Config` when there is no such prompt.
    pub fn prompt(&self, name: Option<&str>) -> Result<Option<&str>> {
        let find = |name: &str| self.prompts.iter().find(|(known, _)| known == name);
        let Some(name) = name else {
            let default = self.default_prompt_name.as_deref().and_then(find);
            return Ok(default.map(|(_, prompt)| prompt.as_str()));
        };
        let names: Vec<&str> = self.prompts.iter().map(|(name, _)| name.as_str()).collect();
        find(name).map(|(_, prompt)| Some(prompt.as_str())).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("the model has no prompt `{name}`")).hint(
                match names.as_slice() {
                    [] => "the model has no prompts: set the text itself as `prompt`".to_owned(),
                    names => format!("its prompts are: {}", names.join(", ")),
                },
            )
        })
    }

    /// The text prepended to every row: `prompt`, or else the model's prompt of this name, or else its default prompt.
    ///
    /// # Errors
    /// As [`SentenceTransformerConfig::prompt`].
    pub fn prompt_text(&self, prompt: Option<&str>, name: Option<&str>) -> Result<String> {
        match prompt {
            Some(prompt) => Ok(prompt.to_owned()),
            None => Ok(self.prompt(name)?.unwrap_or_default().to_owned()),
        }
    }

    /// A default prompt must exist. `query` and `document` always exist, as empty texts unless a file defines them.
    fn check_default_prompt(&self) -> Result<()> {
        let Some(name) = &self.default_prompt_name else { return Ok(()) };
        let always = self.encoder != Some(Encoder::CrossEncoder)
            && matches!(name.as_str(), "query" | "document");
        if always || self.prompts.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let names: Vec<&str> = self.prompts.iter().map(|(name, _)| name.as_str()).collect();
        let message =
            format!("`default_prompt_name` in {MODEL_FILE} is `{name}`, which is not a prompt");
        Err(Error::new(ErrorKind::Model, message)
            .hint(format!("its prompts are: {}", names.join(", "))))
    }

    /// Loads the weights of the modules after the transformer. `snapshot` is the one the description was read from.
    ///
    /// # Errors
    /// `Model` when weights are missing or do not fit their configuration.
    pub fn load(&self, snapshot: &Snapshot, device: &Device) -> Result<Head> {
        Head::load(&self.modules, snapshot, device)
    }
}

/// Whether the directory is a multi-vector encoder, by the class that it was saved from, or by settings of PyLate, whose
/// first releases did not write it.
fn is_multi_vector(class: Option<&str>, saved: &Map<String, Value>) -> bool {
    match class {
        Some(MULTI_VECTOR | PYLATE) => true,
        None | Some("SentenceTransformer") => multi_vector::has_pylate_keys(saved),
        Some(_) => false,
    }
}

/// The class that a directory was saved from, by `model_type`.
fn encoder_of(
    class: Option<&str>,
    is_multi_vector: bool,
    is_sparse: bool,
    place: &str,
) -> Result<Encoder> {
    Ok(match class {
        _ if is_multi_vector => Encoder::MultiVectorEncoder,
        // The first releases of sparse encoders do not write this key.
        None if is_sparse => Encoder::SparseEncoder,
        None | Some("SentenceTransformer") => Encoder::SentenceTransformer,
        Some("CrossEncoder") => Encoder::CrossEncoder,
        Some("SparseEncoder") => Encoder::SparseEncoder,
        Some(other) => {
            return Err(keys::not_implemented("model_type", &other.into(), place).hint(
                "supported classes: SentenceTransformer, CrossEncoder, SparseEncoder and MultiVectorEncoder",
            ));
        }
    })
}

/// A table in place of a transformer.
#[derive(Default)]
struct Table {
    embedding: Option<StaticEmbedding>,
    sparse: Option<SparseStatic>,
}

impl Table {
    /// Reads the description of a table, and the configuration that stands for it.
    fn read(
        folder: &Snapshot,
        first: First,
        encoder: Encoder,
        overrides: &Map<String, Value>,
    ) -> Result<(AutoConfig, Self)> {
        static_embedding::refuse_overrides(overrides)?;
        let wrong = |module: &str| {
            let message = format!("a {} cannot have a {module} module", encoder.name());
            Err(Error::new(ErrorKind::Unsupported, message))
        };
        if first == First::SparseStaticEmbedding {
            if encoder != Encoder::SparseEncoder {
                return wrong("SparseStaticEmbedding");
            }
            let sparse = SparseStatic::read(folder)?;
            return Ok((SparseStatic::config(), Self { sparse: Some(sparse), ..Self::default() }));
        }
        if encoder != Encoder::SentenceTransformer {
            return wrong("StaticEmbedding");
        }
        let table = StaticEmbedding::read(folder)?;
        Ok((table.config(), Self { embedding: Some(table), ..Self::default() }))
    }
}

/// Refuses a PEFT adapter, which would change the results of the checkpoint next to it.
fn refuse_adapter(snapshot: &Snapshot) -> Result<()> {
    const FILE: &str = "adapter_config.json";
    if snapshot.path(FILE).is_none() {
        return Ok(());
    }
    let message = format!("`{FILE}`: the directory has an adapter over a base model");
    Err(Error::new(ErrorKind::Unsupported, message).hint(
        "name the base model, with this directory as its `adapter`; or save the merged model (`merge_and_unload` of peft), and remove the file",
    ))
}

/// `file` as a JSON object, if it exists.
fn object(snapshot: &Snapshot, file: &str) -> Result<Option<Map<String, Value>>> {
    match snapshot.json(file)? {
        None => Ok(None),
        Some(Value::Object(json)) => Ok(Some(json)),
        Some(_) => Err(Error::new(ErrorKind::Model, format!("`{file}` is not a JSON object"))),
    }
}

/// `config.json`, overridden by the directory's `config_kwargs` and then by the pipeline's overrides.
fn configured(
    transformer: &Snapshot,
    config_kwargs: &Map<String, Value>,
    overrides: &Map<String, Value>,
) -> Result<AutoConfig> {
    if config_kwargs.is_empty() {
        return AutoConfig::from_snapshot(transformer, overrides);
    }
    AutoConfig::from_snapshot(transformer, config_kwargs).map_err(|error| {
        // An invalid override is usually the pipeline's fault; here it is the model's.
        let kind = match error.kind() {
            ErrorKind::Config => ErrorKind::Unsupported,
            kind => kind,
        };
        let message = format!("`config_kwargs` of the model's transformer: {}", error.message());
        let refused = Error::new(kind, message);
        match error.remedy() {
            Some(remedy) => refused.hint(remedy),
            None => refused,
        }
    })?;
    let mut merged = config_kwargs.clone();
    merged.extend(overrides.clone());
    AutoConfig::from_snapshot(transformer, &merged)
}

/// The vector that the transformer itself gives for a text, if it is a model of texts and images.
fn features(config: &AutoConfig) -> Option<Module> {
    let dimensions = config.dimensions();
    let image = dimensions.image.filter(|_| dimensions.reads_text())?;
    Some(Module::Features(image.pooled_size))
}

/// Whether the module makes one vector of a text's tokens.
fn is_pooling(module: &Module) -> bool {
    matches!(module, Module::Pooling(_) | Module::Features(_))
}

/// Whether the checkpoint was saved from a language model, by the rule of sentence-transformers.
fn is_causal_lm(config: &AutoConfig) -> bool {
    config.architectures().first().is_some_and(|name| name.ends_with("ForCausalLM"))
}

#[cfg(test)]
mod tests;
