//! Checks a tree against the JSON Schema of the raw types. Reports every unknown key, wrong type, invalid choice and
//! missing key with its span. The schema is derived from the types, so a tree that passes also deserialises. Not here:
//! meaning (`resolve`). Entry: [`check`].
//!
//! Supports only the keywords that the raw types produce: `$ref`, `type`, `properties`, `required`,
//! `additionalProperties`, `items`, `minItems`, `enum`, `const`, `minimum`, `maximum`, `anyOf`, `oneOf`.

use std::collections::HashSet;

use serde_json::Value;

use super::diagnostics::{Diagnostic, Diagnostics, Span, nearest};
use super::node::{Data, Entry, Node};

/// Reports every violation of `schema` in `root`.
pub(crate) fn check(schema: &Value, root: &Node, report: &mut Diagnostics) {
    let mut checker = Checker { schema, hidden: &[], report };
    let start = root.entries().first().map_or(root.span, |entry| entry.span);
    checker.node(schema, root, &Place { path: String::new(), owner: start });
}

/// Reports every violation of the type `name` of `schema` in `root`. Never suggests the keys in `hidden`.
pub(crate) fn check_part(
    schema: &Value,
    name: &str,
    hidden: &[&str],
    root: &Node,
    report: &mut Diagnostics,
) {
    let mut checker = Checker { schema, hidden, report };
    let start = root.entries().first().map_or(root.span, |entry| entry.span);
    let place = Place { path: String::new(), owner: start };
    checker.node(&schema["$defs"][name], root, &place);
}

/// The position of the walk.
struct Place {
    /// The path for messages: `steps[0].feature-extraction`; empty for the whole file.
    path: String,
    /// The key that holds the mapping: a missing key is reported there.
    owner: Span,
}

impl Place {
    fn key(&self, entry: &Entry) -> Self {
        let path = match self.path.as_str() {
            "" => entry.name.clone(),
            path => format!("{path}.{}", entry.name),
        };
        Self { path, owner: entry.span }
    }

    fn item(&self, index: usize, node: &Node) -> Self {
        let owner = node.entries().first().map_or(node.span, |entry| entry.span);
        Self { path: format!("{}[{index}]", self.path), owner }
    }

    /// `source` in backticks, or "the pipeline".
    fn inside(&self) -> String {
        if self.path.is_empty() { "the pipeline".to_owned() } else { format!("`{}`", self.path) }
    }
}

struct Checker<'a> {
    schema: &'a Value,
    /// Keys that are valid, but that users do not write.
    hidden: &'a [&'a str],
    report: &'a mut Diagnostics,
}

impl<'a> Checker<'a> {
    fn node(&mut self, schema: &'a Value, node: &Node, place: &Place) {
        if matches!(node.data, Data::Unknown) {
            return;
        }
        let mut options = Vec::new();
        self.alternatives(schema, &mut options);
        if options.len() > 1 && options.iter().all(|option| tag(option).is_some()) {
            return self.tagged(&options, node, place);
        }
        let fitting: Vec<&Value> =
            options.iter().copied().filter(|option| accepts(option, node)).collect();
        let Some(first) = fitting.first() else {
            return self.wrong_type(&options, node, place);
        };
        if matches!(node.data, Data::Text(_) | Data::Null | Data::Bool(_)) {
            return self.choice(&fitting, node, place);
        }
        match &node.data {
            Data::Map(entries) => self.mapping(first, entries, place),
            Data::List(items) => {
                if first["minItems"].as_u64().is_some_and(|least| (items.len() as u64) < least) {
                    let message = format!("`{}` is empty", place.path);
                    self.report.push(Diagnostic::new(node.span, message));
                }
                for (index, item) in items.iter().enumerate() {
                    self.node(&first["items"], item, &place.item(index, item));
                }
            }
            _ => self.bounds(first, node, place),
        }
    }

