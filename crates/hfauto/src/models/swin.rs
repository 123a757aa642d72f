//! Swin: stages of pre-norm layers over a map of patches, with attention within windows, which every second layer shifts. Between
//! stages, four cells become one.
//!
//! # Source
//! `src/transformers/models/swin/modeling_swin.py` at v5.24.

use candle_core::{Result, Tensor, bail};

use super::feature_maps::{cells, finish_cells, of_maps};
use super::patches::{PatchEmbeddings, pixel_values};
use super::relative_grid::{RelativeGrid, load_table, relative_positions};
use super::windows::{Windows, gather};
use super::{Backbone, Dimensions, Fields, ImageGrid, ModelOutput, Recorder, Want};
use crate::error;
use crate::limits;
use crate::nn::{
    Activation, AttentionOptions, AttnImplementation, FeedForward, LayerNorm, Linear, ModelInputs,
    VarBuilder, add,
};

/// The epsilon of the norms of the embeddings and between stages.
const EPS: f64 = 1e-5;

/// The configuration of Swin.
#[derive(Clone, Debug, PartialEq)]
pub struct SwinConfig {
    /// The height and width of an image.
    pub image_size: (usize, usize),
    /// The height and width of a patch.
    pub patch_size: (usize, usize),
    /// The number of colour channels.
    pub num_channels: usize,
    /// The size of a hidden state in each stage, twice that of the one before.
    pub hidden_sizes: Vec<usize>,
    /// The number of layers of each stage.
    pub depths: Vec<usize>,
    /// The number of attention heads of each stage.
    pub num_heads: Vec<usize>,
    /// The side of a window in cells.
    pub window_size: usize,
    /// The inner size of the feed-forward network of each stage.
    pub intermediate_sizes: Vec<usize>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The activation of the feed-forward network.
    pub hidden_act: Activation,
    /// Whether patches have position embeddings.
    pub use_absolute_embeddings: bool,
    /// The epsilon of the norms of layers and of the last one.
    pub layer_norm_eps: f64,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

impl SwinConfig {
    /// Reads a `config.json` of Swin.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        let invalid = |message: String| error::Error::new(error::ErrorKind::Model, message);
        let depths = fields.sizes("depths", &[2, 2, 6, 2])?;
        let num_heads = fields.sizes("num_heads", &[3, 6, 12, 24])?;
        let (stages, embed_dim) = (depths.len(), fields.size("embed_dim", 96)?);
        let layers = depths.iter().fold(0usize, |sum, depth| sum.saturating_add(*depth));
        if num_heads.len() != stages || layers > limits::MODEL_LAYERS {
            return Err(invalid(format!(
                "config.json has `depths` for {stages} stages and `num_heads` for {}, with {layers} layers",
                num_heads.len()
            )));
        }
        let size = |stage: usize| {
            let size = 1usize.checked_shl(stage as u32)?.checked_mul(embed_dim)?;
            (size <= limits::MODEL_SIZE).then_some(size)
        };
        let hidden_sizes: Option<Vec<usize>> = (0..stages).map(size).collect();
        let hidden_sizes = hidden_sizes.ok_or_else(|| {
            let most = limits::MODEL_SIZE;
            invalid(format!(
                "`embed_dim: {embed_dim}` in config.json, doubled for each of {stages} stages, exceeds {most}"
            ))
        })?;
        for (stage, (hidden, heads)) in hidden_sizes.iter().zip(&num_heads).enumerate() {
            if !hidden.is_multiple_of(*heads) {
                return Err(invalid(format!(
                    "stage {stage} of config.json has hidden states of {hidden} numbers, not a multiple of its {heads} heads \
                     (`num_heads`)"
                )));
            }
        }
        let mlp_ratio = fields.epsilon("mlp_ratio", 4.0)?;
        let inner = |hidden: &usize| {
            // Rounded down, as Python's `int` does; the product is bounded before it is a size.
            let inner = mlp_ratio * *hidden as f64;
            (1.0..=limits::MODEL_SIZE as f64).contains(&inner).then_some(inner as usize)
        };
        let intermediate_sizes: Option<Vec<usize>> = hidden_sizes.iter().map(inner).collect();
        let intermediate_sizes = intermediate_sizes.ok_or_else(|| {
            invalid(format!("`mlp_ratio: {mlp_ratio}` in config.json gives no size of a layer"))
        })?;
        let window_size = fields.size("window_size", 7)?;
        if window_size.saturating_mul(window_size) > limits::RELATIVE_POSITIONS {
            return Err(invalid(format!(
                "`window_size: {window_size}` in config.json gives windows of more than {} cells",
                limits::RELATIVE_POSITIONS
            )));
        }
        Ok(Self {
            image_size: fields.height_and_width("image_size", 224)?,
            patch_size: fields.height_and_width("patch_size", 4)?,
            num_channels: fields.size("num_channels", 3)?,
            hidden_sizes,
            depths,
            num_heads,
            window_size,
            intermediate_sizes,
            qkv_bias: fields.flag("qkv_bias", true)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            use_absolute_embeddings: fields.flag("use_absolute_embeddings", false)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", EPS)?,
            attn_implementation: fields.attn_implementation(),
        })
    }

