//! Values with several forms, which differ in their YAML type.
//!
//! The types use neither `untagged` nor `flatten`, which would ruin error messages: each has a schema that
//! distinguishes the forms.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize, Serializer};

/// Implements `Deserialize` for a value with several forms, by the given visitor methods, and `JsonSchema` with the given
/// schema.
macro_rules! written_in_several_ways {
    ($type:ident $name:literal $expecting:literal { $($visit:item)* } $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Ways;
                impl<'de> Visitor<'de> for Ways {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    $($visit)*
                }
                deserializer.deserialize_any(Ways)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// A string, or a list of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringOrList {
    /// One string.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl Serialize for StringOrList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.strings().serialize(serializer)
    }
}

impl StringOrList {
    /// The strings.
    pub fn strings(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

pub(crate) use written_in_several_ways;

written_in_several_ways! { StringOrList "StringOrList" "a string or a list of strings" {
    fn visit_str<E: de::Error>(self, text: &str) -> Result<StringOrList, E> {
        Ok(StringOrList::One(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<StringOrList, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(StringOrList::Many(list))
    }
} json_schema!({
    "description": "A string, or a list of strings.",
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ],
}) }

/// How many results to keep: a number, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// Every result.
    All,
    /// At most this many, highest score first.
    Number(NonZeroU64),
}

impl TopK {
    /// A single result, which is not wrapped in a list.
    pub const ONE: Self = Self::Number(NonZeroU64::MIN);

    /// The maximum length of the list; `None` for a single result.
    pub fn list(self) -> Option<usize> {
        (self != Self::ONE).then(|| self.most())
    }

    /// The maximum number of results.
    pub fn most(self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Number(number) => usize::try_from(number.get()).unwrap_or(usize::MAX),
        }
    }

    /// The value as in pipeline files.
    pub fn shown(self) -> serde_json::Value {
        match self {
            Self::All => "all".into(),
            Self::Number(number) => number.get().into(),
        }
    }
}

written_in_several_ways! { TopK "TopK" "a number or `all`" {
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<TopK, E> {
        NonZeroU64::new(number).map(TopK::Number).ok_or_else(|| E::custom("at least 1"))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<TopK, E> {
        if text == "all" { Ok(TopK::All) } else { Err(E::unknown_variant(text, &["all"])) }
    }
} json_schema!({
    "description": "How many results to keep: a number, or `all`.",
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "enum": ["all"]}],
}) }

/// One token id, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenIds(pub Vec<u32>);

written_in_several_ways! { TokenIds "TokenIds" "a token id or a list of token ids" {
    fn visit_u64<E: de::Error>(self, id: u64) -> Result<TokenIds, E> {
        let id = u32::try_from(id).map_err(|_| E::custom("a token id"))?;
        Ok(TokenIds(vec![id]))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TokenIds, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(TokenIds(list))
    }
} json_schema!({
    "description": "A token id, or a list of them.",
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32},
            "minItems": 1,
        },
    ],
}) }

/// The input of a task: one column, or a mapping that names several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnOr<T> {
    /// One column.
    Column(String),
    /// Several columns, by their roles.
    Columns(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ColumnOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ways<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Ways<T> {
            type Value = ColumnOr<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column, or a mapping of columns")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ColumnOr<T>, E> {
                Ok(ColumnOr::Column(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(ColumnOr::Columns)
            }
        }
        deserializer.deserialize_any(Ways(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for ColumnOr<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("ColumnOr{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let columns = generator.subschema_for::<T>();
        json_schema!({"anyOf": [{"type": "string"}, columns]})
    }
}
