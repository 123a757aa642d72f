//! Functions of vectors, which run no model: `cosine_similarity(a, b)`, as `sentence_transformers.util.cos_sim`, and
//! `max_sim(query, document)`, the score of two lists of vectors (ColBERT), as `sentence_transformers.util.maxsim`.
//! Not here: `inner_product`, `array_distance` and `cosine_distance`, which DataFusion has.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, new_empty_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::functions::SECTION;
use crate::sentence_transformers::{cos_sim, dot_score};

/// The functions of vectors.
pub(super) fn functions() -> [ScalarUDF; 2] {
    [
        ScalarUDF::new_from_impl(CosineSimilarity::default()),
        ScalarUDF::new_from_impl(MaxSim::default()),
    ]
}

/// `cosine_similarity`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CosineSimilarity {
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
                (Some(a), Some(b)) => {
                    same_length("cosine_similarity", a, b)?;
                    Some(cos_sim(a, b))
                }
                _ => None,
            });
        }
        scores(values, scalars)
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// `max_sim`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct MaxSim {
    signature: Signature,
}

impl Default for MaxSim {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

static MAX_SIM: LazyLock<Documentation> = LazyLock::new(|| {
    Documentation::builder(
        SECTION,
        "The sum, over the vectors of the query, of the largest inner product with a vector of the document: Float32.",
        "max_sim(query, document)",
    )
    .with_sql_example(
        "```sql\nSELECT p.id FROM queries q CROSS JOIN passages p ORDER BY max_sim(q.vectors, p.vectors) DESC LIMIT 10\n```",
    )
    .with_argument("query", "A list of vectors.")
    .with_argument("document", "A list of vectors of the same dimension.")
    .build()
});

impl ScalarUDFImpl for MaxSim {
    fn name(&self) -> &'static str {
        "max_sim"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        for (position, data_type) in types.iter().enumerate() {
            let is_vectors = match data_type {
                DataType::Null => true,
                DataType::List(item) | DataType::LargeList(item) => is_vector(item.data_type()),
                DataType::FixedSizeList(item, _) => is_vector(item.data_type()),
                _ => false,
            };
            if !is_vectors {
                return plan_err!(
                    "`max_sim`: argument {} is {data_type}, expected a list of vectors",
                    position + 1
                );
            }
        }
        Ok(DataType::Float32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalars = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let [query, document] = &args.args[..] else {
            return exec_err!("`max_sim` takes two lists of vectors");
        };
        let (query, document) = (MultiVectors::new(query)?, MultiVectors::new(document)?);
        let count = if scalars { 1 } else { args.number_rows };
        let mut values = Vec::with_capacity(count);
        for row in 0..count {
            values.push(match (query.row(row), document.row(row)) {
                (Some(query), Some(document)) => max_sim(&query, &document)?,
                _ => None,
            });
        }
        scores(values, scalars)
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&MAX_SIM)
    }
}

/// The sum of the largest inner products; `None` without vectors, which have no largest one.
fn max_sim(query: &[&[f32]], document: &[&[f32]]) -> Result<Option<f32>> {
    if query.is_empty() || document.is_empty() {
        return Ok(None);
    }
    let mut sum = 0.0;
    for query in query {
        let mut largest = f64::NEG_INFINITY;
        for document in document {
            same_length("max_sim", query, document)?;
            largest = largest.max(dot_score(query, document));
        }
        sum += largest;
    }
    Ok(Some(sum as f32))
}

/// A list of numbers.
fn is_vector(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type().is_numeric()
        }
        _ => false,
    }
}

fn same_length(function: &str, a: &[f32], b: &[f32]) -> Result<()> {
    if a.len() == b.len() {
        return Ok(());
    }
    exec_err!("`{function}`: the vectors have {} and {} dimensions", a.len(), b.len())
}

/// The result of a function; one value if all its arguments are constants.
fn scores(values: Vec<Option<f32>>, is_scalar: bool) -> Result<ColumnarValue> {
    let values: ArrayRef = Arc::new(Float32Array::from(values));
    if is_scalar {
        return ScalarValue::try_from_array(&values, 0).map(ColumnarValue::Scalar);
    }
    Ok(ColumnarValue::Array(values))
}

