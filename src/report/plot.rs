//! Plots as inline SVG. Only the shapes are SVG, stretched to the available width. Axis labels are HTML, so that they
//! have the text size on every screen. Not here: the plotted data (`page`).

use std::fmt::Write;

use super::html::escape;

/// The plot's own coordinate system.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;

/// A plot's texts and identity.
pub(super) struct Plot<'a> {
    /// Unique on the page.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    /// The plot in one sentence, for screen readers.
    pub(super) description: &'a str,
    /// The CSS class of its colour.
    pub(super) color: &'a str,
    /// The label of the horizontal axis.
    pub(super) axis: &'a str,
}

/// A segment of a line: its horizontal range and its height.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) value: f64,
}

impl Plot<'_> {
    /// A line over a filled area, through the middle of every span of seconds. `tip` returns the tooltip of a span.
    pub(super) fn line(&self, spans: &[Span], tip: impl Fn(Span) -> String) -> String {
        let end = spans.last().map_or(0.0, |span| span.to).max(f64::MIN_POSITIVE);
        let (top, ticks) = ticks(spans.iter().map(|span| span.value).fold(0.0, f64::max));
        let x = |at: f64| (at / end * WIDTH).clamp(0.0, WIDTH);
        let y = |value: f64| (HEIGHT - value / top * HEIGHT).clamp(0.0, HEIGHT);
        let mut line = String::new();
        let mut point = |at: f64, value: f64| {
            let begin = if line.is_empty() { 'M' } else { 'L' };
            let _ = write!(line, "{begin}{:.1} {:.1}", x(at), y(value));
        };
        for (number, span) in spans.iter().enumerate() {
            // The first and last points extend to the edges.
            if number == 0 {
                point(span.from, span.value);
            }
            point(f64::midpoint(span.from, span.to), span.value);
            if number + 1 == spans.len() {
                point(span.to, span.value);
            }
        }
        let begin = x(spans.first().map_or(0.0, |span| span.from));
        let mut shapes = format!(
            "<path class=\"area\" d=\"{line}L{WIDTH} {HEIGHT}L{begin:.1} {HEIGHT}Z\"/>\
             <path class=\"line\" d=\"{line}\"/>"
        );
        for span in spans {
            let (from, to) = (x(span.from), x(span.to));
            let _ = write!(
                shapes,
                "<rect class=\"tip\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\">\
                 <title>{}</title></rect>",
                (to - from).max(0.1),
                escape(&tip(*span))
            );
        }
        let mut labels = String::new();
        for (seconds, label) in time_ticks(end) {
            let share = seconds / end * 100.0;
            // A label at the right end would overflow.
            let class = if share > 95.0 { " class=\"last\"" } else { "" };
            let _ = write!(labels, "<span{class} style=\"left:{share:.2}%\">{label}</span>");
        }
        let x_axis = format!("<div class=\"x times\" aria-hidden=\"true\">{labels}</div>");
        self.frame(spans.len(), &ticks, top, &shapes, &x_axis)
    }

    /// One bar per span, from zero to the largest span, with lines at the named positions. `y_axis` names the heights, and
    /// `tip` returns the tooltip of a bar by its index.
    pub(super) fn bars(
        &self,
        bars: &[Span],
        marks: &[(&str, f64)],
        y_axis: &str,
        tip: impl Fn(usize) -> String,
    ) -> String {
        let end = bars.iter().map(|bar| bar.to).fold(1.0, f64::max);
        let (top, ticks) = ticks(bars.iter().map(|bar| bar.value).fold(0.0, f64::max));
        let x = |at: f64| (at / end * WIDTH).clamp(0.0, WIDTH);
        let (mut shapes, mut labels) = (String::new(), String::new());
        for (number, bar) in bars.iter().enumerate() {
            // Keeps a bar of a single row visible.
            let height = (bar.value / top * HEIGHT).clamp(1.5, HEIGHT);
            let (left, right) = (x(bar.from), x(bar.to));
            let _ = write!(
                shapes,
                "<g><rect class=\"bar\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>\
                 <rect class=\"tip\" x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\">\
                 <title>{}</title></rect></g>",
                HEIGHT - height,
                (right - left - 1.0).max(1.0),
                (right - left).max(1.0),
                escape(&tip(number))
            );
        }
        for (name, at) in marks {
            let (x, share) = (x(*at), x(*at) / WIDTH * 100.0);
            let _ = write!(
                shapes,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{HEIGHT}\"/>"
            );
            let class = if share > 90.0 { " last" } else { "" };
            let _ = write!(
                labels,
                "<span class=\"named{class}\" style=\"left:{share:.2}%\">{name} {}</span>",
                short((at * 10.0).round() / 10.0)
            );
        }
        for number in number_ticks(end) {
            let share = number / end * 100.0;
            let class = if share > 95.0 { " class=\"last\"" } else { "" };
            let _ =
                write!(labels, "<span{class} style=\"left:{share:.2}%\">{}</span>", short(number));
        }
        let x_axis = format!("<div class=\"x times\" aria-hidden=\"true\">{labels}</div>");
        let frame = self.frame(bars.len(), &ticks, top, &shapes, &x_axis);
        frame.replacen(
            "<div class=\"y\"",
            &format!("<div class=\"unit\">{y_axis}</div><div class=\"y\""),
            1,
        )
    }

    fn frame(&self, points: usize, ticks: &[f64], top: f64, shapes: &str, x_axis: &str) -> String {
        let Self { id, title, description, color, axis } = self;
        let (mut grid, mut labels) = (String::new(), String::new());
        for tick in ticks {
            let y = HEIGHT - tick / top * HEIGHT;
            let _ = write!(
                grid,
                "<line class=\"grid\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
            let _ = write!(
                labels,
                "<span style=\"bottom:{:.1}%\">{}</span>",
                tick / top * 100.0,
                short(*tick)
            );
        }
        format!(
            "<figure class=\"plot {color}\"><figcaption>{title}</figcaption>\
             <div class=\"y\" aria-hidden=\"true\">{labels}</div>\
             <svg id=\"{id}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\" data-points=\"{points}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\">\
             <title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{}</desc>{grid}{shapes}</svg>\
             {x_axis}<div class=\"axis\" aria-hidden=\"true\">{axis}</div></figure>",
            escape(description)
        )
    }
}

