//! `hfauto-pipe completions SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::error::Result;

#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell to complete for.
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "hfauto-pipe", &mut script);
        // clap_complete 4.6 writes the hyphen of the name in two ways, so that its script for bash completes the first word
        // only.
        let script = String::from_utf8_lossy(&script);
        super::print(script.replace("hfauto__subcmd__pipe", "hfauto__pipe"))
    }
}
