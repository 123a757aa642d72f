//! Chat templates: a conversation as the one text that a model was trained to continue.
//!
//! The entry points are [`AutoTokenizer::apply_chat_template`] for one conversation and
//! [`AutoTokenizer::chat_template`] for many. Not here: tokens. The text has its special tokens already and
//! is encoded without adding them ([`EncodeOptions::add_special_tokens`](super::EncodeOptions)).
//!
//! # Source
//! `apply_chat_template` of transformers' `PreTrainedTokenizerBase`, `render_jinja_template`. Templates are
//! rendered by minijinja, within a budget ([`super::jinja`]).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::files::TokenizerFiles;
use super::{AutoTokenizer, jinja};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::guard::guarded;

/// The name of a separate template file.
const FILE: &str = "chat_template.jinja";

/// Marks the end of a continued message. The text is transformers' own, because templates may check for it.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Options and variables of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatOptions {
    /// Whether the text ends with the start of an assistant message.
    pub add_generation_prompt: bool,
    /// Whether the last message is continued: the text ends where the message ends.
    pub continue_final_message: bool,
    /// Additional variables of the template, for example `tools` and `documents`. They replace special tokens of the
    /// same name.
    pub extra: Map<String, Value>,
}

impl ChatOptions {
    /// The variables that come from the conversation and from these options, and cannot be set by `extra`.
    pub const OWN_VARIABLES: [&str; 2] = ["messages", "add_generation_prompt"];

    /// Options for the assistant's next words: the start of a message or, if the last message is the assistant's, its
    /// continuation.
    pub fn for_answer(messages: &[Value]) -> Self {
        let continues = messages.last().is_some_and(|last| last["role"] == "assistant");
        Self {
            add_generation_prompt: !continues,
            continue_final_message: continues,
            ..Self::default()
        }
    }
}

/// The chat templates in a tokenizer's files.
#[derive(Clone, Debug, Default)]
pub(super) struct ChatTemplates {
    /// The file that they come from.
    place: String,
    /// Templates by name; a single template has the name `""`.
    named: Vec<(String, String)>,
}

impl ChatTemplates {
    /// Reads the template from `chat_template.jinja`, or else from tokenizer_config.json.
    ///
    /// # Errors
    /// `Model` when `chat_template` is neither a template nor a list of named templates.
    pub(super) fn read(
        files: &mut TokenizerFiles<'_>,
        config: &Map<String, Value>,
    ) -> Result<Self> {
        if let Some(source) = files.read_text(FILE)? {
            return Ok(Self { place: FILE.into(), named: vec![(String::new(), source)] });
        }
        let text = |value: &Value| value.as_str().map(str::to_string);
        let named = match config.get("chat_template") {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::String(source)) => Some(vec![(String::new(), source.clone())]),
            Some(Value::Array(list)) => list
                .iter()
                .map(|entry| Some((text(entry.get("name")?)?, text(entry.get("template")?)?)))
                .collect(),
            Some(Value::Object(map)) => {
                map.iter().map(|(name, source)| Some((name.clone(), text(source)?))).collect()
            }
            Some(_) => None,
        };
        let place = "tokenizer_config.json: `chat_template`".to_string();
        let named = named.ok_or_else(|| {
            Error::new(
                ErrorKind::Model,
                "expected a template, or a list of templates with `name` and `template`",
            )
            .at(&place)
        })?;
        Ok(Self { place, named })
    }

    /// Selects a template. `wanted` is a name or a template itself.
    fn choose(&self, wanted: Option<&str>, tools: bool) -> Result<(String, &str, ErrorKind)> {
        let find = |name: &str| {
            let found = self.named.iter().find(|(known, _)| known == name);
            found.map(|(name, source)| (self.place_of(name), source.as_str(), ErrorKind::Model))
        };
        let several = self.named.iter().any(|(name, _)| !name.is_empty());
        if wanted.is_none() {
            let by_name = if tools { find("tool_use") } else { None };
            if let Some(found) = by_name.or_else(|| find("default")).or_else(|| find("")) {
                return Ok(found);
            }
        } else if let Some(found) = wanted.filter(|_| several).and_then(find) {
            return Ok(found);
        }
        if several {
            let names: Vec<_> = self.named.iter().map(|(name, _)| format!("`{name}`")).collect();
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the model has several chat templates and no default: {}",
                    names.join(", ")
                ),
            )
            .hint("set `chat_template` to one of these names, or to a template"));
        }
        Err(Error::new(ErrorKind::Config, "the model has no chat template")
            .hint("set `chat_template` to a Jinja template, or use a column of plain text"))
    }

    fn place_of(&self, name: &str) -> String {
        if name.is_empty() { self.place.clone() } else { format!("{} `{name}`", self.place) }
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    template: jinja::Template,
    /// The origin of the template, for errors.
    place: String,
    special_tokens: Map<String, Value>,
}

