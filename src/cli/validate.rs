//! `hfauto-pipe validate`: checks pipeline files without network, weights or data.

use std::path::{Path, PathBuf};

use clap::Args;

use super::PipelineArgs;
use crate::config::pipeline::StepKind;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Need;
use crate::source;

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
                Err(Error::new(ErrorKind::Config, format!("{wrong} pipeline files are wrong")))
            }
        }
    }

    fn check(&self, args: &PipelineArgs) -> Result<String> {
        let pipeline = args.load()?;
        if let Some(predicate) = &pipeline.source.predicate {
            source::check_predicate(predicate).map_err(|e| e.at(&pipeline.source.location))?;
        }
        for step in &pipeline.steps {
            let place = format!("step at {}", step.location);
            match &step.kind {
                StepKind::Sql(query) => source::check_query(query).map_err(|e| e.at(place))?,
                StepKind::FeatureExtraction(config) => {
                    let repo = Path::new(&config.model.repo);
                    if repo.is_absolute() && !repo.is_dir() {
                        return Err(Error::new(
                            ErrorKind::Hub,
                            format!("model directory `{}` does not exist", repo.display()),
                        )
                        .at(place));
                    }
                }
            }
        }
        if self.fetch {
            let hub = super::hub(args.offline);
            for step in &pipeline.steps {
                let StepKind::FeatureExtraction(step_config) = &step.kind else { continue };
                let model = &step_config.model;
                hub.snapshot(&model.repo, model.revision.as_deref(), Need::Tokenizer, &|_| ())
                    .map_err(|e| e.at(format!("step at {}", step.location)))?;
            }
        }
        let steps = pipeline.steps.len();
        Ok(if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") })
    }
}
