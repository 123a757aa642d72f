//! `cosine_similarity(a, b)`: the cosine of the angle between two vectors, as `sentence_transformers.util.cos_sim`. A
//! plain function that runs no model.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type};
use datafusion::common::{Result, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::functions::SECTION;

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CosineSimilarity {
    signature: Signature,
}

impl Default for CosineSimilarity {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Documentation::builder(
        SECTION,
        "The cosine of the angle between two vectors, from -1 to 1; 0 where one of them is all zeros: Float32.",
        "cosine_similarity(a, b)",
    )
    .with_sql_example(
        "```sql\nSELECT id FROM reviews ORDER BY cosine_similarity(embedding, embed('warm', 'minilm')) DESC LIMIT 10\n```",
    )
    .with_argument("a", "A list of numbers.")
    .with_argument("b", "A list of numbers, as long.")
    .build()
});

impl ScalarUDFImpl for CosineSimilarity {
    fn name(&self) -> &'static str {
        "cosine_similarity"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let mut lengths = Vec::new();
        for (position, data_type) in types.iter().enumerate() {
            let numeric =
                |field: &Field| field.data_type().is_numeric() || field.data_type().is_null();
            match data_type {
                DataType::Null => {}
                DataType::List(item) | DataType::LargeList(item) if numeric(item) => {}
                DataType::FixedSizeList(item, length) if numeric(item) => lengths.push(*length),
                other => {
                    return plan_err!(
                        "`cosine_similarity`: argument {} is {other}, expected a list of numbers",
                        position + 1
                    );
                }
            }
        }
        if let [a, b] = lengths[..]
            && a != b
        {
            return plan_err!("`cosine_similarity`: the vectors have {a} and {b} dimensions");
        }
        Ok(DataType::Float32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let scalars = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let [a, b] = &args.args[..] else {
            return exec_err!("`cosine_similarity` takes two vectors");
        };
        // The common case is one vector against many; it is read once.
        let (a, b) = (Vectors::new(a)?, Vectors::new(b)?);
        let count = if scalars { 1 } else { rows };
        let mut values = Vec::with_capacity(count);
        for row in 0..count {
            values.push(match (a.row(row), b.row(row)) {
                (Some(a), Some(b)) if a.len() != b.len() => {
                    return exec_err!(
                        "`cosine_similarity`: the vectors have {} and {} dimensions",
                        a.len(),
                        b.len()
                    );
                }
                (Some(a), Some(b)) => Some(cosine(a, b)),
                _ => None,
            });
        }
        let values: ArrayRef = Arc::new(Float32Array::from(values));
        if scalars {
            return datafusion::common::ScalarValue::try_from_array(&values, 0)
                .map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(values))
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// A column of vectors, or one vector for all rows.
struct Vectors {
    lists: ArrayRef,
    values: Float32Array,
    is_scalar: bool,
}

impl Vectors {
    fn new(value: &ColumnarValue) -> Result<Self> {
        let is_scalar = matches!(value, ColumnarValue::Scalar(_));
        let lists = match value {
            ColumnarValue::Array(array) => Arc::clone(array),
            ColumnarValue::Scalar(scalar) => scalar.to_array()?,
        };
        let values: ArrayRef = match lists.data_type() {
            DataType::List(_) => Arc::clone(lists.as_list::<i32>().values()),
            DataType::LargeList(_) => Arc::clone(lists.as_list::<i64>().values()),
            DataType::FixedSizeList(..) => Arc::clone(lists.as_fixed_size_list().values()),
            _ => arrow::array::new_empty_array(&DataType::Float32),
        };
        let values = cast(&values, &DataType::Float32)?;
        let values = values
            .as_primitive_opt::<Float32Type>()
            .ok_or_else(|| {
                exec_datafusion_err!("`cosine_similarity`: the vectors hold no numbers")
            })?
            .clone();
        Ok(Self { lists, values, is_scalar })
    }

    /// The vector of a row; `None` when the vector or one of its elements is null.
    fn row(&self, row: usize) -> Option<&[f32]> {
        let row = if self.is_scalar { 0 } else { row };
        if self.lists.is_null(row) {
            return None;
        }
        let range = match self.lists.data_type() {
            DataType::List(_) => {
                let offsets = self.lists.as_list::<i32>().value_offsets();
                offsets[row] as usize..offsets[row + 1] as usize
            }
            DataType::LargeList(_) => {
                let offsets = self.lists.as_list::<i64>().value_offsets();
                offsets[row] as usize..offsets[row + 1] as usize
            }
            DataType::FixedSizeList(..) => {
                let lists: &FixedSizeListArray = self.lists.as_fixed_size_list();
                let length = lists.value_length() as usize;
                let start = lists.value_offset(row) as usize;
                start..start + length
            }
            _ => return None,
        };
        let has_null =
            self.values.null_count() > 0 && range.clone().any(|index| self.values.is_null(index));
        (!has_null).then(|| &self.values.values()[range])
    }
}

/// As in sentence-transformers: scales both vectors to length 1 (dividing by at least 1e-12), then multiplies them.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let (mut product, mut a_squared, mut b_squared) = (0f64, 0f64, 0f64);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        product += a * b;
        a_squared += a * a;
        b_squared += b * b;
    }
    (product / (a_squared.sqrt().max(1e-12) * b_squared.sqrt().max(1e-12))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f32.sqrt()).abs() < 1e-7);
        assert!((cosine(&[1.0, 2.0], &[-1.0, -2.0]) + 1.0).abs() < 1e-7);
        assert!(cosine(&[0.0, 0.0], &[1.0, 1.0]).abs() < f32::EPSILON);
    }
}
