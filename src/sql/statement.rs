//! The statements in addition to DataFusion's SQL: `CREATE MODEL`, `DROP MODEL`, `SHOW MODELS`. Not here: their effects
//! outside a [`ModelCatalog`].

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use serde_json::{Map, Value};

use super::catalog::ModelCatalog;
use crate::config;
use crate::config::pipeline::ModelSpec;
use crate::error::{Error, ErrorKind, Result};

/// A statement about models.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelStatement {
    /// `CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name FROM 'repo' [OPTIONS (key value, …)]`.
    Create {
        /// The alias.
        name: String,
        /// Hub id or directory.
        repo: String,
        /// The other keys of a model in a pipeline file: `revision`, `dtype`, `device`, `config`.
        options: Map<String, Value>,
        /// Whether to replace an existing alias.
        or_replace: bool,
        /// Whether to keep an existing alias.
        if_not_exists: bool,
    },
    /// `DROP MODEL [IF EXISTS] name`.
    Drop {
        /// The alias.
        name: String,
        /// Whether a missing alias is ignored.
        if_exists: bool,
    },
    /// `SHOW MODELS`.
    Show,
}

/// Parses a statement about models; `None` for other statements.
///
/// # Errors
/// `Config` with the position of the error.
pub fn model_statement(sql: &str) -> Result<Option<ModelStatement>> {
    let dialect = GenericDialect {};
    let Ok(mut parser) = Parser::new(&dialect).try_with_sql(sql) else { return Ok(None) };
    let mut words = Vec::new();
    for index in 0..4 {
        match &parser.peek_nth_token(index).token {
            Token::Word(word) => words.push(word.value.to_uppercase()),
            _ => break,
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let statement = match words[..] {
        ["CREATE", "MODEL", ..] => create(&mut parser, 2, false),
        ["CREATE", "OR", "REPLACE", "MODEL"] => create(&mut parser, 4, true),
        ["DROP", "MODEL", ..] => drop(&mut parser),
        ["SHOW", "MODELS"] => {
            parser.advance_token();
            parser.advance_token();
            Ok(ModelStatement::Show)
        }
        _ => return Ok(None),
    };
    let ended = statement.and_then(|statement| {
        let _ = parser.consume_token(&Token::SemiColon);
        match parser.peek_token().token {
            Token::EOF => Ok(statement),
            _ => parser.expected("the end of the statement", parser.peek_token()),
        }
    });
    ended.map(Some).map_err(|error| {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
        };
        Error::new(ErrorKind::Config, format!("SQL error: {text}")).hint(
            "CREATE MODEL name FROM 'hub id or directory' [OPTIONS (revision 'main', …)]; \
             DROP MODEL name; SHOW MODELS",
        )
    })
}

type Parsed<T> = std::result::Result<T, ParserError>;

fn create(parser: &mut Parser<'_>, words: usize, or_replace: bool) -> Parsed<ModelStatement> {
    (0..words).for_each(|_| parser.advance_token());
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parser.parse_identifier()?.value;
    parser.expect_keyword(Keyword::FROM)?;
    let repo = parser.parse_literal_string()?;
    let mut options = Map::new();
    if parser.parse_keyword(Keyword::OPTIONS) {
        parser.expect_token(&Token::LParen)?;
        while !parser.consume_token(&Token::RParen) {
            let key = match parser.peek_token().token {
                Token::SingleQuotedString(text) => {
                    parser.advance_token();
                    text
                }
                _ => parser.parse_identifier()?.value,
            };
            let _ = parser.consume_token(&Token::Eq);
            let value = parser.parse_literal_string()?;
            // `config` is a JSON object, the others are strings.
            let value = if key == "config" {
                serde_json::from_str(&value).map_err(|e| {
                    ParserError::ParserError(format!("`config` is not a JSON object: {e}"))
                })?
            } else {
                Value::String(value)
            };
            options.insert(key, value);
            if !parser.consume_token(&Token::Comma) {
                parser.expect_token(&Token::RParen)?;
                break;
            }
        }
    }
    Ok(ModelStatement::Create { name, repo, options, or_replace, if_not_exists })
}

fn drop(parser: &mut Parser<'_>) -> Parsed<ModelStatement> {
    parser.advance_token();
    parser.advance_token();
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let name = parser.parse_identifier()?.value;
    Ok(ModelStatement::Drop { name, if_exists })
}

impl ModelCatalog {
    /// Executes `CREATE MODEL` or `DROP MODEL`. The model's files are read when a call names it.
    ///
    /// # Errors
    /// `Config` when the name exists already or does not exist, or the options are invalid.
    pub fn execute(&self, statement: &ModelStatement) -> Result<()> {
        let wrong = |message: String| Error::new(ErrorKind::Config, message);
        match statement {
            ModelStatement::Create { name, repo, options, or_replace, if_not_exists } => {
                if self.aliases().contains_key(name) {
                    if *if_not_exists {
                        return Ok(());
                    }
                    if !or_replace {
                        let message = format!("the model `{name}` already exists");
                        return Err(wrong(message).hint("write CREATE OR REPLACE MODEL"));
                    }
                }
                let spec: ModelSpec =
                    config::model(name, repo, options, self.dir()).map_err(|problems| {
                        wrong(format!("invalid options of CREATE MODEL {name}")).source(problems)
                    })?;
                self.insert(name, spec);
                Ok(())
            }
            ModelStatement::Drop { name, if_exists } => match self.remove(name) {
                None if !if_exists => {
                    let names = self.aliases().into_keys().collect::<Vec<_>>().join("`, `");
                    let error = wrong(format!("there is no model `{name}`"));
                    Err(if names.is_empty() {
                        error
                    } else {
                        error.hint(format!("models are `{names}`"))
                    })
                }
                _ => Ok(()),
            },
            ModelStatement::Show => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn statements() {
        let parse = |sql: &str| model_statement(sql).unwrap();
        assert_eq!(parse("SELECT 1"), None);
        assert_eq!(parse("CREATE TABLE model (a INT)"), None);
        assert_eq!(parse("show models;"), Some(ModelStatement::Show));
        let Some(ModelStatement::Create { name, repo, options, or_replace, if_not_exists }) = parse(
            "create or replace model minilm from 'org/name' options (revision 'v1', config '{\"a\": 1}');",
        ) else {
            panic!("no CREATE MODEL")
        };
        assert_eq!(
            (name.as_str(), repo.as_str(), or_replace, if_not_exists),
            ("minilm", "org/name", true, false)
        );
        assert_eq!(Value::Object(options), json!({"revision": "v1", "config": {"a": 1}}));
        assert_eq!(
            parse("DROP MODEL IF EXISTS a"),
            Some(ModelStatement::Drop { name: "a".to_owned(), if_exists: true })
        );
    }

    #[test]
    fn errors_have_a_position() {
        let error = model_statement("CREATE MODEL a").unwrap_err();
        assert!(error.message().contains("Expected: FROM"), "{}", error.message());
        let error = model_statement("CREATE MODEL a FROM 'b' OPTION").unwrap_err();
        assert!(error.message().contains("Line: 1, Column: 25"), "{}", error.message());
    }
}
