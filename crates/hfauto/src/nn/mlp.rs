//! Feed-forward networks: the gated one, `down(act(gate(x)) · up(x))` (SwiGLU, GeGLU), and either kind. The entries are
//! [`GatedMlp`] and [`FeedForward`].

use candle_core::{Result, Tensor, bail};

use super::activation::Activation;
use super::gate::{Gate, GateHalf};
use super::linear::Linear;

/// A gated feed-forward network, with gate and up-projection as one product.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    gate_up: Linear,
    down: Linear,
    gate: Gate,
}

impl GatedMlp {
    /// A network from its two linear layers: gate and up-projection together, `(2 * intermediate_size, hidden_size)`, and
    /// the down-projection. [`Linear::load_fused`] joins a gate and an up-projection that are stored separately.
    pub fn new(gate_up: Linear, half: GateHalf, activation: Activation, down: Linear) -> Self {
        Self { gate_up, down, gate: Gate { half, activation } }
    }

    /// Applies the network.
    ///
    /// # Shapes
    /// `x`: `(tokens, hidden_size)`, as what is returned.
    ///
    /// # Errors
    /// If the shapes do not match or candle cannot allocate.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(output) = self.gate_up.forward_through_gate(x, self.gate, &self.down)? {
            return Ok(output);
        }
        let inner = self.gate_up.forward(x)?;
        let width = inner.dim(1)? / 2;
        if inner.dim(1)? != 2 * width {
            bail!("a gated product of {} features", inner.dim(1)?);
        }
        let (gate, up) = match self.gate.half {
            GateHalf::First => (0, width),
            GateHalf::Second => (width, 0),
        };
        let gate = inner.narrow(1, gate, width)?.contiguous()?;
        let inner = (self.gate.activation.forward(&gate)? * inner.narrow(1, up, width)?)?;
        self.down.forward(&inner)
    }
}

/// A feed-forward network with or without a gate.
#[derive(Clone, Debug)]
pub enum FeedForward {
    /// With a gate.
    Gated(GatedMlp),
    /// Two linear layers with an activation between them.
    Plain {
        /// The first layer.
        inner: Linear,
        /// What follows it.
        activation: Activation,
        /// The second layer.
        outer: Linear,
    },
}

impl FeedForward {
    /// A network from its two linear layers: with `gate`, `inner` is gate and up-projection together, as in [`GatedMlp::new`].
    pub fn new(
        inner: Linear,
        gate: Option<GateHalf>,
        activation: Activation,
        outer: Linear,
    ) -> Self {
        match gate {
            Some(half) => Self::Gated(GatedMlp::new(inner, half, activation, outer)),
            None => Self::Plain { inner, activation, outer },
        }
    }

    /// Applies the network.
    ///
    /// # Shapes
    /// As in [`GatedMlp::forward`].
    ///
    /// # Errors
    /// As [`GatedMlp::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gated(mlp) => mlp.forward(x),
            Self::Plain { inner, activation, outer } => {
                inner.forward_through(x, *activation, outer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::Precision;
    use crate::nn::random::randn;

    #[test]
    fn fused_network_agrees_with_its_parts() -> Result<()> {
        let device = Device::Cpu;
        let random = |rows, columns| randn(0f32, 0.5, (rows, columns), &device);
        for (activation, half) in [
            (Activation::Silu, GateHalf::First),
            (Activation::Gelu, GateHalf::Second),
            (Activation::GeluTanh, GateHalf::First),
        ] {
            let (gate, up, down) = (random(26, 12)?, random(26, 12)?, random(12, 26)?);
            let bias = randn(0f32, 0.5, 26, &device)?;
            // More tokens than a block has.
            let x = randn(0f32, 1., (300, 12), &device)?;
            let double = |x: &Tensor| x.to_dtype(DType::F64);
            let product =
                |w: &Tensor| double(&x)?.matmul(&double(w)?.t()?)?.broadcast_add(&double(&bias)?);
            let inner = (activation.forward(&product(&gate)?)? * product(&up)?)?;
            let exact = inner.matmul(&double(&down)?.t()?)?;
            let weights = match half {
                GateHalf::First => [&gate, &up],
                GateHalf::Second => [&up, &gate],
            };
            let weight = Tensor::cat(&weights, 0)?;
            let fused = Linear::new(weight, Some(Tensor::cat(&[&bias, &bias], 0)?));
            let down = Linear::new(down, None);
            for packed in [false, true] {
                let pack = |layer: &Linear, outputs| {
                    if packed {
                        return layer.clone().packed(Precision::Full, None, &[outputs]);
                    }
                    Ok(layer.clone())
                };
                let mlp = GatedMlp::new(pack(&fused, 52)?, half, activation, pack(&down, 12)?);
                let off = (double(&mlp.forward(&x)?)? - &exact)?.abs()?.flatten_all()?.max(0)?;
                let off = off.to_scalar::<f64>()?;
                assert!(off < 1e-4, "{activation:?}, packed: {packed}: {off:e}");
                assert_eq!(mlp.forward(&x.narrow(0, 0, 0)?)?.dims(), [0, 12]);
            }
        }
        Ok(())
    }
}
