//! Sampling.
//!
//! Each row has its own generator, seeded with the step's seed and the row's prompt. Samples therefore depend neither
//! on the batch nor on the row's position. The random numbers differ from torch's.

use super::logits::{Candidate, exponentials};

/// The random numbers of one row.
pub(super) struct RowGenerator(blake3::OutputReader);

impl RowGenerator {
    /// The generator for a row with this prompt.
    pub(super) fn new(seed: u64, prompt: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        for id in prompt {
            hasher.update(&id.to_le_bytes());
        }
        Self(hasher.finalize_xof())
    }

    /// A uniform number in [0, 1) with 53 random bits.
    fn uniform(&mut self) -> f64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Samples one of the candidates with the probabilities of a softmax over their scores; `None` if there are none.
    pub(super) fn draw(&mut self, candidates: &[Candidate]) -> Option<u32> {
        let (exps, sum) = exponentials(candidates);
        let point = self.uniform() * sum;
        let mut cumulative = 0.0;
        for (exp, (id, _)) in exps.iter().zip(candidates) {
            cumulative += exp;
            if point < cumulative {
                return Some(*id);
            }
        }
        // Rounding may put the point at the sum itself.
        candidates.last().map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let candidates: Vec<Candidate> = vec![(3, 0.0), (7, 3f32.ln()), (9, f32::NEG_INFINITY)];
        let mut generator = RowGenerator::new(5, &[1, 2, 3]);
        let draws: Vec<u32> = (0..4000).filter_map(|_| generator.draw(&candidates)).collect();
        assert_eq!((draws.len(), generator.draw(&[])), (4000, None));
        let threes = draws.iter().filter(|id| **id == 3).count();
        assert!((900..1100).contains(&threes), "{threes} of 4000 instead of a quarter");
        assert!(!draws.contains(&9));
    }

    #[test]
    fn a_row_draws_the_same_again_and_another_row_or_seed_something_else() {
        let candidates: Vec<Candidate> = (0..50).map(|id| (id, 0.0)).collect();
        let draws = |seed, prompt: &[u32]| -> Vec<u32> {
            let mut generator = RowGenerator::new(seed, prompt);
            (0..20).filter_map(|_| generator.draw(&candidates)).collect()
        };
        assert_eq!(draws(1, &[4, 5]), draws(1, &[4, 5]));
        assert_ne!(draws(1, &[4, 5]), draws(2, &[4, 5]));
        assert_ne!(draws(1, &[4, 5]), draws(1, &[4, 6]));
    }
}
