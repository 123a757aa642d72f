//! Lookup tables: one vector an id.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// A table of vectors, as `torch.nn.Embedding`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Loads `weight` of `(num_embeddings, hidden_size)`.
    ///
    /// # Errors
    /// When the checkpoint does not have it in this shape.
    pub fn load(vb: VarBuilder<'_>, num_embeddings: usize, hidden_size: usize) -> Result<Self> {
        Ok(Self { weight: vb.get((num_embeddings, hidden_size), "weight")? })
    }

    /// The table, `(num_embeddings, hidden_size)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Looks up `ids`.
    ///
    /// # Shapes
    /// `ids`: `(tokens)`, u32; returns `(tokens, hidden_size)`.
    ///
    /// # Errors
    /// When an id is outside the table; on a card, the vector of such an id is NaN instead, for nobody waits there.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        if ids.elem_count() == 0 {
            return Tensor::zeros((0, self.weight.dim(1)?), self.weight.dtype(), ids.device());
        }
        #[cfg(feature = "cuda")]
        if super::cuda::applies(&self.weight) {
            return super::cuda::lookup(&self.weight, ids, None);
        }
        self.weight.index_select(ids, 0)
    }

    /// Adds the vectors of `ids` to `sum`.
    ///
    /// # Shapes
    /// `sum`: `(tokens, hidden_size)`, a tensor that nobody else holds: on a card it is written in place.
    ///
    /// # Errors
    /// As [`Embedding::forward`].
    pub fn add_to(&self, sum: Tensor, ids: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if super::cuda::applies(&self.weight) {
            return super::cuda::lookup(&self.weight, ids, Some(sum));
        }
        sum + self.forward(ids)?
    }
}
