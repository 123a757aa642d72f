//! The encoder layers that architectures share: self-attention and a feed-forward network, each with a residual
//! connection and layer normalization after or before it; in the decoder of an encoder-decoder model, attention over the
//! encoder's states comes between the two. An architecture gives the tensor names of its checkpoint.
//! Not here: embeddings, poolers, relative position biases.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::{DecoderCaches, Recorder};
use crate::nn::{
    Activation, Alibi, AlibiForm, AttentionOptions, AttnImplementation, Disentangled,
    DisentangledConfig, DistanceEmbedding, FeedForward, GateHalf, InputNorm, KvCache, LayerNorm,
    Lengths, Linear, ModelInputs, Ragged, SelectedRows, VarBuilder, add, attention_cached,
    attention_over, mul,
};

/// The paths of the projections of queries, keys and values.
#[derive(Debug)]
pub(super) enum Qkv {
    /// One for each.
    Apart([&'static str; 3]),
    /// One projection without a bias, with the rows of queries, keys and values of the first head, then of the next. The biases of
    /// queries and values are tensors of their own.
    ByHead { weight: &'static str, q_bias: &'static str, v_bias: &'static str },
    /// One for each, with a bias for queries and values.
    ApartWithoutKeyBias([&'static str; 3]),
}

impl Qkv {
    fn load(
        &self,
        vb: &VarBuilder<'_>,
        config: &EncoderLayerConfig,
        norm: Option<&dyn InputNorm>,
    ) -> Result<Linear> {
        let hidden = config.hidden_size;
        match self {
            Self::Apart(names) => {
                let parts = names.map(|name| (vb.pp(name), hidden));
                Linear::load_fused(&parts, hidden, config.qkv_bias, norm)
            }
            Self::ByHead { weight, q_bias, v_bias } => {
                let parts = rows_by_group(config.num_attention_heads, 1, config.head_dim());
                let parts =
                    parts.map(|rows| SelectedRows { vb: vb.pp(weight), stored: 3 * hidden, rows });
                let linear = Linear::load_selected(&parts, hidden, false, norm)?;
                without_key_bias(linear, &vb.get(hidden, q_bias)?, &vb.get(hidden, v_bias)?)
            }
            Self::ApartWithoutKeyBias(names) => {
                let parts = names.map(|name| (vb.pp(name), hidden));
                let linear = Linear::load_fused(&parts, hidden, false, norm)?;
                let [q, _, v] = names.map(|name| vb.pp(name));
                without_key_bias(linear, &q.get(hidden, "bias")?, &v.get(hidden, "bias")?)
            }
        }
    }
}

/// The projection of queries, keys and values with biases for queries and values.
fn without_key_bias(linear: Linear, q: &Tensor, v: &Tensor) -> Result<Linear> {
    // See `TensorSource::get` for tensors that the checkpoint lacks.
    if !(q.is_contiguous() && v.is_contiguous()) {
        return Ok(linear);
    }
    let bias = Tensor::cat(&[q, &q.zeros_like()?, v], 0)?;
    Ok(linear.with_bias(Some(bias)))
}

/// The rows of queries, of keys and of values in a projection that has, for each of `groups`, `queries` heads of queries and one
/// each of keys and values.
pub(super) fn rows_by_group(
    groups: usize,
    queries: usize,
    head_dim: usize,
) -> [Vec<Range<usize>>; 3] {
    [(0, queries), (queries, 1), (queries + 1, 1)].map(|(first, heads)| {
        let start = |group: usize| (group * (queries + 2) + first) * head_dim;
        (0..groups).map(|group| start(group)..start(group) + heads * head_dim).collect()
    })
}

/// The paths of a layer's tensors in a checkpoint.
#[derive(Debug)]
pub(super) struct EncoderLayerNames {
    /// The projections of queries, keys and values.
    pub(super) qkv: Qkv,
    /// The projection after attention.
    pub(super) attention_output: &'static str,
    /// The norm at self-attention.
    pub(super) attention_norm: &'static str,
    /// The first layer of the feed-forward network; with a gate, gate and up-projection together.
    pub(super) intermediate: &'static str,
    /// Its second layer.
    pub(super) output: &'static str,
    /// The norm at the feed-forward network.
    pub(super) output_norm: &'static str,
    /// What few architectures have.
    pub(super) extra: ExtraNames,
}

/// The gate of a feed-forward network, whose first layer is gate and up-projection in one product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// The half of the product that is the gate.
    pub(super) half: GateHalf,
    /// Whether the product has a bias.
    pub(super) bias: bool,
}

/// The parts of a layer that only `JinaBERT` has, or, of the gate, some DINOv2.
#[derive(Debug)]
pub(super) struct ExtraNames {
    pub(super) gate: Option<Gate>,
    /// The norms of queries and of keys, over all heads.
    pub(super) qk_norms: Option<[&'static str; 2]>,
    /// A second norm after self-attention, of the sum of the layer's input and the output of the first norm.
    pub(super) second_attention_norm: Option<&'static str>,
}

impl ExtraNames {
    /// None of them.
    pub(super) const NONE: Self = Self { gate: None, qk_norms: None, second_attention_norm: None };
}

/// The settings of a layer.
#[derive(Debug)]
pub(super) struct EncoderLayerConfig {
    pub(super) names: &'static EncoderLayerNames,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_attention_heads: usize,
    pub(super) hidden_act: Activation,
    pub(super) layer_norm_eps: f64,
    /// Whether projections apart of queries, keys and values have a bias.
    pub(super) qkv_bias: bool,
    /// Whether norms precede the sublayers (pre-norm) instead of following the sums (post-norm).
    pub(super) norm_first: bool,
    /// Whether attention is causal.
    pub(super) causal: bool,
    pub(super) relative_keys: Option<RelativeKeys>,
    /// Disentangled attention, if it is used.
    pub(super) disentangled: Option<DisentangledAttention>,
    /// Linear biases on the scores, if they are used.
    pub(super) alibi: Option<AlibiForm>,
    /// The paths of factors by which the outputs of attention and of the feed-forward network are multiplied (LayerScale).
    pub(super) layer_scales: Option<[&'static str; 2]>,
    pub(super) attn_implementation: AttnImplementation,
}

impl EncoderLayerConfig {
    fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

/// The settings of disentangled attention.
#[derive(Debug)]
pub(super) struct DisentangledAttention {
    /// The path that the projections of positions are below.
    pub(super) name: &'static str,
    /// The number of terms of a score, of which the product of query and key is one: scores are divided by the root of
    /// this number times the size of a head.
    pub(super) terms: usize,
    /// The other terms; `None` if there are none, although they count in `terms`.
    pub(super) positions: Option<DisentangledConfig>,
}

/// Embeddings of distances, multiplied with the queries.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelativeKeys {
    pub(super) name: &'static str,
    /// The number of positions with embedded distances.
    pub(super) positions: usize,
    /// Whether they are also multiplied with the keys.
    pub(super) with_keys: bool,
}

/// The paths of the tensors of a decoder layer's attention over the encoder's states.
#[derive(Debug)]
pub(super) struct CrossAttentionNames {
    /// The projections of queries, keys and values.
    pub(super) qkv: [&'static str; 3],
    /// The projection after attention.
    pub(super) output: &'static str,
    /// The norm.
    pub(super) norm: &'static str,
}

/// Attention of a decoder layer over the encoder's states.
struct CrossAttention {
    q: Linear,
    /// Keys and values in one projection.
    kv: Linear,
    output: Linear,
    norm: LayerNorm,
    attention: AttentionOptions<'static>,
}

impl CrossAttention {
    /// `self_attention_norm` is the norm of the same layer's self-attention, `encoder_norm` the norm that produces the
    /// encoder's states.
    fn load(
        vb: &VarBuilder<'_>,
        config: &EncoderLayerConfig,
        names: &CrossAttentionNames,
        self_attention_norm: &LayerNorm,
        encoder_norm: Option<&LayerNorm>,
    ) -> Result<Self> {
        let hidden = config.hidden_size;
        let norm = LayerNorm::load(vb.pp(names.norm), hidden, config.layer_norm_eps)?;
        let [q, k, v] = names.qkv.map(|name| (vb.pp(name), hidden));
        let before_q: &dyn InputNorm = if config.norm_first { &norm } else { self_attention_norm };
        let before_kv = encoder_norm.map(|norm| norm as &dyn InputNorm);
        let attention =
            AttentionOptions::new(config.num_attention_heads, hidden / config.num_attention_heads)
                .with_attn_implementation(config.attn_implementation);
        Ok(Self {
            q: Linear::load_fused(&[q], hidden, config.qkv_bias, Some(before_q))?,
            kv: Linear::load_fused(&[k, v], hidden, config.qkv_bias, before_kv)?,
            output: Linear::load(vb.pp(names.output), hidden, hidden, true)?,
            norm,
            attention,
        })
    }

    /// The keys and values of the encoder's states.
    fn cache(&self, encoder_states: &Ragged) -> Result<KvCache> {
        let kv = self.kv.forward(&encoder_states.values)?; // (total_tokens, 2 * hidden_size)
        let hidden_size = kv.dim(1)? / 2;
        let (keys, values) =
            (kv.narrow(1, 0, hidden_size)?, kv.narrow(1, hidden_size, hidden_size)?);
        KvCache::new(&keys, &values, &encoder_states.lengths)
    }

    fn attend(
        &self,
        x: &Tensor,
        lengths: &Lengths,
        keys: &KvCache,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let options = self
            .attention
            .with_precision(self.q.precision())
            .with_output_attentions(output_attentions);
        let attended = attention_over(&self.q.forward(x)?, lengths, keys, options)?;
        Ok((self.output.forward(&attended.values)?, attended.attentions))
    }
}

/// What a layer keeps between passes, and the keys and values of the encoder's states.
#[derive(Default)]
struct LayerCaches<'a> {
    self_attention: Option<&'a mut KvCache>,
    cross_attention: Option<&'a KvCache>,
}

/// A layer's output, and the attention probabilities if requested.
struct LayerOutput {
    hidden_states: Tensor,
    attentions: Option<Vec<Tensor>>,
    cross_attentions: Option<Vec<Tensor>>,
}

struct EncoderLayer {
    /// Queries, keys and values in one projection.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    second_attention_norm: Option<LayerNorm>,
    qk_norms: Option<[LayerNorm; 2]>,
    /// Only in the decoder of an encoder-decoder model.
    cross_attention: Option<CrossAttention>,
    feed_forward: FeedForward,
    output_norm: LayerNorm,
    /// Factors of the outputs of attention and of the feed-forward network, `(hidden_size)` each.
    layer_scales: Option<[Tensor; 2]>,
    norm_first: bool,
    attention: AttentionOptions<'static>,
    /// The table, `(2 * positions - 1, head_dim)`, and whether it is also multiplied with the keys.
    distance_embedding: Option<(Tensor, bool)>,
    disentangled: Option<Disentangled>,
    alibi: Option<Alibi>,
}

impl EncoderLayer {
    /// `before` is the norm that produces the layer's input: of the embeddings, or of the previous layer. `cross` is for a
    /// layer that also attends to the encoder's states: its names, and the norm that produces these states.
    fn load(
        vb: &VarBuilder<'_>,
        config: &EncoderLayerConfig,
        before: Option<&LayerNorm>,
        cross: Option<(&CrossAttentionNames, Option<&LayerNorm>)>,
    ) -> Result<Self> {
        let (names, hidden) = (config.names, config.hidden_size);
        let linear = |name, from, to, bias| Linear::load(vb.pp(name), from, to, bias);
        let norm = |name| LayerNorm::load(vb.pp(name), hidden, config.layer_norm_eps);
        let attention_norm = norm(names.attention_norm)?;
        let output_norm = norm(names.output_norm)?;
        let ExtraNames { gate, qk_norms, second_attention_norm } = &names.extra;
        let second_attention_norm = second_attention_norm.map(norm).transpose()?;
        let qk_norms = qk_norms.map(|[q, k]| Ok::<_, candle_core::Error>([norm(q)?, norm(k)?]));
        let cross_attention = cross.map(|(names, encoder_norm)| {
            CrossAttention::load(vb, config, names, &attention_norm, encoder_norm)
        });
        let cross_attention = cross_attention.transpose()?;
        let (before_qkv, before_intermediate) = if config.norm_first {
            (Some(&attention_norm), &output_norm)
        } else {
            let last = second_attention_norm.as_ref().unwrap_or(&attention_norm);
            (before, cross_attention.as_ref().map_or(last, |cross| &cross.norm))
        };
        let qkv = names.qkv.load(vb, config, before_qkv.map(|norm| norm as &dyn InputNorm))?;
        let gate_half = gate.map(|gate| gate.half);
        let inner = if gate.is_some() { 2 } else { 1 } * config.intermediate_size;
        let bias = gate.is_none_or(|gate| gate.bias);
        let intermediate = [(vb.pp(names.intermediate), inner)];
        let intermediate =
            Linear::load_fused(&intermediate, hidden, bias, Some(before_intermediate))?;
        let output = linear(names.output, config.intermediate_size, hidden, true)?;
        let layer_scales = match config.layer_scales {
            Some([attention, output]) => {
                Some([vb.get(hidden, attention)?, vb.get(hidden, output)?])
            }
            None => None,
        };
        let (num_heads, head_dim) = (config.num_attention_heads, config.head_dim());
        let terms = config.disentangled.as_ref().map_or(1, |attention| attention.terms);
        let disentangled = config.disentangled.as_ref().and_then(|attention| {
            let positions = attention.positions.as_ref()?;
            Some(Disentangled::load(&vb.pp(attention.name), positions, num_heads))
        });
        let attention = AttentionOptions::new(num_heads, head_dim)
            .with_scale(1.0 / ((terms * head_dim) as f64).sqrt())
            .with_causal(config.causal)
            .with_attn_implementation(config.attn_implementation);
        let distance_embedding = config.relative_keys.map(|keys| -> Result<_> {
            let table = vb.pp(keys.name).get((2 * keys.positions - 1, head_dim), "weight")?;
            Ok((table, keys.with_keys))
        });
        Ok(Self {
            qkv,
            attention_output: linear(names.attention_output, hidden, hidden, true)?,
            attention_norm,
            second_attention_norm,
            qk_norms: qk_norms.transpose()?,
            cross_attention,
            feed_forward: FeedForward::new(intermediate, gate_half, config.hidden_act, output),
            output_norm,
            layer_scales,
            norm_first: config.norm_first,
            attention,
            distance_embedding: distance_embedding.transpose()?,
            disentangled: disentangled.transpose()?,
            alibi: config.alibi.map(|form| Alibi::new(num_heads, form, vb.device())).transpose()?,
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        caches: LayerCaches<'_>,
        bias: Option<&Tensor>,
        output_attentions: bool,
    ) -> Result<LayerOutput> {
        let attend = |x: &Tensor| {
            let (attended, attentions) =
                self.attend(x, inputs, caches.self_attention, bias, output_attentions)?;
            Ok::<_, candle_core::Error>((self.scaled(attended, 0)?, attentions))
        };
        let cross = self.cross_attention.as_ref().zip(caches.cross_attention);
        let attend_to_encoder = |layer: &CrossAttention, x: &Tensor, keys| {
            layer.attend(x, &inputs.lengths, keys, output_attentions)
        };
        let feed_forward = |x: &Tensor| self.scaled(self.feed_forward.forward(x)?, 1);
        let mut cross_attentions = None;
        if self.norm_first {
            let (attended, attentions) = attend(&self.attention_norm.forward(hidden_states)?)?;
            let mut attended = add(&attended, hidden_states)?;
            if let Some((layer, keys)) = cross {
                let (output, of_encoder) =
                    attend_to_encoder(layer, &layer.norm.forward(&attended)?, keys)?;
                (attended, cross_attentions) = (add(&output, &attended)?, of_encoder);
            }
            let output = feed_forward(&self.output_norm.forward(&attended)?)?;
            let hidden_states = add(&output, &attended)?;
            return Ok(LayerOutput { hidden_states, attentions, cross_attentions });
        }
        let (attended, attentions) = attend(hidden_states)?;
        let mut attended = self.attention_norm.forward_residual(&attended, hidden_states)?;
        if let Some(norm) = &self.second_attention_norm {
            attended = norm.forward_residual(&attended, hidden_states)?;
        }
        if let Some((layer, keys)) = cross {
            let (output, of_encoder) = attend_to_encoder(layer, &attended, keys)?;
            cross_attentions = of_encoder;
            attended = layer.norm.forward_residual(&output, &attended)?;
        }
        let output = feed_forward(&attended)?;
        let hidden_states = self.output_norm.forward_residual(&output, &attended)?;
        Ok(LayerOutput { hidden_states, attentions, cross_attentions })
    }

    /// As [`EncoderLayer::forward`]; `recorder` gets the attentions.
    fn forward_recorded(
        &self,
        hidden_states: &Tensor,
        caches: LayerCaches<'_>,
        bias: Option<&Tensor>,
        recorder: &mut Recorder<'_>,
    ) -> Result<Tensor> {
        let (inputs, attentions) = (recorder.inputs, recorder.attentions.is_some());
        let output = self.forward(hidden_states, inputs, caches, bias, attentions)?;
        recorder.attentions(output.attentions);
        recorder.cross_attentions(output.cross_attentions);
        Ok(output.hidden_states)
    }

    /// The output of a sublayer, times its LayerScale if it has one.
    fn scaled(&self, output: Tensor, sublayer: usize) -> Result<Tensor> {
        match &self.layer_scales {
            Some(scales) => mul(&output, &scales[sublayer]),
            None => Ok(output),
        }
    }

    /// The options that depend only on the layer.
    fn options(&self) -> AttentionOptions<'_> {
        let distance = self.distance_embedding.as_ref();
        let distance =
            distance.map(|(table, with_keys)| DistanceEmbedding { table, with_keys: *with_keys });
        self.attention
            .with_distance(distance)
            .with_disentangled(self.disentangled.as_ref())
            .with_alibi(self.alibi.as_ref())
            .with_precision(self.qkv.precision())
    }

    fn attend(
        &self,
        x: &Tensor,
        inputs: &ModelInputs,
        cache: Option<&mut KvCache>,
        bias: Option<&Tensor>,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let hidden_size = x.dim(1)?;
        let qkv = self.qkv.forward(x)?; // (total_tokens, 3 * hidden_size)
        let mut q = qkv.narrow(1, 0, hidden_size)?;
        let mut k = qkv.narrow(1, hidden_size, hidden_size)?;
        if let Some([q_norm, k_norm]) = &self.qk_norms {
            (q, k) = (q_norm.forward(&q.contiguous()?)?, k_norm.forward(&k.contiguous()?)?);
        }
        let context = attention_cached(
            &q,
            &k,
            &qkv.narrow(1, 2 * hidden_size, hidden_size)?,
            inputs,
            cache,
            self.options().with_bias(bias).with_output_attentions(output_attentions),
        )?;
        Ok((self.attention_output.forward(&context.values)?, context.attentions))
    }
}

/// The layers of an encoder, or of a decoder with the same kind of layers.
pub(super) struct EncoderLayers(Vec<EncoderLayer>);

impl EncoderLayers {
    /// Loads `count` layers; `embeddings_norm` is the norm that produces their input.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub(super) fn load(
        vb: &VarBuilder<'_>,
        count: usize,
        config: &EncoderLayerConfig,
        embeddings_norm: Option<&LayerNorm>,
    ) -> Result<Self> {
        Self::load_with(vb, count, config, embeddings_norm, None)
    }

    /// As [`EncoderLayers::load`], for layers that may attend to an encoder's states: `cross` are the tensor names and the
    /// norm that produces these states.
    ///
    /// # Errors
    /// As [`EncoderLayers::load`].
    pub(super) fn load_with(
        vb: &VarBuilder<'_>,
        count: usize,
        config: &EncoderLayerConfig,
        embeddings_norm: Option<&LayerNorm>,
        cross: Option<(&CrossAttentionNames, Option<&LayerNorm>)>,
    ) -> Result<Self> {
        let mut layers: Vec<EncoderLayer> = Vec::new();
        for i in 0..count {
            let before = layers.last().map(|layer| &layer.output_norm).or(embeddings_norm);
            layers.push(EncoderLayer::load(&vb.pp(i), config, before, cross)?);
        }
        Ok(Self(layers))
    }

    /// The norm that produces the output of layers with `norm_first: false`.
    pub(super) fn last_norm(&self) -> Option<&LayerNorm> {
        self.0.last().map(|layer| &layer.output_norm)
    }

    /// The keys and values of the encoder's states for each layer.
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub(super) fn cross_attention_caches(&self, encoder_states: &Ragged) -> Result<Vec<KvCache>> {
        let layers = self.0.iter().filter_map(|layer| layer.cross_attention.as_ref());
        layers.map(|layer| layer.cache(encoder_states)).collect()
    }

    /// Runs the layers over `hidden_states`, and passes the input and the output of each layer to `recorder`.
    ///
    /// # Shapes
    /// `hidden_states` and the result: `(total_tokens, hidden_size)`; `bias`: as in [`AttentionOptions`]; `caches`:
    /// one per layer.
    ///
    /// # Errors
    /// If the number of caches is not the number of layers, or candle cannot allocate.
    pub(super) fn forward(
        &self,
        hidden_states: Tensor,
        caches: Option<&mut [KvCache]>,
        bias: Option<&Tensor>,
        recorder: &mut Recorder<'_>,
    ) -> Result<Tensor> {
        let caches = DecoderCaches { self_attention: caches, cross_attention: &[] };
        self.forward_normed(hidden_states, caches, bias, None, recorder)
    }

    /// As [`EncoderLayers::forward`], followed by `norm`, if there is one: it produces the last hidden state, which
    /// `recorder` gets instead of the output of the last layer. Without keys of an encoder's states in `caches`, the
    /// layers skip attention over these.
    ///
    /// # Errors
    /// As [`EncoderLayers::forward`].
    pub(super) fn forward_normed(
        &self,
        mut hidden_states: Tensor,
        caches: DecoderCaches<'_>,
        bias: Option<&Tensor>,
        norm: Option<&LayerNorm>,
        recorder: &mut Recorder<'_>,
    ) -> Result<Tensor> {
        let mut self_attention = one_a_layer(caches.self_attention, self.0.len())?;
        for (i, layer) in self.0.iter().enumerate() {
            recorder.hidden_state(&hidden_states);
            let caches = LayerCaches {
                self_attention: self_attention.next(),
                cross_attention: caches.cross_attention.get(i),
            };
            hidden_states = layer.forward_recorded(&hidden_states, caches, bias, recorder)?;
        }
        if let Some(norm) = norm {
            hidden_states = norm.forward(&hidden_states)?;
        }
        recorder.hidden_state(&hidden_states);
        Ok(hidden_states)
    }

    /// Runs one layer, and passes its attentions to `recorder`, but not its input and output.
    ///
    /// # Shapes
    /// As in [`EncoderLayers::forward`].
    ///
    /// # Errors
    /// If candle cannot allocate.
    pub(super) fn forward_layer(
        &self,
        layer: usize,
        hidden_states: &Tensor,
        bias: Option<&Tensor>,
        recorder: &mut Recorder<'_>,
    ) -> Result<Tensor> {
        self.0[layer].forward_recorded(hidden_states, LayerCaches::default(), bias, recorder)
    }

    /// The number of layers.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The caches of the layers in order, or none.
///
/// # Errors
/// If caches are given, but not one per layer.
pub(super) fn one_a_layer(
    caches: Option<&mut [KvCache]>,
    layers: usize,
) -> Result<std::slice::IterMut<'_, KvCache>> {
    match caches {
        Some(caches) if caches.len() != layers => {
            bail!("{layers} layers got {} caches", caches.len())
        }
        caches => Ok(caches.unwrap_or_default().iter_mut()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::Precision;

    #[test]
    fn attention_computes_as_the_layer_around_it() -> Result<()> {
        let names = EncoderLayerNames {
            qkv: Qkv::Apart(["q", "k", "v"]),
            attention_output: "o",
            attention_norm: "norm",
            intermediate: "intermediate",
            output: "output",
            output_norm: "output_norm",
            extra: ExtraNames::NONE,
        };
        let config = EncoderLayerConfig {
            names: Box::leak(Box::new(names)),
            hidden_size: 8,
            intermediate_size: 4,
            num_attention_heads: 2,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
            qkv_bias: true,
            norm_first: false,
            causal: false,
            relative_keys: None,
            disentangled: None,
            alibi: None,
            layer_scales: None,
            attn_implementation: AttnImplementation::Eager,
        };
        let weights = ["q", "k", "v", "o", "intermediate", "output"].map(|name| {
            let (rows, columns) = match name {
                "intermediate" => (4, 8),
                "output" => (8, 4),
                _ => (8, 8),
            };
            let weight = Tensor::zeros((rows, columns), DType::F32, &Device::Cpu);
            let bias = Tensor::zeros(rows, DType::F32, &Device::Cpu);
            [(format!("0.{name}.weight"), weight), (format!("0.{name}.bias"), bias)]
        });
        let norms = ["norm", "output_norm"].map(|name| {
            ["weight", "bias"].map(|part| {
                (format!("0.{name}.{part}"), Tensor::zeros(8, DType::F32, &Device::Cpu))
            })
        });
        let tensors = weights.into_iter().chain(norms).flatten();
        let tensors: HashMap<String, Tensor> =
            tensors.map(|(name, tensor)| Ok((name, tensor?))).collect::<Result<_>>()?;
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        for precision in [Precision::Full, Precision::Int8, Precision::Bf16] {
            let layers = EncoderLayers::load(&vb.set_precision(precision), 1, &config, None)?;
            let options = layers.0[0].options();
            assert_eq!(options.precision, precision);
            assert_eq!(options.attn_implementation, AttnImplementation::Eager);
        }
        Ok(())
    }
}
