//! The largest outputs of a layer over a vocabulary, found while they are computed. Not here: products of whole layers
//! (`linear`), the search in a slice ([`BestOutputs`]).

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::cpu::{self, BestOutputs, CpuView};
use super::linear::{BLOCK_TOKENS, Linear, TILE_TOKENS, Weight};

/// Outputs per slice of a layer whose outputs are looked through and not kept: those of a block stay in the cache.
const SLICE_OUTPUTS: usize = 1024;

impl Weight {
    /// Appends some outputs of each row, as `PackedWeight::append_outputs`.
    fn append_outputs(
        &self,
        out: &mut Vec<f32>,
        x: &[f32],
        bias: Option<&[f32]>,
        outputs: Range<usize>,
    ) -> Result<()> {
        match self {
            Self::Packed(weight) => weight.append_outputs(out, x, bias, outputs),
            Self::Int8(weight) => weight.append_outputs(out, x, bias, outputs),
            Self::Blocks(weight) => weight.append_outputs(out, x, bias, outputs),
            Self::Dense(_) => bail!("bug: some outputs of a dense layer"),
        }
    }
}

impl Linear {
    /// The `count` largest outputs of each row of `x`, at least one, and with `with_sum` their [`log_softmax`]: slices of the
    /// outputs are looked through while they are in the cache, and are not kept. The outputs are those of
    /// [`Linear::forward`]. `None` where the kernels of `nn/cpu` do not apply.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    ///
    /// [`log_softmax`]: BestOutputs::log_softmax
    pub fn best(
        &self,
        x: &Tensor,
        count: usize,
        with_sum: bool,
    ) -> Result<Option<Vec<BestOutputs>>> {
        let has_slices = match &self.weight {
            Weight::Dense(_) => false,
            Weight::Packed(_) | Weight::Blocks(_) => true,
            Weight::Int8(weight) => weight.has_one_part(),
        };
        if !self.on_cpu(x) || !has_slices {
            return Ok(None);
        }
        let (tokens, in_features) = x.dims2()?;
        let (out_features, expected) = self.weight.shape()?;
        if in_features != expected {
            bail!("linear layer of {expected} features got {in_features}");
        }
        let x = x.contiguous()?;
        let view = CpuView::new(&x);
        let numbers = &view.slice()?[..tokens * in_features];
        let bias = self.bias.as_ref().map(Tensor::contiguous).transpose()?;
        let bias = bias.as_ref().map(CpuView::new);
        let bias = bias.as_ref().map(CpuView::slice).transpose()?;
        let work = tokens * in_features * out_features;
        let found = cpu::shared(tokens, TILE_TOKENS, work, |range| {
            let mut found = vec![BestOutputs::new(count, with_sum); range.len()];
            let numbers = &numbers[range.start * in_features..range.end * in_features];
            let mut values = Vec::new();
            let blocks = numbers.chunks(BLOCK_TOKENS * in_features);
            for (block, found) in blocks.zip(found.chunks_mut(BLOCK_TOKENS)) {
                for start in (0..out_features).step_by(SLICE_OUTPUTS) {
                    let outputs = start..out_features.min(start + SLICE_OUTPUTS);
                    let bias = bias.map(|bias| &bias[outputs.clone()]);
                    values.clear();
                    self.weight.append_outputs(&mut values, block, bias, outputs.clone())?;
                    for (row, found) in values.chunks_exact(outputs.len()).zip(found.iter_mut()) {
                        found.add(start, row);
                    }
                }
            }
            Ok(found)
        });
        let found = found.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Some(found.into_iter().flatten().collect()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Shape};

    use super::*;
    use crate::nn::Precision;
    use crate::nn::random::randn;

    fn random(shape: impl Into<Shape>) -> Result<Tensor> {
        randn(0f32, 1., shape, &Device::Cpu)
    }

    /// The largest outputs of slices are those of the whole product, bit for bit.
    #[test]
    fn the_best_outputs_are_the_largest_of_all() -> Result<()> {
        let (inputs, outputs) = (20, 2 * SLICE_OUTPUTS + 45);
        for bias in [None, Some(random(outputs)?)] {
            let layer = Linear::new(random((outputs, inputs))?, bias);
            assert!(layer.best(&random((2, inputs))?, 3, true)?.is_none());
            for precision in [Precision::Full, Precision::Bf16, Precision::Int8] {
                let layer = layer.clone().packed(precision, None, &[outputs])?;
                for rows in [1, 3, BLOCK_TOKENS + 5] {
                    let x = random((rows, inputs))?;
                    let best = layer.best(&x, 6, true)?.expect("a packed layer");
                    assert_eq!(best.len(), rows);
                    let all = layer.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
                    for (all, best) in all.chunks_exact(outputs).zip(best) {
                        let mut sorted: Vec<(u32, f32)> = (0..).zip(all.iter().copied()).collect();
                        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
                        assert_eq!(best.outputs(), &sorted[..6]);
                        let mut all = all.to_vec();
                        crate::nn::log_softmax(&mut all);
                        for (place, score) in best.log_softmax() {
                            assert!((score - all[place as usize]).abs() < 2e-6);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
