//! The embeddings of text encoders, which architectures share: words, positions and segments, summed, projected and normalized.
//! An architecture says which of them it has. Not here: rotary and relative positions.

use candle_core::{Result, Tensor};

use crate::nn::{Embedding, LayerNorm, Linear, ModelInputs, VarBuilder};

/// The settings of the embeddings.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextEmbeddingsConfig {
    pub(super) vocab_size: usize,
    /// The size of each vector.
    pub(super) embedding_size: usize,
    /// The number of positions, if there is a table of them.
    pub(super) positions: Option<usize>,
    /// Whether positions are added.
    pub(super) adds_positions: bool,
    /// The number of segments, if there is a table of them.
    pub(super) type_vocab_size: Option<usize>,
    /// The path of a projection of the sum without a bias, and its number of outputs.
    pub(super) projection: Option<(&'static str, usize)>,
    /// The epsilon of the norm, if there is one.
    pub(super) layer_norm_eps: Option<f64>,
}

/// The embeddings of a text encoder.
pub(super) struct TextEmbeddings {
    pub(super) word_embeddings: Embedding,
    position_embeddings: Option<Embedding>,
    adds_positions: bool,
    token_type_embeddings: Option<Embedding>,
    projection: Option<Linear>,
    pub(super) layer_norm: Option<LayerNorm>,
}

impl TextEmbeddings {
    /// Loads the tables under the names that BERT has given them.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor, or has it in another shape than the configuration requires.
    pub(super) fn load(vb: &VarBuilder<'_>, config: &TextEmbeddingsConfig) -> Result<Self> {
        let size = config.embedding_size;
        let table = |name, rows: Option<usize>| {
            rows.map(|rows| Embedding::load(vb.pp(name), rows, size)).transpose()
        };
        let words = vb.pp("word_embeddings");
        let projection = config
            .projection
            .map(|(name, outputs)| Linear::load(vb.pp(name).unquantized(), size, outputs, false));
        let width = config.projection.map_or(size, |(_, outputs)| outputs);
        let norm = |eps| LayerNorm::load(vb.pp("LayerNorm"), width, eps);
        Ok(Self {
            word_embeddings: Embedding::load_words(&words, config.vocab_size, size, None)?,
            position_embeddings: table("position_embeddings", config.positions)?,
            adds_positions: config.adds_positions,
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size)?,
            projection: projection.transpose()?,
            layer_norm: config.layer_norm_eps.map(norm).transpose()?,
        })
    }

    /// Embeds the tokens.
    ///
    /// # Shapes
    /// Returns `(total_tokens, embedding_size)`, or as many features as the projection has outputs.
    ///
    /// # Errors
    /// If an id or position is outside its table, or candle cannot allocate.
    pub(super) fn forward(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let mut sum = self.word_embeddings.forward(&inputs.input_ids)?;
        if let Some(table) = &self.token_type_embeddings {
            sum = table.add_to(sum, &inputs.token_type_ids)?;
        }
        let positions = self.position_embeddings.as_ref().filter(|_| self.adds_positions);
        match (positions, &self.projection, &self.layer_norm) {
            (Some(positions), None, Some(norm)) => {
                return norm.forward_residual(&sum, &positions.forward(&inputs.position_ids)?);
            }
            (Some(positions), ..) => sum = positions.add_to(sum, &inputs.position_ids)?,
            (None, ..) => {}
        }
        if let Some(projection) = &self.projection {
            sum = projection.forward(&sum)?;
        }
        self.layer_norm.as_ref().map_or(Ok(sum.clone()), |norm| norm.forward(&sum))
    }
}
