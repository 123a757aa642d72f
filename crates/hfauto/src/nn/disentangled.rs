//! Disentangled attention: scores of queries with the vectors of relative positions, and of keys with them (DeBERTa).
//!
//! The vectors do not depend on the input, so each layer projects them once, at load. Not here: the projection
//! (`position_projections`), and the kernel that adds these scores to those of queries and keys (`cpu::attention`). The entry is [`Disentangled`].
//!
//! # Source
//! `DisentangledSelfAttention` of `modeling_deberta_v2.py` and of `modeling_deberta.py` at v5.24.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};

use super::cpu::{self, PackedWeight};
use crate::limits;

/// Which vector belongs to a distance, the query's position minus the key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DistanceBuckets {
    /// Distances up to half of this number have a bucket of their own; larger ones share buckets on a logarithmic scale. `None`:
    /// each distance has its own.
    buckets: Option<u32>,
    max_relative_positions: u32,
}

impl DistanceBuckets {
    /// `position_buckets` and `max_relative_positions` of `config.json`. `None` where transformers would divide by zero.
    pub fn new(buckets: Option<u32>, max_relative_positions: u32) -> Option<Self> {
        let divides = |buckets: u32| {
            let mid = buckets / 2;
            mid > 0 && max_relative_positions > mid + 1
        };
        let is_valid = max_relative_positions > 0 && buckets.is_none_or(divides);
        is_valid.then_some(Self { buckets, max_relative_positions })
    }

    /// The number of vectors for one direction; there are twice as many.
    pub fn span(self) -> u32 {
        self.buckets.unwrap_or(self.max_relative_positions)
    }

    /// The largest distance up to which neighbouring distances have neighbouring vectors.
    fn linear(self) -> usize {
        self.buckets.map_or(self.max_relative_positions - 1, |buckets| buckets / 2) as usize
    }

    /// The bucket of a distance.
    ///
    /// # Source
    /// `make_log_bucket_position`, in its order of operations in f32.
    fn bucket(self, distance: i64) -> i64 {
        let Some(buckets) = self.buckets else { return distance };
        let mid = i64::from(buckets / 2);
        if distance.abs() <= mid {
            return distance;
        }
        let ratio = distance.abs() as f32 / mid as f32;
        let most = (f64::from(self.max_relative_positions - 1) / mid as f64) as f32;
        let log = ratio.ln() / most.ln() * (mid - 1) as f32;
        let bucket = log.ceil() + mid as f32;
        bucket as i64 * distance.signum()
    }

    /// The vector of the key that is `offset` positions after the query. Vectors are numbered by increasing offset: the last of
    /// the checkpoint's table is the first.
    fn vector(self, offset: i64) -> u32 {
        let span = i64::from(self.span());
        let place = (self.bucket(-offset) + span).clamp(0, 2 * span - 1);
        (2 * span - 1 - place) as u32
    }
}

/// The vectors of all offsets, computed once for all layers.
#[derive(Debug)]
pub struct RelativePositions {
    buckets: DistanceBuckets,
    /// Those of the offsets from `1 − n` to `n − 1`, for the longest row so far.
    vectors: Mutex<Arc<Vec<u32>>>,
}

impl RelativePositions {
    /// The vectors of `buckets`.
    pub fn new(buckets: DistanceBuckets) -> Self {
        Self { buckets, vectors: Mutex::default() }
    }

    /// The buckets.
    pub fn buckets(&self) -> DistanceBuckets {
        self.buckets
    }

    /// The vectors of the offsets from `1 − n` to `n − 1` in a slice whose middle is offset 0, with `n` at least `seq_len`.
    fn covering(&self, seq_len: usize) -> Result<Arc<Vec<u32>>> {
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        if vectors.len() / 2 + 1 < seq_len || vectors.is_empty() {
            let most = limits::ROTARY_TABLE_NUMBERS;
            if seq_len > most {
                bail!("a row of {seq_len} tokens, more than {most}");
            }
            let n = seq_len.next_power_of_two() as i64;
            *vectors = Arc::new((1 - n..n).map(|offset| self.buckets.vector(offset)).collect());
        }
        Ok(Arc::clone(&vectors))
    }
}

/// Projected vectors, numbered by increasing offset.
pub(super) enum Table {
    /// For each head, `(2 * span, head_dim)`, packed for the kernel of `nn/cpu`.
    Packed(Vec<PackedWeight>),
    /// `(num_heads, head_dim, 2 * span)`.
    Dense(Tensor),
}

