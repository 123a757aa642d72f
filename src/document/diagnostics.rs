//! All problems of a pipeline file in one report, each with its position, the source line, the valid choices and the
//! nearest valid name. Not here: errors of running a pipeline ([`crate::Error`]). Entry: [`Diagnostics`], which
//! `config::load` returns.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};

use crate::error::{Error, ErrorKind};
use crate::limits::{PIPELINE_PROBLEMS, SPELLING_CHARS};
use crate::secret;

/// A byte range in one of the texts of a pipeline: the file (0), or a `--set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) text: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A text that spans refer to.
#[derive(Clone, Debug)]
struct Text {
    name: String,
    text: String,
    is_override: bool,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    span: Option<Span>,
    file: String,
    line: usize,
    column: usize,
    message: String,
    choices: Vec<String>,
    choices_are: &'static str,
    nearest: Option<String>,
    hint: Option<String>,
    related: Option<(Span, &'static str)>,
}

impl Diagnostic {
    /// A problem at `span`; `message` is a lower-case fragment without a full stop.
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::of_file(message) }
    }

    /// A problem of the file as a whole.
    pub(crate) fn of_file(message: impl Into<String>) -> Self {
        Self {
            span: None,
            file: String::new(),
            line: 0,
            column: 0,
            message: message.into(),
            choices: Vec::new(),
            choices_are: "valid",
            nearest: None,
            hint: None,
            related: None,
        }
    }

    /// Adds the valid choices; `what` names them in the plural: "valid keys".
    pub(crate) fn choices<S: Into<String>>(
        mut self,
        what: &'static str,
        choices: impl IntoIterator<Item = S>,
    ) -> Self {
        self.choices_are = what;
        self.choices = choices.into_iter().map(Into::into).collect();
        self
    }

    /// Adds the valid name that was probably meant.
    pub(crate) fn nearest(mut self, name: Option<&str>) -> Self {
        self.nearest = name.map(str::to_owned);
        self
    }

    /// Adds a remedy.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a second span that belongs to the problem.
    pub(crate) fn related(mut self, span: Span, label: &'static str) -> Self {
        self.related = Some((span, label));
        self
    }

    /// The pipeline file, or `--set key=value` for a problem of an override.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, counted from 1; 0 for a problem of the whole file.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, counted from 1; 0 for a problem of the whole file.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The valid choices, if they can be listed.
    pub fn valid_choices(&self) -> &[String] {
        &self.choices
    }

    /// The valid name that was probably meant.
    pub fn nearest_name(&self) -> Option<&str> {
        self.nearest.as_deref()
    }

    /// The remedy, if one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// All problems of a pipeline file, in the order of their positions.
///
/// `Display` shows each problem as `file:line:column`, with the line and a caret, without colours.
/// [`Diagnostics::styled`] adds ANSI colours.
#[derive(Clone)]
pub struct Diagnostics {
    texts: Vec<Text>,
    list: Vec<Diagnostic>,
    /// The number of problems beyond [`PIPELINE_PROBLEMS`].
    left_out: usize,
}

