//! How many rows are about a minute of work. Neither rows nor weights are read, so that every process cuts a job alike.
//! Not here: the work of a row (`crate::tasks`), and where a file is cut (`crate::source`).

use std::sync::Arc;

use crate::config::pipeline::Pipeline;
use crate::exec::ModelStep;
use crate::source::{StepWork, UnitSize};
use crate::tasks::operations;

/// Operations of a unit on a CPU: two cores of a server take half a minute, and two units are in flight.
const CPU_OPERATIONS: f64 = 6e12;

/// Operations of a unit on a GPU.
const GPU_OPERATIONS: f64 = 1e15;

/// The lengths of texts whose work is estimated, in bytes, as powers of two: tokenizing longer ones would take more memory than
/// the rest of a plan.
const LENGTHS: std::ops::RangeInclusive<u32> = 4..=14;

/// The same for texts that are divided first; a text of a quarter of a gigabyte is one row.
const DIVIDED_LENGTHS: std::ops::RangeInclusive<u32> = 4..=28;

/// The size of the units of a pipeline with these steps.
pub(super) fn unit_size(pipeline: &Pipeline, steps: &[Arc<ModelStep>]) -> UnitSize {
    if let Some(rows) = pipeline.run.unit_rows {
        return UnitSize { rows, steps: Vec::new() };
    }
    let of_step = |(index, step): (usize, &Arc<ModelStep>)| {
        let work = step_work(step)?;
        let divides = |other: &&Arc<ModelStep>| {
            other.task().items_of(0).is_some()
                && work.columns.iter().any(|column| column == other.task().field().name())
        };
        Some(match steps[..index].iter().rev().find(divides) {
            Some(divides) => of_items(&work, divides),
            None => work,
        })
    };
    let steps = steps.iter().enumerate().filter_map(of_step).collect();
    UnitSize { steps, ..UnitSize::default() }
}

/// The work of a step for all items that the step `divides` makes of a row.
fn of_items(work: &StepWork, divides: &ModelStep) -> StepWork {
    let of_row = |power: u32| {
        let bytes = 1_usize << power;
        let (items, item_bytes) = divides.task().items_of(bytes)?;
        Some((bytes as u64, items * work.of(item_bytes as f64)))
    };
    let columns = divides.task().inputs().into_iter().map(str::to_owned).collect();
    StepWork { columns, work: DIVIDED_LENGTHS.filter_map(of_row).collect() }
}

/// `None` for a step without a model.
fn step_work(step: &ModelStep) -> Option<StepWork> {
    let task = &**step.task();
    let unit = if step.on_gpus() { GPU_OPERATIONS } else { CPU_OPERATIONS };
    let work = LENGTHS.map(|power| {
        let bytes = 1_usize << power;
        operations(task, bytes).map(|operations| (bytes as u64, operations / unit))
    });
    let work = work.collect::<Option<Vec<_>>>()?;
    let columns = task.inputs().into_iter().map(str::to_owned).collect();
    Some(StepWork { columns, work })
}
