//! Type inference for CSV values, and the rule for numbers of CSV and JSONL. Not here: parsing of rows (`csv`,
//! `jsonl`).
//!
//! Inference never changes a value visibly, except that numbers are written in their shortest form. Numbers keep their
//! digits: a column whose numbers no type preserves is text.
//!
//! | type                    | every value that is not empty                                          |
//! |-------------------------|------------------------------------------------------------------------|
//! | Boolean                 | `true` or `false`, in any case                                         |
//! | Int64                   | an integer without leading zeros, within 64 bits                       |
//! | Float64                 | a decimal or exponent number that a float prints with the same digits; integers up to 2^53 |
//! | Date32                  | `YYYY-MM-DD`                                                           |
//! | Timestamp(Microsecond)  | `YYYY-MM-DD HH:MM:SS` with `T` or space and up to 6 decimals           |
//! | Utf8                    | anything else, and columns that are always empty                       |
//!
//! `007`, `+1`, `1_000`, `0x10`, `inf`, `T` and numbers with more digits than a type preserves are text, as written;
//! `1E5` and `NaN` are floats. `source.types` overrides this.

use datafusion::arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};

use crate::config::pipeline::ColumnType;
use crate::error::{Error, ErrorKind};

/// The largest integer up to which every integer is a distinct float.
pub(super) const EXACT_IN_FLOAT: u64 = 1 << 53;

/// The common type of all values so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Empty,
    Boolean,
    Int,
    /// Integers, at least one of which a float cannot represent.
    LongInt,
    Float,
    /// Numbers whose digits no type preserves.
    Number,
    Date,
    Timestamp,
    Text,
}

impl Kind {
    pub(super) fn of(value: &str) -> Self {
        let bytes = value.as_bytes();
        let Some(first) = bytes.first() else { return Self::Empty };
        match first {
            b't' | b'T' | b'f' | b'F'
                if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") =>
            {
                Self::Boolean
            }
            b'N' if value == "NaN" => Self::Float,
            b'-' | b'.' | b'0'..=b'9' => Self::of_number_or_date(value),
            _ => Self::Text,
        }
    }

    fn of_number_or_date(value: &str) -> Self {
        let digits = value.strip_prefix('-').unwrap_or(value).as_bytes();
        let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // `007` is a name, not a number; so is `-0`, which would lose its sign.
        let padded = whole > 1 && digits[0] == b'0';
        if whole == digits.len() {
            if whole == 0 || padded || value == "-0" {
                return Self::Text;
            }
            return match Int64Type::parse(value) {
                Some(integer) if integer.unsigned_abs() <= EXACT_IN_FLOAT => Self::Int,
                Some(_) => Self::LongInt,
                None => Self::Number,
            };
        }
        if !padded && is_decimal(digits, whole) {
            return if float_keeps(value) { Self::Float } else { Self::Number };
        }
        let shape = |pattern: &[u8]| {
            pattern.iter().zip(value.as_bytes()).all(|(expected, byte)| match expected {
                b'9' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b' '),
                other => byte == other,
            })
        };
        if value.len() == 10 && shape(b"9999-99-99") && Date32Type::parse(value).is_some() {
            return Self::Date;
        }
        let fraction = value.get(19..).and_then(|rest| match rest {
            "" => Some(""),
            _ => rest.strip_prefix('.').filter(|rest| (1..=6).contains(&rest.len())),
        });
        if fraction.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            && shape(b"9999-99-99T99:99:99")
            && TimestampMicrosecondType::parse(value).is_some()
        {
            return Self::Timestamp;
        }
        Self::Text
    }

    /// The kind that holds the values of both.
    pub(super) fn merge(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Empty, kind) | (kind, Self::Empty) => kind,
            (Self::Int, Self::LongInt) | (Self::LongInt, Self::Int) => Self::LongInt,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            (a, b) if a.is_number() && b.is_number() => Self::Number,
            _ => Self::Text,
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::LongInt | Self::Float | Self::Number)
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int | Self::LongInt => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Empty | Self::Number | Self::Text => DataType::Utf8,
        }
    }
}

/// Whether `digits`, which starts with `whole` digits, is a number with a point or an exponent.
fn is_decimal(digits: &[u8], whole: usize) -> bool {
    let mut at = whole;
    let run = |at: usize| digits[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut fraction = 0;
    if digits.get(at) == Some(&b'.') {
        fraction = run(at + 1);
        at += 1 + fraction;
    }
    if whole + fraction == 0 {
        return false;
    }
    if let Some(b'e' | b'E') = digits.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = digits.get(at) {
            at += 1;
        }
        let exponent = run(at.min(digits.len()));
        if exponent == 0 {
            return false;
        }
        at += exponent;
    }
    at == digits.len()
}

