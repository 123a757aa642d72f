//! The options of attention. Not here: attention itself (`attention`). The entry is [`AttentionOptions`].

use candle_core::Tensor;

use super::alibi::Alibi;
use super::attention_mask::AttentionMask;
use super::disentangled::Disentangled;
use super::precision::Precision;

/// The attention kernels, by their `attn_implementation` names of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttnImplementation {
    /// The fastest kernel for the device and the options.
    #[default]
    Sdpa,
    /// Plain matrix products with softmax in f32: the reference.
    Eager,
}

/// The options of attention. A layer creates them once; a forward pass adds its own, such as the bias.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttentionOptions<'a> {
    /// The number of query heads; divides the width of the queries.
    pub num_heads: usize,
    /// The number of key-value heads; divides `num_heads`. Consecutive query heads share one (grouped-query attention).
    pub num_kv_heads: usize,
    /// The factor on the scores, usually `1 / √head_dim`; greater than 0.
    pub scale: f64,
    /// `(num_heads, n, n)` with `n` at least the longest row of keys: added to the scores of every row, as a
    /// relative position bias. The last query of a row has the position of its last key.
    pub bias: Option<&'a Tensor>,
    /// Linear biases, added to the scores of every row.
    pub alibi: Option<&'a Alibi>,
    /// Embeddings of the distance from query to key, whose products are added to the scores.
    pub distance: Option<DistanceEmbedding<'a>>,
    /// Vectors of relative positions, whose products with queries and keys are added to the scores before scaling. There are as
    /// many queries as keys.
    pub disentangled: Option<&'a Disentangled>,
    /// The keys that a query attends to.
    pub mask: AttentionMask,
    /// The bound `c` of the scores, greater than 0: a scaled score becomes `c · tanh(score / c)` before the bias.
    pub softcap: Option<f64>,
    /// Whether to return the probabilities; only the eager kernels can.
    pub output_attentions: bool,
    /// The kernels to use.
    pub attn_implementation: AttnImplementation,
    /// The precision of the surrounding layers: with bf16 and int8, a CPU multiplies in bf16 if it can.
    pub precision: Precision,
}

impl<'a> AttentionOptions<'a> {
    /// Options for `num_heads` heads of size `head_dim`: every query attends to every key, and scores are divided
    /// by `√head_dim`.
    pub fn new(num_heads: usize, head_dim: usize) -> Self {
        Self {
            num_heads,
            num_kv_heads: num_heads,
            scale: 1.0 / (head_dim as f64).sqrt(),
            bias: None,
            alibi: None,
            distance: None,
            disentangled: None,
            mask: AttentionMask::Full,
            softcap: None,
            output_attentions: false,
            attn_implementation: AttnImplementation::Sdpa,
            precision: Precision::Full,
        }
    }

    /// Whether an eager kernel is required, regardless of the device.
    pub(super) fn is_eager(&self) -> bool {
        self.attn_implementation == AttnImplementation::Eager
            || self.output_attentions
            || self.distance.is_some()
    }

    /// Sets the factor on the scores.
    #[must_use]
    pub fn with_scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// Sets the bias on the scores; see [`AttentionOptions::bias`].
    #[must_use]
    pub fn with_bias(self, bias: Option<&'a Tensor>) -> Self {
        Self { bias, ..self }
    }

    /// Sets the linear biases.
    #[must_use]
    pub fn with_alibi(self, alibi: Option<&'a Alibi>) -> Self {
        Self { alibi, ..self }
    }

    /// Sets the distance embeddings; see [`AttentionOptions::distance`].
    #[must_use]
    pub fn with_distance(self, distance: Option<DistanceEmbedding<'a>>) -> Self {
        Self { distance, ..self }
    }

    /// Sets the vectors of relative positions; see [`AttentionOptions::disentangled`].
    #[must_use]
    pub fn with_disentangled(self, disentangled: Option<&'a Disentangled>) -> Self {
        Self { disentangled, ..self }
    }

    /// Sets the number of key-value heads.
    #[must_use]
    pub fn with_num_kv_heads(self, num_kv_heads: usize) -> Self {
        Self { num_kv_heads, ..self }
    }

    /// Sets the mask.
    #[must_use]
    pub fn with_mask(self, mask: AttentionMask) -> Self {
        Self { mask, ..self }
    }

    /// Sets whether a query attends only to keys up to its own position.
    #[must_use]
    pub fn with_causal(self, causal: bool) -> Self {
        self.with_mask(if causal { AttentionMask::Causal } else { AttentionMask::Full })
    }

    /// Sets the bound of the scores; see [`AttentionOptions::softcap`].
    #[must_use]
    pub fn with_softcap(self, softcap: Option<f64>) -> Self {
        Self { softcap, ..self }
    }

    /// Sets whether to return the probabilities.
    #[must_use]
    pub fn with_output_attentions(self, output_attentions: bool) -> Self {
        Self { output_attentions, ..self }
    }

    /// Sets the kernels.
    #[must_use]
    pub fn with_attn_implementation(self, attn_implementation: AttnImplementation) -> Self {
        Self { attn_implementation, ..self }
    }

    /// Sets the precision of the surrounding layers.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }
}

/// Relative positions as in BERT's `relative_key` and `relative_key_query`: an embedding per distance, multiplied
/// with the queries, and optionally with the keys. Only the eager kernel supports them.
#[derive(Clone, Copy, Debug)]
pub struct DistanceEmbedding<'a> {
    /// `(2 * n − 1, head_dim)`: row `d + n − 1` is for distance `d`, the query's position minus the key's.
    pub table: &'a Tensor,
    /// Whether keys are also multiplied (`relative_key_query`).
    pub with_keys: bool,
}
