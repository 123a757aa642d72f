//! The results that the steps of a job reuse and keep, unit by unit. Not here: rows (`reuse`), and files (`crate::sink`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use datafusion::common::Result as DataFusionResult;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::LogicalPlan;

use super::node::ModelNode;
use super::reuse::StepResults;
use super::step::ModelStep;
use crate::error::Result;
use crate::sink::{Kept, ResultFolder};
use crate::tasks::Task;

/// The results of the steps of a job that earlier runs have kept, by the identities of the steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct EarlierResults(BTreeMap<String, Arc<Kept>>);

impl EarlierResults {
    /// Opens the results of an output for these steps.
    ///
    /// # Errors
    /// `Sink` if they cannot be read or are damaged.
    pub(crate) fn open(folder: &ResultFolder, steps: &[Arc<ModelStep>]) -> Result<Self> {
        let mut found = BTreeMap::new();
        for step in steps {
            let identity = identity(&**step.task());
            if let Entry::Vacant(place) = found.entry(identity) {
                let kept = folder.open(place.key(), step.task().field())?;
                place.insert(Arc::new(kept));
            }
        }
        Ok(Self(found))
    }

    /// The number of results.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(|kept| kept.len()).sum()
    }
}

/// A hash of everything that the result of a row depends on besides the row: model, options, program.
pub(crate) fn identity(task: &dyn Task) -> String {
    let mut summary = serde_json::json!(task.summary());
    if let Some(summary) = summary.as_object_mut() {
        // The pipeline's name of the model.
        summary.remove("name");
    }
    let mut hasher = blake3::Hasher::new();
    let field = task.field().data_type().to_string();
    let version = concat!("results 1, ", env!("CARGO_PKG_VERSION"));
    for text in [version, &summary.to_string(), &task.base().model.identity(), &field] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// What the steps of a plan reuse and keep for the rows of one unit.
#[derive(Debug)]
pub(crate) struct UnitResults(BTreeMap<String, Arc<StepResults>>);

impl UnitResults {
    /// The results of `steps` for the unit named `unit`. They are kept in `folder`, if there is one.
    pub(crate) fn new(
        earlier: &EarlierResults,
        folder: Option<&ResultFolder>,
        unit: &str,
        steps: &[Arc<ModelStep>],
    ) -> Self {
        let of_step = |step: &Arc<ModelStep>| {
            let task = step.task();
            let identity = identity(&**task);
            let writer = folder.map(|folder| folder.writer(&identity, unit, task.field()));
            let earlier = earlier.0.get(&identity).filter(|kept| kept.len() > 0).cloned();
            let is_of_files = task.dimensions().is_some_and(|model| model.image.is_some());
            (identity, Arc::new(StepResults::new(earlier, writer, is_of_files)))
        };
        // Results that depend on other rows are not those of the row.
        let steps = steps.iter().filter(|step| !step.task().needs_whole_windows());
        Self(steps.map(of_step).collect())
    }

    /// The plan, whose steps reuse and keep these results.
    pub(crate) fn attach(&self, plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
        let plan = plan.transform_up(|node| {
            let Some(model) = ModelNode::of(&node) else { return Ok(Transformed::no(node)) };
            let results = self.0.get(&identity(&**model.step().task())).cloned();
            Ok(Transformed::yes(model.clone().with_results(results).into_plan()))
        })?;
        Ok(plan.data)
    }

    /// Makes the results of the unit durable.
    ///
    /// # Errors
    /// `Sink` if the disk is full or fails.
    pub(crate) fn keep(&self) -> Result<()> {
        self.0.values().try_for_each(|step| step.finish())
    }
}
