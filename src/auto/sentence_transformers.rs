//! Directories of sentence-transformers: what follows the transformer, prompts, and lengths.
//!
//! [`SentenceTransformer`] is the description, readable without weights, so that an embedding's width
//! is known before anything is loaded; [`Head`] is what it loads. Not here: the transformer itself
//! ([`AutoModel`](super::AutoModel)) and tokens.
//!
//! # Source
//! `sentence_transformers/SentenceTransformer.py` at v5.2 and `sentence_transformer/modules` at v5.7.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use super::config::AutoConfig;
use super::loader;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Snapshot, Weights};
use crate::nn::{Activation, Linear, Pooling, PoolingMode, Precision, Ragged, normalize};

/// The module types that are implemented, by the last part of their dotted path.
const MODULE_TYPES: &str = "Transformer, Pooling, Dense, Normalize; MLMTransformer and SpladePooling for `sparse-encoding`";

/// Keys of Pooling files before 5.4, in the order of concatenation.
const LEGACY_POOLING_KEYS: [(&str, PoolingMode); 6] = [
    ("pooling_mode_cls_token", PoolingMode::Cls),
    ("pooling_mode_max_tokens", PoolingMode::Max),
    ("pooling_mode_mean_tokens", PoolingMode::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLenTokens),
    ("pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
    ("pooling_mode_lasttoken", PoolingMode::LastToken),
];

/// What a sentence-transformers directory says, without its weights.
///
/// A directory without `modules.json` is a transformer with mean pooling, as in sentence-transformers.
#[derive(Clone, Debug)]
pub struct SentenceTransformer {
    /// The files of the transformer: the directory itself or its `0_Transformer`.
    pub transformer: Snapshot,
    /// The transformer's configuration.
    pub config: AutoConfig,
    /// What follows the transformer, in order.
    pub modules: Vec<Module>,
    /// How a sparse encoder's logits become weights; `None` for other directories.
    pub splade_pooling: Option<SpladePooling>,
    /// Prompts by name, in the order of the file.
    pub prompts: Vec<(String, String)>,
    /// The prompt that is used when none is named.
    pub default_prompt_name: Option<String>,
    /// How embeddings are meant to be compared: `cosine`, `dot`, ….
    pub similarity_fn_name: Option<String>,
    /// Tokens that a row may have, if `sentence_bert_config.json` says it.
    pub max_seq_length: Option<usize>,
    /// Whether texts are lower-cased before they are tokenised.
    pub do_lower_case: bool,
}

/// A module after the transformer.
#[derive(Clone, Debug, PartialEq)]
pub enum Module {
    /// Tokens to one vector.
    Pooling(Pooling),
    /// A linear layer with an activation.
    Dense(Dense),
    /// Scales to unit length.
    Normalize,
}

/// How a sparse encoder makes weights of logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpladePooling {
    /// How the tokens' become one.
    pub strategy: SpladeStrategy,
    /// What is applied to a logit.
    pub activation: SpladeActivation,
}

/// How the weights of tokens become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpladeStrategy {
    /// The greatest.
    #[default]
    Max,
    /// Their sum.
    Sum,
}

impl SpladeStrategy {
    /// The name in sentence-transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Sum => "sum",
        }
    }
}

/// What makes a weight of a logit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpladeActivation {
    /// `log1p(relu(x))`.
    #[default]
    Relu,
    /// `log1p(log1p(relu(x)))`.
    Log1pRelu,
}

impl SpladeActivation {
    /// The name in sentence-transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Log1pRelu => "log1p_relu",
        }
    }
}

/// A linear layer with an activation, before its weights are loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// The folder with its configuration and weights, as `2_Dense`.
    pub path: String,
    /// Width of its input.
    pub in_features: usize,
    /// Width of its output.
    pub out_features: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// What is applied to the product.
    pub activation: Activation,
}

