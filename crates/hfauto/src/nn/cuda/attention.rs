//! Attention over ragged rows by the fused kernel.

use super::{
    AMPERE, Arg, CudaView, DType, Result, Source, Tensor, bail, card, compute_capability,
    dtype_number, elementwise, empty, is_half, launch, to_device,
};
use crate::nn::{Alibi, AlibiForm, AttentionMask, AttentionOptions, Lengths};

/// The largest head dimension that the kernel supports.
const MAX_HEAD_DIM: usize = 128;

/// The location of the keys and values of each row.
pub(in crate::nn) enum KeyRows<'a> {
    /// In one tensor each, with the same row offsets as the queries: `starts` is `(rows + 1)`, u32.
    Flat { k: &'a Tensor, v: &'a Tensor, starts: &'a Tensor },
    /// In separate tensors per row.
    Apart(&'a RowTable),
}

/// The keys and values of rows in separate tensors, in the form that kernels read: the addresses of the keys, the
/// addresses of the values, their counts, and the offset of each row's queries. One tensor, so that it takes one copy.
#[derive(Clone, Debug)]
pub(in crate::nn) struct RowTable {
    words: Tensor,
    rows: usize,
}

impl RowTable {
    /// A table of rows of `(keys, values, count)`, all on one GPU, with the queries that belong to them.
    ///
    /// # Errors
    /// When a row is not on the GPU, or the GPU is out of memory.
    pub(in crate::nn) fn new<'a>(
        rows: impl Iterator<Item = (&'a Tensor, &'a Tensor, usize)>,
        queries: &Lengths,
    ) -> Result<Self> {
        let (mut keys, mut values, mut counts, mut device) = (vec![], vec![], vec![], None);
        let mut push = |words: &mut Vec<u32>, tensor: &Tensor| -> Result<()> {
            let address = CudaView::new(tensor).pointer()?;
            words.extend([address as u32, (address >> 32) as u32]);
            device = Some(tensor.device().clone());
            Ok(())
        };
        for (row_keys, row_values, count) in rows {
            push(&mut keys, row_keys)?;
            push(&mut values, row_values)?;
            counts.push(count as u32);
        }
        let Some(device) = device else { bail!("bug: a table without rows") };
        let rows = counts.len();
        let words = [keys, values, counts, queries.cumulative_u32()].concat();
        Ok(Self { words: to_device(&words, words.len(), &device)?, rows })
    }

    /// The addresses of the table's parts.
    fn parts(&self) -> Result<TableParts> {
        let keys = CudaView::new(&self.words).pointer()?;
        let addresses = (self.rows * size_of::<u64>()) as u64;
        Ok(TableParts {
            keys,
            values: keys + addresses,
            counts: keys + 2 * addresses,
            starts: keys + 2 * addresses + (self.rows * size_of::<u32>()) as u64,
        })
    }
}

struct TableParts {
    keys: u64,
    values: u64,
    counts: u64,
    starts: u64,
}

/// Whether [`append`] supports these keys.
pub(in crate::nn) fn can_append(keys: &Tensor) -> bool {
    is_half(keys) && keys.dims2().is_ok_and(|(_, width)| width % 8 == 0) && is_aligned(keys)
}

/// Appends new keys and values to their rows. The counts in `table` already include the new ones.
///
/// # Shapes
/// `k`, `v`: `(total_tokens, width)`, rows as in `lengths`.
///
/// # Errors
/// When a tensor does not meet [`can_append`].
pub(in crate::nn) fn append(
    k: &Tensor,
    v: &Tensor,
    table: &RowTable,
    lengths: &Lengths,
) -> Result<()> {
    let (_, width) = k.dims2()?;
    if v.dims() != k.dims() || v.dtype() != k.dtype() || !can_append(v) {
        bail!("bug: keys {:?} and values {:?} for a cache", k.layout(), v.layout());
    }
    let parts = table.parts()?;
    let (k_view, v_view) = (CudaView::new(k), CudaView::new(v));
    let args = [
        Arg::Pointer(k_view.pointer()?),
        Arg::Pointer(v_view.pointer()?),
        Arg::Pointer(parts.keys),
        Arg::Pointer(parts.values),
        Arg::Pointer(parts.counts),
        Arg::Pointer(parts.starts),
        Arg::Int(k_view.row_stride()? as i32),
        Arg::Int(v_view.row_stride()? as i32),
        Arg::Int(width as i32),
    ];
    let grid = (lengths.rows() as u32, lengths.max().clamp(1, 64) as u32, 1);
    let device = card(k.device())?;
    // SAFETY: every row of the table has room for its count, which includes the tokens of `lengths`.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(device, elementwise(k.dtype())?, "append", (grid, 128), &args)?;
    }
    Ok(())
}

/// Whether the kernel supports this attention: half precision on a GPU from Ampere on, no probabilities, as many heads of
/// keys as of queries, no window and no softcap, and heads that can be read sixteen bytes at a time.
pub(in crate::nn) fn can_attend(q: &Tensor, options: &AttentionOptions<'_>) -> bool {
    let Ok((_, hidden_size)) = q.dims2() else { return false };
    let head_dim = hidden_size / options.num_heads.max(1);
    is_half(q)
        && !options.is_eager()
        && options.disentangled.is_none()
        && options.num_kv_heads == options.num_heads
        && matches!(options.mask, AttentionMask::Full | AttentionMask::Causal)
        && options.softcap.is_none()
        && options.bias.is_none_or(|bias| bias.dtype() == q.dtype())
        && head_dim.is_multiple_of(8)
        && head_dim <= MAX_HEAD_DIM
        && is_aligned(q)
        && card(q.device()).and_then(compute_capability).is_ok_and(|found| found >= AMPERE)
}

