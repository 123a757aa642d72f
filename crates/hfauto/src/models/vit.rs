//! ViT: a pre-norm encoder over the patches of an image; and DeiT, which has one more token.
//!
//! # Source
//! `src/transformers/models/vit/modeling_vit.py` at v4.57.

use candle_core::{Result, Tensor, bail};

use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv};
use super::patches::{PatchEmbeddings, check_size, pixel_values};
use super::{Backbone, Dimensions, Fields, ImageDimensions, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttnImplementation, LayerNorm, Linear, ModelInputs, PositionIds, VarBuilder, add,
};

/// The configuration of ViT and DeiT.
#[derive(Clone, Debug, PartialEq)]
pub struct ViTConfig {
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads.
    pub num_attention_heads: usize,
    /// The inner size of the feed-forward network.
    pub intermediate_size: usize,
    /// The activation of the feed-forward network.
    pub hidden_act: Activation,
    /// The epsilon of layer normalization.
    pub layer_norm_eps: f64,
    /// The height and width of an image.
    pub image_size: (usize, usize),
    /// The height and width of a patch.
    pub patch_size: (usize, usize),
    /// The number of colour channels.
    pub num_channels: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The size of the pooler's output.
    pub pooler_output_size: usize,
    /// The pooler's activation.
    pub pooler_act: Activation,
    /// Whether a distillation token follows the class token (DeiT).
    pub distillation_token: bool,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

impl ViTConfig {
    /// Reads a `config.json` of ViT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with_tokens(fields, false)
    }

    /// As [`ViTConfig::new`], with the parameters that differ between the families that share the encoder.
    pub(super) fn with_tokens(
        fields: &Fields<'_>,
        distillation_token: bool,
    ) -> error::Result<Self> {
        let hidden_size = fields.size("hidden_size", 768)?;
        let config = Self {
            hidden_size,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 12)?,
            intermediate_size: fields.size("intermediate_size", 3072)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
            image_size: fields.height_and_width("image_size", 224)?,
            patch_size: fields.height_and_width("patch_size", 16)?,
            num_channels: fields.size("num_channels", 3)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
            pooler_output_size: fields.size("pooler_output_size", hidden_size)?,
            pooler_act: fields.activation("pooler_act", "tanh")?,
            distillation_token,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        if config.patches().contains(&0) {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                "`patch_size` in config.json is larger than `image_size`",
            ));
        }
        Ok(config)
    }

    /// The number of patches down and across; ignores the remaining pixels at the bottom and on the right.
    fn patches(&self) -> [usize; 2] {
        [self.image_size.0 / self.patch_size.0, self.image_size.1 / self.patch_size.1]
    }

    /// The number of tokens before the patches.
    fn special_tokens(&self) -> usize {
        if self.distillation_token { 2 } else { 1 }
    }

    /// The number of tokens per image: the patches and the special tokens.
    fn tokens(&self) -> usize {
        self.patches().iter().product::<usize>() + self.special_tokens()
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_attention_heads,
            head_dim: self.hidden_size / self.num_attention_heads,
            vocab_size: 0,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            extrapolates: false,
            max_position_embeddings: Some(self.tokens()),
            image: Some(ImageDimensions {
                num_channels: self.num_channels,
                height: self.image_size.0,
                width: self.image_size.1,
                tokens: self.tokens(),
                special_tokens: self.special_tokens(),
                hidden_size: self.hidden_size,
                peak_hidden_size: self.hidden_size,
                pooled_size: self.pooler_output_size,
                grid: None,
            }),
        }
    }
}

struct ViTEmbeddings {
    /// `cls_token` and, in DeiT, `distillation_token`: `(n, hidden_size)`.
    special_tokens: Tensor,
    /// `(1, tokens, hidden_size)`.
    position_embeddings: Tensor,
    patch_embeddings: PatchEmbeddings,
    config: ViTConfig,
}

impl ViTEmbeddings {
    fn load(vb: VarBuilder<'_>, config: &ViTConfig) -> Result<Self> {
        let hidden = config.hidden_size;
        let mut special_tokens = vec![vb.get((1, 1, hidden), "cls_token")?];
        if config.distillation_token {
            special_tokens.push(vb.get((1, 1, hidden), "distillation_token")?);
        }
        let projection = vb.pp("patch_embeddings.projection");
        let special_tokens = match &special_tokens[..] {
            tokens if tokens.iter().all(Tensor::is_contiguous) => {
                Tensor::cat(tokens, 1)?.squeeze(0)?
            }
            tokens => tokens[0].clone(),
        };
        Ok(Self {
            special_tokens,
            position_embeddings: vb.get((1, config.tokens(), hidden), "position_embeddings")?,
            patch_embeddings: PatchEmbeddings::load(
                projection,
                config.num_channels,
                config.patch_size,
                hidden,
                true,
            )?,
            config: config.clone(),
        })
    }