impl SentenceTransformer {
    /// Reads the description; `overrides` are those of the transformer's `config.json`.
    ///
    /// # Errors
    /// `Unsupported` for a module or a setting that is not implemented; `Model` for files that are
    /// missing, broken or contradict each other; what [`AutoConfig::from_snapshot`] returns.
    pub fn from_snapshot(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        Self::read(snapshot, overrides).map_err(|e| e.at(format!("model `{}`", snapshot.name())))
    }

    fn read(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        let mut transformer = snapshot.clone();
        let mut modules = Vec::new();
        let mut splade_pooling = None;
        let listed = snapshot.json("modules.json")?;
        match &listed {
            None => modules.push(Module::Pooling(Pooling::new([PoolingMode::Mean], true))),
            Some(listed) => {
                let list = listed.as_array().filter(|list| !list.is_empty()).ok_or_else(|| {
                    Error::new(ErrorKind::Model, "modules.json is not a list of modules")
                })?;
                for (index, entry) in list.iter().enumerate() {
                    let text = |key| entry.get(key).and_then(Value::as_str);
                    let (Some(kind), Some(path)) = (text("type"), text("path")) else {
                        return Err(Error::new(
                            ErrorKind::Model,
                            format!("module {index} of modules.json has no `type` or no `path`"),
                        ));
                    };
                    match (index, kind.rsplit('.').next().unwrap_or(kind)) {
                        (0, "Transformer" | "MLMTransformer") => {
                            transformer = folder(snapshot, path)?;
                        }
                        (1.., "Pooling") => modules.push(Module::Pooling(pooling(snapshot, path)?)),
                        (1.., "Dense") => modules.push(Module::Dense(dense(snapshot, path)?)),
                        (1.., "Normalize") => modules.push(Module::Normalize),
                        (1, "SpladePooling") if list.len() == 2 => {
                            splade_pooling = Some(splade(snapshot, path)?);
                        }
                        _ => return Err(unsupported_module(index, kind)),
                    }
                }
            }
        }
        let config = AutoConfig::from_snapshot(&transformer, overrides)?;
        let prompts = snapshot.json("config_sentence_transformers.json")?.unwrap_or_default();
        let bert = match transformer.json("sentence_bert_config.json")? {
            Some(bert) => bert,
            None => snapshot.json("sentence_bert_config.json")?.unwrap_or_default(),
        };
        let text = |key| prompts.get(key).and_then(Value::as_str).map(str::to_owned);
        let description = Self {
            transformer,
            config,
            modules,
            splade_pooling,
            prompts: named_prompts(&prompts)?,
            default_prompt_name: text("default_prompt_name"),
            similarity_fn_name: text("similarity_fn_name"),
            max_seq_length: max_seq_length(&bert)?,
            do_lower_case: bert.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false),
        };
        description.check_widths()?;
        Ok(description)
    }

    /// Pools otherwise than the directory says: `modes` take the place of its Pooling module.
    ///
    /// # Errors
    /// `Config` when a Dense module does not take the new width.
    pub fn with_pooling(mut self, modes: impl IntoIterator<Item = PoolingMode>) -> Result<Self> {
        let mut include_prompt = true;
        for module in &self.modules {
            if let Module::Pooling(pooling) = module {
                include_prompt = pooling.include_prompt();
            }
        }
        let pooling = Module::Pooling(Pooling::new(modes, include_prompt));
        match self.modules.iter_mut().find(|module| matches!(module, Module::Pooling(_))) {
            Some(module) => *module = pooling,
            None => self.modules.insert(0, pooling),
        }
        self.check_widths().map_err(|error| {
            Error::new(ErrorKind::Config, "the model's modules do not fit this `pooling`")
                .source(error)
        })?;
        Ok(self)
    }

    /// Ends with or without scaling to unit length, whatever the directory says.
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

    /// The width of an embedding.
    pub fn embedding_dimension(&self) -> usize {
        self.modules.iter().fold(self.config.dimensions().hidden_size, |width, module| match module
        {
            Module::Pooling(pooling) => width * pooling.modes().len(),
            Module::Dense(dense) => dense.out_features,
            Module::Normalize => width,
        })
    }

    /// Whether the tokens of the prompt are pooled with the others.
    pub fn include_prompt(&self) -> bool {
        self.modules.iter().all(|module| match module {
            Module::Pooling(pooling) => pooling.include_prompt(),
            Module::Dense(_) | Module::Normalize => true,
        })
    }

    /// The prompt called `name`; without a name, the default one.
    ///
    /// # Errors
    /// `Config` when there is no such prompt.
    pub fn prompt(&self, name: Option<&str>) -> Result<Option<&str>> {
        let Some(name) = name.or(self.default_prompt_name.as_deref()) else { return Ok(None) };
        let found = self.prompts.iter().find(|(known, _)| known == name);
        let names: Vec<&str> = self.prompts.iter().map(|(name, _)| name.as_str()).collect();
        found.map(|(_, prompt)| Some(prompt.as_str())).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("the model has no prompt `{name}`")).hint(
                match names.as_slice() {
                    [] => "the model has no prompts: give the text itself as `prompt`".to_owned(),
                    names => format!("its prompts are: {}", names.join(", ")),
                },
            )
        })
    }

    /// Loads the weights of the modules after the transformer, in f32, whatever that computes in: they work
    /// on one vector a row. `snapshot` is the one that the description was read from.
    ///
    /// # Errors
    /// `Model` when the weights of a Dense module are missing or do not fit its configuration.
    pub fn load(&self, snapshot: &Snapshot, device: &Device) -> Result<Head> {
        let modules = self
            .modules
            .iter()
            .map(|module| match module {
                Module::Pooling(pooling) => Ok(LoadedModule::Pooling(pooling.clone())),
                Module::Dense(dense) => dense.load(snapshot, device),
                Module::Normalize => Ok(LoadedModule::Normalize),
            })
            .collect::<Result<_>>()
            .map_err(|e| e.at(format!("model `{}`", snapshot.name())))?;
        Ok(Head { modules })
    }

    fn check_widths(&self) -> Result<()> {
        let mut width = self.config.dimensions().hidden_size;
        let mut pooled = false;
        for module in &self.modules {
            match module {
                Module::Pooling(pooling) if !pooled => {
                    width *= pooling.modes().len();
                    pooled = true;
                }
                Module::Pooling(_) => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "modules.json has more than one Pooling module",
                    ));
                }
                Module::Dense(_) | Module::Normalize if !pooled => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "modules.json has a module before Pooling, which works on tokens",
                    ));
                }
                Module::Dense(dense) if dense.in_features != width => {
                    return Err(Error::new(
                        ErrorKind::Model,
                        format!(
                            "`{}` takes {} features, but what precedes it gives {width}",
                            dense.path, dense.in_features
                        ),
                    ));
                }
                Module::Dense(dense) => width = dense.out_features,
                Module::Normalize => {}
            }
        }
        Ok(())
    }
}

