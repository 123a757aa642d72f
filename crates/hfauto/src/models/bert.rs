//! BERT: a post-norm encoder with learned absolute positions and segments; with `is_decoder`, a decoder of
//! the same layers.
//!
//! # Source
//! `src/transformers/models/bert/modeling_bert.py` at v4.57.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde_json::json;

use super::causal_lm::{CausalBackbone, CausalLM};
use super::{Backbone, Decoder, Dimensions, Fields, Head, ModelOutput, Recorder, Want};
use crate::error;
use crate::nn::{
    Activation, AttentionOptions, DistanceEmbedding, Embedding, KvCache, LayerNorm, Linear,
    ModelInputs, PositionIds, attention_cached,
};

/// The settings of BERT and of the families that share its encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Token ids.
    pub vocab_size: usize,
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
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Segments.
    pub type_vocab_size: usize,
    /// Of every layer normalisation.
    pub layer_norm_eps: f64,
    /// How positions are counted.
    pub position_ids: PositionIds,
    /// What positions do to attention.
    pub position_embedding_type: PositionEmbeddingType,
    /// Whether tokens see only those before them, as a language model's do.
    pub is_decoder: bool,
}

/// What positions do: `position_embedding_type` of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionEmbeddingType {
    /// A vector for each position, added to the word's.
    Absolute,
    /// A vector for each distance, multiplied with queries.
    RelativeKey,
    /// The same, multiplied with queries and with keys.
    RelativeKeyQuery,
}

impl PositionEmbeddingType {
    fn read(fields: &Fields<'_>) -> error::Result<Self> {
        match fields.text("position_embedding_type", "absolute")? {
            "absolute" => Ok(Self::Absolute),
            "relative_key" => Ok(Self::RelativeKey),
            "relative_key_query" => Ok(Self::RelativeKeyQuery),
            other => Err(error::Error::new(
                error::ErrorKind::Unsupported,
                format!("`position_embedding_type: {other}` in config.json is not implemented"),
            )
            .hint("implemented are: absolute, relative_key, relative_key_query")),
        }
    }
}

impl BertConfig {
    /// Reads a `config.json` of BERT.
    ///
    /// # Errors
    /// `Model` for a wrong type or an impossible value, `Unsupported` for a setting that is not
    /// implemented.
    pub fn new(fields: &Fields<'_>) -> error::Result<Self> {
        Self::with_defaults(fields, 30522, PositionIds::FromZero)
    }

    /// As [`BertConfig::new`], with what differs between the families that share the encoder.
    pub(super) fn with_defaults(
        fields: &Fields<'_>,
        vocab_size: usize,
        position_ids: PositionIds,
    ) -> error::Result<Self> {
        fields.only("add_cross_attention", &json!(false))?;
        let config = Self {
            vocab_size: fields.size("vocab_size", vocab_size)?,
            hidden_size: fields.size("hidden_size", 768)?,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 12)?,
            intermediate_size: fields.size("intermediate_size", 3072)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            max_position_embeddings: fields.size("max_position_embeddings", 512)?,
            type_vocab_size: fields.size("type_vocab_size", 2)?,
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-12)?,
            position_ids,
            position_embedding_type: PositionEmbeddingType::read(fields)?,
            is_decoder: fields.flag("is_decoder", false)?,
        };
        fields.divides(
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
        )?;
        Ok(config)
    }

    /// What the configuration says about inputs and outputs.
    pub fn dimensions(&self) -> Dimensions {
        let unused_positions = match self.position_ids {
            PositionIds::FromZero => 0,
            PositionIds::AfterPadding { padding_idx } => padding_idx as usize + 1,
        };
        Dimensions {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            vocab_size: self.vocab_size,
            type_vocab_size: Some(self.type_vocab_size),
            position_ids: self.position_ids,
            max_position_embeddings: Some(
                self.max_position_embeddings.saturating_sub(unused_positions),
            ),
            image: None,
        }
    }
}

struct BertEmbeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
    absolute: bool,
}

impl BertEmbeddings {
    fn load(vb: VarBuilder<'_>, config: &BertConfig) -> Result<Self> {
        let table = |name, rows| Embedding::load(vb.pp(name), rows, config.hidden_size);
        Ok(Self {
            word_embeddings: table("word_embeddings", config.vocab_size)?,
            position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size)?,
            layer_norm: LayerNorm::load(
                vb.pp("LayerNorm"),
                config.hidden_size,
                config.layer_norm_eps,
            )?,
            absolute: config.position_embedding_type == PositionEmbeddingType::Absolute,
        })
    }

    fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let words = self.word_embeddings.forward(&inputs.input_ids)?;
        let sum = self.token_type_embeddings.add_to(words, &inputs.token_type_ids)?;
        if !self.absolute {
            return self.layer_norm.forward(&sum);
        }
        let positions = self.position_embeddings.forward(&inputs.position_ids)?;
        self.layer_norm.forward_residual(&sum, &positions)
    }
}

