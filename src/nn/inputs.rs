//! What one forward pass gets: rows of tokens, flat and without padding.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

/// The lengths of the rows of a ragged batch and where each starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// `rows + 1` offsets; row `i` has tokens `cumulative[i]..cumulative[i + 1]`.
    cumulative: Arc<[usize]>,
    max: usize,
}

impl Lengths {
    /// From one length a row.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut cumulative = vec![0];
        let (mut total, mut max) = (0, 0);
        for length in lengths {
            total += length;
            max = max.max(length);
            cumulative.push(total);
        }
        Self { cumulative: cumulative.into(), max }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.cumulative.len() - 1
    }

    /// Number of tokens of all rows.
    pub fn total_tokens(&self) -> usize {
        self.cumulative[self.rows()]
    }

    /// Tokens of the longest row.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Tokens that the same rows would take when padded to the longest.
    pub fn padded_tokens(&self) -> usize {
        self.max * self.rows()
    }

    /// The range of row `row` in the flat token axis.
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.cumulative[row]..self.cumulative[row + 1]
    }

    /// The ranges of all rows, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> + '_ {
        (0..self.rows()).map(|row| self.range(row))
    }
}

/// Ragged inputs of one forward pass.
///
/// # Shapes
/// `input_ids`, `token_type_ids`, `position_ids`: `(total_tokens)`, u32, on the model's device. All of
/// them are made here, once a batch: a model builds no host tensor inside `forward`.
#[derive(Clone, Debug)]
pub struct ModelInputs {
    /// Token ids.
    pub input_ids: Tensor,
    /// Segment ids; models without segments ignore them.
    pub token_type_ids: Tensor,
    /// Positions as the family counts them.
    pub position_ids: Tensor,
    /// The rows.
    pub lengths: Lengths,
}

/// How a family numbers positions.
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
    /// Builds inputs from rows of `(input_ids, token_type_ids)`.
    ///
    /// # Errors
    /// When the device cannot hold the tensors.
    pub fn new<'a>(
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
        positions: PositionIds,
        device: &Device,
    ) -> Result<Self> {
        let (mut input_ids, mut token_type_ids, mut position_ids) =
            (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::new();
        for (ids, type_ids) in rows {
            debug_assert_eq!(ids.len(), type_ids.len());
            lengths.push(ids.len());
            input_ids.extend_from_slice(ids);
            token_type_ids.extend_from_slice(type_ids);
            match positions {
                PositionIds::FromZero => position_ids.extend(0..ids.len() as u32),
                PositionIds::AfterPadding { padding_idx } => {
                    let mut next = padding_idx;
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
        let total = input_ids.len();
        Ok(Self {
            input_ids: Tensor::from_vec(input_ids, total, device)?,
            token_type_ids: Tensor::from_vec(token_type_ids, total, device)?,
            position_ids: Tensor::from_vec(position_ids, total, device)?,
            lengths: Lengths::new(lengths),
        })
    }
}

/// A ragged result: one vector a token, rows one after another.
#[derive(Clone, Debug)]
pub struct Ragged {
    /// `(total_tokens, hidden_size)`.
    pub values: Tensor,
    /// The rows.
    pub lengths: Lengths,
}

impl Ragged {
    /// Row `row`: `(seq_len, hidden_size)`.
    ///
    /// # Errors
    /// When candle cannot narrow the tensor.
    pub fn row(&self, row: usize) -> Result<Tensor> {
        let range = self.lengths.range(row);
        self.values.narrow(0, range.start, range.len())
    }

    /// The layout of transformers: `(batch, seq_len, hidden_size)`, short rows padded with zeros on the
    /// right.
    ///
    /// # Errors
    /// When candle cannot allocate the tensor.
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
