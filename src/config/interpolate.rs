//! Interpolates `${VAR}`, `${VAR:-default}` and `${VAR:?message}` in the values of a pipeline; `$${` is a literal `${`.
//! Works on parsed scalars, not on YAML text: a variable cannot add keys. Messages never contain the value of a variable,
//! which may be a secret. Entry: [`interpolate`].

use crate::document::{Data, Node, plain_scalar};
use crate::document::{Diagnostic, Diagnostics, Span};
use crate::secret;

/// The nesting depth of defaults that contain variables with defaults.
const MAX_DEPTH: usize = 8;

/// Interpolates variables in every scalar below `node`.
///
/// The new text of an unquoted scalar determines its type, as in YAML: `limit: ${N}` is a number.
pub(crate) fn interpolate(
    node: &mut Node,
    variables: &dyn Fn(&str) -> Option<String>,
    report: &mut Diagnostics,
) {
    let span = node.span;
    match &mut node.data {
        Data::List(items) => {
            items.iter_mut().for_each(|item| interpolate(item, variables, report));
        }
        Data::Map(entries) => {
            entries.iter_mut().for_each(|entry| interpolate(&mut entry.value, variables, report));
        }
        Data::Text(text) if text.contains("${") => match expand(text, variables, 0) {
            Ok(value) => {
                let written = std::mem::take(text);
                node.data = if node.plain { plain_scalar(&value) } else { Data::Text(value) };
                node.written = Some(written);
            }
            Err(problem) => {
                report.push(problem.at(span));
                node.data = Data::Unknown;
            }
        },
        _ => {}
    }
}

struct Problem {
    message: String,
    hint: String,
}

impl Problem {
    fn at(self, span: Span) -> Diagnostic {
        Diagnostic::new(span, self.message).hint(self.hint)
    }

    fn malformed(written: &str) -> Self {
        Self {
            message: format!("`{written}` is not a variable"),
            hint:
                "write `${NAME}`, `${NAME:-default}` or `${NAME:?message}`; `$${` is a literal `${`"
                    .to_owned(),
        }
    }
}

fn expand(
    text: &str,
    variables: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<String, Problem> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let before = &rest[..start];
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(before);
        let inside = &rest[start + 2..];
        let Some(end) = closing_brace(inside) else {
            return Err(Problem::malformed(&rest[start..]));
        };
        expanded.push_str(&variable(&inside[..end], variables, depth)?);
        rest = &inside[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// The position of the closing brace of a variable whose contents start `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 0;
    let mut previous = ' ';
    for (at, character) in text.char_indices() {
        match character {
            '{' if previous == '$' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
        previous = character;
    }
    None
}

fn variable(
    inside: &str,
    variables: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<String, Problem> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let length = inside.bytes().take_while(|byte| word(*byte)).count();
    let (name, operator) = inside.split_at(length);
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(Problem::malformed(&format!("${{{inside}}}")));
    }
    let value = variables(name);
    if let Some(value) = &value {
        secret::remember(name, value);
    }
    if operator.is_empty() {
        return value.ok_or_else(|| Problem {
            message: format!("the variable `{name}` is not set"),
            hint: format!("set it, or give a default: `${{{name}:-default}}`"),
        });
    }
    // As in a shell, the forms with a colon treat an empty value as unset.
    let value = value.filter(|value| !value.is_empty());
    if let Some(default) = operator.strip_prefix(":-") {
        return match value {
            Some(value) => Ok(value),
            None if depth >= MAX_DEPTH => Err(Problem {
                message: format!("the default of `{name}` is nested too deeply"),
                hint: format!("at most {MAX_DEPTH} defaults may be nested"),
            }),
            None => expand(default, variables, depth + 1),
        };
    }
    if let Some(message) = operator.strip_prefix(":?") {
        let message = if message.is_empty() { "it is not set, or empty" } else { message };
        return value.ok_or_else(|| Problem {
            message: format!("the variable `{name}` is required: {message}"),
            hint: format!("set `{name}`"),
        });
    }
    Err(Problem::malformed(&format!("${{{inside}}}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::node;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "N" => Some("10".to_owned()),
            "LANG" => Some("en".to_owned()),
            "EMPTY" => Some(String::new()),
            "EVIL" => Some("x\nother: ${N}".to_owned()),
            "SECRET" => Some("hunter2".to_owned()),
            _ => None,
        }
    }

    fn run(text: &str) -> (serde_json::Value, String) {
        let mut report = Diagnostics::new("t.yaml", text);
        let mut node = node::parse(text, 0, 0, &mut report).unwrap();
        interpolate(&mut node, &lookup, &mut report);
        (node.to_json(), report.to_string())
    }

    #[test]
    fn puts_values_in_and_types_plain_scalars_again() {
        let check = |text: &str, expected: serde_json::Value| {
            assert_eq!(run(text), (expected, String::new()), "{text}");
        };
        check("a: ${N}", json!({"a": 10}));
        check("a: \"${N}\"", json!({"a": "10"}));
        check("a: '${N}'", json!({"a": "10"}));
        check("a: |\n  ${N}\n", json!({"a": "10\n"}));
        check("a: x${N}/${LANG}", json!({"a": "x10/en"}));
        check("a: ${NONE:-true}", json!({"a": true}));
        check("a: ${NONE:-}", json!({"a": null}));
        check("a: ${EMPTY:-7}", json!({"a": 7}));
        check("a: ${EMPTY}", json!({"a": null}));
        check("a: ${NONE:-${ALSO_NONE:-${LANG}}}", json!({"a": "en"}));
        check("a: ${N:?is needed}", json!({"a": 10}));
        check("a: $${N} costs $5 and $$", json!({"a": "${N} costs $5 and $$"}));
        check("a: $${", json!({"a": "${"}));
        check("a: ${EVIL}", json!({"a": "x\nother: ${N}"}));
        check("[a, {b: ['${LANG}']}]", json!(["a", {"b": ["en"]}]));
        check("${N}: 1", json!({"${N}": 1}));
    }

    #[test]
    fn reports_every_problem_and_no_value() {
        let text = "a: ${NONE}\nb: ${NONE:?set the data folder}\nc: ${EMPTY:?}\nd: ${N\ne: ${}\n\
                    f: ${N-1}\ng: ${1A}\nh: ${SECRET}${NONE}\n";
        let (_, report) = run(text);
        for expected in [
            "the variable `NONE` is not set\n --> t.yaml:1:4",
            "the variable `NONE` is required: set the data folder\n --> t.yaml:2:4",
            "the variable `EMPTY` is required: it is not set, or empty\n --> t.yaml:3:4",
            "`${N` is not a variable\n --> t.yaml:4:4",
            "`${}` is not a variable\n --> t.yaml:5:4",
            "`${N-1}` is not a variable\n --> t.yaml:6:4",
            "`${1A}` is not a variable\n --> t.yaml:7:4",
            "the variable `NONE` is not set\n --> t.yaml:8:4",
        ] {
            assert!(report.contains(expected), "{expected}\n\n{report}");
        }
        assert!(!report.contains("hunter2"), "{report}");
        let deep = format!("a: {}x{}", "${A:-".repeat(5000), "}".repeat(5000));
        assert!(run(&deep).1.contains("nested too deeply"));
    }
}