    /// `(total_tokens, hidden_size)`.
    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let config = &self.config;
        let pixel_values = pixel_values(inputs)?;
        check_size(pixel_values, config.num_channels, config.image_size)?;
        let (rows, tokens) = (pixel_values.dim(0)?, config.tokens());
        if inputs.lengths.ranges().any(|range| range.len() != tokens) {
            bail!("images have {tokens} tokens each");
        }
        let patches =
            self.patch_embeddings.forward(pixel_values, self.position_embeddings.dtype())?;
        let special = self.special_tokens.unsqueeze(0)?;
        let special = special.repeat((rows, 1, 1))?; // (rows, n, hidden_size)
        add(&Tensor::cat(&[special, patches], 1)?, &self.position_embeddings)?
            .reshape((rows * tokens, config.hidden_size))
    }
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ]),
    attention_output: "attention.output.dense",
    attention_norm: "layernorm_before",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "layernorm_after",
    extra: ExtraNames::NONE,
};

impl ViTConfig {
    fn layer(&self) -> EncoderLayerConfig {
        EncoderLayerConfig {
            names: &LAYER_NAMES,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            qkv_bias: self.qkv_bias,
            norm_first: true,
            causal: false,
            relative_keys: None,
            disentangled: None,
            alibi: None,
            layer_scales: None,
            attn_implementation: self.attn_implementation,
        }
    }
}

/// The pooler: a dense layer and an activation over the first token of each image.
struct ViTPooler {
    dense: Linear,
    activation: Activation,
}

impl ViTPooler {
    /// Loads `pooler.dense` if the checkpoint has it; transformers would initialize it with random weights.
    fn load(vb: VarBuilder<'_>, config: &ViTConfig) -> Result<Option<Self>> {
        let vb = vb.pp("pooler.dense");
        if !vb.contains_tensor("weight") {
            return Ok(None);
        }
        let dense = Linear::load(vb, config.hidden_size, config.pooler_output_size, true)?;
        Ok(Some(Self { dense, activation: config.pooler_act }))
    }

    fn forward(&self, hidden_states: &Tensor, inputs: &ModelInputs) -> Result<Tensor> {
        let (_, hidden_size) = hidden_states.dims2()?;
        let rows = inputs.lengths.rows();
        let tokens = inputs.lengths.max();
        let first = hidden_states.reshape((rows, tokens, hidden_size))?.narrow(1, 0, 1)?;
        self.dense.forward_activated(&first.squeeze(1)?.contiguous()?, self.activation)
    }
}

/// ViT without a head: `ViTModel`; with one more token, `DeiTModel`.
pub struct ViTModel {
    embeddings: ViTEmbeddings,
    encoder_layer: EncoderLayers,
    layernorm: LayerNorm,
    pooler: Option<ViTPooler>,
    dimensions: Dimensions,
}

impl ViTModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: VarBuilder<'_>, config: &ViTConfig) -> Result<Self> {
        let layers = vb.pp("encoder.layer");
        Ok(Self {
            embeddings: ViTEmbeddings::load(vb.pp("embeddings"), config)?,
            encoder_layer: EncoderLayers::load(
                &layers,
                config.num_hidden_layers,
                &config.layer(),
                None,
            )?,
            layernorm: LayerNorm::load(
                vb.pp("layernorm"),
                config.hidden_size,
                config.layer_norm_eps,
            )?,
            pooler: ViTPooler::load(vb, config)?,
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for ViTModel {
    /// The last hidden state precedes the final norm, as in transformers.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embeddings.forward(inputs)?;
        let hidden_states = self.encoder_layer.forward(embedded, None, None, &mut recorder)?;
        let hidden_states = self.layernorm.forward(&hidden_states)?;
        let pooled = match (want.pooler_output, &self.pooler) {
            (false, _) => None,
            (true, Some(pooler)) => Some(pooler.forward(&hidden_states, inputs)?),
            (true, None) => {
                bail!("`pooler_output` was requested, but the checkpoint has no pooler")
            }
        };
        Ok(recorder.finish(hidden_states, pooled))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}