    /// The cells of the map of a stage, for images of any size that has a window in the last one.
    fn grid(&self, stage: usize) -> ImageGrid {
        let cells = 1usize.checked_shl(stage as u32).unwrap_or(usize::MAX);
        let (height, width) = self.patch_size;
        let cell = (height.saturating_mul(cells), width.saturating_mul(cells));
        ImageGrid { cell, partial_cells: true, least: self.window_size }
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        let last = self.hidden_sizes.len() - 1;
        let (grid, depth) = (self.grid(last), self.depths.iter().sum());
        let maps = of_maps(&self.hidden_sizes, depth, self.num_channels, self.image_size, grid);
        let num_heads = self.num_heads[last];
        Dimensions {
            num_attention_heads: num_heads,
            num_key_value_heads: num_heads,
            head_dim: self.hidden_sizes[last] / num_heads,
            ..maps
        }
    }
}

/// `SwinLayer`.
struct SwinLayer {
    layernorm_before: LayerNorm,
    /// Queries, keys and values in one projection.
    qkv: Linear,
    /// `(num_heads, positions)`.
    relative_position_bias_table: Tensor,
    attention: AttentionOptions<'static>,
    attention_output: Linear,
    layernorm_after: LayerNorm,
    feed_forward: FeedForward,
}

impl SwinLayer {
    fn load(vb: &VarBuilder<'_>, config: &SwinConfig, stage: usize) -> Result<Self> {
        let (hidden, num_heads) = (config.hidden_sizes[stage], config.num_heads[stage]);
        let inner = config.intermediate_sizes[stage];
        let norm = |name| LayerNorm::load(vb.pp(name), hidden, config.layer_norm_eps);
        let (layernorm_before, layernorm_after) =
            (norm("layernorm_before")?, norm("layernorm_after")?);
        let own = vb.pp("attention.self");
        let qkv = ["query", "key", "value"].map(|name| (own.pp(name), hidden));
        let positions = relative_positions(config.window_size);
        let intermediate = [(vb.pp("intermediate.dense"), inner)];
        let intermediate = Linear::load_fused(&intermediate, hidden, true, Some(&layernorm_after))?;
        let output = Linear::load(vb.pp("output.dense"), inner, hidden, true)?;
        Ok(Self {
            qkv: Linear::load_fused(&qkv, hidden, config.qkv_bias, Some(&layernorm_before))?,
            relative_position_bias_table: load_table(&own, positions * positions, num_heads)?,
            attention: AttentionOptions::new(num_heads, hidden / num_heads)
                .with_attn_implementation(config.attn_implementation),
            attention_output: Linear::load(vb.pp("attention.output.dense"), hidden, hidden, true)?,
            feed_forward: FeedForward::new(intermediate, None, config.hidden_act, output),
            layernorm_before,
            layernorm_after,
        })
    }

