//! Log-probabilities of one row of logits in host memory.

use super::cpu;

/// `ln Σ eˣ` in f64; −∞ when all logits are −∞.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let (max, sum) = cpu::max_and_sum_exp(logits);
    if max == f32::NEG_INFINITY { f64::from(max) } else { f64::from(max) + sum.ln() }
}

/// Replaces logits by log-probabilities in place. A row of only −∞ is unchanged.
pub fn log_softmax(logits: &mut [f32]) {
    let (max, sum) = cpu::max_and_sum_exp(logits);
    if max == f32::NEG_INFINITY {
        return;
    }
    let log_sum = sum.ln() as f32;
    for logit in logits {
        // In this order, as torch: the difference is small and stays precise.
        *logit = *logit - max - log_sum;
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "infinities are exact")]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_formula_in_f64() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 37) % 1009) as f32 * 0.02 - 90.0).collect();
        let exact = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(&logits) - exact).abs() < 1e-6);
        let mut ours = logits.clone();
        log_softmax(&mut ours);
        for (ours, logit) in ours.iter().zip(&logits) {
            assert!((f64::from(*ours) - (f64::from(*logit) - exact)).abs() < 2e-6);
        }
    }

    #[test]
    fn forbidden_tokens_stay_forbidden() {
        let mut logits = [f32::NEG_INFINITY, 0.0, 0.0];
        log_softmax(&mut logits);
        assert_eq!(logits[0], f32::NEG_INFINITY);
        assert!((logits[1] + std::f32::consts::LN_2).abs() < 1e-6);
        let mut none = [f32::NEG_INFINITY; 2];
        log_softmax(&mut none);
        assert_eq!(none, [f32::NEG_INFINITY; 2]);
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
    }
}
