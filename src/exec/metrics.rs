//! Counters of a run: operators update them, progress and report read them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::physical_plan::metrics::{
    Count, Metric, MetricValue, MetricsSet, RatioMetrics, Time,
};

use super::row_error::RowError;
use crate::error::RowErrorKind;
use crate::report::{Histogram, RowErrorReport, StepCounts, TOKEN_BOUNDS};

/// The number of distinct messages to keep per kind of row error.
const EXAMPLES: usize = 3;

/// The length to which messages are truncated, because they may quote a row.
const EXAMPLE_CHARS: usize = 200;

/// The size of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSize {
    pub(crate) rows: u64,
    /// Rows that are images.
    pub(crate) images: u64,
    pub(crate) tokens: u64,
    /// With each row padded to the longest.
    pub(crate) padded_tokens: u64,
    /// Prompt tokens that were reused from prefixes of other rows, since the model was asked last.
    pub(crate) cached_tokens: u64,
    /// Tokens that were generated, since the model was asked last.
    pub(crate) generated_tokens: u64,
    /// The time that images took, since the model was asked last.
    pub(crate) image_time: Duration,
}

/// Counters of one model step. Atomics with relaxed ordering suffice, because each is an independent sum.
#[derive(Debug, Default)]
pub struct StepMetrics {
    rows: AtomicU64,
    null_rows: AtomicU64,
    computed_rows: AtomicU64,
    images: AtomicU64,
    truncated_rows: AtomicU64,
    split_rows: AtomicU64,
    tokenized_rows: AtomicU64,
    tokens: AtomicU64,
    /// Tokens of all batches, cached ones included.
    batch_tokens: AtomicU64,
    padded_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    batches: AtomicU64,
    failed_rows: AtomicU64,
    reused_rows: AtomicU64,
    input_nanos: AtomicU64,
    tokenize_nanos: AtomicU64,
    results_nanos: AtomicU64,
    queue_nanos: AtomicU64,
    model_nanos: AtomicU64,
    image_nanos: AtomicU64,
    output_nanos: AtomicU64,
    /// A histogram of rows by token count: one bucket per bound in [`TOKEN_BOUNDS`], and one beyond.
    token_lengths: [AtomicU64; TOKEN_BOUNDS.len() + 1],
    /// The tokens of the longest row.
    longest: AtomicU64,
    errors: Mutex<BTreeMap<RowErrorKind, RowErrorReport>>,
}

impl StepMetrics {
    /// Adds tokenized rows. `lengths` are the token counts of the rows that have tokens.
    pub(crate) fn tokenized(
        &self,
        rows: u64,
        lengths: impl Iterator<Item = usize>,
        truncated: u64,
        split: u64,
        elapsed: Duration,
    ) {
        let (mut tokens, mut longest) = (0, 0);
        let mut counts = [0; TOKEN_BOUNDS.len() + 1];
        for length in lengths {
            tokens += length as u64;
            longest = longest.max(length as u64);
            counts[TOKEN_BOUNDS.partition_point(|bound| *bound < length as u64)] += 1;
        }
        for (sum, count) in self.token_lengths.iter().zip(counts).filter(|(_, count)| *count > 0) {
            sum.fetch_add(count, Ordering::Relaxed);
        }
        self.longest.fetch_max(longest, Ordering::Relaxed);
        self.tokenized_rows.fetch_add(rows, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.truncated_rows.fetch_add(truncated, Ordering::Relaxed);
        self.split_rows.fetch_add(split, Ordering::Relaxed);
        self.tokenize_nanos.fetch_add(nanos(elapsed), Ordering::Relaxed);
    }

    /// Adds one forward pass.
    pub(crate) fn computed(&self, size: BatchSize, elapsed: Duration, queued: Duration) {
        let BatchSize {
            rows,
            images,
            tokens,
            padded_tokens,
            cached_tokens,
            generated_tokens,
            image_time,
        } = size;
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.computed_rows.fetch_add(rows, Ordering::Relaxed);
        self.images.fetch_add(images, Ordering::Relaxed);
        self.image_nanos.fetch_add(nanos(image_time), Ordering::Relaxed);
        self.batch_tokens.fetch_add(tokens, Ordering::Relaxed);
        self.padded_tokens.fetch_add(padded_tokens, Ordering::Relaxed);
        self.cached_tokens.fetch_add(cached_tokens, Ordering::Relaxed);
        self.generated_tokens.fetch_add(generated_tokens, Ordering::Relaxed);
        self.model_nanos.fetch_add(nanos(elapsed), Ordering::Relaxed);
        self.queue_nanos.fetch_add(nanos(queued), Ordering::Relaxed);
    }

    /// Adds emitted rows.
    pub(crate) fn emitted(&self, rows: u64, null_rows: u64, failed_rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.null_rows.fetch_add(null_rows, Ordering::Relaxed);
        self.failed_rows.fetch_add(failed_rows, Ordering::Relaxed);
    }

    /// Adds rows whose results were kept by an earlier run.
    pub(crate) fn reused(&self, rows: u64) {
        self.reused_rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Adds time that the step waited for its input.
    pub(crate) fn waited_for_input(&self, elapsed: Duration) {
        self.input_nanos.fetch_add(nanos(elapsed), Ordering::Relaxed);
    }

    /// Adds time that a tokenized window waited for its results.
    pub(crate) fn waited_for_results(&self, elapsed: Duration) {
        self.results_nanos.fetch_add(nanos(elapsed), Ordering::Relaxed);
    }

    /// Adds time that the step waited for its consumer.
    pub(crate) fn waited_for_output(&self, elapsed: Duration) {
        self.output_nanos.fetch_add(nanos(elapsed), Ordering::Relaxed);
    }

    /// Adds a failed row.
    pub(crate) fn failed(&self, error: &RowError) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let known = errors.entry(error.kind).or_insert_with(|| RowErrorReport {
            kind: error.kind.name().to_owned(),
            ..RowErrorReport::default()
        });
        known.rows += 1;
        if known.examples.len() < EXAMPLES {
            let mut example: String = error.message.chars().take(EXAMPLE_CHARS).collect();
            if example.len() < error.message.len() {
                example.push('…');
            }
            if !known.examples.contains(&example) {
                known.examples.push(example);
            }
        }
    }

    /// Failed rows by kind.
    pub fn errors(&self) -> Vec<RowErrorReport> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.values().cloned().collect()
    }

