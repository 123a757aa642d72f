//! The columns of a table: Delta's types as JSON, and Arrow's.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde_json::{Map, Value, json};

use crate::limits::MAX_JSON_DEPTH;

/// The time zone of timestamps that are moments.
const UTC: &str = "UTC";

/// The Arrow type of a type of Delta; the name of what has none otherwise.
fn arrow(kind: &Value, depth: usize) -> Result<DataType, String> {
    if depth > MAX_JSON_DEPTH {
        return Err("a type is nested too deep".to_owned());
    }
    if let Some(name) = kind.as_str() {
        return primitive(name).ok_or_else(|| format!("the type `{name}` is not known"));
    }
    let get = |name: &str| kind.get(name).ok_or_else(|| format!("a type has no `{name}`"));
    let holds_null = |name: &str| kind.get(name).and_then(Value::as_bool).unwrap_or(true);
    Ok(match get("type")?.as_str().unwrap_or_default() {
        "struct" => DataType::Struct(fields(kind, depth)?),
        "array" => {
            let item = arrow(get("elementType")?, depth + 1)?;
            DataType::List(Arc::new(Field::new("element", item, holds_null("containsNull"))))
        }
        "map" => {
            let (key, value) = (get("keyType")?, get("valueType")?);
            let entries = Fields::from(vec![
                Field::new("key", arrow(key, depth + 1)?, false),
                Field::new("value", arrow(value, depth + 1)?, holds_null("valueContainsNull")),
            ]);
            let entries = Field::new("key_value", DataType::Struct(entries), false);
            DataType::Map(Arc::new(entries), false)
        }
        other => return Err(format!("the type `{other}` is not known")),
    })
}

fn primitive(name: &str) -> Option<DataType> {
    Some(match name {
        "string" => DataType::Utf8,
        "long" => DataType::Int64,
        "integer" => DataType::Int32,
        "short" => DataType::Int16,
        "byte" => DataType::Int8,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => {
            let inside = name.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = inside.split_once(',')?;
            let precision = precision.trim().parse().ok().filter(|p| (1..=38).contains(p))?;
            let scale = scale.trim().parse().ok()?;
            DataType::Decimal128(precision, scale)
        }
    })
}

fn fields(kind: &Value, depth: usize) -> Result<Fields, String> {
    let fields = kind.get("fields").and_then(Value::as_array);
    let fields = fields.ok_or_else(|| "a struct has no `fields`".to_owned())?;
    fields
        .iter()
        .map(|field| {
            let name = field.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| "a column has no name".to_owned())?;
            let kind = field.get("type").ok_or_else(|| format!("`{name}` has no type"))?;
            let data_type =
                arrow(kind, depth + 1).map_err(|what| format!("column `{name}`: {what}"))?;
            let is_nullable = field.get("nullable").and_then(Value::as_bool).unwrap_or(true);
            Ok(Field::new(name, data_type, is_nullable))
        })
        .collect()
}

/// The columns of a table, from its `schemaString`; what is wrong with it otherwise.
pub(super) fn read(schema: &str) -> Result<Schema, String> {
    let value: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
    Ok(Schema::new(fields(&value, 0)?))
}

/// The type of Delta that holds an Arrow type as its Parquet file does; what to do otherwise.
pub(super) fn delta(data_type: &DataType) -> Result<Value, &'static str> {
    const UNSIGNED: &str = "Delta has no unsigned integers: cast it to `BIGINT` in a `sql` step";
    let name = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string",
        DataType::Int64 => "long",
        DataType::Int32 => "integer",
        DataType::Int16 => "short",
        DataType::Int8 => "byte",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Boolean => "boolean",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary",
        DataType::Date32 => "date",
        DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, zone) => match zone {
            Some(_) => "timestamp",
            None => "timestamp_ntz",
        },
        DataType::Timestamp(..) => {
            return Err("Delta has timestamps of microseconds: cast it with \
                        `arrow_cast(…, 'Timestamp(Microsecond, Some(\"UTC\"))')` in a `sql` step");
        }
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            return Ok(Value::String(format!("decimal({precision},{scale})")));
        }
        DataType::Dictionary(_, values) => return delta(values),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            let item = delta(item.data_type())?;
            return Ok(json!({"type": "array", "elementType": item, "containsNull": true}));
        }
        DataType::Struct(fields) => return of_fields(fields).map_err(|(_, hint)| hint),
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { return Err(CAST) };
            let [key, value] = &pair[..] else { return Err(CAST) };
            let (key, value) = (delta(key.data_type())?, delta(value.data_type())?);
            return Ok(json!({
                "type": "map", "keyType": key, "valueType": value, "valueContainsNull": true
            }));
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            return Err(UNSIGNED);
        }
        _ => return Err(CAST),
    };
    Ok(Value::String(name.to_owned()))
}

