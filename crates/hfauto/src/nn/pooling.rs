//! From one vector per token to one vector per row: pooling and normalization.

use std::fmt;

use candle_core::{DType, Result, Tensor};
use serde::Deserialize;

use super::cpu::{self, CpuView};
use super::inputs::Ragged;
use crate::error;

/// How the token vectors of a row are combined into one; names as in sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PoolingMode {
    /// The first token, or the first one after an excluded prompt.
    Cls,
    /// The maximum of each feature.
    Max,
    /// The mean of all tokens.
    Mean,
    /// The sum of all tokens divided by the square root of their number.
    MeanSqrtLenTokens,
    /// The mean with weights 1, 2, 3, … by position.
    #[serde(rename = "weightedmean")]
    WeightedMean,
    /// The last token.
    #[serde(rename = "lasttoken")]
    LastToken,
}

impl PoolingMode {
    /// All modes, in the order in which sentence-transformers concatenates them. Before 5.4, its files have one key per
    /// mode.
    pub const ALL: [Self; 6] = [
        Self::Cls,
        Self::Max,
        Self::Mean,
        Self::MeanSqrtLenTokens,
        Self::WeightedMean,
        Self::LastToken,
    ];

    /// The mode's name in sentence-transformers and in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLenTokens => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }

    /// The number of the mode in `cuda/elementwise.cu`.
    #[cfg(feature = "cuda")]
    fn number(self) -> i32 {
        match self {
            Self::Cls => 0,
            Self::Max => 1,
            Self::Mean => 2,
            Self::MeanSqrtLenTokens => 3,
            Self::WeightedMean => 4,
            Self::LastToken => 5,
        }
    }

    /// Looks up a mode by name.
    ///
    /// # Errors
    /// `Unsupported` when there is no such mode.
    pub fn from_name(name: &str) -> error::Result<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|mode| mode.name()).collect();
            error::Error::new(
                error::ErrorKind::Unsupported,
                format!("pooling mode `{name}` is not implemented"),
            )
            .hint(format!("pooling modes are: {}", names.join(", ")))
        })
    }
}

impl fmt::Display for PoolingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Pools the tokens of each row. The results of several modes are concatenated.
///
/// # Source
/// `sentence_transformers/sentence_transformer/modules/pooling.py` at v6.2. There, a row without pooled tokens gets
/// arbitrary values in some modes; here, `cls` uses its first token, and all other modes give zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pooling {
    modes: Vec<PoolingMode>,
    include_prompt: bool,
}

impl Pooling {
    /// Pools with `modes`, concatenated in this order. Without `include_prompt`, the prompt's tokens are excluded:
    /// `cls` is then the first token after them.
    pub fn new(modes: impl IntoIterator<Item = PoolingMode>, include_prompt: bool) -> Self {
        Self { modes: modes.into_iter().collect(), include_prompt }
    }

    /// The modes, in the order of concatenation.
    pub fn modes(&self) -> &[PoolingMode] {
        &self.modes
    }

    /// Whether the prompt's tokens are pooled.
    pub fn include_prompt(&self) -> bool {
        self.include_prompt
    }

    /// Pools every row.
    ///
    /// # Shapes
    /// Returns `(rows, modes * hidden_size)`, f32 or wider. `prompt_tokens`: the number of tokens of a row's prompt,
    /// including the special token before it. It matters only without `include_prompt`.
    ///
    /// # Errors
    /// When candle cannot compute or allocate.
    pub fn forward(&self, tokens: &Ragged, prompt_tokens: usize) -> Result<Tensor> {
        let hidden_size = tokens.values.dim(1)?;
        let (rows, device) = (tokens.lengths.rows(), tokens.values.device());
        let skipped = if self.include_prompt { 0 } else { prompt_tokens };
        #[cfg(feature = "cuda")]
        if super::cuda::applies(&tokens.values) {
            let modes: Vec<i32> = self.modes.iter().map(|mode| mode.number()).collect();
            return super::cuda::pool(&tokens.values, &tokens.lengths, &modes, skipped);
        }
        // Half precision is too coarse for sums over many tokens.
        let values = match tokens.values.dtype() {
            DType::F16 | DType::BF16 => tokens.values.to_dtype(DType::F32)?,
            _ => tokens.values.clone(),
        };
        let width = self.modes.len() * hidden_size;
        if rows == 0 || width == 0 {
            return Tensor::zeros((rows, width), values.dtype(), device);
        }
        let tokens = Ragged { values, lengths: tokens.lengths.clone() };
        let mut pooled = Vec::with_capacity(rows * self.modes.len());
        for row in 0..rows {
            let row = tokens.row(row)?;
            for mode in &self.modes {
                pooled.push(pool_row(&row, *mode, skipped)?);
            }
        }
        Tensor::cat(&pooled, 0)?.reshape((rows, width))
    }
}

