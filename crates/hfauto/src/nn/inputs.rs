//! The inputs of one forward pass: rows of tokens, flat and without padding.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Result, Tensor, bail};

use super::host::{select_rows, to_device};
use super::lengths::Lengths;

/// Ragged inputs of one forward pass.
///
/// # Shapes
/// `input_ids`, `token_type_ids`, `position_ids`: `(total_tokens)`, u32, on the model's device. All are created here,
/// once per batch, and copied to the device together: no host tensor is built inside `forward`.
#[derive(Clone, Debug)]
pub struct ModelInputs {
    /// Token ids.
    pub input_ids: Tensor,
    /// Segment ids; models without segments ignore them.
    pub token_type_ids: Tensor,
    /// The positions, numbered as in the family.
    pub position_ids: Tensor,
    /// `(rows + 1)`, u32: the start of each row, and the end of the last.
    pub cumulative_lengths: Tensor,
    /// `(rows, channels, height, width)`, f32, for a model that reads images. The tensors above then only give the
    /// number of tokens.
    pub pixel_values: Option<Tensor>,
    /// The row lengths.
    pub lengths: Lengths,
    /// The number of leading tokens of each row that are attended to; `None` for all.
    attended: Option<Arc<[usize]>>,
    /// Token ids in host memory, for heads that search for one.
    ids: Arc<[u32]>,
    /// Positions in host memory, for rotary embeddings.
    positions: Arc<[u32]>,
    /// Created on first use, then shared by all layers.
    padding: OnceLock<Padding>,
}

/// The mapping between ragged and padded values, for a kernel that needs padding.
#[derive(Clone, Debug)]
pub struct Padding {
    /// `(rows * max)`, u32: the token at each padded position. Positions after a row's end take token 0, which `mask`
    /// hides.
    pub gather: Tensor,
    /// `(total_tokens)`, u32: the padded position of each token.
    pub scatter: Tensor,
    /// `(rows, 1, 1, max)`, f32: 0 for tokens and the lowest finite number after a row's end. It is added to the
    /// scores; −∞ would turn a row without tokens into NaN.
    pub mask: Tensor,
}

impl Padding {
    fn new(lengths: &Lengths, device: &Device) -> Result<Self> {
        let (rows, max) = (lengths.rows(), lengths.max());
        let mut gather = vec![0u32; rows * max];
        let mut mask = vec![f32::MIN; rows * max];
        let mut scatter = Vec::with_capacity(lengths.total_tokens());
        for (row, range) in lengths.ranges().enumerate() {
            for (column, token) in range.enumerate() {
                let place = row * max + column;
                gather[place] = token as u32;
                mask[place] = 0.0;
                scatter.push(place as u32);
            }
        }
        let total = scatter.len();
        Ok(Self {
            gather: Tensor::from_vec(gather, rows * max, device)?,
            scatter: Tensor::from_vec(scatter, total, device)?,
            mask: Tensor::from_vec(mask, (rows, 1, 1, max), device)?,
        })
    }
}

/// The numbering of positions in a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionIds {
    /// 0, 1, 2, … (BERT, DistilBERT).
    FromZero,
    /// `padding_idx + 1, padding_idx + 2, …` over tokens other than `padding_idx`, which get
    /// `padding_idx` itself (RoBERTa, MPNet: `create_position_ids_from_input_ids`).
    AfterPadding {
        /// `pad_token_id` of the config.
        padding_idx: u32,
    },
}

