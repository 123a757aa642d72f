//! The report as one HTML page that stands alone: nothing is fetched, nothing is run, plots are SVG made here. All
//! that a report says is foreign text, and escaped. Not here: the shapes of plots (`plot`).

use std::fmt::Write;

use super::html::{escape, figures, table};
use super::plot::{Plot, Span, shares, short};
use super::text::{bytes, count, duration};
use super::{Histogram, Report, RowErrorReport, RunReport, Sample, Status, StepReport, UnitCounts};

/// Entries of a list that the page shows.
const MAX_ENTRIES: usize = 100;

/// Points of a line: more are as fine as a screen.
const MAX_POINTS: usize = 80;

/// The page of a report.
pub fn page(report: &Report) -> String {
    let name = escape(&report.pipeline);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{name}: {}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n",
        report.status.name(),
        include_str!("page.css"),
    );
    head(&mut html, report, &name);
    if let Some(run) = &report.run {
        cards(&mut html, run, report.status);
        throughput(&mut html, run);
        steps(&mut html, run);
        row_errors(&mut html, run);
        units(&mut html, run);
        times(&mut html, run);
        lineage(&mut html, run);
        files(&mut html, run);
    }
    let version = report.run.as_ref().map_or_else(String::new, |run| escape(&run.version));
    let _ = writeln!(
        html,
        "<footer class=\"soft\">Written by hfauto-pipe {version}, report version {}.</footer>\n\
         </main>\n</body>\n</html>",
        report.version
    );
    html
}

fn head(html: &mut String, report: &Report, name: &str) {
    let (class, status) = (report.status.name(), outcome(report));
    let _ = write!(
        html,
        "<header><div class=\"title\"><h1><bdi>{name}</bdi></h1>\
         <span class=\"badge {class}\" id=\"status\">{status}</span></div>"
    );
    let mut line = format!("Begun {}", moment(&report.started_at));
    if let Some(ended) = &report.ended_at {
        let _ = write!(line, ", ended {}", moment(ended));
    }
    if let Some(code) = report.exit_code.filter(|code| *code != 0) {
        let _ = write!(line, ", exit code {code}");
    }
    let _ = writeln!(html, "<p class=\"soft\">{line}</p></header>");
    let Some(error) = &report.error else { return };
    let kind = match &error.row_error {
        Some(row) => format!("{}, {}", escape(&error.kind), escape(row)),
        None => escape(&error.kind),
    };
    let _ = writeln!(
        html,
        "<section class=\"card error\" id=\"error\" aria-label=\"Error\"><h3>Error ({kind})</h3>\
         <pre>{}</pre></section>",
        escape(&error.text)
    );
}

fn outcome(report: &Report) -> &'static str {
    let units = report.run.as_ref().and_then(|run| run.units.as_ref());
    match (report.status, units) {
        (Status::Done, Some(units)) if units.computed == 0 && units.total > 0 => "nothing to do",
        (status, _) => status.name(),
    }
}

fn cards(html: &mut String, run: &RunReport, status: Status) {
    let mut cards: Vec<(&str, String, String)> = Vec::new();
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
    let padded = sum(|step| step.counts.padded_tokens);
    if !run.steps.is_empty() {
        cards.push(("Tokens computed", count(computed), rate(computed)));
        let padding = if padded == 0 { 0.0 } else { 1.0 - computed as f64 / padded as f64 };
        let batches = count(sum(|step| step.counts.batches));
        cards.push(("Padding", percent(padding), format!("in {batches} batches")));
    }
    if let Some(errors) = run.row_errors {
        let share = errors.failed as f64 / errors.rows.max(1) as f64;
        let of = format!("{} of {} rows", percent(share), count(errors.rows));
        cards.push(("Rows failed", count(errors.failed), of));
    }
    if let Some(units) = &run.units {
        let done = count((units.computed + units.skipped) as u64);
        let skipped = format!("of {}, {} before", count(units.total as u64), units.skipped);
        cards.push(("Units done", done, skipped));
    }
    let files = if run.input_files == 1 { "file" } else { "files" };
    let number = format!("{} {files}", count(run.input_files as u64));
    cards.push(("Read", bytes(run.input_bytes), number));
    if let Some(peak) = run.peak_memory_bytes {
        cards.push(("Memory", bytes(peak), "at most".to_owned()));
    }
    html.push_str("<dl class=\"cards\">");
    for (name, value, note) in cards {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>");
    }
    html.push_str("</dl>\n");
    if !run.source_notes.is_empty() {
        html.push_str("<ul class=\"soft\" id=\"notes\">");
        for note in &run.source_notes {
            let _ = write!(html, "<li>{}</li>", escape(note));
        }
        html.push_str("</ul>\n");
    }
}

