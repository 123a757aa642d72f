//! `--set a.b=c`: overrides of single keys. They apply before interpolation and checks: an override is checked like the
//! file. Entry: [`apply`].

use crate::document::{Data, Entry, Node, node};
use crate::document::{Diagnostic, Diagnostics, Span};

/// Applies the overrides in order. A path consists of keys and, for lists, indexes from 0:
/// `steps.0.feature-extraction.pooling`. The value is YAML. Missing mappings along the path are created; the check of
/// the whole tree reports unknown keys.
pub(crate) fn apply(root: &mut Node, overrides: &[(String, String)], report: &mut Diagnostics) {
    for (path, value) in overrides {
        let (text, offset) = report.add_override(&format!("{path}={value}"));
        if path.matches('.').count() >= node::MAX_DEPTH {
            let span = Span { text, start: offset, end: offset + path.len() };
            let message = format!("a path of `--set` has at most {} parts", node::MAX_DEPTH);
            report.push(Diagnostic::new(span, message));
            continue;
        }
        let span = |start, end| Span { text, start: offset + start, end: offset + end };
        let value_offset = offset + path.len() + "=".len();
        let Some(mut value) = node::parse(value, text, value_offset, report) else {
            continue;
        };
        if matches!(value.data, Data::Null) && value.span.start == value.span.end {
            value.span = span(0, path.len());
        }
        if let Err(problem) = set(root, path, 0, value, span) {
            report.push(problem);
        }
    }
}

fn set(
    node: &mut Node,
    path: &str,
    start: usize,
    value: Node,
    span: impl Fn(usize, usize) -> Span + Copy,
) -> Result<(), Diagnostic> {
    let end = path[start..].find('.').map_or(path.len(), |dot| start + dot);
    let name = &path[start..end];
    let here = span(start, end);
    let parent = if start == 0 { "the pipeline" } else { &path[..start - 1] };
    if name.is_empty() {
        return Err(Diagnostic::new(here, "a part of the path is empty")
            .hint("write `--set key.key=value`, such as `--set source.limit=10`"));
    }
    if matches!(node.data, Data::Null) {
        *node = Node::new(here, Data::Map(Vec::new()));
    }
    let next = match &mut node.data {
        Data::Map(entries) => {
            let at = entries.iter().position(|entry| entry.name == name).unwrap_or(entries.len());
            if at == entries.len() {
                let value = Node::new(here, Data::Null);
                entries.push(Entry { name: name.to_owned(), span: here, value });
            }
            &mut entries[at].value
        }
        Data::List(items) => {
            let count = items.len();
            let item = name.parse().ok().and_then(|index: usize| items.get_mut(index));
            item.ok_or_else(|| {
                let has = if count == 1 { "1 item".to_owned() } else { format!("{count} items") };
                Diagnostic::new(
                    here,
                    format!("`{parent}` is a list of {has}, it has no item `{name}`"),
                )
                .hint("items are counted from 0")
            })?
        }
        Data::Unknown => return Ok(()),
        Data::Bool(_) | Data::Number(_) | Data::Text(_) => {
            let message = format!("`{parent}` is a single value and has no key `{name}`");
            return Err(Diagnostic::new(here, message));
        }
        Data::Null => return Ok(()),
    };
    if end == path.len() {
        *next = value;
        return Ok(());
    }
    set(next, path, end + 1, value, span)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(text: &str, overrides: &[(&str, &str)]) -> (Value, String) {
        let mut report = Diagnostics::new("t.yaml", text);
        let mut root = node::parse(text, 0, 0, &mut report).unwrap();
        let overrides: Vec<(String, String)> =
            overrides.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        apply(&mut root, &overrides, &mut report);
        (root.to_json(), report.to_string())
    }

    #[test]
    fn sets_makes_and_replaces() {
        let check = |text: &str, overrides: &[(&str, &str)], expected: Value| {
            assert_eq!(run(text, overrides), (expected, String::new()), "{text} {overrides:?}");
        };
        check("a: {b: 1}", &[("a.b", "2")], json!({"a": {"b": 2}}));
        check("a: {b: 1}", &[("a.c", "'2'")], json!({"a": {"b": 1, "c": "2"}}));
        check("a: 1", &[("b.c.d", "[x, 1]")], json!({"a": 1, "b": {"c": {"d": ["x", 1]}}}));
        check("a: [{b: 1}, {b: 2}]", &[("a.1.b", "3")], json!({"a": [{"b": 1}, {"b": 3}]}));
        check("a: 1", &[("a", "2"), ("a", "3")], json!({"a": 3}));
        check("a: 1", &[("a", "")], json!({"a": null}));
        check("", &[("a.b", "x = 'y'")], json!({"a": {"b": "x = 'y'"}}));
        check("a:\n", &[("a.b", "1")], json!({"a": {"b": 1}}));
    }

    #[test]
    fn says_which_override_is_wrong() {
        let check = |text: &str, key: &str, value: &str, message: &str| {
            let (_, report) = run(text, &[(key, value)]);
            let start = format!("error: {message}");
            assert!(report.starts_with(&start), "{report}");
            assert!(report.contains(&format!(" | --set {key}={value}\n")), "{report}");
        };
        check("a: [1]", "a.1", "2", "`a` is a list of 1 item, it has no item `1`");
        check("a: [1]", "a.b", "2", "`a` is a list of 1 item, it has no item `b`");
        check("a: text", "a.b.c", "2", "`a` is a single value and has no key `b`");
        check("a: 1", "", "2", "a part of the path is empty");
        check("a: 1", "a..b", "2", "a part of the path is empty");
        check("a: {}", "a..b", "2", "a part of the path is empty");
        check("a: 1", "a", "[1", "not valid YAML: ");
    }
}
