//! The gate of a feed-forward network: which half of a fused product it is, and its activation. Not here: the network (`mlp`).

use super::activation::Activation;

/// Which half of the fused product is the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateHalf {
    /// The first (`gate_proj` before `up_proj`).
    First,
    /// The second.
    Second,
}

/// The activation of the gate, and the half that it applies to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    pub(super) half: GateHalf,
    pub(super) activation: Activation,
}

impl Gate {
    /// Appends `act(gate) · up` of rows of `2 * width` to `out`, which then has rows of `width`. The gates are
    /// overwritten.
    pub(super) fn append(self, out: &mut Vec<f32>, rows: &mut [f32], width: usize) {
        for row in rows.chunks_exact_mut(2 * width) {
            let (first, second) = row.split_at_mut(width);
            let (gate, up) = match self.half {
                GateHalf::First => (first, second),
                GateHalf::Second => (second, first),
            };
            self.activation.apply(gate);
            out.extend(gate.iter().zip(up).map(|(gate, up)| *gate * *up));
        }
    }
}