/// Rates between samples, at most [`MAX_POINTS`] of them.
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
    // The end belongs to the part before it: over a short time any step is a high rate.
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

fn throughput(html: &mut String, run: &RunReport) {
    let mut plots = Vec::new();
    if run.steps.iter().any(|step| step.counts.computed_tokens > 0) {
        plots.push(("tokens", "blue", rates(&run.throughput, |sample| sample.tokens)));
    }
    plots.push(("rows", "green", rates(&run.throughput, |sample| sample.rows)));
    plots.retain(|(_, _, spans)| spans.iter().any(|span| span.value > 0.0));
    if plots.is_empty() {
        return;
    }
    html.push_str("<section id=\"throughput\"><h2>Throughput</h2>\n");
    for (what, color, spans) in plots {
        let most = spans.iter().map(|span| span.value).fold(0.0, f64::max);
        let description = format!(
            "{what} a second over {}, at most {}",
            duration(spans.last().map_or(0.0, |span| span.to)),
            short(most)
        );
        let plot = Plot {
            id: &format!("throughput-{what}"),
            title: &format!("{} a second", if what == "rows" { "Rows" } else { "Tokens" }),
            description: &description,
            color,
            axis: "time since the run began",
        };
        let tip = |span: Span| {
            let (from, to) = (duration(span.from), duration(span.to));
            format!("{from} to {to}: {} {what}/s", short(span.value.round()))
        };
        let rows = spans.iter().map(|span| {
            let rate = count(span.value.round() as u64);
            vec![duration(span.from), duration(span.to), rate]
        });
        let figures = figures("Figures", &table(&["from", "to", &format!("{what}/s")], 0.., rows));
        let drawn = plot.line(&spans, tip);
        let _ = writeln!(html, "<div class=\"card\">{drawn}{figures}</div>");
    }
    html.push_str("</section>\n");
}

fn steps(html: &mut String, run: &RunReport) {
    if run.steps.is_empty() {
        return;
    }
    html.push_str("<section id=\"steps\"><h2>Steps</h2>\n");
    for (number, step) in run.steps.iter().enumerate() {
        let StepReport { model, counts, .. } = step;
        let _ = write!(
            html,
            "<article class=\"card\"><h3><bdi>{}</bdi></h3>\
             <p class=\"soft\">{} with <bdi>{}</bdi>, {} on {}</p>",
            escape(&step.output),
            escape(&model.task),
            escape(&model.name),
            escape(&model.dtype),
            escape(&model.device)
        );
        let _ = write!(
            html,
            "<p>{} rows: {} computed, {} null, {} truncated, {} failed. {} tokens/s in {} batches.</p>",
            count(counts.rows),
            count(counts.computed_rows),
            count(counts.null_rows),
            count(counts.truncated_rows),
            count(counts.failed_rows),
            count(step.tokens_per_second.max(0.0) as u64),
            count(counts.batches),
        );
        let padding = counts.padded_tokens.saturating_sub(counts.computed_tokens);
        if counts.padded_tokens > 0 {
            let tokens = format!("{} tokens computed", count(counts.computed_tokens));
            let padding_is = format!(
                "{} more ({}) if batches were padded",
                count(padding),
                percent(counts.padding_share())
            );
            let parts =
                [("a", tokens, counts.computed_tokens as f64), ("w", padding_is, padding as f64)];
            let _ = write!(html, "<div class=\"padding\">{}</div>", shares(&parts));
        }
        lengths(html, number, &step.token_lengths);
        html.push_str("</article>\n");
    }
    html.push_str("</section>\n");
}

