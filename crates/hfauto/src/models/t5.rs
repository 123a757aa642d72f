//! T5, mT5 and UMT5: pre-norm stacks without biases; the layers of a stack share one relative position bias, or in UMT5,
//! each has its own.
//!
//! There are two architectures: [`T5EncoderModel`], for sentence-transformers and token classification, and
//! [`T5Model`], the encoder with the decoder. Attention does not scale, and the total width of the heads,
//! `num_heads * d_kv`, may differ from `d_model`.
//!
//! # Source
//! `src/transformers/models/t5/modeling_t5.py` and `…/mt5/modeling_mt5.py` at v4.57, `…/umt5/modeling_umt5.py` at v5.24.

use candle_core::{DType, Result, Tensor, bail};
use serde_json::Value;

use super::seq2seq::SharedEmbeddings;
use super::{
    Backbone, Decoder, DecoderCaches, DecoderOutput, Dimensions, Fields, Head, ModelOutput,
    Recorder, Seq2SeqBackbone, Seq2SeqLM, Want,
};
use crate::error::{self, Error, ErrorKind};
use crate::nn::{
    Activation, AttentionOptions, AttnImplementation, Embedding, KvCache, Lengths, Linear,
    ModelInputs, PositionIds, Ragged, RelativeAttentionBias, RelativePositionBuckets, RmsNorm,
    VarBuilder, add, attention_cached, attention_over, cast,
};

/// The configuration of T5.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The size of a hidden state.
    pub d_model: usize,
    /// The size of an attention head.
    pub d_kv: usize,
    /// The inner size of the feed-forward network.
    pub d_ff: usize,
    /// The number of encoder layers.
    pub num_layers: usize,
    /// The number of decoder layers.
    pub num_decoder_layers: usize,
    /// The number of attention heads.
    pub num_heads: usize,
    /// The number of relative position buckets.
    pub relative_attention_num_buckets: usize,
    /// All distances from this one on share the last bucket.
    pub relative_attention_max_distance: usize,
    /// The activation of the feed-forward network.
    pub dense_act_fn: Activation,
    /// Whether the feed-forward network is gated.
    pub is_gated_act: bool,
    /// The epsilon of the norms.
    pub layer_norm_epsilon: f64,
    /// The first token of the decoder.
    pub decoder_start_token_id: Option<u32>,
    /// Whether every layer has a relative position bias of its own (UMT5), or only the first of a stack, for all.
    pub bias_per_layer: bool,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

/// The defaults of a family.
struct Defaults {
    vocab_size: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    feed_forward_proj: &'static str,
    decoder_start_token_id: Option<u32>,
    bias_per_layer: bool,
}

const MT5: Defaults = Defaults {
    vocab_size: 250_112,
    d_ff: 1024,
    num_layers: 8,
    num_heads: 6,
    feed_forward_proj: "gated-gelu",
    decoder_start_token_id: Some(0),
    bias_per_layer: false,
};

impl T5Config {
    /// Reads a `config.json` of T5.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for an unknown activation or a setting
    /// that is not implemented.
    pub fn t5(fields: &Fields<'_>) -> error::Result<Self> {
        let defaults = Defaults {
            vocab_size: 32128,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            feed_forward_proj: "relu",
            decoder_start_token_id: None,
            bias_per_layer: false,
        };
        Self::new(fields, &defaults)
    }

    /// Reads a `config.json` of mT5.
    ///
    /// # Errors
    /// As [`T5Config::t5`].
    pub fn mt5(fields: &Fields<'_>) -> error::Result<Self> {
        Self::new(fields, &MT5)
    }

    /// Reads a `config.json` of UMT5.
    ///
    /// # Errors
    /// As [`T5Config::t5`].
    pub fn umt5(fields: &Fields<'_>) -> error::Result<Self> {
        Self::new(fields, &Defaults { bias_per_layer: true, ..MT5 })
    }

