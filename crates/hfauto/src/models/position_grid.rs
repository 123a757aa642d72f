//! Positions of a grid of patches for a grid of another size. Not here: the tables themselves.

use candle_core::{DType, Device, Result, Tensor, bail};

/// The coefficient of torch's bicubic filter.
const A: f64 = -0.75;

/// The weights of `from` positions along an axis for each of `to`, as `torch.nn.functional.interpolate` with `mode="bicubic"`:
/// `(to, from)`. Positions beyond the edge are those at the edge.
fn bicubic(from: usize, to: usize, device: &Device) -> Result<Tensor> {
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f64 / to as f64;
    let mut weights = vec![0f32; from * to];
    for (place, row) in weights.chunks_exact_mut(from).enumerate() {
        let source = scale * (place as f64 + 0.5) - 0.5;
        let t = source - source.floor();
        let first = source.floor() as i64 - 1;
        for (step, weight) in
            [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)].iter().enumerate()
        {
            let at = (first + step as i64).clamp(0, from as i64 - 1) as usize;
            row[at] += *weight as f32;
        }
    }
    Tensor::from_vec(weights, (to, from), device)
}

/// The embeddings of the positions of a square grid, interpolated to `down` by `across` in f32.
///
/// # Shapes
/// `positions`: `(n * n, hidden_size)`; returns `(down * across, hidden_size)`.
///
/// # Errors
/// If the table is not that of a square, or candle cannot allocate.
pub(super) fn interpolate(positions: &Tensor, down: usize, across: usize) -> Result<Tensor> {
    let (count, hidden) = positions.dims2()?;
    let side = count.isqrt();
    if side == 0 || side * side != count {
        bail!("the {count} positions are not those of a square, so they are not interpolated");
    }
    let (dtype, device) = (positions.dtype(), positions.device());
    let grid = positions.to_dtype(DType::F32)?.contiguous()?;
    let rows = bicubic(side, down, device)?.matmul(&grid.reshape((side, side * hidden))?)?;
    let rows = rows.reshape((down, side, hidden))?;
    let columns = bicubic(side, across, device)?;
    let columns = columns.broadcast_left(down)?.contiguous()?; // (down, across, side)
    columns.matmul(&rows)?.reshape((down * across, hidden))?.to_dtype(dtype)
}
