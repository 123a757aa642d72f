//! The modules after the transformer: their files and their loaded form.
//!
//! # Source
//! `base/modules`, `sentence_transformer/modules` and `sparse_encoder/modules` of sentence-transformers at v6.2.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use super::keys::{self, File};
use super::object;
use crate::auto::loader::{Load, Owner};
use crate::error::{Error, ErrorKind, Result, cannot_load};
use crate::hub::{Snapshot, Weights};
use crate::limits;
use crate::models::ModelOutput;
use crate::nn::{LayerNorm, Linear, Pooling, PoolingMode, Ragged, TorchActivation, normalize};

/// Keys of Pooling files before 5.4, in the order of concatenation.
const LEGACY_POOLING_KEYS: [(&str, PoolingMode); 6] = [
    ("pooling_mode_cls_token", PoolingMode::Cls),
    ("pooling_mode_max_tokens", PoolingMode::Max),
    ("pooling_mode_mean_tokens", PoolingMode::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLenTokens),
    ("pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
    ("pooling_mode_lasttoken", PoolingMode::LastToken),
];

/// `eps` of `torch.nn.LayerNorm`.
const LAYER_NORM_EPS: f64 = 1e-5;

/// The modules' names for the token embeddings and the sentence embedding.
const TOKENS: &str = "token_embeddings";
const SENTENCE: &str = "sentence_embedding";
/// The name for the logits of a causal language model.
const CAUSAL_LOGITS: &str = "causal_logits";

/// A module after the transformer.
#[derive(Clone, Debug, PartialEq)]
pub enum Module {
    /// The vector of this size that the transformer itself gives for a text (`get_text_features` of CLIP and SigLIP).
    Features(usize),
    /// Pools token embeddings into one vector.
    Pooling(Pooling),
    /// A linear layer with an activation.
    Dense(Dense),
    /// A layer normalization of the vector.
    LayerNorm(Norm),
    /// Scales the vector to unit length.
    Normalize,
    /// Scales every token's vector to unit length.
    NormalizeTokens,
}

/// A linear layer with an activation, before its weights are loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// The folder with its configuration and weights, for example `2_Dense`.
    pub path: String,
    /// The width of its input.
    pub in_features: usize,
    /// The width of its output.
    pub out_features: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// The activation applied to the product.
    pub activation: TorchActivation,
    /// Whether a residual connection adds its input, through a linear layer where the widths differ.
    pub use_residual: bool,
    /// Whether it applies to every token, before Pooling.
    pub on_tokens: bool,
}

/// A layer normalization, before its weights are loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The folder with its configuration and weights.
    pub path: String,
    /// The width of its input and output.
    pub dimension: usize,
}

/// The score of a pair by a causal language model: the logit of a token after the last token, or its difference to the
/// logit of another token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitScore {
    /// The token of a relevant document.
    pub true_token_id: u32,
    /// The token of an irrelevant document.
    pub false_token_id: Option<u32>,
}

impl LogitScore {
    /// The tokens, in the order of the logits that [`score`](Self::score) takes.
    pub fn token_ids(self) -> Vec<u32> {
        std::iter::once(self.true_token_id).chain(self.false_token_id).collect()
    }

    /// The score for the logits of [`token_ids`](Self::token_ids).
    pub fn score(logits: &[f32]) -> f32 {
        match logits {
            [relevant, irrelevant] => relevant - irrelevant,
            _ => logits.first().copied().unwrap_or_default(),
        }
    }
}

/// How a sparse encoder turns logits into weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpladePooling {
    /// The pooling over tokens.
    pub strategy: SpladeStrategy,
    /// The activation applied to each logit.
    pub activation: SpladeActivation,
}

/// The pooling of token weights into one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SpladeStrategy {
    /// The maximum.
    #[default]
    Max,
    /// The sum.
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

/// The activation that turns a logit into a weight.
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

/// The validated file of a module; `required` ones must exist.
struct ModuleFile {
    name: String,
    json: Map<String, Value>,
}

