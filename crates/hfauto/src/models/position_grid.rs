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

/// The weights of `from` positions along an axis for each of `to`, as with `mode="bilinear"`: `(to, from)`.
fn bilinear_weights(from: usize, to: usize, device: &Device) -> Result<Tensor> {
    let scale = from as f64 / to as f64;
    let mut weights = vec![0f32; from * to];
    for (place, row) in weights.chunks_exact_mut(from).enumerate() {
        let source = (scale * (place as f64 + 0.5) - 0.5).max(0.0);
        let (first, t) = (source.floor() as usize, source - source.floor());
        row[first.min(from - 1)] += (1.0 - t) as f32;
        row[(first + 1).min(from - 1)] += t as f32;
    }
    Tensor::from_vec(weights, (to, from), device)
}

/// The vectors of a grid of `from` rows and columns for one of `to`, in f32, by the weights of each axis.
fn resample(
    vectors: &Tensor,
    from: [usize; 2],
    to: [usize; 2],
    weights: fn(usize, usize, &Device) -> Result<Tensor>,
) -> Result<Tensor> {
    let (width, dtype, device) = (vectors.dim(1)?, vectors.dtype(), vectors.device());
    let grid = vectors.to_dtype(DType::F32)?.contiguous()?;
    let rows =
        weights(from[0], to[0], device)?.matmul(&grid.reshape((from[0], from[1] * width))?)?;
    let rows = rows.reshape((to[0], from[1], width))?;
    let columns = weights(from[1], to[1], device)?;
    let columns = columns.broadcast_left(to[0])?.contiguous()?; // (rows, columns, old columns)
    columns.matmul(&rows)?.reshape((to[0] * to[1], width))?.to_dtype(dtype)
}

/// The vectors of a grid of `from` rows and columns, interpolated linearly to `to`, each at least 1.
///
/// # Shapes
/// `vectors`: `(from[0] * from[1], width)`; returns `(to[0] * to[1], width)`.
///
/// # Errors
/// If the shapes do not match or candle cannot allocate.
pub(super) fn bilinear(vectors: &Tensor, from: [usize; 2], to: [usize; 2]) -> Result<Tensor> {
    resample(vectors, from, to, bilinear_weights)
}

/// The positions of a class token and of the patches of an image: those of the table for a square image with as many patches, else
/// interpolated ones.
///
/// # Shapes
/// `table`: `(1 + n * n, hidden_size)`; returns `(tokens, hidden_size)`.
///
/// # Errors
/// As [`interpolate`].
pub(super) fn of_image(
    table: &Tensor,
    (height, width): (usize, usize),
    [down, across]: [usize; 2],
) -> Result<Tensor> {
    let count = table.dim(0)? - 1;
    if down * across == count && height == width {
        return Ok(table.clone());
    }
    let patches = interpolate(&table.narrow(0, 1, count)?, down, across)?;
    Tensor::cat(&[table.narrow(0, 0, 1)?, patches], 0)
}

/// The embeddings of the positions of a square grid, interpolated to `down` by `across` in f32.
///
/// # Shapes
/// `positions`: `(n * n, hidden_size)`; returns `(down * across, hidden_size)`.
///
/// # Errors
/// If the table is not that of a square, or candle cannot allocate.
fn interpolate(positions: &Tensor, down: usize, across: usize) -> Result<Tensor> {
    let count = positions.dim(0)?;
    let side = count.isqrt();
    if side == 0 || side * side != count {
        bail!("the {count} positions are not those of a square, so they are not interpolated");
    }
    resample(positions, [side, side], [down, across], bicubic)
}
