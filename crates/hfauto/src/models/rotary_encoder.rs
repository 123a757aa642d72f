//! The layers of encoders with rotary embeddings, which architectures share: self-attention over all keys or over a
//! window, and a feed-forward network with or without a gate, each with a layer normalization before or after it. An
//! architecture says how its checkpoint names the tensors. Not here: embeddings, poolers, the norm after the last layer.

use candle_core::{Result, Tensor};

use super::Recorder;
use crate::nn::{
    Activation, AttentionMask, AttentionOptions, AttnImplementation, FeedForward, GateHalf,
    InputNorm, LayerNorm, Linear, ModelInputs, RotaryConfig, RotaryEmbedding, Rotation, VarBuilder,
    add, attention,
};

/// Paths of the tensors of a layer in a checkpoint.
#[derive(Debug, PartialEq)]
pub(super) struct RotaryLayerNames {
    /// Queries, keys and values as one product.
    pub(super) qkv: &'static str,
    /// The product after attention.
    pub(super) attention_output: &'static str,
    /// The norm of self-attention.
    pub(super) attention_norm: &'static str,
    /// Gate and up-projection, fused or apart, or the one product before the activation. [`RotaryEncoderConfig::gate`] says
    /// which half is the gate.
    pub(super) gate_up: &'static [&'static str],
    /// The product after the gate or the activation.
    pub(super) down: &'static str,
    /// The norm of the feed-forward network.
    pub(super) mlp_norm: &'static str,
}

/// Where the norms of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormPlace {
    /// Each part normalizes its input, except attention in the first layer: the embeddings are normalized already.
    Before,
    /// Each part normalizes the sum of its input and its output.
    After,
}

/// The settings of the layers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RotaryEncoderConfig {
    pub(super) names: &'static RotaryLayerNames,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_attention_heads: usize,
    pub(super) head_dim: usize,
    pub(super) hidden_act: Activation,
    /// `None` for a feed-forward network without a gate.
    pub(super) gate: Option<GateHalf>,
    pub(super) norm_eps: f64,
    pub(super) norm_bias: bool,
    pub(super) norm_place: NormPlace,
    /// Whether the products of attention have a bias.
    pub(super) attention_bias: bool,
    /// Whether gate and up-projection have a bias.
    pub(super) gate_up_bias: bool,
    /// Whether the product after the gate has a bias.
    pub(super) down_bias: bool,
    /// The rotary embeddings, one for each layer type that has its own.
    pub(super) rotary: Vec<RotaryConfig>,
    /// Which keys the queries of each layer see, and the place of its rotary embedding in `rotary`.
    pub(super) layers: Vec<(AttentionMask, usize)>,
    pub(super) attn_implementation: AttnImplementation,
}

impl RotaryEncoderConfig {
    /// Loads a norm of the settings that all norms of the model have.
    pub(super) fn load_norm(&self, vb: VarBuilder<'_>) -> Result<LayerNorm> {
        let load = if self.norm_bias { LayerNorm::load } else { LayerNorm::load_without_bias };
        load(vb, self.hidden_size, self.norm_eps)
    }
}

enum Norms {
    Before { attention: Option<LayerNorm>, mlp: LayerNorm },
    After { attention: LayerNorm, mlp: LayerNorm },
}

struct RotaryEncoderLayer {
    qkv: Linear,
    attention_output: Linear,
    mlp: FeedForward,
    norms: Norms,
    /// Which of the model's rotary embeddings it has.
    rotary: usize,
    options: AttentionOptions<'static>,
}

