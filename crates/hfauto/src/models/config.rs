//! Reads the settings of an architecture from `config.json`.
//!
//! Transformers fills missing keys with the family's defaults and ignores unknown keys. A strict struct
//! would not fit: each setting is read by name with its default, and a wrong type or an invalid value
//! is an error with the key.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::nn::{Activation, AttnImplementation};

/// The keys of a `config.json`, with the family's defaults for missing keys.
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    /// Reads from `object`.
    pub fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, asked: RefCell::default() }
    }

    /// The sorted keys read so far: those that the family knows.
    pub fn asked(&self) -> BTreeSet<&'static str> {
        self.asked.borrow().clone()
    }

    /// The value of `key`; `null` counts as missing.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether config.json has `key`, even if it is `null`.
    pub fn contains(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// A size: a whole number of at least 1.
    ///
    /// # Errors
    /// `Model` for any other value.
    pub fn size(&self, key: &'static str, default: usize) -> Result<usize> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let size = value.as_u64().filter(|size| *size > 0);
        let size = size.ok_or_else(|| wrong(key, "a number of at least 1", value))?;
        let most = if key.contains("layer") { limits::MODEL_LAYERS } else { limits::MODEL_SIZE };
        usize::try_from(size)
            .ok()
            .filter(|size| *size <= most)
            .ok_or_else(|| wrong(key, &format!("a number of at most {most}"), value))
    }

    /// A size that may be absent: `null` means none, a missing key the default.
    ///
    /// # Errors
    /// As [`Fields::size`].
    pub fn optional_size(
        &self,
        key: &'static str,
        default: Option<usize>,
    ) -> Result<Option<usize>> {
        match (self.value(key), default) {
            (Some(_), _) => self.size(key, 1).map(Some),
            (None, default) => Ok(default.filter(|_| !self.object.contains_key(key))),
        }
    }

    /// A positive number that may be absent: `null` means none, a missing key the default.
    ///
    /// # Errors
    /// `Model` when it is something else.
    pub fn optional_number(&self, key: &'static str, default: Option<f64>) -> Result<Option<f64>> {
        match (self.value(key), default) {
            (Some(_), _) => self.epsilon(key, 1.0).map(Some),
            (None, default) => Ok(default.filter(|_| !self.object.contains_key(key))),
        }
    }

    /// A list; `None` when it is missing.
    ///
    /// # Errors
    /// `Model` when it is something else.
    pub fn list(&self, key: &'static str) -> Result<Option<&'a [Value]>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_array().map(|list| Some(&list[..])).ok_or_else(|| wrong(key, "a list", value))
    }

    /// The settings under `key`, which are those of a part of the model; none when it is missing.
    ///
    /// # Errors
    /// `Model` when it is something else.
    pub fn section(&self, key: &'static str) -> Result<Self> {
        static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        let Some(value) = self.value(key) else { return Ok(Self::new(&NONE)) };
        value.as_object().map(Self::new).ok_or_else(|| wrong(key, "settings by name", value))
    }

    /// Sizes, one for each stage of the model.
    ///
    /// # Errors
    /// `Model` for something other than numbers of at least 1, or for none.
    pub fn sizes(&self, key: &'static str, default: &[usize]) -> Result<Vec<usize>> {
        let Some(list) = self.list(key)? else { return Ok(default.to_vec()) };
        let size = |value: &Value| {
            let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
            size.filter(|size| (1..=limits::MODEL_SIZE).contains(size))
        };
        let sizes: Option<Vec<usize>> = list.iter().map(size).collect();
        sizes.filter(|sizes| (1..=limits::MODEL_LAYERS).contains(&sizes.len())).ok_or_else(|| {
            let most = limits::MODEL_SIZE;
            let value = Value::Array(list.to_vec());
            wrong(key, &format!("a list of numbers from 1 to {most}"), &value)
        })
    }

    /// A count: a whole number of at least 0.
    ///
    /// # Errors
    /// `Model` when it is something else.
    pub fn count(&self, key: &'static str, default: usize) -> Result<usize> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| wrong(key, "a number of at least 0", value))
    }

    /// A token id.
    ///
    /// # Errors
    /// `Model` if it is not a whole number of at least 0.
    pub fn token_id(&self, key: &'static str, default: u32) -> Result<u32> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| wrong(key, "a token id", value))
    }

    /// An optional token id.
    ///
    /// # Errors
    /// `Model` if it is neither a whole number of at least 0 nor null. Of a list, the first id counts.
    pub fn optional_token_id(&self, key: &'static str) -> Result<Option<u32>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let first = value.as_array().and_then(|list| list.first()).unwrap_or(value);
        let id = first.as_i64().ok_or_else(|| wrong(key, "a token id", value))?;
        // Some configurations use −1 for a missing id.
        Ok(u32::try_from(id).ok())
    }

    /// A string.
    ///
    /// # Errors
    /// `Model` if it is not a string.
    pub fn text(&self, key: &'static str, default: &'a str) -> Result<&'a str> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| wrong(key, "a name", value))
    }

    /// A boolean.
    ///
    /// # Errors
    /// `Model` for any other value.
    pub fn flag(&self, key: &'static str, default: bool) -> Result<bool> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(key, "true or false", value))
    }

    /// A positive epsilon, which avoids division by zero.
    ///
    /// # Errors
    /// `Model` if it is not a positive number.
    pub fn epsilon(&self, key: &'static str, default: f64) -> Result<f64> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value
            .as_f64()
            .filter(|eps| eps.is_finite() && *eps > 0.0)
            .ok_or_else(|| wrong(key, "a positive number", value))
    }

    /// Height and width: a number for both, or a list of the two.
    ///
    /// # Errors
    /// `Model` for any other value.
    pub fn height_and_width(&self, key: &'static str, default: usize) -> Result<(usize, usize)> {
        let Some(value) = self.value(key) else { return Ok((default, default)) };
        let side = |value: &Value| {
            let side = value.as_u64().and_then(|side| u16::try_from(side).ok());
            side.filter(|side| *side > 0).map(usize::from)
        };
        let sides = match value.as_array().map(Vec::as_slice) {
            None => side(value).map(|side| (side, side)),
            Some([height, width]) => side(height).zip(side(width)),
            Some(_) => None,
        };
        sides.ok_or_else(|| wrong(key, "a number from 1 to 65535 or a list of two", value))
    }

    /// An activation function by name.
    ///
    /// # Errors
    /// `Unsupported` for an unknown name, `Model` if it is not a string.
    pub fn activation(&self, key: &'static str, default: &str) -> Result<Activation> {
        let name = match self.value(key) {
            None => default,
            Some(Value::String(name)) => name,
            Some(value) => return Err(wrong(key, "the name of an activation", value)),
        };
        Activation::from_name(name).map_err(|e| e.at(format!("`{key}` in config.json")))
    }

    /// The activation of a gate, by its own name or by that of a gated unit (`swiglu`).
    ///
    /// # Errors
    /// As [`Fields::activation`].
    pub fn gate_activation(&self, key: &'static str, default: &str) -> Result<Activation> {
        match self.value(key).and_then(Value::as_str) {
            Some("swiglu") => Ok(Activation::Silu),
            Some("geglu") => Ok(Activation::Gelu),
            _ => self.activation(key, default),
        }
    }

    /// Which layers have sliding-window attention: from `layer_types`, without it from `by_default`.
    ///
    /// # Errors
    /// `Model` if the number of types is not that of the layers, `Unsupported` for an unknown type.
    pub fn sliding_layers(
        &self,
        layers: usize,
        by_default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>> {
        let Some(types) = self.list("layer_types")? else {
            return Ok((0..layers).map(by_default).collect());
        };
        if types.len() != layers {
            let text = format!("`layer_types` in config.json has {} entries", types.len());
            let text = format!("{text}, but there are {layers} layers");
            return Err(Error::new(ErrorKind::Model, text));
        }
        let slides = |layer_type: &Value| match layer_type.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("layer type `{layer_type}` in config.json is not implemented"),
            )
            .hint("implemented layer types are: full_attention, sliding_attention")),
        };
        types.iter().map(slides).collect()
    }

    /// `attn_implementation`, which all families share.
    pub fn attn_implementation(&self) -> AttnImplementation {
        match self.object.get("attn_implementation").and_then(Value::as_str) {
            Some("eager") => AttnImplementation::Eager,
            _ => AttnImplementation::Sdpa,
        }
    }

    /// Rejects values of a setting other than `implemented`.
    ///
    /// # Errors
    /// `Unsupported` with the key and both values.
    pub fn only(&self, key: &'static str, implemented: &Value) -> Result<()> {
        match self.value(key) {
            Some(value) if !same(value, implemented) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("`{key}: {value}` in config.json is not implemented, only `{implemented}`"),
            )),
            _ => Ok(()),
        }
    }

    /// Checks that `hidden_size` is a multiple of `heads`; both come with their key.
    ///
    /// # Errors
    /// `Model` if it is not.
    pub fn divides(&self, hidden: (&str, usize), heads: (&str, usize)) -> Result<()> {
        if hidden.1.is_multiple_of(heads.1) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Model,
            format!(
                "`{}: {}` in config.json is not a multiple of `{}: {}`",
                hidden.0, hidden.1, heads.0, heads.1
            ),
        ))
    }
}

