//! How much work a row is: an estimate from the model's configuration, the step's options, and how many tokens its tokenizer
//! makes of a text.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::DataType;

use super::{Batching, EncodedRow, Task};
use crate::models::Dimensions;

/// How much longer a generated token takes than one of a text: each is a pass over all weights for few rows.
const GENERATED: f64 = 4.0;

/// Operations for decoding and scaling an image.
const IMAGE_OPERATIONS: f64 = 2e9;

/// Bytes of text per token, where a task reads other columns than texts.
const BYTES_PER_TOKEN: usize = 4;

/// The text whose tokens are counted.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and runs back to the river. ";

/// The approximate number of operations for a row of `bytes` bytes; `None` for a task without a model.
pub(crate) fn operations(task: &dyn Task, bytes: usize) -> Option<f64> {
    let dimensions = task.dimensions()?;
    let hidden = dimensions.image.map_or(dimensions.hidden_size, |image| image.hidden_size) as f64;
    // The four projections of the attention, and a feed-forward layer of four times the width; two operations per weight.
    let of_token = 24.0 * hidden * hidden * dimensions.num_hidden_layers as f64;
    if let Some(image) = dimensions.image {
        return Some(IMAGE_OPERATIONS + of_token * image.tokens as f64);
    }
    let tokens = tokens(task, dimensions, bytes);
    let generated = match task.batching() {
        Batching::TokenBudget | Batching::Rows => 0,
        Batching::Share => task.cached_tokens(tokens).saturating_sub(tokens),
    };
    let of_logits = 2.0 * hidden * dimensions.vocab_size as f64;
    Some(of_token * tokens as f64 + GENERATED * (of_token + of_logits) * generated as f64)
}

/// The tokens of all sequences of a row whose texts have `bytes` bytes together.
fn tokens(task: &dyn Task, dimensions: &Dimensions, bytes: usize) -> usize {
    let inputs = task.inputs().len().max(1);
    let is_text = task.check_inputs(&vec![&DataType::Utf8; inputs]).is_ok();
    let text: String = TEXT.chars().cycle().take(bytes / inputs).collect();
    let columns = vec![Arc::new(StringArray::from(vec![text])) as ArrayRef; inputs];
    let encoded = is_text.then(|| task.encode(&columns, 0).ok()).flatten();
    let tokens = encoded.and_then(|rows| rows.first()?.as_ref().map(EncodedRow::tokens));
    tokens.unwrap_or_else(|| {
        // A row that cannot be like this: of another type, or with a mark that the task looks for.
        (bytes / BYTES_PER_TOKEN + 2).min(dimensions.position_limit().unwrap_or(usize::MAX))
    })
}
