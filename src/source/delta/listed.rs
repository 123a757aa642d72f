//! The files of a version as files of a source, and its columns as those of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::StringArray;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::parsers::CompressionTypeVariant as Codec;

use super::super::listing::{Form, ListedFile, local_path, unescape};
use super::super::remote;
use super::super::stamp::FileStamp;
use super::super::unify::is_plain;
use super::actions::Add;
use super::columns;
use super::protocol::vector_name;
use super::snapshot::Snapshot;
use crate::config::pipeline::FileFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Place};

/// The columns that a table says it has.
#[derive(Clone, Debug)]
pub(in crate::source) struct Declared {
    schema: Schema,
    partitions: Vec<String>,
}

/// The files of a table, at its last version or the one asked for, and its columns.
///
/// # Errors
/// `NoInput` if there is no table or a file of it is gone, `Data` if the table needs what is not read.
pub(in crate::source) fn list(
    table: &str,
    version: Option<u64>,
) -> Result<(Vec<ListedFile>, Declared)> {
    let snapshot = Snapshot::of(table, version)?.ok_or_else(|| {
        Error::new(ErrorKind::NoInput, format!("`{table}` is not a Delta table"))
            .hint("its folder has no `_delta_log` with a version")
    })?;
    tracing::info!(table, version = snapshot.version, "Delta table found");
    let declared = Declared::of(&snapshot)?;
    if snapshot.files.is_empty() {
        let message =
            format!("the Delta table `{table}` has no rows at version {}", snapshot.version);
        return Err(Error::new(ErrorKind::NoInput, message).hint("there is nothing to read"));
    }
    let mut names = Vec::new();
    for add in snapshot.files.values() {
        if let Some(vector) = &add.deletion_vector {
            let message = format!(
                "the Delta table `{table}` has rows deleted by a deletion vector (`{}`), which is not read: \
                 file `{}`",
                vector_name(vector),
                add.path
            );
            return Err(Error::new(ErrorKind::Data, message).hint(
                "`REORG TABLE … APPLY (PURGE)` writes such files again without the deleted rows",
            ));
        }
        names.push((inside(table, add)?, add));
    }
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    let files = if store::is_url(table) {
        objects(table, &names, &declared)?
    } else {
        local(table, &names, &declared)?
    };
    Ok((files, declared))
}

/// The path of a file in the folder of its table.
fn inside(table: &str, add: &Add) -> Result<String> {
    let path = Some(unescape(&add.path)).filter(|path| {
        !add.path.contains(':')
            && !path.contains('\0')
            && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
    });
    path.ok_or_else(|| {
        let message = format!(
            "the Delta table `{table}` has the file `{}` outside of its folder, which is not read",
            add.path
        );
        Error::new(ErrorKind::Data, message).hint(
            "a shallow clone has the files of another table: read that one, or make a deep clone",
        )
    })
}

fn gone(table: &str, path: &Path) -> Error {
    let message = format!("the Delta table `{table}` has lost its file `{}`", path.display());
    Error::new(ErrorKind::NoInput, message)
        .hint("an old version cannot be read after `VACUUM`; otherwise restore the file")
}

const FORM: Form = Form { format: FileFormat::Parquet, codec: Codec::UNCOMPRESSED };

fn local(table: &str, names: &[(String, &Add)], declared: &Declared) -> Result<Vec<ListedFile>> {
    let folder = local_path(table)?;
    let real_folder =
        std::fs::canonicalize(&folder).map_err(|error| gone(table, &folder).source(error))?;
    let listed = names.iter().map(|(name, add)| {
        let path = folder.join(name);
        let lost = |error: std::io::Error| gone(table, &path).source(error);
        let real = std::fs::canonicalize(&path).map_err(lost)?;
        if !real.starts_with(&real_folder) {
            return Err(outside(table, &path));
        }
        let metadata = std::fs::metadata(&real).map_err(lost)?;
        if !metadata.is_file() {
            return Err(gone(table, &path));
        }
        let stamp = FileStamp::of_file(&metadata).map_err(lost)?;
        let (bytes, remote) = (metadata.len(), None);
        let partitions = declared.values(add);
        Ok(ListedFile {
            path: path.into(),
            real: real.into(),
            bytes,
            stamp,
            form: FORM,
            remote,
            partitions,
        })
    });
    listed.collect()
}

fn outside(table: &str, path: &Path) -> Error {
    let message = format!(
        "the file `{}` of the Delta table `{table}` is a link to outside of its folder",
        path.display()
    );
    Error::new(ErrorKind::Data, message).hint("copy the file to the place of the link")
}

