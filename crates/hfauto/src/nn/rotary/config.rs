//! The rotary settings of a `config.json`, in the spelling of transformers 4 and of 5, and the frequencies that they mean.
//!
//! Arithmetic is in f32 and in the order of the source: an angle is a frequency times a position, so the last bit of a
//! frequency counts. Not here: angles and rotation (`super`).

use std::f64::consts::PI;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// How a family spells its rotary settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RotaryLayout {
    /// One embedding for all layers: `rope_theta` and `rope_scaling`, or `rope_parameters`.
    Flat {
        /// `rope_theta` where config.json has none.
        rope_theta: f64,
    },
    /// The same for GTE, whose code on the hub has another type, `ntk`.
    Gte,
    /// The same for Phi-3, where `partial_rotary_factor` counts for every type, `original_max_position_embeddings` stands
    /// at top level, and `su` and `yarn` are old names of `longrope`.
    Phi3,
    /// The same as flat, where `partial_rotary_factor` counts for every type.
    Partial {
        /// `rope_theta` where config.json has none.
        rope_theta: f64,
        /// `partial_rotary_factor` where config.json has none.
        partial_rotary_factor: f64,
    },
    /// An embedding for each layer type: `rope_parameters` by the name of the type, or top-level keys for its theta.
    Nested {
        /// `full_attention` or `sliding_attention`.
        layer_type: &'static str,
        /// The top-level key of its theta.
        theta_key: &'static str,
        /// Its theta where config.json has none.
        rope_theta: f64,
        /// Whether a top-level `rope_scaling` counts for it.
        scaled: bool,
    },
}

impl RotaryLayout {
    /// Whether `partial_rotary_factor` counts for every type.
    fn is_partial(self) -> bool {
        matches!(self, Self::Phi3 | Self::Partial { .. })
    }
}

/// What stretches the frequencies beyond the length that a model was trained on: `rope_type`.
#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    Default,
    Linear { factor: f32 },
    Dynamic { factor: f64 },
    Yarn { factor: f64, low: f64, high: f64 },
    LongRope { short_factor: Vec<f32>, long_factor: Vec<f32> },
    Llama3 { factor: f32, low_freq_factor: f64, high_freq_factor: f64 },
    Ntk { factor: f64 },
}

/// The rotary settings of one layer type.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryConfig {
    head_dim: usize,
    /// `int(head_dim * partial_rotary_factor)`, the denominator of the exponents.
    rotary_dim: usize,
    rope_theta: f64,
    max_position_embeddings: usize,
    original_max_position_embeddings: usize,
    attention_factor: f64,
    scaling: Scaling,
}

