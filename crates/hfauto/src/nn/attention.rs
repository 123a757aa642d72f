//! Attention over ragged rows: one interface, several kernels.
//!
//! Only this layer depends on rows; all others treat tokens independently. The eager kernels are the reference: one
//! pads the batch, the other goes row by row if queries and keys differ in number. The CPU kernel goes row by row
//! and never touches padding. Not here: the projections, which belong to the architectures. The entries are
//! [`attention`] for self-attention within a row, [`attention_over`] for other keys (a cache, or an encoder's
//! states), and [`attention_cached`] for new tokens of a decoder.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::alibi::AlibiForm;
use super::attention_mask::AttentionMask;
use super::attention_options::{AttentionOptions, DistanceEmbedding};
use super::cpu::{self, CpuView, Matrix};
#[cfg(feature = "cuda")]
use super::cuda;
use super::disentangled::PackedPositions;
use super::inputs::ModelInputs;
use super::kv_cache::KvCache;
use super::lengths::Lengths;
use super::precision::Precision;

/// The result of attention.
#[derive(Clone, Debug)]
pub struct AttentionOutput {
    /// `(total_tokens, num_heads * head_dim)`.
    pub values: Tensor,
    /// One `(num_heads, queries, keys)` per row, if requested.
    pub attentions: Option<Vec<Tensor>>,
}

/// Self-attention within each row: `softmax(q · kᵀ · scale + biases) · v`, per head. Rows without tokens are valid.
///
/// # Shapes
/// `q`: `(total_tokens, num_heads * head_dim)`; `k`, `v`: `(total_tokens, num_kv_heads * head_dim)`; they may be views of
/// one fused projection.
///
/// # Errors
/// If the shapes do not match or candle cannot allocate.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    inputs: &ModelInputs,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let (tokens, _) = q.dims2()?;
    if k.dim(0)? != tokens || v.dims() != k.dims() || tokens != inputs.lengths.total_tokens() {
        bail!(
            "attention over {} tokens got queries {:?}, keys {:?}, values {:?}",
            inputs.lengths.total_tokens(),
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    let (lengths, attended) = (&inputs.lengths, inputs.attended());
    let keys = Keys::Flat { k, v, lengths, attended };
    check(q, lengths, &keys, &options)?;
    #[cfg(feature = "cuda")]
    if attended.is_none() && cuda::can_attend(q, &options) {
        let keys = cuda::KeyRows::Flat { k, v, starts: &inputs.cumulative_lengths };
        let values = cuda::attention(q, lengths, &keys, &options)?;
        return Ok(AttentionOutput { values, attentions: None });
    }
    let fused = !options.is_eager() && [q, k, v].into_iter().all(cpu::applies);
    let by_row = options.distance.is_some() || options.disentangled.is_some() || attended.is_some();
    if options.distance.is_some() || (by_row && !fused) {
        eager_rows(q, lengths, &keys, options)
    } else if fused {
        per_row(q, lengths, &keys, options)
    } else {
        eager_padded(q, k, v, inputs, options)
    }
}

/// Attention of queries over other keys than those of their own pass: a cache, or the states of an encoder. Row `i`
/// of the queries attends to row `i` of the keys.
///
/// # Shapes
/// `q`: `(total_queries, num_heads * head_dim)`, rows as in `queries`.
///
/// # Errors
/// If the shapes or the numbers of rows do not match, a masked row has fewer keys than queries, or candle cannot
/// allocate.
pub fn attention_over(
    q: &Tensor,
    queries: &Lengths,
    keys: &KvCache,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    if q.dim(0)? != queries.total_tokens() || keys.num_rows() != queries.rows() {
        bail!(
            "attention of {} rows and {} tokens got queries {:?} and keys of {} rows",
            queries.rows(),
            queries.total_tokens(),
            q.dims(),
            keys.num_rows()
        );
    }
    check(q, queries, &Keys::Cached(keys), &options)?;
    #[cfg(feature = "cuda")]
    if cuda::can_attend(q, &options) && q.dim(0)? > 0 {
        let table = keys.table(queries)?;
        let values = cuda::attention(q, queries, &cuda::KeyRows::Apart(&table), &options)?;
        return Ok(AttentionOutput { values, attentions: None });
    }
    let keys = Keys::Cached(keys);
    if cpu::applies(q) && !options.is_eager() {
        per_row(q, queries, &keys, options)
    } else {
        eager_rows(q, queries, &keys, options)
    }
}

/// Attention of new tokens over their own row: the new tokens and, with a cache, all cached ones. Appends the keys
/// and values to the cache, which may drop those outside the window; adds them as new rows if it is empty.
///
/// # Shapes
/// As [`attention`].
///
/// # Errors
/// As [`attention`] and [`attention_over`].
pub fn attention_cached(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    inputs: &ModelInputs,
    cache: Option<&mut KvCache>,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let Some(cache) = cache else { return attention(q, k, v, inputs, options) };
    let first = cache.is_empty();
    cache.append(k, v, &inputs.lengths, options.mask.causal_window())?;
    if first {
        attention(q, k, v, inputs, options)
    } else {
        attention_over(q, &inputs.lengths, cache, options)
    }
}

/// The location of keys and values.
enum Keys<'a> {
    /// In one tensor, like the queries; of each row, only the first ones if `attended` says so.
    Flat { k: &'a Tensor, v: &'a Tensor, lengths: &'a Lengths, attended: Option<&'a [usize]> },
    /// In one tensor per row.
    Cached(&'a KvCache),
}

impl Keys<'_> {
    fn len(&self, row: usize) -> usize {
        match self {
            Self::Flat { attended: Some(attended), .. } => attended[row],
            Self::Flat { lengths, .. } => lengths.range(row).len(),
            Self::Cached(cache) => cache.cached(row),
        }
    }

    /// The width of a key.
    fn width(&self) -> Result<Option<usize>> {
        match self {
            Self::Flat { k, .. } => k.dim(1).map(Some),
            Self::Cached(cache) => cache.width(),
        }
    }

    /// The keys and values of one row, `(keys, num_kv_heads * head_dim)` each.
    fn row(&self, row: usize) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Flat { k, v, lengths, .. } => {
                let (start, len) = (lengths.range(row).start, self.len(row));
                Ok((k.narrow(0, start, len)?, v.narrow(0, start, len)?))
            }
            Self::Cached(cache) => cache.row(row),
        }
    }
}

