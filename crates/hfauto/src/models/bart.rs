//! BART and the encoder-decoder architectures that differ from it by settings: mBART, PEGASUS, Marian, M2M-100 (NLLB).
//!
//! They differ in the place of the norms, in the norm of the embeddings, in position embeddings, and in the defaults of
//! their configurations. There are two architectures: [`BartModel`], the encoder with the decoder, and [`BartDecoder`], the
//! decoder alone, for causal language models.
//!
//! # Source
//! `src/transformers/models/{bart,mbart,pegasus,marian,m2m_100}/modeling_*.py` at v5.24.

use candle_core::{Result, Tensor, bail};

use super::encoder::{
    CrossAttentionNames, EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv,
};
use super::seq2seq::SharedEmbeddings;
use super::{
    Backbone, CausalBackbone, CausalLM, Decoder, DecoderCaches, DecoderOutput, Dimensions, Fields,
    Head, ModelOutput, Recorder, Seq2SeqBackbone, Seq2SeqLM, ShiftedStart, Want,
};
use crate::error::{self, Error, ErrorKind};
use crate::nn::{
    Activation, AttnImplementation, Embedding, InputNorm, KvCache, LayerNorm, ModelInputs,
    PositionIds, Ragged, SinusoidalForm, Sinusoids, VarBuilder, scale,
};

const NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    attention_output: "self_attn.out_proj",
    attention_norm: "self_attn_layer_norm",
    intermediate: "fc1",
    output: "fc2",
    output_norm: "final_layer_norm",
    extra: ExtraNames::NONE,
};

const CROSS_ATTENTION: CrossAttentionNames = CrossAttentionNames {
    qkv: ["encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj"],
    output: "encoder_attn.out_proj",
    norm: "encoder_attn_layer_norm",
};

/// The default of `torch.nn.LayerNorm`.
const LAYER_NORM_EPS: f64 = 1e-5;

/// The vectors that the learned tables have before that of position 0.
const LEARNED_OFFSET: usize = 2;

/// The position embeddings of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BartPositions {
    /// A learned table.
    Learned,
    /// Sines and cosines, in the checkpoint or computed.
    Sinusoidal,
    /// Sines and cosines for rows of any length; positions count from `pad_token_id + 1`, and padding has none.
    SinusoidalAfterPadding,
}

/// The size of an encoder or a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BartStackConfig {
    /// The number of layers.
    pub layers: usize,
    /// The inner size of the feed-forward network.
    pub ffn_dim: usize,
    /// The number of attention heads.
    pub attention_heads: usize,
}

/// The configuration of BART and its relatives.
#[derive(Clone, Debug, PartialEq)]
pub struct BartConfig {
    /// The vocabulary size of the encoder.
    pub vocab_size: usize,
    /// The vocabulary size of the decoder; another than the encoder's only without shared embeddings.
    pub decoder_vocab_size: usize,
    /// Whether encoder and decoder have one table of word embeddings.
    pub share_encoder_decoder_embeddings: bool,
    /// The size of a hidden state.
    pub d_model: usize,
    /// The encoder.
    pub encoder: BartStackConfig,
    /// The decoder.
    pub decoder: BartStackConfig,
    /// The activation of the feed-forward networks.
    pub activation_function: Activation,
    /// The length of the rows that the model is made for.
    pub max_position_embeddings: usize,
    /// Whether word embeddings are multiplied with the square root of `d_model`.
    pub scale_embedding: bool,
    /// Whether norms precede the sublayers, with one more norm after the last layer.
    pub norm_first: bool,
    /// Whether a norm follows the embeddings.
    pub layernorm_embedding: bool,
    /// The position embeddings.
    pub positions: BartPositions,
    /// The start of shifted inputs.
    pub shifted_start: ShiftedStart,
    /// The first token of the decoder.
    pub decoder_start_token_id: Option<u32>,
    /// The padding token.
    pub pad_token_id: u32,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

/// What distinguishes a family.
struct Defaults {
    vocab_size: usize,
    activation_function: &'static str,
    scale_embedding: bool,
    norm_first: bool,
    layernorm_embedding: bool,
    positions: BartPositions,
    wraps_last_token: bool,
    decoder_start_token_id: Option<u32>,
    pad_token_id: u32,
}

const BART: Defaults = Defaults {
    vocab_size: 50265,
    activation_function: "gelu",
    scale_embedding: false,
    norm_first: false,
    layernorm_embedding: true,
    positions: BartPositions::Learned,
    wraps_last_token: false,
    decoder_start_token_id: Some(2),
    pad_token_id: 1,
};

impl BartConfig {
    /// Reads a `config.json` of BART.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for an unknown activation or a setting
    /// that is not implemented.
    pub fn bart(fields: &Fields<'_>) -> error::Result<Self> {
        Self::new(fields, &BART)
    }