impl Dense {
    fn load(&self, snapshot: &Snapshot, device: &Device) -> Result<LoadedModule> {
        let at = |error: Error| error.at(format!("module `{}`", self.path));
        let files = snapshot.weight_files_in(&self.path).map_err(at)?;
        let weights = Weights::open(&files).map_err(at)?;
        let (mut linear, _) = loader::load(&weights, "linear", DType::F32, device, None, |vb| {
            Linear::load(vb, self.in_features, self.out_features, self.bias)
                .map_err(super::families::cannot_load)
        })
        .map_err(at)?;
        linear.pack(Precision::Full).map_err(super::families::cannot_load).map_err(at)?;
        Ok(LoadedModule::Dense(linear, self.activation))
    }
}

/// The loaded modules after the transformer: from tokens to embeddings.
#[derive(Clone, Debug)]
pub struct Head {
    modules: Vec<LoadedModule>,
}

#[derive(Clone, Debug)]
enum LoadedModule {
    Pooling(Pooling),
    Dense(Linear, Activation),
    Normalize,
}

impl Head {
    /// Makes one embedding of each row.
    ///
    /// # Shapes
    /// Returns `(rows, embedding_dimension)`. `prompt_tokens` is how many tokens of each row are its
    /// prompt and the special token before it; it matters where the prompt is not pooled.
    ///
    /// # Errors
    /// When candle cannot compute or allocate.
    pub fn forward(
        &self,
        last_hidden_state: &Ragged,
        prompt_tokens: usize,
    ) -> candle_core::Result<Tensor> {
        let mut embeddings = None;
        for module in &self.modules {
            embeddings = Some(match (module, embeddings) {
                (LoadedModule::Pooling(pooling), _) => {
                    pooling.forward(last_hidden_state, prompt_tokens)?
                }
                (LoadedModule::Dense(linear, activation), Some(x)) => {
                    linear.forward_activated(&x, *activation)?
                }
                (LoadedModule::Normalize, Some(x)) => normalize(&x)?,
                (LoadedModule::Dense(..) | LoadedModule::Normalize, None) => {
                    candle_core::bail!("bug: a module before Pooling")
                }
            });
        }
        embeddings.ok_or_else(|| candle_core::Error::Msg("bug: no Pooling module".to_owned()))
    }
}