fn objects(table: &str, names: &[(String, &Add)], declared: &Declared) -> Result<Vec<ListedFile>> {
    let place = Place::open(table)?;
    let mut there: BTreeMap<String, _> = remote::objects_below(&place)?
        .into_iter()
        .map(|(file, stamp)| (file.place.path.to_string(), (file, stamp)))
        .collect();
    let prefix = match place.path.as_ref() {
        "" => String::new(),
        path => format!("{path}/"),
    };
    let listed = names.iter().map(|(name, add)| {
        let found = there.remove(&format!("{prefix}{name}"));
        let (file, stamp) = found.ok_or_else(|| gone(table, Path::new(name)))?;
        let path = PathBuf::from(file.url());
        let (bytes, partitions) = (file.bytes(), declared.values(add));
        let (real, remote) = (path.clone(), Some(Arc::new(file)));
        Ok(ListedFile {
            path: path.into(),
            real: real.into(),
            bytes,
            stamp,
            form: FORM,
            remote,
            partitions,
        })
    });
    listed.collect()
}

impl Declared {
    fn of(snapshot: &Snapshot) -> Result<Self> {
        let table = &snapshot.table;
        let wrong = |what: String| {
            let message =
                format!("the columns of the Delta table `{table}` cannot be read: {what}");
            Error::new(ErrorKind::Data, message)
        };
        let schema = columns::read(&snapshot.metadata.schema_string).map_err(wrong)?;
        let partitions = snapshot.metadata.partition_columns.clone();
        let mut seen = BTreeSet::new();
        for name in &partitions {
            let field = schema.field_with_name(name);
            let field = field.map_err(|_| wrong(format!("there is no column `{name}`")))?;
            if !seen.insert(name) {
                return Err(wrong(format!("it is partitioned by `{name}` twice")));
            }
            let data_type = field.data_type();
            if data_type.is_nested() || *data_type == DataType::Binary {
                return Err(wrong(format!("it is partitioned by `{name}`, which is {data_type}")));
            }
        }
        Ok(Self { schema, partitions })
    }

    /// The partition of a file. An empty text is null.
    fn values(&self, add: &Add) -> Vec<(String, Option<String>)> {
        let value = |name: &String| add.partition_values.get(name).cloned().flatten();
        let values = self.partitions.iter();
        values.map(|name| (name.clone(), value(name).filter(|text| !text.is_empty()))).collect()
    }

    /// The columns of the table, which its files may lack or hold in another type, and whether DataFusion's scan can still
    /// convert every file. `found` are the columns of all files together.
    ///
    /// # Errors
    /// `Data` if a file's column, or a partition, cannot be the column that the table has.
    pub(in crate::source) fn applied(
        &self,
        found: &Schema,
        was_plain: bool,
        files: &[ListedFile],
    ) -> Result<(SchemaRef, bool)> {
        let mut plain = was_plain;
        let mut fields = Vec::new();
        for field in self.schema.fields() {
            let (name, wanted) = (field.name(), field.data_type());
            if let Some(at) = self.partitions.iter().position(|partition| partition == name) {
                check_values(name, wanted, at, files)?;
                fields.push(Field::new(name, wanted.clone(), true));
                continue;
            }
            let Ok(own) = found.field_with_name(name) else {
                fields.push(Field::new(name, wanted.clone(), true));
                continue;
            };
            let same = columns::delta(own.data_type());
            let is_same = same.is_ok() && same == columns::delta(wanted);
            // Milliseconds and view types hold the same values.
            if is_same && !matches!(wanted, DataType::Timestamp(..)) {
                fields.push(own.clone());
                continue;
            }
            if !converts(own.data_type(), wanted) {
                let message = format!(
                    "the column `{name}` is {} in the files of the Delta table, and {wanted} in its log",
                    own.data_type()
                );
                return Err(Error::new(ErrorKind::Data, message));
            }
            plain &= is_plain(own.data_type(), wanted);
            fields.push(own.clone().with_data_type(wanted.clone()));
        }
        Ok((Arc::new(Schema::new(fields)), plain))
    }
}

/// Whether the values of a file's column are those of the table's, in another type: `INT96` of Spark, and widened numbers.
fn converts(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(..), DataType::Timestamp(..)) => true,
        _ => is_plain(from, to),
    }
}

fn check_values(name: &str, wanted: &DataType, at: usize, files: &[ListedFile]) -> Result<()> {
    let values: StringArray = files.iter().map(|file| file.partitions[at].1.as_deref()).collect();
    let options = CastOptions { safe: false, ..CastOptions::default() };
    match cast_with_options(&values, wanted, &options) {
        Ok(_) => Ok(()),
        Err(error) => {
            let message = format!("a value of the partition `{name}` is not {wanted}");
            Err(Error::new(ErrorKind::Data, message).source(error))
        }
    }
}
