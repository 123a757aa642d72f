//! `hfauto-pipe schema`: the JSON Schema of pipeline files, for editors.

use crate::config;
use crate::error::Result;

pub(super) fn run() -> Result<()> {
    super::print(format_args!("{:#}\n", config::schema()))
}
