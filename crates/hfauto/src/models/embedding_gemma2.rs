//! The text model of `EmbeddingGemma` 2: an encoder of Gemma's layers, whose full layers have wider heads than those with a window,
//! and which mixes a projection of the embeddings into every layer (per-layer embeddings, PLE). Not here: images, video and audio,
//! whose tensors are left aside.
//!
//! # Source
//! `src/transformers/models/embedding_gemma2/modeling_embedding_gemma2.py` at v5.24.

use candle_core::{DType, Result, Tensor, bail};
use serde_json::Value;

use super::{Backbone, Dimensions, Fields, ModelOutput, Recorder, Want};
use crate::error::{self, Error, ErrorKind};
use crate::nn::{
    Activation, AttentionMask, AttentionOptions, AttnImplementation, Embedding, GateHalf, GatedMlp,
    InputNorm, Linear, ModelInputs, PositionIds, RmsNorm, RotaryConfig, RotaryEmbedding,
    RotaryLayout, Rotation, VarBuilder, add, attention, mul, scale,
};

/// The configuration of the text model.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingGemma2Config {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of a hidden state inside the model.
    pub hidden_size: usize,
    /// The size of a vector after the model.
    pub embedding_dim: usize,
    /// The size of the per-layer embeddings.
    pub hidden_size_per_layer_input: usize,
    /// The inner size of the feed-forward network.
    pub intermediate_size: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The activation function of the gates.
    pub hidden_activation: Activation,
    /// The epsilon of every norm.
    pub rms_norm_eps: f64,
    /// Whether the projections of attention have a bias.
    pub attention_bias: bool,
    /// The length of the rows that the model is made for.
    pub max_position_embeddings: usize,
    /// The embedding that stands in for tokens of other modalities.
    pub pad_token_id: u32,
    /// The tokens of images, video and audio.
    pub multimodal_token_ids: Vec<u32>,
    /// The rotary embeddings, one per layer type.
    pub rotary: Vec<RotaryConfig>,
    /// The layers.
    pub layers: Vec<EmbeddingGemma2LayerConfig>,
    /// The key-value heads and the size of a head where a layer has no settings of its own.
    pub(super) shared: LayerHeads,
    /// The attention kernels.
    pub attn_implementation: AttnImplementation,
}

/// The configuration of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingGemma2LayerConfig {
    /// The keys that a query attends to.
    pub mask: AttentionMask,
    /// The index of its rotary embedding in [`EmbeddingGemma2Config::rotary`].
    pub rotary: usize,
    /// The number of key-value heads.
    pub num_key_value_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
}

/// The heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerHeads {
    head_dim: usize,
    num_key_value_heads: usize,
}

/// The layer types by their places in [`EmbeddingGemma2Config::rotary`], with their theta.
const LAYER_TYPES: [(&str, f64); 2] =
    [("full_attention", 1_000_000.0), ("sliding_attention", 10_000.0)];

