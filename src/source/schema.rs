//! Merges the schemas of a source's files into one. Not here: finding a file's columns (`inspect`), merging types
//! (`unify`).
//!
//! Files are matched by column name. `source.schema: union` widens types where values keep their meaning and digits, and
//! fills missing columns with nulls; it reports both. `strict` refuses both. Types of CSV and JSONL are inferred from all
//! rows of all files; in strict mode, a column without values matches any type. Types without a common type are an error
//! that names both files, before any row is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::columns::Columns as JsonFields;
use super::csv::{CsvColumn, CsvColumns};
use super::inspect::{Columns, Inspected};
use super::kind::Kind;
use super::listing::ListedFile;
use super::unify::{is_plain, unify};
use super::{jsonl, missing_column};
use crate::config::pipeline::{ColumnType, FileFormat, SchemaMode, SourceSpec};
use crate::error::{Error, ErrorKind, Result};

/// The most notes per source.
const MAX_NOTES: usize = 20;

/// The columns of all files.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) schema: SchemaRef,
    /// Differences between the table and its files, as text.
    pub(super) notes: Vec<String>,
    /// Whether DataFusion's scan can convert every file to the schema.
    pub(super) is_plain: bool,
}

/// A file and its columns; a column without values has the type Null.
struct FileColumns<'f> {
    path: &'f Path,
    schema: SchemaRef,
}

/// Merges the schemas of all files, by the rules of their format.
pub(super) fn merged(
    spec: &SourceSpec,
    files: &[ListedFile],
    inspected: &[Inspected],
) -> Result<Merged> {
    let format = files[0].form.format;
    if let (false, Some(name)) = (format.is_text(), spec.types.keys().next()) {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "`source.types` sets the type of `{name}`, but {} files declare their types",
                format.name()
            ),
        )
        .hint("remove it, and write `arrow_cast(…)` in a `sql` step"));
    }
    let mut notes = Vec::new();
    let (columns, schema) = match format {
        FileFormat::Csv => csv(files, inspected, &mut notes),
        FileFormat::Jsonl => json(files, inspected, &mut notes)?,
        FileFormat::Parquet | FileFormat::Arrow => {
            let columns = typed(files, inspected)?;
            let schema = union(&columns, &mut notes)?;
            (columns, schema)
        }
    };
    if schema.fields().is_empty() {
        let path = files[0].path.display();
        let message = match files.len() {
            1 => format!("`{path}` has no columns: it is empty"),
            count => format!("`{path}` and {} more have no columns: they are empty", count - 1),
        };
        return Err(Error::new(ErrorKind::Data, message).at(path));
    }
    if format.is_text() && schema.fields().len() > spec.max_columns {
        return Err(Error::new(
            ErrorKind::Data,
            format!(
                "the files have {} columns: the limit is {}",
                schema.fields().len(),
                spec.max_columns
            ),
        )
        .hint("set `source.max_columns`, or read the files as several sources"));
    }
    if spec.schema == SchemaMode::Strict {
        check_strict(&columns)?;
    }
    for name in spec.types.keys() {
        if schema.index_of(name).is_err() {
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(missing_column("`source.types`: the source has no column", name, &names));
        }
    }
    let is_plain = format == FileFormat::Parquet
        && columns.iter().all(|file| {
            let mut fields = file.schema.fields().iter().enumerate();
            fields.all(|(index, field)| {
                let merged = field_of(&schema, index, field.name());
                merged.is_some_and(|merged| is_plain(field.data_type(), merged.data_type()))
            })
        })
        || format == FileFormat::Arrow
            && columns.iter().all(|file| same_columns(&file.schema, &schema))
            && same_kind(inspected);
    let schema = filled(&columns, &schema, &mut notes);
    if notes.len() > MAX_NOTES {
        let more = notes.split_off(MAX_NOTES - 1).len();
        notes.push(format!("{more} more columns or headers differ between the files"));
    }
    Ok(Merged { schema, notes, is_plain })
}

/// The field `name`, which is probably at `likely`.
fn field_of<'s>(schema: &'s Schema, likely: usize, name: &str) -> Option<&'s Field> {
    match schema.fields().get(likely) {
        Some(field) if field.name() == name => Some(field),
        _ => schema.field_with_name(name).ok(),
    }
}

fn same_columns(file: &Schema, schema: &Schema) -> bool {
    let pairs = file.fields().iter().zip(schema.fields());
    file.fields().len() == schema.fields().len()
        && pairs.into_iter().all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
}

