//! How much work a row is, so that units are about a minute of work. The estimate uses the model's configuration, the
//! step's options, and how many tokens its tokenizer makes of texts of several lengths. It reads neither rows nor weights,
//! so that every process cuts a job alike. Not here: where a file is cut (`crate::source`).

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::DataType;

use crate::config::pipeline::Pipeline;
use crate::exec::ModelStep;
use crate::models::Dimensions;
use crate::source::{StepWork, UnitSize};
use crate::tasks::{Batching, EncodedRow, Task};

/// Operations of a unit on a CPU: two cores of a server take half a minute, and two units are in flight.
const CPU_OPERATIONS: f64 = 6e12;

/// Operations of a unit on a GPU.
const GPU_OPERATIONS: f64 = 1e15;

/// How much longer a generated token takes than one of a text: each is a pass over all weights for few rows.
const GENERATED: f64 = 4.0;

/// Operations for decoding and scaling an image.
const IMAGE_OPERATIONS: f64 = 2e9;

/// Bytes of text per token, where a task reads other columns than texts.
const BYTES_PER_TOKEN: usize = 4;

/// The lengths of texts whose work is estimated, in bytes, as powers of two.
const LENGTHS: std::ops::RangeInclusive<u32> = 4..=16;

/// The text whose tokens are counted.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and runs back to the river. ";

/// The size of the units of a pipeline with these steps.
pub(super) fn unit_size(pipeline: &Pipeline, steps: &[Arc<ModelStep>]) -> UnitSize {
    if let Some(rows) = pipeline.run.unit_rows {
        return UnitSize { rows, steps: Vec::new() };
    }
    let steps = steps.iter().filter_map(|step| step_work(step)).collect();
    UnitSize { steps, ..UnitSize::default() }
}

/// `None` for a step without a model.
fn step_work(step: &ModelStep) -> Option<StepWork> {
    let task = &**step.task();
    let dimensions = task.dimensions()?;
    let unit = if step.on_gpus() { GPU_OPERATIONS } else { CPU_OPERATIONS };
    let work = LENGTHS.map(|power| {
        let bytes = 1_usize << power;
        (bytes as u64, operations(task, dimensions, bytes) / unit)
    });
    let columns = task.inputs().into_iter().map(str::to_owned).collect();
    Some(StepWork { columns, work: work.collect() })
}

/// The approximate number of operations for a row of `bytes` bytes.
fn operations(task: &dyn Task, dimensions: &Dimensions, bytes: usize) -> f64 {
    let hidden = dimensions.hidden_size as f64;
    // The four projections of the attention, and a feed-forward layer of four times the width; two operations per weight.
    let of_token = 24.0 * hidden * hidden * dimensions.num_hidden_layers as f64;
    if let Some(image) = dimensions.image {
        return IMAGE_OPERATIONS + of_token * image.tokens as f64;
    }
    let tokens = tokens(task, dimensions, bytes);
    let generated = match task.batching() {
        Batching::TokenBudget => 0,
        Batching::Share => task.cached_tokens(tokens).saturating_sub(tokens),
    };
    let of_logits = 2.0 * hidden * dimensions.vocab_size as f64;
    of_token * tokens as f64 + GENERATED * (of_token + of_logits) * generated as f64
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
