//! The command line, with one file per verb; nothing else prints. Results go to stdout; progress, logs and errors go to
//! stderr. Not here: the work itself, which the library does.

#[cfg(feature = "cluster")]
mod cluster;
mod compact;
mod completions;
mod default_model;
mod fetch;
mod init;
mod job;
mod log;
mod man;
mod models;
mod observe;
mod plan;
mod preview;
mod progress;
mod report;
mod run;
mod schedule;
mod schema;
mod signals;
mod sql;
mod status;
mod status_folder;
mod supervise;
mod table;
mod task;
mod terminal;
mod test;
mod validate;

use std::any::Any;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind as ClapErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::config::pipeline::Pipeline;
use crate::config::{self, Diagnostics, LoadOptions};
use crate::error::{Error, ErrorKind, Result, exit_code};
use crate::hub::{Hub, HubSettings};
use crate::runtime::{self, block_on};
use crate::{guard, hub_store, secret};

pub use self::default_model::default_model;
pub use self::supervise::set_program;

use self::log::{LogFormat, Verbosity};
use self::terminal::print;

const EXIT_CODES: &str = "\
Exit codes:
  0   done, also if there was nothing to do
  64  the command line is wrong
  65  the input is truncated, ragged or invalid
  66  an input file is missing or cannot be opened
  69  a model, or the service that it comes from, is not available
  70  a bug of hfauto-pipe
  73  the output exists or cannot be written
  75  another run holds the output, or a resource is temporarily short: try again
  78  the pipeline file or a query is wrong
  130 interrupted (SIGINT), 143 terminated (SIGTERM): finished units are kept";

/// Hugging Face models over tables: adds a model's results as columns to Parquet, CSV, JSONL and Arrow files.
#[derive(Parser, Debug)]
#[command(name = "hfauto-pipe", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// The log level of stderr: error, warn, info, debug, trace, or a filter in the syntax of `RUST_LOG`.
    #[arg(long, alias = "log", global = true, value_name = "LEVEL")]
    log_level: Option<String>,

    /// The format of logs, progress and errors on stderr: text, or one JSON object per line.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,

    /// Print errors only: no progress, notes and warnings, and no report of a run.
    #[arg(long, short, global = true, conflicts_with_all = ["verbose", "log_level"])]
    quiet: bool,

    /// Say more: what happens, and with `-vv` how.
    #[arg(long, short, global = true, action = clap::ArgAction::Count, conflicts_with = "log_level")]
    verbose: u8,
}

impl Cli {
    fn verbosity(&self) -> Verbosity {
        match self.verbose {
            _ if self.quiet => Verbosity::Quiet,
            0 => Verbosity::Normal,
            1 => Verbosity::Verbose,
            _ => Verbosity::Debug,
        }
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a pipeline: rows from source to sink.
    Run(run::RunArgs),
    /// Run the pipelines of a folder at the times of their `schedule`, as a service.
    Schedule(schedule::ScheduleArgs),
    /// Turn the report of a run into one HTML page.
    Report(report::ReportArgs),
    /// Check pipeline files, without network and weights.
    Validate(validate::ValidateArgs),
    /// Show what a run would do: columns, models, memory, tokens of a sample; with `-v` also DataFusion's physical plan.
    Plan(plan::PlanArgs),
    /// Show the result of the first rows, and estimate the whole run; writes nothing.
    Preview(preview::PreviewArgs),
    /// Show the progress of a pipeline's output, also during a run in another process; for a folder, the last and next
    /// runs.
    Status(status::StatusArgs),
    /// Run the `tests` of pipeline files.
    Test(test::TestArgs),
    /// Run SQL with models over files, from an argument, a file, stdin or a prompt.
    Sql(sql::SqlArgs),
    /// Rewrite the small parts of an output as larger ones, without computing anything.
    Compact(compact::CompactArgs),
    /// List what this version can load, or explain one model.
    Models(models::ModelsArgs),
    /// Download models for offline use.
    Fetch(fetch::FetchArgs),
    /// Print the JSON Schema of pipeline files.
    Schema,
    /// Write a commented pipeline file for a task.
    Init(init::InitArgs),
    /// Services that compute pipelines on more than one machine, for `run --cluster`.
    #[cfg(feature = "cluster")]
    Cluster(cluster::ClusterArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Write the man pages to a folder, for packages.
    #[command(hide = true)]
    Man(man::ManArgs),
    /// A task over files, without a pipeline file.
    #[command(flatten)]
    Task(task::TaskRun),
}

/// A pipeline file and its overrides.
#[derive(Args, Debug)]
struct PipelineArgs {
    /// The pipeline file (YAML).
    pipeline: PathBuf,

    /// Override a key of the file, for example `--set source.limit=100`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,

    /// Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    #[arg(long)]
    offline: bool,
}

impl PipelineArgs {
    fn load(&self) -> Result<Pipeline> {
        let options = LoadOptions { set: self.set.clone(), ..LoadOptions::default() };
        Ok(config::load(&self.pipeline, &options)?)
    }
}

fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("expected KEY=VALUE, for example `source.limit=100`".to_owned()),
    }
}

