//! The text of a new version: files are added, and all earlier ones removed if they are replaced. Not here: writing it.

use std::fmt::Write as _;

use datafusion::arrow::datatypes::{DataType, Schema};
use serde_json::{Value, json};

use super::actions::{Action, Add, Format, Metadata, Remove, Txn};
use super::log::version_path;
use super::snapshot::Snapshot;
use super::{columns, protocol};
use crate::error::{Error, ErrorKind, Result};

/// What a version does with the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Keeps them.
    Append,
    /// Removes them.
    Overwrite,
}

/// A file for a new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewFile {
    /// Its path in the table: hive folders, and a name.
    pub(crate) path: String,
    /// The values of its folders; `None` is null.
    pub(crate) partition: Vec<(String, Option<String>)>,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
}

/// Everything in a version but the table.
#[derive(Debug)]
pub(crate) struct Commit<'c> {
    pub(crate) files: &'c [NewFile],
    pub(crate) operation: Operation,
    /// The application of the transaction, by which a writer finds its version again.
    pub(crate) app: &'c str,
    pub(crate) pipeline: &'c str,
    /// Milliseconds since 1970.
    pub(crate) now: i64,
}

/// A version to create: the name of its file in the table, its number and its text.
pub(crate) type NewVersion = (String, u64, String);

/// Fails if rows with these columns cannot be added to a table.
fn check(snapshot: &Snapshot, columns: &Schema, partition_by: &[String]) -> Result<()> {
    let table = &snapshot.table;
    let wrong = |what: String| Error::new(ErrorKind::Sink, format!("{what} `{table}`"));
    let known: Value = serde_json::from_str(&snapshot.metadata.schema_string)
        .map_err(|error| wrong("cannot read the columns of".to_owned()).source(error))?;
    let known: Vec<&Value> =
        known.get("fields").and_then(Value::as_array).into_iter().flatten().collect();
    let name_of = |field: &&Value| field.get("name").and_then(Value::as_str).map(str::to_owned);
    let names: Vec<String> = known.iter().filter_map(name_of).collect();
    let hint = "change the columns with a `sql` step, or write to another table";
    for field in columns.fields() {
        let name = field.name();
        let Some(column) =
            known.iter().find(|field| name_of(field).as_deref() == Some(name.as_str()))
        else {
            return Err(wrong(format!("there is no column `{name}` in the Delta table"))
                .hint(format!("columns are `{}`: {hint}", names.join("`, `"))));
        };
        let own = kind_of(name, field.data_type())?;
        let there = column.get("type").cloned().unwrap_or_default();
        if columns::bare(&own) != columns::bare(&there) {
            let (own, there) = (columns::shown(&own), columns::shown(&there));
            return Err(wrong(format!(
                "the column `{name}` is {own}, and {there} in the Delta table"
            ))
            .hint(hint));
        }
        let holds_null = column.get("nullable").and_then(Value::as_bool).unwrap_or(true);
        if field.is_nullable() && !holds_null {
            return Err(wrong(format!(
                "the column `{name}` may be null, but not in the Delta table"
            ))
            .hint(hint));
        }
    }
    if let Some(name) = names.iter().find(|name| columns.index_of(name).is_err()) {
        return Err(wrong(format!("the output lacks the column `{name}` of the Delta table"))
            .hint(format!("add it with a `sql` step, such as `NULL AS {name}`")));
    }
    let partitions = &snapshot.metadata.partition_columns;
    if partitions != partition_by {
        let written = partitions.join(", ");
        return Err(wrong("`sink.partition_by` is not that of the Delta table".to_owned())
            .hint(format!("set `partition_by: [{written}]`")));
    }
    Ok(())
}

fn kind_of(name: &str, data_type: &DataType) -> Result<Value> {
    columns::delta(data_type).map_err(|hint| untyped(name, data_type, hint))
}

fn untyped(name: &str, data_type: &DataType, hint: &str) -> Error {
    let message = format!("a Delta table cannot hold the column `{name}`, which is {data_type}");
    Error::new(ErrorKind::Config, message).hint(hint.to_owned())
}

/// Fails if a table cannot hold columns, or cannot be partitioned by some.
pub(crate) fn check_columns(columns: &Schema, partition_by: &[String]) -> Result<()> {
    for field in columns.fields() {
        kind_of(field.name(), field.data_type())?;
        let is_time = matches!(field.data_type(), DataType::Timestamp(..));
        if is_time && partition_by.contains(field.name()) {
            let message = format!(
                "`sink.partition_by`: `{}` is a timestamp, which programs write in different ways",
                field.name()
            );
            return Err(Error::new(ErrorKind::Config, message)
                .hint("partition by its date: `CAST(… AS DATE)` in a `sql` step"));
        }
    }
    Ok(())
}

