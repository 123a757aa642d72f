//! The report as a self-contained HTML page: it fetches nothing and has no scripts. The markup is `page.html.j2`. All
//! text of a report is untrusted, and escaped. Not here: the shapes of plots (`plot`).

use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};

use super::html::write_escaped;
use super::plot::{Plot, Span, shares, short};
use super::text::{bytes, count, counted, duration, left_to_others, rate};
use super::{Histogram, Report, RowErrorReport, RunReport, Sample, Status, StepReport, UnitCounts};
use crate::error::{Error, ErrorKind, Result};

/// The maximum number of list entries on the page.
const MAX_ENTRIES: usize = 100;

/// The maximum number of points of a line: more exceed the resolution of a screen.
const MAX_POINTS: usize = 80;

/// The first rows of an output, as text.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct FirstRows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// A cell per column and row.
    pub rows: Vec<Vec<String>>,
}

/// Renders the page of a report.
///
/// # Errors
/// `Internal` if the template does not match the report.
pub fn page(report: &Report) -> Result<String> {
    page_with_rows(report, None)
}

/// As [`page`], with the first rows of the output.
///
/// # Errors
/// As [`page`].
pub fn page_with_rows(report: &Report, first_rows: Option<&FirstRows>) -> Result<String> {
    let mut environment = Environment::empty();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(write_escaped);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.add_filter("beyond", beyond);
    environment.add_filter("bytes", bytes);
    environment.add_filter("count", count);
    environment.add_filter("counted", counted);
    environment.add_filter("duration", duration);
    environment.add_filter("moment", moment);
    let run = report.run.as_ref();
    let values = context! {
        report,
        run,
        first_rows,
        undelivered => &report.undelivered,
        output_bytes => run.map(|run| run.output.iter().map(|file| file.bytes).sum::<u64>()),
        outcome => outcome(report),
        css => markup(include_str!("page.css")),
        max_entries => MAX_ENTRIES,
        cards => run.map(|run| cards(run, report.status)),
        throughput => run.map(throughput),
        steps => run.map(|run| (0..).zip(&run.steps).map(step).collect::<Vec<_>>()),
        errors => run.and_then(row_errors),
        unit_shares => run.and_then(|run| run.units.as_ref()).map(unit_shares),
        left_to_shards =>
            run.and_then(|run| run.units.as_ref()).map(|units| left_to_others(units.left_to_shards)),
        time_shares => run.map(time_shares),
    };
    environment.render_named_str("page.html", include_str!("page.html.j2"), values).map_err(|e| {
        Error::new(ErrorKind::Internal, "cannot make the page of the report").source(e)
    })
}

/// Text that is already markup.
fn markup(html: impl Into<String>) -> Value {
    Value::from_safe_string(html.into())
}

/// The number of list entries that are not shown.
fn beyond(list: &Value) -> u64 {
    list.len().unwrap_or(0).saturating_sub(MAX_ENTRIES) as u64
}

fn outcome(report: &Report) -> &'static str {
    let units = report.run.as_ref().and_then(|run| run.units.as_ref());
    match (report.status, units) {
        (Status::Done, Some(units)) if units.computed == 0 && units.total > 0 => "nothing to do",
        (status, _) => status.name(),
    }
}

/// The figures at the top: label, value, note.
fn cards(run: &RunReport, status: Status) -> Vec<(&'static str, String, String)> {
    let mut cards = Vec::new();
    let seconds = (run.wall_seconds - run.load_seconds).max(f64::EPSILON);
    let rate = |number: u64| format!("{}/s", short((number as f64 / seconds).round()));
    let expected = match run.total_rows {
        Some(total) if status != Status::Done => format!("of {}", count(total)),
        _ => rate(run.rows_written),
    };
    cards.push(("Rows written", count(run.rows_written), expected));
    cards.push((
        "Wall time",
        duration(run.wall_seconds),
        format!("{} to load models", duration(run.load_seconds)),
    ));
    let sum = |of: fn(&StepReport) -> u64| run.steps.iter().map(of).sum::<u64>();
    let computed = sum(|step| step.counts.computed_tokens);
    if !run.steps.is_empty() {
        cards.push(("Tokens computed", count(computed), rate(computed)));
        let rows = counted(sum(|step| step.counts.computed_rows), "row");
        cards.push(("Batches", count(sum(|step| step.counts.batches)), format!("of {rows}")));
    }
    let generated = sum(|step| step.counts.generated_tokens);
    if generated > 0 {
        cards.push(("Tokens generated", count(generated), rate(generated)));
    }
    let cached = sum(|step| step.counts.cached_tokens);
    if cached > 0 {
        cards.push(("Tokens reused", count(cached), "from prefixes of other rows".to_owned()));
    }
    if let Some(errors) = run.row_errors {
        let share = errors.failed as f64 / errors.rows.max(1) as f64;
        let of = format!("{} of {}", percent(share), counted(errors.rows, "row"));
        cards.push(("Rows failed", count(errors.failed), of));
    }
    if let Some(units) = &run.units {
        let done = count((units.computed + units.skipped) as u64);
        let skipped = format!("of {}, {} before", count(units.total as u64), units.skipped);
        cards.push(("Units done", done, skipped));
    }
    let files = counted(run.input_files as u64, "file");
    cards.push(("Read", bytes(run.input_bytes), files));
    if let Some(peak) = run.peak_memory_bytes {
        cards.push(("Memory", bytes(peak), "peak".to_owned()));
    }
    cards
}