/// The array of an argument, and whether it is one value for all rows.
fn array_of(value: &ColumnarValue) -> Result<(ArrayRef, bool)> {
    Ok(match value {
        ColumnarValue::Array(array) => (Arc::clone(array), false),
        ColumnarValue::Scalar(scalar) => (scalar.to_array()?, true),
    })
}

/// The values of a column of lists; none if it has no lists.
fn list_values(lists: &ArrayRef) -> Option<ArrayRef> {
    Some(Arc::clone(match lists.data_type() {
        DataType::List(_) => lists.as_list::<i32>().values(),
        DataType::LargeList(_) => lists.as_list::<i64>().values(),
        DataType::FixedSizeList(..) => lists.as_fixed_size_list().values(),
        _ => return None,
    }))
}

/// The values of a row in a column of lists; none for a null.
fn list_range(lists: &ArrayRef, row: usize) -> Option<Range<usize>> {
    if lists.is_null(row) {
        return None;
    }
    Some(match lists.data_type() {
        DataType::List(_) => {
            let offsets = lists.as_list::<i32>().value_offsets();
            offsets[row] as usize..offsets[row + 1] as usize
        }
        DataType::LargeList(_) => {
            let offsets = lists.as_list::<i64>().value_offsets();
            offsets[row] as usize..offsets[row + 1] as usize
        }
        DataType::FixedSizeList(..) => {
            let lists: &FixedSizeListArray = lists.as_fixed_size_list();
            let start = lists.value_offset(row) as usize;
            start..start + lists.value_length() as usize
        }
        _ => return None,
    })
}

/// A column of vectors, or one vector for all rows.
struct Vectors {
    lists: ArrayRef,
    values: Float32Array,
    is_scalar: bool,
}

impl Vectors {
    fn new(value: &ColumnarValue) -> Result<Self> {
        let (lists, is_scalar) = array_of(value)?;
        Self::of(lists, is_scalar)
    }

    fn of(lists: ArrayRef, is_scalar: bool) -> Result<Self> {
        let values = list_values(&lists).unwrap_or_else(|| new_empty_array(&DataType::Float32));
        let values = cast(&values, &DataType::Float32)?;
        let values = values
            .as_primitive_opt::<Float32Type>()
            .ok_or_else(|| exec_datafusion_err!("the vectors hold no numbers"))?
            .clone();
        Ok(Self { lists, values, is_scalar })
    }

    /// The vector of a row; `None` when the vector or one of its elements is null.
    fn row(&self, row: usize) -> Option<&[f32]> {
        let range = list_range(&self.lists, if self.is_scalar { 0 } else { row })?;
        let has_null =
            self.values.null_count() > 0 && range.clone().any(|index| self.values.is_null(index));
        (!has_null).then(|| &self.values.values()[range])
    }
}

/// A column of lists of vectors, or one list for all rows.
struct MultiVectors {
    lists: ArrayRef,
    vectors: Vectors,
    is_scalar: bool,
}

impl MultiVectors {
    fn new(value: &ColumnarValue) -> Result<Self> {
        let (lists, is_scalar) = array_of(value)?;
        let vectors = list_values(&lists).unwrap_or_else(|| new_empty_array(&DataType::Null));
        Ok(Self { vectors: Vectors::of(vectors, false)?, lists, is_scalar })
    }

    /// The vectors of a row; `None` when the list, a vector or an element is null.
    fn row(&self, row: usize) -> Option<Vec<&[f32]>> {
        let range = list_range(&self.lists, if self.is_scalar { 0 } else { row })?;
        range.map(|index| self.vectors.row(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_products_are_added() {
        let (x, y, both) = ([1.0, 0.0], [0.0, 1.0], [0.5, 0.25]);
        let score = max_sim(&[&x, &y], &[&both, &x]).unwrap().unwrap();
        assert!((score - 1.25).abs() < 1e-7, "{score}");
        assert_eq!(max_sim(&[&x], &[]).unwrap(), None);
        assert!(max_sim(&[&x], &[&[1.0]]).is_err());
    }
}