impl RotaryConfig {
    /// Reads the settings. `value` gives the value of a top-level key of config.json; a setting that has a key of its own in
    /// `rope_parameters` or `rope_scaling` is taken from there first.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for an unknown rope type; both name the key.
    ///
    /// # Source
    /// `RotaryEmbeddingConfigMixin` of `modeling_rope_utils.py`, and `convert_rope_params_to_dict` of the configurations of
    /// Phi-3, Gemma 3 and ModernBERT, at v5.24.
    pub fn new<'a>(
        value: impl Fn(&'static str) -> Option<&'a Value>,
        layout: RotaryLayout,
        head_dim: usize,
        max_position_embeddings: usize,
    ) -> Result<Self> {
        let most = limits::ROTARY_HEAD_DIM;
        if head_dim == 0 || head_dim > most {
            return Err(model(format!("`head_dim` is {head_dim}, not a number from 1 to {most}")));
        }
        if max_position_embeddings == 0 {
            return Err(model("`max_position_embeddings` is 0".to_owned()));
        }
        let top = Settings::top(&value, layout);
        let own = Settings::own(&value, layout)?;
        let (theta_key, rope_theta) = match layout {
            RotaryLayout::Flat { rope_theta } | RotaryLayout::Partial { rope_theta, .. } => {
                ("rope_theta", rope_theta)
            }
            RotaryLayout::Gte => ("rope_theta", 160_000.0),
            RotaryLayout::Phi3 => ("rope_theta", 10_000.0),
            RotaryLayout::Nested { theta_key, rope_theta, .. } => (theta_key, rope_theta),
        };
        let rope_theta = own.number("rope_theta")?.or(top.number(theta_key)?).unwrap_or(rope_theta);
        if rope_theta <= 1.0 {
            return Err(model(format!("`{theta_key}` is {rope_theta}, not a number above 1")));
        }
        let rope_type = own.rope_type(layout)?;
        let partial = own
            .number("partial_rotary_factor")?
            .or(top.number("partial_rotary_factor")?)
            .filter(|_| rope_type != "default" || layout.is_partial())
            .unwrap_or(match layout {
                RotaryLayout::Partial { partial_rotary_factor, .. } => partial_rotary_factor,
                _ => 1.0,
            });
        if partial > 1.0 || (partial < 1.0 && !layout.is_partial()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("`partial_rotary_factor: {partial}` is not implemented for this family"),
            ));
        }
        let original = match layout {
            RotaryLayout::Flat { .. } | RotaryLayout::Partial { .. } | RotaryLayout::Gte => top
                .size("original_max_position_embeddings")?
                .or(own.size("original_max_position_embeddings")?),
            RotaryLayout::Phi3 => top.size("original_max_position_embeddings")?.or(Some(4096)),
            RotaryLayout::Nested { .. } => own.size("original_max_position_embeddings")?,
        };
        let mut config = Self {
            head_dim,
            rotary_dim: (head_dim as f64 * partial) as usize,
            rope_theta,
            max_position_embeddings,
            original_max_position_embeddings: original.unwrap_or(max_position_embeddings),
            attention_factor: 1.0,
            scaling: Scaling::Default,
        };
        let width = 2 * config.frequencies();
        if width == 0 || width > head_dim {
            return Err(model(format!(
                "{} of the {head_dim} features of `head_dim` turn, not an even number of at least 2",
                config.rotary_dim
            )));
        }
        config.scale(rope_type, &own, layout)?;
        let changed = config.changes_above().unwrap_or(0).saturating_add(1);
        let mut frequencies = [0, changed].into_iter().flat_map(|seq_len| config.inv_freq(seq_len));
        if !(config.attention_factor.is_finite() && frequencies.all(f32::is_finite)) {
            return Err(model(format!(
                "the settings of `{}` give no finite frequencies",
                own.path
            )));
        }
        Ok(config)
    }

    fn scale(&mut self, rope_type: &str, own: &Settings<'_>, layout: RotaryLayout) -> Result<()> {
        self.scaling = match rope_type {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: own.needed("factor")? as f32 },
            "dynamic" if self.rotary_dim <= 2 => {
                return Err(model(format!(
                    "rope type `dynamic` with `head_dim: {}`",
                    self.head_dim
                )));
            }
            "dynamic" => Scaling::Dynamic { factor: own.needed("factor")? },
            "yarn" => self.yarn(own, matches!(layout, RotaryLayout::Nested { .. }))?,
            "longrope" => {
                let factor = own.number("factor")?.unwrap_or(self.length_ratio());
                let original = self.original_max_position_embeddings as f64;
                self.attention_factor = match own.number("attention_factor")? {
                    Some(attention_factor) => attention_factor,
                    None if factor <= 1.0 => 1.0,
                    None if original < 2.0 => {
                        return Err(own.wrong("original_max_position_embeddings", "at least 2"));
                    }
                    None => (1.0 + factor.ln() / original.ln()).sqrt(),
                };
                Scaling::LongRope {
                    short_factor: own.factors("short_factor", self.frequencies())?,
                    long_factor: own.factors("long_factor", self.frequencies())?,
                }
            }
            "llama3" => {
                let low_freq_factor = own.needed("low_freq_factor")?;
                let high_freq_factor = own.needed("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    return Err(own.wrong("high_freq_factor", "a number above `low_freq_factor`"));
                }
                let factor = own.needed("factor")? as f32;
                Scaling::Llama3 { factor, low_freq_factor, high_freq_factor }
            }
            "ntk" if layout == RotaryLayout::Gte => own.ntk()?,
            unknown => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("rope type `{unknown}` of `{}` is not implemented", own.path),
                )
                .hint("implemented are default, dynamic, linear, llama3, longrope, yarn; for GTE, ntk"));
            }
        };
        Ok(())
    }

    fn yarn(&mut self, own: &Settings<'_>, nested: bool) -> Result<Scaling> {
        let get_mscale = |scale: f64, mscale: f64| {
            if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
        };
        let factor = own.number("factor")?.unwrap_or(self.length_ratio());
        let mscales = own.unless_zero("mscale")?.zip(own.unless_zero("mscale_all_dim")?);
        self.attention_factor = match (own.number("attention_factor")?, mscales) {
            (Some(attention_factor), _) => attention_factor,
            (None, Some((mscale, all_dim))) => {
                get_mscale(factor, mscale) / get_mscale(factor, all_dim)
            }
            (None, None) => get_mscale(factor, 1.0),
        };
        let dim = self.rotary_dim as f64;
        let length = self.original_max_position_embeddings as f64;
        let correction_dim = |rotations: f64| {
            dim * (length / (rotations * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln())
        };
        let mut low = correction_dim(own.unless_zero("beta_fast")?.unwrap_or(32.0));
        let mut high = correction_dim(own.unless_zero("beta_slow")?.unwrap_or(1.0));
        // The source looks for `truncate` beside the layer types, where nobody writes it.
        if nested || own.flag("truncate")?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        Ok(Scaling::Yarn { factor, low: low.max(0.0), high: high.min(dim - 1.0) })
    }

    fn length_ratio(&self) -> f64 {
        self.max_position_embeddings as f64 / self.original_max_position_embeddings as f64
    }

    /// Features of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How many frequencies there are: the first two times as many features of a head turn.
    pub fn frequencies(&self) -> usize {
        self.rotary_dim.div_ceil(2)
    }

    /// What cosines and sines are multiplied with.
    pub(super) fn attention_factor(&self) -> f32 {
        self.attention_factor as f32
    }

    /// The length above which a row has other frequencies: one set for all such rows (`longrope`), or one for each length
    /// (`dynamic`). `None` where the length of a row does not count.
    pub fn changes_above(&self) -> Option<usize> {
        match self.scaling {
            Scaling::LongRope { .. } => Some(self.original_max_position_embeddings),
            Scaling::Dynamic { .. } => Some(self.max_position_embeddings),
            _ => None,
        }
    }

    /// Whether rows above [`RotaryConfig::changes_above`] have frequencies of their own length.
    pub(super) fn by_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. })
    }

    /// The inverse frequencies of a row of `seq_len` tokens, slowest last.
    ///
    /// # Source
    /// `ROPE_INIT_FUNCTIONS` of `modeling_rope_utils.py` at v5.24; for `ntk`, `NTKScalingRotaryEmbedding` of `modeling.py` of
    /// Alibaba-NLP/new-impl on the hub.
    pub(super) fn inv_freq(&self, seq_len: usize) -> Vec<f32> {
        let powers = |base: f64| {
            let dim = self.rotary_dim as f32;
            (0..self.frequencies()).map(move |i| {
                let exponent = (2 * i) as f32 / dim;
                f64::from(base as f32).powf(f64::from(exponent)) as f32
            })
        };
        let plain = powers(self.rope_theta).map(|power| 1.0 / power);
        match &self.scaling {
            Scaling::Default => plain.collect(),
            Scaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            Scaling::Dynamic { factor } => {
                powers(self.dynamic_theta(*factor, seq_len)).map(|power| 1.0 / power).collect()
            }
            Scaling::Ntk { factor } => {
                let divisor = factor.powf(2.0 / self.rotary_dim as f64) as f32;
                powers(self.rope_theta * factor).map(|power| 1.0 / power / divisor).collect()
            }
            Scaling::Yarn { factor, low, high } => {
                let high = if (high - low).abs() > 0.0 { *high } else { high + 0.001 };
                let ramp = |i: usize| (i as f32 - *low as f32) / (high - low) as f32;
                let interpolated = |(i, power): (usize, f32)| {
                    let extrapolation = 1.0 - ramp(i).clamp(0.0, 1.0);
                    1.0 / (*factor as f32 * power) * (1.0 - extrapolation)
                        + 1.0 / power * extrapolation
                };
                powers(self.rope_theta).enumerate().map(interpolated).collect()
            }
            Scaling::LongRope { short_factor, long_factor } => {
                let long = seq_len > self.original_max_position_embeddings;
                let factors = if long { long_factor } else { short_factor };
                let powers = powers(self.rope_theta);
                powers.zip(factors).map(|(power, factor)| 1.0 / (factor * power)).collect()
            }
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor } => {
                let length = self.original_max_position_embeddings as f64;
                let (low, high) = (*low_freq_factor, *high_freq_factor);
                let scaled = |frequency: f32| {
                    let wavelength = (2.0 * PI) as f32 / frequency;
                    if wavelength < (length / high) as f32 {
                        frequency
                    } else if wavelength > (length / low) as f32 {
                        frequency / factor
                    } else {
                        let smooth =
                            (length as f32 / wavelength - low as f32) / (high - low) as f32;
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                plain.map(scaled).collect()
            }
        }
    }

    /// In f32, since the length is a tensor in the source.
    fn dynamic_theta(&self, factor: f64, seq_len: usize) -> f64 {
        let (dim, max) = (self.rotary_dim as f64, self.max_position_embeddings);
        if seq_len <= max {
            return self.rope_theta;
        }
        let stretch = factor as f32 * seq_len as f32 / max as f32 - (factor - 1.0) as f32;
        let power = f64::from(stretch).powf(f64::from((dim / (dim - 2.0)) as f32)) as f32;
        f64::from(self.rope_theta as f32 * power)
    }
}

