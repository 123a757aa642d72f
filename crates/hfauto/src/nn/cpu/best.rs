//! The largest elements of a row that arrives in slices, as the outputs of a layer over a vocabulary do. Not here: the
//! layer ([`Linear::best`](crate::nn::Linear::best)).

use pulp::Arch;

use super::rows::{max, max_and_sum_exp};

/// Elements that are skipped together if none of them is large enough.
const CHUNK: usize = 64;

/// The largest outputs of a row.
#[derive(Clone, Debug)]
pub struct BestOutputs {
    /// The number of outputs to find.
    count: usize,
    /// Whether to sum the exponentials of all outputs.
    with_sum: bool,
    /// The places and values of the largest outputs so far, largest first; of equal ones, the first ones first.
    outputs: Vec<(u32, f32)>,
    /// The largest value of the slices whose exponentials are summed.
    max: f32,
    /// `Σ e^(x − max)`.
    sum: f64,
    /// A value that is NaN or +∞.
    not_finite: Option<f32>,
}

impl BestOutputs {
    /// Finds the `count` largest outputs, at least one; all if there are fewer.
    pub(in crate::nn) fn new(count: usize, with_sum: bool) -> Self {
        let (max, outputs) = (f32::NEG_INFINITY, Vec::new());
        Self { count: count.max(1), with_sum, outputs, max, sum: 0.0, not_finite: None }
    }

    /// Adds the next slice, whose first element is at this place.
    pub(in crate::nn) fn add(&mut self, first: usize, values: &[f32]) {
        let is_bad = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        let any_bad = Arch::new().dispatch(
            #[inline(always)]
            || values.iter().fold(false, |bad, x| bad | is_bad(x)),
        );
        if any_bad {
            self.not_finite = values.iter().copied().find(is_bad);
        }
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (chunk, place) in values.chunks(CHUNK).zip((first..).step_by(CHUNK)) {
                    if self.is_among(max(chunk)) {
                        self.insert(place, chunk);
                    }
                }
            },
        );
        if self.with_sum {
            let (max, sum) = max_and_sum_exp(values);
            // A slice of only −∞ adds nothing, and has no sum.
            if max > f32::NEG_INFINITY {
                let largest = self.max.max(max);
                let rescaled = |of: f32, sum: f64| sum * f64::from(of - largest).exp();
                self.sum = rescaled(self.max, self.sum) + rescaled(max, sum);
                self.max = largest;
            }
        }
    }

    /// Whether an output of this value, after all so far, is among the largest.
    fn is_among(&self, value: f32) -> bool {
        match self.outputs.last() {
            Some((_, least)) if self.outputs.len() == self.count => value > *least,
            _ => true,
        }
    }

    #[inline(never)]
    fn insert(&mut self, first: usize, values: &[f32]) {
        for (place, &value) in (first..).zip(values) {
            if self.is_among(value) {
                let rank = self.outputs.partition_point(|(_, larger)| *larger >= value);
                self.outputs.insert(rank, (place as u32, value));
                self.outputs.truncate(self.count);
            }
        }
    }

    /// The places and values of the largest outputs, largest first; of equal ones, the first ones first.
    pub fn outputs(&self) -> &[(u32, f32)] {
        &self.outputs
    }

    /// The places of the largest outputs with their log-probabilities, as `log_softmax` computes them.
    /// It needs `with_sum`.
    pub fn log_softmax(mut self) -> Vec<(u32, f32)> {
        if self.max > f32::NEG_INFINITY {
            let log_sum = self.sum.ln() as f32;
            self.outputs.iter_mut().for_each(|(_, value)| *value = *value - self.max - log_sum);
        }
        self.outputs
    }

    /// A value of the row that is NaN or +∞, as damaged weights give.
    pub fn not_finite(&self) -> Option<f32> {
        self.not_finite
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::tests::numbers;
    use super::*;

    fn found(values: &[f32], count: usize, slice: usize) -> BestOutputs {
        let mut found = BestOutputs::new(count, true);
        for (slice, first) in values.chunks(slice).zip((0..).step_by(slice)) {
            found.add(first, slice);
        }
        found
    }

    #[test]
    fn the_largest_are_those_of_the_sorted_row() {
        let mut values: Vec<f32> =
            numbers(1000, 4).iter().map(|x| (x * 50.0).round() + 0.0).collect();
        values[7] = f32::NEG_INFINITY;
        let mut sorted: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).collect();
        // A stable sort: equal ones stay in order.
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        for count in [1, 2, 5, 64, 999, 1000, 2000] {
            for slice in [1, 63, 64, 500, 4000] {
                let found = found(&values, count, slice);
                assert_eq!(found.outputs(), &sorted[..count.min(1000)], "{count} {slice}");
            }
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_whole_row() {
        let values: Vec<f32> = numbers(3000, 5).iter().map(|x| x * 20.0 - 90.0).collect();
        let log_sum = values.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        for slice in [64, 1000, 5000] {
            for (place, value) in found(&values, 9, slice).log_softmax() {
                let exact = f64::from(values[place as usize]) - log_sum;
                assert!((f64::from(value) - exact).abs() < 2e-6, "{slice} {place}: {value}");
            }
        }
        let none = [f32::NEG_INFINITY; 3];
        assert_eq!(found(&none, 2, 2).log_softmax(), [(0, none[0]), (1, none[0])]);
        let some = [none[0], none[0], 1.0];
        assert_eq!(found(&some, 1, 2).log_softmax(), [(2, 0.0)]);
    }

    #[test]
    fn damaged_values_are_reported() {
        let mut values = numbers(200, 6);
        assert_eq!(found(&values, 3, 64).not_finite(), None);
        values[130] = f32::INFINITY;
        assert_eq!(found(&values, 3, 64).not_finite(), Some(f32::INFINITY));
        values[130] = f32::NAN;
        assert!(found(&values, 3, 64).not_finite().is_some_and(f32::is_nan));
    }
}
