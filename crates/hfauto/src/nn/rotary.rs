//! Rotary position embeddings: queries and keys turn by angles that grow with the position.
//!
//! The angles of a batch are taken once and shared by all layers; which frequencies a row has depends on its own length and
//! never on its neighbours. Features turn in halves, `x[i]` with `x[i + n]`, as in every family of transformers that is here.
//! Not here: which layers turn (`crate::models`). The entries are [`RotaryConfig`] and [`RotaryEmbedding`].

mod config;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};
use pulp::Arch;

pub use config::{RotaryConfig, RotaryLayout};

use super::cpu::{self, CpuView};
use super::lengths::Lengths;
use crate::limits;

/// Positions that a table begins with.
const FIRST_POSITIONS: usize = 128;

/// Frequencies, and the cosines and sines of the positions so far.
#[derive(Debug)]
struct Table {
    inv_freq: Vec<f32>,
    attention_factor: f32,
    /// A row for each position: cosines, then sines, times the attention factor.
    rows: Mutex<Arc<Vec<f32>>>,
}

impl Table {
    fn new(inv_freq: Vec<f32>, attention_factor: f32) -> Self {
        Self { inv_freq, attention_factor, rows: Mutex::default() }
    }

    /// Appends the rows of `positions` to `out`.
    fn compute(&self, out: &mut Vec<f32>, positions: impl Iterator<Item = u32>) {
        for position in positions {
            // The product is rounded to f32, as in the source.
            let angles =
                self.inv_freq.iter().map(|frequency| f64::from(position as f32 * frequency));
            out.extend(angles.clone().map(|angle| angle.cos() as f32 * self.attention_factor));
            out.extend(angles.map(|angle| angle.sin() as f32 * self.attention_factor));
        }
    }

    /// The rows of the positions before `end`; `None` where they would be too many.
    fn covering(&self, end: usize) -> Option<Arc<Vec<f32>>> {
        let width = 2 * self.inv_freq.len();
        let most = limits::ROTARY_TABLE_NUMBERS / width;
        if end > most {
            return None;
        }
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let have = rows.len() / width;
        if have < end {
            let end = end.next_power_of_two().clamp(FIRST_POSITIONS.min(most), most);
            let mut more = Vec::with_capacity(end * width);
            more.extend_from_slice(&rows);
            self.compute(&mut more, have as u32..end as u32);
            *rows = Arc::new(more);
        }
        Some(Arc::clone(&rows))
    }

    /// Appends the rows of `positions`, all before `end`, to `out`.
    fn gather(&self, out: &mut Vec<f32>, positions: &[u32], end: usize) {
        let width = 2 * self.inv_freq.len();
        let Some(rows) = self.covering(end) else {
            return self.compute(out, positions.iter().copied());
        };
        for position in positions {
            out.extend_from_slice(&rows[*position as usize * width..][..width]);
        }
    }
}

/// The rotary embedding of one layer type.
#[derive(Debug)]
pub struct RotaryEmbedding {
    config: RotaryConfig,
    table: Table,
    /// That of rows above the length at which `longrope` changes its factors.
    long: Option<Table>,
}

impl RotaryEmbedding {
    /// Takes the frequencies; tables of angles grow with the rows that come.
    pub fn new(config: RotaryConfig) -> Self {
        let table = |seq_len| Table::new(config.inv_freq(seq_len), config.attention_factor());
        let long = config.changes_above().filter(|_| !config.by_length());
        Self { table: table(0), long: long.map(|length| table(length.saturating_add(1))), config }
    }

    /// The settings.
    pub fn config(&self) -> &RotaryConfig {
        &self.config
    }

    /// The rotation of the tokens of a batch. A row is as long as its last position says, tokens in a cache included.
    ///
    /// # Shapes
    /// `position_ids`: `(total_tokens)`, rows as in `lengths`.
    ///
    /// # Errors
    /// When there is another number of positions, or `device` cannot hold the angles.
    ///
    /// # Source
    /// `LlamaRotaryEmbedding.forward` and `dynamic_rope_update` at v5.24, for a batch of one row.
    pub fn rotation(
        &self,
        position_ids: &[u32],
        lengths: &Lengths,
        device: &Device,
    ) -> Result<Rotation> {
        let tokens = lengths.total_tokens();
        if position_ids.len() != tokens {
            bail!("{} positions of {tokens} tokens", position_ids.len());
        }
        let width = 2 * self.config.frequencies();
        let mut angles = Vec::with_capacity(tokens * width);
        for range in lengths.ranges() {
            let positions = &position_ids[range];
            let Some(last) = positions.iter().max() else { continue };
            let seq_len = *last as usize + 1;
            let changed = self.config.changes_above().is_some_and(|length| seq_len > length);
            match (&self.long, changed) {
                (Some(long), true) => long.gather(&mut angles, positions, seq_len),
                (None, true) => {
                    let inv_freq = self.config.inv_freq(seq_len);
                    Table::new(inv_freq, self.config.attention_factor())
                        .compute(&mut angles, positions.iter().copied());
                }
                (_, false) => self.table.gather(&mut angles, positions, seq_len),
            }
        }
        let angles = Tensor::from_vec(angles, (tokens, width), device)?;
        Ok(Rotation { angles, head_dim: self.config.head_dim() })
    }
}

