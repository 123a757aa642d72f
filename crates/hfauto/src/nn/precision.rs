//! The precision of linear layers on a CPU. Not here: the layers.

use candle_core::Result;

/// How layers compute on a CPU, which determines the form of their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// In the dtype of the weight.
    Full,
    /// In bf16 with sums in f32 where the processor supports it; elsewhere in f32, with weights that are widened in the product.
    /// Attention of encoders, which has no weights, does the same.
    Bf16,
    /// In 8-bit integers: weights are quantized at load, per output, and inputs in each forward pass, per token.
    /// Attention of encoders is that of [`Precision::Bf16`].
    Int8,
}

/// A norm whose weights calibrate the quantization of the layer that it precedes.
pub trait InputNorm {
    /// The expected magnitude of each output feature: its root mean square for normally distributed inputs.
    ///
    /// # Errors
    /// If the weights cannot be read.
    fn output_magnitudes(&self) -> Result<Vec<f32>>;
}
