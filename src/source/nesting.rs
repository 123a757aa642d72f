//! Bounds the depth of an SQL expression before anything recurses into it. The parser bounds parentheses, but not a chain
//! such as `a OR b OR c …`, which it reads in a loop. Every walk over the resulting tree recurses once per operator. Not
//! here: the meaning of the SQL.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{SQL_BYTES, SQL_DEPTH};

/// Refuses SQL that is too long, or whose expressions are too deep.
///
/// # Errors
/// `Config` for SQL beyond [`SQL_BYTES`] or [`SQL_DEPTH`]; text that cannot be tokenized passes, for the parser to
/// report.
pub fn check_nesting(sql: &str) -> Result<()> {
    if sql.len() > SQL_BYTES {
        let message = format!("the query is {} bytes long, the limit is {SQL_BYTES}", sql.len());
        return Err(Error::new(ErrorKind::Config, message)
            .hint("join with a table of the values instead of writing them out"));
    }
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let deepest = deepest(&tokens);
    if deepest > SQL_DEPTH {
        let message =
            format!("a SQL expression nests {deepest} operators, the limit is {SQL_DEPTH}");
        return Err(Error::new(ErrorKind::Config, message).hint(
            "write `x IN (a, b, …)` for `x = a OR x = b …`, or join with a table of the values",
        ));
    }
    Ok(())
}

/// Operators at one level of parentheses.
#[derive(Clone, Copy, Default)]
struct Level {
    /// The `AND` and `OR` operators of the current expression: each adds a level.
    terms: usize,
    /// The operators since the last of them.
    operators: usize,
    /// The joined tables: each adds a level.
    tables: usize,
}

impl Level {
    fn depth(&self) -> usize {
        self.terms + self.operators + self.tables
    }

    /// Starts another expression.
    fn begin(&mut self) {
        (self.terms, self.operators) = (0, 0);
    }
}

/// The greatest depth of a tree that the tokens can form.
fn deepest(tokens: &[Token]) -> usize {
    let mut levels = vec![Level::default()];
    // The depth of the levels below the last.
    let mut below = 0;
    let mut deepest = 0;
    for token in tokens {
        let is_inside = levels.len() > 1;
        let Some(level) = levels.last_mut() else { break };
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                level.operators += 1;
                below += level.depth();
                levels.push(Level::default());
            }
            Token::RParen | Token::RBracket | Token::RBrace if is_inside => {
                levels.pop();
                below -= levels.last().map_or(0, Level::depth);
            }
            Token::SemiColon => {
                levels = vec![Level::default()];
                below = 0;
            }
            Token::Comma => level.begin(),
            Token::Word(word) => match word.keyword {
                Keyword::WHEN
                | Keyword::THEN
                | Keyword::ELSE
                | Keyword::SELECT
                | Keyword::FROM
                | Keyword::WHERE
                | Keyword::ON => level.begin(),
                Keyword::AND | Keyword::OR => {
                    level.terms += 1;
                    level.operators = 0;
                }
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::JOIN => {
                    level.tables += 1;
                }
                Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::IN
                | Keyword::DIV
                | Keyword::COLLATE
                | Keyword::CASE
                | Keyword::AT => level.operators += 1,
                _ => {}
            },
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::Whitespace(_)
            | Token::Period
            | Token::EOF => {}
            _ => level.operators += 1,
        }
        if let Some(level) = levels.last() {
            deepest = deepest.max(below + level.depth());
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_deep_and_lists_are_not() {
        let check = |sql: String, is_fine: bool| {
            assert_eq!(check_nesting(&sql).is_ok(), is_fine, "{}", &sql[..80.min(sql.len())]);
        };
        let many = |what: &'static str| vec![what; SQL_DEPTH + 2];
        check(format!("SELECT {}", many("1").join(" + ")), false);
        check(format!("SELECT {}", many("x = 1").join(" OR ")), false);
        check(format!("SELECT x{}", many("::int").join("")), false);
        check(format!("SELECT {}1", many("- ").join("")), false);
        check(format!("SELECT x{}", many("[1]").join("")), false);
        check(many("SELECT 1").join(" UNION ALL "), false);
        check(format!("SELECT {}1{}", many("(").join(""), many(")").join("")), false);
        check(format!("SELECT x IN ({})", many("-1").join(", ")), true);
        check(format!("SELECT {}", many("a + 1 AS b").join(", ")), true);
        let cases = many("WHEN x = 1 THEN 2").join(" ");
        check(format!("SELECT CASE {cases} END"), true);
        check(many("SELECT 1 + 1").join(";"), true);
        check("SELECT 'open".to_owned(), true);
    }
}