/// `(seq_len, hidden_size)` → `(1, hidden_size)`.
fn pool_row(row: &Tensor, mode: PoolingMode, skipped: usize) -> Result<Tensor> {
    let (seq_len, hidden_size) = row.dims2()?;
    if mode == PoolingMode::Cls && seq_len > 0 {
        // A row of only the prompt uses its own first token.
        return row.narrow(0, if skipped < seq_len { skipped } else { 0 }, 1);
    }
    if seq_len <= skipped {
        return Tensor::zeros((1, hidden_size), row.dtype(), row.device());
    }
    let kept = row.narrow(0, skipped, seq_len - skipped)?;
    let count = (seq_len - skipped) as f64;
    match mode {
        PoolingMode::Cls => kept.narrow(0, 0, 1),
        PoolingMode::LastToken => kept.narrow(0, seq_len - skipped - 1, 1),
        PoolingMode::Max => kept.max_keepdim(0),
        PoolingMode::Mean => sum(&kept)? / count,
        PoolingMode::MeanSqrtLenTokens => sum(&kept)? / count.sqrt(),
        PoolingMode::WeightedMean => {
            // Positions count from the start of the row, including skipped tokens.
            let weights = Tensor::arange(skipped as u32 + 1, seq_len as u32 + 1, row.device())?
                .to_dtype(row.dtype())?
                .unsqueeze(1)?;
            let total = (skipped + 1..=seq_len).map(|weight| weight as f64).sum::<f64>();
            sum(&kept.broadcast_mul(&weights)?)? / total
        }
    }
}

/// `(n, hidden_size)` → `(1, hidden_size)`.
fn sum(tokens: &Tensor) -> Result<Tensor> {
    if !cpu::applies(tokens) {
        return tokens.sum_keepdim(0);
    }
    // candle reduces non-contiguous tensors element by element, several times slower.
    let (tokens, (count, columns)) = (tokens.contiguous()?, tokens.dims2()?);
    let sums = cpu::sum_rows(&CpuView::new(&tokens).slice()?[..count * columns], columns);
    Tensor::from_vec(sums, (1, columns), tokens.device())
}

/// Scales each row of `(rows, dimension)` to length 1; a row of zeros stays zero.
///
/// # Errors
/// When candle cannot compute or allocate.
///
/// # Source
/// `torch.nn.functional.normalize`, whose minimum norm is 1e-12.
pub fn normalize(x: &Tensor) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(x) {
        return super::cuda::unit_rows(x, 1e-12);
    }
    let norm = x.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
    x.broadcast_div(&norm)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::Lengths;

    /// Rows: three tokens, none, one token.
    fn ragged() -> Ragged {
        let values = [[1f32, -2.], [3., 4.], [5., 0.], [7., 9.]];
        Ragged {
            values: Tensor::new(&values, &Device::Cpu).unwrap(),
            lengths: Lengths::new([3, 0, 1]),
        }
    }

    fn check(mode: PoolingMode, include_prompt: bool, first_row: [f32; 2], last_row: [f32; 2]) {
        let pooled = Pooling::new([mode], include_prompt).forward(&ragged(), 1).unwrap();
        let pooled: Vec<f32> = pooled.flatten_all().unwrap().to_vec1().unwrap();
        let expected = [first_row, [0.0; 2], last_row].concat();
        for (pooled, expected) in pooled.iter().zip(&expected) {
            assert!((pooled - expected).abs() < 1e-6, "{mode}: {pooled} instead of {expected}");
        }
    }

    #[test]
    fn every_mode_by_hand() {
        let third = 1.0 / 3.0;
        check(PoolingMode::Cls, true, [1.0, -2.0], [7.0, 9.0]);
        check(PoolingMode::Max, true, [5.0, 4.0], [7.0, 9.0]);
        check(PoolingMode::Mean, true, [3.0, 2.0 * third], [7.0, 9.0]);
        check(PoolingMode::MeanSqrtLenTokens, true, [5.196_152, 1.154_700_5], [7.0, 9.0]);
        check(PoolingMode::WeightedMean, true, [22.0 / 6.0, 1.0], [7.0, 9.0]);
        check(PoolingMode::LastToken, true, [5.0, 0.0], [7.0, 9.0]);
    }

    #[test]
    fn prompt_tokens_are_left_out() {
        check(PoolingMode::Cls, false, [3.0, 4.0], [7.0, 9.0]);
        check(PoolingMode::Max, false, [5.0, 4.0], [0.0, 0.0]);
        check(PoolingMode::Mean, false, [4.0, 2.0], [0.0, 0.0]);
        // Weights 2 and 3: positions count from the row's start.
        check(PoolingMode::WeightedMean, false, [21.0 / 5.0, 8.0 / 5.0], [0.0, 0.0]);
        check(PoolingMode::LastToken, false, [5.0, 0.0], [0.0, 0.0]);
    }

    #[test]
    fn modes_are_concatenated_in_their_order() -> Result<()> {
        let pooling = Pooling::new([PoolingMode::Max, PoolingMode::Cls, PoolingMode::Mean], true);
        let pooled = pooling.forward(&ragged(), 0)?;
        assert_eq!(pooled.dims(), [3, 6]);
        let first = pooled.get(0)?.to_vec1::<f32>()?;
        assert_eq!(first[..5], [5.0, 4.0, 1.0, -2.0, 3.0]);
        Ok(())
    }

    #[test]
    fn normalize_keeps_zeros() -> Result<()> {
        let x = Tensor::new(&[[3f32, 4.], [0., 0.]], &Device::Cpu)?;
        let flat: Vec<f32> = normalize(&x)?.flatten_all()?.to_vec1()?;
        assert_eq!(flat, [0.6, 0.8, 0.0, 0.0]);
        Ok(())
    }

    #[test]
    fn names_are_unique_and_read_back() {
        for mode in PoolingMode::ALL {
            assert_eq!(PoolingMode::from_name(mode.name()).unwrap(), mode);
        }
        assert!(PoolingMode::from_name("median").is_err());
    }
}
