//! Options of model functions by name: `embed(text, 'm', normalize => true)` is `embed(text, 'm', options =>
//! '{"normalize": true}')`. DataFusion knows only the names of a signature, so that the text of a statement is rewritten
//! before it is parsed. Entry: [`query`]. Not here: which options a function has (`crate::tasks`).

use std::borrow::Cow;
use std::ops::Range;

use datafusion::common::{Result, plan_err};
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value as SqlValue};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use serde_json::{Map, Value};

use crate::tasks::{SqlFunction, TASKS};

/// The name of the argument that takes all options.
const OPTIONS: &str = "options";

/// Plans a statement like [`SessionContext::sql_with_options`], with options of model functions by name.
///
/// # Errors
/// `Plan` for an option that is not a literal; otherwise as [`SessionContext::sql_with_options`].
pub async fn query(context: &SessionContext, text: &str, allow: SQLOptions) -> Result<DataFrame> {
    context.sql_with_options(&name_options(text)?, allow).await
}

/// Replaces the options by name of all calls in a statement by their JSON object. Leaves the rest of the text as it is.
///
/// # Errors
/// `Plan` for an option that is not a literal, or together with a JSON object.
pub fn name_options(sql: &str) -> Result<Cow<'_, str>> {
    let dialect = GenericDialect;
    // What cannot be split into tokens, the parser refuses with its own message.
    let tokens = match Tokenizer::new(&dialect, sql).tokenize_with_location() {
        Ok(tokens) if sql.contains("=>") => tokens,
        _ => return Ok(sql.into()),
    };
    let tokens = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    let tokens: Vec<TokenWithSpan> = tokens.collect();
    let mut edits = Vec::new();
    // The open brackets; each call of a model function with the first tokens of its arguments.
    let mut open: Vec<Option<Call>> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::LParen => open.push(Call::before(&tokens, index)),
            Token::LBracket | Token::LBrace => open.push(None),
            Token::RBracket | Token::RBrace => drop(open.pop()),
            Token::RParen => {
                if let Some(Some(call)) = open.pop() {
                    call.rewrite(&tokens, index, &mut edits)?;
                }
            }
            Token::Comma => {
                if let Some(Some(call)) = open.last_mut() {
                    call.arguments.push(index + 1);
                }
            }
            _ => {}
        }
    }
    if edits.is_empty() {
        return Ok(sql.into());
    }
    edits.sort_by_key(|(range, _)| (range.start.line, range.start.column));
    let (mut text, mut copied) = (String::with_capacity(sql.len()), 0);
    let mut places = Places::of(sql);
    for (range, new) in edits {
        let (start, end) = (places.byte(range.start), places.byte(range.end));
        text += &sql[copied..start];
        text += &new;
        copied = end;
    }
    text += &sql[copied..];
    Ok(text.into())
}

/// A text for a range of the statement.
type Edit = (Range<Location>, String);

/// A call of a model function.
struct Call {
    name: String,
    function: &'static SqlFunction,
    /// The index of the first token of each argument.
    arguments: Vec<usize>,
}

impl Call {
    /// The call whose arguments begin after the token `index`.
    fn before(tokens: &[TokenWithSpan], index: usize) -> Option<Self> {
        let Token::Word(word) = &tokens.get(index.checked_sub(1)?)?.token else { return None };
        let name = word.value.to_lowercase();
        let task = name.strip_prefix("try_").unwrap_or(&name);
        let function = TASKS.iter().map(|task| &task.function).find(|f| f.name == task)?;
        Some(Self { name, function, arguments: vec![index + 1] })
    }

    /// Replaces the first option by the object of all of them, and removes the others.
    fn rewrite(&self, tokens: &[TokenWithSpan], end: usize, edits: &mut Vec<Edit>) -> Result<()> {
        let Self { name, function, arguments } = self;
        let ends = arguments.iter().skip(1).map(|next| next - 1).chain([end]);
        let mut options = Map::new();
        let (mut ranges, mut positional, mut has_object) = (Vec::new(), 0, false);
        for (start, end) in arguments.iter().copied().zip(ends) {
            let [TokenWithSpan { token: Token::Word(option), .. }, arrow, value @ ..] =
                &tokens[start..end]
            else {
                positional += usize::from(start < end);
                continue;
            };
            let option = &option.value;
            if arrow.token != Token::RArrow {
                positional += 1;
            } else if option == OPTIONS {
                has_object = true;
            } else if option != "model" && !function.parameters.contains(&option.as_str()) {
                let Some(value) = parse(value) else {
                    return plan_err!(
                        "`{name}`: the option `{option}` must be a literal, such as `{option} => 1`"
                    );
                };
                if options.insert(option.clone(), value).is_some() {
                    return plan_err!("`{name}`: the option `{option}` is there twice");
                }
                ranges.push(start..end);
            }
        }
        if ranges.is_empty() {
            return Ok(());
        }
        if has_object || positional > function.parameters.len() + 1 {
            return plan_err!("`{name}` takes its options as one JSON object or by name, not both");
        }
        let object = Value::Object(options).to_string().replace('\'', "''");
        let mut text = format!("{OPTIONS} => '{object}'");
        for (number, range) in ranges.into_iter().enumerate() {
            // The others go with the comma before them.
            let start = if number == 0 { range.start } else { range.start - 1 };
            let place = tokens[start].span.start..tokens[range.end - 1].span.end;
            edits.push((place, std::mem::take(&mut text)));
        }
        Ok(())
    }
}

