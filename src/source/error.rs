//! Maps DataFusion's errors to ours: whose fault it is, and in which file. Not here: showing errors.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::errors::ParquetError;

use super::InputFile;
use crate::error::{Error, ErrorKind};

/// Maps an error from a stream of record batches, or from planning a query.
///
/// Returns a wrapped [`Error`] unchanged. For other errors, the root of the chain determines the kind: broken bytes and
/// values are `Data`, SQL and planning are `Config`, memory and spill space are `Resources`, a broken invariant or a panic
/// is `Internal`. A `Data` error names its file if that is known: always for a single file, and for Parquet if reading the
/// files again shows it.
pub fn stream_error(error: DataFusionError, files: &[Arc<InputFile>]) -> Error {
    let error = match take_ours(Box::new(error)) {
        Ok(ours) => return ours,
        Err(error) => error,
    };
    // An error shared between receivers cannot be moved out, only copied.
    if let Some(ours) = chain(error.as_ref()).find_map(|cause| cause.downcast_ref::<Error>()) {
        return ours.again();
    }
    let reason = reason(error.as_ref());
    let kind = if is_of_text(&reason) { ErrorKind::Config } else { kind_of(error.as_ref()) };
    let place = place_in_query(error.as_ref());
    let error = match kind {
        ErrorKind::Data if is_computed(error.as_ref()) => {
            // The innermost cause is the full reason: its wrappers only repeat it.
            Error::new(kind, format!("SQL failed on a row: {reason}"))
        }
        ErrorKind::Data | ErrorKind::NoInput => {
            let culprit = culprit(&reason, files);
            let message = match (&culprit, kind) {
                (Some(file), ErrorKind::NoInput) => {
                    format!("cannot open `{}`: {reason}", file.path.display())
                }
                (Some(file), _) => {
                    format!("cannot read the rows of `{}`: {reason}", file.path.display())
                }
                (None, _) => format!("cannot read the rows: {reason}"),
            };
            let error = Error::new(kind, message).source(error);
            match culprit {
                Some(file) => error.at(file.path.display()),
                None if files.is_empty() => error,
                None => error.at(format!("one of {} input files", files.len())),
            }
        }
        ErrorKind::Resources => Error::new(kind, reason)
            .source(error)
            .hint("give the run more memory, or sort, join or aggregate fewer rows"),
        ErrorKind::Internal => {
            Error::new(kind, format!("the query engine failed: {reason}")).source(error)
        }
        // The wrappers of a parser's or planner's error only repeat its reason.
        _ => with_hint(Error::new(kind, reason)),
    };
    match place {
        Some(place) => error.at(place),
        None => error,
    }
}

/// Remedies for errors that the planner does not explain.
fn with_hint(error: Error) -> Error {
    if error.message().contains("Dot access not supported") {
        let message = "a key after a dot needs a column, not the result of a call";
        return Error::new(error.kind(), message)
            .hint("write the key in brackets: `classify(text, 'model')['label']`");
    }
    error
}

/// Like [`stream_error`], for planning user SQL: an internal error of the engine means that it cannot plan the query.
pub fn query_error(error: DataFusionError, files: &[Arc<InputFile>]) -> Error {
    let is_internal = kind_of(&error) == ErrorKind::Internal
        && chain(&error).any(|cause| {
            matches!(cause.downcast_ref::<DataFusionError>(), Some(DataFusionError::Internal(_)))
        })
        && !chain(&error).any(<dyn std::error::Error>::is::<Error>);
    if is_internal {
        let reason = reason(&error);
        return Error::new(
            ErrorKind::Config,
            format!("the query engine cannot compute this: {reason}"),
        )
        .hint("rewrite the query");
    }
    stream_error(error, files)
}

/// The position of an unknown name that the planner found; parser errors contain the position in their text.
fn place_in_query(error: Cause<'_>) -> Option<String> {
    let span = chain(error).find_map(|cause| match cause.downcast_ref::<DataFusionError>()? {
        DataFusionError::Diagnostic(diagnostic, _) => diagnostic.span,
        _ => None,
    })?;
    Some(format!("line {}, column {} of the SQL", span.start.line, span.start.column))
}

