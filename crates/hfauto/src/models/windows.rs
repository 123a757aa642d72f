//! Windows of a map of cells, within which attention is computed, and the masks of shifted windows (Swin). Not here: layers, and the
//! biases by relative position.

use candle_core::{Device, Result, Tensor};

use crate::nn::{AttentionOptions, ModelInputs, attention};

/// What is added to the scores of cells that are next to each other only because the map was shifted.
const MASKED: f32 = -100.0;

/// Selects rows of `x`; with `padded`, the number after the last one selects zeros.
///
/// # Errors
/// If there is no such row, or candle cannot allocate.
pub(super) fn gather(x: &Tensor, rows: &Tensor, padded: bool) -> Result<Tensor> {
    let x = x.contiguous()?;
    if padded { x.pad_with_zeros(0, 0, 1)?.index_select(rows, 0) } else { x.index_select(rows, 0) }
}

/// How the cells of the maps of a batch are divided into square windows. Windows with the same mask follow one another.
pub(super) struct Windows {
    /// The cell at each place of the windows, u32; the number of cells for a place beyond the map.
    cells: Tensor,
    /// The place of each cell, u32.
    places: Tensor,
    /// Whether there are places beyond the map.
    padded: bool,
    groups: Vec<Group>,
}

/// Windows with the same mask.
struct Group {
    /// One row for each window.
    windows: ModelInputs,
    /// `(side * side, side * side)`, if some cells of a window do not attend to each other.
    mask: Option<Tensor>,
}

impl Windows {
    /// Divides the maps of `rows` images, after moving their cells up and to the left by `shift`, which is less than `side`. Cells that
    /// leave a map come back at the other end, and windows are filled with zeros there.
    ///
    /// # Errors
    /// If candle cannot allocate.
    ///
    /// # Source
    /// `SwinLayer.forward` and `SwinLayer.get_attn_mask` of `modeling_swin.py` at v5.24.
    pub(super) fn new(
        rows: usize,
        [height, width]: [usize; 2],
        side: usize,
        shift: usize,
        device: &Device,
    ) -> Result<Self> {
        let (down, across) = (height.div_ceil(side), width.div_ceil(side));
        let (padded_height, padded_width) = (down * side, across * side);
        let count = rows * height * width;
        let mut cells = Vec::with_capacity(rows * padded_height * padded_width);
        let mut places = vec![0u32; count];
        let mut groups = Vec::new();
        for edges in [[false, false], [false, true], [true, false], [true, true]] {
            let mut windows = 0;
            for window in 0..rows * down * across {
                let (row, top, left) =
                    (window / (down * across), window / across % down, window % across);
                let own = [shift > 0 && top + 1 == down, shift > 0 && left + 1 == across];
                if own != edges {
                    continue;
                }
                windows += 1;
                for place in 0..side * side {
                    let y = (top * side + place / side + shift) % padded_height;
                    let x = (left * side + place % side + shift) % padded_width;
                    if y < height && x < width {
                        let cell = (row * height + y) * width + x;
                        places[cell] = cells.len() as u32;
                        cells.push(cell as u32);
                    } else {
                        cells.push(count as u32);
                    }
                }
            }
            if windows > 0 {
                groups.push(Group {
                    windows: ModelInputs::of_lengths(windows, side * side, device)?,
                    mask: mask(side, shift, edges, device)?,
                });
            }
        }
        let padded = cells.len() > count;
        let tensor = |values: Vec<u32>| {
            let count = values.len();
            Tensor::from_vec(values, count, device)
        };
        Ok(Self { cells: tensor(cells)?, places: tensor(places)?, padded, groups })
    }

    /// The cells in the order of the windows.
    ///
    /// # Shapes
    /// `(cells, width)` to `(places, width)`.
    ///
    /// # Errors
    /// If the shapes do not match or candle cannot allocate.
    pub(super) fn split(&self, cells: &Tensor) -> Result<Tensor> {
        gather(cells, &self.cells, self.padded)
    }