    /// Reads a `config.json` of mBART.
    ///
    /// # Errors
    /// As [`BartConfig::bart`].
    pub fn mbart(fields: &Fields<'_>) -> error::Result<Self> {
        let defaults = Defaults {
            norm_first: true,
            wraps_last_token: true,
            decoder_start_token_id: None,
            ..BART
        };
        Self::new(fields, &defaults)
    }

    /// Reads a `config.json` of PEGASUS.
    ///
    /// # Errors
    /// As [`BartConfig::bart`].
    pub fn pegasus(fields: &Fields<'_>) -> error::Result<Self> {
        let defaults = Defaults {
            norm_first: true,
            layernorm_embedding: false,
            positions: BartPositions::Sinusoidal,
            decoder_start_token_id: Some(0),
            pad_token_id: 0,
            ..BART
        };
        Self::new(fields, &defaults)
    }

    /// Reads a `config.json` of Marian.
    ///
    /// # Errors
    /// As [`BartConfig::bart`].
    pub fn marian(fields: &Fields<'_>) -> error::Result<Self> {
        let defaults = Defaults {
            vocab_size: 58101,
            layernorm_embedding: false,
            positions: BartPositions::Sinusoidal,
            decoder_start_token_id: Some(58100),
            pad_token_id: 58100,
            ..BART
        };
        let config = Self::new(fields, &defaults)?;
        let share = fields.flag("share_encoder_decoder_embeddings", true)?;
        let own = fields.size("decoder_vocab_size", config.vocab_size)?;
        let decoder_vocab_size = if share { config.vocab_size } else { own };
        Ok(Self { share_encoder_decoder_embeddings: share, decoder_vocab_size, ..config })
    }

    /// Reads a `config.json` of M2M-100, or of NLLB.
    ///
    /// # Errors
    /// As [`BartConfig::bart`].
    pub fn m2m_100(fields: &Fields<'_>) -> error::Result<Self> {
        let defaults = Defaults {
            vocab_size: 128_112,
            activation_function: "relu",
            scale_embedding: true,
            norm_first: true,
            layernorm_embedding: false,
            positions: BartPositions::SinusoidalAfterPadding,
            ..BART
        };
        let config = Self::new(fields, &defaults)?;
        if config.d_model < 4 {
            let message = format!(
                "`d_model: {}` in config.json is too small for sinusoidal positions, expected at least 4",
                config.d_model
            );
            return Err(Error::new(ErrorKind::Model, message));
        }
        Ok(config)
    }

    fn new(fields: &Fields<'_>, defaults: &Defaults) -> error::Result<Self> {
        let stack = |layers, ffn_dim, heads| {
            Ok::<_, Error>(BartStackConfig {
                layers: fields.size(layers, 12)?,
                ffn_dim: fields.size(ffn_dim, 4096)?,
                attention_heads: fields.size(heads, 16)?,
            })
        };
        let vocab_size = fields.size("vocab_size", defaults.vocab_size)?;
        let start = fields.optional_token_id("decoder_start_token_id")?;
        let pad_token_id = fields.token_id("pad_token_id", defaults.pad_token_id)?;
        let config = Self {
            vocab_size,
            decoder_vocab_size: vocab_size,
            share_encoder_decoder_embeddings: true,
            d_model: fields.size("d_model", 1024)?,
            encoder: stack("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads")?,
            decoder: stack("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads")?,
            activation_function: fields
                .activation("activation_function", defaults.activation_function)?,
            max_position_embeddings: fields.size("max_position_embeddings", 1024)?,
            scale_embedding: fields.flag("scale_embedding", defaults.scale_embedding)?,
            norm_first: defaults.norm_first,
            layernorm_embedding: defaults.layernorm_embedding,
            positions: defaults.positions,
            shifted_start: if defaults.wraps_last_token {
                ShiftedStart::LastToken { pad_token_id }
            } else {
                ShiftedStart::DecoderStart
            },
            decoder_start_token_id: start.or(defaults.decoder_start_token_id),
            pad_token_id,
            attn_implementation: fields.attn_implementation(),
        };
        for (key, stack) in [
            ("encoder_attention_heads", config.encoder),
            ("decoder_attention_heads", config.decoder),
        ] {
            fields.divides(("d_model", config.d_model), (key, stack.attention_heads))?;
        }
        Ok(config)
    }

