//! The encoder layers that architectures share: self-attention and a feed-forward network, each with a residual
//! connection and layer normalization after or before it. An architecture gives the tensor names of its checkpoint.
//! Not here: embeddings, poolers, relative position biases.

use candle_core::{Result, Tensor, bail};

use super::Recorder;
use crate::nn::{
    Activation, AttentionOptions, AttnImplementation, DistanceEmbedding, InputNorm, KvCache,
    LayerNorm, Linear, ModelInputs, VarBuilder, add, attention_cached,
};

/// The paths of a layer's tensors in a checkpoint.
#[derive(Debug)]
pub(super) struct EncoderLayerNames {
    /// The projections of queries, keys and values.
    pub(super) qkv: [&'static str; 3],
    /// The projection after attention.
    pub(super) attention_output: &'static str,
    /// The norm at self-attention.
    pub(super) attention_norm: &'static str,
    /// The first layer of the feed-forward network.
    pub(super) intermediate: &'static str,
    /// Its second layer.
    pub(super) output: &'static str,
    /// The norm at the feed-forward network.
    pub(super) output_norm: &'static str,
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
    /// Whether queries, keys and values have a bias.
    pub(super) qkv_bias: bool,
    /// Whether norms precede the sublayers (pre-norm) instead of following the sums (post-norm).
    pub(super) norm_first: bool,
    /// Whether attention is causal.
    pub(super) causal: bool,
    pub(super) relative_keys: Option<RelativeKeys>,
    pub(super) attn_implementation: AttnImplementation,
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

struct EncoderLayer {
    /// Queries, keys and values in one projection.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    intermediate_act: Activation,
    output: Linear,
    output_norm: LayerNorm,
    norm_first: bool,
    attention: AttentionOptions<'static>,
    /// The table, `(2 * positions - 1, head_dim)`, and whether it is also multiplied with the keys.
    distance_embedding: Option<(Tensor, bool)>,
}

impl EncoderLayer {
    /// `before` is the norm that produces the layer's input: of the embeddings, or of the previous layer.
    fn load(
        vb: &VarBuilder<'_>,
        config: &EncoderLayerConfig,
        before: Option<&LayerNorm>,
    ) -> Result<Self> {
        let (names, hidden) = (config.names, config.hidden_size);
        let linear = |name, from, to, bias| Linear::load(vb.pp(name), from, to, bias);
        let norm = |name| LayerNorm::load(vb.pp(name), hidden, config.layer_norm_eps);
        let attention_norm = norm(names.attention_norm)?;
        let output_norm = norm(names.output_norm)?;
        let (before_qkv, before_intermediate) = if config.norm_first {
            (Some(&attention_norm), &output_norm)
        } else {
            (before, &attention_norm)
        };
        let qkv = names.qkv.map(|name| (vb.pp(name), hidden));
        let before_qkv = before_qkv.map(|norm| norm as &dyn InputNorm);
        let qkv = Linear::load_fused(&qkv, hidden, config.qkv_bias, before_qkv)?;
        let intermediate = [(vb.pp(names.intermediate), config.intermediate_size)];
        let intermediate =
            Linear::load_fused(&intermediate, hidden, true, Some(before_intermediate))?;
        let head_dim = hidden / config.num_attention_heads;
        let attention = AttentionOptions::new(config.num_attention_heads, head_dim)
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
            intermediate,
            intermediate_act: config.hidden_act,
            output: linear(names.output, config.intermediate_size, hidden, true)?,
            output_norm,
            norm_first: config.norm_first,
            attention,
            distance_embedding: distance_embedding.transpose()?,
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        cache: Option<&mut KvCache>,
        bias: Option<&Tensor>,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let attend = |x: &Tensor| self.attend(x, inputs, cache, bias, output_attentions);
        let feed_forward =
            |x: &Tensor| self.intermediate.forward_through(x, self.intermediate_act, &self.output);
        if self.norm_first {
            let (attended, attentions) = attend(&self.attention_norm.forward(hidden_states)?)?;
            let attended = add(&attended, hidden_states)?;
            let output = feed_forward(&self.output_norm.forward(&attended)?)?;
            return Ok((add(&output, &attended)?, attentions));
        }
        let (attended, attentions) = attend(hidden_states)?;
        let attended = self.attention_norm.forward_residual(&attended, hidden_states)?;
        let output = feed_forward(&attended)?;
        Ok((self.output_norm.forward_residual(&output, &attended)?, attentions))
    }

    /// The options that depend only on the layer.
    fn options(&self) -> AttentionOptions<'_> {
        let distance = self.distance_embedding.as_ref();
        let distance =
            distance.map(|(table, with_keys)| DistanceEmbedding { table, with_keys: *with_keys });
        self.attention.with_distance(distance).with_precision(self.qkv.precision())
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
        let context = attention_cached(
            &qkv.narrow(1, 0, hidden_size)?,
            &qkv.narrow(1, hidden_size, hidden_size)?,
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
        let mut layers: Vec<EncoderLayer> = Vec::new();
        for i in 0..count {
            let before = layers.last().map(|layer| &layer.output_norm).or(embeddings_norm);
            layers.push(EncoderLayer::load(&vb.pp(i), config, before)?);
        }
        Ok(Self(layers))
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
        mut hidden_states: Tensor,
        caches: Option<&mut [KvCache]>,
        bias: Option<&Tensor>,
        recorder: &mut Recorder<'_>,
    ) -> Result<Tensor> {
        let mut caches = one_a_layer(caches, self.0.len())?;
        recorder.hidden_state(&hidden_states);
        for layer in &self.0 {
            let (cache, inputs) = (caches.next(), recorder.inputs);
            let attentions = recorder.attentions.is_some();
            let (output, attentions) =
                layer.forward(&hidden_states, inputs, cache, bias, attentions)?;
            hidden_states = output;
            recorder.hidden_state(&hidden_states);
            recorder.attentions(attentions);
        }
        Ok(hidden_states)
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
            qkv: ["q", "k", "v"],
            attention_output: "o",
            attention_norm: "norm",
            intermediate: "intermediate",
            output: "output",
            output_norm: "output_norm",
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
