//! Parses a YAML or JSON text into a tree with the position of every key and value. Checks the tree against a
//! JSON Schema, and shows problems with the lines of the text. Not here: the meaning of the keys
//! (`crate::tasks`, `crate::config`).

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
