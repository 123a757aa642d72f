//! ConvNeXT and ConvNeXT V2: convolutional networks with layers in the style of a transformer.
//!
//! # Source
//! `src/transformers/models/convnext/modeling_convnext.py` and `src/transformers/models/convnextv2/modeling_convnextv2.py` at v5.24.

use candle_core::{Result, Tensor, bail};

use super::convolution::{Convolution, Geometry};
use super::feature_maps::{check_stages, finish, mean_of_maps, of_maps, to_map, to_tokens};
use super::patches::pixel_values;
use super::{Backbone, Dimensions, Fields, ImageGrid, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{Activation, LayerNorm, Linear, ModelInputs, VarBuilder, add, mul};

/// The epsilon of all norms but the last.
const EPS: f64 = 1e-6;

/// The configuration of `ConvNeXT` and `ConvNeXT` V2.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvNextConfig {
    /// The number of colour channels.
    pub num_channels: usize,
    /// The side of a patch in pixels.
    pub patch_size: usize,
    /// The number of channels of each stage.
    pub hidden_sizes: Vec<usize>,
    /// The number of layers of each stage.
    pub depths: Vec<usize>,
    /// The activation.
    pub hidden_act: Activation,
    /// The epsilon of the last norm.
    pub layer_norm_eps: f64,
    /// The side of an image in pixels.
    pub image_size: usize,
    /// What scales the layers.
    pub scale: LayerScaling,
}

/// What scales the output of a layer or its inner features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerScaling {
    /// Nothing.
    None,
    /// A factor per channel (`layer_scale_parameter`).
    Factors,
    /// Global response normalization of the inner features (V2).
    ResponseNorm,
}

impl ConvNextConfig {
    /// Reads a `config.json` of `ConvNeXT`.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn convnext(fields: &Fields<'_>) -> error::Result<Self> {
        let is_scaled = match fields.value("layer_scale_init_value") {
            None => true,
            Some(value) => value.as_f64().is_some_and(|value| value > 0.0),
        };
        let scale = if is_scaled { LayerScaling::Factors } else { LayerScaling::None };
        Self::with(fields, scale)
    }

    /// Reads a `config.json` of `ConvNeXT` V2.
    ///
    /// # Errors
    /// As [`ConvNextConfig::convnext`].
    pub fn convnextv2(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with(fields, LayerScaling::ResponseNorm)
    }

    fn with(fields: &Fields<'_>, scale: LayerScaling) -> error::Result<Self> {
        let hidden_sizes = fields.sizes("hidden_sizes", &[96, 192, 384, 768])?;
        let depths = fields.sizes("depths", &[3, 3, 9, 3])?;
        check_stages(&hidden_sizes, &depths)?;
        let stages = fields.size("num_stages", hidden_sizes.len())?;
        if stages != hidden_sizes.len() {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                format!(
                    "`num_stages: {stages}` in config.json, but `hidden_sizes` has {}",
                    hidden_sizes.len()
                ),
            ));
        }
        let (patch_size, other) = fields.height_and_width("patch_size", 4)?;
        let (image_size, _) = fields.height_and_width("image_size", 224)?;
        if patch_size != other {
            return Err(error::Error::new(
                error::ErrorKind::Unsupported,
                "`patch_size` in config.json is not a square",
            ));
        }
        Ok(Self {
            num_channels: fields.size("num_channels", 3)?,
            patch_size,
            hidden_sizes,
            depths,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
            image_size,
            scale,
        })
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        let stages = self.hidden_sizes.len();
        let halvings = 1usize.checked_shl(stages as u32 - 1).unwrap_or(usize::MAX);
        let cell = self.patch_size.saturating_mul(halvings);
        let grid = ImageGrid::of_patches((cell, cell));
        let depth = self.depths.iter().sum();
        let image_size = (self.image_size, self.image_size);
        of_maps(&self.hidden_sizes, depth, self.num_channels, image_size, grid)
    }
}

fn strided(size: usize) -> Geometry {
    Geometry { kernel_size: size, stride: size, padding: 0, depthwise: false }
}

/// A norm over the channels of each cell.
fn norm_of_cells(norm: &LayerNorm, map: &Tensor) -> Result<Tensor> {
    let (rows, _, height, width) = map.dims4()?;
    to_map(&norm.forward(&to_tokens(map)?)?, (rows, height, width))
}

/// Global response normalization: `ConvNextV2GRN`.
struct ResponseNorm {
    /// `(1, 1, dim)`.
    weight: Tensor,
    bias: Tensor,
}

impl ResponseNorm {
    fn load(vb: &VarBuilder<'_>, dim: usize) -> Result<Self> {
        let get = |name| vb.get((1, 1, 1, dim), name)?.squeeze(0);
        Ok(Self { weight: get("weight")?, bias: get("bias")? })
    }

    /// `x`: `(rows * cells, dim)`.
    fn forward(&self, x: &Tensor, rows: usize) -> Result<Tensor> {
        let (count, dim) = x.dims2()?;
        let x = x.reshape((rows, count / rows.max(1), dim))?;
        let norms = x.sqr()?.sum_keepdim(1)?.sqrt()?; // (rows, 1, dim)
        let norms = norms.broadcast_div(&(norms.mean_keepdim(2)? + 1e-6)?)?;
        let scaled = mul(&x.broadcast_mul(&norms)?, &self.weight)?;
        add(&add(&scaled, &self.bias)?, &x)?.reshape((count, dim))
    }
}

