//! `hfauto-pipe embed FILES --column text -o out/`, and the same for every task: a pipeline of one step, written from the
//! flags. Verbs and flags come from the declarations of the tasks. Not here: running it (`run`), showing its first rows
//! (`preview`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind as ClapErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use serde_json::Value;

use super::job::RunIdentity;
use super::run::RunOptions;
use super::{default_model, preview};
use crate::config::pipeline::Pipeline;
use crate::config::raw::RawStep;
use crate::config::{self, LoadOptions};
use crate::document::{Data, plain_scalar};
use crate::error::{Error, ErrorKind, Result};
use crate::store;
use crate::tasks::{TASKS, TaskDefinition};

/// The rows that are shown without `--output`.
const PREVIEW_ROWS: usize = 5;

/// The command of a task.
struct TaskCommand {
    task: &'static TaskDefinition,
    verb: &'static str,
    /// Whether `input` may be a single column.
    takes_column: bool,
    /// The keys of `input` that name several columns.
    inputs: Vec<Flag>,
    /// The options of the step.
    options: Vec<Flag>,
    /// The name of the new column, if the flags give none.
    output: String,
    /// The model of the hub that the task's template names.
    model: Option<&'static str>,
}

/// A flag for a key of the step.
struct Flag {
    key: String,
    name: String,
    help: String,
    kind: Kind,
    is_required: bool,
}

/// How the value of a flag becomes YAML.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// A text.
    Text,
    /// One of these texts.
    Choice(Vec<String>),
    /// A list of texts: `a,b` or `["a, b", c]`.
    List,
    /// `true` or `false`; the flag alone is `true`.
    Boolean,
    /// A number.
    Number,
    /// Any YAML value on one line.
    Yaml,
}

/// The verb of a task, and its command once it is used: to make the flags takes time and memory.
struct Verb {
    task: &'static TaskDefinition,
    /// The task's function in SQL, with hyphens.
    name: String,
    command: OnceLock<TaskCommand>,
}

/// The verbs of all tasks, in their order.
static VERBS: LazyLock<Vec<Verb>> = LazyLock::new(|| {
    let verb = |task: &'static TaskDefinition| Verb {
        task,
        name: task.function.name.replace('_', "-"),
        command: OnceLock::new(),
    };
    TASKS.iter().copied().map(verb).collect()
});

impl Verb {
    fn find(name: &str) -> Option<&'static Self> {
        VERBS.iter().find(|verb| verb.name == name)
    }

    fn command(&'static self) -> &'static TaskCommand {
        self.command.get_or_init(|| TaskCommand::of(self.task, &self.name, &config::schema()))
    }

    /// The command line of the task; its flags are added when it is used.
    fn clap(&'static self) -> Command {
        let names = std::iter::once(self.task.id).chain(self.task.aliases.iter().copied());
        Command::new(self.name.as_str())
            .about(self.task.summary)
            .visible_aliases(names.filter(|name| *name != self.name))
            .defer(|command| match Self::find(command.get_name()) {
                Some(verb) => verb.command().add_flags(command),
                None => command,
            })
    }
}

impl TaskCommand {
    fn of(task: &'static TaskDefinition, verb: &'static str, schema: &Value) -> Self {
        let steps = schema["$defs"]["RawStep"]["oneOf"].as_array();
        let step = steps.into_iter().flatten().find_map(|step| step["properties"].get(task.id));
        let step = step.unwrap_or(&Value::Null);
        let inputs = alternatives(&step["properties"]["input"], schema);
        let parts = inputs.iter().find(|input| input["type"] == "object");
        Self {
            task,
            verb,
            takes_column: inputs.iter().any(|input| input["type"] == "string"),
            inputs: parts.map(|parts| flags(parts, &[], schema)).unwrap_or_default(),
            options: flags(step, &["model", "input", "output"], schema),
            output: template_step(task).unwrap_or_else(|| "result".to_owned()),
            model: task.hub_model(),
        }
    }