    /// The schemas that a value may match, with references and alternatives resolved.
    fn alternatives(&self, schema: &'a Value, found: &mut Vec<&'a Value>) {
        if let Some(name) = schema["$ref"].as_str() {
            let target = self.schema.pointer(name.trim_start_matches('#'));
            return target.into_iter().for_each(|target| self.alternatives(target, found));
        }
        match schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
            Some(options) => options.iter().for_each(|option| self.alternatives(option, found)),
            None => found.push(schema),
        }
    }

    fn wrong_type(&mut self, options: &[&Value], node: &Node, place: &Place) {
        let mut expected: Vec<&str> = Vec::new();
        for kind in options.iter().flat_map(|option| kinds(option)) {
            let name = match kind {
                "null" => continue,
                kind => kind_name(kind),
            };
            if !expected.contains(&name) {
                expected.push(name);
            }
        }
        let found = found_name(node);
        let subject = if place.path.is_empty() { "the pipeline" } else { &place.path };
        let message = format!("`{subject}`: expected {}, found {found}", expected.join(" or "));
        let mut problem = Diagnostic::new(node.span, message);
        let wants = |name| expected.contains(&name);
        problem = match &node.data {
            Data::Number(_) | Data::Bool(_) if wants("a string") => {
                problem.hint("quote the value to make it a string")
            }
            Data::Text(_) if wants("true or false") => {
                problem.hint("write `true` or `false`, without quotes")
            }
            Data::Text(_) if wants("an integer") || wants("a number") => {
                problem.hint("write digits, without quotes and without `_`")
            }
            _ => problem,
        };
        let choices: Vec<&str> = options.iter().flat_map(|option| constants(option)).collect();
        self.report.push(problem.choices("valid values", choices));
    }

    /// Checks a scalar against the listed values, if there are any.
    fn choice(&mut self, options: &[&Value], node: &Node, place: &Place) {
        if options.iter().any(|option| option["enum"].is_null() && option["const"].is_null()) {
            return;
        }
        let value = node.to_json();
        let listed = |option: &&Value| match &option["enum"] {
            Value::Array(values) => values.contains(&value),
            _ => option["const"] == value,
        };
        if options.iter().any(listed) {
            return;
        }
        let choices: Vec<&str> = options.iter().flat_map(|option| constants(option)).collect();
        let message = format!("`{}`: unknown value `{}`", place.path, node.shown());
        // A suggestion would reveal a part of a variable's value.
        let near = value
            .as_str()
            .filter(|_| node.written.is_none())
            .and_then(|value| nearest(value, choices.iter().copied()));
        self.report.push(
            Diagnostic::new(node.span, message).nearest(near).choices("valid values", choices),
        );
    }

    fn bounds(&mut self, schema: &Value, node: &Node, place: &Place) {
        let Data::Number(number) = &node.data else { return };
        let Some(value) = number.as_f64() else { return };
        let shown = |bound: &Value| bound.to_string().trim_end_matches(".0").to_owned();
        let wrong = |relation: &str, bound: &Value| {
            let bound = shown(bound);
            let message =
                format!("`{}`: expected {relation} {bound}, found `{}`", place.path, node.shown());
            Diagnostic::new(node.span, message)
        };
        let (minimum, maximum) = (&schema["minimum"], &schema["maximum"]);
        if minimum.as_f64().is_some_and(|least| value < least) {
            self.report.push(wrong("at least", minimum));
        } else if maximum.as_f64().is_some_and(|most| value > most) {
            self.report.push(wrong("at most", maximum));
        }
    }

    fn mapping(&mut self, schema: &'a Value, entries: &[Entry], place: &Place) {
        let properties = schema["properties"].as_object();
        let hidden = self.hidden;
        let names = || {
            let names = properties.into_iter().flat_map(|map| map.keys().map(String::as_str));
            names.filter(|name| !hidden.contains(name))
        };
        let others = &schema["additionalProperties"];
        let written: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        for entry in entries {
            match properties.and_then(|map| map.get(&entry.name)) {
                Some(property) => self.node(property, &entry.value, &place.key(entry)),
                None if others == &Value::Bool(false) => {
                    // Beyond the limit, collecting more problems only costs time.
                    if self.report.is_full() {
                        self.report.leave_out();
                        continue;
                    }
                    let free = |name: &&str| !written.contains(name);
                    let near = nearest(&entry.name, names().filter(free));
                    self.report.push(
                        Diagnostic::new(
                            entry.span,
                            format!("unknown key `{}` in {}", entry.name, place.inside()),
                        )
                        .nearest(near)
                        .choices("valid keys", names()),
                    );
                }
                None if others.is_object() => {
                    self.node(others, &entry.value, &place.key(entry));
                }
                None => {}
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !written.contains(name) {
                let message = format!("missing key `{name}` in {}", place.inside());
                self.report.push(Diagnostic::new(place.owner, message));
            }
        }
    }

    /// Checks an externally tagged mapping: a step, whose one key is its task.
    fn tagged(&mut self, options: &[&'a Value], node: &Node, place: &Place) {
        let tasks: Vec<&str> = options.iter().filter_map(|option| tag(option)).collect();
        let Some(first) = node.entries().first() else {
            let message = format!(
                "`{}`: expected a mapping with one key, the task; found {}",
                place.path,
                found_name(node)
            );
            let problem = Diagnostic::new(node.span, message).choices("tasks", tasks);
            return self.report.push(problem);
        };
        let known = options.iter().find(|option| tag(option) == Some(first.name.as_str()));
        let Some(option) = known else {
            let near = nearest(&first.name, tasks.iter().copied());
            let message = format!("unknown task `{}` in {}", first.name, place.inside());
            let problem =
                Diagnostic::new(first.span, message).nearest(near).choices("tasks", tasks);
            return self.report.push(problem);
        };
        if let Some(second) = node.entries().get(1) {
            let message = format!(
                "a step has one key, its task, but this one has `{}` in addition to `{}`",
                second.name, first.name
            );
            let hint = if tasks.contains(&second.name.as_str()) {
                format!("start a new step: `- {}:`", second.name)
            } else {
                format!("indent `{}` below `{}`", second.name, first.name)
            };
            self.report.push(
                Diagnostic::new(second.span, message).hint(hint).related(first.span, "the task"),
            );
            if matches!(first.value.data, Data::Null) {
                return;
            }
        }
        self.node(&option["properties"][&first.name], &first.value, &place.key(first));
    }
}

/// The key of a variant of an externally tagged enum.
fn tag(schema: &Value) -> Option<&str> {
    let properties = schema["properties"].as_object()?;
    let required = schema["required"].as_array()?;
    let name = properties.keys().next()?;
    let only = properties.len() == 1 && required.len() == 1 && required[0] == name.as_str();
    only.then_some(name)
}

/// The JSON types that a schema allows; an empty list allows any.
fn kinds(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ if schema["const"].is_string() || schema["enum"].is_array() => vec!["string"],
        _ => Vec::new(),
    }
}

