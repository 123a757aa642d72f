//! Tables of Delta Lake: what a log says about a table, and the text of a new version. The files of a table are read like
//! all other Parquet files. Not here: how files and versions are written (`crate::sink`), and when (`crate::job`).
//!
//! ```text
//! table/_delta_log/00000000000000000000.json              a version: one action a line
//! table/_delta_log/00000000000000000010.checkpoint.parquet  all actions up to a version, in one file
//! table/lang=en/part-….parquet                            a file that a version added
//! ```
//!
//! A table is what its last version, or the one asked for, says: files that a later version removed, and files that
//! belong to no version, are not read. What would make rows wrong if it were ignored (deletion vectors, column mapping
//! and all features that are not listed in `protocol`) is refused by name.
//!
//! The log is read and written here rather than by `deltalake-core`: its features of serde, arrow-schema and uuid would
//! have everything that is built without it built a second time, and its share of the work is these few files.

mod actions;
mod checkpoint;
mod columns;
mod commit;
mod listed;
mod log;
mod protocol;
mod snapshot;

pub(crate) use self::commit::{Commit, NewFile, Operation, check_columns, new_table, next};
pub(super) use self::listed::{Declared, list};
pub(super) use self::log::is_table;
pub(crate) use self::snapshot::Snapshot;
