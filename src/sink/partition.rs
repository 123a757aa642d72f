//! Splits rows into hive folders: `lang=en/year=2024`. Not here: the files in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{can_cast_types, cast, take_record_batch};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::FOLDER_NAME_BYTES;

/// The folder value of nulls, as in Hive, Spark and DuckDB.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Splits batches by the values of some columns.
#[derive(Debug)]
pub(super) struct Partitioner {
    names: Vec<String>,
    keys: Vec<usize>,
    rest: Vec<usize>,
}

impl Partitioner {
    /// A partitioner by the columns `names`, whose values must have a text form.
    pub(super) fn new(names: &[String], schema: &Schema) -> Result<Self> {
        let wrong = |message: String| Err(Error::new(ErrorKind::Config, message));
        let mut keys = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return wrong(format!("`sink.partition_by` has the column `{name}` twice"));
            }
            let Ok(key) = schema.index_of(name) else {
                let columns: Vec<_> =
                    schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("`sink.partition_by`: there is no column `{name}`"),
                )
                .hint(format!("columns are {}", columns.join(", "))));
            };
            if name.is_empty() || name.starts_with(['_', '.']) {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("`sink.partition_by`: readers skip folders such as `{name}=…`"),
                )
                .hint("rename the column with a `sql` step: folders whose name begins with `_` or `.` are hidden"));
            }
            let data_type = schema.field(key).data_type();
            let text = matches!(
                data_type,
                DataType::Utf8
                    | DataType::LargeUtf8
                    | DataType::Utf8View
                    | DataType::Dictionary(..)
            );
            let plain = text
                || data_type.is_integer()
                || data_type.is_temporal()
                || matches!(data_type, DataType::Boolean | DataType::Decimal128(..));
            if !plain || !can_cast_types(data_type, &DataType::Utf8) {
                return wrong(format!(
                    "`sink.partition_by`: the column `{name}` is {data_type}, which cannot be a folder \
                     name"
                ));
            }
            keys.push(key);
        }
        let rest: Vec<_> =
            (0..schema.fields().len()).filter(|index| !keys.contains(index)).collect();
        if rest.is_empty() {
            return wrong("`sink.partition_by` leaves no column for the files".to_owned());
        }
        Ok(Self { names: names.to_vec(), keys, rest })
    }

    /// The schema of the files.
    pub(super) fn file_schema(&self, schema: &Schema) -> Result<Schema, ArrowError> {
        schema.project(&self.rest)
    }

    /// The folders of a batch in order of first appearance, each with its rows in order.
    ///
    /// # Errors
    /// `Data` for a value that is too long for a folder name.
    pub(super) fn split(&self, batch: &RecordBatch) -> Result<Vec<(String, RecordBatch)>> {
        let broken = |error: ArrowError| {
            Error::new(ErrorKind::Internal, "cannot split rows by `sink.partition_by`")
                .source(error)
        };
        let texts = self
            .keys
            .iter()
            .map(|key| cast(batch.column(*key), &DataType::Utf8).map_err(broken))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let texts: Vec<&StringArray> = texts.iter().map(arrow::array::AsArray::as_string).collect();
        let mut groups: Vec<(String, Vec<u32>)> = Vec::new();
        let mut known: BTreeMap<Vec<Option<&str>>, usize> = BTreeMap::new();
        for row in 0..batch.num_rows() {
            let key: Vec<_> =
                texts.iter().map(|text| text.is_valid(row).then(|| text.value(row))).collect();
            let group = if let Some(group) = known.get(&key) {
                *group
            } else {
                groups.push((self.folder(&key)?, Vec::new()));
                known.insert(key, groups.len() - 1);
                groups.len() - 1
            };
            let row = u32::try_from(row)
                .map_err(|error| broken(ArrowError::ExternalError(Box::new(error))))?;
            groups[group].1.push(row);
        }
        let rest = batch.project(&self.rest).map_err(broken)?;
        groups
            .into_iter()
            .map(|(folder, rows)| {
                if rows.len() == rest.num_rows() {
                    return Ok((folder, rest.clone()));
                }
                let rows = take_record_batch(&rest, &UInt32Array::from(rows)).map_err(broken)?;
                Ok((folder, rows))
            })
            .collect()
    }

    fn folder(&self, key: &[Option<&str>]) -> Result<String> {
        let parts = self.names.iter().zip(key).map(|(name, value)| {
            let part = match value {
                None => format!("{}={HIVE_NULL}", escape(name)),
                // Escapes a text that looks like the null value.
                Some(HIVE_NULL) => format!("{}=%5F{}", escape(name), &HIVE_NULL[1..]),
                Some(value) => format!("{}={}", escape(name), escape(value)),
            };
            if part.len() <= FOLDER_NAME_BYTES {
                return Ok(part);
            }
            let shown: String = value.unwrap_or_default().chars().take(40).collect();
            let message = format!(
                "`sink.partition_by`: the value `{shown}…` of the column `{name}` is too long for a folder \
                 name: {} bytes, the limit is {FOLDER_NAME_BYTES}",
                part.len()
            );
            Err(Error::new(ErrorKind::Data, message)
                .hint("partition by a column of short values, or shorten it with a `sql` step"))
        });
        Ok(parts.collect::<Result<Vec<_>>>()?.join("/"))
    }
}