    /// Adds the flags of the task to its command.
    fn add_flags(&'static self, command: Command) -> Command {
        // The summary comes last: `augment_args` sets the description of the flags.
        let mut command =
            TaskArgs::augment_args(command).about(self.task.summary).long_about(None).after_help(
                "Without `--output`, it shows the first rows and what the whole run would take.",
            );
        if self.takes_column {
            let column = Arg::new("column").long("column").short('c').value_name("COLUMN");
            let column = if self.inputs.is_empty() {
                column.required(true)
            } else {
                column
                    .required_unless_present_any(self.inputs.iter().map(|flag| flag.name.as_str()))
                    .conflicts_with_all(self.inputs.iter().map(|flag| flag.name.as_str()))
            };
            command = command.arg(column.help("The column to read"));
        }
        for flag in &self.inputs {
            let argument = flag.argument().value_name("COLUMN").help_heading("Columns");
            let others = self.inputs.iter().filter(|other| other.name != flag.name);
            command = command.arg(if self.takes_column {
                argument.requires_all(others.map(|other| other.name.as_str()))
            } else {
                argument.required(true)
            });
        }
        for flag in &self.options {
            let argument = flag.argument().help_heading("Options of the task");
            command = command.arg(argument.required(flag.is_required));
        }
        command
    }
}

/// The name of the column that the task's template makes.
fn template_step(task: &TaskDefinition) -> Option<String> {
    let raw = config::parse_raw(task.template, Path::new(task.id), &LoadOptions::default()).ok()?;
    raw.steps?.into_iter().find_map(|step| match step {
        RawStep::Task(step) if step.task.id == task.id => Some(step.keys.output),
        _ => None,
    })
}

/// The types that a schema allows, with references resolved.
fn alternatives<'s>(schema: &'s Value, root: &'s Value) -> Vec<&'s Value> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.trim_start_matches('#'));
        return target.map(|target| alternatives(target, root)).unwrap_or_default();
    }
    match schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        Some(options) => options.iter().flat_map(|option| alternatives(option, root)).collect(),
        None => vec![schema],
    }
}

/// A flag for each property of a mapping, except `hidden`.
fn flags(mapping: &Value, hidden: &[&str], root: &Value) -> Vec<Flag> {
    let required = mapping["required"].as_array();
    let is_required = |key: &str| required.is_some_and(|keys| keys.iter().any(|k| k == key));
    let properties = mapping["properties"].as_object().into_iter().flatten();
    properties
        .filter(|(key, _)| !hidden.contains(&key.as_str()))
        .map(|(key, schema)| Flag {
            key: key.clone(),
            name: key.replace('_', "-"),
            help: schema["description"].as_str().unwrap_or_default().to_owned(),
            kind: Kind::of(&alternatives(schema, root)),
            is_required: is_required(key),
        })
        .collect()
}

impl Kind {
    fn of(schemas: &[&Value]) -> Self {
        let mut types: Vec<&str> = Vec::new();
        let mut choices: Vec<String> = Vec::new();
        for schema in schemas {
            match &schema["type"] {
                Value::String(name) => types.push(name),
                Value::Array(names) => types.extend(names.iter().filter_map(Value::as_str)),
                _ => {}
            }
            let one = schema.get("const").into_iter();
            let many = schema["enum"].as_array().into_iter().flatten();
            choices.extend(one.chain(many).filter_map(Value::as_str).map(str::to_owned));
        }
        types.retain(|name| *name != "null");
        let only = |allowed: &[&str]| types.iter().all(|name| allowed.contains(name));
        if only(&["string"]) && !choices.is_empty() {
            Self::Choice(choices)
        } else if types.contains(&"array") && only(&["array", "string"]) {
            Self::List
        } else if only(&["string"]) {
            Self::Text
        } else if only(&["boolean"]) {
            Self::Boolean
        } else if only(&["integer", "number"]) {
            Self::Number
        } else {
            Self::Yaml
        }
    }

