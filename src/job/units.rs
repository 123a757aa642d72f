//! Splits a job into units: decides which pipelines can be split, plans one unit, and names what a unit's rows depend
//! on. Not here: splitting files (`crate::source`), making units durable (`crate::sink`).

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::common::Result as DataFusionResult;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{LogicalPlan, TableScan};

use crate::config::pipeline::{FileFormat, Pipeline};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{ExplodeNode, FailedRows, ModelNode, ModelStep, RowErrorsNode};
use crate::secret;
use crate::sink::UnitKey;
use crate::source::{InputFile, Source, SourceUnit, Unit, UnitSize};

/// The reason why a plan must be one unit. `None` if every output row depends on a single row of the source.
pub(super) fn why_whole(plan: &LogicalPlan, source: &Source) -> DataFusionResult<Option<String>> {
    let mut reason = None;
    plan.apply(|node| {
        let what = match node {
            LogicalPlan::TableScan(scan) if is_source(scan, source) && scan.fetch.is_none() => None,
            LogicalPlan::TableScan(scan) if is_source(scan, source) => {
                Some("reads a fixed number of rows".to_owned())
            }
            LogicalPlan::TableScan(scan) => Some(format!("reads the table `{}`", scan.table_name)),
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Unnest(_) => None,
            LogicalPlan::Limit(_) => Some("has a limit".to_owned()),
            LogicalPlan::Sort(_) => Some("sorts all rows".to_owned()),
            LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => {
                Some("aggregates all rows".to_owned())
            }
            LogicalPlan::Window(_) => Some("has a window over all rows".to_owned()),
            LogicalPlan::Join(_) => Some("joins all rows".to_owned()),
            other => match ModelNode::of(other) {
                Some(model) if model.step().task().needs_whole_windows() => {
                    Some("has int8 embeddings, whose ranges come from many rows".to_owned())
                }
                Some(_) => None,
                None if RowErrorsNode::of(other).is_some() => None,
                None if ExplodeNode::of(other).is_some() => None,
                None => Some(format!("has a {} over all rows", other.display())),
            },
        };
        let of_subquery = || {
            let mut found = None;
            node.apply_subqueries(|subquery| {
                subquery.apply_with_subqueries(|node| {
                    if let LogicalPlan::TableScan(_) = node {
                        found = Some("has a subquery over all rows".to_owned());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
            .map(|_| found)
        };
        reason = match what {
            Some(what) => Some(what),
            None => of_subquery()?,
        };
        Ok(match reason {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(reason.map(|reason| format!("the pipeline {reason}")))
}

/// The plan over the rows of one unit, with the model steps of the whole plan.
pub(super) fn plan_of_unit(
    plan: &LogicalPlan,
    source: &Source,
    unit: &SourceUnit,
) -> DataFusionResult<LogicalPlan> {
    let plan = plan.clone().transform_up(|node| match node {
        LogicalPlan::TableScan(mut scan) => {
            let table = source_as_provider(&scan.source).ok();
            let Some(table) = table.and_then(|table| source.unit_table(&table, unit)) else {
                return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
            };
            scan.source = provider_as_source(table);
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(plan.data)
}

/// The plan, with rows counted and failed ones kept in `failed`.
pub(super) fn counting(
    plan: LogicalPlan,
    failed: &Arc<FailedRows>,
) -> DataFusionResult<LogicalPlan> {
    let plan = plan.transform_up(|node| {
        let counting = match (RowErrorsNode::of(&node), ExplodeNode::of(&node)) {
            (Some(errors), _) => errors.with_failed(Arc::clone(failed)).into_plan(),
            (None, Some(explode)) => explode.with_failed(Arc::clone(failed)).into_plan(),
            (None, None) => return Ok(Transformed::no(node)),
        };
        Ok(Transformed::yes(counting))
    })?;
    Ok(plan.data)
}

fn is_source(scan: &TableScan, source: &Source) -> bool {
    source_as_provider(&scan.source).is_ok_and(|table| source.is_table(&table))
}

/// A hash of everything that all units depend on: the plan `written`, the models with their options, and the read and
/// write settings.
pub(super) fn plan_hash(
    pipeline: &Pipeline,
    written: &str,
    steps: &[Arc<ModelStep>],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(concat!("units 1, ", env!("CARGO_PKG_VERSION")));
    add(written);
    for step in steps {
        let task = step.task();
        add(&serde_json::json!(task.summary()).to_string());
        add(&task.base().model.identity());
    }
    let source = &pipeline.source;
    add(&format!("{:?} {:?} {:?}", source.csv, source.types, source.predicate));
    let sink = &pipeline.sink;
    add(&format!("{:?} {:?} {:?}", sink.format, sink.compression, sink.partition_by));
    add(&sink.target_file_size_bytes.to_string());
    // Earlier versions wrote Parquet files of these types differently.
    let seconds = ["Timestamp(s", "Timestamp(Second", "Time32(s", "Time32(Second", "Date64"];
    if sink.format == FileFormat::Parquet && seconds.iter().any(|name| written.contains(name)) {
        add("times in milliseconds");
    }
    hasher.finalize()
}

/// A unit with the state of its file and its key.
#[derive(Clone, Debug)]
pub(super) struct UnitJob {
    pub(super) unit: Unit,
    pub(super) key: UnitKey,
    pub(super) file: Arc<InputFile>,
}

/// The persistent name of an input. If it hides a variable's value, a hash distinguishes inputs that differ only in
/// that value.
fn recorded(input: String) -> String {
    let shown = match secret::hide(&input) {
        Cow::Borrowed(_) => return input,
        Cow::Owned(shown) => shown,
    };
    let hash = blake3::hash(input.as_bytes()).to_hex();
    format!("{shown}#{}", &hash[..8])
}

/// The units of a source with their keys.
pub(super) fn unit_jobs(source: &Source, size: &UnitSize, plan_hash: blake3::Hash) -> Vec<UnitJob> {
    let plan = PlanOfUnits::of(plan_hash);
    let mut last: Option<(usize, FileOfUnits)> = None;
    let job = |(sequence, unit): (usize, Unit)| {
        let file = match last.take() {
            Some((number, file)) if number == unit.file => file,
            _ => FileOfUnits::of(Arc::clone(&source.files[unit.file])),
        };
        let number = unit.file;
        let job = file.unit(unit, sequence, &plan);
        last = Some((number, file));
        job
    };
    source.units(size).into_iter().enumerate().map(job).collect()
}

/// The plan of a job, as it is in the keys of its units.
pub(super) struct PlanOfUnits {
    hash: blake3::Hash,
    name: Arc<str>,
}

impl PlanOfUnits {
    pub(super) fn of(hash: blake3::Hash) -> Self {
        Self { hash, name: hash.to_hex()[..32].into() }
    }
}

/// A file, as it is in the keys of its units: they share its texts.
pub(super) struct FileOfUnits {
    file: Arc<InputFile>,
    input: Arc<str>,
    stamp: Arc<str>,
}

impl FileOfUnits {
    pub(super) fn of(file: Arc<InputFile>) -> Self {
        let input = recorded(file.path.display().to_string()).into();
        let stamp = file.stamp.to_string().into();
        Self { file, input, stamp }
    }

    /// The unit at position `sequence` of the job with this plan.
    pub(super) fn unit(&self, unit: Unit, sequence: usize, plan: &PlanOfUnits) -> UnitJob {
        let mut hasher = blake3::Hasher::new();
        hasher.update(plan.hash.as_bytes());
        let input = self.file.path.display();
        hasher.update(format!("{input}\n{}\n{:?}", self.stamp, unit.rows).as_bytes());
        let key = UnitKey {
            id: hasher.finalize().to_hex()[..32].into(),
            sequence,
            input: Arc::clone(&self.input),
            file: Arc::clone(&self.stamp),
            plan: Arc::clone(&plan.name),
        };
        UnitJob { unit, key, file: Arc::clone(&self.file) }
    }
}

impl UnitJob {
    /// # Errors
    /// `Data` if the file has changed since its inspection.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        if self.file.look_again()? == self.file.stamp {
            return Ok(());
        }
        let message = format!("`{}` was changed while it was read", self.key.input);
        Err(Error::new(ErrorKind::Data, message)
            .hint("run again once no other program writes to it: units of other files are kept"))
    }

    /// Its rows, for errors.
    pub(super) fn place(&self) -> String {
        match &self.unit.rows {
            Some(rows) => {
                format!("rows {} to {} of `{}`", rows.start + 1, rows.end, self.key.input)
            }
            None => format!("`{}`", self.key.input),
        }
    }
}