/// The number of digits that survive a round trip through a float in every decimal number.
const SURE_DIGITS: usize = 15;

/// The longest number without an exponent that is surely within a float's normal range, or zero.
const SURE_BYTES: usize = 300;

/// Whether a decimal number survives a round trip through a float, printed with as many digits.
pub(super) fn float_keeps(number: &str) -> bool {
    let bytes = number.as_bytes();
    let exponent = bytes.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let mantissa = &bytes[..exponent.unwrap_or(bytes.len())];
    // Significant digits: without zeros at the beginning and at the end.
    let (mut digits, mut zeros) = (0, 0);
    for byte in mantissa.iter().filter(|byte| byte.is_ascii_digit()) {
        if *byte == b'0' {
            zeros += usize::from(digits > 0);
        } else {
            digits += zeros + 1;
            zeros = 0;
        }
    }
    // Most numbers end here, without being parsed.
    if digits == 0 || (digits <= SURE_DIGITS && exponent.is_none() && bytes.len() <= SURE_BYTES) {
        return true;
    }
    let Some(float) = Float64Type::parse(number) else { return false };
    if !float.is_finite() || float == 0.0 {
        return false;
    }
    if digits <= SURE_DIGITS && float.is_normal() {
        return true;
    }
    // More digits than any float has exactly.
    if digits > 800 {
        return false;
    }
    let written = || {
        let written = mantissa.iter().filter(|byte| byte.is_ascii_digit());
        written.skip_while(|byte| **byte == b'0').take(digits)
    };
    let is_printed = |printed: String| {
        let printed = printed.bytes().take_while(|byte| *byte != b'e');
        printed.filter(u8::is_ascii_digit).eq(written().copied())
    };
    // The shortest form is the one that writers print. It may round halfway cases otherwise than the form of a given
    // length.
    is_printed(format!("{:e}", float.abs()))
        || is_printed(format!("{:.*e}", digits - 1, float.abs()))
}

impl ColumnType {
    /// The type of the column.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        }
    }

    /// Whether a text is entirely a value of the type.
    pub(super) fn takes(self, value: &str) -> bool {
        match self {
            Self::String => true,
            Self::Int64 => Int64Type::parse(value).is_some(),
            Self::Float64 => Float64Type::parse(value).is_some(),
            Self::Boolean => {
                value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
            }
            Self::Date => value.len() == 10 && Date32Type::parse(value).is_some(),
            Self::Timestamp => is_timestamp(value),
        }
    }
}

/// Whether a text is a timestamp without a zone, of at most microseconds: parsing it loses neither zone nor digits.
fn is_timestamp(value: &str) -> bool {
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, ""));
    let fraction = fraction.trim_end_matches('0');
    let has_zone =
        |time: &str| time.contains(['Z', 'z', '+', '-']) || time.contains(char::is_alphabetic);
    fraction.len() <= 6
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
        && !seconds.get(10..).is_some_and(|time| has_zone(time.trim_start_matches(['T', 't'])))
        && string_to_datetime(&chrono::Utc, value).is_ok()
}

/// The error for a value that does not match the type in `source.types`.
pub(super) fn value_error(column: &str, value: &str, given: &str, line: u64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("line {line}, column `{column}`: {value} is not of type {given}"),
    )
    .hint(format!(
        "correct the value, name it in `source.csv.null_values`, or set `source.types.{column}` to string"
    ))
}