impl Snapshot {
    /// Fails if `operation` cannot be a version after this one.
    ///
    /// # Errors
    /// `Sink` with the column or the feature, `Config` for a column that no table can hold.
    pub(crate) fn check_next(
        &self,
        columns: &Schema,
        partition_by: &[String],
        operation: Operation,
    ) -> Result<()> {
        let replaces = operation == Operation::Overwrite;
        protocol::check_write(&self.table, &self.protocol, &self.metadata, replaces)?;
        check_columns(columns, partition_by)?;
        check(self, columns, partition_by)
    }
}

/// The version after `snapshot`.
///
/// # Errors
/// `Internal` if an action cannot be written.
pub(crate) fn next(snapshot: &Snapshot, commit: &Commit<'_>) -> Result<NewVersion> {
    let version = snapshot.version + 1;
    let mut actions = Vec::new();
    if commit.operation == Operation::Overwrite {
        actions.extend(snapshot.files.values().map(|add| Action {
            remove: Some(Remove {
                path: add.path.clone(),
                deletion_timestamp: Some(commit.now),
                data_change: true,
                extended_file_metadata: Some(true),
                partition_values: Some(add.partition_values.clone()),
                size: Some(add.size),
                deletion_vector: add.deletion_vector.clone(),
            }),
            ..Action::default()
        }));
    }
    text(version, actions, &snapshot.metadata.partition_columns, commit)
}

/// The first version of a table.
///
/// # Errors
/// `Config` for a column that no table can hold.
pub(crate) fn new_table(
    id: &str,
    columns: &Schema,
    partition_by: &[String],
    commit: &Commit<'_>,
) -> Result<NewVersion> {
    check_columns(columns, partition_by)?;
    let schema = columns::of_fields(columns.fields()).map_err(|(name, hint)| {
        let data_type = columns.field_with_name(&name).map(|field| field.data_type().clone());
        untyped(&name, &data_type.unwrap_or(DataType::Null), hint)
    })?;
    let schema_string = schema.to_string();
    let protocol = protocol::of_new_table(schema_string.contains("\"timestamp_ntz\""));
    let metadata = Metadata {
        id: id.to_owned(),
        format: Format::default(),
        schema_string,
        partition_columns: partition_by.to_vec(),
        configuration: std::collections::BTreeMap::default(),
        created_time: Some(commit.now),
    };
    let metadata = Action { meta_data: Some(metadata), ..Action::default() };
    text(0, vec![protocol, metadata], partition_by, commit)
}

fn text(
    version: u64,
    actions: Vec<Action>,
    partition_by: &[String],
    commit: &Commit<'_>,
) -> Result<NewVersion> {
    let mode = match commit.operation {
        _ if version == 0 => "ErrorIfExists",
        Operation::Append => "Append",
        Operation::Overwrite => "Overwrite",
    };
    let info = json!({
        "timestamp": commit.now,
        "operation": "WRITE",
        "operationParameters": {
            "mode": mode,
            "partitionBy": serde_json::to_string(partition_by).unwrap_or_default(),
        },
        "isBlindAppend": commit.operation == Operation::Append,
        "engineInfo": concat!("hfauto-pipe/", env!("CARGO_PKG_VERSION")),
        "pipeline": commit.pipeline,
    });
    let txn = Txn {
        app_id: commit.app.to_owned(),
        version: i64::try_from(version).unwrap_or(i64::MAX),
        last_updated: Some(commit.now),
    };
    let first = [
        Action { commit_info: Some(info), ..Action::default() },
        Action { txn: Some(txn), ..Action::default() },
    ];
    let files = commit.files.iter().map(|file| Action {
        add: Some(Add {
            path: encoded(&file.path),
            partition_values: file.partition.iter().cloned().collect(),
            size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
            modification_time: commit.now,
            data_change: true,
            stats: Some(json!({"numRecords": file.rows}).to_string()),
            deletion_vector: None,
        }),
        ..Action::default()
    });
    let mut text = String::new();
    for action in first.into_iter().chain(actions).chain(files) {
        let line = serde_json::to_string(&action).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot write a Delta version").source(error)
        })?;
        text += &line;
        text.push('\n');
    }
    Ok((version_path(version), version, text))
}

/// A path as a URL: hive folders are percent-encoded once more.
fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/=+@,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_urls() {
        assert_eq!(encoded("k=a%2Fb/part-0.parquet"), "k=a%252Fb/part-0.parquet");
        assert_eq!(encoded("k=ü x/p"), "k=%C3%BC%20x/p");
    }
}
