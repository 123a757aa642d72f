//! A YAML document as a tree whose keys and values have spans. Not here: the meaning of the keys. Entry: [`parse`].
//!
//! The tree is built from the parser's events, not through serde. Serde loses the spans of keys, duplicate keys, and the
//! difference between `1` and `"1"`, which interpolation needs.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Number, Value};
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use super::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::limits::PIPELINE_VALUES;

/// The nesting depth of aliases and of `--set` paths; the parser itself stops at 255 levels.
pub(crate) const MAX_DEPTH: usize = 255;

/// A value and its span.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) data: Data,
    /// Whether a scalar was written without quotes: its type then follows from its text.
    pub(crate) plain: bool,
    /// The text as written, if variables were interpolated. Messages show this text.
    pub(crate) written: Option<String>,
}

/// The contents of a node.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A value with a problem that is already reported.
    Unknown,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn new(span: Span, data: Data) -> Self {
        Self { span, data, plain: true, written: None }
    }

    /// The entry of a mapping with the key `name`.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.name == name)
    }

    /// The entries of a mapping; none for everything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for everything else.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// A scalar as written, with `${VAR}` instead of the variable's value; for messages.
    pub(crate) fn shown(&self) -> String {
        if let Some(written) = &self.written {
            return written.clone();
        }
        match &self.data {
            Data::Null => "null".to_owned(),
            Data::Bool(value) => value.to_string(),
            Data::Number(value) => value.to_string(),
            Data::Text(text) => text.clone(),
            Data::List(_) | Data::Map(_) | Data::Unknown => "…".to_owned(),
        }
    }

    /// The tree without spans.
    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Data::Null | Data::Unknown => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(value) => Value::Number(value.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Self::to_json).collect(),
            Data::Map(entries) => {
                entries.iter().map(|entry| (entry.name.clone(), entry.value.to_json())).collect()
            }
        }
    }
}

/// The type of an unquoted scalar by the core schema of YAML 1.2: `yes` and `1_000` are text.
pub(crate) fn plain_scalar(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Bool(true),
        "false" | "False" | "FALSE" => return Data::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Data::Text(text.to_owned()), Data::Number)
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let allowed = |byte: u8| byte.is_ascii_digit() || b".eE+-".contains(&byte);
    if !digits.bytes().all(allowed) {
        return None;
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    unsigned
        .parse::<u64>()
        .map(Number::from)
        .or_else(|_| unsigned.parse::<i64>().map(Number::from))
        .ok()
        .or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
}

fn radix(digits: &str, radix: u32) -> Option<Number> {
    let all_digits = digits.chars().all(|digit| digit.is_digit(radix));
    let value = all_digits.then(|| u64::from_str_radix(digits, radix).ok())??;
    Some(Number::from(value))
}

/// Parses one YAML document, which starts at `offset` in the text number `text_number` of the report.
///
/// Adds problems to the report. Returns `None` if the text is not YAML.
pub(crate) fn parse(
    text: &str,
    text_number: usize,
    offset: usize,
    report: &mut Diagnostics,
) -> Option<Node> {
    let mut builder = Builder {
        events: Parser::new_from_str(text),
        text,
        text_number,
        offset,
        anchors: BTreeMap::new(),
        nodes: 0,
        level: 0,
        report,
    };
    match builder.document() {
        Ok(node) => Some(node),
        Err(problem) => {
            report.push(*problem);
            None
        }
    }
}

type Step<T> = Result<T, Box<Diagnostic>>;