    /// Rows by token count.
    pub fn token_lengths(&self) -> Histogram {
        let counts = self.token_lengths.iter().map(|count| count.load(Ordering::Relaxed));
        Histogram {
            bounds: TOKEN_BOUNDS.to_vec(),
            counts: counts.collect(),
            sum: self.tokens.load(Ordering::Relaxed),
            max: self.longest.load(Ordering::Relaxed),
        }
    }

    /// The current counters.
    pub fn counts(&self) -> StepCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let cached_tokens = read(&self.cached_tokens);
        // Subtracted here, because a batch may count the cached tokens of one that runs at the same time.
        let computed = |counter: &AtomicU64| read(counter).saturating_sub(cached_tokens);
        StepCounts {
            rows: read(&self.rows),
            null_rows: read(&self.null_rows),
            computed_rows: read(&self.computed_rows),
            images: read(&self.images),
            truncated_rows: read(&self.truncated_rows),
            split_rows: read(&self.split_rows),
            tokenized_rows: read(&self.tokenized_rows),
            tokens: read(&self.tokens),
            computed_tokens: computed(&self.batch_tokens),
            padded_tokens: computed(&self.padded_tokens),
            cached_tokens,
            generated_tokens: read(&self.generated_tokens),
            batches: read(&self.batches),
            failed_rows: read(&self.failed_rows),
            reused_rows: read(&self.reused_rows),
            input_seconds: read(&self.input_nanos) as f64 / 1e9,
            tokenize_seconds: read(&self.tokenize_nanos) as f64 / 1e9,
            results_seconds: read(&self.results_nanos) as f64 / 1e9,
            queue_seconds: read(&self.queue_nanos) as f64 / 1e9,
            model_seconds: read(&self.model_nanos) as f64 / 1e9,
            image_seconds: read(&self.image_nanos) as f64 / 1e9,
            output_seconds: read(&self.output_nanos) as f64 / 1e9,
        }
    }
}

/// Adds a model's metrics for `EXPLAIN ANALYZE`.
pub(crate) fn describe(counts: StepCounts, metrics: &mut MetricsSet) {
    let mut push = |value| metrics.push(Arc::new(Metric::new(value, None)));
    for (name, value) in [
        ("computed_rows", counts.computed_rows),
        ("images", counts.images),
        ("truncated_rows", counts.truncated_rows),
        ("split_rows", counts.split_rows),
        ("failed_rows", counts.failed_rows),
        ("tokens", counts.tokens),
        ("computed_tokens", counts.computed_tokens),
        ("cached_tokens", counts.cached_tokens),
        ("generated_tokens", counts.generated_tokens),
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
        ("image_time", counts.image_seconds),
    ] {
        let time = Time::new();
        time.add_duration(Duration::from_secs_f64(seconds));
        push(MetricValue::Time { name: name.into(), time });
    }
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_by_their_tokens() {
        let metrics = StepMetrics::default();
        metrics.tokenized(6, [1, 4, 5, 8, 20_000].into_iter(), 0, 0, Duration::ZERO);
        let lengths = metrics.token_lengths();
        assert_eq!((&lengths.counts[..3], lengths.counts.last()), (&[2, 2, 0][..], Some(&1)));
        assert_eq!((lengths.counts.iter().sum::<u64>(), lengths.sum), (5, 20_018));
        assert_eq!(lengths.max, 20_000);
        assert!(lengths.bounds.is_sorted());
    }

    #[test]
    fn errors_keep_a_few_different_messages() {
        let metrics = StepMetrics::default();
        for message in ["a", "b", "a", "c", "d", &"é".repeat(500)] {
            let message = message.to_owned();
            metrics.failed(&RowError { kind: RowErrorKind::TooLong, message });
        }
        let message = "é".repeat(500);
        metrics.failed(&RowError { kind: RowErrorKind::Empty, message });
        let errors = metrics.errors();
        assert_eq!((errors[0].kind.as_str(), errors[0].rows), ("too_long", 6));
        assert_eq!(errors[0].examples, ["a", "b", "c"]);
        assert_eq!(errors[1].examples[0].chars().count(), EXAMPLE_CHARS + 1);
    }
}
