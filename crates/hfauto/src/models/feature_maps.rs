//! Maps of features as tokens, one per cell, row after row: what convolutional networks share. Not here: the convolutions.

use candle_core::{Result, Tensor};

use super::{Dimensions, ImageDimensions, ImageGrid, ModelOutput, Recorder};
use crate::error;
use crate::limits;
use crate::nn::{Lengths, PositionIds, Ragged};

/// A map of features as tokens.
///
/// # Shapes
/// `(rows, channels, height, width)` to `(rows * height * width, channels)`.
///
/// # Errors
/// If candle cannot allocate.
pub(super) fn to_tokens(map: &Tensor) -> Result<Tensor> {
    let (rows, channels, height, width) = map.dims4()?;
    map.permute((0, 2, 3, 1))?.reshape((rows * height * width, channels))
}

/// Tokens as a map of features, the reverse of [`to_tokens`].
///
/// # Errors
/// If the shapes do not match or candle cannot allocate.
pub(super) fn to_map(
    tokens: &Tensor,
    (rows, height, width): (usize, usize, usize),
) -> Result<Tensor> {
    let channels = tokens.dim(1)?;
    tokens.reshape((rows, height, width, channels))?.permute((0, 3, 1, 2))?.contiguous()
}

/// Checks that every stage has a size and a depth.
///
/// # Errors
/// `Model` if there are not as many of both, or too many layers.
pub(super) fn check_stages(hidden_sizes: &[usize], depths: &[usize]) -> error::Result<()> {
    let depth = depths.iter().fold(0usize, |sum, depth| sum.saturating_add(*depth));
    if hidden_sizes.len() == depths.len() && depth <= limits::MODEL_LAYERS {
        return Ok(());
    }
    Err(error::Error::new(
        error::ErrorKind::Model,
        format!(
            "config.json has `hidden_sizes` for {} stages and `depths` for {}, with {depth} layers",
            hidden_sizes.len(),
            depths.len()
        ),
    ))
}

/// The dimensions of a model whose tokens are the cells of a map of features. `hidden_sizes` are those of its stages, each of which
/// has a quarter of the cells of the one before.
pub(super) fn of_maps(
    hidden_sizes: &[usize],
    num_hidden_layers: usize,
    num_channels: usize,
    image_size: (usize, usize),
    grid: ImageGrid,
) -> Dimensions {
    let tokens = grid.cells(image_size.0, image_size.1).iter().product::<usize>().max(1);
    let hidden_size = hidden_sizes.last().copied().unwrap_or(1);
    let widths = hidden_sizes.iter().rev().scan(1usize, |cells, size| {
        let width = cells.saturating_mul(*size);
        *cells = cells.saturating_mul(4);
        Some(width)
    });
    Dimensions {
        hidden_size,
        num_hidden_layers,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: hidden_size,
        vocab_size: 0,
        type_vocab_size: None,
        position_ids: PositionIds::FromZero,
        extrapolates: true,
        max_position_embeddings: Some(tokens),
        image: Some(ImageDimensions {
            num_channels,
            height: image_size.0,
            width: image_size.1,
            tokens,
            special_tokens: 0,
            hidden_size,
            peak_hidden_size: widths.max().unwrap_or(hidden_size),
            pooled_size: hidden_size,
            grid: Some(grid),
        }),
    }
}

/// The output of a model from its maps: the last one, and one per stage if they are requested.
///
/// # Errors
/// If candle cannot allocate.
pub(super) fn finish(
    recorder: Recorder<'_>,
    last: &Tensor,
    maps: &[Tensor],
    pooled: Option<Tensor>,
) -> Result<ModelOutput> {
    let tokens = |map: &Tensor| -> Result<Ragged> {
        let (rows, _, height, width) = map.dims4()?;
        Ok(cells(to_tokens(map)?, rows, [height, width]))
    };
    let states = recorder.hidden_states.is_some().then(|| maps.iter().map(tokens).collect());
    Ok(finish_cells(recorder, tokens(last)?, states.transpose()?, pooled))
}

/// The cells of the maps of `rows` images, `(rows * height * width, channels)`.
pub(super) fn cells(values: Tensor, rows: usize, [height, width]: [usize; 2]) -> Ragged {
    Ragged { values, lengths: Lengths::new(std::iter::repeat_n(height * width, rows)) }
}

/// The output of a model from the cells of its last map, and of one map per stage if they are requested.
pub(super) fn finish_cells(
    recorder: Recorder<'_>,
    last: Ragged,
    hidden_states: Option<Vec<Ragged>>,
    pooler_output: Option<Tensor>,
) -> ModelOutput {
    ModelOutput {
        last_hidden_state: last,
        pooler_output,
        hidden_states,
        // A convolution has none; those of windows are not kept.
        attentions: recorder.attentions.map(|_| Vec::new()),
    }
}

/// The mean of each map: `(rows, channels)`.
pub(super) fn mean_of_maps(map: &Tensor) -> Result<Tensor> {
    map.flatten_from(2)?.mean(2)
}
