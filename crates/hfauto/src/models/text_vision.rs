//! Models of texts and images with one encoder (tower) for each, whose pooled vectors are comparable: CLIP and SigLIP. Not here:
//! their configurations (`clip`, `siglip`), and scores of texts for an image. The entry is [`TextVisionModel`].
//!
//! # Source
//! `src/transformers/models/clip/modeling_clip.py` and `src/transformers/models/siglip/modeling_siglip.py` at v5.24.

use candle_core::{Result, Tensor, bail};

use super::encoder::{EncoderLayerConfig, EncoderLayerNames, EncoderLayers, ExtraNames, Qkv};
use super::patches::{PatchEmbeddings, check_size, pixel_values};
use super::{
    Backbone, Dimensions, Fields, ImageDimensions, ModelOutput, Recorder, Similarity, Want,
};
use crate::error;
use crate::nn::{
    Activation, AttentionOptions, AttnImplementation, Embedding, KvCache, LayerNorm, Lengths,
    Linear, ModelInputs, PositionIds, VarBuilder, add, attention_over, to_host,
};

/// The sizes of a tower's layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TowerLayers {
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The inner size of the feed-forward network.
    pub intermediate_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads.
    pub num_attention_heads: usize,
    /// The activation of the feed-forward network.
    pub hidden_act: Activation,
    /// The epsilon of layer normalization.
    pub layer_norm_eps: f64,
    /// The kernels that compute attention.
    pub attn_implementation: AttnImplementation,
}

const LAYER_NAMES: EncoderLayerNames = EncoderLayerNames {
    qkv: Qkv::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    attention_output: "self_attn.out_proj",
    attention_norm: "layer_norm1",
    intermediate: "mlp.fc1",
    output: "mlp.fc2",
    output_norm: "layer_norm2",
    extra: ExtraNames::NONE,
};

impl TowerLayers {
    /// Reads the settings of a tower; `sizes` are the defaults of the four sizes, in the order of the fields.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value, `Unsupported` for an unknown activation.
    pub(super) fn new(
        fields: &Fields<'_>,
        sizes: [usize; 4],
        hidden_act: &str,
        layer_norm_eps: f64,
        attn_implementation: AttnImplementation,
    ) -> error::Result<Self> {
        let layers = Self {
            hidden_size: fields.size("hidden_size", sizes[0])?,
            intermediate_size: fields.size("intermediate_size", sizes[1])?,
            num_hidden_layers: fields.size("num_hidden_layers", sizes[2])?,
            num_attention_heads: fields.size("num_attention_heads", sizes[3])?,
            hidden_act: fields.activation("hidden_act", hidden_act)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", layer_norm_eps)?,
            attn_implementation,
        };
        fields.divides(
            ("hidden_size", layers.hidden_size),
            ("num_attention_heads", layers.num_attention_heads),
        )?;
        Ok(layers)
    }

    fn load(&self, vb: &VarBuilder<'_>, causal: bool) -> Result<EncoderLayers> {
        let config = EncoderLayerConfig {
            names: &LAYER_NAMES,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            qkv_bias: true,
            norm_first: true,
            causal,
            relative_keys: None,
            disentangled: None,
            layer_scales: None,
            alibi: None,
            attn_implementation: self.attn_implementation,
        };
        EncoderLayers::load(&vb.pp("encoder.layers"), self.num_hidden_layers, &config, None)
    }

    fn norm(&self, vb: &VarBuilder<'_>, name: &str) -> Result<LayerNorm> {
        LayerNorm::load(vb.pp(name), self.hidden_size, self.layer_norm_eps)
    }

    fn dimensions(&self) -> Dimensions {
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
            max_position_embeddings: None,
            image: None,
        }
    }
}

/// The token of a text whose state is pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PooledToken {
    /// The first one with this id; without it, the first token.
    First(u32),
    /// The first one with the largest id.
    LargestId,
    /// The last one.
    Last,
}

impl PooledToken {
    fn of(self, ids: &[u32]) -> usize {
        match self {
            Self::First(id) => ids.iter().position(|found| *found == id).unwrap_or(0),
            Self::LargestId => {
                let largest = ids.iter().max();
                ids.iter().position(|id| Some(id) == largest).unwrap_or(0)
            }
            Self::Last => ids.len().saturating_sub(1),
        }
    }
}

