//! A strict parser of Prometheus' text format 0.0.4, with the additional rules of `promtool check metrics`.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of a text, by name and labels.
pub(crate) struct Metrics {
    samples: BTreeMap<String, BTreeMap<Labels, f64>>,
}

type Labels = BTreeMap<String, String>;

impl Metrics {
    /// Parses a text; panics on any deviation from the format.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut families: BTreeMap<String, String> = BTreeMap::new();
        let mut helped: BTreeSet<String> = BTreeSet::new();
        let mut current = String::new();
        let mut samples: BTreeMap<String, BTreeMap<Labels, f64>> = BTreeMap::new();
        for line in text.strip_suffix('\n').unwrap().split('\n') {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
                name.clone_into(&mut current);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, current, "TYPE follows its HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                assert!(is_name(name, true), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                for suffix in ["_count", "_sum", "_bucket", "_gauge", "_counter", "_ms"] {
                    assert!(!name.ends_with(suffix), "{line}");
                }
            } else {
                let (name, labels, value) = sample(line);
                let kind = families.get(&current).map_or("", String::as_str);
                let family = match kind {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|suffix| name.strip_suffix(suffix))
                        .unwrap_or_default(),
                    _ => &name,
                };
                assert_eq!(family, current, "a sample of another family: {line}");
                assert!(kind != "counter" || value >= 0.0, "{line}");
                let series = samples.entry(name.clone()).or_default();
                assert!(series.insert(labels, value).is_none(), "twice: {line}");
            }
        }
        let metrics = Self { samples };
        for (name, kind) in &families {
            let first = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
            assert!(metrics.samples.contains_key(&first), "{name} has no sample");
            if kind == "histogram" {
                metrics.check_histogram(name);
            }
        }
        metrics
    }

    fn check_histogram(&self, name: &str) {
        for (labels, count) in &self.samples[&format!("{name}_count")] {
            let buckets = &self.samples[&format!("{name}_bucket")];
            let mut buckets: Vec<(f64, f64)> = buckets
                .iter()
                .filter(|(of, _)| labels.iter().all(|(label, value)| of.get(label) == Some(value)))
                .map(|(of, count)| (of["le"].replace("+Inf", "inf").parse().unwrap(), *count))
                .collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)));
            assert!(self.samples[&format!("{name}_sum")].contains_key(labels));
        }
    }

    /// A value. `labels` are all labels of the sample except `pipeline`.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples.get(name)?.iter().find_map(|(of, value)| {
            let of: Vec<(&str, &str)> = of
                .iter()
                .filter(|(label, _)| *label != "pipeline")
                .map(|(label, value)| (label.as_str(), value.as_str()))
                .collect();
            let mut labels = labels.to_vec();
            labels.sort_unstable();
            (of == labels).then_some(*value)
        })
    }

    /// The pipelines of all samples.
    pub(crate) fn pipelines(&self) -> BTreeSet<String> {
        let labels = self.samples.values().flat_map(BTreeMap::keys);
        labels.map(|labels| labels["pipeline"].clone()).collect()
    }

    /// The labels of a family's samples.
    pub(crate) fn labels(&self, name: &str, label: &str) -> BTreeSet<String> {
        let labels = self.samples.get(name).into_iter().flat_map(BTreeMap::keys);
        labels.filter_map(|labels| labels.get(label).cloned()).collect()
    }
}

fn is_name(name: &str, is_metric: bool) -> bool {
    let is_first = |c: char| c.is_ascii_lowercase() || c == '_' || (is_metric && c == ':');
    name.starts_with(is_first)
        && !name.starts_with("__")
        && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

/// `name{label="value",…} 1.5`
#[track_caller]
fn sample(line: &str) -> (String, Labels, f64) {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    assert!(is_name(name, true), "{line}");
    let mut labels = Labels::new();
    let mut rest = rest;
    loop {
        let (label, value) = rest.split_once("=\"").unwrap();
        assert!(is_name(label, false), "{line}");
        let mut text = String::new();
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("no end of a label: {line}")) {
                (at, '"') => break at,
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => text.push('\n'),
                    c @ ('\\' | '"') => text.push(c),
                    c => panic!("`\\{c}` in a label: {line}"),
                },
                (_, c) => text.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), text).is_none(), "{line}");
        rest = &value[end + 1..];
        match rest.as_bytes()[0] {
            b',' => rest = &rest[1..],
            b'}' => break,
            _ => panic!("{line}"),
        }
    }
    let value = rest.strip_prefix("} ").unwrap();
    assert!(!value.contains(' '), "a time, which the textfile collector refuses: {line}");
    (name.to_owned(), labels, value.parse().unwrap())
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP a_total All.\n# TYPE a_total counter\na_total{x=\"\\\\ \\\" \\n\"} 1\n";
    assert_eq!(Metrics::parse(good).value("a_total", &[("x", "\\ \" \n")]), Some(1.0));
    for (from, to) in [
        ("a_total{", "b_total{"),
        ("counter", "gauge"),
        ("} 1\n", "} 1"),
        ("} 1\n", "} 1 123\n"),
        ("\\n\"", "\\x\""),
        ("} 1\n", "} 1\na_total{x=\"\\\\ \\\" \\n\"} 2\n"),
        ("# HELP a_total All.\n", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(std::panic::catch_unwind(|| Metrics::parse(&bad)).is_err(), "{bad}");
    }
}