fn check(
    q: &Tensor,
    queries: &Lengths,
    keys: &Keys<'_>,
    options: &AttentionOptions<'_>,
) -> Result<()> {
    let (_, hidden_size) = q.dims2()?;
    if options.num_heads == 0 || hidden_size % options.num_heads != 0 {
        bail!("{hidden_size} features cannot be divided into {} heads", options.num_heads);
    }
    let (num_heads, num_kv_heads) = (options.num_heads, options.num_kv_heads);
    if num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
        bail!("{num_heads} heads of queries cannot share {num_kv_heads} heads of keys");
    }
    let kv_width = hidden_size / num_heads * num_kv_heads;
    if let Some(width) = keys.width()?.filter(|width| *width != kv_width) {
        bail!("keys have {width} features, expected {kv_width}");
    }
    if options.mask == AttentionMask::CausalWindow(0) {
        bail!("a window of attention without tokens");
    }
    if options.softcap.is_some_and(|cap| cap.is_nan() || cap <= 0.0) {
        bail!("attention scores cannot be capped at {:?}", options.softcap);
    }
    if options.scale.is_nan() || options.scale <= 0.0 {
        bail!("attention scores cannot be scaled by {}", options.scale);
    }
    let mut longest = 0;
    let partial = matches!(keys, Keys::Flat { attended: Some(_), .. });
    for (row, range) in queries.ranges().enumerate() {
        let len = keys.len(row);
        longest = longest.max(len);
        let has_positions = options.bias.is_some()
            || options.disentangled.is_some()
            || options.distance.is_some()
            || options.alibi.is_some();
        if partial && has_positions {
            bail!("tokens that are not attended to are not implemented for relative positions");
        }
        let has_positions = has_positions || (options.mask != AttentionMask::Full && !partial);
        if has_positions && len < range.len() {
            bail!("row {row} has {} queries, but {len} keys", range.len());
        }
        if let (true, AttentionMask::Window(radius)) = (partial, options.mask)
            && len > 0
            && range.len() > len.saturating_add(radius)
        {
            bail!("the last of {} tokens attends to none of the first {len}", range.len());
        }
    }
    if let Some(bias) = options.bias {
        let (heads, rows, columns) = bias.dims3()?;
        if heads != options.num_heads || rows < longest || columns < longest {
            bail!("attention bias {:?} does not cover rows of {longest} tokens", bias.dims());
        }
    }
    if options.disentangled.is_some() && num_kv_heads != num_heads {
        bail!("relative positions of {num_heads} heads of queries and {num_kv_heads} of keys");
    }
    if let Some(alibi) = options.alibi {
        if alibi.slopes().len() != num_heads {
            bail!("ALiBi of {} heads for {num_heads} heads", alibi.slopes().len());
        }
        // A cache drops keys that leave a window, and then the first key is at another position than 0.
        if alibi.form() != AlibiForm::Distance && options.mask.causal_window().is_some() {
            bail!("ALiBi by the key's position needs all keys, not those of a window");
        }
    }
    Ok(())
}

