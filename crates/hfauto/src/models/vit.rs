//! ViT: a pre-norm encoder over patches of an image, and DeiT, which has one more token.
//!
//! # Source
//! `src/transformers/models/vit/modeling_vit.py` at v4.57.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{Backbone, Dimensions, Fields, ImageDimensions, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttentionOptions, LayerNorm, Linear, ModelInputs, PositionIds, attention,
};

/// The settings of ViT and DeiT.
#[derive(Clone, Debug, PartialEq)]
pub struct ViTConfig {
    /// Features of a hidden state.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of a layer.
    pub num_attention_heads: usize,
    /// Features between the two products of the feed-forward part.
    pub intermediate_size: usize,
    /// The activation between them.
    pub hidden_act: Activation,
    /// Of every layer normalisation.
    pub layer_norm_eps: f64,
    /// Rows and columns of an image.
    pub image_size: (usize, usize),
    /// Rows and columns of a patch.
    pub patch_size: (usize, usize),
    /// Colours of an image.
    pub num_channels: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Features of the pooler's output.
    pub pooler_output_size: usize,
    /// The pooler's activation.
    pub pooler_act: Activation,
    /// Whether a distillation token follows the class token (DeiT).
    pub distillation_token: bool,
}

impl ViTConfig {
    /// Reads a `config.json` of ViT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with_tokens(fields, false)
    }

    /// As [`ViTConfig::new`], with what differs between the families that share the encoder.
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

    /// Patches down and across. What is left over at the bottom and on the right is not seen.
    fn patches(&self) -> [usize; 2] {
        [self.image_size.0 / self.patch_size.0, self.image_size.1 / self.patch_size.1]
    }

    /// Tokens of an image: patches, and those before them.
    fn tokens(&self) -> usize {
        let special = if self.distillation_token { 2 } else { 1 };
        self.patches().iter().product::<usize>() + special
    }

    /// What the configuration says about inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            vocab_size: 0,
            type_vocab_size: None,
            position_ids: PositionIds::FromZero,
            max_position_embeddings: Some(self.tokens()),
            image: Some(ImageDimensions {
                num_channels: self.num_channels,
                height: self.image_size.0,
                width: self.image_size.1,
                tokens: self.tokens(),
            }),
        }
    }
}

struct ViTEmbeddings {
    /// `cls_token` and, in DeiT, `distillation_token`: `(n, hidden_size)`.
    special_tokens: Tensor,
    /// `(1, tokens, hidden_size)`.
    position_embeddings: Tensor,
    /// The convolution, whose steps are as long as its kernel, as a product over patches.
    patch_embeddings_projection: Linear,
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
        let (height, width) = config.patch_size;
        let weight = projection.get((hidden, config.num_channels, height, width), "weight")?;
        // A tensor that the checkpoint lacks is a scalar broadcast to its shape while the loader lists
        // what is missing; reshaping that would allocate whatever the config claims.
        let weight = if weight.is_contiguous() { weight.flatten_from(1)? } else { weight };
        let special_tokens = match &special_tokens[..] {
            tokens if tokens.iter().all(Tensor::is_contiguous) => {
                Tensor::cat(tokens, 1)?.squeeze(0)?
            }
            tokens => tokens[0].clone(),
        };
        Ok(Self {
            special_tokens,
            position_embeddings: vb.get((1, config.tokens(), hidden), "position_embeddings")?,
            patch_embeddings_projection: Linear::new(weight, Some(projection.get(hidden, "bias")?)),
            config: config.clone(),
        })
    }

    /// `(total_tokens, hidden_size)`.
    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let config = &self.config;
        let Some(pixel_values) = &inputs.pixel_values else {
            bail!("the model reads images: `pixel_values` are missing");
        };
        let (rows, channels, height, width) = pixel_values.dims4()?;
        if (channels, (height, width)) != (config.num_channels, config.image_size) {
            bail!(
                "images of {channels} channels, {height} by {width} pixels; config.json says \
                 `num_channels: {}` and `image_size` {} by {}",
                config.num_channels,
                config.image_size.0,
                config.image_size.1
            );
        }
        let tokens = config.tokens();
        if inputs.lengths.ranges().any(|range| range.len() != tokens) {
            bail!("images have {tokens} tokens each");
        }
        let [down, across] = config.patches();
        let (patch_height, patch_width) = config.patch_size;
        let patches = pixel_values
            .to_dtype(self.position_embeddings.dtype())?
            .narrow(2, 0, down * patch_height)?
            .narrow(3, 0, across * patch_width)?
            .reshape((rows, channels, down, patch_height, across, patch_width))?
            .permute((0, 2, 4, 1, 3, 5))? // (rows, down, across, channels, patch_height, patch_width)
            .reshape((rows * down * across, channels * patch_height * patch_width))?;
        let patches = self.patch_embeddings_projection.forward(&patches)?;
        let patches = patches.reshape((rows, down * across, config.hidden_size))?;
        let special = self.special_tokens.unsqueeze(0)?;
        let special = special.repeat((rows, 1, 1))?; // (rows, n, hidden_size)
        Tensor::cat(&[special, patches], 1)?
            .broadcast_add(&self.position_embeddings)?
            .reshape((rows * tokens, config.hidden_size))
    }
}

