//! `hfauto-pipe man DIR`: a man page for the program and for each command.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::error::{Error, ErrorKind, Result};

#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// The folder to write to; it must exist.
    dir: PathBuf,
}

impl ManArgs {
    pub(super) fn run(self) -> Result<()> {
        clap_mangen::generate_to(super::Cli::command(), &self.dir).map_err(|e| {
            let message = format!("cannot write man pages to `{}`", self.dir.display());
            Error::new(ErrorKind::Sink, message).source(e)
        })
    }
}