/// Some settings, and where they stand.
struct Settings<'a> {
    values: Vec<(&'a str, &'a Value)>,
    path: String,
}

impl<'a> Settings<'a> {
    /// The top-level keys that count.
    fn top(value: &impl Fn(&'static str) -> Option<&'a Value>, layout: RotaryLayout) -> Self {
        let theta_key = match layout {
            RotaryLayout::Nested { theta_key, .. } => theta_key,
            _ => "rope_theta",
        };
        let keys = [theta_key, "partial_rotary_factor", "original_max_position_embeddings"];
        let values = keys.into_iter().filter_map(|key| Some((key, value(key)?))).collect();
        Self { values, path: String::new() }
    }

    /// What `rope_scaling` or `rope_parameters` say; later values count.
    fn own(
        value: &impl Fn(&'static str) -> Option<&'a Value>,
        layout: RotaryLayout,
    ) -> Result<Self> {
        let (scaling, parameters) =
            (object(value, "rope_scaling")?, object(value, "rope_parameters")?);
        let RotaryLayout::Nested { layer_type, scaled, .. } = layout else {
            let scaling = scaling.filter(|scaling| !scaling.is_empty());
            let path = if scaling.is_some() { "rope_scaling" } else { "rope_parameters" };
            let values: Vec<_> = entries(scaling.or(parameters)).collect();
            if let Some((key, _)) = values.iter().find(|(_, value)| value.is_object()) {
                return Err(model(format!(
                    "`{path}.{key}` is of a layer type; this family has one for all"
                )));
            }
            return Ok(Self { values, path: path.to_owned() });
        };
        let own = match parameters.and_then(|parameters| parameters.get(layer_type)) {
            None | Some(Value::Null) => None,
            Some(Value::Object(own)) => Some(own),
            Some(_) => return Err(model(format!("`rope_parameters.{layer_type}` is no object"))),
        };
        // Without `rope_parameters`, `rope_type` is `default` already, and the old key `type` does not replace it.
        let scaling = entries(scaling.filter(|_| scaled));
        let scaling = scaling.filter(|(key, _)| own.is_some() || *key != "type");
        let values = entries(own).chain(scaling).collect();
        Ok(Self { values, path: format!("rope_parameters.{layer_type}") })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        let found = self.values.iter().rev().find(|(name, _)| *name == key);
        found.map(|(_, value)| *value).filter(|value| !value.is_null())
    }

    fn rope_type(&self, layout: RotaryLayout) -> Result<&'a str> {
        let key = if self.get("rope_type").is_some() { "rope_type" } else { "type" };
        let Some(value) = self.get(key) else { return Ok("default") };
        let name = value.as_str().ok_or_else(|| self.wrong(key, "a name"))?;
        Ok(match (layout, name) {
            (RotaryLayout::Phi3, "su" | "yarn") => "longrope",
            _ => name,
        })
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| limits::ROTARY_NUMBERS.contains(number));
        number.map(Some).ok_or_else(|| self.wrong(key, "a number from 1e-9 to 1e30"))
    }

