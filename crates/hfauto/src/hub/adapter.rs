//! LoRA adapters of PEFT: matrices of low rank that are added to weights when they are read. Not here: the weights
//! (`super::weights`). The entry is [`Adapter`].
//!
//! # Source
//! `tuners/lora` and `utils/save_and_load.py` of peft at 0.21.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::{Map, Value};

use super::delta::Delta;
use super::files::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use super::source::read_file;
use super::weights::Weights;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// The prefix of every tensor name in an adapter.
const PREFIX: &str = "base_model.model.";

/// Settings that change what is computed, and the values with which they do not.
const OFF: [&str; 12] = [
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "monteclora_config",
    "velora_config",
];

/// The most modules that an error lists.
const LISTED: usize = 10;

/// An adapter: what it adds to weights, and the tensors that it has instead of those of the base model.
pub(super) struct Adapter {
    path: PathBuf,
    /// By the path of the module.
    deltas: BTreeMap<String, Delta>,
    /// Names in the base model, and in the file of the adapter.
    replaced: Vec<(String, String)>,
}

impl Adapter {
    /// Reads the adapter in a directory of PEFT.
    ///
    /// # Errors
    /// `Unsupported` for an adapter that is not a plain LoRA, `Model` if the files are missing, damaged or contradict each
    /// other.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        Self::load(dir).map_err(|e| e.at(format!("adapter `{}`", dir.display())))
    }

    fn load(dir: &Path) -> Result<Self> {
        let bytes = read_file(&dir.join(ADAPTER_CONFIG), limits::MODEL_JSON_BYTES)?;
        let config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| {
            let message = format!("{ADAPTER_CONFIG} is not a JSON object");
            Error::new(ErrorKind::Model, message).source(e)
        })?;
        let settings = Settings::read(&config)?;
        let path = dir.join(ADAPTER_WEIGHTS);
        let weights = Weights::open(std::slice::from_ref(&path))?;
        let mut deltas = BTreeMap::new();
        let mut replaced = Vec::new();
        for name in weights.names() {
            let bare = name.strip_prefix(PREFIX).ok_or_else(|| {
                let message = format!("tensor `{name}` does not begin with `{PREFIX}`");
                Error::new(ErrorKind::Model, message)
            })?;
            if let Some(module) = bare.strip_suffix(".lora_A.weight") {
                deltas.insert(module.to_owned(), settings.delta(&weights, module)?);
            } else if bare.ends_with(".lora_B.weight") {
                let a = name.replace(".lora_B.", ".lora_A.");
                if weights.shape(&a).is_none() {
                    return Err(Error::new(ErrorKind::Model, format!("there is no `{a}`")));
                }
            } else if bare.contains("lora_") {
                let kind = if bare.contains("lora_magnitude_vector") {
                    "DoRA"
                } else if bare.contains("lora_embedding_") {
                    "LoRA of embeddings"
                } else {
                    "this kind of LoRA"
                };
                let message = format!("tensor `{name}`: {kind} is not implemented");
                return Err(Error::new(ErrorKind::Unsupported, message).hint(MERGE));
            } else {
                let own = bare.replace("modules_to_save.default.", "");
                let own = own.replace("modules_to_save.", "");
                replaced.push((own, name.to_owned()));
            }
        }
        if deltas.is_empty() && replaced.is_empty() {
            return Err(Error::new(ErrorKind::Model, "the adapter has no tensors"));
        }
        Ok(Self { path, deltas, replaced })
    }

    /// The weights of the base model with the adapter: its products are added when tensors are read, and its own tensors
    /// replace those of the same name.
    ///
    /// # Errors
    /// `Model` if it has modules that the model lacks, or of other shapes.
    pub(super) fn apply(self, mut weights: Weights) -> Result<Weights> {
        let name_of =
            |weights: &Weights, name: &str| find(name, weights.names()).map(str::to_owned);
        let mut missing = Vec::new();
        let mut found = Vec::new();
        for (module, delta) in &self.deltas {
            let Some(name) = name_of(&weights, &format!("{module}.weight")) else {
                missing.push(module.clone());
                continue;
            };
            let shape = weights.shape(&name).unwrap_or_default();
            if shape != delta.shape() {
                let message = format!(
                    "`{module}` of the adapter is for a weight of {:?}, `{name}` of the model has {shape:?}",
                    delta.shape()
                );
                return Err(Error::new(ErrorKind::Model, message)
                    .at(format!("`{}`", self.path.display()))
                    .hint("the adapter is for another model"));
            }
            found.push((name, delta));
        }
        if !missing.is_empty() {
            return Err(self.misfit(&missing));
        }
        for (name, delta) in found {
            weights.set_delta(name, delta.clone());
        }
        let replaced = self.replaced.iter().map(|(name, stored_as)| {
            (name_of(&weights, name).unwrap_or_else(|| name.clone()), stored_as.clone())
        });
        let replaced: Vec<_> = replaced.collect();
        weights.replace(&replaced, Weights::open(&[self.path])?);
        Ok(weights)
    }

    /// The error for modules that the base model lacks.
    fn misfit(&self, missing: &[String]) -> Error {
        let names: Vec<String> =
            missing.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
        let more = match missing.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Error::new(
            ErrorKind::Model,
            format!("the model has no modules {}{more} of the adapter", names.join(", ")),
        )
        .at(format!("`{}`", self.path.display()))
        .hint("`base_model_name_or_path` in adapter_config.json names the model that it is for")
    }
}