    fn new(fields: &Fields<'_>, defaults: &Defaults) -> error::Result<Self> {
        fields.only("is_decoder", &Value::Bool(false))?;
        fields.only("tie_encoder_decoder", &Value::Bool(false))?;
        let feed_forward_proj = fields.text("feed_forward_proj", defaults.feed_forward_proj)?;
        let (dense_act_fn, is_gated_act) = match feed_forward_proj.split_once('-') {
            // For backward compatibility, as in the source.
            Some(("gated", "gelu")) => ("gelu_new", true),
            Some(("gated", name)) if !name.contains('-') => (name, true),
            None => (feed_forward_proj, false),
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!(
                        "`feed_forward_proj` in config.json is `{feed_forward_proj}`, not the name \
                         of an activation, alone or after `gated-`"
                    ),
                ));
            }
        };
        let num_layers = fields.size("num_layers", defaults.num_layers)?;
        let config = Self {
            vocab_size: fields.size("vocab_size", defaults.vocab_size)?,
            d_model: fields.size("d_model", 512)?,
            d_kv: fields.size("d_kv", 64)?,
            d_ff: fields.size("d_ff", defaults.d_ff)?,
            num_layers,
            num_decoder_layers: fields.size("num_decoder_layers", num_layers)?,
            num_heads: fields.size("num_heads", defaults.num_heads)?,
            relative_attention_num_buckets: fields.size("relative_attention_num_buckets", 32)?,
            relative_attention_max_distance: fields.size("relative_attention_max_distance", 128)?,
            // transformers also saves the settings that it derives from `feed_forward_proj`; they take precedence.
            dense_act_fn: fields.activation("dense_act_fn", dense_act_fn)?,
            is_gated_act: fields.flag("is_gated_act", is_gated_act)?,
            layer_norm_epsilon: fields.epsilon("layer_norm_epsilon", 1e-6)?,
            decoder_start_token_id: fields
                .optional_token_id("decoder_start_token_id")?
                .or(defaults.decoder_start_token_id),
            bias_per_layer: defaults.bias_per_layer,
            attn_implementation: fields.attn_implementation(),
        };
        if config.buckets(true).is_none() || config.buckets(false).is_none() {
            return Err(Error::new(
                ErrorKind::Model,
                format!(
                    "`relative_attention_num_buckets: {}` and `relative_attention_max_distance: {}` in \
                     config.json conflict: the distance must be more than half of the buckets, and there \
                     must be at least 4",
                    config.relative_attention_num_buckets, config.relative_attention_max_distance
                ),
            ));
        }
        Ok(config)
    }

    /// The encoder's dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            image: None,
            hidden_size: self.d_model,
            num_hidden_layers: self.num_layers,
            num_attention_heads: self.num_heads,
            num_key_value_heads: self.num_heads,
            head_dim: self.d_kv,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            extrapolates: false,
            max_position_embeddings: None,
        }
    }

    fn buckets(&self, bidirectional: bool) -> Option<RelativePositionBuckets> {
        RelativePositionBuckets::new(
            self.relative_attention_num_buckets as u32,
            self.relative_attention_max_distance as u32,
            bidirectional,
        )
    }
}

/// The dtype of the residual stream and of its last addend. In f16 they overflow, so they are f32 (transformers keeps
/// `wo` in f32 and clamps infinities).
fn wide(dtype: DType) -> DType {
    if dtype == DType::F16 { DType::F32 } else { dtype }
}

/// Loads a norm of the residual stream.
fn load_norm(vb: VarBuilder<'_>, config: &T5Config) -> Result<RmsNorm> {
    let dtype = wide(vb.dtype());
    RmsNorm::load(vb.set_dtype(dtype), config.d_model, config.layer_norm_epsilon)
}

/// `SelfAttention`.
struct SelfAttention {
    /// `q`, `k` and `v` in one projection.
    qkv: Linear,
    o: Linear,
    layer_norm: RmsNorm,
    dtype: DType,
}

