//! The log-likelihood of given tokens.

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::models::Head;
use crate::nn::{log_sum_exp, logits_to_host};

/// The log-probability that each hidden state assigns to its target token.
///
/// Computes logits in chunks of at most `max_elements` elements, but at least one state.
///
/// # Shapes
/// `hidden_states`: `(n, hidden_size)`; `targets`: `n` token ids.
///
/// # Errors
/// `Model` for NaN logits; `Internal` when the numbers of targets and states differ, a target is not in the vocabulary,
/// or candle cannot allocate.
pub fn log_probabilities(
    head: &Head,
    hidden_states: &Tensor,
    targets: &[u32],
    vocab_size: usize,
    max_elements: usize,
) -> Result<Vec<f64>> {
    let internal = |message: String| Error::new(ErrorKind::Internal, message);
    let failed = |e: candle_core::Error| internal("cannot compute logits".to_owned()).source(e);
    let states = hidden_states.dim(0).map_err(failed)?;
    if states != targets.len() {
        return Err(internal(format!("{states} hidden states got {} targets", targets.len())));
    }
    let chunk = (max_elements / vocab_size.max(1)).max(1);
    let mut results = Vec::with_capacity(states);
    for (i, targets) in targets.chunks(chunk).enumerate() {
        let states = hidden_states.narrow(0, i * chunk, targets.len()).map_err(failed)?;
        let logits = logits_to_host(&head.project(&states).map_err(failed)?)?;
        for (row, &target) in logits.chunks_exact(vocab_size).zip(targets) {
            let Some(logit) = row.get(target as usize) else {
                let message =
                    format!("token {target} is not among the {vocab_size} of the vocabulary");
                return Err(internal(message));
            };
            results.push(f64::from(*logit) - log_sum_exp(row));
        }
    }
    Ok(results)
}