/// `ConvNextLayer`, `ConvNextV2Layer`.
struct ConvNextLayer {
    dwconv: Convolution,
    layernorm: LayerNorm,
    pwconv1: Linear,
    act: Activation,
    grn: Option<ResponseNorm>,
    pwconv2: Linear,
    /// `(dim)`.
    layer_scale_parameter: Option<Tensor>,
}

impl ConvNextLayer {
    fn load(vb: &VarBuilder<'_>, config: &ConvNextConfig, dim: usize) -> Result<Self> {
        let geometry = Geometry { kernel_size: 7, stride: 1, padding: 3, depthwise: true };
        let inner = 4 * dim;
        let grn = config.scale == LayerScaling::ResponseNorm;
        let factors = config.scale == LayerScaling::Factors;
        Ok(Self {
            dwconv: Convolution::load(&vb.pp("dwconv"), dim, dim, geometry)?,
            layernorm: LayerNorm::load(vb.pp("layernorm"), dim, EPS)?,
            pwconv1: Linear::load(vb.pp("pwconv1"), dim, inner, true)?,
            act: config.hidden_act,
            grn: grn.then(|| ResponseNorm::load(&vb.pp("grn"), inner)).transpose()?,
            pwconv2: Linear::load(vb.pp("pwconv2"), inner, dim, true)?,
            layer_scale_parameter: factors
                .then(|| vb.get(dim, "layer_scale_parameter"))
                .transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _, height, width) = x.dims4()?;
        let state = self.layernorm.forward(&to_tokens(&self.dwconv.forward(x)?)?)?;
        let mut state = match &self.grn {
            None => self.pwconv1.forward_through(&state, self.act, &self.pwconv2)?,
            Some(grn) => {
                let inner = self.pwconv1.forward_activated(&state, self.act)?;
                self.pwconv2.forward(&grn.forward(&inner, rows)?)?
            }
        };
        if let Some(factors) = &self.layer_scale_parameter {
            state = mul(&state, factors)?;
        }
        add(&to_map(&state, (rows, height, width))?, x)
    }
}

/// `ConvNextStage`, `ConvNextV2Stage`.
struct ConvNextStage {
    downsampling_layer: Option<(LayerNorm, Convolution)>,
    layers: Vec<ConvNextLayer>,
}

/// `ConvNeXT` without a head: `ConvNextModel`, `ConvNextV2Model`.
pub struct ConvNextModel {
    patch_embeddings: Convolution,
    embeddings_layernorm: LayerNorm,
    stages: Vec<ConvNextStage>,
    layernorm: LayerNorm,
    config: ConvNextConfig,
    dimensions: Dimensions,
}

impl ConvNextModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: ConvNextConfig) -> Result<Self> {
        let (embeddings, first) = (vb.pp("embeddings"), config.hidden_sizes[0]);
        let (mut stages, mut from) = (Vec::new(), first);
        for (number, (to, depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
            let vb = vb.pp("encoder.stages").pp(number);
            let downsampling = vb.pp("downsampling_layer");
            let downsampling_layer = if number > 0 {
                let norm = LayerNorm::load(downsampling.pp(0), from, EPS)?;
                Some((norm, Convolution::load(&downsampling.pp(1), from, *to, strided(2))?))
            } else {
                None
            };
            let layers = (0..*depth)
                .map(|layer| ConvNextLayer::load(&vb.pp("layers").pp(layer), &config, *to))
                .collect::<Result<_>>()?;
            stages.push(ConvNextStage { downsampling_layer, layers });
            from = *to;
        }
        Ok(Self {
            patch_embeddings: Convolution::load(
                &embeddings.pp("patch_embeddings"),
                config.num_channels,
                first,
                strided(config.patch_size),
            )?,
            embeddings_layernorm: LayerNorm::load(embeddings.pp("layernorm"), first, EPS)?,
            stages,
            layernorm: LayerNorm::load(vb.pp("layernorm"), from, config.layer_norm_eps)?,
            dimensions: config.dimensions(),
            config,
        })
    }
}

impl Backbone for ConvNextModel {
    /// A token is a cell of the last map; the pooled vector is the normalized mean of all cells.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let recorder = Recorder::new(inputs, want);
        let pixel_values = pixel_values(inputs)?;
        let (_, channels, height, width) = pixel_values.dims4()?;
        let image = self.dimensions.image.and_then(|image| image.tokens_of(height, width));
        if channels != self.config.num_channels || image.is_none() {
            bail!(
                "images have {channels} channels and {height} by {width} pixels, which is too small or does not have \
                 `num_channels: {}`",
                self.config.num_channels
            );
        }
        let pixel_values = pixel_values.to_dtype(self.patch_embeddings.dtype())?;
        let state = self.patch_embeddings.forward(&pixel_values)?;
        let mut state = norm_of_cells(&self.embeddings_layernorm, &state)?;
        let mut maps = vec![state.clone()];
        for stage in &self.stages {
            if let Some((norm, convolution)) = &stage.downsampling_layer {
                state = convolution.forward(&norm_of_cells(norm, &state)?)?;
            }
            for layer in &stage.layers {
                state = layer.forward(&state)?;
            }
            maps.push(state.clone());
        }
        let pooled = want.pooler_output.then(|| self.layernorm.forward(&mean_of_maps(&state)?));
        finish(recorder, &state, &maps, pooled.transpose()?)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        true
    }
}