/// The configuration of an encoder of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct TextTowerConfig {
    /// Its layers.
    pub layers: TowerLayers,
    /// The vocabulary size.
    pub vocab_size: usize,
    /// The number of positions.
    pub max_position_embeddings: usize,
    /// Whether attention is causal.
    pub causal: bool,
    /// The pooled token.
    pub pooled: PooledToken,
    /// The outputs of the tower's own projection of the pooled state (`head`), if it has one.
    pub projection_size: Option<usize>,
}

impl TextTowerConfig {
    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        Dimensions {
            vocab_size: self.vocab_size,
            max_position_embeddings: Some(self.max_position_embeddings),
            ..self.layers.dimensions()
        }
    }
}

/// An encoder of texts: `CLIPTextModel`, `SiglipTextModel`.
pub struct TextTower {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: EncoderLayers,
    final_layer_norm: LayerNorm,
    pooled: PooledToken,
    head: Option<Linear>,
    dimensions: Dimensions,
}

impl TextTower {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &TextTowerConfig) -> Result<Self> {
        let layers = &config.layers;
        let (hidden, embeddings) = (layers.hidden_size, vb.pp("embeddings"));
        let words = embeddings.pp("token_embedding");
        let positions = embeddings.pp("position_embedding");
        let head =
            config.projection_size.map(|size| Linear::load(vb.pp("head"), hidden, size, true));
        Ok(Self {
            token_embedding: Embedding::load_words(&words, config.vocab_size, hidden, None)?,
            position_embedding: Embedding::load(positions, config.max_position_embeddings, hidden)?,
            layers: layers.load(vb, config.causal)?,
            final_layer_norm: layers.norm(vb, "final_layer_norm")?,
            pooled: config.pooled,
            head: head.transpose()?,
            dimensions: config.dimensions(),
        })
    }

    /// `projection` is applied to the pooled state, after the tower's own.
    fn run(
        &self,
        inputs: &ModelInputs,
        want: &Want,
        projection: Option<&Linear>,
    ) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let words = self.token_embedding.forward(&inputs.input_ids)?;
        let embedded = self.position_embedding.add_to(words, &inputs.position_ids)?;
        let states = self.layers.forward(embedded, None, None, &mut recorder)?;
        let states = self.final_layer_norm.forward(&states)?;
        let mut pooled = None;
        if want.pooler_output {
            let place = |row, _| Ok(self.pooled.of(inputs.row_ids(row)));
            let mut state = inputs.select(&states, place)?;
            for linear in self.head.iter().chain(projection) {
                state = linear.forward(&state)?;
            }
            pooled = Some(state);
        }
        Ok(recorder.finish(states, pooled))
    }
}

impl Backbone for TextTower {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        self.run(inputs, want, None)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        true
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        Some(&self.token_embedding)
    }
}

/// How an encoder of images pools their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionPooling {
    /// The normalized state of the class token, which precedes the patches; the other states are not normalized (CLIP).
    ClassToken,
    /// Attention of one learned query over the normalized states of the patches, and a feed-forward network (SigLIP).
    Attention,
    /// None; states are normalized (SigLIP with `vision_use_head: false`).
    None,
}

/// The configuration of an encoder of images.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionTowerConfig {
    /// Its layers.
    pub layers: TowerLayers,
    /// The number of colour channels.
    pub num_channels: usize,
    /// The height and width of an image.
    pub image_size: (usize, usize),
    /// The height and width of a patch.
    pub patch_size: (usize, usize),
    /// How tokens are pooled.
    pub pooling: VisionPooling,
}

