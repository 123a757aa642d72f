//! `hfauto-pipe init`: a commented pipeline file to start from.
//!
//! The templates come with the tasks: the pipelines of this repository, with a model of the hub and the user's data
//! instead of the samples.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};

use crate::error::{Error, ErrorKind, Result};
use crate::tasks::{TASKS, TaskDefinition};

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The task.
    #[arg(value_parser = PossibleValuesParser::new(task_names()), default_value = TASKS[0].id)]
    task: String,

    /// The file to write; default stdout. An existing file is never replaced.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The ids of the tasks, which their aliases stand for.
fn task_names() -> impl Iterator<Item = PossibleValue> {
    TASKS.iter().map(|task| PossibleValue::new(task.id).aliases(task.aliases))
}

/// The template of a task.
fn template(task: &str) -> String {
    TaskDefinition::find(task).map(for_users).unwrap_or_default()
}

/// A pipeline of this repository with a hub model and the user's data, without tests.
pub(super) fn for_users(task: &TaskDefinition) -> String {
    let mut text = String::new();
    let mut section = "";
    for line in task.template.lines() {
        if let Some((key, _)) = line.split_once(':')
            && !line.starts_with([' ', '#'])
        {
            section = key;
        }
        if section == "tests" || line.starts_with("# The model that comes with") {
            continue;
        }
        let line = match (section, line.trim_start().split_once(':')) {
            ("models", Some(("repo", _))) => {
                format!("    repo: {}", task.hub_model().unwrap_or("org/name"))
            }
            ("source", Some(("path", _))) => "  path: data/*.parquet".to_owned(),
            ("sink", Some(("path", rest))) => {
                format!("  path: {}", rest.trim().trim_start_matches("../"))
            }
            ("source", Some(("limit", _))) => continue,
            _ => line
                .replace("the sample reviews", "texts")
                .replace("each sample review", "each text"),
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line}");
    }
    format!("{}\n", text.trim_end())
}

impl InitArgs {
    pub(super) fn run(self) -> Result<()> {
        let text = template(&self.task);
        let Some(file) = self.output else { return super::print(text) };
        let cannot = |e: std::io::Error| {
            Error::new(ErrorKind::Sink, format!("cannot write `{}`", file.display())).source(e)
        };
        let mut out = OpenOptions::new().write(true).create_new(true).open(&file).map_err(|e| {
            let exists = e.kind() == std::io::ErrorKind::AlreadyExists;
            let error = cannot(e);
            if exists { error.hint("choose another `--output`") } else { error }
        })?;
        out.write_all(text.as_bytes()).map_err(cannot)?;
        super::print(format_args!(
            "wrote {}; set its `source.path`, then: hfauto-pipe plan {}\n",
            file.display(),
            file.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, LoadOptions};

    #[test]
    fn every_template_is_a_pipeline_of_its_task_with_a_model_of_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        for task in TASKS.iter().map(|task| task.id) {
            let text = template(task);
            assert!(!text.contains("tests") && !text.contains("../"), "{text}");
            assert!(text.contains(&format!("- {task}:")), "{text}");
            std::fs::write(&file, &text).unwrap();
            let pipeline = config::load(&file, &LoadOptions::default());
            let pipeline = pipeline.unwrap_or_else(|report| panic!("{text}\n{report}"));
            assert!(pipeline.models.values().all(|model| !model.repo.starts_with('/')), "{text}");
        }
    }
}