impl ModelInputs {
    /// Builds inputs from rows of `(input_ids, token_type_ids)`; missing segment ids are 0.
    ///
    /// # Errors
    /// If the device cannot hold the tensors.
    pub fn new<'a>(
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
        positions: PositionIds,
        device: &Device,
    ) -> Result<Self> {
        Self::after(rows.into_iter().map(|row| (row, 0)), positions, device)
    }

    /// As [`ModelInputs::new`], for rows that continue: each comes with the number of preceding tokens.
    ///
    /// # Errors
    /// As [`ModelInputs::new`].
    pub fn after<'a>(
        rows: impl IntoIterator<Item = ((&'a [u32], &'a [u32]), usize)>,
        positions: PositionIds,
        device: &Device,
    ) -> Result<Self> {
        let (mut input_ids, mut token_type_ids, mut position_ids) =
            (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::new();
        for ((ids, type_ids), past) in rows {
            let past = past as u32;
            lengths.push(ids.len());
            input_ids.extend_from_slice(ids);
            token_type_ids.extend_from_slice(&type_ids[..type_ids.len().min(ids.len())]);
            token_type_ids.resize(input_ids.len(), 0);
            match positions {
                PositionIds::FromZero => {
                    position_ids.extend(past..past + ids.len() as u32);
                }
                PositionIds::AfterPadding { padding_idx } => {
                    let mut next = padding_idx + past;
                    position_ids.extend(ids.iter().map(|&id| {
                        if id == padding_idx {
                            padding_idx
                        } else {
                            next += 1;
                            next
                        }
                    }));
                }
            }
        }
        let (total, lengths) = (input_ids.len(), Lengths::new(lengths));
        let (ids, positions) = (input_ids.as_slice().into(), position_ids.as_slice().into());
        let mut all = input_ids;
        all.append(&mut token_type_ids);
        all.append(&mut position_ids);
        all.append(&mut lengths.cumulative_u32());
        let all = to_device(all, device)?;
        let part = |number| all.narrow(0, number * total, total);
        Ok(Self {
            ids,
            positions,
            input_ids: part(0)?,
            token_type_ids: part(1)?,
            position_ids: part(2)?,
            cumulative_lengths: all.narrow(0, 3 * total, lengths.rows() + 1)?,
            pixel_values: None,
            lengths,
            attended: None,
            padding: OnceLock::new(),
        })
    }

    /// Lets all tokens of a row attend to its first tokens only, as an attention mask that ends before the row does: the
    /// other tokens get states, but nothing depends on them.
    ///
    /// # Errors
    /// If the numbers are not one per row, or exceed the row.
    pub fn with_attended(mut self, attended: Vec<usize>) -> Result<Self> {
        let lengths = || self.lengths.ranges().map(|range| range.len());
        if attended.len() != self.lengths.rows()
            || attended.iter().zip(lengths()).any(|(attended, length)| *attended > length)
        {
            bail!(
                "attention to {attended:?} tokens of rows of {:?}",
                lengths().collect::<Vec<_>>()
            );
        }
        let all = attended.iter().zip(lengths()).all(|(attended, length)| *attended == length);
        self.attended = (!all).then(|| attended.into());
        Ok(self)
    }

    /// The number of leading tokens of each row that are attended to; `None` for all.
    pub(super) fn attended(&self) -> Option<&[usize]> {
        self.attended.as_deref()
    }

    /// Builds inputs from images of one size, with `tokens` tokens per image.
    ///
    /// # Shapes
    /// `pixel_values`: `(rows, channels, height, width)`.
    ///
    /// # Errors
    /// If the tensor does not have four dimensions, or the device cannot hold the tensors.
    pub fn from_pixel_values(pixel_values: Tensor, tokens: usize) -> Result<Self> {
        let (rows, ..) = pixel_values.dims4()?;
        let inputs = Self::of_lengths(rows, tokens, pixel_values.device())?;
        Ok(Self { pixel_values: Some(pixel_values), ..inputs })
    }

    /// Builds inputs of `rows` rows with `tokens` tokens each, for layers that depend on nothing but the lengths.
    ///
    /// # Errors
    /// If the device cannot hold the tensors.
    pub fn of_lengths(rows: usize, tokens: usize, device: &Device) -> Result<Self> {
        let placeholders = vec![0; tokens];
        let rows = std::iter::repeat_n((&placeholders[..], &[][..]), rows);
        Self::new(rows, PositionIds::FromZero, device)
    }

    /// Checks ids and lengths on the host. A GPU cannot report an index outside a table without synchronization.
    ///
    /// # Errors
    /// If an id is not below `vocab_size`, or a row is longer than `max_positions`.
    pub fn check(&self, vocab_size: usize, max_positions: Option<usize>) -> Result<()> {
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= vocab_size) {
            bail!("token id {id} is outside the {vocab_size} of the vocabulary");
        }
        let longest = self.lengths.max();
        if let Some(max) = max_positions.filter(|max| longest > *max) {
            bail!("a row of {longest} tokens is longer than the {max} positions");
        }
        Ok(())
    }

    /// The state of the token at `place(row, len)` of each row; zeros for a row without tokens.
    ///
    /// # Shapes
    /// `states`: `(total_tokens, hidden_size)`; returns `(rows, hidden_size)`.
    ///
    /// # Errors
    /// The error of `place`, or if candle cannot allocate.
    pub fn select(
        &self,
        states: &Tensor,
        place: impl Fn(usize, usize) -> Result<usize>,
    ) -> Result<Tensor> {
        let hidden_size = states.dim(1)?;
        let (dtype, device) = (states.dtype(), states.device());
        let mut tokens = Vec::with_capacity(self.lengths.rows());
        let mut empty = false;
        for (row, range) in self.lengths.ranges().enumerate() {
            if range.is_empty() {
                empty = true;
            } else {
                tokens.push((range.start + place(row, range.len())?) as u32);
            }
        }
        let chosen = select_rows(states, tokens)?;
        if !empty {
            return Ok(chosen);
        }
        let zeros = Tensor::zeros((1, hidden_size), dtype, device)?;
        let (mut rows, mut next) = (vec![zeros.narrow(0, 0, 0)?], 0);
        for range in self.lengths.ranges() {
            if range.is_empty() {
                rows.push(zeros.clone());
            } else {
                rows.push(chosen.narrow(0, next, 1)?);
                next += 1;
            }
        }
        Tensor::cat(&rows, 0)
    }

    /// The token ids of row `row`, in host memory.
    pub fn row_ids(&self, row: usize) -> &[u32] {
        &self.ids[self.lengths.range(row)]
    }

    /// The positions of all tokens, in host memory.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The padding of these inputs, built once.
    ///
    /// # Errors
    /// If the device cannot hold the tensors.
    pub fn padding(&self) -> Result<&Padding> {
        if let Some(padding) = self.padding.get() {
            return Ok(padding);
        }
        let padding = Padding::new(&self.lengths, self.input_ids.device())?;
        Ok(self.padding.get_or_init(|| padding))
    }
}

