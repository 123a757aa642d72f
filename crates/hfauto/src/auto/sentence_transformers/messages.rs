//! How a cross-encoder passes a pair to its transformer: as two texts, or as chat messages with the roles `query` and
//! `document`. Not here: rendering and tokens ([`PairScorer`](crate::sentence_transformers::PairScorer)).
//!
//! # Source
//! `InputFormatter` in `sentence_transformers/base/modality.py` and `Transformer.preprocess` in
//! `sentence_transformers/base/modules/transformer.py` at v6.2.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// The form of a message's `content`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFormat {
    /// The text.
    Flat,
    /// A list with one `{type: text, text}`.
    Structured,
}

impl MessageFormat {
    /// The `format` of a modality: `Some(None)` if it depends on the template, `None` for an unknown value.
    #[expect(clippy::option_option, reason = "an unknown value differs from an absent one")]
    pub(super) fn of(format: Option<&Value>) -> Option<Option<Self>> {
        match format {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(name)) => match name.as_str() {
                "auto" => Some(None),
                "flat" => Some(Some(Self::Flat)),
                "structured" => Some(Some(Self::Structured)),
                _ => None,
            },
            Some(_) => None,
        }
    }

    /// The form that a chat template reads; `None` stands for several named templates.
    pub fn of_template(template: Option<&str>) -> Self {
        const STRUCTURED: [&str; 6] =
            ["content[0]", ".type", "'type'", "\"type\"", "item.type", "message.content["];
        match template {
            Some(source) if !source.is_empty() => {
                let is_structured = STRUCTURED.iter().any(|part| source.contains(part));
                if is_structured { Self::Structured } else { Self::Flat }
            }
            _ => Self::Structured,
        }
    }

    /// A message of this form.
    pub fn message(self, role: &str, text: &str) -> Value {
        match self {
            Self::Flat => serde_json::json!({"role": role, "content": text}),
            Self::Structured => {
                serde_json::json!({"role": role, "content": [{"type": "text", "text": text}]})
            }
        }
    }
}

/// Whether and how a pair becomes chat messages: `modality_config` and `processing_kwargs.chat_template` of the
/// Transformer module.
#[derive(Clone, Debug, PartialEq)]
pub struct PairMessages {
    /// Whether a pair becomes messages; `None`: if the tokenizer has a chat template.
    pub used: Option<bool>,
    /// The form of a message; `None`: as the template reads it.
    pub format: Option<MessageFormat>,
    /// Whether the tokens that the template adds after the document are kept when the row is truncated.
    pub restore_suffix: bool,
    /// Whether the text ends with the start of an assistant message.
    pub add_generation_prompt: bool,
    /// A chat template, or the name of one of the tokenizer's templates; `None`: the default template.
    pub chat_template: Option<String>,
    /// The maximum number of tokens of a row; takes precedence over the tokenizer's.
    pub max_length: Option<usize>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

impl Default for PairMessages {
    fn default() -> Self {
        Self {
            used: None,
            format: None,
            restore_suffix: true,
            add_generation_prompt: false,
            chat_template: None,
            max_length: None,
            variables: Map::new(),
        }
    }
}

impl PairMessages {
    /// Reads the arguments of `apply_chat_template`, without `max_length`. `place` names the map, for errors.
    ///
    /// # Errors
    /// `Model` for a value of another type.
    pub(super) fn read(kwargs: &Map<String, Value>, place: &str) -> Result<Self> {
        const ARGUMENTS: [&str; 7] = [
            "add_generation_prompt",
            "chat_template",
            "continue_final_message",
            "max_length",
            "padding",
            "return_tensors",
            "truncation",
        ];
        const RESTORE_SUFFIX: &str = "restore_suffix";
        let wrong = |key: &str, value: &Value| {
            Error::new(ErrorKind::Model, format!("`{key}` in {place} is `{value}`"))
        };
        let flag = |key: &str, default| match kwargs.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(wrong(key, value)),
        };
        let is_variable = |key: &str| key != RESTORE_SUFFIX && !ARGUMENTS.contains(&key);
        Ok(Self {
            restore_suffix: flag(RESTORE_SUFFIX, true)?,
            add_generation_prompt: flag("add_generation_prompt", false)?,
            chat_template: match kwargs.get("chat_template") {
                None | Some(Value::Null) => None,
                Some(Value::String(template)) => Some(template.clone()),
                Some(value) => return Err(wrong("chat_template", value)),
            },
            variables: kwargs
                .iter()
                .filter(|(key, _)| is_variable(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            ..Self::default()
        })
    }
}
