//! ResNet: a convolutional network of residual layers, whose last map of features is the state of an image.
//!
//! # Source
//! `src/transformers/models/resnet/modeling_resnet.py` at v5.24.

use candle_core::{Result, Tensor, bail};

use super::convolution::{Convolution, Geometry};
use super::feature_maps::{check_stages, finish, mean_of_maps, of_maps};
use super::patches::pixel_values;
use super::{Backbone, Dimensions, Fields, ImageGrid, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{Activation, ModelInputs, VarBuilder, add};

/// The size of the images that checkpoints are trained with; config.json does not state it.
const IMAGE_SIZE: usize = 224;

/// The configuration of ResNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// The number of colour channels.
    pub num_channels: usize,
    /// The number of channels after the first convolution.
    pub embedding_size: usize,
    /// The number of channels of each stage.
    pub hidden_sizes: Vec<usize>,
    /// The number of layers of each stage.
    pub depths: Vec<usize>,
    /// Whether layers have a bottleneck of three convolutions; otherwise they have two.
    pub bottleneck: bool,
    /// The activation.
    pub hidden_act: Activation,
    /// Whether the first stage halves the size of maps, too.
    pub downsample_in_first_stage: bool,
    /// Whether the first convolution of a bottleneck halves the size, instead of the second one.
    pub downsample_in_bottleneck: bool,
}

impl ResNetConfig {
    /// Reads a `config.json` of ResNet.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation or layer type.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let bottleneck = match fields.text("layer_type", "bottleneck")? {
            "bottleneck" => true,
            "basic" => false,
            other => {
                return Err(error::Error::new(
                    error::ErrorKind::Unsupported,
                    format!("`layer_type: {other}` in config.json is not implemented"),
                )
                .hint("implemented layer types: bottleneck, basic"));
            }
        };
        let hidden_sizes = fields.sizes("hidden_sizes", &[256, 512, 1024, 2048])?;
        let depths = fields.sizes("depths", &[3, 4, 6, 3])?;
        check_stages(&hidden_sizes, &depths)?;
        Ok(Self {
            num_channels: fields.size("num_channels", 3)?,
            embedding_size: fields.size("embedding_size", 64)?,
            hidden_sizes,
            depths,
            bottleneck,
            hidden_act: fields.activation("hidden_act", "relu")?,
            downsample_in_first_stage: fields.flag("downsample_in_first_stage", false)?,
            downsample_in_bottleneck: fields.flag("downsample_in_bottleneck", false)?,
        })
    }

    /// The side of the square of pixels that becomes a token.
    fn stride(&self) -> usize {
        let halvings = self.hidden_sizes.len() - usize::from(!self.downsample_in_first_stage);
        4usize.saturating_mul(1usize.checked_shl(halvings as u32).unwrap_or(usize::MAX))
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        let stride = self.stride();
        let grid = ImageGrid { cell: (stride, stride), partial_cells: true, least: 1 };
        let depth = self.depths.iter().sum();
        of_maps(&self.hidden_sizes, depth, self.num_channels, (IMAGE_SIZE, IMAGE_SIZE), grid)
    }
}

fn geometry(kernel_size: usize, stride: usize) -> Geometry {
    Geometry { kernel_size, stride, padding: kernel_size / 2, depthwise: false }
}

/// `ResNetConvLayer`, without its activation.
fn conv_layer(
    vb: &VarBuilder<'_>,
    channels: (usize, usize),
    geometry: Geometry,
) -> Result<Convolution> {
    let (convolution, normalization) = (vb.pp("convolution"), vb.pp("normalization"));
    Convolution::load_normalized(&convolution, &normalization, channels.0, channels.1, geometry)
}

/// `ResNetBasicLayer`, `ResNetBottleNeckLayer`.
struct ResNetLayer {
    /// An activation follows all but the last.
    layer: Vec<Convolution>,
    shortcut: Option<Convolution>,
    activation: Activation,
}

