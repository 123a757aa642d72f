//! A place in a tree: where a value and its key are written, for problems of what they mean.

use super::diagnostics::{Span, nearest};
use super::node::Node;

/// A place in the tree beside a raw value, to point at. A key that is not written points at the
/// mapping that could hold it.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    node: Option<&'a Node>,
    /// The value, or what stands for it.
    pub(crate) value: Span,
    /// Its key, or the value itself in lists.
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
            // One value may stand for a list of one.
            None => self,
        }
    }

    /// `value` as it is written: with `${VAR}`, not the variable's value.
    pub(crate) fn shown<'t>(self, value: &'t str) -> &'t str
    where
        'a: 't,
    {
        self.node.and_then(|node| node.written.as_deref()).unwrap_or(value)
    }

    /// The nearest name, unless that would tell something of a variable's value.
    pub(crate) fn nearest(self, value: &str, names: &[String]) -> Option<String> {
        let written = self.node.is_some_and(|node| node.written.is_some());
        let names = names.iter().map(String::as_str);
        if written { None } else { nearest(value, names).map(str::to_owned) }
    }
}
