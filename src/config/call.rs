//! A model step written as a function call in SQL: `embed(text, 'minilm', options => '{…}')`. Its options are those of
//! the task in a pipeline file, checked by the same schema and rules. Not here: the functions (`crate::sql`). Entry:
//! [`call`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::SCHEMA;
use super::pipeline::{ModelSpec, TaskStep};
use super::raw::{RawModel, RawStep};
use super::resolve::Resolver;
use crate::document::check;
use crate::document::{Data, Entry, Node, node};
use crate::document::{Diagnostic, Diagnostics, Span};

/// A function call as written.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The function's name, for messages.
    pub function: &'a str,
    /// The id of its task.
    pub task_id: &'a str,
    /// The arguments as the task's `input` key.
    pub input: &'a Value,
    /// The model's name.
    pub model: &'a str,
    /// The options, a JSON object.
    pub options: Option<&'a str>,
}

/// The keys of a step that a call does not accept as options, with the reason.
const GIVEN: [(&str, &str); 3] = [
    ("model", "the model is a separate argument"),
    ("input", "the first arguments are the input"),
    ("output", "name the column with `AS`"),
];

/// Resolves a call to a step, with the columns of [`Call::input`]. `models` are the known aliases, and `dir` is the base
/// of relative paths.
///
/// # Errors
/// All problems of the model's name and of the options at once.
pub fn call(
    call: &Call<'_>,
    models: &BTreeMap<String, ModelSpec>,
    dir: &Path,
) -> Result<TaskStep, Diagnostics> {
    // The text that problems point into. The planner checks the arguments before the model.
    let before = format!("{}(…, '", call.function);
    let model = Span { text: 0, start: before.len(), end: before.len() + call.model.len() };
    let (text, options_start) = match call.options {
        None => (format!("{before}{}')", call.model), 0),
        Some(options) => {
            let start = format!("{before}{}', options => '", call.model);
            (format!("{start}{options}')"), start.len())
        }
    };
    let mut report = Diagnostics::new("SQL", text);
    let options = match call.options {
        None => Some(Node::new(model, Data::Map(Vec::new()))),
        Some(text) => node::parse(text, 0, options_start, &mut report),
    };
    let Some(options) = options else { return Err(report) };
    let Some(step) = step(call, options, model, &mut report) else { return Err(report) };

    let root = Node::new(model, Data::Map(vec![step]));
    check::check_part(&SCHEMA, "RawStep", &GIVEN.map(|(name, _)| name), &root, &mut report);
    if !report.is_empty() {
        return Err(report);
    }
    let Ok(raw) = RawStep::deserialize(root.to_json()) else {
        report.push(
            Diagnostic::of_file("the call fits the schema, but not the types behind it")
                .hint("this is a bug of hfauto-pipe: please report it with the call"),
        );
        return Err(report);
    };
    let step = Resolver::call(&raw, &root, dir, models, &mut report);
    match step {
        Some(step) if report.is_empty() => Ok(step),
        _ => Err(report),
    }
}

/// Resolves the model of `CREATE MODEL name FROM 'repo' OPTIONS (…)`. `options` are the other keys of a model in a
/// pipeline file, and `dir` is the base of relative paths.
///
/// # Errors
/// All problems at once.
pub fn model(
    name: &str,
    repo: &str,
    options: &Map<String, Value>,
    dir: &Path,
) -> Result<ModelSpec, Diagnostics> {
    let text = format!("CREATE MODEL {name} FROM '{repo}'");
    let span = Span { text: 0, start: 0, end: text.len() };
    let mut report = Diagnostics::new("SQL", text);
    let mut model = options.clone();
    model.insert("repo".to_owned(), repo.into());
    let models = json!({ name: model });
    let root = at(&json!({ "models": models }), span);
    let part = &root.entries()[0].value.entries()[0].value;
    check::check_part(&SCHEMA, "RawModel", &["repo"], part, &mut report);
    if !report.is_empty() {
        return Err(report);
    }
    let models = BTreeMap::<String, RawModel>::deserialize(&models).unwrap_or_default();
    let spec = Resolver::alias(&models, &root, dir, &mut report);
    match spec {
        Some(spec) if report.is_empty() => Ok(spec),
        _ => Err(report),
    }
}

