//! `hfauto-pipe fetch`: downloads models into the Hugging Face cache, for offline use.

use std::path::Path;

use clap::Args;

use crate::config::pipeline::StepKind;
use crate::config::{self, LoadOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Need;

#[derive(Args, Debug)]
pub(super) struct FetchArgs {
    /// Hub ids, or pipeline files (`.yaml`, `.yml`) whose models are fetched.
    #[arg(required = true, value_name = "MODEL|PIPELINE")]
    what: Vec<String>,

    /// Branch, tag or commit; for hub ids.
    #[arg(long)]
    revision: Option<String>,
}

impl FetchArgs {
    pub(super) fn run(self) -> Result<()> {
        let hub = super::hub(false);
        for what in &self.what {
            for (repo, revision, need) in self.models(what)? {
                let (revision, progress) = (revision.as_deref(), &super::progress::download);
                let snapshot = match need {
                    Need::Adapter => hub.adapter(&repo, revision, progress),
                    need => hub.snapshot(&repo, revision, need, progress),
                }?;
                let commit = snapshot.commit().unwrap_or("a local directory, nothing to fetch");
                super::print(format_args!("{repo}: {commit}\n"))?;
            }
        }
        Ok(())
    }

    /// The repositories behind one argument, with their revisions: models and adapters.
    fn models(&self, what: &str) -> Result<Vec<(String, Option<String>, Need)>> {
        let path = Path::new(what);
        let is_pipeline = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if !is_pipeline {
            return Ok(vec![(what.to_owned(), self.revision.clone(), Need::Weights)]);
        }
        if self.revision.is_some() {
            return Err(Error::new(
                ErrorKind::Usage,
                "`--revision` cannot be used with a pipeline file",
            )
            .hint("set `revision` in the pipeline file"));
        }
        let pipeline = config::load(path, &LoadOptions::default())?;
        let mut models = Vec::new();
        for step in &pipeline.steps {
            if let StepKind::Task(step) = &step.kind {
                let spec = &step.model;
                let model = (spec.repo.clone(), spec.revision.clone(), Need::Weights);
                let adapter = spec.adapter.clone().map(|adapter| (adapter, None, Need::Adapter));
                for needed in std::iter::once(model).chain(adapter) {
                    if !models.contains(&needed) {
                        models.push(needed);
                    }
                }
            }
        }
        Ok(models)
    }
}
