//! `hfauto-pipe init`: a commented pipeline file to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::error::{Error, ErrorKind, Result};

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The task.
    #[arg(value_enum, default_value = "feature-extraction")]
    task: TaskArg,

    /// Where to write it; default stdout. An existing file is never replaced.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Tasks of this version.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TaskArg {
    FeatureExtraction,
}

impl InitArgs {
    pub(super) fn run(self) -> Result<()> {
        let text = match self.task {
            TaskArg::FeatureExtraction => include_str!("init/feature-extraction.yaml"),
        };
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