/// A ragged result: one vector per token, row after row.
#[derive(Clone, Debug)]
pub struct Ragged {
    /// `(total_tokens, hidden_size)`.
    pub values: Tensor,
    /// The row lengths.
    pub lengths: Lengths,
}

impl Ragged {
    /// Row `row`: `(seq_len, hidden_size)`.
    ///
    /// # Errors
    /// If candle cannot narrow the tensor.
    pub fn row(&self, row: usize) -> Result<Tensor> {
        let range = self.lengths.range(row);
        self.values.narrow(0, range.start, range.len())
    }

    /// Converts to the layout of transformers: `(batch, seq_len, hidden_size)`, with short rows padded by zeros on
    /// the right.
    ///
    /// # Errors
    /// If candle cannot allocate the tensor.
    pub fn to_padded(&self) -> Result<Tensor> {
        let max = self.lengths.max();
        let rows = (0..self.lengths.rows())
            .map(|row| {
                let row = self.row(row)?;
                let missing = max - row.dim(0)?;
                if missing == 0 { Ok(row) } else { row.pad_with_zeros(0, 0, missing) }
            })
            .collect::<Result<Vec<_>>>()?;
        Tensor::stack(&rows, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_family() -> Result<()> {
        let rows: [(&[u32], &[u32]); 2] = [(&[0, 5, 1, 6], &[0; 4]), (&[7, 8], &[0; 2])];
        let positions = |kind| -> Result<Vec<u32>> {
            ModelInputs::new(rows, kind, &Device::Cpu)?.position_ids.to_vec1()
        };
        assert_eq!(positions(PositionIds::FromZero)?, [0, 1, 2, 3, 0, 1]);
        // A padding token inside a row has the padding position and is not counted.
        let after_padding = PositionIds::AfterPadding { padding_idx: 1 };
        assert_eq!(positions(after_padding)?, [2, 3, 1, 4, 2, 3]);
        let later = |kind| -> Result<Vec<u32>> {
            let rows = rows.into_iter().zip([3, 0]);
            ModelInputs::after(rows, kind, &Device::Cpu)?.position_ids.to_vec1()
        };
        assert_eq!(later(PositionIds::FromZero)?, [3, 4, 5, 6, 0, 1]);
        assert_eq!(later(after_padding)?, [5, 6, 1, 7, 2, 3]);
        Ok(())
    }

    #[test]
    fn padding_is_a_rectangle_and_back() -> Result<()> {
        let rows: [(&[u32], &[u32]); 3] = [(&[5, 6, 7], &[0; 3]), (&[], &[]), (&[8], &[0])];
        let inputs = ModelInputs::new(rows, PositionIds::FromZero, &Device::Cpu)?;
        let padding = inputs.padding()?;
        assert_eq!(padding.gather.to_vec1::<u32>()?, [0, 1, 2, 0, 0, 0, 3, 0, 0]);
        assert_eq!(padding.scatter.to_vec1::<u32>()?, [0, 1, 2, 6]);
        let rectangle = inputs.input_ids.index_select(&padding.gather, 0)?;
        let back = rectangle.index_select(&padding.scatter, 0)?;
        assert_eq!(back.to_vec1::<u32>()?, [5, 6, 7, 8]);
        let mask = padding.mask.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(mask.iter().filter(|&&m| m == 0.0).count(), 4);
        Ok(())
    }
}