const MERGE: &str = "save the merged model (`merge_and_unload` of peft)";

/// The settings of an adapter.
struct Settings {
    lora_alpha: f64,
    use_rslora: bool,
    fan_in_fan_out: bool,
    /// `alpha_pattern` and `rank_pattern`: numbers by the ends of paths.
    alphas: Vec<(String, f64)>,
    ranks: Vec<(String, f64)>,
    r: f64,
}

impl Settings {
    fn read(config: &Map<String, Value>) -> Result<Self> {
        let unsupported = |what: String| {
            Error::new(
                ErrorKind::Unsupported,
                format!("{what} in {ADAPTER_CONFIG} is not implemented"),
            )
            .hint(MERGE)
        };
        let wrong = |key: &str, value: &Value| {
            Error::new(ErrorKind::Model, format!("`{key}` in {ADAPTER_CONFIG} is `{value}`"))
        };
        match config.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            kind => {
                let kind = kind.unwrap_or("none");
                return Err(unsupported(format!("`peft_type: {kind}`"))
                    .hint("implemented is LORA; otherwise save the merged model"));
            }
        }
        for key in OFF {
            let is_off = |value: &Value| match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if let Some(value) = config.get(key).filter(|value| !is_off(value)) {
                return Err(unsupported(format!("`{key}: {value}`")));
            }
        }
        if let Some(Value::String(start)) = config.get("init_lora_weights")
            && ["pissa", "olora", "loftq", "corda"].iter().any(|kind| start.starts_with(kind))
        {
            // They change the base weights as well.
            return Err(unsupported(format!("`init_lora_weights: {start}`")));
        }
        let flag = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(wrong(key, value)),
        };
        let number = |key: &str, value: Option<&Value>, default: f64| match value {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0)
                .ok_or_else(|| wrong(key, value)),
        };
        let pattern = |key: &str| -> Result<Vec<(String, f64)>> {
            let patterns = match config.get(key) {
                None | Some(Value::Null) => return Ok(Vec::new()),
                Some(Value::Object(patterns)) => patterns,
                Some(value) => return Err(wrong(key, value)),
            };
            let entry = |(path, value): (&String, &Value)| {
                // They are regular expressions; dots separate the parts of paths as well.
                if path.contains(|c: char| !c.is_alphanumeric() && !"._-^".contains(c)) {
                    return Err(unsupported(format!("the pattern `{path}` of `{key}`")));
                }
                Ok((path.clone(), number(key, Some(value), 0.0)?))
            };
            patterns.iter().map(entry).collect()
        };
        Ok(Self {
            lora_alpha: number("lora_alpha", config.get("lora_alpha"), 8.0)?,
            r: number("r", config.get("r"), 8.0)?,
            use_rslora: flag("use_rslora")?,
            fan_in_fan_out: flag("fan_in_fan_out")?,
            alphas: pattern("alpha_pattern")?,
            ranks: pattern("rank_pattern")?,
        })
    }

    fn delta(&self, weights: &Weights, module: &str) -> Result<Delta> {
        let [a_name, b_name] =
            ["A", "B"].map(|side| format!("{PREFIX}{module}.lora_{side}.weight"));
        let shape = |name: &str| match weights.shape(name) {
            Some(&[rows, columns]) => Ok((rows, columns)),
            Some(shape) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "`{name}` has the shape {shape:?}: only LoRA of linear layers is implemented"
                ),
            )
            .hint(MERGE)),
            None => Err(Error::new(ErrorKind::Model, format!("there is no `{name}`"))),
        };
        let ((rank, in_features), (out_features, inner)) = (shape(&a_name)?, shape(&b_name)?);
        let stated = of_path(&self.ranks, module).unwrap_or(self.r);
        if rank == 0 || rank != inner || (stated - rank as f64).abs() > 0.0 {
            return Err(Error::new(
                ErrorKind::Model,
                format!(
                    "`{a_name}` has {rank} rows and `{b_name}` {inner} columns, expected {stated}, the rank in {ADAPTER_CONFIG}"
                ),
            ));
        }
        let elements = rank.saturating_mul(in_features.saturating_add(out_features));
        if elements > limits::ADAPTER_NUMBERS {
            let most = limits::ADAPTER_NUMBERS;
            let message = format!("`{module}` has {elements} numbers, expected at most {most}");
            return Err(Error::new(ErrorKind::Model, message));
        }
        let numbers = |name: &str| -> Result<Vec<f32>> {
            let tensor = weights.tensor(name, DType::F32, &Device::Cpu)?;
            let numbers = tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>());
            numbers.map_err(|e| {
                Error::new(ErrorKind::Model, format!("cannot read `{name}`")).source(e)
            })
        };
        let alpha = of_path(&self.alphas, module).unwrap_or(self.lora_alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Delta {
            a: numbers(&a_name)?,
            b: numbers(&b_name)?,
            rank,
            in_features,
            out_features,
            scaling: (alpha / divisor) as f32,
            fan_in_fan_out: self.fan_in_fan_out,
        })
    }
}

