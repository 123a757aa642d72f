//! The columns of JSONL files: the common type of a field's values, over rows and files. Not here: parsing of rows
//! (`json`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields};

use crate::config::pipeline::ColumnType;
use crate::limits::MAX_TEXT_COLUMNS;

/// Two kinds of value in one field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) field: String,
    pub(super) before: &'static str,
    pub(super) here: &'static str,
}

impl Conflict {
    pub(super) fn inside(mut self, name: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{name}{dot}{}", self.field);
        self
    }
}

/// Up to this many fields, lookup is a linear search.
const FEW: usize = 16;

/// Fields in order of first appearance.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) fields: Vec<(String, Column)>,
    /// An index of the fields, once there are many.
    index: HashMap<String, usize>,
    /// The declared types of columns.
    types: BTreeMap<String, ColumnType>,
    /// The number of fields, including nested ones.
    count: usize,
    /// The limit of their number.
    max: Option<usize>,
}

/// A field.
#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    pub(super) kind: Kind,
    /// The types inside its arrays and objects.
    pub(super) inner: Option<Box<Inner>>,
    /// The bytes of its strings.
    pub(super) text_bytes: u64,
    /// The declared type, which overrides the values.
    pub(super) given: Option<ColumnType>,
    /// The first number whose digits a common type may lose: its line and text.
    pub(super) digits: Option<(u64, String)>,
}

/// The types nested inside a field's values.
#[derive(Clone, Debug, Default)]
pub(super) struct Inner {
    /// The fields of its objects.
    pub(super) columns: Columns,
    /// The items of its arrays.
    pub(super) item: Column,
}

/// The common type of a field's values so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Null,
    Boolean,
    /// Integers; flags for a negative one, one beyond `i64::MAX`, and one that a float cannot represent.
    Int {
        negative: bool,
        large: bool,
        long: bool,
    },
    Float,
    /// Numbers whose digits no type preserves.
    Number,
    Text,
    List,
    Object,
}

impl Columns {
    pub(super) fn new(types: &BTreeMap<String, ColumnType>, max: usize) -> Self {
        Self { types: types.clone(), max: Some(max), ..Self::default() }
    }

    pub(super) fn max(&self) -> usize {
        self.max.unwrap_or(MAX_TEXT_COLUMNS)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn set_count(&mut self, count: usize) {
        self.count = count;
    }

    /// The position of the field `name`, which is probably `likely`; adds a new field.
    pub(super) fn place(&mut self, likely: usize, name: &str) -> usize {
        // Rows nearly always have their fields in the same order.
        if self.fields.get(likely).is_some_and(|(known, _)| known == name) {
            return likely;
        }
        let known = if self.fields.len() <= FEW {
            self.fields.iter().position(|(known, _)| known == name)
        } else {
            if self.index.is_empty() {
                let names = self.fields.iter().enumerate();
                self.index = names.map(|(place, (name, _))| (name.clone(), place)).collect();
            }
            self.index.get(name).copied()
        };
        known.unwrap_or_else(|| {
            let place = self.fields.len();
            if !self.index.is_empty() {
                self.index.insert(name.to_owned(), place);
            }
            let given = self.types.get(name).copied();
            self.fields.push((name.to_owned(), Column { given, ..Column::default() }));
            place
        })
    }

    /// Widens to the columns of another file. Returns whether there are too many.
    pub(super) fn merge(&mut self, other: &Self) -> Result<bool, Conflict> {
        self.merge_fields(other)?;
        self.count = self.fields.iter().map(|(_, column)| column.count()).sum();
        Ok(self.count > self.max())
    }

    fn merge_fields(&mut self, other: &Self) -> Result<(), Conflict> {
        for (likely, (name, column)) in other.fields.iter().enumerate() {
            let place = self.place(likely, name);
            self.fields[place].1.merge(column).map_err(|conflict| conflict.inside(name))?;
        }
        Ok(())
    }

    pub(super) fn arrow(&self) -> Fields {
        let field = |(name, column): &(String, Column)| Field::new(name, column.data_type(), true);
        self.fields.iter().map(field).collect()
    }
}

impl Column {
    /// Widens to hold a value of `kind`.
    pub(super) fn add(&mut self, kind: Kind, name: &str) -> Result<(), Conflict> {
        self.kind = match (self.kind, kind) {
            (Kind::Null, kind) => kind,
            (before, Kind::Null) => before,
            (before, here) if before == here => before,
            (
                Kind::Int { negative, large, long },
                Kind::Int { negative: n, large: l, long: more },
            ) => {
                let (negative, large) = (negative || n, large || l);
                // No type holds both.
                if negative && large {
                    Kind::Number
                } else {
                    Kind::Int { negative, large, long: long || more }
                }
            }
            (Kind::Int { long: false, .. }, Kind::Float)
            | (Kind::Float, Kind::Int { long: false, .. }) => Kind::Float,
            (before, here) if before.is_number() && here.is_number() => Kind::Number,
            (before, here) => {
                return Err(Conflict {
                    field: name.to_owned(),
                    before: before.word(),
                    here: here.word(),
                });
            }
        };
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), Conflict> {
        self.add(other.kind, "")?;
        self.text_bytes += other.text_bytes;
        if self.digits.is_none() {
            self.digits.clone_from(&other.digits);
        }
        if let Some(other) = &other.inner {
            let inner = self.inner.get_or_insert_default();
            inner.columns.merge_fields(&other.columns)?;
            inner.item.merge(&other.item).map_err(|conflict| conflict.inside("[]"))?;
        }
        Ok(())
    }

