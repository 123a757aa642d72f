//! The report for people: the text that `run` prints, and how numbers are written everywhere. Not here: the page
//! (`page`).

use std::fmt;

use super::{RunReport, StepReport};

impl RunReport {
    /// What a shard leaves to others.
    fn left_to_shards(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(units) = &self.units else { return Ok(()) };
        match (&units.shard, units.left_to_shards) {
            (Some(shard), 0) => {
                writeln!(f, "  shard    {shard}, the last one: the output is published")
            }
            (Some(shard), left) => writeln!(
                f,
                "  shard    {shard}: {} units are left to the others; the last of them publishes",
                count(left as u64)
            ),
            (None, _) => Ok(()),
        }
    }

    /// Inputs of the output that are no longer there.
    fn vanished(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(units) = &self.units {
            let fate = if units.pruned { "removed" } else { "kept; `--prune` removes them" };
            for input in &units.vanished {
                writeln!(f, "  vanished {input}: its rows are {fate}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = self.units.as_ref().filter(|units| units.computed == 0);
        if let Some(units) = nothing {
            writeln!(
                f,
                "{}: nothing to compute: all {} units were done before ({} rows)",
                self.pipeline,
                count(units.total as u64),
                count(units.skipped_rows)
            )?;
            self.left_to_shards(f)?;
            return self.vanished(f);
        }
        writeln!(
            f,
            "{}: {} rows in {:.1} s ({:.1} s of it to load models)",
            self.pipeline,
            count(self.rows_written),
            self.wall_seconds,
            self.load_seconds
        )?;
        writeln!(f, "  read     {}, {}", files(self.input_files), bytes(self.input_bytes))?;
        for note in &self.source_notes {
            writeln!(f, "  note     {note}")?;
        }
        if let Some(units) = &self.units {
            writeln!(
                f,
                "  units    {} computed, {} done before ({} rows)",
                count(units.computed as u64),
                count(units.skipped as u64),
                count(units.skipped_rows)
            )?;
            self.left_to_shards(f)?;
            self.vanished(f)?;
        }
        if let Some(errors) = &self.row_errors {
            writeln!(f, "  failed   {} of {} rows", count(errors.failed), count(errors.rows))?;
            for (place, error) in self.errors() {
                let (rows, kind) = (count(error.rows), &error.kind);
                let example = error.examples.first().map_or("", String::as_str);
                writeln!(f, "    {place}: {rows} {kind}: {example}")?;
            }
        }
        for step in &self.steps {
            let StepReport { model, counts, .. } = step;
            writeln!(f, "  {}  {} -> {}", model.task, model.name, step.output)?;
            writeln!(
                f,
                "    model    {} {}, {} parameters, {} on {}",
                model.repo,
                model.commit.as_deref().unwrap_or("(local directory)"),
                count(step.parameters as u64),
                model.dtype,
                model.device
            )?;
            writeln!(
                f,
                "    rows     {} ({} null, {} computed, {} truncated), {} rows/s",
                count(counts.rows),
                count(counts.null_rows),
                count(counts.computed_rows),
                count(counts.truncated_rows),
                count(step.rows_per_second as u64),
            )?;
            writeln!(
                f,
                "    tokens   {} computed in {} batches, {} tokens/s, padding {:.1}%",
                count(counts.computed_tokens),
                count(counts.batches),
                count(step.tokens_per_second as u64),
                step.padding_share * 100.0
            )?;
            let waits = counts.input_seconds
                + counts.tokenize_seconds
                + counts.results_seconds
                + counts.output_seconds;
            // Of less than this, nobody wants to know what it was spent on.
            if let Some(bottleneck) = step.bottleneck.as_ref().filter(|_| waits > 1.0) {
                writeln!(
                    f,
                    "    waited   longest for the {bottleneck}: input {:.1} s, tokenizer {:.1} s, model {:.1} s, \
                     output {:.1} s",
                    counts.input_seconds,
                    counts.tokenize_seconds,
                    counts.results_seconds,
                    counts.output_seconds
                )?;
            }
        }
        if let [file] = self.output.as_slice() {
            writeln!(f, "  wrote    {}, {}", file.path.display(), bytes(file.bytes))?;
        } else if let Some(first) = self.output.first() {
            let total = self.output.iter().map(|file| file.bytes).sum();
            let shown = first.path.display();
            writeln!(
                f,
                "  wrote    {} from {shown} on, {}",
                files(self.output.len()),
                bytes(total)
            )?;
        }
        if let Some(peak) = self.peak_memory_bytes {
            writeln!(f, "  memory   {} at most", bytes(peak))?;
        }
        Ok(())
    }
}

pub(crate) fn files(number: usize) -> String {
    if number == 1 { "1 file".to_owned() } else { format!("{} files", count(number as u64)) }
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit: `1.4 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < units.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Seconds with a unit that fits: `340 ms`, `12.3 s`, `4:05 min`, `3:04:05 h`.
pub(super) fn duration(seconds: f64) -> String {
    if !(0.0..1e15).contains(&seconds) {
        return "–".to_owned();
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        ..60.0 => format!("{seconds:.1} s"),
        ..3600.0 => format!("{}:{rest:02} min", whole / 60),
        _ => format!("{hours}:{minutes:02}:{rest:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_sizes_have_units() {
        assert_eq!([count(7), count(1000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!([bytes(12), bytes(1536), bytes(5 << 30)], ["12 B", "1.5 KiB", "5.0 GiB"]);
    }

    #[test]
    fn durations_have_a_unit_that_fits() {
        let shown = [0.34, 12.34, 245.0, 3599.7, 11_045.0, f64::NAN].map(duration);
        assert_eq!(shown, ["340 ms", "12.3 s", "4:05 min", "60:00 min", "3:04:05 h", "–"]);
    }
}
