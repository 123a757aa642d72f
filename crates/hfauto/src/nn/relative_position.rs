//! A learned bias on attention scores, per head and bucket of relative positions (T5, MPNet).
//!
//! Not here: relative position embeddings, as in BERT's `relative_key` (`attention`). The entry is
//! [`RelativeAttentionBias::covering`].

use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Tensor, bail};

use super::embedding::Embedding;
use super::var_builder::VarBuilder;
use crate::limits;

/// Maps distances to buckets: small distances have one bucket each, larger ones share buckets on a logarithmic scale.
///
/// # Source
/// `T5Attention._relative_position_bucket` of `modeling_t5.py` at v4.57.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativePositionBuckets {
    num_buckets: u32,
    max_distance: u32,
    bidirectional: bool,
}

impl RelativePositionBuckets {
    /// With `bidirectional`, keys before and after a query have separate buckets. Otherwise, all keys after a query
    /// share one bucket with its own position. Distances from `max_distance` on share the last bucket. `None` where
    /// transformers would divide by zero: without a bucket for small distances, or without one for large ones.
    pub const fn new(num_buckets: u32, max_distance: u32, bidirectional: bool) -> Option<Self> {
        let buckets = Self { num_buckets, max_distance, bidirectional };
        let max_exact = buckets.max_exact();
        if max_exact > 0 && max_distance > max_exact { Some(buckets) } else { None }
    }

    /// The number of buckets.
    pub const fn num_buckets(self) -> u32 {
        self.num_buckets
    }

    /// The number of buckets for one direction.
    const fn of_one_side(self) -> u32 {
        if self.bidirectional { self.num_buckets / 2 } else { self.num_buckets }
    }

    /// The number of distances with a bucket of their own.
    const fn max_exact(self) -> u32 {
        self.of_one_side() / 2
    }

    /// The bucket of the key's position relative to the query's.
    pub fn bucket(self, relative_position: i64) -> u32 {
        let (buckets, max_exact) = (self.of_one_side(), self.max_exact());
        let offset = if self.bidirectional && relative_position > 0 { buckets } else { 0 };
        let distance = match (self.bidirectional, relative_position > 0) {
            (false, true) => 0,
            _ => u32::try_from(relative_position.unsigned_abs()).unwrap_or(u32::MAX),
        };
        if distance < max_exact {
            return offset + distance;
        }
        // In f32, as torch computes it, because the result is truncated. The divisor is Python's f64.
        let exact = max_exact as f32;
        let range = (f64::from(self.max_distance) / f64::from(max_exact)).ln() as f32;
        let log = (distance as f32 / exact).ln() / range;
        let far = max_exact + (log * (buckets - max_exact) as f32) as u32;
        offset + far.min(buckets - 1)
    }
}

/// Up to this length, the bias doubles its size when it grows; beyond, it grows by half of this length at a time.
const DOUBLES_UP_TO: usize = 1024;

/// `relative_attention_bias`: the table, and the bias computed from it.
pub struct RelativeAttentionBias {
    relative_attention_bias: Embedding,
    buckets: RelativePositionBuckets,
    /// The bias for the longest row so far. Only longer rows rebuild it.
    cached: Mutex<Option<Tensor>>,
}

impl RelativeAttentionBias {
    /// Loads `weight` of `(num_embeddings, num_heads)`.
    ///
    /// # Errors
    /// When the checkpoint lacks the table or has another shape.
    pub fn load(
        vb: VarBuilder<'_>,
        num_embeddings: usize,
        num_heads: usize,
        buckets: RelativePositionBuckets,
    ) -> Result<Self> {
        Ok(Self {
            relative_attention_bias: Embedding::load(vb, num_embeddings, num_heads)?,
            buckets,
            cached: Mutex::default(),
        })
    }

