//! A table of embeddings whose rows are averaged, in the dtype of the file: a static embedding. It computes on numbers,
//! not on tensors: a text costs less than creating one. Not here: embeddings of a transformer (`embedding`).

use half::{bf16, f16};

/// A table of embeddings, and the weight of each token.
///
/// # Source
/// `torch.nn.EmbeddingBag` with the mode `mean`; `StaticModel._encode_batch` of model2vec for `mapping` and `weights`.
#[derive(Clone, Debug)]
pub struct EmbeddingBag {
    rows: TableNumbers,
    dimensions: usize,
    tokens: usize,
    /// The row of each token; the identity if absent.
    mapping: Option<Vec<u32>>,
    /// The factor of each token's row; 1 if absent.
    weights: Option<Vec<f32>>,
}

/// The numbers of a table, in one of the dtypes that it keeps.
#[derive(Clone, Debug)]
pub enum TableNumbers {
    /// 32-bit floating point.
    F32(Vec<f32>),
    /// 16-bit floating point: results are rounded to it.
    F16(Vec<f16>),
    /// bfloat16: results are rounded to it.
    BF16(Vec<bf16>),
    /// Signed 8-bit integers, unscaled.
    I8(Vec<i8>),
}

impl TableNumbers {
    fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
            Self::BF16(numbers) => numbers.len(),
            Self::I8(numbers) => numbers.len(),
        }
    }
}

impl EmbeddingBag {
    /// A table of rows of `dimensions` numbers. `mapping` gives the row of each token, `weights` its factor.
    ///
    /// # Shapes
    /// `numbers`: `(rows, dimensions)`; `mapping`, `weights`: `(tokens)`.
    ///
    /// # Errors
    /// If the shapes do not match, or `mapping` names a row that does not exist.
    pub fn new(
        numbers: TableNumbers,
        dimensions: usize,
        mapping: Option<Vec<u32>>,
        weights: Option<Vec<f32>>,
    ) -> Result<Self, String> {
        if dimensions == 0 || !numbers.len().is_multiple_of(dimensions) {
            return Err(format!("{} numbers are not rows of {dimensions}", numbers.len()));
        }
        let rows = numbers.len() / dimensions;
        let tokens = mapping.as_ref().map_or(rows, Vec::len);
        if let Some(row) = mapping.iter().flatten().find(|row| **row as usize >= rows) {
            return Err(format!("`mapping` names row {row} of a table of {rows} rows"));
        }
        if let Some(found) = weights.as_ref().map(Vec::len).filter(|found| *found != tokens) {
            return Err(format!("`weights` has {found} numbers for {tokens} tokens"));
        }
        Ok(Self { rows: numbers, dimensions, tokens, mapping, weights })
    }

    /// The width of a row.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let table = match &self.rows {
            TableNumbers::F32(numbers) => size_of_val(&numbers[..]),
            TableNumbers::F16(numbers) => size_of_val(&numbers[..]),
            TableNumbers::BF16(numbers) => size_of_val(&numbers[..]),
            TableNumbers::I8(numbers) => size_of_val(&numbers[..]),
        };
        let mapping = self.mapping.as_ref().map_or(0, |mapping| size_of_val(&mapping[..]));
        table + mapping + self.weights.as_ref().map_or(0, |weights| size_of_val(&weights[..]))
    }

    /// Writes the mean of the tokens' rows to `out`; zeros without tokens.
    ///
    /// # Shapes
    /// `out`: `(dimensions)`.
    ///
    /// # Errors
    /// The first token without a row.
    pub fn mean(&self, ids: &[u32], out: &mut [f32]) -> Result<(), u32> {
        match &self.rows {
            TableNumbers::F32(numbers) => self.mean_of(numbers, |x| x, ids, out)?,
            TableNumbers::F16(numbers) => self.mean_of(numbers, f16::to_f32, ids, out)?,
            TableNumbers::BF16(numbers) => self.mean_of(numbers, bf16::to_f32, ids, out)?,
            TableNumbers::I8(numbers) => self.mean_of(numbers, f32::from, ids, out)?,
        }
        match &self.rows {
            TableNumbers::F16(_) => out.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
            TableNumbers::BF16(_) => out.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
            TableNumbers::F32(_) | TableNumbers::I8(_) => {}
        }
        Ok(())
    }

    #[inline]
    fn mean_of<T: Copy>(
        &self,
        numbers: &[T],
        widen: impl Fn(T) -> f32 + Copy,
        ids: &[u32],
        out: &mut [f32],
    ) -> Result<(), u32> {
        out.fill(0.0);
        for &id in ids {
            let token = id as usize;
            if token >= self.tokens {
                return Err(id);
            }
            let row = self.mapping.as_ref().map_or(token, |mapping| mapping[token] as usize);
            let row = &numbers[row * self.dimensions..][..self.dimensions];
            match &self.weights {
                None => out.iter_mut().zip(row).for_each(|(sum, x)| *sum += widen(*x)),
                Some(weights) => {
                    let weight = weights[token];
                    out.iter_mut().zip(row).for_each(|(sum, x)| *sum += widen(*x) * weight);
                }
            }
        }
        if ids.len() > 1 {
            let count = ids.len() as f32;
            out.iter_mut().for_each(|sum| *sum /= count);
        }
        Ok(())
    }
}