/// A folder of the snapshot as a snapshot of its own; the empty path is the snapshot itself.
fn folder(snapshot: &Snapshot, path: &str) -> Result<Snapshot> {
    if path.is_empty() {
        return Ok(snapshot.clone());
    }
    let config = format!("{path}/config.json");
    let dir = snapshot.path(&config).and_then(|file| Some(file.parent()?.to_path_buf()));
    let dir = dir.ok_or_else(|| {
        Error::new(
            ErrorKind::Model,
            format!("modules.json names `{path}`, which has no config.json"),
        )
    })?;
    Snapshot::local(&dir)
}

fn unsupported_module(index: usize, kind: &str) -> Error {
    let error = Error::new(
        ErrorKind::Unsupported,
        format!("module {index} of modules.json, `{kind}`, is not implemented"),
    );
    error.hint(format!("implemented are {MODULE_TYPES}, of which Transformer is the first"))
}

fn module_config(snapshot: &Snapshot, path: &str) -> Result<(String, Map<String, Value>)> {
    let file = format!("{path}/config.json");
    match snapshot.json(&file)? {
        Some(Value::Object(json)) => Ok((file, json)),
        Some(_) => Err(Error::new(ErrorKind::Model, format!("`{file}` is not a JSON object"))),
        None => Err(Error::new(
            ErrorKind::Model,
            format!("modules.json names `{path}`, but there is no `{file}`"),
        )),
    }
}

fn splade(snapshot: &Snapshot, path: &str) -> Result<SpladePooling> {
    let (file, json) = module_config(snapshot, path)?;
    let text = |key: &str, default: &'static str| match json.get(key) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value) => {
            Err(Error::new(ErrorKind::Model, format!("`{key}` in `{file}` is `{value}`")))
        }
    };
    let unknown = |key: &str, value: &str| {
        Error::new(
            ErrorKind::Unsupported,
            format!("`{key}: {value}` in `{file}` is not implemented"),
        )
    };
    let strategy = match text("pooling_strategy", "max")?.as_str() {
        "max" => SpladeStrategy::Max,
        "sum" => SpladeStrategy::Sum,
        other => return Err(unknown("pooling_strategy", other)),
    };
    let activation = match text("activation_function", "relu")?.as_str() {
        "relu" => SpladeActivation::Relu,
        "log1p_relu" => SpladeActivation::Log1pRelu,
        other => return Err(unknown("activation_function", other)),
    };
    Ok(SpladePooling { strategy, activation })
}

