//! The executor's side of queries: opens a stage once, runs it over the rows of one unit after another, and hands each
//! result to the scheduler. Not here: the transport of tasks (`executor`), and which attempt counts (`results`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::context::{SessionContext, SessionState};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;

use super::super::allow::Allow;
use super::super::security::is_lost;
use super::super::units::{UnitDone, Units};
use super::codec::{StageCodec, StageHead, StageInput, UnitHead, over_input, rows_of_bytes};
use super::wire::{Answer, Ask, CHUNK_BYTES, ResultsClient};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{BatchSettings, WorkerPool};
use crate::failpoint::failpoint_at;
use crate::guard::guarded_query;
use crate::hub::Hub;
use crate::job::Cancel;
use crate::source::{OpenScan, ShippedScan, query_error};
use crate::sql::for_tasks;

/// The stages that an executor keeps open. They hold the weights of their models.
const KEPT: usize = 2;

/// Attempts at a call of the scheduler, and the time between them.
const CALLS: usize = 5;
const BETWEEN_CALLS: Duration = Duration::from_millis(500);

type Open = VecDeque<(blake3::Hash, Arc<Stage>)>;

/// Runs stages of queries over units, and reads only below the allowed places.
pub(crate) struct QueryUnits {
    hub: Arc<Hub>,
    allow: Allow,
    results: ResultsClient,
    /// The open stages by the hash of their description, the last used one first.
    open: Mutex<Open>,
}

/// An open stage.
struct Stage {
    /// Over [`StageInput`].
    plan: Arc<dyn ExecutionPlan>,
    scan: Option<OpenScan>,
    state: SessionState,
    /// One for all units, which then share the results of equal texts.
    context: Arc<TaskContext>,
}

/// An attempt at a unit.
struct Attempt<'a> {
    results: &'a ResultsClient,
    query: &'a str,
    unit: usize,
    attempt: u64,
    sent: u64,
}

impl QueryUnits {
    pub(in super::super) fn new(hub: Arc<Hub>, allow: Allow, results: ResultsClient) -> Self {
        Self { hub, allow, results, open: Mutex::default() }
    }

    /// Whether these bytes describe a stage of a query.
    pub(in super::super) fn is_for(job: &[u8]) -> bool {
        StageHead::is_of(job)
    }

    /// The stage, opened at its first unit. Blocks.
    fn stage(&self, job: &[u8]) -> Result<Arc<Stage>> {
        let hash = blake3::hash(job);
        // Held while the stage is opened, so that tasks of one stage share it.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.iter().position(|(known, _)| *known == hash);
        let stage = match known.and_then(|index| open.remove(index)) {
            Some((_, stage)) => stage,
            None => Arc::new(self.prepare(job)?),
        };
        open.push_front((hash, Arc::clone(&stage)));
        open.truncate(KEPT);
        Ok(stage)
    }

    fn prepare(&self, job: &[u8]) -> Result<Stage> {
        let (head, plan) = StageHead::decode(job)?;
        let context = context(&head.settings)?;
        let workers = Arc::new(WorkerPool::new(BatchSettings::default().workers));
        let mut steps = Vec::new();
        for call in &head.calls {
            let step = call.open(&self.hub, &workers)?;
            let dimensions = step.task().dimensions();
            let reads_images = dimensions.is_some_and(|model| model.image.is_some());
            if reads_images {
                self.allow.check_images(call.images_root())?;
            }
            steps.push(Arc::new(step));
        }
        let task_context = context.task_ctx();
        let plan = StageCodec { steps }.decode(&plan, &task_context).map_err(|error| {
            Error::new(ErrorKind::Config, "the executor cannot read the plan of the query")
                .source(error)
        })?;
        let scan = head.scan.as_ref().map(ShippedScan::open).transpose()?;
        Ok(Stage { plan, scan, state: context.state(), context: task_context })
    }
}

/// A session with the functions and the client's settings.
fn context(settings: &[(String, String)]) -> Result<SessionContext> {
    let context = for_tasks()?;
    {
        let state = context.state_ref();
        let mut state = state.write();
        for (key, value) in settings {
            let set = state.config_mut().options_mut().set(key, value);
            set.map_err(|error| query_error(error, &[]))?;
        }
    }
    Ok(context)
}

