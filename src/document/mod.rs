//! A YAML or JSON text as a tree in which every key and value knows its place, its check against a JSON
//! Schema, and the problems that are shown with lines of the text. Not here: what the keys mean (`crate::tasks`,
//! `crate::config`).

pub(crate) mod check;
mod cursor;
mod diagnostics;
pub(crate) mod node;
mod values;

pub use cursor::Cursor;
pub use diagnostics::{Diagnostic, Diagnostics};
pub(crate) use diagnostics::{Span, nearest};
pub(crate) use node::{Data, Entry, Node, plain_scalar};
pub(crate) use values::written_in_several_ways;
pub use values::{ColumnOr, StringOrList, TokenIds, TopK};
