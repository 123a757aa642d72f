//! A normalization that is either kind, as an architecture's settings say. Not here: their computation (`layer_norm`,
//! `rms_norm`). The entry is [`Norm`].

use candle_core::{Result, Tensor};

use super::layer_norm::LayerNorm;
use super::precision::InputNorm;
use super::rms_norm::RmsNorm;
use super::var_builder::VarBuilder;

/// The kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square.
    Rms,
    /// The same with stored weights of 1 less (Gemma).
    RmsLessOne,
    /// Layer normalization with a bias.
    Layer,
    /// Layer normalization without a bias.
    LayerNoBias,
    /// Layer normalization with neither weight nor bias.
    LayerPlain,
}

/// A normalization over the last axis.
#[derive(Clone, Debug)]
pub enum Norm {
    /// Root mean square.
    Rms(RmsNorm),
    /// Layer normalization.
    Layer(LayerNorm),
}

impl Norm {
    /// Loads a norm of `size` features.
    ///
    /// # Errors
    /// When the checkpoint lacks a tensor of it or has another shape.
    pub fn load(vb: VarBuilder<'_>, size: usize, eps: f64, kind: NormKind) -> Result<Self> {
        Ok(match kind {
            NormKind::Rms => Self::Rms(RmsNorm::load(vb, size, eps)?),
            NormKind::RmsLessOne => Self::Rms(RmsNorm::load_less_one(vb, size, eps)?),
            NormKind::Layer => Self::Layer(LayerNorm::load(vb, size, eps)?),
            NormKind::LayerNoBias => Self::Layer(LayerNorm::load_without_bias(vb, size, eps)?),
            NormKind::LayerPlain => {
                Self::Layer(LayerNorm::plain(size, eps, vb.dtype(), vb.device())?)
            }
        })
    }

    /// Normalizes `x`.
    ///
    /// # Errors
    /// When the shapes do not match or candle cannot allocate.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }

    /// Normalizes each head of `x` separately; see [`RmsNorm::forward_heads`].
    ///
    /// # Errors
    /// As [`Norm::forward`].
    pub fn forward_heads(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward_heads(x),
            Self::Layer(norm) => norm.forward_heads(x),
        }
    }
}

impl InputNorm for Norm {
    fn output_magnitudes(&self) -> Result<Vec<f32>> {
        match self {
            Self::Rms(norm) => norm.output_magnitudes(),
            Self::Layer(norm) => norm.output_magnitudes(),
        }
    }
}