impl SelfAttention {
    fn load(vb: VarBuilder<'_>, config: &T5Config) -> Result<Self> {
        let attention = vb.pp("SelfAttention");
        let inner_dim = config.num_heads * config.d_kv;
        let qkv = ["q", "k", "v"].map(|name| (attention.pp(name), inner_dim));
        let layer_norm = load_norm(vb.pp("layer_norm"), config)?;
        Ok(Self {
            qkv: Linear::load_fused(&qkv, config.d_model, false, Some(&layer_norm))?,
            o: Linear::load(attention.pp("o"), inner_dim, config.d_model, false)?,
            layer_norm,
            dtype: vb.dtype(),
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        cache: Option<&mut KvCache>,
        options: AttentionOptions<'_>,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let normed = cast(&self.layer_norm.forward(hidden_states)?, self.dtype)?;
        let qkv = self.qkv.forward(&normed)?;
        let inner_dim = qkv.dim(1)? / 3;
        let attended = attention_cached(
            &qkv.narrow(1, 0, inner_dim)?,
            &qkv.narrow(1, inner_dim, inner_dim)?,
            &qkv.narrow(1, 2 * inner_dim, inner_dim)?,
            inputs,
            cache,
            options,
        )?;
        let output = cast(&self.o.forward(&attended.values)?, hidden_states.dtype())?;
        Ok((add(&output, hidden_states)?, attended.attentions))
    }
}

/// `EncDecAttention`: attention over the encoder's states, without a bias.
struct CrossAttention {
    q: Linear,
    /// `k` and `v` in one projection.
    kv: Linear,
    o: Linear,
    layer_norm: RmsNorm,
    dtype: DType,
}

impl CrossAttention {
    /// `encoder_norm` is the norm that produces the encoder's states.
    fn load(vb: VarBuilder<'_>, config: &T5Config, encoder_norm: &RmsNorm) -> Result<Self> {
        let attention = vb.pp("EncDecAttention");
        let inner_dim = config.num_heads * config.d_kv;
        let layer_norm = load_norm(vb.pp("layer_norm"), config)?;
        let part = |name| (attention.pp(name), inner_dim);
        let (d_model, kv) = (config.d_model, [part("k"), part("v")]);
        Ok(Self {
            q: Linear::load_fused(&[part("q")], d_model, false, Some(&layer_norm))?,
            kv: Linear::load_fused(&kv, d_model, false, Some(encoder_norm))?,
            o: Linear::load(attention.pp("o"), inner_dim, d_model, false)?,
            layer_norm,
            dtype: vb.dtype(),
        })
    }

    /// The keys and values of the encoder's states, computed once per row.
    fn keys(&self, encoder_states: &Tensor, lengths: &Lengths) -> Result<KvCache> {
        let kv = self.kv.forward(encoder_states)?;
        let inner_dim = kv.dim(1)? / 2;
        KvCache::new(&kv.narrow(1, 0, inner_dim)?, &kv.narrow(1, inner_dim, inner_dim)?, lengths)
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        lengths: &Lengths,
        keys: &KvCache,
        options: AttentionOptions<'_>,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let normed = cast(&self.layer_norm.forward(hidden_states)?, self.dtype)?;
        let q = self.q.forward(&normed)?;
        let attended = attention_over(&q, lengths, keys, options)?;
        let output = cast(&self.o.forward(&attended.values)?, hidden_states.dtype())?;
        Ok((add(&output, hidden_states)?, attended.attentions))
    }
}

/// `DenseReluDense`.
struct FeedForward {
    /// `wi`, or `wi_0` if there is a gate.
    wi: Linear,
    /// The gate, `wi_1`.
    wi_1: Option<Linear>,
    wo: Linear,
    act: Activation,
    layer_norm: RmsNorm,
    dtype: DType,
}

impl FeedForward {
    fn load(vb: VarBuilder<'_>, config: &T5Config) -> Result<Self> {
        let dense = vb.pp("DenseReluDense");
        let layer_norm = load_norm(vb.pp("layer_norm"), config)?;
        let wi = |name| {
            let part = [(dense.pp(name), config.d_ff)];
            Linear::load_fused(&part, config.d_model, false, Some(&layer_norm))
        };
        let (wi, wi_1) =
            if config.is_gated_act { (wi("wi_0")?, Some(wi("wi_1")?)) } else { (wi("wi")?, None) };
        Ok(Self {
            wi,
            wi_1,
            wo: Linear::load(
                dense.pp("wo").set_dtype(wide(vb.dtype())),
                config.d_ff,
                config.d_model,
                false,
            )?,
            dtype: vb.dtype(),
            act: config.dense_act_fn,
            layer_norm,
        })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let normed = cast(&self.layer_norm.forward(hidden_states)?, self.dtype)?;
        let inner = match &self.wi_1 {
            None if self.dtype == hidden_states.dtype() => {
                let output = self.wi.forward_through(&normed, self.act, &self.wo)?;
                return add(&output, hidden_states);
            }
            None => self.wi.forward_activated(&normed, self.act)?,
            Some(wi_1) => {
                (self.wi.forward_activated(&normed, self.act)? * wi_1.forward(&normed)?)?
            }
        };
        add(&self.wo.forward(&cast(&inner, hidden_states.dtype())?)?, hidden_states)
    }
}

struct T5Block {
    self_attention: SelfAttention,
    /// Only in a decoder.
    cross_attention: Option<CrossAttention>,
    feed_forward: FeedForward,
}

impl T5Block {
    /// `encoder_norm` is the norm that produces the encoder's states, for a decoder.
    fn load(vb: VarBuilder<'_>, config: &T5Config, encoder_norm: Option<&RmsNorm>) -> Result<Self> {
        let layer = vb.pp("layer");
        let cross = encoder_norm.map(|norm| CrossAttention::load(layer.pp(1), config, norm));
        let cross_attention = cross.transpose()?;
        let last = if cross_attention.is_some() { 2 } else { 1 };
        Ok(Self {
            self_attention: SelfAttention::load(layer.pp(0), config)?,
            cross_attention,
            feed_forward: FeedForward::load(layer.pp(last), config)?,
        })
    }
}

/// The layers of the encoder or of the decoder.
struct T5Stack {
    block: Vec<T5Block>,
    /// For each layer, or one for all.
    relative_attention_bias: Vec<RelativeAttentionBias>,
    final_layer_norm: RmsNorm,
    dtype: DType,
    self_attention: AttentionOptions<'static>,
    cross_attention: AttentionOptions<'static>,
}

impl T5Stack {
    /// `encoder_norm` is the norm that produces the encoder's states, for a decoder.
    fn load(vb: VarBuilder<'_>, config: &T5Config, encoder_norm: Option<&RmsNorm>) -> Result<Self> {
        let (blocks, is_decoder) = (vb.pp("block"), encoder_norm.is_some());
        let Some(buckets) = config.buckets(!is_decoder) else {
            bail!("invalid number of relative position buckets")
        };
        let layers = if is_decoder { config.num_decoder_layers } else { config.num_layers };
        let attention = AttentionOptions::new(config.num_heads, config.d_kv)
            .with_scale(1.0)
            .with_attn_implementation(config.attn_implementation);
        let bias = |layer: usize| {
            RelativeAttentionBias::load(
                blocks.pp(layer).pp("layer.0.SelfAttention.relative_attention_bias"),
                config.relative_attention_num_buckets,
                config.num_heads,
                buckets,
            )
        };
        let biases = if config.bias_per_layer { layers } else { 1 };
        Ok(Self {
            relative_attention_bias: (0..biases).map(bias).collect::<Result<_>>()?,
            block: (0..layers)
                .map(|i| T5Block::load(blocks.pp(i), config, encoder_norm))
                .collect::<Result<_>>()?,
            final_layer_norm: load_norm(vb.pp("final_layer_norm"), config)?,
            dtype: vb.dtype(),
            self_attention: attention.with_causal(is_decoder),
            cross_attention: attention,
        })
    }

    /// The keys and values of the encoder's states, for each layer.
    fn cross_keys(&self, encoder_states: &Ragged) -> Result<Vec<KvCache>> {
        let layers = self.block.iter().filter_map(|block| block.cross_attention.as_ref());
        layers.map(|layer| layer.keys(&encoder_states.values, &encoder_states.lengths)).collect()
    }

    fn forward(
        &self,
        embedded: Tensor,
        inputs: &ModelInputs,
        mut caches: DecoderCaches<'_>,
        want: &Want,
    ) -> Result<DecoderOutput> {
        let past = caches.self_attention.as_deref().and_then(|caches| caches.first());
        let keys = inputs.lengths.ranges().enumerate();
        let longest = keys.map(|(row, new)| past.map_or(0, |p| p.len(row)) + new.len()).max();
        let biases = self.relative_attention_bias.iter();
        let biases = biases.map(|bias| bias.covering(longest.unwrap_or(0)));
        let biases = biases.collect::<Result<Vec<_>>>()?;
        let cross_options = self.cross_attention.with_output_attentions(want.attentions);
        let mut recorder = Recorder::new(inputs, want);
        let mut hidden_states = cast(&embedded, wide(self.dtype))?;
        for (i, block) in self.block.iter().enumerate() {
            recorder.hidden_state(&hidden_states);
            let cache = caches.self_attention.as_deref_mut().and_then(|caches| caches.get_mut(i));
            let bias = biases.get(i).or(biases.first());
            let options =
                self.self_attention.with_bias(bias).with_output_attentions(want.attentions);
            let (attended, attentions) =
                block.self_attention.forward(&hidden_states, inputs, cache, options)?;
            hidden_states = attended;
            recorder.attentions(attentions);
            if let (Some(layer), Some(keys)) =
                (&block.cross_attention, caches.cross_attention.get(i))
            {
                let (attended, attentions) =
                    layer.forward(&hidden_states, &inputs.lengths, keys, cross_options)?;
                hidden_states = attended;
                recorder.cross_attentions(attentions);
            }
            hidden_states = block.feed_forward.forward(&hidden_states)?;
        }
        // The last hidden state is the normalized one, as in transformers.
        let normed = self.final_layer_norm.forward(&hidden_states)?;
        recorder.hidden_state(&normed);
        Ok(recorder.finish_decoder(cast(&normed, self.dtype)?))
    }
}

/// T5's encoder alone: `T5EncoderModel`, `MT5EncoderModel`.
pub struct T5EncoderModel {
    embed_tokens: Embedding,
    encoder: T5Stack,
    dimensions: Dimensions,
}

impl T5EncoderModel {
    /// Loads the weights of the encoder and ignores the decoder's.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &T5Config) -> Result<Self> {
        let shape = (config.vocab_size, config.d_model);
        Ok(Self {
            embed_tokens: SharedEmbeddings::load_for(vb, shape, "encoder")?,
            encoder: T5Stack::load(vb.pp("encoder"), config, None)?,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for T5EncoderModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        refuse_pooler(want)?;
        let embedded = self.embed_tokens.forward(&inputs.input_ids)?;
        Ok(self.encoder.forward(embedded, inputs, DecoderCaches::default(), want)?.model)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.embed_tokens)
    }

    fn has_pooler(&self) -> bool {
        false
    }
}

/// T5 without a head: `T5Model`, `MT5Model`.
///
/// As a [`Backbone`], it returns the decoder's states over the inputs shifted right, and its dimensions give the
/// number of decoder layers.
pub struct T5Model {
    embeddings: SharedEmbeddings,
    encoder: T5Stack,
    decoder: T5Stack,
    dimensions: Dimensions,
    decoder_start_token_id: Option<u32>,
}

impl T5Model {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &T5Config) -> Result<Self> {
        let encoder = T5Stack::load(vb.pp("encoder"), config, None)?;
        let norm = &encoder.final_layer_norm;
        let decoder = T5Stack::load(vb.pp("decoder"), config, Some(norm))?;
        let shape = (config.vocab_size, config.d_model);
        Ok(Self {
            embeddings: SharedEmbeddings::load(vb, shape, Some(&decoder.final_layer_norm))?,
            encoder,
            decoder,
            dimensions: Dimensions {
                num_hidden_layers: config.num_decoder_layers,
                ..config.dimensions()
            },
            decoder_start_token_id: config.decoder_start_token_id,
        })
    }
}

impl Seq2SeqBackbone for T5Model {
    fn forward_encoder(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        refuse_pooler(want)?;
        let embedded = self.embeddings.encoder.forward(&inputs.input_ids)?;
        Ok(self.encoder.forward(embedded, inputs, DecoderCaches::default(), want)?.model)
    }