struct Builder<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    text: &'a str,
    text_number: usize,
    offset: usize,
    /// The anchored nodes by number; `None` while a node is being read: it must not contain itself.
    anchors: BTreeMap<usize, Option<Node>>,
    nodes: usize,
    /// The number of open lists and mappings.
    level: usize,
    report: &'a mut Diagnostics,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Step<Node> {
        let mut root = None;
        while let Some((event, span)) = self.next_event()? {
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Box::new(
                        Diagnostic::new(span, "a second YAML document starts here")
                            .hint("a pipeline file holds one pipeline"),
                    ));
                }
                Event::DocumentStart(..) => {}
                event => root = Some(self.node(event, span)?),
            }
        }
        Ok(root.unwrap_or_else(|| Node::new(self.span(0, 0), Data::Null)))
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Step<Node> {
        self.nodes += 1;
        if self.nodes > PIPELINE_VALUES {
            let message = format!("a pipeline file holds at most {PIPELINE_VALUES} values");
            return Err(Box::new(Diagnostic::new(span, message)));
        }
        match event {
            Event::Scalar(value, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let data = match &tag {
                    Some(tag) if tag.core_suffix() == Some("str") => Data::Text(value.into_owned()),
                    None if plain => plain_scalar(&value),
                    None => Data::Text(value.into_owned()),
                    Some(_) => self.refuse_tag(span),
                };
                let plain = plain && tag.is_none();
                let node = Node { plain, ..Node::new(span, data) };
                Ok(self.keep(anchor, node))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(anchor);
                let mut items = Vec::new();
                let mut end = span.end;
                while let Some((event, span)) = self.next_event()? {
                    if matches!(event, Event::SequenceEnd) {
                        end = end.max(span.end);
                        break;
                    }
                    items.push(self.node(event, span)?);
                }
                let data = if tag.is_some() { self.refuse_tag(span) } else { Data::List(items) };
                Ok(self.close(anchor, Node::new(Span { end, ..span }, data)))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(anchor);
                let mut entries = Vec::new();
                let mut names = HashMap::new();
                let mut end = span.end;
                while let Some((event, span)) = self.next_event()? {
                    if matches!(event, Event::MappingEnd) {
                        end = end.max(span.end);
                        break;
                    }
                    self.entry(event, span, &mut entries, &mut names)?;
                }
                let data = if tag.is_some() { self.refuse_tag(span) } else { Data::Map(entries) };
                Ok(self.close(anchor, Node::new(Span { end, ..span }, data)))
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(Some(node)) => {
                    let node = node.clone();
                    self.nodes += size(&node);
                    if self.nodes > PIPELINE_VALUES {
                        let message =
                            format!("aliases expand to more than {PIPELINE_VALUES} values");
                        return Err(Box::new(Diagnostic::new(span, message)));
                    }
                    if self.level + depth(&node) > MAX_DEPTH {
                        let message = format!("aliases nest more than {MAX_DEPTH} levels deep");
                        return Err(Box::new(Diagnostic::new(span, message)));
                    }
                    Ok(node)
                }
                _ => {
                    Err(Box::new(Diagnostic::new(span, "an alias inside the value that it names")))
                }
            },
            _ => Err(Box::new(Diagnostic::new(span, "expected a value"))),
        }
    }

    /// Reads a key and its value; `names` has the spans of the earlier keys.
    fn entry(
        &mut self,
        event: Event<'a>,
        span: Span,
        entries: &mut Vec<Entry>,
        names: &mut HashMap<String, Span>,
    ) -> Step<()> {
        let is_merge =
            matches!(&event, Event::Scalar(name, ScalarStyle::Plain, ..) if name == "<<");
        let name = match &event {
            Event::Scalar(name, ..) => Some(name.clone().into_owned()),
            _ => None,
        };
        let key = self.node(event, span)?;
        let Some((event, value_span)) = self.next_event()? else {
            return Err(Box::new(Diagnostic::new(span, "a key without a value")));
        };
        let mut value = self.node(event, value_span)?;
        // A missing value has no text to point at.
        if matches!(value.data, Data::Null) && value.span.start == value.span.end {
            value.span = span;
        }
        let name = name.or(match key.data {
            Data::Text(text) => Some(text),
            _ => None,
        });
        let Some(name) = name else {
            self.report
                .push(Diagnostic::new(span, "expected a name as the key, found a list or mapping"));
            return Ok(());
        };
        if is_merge {
            self.report.push(
                Diagnostic::new(span, "merge keys (`<<`) are not supported").hint(
                    "write the keys out, or name the whole value with an alias (`key: *name`)",
                ),
            );
        } else if let Some(first) = names.get(&name) {
            self.report.push(
                Diagnostic::new(span, format!("duplicate key `{name}`"))
                    .related(*first, "first written here"),
            );
        } else {
            names.insert(name.clone(), span);
            entries.push(Entry { name, span, value });
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize) {
        self.level += 1;
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
    }

    /// Ends a list or mapping that [`Self::open`] began.
    fn close(&mut self, anchor: usize, node: Node) -> Node {
        self.level -= 1;
        self.keep(anchor, node)
    }

    fn keep(&mut self, anchor: usize, node: Node) -> Node {
        if anchor != 0 {
            self.anchors.insert(anchor, Some(node.clone()));
        }
        node
    }

    fn refuse_tag(&mut self, span: Span) -> Data {
        self.report.push(
            Diagnostic::new(span, "YAML tags are not supported")
                .hint("quote the value to make it text"),
        );
        Data::Unknown
    }

    fn next_event(&mut self) -> Step<Option<(Event<'a>, Span)>> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                let range = span.byte_range().unwrap_or_default();
                Ok(Some((event, self.span(range.start, range.end))))
            }
            Some(Err(error)) => {
                let at = error.marker().byte_offset().unwrap_or(self.text.len());
                let message = format!("not valid YAML: {}", error.info());
                let problem = Diagnostic::new(self.span(at, at), message);
                let in_variable = self.text.get(..at).is_some_and(|before| before.ends_with('$'));
                Err(Box::new(if in_variable {
                    problem.hint(
                        "quote `\"${VAR}\"` inside `{ }` or `[ ]`, where YAML reads its braces as a mapping",
                    )
                } else {
                    problem
                }))
            }
        }
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { text: self.text_number, start: start + self.offset, end: end + self.offset }
    }
}

