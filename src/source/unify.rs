//! Finds a common type for two types, and converts arrays to it. Widening keeps the meaning and digits of every value:
//! [`unify`] picks the type, and [`conform`] converts and fails on a value that does not fit after all.
//!
//! | types                                        | become                                                  |
//! |----------------------------------------------|---------------------------------------------------------|
//! | Null, and any other                          | the other                                               |
//! | integers                                     | the narrowest that holds both; UInt64 beside a signed one Decimal128(20, 0) |
//! | integers and floats                          | Float64, Float32 up to 16 bits; an integer beyond 2^53 is an error |
//! | floats                                       | the wider                                               |
//! | decimals, and integers beside them           | digits before and after the point of both, up to 76     |
//! | strings; binaries                            | Large where one is; a fixed size is Binary              |
//! | dictionaries, beside another or plain values | plain values                                            |
//! | dates, times, timestamps, durations          | the finer unit; a date beside timestamps a timestamp; two zones UTC |
//! | intervals                                    | MonthDayNano                                            |
//! | lists                                        | List (Large where one is) of the items' common type     |
//! | structs                                      | the fields of both by name; missing fields are null     |
//!
//! Text and numbers, booleans and numbers, floats and decimals, and times with and without a zone have no common type.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait, StructArray,
    new_null_array,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, FieldRef, Fields, Int64Type,
    IntervalUnit, TimeUnit, UInt64Type,
};
use datafusion::arrow::error::ArrowError;

use super::kind::EXACT_IN_FLOAT;

/// The narrowest type that holds the values of both unchanged; `None` if there is no such type.
pub(super) fn unify(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType as T;
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (T::Null, other) | (other, T::Null) => return Some(other.clone()),
        (T::Struct(a), T::Struct(b)) => return Some(T::Struct(unify_fields(a, b)?)),
        (T::Dictionary(_, a), T::Dictionary(_, b)) => return unify(a, b),
        (T::Dictionary(_, values), other) | (other, T::Dictionary(_, values)) => {
            return unify(values, other);
        }
        (T::FixedSizeList(a, m), T::FixedSizeList(b, n)) if m == n => {
            return Some(T::FixedSizeList(unify_field(a, b)?, *m));
        }
        // Names and metadata of map entries differ between writers.
        (T::Map(..), T::Map(..)) if a.equals_datatype(b) => return Some(a.clone()),
        _ => {}
    }
    if let (Some((a, large)), Some((b, other))) = (list_item(a), list_item(b)) {
        let item = unify_field(a, b)?;
        return Some(if large || other { T::LargeList(item) } else { T::List(item) });
    }
    numbers(a, b).or_else(|| bytes(a, b)).or_else(|| times(a, b))
}

fn unify_field(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    let data_type = unify(a.data_type(), b.data_type())?;
    let nullable = a.is_nullable() || b.is_nullable();
    Some(Arc::new(a.as_ref().clone().with_data_type(data_type).with_nullable(nullable)))
}

fn unify_fields(a: &Fields, b: &Fields) -> Option<Fields> {
    let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
    let mut fields = Vec::with_capacity(a.len().max(b.len()));
    for field in a {
        fields.push(match b.find(field.name()) {
            Some((_, other)) => unify_field(field, other)?,
            None => nullable(field),
        });
    }
    fields.extend(b.iter().filter(|field| a.find(field.name()).is_none()).map(nullable));
    Some(fields.into())
}

/// The item type of a list, and whether it is a large list.
fn list_item(list: &DataType) -> Option<(&FieldRef, bool)> {
    match list {
        DataType::List(item) | DataType::FixedSizeList(item, _) => Some((item, false)),
        DataType::LargeList(item) => Some((item, true)),
        _ => None,
    }
}

/// The bits of an integer type, and whether it is signed.
fn integer(number: &DataType) -> Option<(u32, bool)> {
    Some(match number {
        DataType::Int8 => (8, true),
        DataType::Int16 => (16, true),
        DataType::Int32 => (32, true),
        DataType::Int64 => (64, true),
        DataType::UInt8 => (8, false),
        DataType::UInt16 => (16, false),
        DataType::UInt32 => (32, false),
        DataType::UInt64 => (64, false),
        _ => return None,
    })
}