/// Pads the batch, multiplies, masks, and removes the padding.
fn eager_padded(
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
    let head_dim = hidden_size / num_heads;
    let heads = |x: &Tensor| -> Result<Tensor> {
        let own_heads = x.dim(1)? / head_dim;
        x.contiguous()?
            .index_select(&padding.gather, 0)?
            .reshape((rows, max, own_heads, 1, head_dim))?
            .permute((0, 2, 3, 1, 4))? // (rows, own_heads, 1, max, head_dim)
            .broadcast_as((rows, own_heads, num_heads / own_heads, max, head_dim))?
            .contiguous()?
            .reshape((rows, num_heads, max, head_dim))
    };
    let scores = (heads(q)?.matmul(&heads(k)?.t()?)? * options.scale)?.to_dtype(DType::F32)?;
    let scores = capped(scores, options.softcap)?;
    let scores = match options.bias {
        Some(bias) => {
            let bias = bias.narrow(1, 0, max)?.narrow(2, 0, max)?.to_dtype(DType::F32)?;
            scores.broadcast_add(&bias)?
        }
        None => scores,
    };
    let scores = match options.alibi {
        Some(alibi) => scores.broadcast_add(&alibi.table(max, max)?)?,
        None => scores,
    };
    let scores = scores.broadcast_add(&padding.mask)?;
    let scores = match options.mask.tensor(max, max, device)? {
        Some(mask) => scores.broadcast_add(&mask)?,
        None => scores,
    };
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

/// Scores bounded by `softcap`, if there is one.
fn capped(scores: Tensor, softcap: Option<f64>) -> Result<Tensor> {
    match softcap {
        Some(cap) => (scores / cap)?.tanh()? * cap,
        None => Ok(scores),
    }
}

/// Goes row by row with candle's operations: the reference if queries and keys differ in number.
fn eager_rows(
    q: &Tensor,
    queries: &Lengths,
    keys: &Keys<'_>,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let (_, hidden_size) = q.dims2()?;
    let (num_heads, dtype, device) = (options.num_heads, q.dtype(), q.device());
    let head_dim = hidden_size / num_heads;
    let heads = |x: &Tensor| -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let own_heads = width / head_dim;
        x.reshape((tokens, own_heads, 1, head_dim))?
            .permute((1, 2, 0, 3))? // (own_heads, 1, tokens, head_dim)
            .broadcast_as((own_heads, num_heads / own_heads, tokens, head_dim))?
            .contiguous()?
            .reshape((num_heads, tokens, head_dim))
    };
    let mut values = vec![Tensor::zeros((0, hidden_size), dtype, device)?];
    let mut attentions = Vec::new();
    for (row, range) in queries.ranges().enumerate() {
        let (num_queries, num_keys) = (range.len(), keys.len(row));
        if num_queries == 0 || num_keys == 0 {
            values.push(Tensor::zeros((num_queries, hidden_size), dtype, device)?);
            attentions.push(Tensor::zeros((num_heads, num_queries, num_keys), DType::F32, device)?);
            continue;
        }
        let (row_k, row_v) = keys.row(row)?;
        let row_q = heads(&q.narrow(0, range.start, num_queries)?.contiguous()?)?;
        let (row_k, row_v) = (heads(&row_k.contiguous()?)?, heads(&row_v.contiguous()?)?);
        let mut scores = row_q.matmul(&row_k.t()?)?;
        if let Some(distance) = options.distance {
            scores = (scores + distance_scores(&row_q, &row_k, distance)?)?;
        }
        if let Some(disentangled) = options.disentangled {
            scores = (scores + disentangled.scores(&row_q, &row_k)?)?;
        }
        let scores = (scores * options.scale)?.to_dtype(DType::F32)?;
        let mut scores = capped(scores, options.softcap)?;
        if let Some(bias) = options.bias {
            let bias = bias.narrow(1, num_keys - num_queries, num_queries)?;
            scores = scores.add(&bias.narrow(2, 0, num_keys)?.to_dtype(DType::F32)?)?;
        }
        if let Some(alibi) = options.alibi {
            scores = scores.add(&alibi.table(num_queries, num_keys)?)?;
        }
        if let Some(mask) = options.mask.tensor(num_queries, num_keys, device)? {
            scores = scores.broadcast_add(&mask)?;
        }
        let probabilities = candle_nn::ops::softmax_last_dim(&scores.contiguous()?)?;
        let mixed = probabilities.to_dtype(dtype)?.matmul(&row_v)?; // (num_heads, queries, head_dim)
        values.push(mixed.transpose(0, 1)?.reshape((num_queries, hidden_size))?);
        attentions.push(probabilities);
    }
    Ok(AttentionOutput {
        values: Tensor::cat(&values, 0)?,
        attentions: options.output_attentions.then_some(attentions),
    })
}

/// The contribution of distances to the scores of one row: `(num_heads, queries, keys)`, before scaling.
fn distance_scores(q: &Tensor, k: &Tensor, distance: DistanceEmbedding<'_>) -> Result<Tensor> {
    let (_, num_queries, head_dim) = q.dims3()?;
    let num_keys = k.dim(1)?;
    let positions = distance.table.dim(0)?.div_ceil(2);
    if num_keys > positions {
        bail!("{num_keys} tokens exceed the {positions} positions of the distance table");
    }
    let before = num_keys - num_queries;
    let rows: Vec<u32> = (0..num_queries)
        .flat_map(|query| {
            (0..num_keys).map(move |key| (before + query + positions - 1 - key) as u32)
        })
        .collect();
    let rows = Tensor::from_vec(rows, num_queries * num_keys, q.device())?;
    let vectors =
        distance.table.index_select(&rows, 0)?.reshape((num_queries, num_keys, head_dim))?;
    let by_query = q.transpose(0, 1)?.contiguous()?; // (queries, num_heads, head_dim)
    let scores = by_query.matmul(&vectors.transpose(1, 2)?.contiguous()?)?.transpose(0, 1)?;
    if !distance.with_keys {
        return scores.contiguous();
    }
    let by_key = k.transpose(0, 1)?.contiguous()?; // (keys, num_heads, head_dim)
    let vectors = vectors.permute((1, 2, 0))?.contiguous()?; // (keys, head_dim, queries)
    let with_keys = by_key.matmul(&vectors)?.permute((1, 2, 0))?; // (num_heads, queries, keys)
    (scores + with_keys)?.contiguous()
}