    /// `(cells, hidden_size)`, in and out.
    fn forward(&self, x: &Tensor, windows: &Windows, window: &RelativeGrid) -> Result<Tensor> {
        let qkv = self.qkv.forward(&windows.split(&self.layernorm_before.forward(x)?)?)?;
        let bias = window.biases(&self.relative_position_bias_table)?;
        let options = self.attention.with_precision(self.qkv.precision());
        let attended = windows.join(&windows.attend(&qkv, &bias, options)?)?;
        let x = add(&self.attention_output.forward(&attended)?, x)?;
        add(&self.feed_forward.forward(&self.layernorm_after.forward(&x)?)?, &x)
    }
}

/// `SwinPatchMerging`: four cells become one of twice the width.
struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
}

impl PatchMerging {
    fn load(vb: &VarBuilder<'_>, hidden: usize) -> Result<Self> {
        let norm = LayerNorm::load(vb.pp("norm"), 4 * hidden, EPS)?;
        let reduction = [(vb.pp("reduction"), 2 * hidden)];
        let reduction = Linear::load_fused(&reduction, 4 * hidden, false, Some(&norm))?;
        Ok(Self { norm, reduction })
    }

    /// The cells of the maps of `rows` images, and the height and width of the new ones.
    fn forward(
        &self,
        x: &Tensor,
        rows: usize,
        [height, width]: [usize; 2],
    ) -> Result<(Tensor, [usize; 2])> {
        let (down, across) = (height.div_ceil(2), width.div_ceil(2));
        let (count, hidden) = x.dims2()?;
        let mut quads = Vec::with_capacity(4 * rows * down * across);
        for cell in 0..rows * down * across {
            let (row, y, x) = (cell / (down * across), cell / across % down, cell % across);
            for (y, x) in [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(dy, dx)| (2 * y + dy, 2 * x + dx))
            {
                let is_there = y < height && x < width;
                quads.push(if is_there { (row * height + y) * width + x } else { count } as u32);
            }
        }
        let places = quads.len();
        let quads = Tensor::from_vec(quads, places, x.device())?;
        let merged = gather(x, &quads, places > count)?.reshape((places / 4, 4 * hidden))?;
        Ok((self.reduction.forward(&self.norm.forward(&merged)?)?, [down, across]))
    }
}

/// `SwinStage`.
struct SwinStage {
    blocks: Vec<SwinLayer>,
    downsample: Option<PatchMerging>,
}

/// Swin without a head: `SwinModel`.
pub struct SwinModel {
    patch_embeddings: PatchEmbeddings,
    embeddings_norm: LayerNorm,
    /// `(1, patches, embed_dim)`.
    position_embeddings: Option<Tensor>,
    stages: Vec<SwinStage>,
    layernorm: LayerNorm,
    config: SwinConfig,
    dimensions: Dimensions,
}