    /// A number where the source takes 0 for none.
    fn unless_zero(&self, key: &str) -> Result<Option<f64>> {
        let zero = self.get(key).and_then(Value::as_f64) == Some(0.0);
        if zero { Ok(None) } else { self.number(key) }
    }

    fn needed(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| model(format!("`{}.{key}` is missing", self.path)))
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size =
            value.as_u64().and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0);
        size.map(|size| Some(size as usize)).ok_or_else(|| self.wrong(key, "a number of tokens"))
    }

    /// The fixed scaling of GTE; a factor of up to 1 has no effect there.
    fn ntk(&self) -> Result<Scaling> {
        if self.get("mixed_b").is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("`{}.mixed_b` of rope type `ntk` is not implemented", self.path),
            ));
        }
        let factor = self.needed("factor")?;
        Ok(if factor > 1.0 { Scaling::Ntk { factor } } else { Scaling::Default })
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// A factor for each of `count` frequencies.
    fn factors(&self, key: &str, count: usize) -> Result<Vec<f32>> {
        let list = self.get(key).and_then(Value::as_array).filter(|list| list.len() == count);
        let factor = |value: &Value| {
            value
                .as_f64()
                .filter(|factor| limits::ROTARY_NUMBERS.contains(factor))
                .map(|factor| factor as f32)
        };
        let factors = list.and_then(|list| list.iter().map(factor).collect());
        factors.ok_or_else(|| self.wrong(key, &format!("a list of {count} positive numbers")))
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.get(key).unwrap_or(&Value::Null).to_string();
        let found: String = found.chars().take(80).collect();
        let dot = if self.path.is_empty() { "" } else { "." };
        model(format!("`{}{dot}{key}` in config.json is `{found}`, not {expected}", self.path))
    }
}

fn entries(object: Option<&Map<String, Value>>) -> impl Iterator<Item = (&str, &Value)> {
    object.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn object<'a>(
    value: &impl Fn(&'static str) -> Option<&'a Value>,
    key: &'static str,
) -> Result<Option<&'a Map<String, Value>>> {
    match value(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(model(format!("`{key}` in config.json is no object"))),
    }
}

fn model(message: String) -> Error {
    Error::new(ErrorKind::Model, message)
}