fn numbers(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType as T;
    if let (Some((m, a_signed)), Some((n, b_signed))) = (integer(a), integer(b)) {
        let signed = a_signed || b_signed;
        // A signed type needs one more bit than an unsigned type to hold its values.
        let bits = |bits: u32, own: bool| if signed && !own { bits * 2 } else { bits };
        return Some(match (bits(m, a_signed).max(bits(n, b_signed)), signed) {
            (16, true) => T::Int16,
            (32, true) => T::Int32,
            (64, true) => T::Int64,
            (16, false) => T::UInt16,
            (32, false) => T::UInt32,
            (64, false) => T::UInt64,
            _ => T::Decimal128(20, 0),
        });
    }
    let float = |number: &DataType| match number {
        T::Float16 => Some(16),
        T::Float32 => Some(32),
        T::Float64 => Some(64),
        _ => None,
    };
    match (float(a), float(b), integer(a).or(integer(b))) {
        (Some(m), Some(n), _) => return Some(if m.max(n) == 64 { T::Float64 } else { T::Float32 }),
        (Some(bits), None, Some((integer, _))) | (None, Some(bits), Some((integer, _))) => {
            return Some(if bits < 64 && integer <= 16 { T::Float32 } else { T::Float64 });
        }
        _ => {}
    }
    let ((whole, scale), (other_whole, other_scale)) = (decimal(a)?, decimal(b)?);
    let scale = scale.max(other_scale);
    let precision = whole.max(other_whole) + i16::from(scale);
    let precision = u8::try_from(precision.max(1)).ok()?;
    if precision <= DECIMAL128_MAX_PRECISION {
        Some(T::Decimal128(precision, scale))
    } else if precision <= DECIMAL256_MAX_PRECISION {
        Some(T::Decimal256(precision, scale))
    } else {
        None
    }
}

/// The digits before and after the point of a decimal or an integer.
fn decimal(number: &DataType) -> Option<(i16, i8)> {
    use DataType as T;
    Some(match number {
        T::Decimal32(precision, scale)
        | T::Decimal64(precision, scale)
        | T::Decimal128(precision, scale)
        | T::Decimal256(precision, scale) => (i16::from(*precision) - i16::from(*scale), *scale),
        other => match integer(other)? {
            (8, _) => (3, 0),
            (16, _) => (5, 0),
            (32, _) => (10, 0),
            _ => (20, 0),
        },
    })
}

fn bytes(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType as T;
    let rank = |list: &[DataType], t: &DataType| list.iter().position(|other| other == t);
    let strings = [T::Utf8, T::Utf8View, T::LargeUtf8];
    if let (Some(m), Some(n)) = (rank(&strings, a), rank(&strings, b)) {
        return Some(strings[m.max(n)].clone());
    }
    let plain = |t: &DataType| if let T::FixedSizeBinary(_) = t { T::Binary } else { t.clone() };
    let binaries = [T::Binary, T::BinaryView, T::LargeBinary];
    let (m, n) = (rank(&binaries, &plain(a))?, rank(&binaries, &plain(b))?);
    Some(binaries[m.max(n)].clone())
}

fn times(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType as T;
    let is_date = |t: &DataType| matches!(t, T::Date32 | T::Date64);
    Some(match (a, b) {
        (a, b) if is_date(a) && is_date(b) => T::Date64,
        (T::Date32, T::Timestamp(unit, None)) | (T::Timestamp(unit, None), T::Date32) => {
            T::Timestamp(*unit, None)
        }
        (T::Date64, T::Timestamp(unit, None)) | (T::Timestamp(unit, None), T::Date64) => {
            T::Timestamp(finer(*unit, TimeUnit::Millisecond), None)
        }
        (T::Timestamp(m, a), T::Timestamp(n, b)) => {
            let zone = match (a, b) {
                (a, b) if a == b => a.clone(),
                (Some(_), Some(_)) => Some("UTC".into()),
                _ => return None,
            };
            T::Timestamp(finer(*m, *n), zone)
        }
        (T::Time32(m) | T::Time64(m), T::Time32(n) | T::Time64(n)) => match finer(*m, *n) {
            unit @ (TimeUnit::Second | TimeUnit::Millisecond) => T::Time32(unit),
            unit => T::Time64(unit),
        },
        (T::Duration(m), T::Duration(n)) => T::Duration(finer(*m, *n)),
        (T::Interval(_), T::Interval(_)) => T::Interval(IntervalUnit::MonthDayNano),
        _ => return None,
    })
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let rank = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    if rank(&a) >= rank(&b) { a } else { b }
}

