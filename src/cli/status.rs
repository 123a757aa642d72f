//! `hfauto-pipe status`: shows the progress of a pipeline's output, also of a run in another process. Reads it from the
//! storage. Not here: the last and next runs of a folder (`status_folder`).

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::progress::clock;
use super::{PipelineArgs, status_folder};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{count, counted};
use crate::sink::OutputState;

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// A pipeline file; or a folder, for the last and the next run of each pipeline.
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// The state folder of `schedule`. Default: `.hfauto/schedule` in the pipeline's folder.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(super) fn run(self) -> Result<()> {
        if self.pipeline.pipeline.is_dir() {
            return status_folder::run(&self.pipeline, self.state.as_deref(), self.json);
        }
        let pipeline = self.pipeline.load()?;
        let state = OutputState::of(&pipeline.sink)?;
        let scheduled = status_folder::of_pipeline(&pipeline, self.state.as_deref())?;
        if self.json {
            let mut json = serde_json::to_value(&state).map_err(|e| {
                Error::new(ErrorKind::Internal, "cannot convert the state to JSON").source(e)
            })?;
            if let Some(scheduled) = &scheduled {
                json["scheduled"] = scheduled.to_json();
            }
            return super::terminal::print_json(json);
        }
        let output = pipeline.sink.shown().display();
        let scheduled = scheduled.map(|scheduled| scheduled.to_string()).unwrap_or_default();
        super::print(format_args!("{}: {}\n{output}\n{scheduled}", pipeline.name, describe(&state)))
    }
}

fn describe(state: &OutputState) -> String {
    match state {
        OutputState::Absent => "no output yet".to_owned(),
        OutputState::Published { rows: 0, at } => format!("done, published {at}"),
        OutputState::Published { rows, at } => {
            format!("done, {}, published {at}", counted(*rows, "row"))
        }
        OutputState::Unfinished {
            is_running,
            pid,
            started_at,
            units,
            done,
            rows,
            rows_per_second,
            seconds_left,
        } => {
            let units = match units {
                Some(units) => {
                    format!("{} of {}", count(*done as u64), counted(*units as u64, "unit"))
                }
                None => counted(*done as u64, "unit"),
            };
            let done = format!("{units} done, {}", counted(*rows, "row"));
            if !is_running {
                return format!("interrupted: {done}; `run` resumes from them");
            }
            let pid = pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
            let since = started_at.as_deref().map_or_else(String::new, |at| format!(" since {at}"));
            let rate =
                rows_per_second.map_or_else(String::new, |rate| format!(", {rate:.0} rows/s"));
            let left = seconds_left.map_or_else(String::new, |seconds| {
                format!(", ETA {}", clock(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))))
            });
            format!("running{pid}{since}: {done}{rate}{left}")
        }
    }
}