    /// The reverse of [`Windows::split`], without the places beyond the map.
    ///
    /// # Errors
    /// As [`Windows::split`].
    pub(super) fn join(&self, places: &Tensor) -> Result<Tensor> {
        gather(places, &self.places, false)
    }

    /// Attention within each window.
    ///
    /// # Shapes
    /// `qkv`: queries, keys and values, `(places, 3 * width)`; `bias`: `(num_heads, side * side, side * side)`. Returns
    /// `(places, width)`.
    ///
    /// # Errors
    /// As [`attention`].
    pub(super) fn attend(
        &self,
        qkv: &Tensor,
        bias: &Tensor,
        options: AttentionOptions<'_>,
    ) -> Result<Tensor> {
        let width = qkv.dim(1)? / 3;
        let (mut start, mut values) = (0, Vec::with_capacity(self.groups.len()));
        for Group { windows, mask } in &self.groups {
            let tokens = windows.lengths.total_tokens();
            let own = qkv.narrow(0, start, tokens)?;
            let part = |number: usize| own.narrow(1, number * width, width);
            let masked =
                mask.as_ref().map(|mask| bias.broadcast_add(&mask.to_dtype(bias.dtype())?));
            let masked = masked.transpose()?;
            let options = options.with_bias(Some(masked.as_ref().unwrap_or(bias)));
            values.push(attention(&part(0)?, &part(1)?, &part(2)?, windows, options)?.values);
            start += tokens;
        }
        match &values[..] {
            [values] => Ok(values.clone()),
            groups => Tensor::cat(groups, 0),
        }
    }
}

/// The mask of the windows at the lower edge and at the right one: `shift` lines there come from the other end of the map.
fn mask(
    side: usize,
    shift: usize,
    [bottom, right]: [bool; 2],
    device: &Device,
) -> Result<Option<Tensor>> {
    if !(bottom || right) {
        return Ok(None);
    }
    let came_back = |place: usize| {
        [bottom && place / side >= side - shift, right && place % side >= side - shift]
    };
    let places = side * side;
    let scores = (0..places).flat_map(|query| {
        (0..places).map(move |key| if came_back(query) == came_back(key) { 0.0 } else { MASKED })
    });
    Tensor::from_vec(scores.collect(), (places, places), device).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
        tensor.flatten_all()?.to_vec1()
    }

    #[test]
    fn cells_leave_and_come_back() -> Result<()> {
        // Two maps of 5 by 4 cells in windows of 3: 6 by 6 places each.
        for shift in [0, 1] {
            let windows = Windows::new(2, [5, 4], 3, shift, &Device::Cpu)?;
            let cells = Tensor::arange(1f32, 81., &Device::Cpu)?.reshape((40, 2))?;
            let places = windows.split(&cells)?;
            assert_eq!(places.dims(), [72, 2]);
            assert_eq!(flat(&windows.join(&places)?)?, flat(&cells)?);
            let zeros = flat(&places)?.into_iter().filter(|number| *number == 0.0).count();
            assert_eq!(zeros, 2 * (72 - 40));
        }
        Ok(())
    }

    /// The masks of `SwinLayer.get_attn_mask` for windows of 2 that are shifted by 1.
    #[test]
    fn masks_part_what_the_shift_has_joined() -> Result<()> {
        let windows = Windows::new(1, [4, 6], 2, 1, &Device::Cpu)?;
        let counts: Vec<usize> =
            windows.groups.iter().map(|group| group.windows.lengths.rows()).collect();
        assert_eq!(counts, [2, 1, 2, 1]);
        let mask = |group: usize| flat(windows.groups[group].mask.as_ref().unwrap());
        assert!(windows.groups[0].mask.is_none());
        assert_eq!(mask(1)?[..4], [0.0, MASKED, 0.0, MASKED]);
        assert_eq!(mask(2)?[..4], [0.0, 0.0, MASKED, MASKED]);
        assert_eq!(mask(3)?[12..], [MASKED, MASKED, MASKED, 0.0]);
        // The first window begins with the cell at (1, 1).
        assert_eq!(windows.cells.to_vec1::<u32>()?[..4], [7, 8, 13, 14]);
        Ok(())
    }
}
