//! Biases on attention scores by the relative position of two cells of a grid: of an image (BEiT), or of a window of a map (Swin). Not
//! here: attention itself.

use std::iter::repeat_n;

use candle_core::{Device, Result, Tensor, bail};

use crate::limits;
use crate::nn::VarBuilder;

/// The entries of a table after those of relative positions, for a class token: from it to a cell, from a cell to it, and from it to
/// itself.
pub(super) const OF_CLASS_TOKEN: usize = 3;

/// The number of relative positions along an axis of this many cells.
pub(super) fn relative_positions(cells: usize) -> usize {
    cells.saturating_mul(2).saturating_sub(1)
}

/// Loads a table of biases, `(positions, num_heads)`, as `(num_heads, positions)`.
///
/// # Errors
/// If the checkpoint lacks it, or has it in another shape.
pub(super) fn load_table(
    vb: &VarBuilder<'_>,
    positions: usize,
    num_heads: usize,
) -> Result<Tensor> {
    let table = vb.get((positions, num_heads), "relative_position_bias_table")?;
    // See `TensorSource::get` for tensors that the checkpoint lacks.
    if table.is_contiguous() { table.t()?.contiguous() } else { table.t() }
}

/// The entry of a table of biases for each pair of tokens: the cells of a grid row by row, after a class token if there is one.
pub(super) struct RelativeGrid {
    /// `(tokens * tokens)`, u32: those of the first query, then of the next.
    entries: Tensor,
    tokens: usize,
}

impl RelativeGrid {
    /// The pairs of a grid with cells in both directions.
    ///
    /// # Errors
    /// If the biases would take too much memory, or candle cannot allocate.
    ///
    /// # Source
    /// `BeitRelativePositionBias.generate_relative_position_index` of `modeling_beit.py` at v5.24.
    pub(super) fn new(
        [down, across]: [usize; 2],
        class_token: bool,
        device: &Device,
    ) -> Result<Self> {
        let cells = down.saturating_mul(across);
        let tokens = cells.saturating_add(usize::from(class_token));
        if cells == 0 || tokens > limits::RELATIVE_POSITIONS {
            let most = limits::RELATIVE_POSITIONS;
            bail!("OUT_OF_MEMORY: relative positions of {tokens} tokens, more than {most}");
        }
        let line = relative_positions(across);
        let positions = relative_positions(down) * line;
        let mut entries = Vec::with_capacity(tokens * tokens);
        let of_class_token = positions as u32;
        if class_token {
            entries.push(of_class_token + 2);
            entries.extend(repeat_n(of_class_token, cells));
        }
        for query in 0..cells {
            if class_token {
                entries.push(of_class_token + 1);
            }
            let (y, x) = (query / across, query % across);
            for key_y in 0..down {
                let first = (y + down - 1 - key_y) * line + x + across - 1;
                entries.extend((0..across).map(|key_x| (first - key_x) as u32));
            }
        }
        Ok(Self { entries: Tensor::from_vec(entries, tokens * tokens, device)?, tokens })
    }

    /// The biases of all pairs, as attention adds them.
    ///
    /// # Shapes
    /// `table`: `(num_heads, positions)`; returns `(num_heads, tokens, tokens)`.
    ///
    /// # Errors
    /// If the table has other positions, or candle cannot allocate.
    pub(super) fn biases(&self, table: &Tensor) -> Result<Tensor> {
        let num_heads = table.dim(0)?;
        table.index_select(&self.entries, 1)?.reshape((num_heads, self.tokens, self.tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries that `generate_relative_position_index((2, 3))` of transformers gives.
    #[test]
    fn pairs_have_the_entries_of_transformers() -> Result<()> {
        let grid = RelativeGrid::new([2, 3], true, &Device::Cpu)?;
        let entries = grid.entries.to_vec1::<u32>()?;
        let rows: Vec<&[u32]> = entries.chunks_exact(7).collect();
        assert_eq!(rows[0], [17, 15, 15, 15, 15, 15, 15]);
        assert_eq!(rows[1], [16, 7, 6, 5, 2, 1, 0]);
        assert_eq!(rows[6], [16, 14, 13, 12, 9, 8, 7]);
        let table = Tensor::arange(0f32, 36., &Device::Cpu)?.reshape((2, 18))?;
        let biases = grid.biases(&table)?.to_vec3::<f32>()?;
        assert_eq!((biases[0][1][5], biases[1][6][1]), (1.0, 32.0));
        let window = RelativeGrid::new([2, 3], false, &Device::Cpu)?;
        assert_eq!(window.entries.to_vec1::<u32>()?[..6], rows[1][1..]);
        assert!(RelativeGrid::new([1 << 20, 1 << 20], false, &Device::Cpu).is_err());
        Ok(())
    }
}