impl ModuleFile {
    fn read(snapshot: &Snapshot, path: &str, file: File, required: bool) -> Result<Self> {
        let name = format!("{path}/config.json");
        let json = match object(snapshot, &name)? {
            Some(json) => json,
            None if required => {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!("modules.json names `{path}`, but there is no `{name}`"),
                ));
            }
            None => Map::new(),
        };
        keys::check(file, &json, &format!("`{name}`"))?;
        Ok(Self { name, json })
    }

    fn wrong(&self, key: &str, value: &Value) -> Error {
        Error::new(ErrorKind::Model, format!("`{key}` in `{}` is `{value}`", self.name))
    }

    fn not_implemented(&self, key: &str, value: &Value) -> Error {
        keys::not_implemented(key, value, &format!("`{}`", self.name))
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.wrong(key, value)),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(key, value)),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        let value = self.value(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let most = limits::MODEL_SIZE;
        value.filter(|n| (1..=most).contains(n)).ok_or_else(|| {
            let message =
                format!("`{}` has no number `{key}` of at least 1 and at most {most}", self.name);
            Error::new(ErrorKind::Model, message)
        })
    }

    /// A token id below `vocab_size`, if there is one.
    fn token_id(&self, key: &str, vocab_size: usize) -> Result<Option<u32>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        match id.filter(|id| (*id as usize) < vocab_size) {
            Some(id) => Ok(Some(id)),
            None => Err(self.wrong(key, value).hint(format!(
                "a token id of this model is at least 0 and less than its `vocab_size`, {vocab_size}"
            ))),
        }
    }

    /// Whether the module works on token embeddings rather than on the sentence embedding, which is the input by
    /// default unless `on_tokens` is set.
    fn on_tokens(&self, on_tokens: bool) -> Result<bool> {
        let default = if on_tokens { TOKENS } else { SENTENCE };
        let input = self.text("module_input_name")?.unwrap_or(default);
        if !matches!(input, TOKENS | SENTENCE) {
            return Err(self.not_implemented("module_input_name", &input.into()));
        }
        let output = self.text("module_output_name")?.unwrap_or(input);
        if output != input {
            return Err(self.not_implemented("module_output_name", &output.into()).hint(format!(
                "a module that reads `{input}` and writes something else is not implemented"
            )));
        }
        Ok(input == TOKENS)
    }
}

pub(super) fn pooling(snapshot: &Snapshot, path: &str) -> Result<Pooling> {
    let file = ModuleFile::read(snapshot, path, File::Pooling, true)?;
    let mode = |value: &Value| {
        let name = value.as_str().ok_or_else(|| file.wrong("pooling_mode", value))?;
        PoolingMode::from_name(name).map_err(|e| e.at(format!("`{}`", file.name)))
    };
    let modes = match file.value("pooling_mode") {
        Some(Value::Array(names)) => names.iter().map(mode).collect::<Result<Vec<_>>>()?,
        Some(name) => vec![mode(name)?],
        None => {
            let mut modes = Vec::new();
            for (key, mode) in LEGACY_POOLING_KEYS {
                if file.flag(key, false)? {
                    modes.push(mode);
                }
            }
            // A file that enables nothing is like one without these keys.
            if modes.is_empty() { vec![PoolingMode::Mean] } else { modes }
        }
    };
    if modes.is_empty() {
        return Err(file.wrong("pooling_mode", &Value::Array(Vec::new())));
    }
    Ok(Pooling::new(modes, file.flag("include_prompt", true)?))
}

pub(super) fn dense(snapshot: &Snapshot, path: &str, on_tokens: bool) -> Result<Dense> {
    let file = ModuleFile::read(snapshot, path, File::Dense, true)?;
    let activation = match file.json.get("activation_function") {
        // The default of sentence-transformers.
        None => TorchActivation::TANH,
        Some(Value::Null) => TorchActivation::IDENTITY,
        Some(name) => TorchActivation::from_path(name.as_str().unwrap_or_default())
            .map_err(|e| e.at(format!("`{}`", file.name)))?,
    };
    let on_tokens = file.on_tokens(on_tokens)?;
    if on_tokens && !activation.is_elementwise() {
        // torch would reduce over the rows of a batch.
        let name = file.json.get("activation_function").unwrap_or(&Value::Null);
        return Err(file.not_implemented("activation_function", name));
    }
    Ok(Dense {
        path: path.to_owned(),
        in_features: file.size("in_features")?,
        out_features: file.size("out_features")?,
        bias: file.flag("bias", true)?,
        activation,
        use_residual: file.flag("use_residual", false)?,
        on_tokens,
    })
}

