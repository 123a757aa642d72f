//! Low-rank adapters (LoRA) that a checkpoint stores beside its weights, one for each task, as parametrizations of torch: a
//! weight `W` becomes `W + B·A · scaling` while it is read, so that the layers know nothing of it. The entry is [`with_lora`].
//!
//! # Source
//! `LoRAParametrization` in `modeling_lora.py` of jinaai/xlm-roberta-flash-implementation on the hub.

use std::ops::Range;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

use super::matrix_rows::Rows;
use super::var_builder::{TensorSource, VarBuilder};

/// The adapter that is merged into the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraAdapter {
    /// Its place among the adapters of the checkpoint.
    pub index: usize,
    /// The number of adapters.
    pub count: usize,
    /// The rank of its products.
    pub rank: usize,
    /// The factor on its products.
    pub scaling: f64,
}

/// The tensors of `vb`, where a `weight` may be stored as the original of a parametrization. `adapter` is merged into every
/// such weight; without one, the originals are read. `is_embedding` says by the name whether a weight is a table of embeddings,
/// whose factors are stored the other way around.
#[must_use]
pub fn with_lora<'a>(
    vb: &VarBuilder<'a>,
    adapter: Option<LoraAdapter>,
    is_embedding: fn(&str) -> bool,
) -> VarBuilder<'a> {
    vb.map_source(|source| LoraSource { source, adapter, is_embedding })
}

struct LoraSource<'a> {
    source: Rc<dyn TensorSource + 'a>,
    adapter: Option<LoraAdapter>,
    is_embedding: fn(&str) -> bool,
}

impl LoraSource<'_> {
    /// The path of the parametrization of `name`, if it is one.
    fn parametrization(&self, name: &str) -> Option<String> {
        let path = format!("{}.parametrizations.weight", name.strip_suffix(".weight")?);
        self.source.contains(&format!("{path}.original")).then_some(path)
    }

    /// The two factors of the adapter for a matrix of `shape`: `(rows, rank)` and `(rank, columns)`.
    fn factors(
        &self,
        adapter: LoraAdapter,
        shape: (usize, usize),
        path: &str,
        name: &str,
    ) -> Result<Option<[Vec<f32>; 2]>> {
        let LoraAdapter { index, count, rank, .. } = adapter;
        let (left, right) =
            if (self.is_embedding)(name) { ("lora_A", "lora_B") } else { ("lora_B", "lora_A") };
        let factor = |name, rows: usize, columns: usize| -> Result<Option<Vec<f32>>> {
            let (shape, name) = (Shape::from((count, rows, columns)), format!("{path}.0.{name}"));
            self.source.mark_used(&shape, &name, rows.saturating_mul(columns));
            let matrix = self.source.rows(&shape, &name)?;
            let Some(matrix) = matrix.filter(|_| !self.source.only_sizes()) else {
                return Ok(None);
            };
            let mut numbers = Vec::new();
            matrix.read(index..index + 1, &mut numbers)?;
            if numbers.len() != rows * columns {
                bail!("`{name}` has {} numbers for an adapter of {rows}×{columns}", numbers.len());
            }
            Ok(Some(numbers))
        };
        let (left, right) = (factor(left, shape.0, rank)?, factor(right, rank, shape.1)?);
        Ok(left.zip(right).map(|(left, right)| [left, right]))
    }
}

impl TensorSource for LoraSource<'_> {
    fn get(&self, shape: &Shape, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(path) = self.parametrization(name) else {
            return self.source.get(shape, name, dtype, device);
        };
        let merged = self.adapter.is_some() && !self.source.only_sizes() && shape.rank() == 2;
        let rows = if merged { self.rows(shape, name)? } else { None };
        let Some(rows) = rows else {
            if self.adapter.is_some() {
                self.rows(shape, name)?;
            }
            return self.source.get(shape, &format!("{path}.original"), dtype, device);
        };
        let mut numbers = Vec::with_capacity(shape.elem_count());
        rows.read(0..rows.shape().0, &mut numbers)?;
        self.source.mark_used(shape, &format!("{path}.original"), shape.elem_count());
        Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }

    fn contains(&self, name: &str) -> bool {
        self.source.contains(name) || self.parametrization(name).is_some()
    }

    fn rows(&self, shape: &Shape, name: &str) -> Result<Option<Box<dyn Rows + '_>>> {
        let Some(path) = self.parametrization(name) else { return self.source.rows(shape, name) };
        let base = self.source.rows(shape, &format!("{path}.original"))?;
        let (Some(adapter), Ok(matrix)) = (self.adapter, shape.dims2()) else { return Ok(base) };
        let factors = self.factors(adapter, matrix, &path, name)?;
        let (Some(base), Some([left, right])) = (base, factors) else { return Ok(None) };
        let (rank, scaling) = (adapter.rank, adapter.scaling as f32);
        Ok(Some(Box::new(AdaptedRows { base, left, right, rank, scaling })))
    }

    fn mark_used(&self, shape: &Shape, name: &str, elements: usize) {
        match self.parametrization(name) {
            Some(path) => self.source.mark_used(shape, &format!("{path}.original"), elements),
            None => self.source.mark_used(shape, name, elements),
        }
    }

    fn count_bytes(&self, bytes: u64) {
        self.source.count_bytes(bytes);
    }

    fn only_sizes(&self) -> bool {
        self.source.only_sizes()
    }
}

