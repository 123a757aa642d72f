//! Divides a physical plan between client and executors: a rule after DataFusion's own. Row by row operators over a scan
//! become a stage, with the first halves of aggregates, sorts and limits; all else runs on the client over their rows.
//! Models always run in a stage: their input is a scan, or rows that the client sends. Not here: sending a stage
//! (`client`), and its form on the way (`codec`).
//!
//! ```text
//! AggregateExec: Final            client
//!   ClusterExec: tasks=12         fetches the rows of the tasks, in their order
//!     AggregateExec: Partial      executors
//!       ModelExec
//!         UnitScanExec: units=12
//! ```

use std::sync::Arc;

use datafusion::common::Result as DataFusionResult;
use datafusion::common::config::ConfigOptions;
use datafusion::execution::context::SessionContext;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::unnest::UnnestExec;

use super::client::external;
use super::codec::with_children;
use super::operator::{ClientRowsExec, ClusterExec, QueryCluster, Stage};
use crate::error::{Error, ErrorKind};
use crate::exec::{ModelExec, ModelStep};
use crate::source::UnitScanExec;
use crate::sql::for_cluster;

impl QueryCluster {
    /// Has all later queries of a session run on the cluster.
    pub(crate) fn register(self: &Arc<Self>, context: &SessionContext) {
        for_cluster(context, Arc::new(DivideForCluster { cluster: Arc::clone(self) }));
    }
}

/// The rule.
#[derive(Debug)]
struct DivideForCluster {
    cluster: Arc<QueryCluster>,
}

impl PhysicalOptimizerRule for DivideForCluster {
    fn name(&self) -> &'static str {
        "divide_for_cluster"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let part = self.divide(&plan)?;
        self.on_client(part)
    }
}

/// A part of a plan.
enum Part {
    Client(Arc<dyn ExecutionPlan>),
    Stage(Stage),
}

impl DivideForCluster {
    fn divide(&self, plan: &Arc<dyn ExecutionPlan>) -> DataFusionResult<Part> {
        if plan.is::<UnitScanExec>() {
            return Ok(Part::Stage(Stage::new(Arc::clone(plan), false)));
        }
        if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>()
            && let Some(sort) = merge.input().downcast_ref::<SortExec>()
            && let Part::Stage(stage) = self.divide(sort.input())?
        {
            return self.sorted(stage, sort.expr(), merge.fetch().or(sort.fetch()));
        }
        let [child] = plan.children()[..] else {
            let parts = plan.children().into_iter().map(|child| {
                let part = self.divide(child)?;
                self.on_client(part)
            });
            let children = parts.collect::<DataFusionResult<Vec<_>>>()?;
            return Ok(Part::Client(with_children(plan, children)?));
        };
        match self.divide(child)? {
            Part::Stage(stage) => self.above(plan, stage),
            Part::Client(child) if plan.is::<ModelExec>() => {
                self.absorb(plan, Stage::new(ClientRowsExec::of(child), true))
            }
            Part::Client(child) => Ok(Part::Client(with_children(plan, vec![child])?)),
        }
    }

    /// An operator above a stage: part of the stage if possible.
    fn above(&self, plan: &Arc<dyn ExecutionPlan>, stage: Stage) -> DataFusionResult<Part> {
        if plan.is::<CooperativeExec>() {
            return Ok(Part::Stage(stage));
        }
        if let Some(coalesce) = plan.downcast_ref::<CoalescePartitionsExec>() {
            return match coalesce.fetch() {
                None => Ok(Part::Stage(Stage { is_single: true, ..stage })),
                Some(fetch) => self.limited(stage, 0, Some(fetch)),
            };
        }
        if let Some(limit) = plan.downcast_ref::<GlobalLimitExec>() {
            return self.limited(stage, limit.skip(), limit.fetch());
        }
        if let Some(sort) = plan.downcast_ref::<SortExec>() {
            return self.sorted(stage, sort.expr(), sort.fetch());
        }
        let is_partial = |aggregate: &AggregateExec| *aggregate.mode() == AggregateMode::Partial;
        let is_stage = plan.is::<ModelExec>()
            || plan.is::<ProjectionExec>()
            || plan.is::<UnnestExec>()
            || plan.is::<FilterExec>() && (plan.fetch().is_none() || !stage.is_single)
            || !stage.is_single
                && (plan.is::<LocalLimitExec>()
                    || plan.downcast_ref::<AggregateExec>().is_some_and(is_partial));
        if is_stage {
            return self.absorb(plan, stage);
        }
        let stage = self.on_client(Part::Stage(stage))?;
        Ok(Part::Client(with_children(plan, vec![stage])?))
    }

    /// Makes an operator part of the stage below it. What executors could not run runs on the client, except models.
    fn absorb(&self, plan: &Arc<dyn ExecutionPlan>, stage: Stage) -> DataFusionResult<Part> {
        let model = plan.downcast_ref::<ModelExec>();
        match (self.cluster.check(plan), model) {
            (Ok(()), _) => {
                let needs_all = |model: &ModelExec| model.step().task().needs_whole_windows();
                let is_whole = stage.is_whole || model.is_some_and(needs_all);
                Ok(Part::Stage(Stage { is_whole, ..stage }.below(plan)?))
            }
            (Err(reason), Some(model)) => {
                Err(external(refusal(model.step(), &reason.strip_backtrace())))
            }
            (Err(_), None) => {
                let stage = self.on_client(Part::Stage(stage))?;
                Ok(Part::Client(with_children(plan, vec![stage])?))
            }
        }
    }

    /// The first rows of a stage. Each task gives at most as many.
    fn limited(&self, stage: Stage, skip: usize, fetch: Option<usize>) -> DataFusionResult<Part> {
        let stage = match fetch {
            Some(fetch) => {
                let limit =
                    LocalLimitExec::new(Arc::clone(&stage.plan), skip.saturating_add(fetch));
                Stage { plan: Arc::new(limit), ..stage }
            }
            None => stage,
        };
        let rows = self.on_client(Part::Stage(stage))?;
        Ok(Part::Client(Arc::new(GlobalLimitExec::new(rows, skip, fetch))))
    }

    /// The sorted rows of a stage. With a limit, each task gives its first ones.
    fn sorted(
        &self,
        stage: Stage,
        order: &LexOrdering,
        fetch: Option<usize>,
    ) -> DataFusionResult<Part> {
        let mut stage = stage;
        if fetch.is_some() {
            let first = SortExec::new(order.clone(), Arc::clone(&stage.plan)).with_fetch(fetch);
            let first: Arc<dyn ExecutionPlan> = Arc::new(first.with_preserve_partitioning(true));
            if self.cluster.check(&first).is_ok() {
                stage = Stage { plan: first, ..stage };
            }
        }
        let rows = self.on_client(Part::Stage(stage))?;
        let sort = SortExec::new(order.clone(), rows).with_fetch(fetch);
        Ok(Part::Client(Arc::new(sort)))
    }

    /// The part as a plan for the client, which fetches the rows of a stage.
    fn on_client(&self, part: Part) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        match part {
            Part::Client(plan) => Ok(plan),
            Part::Stage(stage) => {
                Ok(Arc::new(ClusterExec::try_new(Arc::clone(&self.cluster), stage)?))
            }
        }
    }
}

fn refusal(step: &ModelStep, reason: &str) -> Error {
    let message = format!("a cluster cannot run `{}`: {reason}", step.name());
    Error::new(ErrorKind::Config, message).hint("run the query without `--cluster`")
}
