//! BEiT: a pre-norm encoder over the patches of an image, with a bias on attention scores by relative position, and LayerScale; and
//! Data2VecVision, which differs in the pooler of its base model.
//!
//! # Source
//! `src/transformers/models/beit/modeling_beit.py` and `src/transformers/models/data2vec/modeling_data2vec_vision.py` at v5.24.

use candle_core::{Result, Tensor, bail};

use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv};
use super::patches::{PatchEmbeddings, mean_of_patches, pixel_values};
use super::relative_grid::{OF_CLASS_TOKEN, RelativeGrid, load_table, relative_positions};
use super::{
    Backbone, Dimensions, Fields, ImageDimensions, ImageGrid, ModelOutput, Recorder, Want,
    position_grid,
};
use crate::error;
use crate::nn::{
    Activation, AttnImplementation, LayerNorm, ModelInputs, PositionIds, VarBuilder, add,
};

/// The configuration of BEiT and Data2VecVision.
#[derive(Clone, Debug, PartialEq)]
pub struct BeitConfig {
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
    /// The height and width of the images whose positions the tables have.
    pub image_size: (usize, usize),
    /// The height and width of a patch.
    pub patch_size: (usize, usize),
    /// The number of colour channels.
    pub num_channels: usize,
    /// Whether positions have embeddings.
    pub use_absolute_position_embeddings: bool,
    /// Whether each layer has a bias by relative position.
    pub use_relative_position_bias: bool,
    /// Whether all layers share a bias by relative position.
    pub use_shared_relative_position_bias: bool,
    /// Whether the outputs of attention and of the feed-forward network are scaled.
    pub layer_scale: bool,
    /// Whether the pooled vector is the normalized mean of the patches; otherwise it is the class token after the last norm.
    pub use_mean_pooling: bool,
    /// Whether the model has a pooler.
    pub pooler: AddPooler,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

/// Whether a model has a pooler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPooler {
    /// It has none.
    No,
    /// If the checkpoint has its weights; transformers would initialize them otherwise.
    IfStored,
    /// Always.
    Yes,
}