/// Goes row by row over host memory. Idle threads take a share of the pairs of a key-value head, with the query heads that
/// share it, and a query.
fn per_row(
    q: &Tensor,
    queries: &Lengths,
    keys: &Keys<'_>,
    options: AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let (tokens, hidden_size) = q.dims2()?;
    let bias = options.bias.map(Tensor::contiguous).transpose()?;
    let bias_view = bias.as_ref().map(CpuView::new);
    let bias = match (&bias, &bias_view) {
        (Some(bias), Some(view)) => {
            let (_, rows, stride) = bias.dims3()?;
            Some(cpu::Bias { numbers: view.slice()?, rows, stride })
        }
        _ => None,
    };
    let q = contiguous_rows(q)?;
    let q_view = CpuView::new(&q);
    let rows = queries.ranges().enumerate().map(|(row, range)| {
        let (k, v) = keys.row(row)?;
        Ok((range, contiguous_rows(&k)?, contiguous_rows(&v)?))
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let longest = (0..rows.len()).map(|row| keys.len(row)).max().unwrap_or(0);
    let positions = options.disentangled.map(|disentangled| disentangled.packed(longest));
    let positions = positions.transpose()?.flatten();
    if positions.is_none() && options.disentangled.is_some() {
        bail!("bug: relative positions in the form of another device");
    }
    let attention = PerRow { q: q_view.matrix()?, rows: &rows, bias, positions, options };
    let work = Work::new(queries, keys, &options);
    let multiplications = 2 * work.scores() * hidden_size;
    let parts = cpu::shared(options.num_kv_heads * work.scores(), 1, multiplications, |share| {
        let blocks = work.blocks(share).into_iter();
        blocks.map(|block| Ok((attention.block(&block)?, block))).collect::<Result<Vec<_>>>()
    });
    let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
    let values = attention.join(parts.into_iter().flatten().collect());
    let values = Tensor::from_vec(values, (tokens, hidden_size), &Device::Cpu)?;
    Ok(AttentionOutput { values, attentions: None })
}

/// Consecutive key-value heads, and consecutive queries of the batch.
#[derive(Clone, Debug, PartialEq)]
struct Block {
    kv_heads: Range<usize>,
    queries: Range<usize>,
}

/// The number of scores that each query takes, to share out queries evenly: the later ones of a causal row see more keys.
struct Work {
    /// The scores of one key-value head before each query, and of all queries.
    before: Vec<usize>,
}

impl Work {
    fn new(queries: &Lengths, keys: &Keys<'_>, options: &AttentionOptions<'_>) -> Self {
        let mut before = Vec::with_capacity(queries.total_tokens() + 1);
        before.push(0);
        let mut total = 0;
        for (row, range) in queries.ranges().enumerate() {
            let num_keys = keys.len(row);
            let first = num_keys.saturating_sub(range.len());
            for position in first..first + range.len() {
                // At least 1, so that each query belongs to one share.
                total += options.mask.visible(position, num_keys).len().max(1);
                before.push(total);
            }
        }
        Self { before }
    }

    fn queries(&self) -> usize {
        self.before.len() - 1
    }

    /// The scores of all queries with one key-value head.
    fn scores(&self) -> usize {
        self.before[self.queries()]
    }

    /// The key-value head and the first query that begin in the scores of all heads from number `score` on.
    fn at(&self, score: usize) -> (usize, usize) {
        let (kv_head, score) = (score / self.scores(), score % self.scores());
        (kv_head, self.before.partition_point(|before| *before < score))
    }

    /// The blocks that begin in this share of the scores of all heads.
    fn blocks(&self, share: Range<usize>) -> Vec<Block> {
        if share.is_empty() {
            return Vec::new();
        }
        let all = 0..self.queries();
        let ((first, from), (last, until)) = (self.at(share.start), self.at(share.end));
        let block = |kv_heads, queries| Block { kv_heads, queries };
        let blocks = if first == last {
            vec![block(first..first + 1, from..until)]
        } else if from == 0 {
            vec![block(first..last, all), block(last..last + 1, 0..until)]
        } else {
            let rest = [block(first + 1..last, all.clone()), block(last..last + 1, 0..until)];
            [vec![block(first..first + 1, from..all.end)], rest.into()].concat()
        };
        blocks.into_iter().filter(|b| !b.kv_heads.is_empty() && !b.queries.is_empty()).collect()
    }
}

/// Attention over rows in host memory.
struct PerRow<'a> {
    q: Matrix<'a>,
    /// The queries of each row, and its keys and values.
    rows: &'a [(Range<usize>, Tensor, Tensor)],
    bias: Option<cpu::Bias<'a>>,
    positions: Option<PackedPositions<'a>>,
    options: AttentionOptions<'a>,
}

impl PerRow<'_> {
    /// The columns of the query heads that share these key-value heads.
    fn columns(&self, kv_heads: &Range<usize>) -> Range<usize> {
        let width = self.q.shape().1 / self.options.num_kv_heads;
        kv_heads.start * width..kv_heads.end * width
    }

    /// The values of a block, `(queries, columns)`.
    fn block(&self, Block { kv_heads, queries }: &Block) -> Result<Vec<f32>> {
        let options = &self.options;
        let (columns, head_dim) = (self.columns(kv_heads), self.q.shape().1 / options.num_heads);
        let kv_columns = kv_heads.start * head_dim..kv_heads.end * head_dim;
        let sharing = options.num_heads / options.num_kv_heads;
        let first_head = kv_heads.start * sharing;
        let alibi = options
            .alibi
            .map(|alibi| cpu::Slopes { slopes: &alibi.slopes()[first_head..], form: alibi.form() });
        let mut kernel = cpu::Attention {
            num_heads: kv_heads.len() * sharing,
            scale: options.scale as f32,
            bias: self.bias.map(|bias| bias.heads_from(first_head)),
            alibi,
            positions: self.positions.as_ref().map(|positions| positions.heads_from(first_head)),
            mask: options.mask,
            softcap: options.softcap.map(|cap| cap as f32),
            bf16: options.precision != Precision::Full,
            scratch: cpu::Scratch::default(),
        };
        // Grows row by row, so that the zeros are still in cache when they are overwritten.
        let mut values = Vec::with_capacity(queries.len() * columns.len());
        let first_row = self.rows.partition_point(|(range, ..)| range.end <= queries.start);
        for (range, k, v) in &self.rows[first_row..] {
            if range.start >= queries.end {
                break;
            }
            let own = range.start.max(queries.start)..range.end.min(queries.end);
            let (k, v) = (CpuView::new(k), CpuView::new(v));
            let k = k.matrix()?.columns(kv_columns.clone());
            let v = v.matrix()?.columns(kv_columns.clone());
            let start = values.len();
            values.resize(start + own.len() * columns.len(), 0.0);
            let q = self.q.block(range.clone(), columns.clone());
            kernel.row(
                q,
                own.start - range.start..own.end - range.start,
                k,
                v,
                &mut values[start..],
            );
        }
        Ok(values)
    }

    /// The rows of all queries from the values of the blocks.
    fn join(&self, mut parts: Vec<(Vec<f32>, Block)>) -> Vec<f32> {
        let (rows, width) = self.q.shape();
        if parts.len() == 1 {
            return parts.remove(0).0;
        }
        let mut all = vec![0.0; rows * width];
        for (values, Block { kv_heads, queries }) in parts {
            let columns = self.columns(&kv_heads);
            for (query, values) in queries.zip(values.chunks_exact(columns.len().max(1))) {
                all[query * width..][columns.clone()].copy_from_slice(values);
            }
        }
        all
    }
}