/// The rates between samples, as at most [`MAX_POINTS`] points.
fn rates(samples: &[Sample], of: fn(&Sample) -> u64) -> Vec<Span> {
    let mut samples: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.seconds.is_finite() && sample.seconds >= 0.0)
        .collect();
    samples.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let [first, .., last] = samples[..] else { return Vec::new() };
    let every = (last.seconds - first.seconds) / MAX_POINTS as f64 * 0.999;
    let mut bounds = vec![first];
    for sample in &samples[1..] {
        let seconds = sample.seconds - bounds[bounds.len() - 1].seconds;
        if seconds > 0.0 && seconds >= every {
            bounds.push(sample);
        }
    }
    // Merges the last sample into the interval before it: over a short time, any step is a high rate.
    if bounds.len() > 1 {
        bounds.pop();
    }
    bounds.push(last);
    let spans = bounds.windows(2).filter(|pair| pair[1].seconds > pair[0].seconds);
    let span = |pair: &[&Sample]| {
        let (from, to) = (pair[0].seconds, pair[1].seconds);
        let value = of(pair[1]).saturating_sub(of(pair[0])) as f64 / (to - from);
        Span { from, to, value }
    };
    spans.map(span).collect()
}

/// The plots of tokens and rows per second; omits a plot without values.
fn throughput(run: &RunReport) -> Vec<Value> {
    let mut plots = Vec::new();
    if run.steps.iter().any(|step| step.counts.computed_tokens > 0) {
        plots.push(("tokens", "Tokens per second", "blue", rates(&run.throughput, |at| at.tokens)));
    }
    plots.push(("rows", "Rows per second", "green", rates(&run.throughput, |at| at.rows)));
    plots.retain(|(.., spans)| spans.iter().any(|span| span.value > 0.0));
    let plot = |(what, title, color, spans): (&str, &str, &str, Vec<Span>)| {
        let most = spans.iter().map(|span| span.value).fold(0.0, f64::max);
        let description = format!(
            "{what} per second over {}, at most {}",
            duration(spans.last().map_or(0.0, |span| span.to)),
            short(most)
        );
        let plot = Plot {
            id: &format!("throughput-{what}"),
            title,
            description: &description,
            color,
            axis: "time since the run started",
        };
        let tip = |span: Span| {
            let (from, to) = (duration(span.from), duration(span.to));
            format!("{from} to {to}: {} {what}/s", short(span.value.round()))
        };
        let rows = spans
            .iter()
            .map(|span| [duration(span.from), duration(span.to), count(span.value.round() as u64)]);
        context! {
            plot => markup(plot.line(&spans, tip)),
            unit => format!("{what}/s"),
            rows => rows.collect::<Vec<_>>(),
        }
    };
    plots.into_iter().map(plot).collect()
}

/// A step with the figures derived from its report.
fn step((number, report): (usize, &StepReport)) -> Value {
    context! {
        report,
        tokens_per_second => report.tokens_per_second.max(0.0) as u64,
        generated_tokens_per_second => report.generated_tokens_per_second.max(0.0) as u64,
        images_per_second => rate(report.images_per_second),
        lengths => lengths(number, &report.token_lengths),
        options => serde_json::to_string(&report.model.options).unwrap_or_default(),
    }
}