/// Whether the values are equal; 1 and 1.0 are.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && a.as_f64() == b.as_f64())
}

fn wrong(key: &str, expected: &str, found: &Value) -> Error {
    Error::new(ErrorKind::Model, format!("`{key}` in config.json is `{found}`, not {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_and_null_take_the_default_and_wrong_types_are_named() {
        let json = json!({"hidden_size": "big", "heads": null, "layers": 0, "eps": -1,
            "hidden_act": "gelux", "is_decoder": true, "pad_token_id": 1,
            "patch_size": [4, 8], "image_size": [4, 0]});
        let fields = Fields::new(json.as_object().unwrap());
        assert_eq!(fields.size("heads", 12).unwrap(), 12);
        assert_eq!(fields.size("absent", 3).unwrap(), 3);
        assert_eq!(fields.token_id("pad_token_id", 0).unwrap(), 1);
        assert_eq!(fields.height_and_width("absent", 3).unwrap(), (3, 3));
        assert_eq!(fields.height_and_width("patch_size", 3).unwrap(), (4, 8));
        assert!(fields.height_and_width("image_size", 3).is_err());
        let message = |error: Error| error.to_string();
        assert_eq!(
            message(fields.size("hidden_size", 1).unwrap_err()),
            "`hidden_size` in config.json is `\"big\"`, not a number of at least 1"
        );
        assert!(message(fields.size("layers", 1).unwrap_err()).contains("`layers`"));
        let huge = json!({"vocab_size": u64::MAX, "num_layers": 100_000, "hidden_size": 100_000});
        let fields_of_huge = Fields::new(huge.as_object().unwrap());
        assert!(fields_of_huge.size("vocab_size", 1).is_err());
        assert!(fields_of_huge.size("num_layers", 1).is_err());
        assert!(fields_of_huge.size("hidden_size", 1).is_ok());
        assert!(message(fields.epsilon("eps", 1.0).unwrap_err()).contains("positive"));
        let error = fields.activation("hidden_act", "gelu").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = fields.only("is_decoder", &Value::Bool(false)).unwrap_err();
        assert_eq!(
            error.message(),
            "`is_decoder: true` in config.json is not implemented, only `false`"
        );
        assert!(fields.divides(("hidden_size", 10), ("num_attention_heads", 3)).is_err());
        assert!(fields.asked().contains("is_decoder"));
    }
}