/// Makes the elements of each row contiguous.
fn contiguous_rows(tensor: &Tensor) -> Result<Tensor> {
    if tensor.stride()[1] == 1 { Ok(tensor.clone()) } else { tensor.contiguous() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::nn::random::randn;
    use crate::nn::{Alibi, AttnImplementation, PositionIds};

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
        AttentionOptions::new(HEADS, 8).with_scale(0.3).with_bias(bias)
    }

    #[test]
    fn kernels_agree_with_and_without_bias() -> Result<()> {
        let inputs = inputs(&[5, 0, 1, 33, 8, 0]);
        let fused = randn(0f32, 2., (47, 3 * 24), &Device::Cpu)?;
        let part = |i: usize| fused.narrow(1, i * 24, 24);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        // A view into a larger table, as the models pass it.
        let bias = randn(0f32, 1., (HEADS, 40, 40), &Device::Cpu)?;
        let bias = bias.narrow(1, 0, 36)?.narrow(2, 0, 35)?;
        for (bias, causal) in
            [(None, false), (Some(&bias), false), (None, true), (Some(&bias), true)]
        {
            let options = options(bias).with_causal(causal);
            let keys = Keys::Flat { k: &k, v: &v, lengths: &inputs.lengths, attended: None };
            let reference = eager_padded(&q, &k, &v, &inputs, options)?;
            let by_row = eager_rows(&q, &inputs.lengths, &keys, options)?;
            let ours = per_row(&q, &inputs.lengths, &keys, options)?;
            for values in [ours.values, by_row.values] {
                let off = worst(&values, &reference.values);
                assert!(off < 5e-6, "kernels differ by {off:e}, causal: {causal}");
            }
        }
        Ok(())
    }

    #[test]
    fn kernels_agree_where_heads_share_keys_and_windows_are_short() -> Result<()> {
        use AttentionMask::{Causal, CausalWindow, Full, Window};
        let inputs = inputs(&[5, 0, 1, 33, 8, 0]);
        for (num_kv_heads, head_dim) in [(1, 24), (2, 80), (3, 256), (1, 512)] {
            let (q_width, kv_width) = (6 * head_dim, num_kv_heads * head_dim);
            let fused = randn(0f32, 1., (47, q_width + 2 * kv_width), &Device::Cpu)?;
            let (q, k) = (fused.narrow(1, 0, q_width)?, fused.narrow(1, q_width, kv_width)?);
            let v = fused.narrow(1, q_width + kv_width, kv_width)?;
            let alibi = |form| Alibi::new(6, form, &Device::Cpu);
            let (by_distance, by_key) =
                (alibi(AlibiForm::Distance)?, alibi(AlibiForm::Bf16Key { scale: 0.2 })?);
            for mask in [Full, Causal, CausalWindow(3), Window(2), CausalWindow(40)] {
                for (softcap, alibi) in [
                    (None, None),
                    (Some(2.0), None),
                    (None, Some(&by_distance)),
                    (Some(2.0), Some(&by_key)),
                ] {
                    let alibi = alibi.filter(|alibi| {
                        mask.causal_window().is_none() || alibi.form() == AlibiForm::Distance
                    });
                    let options = AttentionOptions::new(6, head_dim)
                        .with_num_kv_heads(num_kv_heads)
                        .with_mask(mask)
                        .with_softcap(softcap)
                        .with_alibi(alibi);
                    let keys =
                        Keys::Flat { k: &k, v: &v, lengths: &inputs.lengths, attended: None };
                    let ours = attention(&q, &k, &v, &inputs, options)?.values;
                    let padded = eager_padded(&q, &k, &v, &inputs, options)?.values;
                    let by_row = eager_rows(&q, &inputs.lengths, &keys, options)?.values;
                    for reference in [padded, by_row] {
                        let off = worst(&ours, &reference);
                        assert!(off < 5e-6, "kernels differ by {off:e}: {options:?}");
                    }
                    // The last queries alone, over a cache.
                    if mask == Full {
                        continue;
                    }
                    let cache = KvCache::new(&k, &v, &inputs.lengths)?;
                    for last in [1, 2] {
                        let ranges = inputs
                            .lengths
                            .ranges()
                            .map(|range| range.end - range.len().min(last)..range.end);
                        let ranges: Vec<_> = ranges.collect();
                        let part = |x: &Tensor| -> Result<Tensor> {
                            let rows: Result<Vec<_>> = ranges
                                .iter()
                                .map(|range| x.narrow(0, range.start, range.len()))
                                .collect();
                            Tensor::cat(&rows?, 0)
                        };
                        let queries = Lengths::new(ranges.iter().map(ExactSizeIterator::len));
                        let cached = attention_over(&part(&q)?, &queries, &cache, options)?.values;
                        let off = worst(&cached, &part(&ours)?);
                        assert!(off < 5e-6, "over a cache: {off:e}: {options:?}");
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn threads_at_rest_change_no_bit() -> Result<()> {
        use AttentionMask::{Causal, CausalWindow, Full, Window};
        let lengths = [700, 0, 1, 90];
        let ids = vec![0u32; 700];
        let rows = lengths.iter().map(|&n| (&ids[..n], &ids[..n]));
        let inputs = ModelInputs::new(rows, PositionIds::FromZero, &Device::Cpu)?;
        let x = randn(0f32, 1., (791, 3 * 5 * 16), &Device::Cpu)?;
        let part = |i: usize| x.narrow(1, i * 80, 80);
        let bias = randn(0f32, 1., (5, 700, 700), &Device::Cpu)?;
        let alibi = Alibi::new(5, AlibiForm::Distance, &Device::Cpu)?;
        for num_kv_heads in [5, 1] {
            let width = num_kv_heads * 16;
            let (q, k, v) =
                (part(0)?, part(1)?.narrow(1, 0, width)?, part(2)?.narrow(1, 0, width)?);
            let cache = KvCache::new(&k, &v, &inputs.lengths)?;
            for (bias, alibi, mask, precision) in [
                (None, None, Full, Precision::Full),
                (Some(&bias), None, Full, Precision::Full),
                (Some(&bias), None, Causal, Precision::Full),
                (None, Some(&alibi), Causal, Precision::Full),
                (None, Some(&alibi), Full, Precision::Int8),
                (None, None, Causal, Precision::Int8),
                (None, None, Window(333), Precision::Full),
                (None, None, CausalWindow(600), Precision::Full),
            ] {
                let options = AttentionOptions { num_heads: 5, precision, ..options(bias) };
                let options =
                    options.with_num_kv_heads(num_kv_heads).with_mask(mask).with_alibi(alibi);
                let results = || -> Result<Vec<Vec<f32>>> {
                    let outputs = [
                        attention(&q, &k, &v, &inputs, options)?,
                        attention_over(&q, &inputs.lengths, &cache, options)?,
                    ];
                    outputs.iter().map(|output| output.values.flatten_all()?.to_vec1()).collect()
                };
                let alone = results()?;
                for threads in [2, 3] {
                    let spare =
                        cpu::SpareThreads::new(threads).map_err(candle_core::Error::wrap)?;
                    assert_eq!(Arc::new(spare).compute(results)?, alone, "{threads}: {options:?}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn shares_have_each_head_and_query_once_and_similar_numbers_of_scores() {
        let queries = Lengths::new([40, 0, 1, 7]);
        let cache = KvCache::default();
        let none = Tensor::zeros((48, 0), DType::F32, &Device::Cpu).unwrap();
        let flat = Keys::Flat { k: &none, v: &none, lengths: &queries, attended: None };
        for keys in [flat, Keys::Cached(&cache)] {
            for (num_kv_heads, causal) in [(1, true), (1, false), (3, true), (2, false)] {
                let is_causal = causal && matches!(keys, Keys::Flat { .. });
                let options = options(None).with_causal(is_causal);
                let work = Work::new(&queries, &keys, &options);
                let all = num_kv_heads * work.scores();
                for shares in 1..6 {
                    let share = all.div_ceil(shares);
                    let mut times = vec![0; num_kv_heads * 48];
                    for start in (0..all).step_by(share) {
                        let mut scores = 0;
                        for Block { kv_heads, queries } in
                            work.blocks(start..all.min(start + share))
                        {
                            for kv_head in kv_heads {
                                for query in queries.clone() {
                                    times[kv_head * 48 + query] += 1;
                                    scores += work.before[query + 1] - work.before[query];
                                }
                            }
                        }
                        // Off by one query at either end.
                        assert!(scores.abs_diff(share.min(all - start)) <= 40, "{scores} {share}");
                    }
                    assert_eq!(times, vec![1; num_kv_heads * 48]);
                }
            }
        }
        assert_eq!(
            Work::new(&Lengths::new([0]), &Keys::Cached(&cache), &options(None)).blocks(0..0),
            []
        );
    }

    #[test]
    fn narrow_models_attend_in_bf16_where_the_processor_has_it() -> Result<()> {
        let inputs = inputs(&[9, 30]);
        let x = randn(0f32, 1., (39, 24), &Device::Cpu)?;
        let values = |precision| {
            let options = options(None).with_precision(precision);
            Ok::<_, candle_core::Error>(attention(&x, &x, &x, &inputs, options)?.values)
        };
        for precision in [Precision::Bf16, Precision::Int8] {
            let off = worst(&values(precision)?, &values(Precision::Full)?);
            assert_eq!(off > 1e-6, cpu::has_bf16(), "{off:e}");
            assert!(off < 5e-2, "{off:e}");
        }
        Ok(())
    }

    #[test]
    fn token_by_token_over_a_cache_is_the_whole_row_at_once() -> Result<()> {
        let lengths = [5, 3, 9];
        let inputs = inputs(&lengths);
        let x = randn(0f32, 2., (17, 3 * 24), &Device::Cpu)?;
        let (q, k, v) = (x.narrow(1, 0, 24)?, x.narrow(1, 24, 24)?, x.narrow(1, 48, 24)?);
        let bias = randn(0f32, 1., (HEADS, 9, 9), &Device::Cpu)?;
        let alibi = Alibi::new(HEADS, AlibiForm::Distance, &Device::Cpu)?;
        let options = options(Some(&bias)).with_alibi(Some(&alibi)).with_causal(true);
        let whole = attention(&q, &k, &v, &inputs, options)?.values;
        // First all but two tokens of each row, then one more, then the last.
        let mut cache = KvCache::default();
        for (from, to) in [(0, 2), (2, 1), (1, 0)] {
            let mut queries = Vec::new();
            for (range, length) in inputs.lengths.ranges().zip(lengths) {
                let start = if from == 0 { 0 } else { length - from };
                queries.push(range.start + start..range.start + length - to);
            }
            let part = |x: &Tensor| -> Result<Tensor> {
                let rows: Result<Vec<_>> =
                    queries.iter().map(|range| x.narrow(0, range.start, range.len())).collect();
                Tensor::cat(&rows?, 0)
            };
            let queries_lengths = Lengths::new(queries.iter().map(ExactSizeIterator::len));
            cache.append(&part(&k)?, &part(&v)?, &queries_lengths, None)?;
            let expected = part(&whole)?;
            for output_attentions in [false, true] {
                let options = AttentionOptions { output_attentions, ..options };
                let output = attention_over(&part(&q)?, &queries_lengths, &cache, options)?;
                let off = worst(&output.values, &expected);
                assert!(off < 5e-6, "{off:e}");
            }
        }
        Ok(())
    }

    /// The kernel that was asked for shows in the last bits; the one that gives probabilities is eager.
    #[test]
    fn eager_is_eager_over_a_cache_too() -> Result<()> {
        let inputs = inputs(&[9, 30]);
        let x = randn(0f32, 2., (39, 3 * 24), &Device::Cpu)?;
        let (q, k, v) = (x.narrow(1, 0, 24)?, x.narrow(1, 24, 24)?, x.narrow(1, 48, 24)?);
        let cache = KvCache::new(&k, &v, &inputs.lengths)?;
        let plain = options(None).with_causal(true);
        let run = |options| -> Result<[Vec<f32>; 2]> {
            let flat = attention(&q, &k, &v, &inputs, options)?.values;
            let cached = attention_over(&q, &inputs.lengths, &cache, options)?.values;
            Ok([flat.flatten_all()?.to_vec1()?, cached.flatten_all()?.to_vec1()?])
        };
        let fastest = run(plain)?;
        let eager = run(plain.with_attn_implementation(AttnImplementation::Eager))?;
        assert_eq!(eager, run(plain.with_output_attentions(true))?);
        for (eager, fastest) in eager.iter().zip(&fastest) {
            assert_ne!(eager, fastest);
        }
        Ok(())
    }

    #[test]
    fn tokens_that_are_not_attended_to_change_no_other() -> Result<()> {
        let part = inputs(&[7, 0, 33]).with_attended(vec![4, 0, 20])?;
        let fused = randn(0f32, 1., (40, 3 * 24), &Device::Cpu)?;
        let parts = |from: usize, len: usize| -> Result<[Tensor; 3]> {
            let rows = fused.narrow(0, from, len)?;
            Ok([rows.narrow(1, 0, 24)?, rows.narrow(1, 24, 24)?, rows.narrow(1, 48, 24)?])
        };
        let [q, k, v] = parts(0, 40)?;
        for mask in [AttentionMask::Full, AttentionMask::Causal, AttentionMask::Window(14)] {
            let options = options(None).with_mask(mask);
            let found = attention(&q, &k, &v, &part, options)?.values;
            let keys =
                Keys::Flat { k: &k, v: &v, lengths: &part.lengths, attended: part.attended() };
            let eager = eager_rows(&q, &part.lengths, &keys, options)?.values;
            assert!(worst(&found, &eager) < 5e-6, "{mask:?}");
            let [q, k, v] = parts(7, 33)?;
            let alone = inputs(&[33]).with_attended(vec![20])?;
            let alone = attention(&q, &k, &v, &alone, options)?.values;
            assert!(worst(&alone, &found.narrow(0, 7, 33)?) == 0.0, "{mask:?}");
            // A row that ends where attention does.
            let [q, k, v] = parts(7, 20)?;
            let short = attention(&q, &k, &v, &inputs(&[20]), options)?.values;
            assert!(worst(&short, &found.narrow(0, 7, 20)?) < 5e-6, "{mask:?}");
        }
        let narrow = options(None).with_mask(AttentionMask::Window(3));
        assert!(attention(&q, &k, &v, &part, narrow).is_err());
        assert!(inputs(&[7, 0, 33]).with_attended(vec![4, 1, 20]).is_err());
        assert!(inputs(&[7, 0, 33]).with_attended(vec![4, 0]).is_err());
        Ok(())
    }

    #[test]
    fn queries_may_outnumber_the_keys_of_an_encoder() -> Result<()> {
        let queries = Lengths::new([4, 0, 1]);
        let q = randn(0f32, 1., (5, 12), &Device::Cpu)?;
        let k = randn(0f32, 1., (5, 12), &Device::Cpu)?;
        let cache = KvCache::new(&k, &k, &Lengths::new([2, 3, 0]))?;
        let ours = attention_over(&q, &queries, &cache, options(None))?;
        let with = AttentionOptions { output_attentions: true, ..options(None) };
        let reference = attention_over(&q, &queries, &cache, with)?;
        assert!(worst(&ours.values, &reference.values) < 5e-6);
        let attentions = reference.attentions.unwrap();
        assert_eq!(attentions[0].dims(), [HEADS, 4, 2]);
        // A row without keys has nothing to mix.
        assert_eq!(ours.values.get(4)?.to_vec1::<f32>()?, [0.0; 12]);
        let causal = options(None).with_causal(true);
        assert!(attention_over(&q, &queries, &cache, causal).is_err());
        Ok(())
    }

    #[test]
    fn attentions_are_one_square_a_row_and_sum_to_one() -> Result<()> {
        let inputs = inputs(&[3, 0, 7]);
        let x = randn(0f32, 1., (10, 12), &Device::Cpu)?;
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
        let five_heads = AttentionOptions { num_heads: 5, num_kv_heads: 5, ..options(None) };
        assert!(attention(&x, &x, &x, &inputs, five_heads).is_err());
        for scale in [0.0, -0.3, f64::NAN] {
            let error = attention(&x, &x, &x, &inputs, AttentionOptions { scale, ..options(None) });
            let error = error.unwrap_err().to_string();
            assert!(error.contains("cannot be scaled by"), "{error}");
        }
        for wrong in [
            options(None).with_num_kv_heads(2),
            options(None).with_num_kv_heads(1),
            options(None).with_mask(AttentionMask::CausalWindow(0)),
            options(None).with_softcap(Some(0.0)),
            options(None).with_alibi(Some(&Alibi::new(2, AlibiForm::Distance, &Device::Cpu)?)),
            options(None)
                .with_alibi(Some(&Alibi::new(3, AlibiForm::Bf16Key { scale: 1.0 }, &Device::Cpu)?))
                .with_mask(AttentionMask::CausalWindow(2)),
        ] {
            assert!(attention(&x, &x, &x, &inputs, wrong).is_err(), "{wrong:?}");
        }
        let other = Tensor::zeros((3, 12), DType::F32, &Device::Cpu)?;
        assert!(attention(&x, &other, &x, &inputs, options(None)).is_err());
        Ok(())
    }
}
