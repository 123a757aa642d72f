//! The KV cache of a decoder: keys and values of one layer, row by row.
//!
//! Rows come and go during generation, so each has its own tensors. Finished rows are dropped, waiting rows are added,
//! and beams are reordered without touching the others. Beams with a common prefix share tensors until one of them is
//! appended to (copy on write). A key-value head that several query heads share is cached once. A layer with a sliding
//! window drops tokens outside it, so that its rows stop growing. Not here: attention over the cache (`attention`), and the
//! choice of tokens (`crate::generation`).

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::lengths::Lengths;

/// The minimum capacity of a row, in tokens. The capacity doubles when it is used up.
const MIN_CAPACITY: usize = 16;

/// Keys and values of one row: `(len, width)` each, in tensors with spare capacity; `width` is `num_kv_heads * head_dim`.
#[derive(Clone, Debug)]
struct Row {
    keys: Tensor,
    values: Tensor,
    len: usize,
    /// The number of tokens before these that are dropped.
    dropped: usize,
    /// A reference count of the rows that share the tensors. They are written in place only by a sole owner.
    owners: Arc<()>,
}

impl Row {
    fn new(keys: &Tensor, values: &Tensor) -> Result<Self> {
        let (len, hidden_size) = keys.dims2()?;
        let capacity = len.next_power_of_two().max(MIN_CAPACITY);
        let room = |tokens: &Tensor| -> Result<Tensor> {
            let room = Tensor::zeros((capacity, hidden_size), tokens.dtype(), tokens.device())?;
            if len > 0 {
                room.slice_set(&tokens.contiguous()?, 0, 0)?;
            }
            Ok(room)
        };
        let (keys, values) = (room(keys)?, room(values)?);
        Ok(Self { keys, values, len, dropped: 0, owners: Arc::default() })
    }

    /// Makes room for `added` tokens, in tensors that no other row shares. Tokens outside `window` are dropped when the rest
    /// moves to other tensors: when there is no room, and when they take more than half of it.
    fn reserve(&mut self, added: usize, window: Option<usize>) -> Result<()> {
        let capacity = self.keys.dim(0)?;
        // The first new token attends to itself and to the tokens before it in the window.
        let needed = window.map_or(self.len, |window| self.len.min(window.saturating_sub(1)));
        let outside = self.len - needed;
        let too_small = self.len + added > capacity;
        if too_small || outside > capacity / 2 || Arc::strong_count(&self.owners) > 1 {
            // Tokens leave a window one by one: twice the room makes moves rare.
            let most = if window.is_some() { 2 * (needed + added) } else { needed + added };
            let capacity = most.next_power_of_two().max(MIN_CAPACITY);
            let moved = |tokens: &Tensor| moved(&tokens.narrow(0, outside, needed)?, capacity);
            (self.keys, self.values) = (moved(&self.keys)?, moved(&self.values)?);
            (self.len, self.dropped) = (needed, self.dropped + outside);
            self.owners = Arc::default();
        }
        Ok(())
    }

    fn append(&mut self, keys: &Tensor, values: &Tensor, window: Option<usize>) -> Result<()> {
        let added = keys.dim(0)?;
        if added == 0 {
            return Ok(());
        }
        self.reserve(added, window)?;
        self.keys.slice_set(&keys.contiguous()?, 0, self.len)?;
        self.values.slice_set(&values.contiguous()?, 0, self.len)?;
        self.len += added;
        Ok(())
    }
}

/// Copies tokens to a new tensor with room for `capacity`.
fn moved(tokens: &Tensor, capacity: usize) -> Result<Tensor> {
    let (len, hidden_size) = tokens.dims2()?;
    #[cfg(feature = "cuda")]
    if super::cuda::can_append(tokens) {
        return super::cuda::grown(tokens, len, capacity);
    }
    let room = Tensor::zeros((capacity, hidden_size), tokens.dtype(), tokens.device())?;
    if len > 0 {
        room.slice_set(&tokens.contiguous()?, 0, 0)?;
    }
    Ok(room)
}

/// Keys and values of one layer.
#[derive(Debug, Default)]
pub struct KvCache {
    rows: Vec<Row>,
    /// On a GPU: the table of row addresses for the most recent queries.
    #[cfg(feature = "cuda")]
    table: std::cell::RefCell<Option<(Lengths, super::cuda::RowTable)>>,
}