    /// The dimensions of inputs and of the decoder, whose states are the outputs.
    pub fn dimensions(&self) -> Dimensions {
        let heads = self.decoder.attention_heads;
        let after_padding = self.positions == BartPositions::SinusoidalAfterPadding;
        Dimensions {
            image: None,
            hidden_size: self.d_model,
            num_hidden_layers: self.decoder.layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: self.d_model / heads,
            vocab_size: self.vocab_size,
            type_vocab_size: None,
            position_ids: if after_padding {
                PositionIds::AfterPadding { padding_idx: self.pad_token_id }
            } else {
                PositionIds::FromZero
            },
            extrapolates: after_padding,
            max_position_embeddings: Some(self.max_position_embeddings),
        }
    }

    fn layer(&self, stack: BartStackConfig, causal: bool) -> EncoderLayerConfig {
        EncoderLayerConfig {
            names: &NAMES,
            hidden_size: self.d_model,
            intermediate_size: stack.ffn_dim,
            num_attention_heads: stack.attention_heads,
            hidden_act: self.activation_function,
            layer_norm_eps: LAYER_NORM_EPS,
            qkv_bias: true,
            norm_first: self.norm_first,
            causal,
            relative_keys: None,
            disentangled: None,
            alibi: None,
            layer_scales: None,
            attn_implementation: self.attn_implementation,
        }
    }
}

/// `embed_positions`.
enum EmbedPositions {
    Table(Embedding),
    Sinusoids(Sinusoids),
}

impl EmbedPositions {
    fn load(vb: &VarBuilder<'_>, config: &BartConfig) -> Result<Self> {
        let (positions, d_model) = (config.max_position_embeddings, config.d_model);
        let sinusoids =
            |form| Self::Sinusoids(Sinusoids::new(form, d_model, vb.dtype(), vb.device()));
        Ok(match config.positions {
            BartPositions::Learned => {
                let table = vb.get((positions + LEARNED_OFFSET, d_model), "weight")?;
                // See `TensorSource::get` for tensors that the checkpoint lacks.
                let table = if table.is_contiguous() {
                    table.narrow(0, LEARNED_OFFSET, positions)?
                } else {
                    table
                };
                Self::Table(Embedding::from_tensor(table))
            }
            BartPositions::Sinusoidal if vb.contains_tensor("weight") => {
                Self::Table(Embedding::load(vb.clone(), positions, d_model)?)
            }
            BartPositions::Sinusoidal => sinusoids(SinusoidalForm::UpTo(positions)),
            BartPositions::SinusoidalAfterPadding => {
                sinusoids(SinusoidalForm::AfterPadding { padding_idx: config.pad_token_id })
            }
        })
    }

    /// The table with the positions of `inputs`.
    fn table(&self, inputs: &ModelInputs) -> Result<Embedding> {
        match self {
            Self::Table(table) => Ok(table.clone()),
            Self::Sinusoids(sinusoids) => {
                sinusoids.covering(inputs.positions().iter().copied().max().unwrap_or(0))
            }
        }
    }
}

/// The layers of the encoder or of the decoder, with the embeddings except those of words.
struct BartStack {
    embed_scale: Option<f64>,
    embed_positions: EmbedPositions,
    layernorm_embedding: Option<LayerNorm>,
    layers: EncoderLayers,
    /// After the last layer.
    layer_norm: Option<LayerNorm>,
}

impl BartStack {
    /// `encoder` is for a decoder that attends to an encoder's states.
    fn load(
        vb: &VarBuilder<'_>,
        config: &BartConfig,
        layers: &EncoderLayerConfig,
        count: usize,
        encoder: Option<&Self>,
    ) -> Result<Self> {
        let norm = |name| LayerNorm::load(vb.pp(name), config.d_model, LAYER_NORM_EPS);
        let layernorm_embedding =
            config.layernorm_embedding.then(|| norm("layernorm_embedding")).transpose()?;
        let cross = encoder.map(|encoder| (&CROSS_ATTENTION, encoder.last_norm()));
        Ok(Self {
            embed_scale: config.scale_embedding.then(|| (config.d_model as f64).sqrt()),
            embed_positions: EmbedPositions::load(&vb.pp("embed_positions"), config)?,
            layers: EncoderLayers::load_with(
                &vb.pp("layers"),
                count,
                layers,
                layernorm_embedding.as_ref(),
                cross,
            )?,
            layernorm_embedding,
            layer_norm: config.norm_first.then(|| norm("layer_norm")).transpose()?,
        })
    }