const CAST: &str = "Delta has no such type: cast the column in a `sql` step, or leave it out";

/// The `schemaString` of columns, all of which may be null; the column that has no type of Delta, and what to do about it.
pub(super) fn of_fields(fields: &Fields) -> Result<Value, (String, &'static str)> {
    let field = |field: &Arc<Field>| {
        let kind = delta(field.data_type()).map_err(|hint| (field.name().clone(), hint))?;
        Ok(json!({"name": field.name(), "type": kind, "nullable": true, "metadata": {}}))
    };
    let fields = fields.iter().map(field).collect::<Result<Vec<Value>, _>>()?;
    let mut value = Map::new();
    value.insert("type".to_owned(), "struct".into());
    value.insert("fields".to_owned(), fields.into());
    Ok(Value::Object(value))
}

/// A type without what says whether values may be null, to compare it with another.
pub(super) fn bare(kind: &Value) -> Value {
    match kind {
        Value::Object(entries) => {
            let kept = entries.iter().filter(|(key, _)| {
                !matches!(
                    key.as_str(),
                    "nullable" | "containsNull" | "valueContainsNull" | "metadata"
                )
            });
            Value::Object(kept.map(|(key, value)| (key.clone(), bare(value))).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(bare).collect()),
        other => other.clone(),
    }
}

/// A type in words: `long`, `array<float>`.
pub(super) fn shown(kind: &Value) -> String {
    let of = |name: &str| kind.get(name).map_or_else(String::new, shown);
    match kind {
        Value::String(name) => name.clone(),
        _ => match kind.get("type").and_then(Value::as_str) {
            Some("array") => format!("array<{}>", of("elementType")),
            Some("map") => format!("map<{},{}>", of("keyType"), of("valueType")),
            Some("struct") => {
                let fields = kind.get("fields").and_then(Value::as_array);
                let fields = fields.into_iter().flatten().map(|field| {
                    let name = field.get("name").and_then(Value::as_str).unwrap_or("?");
                    format!("{name}:{}", field.get("type").map_or_else(String::new, shown))
                });
                format!("struct<{}>", fields.collect::<Vec<_>>().join(","))
            }
            _ => "?".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_come_back_as_they_were() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
        let list = |item| DataType::List(Arc::new(Field::new("element", item, true)));
        let object = DataType::Struct(Fields::from(vec![
            Field::new("label", DataType::Utf8, true),
            Field::new("score", DataType::Float32, true),
        ]));
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("price", DataType::Decimal128(10, 2), true),
            Field::new("at", utc, true),
            Field::new("seen", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("vector", list(DataType::Float32), true),
            Field::new("labels", list(object), true),
        ]);
        let text = of_fields(schema.fields()).unwrap().to_string();
        assert_eq!(read(&text).unwrap(), schema);
    }

    #[test]
    fn what_delta_does_not_have_is_named() {
        let fields = Fields::from(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("n", DataType::UInt32, true),
        ]);
        let (column, hint) = of_fields(&fields).unwrap_err();
        assert_eq!(column, "n");
        assert!(hint.contains("unsigned"), "{hint}");
        for wrong in ["interval", "decimal(39,0)", "decimal(x)", "variant"] {
            assert_eq!(primitive(wrong), None, "{wrong}");
        }
        let deep = format!(
            "{}\"long\"{}",
            "{\"type\":\"array\",\"elementType\":".repeat(80),
            "}".repeat(80)
        );
        let deep =
            format!("{{\"type\":\"struct\",\"fields\":[{{\"name\":\"a\",\"type\":{deep}}}]}}");
        assert!(read(&deep).unwrap_err().contains("too deep"));
    }
}