impl RotaryEncoderLayer {
    /// `before` is the norm that produces the layer's input: of the embeddings, or of the previous layer.
    fn load(
        vb: &VarBuilder<'_>,
        config: &RotaryEncoderConfig,
        layer: usize,
        before: Option<&LayerNorm>,
    ) -> Result<Self> {
        let (names, hidden_size) = (config.names, config.hidden_size);
        let (mask, rotary) = config.layers[layer];
        let linear = |name, from, to, bias| Linear::load(vb.pp(name), from, to, bias);
        let width = config.num_attention_heads * config.head_dim;
        let products = if config.gate.is_some() { 2 } else { 1 };
        let part = products * config.intermediate_size / names.gate_up.len();
        let down = linear(names.down, config.intermediate_size, hidden_size, config.down_bias)?;
        let norm = |name| config.load_norm(vb.pp(name));
        let mlp_norm = norm(names.mlp_norm)?;
        let norms = match config.norm_place {
            NormPlace::Before => {
                let attention = (layer > 0).then(|| norm(names.attention_norm)).transpose()?;
                Norms::Before { attention, mlp: mlp_norm }
            }
            NormPlace::After => {
                Norms::After { attention: norm(names.attention_norm)?, mlp: mlp_norm }
            }
        };
        let (before_qkv, before_mlp) = match &norms {
            Norms::Before { attention, mlp } => (attention.as_ref().or(before), mlp),
            Norms::After { attention, .. } => (before, attention),
        };
        let parts: Vec<_> = names.gate_up.iter().map(|name| (vb.pp(name), part)).collect();
        let gate_up =
            Linear::load_fused(&parts, hidden_size, config.gate_up_bias, Some(before_mlp))?;
        let bias = config.attention_bias;
        let before_qkv = before_qkv.map(|norm| norm as &dyn InputNorm);
        let qkv = [(vb.pp(names.qkv), 3 * width)];
        Ok(Self {
            qkv: Linear::load_fused(&qkv, hidden_size, bias, before_qkv)?,
            attention_output: linear(names.attention_output, width, hidden_size, bias)?,
            mlp: FeedForward::new(gate_up, config.gate, config.hidden_act, down),
            norms,
            rotary,
            options: AttentionOptions::new(config.num_attention_heads, config.head_dim)
                .with_mask(mask)
                .with_attn_implementation(config.attn_implementation),
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        rotations: &[Rotation],
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let attend =
            |x: &Tensor| self.attend(x, inputs, &rotations[self.rotary], output_attentions);
        match &self.norms {
            Norms::Before { attention, mlp } => {
                let normed = attention.as_ref().map(|norm| norm.forward(hidden_states));
                let (attended, attentions) =
                    attend(normed.transpose()?.as_ref().unwrap_or(hidden_states))?;
                let attended = add(&attended, hidden_states)?;
                let output = self.mlp.forward(&mlp.forward(&attended)?)?;
                Ok((add(&output, &attended)?, attentions))
            }
            Norms::After { attention, mlp } => {
                let (attended, attentions) = attend(hidden_states)?;
                let attended = attention.forward_residual(&attended, hidden_states)?;
                let output = self.mlp.forward(&attended)?;
                Ok((mlp.forward_residual(&output, &attended)?, attentions))
            }
        }
    }

    fn attend(
        &self,
        x: &Tensor,
        inputs: &ModelInputs,
        rotation: &Rotation,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let qkv = self.qkv.forward(x)?; // (total_tokens, 3 * width)
        let width = qkv.dim(1)? / 3;
        let part = |number| qkv.narrow(1, number * width, width);
        let (q, k) = (rotation.apply(&part(0)?)?, rotation.apply(&part(1)?)?);
        let options = self.options.with_precision(self.qkv.precision());
        let options = options.with_output_attentions(output_attentions);
        let context = attention(&q, &k, &part(2)?, inputs, options)?;
        Ok((self.attention_output.forward(&context.values)?, context.attentions))
    }

    /// The norm that produces the layer's output, if one does.
    fn output_norm(&self) -> Option<&LayerNorm> {
        match &self.norms {
            Norms::Before { .. } => None,
            Norms::After { mlp, .. } => Some(mlp),
        }
    }
}

/// The layers of an encoder.
pub(super) struct RotaryEncoder {
    layers: Vec<RotaryEncoderLayer>,
    rotary: Vec<RotaryEmbedding>,
}

impl RotaryEncoder {
    /// Loads the layers; `embeddings_norm` is the norm that produces their input.
    ///
    /// # Errors
    /// When the checkpoint does not have a tensor in the shape that the configuration asks for.
    pub(super) fn load(
        vb: &VarBuilder<'_>,
        config: &RotaryEncoderConfig,
        embeddings_norm: &LayerNorm,
    ) -> Result<Self> {
        let mut layers: Vec<RotaryEncoderLayer> = Vec::new();
        for layer in 0..config.layers.len() {
            let before = match layers.last() {
                None => Some(embeddings_norm),
                Some(last) => last.output_norm(),
            };
            layers.push(RotaryEncoderLayer::load(&vb.pp(layer), config, layer, before)?);
        }
        Ok(Self {
            layers,
            rotary: config.rotary.iter().cloned().map(RotaryEmbedding::new).collect(),
        })
    }

    /// Runs the layers over `hidden_states`. `recorder` gets the input of each layer. The caller records the result, after
    /// its final norm if it has one.
    ///
    /// # Shapes
    /// `hidden_states`: `(total_tokens, hidden_size)`, as what is returned.
    ///
    /// # Errors
    /// When candle cannot allocate.
    pub(super) fn forward(
        &self,
        mut hidden_states: Tensor,
        recorder: &mut Recorder<'_>,
    ) -> Result<Tensor> {
        let inputs = recorder.inputs;
        let rotations = self.rotary.iter().map(|rotary| {
            rotary.rotation(inputs.positions(), &inputs.lengths, inputs.input_ids.device())
        });
        let rotations = rotations.collect::<Result<Vec<_>>>()?;
        for layer in &self.layers {
            recorder.hidden_state(&hidden_states);
            let output_attentions = recorder.attentions.is_some();
            let (output, attentions) =
                layer.forward(&hidden_states, inputs, &rotations, output_attentions)?;
            hidden_states = output;
            recorder.attentions(attentions);
        }
        Ok(hidden_states)
    }
}
