//! `hfauto-pipe plan`: shows what a run would do.

use std::fmt::Write;
use std::sync::Arc;

use clap::Args;

use super::PipelineArgs;
use super::log::{self, Verbosity};
use crate::config::pipeline::NoticesSpec;
use crate::error::Result;
use crate::job::{Job, JobOptions, PeakMemory, TokenSample, bytes, count, counted};
use crate::sink::{UnitKey, UnitStatus};

/// The rows of the sample whose tokens are counted.
const SAMPLE_ROWS: usize = 1000;

#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    /// Plan for at most this many rows of the source.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Show only the units: which ones are computed or skipped, and why.
    #[arg(long)]
    explain: bool,
}

impl PlanArgs {
    pub(super) fn run(self) -> Result<()> {
        let text = super::block_on(async {
            let pipeline = self.pipeline.load()?;
            let hub = super::hub(self.pipeline.offline);
            let options = JobOptions { limit: self.limit, ..JobOptions::default() };
            options.check(&pipeline)?;
            let job = Job::prepare(pipeline, options, Arc::new(hub)).await?;
            if self.explain {
                return explain(&job);
            }
            let mut text = describe(&job).await?;
            if log::verbosity() >= Verbosity::Verbose {
                let _ = write!(text, "physical plan\n{}", indent(&job.explain().await?));
            }
            Ok(text)
        })?;
        super::print(text)
    }
}

/// The plan of a job as text.
pub(super) async fn describe(job: &Job) -> Result<String> {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_plan(&mut text, job, &job.sample_tokens(SAMPLE_ROWS).await?, &job.units()?);
    if let Some(refusal) = job.refusal()? {
        let hint = refusal.remedy().unwrap_or_default();
        let _ = writeln!(
            text,
            "            `run` exits with {}: {}; {hint}",
            refusal.kind().exit_code(),
            refusal.message()
        );
    }
    Ok(text)
}

/// Whether a run would compute or skip each unit, and why.
fn explain(job: &Job) -> Result<String> {
    if let Some(reason) = job.why_whole() {
        return Ok(format!("one unit: {reason}\n"));
    }
    let mut text = String::new();
    for (unit, status) in job.units()? {
        let what = match status {
            UnitStatus::Done => "skip     done before",
            UnitStatus::New => "compute  new",
            UnitStatus::FileChanged => "compute  the file has changed",
            UnitStatus::PlanChanged => "compute  a model, an option or the SQL has changed",
        };
        text += &format!("{}  {}  {what}\n", unit.stem(), unit.input);
    }
    Ok(text)
}

fn write_plan(
    text: &mut String,
    job: &Job,
    samples: &[Option<TokenSample>],
    units: &[(UnitKey, UnitStatus)],
) -> std::fmt::Result {
    let pipeline = job.pipeline();
    let source = job.source();
    let size: u64 = source.files.iter().map(|file| file.bytes).sum();
    writeln!(text, "pipeline  {} ({})", pipeline.name, pipeline.file.display())?;
    write!(text, "source    {}, {}", counted(source.files.len() as u64, "file"), bytes(size))?;
    match job.progress().total_rows() {
        Some(rows) => writeln!(text, ", {}", counted(rows, "row"))?,
        None => writeln!(text, ", rows unknown before reading")?,
    }
    if let Some(reason) = job.why_whole() {
        writeln!(text, "units     1, published when it is done: {reason}")?;
    } else {
        let is = |status| units.iter().filter(|unit| unit.1 == status).count() as u64;
        writeln!(
            text,
            "units     {}, each kept once it is done, published together: {} to compute, {} done",
            count(units.len() as u64),
            count(units.len() as u64 - is(UnitStatus::Done)),
            count(is(UnitStatus::Done))
        )?;
        for (status, why) in [
            (UnitStatus::New, "new"),
            (UnitStatus::FileChanged, "their file has changed"),
            (UnitStatus::PlanChanged, "a model, an option or the SQL has changed"),
        ] {
            if is(status) > 0 {
                writeln!(text, "  {:>7}   {why}", count(is(status)))?;
            }
        }
    }

    for (step, sample) in job.steps().iter().zip(samples) {
        let (summary, settings) = (step.task().summary(), step.settings());
        writeln!(text, "step      {step}")?;
        writeln!(
            text,
            "  model     {} {}, {}, {} on {}",
            summary.repo,
            summary.commit.as_deref().unwrap_or("(local directory)"),
            summary.model_type,
            summary.dtype,
            summary.device
        )?;
        match step.task().weights() {
            Some(weights) => writeln!(
                text,
                "  weights   {}, {} in memory",
                counted(weights.parameters as u64, "parameter"),
                bytes(weights.bytes as u64)
            )?,
            None => writeln!(text, "  weights   not cached: `run` or `fetch` downloads them")?,
        }
        writeln!(text, "  options   {}", summary.options)?;
        writeln!(
            text,
            "  batches   {} tokens each, sorted in windows of {} rows, {}",
            step.max_batch_tokens(),
            settings.sort_window_rows,
            counted(step.num_workers() as u64, "worker")
        )?;
        match sample {
            Some(sample) => writeln!(
                text,
                "  tokens    of {}: {:.1} on average, median {}, 95% up to {}, longest {}, {} cut, {} null",
                counted(sample.rows as u64, "row"),
                sample.mean,
                sample.median,
                sample.p95,
                sample.max,
                sample.truncated,
                sample.null_rows
            )?,
            None => writeln!(text, "  tokens    not sampled: an earlier step makes the column")?,
        }
    }

    if let Some(peak) = PeakMemory::of(job.steps(), samples, job.progress().total_rows()) {
        let PeakMemory { program, weights, activations, caches } = peak;
        write!(
            text,
            "memory    about {} at peak: program and rows {}, weights {}, activations {}",
            bytes(peak.total()),
            bytes(program),
            bytes(weights),
            bytes(activations)
        )?;
        if caches > 0 {
            write!(text, ", keys and values {}", bytes(caches))?;
        }
        writeln!(text)?;
    }
    writeln!(text, "columns")?;
    let made: Vec<_> = job.steps().iter().map(|step| step.task().field().name().clone()).collect();
    for field in job.schema().fields() {
        let note = if made.contains(field.name()) { "  (model)" } else { "" };
        writeln!(text, "  {}: {}{note}", field.name(), field.data_type())?;
    }
    let sink = &pipeline.sink;
    let format = if sink.delta.is_some() { "delta" } else { sink.format.name() };
    writeln!(text, "sink      {}, {format}", sink.shown().display())?;
    write_notices(text, &pipeline.notices)
}

/// Where a run sends events and its report.
fn write_notices(text: &mut String, notices: &NoticesSpec) -> std::fmt::Result {
    if let Some(collector) = &notices.openlineage {
        let (address, namespace) = (&collector.address.shown, &collector.namespace);
        writeln!(text, "lineage   to {address}, namespace {namespace}")?;
    }
    let webhooks = [("on_failure", &notices.on_failure), ("on_success", &notices.on_success)];
    for (key, address) in webhooks {
        if let Some(address) = address {
            writeln!(text, "{key:<11}to {}", address.shown)?;
        }
    }
    Ok(())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