    fn cross_attention_caches(&self, encoder_states: &Ragged) -> Result<Vec<KvCache>> {
        self.decoder.cross_keys(encoder_states)
    }

    fn forward_decoder(
        &self,
        inputs: &ModelInputs,
        caches: DecoderCaches<'_>,
        want: &Want,
    ) -> Result<DecoderOutput> {
        let embedded = self.embeddings.decoder.forward(&inputs.input_ids)?;
        self.decoder.forward(embedded, inputs, caches, want)
    }

    fn decoder_start_token_id(&self) -> Option<u32> {
        self.decoder_start_token_id
    }
}

impl Backbone for T5Model {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        self.forward_shifted(inputs, want)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.embeddings.shared)
    }

    fn has_pooler(&self) -> bool {
        false
    }

    fn seq2seq(&self) -> Option<&dyn Seq2SeqBackbone> {
        Some(self)
    }

    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        Some(Box::new(Seq2SeqLM::new(self, head, self.embeddings.shared.device())))
    }
}

fn refuse_pooler(want: &Want) -> Result<()> {
    if want.pooler_output {
        bail!("`pooler_output` was requested, but T5 has no pooler");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(json: &Value) -> error::Result<T5Config> {
        T5Config::t5(&Fields::new(json.as_object().unwrap()))
    }

    #[test]
    fn the_feed_forward_part_is_what_transformers_makes_of_its_name() {
        for (json, activation, gated) in [
            (json!({}), Activation::Relu, false),
            (json!({"feed_forward_proj": "gelu"}), Activation::Gelu, false),
            (json!({"feed_forward_proj": "gated-gelu"}), Activation::GeluTanh, true),
            (json!({"feed_forward_proj": "gated-silu"}), Activation::Silu, true),
            (
                json!({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}),
                Activation::Gelu,
                true,
            ),
        ] {
            let config = config(&json).unwrap();
            assert_eq!((config.dense_act_fn, config.is_gated_act), (activation, gated), "{json}");
        }
        for name in ["gated-gelu-new", "fused-gelu"] {
            let error = config(&json!({"feed_forward_proj": name})).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Model);
            assert!(error.message().contains(name), "{error}");
        }
        let error = config(&json!({"feed_forward_proj": "gated-geglu"})).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("`geglu`"), "{error}");
    }

    #[test]
    fn defaults_are_those_of_the_family() {
        let empty = json!({});
        let fields = Fields::new(empty.as_object().unwrap());
        let (t5, mt5) = (T5Config::t5(&fields).unwrap(), T5Config::mt5(&fields).unwrap());
        assert_eq!((t5.num_layers, t5.num_decoder_layers, t5.num_heads), (6, 6, 8));
        assert_eq!((mt5.num_layers, mt5.num_heads, mt5.d_ff), (8, 6, 1024));
        assert_eq!((t5.decoder_start_token_id, mt5.decoder_start_token_id), (None, Some(0)));
        assert_eq!((mt5.dense_act_fn, mt5.is_gated_act), (Activation::GeluTanh, true));
        assert_eq!(config(&json!({"num_layers": 2})).unwrap().num_decoder_layers, 2);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (json, name) in [
            (json!({"relative_attention_num_buckets": 3}), "`relative_attention_num_buckets: 3`"),
            (
                json!({"relative_attention_max_distance": 16}),
                "`relative_attention_max_distance: 16`",
            ),
            (json!({"tie_encoder_decoder": true}), "`tie_encoder_decoder: true`"),
            (json!({"is_decoder": true}), "`is_decoder: true`"),
        ] {
            let error = config(&json).unwrap_err();
            assert!(error.message().contains(name), "{error}");
        }
    }
}
