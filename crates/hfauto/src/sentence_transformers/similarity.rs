//! Similarities of two vectors, as `sentence_transformers.util` has them for matrices.

/// The products that are added side by side, so that the sum uses vector registers. Their number fixes the order of
/// additions, and so the result.
const LANES: usize = 8;

/// The inner product of two vectors of equal length, added in float64.
///
/// # Source
/// `sentence_transformers.util.dot_score`.
pub fn dot_score(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// The cosine of the angle between two vectors of equal length: scales both to length 1 (divides by at least 1e-12), then
/// multiplies them.
///
/// # Source
/// `sentence_transformers.util.cos_sim`.
pub fn cos_sim(a: &[f32], b: &[f32]) -> f32 {
    let length = |v: &[f32]| dot_score(v, v).sqrt().max(1e-12);
    (dot_score(a, b) / (length(a) * length(b))) as f32
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
