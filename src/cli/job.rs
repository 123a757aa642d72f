//! The flags that the commands over jobs share. Not here: running the job (`run`).

use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::config::pipeline::{DeviceSpec, Dtype, Pipeline};
use crate::error::Result;
use crate::hub::Hub;
use crate::job::{Job, JobOptions};
use crate::notify::{self, Notices};
use crate::sink::{Shard, Sink};

/// The job options of the command line.
#[derive(Args, Debug)]
pub(super) struct JobArgs {
    /// Read at most this many rows of the source.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Replace an existing output at `sink.path`: the files of an earlier run, or a single file.
    #[arg(long)]
    fresh: bool,

    /// Remove rows of deleted input files from the output of an incremental pipeline.
    #[arg(long)]
    prune: bool,

    /// Compute the I-th of N shares of the units, while other processes compute the others. The last one to finish
    /// publishes the output.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,

    /// Compute units together with other processes that run the same command, on any machines. Each claims units in the
    /// output; processes may start and end at any time. The last one publishes the output.
    #[arg(long, conflicts_with = "shard")]
    join: bool,

    #[command(flatten)]
    pub(super) models: ModelArgs,
}

/// The options of every model.
#[derive(Args, Clone, Debug)]
pub(super) struct ModelArgs {
    /// The device of every model: auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    device: Option<DeviceSpec>,

    /// The dtype of every model: auto, f32, bf16 (on a CPU, half the memory), f16 on a GPU, or int8 on a CPU (faster).
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
}

/// How a schedule identifies a run to other systems, for which it stands in if the run dies.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct RunIdentity {
    /// The id of the run.
    #[arg(long, hide = true)]
    pub(super) run_id: Option<String>,

    /// The time that it is due.
    #[arg(long, hide = true)]
    pub(super) nominal_time: Option<DateTime<Utc>>,
}

impl RunIdentity {
    /// What a run of this identity tells other systems.
    pub(super) fn notices(self, pipeline: &Pipeline) -> Option<Notices> {
        let run_id = self.run_id.unwrap_or_else(notify::new_run_id);
        Notices::new(pipeline, run_id, self.nominal_time)
    }
}

impl ValueEnum for Dtype {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::F32, Self::F16, Self::Bf16, Self::Int8]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

fn device(text: &str) -> std::result::Result<DeviceSpec, String> {
    DeviceSpec::of_name(text)
        .ok_or_else(|| "expected auto, cpu, cuda or cuda:N, such as cuda:0".to_owned())
}

/// `2/4` means the second of four shards.
fn shard(text: &str) -> std::result::Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(index, count)| {
        Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
    });
    match parts {
        Some((index, count)) if (1..=count).contains(&index) => {
            Ok(Shard { index: index - 1, count })
        }
        _ => Err("expected I/N, such as 1/4 for the first of four shares".to_owned()),
    }
}

impl ModelArgs {
    /// Overrides the models' own settings.
    pub(super) fn set(&self, pipeline: &mut Pipeline) {
        for model in pipeline.models_mut() {
            model.device = self.device.unwrap_or(model.device);
            model.dtype = self.dtype.unwrap_or(model.dtype);
        }
    }
}

impl JobArgs {
    /// The equivalent command-line arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{name}={value}")));
        };
        add("limit", self.limit.map(|limit| limit.to_string()));
        add("shard", self.shard.map(|shard| shard.to_string()));
        add("device", self.models.device.map(|device| device.to_string()));
        add("dtype", self.models.dtype.map(|dtype| dtype.name().to_owned()));
        let flags = [("--fresh", self.fresh), ("--prune", self.prune), ("--join", self.join)];
        for (name, is_set) in flags {
            arguments.extend(is_set.then(|| name.to_owned()));
        }
        arguments
    }

    /// Checks and plans the job of a pipeline with these options; `cluster` has its units computed by other processes.
    pub(super) async fn prepare(
        &self,
        mut pipeline: Pipeline,
        hub: Hub,
        cluster: bool,
    ) -> Result<Job> {
        self.models.set(&mut pipeline);
        let (limit, overwrite, prune) = (self.limit, self.fresh, self.prune);
        let (shard, join) = (self.shard, self.join);
        let options = JobOptions { limit, overwrite, prune, shard, join, cluster };
        options.check(&pipeline)?;
        Sink::check(&pipeline.sink, overwrite || pipeline.run.is_incremental)?;
        Box::pin(Job::prepare(pipeline, options, Arc::new(hub))).await
    }
}