/// Percent-encodes the characters that Hive encodes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_control() || "\"#%'*/:=?\\{}[]^".contains(character) {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{:02X}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn folders_are_escaped_and_rows_stay_in_order() {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(UInt32Array::from(vec![0, 1, 2, 3, 4])) as ArrayRef),
            (
                "k",
                Arc::new(StringArray::from(vec![
                    Some("b"),
                    None,
                    Some("a/ü="),
                    Some("b"),
                    Some(HIVE_NULL),
                ])) as _,
            ),
        ])
        .unwrap();
        let partitioner = Partitioner::new(&["k".to_owned()], &batch.schema()).unwrap();
        let split: Vec<_> = partitioner
            .split(&batch)
            .unwrap()
            .into_iter()
            .map(|(folder, rows)| {
                (folder, format!("{:?}", rows.column(0).to_data().buffers()[0].typed_data::<u32>()))
            })
            .collect();
        let expected = [
            ("k=b", "[0, 3]"),
            ("k=__HIVE_DEFAULT_PARTITION__", "[1]"),
            ("k=a%2Fü%3D", "[2]"),
            ("k=%5F_HIVE_DEFAULT_PARTITION__", "[4]"),
        ];
        assert_eq!(split, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn names_that_readers_pass_over_and_values_that_make_no_folder_are_refused() {
        let batch = |name: &str, value: &str| {
            let columns = [name, "rest"];
            let text = || Arc::new(StringArray::from(vec![value])) as ArrayRef;
            RecordBatch::try_from_iter(columns.map(|name| (name, text()))).unwrap()
        };
        for name in ["_k", ".k", ""] {
            let error =
                Partitioner::new(&[name.to_owned()], &batch(name, "a").schema()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        }
        let folder = |value: &str| {
            let batch = batch("a=b", value);
            let partitioner = Partitioner::new(&["a=b".to_owned()], &batch.schema()).unwrap();
            partitioner.split(&batch).map(|split| split[0].0.clone())
        };
        for (value, expected) in [
            ("..", "a%3Db=.."),
            ("_x", "a%3Db=_x"),
            (".x", "a%3Db=.x"),
            ("", "a%3Db="),
            ("a\n/\u{7f}%", "a%3Db=a%0A%2F%7F%25"),
        ] {
            assert_eq!(folder(value).unwrap(), expected);
        }
        assert!(folder(&"é".repeat(124)).is_ok());
        let error = folder(&"é".repeat(125)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.message().contains("of the column `a=b` is too long"), "{error}");
    }
}