pub(super) fn normalization(snapshot: &Snapshot, path: &str) -> Result<Module> {
    let file = ModuleFile::read(snapshot, path, File::Normalize, false)?;
    Ok(if file.on_tokens(false)? { Module::NormalizeTokens } else { Module::Normalize })
}

pub(super) fn layer_norm(snapshot: &Snapshot, path: &str) -> Result<Norm> {
    let file = ModuleFile::read(snapshot, path, File::LayerNorm, true)?;
    Ok(Norm { path: path.to_owned(), dimension: file.size("dimension")? })
}

/// Dropout is only active in training, but its file is checked.
pub(super) fn dropout(snapshot: &Snapshot, path: &str) -> Result<()> {
    ModuleFile::read(snapshot, path, File::Dropout, false).map(drop)
}

/// The settings of a MultiVectorMask, and the name of its file.
pub(super) fn multi_vector_mask(
    snapshot: &Snapshot,
    path: &str,
) -> Result<(Map<String, Value>, String)> {
    let file = ModuleFile::read(snapshot, path, File::MultiVectorMask, false)?;
    Ok((file.json, format!("`{}`", file.name)))
}

pub(super) fn splade(snapshot: &Snapshot, path: &str) -> Result<SpladePooling> {
    let file = ModuleFile::read(snapshot, path, File::SpladePooling, true)?;
    let strategy = match file.text("pooling_strategy")? {
        None | Some("max") => SpladeStrategy::Max,
        Some("sum") => SpladeStrategy::Sum,
        Some(other) => return Err(file.not_implemented("pooling_strategy", &other.into())),
    };
    let activation = match file.text("activation_function")? {
        None | Some("relu") => SpladeActivation::Relu,
        Some("log1p_relu") => SpladeActivation::Log1pRelu,
        Some(other) => return Err(file.not_implemented("activation_function", &other.into())),
    };
    Ok(SpladePooling { strategy, activation })
}

/// Reads LogitScore's file, for a model with a vocabulary of `vocab_size` tokens.
pub(super) fn logit_score(
    snapshot: &Snapshot,
    path: &str,
    vocab_size: usize,
) -> Result<LogitScore> {
    let file = ModuleFile::read(snapshot, path, File::LogitScore, true)?;
    if let Some(input) = file.text("module_input_name")?.filter(|name| *name != CAUSAL_LOGITS) {
        return Err(file.not_implemented("module_input_name", &input.into()));
    }
    let Some(true_token_id) = file.token_id("true_token_id", vocab_size)? else {
        let message = format!("`{}` has no `true_token_id`", file.name);
        return Err(Error::new(ErrorKind::Model, message));
    };
    Ok(LogitScore { true_token_id, false_token_id: file.token_id("false_token_id", vocab_size)? })
}

/// The width of the modules' output for input of width `hidden_size`, which is `pooled` if it is one vector per text.
///
/// # Errors
/// `Model` for modules whose widths do not match, `Unsupported` for an order that is not implemented.
pub(super) fn check_widths(
    modules: &[Module],
    hidden_size: usize,
    mut pooled: bool,
) -> Result<usize> {
    let mut width = hidden_size;
    let fits = |path: &str, takes: usize, width: usize| {
        if takes == width {
            return Ok(());
        }
        let message =
            format!("`{path}` takes {takes} features, but the previous module outputs {width}");
        Err(Error::new(ErrorKind::Model, message))
    };
    for module in modules {
        let on_tokens = match module {
            Module::Features(_) | Module::Pooling(_) | Module::NormalizeTokens => true,
            Module::Dense(dense) => dense.on_tokens,
            Module::LayerNorm(_) | Module::Normalize => false,
        };
        if on_tokens == pooled {
            return Err(Error::new(
                ErrorKind::Unsupported,
                if pooled {
                    "modules.json has a module that works on tokens after Pooling"
                } else {
                    "modules.json has a module that works on the text's vector before Pooling"
                },
            ));
        }
        match module {
            Module::Features(size) => {
                width = *size;
                pooled = true;
            }
            Module::Pooling(pooling) => {
                let (found, most) = (pooling.modes().len(), limits::MODEL_MODULES);
                if found > most {
                    let message = format!("Pooling has {found} modes, expected at most {most}");
                    return Err(Error::new(ErrorKind::Model, message));
                }
                width *= found;
                pooled = true;
            }
            Module::Dense(dense) => {
                fits(&dense.path, dense.in_features, width)?;
                width = dense.out_features;
            }
            Module::LayerNorm(norm) => fits(&norm.path, norm.dimension, width)?,
            Module::Normalize | Module::NormalizeTokens => {}
        }
    }
    Ok(width)
}