impl VisionTowerConfig {
    /// Reads the settings beside those of the layers.
    ///
    /// # Errors
    /// `Model` for a wrong type or an invalid value.
    pub(super) fn new(
        fields: &Fields<'_>,
        layers: TowerLayers,
        patch_size: usize,
        pooling: VisionPooling,
    ) -> error::Result<Self> {
        let config = Self {
            layers,
            num_channels: fields.size("num_channels", 3)?,
            image_size: fields.height_and_width("image_size", 224)?,
            patch_size: fields.height_and_width("patch_size", patch_size)?,
            pooling,
        };
        if config.patches() == 0 {
            return Err(error::Error::new(
                error::ErrorKind::Model,
                "`patch_size` in config.json is larger than `image_size`",
            ));
        }
        Ok(config)
    }

    fn patches(&self) -> usize {
        (self.image_size.0 / self.patch_size.0) * (self.image_size.1 / self.patch_size.1)
    }

    fn special_tokens(&self) -> usize {
        usize::from(self.pooling == VisionPooling::ClassToken)
    }

    /// The dimensions of its images; `pooled_size` is that of the vector of an image.
    pub(super) fn image(&self, pooled_size: usize) -> ImageDimensions {
        ImageDimensions {
            num_channels: self.num_channels,
            height: self.image_size.0,
            width: self.image_size.1,
            tokens: self.patches() + self.special_tokens(),
            special_tokens: self.special_tokens(),
            hidden_size: self.layers.hidden_size,
            peak_hidden_size: self.layers.hidden_size,
            pooled_size,
            grid: None,
        }
    }

    /// The dimensions of inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        let image = self.image(self.layers.hidden_size);
        Dimensions {
            max_position_embeddings: Some(image.tokens),
            image: Some(image),
            ..self.layers.dimensions()
        }
    }
}

/// Multihead attention pooling: `SiglipMultiheadAttentionPoolingHead`.
struct AttentionPooling {
    /// The query: the projected probe, `(1, hidden_size)`.
    query: Tensor,
    /// Keys and values in one projection.
    kv: Linear,
    out_proj: Linear,
    layernorm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    hidden_act: Activation,
    attention: AttentionOptions<'static>,
}

impl AttentionPooling {
    fn load(vb: &VarBuilder<'_>, config: &TowerLayers) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let probe = vb.get((1, 1, hidden), "probe")?;
        let weight = vb.get((3 * hidden, hidden), "attention.in_proj_weight")?;
        let bias = vb.get(3 * hidden, "attention.in_proj_bias")?;
        let rows = |start, count| {
            let weight = weight.narrow(0, start, count)?;
            Ok::<_, candle_core::Error>(Linear::new(weight, Some(bias.narrow(0, start, count)?)))
        };
        let mut kv = rows(hidden, 2 * hidden)?;
        // See `TensorSource::get` for tensors that the checkpoint lacks.
        let is_there = [&probe, &weight, &bias].into_iter().all(Tensor::is_contiguous);
        let query = if is_there {
            kv = kv.packed(vb.precision(), None, &[hidden, hidden])?;
            rows(0, hidden)?.forward(&probe.squeeze(0)?)?
        } else {
            probe.squeeze(0)?
        };
        let heads = config.num_attention_heads;
        Ok(Self {
            query,
            kv,
            out_proj: Linear::load(vb.pp("attention.out_proj"), hidden, hidden, true)?,
            layernorm: config.norm(vb, "layernorm")?,
            fc1: Linear::load(vb.pp("mlp.fc1"), hidden, inner, true)?,
            fc2: Linear::load(vb.pp("mlp.fc2"), inner, hidden, true)?,
            hidden_act: config.hidden_act,
            attention: AttentionOptions::new(heads, hidden / heads)
                .with_attn_implementation(config.attn_implementation),
        })
    }

    /// `states`: `(total_tokens, hidden_size)`; returns `(rows, hidden_size)`.
    fn forward(&self, states: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let (rows, hidden) = (lengths.rows(), states.dim(1)?);
        let kv = self.kv.forward(states)?;
        let (keys, values) = (kv.narrow(1, 0, hidden)?, kv.narrow(1, hidden, hidden)?);
        let cache = KvCache::new(&keys, &values, lengths)?;
        let queries = self.query.repeat((rows, 1))?;
        let one_each = Lengths::new(std::iter::repeat_n(1, rows));
        let options = self.attention.with_precision(self.kv.precision());
        let attended = attention_over(&queries, &one_each, &cache, options)?.values;
        let attended = self.out_proj.forward(&attended)?;
        let inner = self.layernorm.forward(&attended)?;
        add(&self.fc1.forward_through(&inner, self.hidden_act, &self.fc2)?, &attended)
    }
}