impl KvCache {
    /// Creates a cache for rows whose keys and values are all known, for example an encoder's for cross-attention.
    ///
    /// # Shapes
    /// `keys`, `values`: `(total_tokens, num_kv_heads * head_dim)`, rows as in `lengths`.
    ///
    /// # Errors
    /// When candle cannot allocate.
    pub fn new(keys: &Tensor, values: &Tensor, lengths: &Lengths) -> Result<Self> {
        let rows = lengths.ranges().map(|range| {
            let part = |tensor: &Tensor| tensor.narrow(0, range.start, range.len());
            Row::new(&part(keys)?, &part(values)?)
        });
        let rows = rows.collect::<Result<_>>()?;
        Ok(Self {
            rows,
            #[cfg(feature = "cuda")]
            table: None.into(),
        })
    }

    /// The number of rows.
    pub fn num_rows(&self) -> usize {
        self.rows.len()
    }

    /// The number of tokens of row `row` so far, those that are dropped included.
    pub fn len(&self, row: usize) -> usize {
        self.rows.get(row).map_or(0, |row| row.dropped + row.len)
    }

    /// The number of cached tokens of row `row`, its last ones.
    pub fn cached(&self, row: usize) -> usize {
        self.rows.get(row).map_or(0, |row| row.len)
    }

    /// Features of a key; `None` while the cache has no rows.
    ///
    /// # Errors
    /// When candle cannot tell.
    pub(super) fn width(&self) -> Result<Option<usize>> {
        self.rows.first().map(|row| row.keys.dim(1)).transpose()
    }

    /// Whether the cache has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Appends new tokens to each row. An empty cache takes over the rows. With a `window`, a token attends to itself and the
    /// tokens before it less than `window` positions away; others may be dropped.
    ///
    /// # Shapes
    /// `keys`, `values`: `(total_tokens, num_kv_heads * head_dim)`, rows as in `lengths`.
    ///
    /// # Errors
    /// When the number of rows differs from the cache's, or candle cannot allocate.
    pub fn append(
        &mut self,
        keys: &Tensor,
        values: &Tensor,
        lengths: &Lengths,
        window: Option<usize>,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        if super::cuda::can_append(keys) && keys.dim(0)? > 0 {
            return self.append_on_gpu(keys, values, lengths, window);
        }
        if self.rows.is_empty() {
            *self = Self::new(keys, values, lengths)?;
            return Ok(());
        }
        if self.rows.len() != lengths.rows() {
            bail!("a cache of {} rows got tokens of {}", self.rows.len(), lengths.rows());
        }
        for (row, range) in self.rows.iter_mut().zip(lengths.ranges()) {
            let part = |tensor: &Tensor| tensor.narrow(0, range.start, range.len());
            row.append(&part(keys)?, &part(values)?, window)?;
        }
        Ok(())
    }

    /// Like [`KvCache::append`], in one kernel for all rows.
    #[cfg(feature = "cuda")]
    fn append_on_gpu(
        &mut self,
        keys: &Tensor,
        values: &Tensor,
        lengths: &Lengths,
        window: Option<usize>,
    ) -> Result<()> {
        if self.rows.is_empty() {
            let none = keys.narrow(0, 0, 0)?;
            let rows = (0..lengths.rows()).map(|_| Row::new(&none, &none));
            self.rows = rows.collect::<Result<_>>()?;
        }
        if self.rows.len() != lengths.rows() {
            bail!("a cache of {} rows got tokens of {}", self.rows.len(), lengths.rows());
        }
        for (row, range) in self.rows.iter_mut().zip(lengths.ranges()) {
            row.reserve(range.len(), window)?;
            row.len += range.len();
        }
        self.table.take();
        super::cuda::append(keys, values, &self.table(lengths)?, lengths)
    }

    /// The table of the rows' GPU addresses, and of the offsets of `queries`.
    ///
    /// # Errors
    /// When the GPU is out of memory.
    #[cfg(feature = "cuda")]
    pub(super) fn table(&self, queries: &Lengths) -> Result<super::cuda::RowTable> {
        if let Some((known, table)) = &*self.table.borrow()
            && known == queries
        {
            return Ok(table.clone());
        }
        let rows = self.rows.iter().map(|row| (&row.keys, &row.values, row.len));
        let table = super::cuda::RowTable::new(rows, queries)?;
        *self.table.borrow_mut() = Some((queries.clone(), table.clone()));
        Ok(table)
    }

