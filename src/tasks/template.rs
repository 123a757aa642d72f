//! Templates with one text argument, in the syntax of Python's `str.format`: `{}`, `{0}`, `{0:>10}`, and `{{` for a
//! literal brace.
//!
//! # Source
//! "Format String Syntax" of the Python documentation, for one positional argument of type `str`.

/// The largest width of a format spec.
const MAX_WIDTH: usize = 10_000;

/// Python's `template.format(text)`.
///
/// # Errors
/// The problem as a sentence fragment. A template without a placeholder is an error.
pub(crate) fn format(template: &str, text: &str) -> Result<String, String> {
    let mut filled = String::with_capacity(template.len() + text.len());
    let mut rest = template;
    // Whether fields are numbered, and how many are not.
    let (mut numbered, mut automatic) = (false, 0);
    while let Some(place) = rest.find(['{', '}']) {
        filled.push_str(&rest[..place]);
        let brace = &rest[place..=place];
        rest = &rest[place + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            filled.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err("an unmatched `}`; write `}}` for a brace".to_owned());
        }
        let end = rest.find(['{', '}']).ok_or("an unmatched `{`; write `{{` for a brace")?;
        if rest[end..].starts_with('{') {
            return Err("a nested placeholder, which is not implemented".to_owned());
        }
        let (field, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = name.split_once('!').unwrap_or((name, "s"));
        if conversion != "s" {
            return Err(format!(
                "`{{{field}}}`: the conversion `!{conversion}` is not implemented"
            ));
        }
        if name.is_empty() {
            automatic += 1;
        } else {
            numbered = true;
            let is_first = name.bytes().all(|b| b.is_ascii_digit()) && name.parse() == Ok(0u32);
            if !is_first {
                return Err(format!(
                    "`{{{field}}}` is not a placeholder for the label; write `{{}}`"
                ));
            }
        }
        if numbered && automatic > 0 {
            return Err(
                "`{}` and `{0}` in one template: number all placeholders, or none".to_owned()
            );
        }
        if automatic > 1 {
            return Err(
                "a second `{}`, but there is only one text; write `{0}` each time".to_owned()
            );
        }
        filled.push_str(
            &padded(text, spec)
                .ok_or_else(|| format!("`{spec}` in `{{{field}}}` is not a format for text"))?,
        );
    }
    filled.push_str(rest);
    if !numbered && automatic == 0 {
        return Err("no placeholder for the label".to_owned());
    }
    Ok(filled)
}

/// Python's `format(text, spec)`: `[[fill]align][0][width][.precision][s]`.
fn padded(text: &str, spec: &str) -> Option<String> {
    let spec = spec.strip_suffix('s').unwrap_or(spec);
    let mut chars = spec.chars();
    let is_align = |c: char| matches!(c, '<' | '>' | '^');
    let (fill, align, rest) = match (chars.next(), chars.next()) {
        (Some(fill), Some(align)) if is_align(align) => (Some(fill), align, chars.as_str()),
        (Some(align), _) if is_align(align) => (None, align, &spec[1..]),
        _ => (None, '<', spec),
    };
    let fill = fill.unwrap_or(if rest.starts_with('0') { '0' } else { ' ' });
    let (width, precision) = match rest.split_once('.') {
        Some((width, precision)) => (width, Some(number(precision)?)),
        None => (rest, None),
    };
    let width = if width.is_empty() { 0 } else { number(width).filter(|w| *w <= MAX_WIDTH)? };
    let kept: String = text.chars().take(precision.unwrap_or(usize::MAX)).collect();
    let missing = width.saturating_sub(kept.chars().count());
    let before = match align {
        '>' => missing,
        '^' => missing / 2,
        _ => 0,
    };
    let fill = |count: usize| std::iter::repeat_n(fill, count);
    Some(fill(before).chain(kept.chars()).chain(fill(missing - before)).collect())
}

fn number(digits: &str) -> Option<usize> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results of `template.format("sport")` in Python 3.11.
    #[test]
    fn templates_are_filled_as_python_fills_them() {
        for (template, expected) in [
            ("This example is {}.", "This example is sport."),
            ("{0}: about {0}", "sport: about sport"),
            ("{{{}}} }}{{", "{sport} }{"),
            ("{!s} {{}}", "sport {}"),
            ("[{:>8}]", "[   sport]"),
            ("[{:*^8s}]", "[*sport**]"),
            ("[{0:.2}]", "[sp]"),
            ("[{:08}]", "[sport000]"),
            ("[{:<7.3}]", "[spo    ]"),
            ("[{00}]", "[sport]"),
        ] {
            assert_eq!(format(template, "sport").as_deref(), Ok(expected), "{template}");
        }
        // Braces in the label are plain text.
        assert_eq!(format("{}", "{0}").as_deref(), Ok("{0}"));
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for (template, reason) in [
            ("about", "no placeholder"),
            ("{{}}", "no placeholder"),
            ("{} and {}", "second `{}`"),
            ("{} {0}", "number all"),
            ("{0} {}", "number all"),
            ("{1}", "`{1}`"),
            ("{label}", "`{label}`"),
            ("{0.x}", "`{0.x}`"),
            ("{0[1]}", "`{0[1]}`"),
            ("{", "unmatched `{`"),
            ("{} }", "unmatched `}`"),
            ("{!r}", "`!r`"),
            ("{:d}", "`d`"),
            ("{:=8}", "`=8`"),
            ("{:{}}", "nested placeholder"),
            ("{:99999999999}", "`99999999999`"),
        ] {
            let error = format(template, "sport").unwrap_err();
            assert!(error.contains(reason), "{template}: {error}");
        }
    }
}
