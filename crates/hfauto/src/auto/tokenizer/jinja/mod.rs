//! Jinja, configured as transformers does for chat templates.
//!
//! Templates come with models, so a rendering has a budget of instructions (the engine's fuel) and of bytes read and
//! written ([`budget`]). Values know their size and depth ([`super::python`]). Our own versions replace the engine's
//! unbounded operations: operators in [`compile`], filters, functions and methods in [`filters`].
//!
//! # Source
//! `_compile_jinja_template` of `transformers.utils.chat_template_utils`.

mod budget;
mod compile;
mod filters;
mod operators;
mod python;

use minijinja::machinery::{Vm, make_string_output};
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

use self::budget::{charge, charge_times, with_budget};
use self::python::Dumps;
pub(super) use self::python::value;
use crate::limits;

/// A compiled template, which can be rendered many times.
pub(super) struct Template {
    environment: Environment<'static>,
    compiled: compile::Compiled,
}

impl Template {
    /// # Errors
    /// `SyntaxError`, with the line.
    pub(super) fn new(source: &str) -> Result<Self, Error> {
        let compiled = compile::compile("chat_template", &prepared(source), compile::WHITESPACE)?;
        Ok(Self { environment: environment(), compiled })
    }

    /// A template of a user, with the variables that it reads. White space is as in Jinja, and an undefined value is an error.
    ///
    /// # Errors
    /// `SyntaxError`, with the line.
    pub(super) fn strict(source: &str) -> Result<(Self, Vec<String>), Error> {
        let compiled = compile::compile("template", source, compile::JINJA_WHITESPACE)?;
        let mut environment = environment();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut variables = compile::variables(source)?;
        environment.globals().for_each(|(name, _)| {
            variables.remove(name);
        });
        Ok((Self { environment, compiled }, variables.into_iter().collect()))
    }

    /// Renders the template with `variables`.
    ///
    /// # Errors
    /// Errors of the template, and `OutOfFuel` when it exceeds the budget for these variables.
    pub(super) fn render<'a>(
        &self,
        variables: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<String, Error> {
        let variables: Vec<_> = variables.into_iter().collect();
        let weights = variables.iter().map(|(_, value)| python::size(value).weight);
        let weight = weights.fold(0, usize::saturating_add);
        let bytes = weight.saturating_mul(limits::CHAT_BYTES_PER_BYTE);
        let steps = (weight as u64).saturating_mul(limits::CHAT_STEPS_PER_BYTE);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(limits::CHAT_STEPS.saturating_add(steps)));
        let mut text = String::new();
        with_budget(limits::CHAT_BYTES.saturating_add(bytes), || {
            let Self { compiled, .. } = self;
            let variables = variables.into_iter().collect();
            let mut out = make_string_output(&mut text);
            Vm::new(&environment)
                .eval(
                    &compiled.instructions,
                    variables,
                    &compiled.blocks,
                    &mut out,
                    AutoEscape::None,
                )
                .map(drop)
        })?;
        Ok(text)
    }
}

/// An environment that behaves like Python's, with the engine's filters.
fn plain() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(format);
    environment
}

/// An environment with the functions that chat templates may call.
fn environment() -> Environment<'static> {
    let mut environment = plain();
    environment.set_recursion_limit(limits::CHAT_RECURSION);
    filters::add_to(&mut environment);
    operators::add_to(&mut environment);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", string);
    environment.add_filter("title", |text: String| -> Result<String, Error> {
        charge_times(3, text.len())?;
        Ok(python::jinja_title(&text))
    });
    // Python rounds halves to even, the engine does not: an error is better than a wrong number.
    environment.remove_filter("round");
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Rewrites a template where minijinja differs from Jinja, without changing line numbers.
///
/// Converts line ends to Unix. `{% generation %}` blocks mark the assistant's text for training; they become blocks
/// that minijinja supports, which have their own scope as well.
fn prepared(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag.trim_start_matches("{%").trim_end_matches("%}");
        match name.trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The message that the template passed to `raise_exception`.
pub(super) fn raised(error: &Error) -> Option<&str> {
    error.detail()?.strip_prefix(RAISED)
}

/// Marks the errors of `raise_exception`; no message of the library starts with it.
const RAISED: &str = "\u{0}raised: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let now = chrono::Local::now();
    std::fmt::write(&mut text, format_args!("{}", now.format(format))).map_err(|_| {
        let message = format!("`strftime_now` does not know the format `{format}`");
        Error::new(ErrorKind::InvalidOperation, message)
    })?;
    Ok(text)
}

/// Prints lists, maps and numbers as Python does; the library prints strings in double quotes.
fn format(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    if looks_alike(value) {
        let escapes = if state.auto_escape() == AutoEscape::None { 1 } else { 6 };
        charge_times(escapes, python::size(value).weight)?;
        minijinja::escape_formatter(out, state, value)
    } else {
        let text = python::str(value)?;
        charge(text.len())?;
        out.write_str(&text).map_err(Error::from)
    }
}

/// The text of a value in a concatenation.
fn shown(value: &Value) -> Result<String, Error> {
    if looks_alike(value) { Ok(value.to_string()) } else { python::str(value) }
}

fn string(value: Value) -> Result<Value, Error> {
    Ok(if value.as_str().is_some() { value } else { Value::from(python::str(&value)?) })
}

/// Whether the library and Python format a value alike.
fn looks_alike(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => false,
        ValueKind::Number => value.is_integer(),
        _ => true,
    }
}

/// `json.dumps` without HTML or Unicode escapes.
fn tojson(value: Value, positional: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("`tojson` {what}"));
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if positional.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let argument = |index: usize| -> Result<Value, Error> {
        let named: Option<Value> = options.get(names[index])?;
        Ok(named.or_else(|| positional.get(index).cloned()).unwrap_or_default())
    };
    let (ascii, indent, separators, sort) =
        (argument(0)?, argument(1)?, argument(2)?, argument(3)?);
    options.assert_all_used()?;
    let indent = match indent.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        _ => Some(
            usize::try_from(indent).map_err(|_| wrong("has an `indent` that is not a number"))?,
        ),
    };
    let separators = match separators.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        _ => {
            let parts: Vec<Value> = separators.try_iter()?.collect();
            let [between, colon] = parts.as_slice() else {
                return Err(wrong("has `separators` that are not two strings"));
            };
            Some((between.to_string(), colon.to_string()))
        }
    };
    let dumps =
        Dumps { ensure_ascii: ascii.is_true(), indent, separators, sort_keys: sort.is_true() };
    Ok(Value::from(dumps.to_string(&value)?))
}