impl Module {
    fn load(&self, snapshot: &Snapshot, device: &Device) -> Result<LoadedModule> {
        Ok(match self {
            Self::Features(_) => LoadedModule::Features,
            Self::Pooling(pooling) => LoadedModule::Pooling(pooling.clone()),
            Self::Dense(dense) => dense.load(snapshot, device)?,
            Self::LayerNorm(norm) => norm.load(snapshot, device)?,
            Self::Normalize => LoadedModule::Normalize,
            Self::NormalizeTokens => LoadedModule::NormalizeTokens,
        })
    }
}

/// Modules compute in f32.
fn load<'a>(weights: &'a Weights, owner: Owner, device: &'a Device) -> Load<'a> {
    let dtype = DType::F32.into();
    Load { weights, owner, dtype, device, new_head: None, only_sizes: false }
}

impl Dense {
    fn load(&self, snapshot: &Snapshot, device: &Device) -> Result<LoadedModule> {
        let at = |error: Error| error.at(format!("module `{}`", self.path));
        let weights = snapshot.module_weights(&self.path).map_err(at)?;
        let (input, output) = (self.in_features, self.out_features);
        let (layers, _) = load(&weights, Owner::Module("linear"), device)
            .run(|vb| {
                let linear = Linear::load(vb.clone(), input, output, self.bias);
                let residual = (self.use_residual && input != output)
                    .then(|| Linear::load(vb.pp("residual"), input, output, false));
                let layers = linear.and_then(|linear| Ok((linear, residual.transpose()?)));
                layers.map_err(cannot_load)
            })
            .map_err(at)?;
        let (linear, projection) = layers;
        let residual = match projection {
            _ if !self.use_residual => Residual::None,
            None => Residual::Input,
            Some(projection) => Residual::Projected(projection),
        };
        let (activation, on_tokens) = (self.activation, self.on_tokens);
        Ok(LoadedModule::Dense(Box::new(LoadedDense { linear, activation, residual, on_tokens })))
    }
}

impl Norm {
    fn load(&self, snapshot: &Snapshot, device: &Device) -> Result<LoadedModule> {
        let at = |error: Error| error.at(format!("module `{}`", self.path));
        let weights = snapshot.module_weights(&self.path).map_err(at)?;
        let (norm, _) = load(&weights, Owner::Module("norm"), device)
            .run(|vb| LayerNorm::load(vb, self.dimension, LAYER_NORM_EPS).map_err(cannot_load))
            .map_err(at)?;
        Ok(LoadedModule::LayerNorm(norm))
    }
}

/// The loaded modules after the transformer, which turn token embeddings into a sentence embedding.
#[derive(Clone, Debug)]
pub struct Head {
    modules: Vec<LoadedModule>,
}

#[derive(Clone, Debug)]
enum LoadedModule {
    Features,
    Pooling(Pooling),
    Dense(Box<LoadedDense>),
    LayerNorm(LayerNorm),
    Normalize,
    NormalizeTokens,
}

#[derive(Clone, Debug)]
struct LoadedDense {
    linear: Linear,
    activation: TorchActivation,
    residual: Residual,
    on_tokens: bool,
}

/// The residual connection of a Dense module.
#[derive(Clone, Debug)]
enum Residual {
    None,
    Input,
    Projected(Linear),
}

impl LoadedDense {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let out = match self.activation.shared() {
            Some(activation) => self.linear.forward_activated(x, activation)?,
            None => self.activation.forward(&self.linear.forward(x)?)?,
        };
        match &self.residual {
            Residual::None => Ok(out),
            Residual::Input => out + x,
            Residual::Projected(linear) => out + linear.forward(x)?,
        }
    }
}

