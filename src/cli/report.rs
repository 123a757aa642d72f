//! `hfauto-pipe report`: turns the report of a run into one HTML page. Not here: the page (`crate::report`).

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::table::cells;
use super::{PipelineArgs, key_value};
use crate::config::pipeline::SourceSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::own_file;
use crate::report::{FirstRows, Report, page_with_rows};
use crate::sink::{self, Sink};
use crate::source;

#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// A report of `run --report`, or a pipeline file (YAML), whose output keeps the report of its last run.
    report: PathBuf,

    /// The page to write; `-` is stdout.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,

    /// Override a key of the pipeline file, for example `--set sink.path=out`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

/// The rows of the output that the page shows.
const FIRST_ROWS: usize = 5;

/// The first rows of the first file that the run wrote; `None` if it is no longer there, or not on this machine.
fn first_rows(report: &Report) -> Option<FirstRows> {
    let file = report.run.as_ref()?.output.first()?;
    if !file.path.is_file() {
        return None;
    }
    let read = super::block_on(async {
        let session = source::session(None)?;
        let spec = SourceSpec::of_path(file.path.display().to_string(), "the output");
        let rows = source::open(&session, &spec).await?.dataframe;
        let columns = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
        let rows = async { rows.limit(0, Some(FIRST_ROWS))?.collect().await };
        let rows = rows.await.map_err(|e| source::query_error(e, &[]))?;
        Ok(FirstRows { columns, rows: cells(&rows)? })
    });
    read.ok()
}

impl ReportArgs {
    pub(super) fn run(self) -> Result<()> {
        let (file, text) = self.read()?;
        let text = String::from_utf8_lossy(&text);
        let report = Report::from_json(&text).map_err(|e| e.at(file.display()))?;
        let report = report.if_alive();
        let page = page_with_rows(&report, first_rows(&report).as_ref())?;
        if self.output == Path::new("-") {
            return super::print(page);
        }
        super::observe::replace(&self.output, page.as_bytes()).map_err(|e| {
            let message = format!("cannot write the page `{}`", self.output.display());
            Error::new(ErrorKind::Sink, message).source(e).hint("choose another `--output`")
        })?;
        super::print(format_args!("{}\n", self.output.display()))
    }

    fn is_pipeline(&self) -> bool {
        self.report.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
    }

    /// The report, and its path.
    fn read(&self) -> Result<(PathBuf, Vec<u8>)> {
        let found = |file: PathBuf, read: io::Result<Vec<u8>>| match read {
            Ok(text) => Ok((file, text)),
            Err(error) => Err(self.no_report(&file, error)),
        };
        if !self.is_pipeline() {
            return found(self.report.clone(), std::fs::read(&self.report));
        }
        let (pipeline, set) = (self.report.clone(), self.set.clone());
        let pipeline = PipelineArgs { pipeline, set, offline: true }.load()?;
        if Sink::is_file(&pipeline.sink) {
            let message = "an output of a single file keeps no report";
            return Err(Error::new(ErrorKind::NoInput, message)
                .at(pipeline.file.display())
                .hint("run the pipeline with `--report FILE`, and pass that file"));
        }
        if !sink::is_remote(&pipeline.sink) {
            let file = super::observe::kept_report(&pipeline.sink.path);
            let read = own_file::read(&file);
            return found(file, read);
        }
        let output = pipeline.sink.path.clone();
        match sink::kept_report(&pipeline.sink)? {
            Some(text) => Ok((output, text)),
            None => Err(self.no_report(&output, io::ErrorKind::NotFound.into())),
        }
    }

    fn no_report(&self, file: &Path, error: io::Error) -> Error {
        let is_missing = error.kind() == io::ErrorKind::NotFound && self.is_pipeline();
        let hint = if is_missing {
            "no run has written a report yet; run the pipeline, or pass a file of `run --report`"
        } else {
            "pass a file that `run --report` wrote, or a pipeline file (.yaml)"
        };
        Error::new(ErrorKind::NoInput, format!("cannot read the report `{}`", file.display()))
            .source(error)
            .hint(hint)
    }
}
