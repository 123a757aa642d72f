//! A mixture of experts of which each token uses a few: only those are computed, each for all its tokens at once. A token's result
//! does not depend on the others. Not here: one expert ([`GatedMlp`]). The entry is [`SparseMoe`].

use candle_core::{DType, Result, Tensor, bail};

use super::cpu;
use super::host::{select_rows, to_device};
use super::linear::Linear;
use super::mlp::GatedMlp;

/// Experts, and the router that chooses among them.
#[derive(Clone, Debug)]
pub struct SparseMoe {
    gate: Linear,
    experts: Vec<GatedMlp>,
    top_k: usize,
    normalizes: bool,
}

/// The tokens of an expert and their weights.
#[derive(Clone, Default)]
struct Share {
    tokens: Vec<u32>,
    weights: Vec<f32>,
}

impl SparseMoe {
    /// `gate` gives a score for each of `experts`; each token uses the `top_k` highest. With `normalizes`, their probabilities add up
    /// to 1.
    pub fn new(gate: Linear, experts: Vec<GatedMlp>, top_k: usize, normalizes: bool) -> Self {
        Self { gate, experts, top_k, normalizes }
    }

    /// Applies the chosen experts.
    ///
    /// # Shapes
    /// `x`: `(tokens, hidden_size)`, as what is returned.
    ///
    /// # Errors
    /// If the shapes do not match or candle cannot allocate.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, hidden_size) = x.dims2()?;
        if tokens == 0 {
            return Ok(x.clone());
        }
        let scores = self.gate.forward(x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let shares = self.shares(&scores)?;
        let on_cpu = cpu::applies(x);
        let mut sums = vec![0.0; if on_cpu { tokens * hidden_size } else { 0 }];
        let mut sum = x.zeros_like()?;
        for (expert, share) in self.experts.iter().zip(shares) {
            if share.tokens.is_empty() {
                continue;
            }
            let output = expert.forward(&select_rows(x, share.tokens.clone())?)?;
            if on_cpu {
                let output = output.flatten_all()?.to_vec1::<f32>()?;
                let rows = output.chunks_exact(hidden_size).zip(&share.weights);
                for (token, (row, weight)) in share.tokens.iter().zip(rows) {
                    let sums = &mut sums[*token as usize * hidden_size..][..hidden_size];
                    for (sum, number) in sums.iter_mut().zip(row) {
                        *sum += number * weight;
                    }
                }
            } else {
                let count = share.tokens.len();
                let weights = Tensor::from_vec(share.weights, (count, 1), x.device())?;
                let output = output.broadcast_mul(&weights.to_dtype(x.dtype())?)?;
                sum = sum.index_add(&to_device(share.tokens, x.device())?, &output, 0)?;
            }
        }
        if on_cpu { Tensor::from_vec(sums, (tokens, hidden_size), x.device()) } else { Ok(sum) }
    }

    /// The tokens of each expert, in order. `scores` are those of all experts for the first token, then for the next.
    fn shares(&self, scores: &[f32]) -> Result<Vec<Share>> {
        let count = self.experts.len();
        if count == 0 || !scores.len().is_multiple_of(count) || self.top_k > count {
            bail!("{} of {count} experts with {} scores", self.top_k, scores.len());
        }
        let mut shares = vec![Share::default(); count];
        for (token, scores) in scores.chunks_exact(count).enumerate() {
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
            let total: f32 = powers.iter().sum();
            let mut chosen: Vec<usize> = (0..count).collect();
            // Stable: of equal scores, the first wins.
            chosen.sort_by(|a, b| powers[*b].total_cmp(&powers[*a]));
            chosen.truncate(self.top_k);
            let probability = |expert: usize| powers[expert] / total;
            let of_chosen: f32 = chosen.iter().map(|expert| probability(*expert)).sum();
            for expert in chosen {
                let weight = probability(expert);
                shares[expert].tokens.push(token as u32);
                shares[expert].weights.push(if self.normalizes {
                    weight / of_chosen
                } else {
                    weight
                });
            }
        }
        Ok(shares)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::random::randn;
    use crate::nn::{Activation, GateHalf};

    #[test]
    fn each_token_gets_the_weighted_sum_of_its_experts() -> Result<()> {
        let device = Device::Cpu;
        let random = |rows, columns| randn(0f32, 0.7, (rows, columns), &device);
        for (top_k, normalizes) in [(1, false), (2, true), (3, false)] {
            let gate = Linear::new(random(5, 6)?, None);
            let experts = (0..5).map(|_| -> Result<_> {
                let (gate_up, down) =
                    (Linear::new(random(8, 6)?, None), Linear::new(random(6, 4)?, None));
                Ok(GatedMlp::new(gate_up, GateHalf::First, Activation::Silu, down))
            });
            let experts = experts.collect::<Result<Vec<_>>>()?;
            let x = random(9, 6)?;
            let moe = SparseMoe::new(gate.clone(), experts.clone(), top_k, normalizes);
            let found = moe.forward(&x)?;
            for token in 0..9 {
                let row = x.narrow(0, token, 1)?;
                let scores = gate.forward(&row)?.get(0)?.to_vec1::<f32>()?;
                let total: f32 = scores.iter().map(|score| score.exp()).sum();
                let mut order: Vec<usize> = (0..5).collect();
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                let chosen = &order[..top_k];
                let part: f32 = chosen.iter().map(|i| scores[*i].exp() / total).sum();
                let mut expected = row.zeros_like()?;
                for expert in chosen {
                    let weight = f64::from(scores[*expert].exp() / total);
                    let weight = if normalizes { weight / f64::from(part) } else { weight };
                    expected = (expected + (experts[*expert].forward(&row)? * weight)?)?;
                }
                let off = (found.narrow(0, token, 1)? - expected)?.abs()?.flatten_all()?.max(0)?;
                assert!(off.to_scalar::<f32>()? < 1e-5);
                assert_eq!(
                    moe.forward(&row)?.flatten_all()?.to_vec1::<f32>()?,
                    found.get(token)?.to_vec1::<f32>()?
                );
            }
        }
        Ok(())
    }
}
