//! What architectures share: ragged inputs, attention, normalisation, activations, pooling. Not here: a
//! whole architecture (`crate::models`), Arrow, DataFusion. The entry is [`inputs::ModelInputs`].

mod inputs;

pub use inputs::{Lengths, ModelInputs, PositionIds, Ragged};