impl Table {
    /// `(num_heads, head_dim, 2 * span)`.
    fn dense(&self) -> Result<Tensor> {
        let heads = match self {
            Self::Dense(dense) => return Ok(dense.clone()),
            Self::Packed(heads) => heads,
        };
        let rows = heads.iter().map(|head| {
            let (vectors, head_dim) = head.shape();
            let mut rows = Vec::with_capacity(vectors * head_dim);
            (0..vectors).for_each(|vector| head.append_row(vector, &mut rows));
            Tensor::from_vec(rows, (vectors, head_dim), &Device::Cpu)?.t()
        });
        Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?.contiguous()
    }

    fn packed(&self) -> Option<&[PackedWeight]> {
        match self {
            Self::Packed(heads) => Some(heads),
            Self::Dense(_) => None,
        }
    }
}

/// The relative positions of a layer, projected.
pub struct Disentangled {
    pub(super) positions: Arc<RelativePositions>,
    pub(super) keys: Option<Table>,
    pub(super) queries: Option<Table>,
}

impl std::fmt::Debug for Disentangled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disentangled({:?})", self.positions.buckets)
    }
}

impl Disentangled {
    /// The operands of the CPU kernel, for rows of up to `seq_len` tokens; `None` if it does not apply.
    ///
    /// # Errors
    /// If a row is too long.
    pub(super) fn packed(&self, seq_len: usize) -> Result<Option<PackedPositions<'_>>> {
        let mut tables = [&self.keys, &self.queries].into_iter().flatten();
        if tables.any(|table| table.packed().is_none()) {
            return Ok(None);
        }
        Ok(Some(PackedPositions {
            keys: self.keys.as_ref().and_then(Table::packed),
            queries: self.queries.as_ref().and_then(Table::packed),
            vectors: self.positions.covering(seq_len)?,
            linear: self.positions.buckets.linear(),
        }))
    }

    /// The scores of one row for the eager kernels, before scaling. The last query has the position of the last key.
    ///
    /// # Shapes
    /// `q`: `(num_heads, queries, head_dim)`, `k`: `(num_heads, keys, head_dim)`; returns `(num_heads, queries, keys)`.
    ///
    /// # Errors
    /// If the row is too long or candle cannot allocate.
    pub(super) fn scores(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let ((num_heads, num_queries, _), num_keys) = (q.dims3()?, k.dim(1)?);
        let vectors = self.positions.covering(num_keys)?;
        let (middle, before) = (vectors.len() / 2, num_keys - num_queries);
        let vector = |query: usize, key: usize| vectors[middle + key - (before + query)];
        let indices = |rows: usize, columns: usize, of: &dyn Fn(usize, usize) -> u32| {
            let of = &of;
            let all = (0..rows).flat_map(|row| (0..columns).map(move |column| of(row, column)));
            let all = Tensor::from_vec(all.collect(), (1, rows, columns), q.device())?;
            all.broadcast_as((num_heads, rows, columns))?.contiguous()
        };
        let mut scores = Tensor::zeros((num_heads, num_queries, num_keys), q.dtype(), q.device())?;
        if let Some(table) = &self.keys {
            let products = q.matmul(&table.dense()?)?; // (num_heads, queries, vectors)
            let chosen = indices(num_queries, num_keys, &vector)?;
            scores = (scores + products.contiguous()?.gather(&chosen, 2)?)?;
        }
        if let Some(table) = &self.queries {
            let products = k.matmul(&table.dense()?)?; // (num_heads, keys, vectors)
            let chosen = indices(num_keys, num_queries, &|key, query| vector(query, key))?;
            scores = (scores + products.contiguous()?.gather(&chosen, 2)?.transpose(1, 2)?)?;
        }
        Ok(scores)
    }
}

/// The relative positions of a layer, as the CPU kernel reads them.
pub(super) struct PackedPositions<'a> {
    keys: Option<&'a [PackedWeight]>,
    queries: Option<&'a [PackedWeight]>,
    vectors: Arc<Vec<u32>>,
    linear: usize,
}