#[async_trait]
impl Units for QueryUnits {
    async fn run(&self, job: &[u8], unit: &[u8], cancel: &Cancel) -> Result<UnitDone> {
        let (head, _) = StageHead::decode(job)?;
        let (unit, rows) = UnitHead::decode(unit)?;
        // Before anything is read.
        for unit in &unit.units {
            self.allow.check_read(&unit.path().to_string_lossy())?;
        }
        let done = |rows, was_done| UnitDone { unit: unit.number.to_string(), rows, was_done };
        let begin = Ask::Begin { query: head.query.clone(), unit: unit.number };
        let attempt = match ask(&self.results, &begin, b"").await? {
            Answer::Begun { attempt } => attempt,
            Answer::Deadly => return Ok(done(None, false)),
            _ => return Ok(done(Some(0), true)),
        };
        let path = unit.units.first().map_or("", |unit| unit.path().to_str().unwrap_or_default());
        failpoint_at("unit.begun", path);
        let results = &self.results;
        let mut attempt =
            Attempt { results, query: &head.query, unit: unit.number, attempt, sent: 0 };
        let compute = async {
            let stage = tokio::task::block_in_place(|| self.stage(job))?;
            guarded_query(ErrorKind::Data, stage.run(&unit, &rows, &mut attempt)).await
        };
        let computed = tokio::select! {
            computed = compute => computed,
            kind = cancel.cancelled() => Err(Error::new(kind, "stopped before the unit was done")),
        };
        match computed {
            Ok(rows) => {
                let was_done = attempt.commit().await? == Answer::WasDone;
                Ok(done(Some(rows), was_done))
            }
            Err(error) => {
                attempt.fail().await;
                Err(error)
            }
        }
    }
}

impl Stage {
    /// Runs the stage over the rows of a unit, and returns the number of rows that it gives.
    async fn run(&self, unit: &UnitHead, rows: &[u8], attempt: &mut Attempt<'_>) -> Result<u64> {
        let failed = |error| query_error(error, &[]);
        let plan = self.plan_of(unit, rows).await.map_err(failed)?;
        let mut stream = plan.execute(0, Arc::clone(&self.context)).map_err(failed)?;
        let written = |error| failed(datafusion::error::DataFusionError::from(error));
        let options = IpcWriteOptions::default();
        let options = options.try_with_compression(Some(CompressionType::LZ4_FRAME));
        let options = options.map_err(written)?;
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &plan.schema(), options)
            .map_err(written)?;
        let mut count = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(failed)?;
            count += batch.num_rows() as u64;
            writer.write(&batch).map_err(written)?;
            if writer.get_ref().len() >= CHUNK_BYTES {
                let bytes = std::mem::take(writer.get_mut());
                attempt.send(&bytes).await?;
            }
        }
        writer.finish().map_err(written)?;
        attempt.send(writer.get_ref()).await?;
        Ok(count)
    }

    async fn plan_of(
        &self,
        unit: &UnitHead,
        rows: &[u8],
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input: Arc<dyn ExecutionPlan> = if let Some(scan) = &self.scan {
            scan.scan(&self.state, &unit.units).await?
        } else {
            let (schema, batches) = rows_of_bytes(rows)?;
            MemorySourceConfig::try_new_exec(&[batches], schema, None)?
        };
        let plan =
            over_input(&self.plan, &|node: &dyn ExecutionPlan| node.is::<StageInput>(), &input)?;
        // Skips row groups and pages without matching rows.
        FilterPushdown::new().optimize(plan, self.state.config_options())
    }
}

impl Attempt<'_> {
    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for bytes in bytes.chunks(CHUNK_BYTES) {
            let append = Ask::Append {
                query: self.query.to_owned(),
                unit: self.unit,
                attempt: self.attempt,
                offset: self.sent,
            };
            ask(self.results, &append, bytes).await?;
            self.sent += bytes.len() as u64;
        }
        Ok(())
    }

    async fn commit(self) -> Result<Answer> {
        let commit = Ask::Commit {
            query: self.query.to_owned(),
            unit: self.unit,
            attempt: self.attempt,
            bytes: self.sent,
        };
        ask(self.results, &commit, b"").await
    }

    /// Says that the attempt has ended. Without this, it counts as one that ended with its process.
    async fn fail(self) {
        let (query, unit, attempt) = (self.query.to_owned(), self.unit, self.attempt);
        let _ = ask(self.results, &Ask::Fail { query, unit, attempt }, b"").await;
    }
}

/// Makes a call, again if the scheduler does not answer.
async fn ask(results: &ResultsClient, ask: &Ask, bytes: &[u8]) -> Result<Answer> {
    let mut calls = 0;
    loop {
        calls += 1;
        match results.ask(ask, bytes).await {
            Ok((answer, _)) => return Ok(answer),
            Err(status) if is_lost(&status) && calls < CALLS => {
                tokio::time::sleep(BETWEEN_CALLS).await;
            }
            Err(status) => return Err(results.error(&status)),
        }
    }
}
