//! Jinja as transformers sets it up for chat templates.
//!
//! # Source
//! `_compile_jinja_template` of `transformers.utils.chat_template_utils`.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};

use super::python::{self, Dumps};

/// An environment with what chat templates may call.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(format);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", string);
    environment.add_filter("title", |text: String| python::jinja_title(&text));
    // Halves go to the even neighbour in Python, and not here: better refused than wrong.
    environment.remove_filter("round");
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// A template as minijinja understands it like Jinja; no line is added or taken away.
///
/// Line ends are those of Unix. `{% generation %}` blocks, which mark what an assistant said and are of use
/// in training only, become blocks that minijinja knows, with a scope of their own as well.
pub(super) fn prepared(source: &str) -> String {
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

/// The message that the template itself gave to `raise_exception`.
pub(super) fn raised(error: &Error) -> Option<&str> {
    error.detail()?.strip_prefix(RAISED)
}

/// Marks the errors of `raise_exception`; no message of the library begins like this.
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

/// Prints lists, maps and numbers as Python does; the library prints texts in double quotes.
fn format(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    if looks_alike(value) {
        minijinja::escape_formatter(out, state, value)
    } else {
        out.write_str(&python::str(value)).map_err(Error::from)
    }
}

fn string(value: Value) -> Value {
    if value.as_str().is_some() { value } else { Value::from(python::str(&value)) }
}

/// Whether the library and Python agree on the looks of a value.
fn looks_alike(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => false,
        ValueKind::Number => value.is_integer(),
        _ => true,
    }
}

/// `json.dumps`, without HTML escapes, letters as they are.
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
        _ => Some(usize::try_from(indent).map_err(|_| wrong("has an `indent` that is no number"))?),
    };
    let separators = match separators.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        _ => {
            let parts: Vec<Value> = separators.try_iter()?.collect();
            let [between, colon] = parts.as_slice() else {
                return Err(wrong("has `separators` that are not two texts"));
            };
            Some((between.to_string(), colon.to_string()))
        }
    };
    let dumps =
        Dumps { ensure_ascii: ascii.is_true(), indent, separators, sort_keys: sort.is_true() };
    Ok(Value::from(dumps.to_string(&value)?))
}