    fn load_encoder(vb: &VarBuilder<'_>, config: &BartConfig) -> Result<Self> {
        let (vb, stack) = (vb.pp("encoder"), config.encoder);
        Self::load(&vb, config, &config.layer(stack, false), stack.layers, None)
    }

    fn load_decoder(
        vb: &VarBuilder<'_>,
        config: &BartConfig,
        encoder: Option<&Self>,
    ) -> Result<Self> {
        let (vb, stack) = (vb.pp("decoder"), config.decoder);
        Self::load(&vb, config, &config.layer(stack, true), stack.layers, encoder)
    }

    /// The norm that produces the states.
    fn last_norm(&self) -> Option<&LayerNorm> {
        self.layer_norm.as_ref().or_else(|| self.layers.last_norm())
    }

    fn forward(
        &self,
        embed_tokens: &Embedding,
        inputs: &ModelInputs,
        caches: DecoderCaches<'_>,
        want: &Want,
    ) -> Result<DecoderOutput> {
        if want.pooler_output {
            bail!("`pooler_output` was requested, but the architecture has no pooler");
        }
        let mut words = embed_tokens.forward(&inputs.input_ids)?;
        if let Some(factor) = self.embed_scale {
            words = scale(&words, factor)?;
        }
        let positions = self.embed_positions.table(inputs)?;
        let hidden_states = match &self.layernorm_embedding {
            Some(norm) => {
                norm.forward_residual(&words, &positions.forward(&inputs.position_ids)?)?
            }
            None => positions.add_to(words, &inputs.position_ids)?,
        };
        let mut recorder = Recorder::new(inputs, want);
        let norm = self.layer_norm.as_ref();
        let states =
            self.layers.forward_normed(hidden_states, caches, None, norm, &mut recorder)?;
        Ok(recorder.finish_decoder(states))
    }
}

/// The encoder and the decoder: `BartModel`, `MBartModel`, `PegasusModel`, `MarianModel`, `M2M100Model`.
///
/// As a [`Backbone`], it returns the decoder's states over the inputs shifted right.
pub struct BartModel {
    embeddings: SharedEmbeddings,
    encoder: BartStack,
    decoder: BartStack,
    dimensions: Dimensions,
    decoder_vocab_size: usize,
    shifted_start: ShiftedStart,
    decoder_start_token_id: Option<u32>,
}

impl BartModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &BartConfig) -> Result<Self> {
        let encoder = BartStack::load_encoder(vb, config)?;
        let decoder = BartStack::load_decoder(vb, config, Some(&encoder))?;
        let norm = decoder.last_norm().map(|norm| norm as &dyn InputNorm);
        let (of_encoder, of_decoder) = (config.vocab_size, config.decoder_vocab_size);
        let embeddings = if config.share_encoder_decoder_embeddings {
            SharedEmbeddings::load(vb, (of_encoder, config.d_model), norm)?
        } else {
            SharedEmbeddings::load_apart(vb, of_encoder, (of_decoder, config.d_model), norm)?
        };
        Ok(Self {
            embeddings,
            encoder,
            decoder,
            dimensions: config.dimensions(),
            decoder_vocab_size: of_decoder,
            shifted_start: config.shifted_start,
            decoder_start_token_id: config.decoder_start_token_id,
        })
    }
}

impl Seq2SeqBackbone for BartModel {
    fn forward_encoder(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let (embed_tokens, caches) = (&self.embeddings.encoder, DecoderCaches::default());
        Ok(self.encoder.forward(embed_tokens, inputs, caches, want)?.model)
    }

    fn cross_attention_caches(&self, encoder_states: &Ragged) -> Result<Vec<KvCache>> {
        self.decoder.layers.cross_attention_caches(encoder_states)
    }

    fn forward_decoder(
        &self,
        inputs: &ModelInputs,
        caches: DecoderCaches<'_>,
        want: &Want,
    ) -> Result<DecoderOutput> {
        self.decoder.forward(&self.embeddings.decoder, inputs, caches, want)
    }

    fn decoder_vocab_size(&self) -> usize {
        self.decoder_vocab_size
    }