    /// Appends the rows of `other`.
    pub fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        #[cfg(feature = "cuda")]
        self.table.take();
    }

    /// Keeps the given rows, in this order. Repeated rows, such as beams, share tensors until one of them is appended
    /// to.
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        let count = self.rows.len();
        let selected = rows.iter().map(|&row| match self.rows.get(row) {
            Some(row) => Ok(row.clone()),
            None => bail!("row {row} is not among the {count} of the cache"),
        });
        self.rows = selected.collect::<Result<_>>()?;
        #[cfg(feature = "cuda")]
        self.table.take();
        Ok(())
    }

    /// Whether [`KvCache::prefix`] can take the first `len` tokens of row 0: it has them, and has dropped none that the next
    /// token may attend to.
    pub fn has_prefix(&self, len: usize) -> bool {
        let has = |row: &Row| len == row.dropped + row.len || row.dropped == 0 && len <= row.len;
        self.rows.first().is_some_and(has)
    }

    /// A cache of `rows` rows that each begin with the first `len` tokens of row 0. They share its tensors until they are
    /// appended to.
    ///
    /// # Errors
    /// When the cache does not have that prefix, see [`KvCache::has_prefix`].
    pub fn prefix(&self, len: usize, rows: usize) -> Result<Self> {
        let Some(row) = self.rows.first().filter(|_| self.has_prefix(len)) else {
            bail!("a cache of {} tokens does not have the first {len}", self.len(0))
        };
        let row = Row { len: len - row.dropped, ..row.clone() };
        Ok(Self {
            rows: vec![row; rows],
            #[cfg(feature = "cuda")]
            table: None.into(),
        })
    }

    /// Removes the tokens of row `row`; the empty row stays.
    pub fn clear(&mut self, row: usize) {
        if let Some(row) = self.rows.get_mut(row) {
            (row.len, row.dropped) = (0, 0);
        }
        #[cfg(feature = "cuda")]
        self.table.take();
    }

    /// Keys and values of row `row`, as views of `(cached, num_kv_heads * head_dim)` each.
    ///
    /// # Errors
    /// When the row does not exist.
    pub fn row(&self, row: usize) -> Result<(Tensor, Tensor)> {
        let Some(row) = self.rows.get(row) else {
            bail!("row {row} is not among the {} of the cache", self.rows.len())
        };
        Ok((row.keys.narrow(0, 0, row.len)?, row.values.narrow(0, 0, row.len)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn tokens(numbers: &[f32]) -> Tensor {
        Tensor::new(numbers, &Device::Cpu).unwrap().reshape(((), 1)).unwrap()
    }

    fn keys(cache: &KvCache, row: usize) -> Vec<f32> {
        cache.row(row).unwrap().0.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn rows_grow_leave_and_split() {
        let mut cache = KvCache::default();
        let first = tokens(&[1.0, 2.0, 3.0]);
        cache.append(&first, &first, &Lengths::new([2, 1]), None).unwrap();
        // Beyond the initial capacity, so that rows move to larger tensors.
        for step in 0..40u8 {
            let next = tokens(&[10.0 + f32::from(step), 90.0]);
            cache.append(&next, &next, &Lengths::new([1, 1]), None).unwrap();
        }
        assert_eq!((cache.len(0), cache.len(1)), (42, 41));
        assert_eq!(keys(&cache, 0)[..3], [1.0, 2.0, 10.0]);
        assert_eq!(keys(&cache, 0)[41..], [49.0]);

        // Selects the second row twice: the two share tensors, then diverge.
        cache.select(&[1, 1]).unwrap();
        assert_eq!(cache.rows[0].keys.id(), cache.rows[1].keys.id());
        let next = tokens(&[5.0, 6.0]);
        cache.append(&next, &next, &Lengths::new([1, 1]), None).unwrap();
        assert_eq!((keys(&cache, 0)[41], keys(&cache, 1)[41]), (5.0, 6.0));
        assert_eq!(keys(&cache, 0)[..41], keys(&cache, 1)[..41]);
        // A row that no longer shares its tensors is written in place.
        let second = cache.rows[1].keys.id();
        cache.append(&next, &next, &Lengths::new([1, 1]), None).unwrap();
        assert_eq!(cache.rows[1].keys.id(), second);
        cache.select(&[0, 1]).unwrap();
        cache.append(&next, &next, &Lengths::new([1, 1]), None).unwrap();
        assert_eq!((cache.len(1), cache.rows[1].keys.id()), (44, second));

        // A cleared row begins anew, and one that shares its tensors keeps them.
        cache.select(&[0, 1, 1]).unwrap();
        cache.clear(1);
        cache
            .append(
                &tokens(&[7.0, 8.0, 9.0]),
                &tokens(&[7.0, 8.0, 9.0]),
                &Lengths::new([1, 1, 1]),
                None,
            )
            .unwrap();
        assert_eq!(
            (keys(&cache, 1), keys(&cache, 2)[42..].to_vec()),
            (vec![8.0], vec![6.0, 6.0, 9.0])
        );
        cache.select(&[0, 2]).unwrap();

        cache.extend(KvCache::new(&tokens(&[8.0]), &tokens(&[8.0]), &Lengths::new([1])).unwrap());
        assert_eq!((cache.num_rows(), cache.len(2)), (3, 1));
        assert!(cache.select(&[3]).is_err());
    }

    #[test]
    fn a_window_bounds_the_memory_of_a_row() {
        const WINDOW: usize = 5;
        let one = Lengths::new([1]);
        let prompt: Vec<f32> = (0..200u8).map(f32::from).collect();
        let mut cache = KvCache::default();
        cache
            .append(&tokens(&prompt), &tokens(&prompt), &Lengths::new([200]), Some(WINDOW))
            .unwrap();
        assert_eq!((cache.len(0), cache.cached(0), cache.has_prefix(150)), (200, 200, true));
        for step in 0..100u8 {
            let next = tokens(&[1000.0 + f32::from(step)]);
            cache.append(&next, &next, &one, Some(WINDOW)).unwrap();
            let cached = keys(&cache, 0);
            assert!((WINDOW..=2 * MIN_CAPACITY).contains(&cached.len()), "{}", cached.len());
            assert_eq!(cached.last(), Some(&(1000.0 + f32::from(step))));
        }
        assert_eq!(cache.len(0), 300);
        assert_eq!(
            keys(&cache, 0)[cache.cached(0) - 5..],
            [1095.0, 1096.0, 1097.0, 1098.0, 1099.0]
        );
        // A prefix needs the tokens of its own window.
        assert!(cache.has_prefix(300) && !cache.has_prefix(299) && cache.prefix(299, 1).is_err());
        let copies = cache.prefix(300, 2).unwrap();
        assert_eq!((copies.num_rows(), copies.len(1)), (2, 300));

        // Rows that share tensors copy only their window.
        let mut shared = KvCache::default();
        shared
            .append(&tokens(&prompt), &tokens(&prompt), &Lengths::new([200]), Some(WINDOW))
            .unwrap();
        let mut rows = shared.prefix(150, 2).unwrap();
        let next = tokens(&[7.0, 8.0, 9.0]);
        rows.append(&next, &next, &Lengths::new([1, 2]), Some(WINDOW)).unwrap();
        assert_eq!(keys(&rows, 0), [146.0, 147.0, 148.0, 149.0, 7.0]);
        assert_eq!(keys(&rows, 1), [146.0, 147.0, 148.0, 149.0, 8.0, 9.0]);
        assert_eq!((rows.len(0), rows.len(1), shared.len(0)), (151, 152, 200));
        rows.clear(0);
        assert_eq!((rows.len(0), rows.cached(0)), (0, 0));
    }

    #[test]
    fn a_row_may_be_empty() {
        let none = Tensor::zeros((0, 1), DType::F32, &Device::Cpu).unwrap();
        let mut cache = KvCache::new(&none, &none, &Lengths::new([0])).unwrap();
        let next = tokens(&[5.0]);
        cache.append(&next, &next, &Lengths::new([1]), None).unwrap();
        assert_eq!(keys(&cache, 0), [5.0]);
    }
}