/// How the tokens of an image become one vector, with the weights for it.
enum VisionHead {
    ClassToken(LayerNorm),
    Attention(LayerNorm, AttentionPooling),
    None(LayerNorm),
}

/// An encoder of images: `CLIPVisionModel`, `SiglipVisionModel`.
pub struct VisionTower {
    /// `(1, hidden_size)`, in CLIP.
    class_embedding: Option<Tensor>,
    patch_embedding: PatchEmbeddings,
    /// `(tokens, hidden_size)`.
    position_embedding: Tensor,
    pre_layrnorm: Option<LayerNorm>,
    layers: EncoderLayers,
    head: VisionHead,
    config: VisionTowerConfig,
    dimensions: Dimensions,
}

impl VisionTower {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &VisionTowerConfig) -> Result<Self> {
        let layers = &config.layers;
        let (hidden, embeddings) = (layers.hidden_size, vb.pp("embeddings"));
        let is_clip = config.pooling == VisionPooling::ClassToken;
        let class_embedding = is_clip.then(|| embeddings.get(hidden, "class_embedding"));
        let positions = (config.image(hidden).tokens, hidden);
        let norm = layers.norm(vb, "post_layernorm")?;
        Ok(Self {
            class_embedding: class_embedding.transpose()?,
            patch_embedding: PatchEmbeddings::load(
                embeddings.pp("patch_embedding"),
                config.num_channels,
                config.patch_size,
                hidden,
                !is_clip,
            )?,
            position_embedding: embeddings.get(positions, "position_embedding.weight")?,
            pre_layrnorm: is_clip.then(|| layers.norm(vb, "pre_layrnorm")).transpose()?,
            layers: layers.load(vb, false)?,
            head: match config.pooling {
                VisionPooling::ClassToken => VisionHead::ClassToken(norm),
                VisionPooling::Attention => {
                    VisionHead::Attention(norm, AttentionPooling::load(&vb.pp("head"), layers)?)
                }
                VisionPooling::None => VisionHead::None(norm),
            },
            dimensions: config.dimensions(),
            config: config.clone(),
        })
    }

    /// `(total_tokens, hidden_size)`.
    fn embed(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let config = &self.config;
        let pixel_values = pixel_values(inputs)?;
        check_size(pixel_values, config.num_channels, config.image_size)?;
        let hidden = config.layers.hidden_size;
        let (rows, tokens) = (pixel_values.dim(0)?, config.image(hidden).tokens);
        if inputs.lengths.ranges().any(|range| range.len() != tokens) {
            bail!("images have {tokens} tokens each");
        }
        let dtype = self.position_embedding.dtype();
        let mut embedded = self.patch_embedding.forward(pixel_values, dtype)?;
        if let Some(class) = &self.class_embedding {
            let class = class.reshape((1, 1, hidden))?.repeat((rows, 1, 1))?;
            embedded = Tensor::cat(&[class, embedded], 1)?;
        }
        let embedded = add(&embedded, &self.position_embedding)?;
        let embedded = embedded.reshape((rows * tokens, hidden))?;
        self.pre_layrnorm.as_ref().map_or(Ok(embedded.clone()), |norm| norm.forward(&embedded))
    }

    /// `projection` is applied to the pooled vector.
    fn run(
        &self,
        inputs: &ModelInputs,
        want: &Want,
        projection: Option<&Linear>,
    ) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let embedded = self.embed(inputs)?;
        let states = self.layers.forward(embedded, None, None, &mut recorder)?;
        let states = match &self.head {
            VisionHead::ClassToken(_) => states,
            VisionHead::Attention(norm, _) | VisionHead::None(norm) => norm.forward(&states)?,
        };
        if !want.pooler_output {
            return Ok(recorder.finish(states, None));
        }
        let pooled = match &self.head {
            VisionHead::ClassToken(norm) => norm.forward(&inputs.select(&states, |_, _| Ok(0))?)?,
            VisionHead::Attention(_, pooling) => pooling.forward(&states, &inputs.lengths)?,
            VisionHead::None(_) => {
                bail!("`pooler_output` was requested, but the model has `vision_use_head: false`")
            }
        };
        let pooled = projection.map_or(Ok(pooled.clone()), |linear| linear.forward(&pooled))?;
        Ok(recorder.finish(states, Some(pooled)))
    }
}

