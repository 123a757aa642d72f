//! Splits a text into statements at its semicolons. Not here: the statements themselves.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use crate::error::{Error, ErrorKind, Result};
use crate::source;

/// The statements of `text`. Blanks pad each one to its original line and column, so positions in errors refer to the
/// text.
///
/// # Errors
/// `Config` when the text has no tokens of SQL: an open quote, an open comment.
pub(super) fn statements(text: &str) -> Result<Vec<String>> {
    source::check_nesting(text)?;
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .tokenize_with_location()
        .map_err(|e| Error::new(ErrorKind::Config, format!("SQL error: {e}")))?;
    let mut statements = Vec::new();
    // The first token of the statement, and where the next one starts.
    let mut first: Option<Location> = None;
    let mut push = |first: &mut Option<Location>, end: usize| {
        if let Some(start) = first.take() {
            let blanks =
                "\n".repeat(start.line as usize - 1) + &" ".repeat(start.column as usize - 1);
            statements.push(blanks + text[offset(text, start)..end].trim_end());
        }
    };
    for token in tokens {
        match token.token {
            Token::SemiColon => push(&mut first, offset(text, token.span.start)),
            Token::Whitespace(_) | Token::EOF => {}
            _ => first = first.or(Some(token.span.start)),
        }
    }
    push(&mut first, text.len());
    Ok(statements)
}

/// Whether typed text is complete: its last statement ends in a semicolon.
pub(super) fn is_complete(text: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else { return false };
    let last =
        tokens.iter().rev().find(|token| !matches!(token, Token::Whitespace(_) | Token::EOF));
    matches!(last, None | Some(Token::SemiColon))
}

/// The byte offset of a line and a column in characters, both counted from 1.
fn offset(text: &str, location: Location) -> usize {
    let line =
        text.split_inclusive('\n').take(location.line as usize - 1).map(str::len).sum::<usize>();
    let column = text[line..].char_indices().nth(location.column as usize - 1);
    column.map_or(text.len(), |(index, _)| line + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_keep_their_places() {
        let text = "SELECT ';' -- a; b\n, 1; /* ; */ SHOW MODELS;\n;  SELECT 'é', 2";
        let found = statements(text).unwrap();
        assert_eq!(
            found,
            ["SELECT ';' -- a; b\n, 1", "\n             SHOW MODELS", "\n\n   SELECT 'é', 2"]
        );
        assert!(statements("SELECT 'a").is_err());
        assert!(statements(" -- nothing\n").unwrap().is_empty());
    }

    #[test]
    fn typing_ends_at_a_semicolon() {
        assert!(is_complete("SELECT 1;") && is_complete("SELECT 1; -- done") && is_complete(""));
        assert!(
            !is_complete("SELECT 1")
                && !is_complete("SELECT ';")
                && !is_complete("SELECT 1; SELECT")
        );
    }
}