    /// The value as YAML on one line.
    fn yaml(&self, value: &str) -> String {
        match self {
            Self::Text | Self::Choice(_) => quoted(value),
            Self::List if value.starts_with('[') && !value.contains('\n') => value.to_owned(),
            Self::List => {
                let items: Vec<String> = value.split(',').map(|item| quoted(item.trim())).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Boolean | Self::Number => value.to_owned(),
            Self::Yaml => {
                let is_flow = value.starts_with(['[', '{']) && !value.contains('\n');
                let is_text = matches!(plain_scalar(value), Data::Text(_));
                if is_flow || !is_text { value.to_owned() } else { quoted(value) }
            }
        }
    }
}

/// A YAML text in quotes, without variables.
fn quoted(text: &str) -> String {
    Value::from(text.replace("${", "$${")).to_string()
}

impl Flag {
    fn argument(&'static self) -> Arg {
        let mut help = self.help.split("\n\n").next().unwrap_or_default().to_owned();
        if self.kind == Kind::List {
            help.push_str(" A list: `a,b`, or `[\"a, b\", c]`.");
        }
        let argument = Arg::new(self.name.as_str()).long(self.name.as_str()).help(help);
        match &self.kind {
            Kind::Choice(choices) => {
                argument.value_parser(PossibleValuesParser::new(choices.iter().map(String::as_str)))
            }
            Kind::Boolean => argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(["true", "false"]),
            Kind::Number => argument
                .value_name("NUMBER")
                .allow_negative_numbers(true)
                .value_parser(|text: &str| match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => Ok(text.to_owned()),
                    _ => Err("expected a number"),
                }),
            Kind::List => argument.value_name("LIST"),
            Kind::Text => argument.value_name("TEXT"),
            Kind::Yaml => argument.value_name("VALUE"),
        }
        .action(ArgAction::Set)
    }

    /// The key and its value as YAML, if the flag is given.
    fn given(&self, matches: &ArgMatches) -> Option<(&str, String)> {
        let value = matches.get_one::<String>(&self.name)?;
        Some((&self.key, self.kind.yaml(value)))
    }
}

/// The flags that the commands of all tasks have.
#[derive(Args, Debug)]
struct TaskArgs {
    /// Files, folders or globs of rows: Parquet, CSV, JSONL or Arrow IPC.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// The output: a folder, or a file (.parquet, .csv, .jsonl, .arrow).
    #[arg(short, long, value_name = "PATH")]
    output: Option<String>,

    /// The model: a hub id (`org/name`) or a directory.
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,

    /// A LoRA adapter of PEFT for the model: a hub id or a directory.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,

    /// The name of the new column.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,

    /// Write the pipeline file that these flags stand for; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    write_pipeline: Option<PathBuf>,

    /// Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    run: RunOptions,
}

/// A task over files, as given on the command line.
pub(super) struct TaskRun {
    command: &'static TaskCommand,
    args: TaskArgs,
    /// `input` of the step as YAML.
    input: String,
    /// The options of the step: keys and YAML values.
    options: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for TaskRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskRun").field("args", &self.args).finish_non_exhaustive()
    }
}

impl FromArgMatches for TaskRun {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let unknown = || clap::Error::new(ClapErrorKind::InvalidSubcommand);
        let (verb, matches) = matches.subcommand().ok_or_else(unknown)?;
        let command = Verb::find(verb).ok_or_else(unknown)?.command();
        let column = if command.takes_column { matches.get_one::<String>("column") } else { None };
        let input = match column {
            Some(column) => quoted(column),
            None => mapping(command.inputs.iter().filter_map(|flag| flag.given(matches))),
        };
        let options = command.options.iter().filter_map(|flag| flag.given(matches)).collect();
        Ok(Self { command, args: TaskArgs::from_arg_matches(matches)?, input, options })
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for TaskRun {
    fn augment_subcommands(command: Command) -> Command {
        command.subcommands(VERBS.iter().map(Verb::clap))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Verb::find(name).is_some()
    }
}

/// A mapping in YAML's flow style.
fn mapping<'a>(entries: impl Iterator<Item = (&'a str, String)>) -> String {
    let entries: Vec<String> = entries.map(|(key, value)| format!("{key}: {value}")).collect();
    format!("{{{}}}", entries.join(", "))
}