/// The start of a value, for messages.
pub(super) fn shown(value: &str) -> String {
    const MOST: usize = 60;
    let mut text: String = value.chars().take(MOST).flat_map(char::escape_debug).collect();
    if value.chars().nth(MOST).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_has_a_kind() {
        let check = |kind: Kind, values: &[&str]| {
            for value in values {
                assert_eq!(Kind::of(value), kind, "{value:?}");
            }
        };
        check(Kind::Empty, &[""]);
        check(Kind::Boolean, &["true", "FALSE", "True"]);
        check(Kind::Int, &["0", "-1", "42", "9007199254740992", "-9007199254740992"]);
        check(Kind::LongInt, &["9007199254740993", "9223372036854775807", "-9223372036854775808"]);
        check(
            Kind::Float,
            &[
                "1.5",
                "-0.25",
                "1.",
                ".5",
                "1e5",
                "1.5E-3",
                "NaN",
                "0.0",
                "-0.0",
                "0e0",
                "0.30000000000000004",
                "0.10000000000000001",
                "0.10000000000000000555",
                "1.7976931348623157e308",
                "5e-324",
                "1.23e-320",
                "100000000000000000000.0",
                "1.50000000000000000000",
            ],
        );
        check(
            Kind::Number,
            &[
                "9223372036854775808",
                "123456789012345678901234567890",
                "1e999",
                "-1e-400",
                "123456789012345678.91",
                "0.1234567890123456789",
                "9007199254740993.0",
                "3.141592653589793238",
                "1.2345678e-320",
            ],
        );
        check(Kind::Date, &["2024-02-29", "1969-12-31"]);
        check(
            Kind::Timestamp,
            &["2024-02-29 23:59:59", "2024-02-29T00:00:00.123456", "1969-12-31 00:00:00.1"],
        );
        check(
            Kind::Text,
            &[
                "007",
                "-0",
                "+1",
                "+49301234",
                "00.5",
                ".",
                "-",
                "1e",
                "e5",
                "1.2.3",
                "nan",
                "inf",
                "-inf",
                "2024-13-01",
                "2024-02-30",
                "2024-1-1",
                " 1",
                "1 ",
                "2024-02-29 23:59",
                "2024-02-29 23:59:59Z",
                "2024-02-29 23:59:59.1234567",
                "2024-02-29 25:00:00",
                "-é",
                "0x10",
                "t",
                "T",
                "1_000",
                "2024-02-29é23:59:59",
            ],
        );
    }

    #[test]
    fn kinds_widen_as_far_as_digits_are_kept() {
        let merged = |values: &[&str]| {
            values.iter().map(|value| Kind::of(value)).fold(Kind::Empty, Kind::merge)
        };
        assert_eq!(merged(&["1", "", "2.5"]), Kind::Float);
        assert_eq!(merged(&["1", "9007199254740993"]), Kind::LongInt);
        assert_eq!(merged(&["9007199254740993", "2.5"]), Kind::Number);
        assert_eq!(merged(&["2.5", "9223372036854775808"]), Kind::Number);
        assert_eq!(merged(&["9223372036854775808", "x"]), Kind::Text);
        assert_eq!(merged(&["1", "true"]), Kind::Text);
    }

    #[test]
    fn types_take_what_is_one_of_their_values() {
        let check = |column: ColumnType, takes: &[&str], refuses: &[&str]| {
            takes.iter().for_each(|value| assert!(column.takes(value), "{column:?} {value:?}"));
            refuses.iter().for_each(|value| assert!(!column.takes(value), "{column:?} {value:?}"));
        };
        check(ColumnType::String, &["", "1E5", "x"], &[]);
        check(
            ColumnType::Int64,
            &["007", "-1", "+1", "9223372036854775807"],
            &["9223372036854775808", "1.5", "x", "1_000"],
        );
        check(
            ColumnType::Float64,
            &["1", "1E5", "NaN", "inf", "0.1234567890123456789"],
            &["x", "1,5"],
        );
        check(ColumnType::Boolean, &["true", "FALSE"], &["1", "t", "yes"]);
        check(
            ColumnType::Date,
            &["2024-02-29"],
            &["2024-02-30", "2024-02-29 01:00:00", "20240229"],
        );
        check(
            ColumnType::Timestamp,
            &[
                "2024-02-29 23:59:59",
                "2024-02-29T00:00:00.123456",
                "2024-02-29",
                "2024-02-29 01:00:00.1234560",
            ],
            &[
                "2024-02-29 23:59:59Z",
                "2024-02-29T00:00:00+02:00",
                "2024-02-29 00:00:00.1234567",
                "x",
                "12",
            ],
        );
    }

    proptest! {
        /// A printed float parses back to the same value, at any requested precision.
        #[test]
        fn floats_keep_what_they_print(bits: u64, digits in 0_usize..30) {
            let float = f64::from_bits(bits);
            prop_assume!(float.is_finite());
            prop_assert!(float_keeps(&float.to_string()) || float == 0.0);
            // Fewer digits than a float needs may be those of another float.
            if digits >= 16 || float == 0.0 {
                let printed = format!("{float:.digits$e}");
                prop_assert!(float_keeps(&printed), "{}", printed);
            }
        }
    }
}
