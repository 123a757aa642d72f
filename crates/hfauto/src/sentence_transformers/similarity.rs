//! Similarities of two vectors, as `sentence_transformers.util` has them for matrices.

use pulp::Arch;

/// The products that are added side by side, so that the sum uses vector registers. Their number fixes the order of
/// additions, and so the result: the product of two f32 is exact in f64, with and without fused additions.
const LANES: usize = 8;

/// Sums of products in f64, which all processors add in the same order.
#[derive(Clone, Copy, Default)]
struct Sum {
    lanes: [f64; LANES],
    rest: f64,
}

impl Sum {
    #[inline(always)]
    fn add(&mut self, a: &[f32; LANES], b: &[f32; LANES]) {
        for lane in 0..LANES {
            self.lanes[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }

    #[inline(always)]
    fn total(self) -> f64 {
        self.lanes.iter().sum::<f64>() + self.rest
    }
}

/// The inner products of each pair of vectors. All vectors have one length.
fn dot_scores<const PAIRS: usize>(pairs: [(&[f32], &[f32]); PAIRS]) -> [f64; PAIRS] {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut sums = [Sum::default(); PAIRS];
            let length = pairs.iter().map(|(a, b)| a.len().min(b.len())).min().unwrap_or(0);
            let pairs = pairs.map(|(a, b)| (&a[..length], &b[..length]));
            let chunks = pairs.map(|(a, b)| (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0));
            for place in 0..length / LANES {
                for (sum, (a, b)) in sums.iter_mut().zip(chunks) {
                    sum.add(&a[place], &b[place]);
                }
            }
            for (sum, (a, b)) in sums.iter_mut().zip(pairs) {
                let (a, b) = (a.as_chunks::<LANES>().1, b.as_chunks::<LANES>().1);
                sum.rest = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            }
            sums.map(Sum::total)
        },
    )
}

/// The inner product of two vectors of equal length, added in float64.
///
/// # Source
/// `sentence_transformers.util.dot_score`.
pub fn dot_score(a: &[f32], b: &[f32]) -> f64 {
    let [score] = dot_scores([(a, b)]);
    score
}

/// The cosine of the angle between two vectors of equal length: scales both to length 1 (divides by at least 1e-12), then
/// multiplies them.
///
/// # Source
/// `sentence_transformers.util.cos_sim`.
pub fn cos_sim(a: &[f32], b: &[f32]) -> f32 {
    let [score, a, b] = dot_scores([(a, b), (a, a), (b, b)]);
    let length = |square: f64| square.sqrt().max(1e-12);
    (score / (length(a) * length(b))) as f32
}

/// The MaxSim score of two lists of vectors of `width` numbers: the sum over the query's vectors, or their mean, of the
/// largest inner product with a vector of the document. 0 for an empty document.
///
/// # Source
/// `sentence_transformers.util.maxsim_pairwise`; `length_normalize` for the mean.
pub fn max_sim(query: &[f32], document: &[f32], width: usize, is_mean: bool) -> f32 {
    let width = width.max(1);
    let best = |x: &[f32]| {
        document.chunks_exact(width).map(|y| dot_score(x, y)).reduce(f64::max).unwrap_or(0.0)
    };
    let sum: f64 = query.chunks_exact(width).map(best).sum();
    let vectors = if is_mean { (query.len() / width).max(1) } else { 1 };
    (sum / vectors as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        assert!((cos_sim(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f32.sqrt()).abs() < 1e-7);
        assert!((cos_sim(&[1.0, 2.0], &[-1.0, -2.0]) + 1.0).abs() < 1e-7);
        assert!(cos_sim(&[0.0, 0.0], &[1.0, 1.0]).abs() < f32::EPSILON);
    }

    #[test]
    fn max_sim_takes_the_best_vector_for_each_of_the_query() {
        let (query, document) = ([1.0, 0.0, 0.0, 2.0], [0.5, 0.0, -1.0, 0.25, 0.0, 1.0]);
        assert!((max_sim(&query, &document, 2, false) - 2.5).abs() < 1e-6);
        assert!((max_sim(&query, &document, 2, true) - 1.25).abs() < 1e-6);
        assert!(max_sim(&query, &[], 2, false).abs() < f32::EPSILON);
    }

    #[test]
    fn sums_take_every_element() {
        for length in [0, 1, 7, 8, 9, 31] {
            let a: Vec<f32> = (0..length).map(|i| i as f32 + 1.0).collect();
            let expected: f64 = (1..=length).map(|i| f64::from(i * i)).sum();
            assert!((dot_score(&a, &a) - expected).abs() < 1e-9, "{length}");
        }
    }
}