type Boxed = Box<dyn StdError + Send + Sync>;

/// Unwraps our error.
fn take_ours(error: Boxed) -> Result<Error, Boxed> {
    let error = match error.downcast::<Error>() {
        Ok(ours) => return Ok(*ours),
        Err(other) => other,
    };
    let error = match error.downcast::<ArrowError>() {
        Ok(arrow) => {
            return match *arrow {
                ArrowError::ExternalError(inner) => {
                    take_ours(inner).map_err(|e| Box::new(ArrowError::ExternalError(e)) as Boxed)
                }
                other => Err(Box::new(other)),
            };
        }
        Err(other) => other,
    };
    let error = error.downcast::<DataFusionError>()?;
    match *error {
        DataFusionError::External(inner) => {
            take_ours(inner).map_err(|e| Box::new(DataFusionError::External(e)) as Boxed)
        }
        DataFusionError::ArrowError(inner, backtrace) => match *inner {
            ArrowError::ExternalError(inner) => take_ours(inner).map_err(|e| {
                let arrow = Box::new(ArrowError::ExternalError(e));
                Box::new(DataFusionError::ArrowError(arrow, backtrace)) as Boxed
            }),
            other => Err(Box::new(DataFusionError::ArrowError(Box::new(other), backtrace))),
        },
        DataFusionError::Context(text, inner) => {
            take_ours(inner).map_err(|error| match error.downcast::<DataFusionError>() {
                Ok(inner) => Box::new(DataFusionError::Context(text, inner)) as Boxed,
                Err(other) => other,
            })
        }
        DataFusionError::Diagnostic(diagnostic, inner) => {
            take_ours(inner).map_err(|error| match error.downcast::<DataFusionError>() {
                Ok(inner) => Box::new(DataFusionError::Diagnostic(diagnostic, inner)) as Boxed,
                Err(other) => other,
            })
        }
        DataFusionError::Collection(mut errors) if !errors.is_empty() => {
            take_ours(Box::new(errors.swap_remove(0)))
        }
        DataFusionError::Shared(shared) => match Arc::try_unwrap(shared) {
            Ok(error) => take_ours(Box::new(error)),
            Err(shared) => Err(Box::new(DataFusionError::Shared(shared))),
        },
        other => Err(Box::new(other)),
    }
}

type Cause<'e> = &'e (dyn StdError + 'static);

fn chain(error: Cause<'_>) -> impl Iterator<Item = Cause<'_>> {
    fn next<'e>(error: &Cause<'e>) -> Option<Cause<'e>> {
        let error: Cause<'e> = *error;
        // The chain of a shared error passes through the `Arc` itself.
        match error.downcast_ref::<Arc<DataFusionError>>() {
            Some(shared) => Some(shared.as_ref()),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), next)
}

/// The kind by the innermost known error.
fn kind_of(error: Cause<'_>) -> ErrorKind {
    let mut kind = ErrorKind::Internal;
    for cause in chain(error) {
        if let Some(error) = cause.downcast_ref::<DataFusionError>() {
            kind = match error {
                DataFusionError::SQL(..)
                | DataFusionError::Plan(_)
                | DataFusionError::SchemaError(..)
                | DataFusionError::Configuration(_)
                | DataFusionError::NotImplemented(_) => ErrorKind::Config,
                DataFusionError::ArrowError(..)
                | DataFusionError::ParquetError(_)
                | DataFusionError::ObjectStore(_)
                | DataFusionError::IoError(_)
                | DataFusionError::Execution(_) => ErrorKind::Data,
                DataFusionError::ResourcesExhausted(_) => return ErrorKind::Resources,
                _ => ErrorKind::Internal,
            };
        } else if let Some(error) = cause.downcast_ref::<ArrowError>() {
            kind = match error {
                ArrowError::MemoryError(_) => return ErrorKind::Resources,
                ArrowError::NotYetImplemented(_) => ErrorKind::Config,
                ArrowError::CDataInterface(_) => ErrorKind::Internal,
                _ => ErrorKind::Data,
            };
        } else if cause.is::<ParquetError>() {
            kind = ErrorKind::Data;
        } else if let Some(error) = cause.downcast_ref::<object_store::Error>() {
            kind = match error {
                object_store::Error::NotFound { .. }
                | object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. } => return ErrorKind::NoInput,
                _ => ErrorKind::Data,
            };
        } else if let Some(error) = cause.downcast_ref::<io::Error>() {
            kind = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ErrorKind::NoInput,
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::OutOfMemory => ErrorKind::Resources,
                _ => ErrorKind::Data,
            };
        }
    }
    kind
}

