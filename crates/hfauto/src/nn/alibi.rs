//! Attention with linear biases (ALiBi): numbers on the scores that grow with the distance, computed from positions and never
//! stored for all pairs. Not here: kernels that add them. The entry is [`Alibi`].
//!
//! # Source
//! Press et al., <https://arxiv.org/abs/2108.12409>.

use candle_core::{Device, Result, Tensor, bail};

/// How a bias depends on the positions of its query and its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AlibiForm {
    /// `−slope · |query − key|`: symmetric under a full mask (`JinaBERT` v2). Under a causal mask it stands for the
    /// `slope · key` of Bloom and the `slope · (key − last key)` of MPT: they differ from it by a number that is the same for
    /// all keys of a query, which softmax cancels.
    Distance,
    /// `slope · key · scale`, where slope, key and their product are rounded to bf16: Falcon, whatever its dtype. From 256 on,
    /// not every position is a bf16, so that this is no function of the distance. `scale` is that of the scores.
    Bf16Key {
        /// The factor on the rounded product.
        scale: f32,
    },
}

impl AlibiForm {
    /// The bias of a head with this `slope`.
    #[inline(always)]
    pub(super) fn bias(self, slope: f32, query: i32, key: i32) -> f32 {
        match self {
            Self::Distance => -slope * (query - key).abs() as f32,
            Self::Bf16Key { scale } => to_bf16(to_bf16(slope) * to_bf16(key as f32)) * scale,
        }
    }
}

/// Rounds a finite number to bf16, half to even, in instructions that vectorize.
#[inline(always)]
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The linear biases of a layer.
#[derive(Clone, Debug)]
pub struct Alibi {
    slopes: Vec<f32>,
    /// The slopes on the model's device, `(num_heads)`, f32.
    tensor: Tensor,
    form: AlibiForm,
}

impl Alibi {
    /// Biases of `num_heads` heads: slopes are powers of `2^(−8 / n)`, where `n` is the largest power of two up to `num_heads`;
    /// further heads take the odd powers of `2^(−4 / n)`.
    ///
    /// # Errors
    /// If there are no heads, or the device cannot hold the slopes.
    ///
    /// # Source
    /// `_get_alibi_slopes` of `modeling_bloom.py` at v5.24.
    pub fn new(num_heads: usize, form: AlibiForm, device: &Device) -> Result<Self> {
        let Some(log) = num_heads.checked_ilog2() else { bail!("ALiBi of a layer without heads") };
        let whole = 1usize << log;
        // The source rounds the base to f32, and then each power.
        let base = |heads: usize| f64::from((-8.0 / heads as f64).exp2() as f32);
        let power = |base: f64, exponent: usize| base.powi(exponent as i32) as f32;
        let first = (1..=whole).map(|exponent| power(base(whole), exponent));
        let further = (0..num_heads - whole).map(|i| power(base(2 * whole), 2 * i + 1));
        let slopes: Vec<f32> = first.chain(further).collect();
        let tensor = Tensor::new(&slopes[..], device)?;
        Ok(Self { slopes, tensor, form })
    }

    /// The slope of each head.
    pub fn slopes(&self) -> &[f32] {
        &self.slopes
    }

    /// How a bias depends on positions.
    pub fn form(&self) -> AlibiForm {
        self.form
    }

    /// The slopes on the device, `(num_heads)`, f32.
    #[cfg(feature = "cuda")]
    pub(super) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The biases of a row for the eager kernels: `(num_heads, queries, keys)`, f32. The last query has the position of the last
    /// key.
    ///
    /// # Errors
    /// If the device cannot hold the tensor.
    pub(super) fn table(&self, queries: usize, keys: usize) -> Result<Tensor> {
        let before = keys - queries;
        let mut biases = Vec::with_capacity(self.slopes.len() * queries * keys);
        for slope in &self.slopes {
            for query in before..keys {
                biases
                    .extend((0..keys).map(|key| self.form.bias(*slope, query as i32, key as i32)));
            }
        }
        Tensor::from_vec(biases, (self.slopes.len(), queries, keys), self.tensor.device())
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "numbers that transformers computes, bit for bit")]
mod tests {
    use super::*;

    /// `_get_alibi_slopes` of `modeling_bloom.py`.
    #[test]
    fn slopes_are_those_of_transformers() {
        for (num_heads, first, last) in [
            (1, 0.003_906_25, 0.003_906_25),
            (2, 0.0625, 0.003_906_25),
            (8, 0.5, 0.003_906_25),
            (12, 0.5, 0.088_388_34),
            (20, 0.707_106_77, 0.297_301_8),
        ] {
            let alibi = Alibi::new(num_heads, AlibiForm::Distance, &Device::Cpu).unwrap();
            let slopes = alibi.slopes();
            assert_eq!((slopes.len(), slopes[0]), (num_heads, first));
            assert_eq!(slopes[num_heads - 1], last);
        }
        assert!(Alibi::new(0, AlibiForm::Distance, &Device::Cpu).is_err());
    }

    /// `build_alibi_tensor` of `modeling_falcon.py`, 12 heads.
    #[test]
    fn keys_are_rounded_as_falcon_rounds_them() {
        let form = AlibiForm::Bf16Key { scale: 0.5 };
        let alibi = Alibi::new(12, form, &Device::Cpu).unwrap();
        for (head, key, expected) in [
            (0, 1, 0.5),
            (1, 255, 63.75),
            (3, 257, 16.0),
            (8, 259, 184.0),
            (9, 517, 182.0),
            (11, 599, 53.0),
        ] {
            assert_eq!(form.bias(alibi.slopes()[head], 1000, key), 0.5 * expected);
        }
        for x in [0.0, 1.0, 257.0, 258.0, 259.0, 0.353_553_4, 1e-30, 65_535.0, -3.003] {
            assert_eq!(to_bf16(x), half::bf16::from_f32(x).to_f32());
        }
    }

    #[test]
    fn the_last_query_of_a_table_is_at_its_last_key() -> Result<()> {
        let alibi = Alibi::new(2, AlibiForm::Distance, &Device::Cpu)?;
        let table = alibi.table(2, 3)?.to_vec3::<f32>()?;
        let of_head = |slope: f32| vec![vec![-slope, 0.0, -slope], vec![-2.0 * slope, -slope, 0.0]];
        assert_eq!(table, [of_head(0.0625), of_head(0.003_906_25)]);
        Ok(())
    }
}