/// The histogram of token lengths, without empty bins at its ends.
fn lengths(html: &mut String, number: usize, lengths: &Histogram) {
    let bins = bins(lengths);
    let (Some(first), Some(last)) =
        (bins.iter().position(|bin| bin.2 > 0), bins.iter().rposition(|bin| bin.2 > 0))
    else {
        return;
    };
    let bins = &bins[first.saturating_sub(1)..bins.len().min(last + 2)];
    let rows: u64 = bins.iter().map(|bin| bin.2).sum();
    let mean = lengths.sum as f64 / rows.max(1) as f64;
    let plot = Plot {
        id: &format!("lengths-{number}"),
        title: "Rows by their number of tokens",
        description: &format!("{} rows of {mean:.1} tokens on average", count(rows)),
        color: "violet",
        axis: "tokens, up to",
    };
    let bars: Vec<(String, u64)> = bins.iter().map(|bin| (bin.1.clone(), bin.2)).collect();
    let of = |label: &str| bins.iter().find(|bin| bin.1 == label).map_or("", |bin| bin.0.as_str());
    let drawn =
        plot.bars(&bars, |label, rows| format!("{} tokens: {} rows", of(label), count(rows)));
    let table = table(
        &["tokens", "rows", "share"],
        1..,
        bins.iter().map(|(range, _, number)| {
            let share = percent(*number as f64 / rows.max(1) as f64);
            vec![range.clone(), count(*number), share]
        }),
    );
    let _ = write!(html, "{drawn}{}", figures("Figures", &table));
}

/// For every bin its range, its upper bound, its rows.
fn bins(lengths: &Histogram) -> Vec<(String, String, u64)> {
    let mut below = None;
    let mut bins = Vec::new();
    for (index, number) in lengths.counts.iter().enumerate().take(MAX_ENTRIES) {
        let from = below.map_or(0, |bound: u64| bound.saturating_add(1));
        match lengths.bounds.get(index) {
            Some(bound) => {
                bins.push((format!("{from} to {bound}"), bound.to_string(), *number));
                below = Some(*bound);
            }
            None => bins.push((format!("{from} or more"), "more".to_owned(), *number)),
        }
    }
    bins
}

fn row_errors(html: &mut String, run: &RunReport) {
    let errors: Vec<(&str, &RowErrorReport)> = run.errors().collect();
    let Some(totals) = run.row_errors.filter(|totals| totals.failed > 0 || !errors.is_empty())
    else {
        return;
    };
    html.push_str("<section id=\"errors\"><h2>Rows that failed</h2>\n<div class=\"card\">");
    let here: u64 = errors.iter().map(|(_, error)| error.rows).sum();
    if totals.failed > here {
        let _ = write!(
            html,
            "<p class=\"soft\">{} more rows of units that were done before: their errors are in the output.</p>",
            count(totals.failed - here)
        );
    }
    let rows = errors.into_iter().take(MAX_ENTRIES).map(|(place, error)| {
        let examples =
            error.examples.iter().map(|text| format!("<li><bdi>{}</bdi></li>", escape(text)));
        vec![
            format!("<code>{}</code>", escape(&error.kind)),
            count(error.rows),
            format!("<bdi>{}</bdi>", escape(place)),
            format!("<ul class=\"examples\">{}</ul>", examples.collect::<String>()),
        ]
    });
    html.push_str(&table(&["kind", "rows", "step", "messages, some of them"], 1..2, rows));
    html.push_str("</div></section>\n");
}

fn units(html: &mut String, run: &RunReport) {
    let Some(units) = &run.units else { return };
    let UnitCounts { total, computed, skipped, skipped_rows, vanished, pruned, slowest, .. } =
        units;
    let open = total.saturating_sub(computed + skipped);
    let of = |number: &usize, what: &str| format!("{} {what}", count(*number as u64));
    let mut parts = vec![("a", of(computed, "computed"), *computed as f64)];
    let before = format!("{} done before ({} rows)", count(*skipped as u64), count(*skipped_rows));
    parts.push(("b", before, *skipped as f64));
    if open > 0 {
        parts.push(("d", of(&open, "open"), open as f64));
    }
    let _ = write!(
        html,
        "<section id=\"units\"><h2>Units</h2>\n<div class=\"card\">{}",
        shares(&parts)
    );
    if let Some(shard) = &units.shard {
        let left = count(units.left_to_shards as u64);
        let _ = write!(
            html,
            "<p>Shard <bdi>{}</bdi>; {left} units are left to the others.</p>",
            escape(shard)
        );
    }
    if !slowest.is_empty() {
        let rows = slowest.iter().take(MAX_ENTRIES).map(|unit| {
            vec![
                format!("<bdi>{}</bdi>", escape(&unit.unit)),
                count(unit.rows),
                duration(unit.seconds),
            ]
        });
        let _ = write!(html, "{}", table(&["slowest", "rows", "time"], 1.., rows));
    }
    if !vanished.is_empty() {
        let fate = if *pruned { "removed" } else { "kept" };
        let _ = write!(html, "<p>Inputs that are gone; their rows were {fate}:</p><ul>");
        for input in vanished.iter().take(MAX_ENTRIES) {
            let _ = write!(html, "<li><bdi>{}</bdi></li>", escape(input));
        }
        html.push_str("</ul>");
        more(html, vanished.len());
    }
    html.push_str("</div></section>\n");
}