    /// The number of fields: itself and the nested ones.
    fn count(&self) -> usize {
        let Some(inner) = &self.inner else { return 1 };
        let fields = inner.columns.fields.iter().map(|(_, column)| column.count());
        fields.sum::<usize>() + inner.item.count()
    }

    pub(super) fn word(&self) -> &'static str {
        self.kind.word()
    }

    pub(super) fn data_type(&self) -> DataType {
        if let Some(given) = self.given {
            return given.data_type();
        }
        match self.kind {
            Kind::Null | Kind::Text | Kind::Number => DataType::Utf8,
            Kind::Boolean => DataType::Boolean,
            Kind::Int { large: true, .. } => DataType::UInt64,
            Kind::Int { .. } => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::List => {
                let item = self.inner.as_ref().map_or(DataType::Utf8, |i| i.item.data_type());
                DataType::List(Arc::new(Field::new_list_field(item, true)))
            }
            Kind::Object => {
                let fields = self.inner.as_ref().map(|inner| inner.columns.arrow());
                DataType::Struct(fields.unwrap_or_default())
            }
        }
    }

    /// The type of the values seen; Null if there are none.
    pub(super) fn seen_type(&self) -> DataType {
        if self.kind == Kind::Null && self.given.is_none() {
            return DataType::Null;
        }
        self.data_type()
    }

    /// The fields among it and its nested ones whose numbers become text to preserve their digits.
    pub(super) fn numbers_as_text(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.visit(name, &mut |name, column| {
            if column.kind == Kind::Number {
                found.push(name.to_owned());
            }
        });
        found
    }

    /// The numbers inside it whose digits a common type may lose: path, line, number.
    pub(super) fn digits_inside(&self, name: &str) -> Vec<(String, u64, String)> {
        let mut found = Vec::new();
        self.visit(name, &mut |name, column| {
            if let Some((line, number)) = &column.digits {
                found.push((name.to_owned(), *line, number.clone()));
            }
        });
        found
    }

    fn visit(&self, name: &str, seen: &mut dyn FnMut(&str, &Self)) {
        if self.given.is_some() {
            return;
        }
        seen(name, self);
        if let Some(inner) = &self.inner {
            if self.kind == Kind::List {
                inner.item.visit(&format!("{name}[]"), seen);
            }
            for (field, column) in &inner.columns.fields {
                column.visit(&format!("{name}.{field}"), seen);
            }
        }
    }
}

impl Kind {
    fn is_number(self) -> bool {
        matches!(self, Self::Int { .. } | Self::Float | Self::Number)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Int { .. } | Self::Float | Self::Number => "a number",
            Self::Text => "a string",
            Self::List => "an array",
            Self::Object => "an object",
        }
    }
}

impl ColumnType {
    /// Whether a JSON scalar of `kind` (other than a string) is a value of the type.
    pub(super) fn takes_json(self, kind: Kind, written: &str) -> bool {
        match self {
            Self::String => true,
            Self::Boolean => kind == Kind::Boolean,
            Self::Int64 => kind.is_number() && self.takes(written),
            Self::Float64 => kind.is_number(),
            Self::Date | Self::Timestamp => false,
        }
    }
}
