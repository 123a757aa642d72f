//! DINOv2: a pre-norm encoder over the patches of an image, with LayerScale, and positions that are interpolated to its size.
//!
//! # Source
//! `src/transformers/models/dinov2/modeling_dinov2.py` at v5.24.

use candle_core::{Result, Tensor};

use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Gate, Qkv};
use super::patches::{PatchEmbeddings, pixel_values};
use super::{
    Backbone, Dimensions, Fields, ImageDimensions, ImageGrid, ModelOutput, Recorder, Want,
    position_grid,
};
use crate::error;
use crate::limits;
use crate::nn::{
    Activation, AttnImplementation, GateHalf, LayerNorm, ModelInputs, PositionIds, VarBuilder, add,
};

/// The configuration of DINOv2.
#[derive(Clone, Debug, PartialEq)]
pub struct Dinov2Config {
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads.
    pub num_attention_heads: usize,
    /// The inner size of the feed-forward network.
    pub intermediate_size: usize,
    /// Whether the feed-forward network is gated.
    pub use_swiglu_ffn: bool,
    /// The activation of the feed-forward network.
    pub hidden_act: Activation,
    /// The epsilon of layer normalization.
    pub layer_norm_eps: f64,
    /// The height and width of the images whose positions the table has.
    pub image_size: (usize, usize),
    /// The height and width of a patch.
    pub patch_size: (usize, usize),
    /// The number of colour channels.
    pub num_channels: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

impl Dinov2Config {
    /// Reads a `config.json` of DINOv2.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let hidden_size = fields.size("hidden_size", 768)?;
        let use_swiglu_ffn = fields.flag("use_swiglu_ffn", false)?;
        // Rounded down, as Python's `int` does; the product is bounded before it is a size.
        let inner = hidden_size as f64 * fields.epsilon("mlp_ratio", 4.0)?;
        if !(1.0..=limits::MODEL_SIZE as f64).contains(&inner) {
            let message = format!("`mlp_ratio` in config.json gives {inner} inner features");
            return Err(error::Error::new(error::ErrorKind::Model, message));
        }
        let inner = inner as usize;
        let intermediate_size = if use_swiglu_ffn {
            // Two thirds, rounded up to a multiple of 8.
            (inner as f64 * 2.0 / 3.0) as usize
        } else {
            inner
        };
        let config = Self {
            hidden_size,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 12)?,
            intermediate_size: if use_swiglu_ffn {
                intermediate_size.next_multiple_of(8)
            } else {
                intermediate_size
            },
            use_swiglu_ffn,
            hidden_act: if use_swiglu_ffn {
                Activation::Silu
            } else {
                fields.activation("hidden_act", "gelu")?
            },
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-6)?,
            image_size: fields.height_and_width("image_size", 224)?,
            patch_size: fields.height_and_width("patch_size", 14)?,
            num_channels: fields.size("num_channels", 3)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        if config.positions() == 0 {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                "`patch_size` in config.json is larger than `image_size`",
            ));
        }
        Ok(config)
    }

    fn grid(&self) -> ImageGrid {
        ImageGrid::of_patches(self.patch_size)
    }

    /// The number of patches in the table of positions.
    fn positions(&self) -> usize {
        self.grid().cells(self.image_size.0, self.image_size.1).iter().product()
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
            extrapolates: true,
            max_position_embeddings: Some(self.positions() + 1),
            image: Some(ImageDimensions {
                num_channels: self.num_channels,
                height: self.image_size.0,
                width: self.image_size.1,
                tokens: self.positions() + 1,
                special_tokens: 1,
                hidden_size: self.hidden_size,
                peak_hidden_size: self.hidden_size,
                pooled_size: self.hidden_size,
                grid: Some(self.grid()),
            }),
        }
    }

    fn layer(&self) -> EncoderLayerConfig {
        EncoderLayerConfig {
            names: if self.use_swiglu_ffn { &LAYER_NAMES_OF_SWIGLU } else { &LAYER_NAMES },
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
            layer_scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
            alibi: None,
            attn_implementation: self.attn_implementation,
        }
    }
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ]),
    attention_output: "attention.output.dense",
    attention_norm: "norm1",
    intermediate: "mlp.fc1",
    output: "mlp.fc2",
    output_norm: "norm2",
    extra: ExtraNames::NONE,
};

const LAYER_NAMES_OF_SWIGLU: EncoderLayerNames = EncoderLayerNames {
    intermediate: "mlp.weights_in",
    output: "mlp.weights_out",
    extra: ExtraNames {
        gate: Some(Gate { half: GateHalf::First, bias: true }),
        ..ExtraNames::NONE
    },
    ..LAYER_NAMES
};

/// DINOv2 without a head: `Dinov2Model`.
pub struct Dinov2Model {
    /// `(1, 1, hidden_size)`.
    cls_token: Tensor,
    patch_embeddings: PatchEmbeddings,
    /// `(1, tokens, hidden_size)`.
    position_embeddings: Tensor,
    layer: EncoderLayers,
    layernorm: LayerNorm,
    config: Dinov2Config,
    dimensions: Dimensions,
}

impl Dinov2Model {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: Dinov2Config) -> Result<Self> {
        let (hidden, embeddings) = (config.hidden_size, vb.pp("embeddings"));
        let positions = (1, config.positions() + 1, hidden);
        let (layers, layer) = (vb.pp("encoder.layer"), config.layer());
        Ok(Self {
            cls_token: embeddings.get((1, 1, hidden), "cls_token")?,
            patch_embeddings: PatchEmbeddings::load(
                embeddings.pp("patch_embeddings.projection"),
                config.num_channels,
                config.patch_size,
                hidden,
                true,
            )?,
            position_embeddings: embeddings.get(positions, "position_embeddings")?,
            layer: EncoderLayers::load(&layers, config.num_hidden_layers, &layer, None)?,
            layernorm: LayerNorm::load(vb.pp("layernorm"), hidden, config.layer_norm_eps)?,
            dimensions: config.dimensions(),
            config,
        })
    }

    /// `(total_tokens, hidden_size)`.
    fn embed(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let pixel_values = pixel_values(inputs)?;
        let (rows, _, height, width) = pixel_values.dims4()?;
        let dtype = self.position_embeddings.dtype();
        let patches = self.patch_embeddings.forward(pixel_values, dtype)?;
        let class = self.cls_token.repeat((rows, 1, 1))?;
        let embedded = Tensor::cat(&[class, patches], 1)?;
        let grid = self.config.grid().cells(height, width);
        let positions = self.position_embeddings.squeeze(0)?;
        let positions = position_grid::of_image(&positions, (height, width), grid)?;
        let embedded = add(&embedded, &positions)?;
        let (rows, tokens, hidden) = embedded.dims3()?;
        embedded.reshape((rows * tokens, hidden))
    }
}

impl Backbone for Dinov2Model {
    /// The pooled vector is the normalized state of the class token.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embed(inputs)?;
        let states = self.layer.forward(embedded, None, None, &mut recorder)?;
        let states = self.layernorm.forward(&states)?;
        let pooled = want.pooler_output.then(|| inputs.select(&states, |_, _| Ok(0)));
        Ok(recorder.finish(states, pooled.transpose()?))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        true
    }
}
