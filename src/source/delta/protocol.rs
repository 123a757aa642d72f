//! What tables may ask of readers and writers, and what of it is done here. Everything else is refused by name.

use serde_json::Value;

use super::actions::{Action, Metadata, Protocol};
use crate::error::{Error, ErrorKind, Result};

/// Features that change nothing for a reader, or that are checked where they matter: deletion vectors by file, column
/// mapping by `delta.columnMapping.mode`, V2 checkpoints by name.
const READ: [&str; 5] =
    ["columnMapping", "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"];

/// Features of tables that files can be added to; those that need values of their own are checked by their settings.
const WRITTEN: [&str; 12] = [
    "appendOnly",
    "changeDataFeed",
    "checkConstraints",
    "columnMapping",
    "deletionVectors",
    "domainMetadata",
    "generatedColumns",
    "identityColumns",
    "invariants",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

fn refused(kind: ErrorKind, table: &str, what: &str, hint: &str) -> Error {
    Error::new(kind, format!("the Delta table `{table}` {what}")).hint(hint.to_owned())
}

fn names(known: &[&str], features: Option<&Vec<String>>) -> Option<String> {
    features?.iter().find(|name| !known.contains(&name.as_str())).cloned()
}

/// Refuses tables whose rows cannot be read as they are meant.
///
/// # Errors
/// `Data` with the feature's name.
pub(super) fn check_read(table: &str, protocol: &Protocol, metadata: &Metadata) -> Result<()> {
    let refuse = |what: &str, hint: &str| Err(refused(ErrorKind::Data, table, what, hint));
    if protocol.min_reader_version > 3 {
        let version = protocol.min_reader_version;
        return refuse(&format!("needs a reader of version {version}"), "versions 1 to 3 are read");
    }
    let unknown = names(&READ, protocol.reader_features.as_ref());
    if let Some(name) = unknown.filter(|_| protocol.min_reader_version == 3) {
        return refuse(
            &format!("uses the feature `{name}`, which is not read"),
            "drop the feature (`ALTER TABLE … DROP FEATURE`), or copy the rows to a table without it",
        );
    }
    if let Some(mode) = setting(metadata, "delta.columnMapping.mode").filter(|mode| *mode != "none")
    {
        return refuse(
            &format!("uses column mapping by `{mode}`, which is not read"),
            "copy the rows to a table without `delta.columnMapping.mode`",
        );
    }
    if metadata.format.provider != "parquet" {
        let what = format!("has files of the format `{}`", metadata.format.provider);
        return refuse(&what, "files of tables are Parquet");
    }
    Ok(())
}

fn setting<'m>(metadata: &'m Metadata, key: &str) -> Option<&'m str> {
    metadata.configuration.get(key)?.as_deref()
}

/// Refuses tables to which files cannot simply be added.
///
/// # Errors
/// `Sink` with the feature's name.
pub(super) fn check_write(
    table: &str,
    protocol: &Protocol,
    metadata: &Metadata,
    replaces: bool,
) -> Result<()> {
    let refuse = |what: String| {
        let hint = "drop the feature or the setting, or write to another table";
        Err(refused(ErrorKind::Sink, table, &what, hint))
    };
    if protocol.min_writer_version > 7 {
        return refuse(format!("needs a writer of version {}", protocol.min_writer_version));
    }
    let unknown = names(&WRITTEN, protocol.writer_features.as_ref());
    if let Some(name) = unknown.filter(|_| protocol.min_writer_version == 7) {
        return refuse(format!("uses the feature `{name}`, which is not written"));
    }
    for key in ["delta.enableInCommitTimestamps", "delta.enableRowTracking"] {
        if setting(metadata, key) == Some("true") {
            return refuse(format!("sets `{key}`, which is not written"));
        }
    }
    if let Some(key) =
        metadata.configuration.keys().find(|key| key.starts_with("delta.constraints."))
    {
        return refuse(format!("has the constraint `{key}`, which is not checked"));
    }
    let schema = &metadata.schema_string;
    for key in ["delta.invariants", "delta.generationExpression", "delta.identity.start"] {
        if schema.contains(key) {
            return refuse(format!("has a column with `{key}`, which is not written"));
        }
    }
    if replaces && setting(metadata, "delta.appendOnly") == Some("true") {
        return refuse("sets `delta.appendOnly`: its rows cannot be replaced".to_owned());
    }
    Ok(())
}

/// The protocol of a new table.
pub(super) fn of_new_table(has_local_times: bool) -> Action {
    let features = has_local_times.then(|| vec!["timestampNtz".to_owned()]);
    let (reader, writer) = if has_local_times { (3, 7) } else { (1, 2) };
    let protocol = Protocol {
        min_reader_version: reader,
        min_writer_version: writer,
        reader_features: features.clone(),
        writer_features: features,
    };
    Action { protocol: Some(protocol), ..Action::default() }
}

/// A vector of deleted rows, for messages.
pub(super) fn vector_name(vector: &Value) -> &str {
    vector.get("storageType").and_then(Value::as_str).unwrap_or("?")
}
