//! The types that each format stores. As in pyarrow, a column is stored as the nearest type of the format, or refused by
//! name before anything is computed.
//!
//! | format  | what is stored as another type                                                                        |
//! |---------|-------------------------------------------------------------------------------------------------------|
//! | Parquet | timestamps and times in seconds as milliseconds, Date64 as DATE, list views as lists; run-end encoded |
//! |         | values, and dictionaries of values other than text and bytes, as plain values                         |
//! | Arrow   | dictionaries as plain values: the IPC file format allows one dictionary per column                    |
//! | CSV     | nested values as JSON text                                                                            |
//!
//! Not here: the encoders (`encode`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_empty_array};
use arrow::compute::{CastOptions, can_cast_types, cast, cast_with_options, max, min};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int32Type, Int64Type, Schema, TimeUnit};
use arrow::json::EncoderOptions;
use arrow::json::writer::make_encoder;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, Utc};
use parquet::arrow::ArrowSchemaConverter;

use crate::config::pipeline::FileFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// The field as stored in a file.
///
/// # Errors
/// `Config` when the format cannot hold it; the hint names the formats that can.
pub(super) fn stored(format: FileFormat, field: &FieldRef) -> Result<FieldRef> {
    let reason = match storable(format, field) {
        Ok(stored) => return Ok(stored),
        Err(reason) => reason,
    };
    let message = format!("{} cannot hold the column `{}`: {reason}", format.name(), field.name());
    let others = [FileFormat::Parquet, FileFormat::Jsonl, FileFormat::Arrow].into_iter();
    let others: Vec<_> = others
        .filter(|other| *other != format && storable(*other, field).is_ok())
        .map(FileFormat::name)
        .collect();
    let mut hint = "leave the column out with a `sql` step".to_owned();
    if contains(field.data_type(), &|inner| matches!(inner, DataType::Interval(_))) {
        hint = format!("write it as text with a `sql` step: CAST({} AS VARCHAR)", field.name());
    }
    if !others.is_empty() {
        hint = format!("{hint}, or write {}", others.join(" or "));
    }
    Err(Error::new(ErrorKind::Config, message).hint(hint))
}

/// The field as stored in a file, or the reason that the format cannot store it.
fn storable(format: FileFormat, field: &FieldRef) -> std::result::Result<FieldRef, String> {
    let data_type = field.data_type();
    let stored = match format {
        FileFormat::Parquet => rewritten(data_type, &parquet_leaf),
        FileFormat::Arrow => rewritten(data_type, &arrow_leaf),
        FileFormat::Csv if data_type.is_nested() => DataType::Utf8,
        FileFormat::Csv | FileFormat::Jsonl => data_type.clone(),
    };
    let refused = |kind: &dyn Fn(&DataType) -> bool| {
        contains(data_type, kind).then(|| format!("its type is {data_type}"))
    };
    match format {
        FileFormat::Parquet => {
            if let Some(its_type) = refused(&|inner| matches!(inner, DataType::Union(..))) {
                return Err(format!("{its_type}, but Parquet has no unions"));
            }
            // Parquet's INTERVAL has neither sign nor nanoseconds; pyarrow refuses these as well.
            if let Some(its_type) = refused(&|inner| matches!(inner, DataType::Interval(_))) {
                return Err(format!("{its_type}, for which Parquet has no type"));
            }
        }
        FileFormat::Csv => {
            if let Some(its_type) = refused(&is_binary) {
                return Err(format!("{its_type}, which is not text"));
            }
        }
        FileFormat::Arrow | FileFormat::Jsonl => {}
    }
    if format != FileFormat::Csv && stored != *data_type && !can_cast_types(data_type, &stored) {
        return Err(format!("its type is {data_type}, which has no plain form"));
    }
    let stored = Arc::new(field.as_ref().clone().with_data_type(stored));
    let checked = guarded(ErrorKind::Config, "the type", || {
        let broken = |e: &dyn std::error::Error| Error::new(ErrorKind::Config, e.to_string());
        match format {
            FileFormat::Parquet => {
                let schema = Schema::new(vec![Arc::clone(&stored)]);
                ArrowSchemaConverter::new().convert(&schema).map(drop).map_err(|e| broken(&e))
            }
            FileFormat::Csv if !data_type.is_nested() => {
                let rows = new_empty_array(data_type);
                let formatter = ArrayFormatter::try_new(&rows, &FormatOptions::default());
                formatter.map(drop).map_err(|e| broken(&e))
            }
            FileFormat::Csv | FileFormat::Jsonl => {
                let (rows, options) = (new_empty_array(data_type), EncoderOptions::default());
                make_encoder(field, &rows, &options).map(drop).map_err(|e| broken(&e))
            }
            FileFormat::Arrow => Ok(()),
        }
    });
    checked.map(|()| stored).map_err(|error| error.message().to_owned())
}

fn parquet_leaf(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            Some(DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))
        }
        DataType::Date64 => Some(DataType::Date32),
        DataType::Time32(TimeUnit::Second) => Some(DataType::Time32(TimeUnit::Millisecond)),
        // The writer chooses 64 bits for a precision of one digit, and cannot convert 32 bits to it.
        DataType::Decimal32(1, scale) => Some(DataType::Decimal64(1, *scale)),
        DataType::Dictionary(_, values) if !is_text(values) && !is_binary(values) => {
            Some(rewritten(values, &parquet_leaf))
        }
        DataType::RunEndEncoded(_, values) => Some(rewritten(values.data_type(), &parquet_leaf)),
        DataType::ListView(item) => Some(DataType::List(rewritten_field(item, &parquet_leaf))),
        DataType::LargeListView(item) => {
            Some(DataType::LargeList(rewritten_field(item, &parquet_leaf)))
        }
        _ => None,
    }
}