/// The innermost text, without the wrappers' prefixes and without a backtrace.
fn reason(error: Cause<'_>) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        text = match cause.downcast_ref::<DataFusionError>() {
            Some(error) => error.strip_backtrace(),
            None => cause.to_string(),
        };
    }
    // A prefix such as `Error during planning: ` only repeats the kind.
    for prefix in ["Error during planning: ", "Execution error: ", "Schema error: "] {
        if let Some(rest) = text.strip_prefix(prefix) {
            text = rest.to_owned();
        }
    }
    // DataFusion's message asks users to report the bug to its developers, but the bug may be ours.
    if let Some(rest) = text.strip_prefix("Internal error: ") {
        let bug = rest.find("This issue was likely caused by a bug in DataFusion");
        let after = rest.find("datafusion/issues").map(|at| at + "datafusion/issues".len());
        text = match (bug, after) {
            (Some(bug), Some(after)) if bug < after => {
                let (before, after) =
                    (rest[..bug].trim_end(), rest[after..].trim_start_matches('.'));
                format!("{} {}", before.trim_end_matches([',', '.']), after.trim_start())
            }
            _ => rest.to_owned(),
        };
    }
    text.trim().trim_end_matches('.').to_owned()
}

/// The file that an error comes from, if it is known.
fn culprit<'f>(reason: &str, files: &'f [Arc<InputFile>]) -> Option<&'f InputFile> {
    if let [file] = files {
        return Some(file);
    }
    let all = files.iter().map(|file| &**file);
    let named = all.clone().find(|file| reason.contains(&*file.path.to_string_lossy()));
    named.or_else(|| {
        all.filter(|file| !file.is_remote()).find(|file| match std::fs::File::open(&file.path) {
            Err(_) => true,
            Ok(opened) => {
                let is_parquet = file
                    .path
                    .extension()
                    .is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
                let shrunk = opened.metadata().is_ok_and(|data| data.len() < file.bytes);
                shrunk || (is_parquet && !is_readable_parquet(opened))
            }
        })
    })
}

/// Whether every page can be decoded. Reads the file again: a failed run can afford that.
fn is_readable_parquet(file: std::fs::File) -> bool {
    ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .is_ok_and(|mut batches| batches.all(|batch| batch.is_ok()))
}

/// Whether an error comes from computing an expression, not from reading a file.
fn is_computed(error: Cause<'_>) -> bool {
    chain(error).any(|cause| match cause.downcast_ref::<ArrowError>() {
        Some(
            ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::CastError(_)
            | ArrowError::ComputeError(_),
        ) => true,
        // Parse errors of the CSV reader start differently.
        Some(ArrowError::ParseError(said)) => !said.starts_with("Error while parsing value"),
        _ => matches!(cause.downcast_ref::<DataFusionError>(), Some(DataFusionError::Execution(_))),
    })
}

/// Whether the query is wrong independently of the rows: a regular expression, a missing field.
fn is_of_text(reason: &str) -> bool {
    ["Regular expression did not compile", "regex parse error", "Cannot access field at argument"]
        .iter()
        .any(|words| reason.contains(words))
}