    fn decoder_start_token_id(&self) -> Option<u32> {
        self.decoder_start_token_id
    }

    fn shifted_start(&self) -> ShiftedStart {
        self.shifted_start
    }
}

impl Backbone for BartModel {
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

/// The decoder alone, without attention over an encoder's states: the backbone of `BartForCausalLM` and its relatives.
pub struct BartDecoder {
    embed_tokens: Embedding,
    decoder: BartStack,
    dimensions: Dimensions,
}

impl BartDecoder {
    /// Loads the weights of the decoder and ignores the encoder's.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &BartConfig) -> Result<Self> {
        let decoder = BartStack::load_decoder(vb, config, None)?;
        let norm = decoder.last_norm().map(|norm| norm as &dyn InputNorm);
        let shape = (config.decoder_vocab_size, config.d_model);
        // A checkpoint of the whole model has the table under its shared name alone.
        let names = ["decoder.embed_tokens", "shared"];
        let path = names.into_iter().find(|name| vb.contains_tensor(&format!("{name}.weight")));
        let words = vb.pp(path.unwrap_or(names[0]));
        Ok(Self {
            embed_tokens: Embedding::load_words(&words, shape.0, shape.1, norm)?,
            decoder,
            dimensions: Dimensions { vocab_size: shape.0, ..config.dimensions() },
        })
    }
}

impl Backbone for BartDecoder {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        Ok(self.decoder.forward(&self.embed_tokens, inputs, DecoderCaches::default(), want)?.model)
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

    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        Some(Box::new(CausalLM::new(self, head, self.embed_tokens.device())))
    }
}

impl CausalBackbone for BartDecoder {
    fn forward_cached(&self, inputs: &ModelInputs, caches: &mut [KvCache]) -> Result<Tensor> {
        let caches = DecoderCaches { self_attention: Some(caches), cross_attention: &[] };
        let output = self.decoder.forward(&self.embed_tokens, inputs, caches, &Want::default())?;
        Ok(output.model.last_hidden_state.values)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(
        config: fn(&Fields<'_>) -> error::Result<BartConfig>,
        json: &Value,
    ) -> error::Result<BartConfig> {
        config(&Fields::new(json.as_object().unwrap()))
    }

    #[test]
    fn defaults_are_those_of_the_family() {
        let empty = json!({});
        let all = [
            BartConfig::bart,
            BartConfig::mbart,
            BartConfig::pegasus,
            BartConfig::marian,
            BartConfig::m2m_100,
        ]
        .map(|config| read(config, &empty).unwrap());
        let starts = all.each_ref().map(|config| config.decoder_start_token_id);
        assert_eq!(starts, [Some(2), None, Some(0), Some(58100), Some(2)]);
        let norms = all.each_ref().map(|config| (config.norm_first, config.layernorm_embedding));
        assert_eq!(
            norms,
            [(false, true), (true, true), (true, false), (false, false), (true, false)]
        );
        assert_eq!(all[4].dimensions().position_limit(), None);
        assert_eq!(all[0].dimensions().position_limit(), Some(1024));
    }

    #[test]
    fn the_decoder_of_marian_may_have_a_vocabulary_of_its_own() {
        for (json, sizes) in [
            (json!({"vocab_size": 30}), (30, 30)),
            (json!({"vocab_size": 30, "decoder_vocab_size": 20}), (30, 30)),
            (
                json!({"vocab_size": 30, "decoder_vocab_size": 20,
                    "share_encoder_decoder_embeddings": false}),
                (30, 20),
            ),
        ] {
            let config = read(BartConfig::marian, &json).unwrap();
            assert_eq!((config.vocab_size, config.decoder_vocab_size), sizes, "{json}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (json, name) in [
            (json!({"d_model": 10, "encoder_attention_heads": 3}), "`encoder_attention_heads: 3`"),
            (
                json!({"d_model": 8, "encoder_attention_heads": 1, "decoder_attention_heads": 3}),
                "`decoder_attention_heads: 3`",
            ),
            (
                json!({"d_model": 2, "encoder_attention_heads": 1, "decoder_attention_heads": 1}),
                "`d_model: 2`",
            ),
            (json!({"activation_function": "maxout"}), "`maxout`"),
        ] {
            let error = read(BartConfig::m2m_100, &json).unwrap_err();
            assert!(error.message().contains(name) || error.to_string().contains(name), "{error}");
        }
    }
}