fn arrow_leaf(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Dictionary(_, values) => Some(rewritten(values, &arrow_leaf)),
        DataType::RunEndEncoded(_, values) if contains(values.data_type(), &is_dictionary) => {
            Some(rewritten(values.data_type(), &arrow_leaf))
        }
        _ => None,
    }
}

/// The type with `leaf` applied to itself or its nested types.
fn rewritten(data_type: &DataType, leaf: &dyn Fn(&DataType) -> Option<DataType>) -> DataType {
    let field = |inner: &FieldRef| rewritten_field(inner, leaf);
    match (leaf(data_type), data_type) {
        (Some(other), _) => other,
        (None, DataType::List(item)) => DataType::List(field(item)),
        (None, DataType::LargeList(item)) => DataType::LargeList(field(item)),
        (None, DataType::ListView(item)) => DataType::ListView(field(item)),
        (None, DataType::LargeListView(item)) => DataType::LargeListView(field(item)),
        (None, DataType::FixedSizeList(item, size)) => DataType::FixedSizeList(field(item), *size),
        (None, DataType::Map(entries, sorted)) => DataType::Map(field(entries), *sorted),
        (None, DataType::Struct(fields)) => {
            DataType::Struct(fields.iter().map(field).collect::<Fields>())
        }
        (None, DataType::RunEndEncoded(ends, values)) => {
            DataType::RunEndEncoded(Arc::clone(ends), field(values))
        }
        (None, other) => other.clone(),
    }
}

fn rewritten_field(field: &FieldRef, leaf: &dyn Fn(&DataType) -> Option<DataType>) -> FieldRef {
    let data_type = rewritten(field.data_type(), leaf);
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_dictionary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Dictionary(..))
}

fn is_binary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        DataType::Dictionary(_, values) => is_binary(values),
        _ => false,
    }
}

/// Whether the type or a nested type satisfies a predicate.
pub(super) fn contains(data_type: &DataType, kind: &dyn Fn(&DataType) -> bool) -> bool {
    let inside = |field: &Field| contains(field.data_type(), kind);
    kind(data_type)
        || match data_type {
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _)
            | DataType::RunEndEncoded(_, field) => inside(field),
            DataType::Struct(fields) => fields.iter().any(|field| inside(field)),
            DataType::Union(fields, _) => fields.iter().any(|(_, field)| inside(field)),
            DataType::Dictionary(_, values) => contains(values, kind),
            _ => false,
        }
}

/// Converts a column to its stored type.
///
/// # Errors
/// `Data` for a value that the stored type cannot hold.
pub(super) fn store(column: &ArrayRef, stored: &Field) -> Result<ArrayRef> {
    // A `safe` cast would turn a value that does not fit into null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, stored.data_type(), &options).map_err(|error| {
        let (name, to) = (stored.name(), stored.data_type());
        let message = format!("a value of the column `{name}` is out of range for {to}");
        Error::new(ErrorKind::Data, message).source(error)
    })
}

/// Fails for times without a text form, in place of which the encoders would write an error message.
pub(super) fn check_times(field: &Field, column: &ArrayRef) -> Result<()> {
    if contains(field.data_type(), &DataType::is_temporal) && !in_calendar(column) {
        let message = format!(
            "a value of the column `{}` is out of range: the calendar ends with the year 262142",
            field.name()
        );
        return Err(Error::new(ErrorKind::Data, message)
            .hint("leave such rows out with a `sql` step, or write parquet"));
    }
    Ok(())
}

fn in_calendar(array: &dyn Array) -> bool {
    const DAY: i64 = 86_400;
    // One day less at either end, because a time zone shifts the clock by up to 14 hours.
    let first = DateTime::<Utc>::MIN_UTC.timestamp() + DAY;
    let last = DateTime::<Utc>::MAX_UTC.timestamp() - DAY;
    let within = |low: i64, high: i64| {
        // Reinterprets the stored numbers without changing them.
        let range = match array.data_type() {
            DataType::Date32 | DataType::Time32(_) => {
                cast(array, &DataType::Int32).ok().and_then(|values| {
                    let values = values.as_primitive::<Int32Type>();
                    Some((i64::from(min(values)?), i64::from(max(values)?)))
                })
            }
            _ => cast(array, &DataType::Int64).ok().and_then(|values| {
                let values = values.as_primitive::<Int64Type>();
                Some((min(values)?, max(values)?))
            }),
        };
        range.is_none_or(|(least, most)| low <= least && most <= high)
    };
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => true,
        DataType::Timestamp(unit, _) => within(first * per_second(*unit), last * per_second(*unit)),
        DataType::Date32 => within(first / DAY, last / DAY),
        DataType::Date64 => within(first * 1000, last * 1000),
        DataType::Time32(unit) | DataType::Time64(unit) => within(0, DAY * per_second(*unit) - 1),
        DataType::Dictionary(..) => in_calendar(array.as_any_dictionary().values()),
        DataType::List(_) => in_calendar(array.as_list::<i32>().values()),
        DataType::LargeList(_) => in_calendar(array.as_list::<i64>().values()),
        DataType::ListView(_) => in_calendar(array.as_list_view::<i32>().values()),
        DataType::LargeListView(_) => in_calendar(array.as_list_view::<i64>().values()),
        DataType::FixedSizeList(..) => in_calendar(array.as_fixed_size_list().values()),
        DataType::Map(..) => in_calendar(array.as_map().entries()),
        DataType::Struct(_) => array.as_struct().columns().iter().all(|column| in_calendar(column)),
        _ => true,
    }
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}