impl Head {
    /// Loads the weights of `modules` in f32, whatever the transformer's dtype: most modules process one vector per
    /// row.
    ///
    /// # Errors
    /// `Model` when weights are missing or do not fit the configuration.
    pub(super) fn load(modules: &[Module], snapshot: &Snapshot, device: &Device) -> Result<Self> {
        let modules = modules.iter().map(|module| module.load(snapshot, device));
        let modules = modules
            .collect::<Result<_>>()
            .map_err(|e| e.at(format!("model `{}`", snapshot.name())))?;
        Ok(Self { modules })
    }

    /// Whether it needs the vector that the transformer itself gives, its `pooler_output`.
    pub fn needs_pooler_output(&self) -> bool {
        self.modules.iter().any(|module| matches!(module, LoadedModule::Features))
    }

    /// As [`Head::forward`], for a transformer's output, which has `pooler_output` if the modules need it.
    ///
    /// # Errors
    /// As [`Head::forward`].
    pub fn forward_output(
        &self,
        output: &ModelOutput,
        prompt_tokens: usize,
    ) -> candle_core::Result<Tensor> {
        self.run(&output.last_hidden_state, output.pooler_output.as_ref(), prompt_tokens)
    }

    /// Computes one embedding per row.
    ///
    /// # Shapes
    /// Returns `(rows, embedding_dimension)`. `prompt_tokens` is the number of prompt tokens of each row, including the
    /// special token before them; it matters if the prompt is not pooled.
    ///
    /// # Errors
    /// When candle cannot compute or allocate.
    pub fn forward(
        &self,
        last_hidden_state: &Ragged,
        prompt_tokens: usize,
    ) -> candle_core::Result<Tensor> {
        self.run(last_hidden_state, None, prompt_tokens)
    }

    fn run(
        &self,
        last_hidden_state: &Ragged,
        pooler_output: Option<&Tensor>,
        prompt_tokens: usize,
    ) -> candle_core::Result<Tensor> {
        let mut tokens = last_hidden_state.clone();
        let mut embeddings = None;
        for module in &self.modules {
            embeddings = Some(match (module, embeddings.take()) {
                (LoadedModule::Features, _) => match pooler_output {
                    Some(vectors) => widened(vectors)?,
                    None => candle_core::bail!("bug: the transformer's own vectors are missing"),
                },
                (LoadedModule::Pooling(pooling), _) => pooling.forward(&tokens, prompt_tokens)?,
                (LoadedModule::Dense(dense), None) if dense.on_tokens => {
                    tokens.values = dense.forward(&widened(&tokens.values)?)?;
                    continue;
                }
                (LoadedModule::NormalizeTokens, None) => {
                    tokens.values = normalize(&widened(&tokens.values)?)?;
                    continue;
                }
                (LoadedModule::Dense(dense), Some(x)) => dense.forward(&x)?,
                (LoadedModule::LayerNorm(norm), Some(x)) => norm.forward(&x)?,
                (LoadedModule::Normalize, Some(x)) => normalize(&x)?,
                (LoadedModule::NormalizeTokens, Some(_))
                | (
                    LoadedModule::Dense(_) | LoadedModule::LayerNorm(_) | LoadedModule::Normalize,
                    None,
                ) => candle_core::bail!("bug: a module on the wrong side of Pooling"),
            });
        }
        embeddings.ok_or_else(|| candle_core::Error::Msg("bug: no Pooling module".to_owned()))
    }

    /// Computes one vector per token, by modules that all work on tokens.
    ///
    /// # Shapes
    /// Returns `(total_tokens, embedding_dimension)`.
    ///
    /// # Errors
    /// When candle cannot compute or allocate.
    pub fn forward_tokens(&self, last_hidden_state: &Ragged) -> candle_core::Result<Ragged> {
        let mut tokens = last_hidden_state.clone();
        tokens.values = widened(&tokens.values)?;
        for module in &self.modules {
            tokens.values = match module {
                LoadedModule::Dense(dense) if dense.on_tokens => dense.forward(&tokens.values)?,
                LoadedModule::NormalizeTokens => normalize(&tokens.values)?,
                _ => candle_core::bail!("bug: a module that does not work on tokens"),
            };
        }
        Ok(tokens)
    }
}

/// The modules' weights are f32, whatever the transformer's dtype.
fn widened(x: &Tensor) -> candle_core::Result<Tensor> {
    crate::nn::cast(x, DType::F32)
}
