//! `hfauto-pipe sql`: runs queries with models over files, from an argument, a file, stdin or a prompt. Not here: output
//! (`output`), the prompt (`repl`).

mod output;
mod repl;
mod session;
mod split;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[cfg(feature = "cluster")]
use super::cluster::QueriesOnCluster;
use crate::error::{Error, ErrorKind, Result};
use session::Session;

const EXAMPLES: &str = "\
Examples:
  hfauto-pipe sql \"SELECT id, embed(text, 'sentence-transformers/all-MiniLM-L6-v2') AS e
                   FROM 'reviews/*.parquet' WHERE lang = 'en'\" -o embeddings.parquet
  hfauto-pipe sql --model sentiment=./sst2 --table reviews=data/reviews.csv \\
                  \"SELECT classify(text, 'sentiment')['label'], count(*) FROM reviews GROUP BY 1\"
  hfauto-pipe sql            a prompt; \\h lists the functions, \\h embed explains one";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct SqlArgs {
    /// Statements, separated by `;`. Default without `-f`: stdin, or a prompt on a terminal.
    query: Option<String>,

    /// Read the statements from a file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "query")]
    file: Option<PathBuf>,

    /// Name a table: a file, folder or glob. Without a name, quote the path: FROM 'a/*.csv'.
    #[arg(long = "table", value_name = "NAME=PATH", value_parser = named)]
    tables: Vec<(String, String)>,

    /// Name a model, as CREATE MODEL does: a hub id or directory.
    #[arg(long = "model", value_name = "NAME=MODEL", value_parser = named)]
    models: Vec<(String, String)>,

    /// Use the `models` and the `run` settings of a pipeline file.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,

    /// Write the rows of the last query to a file (.parquet, .csv, .jsonl, .arrow) or folder.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Replace an existing output at `--output`.
    #[arg(long, requires = "output")]
    fresh: bool,

    /// The format of printed rows.
    #[arg(long, value_enum, default_value = "table", conflicts_with = "output")]
    format: OutputFormat,

    /// Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    #[arg(long)]
    offline: bool,

    #[cfg(feature = "cluster")]
    #[command(flatten)]
    on: QueriesOnCluster,
}

/// The format of printed rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// A table; on a terminal, long vectors are shortened.
    Table,
    /// CSV; nested values are JSON text.
    Csv,
    /// One JSON array.
    Json,
    /// One JSON object per line.
    Jsonl,
}

fn named(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() && !value.is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE, for example `reviews=data/reviews.parquet`".to_owned()),
    }
}

impl SqlArgs {
    pub(super) fn run(self) -> Result<()> {
        let text = match (&self.query, &self.file) {
            (Some(query), _) => Some(query.clone()),
            (None, Some(file)) => Some(std::fs::read_to_string(file).map_err(|e| {
                Error::new(ErrorKind::NoInput, format!("cannot read `{}`", file.display()))
                    .source(e)
            })?),
            (None, None) if std::io::stdin().is_terminal() => None,
            (None, None) => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(|e| {
                    Error::new(ErrorKind::NoInput, "cannot read statements from stdin").source(e)
                })?;
                Some(text)
            }
        };
        if text.is_none() && self.output.is_some() {
            return Err(Error::new(
                ErrorKind::Usage,
                "`--output` needs a query; it does not apply to a prompt",
            )
            .hint("give the query as an argument, or write COPY (…) TO '…' at the prompt"));
        }
        super::block_on(async {
            let session = Session::open(&self).await?;
            match text {
                Some(text) => session.run_all(&text).await,
                None => repl::run(session).await,
            }
        })
    }
}