/// The number of the first pattern that a path ends with.
fn of_path(patterns: &[(String, f64)], path: &str) -> Option<f64> {
    let fits = |pattern: &str| match pattern.strip_prefix('^') {
        Some(whole) => path == whole,
        None => path.strip_suffix(pattern).is_some_and(|b| b.is_empty() || b.ends_with('.')),
    };
    patterns.iter().find(|(pattern, _)| fits(pattern)).map(|(_, number)| *number)
}

/// The name of a module's weight among `names`: it may lack a prefix, or have one more.
fn find<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut found = None;
    for name in names {
        if name == wanted {
            return Some(name);
        }
        let ends = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|before| before.ends_with('.'))
        };
        if ends(name, wanted) || ends(wanted, name) {
            // The longest name is that of the same part: `encoder.layer.0.…` before `0.…`.
            found = found.filter(|known: &&str| known.len() >= name.len()).or(Some(name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_are_ends_of_paths() {
        let patterns = vec![("q_proj".to_owned(), 4.0), ("^a.k_proj".to_owned(), 2.0)];
        assert_eq!(of_path(&patterns, "layers.0.q_proj"), Some(4.0));
        assert_eq!(of_path(&patterns, "layers.0.xq_proj"), None);
        assert_eq!(of_path(&patterns, "a.k_proj"), Some(2.0));
        assert_eq!(of_path(&patterns, "b.a.k_proj"), None);
    }

    #[test]
    fn modules_are_found_with_and_without_prefix() {
        let names = ["bert.encoder.layer.0.query.weight", "bert.encoder.layer.10.query.weight"];
        let of = |wanted: &str| find(wanted, names.iter().copied());
        assert_eq!(of("encoder.layer.0.query.weight"), Some(names[0]));
        assert_eq!(of("model.bert.encoder.layer.10.query.weight"), Some(names[1]));
        assert_eq!(of("encoder.layer.1.query.weight"), None);
    }

    #[test]
    fn settings_that_change_more_are_refused() {
        let of = |json: Value| {
            let config = json.as_object().unwrap().clone();
            Settings::read(&config).map(|_| ()).map_err(|error| error.to_string())
        };
        assert!(of(json!({"peft_type": "LORA", "r": 4, "use_dora": false})).is_ok());
        for (key, value) in [
            ("peft_type", json!("LOHA")),
            ("use_dora", true.into()),
            ("layer_replication", json!([[0, 1]])),
            ("init_lora_weights", "pissa_niter_4".into()),
            ("rank_pattern", json!({".*q_proj": 4})),
        ] {
            let mut config = json!({"peft_type": "LORA"});
            config[key] = value;
            let text = of(config).unwrap_err();
            assert!(text.contains("not implemented") && text.contains("hint"), "{text}");
        }
    }
}