fn size(node: &Node) -> usize {
    1 + node.items().iter().map(size).sum::<usize>()
        + node.entries().iter().map(|entry| size(&entry.value)).sum::<usize>()
}

fn depth(node: &Node) -> usize {
    let items = node.items().iter();
    let values = node.entries().iter().map(|entry| &entry.value);
    items.chain(values).map(|node| 1 + depth(node)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> (Option<Value>, String) {
        let mut report = Diagnostics::new("t.yaml", text);
        let node = parse(text, 0, 0, &mut report);
        (node.map(|node| node.to_json()), report.to_string())
    }

    #[test]
    fn reads_the_core_schema() {
        let check = |text: &str, expected: Value| {
            assert_eq!(read(text), (Some(expected), String::new()), "{text}");
        };
        check("", Value::Null);
        check("# nothing\n", Value::Null);
        check("a: yes\nb: True\nc: ~\nd:\n", json!({"a": "yes", "b": true, "c": null, "d": null}));
        check("[1, -2, +3, 0x10, 0o17, 007, 1_000]", json!([1, -2, 3, 16, 15, 7, "1_000"]));
        check("[1.5, .5, 1e3, 1., -.5, .inf, .nan, .]", {
            json!([1.5, 0.5, 1000.0, 1.0, -0.5, ".inf", ".nan", "."])
        });
        check("['1', \"true\", !!str 12]", json!(["1", "true", "12"]));
        check("[2024-01-01, 256MB, 1GiB, e5, 0x, 18446744073709551615]", {
            json!(["2024-01-01", "256MB", "1GiB", "e5", "0x", 18_446_744_073_709_551_615_u64])
        });
        check("a: |\n  x\n  y\nb: >-\n  x\n  y\n", json!({"a": "x\ny\n", "b": "x y"}));
        check("a: &one {b: 1}\nc: *one\n", json!({"a": {"b": 1}, "c": {"b": 1}}));
        check("{0: a, true: b}", json!({"0": "a", "true": "b"}));
        check("\u{feff}a: 1\n", json!({"a": 1}));
    }

    #[test]
    fn reports_what_a_pipeline_cannot_mean() {
        let check = |text: &str, expected: &str| {
            let (_, report) = read(text);
            assert!(report.contains(expected), "{text}\n{report}");
        };
        check("a: 1\nb: 2\na: 3\n", "error: duplicate key `a`\n --> t.yaml:3:1");
        check("a: 1\nb: 2\na: 3\n", "first written here");
        check("a: !custom 1", "error: YAML tags are not supported\n --> t.yaml:1:");
        check("a: 1\n---\nb: 1\n", "error: a second YAML document starts here\n --> t.yaml:2:1");
        check(
            "base: &b {x: 1}\nc:\n  <<: *b\n",
            "merge keys (`<<`) are not supported\n --> t.yaml:3:3",
        );
        check("? [a]\n: 1\n", "expected a name as the key");
        check("a: &x [*x]", "an alias inside the value that it names\n --> t.yaml:1:8");
        check("a: *nowhere", "error: not valid YAML: ");
        check("a: [1, 2\nb: 3", "error: not valid YAML: ");
        check("a: {b: ${X}}", "quote `\"${VAR}\"`");
        check("\tkey: 1\n  b: 2", "error: not valid YAML: ");
    }

    #[test]
    fn aliases_cannot_unfold_without_bound() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = level - 1;
            let items = vec![format!("*a{previous}"); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        let (node, report) = read(&text);
        assert!(node.is_none());
        assert!(report.contains("aliases expand to more than 100000 values"), "{report}");

        let deep = |inside: &str| format!("{}{inside}{}", "[".repeat(90), "]".repeat(90));
        let text = format!("a: &a {}\nb: &b {}\nc: {}\n", deep("x"), deep("*a"), deep("*b"));
        let (node, report) = read(&text);
        assert!(node.is_none());
        assert!(report.contains("aliases nest more than 255 levels deep"), "{report}");
    }
}