impl EmbeddingGemma2Config {
    /// Reads the `text_config` of a `config.json`, as the config of the text model alone.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for a setting that is not implemented.
    pub fn text(fields: &Fields<'_>) -> error::Result<Self> {
        let heads = fields.size("num_attention_heads", 4)?;
        let shared = LayerHeads {
            head_dim: fields.size("head_dim", 256)?,
            num_key_value_heads: fields.size("num_key_value_heads", 2)?,
        };
        let count = fields.size("num_hidden_layers", 24)?;
        let pattern = fields.size("sliding_window_pattern", 6)?;
        let mut slides = fields.sliding_layers(count, |i| !(i + 1).is_multiple_of(pattern))?;
        // The class makes the last layer full, whatever config.json says.
        if let Some(last) = slides.last_mut() {
            *last = false;
        }
        let window = AttentionMask::Window(fields.size("sliding_window", 512)?);
        let own = layer_heads(fields, shared, &slides)?;
        let layers = slides.iter().zip(&own).map(|(slides, own)| EmbeddingGemma2LayerConfig {
            mask: if *slides { window } else { AttentionMask::Full },
            rotary: usize::from(*slides),
            num_key_value_heads: own.num_key_value_heads,
            head_dim: own.head_dim,
        });
        let layers: Vec<_> = layers.collect();
        for layer in &layers {
            let kv_heads = ("num_key_value_heads", layer.num_key_value_heads);
            fields.divides(("num_attention_heads", heads), kv_heads)?;
        }
        let most = fields.size("max_position_embeddings", 262_144)?;
        let mut rotary = Vec::new();
        for (place, (layer_type, rope_theta)) in LAYER_TYPES.into_iter().enumerate() {
            let of_type = || layers.iter().filter(|layer| layer.rotary == place);
            let head_dim = of_type().next().map_or(shared.head_dim, |layer| layer.head_dim);
            if of_type().any(|layer| layer.head_dim != head_dim) {
                let text = format!(
                    "`per_layer_config` in config.json has layers of type `{layer_type}` with heads of several sizes"
                );
                return Err(Error::new(ErrorKind::Model, text));
            }
            let layout = RotaryLayout::Nested {
                layer_type,
                theta_key: "rope_theta",
                rope_theta,
                scaled: false,
            };
            // Keys of transformers 4 do not count.
            let value = |key| fields.value("rope_parameters").filter(|_| key == "rope_parameters");
            rotary.push(RotaryConfig::new(value, layout, head_dim, most)?);
        }
        Ok(Self {
            vocab_size: fields.size("vocab_size", 262_144)?,
            hidden_size: fields.size("hidden_size", 512)?,
            embedding_dim: fields.size("embedding_dim", 768)?,
            hidden_size_per_layer_input: fields.size("hidden_size_per_layer_input", 512)?,
            intermediate_size: fields.size("intermediate_size", 2048)?,
            num_attention_heads: heads,
            hidden_activation: fields.activation("hidden_activation", "gelu_pytorch_tanh")?,
            rms_norm_eps: fields.epsilon("rms_norm_eps", 1e-6)?,
            attention_bias: fields.flag("attention_bias", false)?,
            max_position_embeddings: most,
            pad_token_id: fields.token_id("pad_token_id", 0)?,
            multimodal_token_ids: Vec::new(),
            rotary,
            layers,
            shared,
            attn_implementation: fields.attn_implementation(),
        })
    }

    /// Reads a `config.json` of the whole model, whose `text_config` is at top level.
    ///
    /// # Errors
    /// As [`EmbeddingGemma2Config::text`].
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let tokens =
            [("image_token_id", 258_880), ("video_token_id", 258_884), ("audio_token_id", 258_881)];
        let tokens = tokens.map(|(key, default)| fields.token_id(key, default));
        let multimodal_token_ids = tokens.into_iter().collect::<error::Result<_>>()?;
        Ok(Self { multimodal_token_ids, ..Self::text(fields)? })
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.embedding_dim,
            num_hidden_layers: self.layers.len(),
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.shared.num_key_value_heads,
            head_dim: self.shared.head_dim,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            max_position_embeddings: Some(self.max_position_embeddings),
            extrapolates: true,
            image: None,
        }
    }

    fn norm(&self, vb: VarBuilder<'_>, size: usize) -> Result<RmsNorm> {
        // The class multiplies by the weight in f32.
        RmsNorm::load(vb.set_dtype(DType::F32), size, self.rms_norm_eps)
    }
}

/// The heads of each layer: those of `per_layer_config`, and without it those of full layers and of all others.
fn layer_heads(
    fields: &Fields<'_>,
    shared: LayerHeads,
    slides: &[bool],
) -> error::Result<Vec<LayerHeads>> {
    let of_full = LayerHeads {
        head_dim: fields.size("global_head_dim", 512)?,
        num_key_value_heads: fields.size("num_global_key_value_heads", 1)?,
    };
    let own = fields.value("per_layer_config");
    if !fields.contains("per_layer_config") {
        return Ok(slides.iter().map(|slides| if *slides { shared } else { of_full }).collect());
    }
    let mut layers = vec![shared; slides.len()];
    let Some(own) = own else { return Ok(layers) };
    let wrong = |text: &str| {
        Error::new(ErrorKind::Model, format!("`per_layer_config` in config.json {text}"))
    };
    let own = own.as_object().ok_or_else(|| wrong("is not a map of layers"))?;
    for (key, settings) in own {
        let layer = key.parse::<usize>().ok().and_then(|layer| layers.get_mut(layer));
        let layer = layer.ok_or_else(|| {
            wrong(&format!("has a layer `{key}`, but there are {} layers", slides.len()))
        })?;
        let settings: &serde_json::Map<String, Value> =
            settings.as_object().ok_or_else(|| wrong(&format!("is no map for layer {key}")))?;
        let known = ["head_dim", "num_key_value_heads"];
        if let Some(other) = settings.keys().find(|key| !known.contains(&key.as_str())) {
            let text = format!("`{other}` in `per_layer_config` of config.json is not implemented");
            return Err(Error::new(ErrorKind::Unsupported, text)
                .hint("implemented settings of a layer are: head_dim, num_key_value_heads"));
        }
        let settings = Fields::new(settings);
        layer.head_dim = settings.size("head_dim", shared.head_dim)?;
        layer.num_key_value_heads =
            settings.size("num_key_value_heads", shared.num_key_value_heads)?;
    }
    Ok(layers)
}

