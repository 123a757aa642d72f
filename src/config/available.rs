//! What version 1 of the file format knows and this version of the program does not do yet: refused
//! by name, never ignored. A feature that arrives takes its row out. Entry: [`check`].

use super::diagnostics::{Diagnostic, Diagnostics};
use super::node::{Data, Entry, Node};

/// A key, or some of its values, that come later.
struct Later {
    /// Where; `*` is any key or item.
    path: &'static [&'static str],
    /// Which of its values are refused.
    refused: fn(&str) -> bool,
    /// What is said; `{}` is the value, and then the value is pointed at instead of the key.
    message: &'static str,
    hint: &'static str,
}

const LATER: &[Later] = &[
    Later {
        path: &["models", "*", "dtype"],
        refused: |dtype| matches!(dtype, "f16" | "bf16"),
        message: "computing in `{}` is not available on a CPU in this version",
        hint: "use `f32`, `int8` or `auto`: f16 and bf16 checkpoints are widened",
    },
    Later {
        path: &["models", "*", "device"],
        refused: |device| device == "cuda" || device.starts_with("cuda:"),
        message: "the device `{}` is not available in this version",
        hint: "use `cpu` or `auto`",
    },
];

/// Reports what `root` asks for and this version does not do.
pub(crate) fn check(root: &Node, report: &mut Diagnostics) {
    for later in LATER {
        visit(root, None, later.path, &mut |node, key| {
            let value = match &node.data {
                Data::Text(text) => text.clone(),
                _ => node.shown(),
            };
            if !(later.refused)(&value) {
                return;
            }
            let at_value = later.message.contains("{}");
            let span = key.filter(|_| !at_value).map_or(node.span, |entry| entry.span);
            let message = later.message.replace("{}", &node.shown());
            report.push(Diagnostic::new(span, message).hint(later.hint));
        });
    }
}

/// Calls `found` for every value at `path`, with the entry that holds it.
fn visit<'a>(
    node: &'a Node,
    key: Option<&'a Entry>,
    path: &[&str],
    found: &mut dyn FnMut(&'a Node, Option<&'a Entry>),
) {
    let Some((name, rest)) = path.split_first() else {
        return found(node, key);
    };
    for entry in node.entries() {
        if *name == "*" || *name == entry.name {
            visit(&entry.value, Some(entry), rest, found);
        }
    }
    if *name == "*" {
        for item in node.items() {
            visit(item, None, rest, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    #[test]
    fn every_row_names_a_key_of_the_format() {
        let schema = schema();
        let follow = |at: &serde_json::Value| {
            let mut at = at.clone();
            loop {
                let inner = at["anyOf"].as_array().map_or(&at, |options| &options[0]).clone();
                let Some(name) = inner["$ref"].as_str() else { return inner };
                at = schema.pointer(&name[1..]).unwrap().clone();
            }
        };
        for later in LATER {
            let mut at = schema.clone();
            for name in later.path {
                let here = follow(&at);
                at = match *name {
                    "*" if here["items"].is_object() => here["items"].clone(),
                    "*" => here["additionalProperties"].clone(),
                    name if here["oneOf"].is_array() => here["oneOf"]
                        .as_array()
                        .and_then(|options| options.iter().find(|step| step["required"][0] == name))
                        .map(|step| step["properties"][name].clone())
                        .unwrap_or_default(),
                    name => here["properties"][name].clone(),
                };
                assert!(at.is_object(), "{:?} at {name}", later.path);
            }
        }
    }
}