impl TaskRun {
    pub(super) fn run(self) -> Result<()> {
        let verb = self.command.verb;
        let written = self.args.write_pipeline.as_deref().filter(|file| *file != Path::new("-"));
        let file = written.map_or_else(|| PathBuf::from(format!("{verb}.yaml")), Path::to_owned);
        let text = self.pipeline(&file)?;
        let load =
            || -> Result<Pipeline> { Ok(config::parse(&text, &file, &LoadOptions::default())?) };
        // The file is written only if it is right.
        let mut pipeline = load()?;
        match &self.args.write_pipeline {
            Some(_) if written.is_none() => super::print(&text)?,
            Some(file) => std::fs::write(file, &text).map_err(|e| {
                Error::new(ErrorKind::Sink, format!("cannot write `{}`", file.display())).source(e)
            })?,
            None => {}
        }
        if self.args.output.is_some() {
            return self.args.run.run(&file, self.args.offline, &RunIdentity::default(), load);
        }
        self.args.run.models().set(&mut pipeline);
        preview::preview(&pipeline, PREVIEW_ROWS, self.args.offline)?;
        super::log::note("`-o PATH` computes and writes all rows");
        Ok(())
    }

    /// The pipeline file.
    fn pipeline(&self, file: &Path) -> Result<String> {
        let TaskArgs { paths, output, name, .. } = &self.args;
        // Relative paths of a pipeline file start at its folder.
        let is_here = file.parent().is_none_or(|folder| folder.as_os_str().is_empty());
        let from_file = |path: &str| {
            if is_here || store::is_url(path) {
                return path.to_owned();
            }
            let trailing = if path.ends_with('/') { "/" } else { "" };
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
            format!("{}{trailing}", absolute.display().to_string().trim_end_matches('/'))
        };
        let sources: Vec<String> = paths.iter().map(|path| quoted(&from_file(path))).collect();
        let source = match &*sources {
            [path] => path.clone(),
            paths => format!("[{}]", paths.join(", ")),
        };
        // A preview does not write there.
        let sink = output.as_deref().unwrap_or("out/");
        let column = name.as_deref().unwrap_or(&self.command.output);
        let repo = |name: &str| {
            let path = Path::new(name);
            let is_local = path.is_dir() || hfauto::hub::is_gguf_file(path);
            quoted(&if is_local { from_file(name) } else { name.to_owned() })
        };
        let model = repo(&self.model()?);
        let (models, model) = match &self.args.adapter {
            None => (String::new(), model),
            Some(adapter) => (
                format!("models:\n  adapted: {{repo: {model}, adapter: {}}}\n\n", repo(adapter)),
                "adapted".to_owned(),
            ),
        };
        let mut text = format!(
            "version: 1\n\n{models}source:\n  path: {source}\n\nsteps:\n  - {}:\n      model: {model}\n      input: {}\n      output: {}\n",
            self.command.task.id,
            self.input,
            quoted(column),
        );
        for (key, value) in &self.options {
            // Writing to a String does not fail.
            let _ = writeln!(text, "      {key}: {value}");
        }
        let _ = write!(text, "\nsink:\n  path: {}\n", quoted(&from_file(sink)));
        Ok(text)
    }