/// The step as a tree of a pipeline file.
fn step(call: &Call<'_>, options: Node, model: Span, report: &mut Diagnostics) -> Option<Entry> {
    let Data::Map(mut entries) = options.data else {
        report.push(
            Diagnostic::new(options.span, "`options` is not a JSON object")
                .hint(r#"write them as `options => '{"name": value}'`"#),
        );
        return None;
    };
    for entry in &entries {
        if let Some((name, hint)) = GIVEN.iter().find(|(name, _)| *name == entry.name) {
            let message = format!("`{name}` is not an option of a call");
            report.push(Diagnostic::new(entry.span, message).hint(*hint));
        }
    }
    if !report.is_empty() {
        return None;
    }
    let given = |name: &str, value: &Value| {
        let value = at(value, model);
        Entry { name: name.to_owned(), span: model, value }
    };
    entries.push(given("model", &call.model.into()));
    entries.push(given("input", call.input));
    entries.push(given("output", &call.function.into()));
    let value = Node::new(options.span, Data::Map(entries));
    Some(Entry { name: call.task_id.to_owned(), span: model, value })
}

/// A value as a node at `span`.
fn at(value: &Value, span: Span) -> Node {
    let data = match value {
        Value::Null => Data::Null,
        Value::Bool(value) => Data::Bool(*value),
        Value::Number(value) => Data::Number(value.clone()),
        Value::String(text) => Data::Text(text.clone()),
        Value::Array(items) => Data::List(items.iter().map(|item| at(item, span)).collect()),
        Value::Object(map) => Data::Map(
            map.iter()
                .map(|(name, value)| Entry { name: name.clone(), span, value: at(value, span) })
                .collect(),
        ),
    };
    Node::new(span, data)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::nn::PoolingMode;
    use crate::tasks::{FeatureExtraction, Pooling};

    fn embed(model: &str, options: Option<&str>) -> Result<TaskStep, Diagnostics> {
        let spec = ModelSpec::of_repo("org/name");
        let models = BTreeMap::from([("minilm".to_owned(), spec)]);
        let input = json!("text");
        let task_id = "feature-extraction";
        let call = Call { function: "embed", task_id, input: &input, model, options };
        super::call(&call, &models, Path::new("/nowhere"))
    }

    #[test]
    fn options_are_those_of_the_task() {
        let step = embed("minilm", Some(r#"{"pooling": "cls", "max_length": 9}"#)).unwrap();
        assert_eq!((step.model.repo.as_str(), step.max_length), ("org/name", Some(9)));
        let options: &FeatureExtraction = step.options().unwrap();
        let cls = Pooling::Mode(PoolingMode::Cls);
        assert_eq!((options.input.as_str(), options.pooling), ("text", Some(cls)));
    }

    #[test]
    fn problems_are_shown_in_the_call() {
        let shown = |model, options| embed(model, options).unwrap_err().to_string();
        let text = shown("minilm", Some(r#"{"poolin": "cls", "normalize": 1}"#));
        assert!(text.contains("unknown key `poolin` in `feature-extraction`"), "{text}");
        assert!(text.contains("`feature-extraction.normalize`: expected true or false"), "{text}");
        assert!(text.contains("SQL:1:33") && text.contains("did you mean `pooling`"), "{text}");
        let slip = shown("minilm", Some(r#"{"xyz": 1}"#));
        assert!(slip.contains("valid keys: "), "{slip}");
        assert!(!slip.contains("model, input"), "{slip}");
        assert!(shown("minilm", Some("[1]")).contains("`options` is not a JSON object"));
        assert!(shown("minilm", Some(r#"{"model": "a"}"#)).contains("a separate argument"));
        assert!(
            shown("minilm", Some(r#"{"prompt": "a", "prompt_name": "b"}"#)).contains("exclude")
        );
        let slip = shown("miniln", None);
        assert!(slip.contains("SQL:1:11") && slip.contains("did you mean `minilm`"), "{slip}");
    }
}