struct ViTLayer {
    layernorm_before: LayerNorm,
    /// `attention.attention.query`, `key` and `value` as one product.
    attention_attention: Linear,
    attention_output_dense: Linear,
    layernorm_after: LayerNorm,
    intermediate_dense: Linear,
    intermediate_act: Activation,
    output_dense: Linear,
    num_attention_heads: usize,
}

impl ViTLayer {
    fn load(vb: VarBuilder<'_>, config: &ViTConfig) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let norm = |name| LayerNorm::load(vb.pp(name), hidden, config.layer_norm_eps);
        let linear = |name, from, to| Linear::load(vb.pp(name), from, to, true);
        let attention = vb.pp("attention.attention");
        let qkv = ["query", "key", "value"]
            .map(|name| Linear::load(attention.pp(name), hidden, hidden, config.qkv_bias));
        let qkv = qkv.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self {
            layernorm_before: norm("layernorm_before")?,
            attention_attention: Linear::fuse(&qkv)?,
            attention_output_dense: linear("attention.output.dense", hidden, hidden)?,
            layernorm_after: norm("layernorm_after")?,
            intermediate_dense: linear("intermediate.dense", hidden, intermediate)?,
            intermediate_act: config.hidden_act,
            output_dense: linear("output.dense", intermediate, hidden)?,
            num_attention_heads: config.num_attention_heads,
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let hidden_size = hidden_states.dim(1)?;
        let normed = self.layernorm_before.forward(hidden_states)?;
        let qkv = self.attention_attention.forward(&normed)?; // (total_tokens, 3 * hidden_size)
        let head_dim = hidden_size / self.num_attention_heads;
        let context = attention(
            &qkv.narrow(1, 0, hidden_size)?,
            &qkv.narrow(1, hidden_size, hidden_size)?,
            &qkv.narrow(1, 2 * hidden_size, hidden_size)?,
            inputs,
            AttentionOptions {
                num_heads: self.num_attention_heads,
                scale: 1.0 / (head_dim as f64).sqrt(),
                bias: None,
                distance: None,
                causal: false,
                output_attentions,
            },
        )?;
        let attended = (self.attention_output_dense.forward(&context.values)? + hidden_states)?;
        let output = self.layernorm_after.forward(&attended)?;
        let output = self.intermediate_dense.forward_through(
            &output,
            self.intermediate_act,
            &self.output_dense,
        )?;
        let output = (output + attended)?;
        Ok((output, context.attentions))
    }
}

/// The first token of each image through a dense layer and an activation.
struct ViTPooler {
    dense: Linear,
    activation: Activation,
}

impl ViTPooler {
    /// Loads `pooler.dense` when the checkpoint has it; transformers would make up random weights.
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

/// ViT without a head: `ViTModel`, and with one more token `DeiTModel`.
pub struct ViTModel {
    embeddings: ViTEmbeddings,
    encoder_layer: Vec<ViTLayer>,
    layernorm: LayerNorm,
    pooler: Option<ViTPooler>,
    dimensions: Dimensions,
}

impl ViTModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// When the checkpoint does not have a tensor in the shape that the configuration asks for.
    pub fn load(vb: VarBuilder<'_>, config: &ViTConfig) -> Result<Self> {
        let layers = vb.pp("encoder.layer");
        Ok(Self {
            embeddings: ViTEmbeddings::load(vb.pp("embeddings"), config)?,
            encoder_layer: (0..config.num_hidden_layers)
                .map(|i| ViTLayer::load(layers.pp(i), config))
                .collect::<Result<_>>()?,
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
    /// The last of the hidden states is that before the last norm, as in transformers.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let mut hidden_states = self.embeddings.forward(inputs)?;
        recorder.hidden_state(&hidden_states);
        for layer in &self.encoder_layer {
            let (output, attentions) = layer.forward(&hidden_states, inputs, want.attentions)?;
            hidden_states = output;
            recorder.hidden_state(&hidden_states);
            recorder.attentions(attentions);
        }
        let hidden_states = self.layernorm.forward(&hidden_states)?;
        let pooled = match (want.pooler_output, &self.pooler) {
            (false, _) => None,
            (true, Some(pooler)) => Some(pooler.forward(&hidden_states, inputs)?),
            (true, None) => bail!("`pooler_output` is wanted, but the checkpoint has no pooler"),
        };
        Ok(recorder.finish(hidden_states, pooled))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn linear_layers(&mut self) -> Vec<&mut Linear> {
        let layers = self.encoder_layer.iter_mut().flat_map(|layer| {
            [
                &mut layer.attention_attention,
                &mut layer.attention_output_dense,
                &mut layer.intermediate_dense,
                &mut layer.output_dense,
            ]
        });
        let projection = &mut self.embeddings.patch_embeddings_projection;
        layers.chain([projection]).collect()
    }

    fn pooler_layer(&mut self) -> Option<&mut Linear> {
        self.pooler.as_mut().map(|pooler| &mut pooler.dense)
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}