    /// `(num_heads, n, n)` with `n` at least `seq_len`. Row `i` belongs to the query at position `i`.
    ///
    /// # Errors
    /// When there are more buckets than rows in the table, or candle cannot allocate.
    pub fn covering(&self, seq_len: usize) -> Result<Tensor> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bias) = &*cached
            && bias.dim(1)? >= seq_len
        {
            return Ok(bias.clone());
        }
        // Doubling amortizes the growth during decoding. For long rows, the memory, which is quadratic, would be too
        // large.
        let n = if seq_len <= DOUBLES_UP_TO {
            seq_len.next_power_of_two()
        } else {
            seq_len.next_multiple_of(DOUBLES_UP_TO / 2)
        };
        // Memory holds the bias several times. No text is this long in practice, and running out of memory would abort
        // the process.
        if n > limits::RELATIVE_POSITIONS {
            let most = limits::RELATIVE_POSITIONS;
            bail!(
                "OUT_OF_MEMORY: relative positions of a row of {seq_len} tokens, more than {most}"
            );
        }
        let device = self.relative_attention_bias.device();
        // Relative positions from 1 − n to n − 1. Row `i` of the bias starts with position −i.
        let distances: Vec<u32> =
            (1 - n as i64..n as i64).map(|distance| self.buckets.bucket(distance)).collect();
        let buckets: Vec<u32> =
            (1..=n).flat_map(|row| distances[n - row..][..n].iter().copied()).collect();
        let buckets = Tensor::from_vec(buckets, n * n, device)?;
        let bias = self.relative_attention_bias.forward(&buckets)?; // (n * n, heads)
        let bias = bias.t()?.reshape(((), n, n))?.contiguous()?;
        *cached = Some(bias.clone());
        Ok(bias)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    use super::*;

    /// The first distance of each bucket, from `_relative_position_bucket` of transformers.
    #[test]
    fn buckets_begin_where_those_of_transformers_do() {
        let cases: [(u32, u32, bool, &[i64]); 6] = [
            (32, 128, true, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]),
            (
                32,
                128,
                false,
                &[
                    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31,
                    35, 40, 46, 52, 59, 67, 77, 87, 99, 113,
                ],
            ),
            (8, 12, true, &[0, 1, 2, 5]),
            (10, 16, false, &[0, 1, 2, 3, 4, 5, 7, 8, 11, 13]),
            (12, 128, true, &[0, 1, 2, 3, 11, 37]),
            (
                64,
                1000,
                false,
                &[
                    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                    22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 36, 40, 45, 50, 55, 62, 68, 76, 85,
                    94, 105, 117, 130, 145, 161, 179, 200, 222, 248, 276, 307, 342, 380, 423, 471,
                    525, 585, 651, 725, 807, 899,
                ],
            ),
        ];
        for (num_buckets, max_distance, bidirectional, starts) in cases {
            let buckets =
                RelativePositionBuckets::new(num_buckets, max_distance, bidirectional).unwrap();
            let mut ours = Vec::new();
            for distance in 0..10_000 {
                let bucket = buckets.bucket(-distance);
                if ours.len() <= bucket as usize {
                    assert_eq!(bucket as usize, ours.len(), "a bucket was skipped");
                    ours.push(distance);
                }
                assert_eq!(bucket as usize, ours.len() - 1, "distance {distance}");
                let after =
                    if bidirectional && distance > 0 { num_buckets / 2 + bucket } else { 0 };
                if bidirectional || distance > 0 {
                    assert_eq!(buckets.bucket(distance), after, "distance {distance}");
                }
            }
            assert_eq!(ours, starts, "{num_buckets} buckets up to {max_distance}");
        }
    }

    #[test]
    fn divisions_by_zero_in_transformers_give_none() {
        for (num_buckets, max_distance, bidirectional) in
            [(3, 128, true), (1, 128, false), (32, 8, true), (32, 16, false), (0, 0, true)]
        {
            assert!(
                RelativePositionBuckets::new(num_buckets, max_distance, bidirectional).is_none()
            );
        }
        assert!(RelativePositionBuckets::new(4, 2, true).is_some());
        assert!(RelativePositionBuckets::new(2, 2, false).is_some());
    }

    #[test]
    fn the_bias_grows_and_keeps_its_values() -> Result<()> {
        let buckets = RelativePositionBuckets::new(8, 20, true).unwrap();
        let table = Tensor::arange(0f32, 16., &Device::Cpu)?.reshape((8, 2))?;
        let tensors = HashMap::from([("weight".to_owned(), table)]);
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let bias = RelativeAttentionBias::load(vb, 8, 2, buckets)?;
        let small = bias.covering(3)?;
        assert_eq!(small.dims(), [2, 4, 4]);
        let large = bias.covering(9)?;
        assert_eq!(large.dims(), [2, 16, 16]);
        assert_eq!(bias.covering(16)?.id(), large.id());
        let large = large.to_vec3::<f32>()?;
        for (head, rows) in large.iter().enumerate() {
            for (query, row) in rows.iter().enumerate() {
                for (key, number) in row.iter().enumerate() {
                    let bucket = buckets.bucket(key as i64 - query as i64) as usize;
                    assert!((number - (2 * bucket + head) as f32).abs() < 1e-6);
                }
            }
        }
        let small = small.to_vec3::<f32>()?;
        assert_eq!(small[1][3], large[1][3][..4]);
        Ok(())
    }
}