/// The histogram of token lengths: bars as wide as their range, so that areas are numbers of rows.
fn lengths(number: usize, lengths: &Histogram) -> Option<Value> {
    let bins: Vec<Bin> = bins(lengths).into_iter().filter(|bin| bin.rows > 0).collect();
    let rows: u64 = bins.iter().map(|bin| bin.rows).sum();
    if rows == 0 {
        return None;
    }
    let mean = lengths.sum as f64 / rows as f64;
    let longest =
        if lengths.max > 0 { format!(", {} at most", count(lengths.max)) } else { String::new() };
    let plot = Plot {
        id: &format!("lengths-{number}"),
        title: "Rows by their number of tokens",
        description: &format!("{} of {mean:.1} tokens on average{longest}", counted(rows, "row")),
        color: "violet",
        axis: "tokens of a row",
    };
    let spans: Vec<Span> = bins.iter().map(Bin::density).collect();
    let tip =
        |bar: usize| format!("{} tokens: {}", bins[bar].range(), counted(bins[bar].rows, "row"));
    let marks = [("mean", mean), ("max", lengths.max as f64)];
    let marks: Vec<_> = marks.into_iter().filter(|(_, at)| *at > 0.0).collect();
    let figures = bins
        .iter()
        .map(|bin| [bin.range(), count(bin.rows), percent(bin.rows as f64 / rows as f64)]);
    Some(context! {
        plot => markup(plot.bars(&spans, &marks, "rows per token", tip)),
        rows => figures.collect::<Vec<_>>(),
    })
}

/// Rows whose number of tokens lies in a range.
struct Bin {
    from: u64,
    /// The greatest number, inclusive.
    to: u64,
    /// Whether `to` is not known.
    is_open: bool,
    rows: u64,
}

impl Bin {
    fn range(&self) -> String {
        match (self.is_open, self.from == self.to) {
            (true, _) => format!("{} or more", count(self.from)),
            (false, true) => count(self.from),
            (false, false) => format!("{} to {}", count(self.from), count(self.to)),
        }
    }

    /// The rows for each number of tokens.
    fn density(&self) -> Span {
        let (from, to) = (self.from as f64, self.to as f64 + 1.0);
        Span { from, to, value: self.rows as f64 / (to - from).max(1.0) }
    }
}

/// The bins of a histogram, up to the longest row.
fn bins(lengths: &Histogram) -> Vec<Bin> {
    let mut from = 0u64;
    let mut bins = Vec::new();
    for (index, rows) in lengths.counts.iter().enumerate().take(MAX_ENTRIES) {
        let bound = lengths.bounds.get(index).copied();
        let longest = if lengths.max >= from && lengths.max > 0 { Some(lengths.max) } else { None };
        // Reports of earlier versions do not know the longest row.
        let to = match (bound, longest) {
            (Some(bound), Some(longest)) => bound.min(longest),
            (Some(bound), None) => bound,
            (None, Some(longest)) => longest,
            (None, None) => from.saturating_mul(2),
        };
        let is_open = bound.is_none() && longest.is_none();
        bins.push(Bin { from, to: to.max(from), is_open, rows: *rows });
        from = bound.map_or(u64::MAX, |bound| bound.saturating_add(1)).max(from);
    }
    bins
}

/// The failed rows by place and kind, and the count of rows that failed in earlier runs.
fn row_errors(run: &RunReport) -> Option<Value> {
    let errors: Vec<(&str, &RowErrorReport)> = run.errors().collect();
    let totals = run.row_errors.filter(|totals| totals.failed > 0 || !errors.is_empty())?;
    let here: u64 = errors.iter().map(|(_, error)| error.rows).sum();
    let shown = errors.into_iter().take(MAX_ENTRIES);
    Some(context! {
        earlier => totals.failed.saturating_sub(here),
        all => shown.collect::<Vec<_>>(),
    })
}

fn unit_shares(units: &UnitCounts) -> Value {
    let UnitCounts { total, computed, skipped, skipped_rows, .. } = units;
    let open = total.saturating_sub(computed + skipped);
    let of = |number: usize, what: &str| format!("{} {what}", count(number as u64));
    let rows = counted(*skipped_rows, "row");
    let mut parts = vec![
        ("a", of(*computed, "computed"), *computed as f64),
        ("b", of(*skipped, &format!("done before ({rows})")), *skipped as f64),
    ];
    if open > 0 {
        parts.push(("d", of(open, "open"), open as f64));
    }
    markup(shares(&parts))
}

fn time_shares(run: &RunReport) -> Value {
    let part =
        |class, name: &str, seconds: f64| (class, format!("{name} {}", duration(seconds)), seconds);
    let known = run.load_seconds + run.run_seconds + run.commit_seconds;
    markup(shares(&[
        part("d", "load models", run.load_seconds),
        part("a", "run", run.run_seconds),
        part("b", "commit", run.commit_seconds),
        part("c", "prepare and end", (run.wall_seconds - known).max(0.0)),
    ]))
}

/// A time in readable form.
fn moment(rfc3339: &str) -> String {
    match chrono::DateTime::parse_from_rfc3339(rfc3339) {
        Ok(time) => time.to_utc().format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".to_owned();
    }
    if share > 0.0 && share < 0.0005 {
        return "< 0.1%".to_owned();
    }
    format!("{:.1}%", share * 100.0)
}