impl SwinModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: SwinConfig) -> Result<Self> {
        let (embeddings, layers) = (vb.pp("embeddings"), vb.pp("encoder.layers"));
        let (embed_dim, last) = (config.hidden_sizes[0], config.hidden_sizes.len() - 1);
        let stage = |stage: usize| {
            let vb = layers.pp(stage);
            let blocks = 0..config.depths[stage];
            let blocks =
                blocks.map(|block| SwinLayer::load(&vb.pp("blocks").pp(block), &config, stage));
            let downsample = (stage < last)
                .then(|| PatchMerging::load(&vb.pp("downsample"), config.hidden_sizes[stage]));
            Ok(SwinStage {
                blocks: blocks.collect::<Result<_>>()?,
                downsample: downsample.transpose()?,
            })
        };
        let positions = config.use_absolute_embeddings.then(|| {
            let (image, patch) = (config.image_size, config.patch_size);
            let patches = (image.0 / patch.0) * (image.1 / patch.1);
            embeddings.get((1, patches, embed_dim), "position_embeddings")
        });
        Ok(Self {
            patch_embeddings: PatchEmbeddings::load(
                embeddings.pp("patch_embeddings.projection"),
                config.num_channels,
                config.patch_size,
                embed_dim,
                true,
            )?,
            embeddings_norm: LayerNorm::load(embeddings.pp("norm"), embed_dim, EPS)?,
            position_embeddings: positions.transpose()?,
            stages: (0..=last).map(stage).collect::<Result<_>>()?,
            layernorm: LayerNorm::load(
                vb.pp("layernorm"),
                config.hidden_sizes[last],
                config.layer_norm_eps,
            )?,
            dimensions: config.dimensions(),
            config,
        })
    }

    /// The patches of images, `(rows * patches, embed_dim)`, and the height and width of their maps.
    fn embed(&self, pixel_values: &Tensor) -> Result<(Tensor, [usize; 2])> {
        let (rows, _, height, width) = pixel_values.dims4()?;
        let [down, across] = self.config.grid(0).cells(height, width);
        let (patch_height, patch_width) = self.config.patch_size;
        let padded = pixel_values
            .pad_with_zeros(2, 0, down * patch_height - height)?
            .pad_with_zeros(3, 0, across * patch_width - width)?;
        let dtype = self.layernorm.dtype();
        let embedded = self.patch_embeddings.forward(&padded, dtype)?;
        let (_, patches, embed_dim) = embedded.dims3()?;
        let embedded = embedded.reshape((rows * patches, embed_dim))?;
        let mut embedded = self.embeddings_norm.forward(&embedded)?;
        if let Some(positions) = &self.position_embeddings {
            if positions.dim(1)? != patches {
                bail!(
                    "images of {height} by {width} pixels have {patches} patches, but there are position embeddings of {}",
                    positions.dim(1)?
                );
            }
            let with_rows = embedded.reshape((rows, patches, embed_dim))?;
            embedded = add(&with_rows, positions)?.reshape((rows * patches, embed_dim))?;
        }
        Ok((embedded, [down, across]))
    }

    /// The output of a stage over maps of this height and width, and those of its own maps.
    fn forward_stage(
        &self,
        stage: &SwinStage,
        mut states: Tensor,
        window: &RelativeGrid,
        rows: usize,
        map: [usize; 2],
    ) -> Result<(Tensor, [usize; 2])> {
        let side = self.config.window_size;
        let least = map[0].min(map[1]);
        if least < side {
            bail!(
                "a map of {} by {} cells is smaller than a window of {side} by {side} (`window_size`), which transformers \
                 does not compute",
                map[0],
                map[1]
            );
        }
        // A map that is as narrow as a window is not shifted.
        let shift = if least == side { 0 } else { side / 2 };
        let device = states.device().clone();
        let windows = Windows::new(rows, map, side, 0, &device)?;
        let is_shifted = shift > 0 && stage.blocks.len() > 1;
        let shifted = is_shifted.then(|| Windows::new(rows, map, side, shift, &device));
        let shifted = shifted.transpose()?;
        for (number, block) in stage.blocks.iter().enumerate() {
            let shifted = shifted.as_ref().filter(|_| number % 2 == 1);
            states = block.forward(&states, shifted.unwrap_or(&windows), window)?;
        }
        match &stage.downsample {
            Some(downsample) => downsample.forward(&states, rows, map),
            None => Ok((states, map)),
        }
    }
}

impl Backbone for SwinModel {
    /// The pooled vector is the mean of all cells after the last norm.
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let recorder = Recorder::new(inputs, want);
        let pixel_values = pixel_values(inputs)?;
        let rows = pixel_values.dim(0)?;
        let (mut states, mut map) = self.embed(pixel_values)?;
        let mut hidden_states = want.hidden_states.then(Vec::new);
        let mut keep = |states: &Tensor, map| {
            if let Some(all) = &mut hidden_states {
                all.push(cells(states.clone(), rows, map));
            }
        };
        keep(&states, map);
        let side = self.config.window_size;
        let window = RelativeGrid::new([side, side], false, states.device())?;
        for stage in &self.stages {
            (states, map) = self.forward_stage(stage, states, &window, rows, map)?;
            keep(&states, map);
        }
        let states = self.layernorm.forward(&states)?;
        let pooled = want.pooler_output.then(|| {
            let hidden = states.dim(1)?;
            states.reshape((rows, map[0] * map[1], hidden))?.mean(1)
        });
        Ok(finish_cells(
            recorder,
            cells(states.clone(), rows, map),
            hidden_states,
            pooled.transpose()?,
        ))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        true
    }
}
