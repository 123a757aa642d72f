//! `hfauto-pipe compact`: rewrites small parts of an output as larger ones.

use std::path::PathBuf;

use clap::Args;

use crate::config::size_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::job::{bytes, counted};
use crate::sink;

#[derive(Args, Debug)]
pub(super) struct CompactArgs {
    /// The output: the folder or URL of `sink.path`.
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,

    /// The approximate size of parts.
    #[arg(long, value_name = "SIZE", default_value = "256MB")]
    target_file_size: String,
}

impl CompactArgs {
    pub(super) fn run(self) -> Result<()> {
        let target = size_bytes(&self.target_file_size).filter(|bytes| *bytes > 0);
        let target = target.ok_or_else(|| {
            let message = format!("`{}` is not a size", self.target_file_size);
            Error::new(ErrorKind::Usage, message).hint("write a number and a unit, such as 256MB")
        })?;
        let done = sink::compact(&self.output, target)?;
        let (before, after) =
            (counted(done.before as u64, "part"), counted(done.after as u64, "part"));
        let (rows, size) = (counted(done.rows, "row"), bytes(done.bytes));
        if done.before == done.after {
            return super::print(format_args!("nothing to compact: {before}, {rows}, {size}\n"));
        }
        super::print(format_args!("{before} are {after} now: {rows}, {size}\n"))
    }
}
