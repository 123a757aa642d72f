//! The settings of an architecture in the metadata, under `ARCHITECTURE.`. Not here: what they are in `config.json`
//! (`super::architectures`). The entry is [`Keys`].

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::reader::{Header, Texts, Value};
use crate::hub::layout::Fault;

/// The metadata and the table of tensors of a file.
pub(super) struct Keys<'a> {
    architecture: &'a str,
    header: &'a Header,
    /// Small tensors that are settings: factors on frequencies, by their names without `.weight`.
    factors: &'a BTreeMap<String, Vec<f32>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(
        header: &'a Header,
        factors: &'a BTreeMap<String, Vec<f32>>,
    ) -> Result<Self, Fault> {
        let architecture = header.text("general.architecture").ok_or_else(|| {
            Fault::new("has no `general.architecture`, which says what its tensors are")
        })?;
        if let Some(Value::Integer(parts)) = header.get("split.count")
            && *parts > 1
        {
            return Err(Fault::unsupported(format!(
                "is one of {parts} parts of a model, which are not implemented"
            ))
            .hint("merge them with `llama-gguf-split --merge`"));
        }
        Ok(Self { architecture, header, factors })
    }

    pub(super) fn architecture(&self) -> &str {
        self.architecture
    }

    fn wrong(&self, key: &str, what: &str) -> Fault {
        Fault::new(format!("has `{}.{key}`, which is not {what}", self.architecture))
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.header.get(&format!("{}.{key}", self.architecture))
    }

    /// A size; a list of sizes for the layers if all are equal.
    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, Fault> {
        let wrong = || self.wrong(key, "a size");
        match self.value(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => usize::try_from(*number).map(Some).map_err(|_| wrong()),
            Some(Value::Numbers(numbers)) => {
                let mut numbers = numbers.iter();
                let Some(first) = numbers.next() else { return Err(wrong()) };
                if numbers.any(|number| number.to_bits() != first.to_bits()) {
                    return Err(Fault::unsupported(format!(
                        "has layers that differ in `{}.{key}`, which is not implemented",
                        self.architecture
                    )));
                }
                if first < 0.0 || first.fract() != 0.0 {
                    return Err(wrong());
                }
                Ok(Some(first as usize))
            }
            Some(_) => Err(wrong()),
        }
    }

    /// A size that the file must have.
    pub(super) fn size(&self, key: &str) -> Result<usize, Fault> {
        let missing = || Fault::new(format!("has no `{}.{key}`", self.architecture));
        self.optional_size(key)?.ok_or_else(missing)
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Fault> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number as f64)),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    /// The number of experts, in a mixture of them.
    pub(super) fn experts(&self) -> Result<Option<usize>, Fault> {
        Ok(self.optional_size("expert_count")?.filter(|count| *count > 0))
    }

    /// A list of texts, if it is one.
    pub(super) fn texts(&self, key: &str) -> Option<&'a Texts> {
        match self.value(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// A flag, if it is one.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The id of a token, if `key` of any architecture has one.
    pub(super) fn id(&self, key: &str) -> Option<u32> {
        self.header.id(key)
    }

    pub(super) fn heads(&self) -> Result<usize, Fault> {
        match self.size("attention.head_count")? {
            0 => Err(self.wrong("attention.head_count", "above 0")),
            heads => Ok(heads),
        }
    }

    pub(super) fn kv_heads(&self) -> Result<usize, Fault> {
        match self.optional_size("attention.head_count_kv")? {
            Some(0) => Err(self.wrong("attention.head_count_kv", "above 0")),
            Some(heads) => Ok(heads),
            None => self.heads(),
        }
    }

    pub(super) fn head_dim(&self) -> Result<usize, Fault> {
        let own = self.optional_size("attention.key_length")?;
        match own.map_or_else(|| Ok(self.size("embedding_length")? / self.heads()?), Ok)? {
            0 => Err(self.wrong("attention.key_length", "above 0")),
            size => Ok(size),
        }
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.header.tensors.contains_key(tensor)
    }

    /// The number of rows of a tensor.
    pub(super) fn rows(&self, tensor: &str) -> Result<usize, Fault> {
        let rows = self.shape(tensor).and_then(|shape| shape.first().copied());
        rows.ok_or_else(|| Fault::new(format!("has no tensor `{tensor}`")))
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, tensor: &str) -> Option<&'a [usize]> {
        self.header.tensors.get(tensor).map(|info| info.shape.as_slice())
    }

    /// Factors on frequencies, by the name of their tensor.
    pub(super) fn factors(&self, name: &str) -> Option<&'a [f32]> {
        self.factors.get(name).map(Vec::as_slice)
    }

    /// `rope_scaling` of `config.json`.
    pub(super) fn rope_scaling(&self) -> Result<Option<Json>, Fault> {
        let original = self.optional_size("rope.scaling.original_context_length")?;
        let attention_factor = self.number("rope.scaling.attn_factor")?;
        if let (Some(long), Some(short)) =
            (self.factors("rope_factors_long"), self.factors("rope_factors_short"))
        {
            let mut scaling = json!({
                "rope_type": "longrope",
                "long_factor": long,
                "short_factor": short,
            });
            if let Some(factor) = attention_factor {
                scaling["attention_factor"] = factor.into();
            }
            return Ok(Some(scaling));
        }
        if let Some(factors) = self.factors("rope_freqs") {
            // The factors of `llama3`, already computed: they count for every length.
            return Ok(Some(json!({
                "rope_type": "longrope",
                "long_factor": factors,
                "short_factor": factors,
                "attention_factor": 1.0,
            })));
        }
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let factor = factor.filter(|factor| *factor > 0.0);
        let kind = match self.value("rope.scaling.type") {
            None if factor.is_some() => "linear",
            None => "none",
            Some(Value::Text(kind)) => kind,
            Some(_) => return Err(self.wrong("rope.scaling.type", "a text")),
        };
        match (kind, factor) {
            ("none", _) | ("linear" | "yarn" | "longrope", None) => Ok(None),
            ("linear", Some(1.0)) => Ok(None),
            ("linear", Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
            ("yarn", Some(factor)) => {
                let mut scaling = json!({"rope_type": "yarn", "factor": factor});
                if let Some(original) = original {
                    scaling["original_max_position_embeddings"] = original.into();
                }
                if let Some(factor) = attention_factor {
                    scaling["attention_factor"] = factor.into();
                }
                for (key, name) in [
                    ("rope.scaling.yarn_beta_fast", "beta_fast"),
                    ("rope.scaling.yarn_beta_slow", "beta_slow"),
                ] {
                    if let Some(number) = self.number(key)? {
                        scaling[name] = number.into();
                    }
                }
                Ok(Some(scaling))
            }
            (kind, _) => Err(Fault::unsupported(format!(
                "has the rope scaling `{kind}`, which is not implemented"
            ))),
        }
    }
}