fn pooling(snapshot: &Snapshot, path: &str) -> Result<Pooling> {
    let (file, json) = module_config(snapshot, path)?;
    let wrong = |key: &str, value: &Value| {
        Error::new(ErrorKind::Model, format!("`{key}` in `{file}` is `{value}`"))
    };
    let mode = |value: &Value| {
        let name = value.as_str().ok_or_else(|| wrong("pooling_mode", value))?;
        PoolingMode::from_name(name).map_err(|e| e.at(format!("`{file}`")))
    };
    let modes = match json.get("pooling_mode") {
        Some(Value::Array(names)) => names.iter().map(mode).collect::<Result<Vec<_>>>()?,
        Some(name) if !name.is_null() => vec![mode(name)?],
        _ => {
            let known = |key: &str| LEGACY_POOLING_KEYS.iter().any(|(known, _)| *known == key);
            for (key, value) in &json {
                if key.starts_with("pooling_mode_") && !known(key) && value != &Value::Bool(false) {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("`{key}` in `{file}` is not implemented"),
                    ));
                }
            }
            let mut modes = Vec::new();
            for (key, mode) in LEGACY_POOLING_KEYS {
                match json.get(key) {
                    Some(Value::Bool(true)) => modes.push(mode),
                    None | Some(Value::Bool(false)) => {}
                    Some(value) => return Err(wrong(key, value)),
                }
            }
            // A file that switches nothing on, as one without these keys.
            if modes.is_empty() { vec![PoolingMode::Mean] } else { modes }
        }
    };
    if modes.is_empty() {
        return Err(wrong("pooling_mode", &Value::Array(Vec::new())));
    }
    let include_prompt = match json.get("include_prompt") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(include)) => *include,
        Some(value) => return Err(wrong("include_prompt", value)),
    };
    Ok(Pooling::new(modes, include_prompt))
}

fn dense(snapshot: &Snapshot, path: &str) -> Result<Dense> {
    let (file, json) = module_config(snapshot, path)?;
    let size = |key: &str| {
        let value = json.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        value.filter(|n| *n > 0).ok_or_else(|| {
            Error::new(ErrorKind::Model, format!("`{file}` has no number `{key}` of at least 1"))
        })
    };
    if json.get("use_residual").and_then(Value::as_bool) == Some(true) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("`use_residual: true` in `{file}` is not implemented"),
        ));
    }
    for key in ["module_input_name", "module_output_name"] {
        let name = json.get(key).filter(|name| !name.is_null());
        if name.is_some_and(|name| name != "sentence_embedding") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "`{key}` in `{file}` is not `sentence_embedding`: a layer over tokens is not implemented"
                ),
            ));
        }
    }
    let activation = match json.get("activation_function") {
        // The default of sentence-transformers.
        None => Activation::Tanh,
        Some(Value::Null) => Activation::Identity,
        Some(name) => Activation::from_torch_path(name.as_str().unwrap_or_default())
            .map_err(|e| e.at(format!("`{file}`")))?,
    };
    Ok(Dense {
        path: path.to_owned(),
        in_features: size("in_features")?,
        out_features: size("out_features")?,
        bias: json.get("bias").and_then(Value::as_bool).unwrap_or(true),
        activation,
    })
}

fn named_prompts(json: &Value) -> Result<Vec<(String, String)>> {
    let prompts = match json.get("prompts") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(prompts)) => prompts,
        Some(_) => {
            return Err(Error::new(
                ErrorKind::Model,
                "`prompts` in config_sentence_transformers.json is not a map",
            ));
        }
    };
    prompts
        .iter()
        .map(|(name, prompt)| match prompt {
            Value::String(prompt) => Ok((name.clone(), prompt.clone())),
            _ => Err(Error::new(
                ErrorKind::Model,
                format!("prompt `{name}` in config_sentence_transformers.json is not a string"),
            )),
        })
        .collect()
}

fn max_seq_length(json: &Value) -> Result<Option<usize>> {
    match json.get("max_seq_length") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(tokens) if tokens > 0 => Ok(Some(tokens)),
            _ => Err(Error::new(
                ErrorKind::Model,
                format!("`max_seq_length` in sentence_bert_config.json is `{value}`"),
            )),
        },
    }
}

#[cfg(test)]
mod tests;
