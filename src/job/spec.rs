//! The descriptions of a job and of a unit for other processes, as bytes. Not here: the transport, and the process that
//! computes the units (`worker`).
//!
//! A description contains the values of the pipeline's variables and the token of the output's lock: treat it as a
//! secret. Credentials of stores and of the hub are not part of it; each process takes them from its own environment.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Job;
use super::units::{FileOfUnits, PlanOfUnits, UnitJob};
use crate::config::pipeline::{DeviceSpec, Dtype, OnErrorRows, Pipeline, Written};
use crate::config::reload;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::JOB_SPEC_BYTES;
use crate::source::{ShippedTable, ShippedUnit, Source, SourceUnit};
use crate::tasks::ModelPin;

/// The version of the descriptions.
const PROTOCOL: u32 = 1;

/// The build of this program: its version, and a hash of the program file. Processes of one job run one build, because
/// another one may compute other numbers.
pub fn build() -> &'static str {
    static BUILD: LazyLock<String> = LazyLock::new(|| {
        let hash = || {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::open(std::env::current_exe().ok()?).ok()?).ok()?;
            Some(hasher.finalize().to_hex()[..16].to_owned())
        };
        format!("{} {}", env!("CARGO_PKG_VERSION"), hash().unwrap_or_default())
    });
    &BUILD
}

/// The description of a job: everything that a process needs to compute its units, except the units.
#[derive(Clone, Serialize, Deserialize)]
pub struct JobSpec {
    protocol: u32,
    build: String,
    /// The absolute path of the pipeline file, from which relative paths start.
    file: PathBuf,
    pipeline: Written,
    /// The device and the dtype of each task step, which flags may have changed.
    devices: Vec<(String, Dtype)>,
    models: Vec<ModelPin>,
    source: ShippedTable,
    sink: String,
    /// The folder of dead letters, if the job writes any.
    dead_letter: Option<String>,
    plan_hash: String,
    /// The token under which the output is held.
    owner: String,
}

impl fmt::Debug for JobSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec").field("run_id", &self.run_id()).finish_non_exhaustive()
    }
}

/// What every version of the descriptions begins with.
#[derive(Deserialize)]
struct Head {
    protocol: u32,
    build: String,
}

impl JobSpec {
    /// Describes a job whose output is held under the token `owner`.
    ///
    /// # Errors
    /// `Internal` if the columns cannot be described.
    pub(super) fn of(job: &Job, owner: &str) -> Result<Self> {
        let file = std::path::absolute(job.file()).unwrap_or_else(|_| job.file().to_owned());
        let mut models: Vec<ModelPin> = Vec::new();
        for step in job.steps() {
            let pin = step.task().base().model.pin();
            models.extend(pin.filter(|pin| !models.contains(pin)));
        }
        let mut pipeline = job.pipeline.clone();
        let devices = pipeline.models_mut().map(|model| (model.device.to_string(), model.dtype));
        Ok(Self {
            protocol: PROTOCOL,
            build: build().to_owned(),
            file,
            devices: devices.collect(),
            models,
            source: job.source.ship()?,
            sink: path_text(&job.pipeline.sink.path),
            dead_letter: dead_letter(&job.pipeline),
            plan_hash: job.plan_hash().to_hex().to_string(),
            owner: owner.to_owned(),
            pipeline: job.pipeline.written.clone(),
        })
    }

    /// The description as bytes.
    ///
    /// # Errors
    /// `Internal` if it cannot be serialized.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }

    /// Reads a description, which may come from anyone. Opens nothing.
    ///
    /// # Errors
    /// `Config` if another build wrote it, `Data` if it is not a description.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        from_bytes(bytes)
    }

    /// Identifies the run, for logs.
    pub fn run_id(&self) -> &str {
        self.owner.get(..8).unwrap_or_default()
    }

    /// The build that prepared the job, as [`build`].
    pub fn build(&self) -> &str {
        &self.build
    }

    /// The path or URL of the output.
    pub fn sink_url(&self) -> &str {
        &self.sink
    }

    /// The path or URL of the folder of dead letters, if a worker writes any.
    pub fn dead_letter_url(&self) -> Option<&str> {
        self.dead_letter.as_deref()
    }

    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    pub(super) fn plan_hash(&self) -> &str {
        &self.plan_hash
    }

    pub(super) fn source(&self) -> &ShippedTable {
        &self.source
    }

    pub(super) fn models(&self) -> &[ModelPin] {
        &self.models
    }

    /// The pipeline, which writes only where the description says.
    ///
    /// # Errors
    /// `Config` if this build reads the pipeline differently.
    pub(super) fn pipeline(&self) -> Result<Pipeline> {
        let mut pipeline = reload(&self.pipeline, &self.file)?;
        let paths = (path_text(&pipeline.sink.path), dead_letter(&pipeline));
        if paths != (self.sink.clone(), self.dead_letter.clone()) {
            let message = format!("the job does not write to `{}` alone", self.sink);
            return Err(Error::new(ErrorKind::Config, message));
        }
        let models: Vec<_> = pipeline.models_mut().collect();
        if models.len() != self.devices.len() {
            return Err(Error::new(ErrorKind::Config, "the job has other steps than its pipeline"));
        }
        for (model, (device, dtype)) in models.into_iter().zip(&self.devices) {
            let device = DeviceSpec::of_name(device).ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("`{device}` is not a device"))
            })?;
            (model.device, model.dtype) = (device, *dtype);
        }
        Ok(pipeline)
    }
}

fn dead_letter(pipeline: &Pipeline) -> Option<String> {
    let on_error = &pipeline.on_error;
    (on_error.rows == OnErrorRows::Skip).then(|| path_text(&on_error.dead_letter))
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The description of one unit of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitSpec {
    protocol: u32,
    build: String,
    id: String,
    sequence: usize,
    /// The name of the input in manifests.
    input: String,
    rows: ShippedUnit,
}

impl UnitSpec {
    pub(super) fn of(unit: &UnitJob, source: &Source) -> Self {
        Self {
            protocol: PROTOCOL,
            build: build().to_owned(),
            id: unit.key.id.to_string(),
            sequence: unit.key.sequence,
            input: unit.key.input.to_string(),
            rows: source.unit(&unit.unit).ship(),
        }
    }

    /// The description as bytes.
    ///
    /// # Errors
    /// `Internal` if it cannot be serialized.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }

    /// Reads a description, which may come from anyone. Opens nothing.
    ///
    /// # Errors
    /// As [`JobSpec::from_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        from_bytes(bytes)
    }

    /// The unit's id, as in its manifest.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its position among the units of the job.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// The input file, as in the unit's manifest.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The unit of a job, and its rows.
    ///
    /// # Errors
    /// `Config` if it is a unit of another job; `NoInput` or `Data` if its file cannot be opened.
    pub(super) fn open(&self, job: &Job) -> Result<(UnitJob, SourceUnit)> {
        let rows = job.source.shipped_unit(&self.rows)?;
        let file = FileOfUnits::of(Arc::new(rows.file()));
        let mut unit = file.unit(rows.unit(), self.sequence, &PlanOfUnits::of(job.plan_hash()));
        if *unit.key.id != *self.id {
            let message = format!("the unit `{}` belongs to another job", self.id);
            return Err(Error::new(ErrorKind::Config, message));
        }
        unit.key.input = self.input.as_str().into();
        Ok((unit, rows))
    }
}

fn to_bytes(spec: &impl Serialize) -> Result<Vec<u8>> {
    let failed = || Error::new(ErrorKind::Internal, "cannot serialize the description of a job");
    let text = serde_json::to_vec(spec).map_err(|error| failed().source(error))?;
    zstd::encode_all(text.as_slice(), 3).map_err(|error| failed().source(error))
}

fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let wrong = || Error::new(ErrorKind::Data, "the description of the job or unit is damaged");
    let mut text = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(bytes).map_err(|error| wrong().source(error))?;
    let read = decoder.take(JOB_SPEC_BYTES + 1).read_to_end(&mut text);
    if read.map_err(|error| wrong().source(error))? as u64 > JOB_SPEC_BYTES {
        let message =
            format!("the description of a job or unit has more than {JOB_SPEC_BYTES} bytes");
        return Err(Error::new(ErrorKind::Data, message));
    }
    let head: Head = serde_json::from_slice(&text).map_err(|error| wrong().source(error))?;
    check_build(head.protocol, &head.build)?;
    serde_json::from_slice(&text).map_err(|error| wrong().source(error))
}

/// Fails if another build wrote a description.
fn check_build(protocol: u32, theirs: &str) -> Result<()> {
    if protocol == PROTOCOL && theirs == build() {
        return Ok(());
    }
    let message = format!("the job was prepared by hfauto-pipe {theirs}, this is {}", build());
    Err(Error::new(ErrorKind::Config, message).hint("run the same program file on every machine"))
}