impl PackedPositions<'_> {
    /// Those of the heads from `head` on.
    pub(super) fn heads_from(&self, head: usize) -> cpu::Positions<'_> {
        cpu::Positions {
            keys: self.keys.map(|keys| &keys[head..]),
            queries: self.queries.map(|queries| &queries[head..]),
            vectors: &self.vectors,
            linear: self.linear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first distance of each bucket, from `make_log_bucket_position` of transformers.
    #[test]
    fn buckets_begin_where_those_of_transformers_do() {
        for (buckets, most, starts) in STARTS {
            let buckets = DistanceBuckets::new(Some(buckets), most).unwrap();
            let mut ours = Vec::new();
            let mut last = -1;
            for distance in 0..2000 {
                let bucket = buckets.bucket(distance);
                assert_eq!(buckets.bucket(-distance), -bucket);
                if bucket != last {
                    ours.push((distance, bucket));
                }
                last = bucket;
            }
            let far: Vec<_> = ours.into_iter().filter(|(distance, _)| *distance > 0).collect();
            let far = &far[buckets.linear()..];
            assert_eq!(far, starts, "{buckets:?}");
        }
    }

    #[test]
    fn divisions_by_zero_in_transformers_give_none() {
        for (buckets, most) in [(Some(0), 512), (Some(1), 512), (Some(8), 5), (None, 0)] {
            assert!(DistanceBuckets::new(buckets, most).is_none(), "{buckets:?} {most}");
        }
        assert!(DistanceBuckets::new(Some(8), 6).is_some());
    }

    #[test]
    fn vectors_are_numbered_by_offset() {
        let positions = RelativePositions::new(DistanceBuckets::new(None, 3).unwrap());
        let vectors = positions.covering(5).unwrap();
        let middle = vectors.len() / 2;
        // Rows 0 to 5 of the table are for distances −3 to 2.
        assert_eq!(vectors[middle - 4..=middle + 4], [0, 0, 0, 1, 2, 3, 4, 5, 5]);
    }

    /// Buckets, the most relative positions, and the distance and the number of each bucket beyond the linear ones.
    #[expect(clippy::type_complexity, reason = "a table")]
    const STARTS: [(u32, u32, &[(i64, i64)]); 4] = [
        (
            256,
            512,
            &[
                (129, 129),
                (130, 130),
                (131, 131),
                (133, 132),
                (134, 133),
                (136, 134),
                (137, 135),
                (139, 136),
                (140, 137),
                (142, 138),
                (143, 139),
                (145, 140),
                (146, 141),
                (148, 142),
                (150, 143),
                (151, 144),
                (153, 145),
                (155, 146),
                (156, 147),
                (158, 148),
                (160, 149),
                (161, 150),
                (163, 151),
                (165, 152),
                (167, 153),
                (169, 154),
                (170, 155),
                (172, 156),
                (174, 157),
                (176, 158),
                (178, 159),
                (180, 160),
                (182, 161),
                (184, 162),
                (186, 163),
                (188, 164),
                (190, 165),
                (192, 166),
                (194, 167),
                (196, 168),
                (198, 169),
                (201, 170),
                (203, 171),
                (205, 172),
                (207, 173),
                (210, 174),
                (212, 175),
                (214, 176),
                (216, 177),
                (219, 178),
                (221, 179),
                (224, 180),
                (226, 181),
                (229, 182),
                (231, 183),
                (234, 184),
                (236, 185),
                (239, 186),
                (241, 187),
                (244, 188),
                (247, 189),
                (249, 190),
                (252, 191),
                (255, 192),
                (258, 193),
                (260, 194),
                (263, 195),
                (266, 196),
                (269, 197),
                (272, 198),
                (275, 199),
                (278, 200),
                (281, 201),
                (284, 202),
                (287, 203),
                (290, 204),
                (294, 205),
                (297, 206),
                (300, 207),
                (303, 208),
                (307, 209),
                (310, 210),
                (313, 211),
                (317, 212),
                (320, 213),
                (324, 214),
                (327, 215),
                (331, 216),
                (335, 217),
                (338, 218),
                (342, 219),
                (346, 220),
                (349, 221),
                (353, 222),
                (357, 223),
                (361, 224),
                (365, 225),
                (369, 226),
                (373, 227),
                (377, 228),
                (381, 229),
                (385, 230),
                (390, 231),
                (394, 232),
                (398, 233),
                (403, 234),
                (407, 235),
                (411, 236),
                (416, 237),
                (420, 238),
                (425, 239),
                (430, 240),
                (434, 241),
                (439, 242),
                (444, 243),
                (449, 244),
                (454, 245),
                (459, 246),
                (464, 247),
                (469, 248),
                (474, 249),
                (479, 250),
                (484, 251),
                (490, 252),
                (495, 253),
                (500, 254),
                (506, 255),
                (512, 256),
                (517, 257),
                (523, 258),
                (528, 259),
                (534, 260),
                (540, 261),
                (546, 262),
                (552, 263),
                (558, 264),
                (564, 265),
                (570, 266),
                (577, 267),
                (583, 268),
                (589, 269),
                (596, 270),
                (602, 271),
                (609, 272),
                (616, 273),
                (622, 274),
                (629, 275),
                (636, 276),
                (643, 277),
                (650, 278),
                (657, 279),
                (664, 280),
                (672, 281),
                (679, 282),
                (686, 283),
                (694, 284),
                (701, 285),
                (709, 286),
                (717, 287),
                (725, 288),
                (733, 289),
                (741, 290),
                (749, 291),
                (757, 292),
                (765, 293),
                (774, 294),
                (782, 295),
                (791, 296),
                (799, 297),
                (808, 298),
                (817, 299),
                (826, 300),
                (835, 301),
                (844, 302),
                (853, 303),
                (863, 304),
                (872, 305),
                (882, 306),
                (891, 307),
                (901, 308),
                (911, 309),
                (921, 310),
                (931, 311),
                (941, 312),
                (952, 313),
                (962, 314),
                (973, 315),
                (983, 316),
                (994, 317),
                (1005, 318),
                (1016, 319),
                (1027, 320),
                (1038, 321),
                (1050, 322),
                (1061, 323),
                (1073, 324),
                (1085, 325),
                (1096, 326),
                (1108, 327),
                (1121, 328),
                (1133, 329),
                (1145, 330),
                (1158, 331),
                (1171, 332),
                (1183, 333),
                (1196, 334),
                (1209, 335),
                (1223, 336),
                (1236, 337),
                (1250, 338),
                (1263, 339),
                (1277, 340),
                (1291, 341),
                (1305, 342),
                (1320, 343),
                (1334, 344),
                (1349, 345),
                (1363, 346),
                (1378, 347),
                (1393, 348),
                (1409, 349),
                (1424, 350),
                (1440, 351),
                (1456, 352),
                (1472, 353),
                (1488, 354),
                (1504, 355),
                (1520, 356),
                (1537, 357),
                (1554, 358),
                (1571, 359),
                (1588, 360),
                (1606, 361),
                (1623, 362),
                (1641, 363),
                (1659, 364),
                (1677, 365),
                (1695, 366),
                (1714, 367),
                (1733, 368),
                (1752, 369),
                (1771, 370),
                (1790, 371),
                (1810, 372),
                (1830, 373),
                (1850, 374),
                (1870, 375),
                (1891, 376),
                (1911, 377),
                (1932, 378),
                (1953, 379),
                (1975, 380),
                (1997, 381),
            ],
        ),
        (
            32,
            64,
            &[
                (17, 17),
                (18, 18),
                (20, 19),
                (22, 20),
                (24, 21),
                (26, 22),
                (28, 23),
                (31, 24),
                (34, 25),
                (37, 26),
                (40, 27),
                (44, 28),
                (48, 29),
                (53, 30),
                (58, 31),
                (64, 32),
                (70, 33),
                (76, 34),
                (83, 35),
                (91, 36),
                (100, 37),
                (110, 38),
                (120, 39),
                (131, 40),
                (144, 41),
                (158, 42),
                (173, 43),
                (189, 44),
                (207, 45),
                (227, 46),
                (249, 47),
                (272, 48),
                (298, 49),
                (327, 50),
                (358, 51),
                (392, 52),
                (430, 53),
                (471, 54),
                (516, 55),
                (565, 56),
                (619, 57),
                (678, 58),
                (743, 59),
                (814, 60),
                (892, 61),
                (977, 62),
                (1071, 63),
                (1173, 64),
                (1285, 65),
                (1408, 66),
                (1543, 67),
                (1690, 68),
                (1852, 69),
            ],
        ),
        (
            8,
            20,
            &[
                (5, 5),
                (7, 6),
                (12, 7),
                (20, 8),
                (32, 9),
                (54, 10),
                (91, 11),
                (152, 12),
                (256, 13),
                (429, 14),
                (721, 15),
                (1212, 16),
            ],
        ),
        (12, 512, &[(7, 7), (15, 8), (36, 9), (87, 10), (211, 11), (512, 12), (1244, 13)]),
    ];
}