struct EmbeddingGemma2Attention {
    /// Queries, keys and values in one product.
    qkv_proj: Linear,
    o_proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    v_norm: RmsNorm,
    kv_width: usize,
    rotary: usize,
    options: AttentionOptions<'static>,
}

impl EmbeddingGemma2Attention {
    /// `before` is the norm that produces the input.
    fn load(
        vb: &VarBuilder<'_>,
        config: &EmbeddingGemma2Config,
        layer: EmbeddingGemma2LayerConfig,
        before: &RmsNorm,
    ) -> Result<Self> {
        let (heads, head_dim, eps) =
            (config.num_attention_heads, layer.head_dim, config.rms_norm_eps);
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (width, kv_width) = (heads * head_dim, layer.num_key_value_heads * head_dim);
        let parts = [("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)];
        let parts = parts.map(|(name, width)| (vb.pp(name), width));
        let before: &dyn InputNorm = before;
        Ok(Self {
            qkv_proj: Linear::load_fused(&parts, hidden, bias, Some(before))?,
            o_proj: Linear::load(vb.pp("o_proj"), width, hidden, bias)?,
            q_norm: config.norm(vb.pp("q_norm"), head_dim)?,
            k_norm: config.norm(vb.pp("k_norm"), head_dim)?,
            v_norm: RmsNorm::plain(head_dim, eps, DType::F32, vb.device())?,
            kv_width,
            rotary: layer.rotary,
            options: AttentionOptions::new(heads, head_dim)
                .with_num_kv_heads(layer.num_key_value_heads)
                .with_scale(1.0)
                .with_mask(layer.mask)
                .with_attn_implementation(config.attn_implementation),
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        inputs: &ModelInputs,
        rotations: &[Rotation],
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let qkv = self.qkv_proj.forward(x)?; // (total_tokens, width + 2 * kv_width)
        let width = qkv.dim(1)? - 2 * self.kv_width;
        let part = |start, width| qkv.narrow(1, start, width);
        let rotation = &rotations[self.rotary];
        let q = self.q_norm.forward_heads(&part(0, width)?)?;
        let k = self.k_norm.forward_heads(&part(width, self.kv_width)?)?;
        let v = self.v_norm.forward_heads(&part(width + self.kv_width, self.kv_width)?)?;
        let options = self.options.with_precision(self.qkv_proj.precision());
        let options = options.with_output_attentions(output_attentions);
        let (q, k) = (rotation.apply(&q)?, rotation.apply(&k)?);
        let attended = attention(&q, &k, &v, inputs, options)?;
        Ok((self.o_proj.forward(&attended.values)?, attended.attentions))
    }
}

/// Mixes a layer's share of the per-layer embeddings into the hidden states.
struct PleBlock {
    per_layer_input_gate: Linear,
    activation: Activation,
    per_layer_projection: Linear,
    post_per_layer_input_norm: RmsNorm,
}

impl PleBlock {
    fn load(vb: &VarBuilder<'_>, config: &EmbeddingGemma2Config) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.hidden_size_per_layer_input);
        Ok(Self {
            per_layer_input_gate: Linear::load(
                vb.pp("per_layer_input_gate"),
                hidden,
                inner,
                false,
            )?,
            activation: config.hidden_activation,
            per_layer_projection: Linear::load(
                vb.pp("per_layer_projection"),
                inner,
                hidden,
                false,
            )?,
            post_per_layer_input_norm: config.norm(vb.pp("post_per_layer_input_norm"), hidden)?,
        })
    }

    fn forward(&self, hidden_states: &Tensor, per_layer_input: &Tensor) -> Result<Tensor> {
        let gate = self.per_layer_input_gate.forward_activated(hidden_states, self.activation)?;
        let mixed = self.per_layer_projection.forward(&mul(&gate, per_layer_input)?)?;
        add(&self.post_per_layer_input_norm.forward(&mixed)?, hidden_states)
    }
}

struct EmbeddingGemma2EncoderLayer {
    input_layernorm: RmsNorm,
    self_attn: EmbeddingGemma2Attention,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    mlp: GatedMlp,
    post_feedforward_layernorm: RmsNorm,
    ple_block: PleBlock,
    layer_scalar: f64,
}

impl EmbeddingGemma2EncoderLayer {
    fn load(
        vb: &VarBuilder<'_>,
        config: &EmbeddingGemma2Config,
        layer: EmbeddingGemma2LayerConfig,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name| config.norm(vb.pp(name), hidden);
        let input_layernorm = norm("input_layernorm")?;
        let pre_feedforward_layernorm = norm("pre_feedforward_layernorm")?;
        let parts = ["gate_proj", "up_proj"].map(|name| (vb.pp("mlp").pp(name), inner));
        let before: &dyn InputNorm = &pre_feedforward_layernorm;
        let gate_up = Linear::load_fused(&parts, hidden, false, Some(before))?;
        let down = Linear::load(vb.pp("mlp.down_proj"), inner, hidden, false)?;
        let scalar = vb.get(1, "layer_scalar")?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        Ok(Self {
            self_attn: EmbeddingGemma2Attention::load(
                &vb.pp("self_attn"),
                config,
                layer,
                &input_layernorm,
            )?,
            input_layernorm,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: GatedMlp::new(gate_up, GateHalf::First, config.hidden_activation, down),
            pre_feedforward_layernorm,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            ple_block: PleBlock::load(&vb.pp("ple_block"), config)?,
            layer_scalar: scalar.first().copied().map_or(1.0, f64::from),
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        per_layer_input: &Tensor,
        inputs: &ModelInputs,
        rotations: &[Rotation],
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let normed = self.input_layernorm.forward(hidden_states)?;
        let (attended, attentions) =
            self.self_attn.forward(&normed, inputs, rotations, output_attentions)?;
        let attended = add(&self.post_attention_layernorm.forward(&attended)?, hidden_states)?;
        let output = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&attended)?)?;
        let output = add(&self.post_feedforward_layernorm.forward(&output)?, &attended)?;
        let mixed = self.ple_block.forward(&output, per_layer_input)?;
        Ok((scale(&mixed, self.layer_scalar)?, attentions))
    }
}

/// The embeddings, and the per-layer embeddings that are projected from them.
struct EmbeddingGemma2Embeddings {
    embed_tokens: Embedding,
    per_layer_model_projection: Linear,
    per_layer_projection_norm: RmsNorm,
    hidden_size: f64,
    pad_token_id: u32,
    /// Tokens of other modalities, which count as padding.
    multimodal_token_ids: Vec<u32>,
}

impl EmbeddingGemma2Embeddings {
    fn load(vb: &VarBuilder<'_>, config: &EmbeddingGemma2Config) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.hidden_size_per_layer_input);
        let ple = vb.pp("ple");
        let projection = ple.pp("per_layer_model_projection").unquantized();
        let in_vocabulary = |id: &&u32| (**id as usize) < config.vocab_size;
        let embed_tokens = vb.pp("embed_tokens");
        Ok(Self {
            embed_tokens: Embedding::load_words(&embed_tokens, config.vocab_size, hidden, None)?,
            per_layer_model_projection: Linear::load(
                projection,
                hidden,
                config.layers.len() * inner,
                false,
            )?,
            per_layer_projection_norm: config.norm(ple.pp("per_layer_projection_norm"), inner)?,
            hidden_size: hidden as f64,
            pad_token_id: config.pad_token_id,
            multimodal_token_ids: config
                .multimodal_token_ids
                .iter()
                .filter(in_vocabulary)
                .copied()
                .collect(),
        })
    }

    /// The hidden states before the first layer, and the per-layer embeddings of all layers.
    fn forward(&self, inputs: &ModelInputs) -> Result<(Tensor, Tensor)> {
        let mut ids = inputs.input_ids.clone();
        if ids.elem_count() > 0 {
            for id in &self.multimodal_token_ids {
                let padding = (ids.zeros_like()? + f64::from(self.pad_token_id))?;
                ids = ids.eq(*id)?.where_cond(&padding, &ids)?;
            }
        }
        let embedded = scale(&self.embed_tokens.forward(&ids)?, self.hidden_size.sqrt())?;
        let projected = self.per_layer_model_projection.forward(&embedded)?;
        let projected = scale(&projected, self.hidden_size.powf(-0.5))?;
        // (total_tokens, num_hidden_layers * hidden_size_per_layer_input)
        let per_layer = self.per_layer_projection_norm.forward_heads(&projected)?;
        Ok((embedded, per_layer))
    }
}

/// The text model: `EmbeddingGemma2TextModel`, or `EmbeddingGemma2Model` without images, video and audio.
pub struct EmbeddingGemma2Model {
    embeddings: EmbeddingGemma2Embeddings,
    layers: Vec<EmbeddingGemma2EncoderLayer>,
    norm: RmsNorm,
    embedding_projection: Linear,
    rotary: Vec<RotaryEmbedding>,
    dimensions: Dimensions,
}

impl EmbeddingGemma2Model {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor or has it in another shape.
    pub fn load(vb: &VarBuilder<'_>, config: &EmbeddingGemma2Config) -> Result<Self> {
        let layers = config.layers.iter().enumerate().map(|(i, layer)| {
            EmbeddingGemma2EncoderLayer::load(&vb.pp("layers").pp(i), config, *layer)
        });
        let projection = vb.pp("embedding_projection").unquantized();
        let (hidden, width) = (config.hidden_size, config.embedding_dim);
        Ok(Self {
            embeddings: EmbeddingGemma2Embeddings::load(vb, config)?,
            layers: layers.collect::<Result<_>>()?,
            norm: config.norm(vb.pp("norm"), hidden)?,
            embedding_projection: Linear::load(projection, hidden, width, false)?,
            rotary: config.rotary.iter().cloned().map(RotaryEmbedding::new).collect(),
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for EmbeddingGemma2Model {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        if want.pooler_output {
            bail!("`pooler_output` was requested, but the model has no pooler");
        }
        let mut recorder = Recorder::new(inputs, want);
        let rotations = self.rotary.iter().map(|rotary| {
            rotary.rotation(inputs.positions(), &inputs.lengths, inputs.input_ids.device())
        });
        let rotations: Vec<Rotation> = rotations.collect::<Result<_>>()?;
        let (mut hidden_states, per_layer) = self.embeddings.forward(inputs)?;
        let width = per_layer.dim(1)? / self.layers.len().max(1);
        for (i, layer) in self.layers.iter().enumerate() {
            recorder.hidden_state(&hidden_states);
            let own = per_layer.narrow(1, i * width, width)?;
            let (output, attentions) =
                layer.forward(&hidden_states, &own, inputs, &rotations, want.attentions)?;
            hidden_states = output;
            recorder.attentions(attentions);
        }
        // As in transformers, the last hidden state is the projected one.
        let embedded = self.embedding_projection.forward(&self.norm.forward(&hidden_states)?)?;
        recorder.hidden_state(&embedded);
        Ok(recorder.finish(embedded, None))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.embeddings.embed_tokens)
    }

    fn has_pooler(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> error::Result<EmbeddingGemma2Config> {
        EmbeddingGemma2Config::new(&Fields::new(config.as_object().unwrap()))
    }

    #[test]
    fn full_layers_are_wider_by_default_and_the_last_one_is_full() {
        let config = read(&json!({"num_hidden_layers": 8})).unwrap();
        let heads = |i: usize| (config.layers[i].head_dim, config.layers[i].num_key_value_heads);
        assert_eq!(
            (heads(4), heads(5), heads(6), heads(7)),
            ((256, 2), (512, 1), (256, 2), (512, 1))
        );
        assert_eq!(config.layers[6].mask, AttentionMask::Window(512));
        assert_eq!(config.rotary[0].head_dim(), 512);
        let plain = read(&json!({"per_layer_config": null})).unwrap();
        assert!(plain.layers.iter().all(|layer| layer.head_dim == 256));
    }

    #[test]
    fn settings_of_layers_are_checked() {
        for (own, text) in [
            (json!({"0": {"head_dim": 6}}), "heads of several sizes"),
            (json!({"24": {"head_dim": 6}}), "a layer `24`, but there are 24 layers"),
            (json!({"23": {"skip": ["mlp"]}}), "`skip`"),
            (json!({"23": {"num_key_value_heads": 3}}), "`num_key_value_heads: 3`"),
            (json!({"23": {"head_dim": 0}}), "`head_dim`"),
            (json!({"23": 5}), "layer 23"),
            (json!([1]), "not a map"),
        ] {
            let error = read(&json!({"per_layer_config": own})).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
