//! Self-attention of a decoder layer: projections as the family stores them, norms of queries and keys, rotary embeddings. Not here:
//! attention itself (`crate::nn`). The entry is [`LlamaAttention`].

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::config::{LlamaConfig, LlamaLayerConfig};
use super::input_norm;
use super::layout::{QkNorms, QkvLayout};
use crate::models::encoder::rows_by_group;
use crate::nn::{
    Alibi, AttentionOptions, KvCache, Linear, ModelInputs, Norm, NormKind, Rotation, SelectedRows,
    VarBuilder, attention_cached,
};

/// The norm of queries, or that of keys.
enum HeadNorm {
    Heads(Norm),
    Whole(Norm),
    EachHead(Vec<Norm>),
}

impl HeadNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            // All heads together are one of their width.
            Self::Heads(norm) | Self::Whole(norm) => norm.forward_heads(x),
            Self::EachHead(norms) => {
                let head_dim = x.dim(1)? / norms.len();
                let heads = norms.iter().enumerate().map(|(head, norm)| {
                    norm.forward(&x.narrow(1, head * head_dim, head_dim)?.contiguous()?)
                });
                Tensor::cat(&heads.collect::<Result<Vec<_>>>()?, 1)
            }
        }
    }
}

/// Self-attention of a layer.
pub(super) struct LlamaAttention {
    /// Queries, keys and values in one product.
    qkv_proj: Linear,
    o_proj: Linear,
    norms: Option<[HeadNorm; 2]>,
    q_width: usize,
    kv_width: usize,
    /// The index of its rotary embedding in the model.
    rotary: Option<usize>,
    options: AttentionOptions<'static>,
}

impl LlamaAttention {
    /// `before` is the norm that produces the input.
    pub(super) fn load(
        vb: &VarBuilder<'_>,
        config: &LlamaConfig,
        layer: LlamaLayerConfig,
        before: Option<&Norm>,
    ) -> Result<Self> {
        let head_dim = config.head_dim;
        let q_width = config.num_attention_heads * head_dim;
        let o_proj = vb.pp(config.layout.o_proj);
        Ok(Self {
            qkv_proj: load_qkv(vb, config, layer, before)?,
            o_proj: Linear::load(o_proj, q_width, config.hidden_size, config.o_bias)?,
            norms: load_norms(vb, config)?,
            q_width,
            kv_width: config.num_key_value_heads * head_dim,
            rotary: layer.rotary,
            options: AttentionOptions::new(config.num_attention_heads, head_dim)
                .with_num_kv_heads(config.num_key_value_heads)
                .with_scale(config.attention_scale)
                .with_softcap(config.attn_logit_softcapping)
                .with_mask(layer.mask)
                .with_attn_implementation(config.attn_implementation),
        })
    }

    /// The options of the layer, with the linear biases of the model.
    pub(super) fn options<'a>(&'a self, alibi: Option<&'a Alibi>) -> AttentionOptions<'a> {
        self.options.with_alibi(alibi)
    }

    /// Attends.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        inputs: &ModelInputs,
        rotations: &[Rotation],
        cache: Option<&mut KvCache>,
        options: AttentionOptions<'_>,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let qkv = self.qkv_proj.forward(x)?; // (total_tokens, q_width + 2 * kv_width)
        let mut q = qkv.narrow(1, 0, self.q_width)?;
        let mut k = qkv.narrow(1, self.q_width, self.kv_width)?;
        let v = qkv.narrow(1, self.q_width + self.kv_width, self.kv_width)?;
        if let Some([q_norm, k_norm]) = &self.norms {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        if let Some(rotation) = self.rotary.and_then(|rotary| rotations.get(rotary)) {
            (q, k) = (rotation.apply(&q)?, rotation.apply(&k)?);
        }
        let attended = attention_cached(&q, &k, &v, inputs, cache, options)?;
        Ok((self.o_proj.forward(&attended.values)?, attended.attentions))
    }
}

fn load_qkv(
    vb: &VarBuilder<'_>,
    config: &LlamaConfig,
    layer: LlamaLayerConfig,
    before: Option<&Norm>,
) -> Result<Linear> {
    let (hidden, bias, norm) = (config.hidden_size, config.qkv_bias, input_norm(before));
    let (heads, kv_heads, head_dim) =
        (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
    match config.layout.qkv {
        QkvLayout::Apart(names) => {
            let parts = [0, 1, 2].map(|i| (vb.pp(names[i]), sizes[i]));
            Linear::load_fused(&parts, hidden, bias, norm)
        }
        QkvLayout::Fused(name) => {
            let parts = [(vb.pp(name), sizes.iter().sum())];
            Linear::load_fused(&parts, hidden, bias, norm)
        }
        QkvLayout::ByGroup(name) => {
            let parts = rows_by_group(kv_heads, heads / kv_heads, head_dim)
                .map(|rows| SelectedRows { vb: vb.pp(name), stored: sizes.iter().sum(), rows });
            Linear::load_selected(&parts, hidden, bias, norm)
        }
        QkvLayout::InPairs(names) => {
            let rotary = layer.rotary.and_then(|rotary| config.rotary.get(rotary));
            let turning = rotary.map_or(0, |rotary| 2 * rotary.frequencies());
            let parts = [0, 1, 2].map(|i| SelectedRows {
                vb: vb.pp(names[i]),
                stored: sizes[i],
                // Values do not turn.
                rows: pairs_to_halves(
                    sizes[i] / head_dim,
                    head_dim,
                    if i == 2 { 0 } else { turning },
                ),
            });
            Linear::load_selected(&parts, hidden, bias, norm)
        }
    }
}

/// The rows of heads whose first `turning` features are neighbouring pairs, in the order in which the pairs are apart by half of
/// that number. Scores do not depend on the order of features.
fn pairs_to_halves(num_heads: usize, head_dim: usize, turning: usize) -> Vec<Range<usize>> {
    let head = |head: usize| {
        let start = head * head_dim;
        let places = (0..turning).step_by(2).chain((1..turning).step_by(2));
        let rest = start + turning..start + head_dim;
        places.map(move |place| start + place..start + place + 1).chain([rest])
    };
    (0..num_heads).flat_map(head).collect()
}

fn load_norms(vb: &VarBuilder<'_>, config: &LlamaConfig) -> Result<Option<[HeadNorm; 2]>> {
    let Some(norms) = config.layout.qk_norms else { return Ok(None) };
    let head_dim = config.head_dim;
    let load = |name: &str, heads: usize| -> Result<HeadNorm> {
        let vb = vb.pp(name);
        Ok(match norms {
            QkNorms::Heads(_) => HeadNorm::Heads(config.load_norm(vb, head_dim)?),
            QkNorms::Whole(_) => HeadNorm::Whole(config.load_norm(vb, heads * head_dim)?),
            QkNorms::EachHead(_) => {
                let (eps, kind) = (config.norm_eps, NormKind::LayerNoBias);
                let norms =
                    (0..heads).map(|head| Norm::load(vb.pp("norms").pp(head), head_dim, eps, kind));
                HeadNorm::EachHead(norms.collect::<Result<_>>()?)
            }
        })
    };
    let (QkNorms::Heads([q, k]) | QkNorms::Whole([q, k]) | QkNorms::EachHead([q, k])) = norms;
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    Ok(Some([load(q, heads)?, load(k, kv_heads)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_pairs_are_apart_by_half() {
        let rows = pairs_to_halves(2, 6, 4);
        let rows: Vec<usize> = rows.into_iter().flatten().collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
    }
}