struct BertLayer {
    /// `attention.self.query`, `key` and `value` as one product.
    attention_self: Linear,
    attention_output_dense: Linear,
    attention_output_layer_norm: LayerNorm,
    intermediate_dense: Linear,
    intermediate_act: Activation,
    output_dense: Linear,
    output_layer_norm: LayerNorm,
    num_attention_heads: usize,
    /// `attention.self.distance_embedding`, and whether keys are multiplied with it too.
    distance_embedding: Option<(Embedding, bool)>,
    causal: bool,
}

impl BertLayer {
    /// `input_norm` is what the states come from: the embeddings, or the layer before.
    fn load(vb: VarBuilder<'_>, config: &BertConfig, input_norm: &LayerNorm) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let norm = |name| LayerNorm::load(vb.pp(name), hidden, config.layer_norm_eps);
        let attention_output_layer_norm = norm("attention.output.LayerNorm")?;
        let qkv = ["query", "key", "value"]
            .map(|name| Linear::load(vb.pp("attention.self").pp(name), hidden, hidden, true));
        let qkv = qkv.into_iter().collect::<Result<Vec<_>>>()?;
        let distances = || {
            let vb = vb.pp("attention.self.distance_embedding");
            let head_dim = hidden / config.num_attention_heads;
            Embedding::load(vb, 2 * config.max_position_embeddings - 1, head_dim)
        };
        let distance_embedding = match config.position_embedding_type {
            PositionEmbeddingType::Absolute => None,
            PositionEmbeddingType::RelativeKey => Some((distances()?, false)),
            PositionEmbeddingType::RelativeKeyQuery => Some((distances()?, true)),
        };
        Ok(Self {
            distance_embedding,
            attention_self: Linear::fuse(&qkv)?.after(input_norm),
            attention_output_dense: Linear::load(
                vb.pp("attention.output.dense"),
                hidden,
                hidden,
                true,
            )?,
            intermediate_dense: Linear::load(
                vb.pp("intermediate.dense"),
                hidden,
                intermediate,
                true,
            )?
            .after(&attention_output_layer_norm),
            attention_output_layer_norm,
            intermediate_act: config.hidden_act,
            output_dense: Linear::load(vb.pp("output.dense"), intermediate, hidden, true)?,
            output_layer_norm: norm("output.LayerNorm")?,
            num_attention_heads: config.num_attention_heads,
            causal: config.is_decoder,
        })
    }

    fn linear_layers(&mut self) -> [&mut Linear; 4] {
        [
            &mut self.attention_self,
            &mut self.attention_output_dense,
            &mut self.intermediate_dense,
            &mut self.output_dense,
        ]
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        cache: Option<&mut KvCache>,
        output_attentions: bool,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        let hidden_size = hidden_states.dim(1)?;
        let qkv = self.attention_self.forward(hidden_states)?; // (total_tokens, 3 * hidden_size)
        let head_dim = hidden_size / self.num_attention_heads;
        let context = attention_cached(
            &qkv.narrow(1, 0, hidden_size)?,
            &qkv.narrow(1, hidden_size, hidden_size)?,
            &qkv.narrow(1, 2 * hidden_size, hidden_size)?,
            inputs,
            cache,
            AttentionOptions {
                num_heads: self.num_attention_heads,
                scale: 1.0 / (head_dim as f64).sqrt(),
                bias: None,
                distance: self.distance_embedding.as_ref().map(|(table, with_keys)| {
                    DistanceEmbedding { table: table.weight(), with_keys: *with_keys }
                }),
                causal: self.causal,
                output_attentions,
            },
        )?;
        let attended = self.attention_output_dense.forward(&context.values)?;
        let attended =
            self.attention_output_layer_norm.forward_residual(&attended, hidden_states)?;
        let output = self.intermediate_dense.forward_through(
            &attended,
            self.intermediate_act,
            &self.output_dense,
        )?;
        let output = self.output_layer_norm.forward_residual(&output, &attended)?;
        Ok((output, context.attentions))
    }
}

/// The first token of each row through a dense layer and tanh.
pub(super) struct Pooler {
    dense: Linear,
}

impl Pooler {
    /// Loads `pooler.dense` when the checkpoint has it; transformers would make up random weights.
    pub(super) fn load(vb: VarBuilder<'_>, hidden_size: usize) -> Result<Option<Self>> {
        let vb = vb.pp("pooler.dense");
        if !vb.contains_tensor("weight") {
            return Ok(None);
        }
        Ok(Some(Self { dense: Linear::load(vb, hidden_size, hidden_size, true)? }))
    }

    /// Its layer.
    pub(super) fn linear_layer(&mut self) -> &mut Linear {
        &mut self.dense
    }