/// Scales a vector to unit length; zeros stay zeros.
///
/// # Source
/// `torch.nn.functional.normalize`: divides by at least 1e-12.
pub fn normalize_in_place(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = squares.sqrt().max(1e-12) as f32;
    vector.iter_mut().for_each(|x| *x /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bag(mapping: Option<Vec<u32>>, weights: Option<Vec<f32>>) -> EmbeddingBag {
        let numbers = TableNumbers::F32(vec![1.0, 2.0, 3.0, 4.0, -5.0, 6.0]);
        EmbeddingBag::new(numbers, 2, mapping, weights).unwrap()
    }

    fn mean(bag: &EmbeddingBag, ids: &[u32]) -> Vec<f32> {
        let mut out = vec![9.0; 2];
        bag.mean(ids, &mut out).unwrap();
        out
    }

    #[test]
    fn rows_are_averaged_by_mapping_and_weight() {
        let plain = bag(None, None);
        assert_eq!(mean(&plain, &[0, 2, 2]), [-3.0, 14.0 / 3.0]);
        assert_eq!(mean(&plain, &[]), [0.0, 0.0]);
        let folded = bag(Some(vec![2, 2, 0, 1]), Some(vec![1.0, 0.5, 2.0, 0.0]));
        assert_eq!(folded.tokens(), 4);
        assert_eq!(mean(&folded, &[1, 2]), [-0.25, 3.5]);
        assert_eq!(folded.mean(&[4], &mut [0.0; 2]), Err(4));
    }

    #[test]
    fn halves_and_bytes_keep_their_dtype() {
        let half = |x: f32| f16::from_f32(x);
        let numbers = TableNumbers::F16(vec![half(1.0), half(0.1), half(2.0), half(0.2)]);
        let halves = EmbeddingBag::new(numbers, 2, None, None).unwrap();
        let sum = f32::midpoint(half(0.1).to_f32(), half(0.2).to_f32());
        assert_eq!(mean(&halves, &[0, 1]), [1.5, half(sum).to_f32()]);
        let bytes = EmbeddingBag::new(TableNumbers::I8(vec![-128, 127, 1, 0]), 2, None, None);
        let bytes = bytes.unwrap();
        assert_eq!(mean(&bytes, &[0, 1]), [-63.5, 63.5]);
        assert_eq!((bytes.bytes(), halves.bytes()), (4, 8));
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let new = |mapping, weights| {
            EmbeddingBag::new(TableNumbers::F32(vec![0.0; 6]), 2, mapping, weights).map(drop)
        };
        assert!(new(Some(vec![0, 3]), None).unwrap_err().contains("row 3 of a table of 3"));
        assert!(new(None, Some(vec![1.0])).unwrap_err().contains("1 numbers for 3 tokens"));
        assert!(EmbeddingBag::new(TableNumbers::I8(vec![0; 5]), 2, None, None).is_err());
    }
}
