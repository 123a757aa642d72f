//! The report as text, which `run` prints, and the number formats of all reports. Not here: the page (`page`).

use std::fmt;

use super::{RunReport, StepReport};

impl RunReport {
    /// The units left to other shards.
    fn left_to_shards(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(units) = &self.units else { return Ok(()) };
        if units.by_others > 0 {
            let others = counted(units.by_others as u64, "unit");
            writeln!(
                f,
                "  joined   {others} computed by other processes; the output is published"
            )?;
        }
        match (&units.shard, units.left_to_shards) {
            (Some(shard), 0) => {
                writeln!(f, "  shard    {shard}, the last one: the output is published")
            }
            (Some(shard), left) => writeln!(
                f,
                "  shard    {shard}: {}; the last one publishes the output",
                left_to_others(left)
            ),
            (None, _) => Ok(()),
        }
    }

    /// Inputs of the output that no longer exist.
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
            let before = if units.by_others > 0 { "by other processes" } else { "before" };
            writeln!(
                f,
                "{}: nothing to compute: {} done {before} ({})",
                self.pipeline,
                match units.total {
                    1 => "the 1 unit was".to_owned(),
                    total => format!("all {} were", counted(total as u64, "unit")),
                },
                counted(units.skipped_rows, "row")
            )?;
            self.left_to_shards(f)?;
            return self.vanished(f);
        }
        writeln!(
            f,
            "{}: {} in {:.1} s ({:.1} s of it to load models)",
            self.pipeline,
            counted(self.rows_written, "row"),
            self.wall_seconds,
            self.load_seconds
        )?;
        writeln!(
            f,
            "  read     {}, {}",
            counted(self.input_files as u64, "file"),
            bytes(self.input_bytes)
        )?;
        for note in &self.source_notes {
            writeln!(f, "  note     {note}")?;
        }
        if let Some(units) = &self.units {
            writeln!(
                f,
                "  units    {} computed, {} done before ({})",
                count(units.computed as u64),
                count(units.skipped.saturating_sub(units.by_others) as u64),
                counted(units.skipped_rows, "row")
            )?;
            self.left_to_shards(f)?;
            self.vanished(f)?;
        }
        if let Some(errors) = &self.row_errors {
            writeln!(f, "  failed   {} of {}", count(errors.failed), counted(errors.rows, "row"))?;
            for (place, error) in self.errors() {
                let (rows, kind) = (count(error.rows), &error.kind);
                let example = error.examples.first().map_or("", String::as_str);
                writeln!(f, "    {place}: {rows} {kind}: {example}")?;
            }
        }
        self.steps.iter().try_for_each(|step| step.write(f))?;
        if let [file] = self.output.as_slice() {
            writeln!(f, "  wrote    {}, {}", file.path.display(), bytes(file.bytes))?;
        } else if let Some(first) = self.output.first() {
            let total = self.output.iter().map(|file| file.bytes).sum();
            let shown = first.path.display();
            writeln!(
                f,
                "  wrote    {} from {shown} on, {}",
                counted(self.output.len() as u64, "file"),
                bytes(total)
            )?;
        }
        if let Some(peak) = self.peak_memory_bytes {
            writeln!(f, "  memory   {} at peak", bytes(peak))?;
        }
        Ok(())
    }
}

impl StepReport {
    /// The lines of a step.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StepReport { model, counts, .. } = self;
        writeln!(f, "  {}  {} -> {}", model.task, model.name, self.output)?;
        writeln!(
            f,
            "    model    {} {}, {}, {} on {}",
            model.repo,
            model.commit.as_deref().unwrap_or("(local directory)"),
            counted(self.parameters as u64, "parameter"),
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
            count(self.rows_per_second as u64),
        )?;
        if counts.split_rows > 0 {
            let split = counted(counts.split_rows, "row");
            writeln!(f, "    split    {split} longer than the model reads, into parts")?;
        }
        writeln!(
            f,
            "    tokens   {} computed in {}, {} tokens/s",
            count(counts.computed_tokens),
            counted(counts.batches, "batch"),
            count(self.tokens_per_second as u64)
        )?;
        if counts.images > 0 {
            writeln!(
                f,
                "    pictures {} computed, {} pictures/s; reading and decoding took {} of the workers' {}",
                count(counts.images),
                rate(self.images_per_second),
                duration(counts.image_seconds),
                duration(counts.model_seconds)
            )?;
        }
        if counts.generated_tokens > 0 {
            writeln!(
                f,
                "    output   {} generated, {} tokens/s",
                counted(counts.generated_tokens, "token"),
                count(self.generated_tokens_per_second.round() as u64)
            )?;
        }
        if counts.cached_tokens > 0 {
            let saved = count(counts.cached_tokens);
            writeln!(f, "    prefix   {saved} tokens reused from prefixes of other rows")?;
        }
        if counts.reused_rows > 0 {
            let reused = counted(counts.reused_rows, "row");
            writeln!(f, "    reused   the results of {reused} of an earlier run")?;
        }
        let waits = counts.input_seconds
            + counts.tokenize_seconds
            + counts.results_seconds
            + counts.output_seconds;
        // Below this, the bottleneck is irrelevant.
        if let Some(bottleneck) = self.bottleneck.as_ref().filter(|_| waits > 1.0) {
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
        Ok(())
    }
}

/// A count with its noun in singular or plural: `1 row`, `1,200 rows`, `3 batches`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = match number {
        1 => "",
        _ if noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{} {noun}{ending}", count(number))
}

/// The units that a shard leaves to other shards.
pub(super) fn left_to_others(units: usize) -> String {
    let is = if units == 1 { "is" } else { "are" };
    format!("{} {is} left to the others", counted(units as u64, "unit"))
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

/// A rate: `1,234`, or with a decimal below 100.
pub(crate) fn rate(per_second: f64) -> String {
    let per_second = per_second.max(0.0);
    if per_second < 99.95 { format!("{per_second:.1}") } else { count(per_second.round() as u64) }
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

/// A duration with a suitable unit: `340 ms`, `12.3 s`, `4:05 min`, `3:04:05 h`.
pub(crate) fn duration(seconds: f64) -> String {
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
        let counted = [counted(0, "row"), counted(1, "row"), counted(1000, "batch")];
        assert_eq!(counted, ["0 rows", "1 row", "1,000 batches"]);
        assert_eq!(left_to_others(1), "1 unit is left to the others");
        let rates = [rate(0.04), rate(99.9), rate(99.96), rate(1234.5), rate(f64::NAN)];
        assert_eq!(rates, ["0.0", "99.9", "100", "1,235", "0.0"]);
        assert_eq!([bytes(12), bytes(1536), bytes(5 << 30)], ["12 B", "1.5 KiB", "5.0 GiB"]);
    }

    #[test]
    fn durations_have_a_unit_that_fits() {
        let shown = [0.34, 12.34, 245.0, 3599.7, 11_045.0, f64::NAN].map(duration);
        assert_eq!(shown, ["340 ms", "12.3 s", "4:05 min", "60:00 min", "3:04:05 h", "–"]);
    }
}
