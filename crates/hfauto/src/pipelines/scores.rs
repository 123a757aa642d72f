//! Labels with scores: the function from logits to scores, and the best scores.

use crate::auto::AutoConfig;
use crate::error::Result;

/// The function from logits to scores, as transformers' `function_to_apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ScoreFunction {
    /// Independent labels.
    Sigmoid,
    /// Mutually exclusive labels.
    Softmax,
    /// Unchanged logits.
    None,
}

impl ScoreFunction {
    /// The function for a text model, from its configuration.
    pub fn of(config: &AutoConfig) -> Self {
        match (config.problem_type(), config.num_labels()) {
            (Some("regression"), _) => Self::None,
            (Some("multi_label_classification"), _) | (_, 1) => Self::Sigmoid,
            _ => Self::Softmax,
        }
    }

    /// The scores of one row's logits.
    pub fn apply(self, logits: &[f32]) -> Vec<f32> {
        match self {
            Self::Sigmoid => logits.iter().map(|&x| 1.0 / (1.0 + (-x).exp())).collect(),
            Self::Softmax => softmax(logits),
            Self::None => logits.to_vec(),
        }
    }

    /// The name in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Softmax => "softmax",
            Self::None => "none",
        }
    }
}

/// The softmax of one row's logits.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|&x| (x - max).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|x| x / sum).collect()
}

/// The indices of the `top_k` highest scores, best first; ties keep their order.
pub fn best(scores: &[f32], top_k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(top_k);
    order
}

/// A label with its score.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LabelScore {
    /// The label's name in `id2label`.
    pub label: String,
    /// The score: a probability after `sigmoid` or `softmax`.
    pub score: f32,
}

/// The `top_k` labels with the highest scores of one row's logits, best first.
///
/// # Errors
/// As [`AutoConfig::label`].
pub(super) fn labels(
    config: &AutoConfig,
    logits: &[f32],
    function: ScoreFunction,
    top_k: usize,
) -> Result<Vec<LabelScore>> {
    let scores = function.apply(logits);
    let chosen = best(&scores, top_k).into_iter();
    let labels = chosen
        .map(|row| Ok(LabelScore { label: config.label(row)?.to_owned(), score: scores[row] }));
    labels.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_keeps_the_order_of_ties() {
        assert_eq!(best(&[0.1, 0.5, 0.5, 0.9], 3), [3, 1, 2]);
        assert_eq!(best(&[0.1], 5), [0]);
    }

    #[test]
    fn softmax_survives_large_logits() {
        assert_eq!(softmax(&[1000.0, 1000.0]), [0.5, 0.5]);
    }
}