/// How the queries and keys of a batch turn.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `(total_tokens, 2 * frequencies)`, f32: cosines, then sines.
    angles: Tensor,
    head_dim: usize,
}

impl Rotation {
    /// Turns every head of `x`; features beyond those that turn stay.
    ///
    /// # Shapes
    /// `x`: `(total_tokens, heads * head_dim)`, any number of heads; it may be a view of a fused product.
    ///
    /// # Errors
    /// When the shape does not fit or candle cannot allocate.
    ///
    /// # Source
    /// `apply_rotary_pos_emb` of `modeling_phi3.py`, which is that of `modeling_llama.py` where all features turn, at v5.24.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let (rows, frequencies) = (self.angles.dim(0)?, self.angles.dim(1)? / 2);
        if tokens != rows || !width.is_multiple_of(self.head_dim) {
            bail!("rotation of {rows} tokens in heads of {} got {:?}", self.head_dim, x.dims());
        }
        if !(cpu::applies(x) && cpu::applies(&self.angles)) {
            return self.eager(x, frequencies);
        }
        let x = if x.stride()[1] == 1 { x.clone() } else { x.contiguous()? };
        let (view, angles) = (CpuView::new(&x), CpuView::new(&self.angles));
        let shape = Shape { stride: x.stride()[0], width, head_dim: self.head_dim, frequencies };
        let (x_values, angles) = (view.slice()?, angles.slice()?);
        let mut parts = cpu::shared(tokens, 1, 2 * tokens * width, |range| {
            rotate(x_values, angles, &shape, range)
        });
        let values = if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat() };
        Tensor::from_vec(values, (tokens, width), x.device())
    }

    /// The same as operations of the device, in the dtype of `x`.
    fn eager(&self, x: &Tensor, frequencies: usize) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let angles = self.angles.to_dtype(x.dtype())?.unsqueeze(1)?; // (tokens, 1, 2 * frequencies)
        let (cos, sin) =
            (angles.narrow(2, 0, frequencies)?, angles.narrow(2, frequencies, frequencies)?);
        let heads = x.reshape((tokens, width / self.head_dim, self.head_dim))?;
        let (first, second) =
            (heads.narrow(2, 0, frequencies)?, heads.narrow(2, frequencies, frequencies)?);
        let rest = heads.narrow(2, 2 * frequencies, self.head_dim - 2 * frequencies)?;
        let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
        let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
        Tensor::cat(&[turned_first, turned_second, rest], 2)?.reshape((tokens, width))
    }
}

/// How queries or keys lie in memory: `stride` numbers from one token to the next, `width` of them its heads.
struct Shape {
    stride: usize,
    width: usize,
    head_dim: usize,
    frequencies: usize,
}

/// The turned heads of the tokens of `range`. Each is read and written once.
fn rotate(x: &[f32], angles: &[f32], shape: &Shape, range: Range<usize>) -> Vec<f32> {
    let Shape { stride, width, head_dim, frequencies } = *shape;
    let mut out = Vec::with_capacity(range.len() * width);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for token in range.clone() {
                let (cos, sin) =
                    angles[2 * token * frequencies..][..2 * frequencies].split_at(frequencies);
                for head in x[token * stride..][..width].chunks_exact(head_dim) {
                    let (first, second) = head.split_at(frequencies);
                    let (second, rest) = second.split_at(frequencies);
                    let pairs = first.iter().zip(second).zip(cos.iter().zip(sin));
                    out.extend(pairs.clone().map(
                        #[inline(always)]
                        |((a, b), (cos, sin))| a * cos - b * sin,
                    ));
                    out.extend(pairs.map(
                        #[inline(always)]
                        |((a, b), (cos, sin))| b * cos + a * sin,
                    ));
                    out.extend_from_slice(rest);
                }
            }
        },
    );
    out
}
