//! The position of a value and of its key, for reporting problems with the meaning of a value.

use super::diagnostics::{Span, nearest};
use super::node::Node;

/// The position in the tree that belongs to a raw value. A missing key has the position of its mapping.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    node: Option<&'a Node>,
    /// The value, or the mapping that lacks it.
    pub(crate) value: Span,
    /// Its key; in a list, the value itself.
    pub(crate) key: Span,
}

impl<'a> Cursor<'a> {
    /// The whole tree.
    pub(crate) fn root(node: &'a Node) -> Self {
        Self { node: Some(node), value: node.span, key: node.span }
    }

    pub(crate) fn key(self, name: &str) -> Self {
        match self.node.and_then(|node| node.entry(name)) {
            Some(entry) => {
                Self { node: Some(&entry.value), value: entry.value.span, key: entry.span }
            }
            None => Self { node: None, ..self },
        }
    }

    pub(crate) fn item(self, index: usize) -> Self {
        let Some(node) = self.node else { return self };
        match node.items().get(index) {
            Some(item) => Self { node: Some(item), value: item.span, key: item.span },
            // A single value may replace a list of one item.
            None => self,
        }
    }

    /// `value` as written: with `${VAR}` instead of the variable's value.
    pub(crate) fn shown<'t>(self, value: &'t str) -> &'t str
    where
        'a: 't,
    {
        self.node.and_then(|node| node.written.as_deref()).unwrap_or(value)
    }

    /// The nearest name, unless it would reveal a part of a variable's value.
    pub(crate) fn nearest(self, value: &str, names: &[String]) -> Option<String> {
        let written = self.node.is_some_and(|node| node.written.is_some());
        let names = names.iter().map(String::as_str);
        if written { None } else { nearest(value, names).map(str::to_owned) }
    }
}
