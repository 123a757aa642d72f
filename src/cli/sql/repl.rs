//! The prompt: history, completion, and commands that start with a backslash. Ctrl-C clears the line or stops the running
//! query; Ctrl-D ends the session.

use std::borrow::Cow;
use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};

use super::session::Session;
use super::split;
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::TASKS;

const HELP: &str = "\
Statements end with `;`.
  \\h [FUNCTION]  lists the model functions, or describes one function
  \\d [TABLE]     lists the tables, or the columns of a table or quoted path
  \\m             lists the models; CREATE MODEL name FROM 'hub id or directory' adds one
  \\?             shows this help
  \\q             ends the session (Ctrl-D)
";

/// The tables of the session.
const TABLES: &str = "SELECT table_schema AS schema, table_name AS name, table_type AS type \
                      FROM information_schema.tables \
                      WHERE table_schema <> 'information_schema' ORDER BY 1, 2";

/// Completions in addition to names.
const KEYWORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "HAVING",
    "JOIN",
    "LEFT JOIN",
    "ON",
    "AS",
    "AND",
    "OR",
    "NOT",
    "NULL",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "WITH",
    "UNION ALL",
    "DISTINCT",
    "CREATE MODEL",
    "CREATE TABLE",
    "CREATE VIEW",
    "DROP MODEL",
    "SHOW MODELS",
    "SHOW FUNCTIONS",
    "SHOW TABLES",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "COPY",
    "TO",
    "OPTIONS",
];

/// Reads and runs statements until the end of input. An error ends its statement, not the session.
pub(super) async fn run(session: Session) -> Result<()> {
    let failed = |e: ReadlineError| {
        Error::new(ErrorKind::Internal, "cannot read from the terminal").source(e)
    };
    let mut editor = Editor::<Prompt, FileHistory>::new().map_err(failed)?;
    let history = history_file();
    if let Some(file) = &history {
        let _ = editor.load_history(file);
    }
    super::super::print(format_args!(
        "hfauto-pipe {}; \\? for help, \\q to end\n",
        env!("CARGO_PKG_VERSION")
    ))?;
    loop {
        editor.set_helper(Some(Prompt { words: words(&session) }));
        let line = tokio::task::block_in_place(|| editor.readline("hfauto> "));
        let text = match line {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        if text.trim().is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(&text);
        if let Some(file) = &history {
            let _ = editor.append_history(file);
        }
        let result = match text.trim().strip_prefix('\\') {
            Some(command) => match command.trim_end_matches(';').trim() {
                "q" | "quit" => break,
                command => self::command(&session, command).await,
            },
            None => match split::statements(&text) {
                Ok(statements) => run_each(&session, &statements).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = result {
            super::super::show(&error);
        }
    }
    Ok(())
}

async fn run_each(session: &Session, statements: &[String]) -> Result<()> {
    for statement in statements {
        session.run(statement, None).await?;
    }
    Ok(())
}

async fn command(session: &Session, command: &str) -> Result<()> {
    let (name, argument) = command.split_once(' ').unwrap_or((command, ""));
    let argument = argument.trim();
    match (name, argument) {
        ("?", _) => super::super::print(HELP),
        ("h", "") => {
            let mut text = String::new();
            for function in TASKS.iter().map(|task| &task.function) {
                text +=
                    &format!("{}\n    {}\n", function.syntax(function.name), function.description);
            }
            text += "cosine_similarity(a, b)\n    The cosine of the angle between two vectors.\n";
            text += "Each model function has a variant that keeps row errors: try_embed gives Struct<value, error>.\n";
            super::super::print(text)
        }
        ("h", function) => help(session, function),
        ("d", "") => session.run(TABLES, None).await,
        ("d", table) => session.run(&format!("DESCRIBE {table}"), None).await,
        ("m", "") => session.run("SHOW MODELS", None).await,
        _ => Err(Error::new(ErrorKind::Usage, format!("unknown command `\\{command}`"))
            .hint("\\? lists the commands")),
    }
}

/// Prints the documentation of a function, ours or DataFusion's.
fn help(session: &Session, name: &str) -> Result<()> {
    let name = name.trim_end_matches("()").to_lowercase();
    let state = session.context.state();
    let documentation = state
        .scalar_functions()
        .get(&name)
        .and_then(|function| function.documentation())
        .or_else(|| state.aggregate_functions().get(&name).and_then(|f| f.documentation()))
        .or_else(|| state.window_functions().get(&name).and_then(|f| f.documentation()));
    let Some(documentation) = documentation else {
        return Err(Error::new(ErrorKind::Usage, format!("there is no function `{name}`"))
            .hint("\\h lists the model functions, SHOW FUNCTIONS all"));
    };
    let mut text = format!("{}\n    {}\n", documentation.syntax_example, documentation.description);
    for (argument, description) in documentation.arguments.iter().flatten() {
        text += &format!("  {argument}: {description}\n");
    }
    if let Some(example) = &documentation.sql_example {
        let lines = example.lines().filter(|line| !line.starts_with("```"));
        text += &format!("  example: {}\n", lines.collect::<Vec<_>>().join("\n"));
    }
    super::super::print(text)
}

/// The possible completions.
fn words(session: &Session) -> Vec<String> {
    let state = session.context.state();
    let mut words: Vec<String> = KEYWORDS.iter().map(|word| (*word).to_owned()).collect();
    words.extend(state.scalar_functions().keys().map(|name| format!("{name}(")));
    words.extend(state.aggregate_functions().keys().map(|name| format!("{name}(")));
    words.extend(session.catalog.aliases().into_keys().map(|name| format!("'{name}'")));
    for catalog in state.catalog_list().catalog_names() {
        let Some(catalog) = state.catalog_list().catalog(&catalog) else { continue };
        for schema in catalog.schema_names().iter().filter(|name| *name != "information_schema") {
            words
                .extend(catalog.schema(schema).into_iter().flat_map(|schema| schema.table_names()));
        }
    }
    words.sort();
    words.dedup();
    words
}

/// `$XDG_STATE_HOME/hfauto-pipe/sql_history`.
fn history_file() -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state =
        set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    let folder = state.join("hfauto-pipe");
    std::fs::create_dir_all(&folder).ok()?;
    let file = folder.join("sql_history");
    if !file.exists() {
        std::fs::write(&file, "").ok()?;
    }
    Some(file)
}

/// The editor's callbacks.
struct Prompt {
    words: Vec<String>,
}

impl Completer for Prompt {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = line[..position]
            .rfind(|c: char| c.is_whitespace() || "(),=".contains(c))
            .map_or(0, |index| index + 1);
        let typed = &line[start..position];
        if typed.is_empty() {
            return Ok((start, Vec::new()));
        }
        let matches = self.words.iter().filter(|word| {
            word.get(..typed.len()).is_some_and(|head| head.eq_ignore_ascii_case(typed))
        });
        let pair = |word: &String| Pair { display: word.clone(), replacement: word.clone() };
        Ok((start, matches.map(pair).collect()))
    }
}

impl Validator for Prompt {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input();
        let complete = text.trim_start().starts_with('\\') || split::is_complete(text);
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Hinter for Prompt {
    type Hint = String;
}

impl Highlighter for Prompt {
    fn highlight<'l>(&self, line: &'l str, _position: usize) -> Cow<'l, str> {
        Cow::Borrowed(line)
    }
}

impl Helper for Prompt {}