/// Converts an array to a type that [`unify`] derived from its own and others.
///
/// # Errors
/// A value that does not fit: an integer beyond 2^53 for a float, a time out of range for its finer unit.
pub(super) fn conform(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType as T;
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), to) {
        (T::Null, _) => Ok(new_null_array(to, array.len())),
        (T::Struct(_), T::Struct(fields)) => {
            let source = array.as_struct();
            let column = |field: &FieldRef| match source.column_by_name(field.name()) {
                Some(column) => conform(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), source.len())),
            };
            let columns = fields.iter().map(column).collect::<Result<Vec<_>, _>>()?;
            let (length, nulls) = (source.len(), source.nulls().cloned());
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, length)?))
        }
        (T::List(_), T::List(item)) => of_list(array.as_list::<i32>(), item),
        (T::LargeList(_), T::LargeList(item)) => of_list(array.as_list::<i64>(), item),
        (T::FixedSizeList(_, size), T::FixedSizeList(item, to)) if size == to => {
            let list = array.as_fixed_size_list();
            let values = conform(list.values(), item.data_type())?;
            let nulls = list.nulls().cloned();
            Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *size, values, nulls)?))
        }
        // Convert the kind of list first, then its items.
        (T::List(own) | T::FixedSizeList(own, _), T::LargeList(_)) => {
            conform(&checked_cast(array, &T::LargeList(Arc::clone(own)))?, to)
        }
        (T::FixedSizeList(own, _), T::List(_)) => {
            conform(&checked_cast(array, &T::List(Arc::clone(own)))?, to)
        }
        (T::Dictionary(_, values), to) if values.as_ref() != to => {
            conform(&checked_cast(array, values)?, to)
        }
        (T::Int64, T::Float64) => {
            let values = array.as_primitive::<Int64Type>();
            check_exact(values.iter().flatten().find(|v| v.unsigned_abs() > EXACT_IN_FLOAT))?;
            checked_cast(array, to)
        }
        (T::UInt64, T::Float64) => {
            let values = array.as_primitive::<UInt64Type>();
            check_exact(values.iter().flatten().find(|v| *v > EXACT_IN_FLOAT))?;
            checked_cast(array, to)
        }
        _ => checked_cast(array, to),
    }
}

fn of_list<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    item: &FieldRef,
) -> Result<ArrayRef, ArrowError> {
    let values = conform(list.values(), item.data_type())?;
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(item), offsets, values, nulls)?))
}

fn checked_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })
}

fn check_exact(beyond: Option<impl std::fmt::Display>) -> Result<(), ArrowError> {
    match beyond {
        None => Ok(()),
        Some(value) => Err(ArrowError::CastError(format!(
            "the integer {value} has more digits than a float holds, and other files have floats in its column"
        ))),
    }
}