/// Shares of a whole as one bar: CSS class, name, share.
pub(super) fn shares(parts: &[(&str, String, f64)]) -> String {
    let whole: f64 = parts.iter().map(|(_, _, part)| part.max(0.0)).sum();
    let (mut bar, mut legend) = (String::new(), String::new());
    for (class, name, part) in parts {
        let share = if whole > 0.0 { part.max(0.0) / whole * 100.0 } else { 0.0 };
        if share > 0.0 {
            let _ = write!(bar, "<i class=\"{class}\" style=\"width:{share:.2}%\"></i>");
        }
        let _ = write!(legend, "<li><i class=\"{class}\"></i>{name}</li>");
    }
    format!(
        "<div class=\"shares\" aria-hidden=\"true\">{bar}</div><ul class=\"legend\">{legend}</ul>"
    )
}

/// The top of an axis for values up to `most`, and its round tick values.
fn ticks(most: f64) -> (f64, Vec<f64>) {
    if !most.is_finite() || most <= 0.0 {
        return (1.0, vec![0.0, 1.0]);
    }
    let rough = most / 3.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(power * 10.0);
    let steps = (most / step).ceil().max(1.0) as usize;
    (step * steps as f64, (0..=steps).map(|number| step * number as f64).collect())
}

/// Round numbers from zero up to `end`, at most six.
fn number_ticks(end: f64) -> Vec<f64> {
    let (_, ticks) = ticks(end);
    ticks.into_iter().filter(|tick| *tick <= end).collect()
}

