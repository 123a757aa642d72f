//! Attention over ragged rows: one function, several kernels.
//!
//! Every other layer sees tokens; only this one sees rows. The eager kernel pads the bucket and is the
//! reference; the kernel for host memory goes row by row and never touches padding. Not here: the
//! projections around it, which are the architectures' own. The entry is [`attention`].

use candle_core::{DType, Result, Tensor, bail};

use super::cpu::{self, CpuView, Matrix, Output};
use super::inputs::ModelInputs;

/// What attention needs besides queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    /// Number of heads; divides the width of queries, keys and values.
    pub num_heads: usize,
    /// Factor on the products of queries and keys, mostly `1 / √head_dim`.
    pub scale: f64,
    /// `(num_heads, n, n)` with `n` at least the longest row: added to the scores of every row, as a
    /// relative position bias.
    pub bias: Option<&'a Tensor>,
    /// Whether the probabilities are wanted; only the eager kernel has them.
    pub output_attentions: bool,
}

/// What attention computes.
#[derive(Clone, Debug)]
pub struct AttentionOutput {
    /// `(total_tokens, hidden_size)`.
    pub values: Tensor,
    /// One `(num_heads, seq_len, seq_len)` a row, if they were asked for.
    pub attentions: Option<Vec<Tensor>>,
}