/// Names the cast in `plan` that failed on a value, as far as its type identifies it.
#[must_use]
pub fn name_cast(error: Error, plan: &LogicalPlan) -> Error {
    // Arrow's message for a failed cast contains only the type.
    let said = error.message();
    let is_cast = ["Cast error", "cast", "parsing", "parse"].iter().any(|word| said.contains(word));
    if error.kind() != ErrorKind::Data || !is_cast {
        return error;
    }
    let mut casts = BTreeSet::new();
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Cast(cast) = expr
                    && is_named(cast.field.data_type(), said)
                {
                    casts.insert(format!("CAST({} AS {})", cast.expr, cast.field.data_type()));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    if casts.is_empty() || casts.len() > MAX_CASTS {
        return error;
    }
    let casts = casts.into_iter().map(|cast| format!("`{cast}`")).collect::<Vec<_>>();
    error.at(casts.join(" or ")).hint("TRY_CAST gives NULL for a value that does not fit")
}

/// The most casts to the same type that an error names.
const MAX_CASTS: usize = 4;

fn is_named(data_type: &DataType, said: &str) -> bool {
    let name = match data_type {
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Decimal128(..) | DataType::Decimal256(..) => "decimal".to_owned(),
        other => other.to_string().to_lowercase(),
    };
    said.to_lowercase().contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Error {
        Error::new(ErrorKind::Model, "tensor `x` is missing")
            .source(io::Error::other("cause"))
            .at("minilm")
            .hint("fetch it again")
    }

    #[test]
    fn ours_comes_out_as_it_went_in() {
        let check = |error: DataFusionError| {
            let error = stream_error(error, &[]);
            assert_eq!(error.to_string(), ours().to_string());
            assert_eq!(error.kind(), ErrorKind::Model);
        };
        let external = || DataFusionError::External(Box::new(ours()));
        check(external());
        check(external().context("while executing"));
        check(DataFusionError::External(Box::new(external())));
        let arrow = ArrowError::ExternalError(Box::new(ours()));
        check(DataFusionError::ArrowError(Box::new(arrow), None));
        let arrow = ArrowError::ExternalError(Box::new(external()));
        check(DataFusionError::ArrowError(Box::new(arrow), None));
        let shared = Arc::new(external());
        let other = Arc::clone(&shared);
        check(DataFusionError::Shared(shared));
        drop(other);
    }

    #[test]
    fn the_root_decides_the_kind() {
        let check = |error: DataFusionError, kind: ErrorKind, message: &str| {
            let error = stream_error(error, &[]);
            assert_eq!((error.kind(), error.message()), (kind, message));
        };
        let arrow = |error| DataFusionError::ArrowError(Box::new(error), None);
        check(
            arrow(ArrowError::CsvError("line 3".into())).context("scan"),
            ErrorKind::Data,
            "cannot read the rows: Csv error: line 3",
        );
        check(DataFusionError::Plan("no such".into()), ErrorKind::Config, "no such");
        check(
            DataFusionError::ResourcesExhausted("pool".into()).context("sort"),
            ErrorKind::Resources,
            "Resources exhausted: pool",
        );
        check(
            DataFusionError::IoError(io::Error::from(io::ErrorKind::StorageFull)),
            ErrorKind::Resources,
            "no storage space",
        );
        let internal = stream_error(DataFusionError::Internal("oops".into()), &[]);
        assert_eq!(internal.kind(), ErrorKind::Internal);
    }

    #[test]
    fn one_file_is_the_culprit() {
        let folder = tempfile::tempdir().unwrap();
        let stamp = std::fs::metadata(folder.path()).unwrap();
        let stamp = super::super::stamp::FileStamp::of_file(&stamp).unwrap();
        let path = std::path::Path::new("/data/a.csv").into();
        let file = Arc::new(InputFile { path, bytes: 1, rows: None, stamp, remote: None });
        let error = DataFusionError::ArrowError(Box::new(ArrowError::CsvError("x".into())), None);
        let error = stream_error(error, &[file]);
        assert_eq!(error.message(), "cannot read the rows of `/data/a.csv`: Csv error: x");
        assert_eq!(error.places(), ["/data/a.csv"]);
    }
}