    fn forward(&self, hidden_states: &Tensor, inputs: &ModelInputs) -> Result<Tensor> {
        let first = inputs.select(hidden_states, |_, _| Ok(0))?;
        let pooled = self.dense.forward_activated(&first, Activation::Tanh)?;
        if inputs.lengths.ranges().all(|range| !range.is_empty()) {
            return Ok(pooled);
        }
        // A row without tokens has zeros, not what the layer makes of them.
        let there = inputs.lengths.ranges().map(|range| u8::from(!range.is_empty()));
        let there = Tensor::from_iter(there, pooled.device())?.unsqueeze(1)?;
        there.broadcast_as(pooled.shape())?.where_cond(&pooled, &pooled.zeros_like()?)
    }

    /// The pooler's output if it is wanted.
    ///
    /// # Errors
    /// When it is wanted and the checkpoint has no pooler.
    pub(super) fn output(
        pooler: Option<&Self>,
        hidden_states: &Tensor,
        inputs: &ModelInputs,
        want: &Want,
    ) -> Result<Option<Tensor>> {
        match (want.pooler_output, pooler) {
            (false, _) => Ok(None),
            (true, Some(pooler)) => pooler.forward(hidden_states, inputs).map(Some),
            (true, None) => bail!("`pooler_output` is wanted, but the checkpoint has no pooler"),
        }
    }
}

/// BERT without a head: `BertModel`, and with other defaults `RobertaModel` and its relatives.
pub struct BertModel {
    embeddings: BertEmbeddings,
    encoder_layer: Vec<BertLayer>,
    pooler: Option<Pooler>,
    dimensions: Dimensions,
    is_decoder: bool,
}

impl BertModel {
    /// Loads the weights.
    ///
    /// # Errors
    /// When the checkpoint does not have a tensor in the shape that the configuration asks for.
    pub fn load(vb: VarBuilder<'_>, config: &BertConfig) -> Result<Self> {
        let embeddings = BertEmbeddings::load(vb.pp("embeddings"), config)?;
        let mut encoder_layer: Vec<BertLayer> = Vec::new();
        for i in 0..config.num_hidden_layers {
            let before = encoder_layer.last().map(|layer| &layer.output_layer_norm);
            let input_norm = before.unwrap_or(&embeddings.layer_norm);
            let layer = BertLayer::load(vb.pp("encoder.layer").pp(i), config, input_norm)?;
            encoder_layer.push(layer);
        }
        Ok(Self {
            embeddings,
            encoder_layer,
            pooler: Pooler::load(vb, config.hidden_size)?,
            dimensions: config.dimensions(),
            is_decoder: config.is_decoder,
        })
    }
}

impl Backbone for BertModel {
    fn forward(&self, inputs: &ModelInputs, want: &Want) -> Result<ModelOutput> {
        let mut recorder = Recorder::new(inputs, want);
        let mut hidden_states = self.embeddings.forward(inputs)?;
        recorder.hidden_state(&hidden_states);
        for layer in &self.encoder_layer {
            let (output, attentions) =
                layer.forward(&hidden_states, inputs, None, want.attentions)?;
            hidden_states = output;
            recorder.hidden_state(&hidden_states);
            recorder.attentions(attentions);
        }
        let pooled = Pooler::output(self.pooler.as_ref(), &hidden_states, inputs, want)?;
        Ok(recorder.finish(hidden_states, pooled))
    }

    fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    fn linear_layers(&mut self) -> Vec<&mut Linear> {
        self.encoder_layer.iter_mut().flat_map(BertLayer::linear_layers).collect()
    }

    fn pooler_layer(&mut self) -> Option<&mut Linear> {
        self.pooler.as_mut().map(Pooler::linear_layer)
    }

    fn word_embeddings(&self) -> Option<&Tensor> {
        Some(self.embeddings.word_embeddings.weight())
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }

    fn decoder<'a>(&'a self, head: &'a Head) -> Option<Box<dyn Decoder + 'a>> {
        let device = self.embeddings.word_embeddings.weight().device();
        let decoder = CausalLM::new(self, head, device);
        self.is_decoder.then(|| Box::new(decoder) as Box<dyn Decoder>)
    }
}

impl CausalBackbone for BertModel {
    fn forward_cached(&self, inputs: &ModelInputs, caches: &mut [KvCache]) -> Result<Tensor> {
        if caches.len() != self.encoder_layer.len() {
            bail!("{} layers got {} caches", self.encoder_layer.len(), caches.len());
        }
        let mut hidden_states = self.embeddings.forward(inputs)?;
        for (layer, cache) in self.encoder_layer.iter().zip(caches) {
            (hidden_states, _) = layer.forward(&hidden_states, inputs, Some(cache), false)?;
        }
        Ok(hidden_states)
    }
}