/// Whether all Arrow files are in the file format, or all in the stream format.
fn same_kind(inspected: &[Inspected]) -> bool {
    let streams = |stream: bool| {
        inspected
            .iter()
            .any(|file| matches!(file.columns, Columns::Arrow { stream: s, .. } if s == stream))
    };
    !(streams(true) && streams(false))
}

/// Makes columns that some files lack nullable, and notes them.
fn filled(files: &[FileColumns<'_>], schema: &Schema, notes: &mut Vec<String>) -> SchemaRef {
    if files.len() < 2 {
        return Arc::new(schema.clone());
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for field in files.iter().flat_map(|file| file.schema.fields()) {
        *counts.entry(field.name().as_str()).or_default() += 1;
    }
    let fields = schema.fields().iter().map(|field| {
        let count = counts.get(field.name().as_str()).copied().unwrap_or_default();
        if count >= files.len() {
            return field.as_ref().clone();
        }
        let lacking = files.iter().find(|file| file.schema.index_of(field.name()).is_err());
        notes.push(format!(
            "{} of {} files do not have the column `{}`, such as `{}`: it is null there",
            files.len() - count,
            files.len(),
            field.name(),
            lacking.map_or(Path::new(""), |file| file.path).display()
        ));
        field.as_ref().clone().with_nullable(true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn check_strict(files: &[FileColumns<'_>]) -> Result<()> {
    let Some((first, rest)) = files.split_first() else { return Ok(()) };
    let differs = |file: &FileColumns<'_>, difference: String| {
        Error::new(
            ErrorKind::Data,
            format!("`{}`: {difference} `{}`", file.path.display(), first.path.display()),
        )
        .at(file.path.display())
        .hint("`source.schema: union` matches columns by name, widens types and fills missing columns with null")
    };
    for file in rest {
        for (index, field) in first.schema.fields().iter().enumerate() {
            let Some(other) = field_of(&file.schema, index, field.name()) else {
                return Err(differs(
                    file,
                    format!(
                        "there is no column `{}`, which is {} in",
                        field.name(),
                        field.data_type()
                    ),
                ));
            };
            let (a, b) = (field.data_type(), other.data_type());
            if a != b && *a != DataType::Null && *b != DataType::Null {
                return Err(differs(
                    file,
                    format!("the column `{}` is {b}, and {a} in", field.name()),
                ));
            }
        }
        let more = file.schema.fields().iter().enumerate();
        let mut more = more
            .filter(|(index, field)| field_of(&first.schema, *index, field.name()).is_none())
            .map(|(_, field)| field);
        if let Some(field) = more.next() {
            return Err(differs(
                file,
                format!(
                    "there is a column `{}` of {}, which is not in",
                    field.name(),
                    field.data_type()
                ),
            ));
        }
    }
    Ok(())
}

/// The columns of Parquet and Arrow files.
fn typed<'f>(files: &'f [ListedFile], inspected: &[Inspected]) -> Result<Vec<FileColumns<'f>>> {
    let mut columns = Vec::new();
    for (file, inspected) in files.iter().zip(inspected) {
        let (Columns::Parquet(schema) | Columns::Arrow { schema, .. }) = &inspected.columns else {
            continue;
        };
        let path = &*file.path;
        check_names(path, schema)?;
        columns.push(FileColumns { path, schema: Arc::clone(schema) });
    }
    Ok(columns)
}

/// Merges typed schemas: the first file's columns first, new ones after them.
fn union(files: &[FileColumns<'_>], notes: &mut Vec<String>) -> Result<SchemaRef> {
    struct Column<'f> {
        field: Field,
        first: &'f Path,
        /// A later file and its type, if it differs from that of the first.
        other: Option<(&'f Path, DataType)>,
        first_type: DataType,
    }
    let mut merged: Vec<Column<'_>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for FileColumns { path, schema } in files {
        for field in schema.fields() {
            let Some(place) = places.get(field.name()) else {
                places.insert(field.name().clone(), merged.len());
                merged.push(Column {
                    field: field.as_ref().clone(),
                    first: path,
                    other: None,
                    first_type: field.data_type().clone(),
                });
                continue;
            };
            let known = &mut merged[*place];
            let (a, b) = (known.field.data_type(), field.data_type());
            let Some(data_type) = unify(a, b) else {
                let difference = format!("column `{}` is {a} and {b}", field.name());
                let error = differ(known.first, path, &difference);
                return Err(if known.first_type == *a {
                    error
                } else {
                    error.at(format!("the column is {} in the first file", known.first_type))
                });
            };
            if known.first_type != *b && known.other.is_none() {
                known.other = Some((path, b.clone()));
            }
            let nullable = known.field.is_nullable() || field.is_nullable();
            known.field = known.field.clone().with_data_type(data_type).with_nullable(nullable);
        }
    }
    for column in &merged {
        let Some((path, data_type)) = &column.other else { continue };
        notes.push(format!(
            "the column `{}` is {} in `{}` and {data_type} in `{}`: it is read as {}",
            column.field.name(),
            column.first_type,
            column.first.display(),
            path.display(),
            column.field.data_type()
        ));
    }
    let fields = merged.into_iter().map(|column| column.field);
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// The columns of CSV files, and their schema.
fn csv<'f>(
    files: &'f [ListedFile],
    inspected: &[Inspected],
    notes: &mut Vec<String>,
) -> (Vec<FileColumns<'f>>, SchemaRef) {
    struct Column<'i> {
        name: &'i str,
        kind: Kind,
        given: Option<ColumnType>,
        digits: Option<(&'i Path, &'i (u64, String))>,
    }
    let mut merged: Vec<Column<'_>> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut all: Vec<FileColumns<'_>> = Vec::new();
    let mut last: Option<&Arc<CsvColumns>> = None;
    for (file, inspected) in files.iter().zip(inspected) {
        let Columns::Csv(found) = &inspected.columns else { continue };
        // An empty file has no columns and no rows.
        if found.columns.is_empty() {
            continue;
        }
        let path: &Path = &file.path;
        renamed(path, &found.columns, notes);
        // There may be very many files, and most are alike.
        if let (Some(same), Some(FileColumns { schema, .. })) = (last, all.last())
            && Arc::ptr_eq(same, found)
        {
            let schema = Arc::clone(schema);
            all.push(FileColumns { path, schema });
            continue;
        }
        last = Some(found);
        let mut fields = Vec::with_capacity(found.columns.len());
        for CsvColumn { name, kind, given, digits, .. } in &found.columns {
            let digits = digits.as_ref().map(|digits| (path, digits));
            let place = *places.entry(name.as_str()).or_insert_with(|| {
                merged.push(Column { name, kind: Kind::Empty, given: *given, digits: None });
                merged.len() - 1
            });
            let column = &mut merged[place];
            column.kind = column.kind.merge(*kind);
            column.digits = column.digits.or(digits);
            let data_type = match (given, kind) {
                (Some(given), _) => given.data_type(),
                (None, Kind::Empty) => DataType::Null,
                (None, kind) => kind.data_type(),
            };
            fields.push(Field::new(name, data_type, true));
        }
        all.push(FileColumns { path, schema: Arc::new(Schema::new(fields)) });
    }
    let fields = merged.iter().map(|column| {
        if let (None, Kind::Number, Some((path, (line, number)))) =
            (column.given, column.kind, column.digits)
        {
            notes.push(number_as_text(column.name, path, *line, number));
        }
        let data_type = column.given.map_or(column.kind.data_type(), ColumnType::data_type);
        Field::new(column.name, data_type, true)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    (all, schema)
}

/// Notes the names that differ from the header.
fn renamed(path: &Path, columns: &[CsvColumn], notes: &mut Vec<String>) {
    let renamed: Vec<_> = columns
        .iter()
        .enumerate()
        .filter_map(|(index, column)| Some((index + 1, column.written.as_ref()?, &column.name)))
        .collect();
    let Some((place, written, name)) = renamed.first() else { return };
    let what =
        if written.is_empty() { "has no name".to_owned() } else { format!("is `{written}` again") };
    let more = match renamed.len() {
        1 => String::new(),
        count => format!(", and {} more are renamed", count - 1),
    };
    notes.push(format!(
        "in the header of `{}`, column {place} {what}: it is read as `{name}`{more}",
        path.display()
    ));
}

fn number_as_text(column: &str, path: &Path, line: u64, number: &str) -> String {
    format!(
        "the column `{column}` is read as text: {number} (line {line} of `{}`) would lose digits as a number; \
         `source.types` can set float64, which rounds",
        path.display()
    )
}

/// The columns of JSONL files, and their schema.
fn json<'f>(
    files: &'f [ListedFile],
    inspected: &[Inspected],
    notes: &mut Vec<String>,
) -> Result<(Vec<FileColumns<'f>>, SchemaRef)> {
    let mut merged = JsonFields::default();
    let mut all = Vec::new();
    let mut numbers: BTreeMap<String, (&Path, u64, String)> = BTreeMap::new();
    for (index, (file, inspected)) in files.iter().zip(inspected).enumerate() {
        let Columns::Jsonl(found) = &inspected.columns else { continue };
        let path = &*file.path;
        if index == 0 {
            merged = found.columns.clone();
        } else {
            jsonl::merge(&mut merged, &found.columns).map_err(|error| error.at(path.display()))?;
        }
        for (name, column) in &found.columns.fields {
            for (field, line, number) in column.digits_inside(name) {
                numbers.entry(field).or_insert((path, line, number));
            }
        }
        // The columns of a file without rows are unknown.
        if found.columns.fields.is_empty() {
            continue;
        }
        let fields = found.columns.fields.iter();
        let fields = fields.map(|(name, column)| Field::new(name, column.seen_type(), true));
        all.push(FileColumns { path, schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())) });
    }
    for (name, column) in &merged.fields {
        for field in column.numbers_as_text(name) {
            if let Some((path, line, number)) = numbers.get(&field) {
                notes.push(number_as_text(&field, path, *line, number));
            }
        }
    }
    Ok((all, Arc::new(Schema::new(merged.arrow()))))
}

/// The files whose columns have no common type, and the difference in words.
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
    .hint("no type holds the values of both unchanged: read them as two sources, or write the column with one type")
}

/// Refuses duplicate column names, which cannot be referred to.
fn check_names(path: &Path, schema: &Schema) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        Arc::new(Schema::new(
            fields.iter().map(|(n, t)| Field::new(*n, t.clone(), false)).collect::<Vec<_>>(),
        ))
    }

    fn files(schemas: Vec<SchemaRef>) -> Vec<FileColumns<'static>> {
        let paths = ["a", "b", "c"].into_iter().map(Path::new);
        paths.zip(schemas).map(|(path, schema)| FileColumns { path, schema }).collect()
    }

    #[test]
    fn by_name_widens_and_fills() {
        let files = files(vec![
            schema(&[("id", DataType::Int32), ("text", DataType::Utf8)]),
            schema(&[
                ("text", DataType::LargeUtf8),
                ("id", DataType::Int64),
                ("n", DataType::Int8),
            ]),
        ]);
        let mut notes = Vec::new();
        let merged = union(&files, &mut notes).unwrap();
        let merged = filled(&files, &merged, &mut notes);
        let words: Vec<_> = merged
            .fields()
            .iter()
            .map(|f| format!("{} {} {}", f.name(), f.data_type(), f.is_nullable()))
            .collect();
        assert_eq!(words, ["id Int64 false", "text LargeUtf8 false", "n Int8 true"]);
        assert_eq!(
            notes,
            [
                "the column `id` is Int32 in `a` and Int64 in `b`: it is read as Int64",
                "the column `text` is Utf8 in `a` and LargeUtf8 in `b`: it is read as LargeUtf8",
                "1 of 2 files do not have the column `n`, such as `a`: it is null there",
            ]
        );
    }

    #[test]
    fn differences_name_both_files() {
        let files =
            files(vec![schema(&[("id", DataType::Int32)]), schema(&[("id", DataType::Utf8)])]);
        let error = union(&files, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(
            error.message(),
            "`a` and `b` have different columns: column `id` is Int32 and Utf8"
        );
    }

    #[test]
    fn strict_takes_the_same_columns_in_any_order() {
        let check = |a: &[(&str, DataType)], b: &[(&str, DataType)]| {
            let files = files(vec![schema(a), schema(b)]);
            check_strict(&files).map_err(|error| error.message().to_owned())
        };
        let (int, text) = (DataType::Int64, DataType::Utf8);
        let both = [("a", int.clone()), ("b", text.clone())];
        check(&both, &[("b", text.clone()), ("a", int.clone())]).unwrap();
        check(&both, &[("b", DataType::Null), ("a", int.clone())]).unwrap();
        for (other, expected) in [
            (vec![("a", int.clone())], "`b`: there is no column `b`, which is Utf8 in `a`"),
            (
                vec![("a", text.clone()), ("b", text.clone())],
                "`b`: the column `a` is Utf8, and Int64 in `a`",
            ),
            (
                vec![("a", int.clone()), ("b", text.clone()), ("c", int)],
                "`b`: there is a column `c` of Int64, which is not in `a`",
            ),
        ] {
            assert_eq!(check(&both, &other).unwrap_err(), expected);
        }
    }
}