fn constants(schema: &Value) -> Vec<&str> {
    let listed = schema["enum"].as_array().map_or(&[][..], Vec::as_slice);
    listed.iter().chain([&schema["const"]]).filter_map(Value::as_str).collect()
}

fn accepts(schema: &Value, node: &Node) -> bool {
    let kinds = kinds(schema);
    let any_of = |names: &[&str]| kinds.is_empty() || names.iter().any(|name| kinds.contains(name));
    match &node.data {
        Data::Null => any_of(&["null"]),
        Data::Bool(_) => any_of(&["boolean"]),
        Data::Number(number) if number.is_f64() => any_of(&["number"]),
        Data::Number(_) => any_of(&["integer", "number"]),
        Data::Text(_) => any_of(&["string"]),
        Data::List(_) => any_of(&["array"]),
        Data::Map(_) => any_of(&["object"]),
        Data::Unknown => true,
    }
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "boolean" => "true or false",
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string",
        "array" => "a list",
        _ => "a mapping",
    }
}

fn found_name(node: &Node) -> &'static str {
    match &node.data {
        Data::Null | Data::Unknown => "nothing",
        Data::Bool(_) => "a boolean",
        Data::Number(number) if number.is_f64() => "a number with a fraction",
        Data::Number(_) => "an integer",
        Data::Text(_) => "a string",
        Data::List(_) => "a list",
        Data::Map(_) => "a mapping",
    }
}