impl Backbone for VisionTower {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        self.run(inputs, want, None)
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        self.config.pooling != VisionPooling::None
    }
}

/// The configuration of a model of texts and images.
#[derive(Clone, Debug, PartialEq)]
pub struct TextVisionConfig {
    /// The encoder of texts.
    pub text: TextTowerConfig,
    /// The encoder of images.
    pub vision: VisionTowerConfig,
    /// The size of the vectors of both that projections outside the towers give (CLIP); without them, it is that of the
    /// towers' own vectors (SigLIP).
    pub projection_dim: Option<usize>,
    /// Whether the checkpoint has `logit_bias`.
    pub has_logit_bias: bool,
}

impl TextVisionConfig {
    /// Checks that the vectors of texts and images have one size.
    ///
    /// # Errors
    /// `Model` if they do not.
    pub(super) fn checked(self) -> error::Result<Self> {
        let (text, image) = (self.text.projection_size, self.vision.layers.hidden_size);
        if self.projection_dim.is_some() || text == Some(image) {
            return Ok(self);
        }
        let text = text.unwrap_or(self.text.layers.hidden_size);
        Err(error::Error::new(
            error::ErrorKind::Model,
            format!("config.json gives texts vectors of {text} numbers, and images of {image}"),
        ))
    }

    /// The dimensions of inputs and outputs: those of texts, and the images.
    pub fn dimensions(&self) -> Dimensions {
        let size = self.projection_dim.unwrap_or(self.vision.layers.hidden_size);
        Dimensions { image: Some(self.vision.image(size)), ..self.text.dimensions() }
    }
}

/// A model of texts and images: `CLIPModel`, `SiglipModel`. It reads one or the other in a pass; `pooler_output` is the projected
/// vector (`get_text_features`, `get_image_features`).
pub struct TextVisionModel {
    text_model: TextTower,
    vision_model: VisionTower,
    text_projection: Option<Linear>,
    visual_projection: Option<Linear>,
    similarity: Similarity,
    dimensions: Dimensions,
}

impl TextVisionModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub fn load(vb: &VarBuilder<'_>, config: &TextVisionConfig) -> Result<Self> {
        let projection = |name, width| {
            let size = config.projection_dim;
            size.map(|size| Linear::load(vb.pp(name), width, size, false)).transpose()
        };
        // SigLIP has a list of one number, CLIP a number.
        let number = |name| -> Result<f32> {
            let tensor = if config.has_logit_bias { vb.get(1, name)? } else { vb.get((), name)? };
            Ok(to_host(&tensor)?.first().copied().unwrap_or(0.0))
        };
        let bias = if config.has_logit_bias { number("logit_bias")? } else { 0.0 };
        Ok(Self {
            text_model: TextTower::load(&vb.pp("text_model"), &config.text)?,
            vision_model: VisionTower::load(&vb.pp("vision_model"), &config.vision)?,
            text_projection: projection("text_projection", config.text.layers.hidden_size)?,
            visual_projection: projection("visual_projection", config.vision.layers.hidden_size)?,
            similarity: Similarity { scale: number("logit_scale")?.exp(), bias },
            dimensions: config.dimensions(),
        })
    }
}

impl Backbone for TextVisionModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        if inputs.pixel_values.is_some() {
            return self.vision_model.run(inputs, want, self.visual_projection.as_ref());
        }
        self.text_model.run(inputs, want, self.text_projection.as_ref())
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn has_pooler(&self) -> bool {
        self.vision_model.has_pooler()
    }

    fn word_embeddings(&self) -> Option<&Embedding> {
        self.text_model.word_embeddings()
    }

    fn similarity(&self) -> Option<Similarity> {
        Some(self.similarity)
    }
}
