//! Counters of a run: written by the operators, read by progress and report.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::physical_plan::metrics::{
    Count, Metric, MetricValue, MetricsSet, RatioMetrics, Time,
};

/// Counters of one model step. Relaxed atomics: each is a sum on its own.
#[derive(Debug, Default)]
pub struct StepMetrics {
    rows: AtomicU64,
    null_rows: AtomicU64,
    computed_rows: AtomicU64,
    truncated_rows: AtomicU64,
    tokenized_rows: AtomicU64,
    tokens: AtomicU64,
    computed_tokens: AtomicU64,
    padded_tokens: AtomicU64,
    batches: AtomicU64,
    failed_rows: AtomicU64,
    tokenize_nanos: AtomicU64,
    queue_nanos: AtomicU64,
    model_nanos: AtomicU64,
}

/// [`StepMetrics`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct StepCounts {
    /// Rows whose result has been handed on.
    pub rows: u64,
    /// Rows among them that were null.
    pub null_rows: u64,
    /// Rows that went through the model: neither null, nor the repetition of one whose result is at hand.
    pub computed_rows: u64,
    /// Rows that were cut to the model's maximum.
    pub truncated_rows: u64,
    /// Rows that have been tokenised; more than `rows` while they are on their way.
    pub tokenized_rows: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Tokens that went through the model.
    pub computed_tokens: u64,
    /// The same when each batch is padded to its longest row.
    pub padded_tokens: u64,
    /// Forward passes.
    pub batches: u64,
    /// Rows that failed, where their errors are kept.
    pub failed_rows: u64,
    /// Time in tokenisation, wall time of its batches.
    pub tokenize_seconds: f64,
    /// Time that batches waited for a worker, summed over batches.
    pub queue_seconds: f64,
    /// Time in the model, summed over workers.
    pub model_seconds: f64,
}

impl StepCounts {
    /// The share of padded tokens that are padding, 0 to 1.
    pub fn padding_share(&self) -> f64 {
        if self.padded_tokens == 0 {
            return 0.0;
        }
        1.0 - self.computed_tokens as f64 / self.padded_tokens as f64
    }
}

impl StepMetrics {
    /// Adds rows that were tokenised.
    pub(super) fn tokenized(&self, rows: u64, tokens: u64, truncated: u64, elapsed: Duration) {
        self.tokenized_rows.fetch_add(rows, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.truncated_rows.fetch_add(truncated, Ordering::Relaxed);
        self.tokenize_nanos.fetch_add(nanos(elapsed), Ordering::Relaxed);
    }

    /// Adds one forward pass.
    pub(super) fn computed(
        &self,
        rows: u64,
        tokens: u64,
        padded: u64,
        elapsed: Duration,
        queued: Duration,
    ) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.computed_rows.fetch_add(rows, Ordering::Relaxed);
        self.computed_tokens.fetch_add(tokens, Ordering::Relaxed);
        self.padded_tokens.fetch_add(padded, Ordering::Relaxed);
        self.model_nanos.fetch_add(nanos(elapsed), Ordering::Relaxed);
        self.queue_nanos.fetch_add(nanos(queued), Ordering::Relaxed);
    }

    /// Adds rows handed on.
    pub(super) fn emitted(&self, rows: u64, null_rows: u64, failed_rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.null_rows.fetch_add(null_rows, Ordering::Relaxed);
        self.failed_rows.fetch_add(failed_rows, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn counts(&self) -> StepCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StepCounts {
            rows: read(&self.rows),
            null_rows: read(&self.null_rows),
            computed_rows: read(&self.computed_rows),
            truncated_rows: read(&self.truncated_rows),
            tokenized_rows: read(&self.tokenized_rows),
            tokens: read(&self.tokens),
            computed_tokens: read(&self.computed_tokens),
            padded_tokens: read(&self.padded_tokens),
            batches: read(&self.batches),
            failed_rows: read(&self.failed_rows),
            tokenize_seconds: read(&self.tokenize_nanos) as f64 / 1e9,
            queue_seconds: read(&self.queue_nanos) as f64 / 1e9,
            model_seconds: read(&self.model_nanos) as f64 / 1e9,
        }
    }
}

/// Adds what `EXPLAIN ANALYZE` shows of a model.
pub(super) fn describe(counts: StepCounts, metrics: &mut MetricsSet) {
    let mut push = |value| metrics.push(Arc::new(Metric::new(value, None)));
    for (name, value) in [
        ("computed_rows", counts.computed_rows),
        ("truncated_rows", counts.truncated_rows),
        ("failed_rows", counts.failed_rows),
        ("tokens", counts.tokens),
        ("computed_tokens", counts.computed_tokens),
        ("batches", counts.batches),
    ] {
        let count = Count::new();
        count.add(usize::try_from(value).unwrap_or(usize::MAX));
        push(MetricValue::Count { name: name.into(), count });
    }
    let padding = RatioMetrics::new();
    let padding_tokens = counts.padded_tokens - counts.computed_tokens;
    padding.add_part(usize::try_from(padding_tokens).unwrap_or(usize::MAX));
    padding.add_total(usize::try_from(counts.padded_tokens).unwrap_or(usize::MAX));
    push(MetricValue::Ratio { name: "padding_share".into(), ratio_metrics: padding });
    for (name, seconds) in [
        ("tokenize_time", counts.tokenize_seconds),
        ("queue_time", counts.queue_seconds),
        ("model_time", counts.model_seconds),
    ] {
        let time = Time::new();
        time.add_duration(Duration::from_secs_f64(seconds));
        push(MetricValue::Time { name: name.into(), time });
    }
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