/// The rows of a matrix with an adapter.
struct AdaptedRows<'a> {
    base: Box<dyn Rows + 'a>,
    left: Vec<f32>,
    right: Vec<f32>,
    rank: usize,
    scaling: f32,
}

impl Rows for AdaptedRows<'_> {
    fn shape(&self) -> (usize, usize) {
        self.base.shape()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let (start, columns) = (out.len(), self.shape().1);
        self.base.read(rows.clone(), out)?;
        let mut product = vec![0f32; columns];
        for (row, numbers) in rows.zip(out[start..].chunks_exact_mut(columns.max(1))) {
            product.fill(0.0);
            let left = &self.left[row * self.rank..][..self.rank];
            for (factor, right) in left.iter().zip(self.right.chunks_exact(columns.max(1))) {
                product.iter_mut().zip(right).for_each(|(sum, number)| *sum += factor * number);
            }
            numbers.iter_mut().zip(&product).for_each(|(x, sum)| *x += sum * self.scaling);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn tensors() -> HashMap<String, Tensor> {
        let tensor = |numbers: &[f32], shape: &[usize]| {
            Tensor::from_vec(numbers.to_vec(), shape, &Device::Cpu).unwrap()
        };
        let named = |name: &str, tensor| (name.to_owned(), tensor);
        HashMap::from([
            named("l.parametrizations.weight.original", tensor(&[1., 2., 3., 4., 5., 6.], &[2, 3])),
            named(
                "l.parametrizations.weight.0.lora_A",
                tensor(&[9., 9., 9., 1., 0., 2.], &[2, 1, 3]),
            ),
            named("l.parametrizations.weight.0.lora_B", tensor(&[9., 9., 10., 20.], &[2, 2, 1])),
            named("e.parametrizations.weight.original", tensor(&[0.; 6], &[2, 3])),
            named("e.parametrizations.weight.0.lora_A", tensor(&[9., 9., 10., 20.], &[2, 2, 1])),
            named(
                "e.parametrizations.weight.0.lora_B",
                tensor(&[9., 9., 9., 1., 0., 2.], &[2, 1, 3]),
            ),
            named("plain.weight", tensor(&[7.], &[1])),
        ])
    }

    fn weight(adapter: Option<LoraAdapter>, path: &str) -> Result<Vec<f32>> {
        let vb = VarBuilder::from_tensors(tensors(), DType::F32, &Device::Cpu);
        let vb = with_lora(&vb, adapter, |name| name.starts_with('e'));
        assert!(vb.contains_tensor("l.weight") && !vb.contains_tensor("l.bias"));
        vb.pp(path).get((2, 3), "weight")?.flatten_all()?.to_vec1()
    }

    #[test]
    fn the_adapter_of_the_task_is_merged_and_originals_stay_without_one() -> Result<()> {
        let adapter = Some(LoraAdapter { index: 1, count: 2, rank: 1, scaling: 0.5 });
        assert_eq!(weight(None, "l")?, [1., 2., 3., 4., 5., 6.]);
        assert_eq!(weight(adapter, "l")?, [6., 2., 13., 14., 5., 26.]);
        assert_eq!(weight(adapter, "e")?, [5., 0., 10., 10., 0., 20.]);
        let vb = VarBuilder::from_tensors(tensors(), DType::F32, &Device::Cpu);
        let vb = with_lora(&vb, adapter, |_| false);
        assert_eq!(vb.get(1, "plain.weight")?.to_vec1::<f32>()?, [7.0]);
        Ok(())
    }

    #[test]
    fn factors_of_another_rank_are_an_error() {
        for (count, rank) in [(2, 2), (3, 1)] {
            let adapter = LoraAdapter { index: 1, count, rank, scaling: 1.0 };
            assert!(weight(Some(adapter), "l").is_err());
        }
    }
}
