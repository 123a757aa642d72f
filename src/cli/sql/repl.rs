//! The prompt: history, completion, and commands that start with a backslash. Ctrl-C clears the line or stops the running
//! query; Ctrl-D ends the session.

use std::borrow::Cow;
use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};

use super::session::Session;
use super::split;
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::TASKS;

const HELP: &str = "\
Statements end with `;` and may have several lines; Ctrl-C clears them.
  \\h [FUNCTION]  lists the model functions, or describes one function
  \\d [TABLE]     lists the tables, or the columns of a table or quoted path
  \\m             lists the models; CREATE MODEL name FROM 'hub id or directory' adds one
  \\?             shows this help, as `help` does
  \\q             ends the session, as `quit`, `exit` and Ctrl-D do
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
    // The lines of a statement that has no end yet.
    let mut pending = String::new();
    loop {
        editor.set_helper(Some(Prompt { words: words(&session).await }));
        let prompt = if pending.is_empty() { "hfauto> " } else { "     -> " };
        let line = tokio::task::block_in_place(|| editor.readline(prompt));
        match line {
            Ok(line) if pending.is_empty() => pending = line,
            Ok(line) => pending = format!("{pending}\n{line}"),
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        }
        if pending.trim().is_empty() {
            pending.clear();
            continue;
        }
        let command = Command::of(&pending);
        if command.is_none() && !split::is_complete(&pending) {
            continue;
        }
        let text = std::mem::take(&mut pending);
        let _ = editor.add_history_entry(&text);
        if let Some(file) = &history {
            let _ = editor.append_history(file);
        }
        let result = match command {
            Some(Command::Quit) => break,
            Some(Command::Help) => super::super::print(HELP),
            Some(Command::Slash(command)) => self::command(&session, &command).await,
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

/// A command of the prompt, which is not SQL.
#[derive(Debug, PartialEq)]
enum Command {
    Quit,
    Help,
    /// A command that starts with a backslash, without it.
    Slash(String),
}

impl Command {
    /// The command that `text` is; `None` for SQL. Words need no backslash and no semicolon.
    fn of(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches(';').trim();
        let command = text.strip_prefix('\\').map(str::trim);
        match (command, text.to_lowercase().as_str()) {
            (Some("q" | "quit"), _) | (None, "quit" | "exit") => Some(Self::Quit),
            (Some("?"), _) | (None, "help") => Some(Self::Help),
            (Some(command), _) => Some(Self::Slash(command.to_owned())),
            (None, _) => None,
        }
    }
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
        ("h", "") => {
            let mut text = String::new();
            for function in TASKS.iter().map(|task| &task.function) {
                text +=
                    &format!("{}\n    {}\n", function.syntax(function.name), function.description);
            }
            text += "cosine_similarity(a, b)\n    The cosine of the angle between two vectors.\n";
            text += "max_sim(query, document)\n    The score of two lists of vectors.\n";
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

/// The possible completions: keywords, functions, models, tables and their columns.
async fn words(session: &Session) -> Vec<String> {
    let state = session.context.state();
    let mut words: Vec<String> = KEYWORDS.iter().map(|word| (*word).to_owned()).collect();
    words.extend(state.scalar_functions().keys().map(|name| format!("{name}(")));
    words.extend(state.aggregate_functions().keys().map(|name| format!("{name}(")));
    words.extend(session.catalog.aliases().into_keys().map(|name| format!("'{name}'")));
    for catalog in state.catalog_list().catalog_names() {
        let Some(catalog) = state.catalog_list().catalog(&catalog) else { continue };
        for schema in catalog.schema_names().iter().filter(|name| *name != "information_schema") {
            let Some(schema) = catalog.schema(schema) else { continue };
            for name in schema.table_names() {
                if let Ok(Some(table)) = schema.table(&name).await {
                    words.extend(table.schema().fields().iter().map(|field| field.name().clone()));
                }
                words.push(name);
            }
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

impl Validator for Prompt {}

impl Hinter for Prompt {
    type Hint = String;
}

impl Highlighter for Prompt {
    fn highlight<'l>(&self, line: &'l str, _position: usize) -> Cow<'l, str> {
        Cow::Borrowed(line)
    }
}

impl Helper for Prompt {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_backslashes_are_commands() {
        let slash = |text: &str| Some(Command::Slash(text.to_owned()));
        for (text, expected) in [
            ("quit", Some(Command::Quit)),
            ("EXIT;", Some(Command::Quit)),
            (" \\q ", Some(Command::Quit)),
            ("help ;", Some(Command::Help)),
            ("\\?", Some(Command::Help)),
            ("\\h embed", slash("h embed")),
            ("SELECT 1", None),
            ("help me", None),
        ] {
            assert_eq!(Command::of(text), expected, "{text}");
        }
    }
}
