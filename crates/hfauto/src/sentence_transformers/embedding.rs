//! One embedding per text: the transformer, the modules after it, and truncation.

use candle_core::Tensor;

use crate::auto::{AutoModel, AutoTokenizer, EncodeOptions, Head};
use crate::error::{Result, forward_failed};
use crate::models::Want;
use crate::nn::normalize;

/// The steps from the modules' output to an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// The number of prompt tokens at the start of each row that are not pooled: 0, or [`prompt_tokens`].
    pub prompt_tokens: usize,
    /// The number of dimensions after truncation (`truncate_dim`).
    pub dimensions: usize,
    /// Whether vectors are scaled to unit length after truncation (`normalize_embeddings`).
    pub normalize: bool,
}

impl Embedding {
    /// The embeddings of rows of `(input_ids, token_type_ids)`, in one forward pass.
    ///
    /// # Shapes
    /// Returns `(rows, dimensions)`, f32, on the model's device.
    ///
    /// # Errors
    /// `Internal` when a tensor operation fails.
    pub fn forward<'a>(
        &self,
        model: &AutoModel,
        modules: &Head,
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    ) -> Result<Tensor> {
        let inputs = model.inputs(rows).map_err(forward_failed)?;
        let want = Want { pooler_output: modules.needs_pooler_output(), ..Want::default() };
        let output = model.backbone().forward(&inputs, &want);
        output
            .and_then(|output| modules.forward_output(&output, self.prompt_tokens))
            .and_then(|pooled| self.cut(&pooled))
            .map_err(forward_failed)
    }

    /// Applies `truncate_dim`, then `normalize_embeddings`.
    fn cut(&self, pooled: &Tensor) -> candle_core::Result<Tensor> {
        let pooled = pooled.narrow(1, 0, self.dimensions)?.contiguous()?;
        if self.normalize { normalize(&pooled) } else { Ok(pooled) }
    }
}

/// The number of prompt tokens at the start of a row, without a trailing special token.
///
/// # Errors
/// As [`AutoTokenizer::encode`].
pub fn prompt_tokens(prompt: &str, tokenizer: &AutoTokenizer, max_length: usize) -> Result<usize> {
    let options = EncodeOptions { max_length: Some(max_length), ..EncodeOptions::default() };
    let encoding = tokenizer.encode(prompt, &options)?;
    let special = tokenizer.all_special_ids();
    let ends = encoding.input_ids.last().is_some_and(|last| special.contains(last));
    Ok(encoding.input_ids.len() - usize::from(ends))
}