/// Each token's mixture of the values of its own row: `softmax(q · kᵀ · scale + bias) · v`, head by
/// head. Rows without tokens are legal.
///
/// # Shapes
/// `q`, `k`, `v`: `(total_tokens, hidden_size)`; they may be views of one fused product.
///
/// # Errors
/// When the shapes do not fit or candle cannot allocate.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    inputs: &ModelInputs,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let (tokens, hidden_size) = q.dims2()?;
    if k.dims() != q.dims() || v.dims() != q.dims() || tokens != inputs.lengths.total_tokens() {
        bail!(
            "attention over {} tokens got queries {:?}, keys {:?}, values {:?}",
            inputs.lengths.total_tokens(),
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    if options.num_heads == 0 || hidden_size % options.num_heads != 0 {
        bail!("{hidden_size} features cannot be divided into {} heads", options.num_heads);
    }
    if let Some(bias) = options.bias {
        let (heads, rows, columns) = bias.dims3()?;
        let max = inputs.lengths.max();
        if heads != options.num_heads || rows < max || columns < max {
            bail!("attention bias {:?} does not cover rows of {max} tokens", bias.dims());
        }
    }
    if cpu::applies(q) && cpu::applies(k) && cpu::applies(v) && !options.output_attentions {
        per_row(q, k, v, inputs, options)
    } else {
        eager(q, k, v, inputs, options)
    }
}

/// Pads the bucket, multiplies whole batches, masks, and unpads.
fn eager(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    inputs: &ModelInputs,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let lengths = &inputs.lengths;
    let (rows, max, num_heads) = (lengths.rows(), lengths.max(), options.num_heads);
    let (tokens, hidden_size) = q.dims2()?;
    let (dtype, device) = (q.dtype(), q.device());
    if tokens == 0 {
        let none = Tensor::zeros((num_heads, 0, 0), DType::F32, device)?;
        return Ok(AttentionOutput {
            values: Tensor::zeros((0, hidden_size), dtype, device)?,
            attentions: options.output_attentions.then(|| vec![none; rows]),
        });
    }
    let padding = inputs.padding()?;
    let heads = |x: &Tensor| -> Result<Tensor> {
        x.contiguous()?
            .index_select(&padding.gather, 0)?
            .reshape((rows, max, num_heads, hidden_size / num_heads))?
            .transpose(1, 2)? // (rows, num_heads, max, head_dim)
            .contiguous()
    };
    let scores = (heads(q)?.matmul(&heads(k)?.t()?)? * options.scale)?.to_dtype(DType::F32)?;
    let scores = match options.bias {
        Some(bias) => {
            let bias = bias.narrow(1, 0, max)?.narrow(2, 0, max)?.to_dtype(DType::F32)?;
            scores.broadcast_add(&bias)?
        }
        None => scores,
    };
    let scores = scores.broadcast_add(&padding.mask)?;
    let probabilities = candle_nn::ops::softmax_last_dim(&scores)?; // (rows, num_heads, max, max)
    let values = probabilities
        .to_dtype(dtype)?
        .matmul(&heads(v)?)?
        .transpose(1, 2)? // (rows, max, num_heads, head_dim)
        .reshape((rows * max, hidden_size))?
        .index_select(&padding.scatter, 0)?;
    let attentions = options.output_attentions.then(|| {
        (0..rows)
            .map(|row| {
                let seq_len = lengths.range(row).len();
                probabilities.get(row)?.narrow(1, 0, seq_len)?.narrow(2, 0, seq_len)?.contiguous()
            })
            .collect::<Result<Vec<_>>>()
    });
    Ok(AttentionOutput { values, attentions: attentions.transpose()? })
}

/// Goes row by row and head by head over host memory: no padding, no copy of a head.
fn per_row(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    inputs: &ModelInputs,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let lengths = &inputs.lengths;
    let (tokens, hidden_size) = q.dims2()?;
    let head_dim = hidden_size / options.num_heads;
    let device = q.device();
    let bias = options.bias.map(Tensor::contiguous).transpose()?;
    let bias = bias.as_ref().map(|bias| (bias.dims()[2], CpuView::new(bias)));
    let bias_rows = options.bias.map_or(0, |bias| bias.dims()[1]);
    let (q, k, v) = (CpuView::new(q), CpuView::new(k), CpuView::new(v));
    let (q, k, v) = (q.matrix()?, k.matrix()?, v.matrix()?);

    let mut out = vec![0.0; tokens * hidden_size];
    let mut scratch = vec![0.0; lengths.max() * lengths.max()];
    for range in lengths.ranges().filter(|range| !range.is_empty()) {
        let seq_len = range.len();
        let scores = &mut scratch[..seq_len * seq_len];
        for head in 0..options.num_heads {
            let columns = head * head_dim..(head + 1) * head_dim;
            let mut mode = Output::Overwrite;
            if let Some((stride, bias)) = &bias {
                let head_bias = &bias.slice()?[head * bias_rows * stride..];
                for (row, scores) in scores.chunks_exact_mut(seq_len).enumerate() {
                    scores.copy_from_slice(&head_bias[row * stride..][..seq_len]);
                }
                mode = Output::Add;
            }
            let head_q = q.block(range.clone(), columns.clone());
            let head_k = k.block(range.clone(), columns.clone());
            cpu::matmul(scores, seq_len, mode, options.scale as f32, head_q, head_k.t());
            cpu::softmax(scores, seq_len);
            let head_v = v.block(range.clone(), columns.clone());
            let probabilities = Matrix::new(scores, seq_len, seq_len);
            let out = &mut out[range.start * hidden_size + columns.start..];
            cpu::matmul(out, hidden_size, Output::Overwrite, 1.0, probabilities, head_v);
        }
    }
    let values = Tensor::from_vec(out, (tokens, hidden_size), device)?;
    Ok(AttentionOutput { values, attentions: None })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::PositionIds;

    const HEADS: usize = 3;

    fn inputs(lengths: &[usize]) -> ModelInputs {
        let ids = vec![0u32; 64];
        let rows = lengths.iter().map(|&n| (&ids[..n], &ids[..n]));
        ModelInputs::new(rows, PositionIds::FromZero, &Device::Cpu).unwrap()
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    fn options(bias: Option<&Tensor>) -> AttentionOptions<'_> {
        AttentionOptions { num_heads: HEADS, scale: 0.3, bias, output_attentions: false }
    }

    #[test]
    fn kernels_agree_with_and_without_bias() -> Result<()> {
        let inputs = inputs(&[5, 0, 1, 33, 8, 0]);
        let fused = Tensor::randn(0f32, 2., (47, 3 * 24), &Device::Cpu)?;
        let part = |i: usize| fused.narrow(1, i * 24, 24);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        // A view into a larger table, as the models pass it.
        let bias = Tensor::randn(0f32, 1., (HEADS, 40, 40), &Device::Cpu)?;
        let bias = bias.narrow(1, 0, 36)?.narrow(2, 0, 35)?;
        for bias in [None, Some(&bias)] {
            let ours = per_row(&q, &k, &v, &inputs, options(bias))?;
            let reference = eager(&q, &k, &v, &inputs, options(bias))?;
            let off = worst(&ours.values, &reference.values);
            assert!(off < 5e-6, "kernels differ by {off:e}");
        }
        Ok(())
    }

    #[test]
    fn attentions_are_one_square_a_row_and_sum_to_one() -> Result<()> {
        let inputs = inputs(&[3, 0, 7]);
        let x = Tensor::randn(0f32, 1., (10, 12), &Device::Cpu)?;
        let options = AttentionOptions { output_attentions: true, ..options(None) };
        let output = attention(&x, &x, &x, &inputs, options)?;
        let attentions = output.attentions.unwrap();
        assert_eq!(attentions[0].dims(), [HEADS, 3, 3]);
        assert_eq!(attentions[1].dims(), [HEADS, 0, 0]);
        let sums = attentions[2].sum(2)?.flatten_all()?.to_vec1::<f32>()?;
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6));
        Ok(())
    }

    #[test]
    fn only_empty_rows_give_an_empty_result() -> Result<()> {
        let inputs = inputs(&[0, 0]);
        let x = Tensor::zeros((0, 12), DType::F32, &Device::Cpu)?;
        for output_attentions in [false, true] {
            let options = AttentionOptions { output_attentions, ..options(None) };
            let output = attention(&x, &x, &x, &inputs, options)?;
            assert_eq!(output.values.dims(), [0, 12]);
            assert_eq!(output.attentions.map(|a| a.len()), output_attentions.then_some(2));
        }
        Ok(())
    }

    #[test]
    fn misfits_are_errors() -> Result<()> {
        let inputs = inputs(&[4]);
        let x = Tensor::zeros((4, 12), DType::F32, &Device::Cpu)?;
        let short = Tensor::zeros((HEADS, 3, 3), DType::F32, &Device::Cpu)?;
        assert!(attention(&x, &x, &x, &inputs, options(Some(&short))).is_err());
        let five_heads = AttentionOptions { num_heads: 5, ..options(None) };
        assert!(attention(&x, &x, &x, &inputs, five_heads).is_err());
        let other = Tensor::zeros((3, 12), DType::F32, &Device::Cpu)?;
        assert!(attention(&x, &other, &x, &inputs, options(None)).is_err());
        Ok(())
    }
}