impl ChatTemplate {
    fn new(
        place: String,
        source: &str,
        special_tokens: Map<String, Value>,
        kind: ErrorKind,
    ) -> Result<Self> {
        let template = guarded(kind, "the chat template", || {
            jinja::Template::new(source).map_err(|e| failed(e, &place, kind))
        })?;
        Ok(Self { template, place, special_tokens })
    }

    /// Renders a conversation: messages with `role` and `content`, and the other variables of the template.
    ///
    /// # Errors
    /// `Data` when there is no message, or the template rejects the messages; `Config` for options that exclude each
    /// other; `Unsupported` when the template calls an unknown function.
    pub fn render(&self, messages: &[Value], options: &ChatOptions) -> Result<String> {
        if options.add_generation_prompt && options.continue_final_message {
            return Err(Error::new(
                ErrorKind::Config,
                "`continue_final_message` and `add_generation_prompt` exclude each other",
            ));
        }
        let own = ChatOptions::OWN_VARIABLES;
        if let Some(name) = own.iter().find(|name| options.extra.contains_key(**name)) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the chat template already has a variable `{name}`"),
            ));
        }
        if let Some(message) = messages.iter().find(|message| !message.is_object()) {
            return Err(Error::of_row(
                RowErrorKind::Chat,
                format!("a message is `{message}`, expected `role` and `content`"),
            ));
        }
        let Some(last) = messages.last() else {
            return Err(Error::of_row(RowErrorKind::Empty, "the conversation has no messages"));
        };
        if !options.continue_final_message {
            return self.render_as_is(messages, options);
        }
        let (last, text) = continued(last)?;
        let mut messages = messages.to_vec();
        messages.pop();
        messages.push(last);
        let rendered = self.render_as_is(&messages, options)?;
        let at = rendered.rfind(CONTINUE_TAG.trim_end());
        let Some(at) = at.filter(|_| rendered.contains(text.trim())) else {
            return Err(Error::of_row(
                RowErrorKind::Chat,
                "the last message cannot be continued: the chat template does not show all of it",
            )
            .at(&self.place));
        };
        let kept = &rendered[..at];
        // A template that strips the space after the tag also strips spaces after the message.
        let whole = rendered[at..].starts_with(CONTINUE_TAG);
        Ok(if whole { kept } else { kept.trim_end() }.to_string())
    }

    fn render_as_is(&self, messages: &[Value], options: &ChatOptions) -> Result<String> {
        let mut variables = BTreeMap::from([
            ("tools", jinja::value(&Value::Null)),
            ("documents", jinja::value(&Value::Null)),
        ]);
        for (name, value) in self.special_tokens.iter().chain(&options.extra) {
            variables.insert(name, jinja::value(value));
        }
        variables.insert("messages", jinja::value(&Value::from(messages)));
        variables.insert("add_generation_prompt", options.add_generation_prompt.into());
        guarded(ErrorKind::Data, "the conversation", || {
            self.template.render(variables).map_err(|e| failed(e, &self.place, ErrorKind::Data))
        })
        .map_err(|e| e.row(RowErrorKind::Chat))
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("place", &self.place).finish_non_exhaustive()
    }
}