impl BeitConfig {
    /// Reads a `config.json` of BEiT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub fn beit(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with(fields, AddPooler::IfStored)
    }

    /// Reads a `config.json` of Data2VecVision, whose base model has no pooler.
    ///
    /// # Errors
    /// As [`BeitConfig::beit`].
    pub fn data2vec_vision(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with(fields, AddPooler::No)
    }

    /// Reads a `config.json` of either for a head, which reads the pooled vector.
    ///
    /// # Errors
    /// As [`BeitConfig::beit`].
    pub fn with_pooler(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with(fields, AddPooler::Yes)
    }

    fn with(fields: &Fields<'_>, pooler: AddPooler) -> error::Result<Self> {
        let layer_scale = match fields.value("layer_scale_init_value") {
            None => true,
            Some(value) => value.as_f64().is_some_and(|value| value > 0.0),
        };
        let config = Self {
            hidden_size: fields.size("hidden_size", 768)?,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 12)?,
            intermediate_size: fields.size("intermediate_size", 3072)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
            image_size: fields.height_and_width("image_size", 224)?,
            patch_size: fields.height_and_width("patch_size", 16)?,
            num_channels: fields.size("num_channels", 3)?,
            use_absolute_position_embeddings: fields
                .flag("use_absolute_position_embeddings", false)?,
            use_relative_position_bias: fields.flag("use_relative_position_bias", false)?,
            use_shared_relative_position_bias: fields
                .flag("use_shared_relative_position_bias", false)?,
            layer_scale,
            use_mean_pooling: fields.flag("use_mean_pooling", true)?,
            pooler,
            attn_implementation: fields.attn_implementation(),
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        if config.cells().contains(&0) {
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

    /// The patches down and across whose positions the tables have.
    fn cells(&self) -> [usize; 2] {
        self.grid().cells(self.image_size.0, self.image_size.1)
    }

    /// The number of tokens of an image of the size of the configuration.
    fn tokens(&self) -> usize {
        self.cells().iter().product::<usize>() + 1
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
            max_position_embeddings: Some(self.tokens()),
            image: Some(ImageDimensions {
                num_channels: self.num_channels,
                height: self.image_size.0,
                width: self.image_size.1,
                tokens: self.tokens(),
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
            names: &LAYER_NAMES,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            qkv_bias: true,
            norm_first: true,
            causal: false,
            relative_keys: None,
            disentangled: None,
            alibi: None,
            layer_scales: self.layer_scale.then_some(["lambda_1", "lambda_2"]),
            attn_implementation: self.attn_implementation,
        }
    }
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::ApartWithoutKeyBias([
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

/// `BeitRelativePositionBias`: a table of biases by relative position.
struct RelativePositionBias {
    /// `(num_heads, positions + 3)`.
    table: Tensor,
    /// The patches down and across that it is for.
    cells: [usize; 2],
}

impl RelativePositionBias {
    fn load(vb: &VarBuilder<'_>, config: &BeitConfig) -> Result<Self> {
        let cells = config.cells();
        let positions = cells.map(relative_positions).iter().product::<usize>() + OF_CLASS_TOKEN;
        Ok(Self { table: load_table(vb, positions, config.num_attention_heads)?, cells })
    }

    /// The bias for an image of `cells` patches, whose pairs are `grid`: interpolated where the table is for other images.
    fn forward(&self, cells: [usize; 2], grid: &RelativeGrid) -> Result<Tensor> {
        let (old, new) = (self.cells.map(relative_positions), cells.map(relative_positions));
        // transformers takes the height of the table for its width, so that an oblong one is interpolated even for its own size.
        let from = [old[1], old[0]];
        if from == new {
            return grid.biases(&self.table);
        }
        let positions = from[0] * from[1];
        let own = self.table.narrow(1, 0, positions)?.t()?;
        let own = position_grid::bilinear(&own, from, new)?.t()?;
        let of_class_token = self.table.narrow(1, positions, OF_CLASS_TOKEN)?;
        grid.biases(&Tensor::cat(&[own, of_class_token], 1)?.contiguous()?)
    }
}

/// `BeitPooler`: the vector of an image.
enum Pooler {
    /// The mean of its patches, normalized.
    Mean(LayerNorm),
    /// The class token.
    ClassToken,
}

impl Pooler {
    fn load(vb: &VarBuilder<'_>, config: &BeitConfig) -> Result<Option<Self>> {
        let vb = vb.pp("pooler.layernorm");
        Ok(match config.pooler {
            AddPooler::No => None,
            _ if !config.use_mean_pooling => Some(Self::ClassToken),
            AddPooler::IfStored if !vb.contains_tensor("weight") => None,
            _ => Some(Self::Mean(LayerNorm::load(vb, config.hidden_size, config.layer_norm_eps)?)),
        })
    }

    fn forward(&self, states: &Tensor, inputs: &ModelInputs) -> Result<Tensor> {
        match self {
            Self::Mean(norm) => norm.forward(&mean_of_patches(inputs, states)?),
            Self::ClassToken => inputs.select(states, |_, _| Ok(0)),
        }
    }
}

/// BEiT without a head: `BeitModel`, `Data2VecVisionModel`.
pub struct BeitModel {
    /// `(1, 1, hidden_size)`.
    cls_token: Tensor,
    patch_embeddings: PatchEmbeddings,
    /// `(tokens, hidden_size)`.
    position_embeddings: Option<Tensor>,
    shared_position_bias: Option<RelativePositionBias>,
    layers: EncoderLayers,
    /// One for each layer, or none.
    relative_position_bias: Vec<RelativePositionBias>,
    /// The last norm.
    layernorm: Option<LayerNorm>,
    pooler: Option<Pooler>,
    config: BeitConfig,
    dimensions: Dimensions,
}

impl BeitModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: BeitConfig) -> Result<Self> {
        let (hidden, embeddings, encoder) =
            (config.hidden_size, vb.pp("embeddings"), vb.pp("encoder"));
        let bias = |vb: VarBuilder<'_>| RelativePositionBias::load(&vb, &config);
        let of_layer = |layer: usize| {
            let attention = encoder.pp("layer").pp(layer).pp("attention.attention");
            bias(attention.pp("relative_position_bias"))
        };
        let layers = if config.use_relative_position_bias { config.num_hidden_layers } else { 0 };
        let positions = config.use_absolute_position_embeddings.then(|| {
            embeddings.get((1, config.tokens(), hidden), "position_embeddings")?.squeeze(0)
        });
        let norm = || LayerNorm::load(vb.pp("layernorm"), hidden, config.layer_norm_eps);
        Ok(Self {
            cls_token: embeddings.get((1, 1, hidden), "cls_token")?,
            patch_embeddings: PatchEmbeddings::load(
                embeddings.pp("patch_embeddings.projection"),
                config.num_channels,
                config.patch_size,
                hidden,
                true,
            )?,
            position_embeddings: positions.transpose()?,
            shared_position_bias: config
                .use_shared_relative_position_bias
                .then(|| bias(encoder.pp("relative_position_bias")))
                .transpose()?,
            layers: EncoderLayers::load(
                &encoder.pp("layer"),
                config.num_hidden_layers,
                &config.layer(),
                None,
            )?,
            relative_position_bias: (0..layers).map(of_layer).collect::<Result<_>>()?,
            layernorm: (!config.use_mean_pooling).then(norm).transpose()?,
            pooler: Pooler::load(vb, &config)?,
            dimensions: config.dimensions(),
            config,
        })
    }

    /// `(total_tokens, hidden_size)`.
    fn embed(&self, pixel_values: &Tensor, cells: [usize; 2]) -> Result<Tensor> {
        let (rows, _, height, width) = pixel_values.dims4()?;
        let patches = self.patch_embeddings.forward(pixel_values, self.cls_token.dtype())?;
        let class = self.cls_token.repeat((rows, 1, 1))?;
        let mut embedded = Tensor::cat(&[class, patches], 1)?;
        if let Some(table) = &self.position_embeddings {
            let positions = position_grid::of_image(table, (height, width), cells)?;
            embedded = add(&embedded, &positions)?;
        }
        let (rows, tokens, hidden) = embedded.dims3()?;
        embedded.reshape((rows * tokens, hidden))
    }
}

impl Backbone for BeitModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let pixel_values = pixel_values(inputs)?;
        let (_, _, height, width) = pixel_values.dims4()?;
        let cells = self.config.grid().cells(height, width);
        let mut states = self.embed(pixel_values, cells)?;
        recorder.hidden_state(&states);
        // The pairs of tokens, if a bias needs them, and the bias of all layers.
        let of_layers = &self.relative_position_bias;
        let has_bias = self.shared_position_bias.is_some() || !of_layers.is_empty();
        let grid = has_bias.then(|| RelativeGrid::new(cells, true, states.device())).transpose()?;
        let bias = |own: Option<&RelativePositionBias>| {
            own.zip(grid.as_ref()).map(|(own, grid)| own.forward(cells, grid)).transpose()
        };
        let shared = bias(self.shared_position_bias.as_ref())?;
        for layer in 0..self.layers.len() {
            let bias = match (bias(of_layers.get(layer))?, &shared) {
                (Some(own), Some(shared)) => Some(add(&own, shared)?),
                (own, shared) => own.or_else(|| shared.clone()),
            };
            states = self.layers.forward_layer(layer, &states, bias.as_ref(), &mut recorder)?;
            recorder.hidden_state(&states);
        }
        if let Some(norm) = &self.layernorm {
            states = norm.forward(&states)?;
        }
        let pooled = match (want.pooler_output, &self.pooler) {
            (false, _) => None,
            (true, Some(pooler)) => Some(pooler.forward(&states, inputs)?),
            (true, None) => {
                bail!("`pooler_output` was requested, but the checkpoint has no pooler")
            }
        };
        Ok(recorder.finish(states, pooled))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}