/// The JSON value of tokens that are a literal.
fn parse(tokens: &[TokenWithSpan]) -> Option<Value> {
    let dialect = GenericDialect;
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.to_vec());
    let expr = parser.parse_expr().ok()?;
    (parser.peek_token().token == Token::EOF).then(|| literal(&expr))?
}

/// The JSON value of a literal: a text, a number, a truth value, null, or an array or struct of them.
fn literal(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Value(value) => match &value.value {
            SqlValue::Number(digits, _) => serde_json::from_str(digits).ok(),
            SqlValue::SingleQuotedString(text) => Some(Value::String(text.clone())),
            SqlValue::Boolean(value) => Some(Value::Bool(*value)),
            SqlValue::Null => Some(Value::Null),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr)? {
            Value::Number(number) => serde_json::from_str(&format!("-{number}")).ok(),
            _ => None,
        },
        Expr::Array(array) => array.elem.iter().map(literal).collect(),
        Expr::Dictionary(fields) => {
            let fields = fields.iter();
            let fields =
                fields.map(|field| Some((field.key.value.clone(), literal(&field.value)?)));
            fields.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        Expr::Nested(expr) => literal(expr),
        _ => None,
    }
}

/// Finds the bytes of locations in ascending order, in one pass over the text.
struct Places<'a> {
    text: &'a str,
    byte: usize,
    /// The location of the byte: lines and columns count characters from 1.
    at: (u64, u64),
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, byte: 0, at: (1, 1) }
    }

    /// The byte at a location that is not before the last one.
    fn byte(&mut self, location: Location) -> usize {
        for character in self.text[self.byte..].chars() {
            if self.at >= (location.line, location.column) {
                break;
            }
            self.byte += character.len_utf8();
            let (line, column) = self.at;
            self.at = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        self.byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_by_name_become_one_object() {
        for (sql, expected) in [
            (
                "SELECT embed(text, 'm', normalize => true, max_length => 128) FROM t -- =>",
                r#"SELECT embed(text, 'm', options => '{"normalize":true,"max_length":128}') FROM t -- =>"#,
            ),
            (
                "SELECT 'é',\n  upper(Classify(text => a, top_k=>NULL, model => 'm',x => -1.5)['label'])",
                "SELECT 'é',\n  upper(Classify(text => a, options => '{\"top_k\":null,\"x\":-1.5}', model => 'm')['label'])",
            ),
            (
                "EXPLAIN SELECT try_generate(t, 'm', stop_strings => ['a', 'it''s'], k => {'b': [1]})",
                r#"EXPLAIN SELECT try_generate(t, 'm', options => '{"stop_strings":["a","it''s"],"k":{"b":[1]}}')"#,
            ),
            (
                "SELECT embed(summarize(t, 's', num_beams => (2)), 'm', normalize => false)",
                r#"SELECT embed(summarize(t, 's', options => '{"num_beams":2}'), 'm', options => '{"normalize":false}')"#,
            ),
        ] {
            assert_eq!(name_options(sql).unwrap(), expected);
        }
        for sql in [
            "SELECT f(a => 1), embed(text, 'm')",
            "SELECT embed(text => t, model => 'm', options => '{}')",
            "SELECT 'embed(t, ''m'', a => 1)' AS \"=>\"",
            "SELECT 'open => ",
            "SELECT embed(), embed(a =>",
        ] {
            assert_eq!(name_options(sql).unwrap(), sql);
        }
    }

    /// A text of very many options takes seconds, not minutes.
    #[test]
    fn many_calls_are_rewritten_in_one_pass() {
        let call = "embed(t, 'ä', normalize => true, max_length => 7)";
        let sql = format!("SELECT {}", vec![call; 20_000].join(",\n"));
        let expected = r#"embed(t, 'ä', options => '{"normalize":true,"max_length":7}')"#;
        let expected = format!("SELECT {}", vec![expected; 20_000].join(",\n"));
        assert!(name_options(&sql).unwrap() == expected);
    }

    #[test]
    fn what_is_no_literal_is_refused() {
        for (sql, message) in [
            ("SELECT embed(t, 'm', normalize => x)", "the option `normalize` must be a literal"),
            ("SELECT embed(t, 'm', normalize => )", "the option `normalize` must be a literal"),
            ("SELECT embed(t, 'm', '{}', normalize => true)", "not both"),
            ("SELECT embed(t, 'm', options => '{}', normalize => true)", "not both"),
            ("SELECT embed(t, 'm', a => 1, a => 2)", "`a` is there twice"),
            ("SELECT 1 WHERE (SELECT embed(t, 'm', a => b))", "must be a literal"),
        ] {
            let error = name_options(sql).unwrap_err().strip_backtrace();
            assert!(error.contains(message), "{sql}: {error}");
        }
    }
}