/// The hub with the settings of the environment; without network if `offline`.
fn hub(offline: bool) -> Hub {
    let settings = HubSettings::from_env();
    let offline = offline || settings.offline();
    if offline {
        hub_store::switch_off();
    }
    Hub::new(settings.with_offline(offline))
}

/// Runs the program and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    secret::remember_environment();
    match runtime::spawn("main", move || run(&args)) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| fail(&panicked(&*panic))),
        Err(e) => fail(&Error::new(ErrorKind::Resources, "cannot start a thread").source(e)),
    }
}

/// Turns a panic, which is our bug, into an error.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = format!("the program panicked: {}", guard::message(panic));
    Error::new(ErrorKind::Internal, message)
        .hint("this is a bug of hfauto-pipe: please report it with the output of RUST_BACKTRACE=1")
}

fn run(args: &[OsString]) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            log::guess_format(args);
            return usage(&error);
        }
    };
    if let Err(error) = log::start(cli.log_format, cli.log_level.as_deref(), cli.verbosity()) {
        return fail(&error);
    }
    log::panics();
    signals::start();
    let result = match cli.command {
        Command::Run(args) => args.run(),
        Command::Schedule(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Validate(args) => args.run(),
        Command::Plan(args) => args.run(),
        Command::Preview(args) => args.run(),
        Command::Status(args) => args.run(),
        Command::Test(args) => args.run(),
        Command::Sql(args) => args.run(),
        Command::Compact(args) => args.run(),
        Command::Models(args) => args.run(),
        Command::Fetch(args) => args.run(),
        Command::Schema => schema::run(),
        Command::Init(args) => args.run(),
        #[cfg(feature = "cluster")]
        Command::Cluster(args) => args.run(),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
        Command::Task(run) => run.run(),
    };
    match result {
        Ok(()) => exit_code::DONE,
        Err(error) => fail(&error),
    }
}

/// Prints help and version as results; any other clap error is a usage error.
fn usage(error: &clap::Error) -> u8 {
    let is_help =
        matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion);
    if log::is_json() && !is_help {
        let text = error.to_string();
        let message = text.split("\n\nUsage:").next().unwrap_or_default();
        let words: Vec<&str> = message.trim_start_matches("error: ").split_whitespace().collect();
        let message = words.join(" ");
        return fail(&Error::new(ErrorKind::Usage, message).hint("for more, try `--help`"));
    }
    if is_help {
        let _ = error.print();
        return exit_code::DONE;
    }
    let text = error.render();
    terminal::say_styled(text.to_string().trim_end(), || {
        text.ansi().to_string().trim_end().to_owned()
    });
    exit_code::USAGE
}

/// Shows an error and returns its exit code.
fn fail(error: &Error) -> u8 {
    show(error);
    error.kind().exit_code()
}

/// The text of an error as the program shows it after `error: `, without secrets and control characters. The problems of
/// a pipeline file come with snippets.
pub fn error_text(error: &Error) -> String {
    let text = Diagnostics::of(error).map_or_else(|| error.to_string(), ToString::to_string);
    terminal::printable(&secret::hide(&text)).into_owned()
}

/// Shows an error on stderr; the problems of a pipeline file come with snippets.
fn show(error: &Error) {
    if !log::says_errors() {
        return;
    }
    if log::is_json() {
        return log::error(error);
    }
    if let Some(diagnostics) = Diagnostics::of(error) {
        return terminal::say_styled(&diagnostics.to_string(), || diagnostics.styled());
    }
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    terminal::say_styled(&format!("error: {error}"), || {
        format!("{}error:{} {error}", style.render(), style.render_reset())
    });
}