impl Diagnostics {
    /// An empty report on the file `name` with the content `text`.
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let file = Text { name: name.into(), text: text.into(), is_override: false };
        Self { texts: vec![file], list: Vec::new(), left_out: 0 }
    }

    /// A report on a file that has no readable text.
    pub(crate) fn of_file(name: impl Into<String>, problem: Diagnostic) -> Self {
        let mut report = Self::new(name, "");
        report.push(problem);
        report
    }

    /// Adds the text of a `--set`. Returns its number for [`Span::text`] and the offset of `text` in it.
    pub(crate) fn add_override(&mut self, text: &str) -> (usize, usize) {
        let option = "--set ";
        let text = format!("{option}{text}");
        self.texts.push(Text { name: text.clone(), text, is_override: true });
        (self.texts.len() - 1, option.len())
    }

    /// Whether further problems are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= PIPELINE_PROBLEMS
    }

    /// Counts a problem.
    pub(crate) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// Adds a problem in the order of positions, unless it was added before.
    pub(crate) fn push(&mut self, mut problem: Diagnostic) {
        if self.is_full() {
            return self.leave_out();
        }
        problem.message = shown(problem.message);
        problem.hint = problem.hint.map(shown);
        match problem.span {
            Some(span) => {
                let span = self.on_one_line(span);
                problem.span = Some(span);
                problem.file.clone_from(&self.texts[span.text].name);
                (problem.line, problem.column) = self.position(span);
            }
            None => problem.file.clone_from(&self.texts[0].name),
        }
        // An alias (`*name`) leads to the same span twice.
        if self.list.contains(&problem) {
            return;
        }
        let after = self.list.partition_point(|other| other.span <= problem.span);
        self.list.insert(after, problem);
    }

    /// The problems, in the order of their positions.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// The number of problems.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are no problems.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The report that an error was made from, for callers that show it with colours.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// The report with ANSI colours.
    pub fn styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    /// `embed.yaml:4:1`, or `--set key=value` for what an override brought in.
    pub(crate) fn location(&self, span: Span) -> String {
        let text = &self.texts[span.text];
        if text.is_override {
            return text.name.clone();
        }
        let (line, column) = self.position(span);
        format!("{}:{line}:{column}", text.name)
    }

    /// Line and column of the start, from 1, the column in characters.
    fn position(&self, span: Span) -> (usize, usize) {
        let text = &self.texts[span.text].text;
        let before = &text[..text.floor_char_boundary(span.start)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// The part of `span` on its first line, inside the text and on character boundaries.
    fn on_one_line(&self, span: Span) -> Span {
        let text = &self.texts[span.text].text;
        let start = text.floor_char_boundary(span.start);
        let line = text[start..].lines().next().unwrap_or_default();
        let end = text.floor_char_boundary(span.end.clamp(start, start + line.trim_end().len()));
        Span { text: span.text, start, end: end.max(start) }
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut shown: Vec<String> =
            self.list.iter().map(|problem| self.render_one(problem, renderer)).collect();
        if self.left_out > 0 {
            shown.push(format!("{} more problems are not shown", self.left_out));
        }
        secret::hide(&shown.join("\n\n")).into_owned()
    }

    fn render_one(&self, problem: &Diagnostic, renderer: &Renderer) -> String {
        let mut group: Group<'_> =
            Level::ERROR.primary_title(problem.message.as_str()).elements(self.place(problem));
        if let Some(name) = &problem.nearest {
            group = group.element(Level::HELP.message(format!("did you mean `{name}`?")));
        }
        if !problem.choices.is_empty() {
            let text = format!("{}: {}", problem.choices_are, problem.choices.join(", "));
            group = group.element(Level::NOTE.message(text));
        }
        if let Some(hint) = &problem.hint {
            group = group.element(Level::HELP.with_name(Some("hint")).message(hint.as_str()));
        }
        let text = renderer.render(&[group]);
        // Trailing blanks are noise in logs and tests.
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// The position of a problem: `file:line:column`, and the line with a caret.
    fn place<'a>(&'a self, problem: &'a Diagnostic) -> Vec<Element<'a>> {
        let Some(span) = problem.span else {
            return vec![Origin::path(problem.file.as_str()).into()];
        };
        let text = &self.texts[span.text];
        let related = problem.related.filter(|(other, _)| other.text == span.text);
        let related = related.map(|(other, label)| (self.on_one_line(other), label));
        // Renders only the lines shown: rendering the whole file for each problem is slow.
        let first = related.map_or(span.start, |(other, _)| other.start.min(span.start));
        let last = related.map_or(span.end, |(other, _)| other.end.max(span.end));
        let start = text.text[..first].rfind('\n').map_or(0, |newline| newline + 1);
        let end =
            text.text[last..].find('\n').map_or(text.text.len(), |newline| last + newline + 1);
        let range = |span: Span| -> Range<usize> {
            // A caret needs a character above it, except at the end of the text.
            let next = text.text[span.start..].chars().next().map_or(0, char::len_utf8);
            span.start - start..span.end.max(span.start + next) - start
        };
        let line = text.text[..start].bytes().filter(|byte| *byte == b'\n').count() + 1;
        let mut snippet = Snippet::source(&text.text[start..end])
            .line_start(line)
            .annotation(AnnotationKind::Primary.span(range(span)));
        if let Some((other, label)) = related {
            snippet = snippet.annotation(AnnotationKind::Context.span(range(other)).label(label));
        }
        // The line of an override already names its origin.
        let snippet = if text.is_override {
            snippet.line_numbering(false)
        } else {
            snippet.path(text.name.as_str())
        };
        vec![snippet.into()]
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostics> for Error {
    /// Keeps the whole report as the error's cause; [`Diagnostics::of`] returns it.
    fn from(report: Diagnostics) -> Self {
        let file = report.texts[0].name.clone();
        let count = report.len() + report.left_out;
        let problems = if count == 1 { "a problem" } else { "problems" };
        let message = match count {
            0 | 1 => format!("the pipeline `{file}` has {problems}"),
            _ => format!("the pipeline `{file}` has {count} {problems}"),
        };
        Error::new(ErrorKind::Config, message).source(report)
    }
}

/// The text with the values of variables hidden.
fn shown(text: String) -> String {
    secret::hide(&text).into_owned()
}

/// The name in `names` that `word` is probably a misspelling of.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().nth(SPELLING_CHARS).is_some() {
        return None;
    }
    let fold = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let word = fold(word);
    let allowed = (word.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for name in names {
        let distance = strsim::damerau_levenshtein(&word, &fold(name));
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_forgives_slips_and_no_more() {
        let names = ["max_length", "model", "input", "output", "zstd"];
        let check = |word, expected| assert_eq!(nearest(word, names), expected, "{word}");
        check("max-length", Some("max_length"));
        check("Model", Some("model"));
        check("inptu", Some("input"));
        check("ouput", Some("output"));
        check("zst", Some("zstd"));
        check("x", None);
        check("temperature", None);
    }

    #[test]
    fn becomes_an_error_that_still_holds_the_report() {
        let mut report = Diagnostics::new("a.yaml", "x: 1\n");
        report.push(Diagnostic::new(Span { text: 0, start: 0, end: 1 }, "unknown key `x`"));
        let shown = report.to_string();
        let error = Error::from(report);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&shown), "{error}");
        assert_eq!(Diagnostics::of(&error).map(Diagnostics::len), Some(1));
        assert!(Diagnostics::of(&error).is_some_and(|report| report.styled().contains("\u{1b}[")));
    }

    #[test]
    fn places_stay_inside_the_text() {
        let text = "é: [\n";
        for start in 0..=text.len() {
            for end in start..=text.len() + 3 {
                let mut report = Diagnostics::new("a.yaml", text);
                report.push(Diagnostic::new(Span { text: 0, start, end }, "wrong"));
                assert!(report.to_string().contains("a.yaml:"), "{start}..{end}");
            }
        }
        let report = Diagnostics::of_file("a.yaml", Diagnostic::of_file("cannot be read"));
        assert_eq!(report.to_string(), "error: cannot be read\n--> a.yaml");
    }
}