fn times(html: &mut String, run: &RunReport) {
    let part =
        |class, name: &str, seconds: f64| (class, format!("{name} {}", duration(seconds)), seconds);
    let parts = [
        part("d", "load models", run.load_seconds),
        part("a", "run", run.run_seconds),
        part("b", "commit", run.commit_seconds),
    ];
    let _ =
        write!(html, "<section id=\"times\"><h2>Time</h2>\n<div class=\"card\">{}", shares(&parts));
    let rows = run.steps.iter().map(|step| {
        let counts = &step.counts;
        let times = [
            counts.input_seconds,
            counts.tokenize_seconds,
            counts.queue_seconds,
            counts.model_seconds,
            counts.results_seconds,
            counts.output_seconds,
        ];
        let name = format!("<bdi>{}</bdi>", escape(&step.output));
        let slowest = step.bottleneck.clone().unwrap_or_default();
        std::iter::once(name).chain(times.map(duration)).chain([slowest]).collect()
    });
    if !run.steps.is_empty() {
        let head = [
            "step",
            "waits for rows",
            "tokenises",
            "batches queue",
            "in the model",
            "waits for results",
            "waits to hand on",
            "slowest",
        ];
        let _ = write!(html, "{}", table(&head, 1.., rows));
        html.push_str(
            "<p class=\"soft\">Queue and model are summed over batches and workers; all of it goes on at the same \
             time.</p>",
        );
    }
    let _ = writeln!(
        html,
        "<p class=\"soft\">The sink wrote for {}.</p></div></section>",
        duration(run.sink_seconds)
    );
}

fn lineage(html: &mut String, run: &RunReport) {
    if run.steps.is_empty() {
        return;
    }
    html.push_str("<section id=\"lineage\"><h2>Lineage</h2>\n");
    for step in &run.steps {
        let model = &step.model;
        let commit = model.commit.as_deref().unwrap_or("a local directory");
        let options = serde_json::to_string(&model.options).unwrap_or_default();
        let facts = [
            ("task", escape(&model.task)),
            ("model", format!("<bdi>{}</bdi>", escape(&model.repo))),
            ("commit", format!("<code>{}</code>", escape(commit))),
            ("type", escape(&model.model_type)),
            ("parameters", count(step.parameters as u64)),
            ("dtype, device", format!("{}, {}", escape(&model.dtype), escape(&model.device))),
            ("hash of the tokenizer", format!("<code>{}</code>", escape(&model.tokenizer))),
            ("options", format!("<code>{}</code>", escape(&options))),
        ];
        let _ = write!(
            html,
            "<article class=\"card\"><h3><bdi>{}</bdi></h3><dl class=\"facts\">",
            escape(&step.output)
        );
        for (name, fact) in facts {
            let _ = write!(html, "<dt>{name}</dt><dd>{fact}</dd>");
        }
        html.push_str("</dl></article>\n");
    }
    html.push_str("</section>\n");
}

fn files(html: &mut String, run: &RunReport) {
    if run.output.is_empty() {
        return;
    }
    let rows = run.output.iter().take(MAX_ENTRIES).map(|file| {
        let path = file.path.display().to_string();
        vec![format!("<bdi>{}</bdi>", escape(&path)), count(file.rows), bytes(file.bytes)]
    });
    let table = table(&["file", "rows", "size"], 1.., rows);
    let _ = write!(html, "<section id=\"files\"><h2>Files</h2>\n<div class=\"card\">{table}");
    more(html, run.output.len());
    html.push_str("</div></section>\n");
}

/// Says how many entries of a list are not shown.
fn more(html: &mut String, entries: usize) {
    if let Some(rest @ 1..) = entries.checked_sub(MAX_ENTRIES) {
        let _ = write!(html, "<p class=\"soft\">and {} more</p>", count(rest as u64));
    }
}

/// A time as people read it.
fn moment(rfc3339: &str) -> String {
    match chrono::DateTime::parse_from_rfc3339(rfc3339) {
        Ok(time) => time.to_utc().format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => escape(rfc3339),
    }
}

fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".to_owned();
    }
    if share > 0.0 && share < 0.0005 {
        return "&lt; 0.1%".to_owned();
    }
    format!("{:.1}%", share * 100.0)
}