/// Whether DataFusion's scan can convert a type to another: the types are equal or a plain widening. The scan checks no
/// digits and knows only the types of the files' columns.
pub(super) fn is_plain(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    const CHAINS: [&[DataType]; 5] = [
        &[T::Int8, T::Int16, T::Int32, T::Int64],
        &[T::UInt8, T::UInt16, T::UInt32, T::UInt64],
        &[T::Float16, T::Float32, T::Float64],
        &[T::Utf8, T::Utf8View, T::LargeUtf8],
        &[T::Binary, T::BinaryView, T::LargeBinary],
    ];
    from == to || CHAINS.iter().any(|chain| chain.contains(from) && chain.contains(to))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray,
        NullArray, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    };
    use datafusion::arrow::datatypes::{Field, Int8Type, Int32Type};

    use super::*;

    fn list(item: DataType) -> DataType {
        DataType::List(Arc::new(Field::new_list_field(item, true)))
    }

    fn object(fields: &[(&str, DataType)]) -> DataType {
        let field =
            |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), false);
        DataType::Struct(fields.iter().map(field).collect())
    }

    #[test]
    fn types_are_widened_without_loss() {
        use DataType as T;
        let dictionary = |key, value| T::Dictionary(Box::new(key), Box::new(value));
        let seconds = |zone: Option<&str>| T::Timestamp(TimeUnit::Second, zone.map(Into::into));
        let nanos = |zone: Option<&str>| T::Timestamp(TimeUnit::Nanosecond, zone.map(Into::into));
        let pairs = [
            (T::Int8, T::Int64, Some(T::Int64)),
            (T::UInt8, T::Int8, Some(T::Int16)),
            (T::UInt32, T::Int64, Some(T::Int64)),
            (T::UInt64, T::Int8, Some(T::Decimal128(20, 0))),
            (T::UInt8, T::UInt16, Some(T::UInt16)),
            (T::Int64, T::Float64, Some(T::Float64)),
            (T::Int16, T::Float32, Some(T::Float32)),
            (T::Int32, T::Float32, Some(T::Float64)),
            (T::Float16, T::Float32, Some(T::Float32)),
            (T::Decimal128(10, 2), T::Decimal128(12, 4), Some(T::Decimal128(12, 4))),
            (T::Decimal128(38, 2), T::Decimal128(38, 30), Some(T::Decimal256(66, 30))),
            (T::Decimal128(10, 2), T::Int32, Some(T::Decimal128(12, 2))),
            (T::Decimal128(10, 2), T::Float64, None),
            (T::Utf8, T::LargeUtf8, Some(T::LargeUtf8)),
            (T::Utf8, T::Int64, None),
            (T::Boolean, T::Int64, None),
            (T::FixedSizeBinary(4), T::FixedSizeBinary(8), Some(T::Binary)),
            (dictionary(T::Int8, T::Utf8), T::Utf8, Some(T::Utf8)),
            (dictionary(T::Int8, T::Utf8), dictionary(T::Int16, T::Utf8), Some(T::Utf8)),
            (T::Date32, seconds(None), Some(seconds(None))),
            (T::Date32, seconds(Some("UTC")), None),
            (T::Date32, T::Date64, Some(T::Date64)),
            (seconds(None), nanos(None), Some(nanos(None))),
            (seconds(Some("+01:00")), nanos(Some("UTC")), Some(nanos(Some("UTC")))),
            (seconds(None), seconds(Some("UTC")), None),
            (
                T::Time32(TimeUnit::Second),
                T::Time64(TimeUnit::Microsecond),
                Some(T::Time64(TimeUnit::Microsecond)),
            ),
            (
                T::Duration(TimeUnit::Second),
                T::Duration(TimeUnit::Nanosecond),
                Some(T::Duration(TimeUnit::Nanosecond)),
            ),
            (list(T::Null), list(T::Int64), Some(list(T::Int64))),
            (T::Null, object(&[("a", T::Int8)]), Some(object(&[("a", T::Int8)]))),
        ];
        for (a, b, expected) in pairs {
            assert_eq!(unify(&a, &b), expected, "{a} {b}");
            assert_eq!(unify(&b, &a), expected, "{b} {a}");
        }
        let unified = unify(
            &object(&[("a", T::Int8), ("s", object(&[("x", T::Utf8)]))]),
            &object(&[("s", object(&[("y", T::Utf8)])), ("a", T::Int64), ("b", T::Null)]),
        );
        let nullable = |name: &str, data_type| Field::new(name, data_type, true);
        let inner = T::Struct(vec![nullable("x", T::Utf8), nullable("y", T::Utf8)].into());
        let outer = vec![
            Field::new("a", T::Int64, false),
            Field::new("s", inner, false),
            nullable("b", T::Null),
        ];
        assert_eq!(unified, Some(T::Struct(outer.into())));
    }

    #[test]
    fn arrays_conform() {
        use DataType as T;
        let check = |array: ArrayRef, expected: ArrayRef| {
            assert_eq!(&conform(&array, expected.data_type()).unwrap(), &expected);
        };
        let words: DictionaryArray<Int8Type> = [Some("x"), None, Some("y")].into_iter().collect();
        check(Arc::new(words), Arc::new(StringArray::from(vec![Some("x"), None, Some("y")])));
        check(
            Arc::new(Int64Array::from(vec![1, -3])),
            Arc::new(Float64Array::from(vec![1.0, -3.0])),
        );
        check(
            Arc::new(Decimal128Array::from(vec![150]).with_precision_and_scale(5, 2).unwrap()),
            Arc::new(Decimal128Array::from(vec![15000]).with_precision_and_scale(9, 4).unwrap()),
        );
        check(
            Arc::new(TimestampMicrosecondArray::from(vec![7])),
            Arc::new(TimestampNanosecondArray::from(vec![7000])),
        );
        check(Arc::new(NullArray::new(2)), Arc::new(Int32Array::from(vec![None, None])));
        let small: ListArray =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let wide = list(T::Float64);
        assert_eq!(conform(&(Arc::new(small) as ArrayRef), &wide).unwrap().data_type(), &wide);

        let field = |name: &str, t| Arc::new(Field::new(name, t, true));
        let part: ArrayRef = Arc::new(StructArray::from(vec![(
            field("a", T::Int32),
            Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef,
        )]));
        let whole = T::Struct(vec![field("b", T::Utf8), field("a", T::Int64)].into());
        let conformed = conform(&part, &whole).unwrap();
        let conformed = conformed.as_struct();
        assert_eq!(conformed.column(0).null_count(), 2);
        assert_eq!(conformed.column(1).as_primitive::<Int64Type>().values(), &[1, 2]);

        let beyond: ArrayRef = Arc::new(Int64Array::from(vec![9_007_199_254_740_993]));
        let error = conform(&beyond, &T::Float64).unwrap_err().to_string();
        assert!(error.contains("9007199254740993 has more digits"), "{error}");
        let far: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX / 10]));
        conform(&far, &T::Timestamp(TimeUnit::Nanosecond, None)).unwrap_err();
    }
}