impl ResNetLayer {
    fn load(
        vb: &VarBuilder<'_>,
        config: &ResNetConfig,
        (from, to): (usize, usize),
        stride: usize,
    ) -> Result<Self> {
        const REDUCTION: usize = 4;
        let narrow = to / REDUCTION;
        let (first, second) =
            if config.downsample_in_bottleneck { (stride, 1) } else { (1, stride) };
        let parts = if config.bottleneck {
            vec![
                ((from, narrow), geometry(1, first)),
                ((narrow, narrow), geometry(3, second)),
                ((narrow, to), geometry(1, 1)),
            ]
        } else {
            vec![((from, to), geometry(3, stride)), ((to, to), geometry(3, 1))]
        };
        let load =
            |(i, (channels, geometry))| conv_layer(&vb.pp("layer").pp(i), channels, geometry);
        let shortcut = (from != to || stride != 1)
            .then(|| conv_layer(&vb.pp("shortcut"), (from, to), geometry(1, stride)));
        Ok(Self {
            layer: parts.into_iter().enumerate().map(load).collect::<Result<_>>()?,
            shortcut: shortcut.transpose()?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut state = x.clone();
        for (i, convolution) in self.layer.iter().enumerate() {
            if i > 0 {
                // ReLU, whatever the configuration says.
                state = Activation::Relu.forward(&state)?;
            }
            state = convolution.forward(&state)?;
        }
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        self.activation.forward(&add(&state, &residual)?)
    }
}

/// ResNet without a head: `ResNetModel`.
pub struct ResNetModel {
    embedder: Convolution,
    stages: Vec<Vec<ResNetLayer>>,
    config: ResNetConfig,
    dimensions: Dimensions,
}

impl ResNetModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: ResNetConfig) -> Result<Self> {
        let channels = (config.num_channels, config.embedding_size);
        let embedder = conv_layer(&vb.pp("embedder.embedder"), channels, geometry(7, 2))?;
        let (mut stages, mut from) = (Vec::new(), config.embedding_size);
        for (number, (to, depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
            let vb = vb.pp("encoder.stages").pp(number).pp("layers");
            let halves = number > 0 || config.downsample_in_first_stage;
            let layers = (0..*depth).map(|layer| {
                let stride = if layer == 0 && halves { 2 } else { 1 };
                let from = if layer == 0 { from } else { *to };
                ResNetLayer::load(&vb.pp(layer), &config, (from, *to), stride)
            });
            stages.push(layers.collect::<Result<_>>()?);
            from = *to;
        }
        Ok(Self { embedder, stages, dimensions: config.dimensions(), config })
    }
}

impl Backbone for ResNetModel {
    /// A token is a cell of the last map; the pooled vector is the mean of all cells.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let recorder = Recorder::new(inputs, want);
        let pixel_values = pixel_values(inputs)?;
        let channels = pixel_values.dim(1)?;
        if channels != self.config.num_channels {
            bail!("images have {channels} channels, not {}", self.config.num_channels);
        }
        let state = self.embedder.forward(&pixel_values.to_dtype(self.embedder.dtype())?)?;
        let mut state = max_pool(&self.config.hidden_act.forward(&state)?)?;
        let mut maps = vec![state.clone()];
        for stage in &self.stages {
            for layer in stage {
                state = layer.forward(&state)?;
            }
            maps.push(state.clone());
        }
        let pooled = want.pooler_output.then(|| mean_of_maps(&state)).transpose()?;
        finish(recorder, &state, &maps, pooled)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        true
    }
}

/// The largest of 3 by 3 cells around every second one; cells beyond the edge do not count.
fn max_pool(x: &Tensor) -> Result<Tensor> {
    // Numbers before the pool can be negative, but each window has a cell of the map: the edge is repeated instead.
    let x = x.pad_with_same(2, 1, 1)?.pad_with_same(3, 1, 1)?.contiguous()?;
    x.max_pool2d_with_stride(3, 2)
}
