//! `hfauto-pipe validate`: checks pipeline files, without network, weights or data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::PipelineArgs;
use crate::config::pipeline::{Pipeline, Step, StepKind};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{check_outputs, counted};
use crate::sink::Sink;
use crate::source;
use crate::tasks::{self, Models};

#[derive(Args, Debug)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// More pipeline files.
    more: Vec<PathBuf>,

    /// Resolve models too: downloads their config and tokenizer files unless they are cached.
    #[arg(long)]
    fetch: bool,
}

impl ValidateArgs {
    pub(super) fn run(self) -> Result<()> {
        let mut wrong = 0;
        let mut files = vec![self.pipeline.pipeline.clone()];
        files.extend(self.more.iter().cloned());
        for file in files {
            let args = PipelineArgs {
                pipeline: file.clone(),
                set: self.pipeline.set.clone(),
                offline: self.pipeline.offline,
            };
            match self.check(&args) {
                Ok(steps) => super::print(format_args!("{}: ok, {steps}\n", file.display()))?,
                Err(error) if self.more.is_empty() => return Err(error),
                Err(error) => {
                    super::show(&error);
                    wrong += 1;
                }
            }
        }
        match wrong {
            0 => Ok(()),
            wrong => {
                Err(Error::new(ErrorKind::Config, format!("{wrong} pipeline files have errors")))
            }
        }
    }

    fn check(&self, args: &PipelineArgs) -> Result<String> {
        let pipeline = args.load()?;
        let mut problems = Vec::new();
        problems.extend(check_outputs(&pipeline).err());
        if let Some(predicate) = &pipeline.source.predicate
            && let Err(error) = source::check_predicate(predicate)
        {
            problems.push(error.at(&pipeline.source.location));
        }
        if pipeline.run.is_incremental && pipeline.source.limit.is_some() {
            problems.push(not_in_units("has a limit").at(&pipeline.source.location));
        }
        for step in &pipeline.steps {
            if let Err(error) = self.check_step(step, &pipeline, args.offline) {
                problems.push(error.at(format!("step at {}", step.location)));
            } else if pipeline.run.is_incremental
                && let Some(reason) = why_whole(step)
            {
                problems.push(not_in_units(reason).at(format!("step at {}", step.location)));
            }
        }
        if let Some(last) = problems.pop() {
            problems.iter().for_each(super::show);
            return Err(last);
        }
        Ok(counted(pipeline.steps.len() as u64, "step"))
    }

    fn check_step(&self, step: &Step, pipeline: &Pipeline, offline: bool) -> Result<()> {
        let config = match &step.kind {
            StepKind::Sql(query) => return source::check_query(query),
            StepKind::Task(config) => config,
        };
        let repo = &config.model.repo;
        let is_directory = Path::new(repo).is_absolute();
        if is_directory && !Path::new(repo).exists() {
            let message = format!("model directory `{repo}` does not exist");
            return Err(Error::new(ErrorKind::Hub, message));
        }
        // Small files are always read from a directory, but from a hub only if they may be fetched.
        if is_directory || self.fetch {
            let hub = super::hub(offline || !self.fetch);
            let task = tasks::resolve(config, &Models::new(Arc::new(hub)))?;
            let is_sql = |step: &Step| matches!(step.kind, StepKind::Sql(_));
            let has_items = config.options.items().is_some();
            // A `sql` step may leave the column out; items of a list become columns of texts and numbers.
            if !has_items && !pipeline.steps.iter().any(is_sql) {
                Sink::check_column(&pipeline.sink, task.field())?;
            }
        }
        Ok(())
    }
}

/// Why a step cannot be computed in units, as far as the file shows it; a run checks the plan.
fn why_whole(step: &Step) -> Option<&'static str> {
    match &step.kind {
        StepKind::Sql(query) => source::why_whole_query(query).ok().flatten(),
        StepKind::Task(task) => task.options.why_whole(),
    }
}

fn not_in_units(reason: &str) -> Error {
    let message = "`run.incremental` needs a pipeline that can be computed in units";
    Error::new(ErrorKind::Config, format!("{message}: the pipeline {reason}"))
        .hint("remove `incremental`: every run then computes all rows")
}