impl AutoTokenizer {
    /// Whether the files have a chat template.
    pub fn has_chat_template(&self) -> bool {
        !self.chat_templates.named.is_empty()
    }

    /// The source of the only chat template of the files; `None` without one, and for named templates.
    pub fn only_chat_template(&self) -> Option<&str> {
        match self.chat_templates.named.as_slice() {
            [(name, source)] if name.is_empty() => Some(source),
            _ => None,
        }
    }

    /// Whether the files have a chat template of this name.
    pub fn has_chat_template_named(&self, wanted: &str) -> bool {
        let named = &self.chat_templates.named;
        named.iter().any(|(name, _)| !name.is_empty() && name == wanted)
    }

    /// The chat template of the files, or `wanted`: the name of a template, or a Jinja template. With `tools`, a
    /// template named `tool_use` is preferred.
    ///
    /// # Errors
    /// `Config` when the files have no template, or several without a default; `Model` (`Config` for `wanted`) when it
    /// does not compile.
    pub fn chat_template(&self, wanted: Option<&str>, tools: bool) -> Result<ChatTemplate> {
        let given = wanted.filter(|wanted| !self.has_chat_template_named(wanted));
        let (place, source, kind) = match given {
            Some(source) => ("the option `chat_template`".to_string(), source, ErrorKind::Config),
            None => self.chat_templates.choose(wanted, tools)?,
        };
        ChatTemplate::new(place, source, self.special_tokens_map(), kind)
    }

    /// Renders a conversation with the template of the files. To render many, get the
    /// [`chat_template`](Self::chat_template) once.
    ///
    /// # Errors
    /// As [`chat_template`](Self::chat_template) and [`ChatTemplate::render`].
    pub fn apply_chat_template(&self, messages: &[Value], options: &ChatOptions) -> Result<String> {
        let tools = options.extra.get("tools").is_some_and(|tools| !tools.is_null());
        self.chat_template(None, tools)?.render(messages, options)
    }
}

/// A message with the tag appended to its text, and the text without the tag.
fn continued(message: &Value) -> Result<(Value, String)> {
    let mut message = message.clone();
    let text = match &mut message["content"] {
        Value::Array(blocks) => blocks.iter_mut().rev().find_map(|block| block.get_mut("text")),
        content => Some(content),
    };
    let Some(Value::String(text)) = text else {
        let message = "the last message has no text to continue";
        return Err(Error::of_row(RowErrorKind::Chat, message));
    };
    let before = text.clone();
    text.push_str(CONTINUE_TAG);
    Ok((message, before))
}

/// Converts an error of the template. `kind` is used unless a function is missing.
fn failed(error: minijinja::Error, place: &str, kind: ErrorKind) -> Error {
    use minijinja::ErrorKind as Jinja;
    let line = error.line().map_or(String::new(), |line| format!(": line {line}"));
    let place = format!("{place}{line}");
    if let Some(message) = jinja::raised(&error) {
        let message = format!("the chat template says: {message}");
        return Error::new(kind, message).row(RowErrorKind::Chat).at(place);
    }
    let kind = match error.kind() {
        Jinja::UnknownFilter
        | Jinja::UnknownFunction
        | Jinja::UnknownMethod
        | Jinja::UnknownTest => ErrorKind::Unsupported,
        _ => kind,
    };
    if error.kind() == Jinja::OutOfFuel {
        let what = error.detail().unwrap_or("it runs too many instructions");
        let message = format!("the chat template exceeds the limits for this conversation: {what}");
        return Error::new(kind, message)
            .row(RowErrorKind::Chat)
            .at(place)
            .hint("set `chat_template`, or use a model with another template");
    }
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let message = format!("chat template: {what}");
    Error::new(kind, message).row(RowErrorKind::Chat).at(place).source(error)
}
