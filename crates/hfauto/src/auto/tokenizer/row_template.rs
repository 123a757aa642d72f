//! Templates of users over the columns of a row: `{{ title }}: {{ text }}`. Rendered by minijinja, within the budget of chat
//! templates ([`super::jinja`]). Not here: chat templates, which come with models ([`super::ChatTemplate`]).

use std::fmt;

use super::jinja;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// A compiled template over texts.
///
/// # Example
/// ```
/// use hfauto::auto::RowTemplate;
///
/// let template = RowTemplate::new("{{ title }}: {{ text | trim }}")?;
/// assert_eq!(template.columns(), ["text", "title"]);
/// let values = [("title", "Inn"), ("text", " quiet ")];
/// assert_eq!(template.render(values)?, "Inn: quiet");
/// # Ok::<(), hfauto::Error>(())
/// ```
pub struct RowTemplate {
    template: jinja::Template,
    columns: Vec<String>,
}

impl RowTemplate {
    /// Whether a text is a template: it has a `{{`.
    pub fn is_template(text: &str) -> bool {
        text.contains("{{")
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// `Config` for a template that is not valid or too long.
    pub fn new(source: &str) -> Result<Self> {
        let compiled = guarded(ErrorKind::Config, "the template", || {
            jinja::Template::strict(source).map_err(|e| failed(e, ErrorKind::Config))
        });
        let (template, columns) = compiled?;
        Ok(Self { template, columns })
    }

    /// The names that it reads, in alphabetical order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The text for a row, from the values of [`RowTemplate::columns`].
    ///
    /// # Errors
    /// `Data` when the template cannot be rendered with these values, or exceeds its budget.
    pub fn render<'a>(
        &self,
        values: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<String> {
        let values: Vec<_> = values.into_iter().map(|(name, value)| (name, value.into())).collect();
        guarded(ErrorKind::Data, "the row", || {
            self.template.render(values).map_err(|e| failed(e, ErrorKind::Data))
        })
    }
}

impl fmt::Debug for RowTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowTemplate").field("columns", &self.columns).finish_non_exhaustive()
    }
}

fn failed(error: minijinja::Error, kind: ErrorKind) -> Error {
    let line = match error.line() {
        Some(line) if line > 1 => format!(", line {line}"),
        _ => String::new(),
    };
    let what = match (jinja::raised(&error), error.detail()) {
        (Some(raised), _) => raised.to_owned(),
        (None, Some(detail)) => format!("{}: {detail}", error.kind()),
        (None, None) => error.kind().to_string(),
    };
    Error::new(kind, format!("template{line}: {what}")).source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine's own result, with its default settings and strict undefined values.
    fn minijinja(source: &str, values: &[(&str, &str)]) -> String {
        let mut environment = minijinja::Environment::new();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let values: std::collections::BTreeMap<_, _> = values.iter().copied().collect();
        environment.render_str(source, values).unwrap()
    }

    #[test]
    fn templates_give_the_text_of_minijinja() {
        let values =
            [("title", "The <Inn> & \"Bar\""), ("text", "Quiet.\nWarm bread."), ("lang", "")];
        for source in [
            "{{ title }}: {{ text }}",
            "{{ title }}\n\n{{ text }}\n",
            "Answer in {{ lang or 'English' }}.\n{% if lang %}\n  {{ lang }}\n{% endif %}\n{{ text }}",
            "{{ title | upper }} {{ text | length }} {{ text[:5] }} {{ '{{' }}",
            "{% for line in text.splitlines() %}- {{ line }}\n{% endfor %}",
            "{# a comment #}{%- set both = title ~ ' / ' ~ text -%} {{ both }}",
            "{{ text | replace('bread', title) | trim }}",
        ] {
            let template = RowTemplate::new(source).unwrap();
            let given = values.iter().copied();
            let ours = template.render(given).unwrap();
            // `splitlines` is Python's.
            if source.contains("splitlines") {
                assert_eq!(ours, "- Quiet.\n- Warm bread.\n");
            } else {
                assert_eq!(ours, minijinja(source, &values), "{source}");
            }
        }
    }

    #[test]
    fn a_template_tells_its_columns() {
        for (source, expected) in [
            ("{{ text }}", vec!["text"]),
            ("{{ b }}{{ a.x }}{{ c['y'] }}{{ a }}", vec!["a", "b", "c"]),
            (
                "{% set x = text %}{% for i in range(3) %}{{ i }}{{ x }}{{ loop.index }}{% endfor %}",
                vec!["text"],
            ),
            ("{% if other %}{{ '{{' }}{% endif %}", vec!["other"]),
            ("{{ namespace() }}{{ raise_exception('no') }}", vec![]),
        ] {
            assert_eq!(RowTemplate::new(source).unwrap().columns(), expected, "{source}");
        }
        assert!(
            RowTemplate::is_template("a {{ b }}") && !RowTemplate::is_template("a {% b %} {c}")
        );
    }

    #[test]
    fn templates_that_cannot_be_used_are_errors() {
        for (source, part) in [
            ("{{ text", "unexpected end of input"),
            ("{{ text | nofilter }}", "unknown filter"),
            ("{{ text }}\n{% if %}", "line 2"),
            ("{{ text }}{% include 'other' %}", "unknown statement"),
        ] {
            let template = RowTemplate::new(source);
            let error = match template {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Config, "{source}");
                    error
                }
                Ok(template) => template.render([("text", "a")]).unwrap_err(),
            };
            assert!(error.to_string().contains(part), "{source}: {error}");
        }
        let strict = RowTemplate::new("{{ text.missing }}").unwrap();
        assert_eq!(strict.render([("text", "a")]).unwrap_err().kind(), ErrorKind::Data);
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}{{ text }}";
        let error = RowTemplate::new(endless).unwrap().render([("text", "a")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    }
}
