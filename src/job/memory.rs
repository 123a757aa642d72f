//! The memory that a job takes at its peak, estimated before any weights are read. Not here: what is free
//! ([`hfauto::memory`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::TokenSample;
use crate::exec::ModelStep;
use crate::tasks::Batching;
use crate::tasks::memory::activation_bytes;

/// What a run adds to the program besides its models: threads, readers and writers, rows that wait.
const ROWS_AND_THREADS: u64 = 40 << 20;

/// The size of a number in a cache, an activation or a logit on a CPU.
const F32: u64 = size_of::<f32>() as u64;

/// The memory of a job at its peak, in bytes, by what takes it. Steps compute at the same time: everything adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeakMemory {
    /// The program with its tokenizers and configurations, and the rows in flight.
    pub program: u64,
    /// The weights, in the form that they have in memory; steps with the same model share them.
    pub weights: u64,
    /// Activations and logits, of all workers.
    pub activations: u64,
    /// Keys and values of rows that are generated, of all workers.
    pub caches: u64,
}

impl PeakMemory {
    /// Estimates the peak of a run of `steps` over `rows` rows (`None`: many), of whose tokens there are samples, in this
    /// process, whose models are resolved. `None` if the weights of a model are not on this machine, or if a model
    /// computes on a GPU.
    pub fn of(
        steps: &[Arc<ModelStep>],
        samples: &[Option<TokenSample>],
        rows: Option<u64>,
    ) -> Option<Self> {
        let mut peak = Self::default();
        let mut weights = BTreeMap::new();
        for (step, sample) in steps.iter().zip(samples) {
            if step.on_gpus() {
                return None;
            }
            let (task, summary) = (step.task(), step.task().summary());
            weights.insert((&summary.repo, summary.dtype, summary.task), task.weights()?.bytes);
            peak.add_batches(step, sample.as_ref(), rows.unwrap_or(u64::MAX));
        }
        peak.weights = weights.values().map(|bytes| *bytes as u64).sum();
        peak.program = super::report::resident_bytes()? + ROWS_AND_THREADS;
        Some(peak)
    }

    /// Adds what the batches of a step take.
    fn add_batches(&mut self, step: &ModelStep, sample: Option<&TokenSample>, rows: u64) {
        let task = step.task();
        // Rows without batches take what the window of their results takes.
        if task.batching() == Batching::Rows {
            return;
        }
        let Some(dimensions) = task.dimensions() else { return };
        let (budget, workers) = (step.max_batch_tokens(), step.num_workers().max(1));
        let most = |tokens: f64| {
            usize::try_from(rows).map_or(budget, |rows| {
                ((rows as f64 * tokens / workers as f64).ceil() as usize).min(budget)
            })
        };
        let mean = sample.map_or(budget as f64, |sample| sample.mean.max(1.0));
        if task.batching() == Batching::TokenBudget {
            self.activations += (activation_bytes(dimensions, most(mean)) * workers) as u64;
            return;
        }
        // Rows are admitted by the tokens that they may have in the end.
        let row = task.cached_tokens(mean.ceil() as usize);
        let tokens = most(row as f64).max(row);
        let rows = (tokens / row.max(1)).max(1);
        let kept = 2 * dimensions.num_hidden_layers * dimensions.kv_width() * tokens;
        self.caches += kept as u64 * F32 * workers as u64;
        let prefill = activation_bytes(dimensions, (rows as f64 * mean) as usize);
        // The logits of a step, and their copy for the choice of the next tokens.
        let logits = 2 * (rows * dimensions.vocab_size) as u64 * F32;
        self.activations += (prefill as u64 + logits) * workers as u64;
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.program + self.weights + self.activations + self.caches
    }
}
