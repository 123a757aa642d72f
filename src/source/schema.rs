//! One schema for all files of a source. Not here: how a file's own schema is found (`inspect`).
//!
//! | format  | a column that some files lack | types that differ                                  |
//! |---------|-------------------------------|----------------------------------------------------|
//! | Parquet | nulls in those files          | widened: integers, floats, string and binary types |
//! | JSONL   | nulls in those files          | decided over all rows of all files                 |
//! | CSV     | an error: columns are by position, so every header must be the same | decided over all rows |
//! | Arrow   | an error                      | an error                                           |
//!
//! Everything else is an error that names both files and the difference, before any row is read.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::{Error, ErrorKind, Result};

/// Merges the schemas of Parquet files: the first file's columns first, new ones after them.
pub(super) fn merge_by_name(schemas: &[(&Path, SchemaRef)]) -> Result<SchemaRef> {
    let mut merged: Vec<(Field, &Path, usize)> = Vec::new();
    for (path, schema) in schemas {
        for field in schema.fields() {
            let known = merged.iter_mut().find(|(known, _, _)| known.name() == field.name());
            let Some((known, first, files)) = known else {
                merged.push((field.as_ref().clone(), *path, 1));
                continue;
            };
            let Some(data_type) = widen(known.data_type(), field.data_type()) else {
                return Err(differ(
                    first,
                    path,
                    &format!(
                        "column `{}` is {} and {}",
                        field.name(),
                        known.data_type(),
                        field.data_type()
                    ),
                ));
            };
            let nullable = known.is_nullable() || field.is_nullable();
            *known = known.clone().with_data_type(data_type).with_nullable(nullable);
            *files += 1;
        }
    }
    for (field, _, files) in merged.iter().filter(|(_, _, files)| *files < schemas.len()) {
        let lacking = schemas.iter().find(|(_, schema)| schema.index_of(field.name()).is_err());
        tracing::warn!(
            column = field.name().as_str(),
            file = lacking.map(|(path, _)| path.display().to_string()),
            "{} of {} files do not have this column: their rows get nulls",
            schemas.len() - files,
            schemas.len()
        );
    }
    let fields = merged.into_iter().map(|(field, _, files)| {
        let nullable = field.is_nullable() || files < schemas.len();
        field.with_nullable(nullable)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// Takes the first schema when all are alike but for nullability.
pub(super) fn same(schemas: &[(&Path, SchemaRef)]) -> Result<SchemaRef> {
    let Some(((first_path, first), rest)) = schemas.split_first() else {
        return Ok(Arc::new(Schema::empty()));
    };
    let mut fields: Vec<Field> = first.fields().iter().map(|f| f.as_ref().clone()).collect();
    for (path, schema) in rest {
        let found: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let expected: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
        if found != expected {
            return Err(columns_differ(first_path, path, &expected, &found));
        }
        for (field, other) in fields.iter_mut().zip(schema.fields()) {
            if field.data_type() != other.data_type() {
                return Err(differ(
                    first_path,
                    path,
                    &format!(
                        "column `{}` is {} and {}",
                        field.name(),
                        field.data_type(),
                        other.data_type()
                    ),
                ));
            }
            if other.is_nullable() && !field.is_nullable() {
                *field = field.clone().with_nullable(true);
            }
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Two files whose columns are not the same: the first difference, in words.
pub(super) fn columns_differ(first: &Path, other: &Path, a: &[&str], b: &[&str]) -> Error {
    let missing: Vec<_> = a.iter().filter(|name| !b.contains(name)).collect();
    let added: Vec<_> = b.iter().filter(|name| !a.contains(name)).collect();
    let difference = match (missing.first(), added.first()) {
        (Some(missing), Some(added)) => {
            format!("the first has `{missing}`, the second `{added}`")
        }
        (Some(missing), None) => format!("the second has no column `{missing}`"),
        (None, Some(added)) => format!("the second has a column `{added}` more"),
        (None, None) => "their columns are in another order".to_owned(),
    };
    differ(first, other, &difference)
}

fn differ(first: &Path, other: &Path, difference: &str) -> Error {
    Error::new(
        ErrorKind::Data,
        format!(
            "`{}` and `{}` have different columns: {difference}",
            first.display(),
            other.display()
        ),
    )
    .at(other.display())
    .hint("read them as two sources, or make their columns the same")
}

/// A column name that a schema has twice cannot be referred to.
pub(super) fn check_names(path: &Path, schema: &Schema) -> Result<()> {
    let mut seen = BTreeSet::new();
    match schema.fields().iter().find(|field| !seen.insert(field.name().as_str())) {
        None => Ok(()),
        Some(field) => Err(Error::new(
            ErrorKind::Data,
            format!("`{}` has two columns named `{}`", path.display(), field.name()),
        )
        .at(path.display())),
    }
}

/// The narrowest type that holds the values of both without loss.
fn widen(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{
        Binary, BinaryView, Float16, Float32, Float64, Int8, Int16, Int32, Int64, LargeBinary,
        LargeUtf8, Null, UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    if a.equals_datatype(b) {
        return Some(a.clone());
    }
    const CHAINS: [&[DataType]; 5] = [
        &[Int8, Int16, Int32, Int64],
        &[UInt8, UInt16, UInt32, UInt64],
        &[Float16, Float32, Float64],
        &[Utf8, Utf8View, LargeUtf8],
        &[Binary, BinaryView, LargeBinary],
    ];
    for chain in CHAINS {
        let rank = |t: &DataType| chain.iter().position(|x| x == t);
        if let (Some(a), Some(b)) = (rank(a), rank(b)) {
            return Some(chain[a.max(b)].clone());
        }
    }
    match (a, b) {
        (Null, other) | (other, Null) => Some(other.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        Arc::new(Schema::new(
            fields.iter().map(|(n, t)| Field::new(*n, t.clone(), false)).collect::<Vec<_>>(),
        ))
    }

    #[test]
    fn by_name_widens_and_fills() {
        let a = schema(&[("id", DataType::Int32), ("text", DataType::Utf8)]);
        let b = schema(&[
            ("text", DataType::LargeUtf8),
            ("id", DataType::Int64),
            ("n", DataType::Int8),
        ]);
        let merged = merge_by_name(&[(Path::new("a"), a), (Path::new("b"), b)]).unwrap();
        let words: Vec<_> = merged
            .fields()
            .iter()
            .map(|f| format!("{} {} {}", f.name(), f.data_type(), f.is_nullable()))
            .collect();
        assert_eq!(words, ["id Int64 false", "text LargeUtf8 false", "n Int8 true"]);
    }

    #[test]
    fn differences_name_both_files() {
        let a = schema(&[("id", DataType::Int32)]);
        let b = schema(&[("id", DataType::Utf8)]);
        let error = merge_by_name(&[(Path::new("a"), a), (Path::new("b"), b)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(
            error.message(),
            "`a` and `b` have different columns: column `id` is Int32 and Utf8"
        );
    }

    #[test]
    fn same_refuses_another_order() {
        let a = schema(&[("a", DataType::Utf8), ("b", DataType::Utf8)]);
        let b = schema(&[("b", DataType::Utf8), ("a", DataType::Utf8)]);
        let error = same(&[(Path::new("1"), a), (Path::new("2"), b)]).unwrap_err();
        assert!(error.message().ends_with("their columns are in another order"), "{error}");
    }
}