/// Whether rows start at multiples of sixteen bytes.
fn is_aligned(tensor: &Tensor) -> bool {
    let (_, layout) = tensor.storage_and_layout();
    let rows_touch = matches!(layout.stride(), [stride, 1] if stride % 8 == 0);
    rows_touch && layout.start_offset() % 8 == 0
}

/// Computes attention of `queries` over the keys of their rows.
///
/// # Shapes
/// `q`: `(total_queries, hidden_size)`, rows as in `queries`; the result has the same shape.
///
/// # Errors
/// When a tensor does not meet [`can_attend`], or the GPU is out of memory.
pub(in crate::nn) fn attention(
    q: &Tensor,
    queries: &Lengths,
    keys: &KeyRows<'_>,
    options: &AttentionOptions<'_>,
) -> Result<Tensor> {
    let (tokens, hidden_size) = q.dims2()?;
    let (device, head_dim) = (card(q.device())?, hidden_size / options.num_heads);
    let out = empty(device, q.dtype(), (tokens, hidden_size))?;
    if tokens == 0 || hidden_size == 0 {
        return Ok(out);
    }
    // A block of four warps reads keys once for 64 queries. With short rows, three of the warps would idle.
    let (warps, block_keys) = if queries.max() <= 16 { (1, 16) } else { (4, 64) };
    let Some(dtype) = dtype_number(q.dtype()).filter(|_| q.dtype() != DType::F32) else {
        bail!("bug: attention of {:?}", q.dtype());
    };
    let source = Source::Attention { dtype, head_dim, warps, keys: block_keys };

    let bias = options.bias.map(Tensor::contiguous).transpose()?;
    let bias_view = bias.as_ref().map(CudaView::new);
    let (bias_rows, bias_stride) = match &bias {
        Some(bias) => (bias.dim(1)?, bias.dim(2)?),
        None => (0, 0),
    };
    let slopes = options.alibi.map(|alibi| CudaView::new(alibi.tensor()));
    let key_scale = match options.alibi.map(Alibi::form) {
        Some(AlibiForm::Bf16Key { scale }) => scale,
        Some(AlibiForm::Distance) | None => 0.0,
    };
    let flat = match keys {
        KeyRows::Flat { k, v, starts } => {
            if !is_aligned(k) || !is_aligned(v) || k.dtype() != q.dtype() || v.dtype() != q.dtype()
            {
                bail!("bug: keys {:?} and values {:?} for the kernel", k.layout(), v.layout());
            }
            Some((CudaView::new(k), CudaView::new(v), CudaView::new(starts)))
        }
        KeyRows::Apart(_) => None,
    };
    let (starts, [k, v], [k_stride, v_stride]) = match &flat {
        Some((k, v, starts)) => {
            (starts.pointer()?, [k.pointer()?, v.pointer()?], [k.row_stride()?, v.row_stride()?])
        }
        None => (0, [0; 2], [hidden_size; 2]),
    };
    let (starts, [key_rows, value_rows, key_counts]) = match keys {
        KeyRows::Apart(table) => {
            let parts = table.parts()?;
            (parts.starts, [parts.keys, parts.values, parts.counts])
        }
        KeyRows::Flat { .. } => (starts, [0; 3]),
    };
    let (out_view, q_view) = (CudaView::new(&out), CudaView::new(q));
    let args = [
        Arg::Pointer(out_view.pointer()?),
        Arg::Pointer(q_view.pointer()?),
        Arg::Pointer(k),
        Arg::Pointer(v),
        Arg::Pointer(starts),
        Arg::Pointer(key_rows),
        Arg::Pointer(value_rows),
        Arg::Pointer(key_counts),
        Arg::Pointer(bias_view.as_ref().map_or(Ok(0), CudaView::pointer)?),
        Arg::Int(bias_rows as i32),
        Arg::Int(bias_stride as i32),
        Arg::Pointer(slopes.as_ref().map_or(Ok(0), CudaView::pointer)?),
        Arg::Float(key_scale),
        Arg::Int(q_view.row_stride()? as i32),
        Arg::Int(k_stride as i32),
        Arg::Int(v_stride as i32),
        Arg::Int(hidden_size as i32),
        Arg::Float((options.scale * std::f64::consts::LOG2_E) as f32),
        Arg::Int(i32::from(options.mask == AttentionMask::Causal)),
    ];
    let tiles = queries.max().div_ceil(16 * warps) as u32;
    let grid = (queries.rows() as u32, options.num_heads as u32, tiles);
    // SAFETY: `starts` has the rows of `queries`, the caller has checked that the keys belong to the rows, and the
    // kernel masks every read past a row.
    #[allow(unsafe_code, reason = "a kernel is launched")]
    unsafe {
        launch(device, source, "attention", (grid, 32 * warps as u32), &args)?;
    }
    drop(out_view);
    Ok(out)
}