    /// The model of the command line, or the default one of the task, which is told.
    fn model(&self) -> Result<String> {
        if let Some(model) = &self.args.model {
            return Ok(model.clone());
        }
        let verb = self.command.verb;
        let example = self.command.model.unwrap_or("org/name");
        if let Some(model) = default_model(self.command.task)? {
            super::log::note(&if self.command.task.function.name == default_model::FUNCTION {
                format!(
                    "no `--model`: `{verb}` uses the small English model that comes with the program; `--model {example}` is a better one of the hub"
                )
            } else {
                format!("no `--model`: `{verb}` uses `{model}`; name another with `--model`")
            });
            return Ok(model);
        }
        let message = format!("`{verb}` needs `--model`");
        Err(Error::new(ErrorKind::Usage, message)
            .hint("name a model of the hub (`org/name`) or a directory"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(subcommand)]
        task: TaskRun,
    }

    /// The pipeline of a command line.
    fn pipeline(arguments: &[&str]) -> String {
        let arguments = std::iter::once("hfauto-pipe").chain(arguments.iter().copied());
        let run = Program::try_parse_from(arguments).unwrap().task;
        run.pipeline(Path::new("p.yaml")).unwrap()
    }

    #[test]
    fn every_task_has_a_command_whose_pipeline_loads() {
        for command in VERBS.iter().map(Verb::command) {
            let mut arguments = vec![command.verb, "rows.parquet", "-m", "org/name"];
            if command.takes_column {
                arguments.extend(["--column", "text"]);
            }
            let flags: Vec<String> = if command.takes_column {
                Vec::new()
            } else {
                command.inputs.iter().map(|flag| format!("--{}=a,b", flag.name)).collect()
            };
            arguments.extend(flags.iter().map(String::as_str));
            if command.options.iter().any(|flag| flag.is_required) {
                arguments.extend(["--candidate-labels", "sport,food and drink"]);
            }
            let text = pipeline(&arguments);
            let loaded = config::parse(&text, Path::new("p.yaml"), &LoadOptions::default());
            let loaded = loaded.unwrap_or_else(|report| panic!("{text}\n{report}"));
            assert_eq!(loaded.steps.len(), 1, "{text}");
            assert!(template_step(command.task).is_some(), "{}", command.verb);
        }
    }

    #[test]
    fn flags_become_keys() {
        let text = pipeline(&[
            "ner",
            "a.csv",
            "b/*.csv",
            "-c",
            "the ${text}",
            "-m",
            "org/ner",
            "-o",
            "out.jsonl",
            "--as",
            "entities",
            "--aggregation-strategy",
            "simple",
            "--ignore-labels",
            "O, MISC",
            "--stride=8",
        ]);
        assert_eq!(
            text,
            r#"version: 1

source:
  path: ["a.csv", "b/*.csv"]

steps:
  - token-classification:
      model: "org/ner"
      input: "the $${text}"
      output: "entities"
      aggregation_strategy: "simple"
      ignore_labels: ["O", "MISC"]
      stride: 8

sink:
  path: "out.jsonl"
"#
        );
    }

    #[test]
    fn values_become_yaml_of_their_type() {
        let check = |kind: Kind, value: &str, expected: &str| {
            assert_eq!(kind.yaml(value), expected, "{kind:?}");
        };
        check(Kind::Text, "true", "\"true\"");
        check(Kind::Text, "a\nsink: x", "\"a\\nsink: x\"");
        check(Kind::List, "a, b", "[\"a\", \"b\"]");
        check(Kind::List, "[a, \"b, c\"]", "[a, \"b, c\"]");
        check(Kind::Yaml, "all", "\"all\"");
        check(Kind::Yaml, "3", "3");
        check(Kind::Yaml, "{enable_thinking: false}", "{enable_thinking: false}");
        check(Kind::Boolean, "false", "false");
        let text = pipeline(&["embed", "a.csv", "-c", "t", "-m", "m", "--normalize"]);
        assert!(text.contains("normalize: true\n"), "{text}");
        let text = pipeline(&["rerank", "a.csv", "--query", "q", "--document", "d", "-m", "m"]);
        assert!(text.contains("input: {query: \"q\", document: \"d\"}\n"), "{text}");
    }

    #[test]
    fn wrong_flags_are_refused() {
        for arguments in [
            &["embed", "a.csv"] as &[&str],
            &["embed", "a.csv", "-c", "t", "--pooling", "median"],
            &["embed", "a.csv", "-c", "t", "--dimensions", "many"],
            &["classify", "a.csv", "-c", "t", "--text-pair", "u"],
            &["rerank", "a.csv", "--query", "q"],
        ] {
            let arguments = std::iter::once("hfauto-pipe").chain(arguments.iter().copied());
            let error = Program::try_parse_from(arguments.clone()).unwrap_err();
            assert!(error.exit_code() != 0, "{:?}", arguments.collect::<Vec<_>>());
        }
    }
}