/// Round times up to `end` seconds, at most six.
fn time_ticks(end: f64) -> Vec<(f64, String)> {
    const STEPS: [(f64, f64, &str); 4] =
        [(0.001, 1000.0, "ms"), (1.0, 60.0, "s"), (60.0, 3600.0, "min"), (3600.0, f64::MAX, "h")];
    let rough = end / 5.0;
    for (unit, until, name) in STEPS {
        for factor in
            [1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 1e6, 1e300]
        {
            let step = unit * factor;
            if step < rough || step >= until {
                continue;
            }
            // Includes a tick at the end itself, despite rounding.
            let steps = (end / step + 1e-9).floor() as usize;
            let label = |number: usize| match number {
                0 => "0".to_owned(),
                _ => format!("{:.0} {name}", number as f64 * factor),
            };
            return (0..=steps)
                .map(|number| ((number as f64 * step).min(end), label(number)))
                .collect();
        }
    }
    Vec::new()
}

/// A number in few characters: `850`, `1.5k`, `20M`.
pub(super) fn short(number: f64) -> String {
    let (value, unit) = match number.abs() {
        ..1e3 => (number, ""),
        ..1e6 => (number / 1e3, "k"),
        ..1e9 => (number / 1e6, "M"),
        _ => (number / 1e9, "G"),
    };
    let digits = match value.abs() {
        value if value.fract() == 0.0 => 0,
        ..1.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers_and_room_for_all() {
        for most in [0.003, 1.0, 7.0, 99.0, 100.0, 101.0, 12_345.0, 3e9] {
            let (top, ticks) = ticks(most);
            assert!(top >= most && top <= most * 2.0, "{most}: {top}");
            assert!((2..=5).contains(&ticks.len()), "{most}: {ticks:?}");
            assert_eq!((ticks[0], ticks[ticks.len() - 1]), (0.0, top));
        }
        assert_eq!(ticks(f64::NAN), (1.0, vec![0.0, 1.0]));
        assert_eq!([850.0, 1500.0, 20e6, 0.25].map(short), ["850", "1.5k", "20M", "0.25"]);
    }

    #[test]
    fn times_are_round() {
        for (end, labels) in [
            (0.3, vec!["0", "100 ms", "200 ms", "300 ms"]),
            (12.0, vec!["0", "5 s", "10 s"]),
            (1210.0, vec!["0", "5 min", "10 min", "15 min", "20 min"]),
            (90_000.0, vec!["0", "5 h", "10 h", "15 h", "20 h", "25 h"]),
        ] {
            let found: Vec<String> = time_ticks(end).into_iter().map(|tick| tick.1).collect();
            assert_eq!(found, labels, "{end}");
        }
        for end in [f64::MIN_POSITIVE, 1e-4, 0.01, 7.0, 61.0, 3599.0, 1e7, 1e300] {
            let ticks = time_ticks(end);
            assert!(ticks.len() <= 6 && ticks.iter().all(|tick| tick.0 <= end), "{end}: {ticks:?}");
        }
    }

    #[test]
    fn shapes_stay_inside_the_plot() {
        let plot = Plot { id: "p", title: "t", description: "d", color: "c", axis: "a" };
        let span = |from: f64, value: f64| Span { from, to: from + 1.0, value };
        let html = plot.line(&[span(0.0, 5.0), span(1.0, 7.0)], |_| "<b>".into());
        assert!(html.contains("data-points=\"2\"") && html.contains("M0.0 "), "{html}");
        assert!(html.contains("&lt;b&gt;") && !html.contains("<b>") && !html.contains("NaN"));
        let bars =
            plot.bars(&[span(0.0, 5.0), span(4.0, 1.0)], &[("max", 4.0)], "y", |_| "<b>".into());
        assert!(
            bars.contains("max 4") && bars.contains("x=\"800.0\"") && !bars.contains("<b>"),
            "{bars}"
        );
        let none = plot.bars(&[], &[], "y", |_| String::new());
        assert!(!none.contains("NaN") && !none.contains("inf"), "{none}");
        let empty = plot.line(&[], |_| String::new());
        assert!(!empty.contains("NaN") && !empty.contains("inf"), "{empty}");
    }
}
