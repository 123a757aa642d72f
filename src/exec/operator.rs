//! The model step as a physical operator.
//!
//! It has one partition, or in a plan for a cluster as many as its input, keeps the rows and their order, and appends a
//! column. Three stages run concurrently: one tokenizes the next window, workers compute the current one, and one emits the
//! previous one in order. At most two windows are in flight, so settings bound the memory, not the input. Dropping the stream
//! cancels queued batches; workers finish their current one. Errors travel in the stream, and the first one ends it. A model
//! that costs less than sorting and batching has no windows (`rows`).

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, Statistics, plan_err};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::equivalence::ProjectionMapping;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan,
    ExecutionPlanProperties, InputDistributionRequirements, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions,
};
use tokio::sync::{Semaphore, mpsc};
use tracing::Instrument;

use super::blocking::external;
use super::emit::Emit;
use super::gather::Gather;
use super::metrics;
use super::reuse::StepResults;
use super::rows::Rows;
use super::step::ModelStep;
use crate::tasks::Batching;

/// Special tokens per text, for estimates: the first and the last.
const SPECIAL_TOKENS: usize = 2;

/// Bytes of text per token, for estimates: about the average in English.
const BYTES_PER_TOKEN: usize = 4;

/// Windows in flight: one is computed, and the next is tokenized.
const WINDOWS_IN_FLIGHT: usize = 2;

/// Appends the column of one model step.
#[derive(Debug)]
pub struct ModelExec {
    input: Arc<dyn ExecutionPlan>,
    step: Arc<ModelStep>,
    /// The inputs of the step, over the columns of `input`.
    inputs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// The number of rows after which the plan above may stop.
    few: Option<usize>,
    /// Whether each partition of the input is computed on its own.
    is_partitioned: bool,
    /// What the step reuses and keeps.
    results: Option<Arc<StepResults>>,
}

impl ModelExec {
    /// `inputs` are the step's inputs, over the columns of `input`; `output` is the new column.
    ///
    /// # Errors
    /// `Plan` when an input has a type that the task does not read.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        step: Arc<ModelStep>,
        inputs: Vec<Arc<dyn PhysicalExpr>>,
        output: FieldRef,
    ) -> Result<Self> {
        let input_schema = input.schema();
        let types =
            inputs.iter().map(|expr| expr.data_type(&input_schema)).collect::<Result<Vec<_>>>()?;
        step.task()
            .check_inputs(&types.iter().collect::<Vec<_>>())
            .map_err(|e| external(e.at(step.place())))?;

        let fields = input_schema.fields().iter().cloned().chain([output]);
        let schema = Arc::new(Schema::new_with_metadata(
            fields.collect::<Vec<_>>(),
            input_schema.metadata().clone(),
        ));
        let kept: Vec<usize> = (0..input_schema.fields().len()).collect();
        let mapping = ProjectionMapping::from_indices(&kept, &input_schema)?;
        let properties = PlanProperties::new(
            input.equivalence_properties().project(&mapping, Arc::clone(&schema)),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            input.boundedness(),
        );
        Ok(Self {
            input,
            step,
            inputs,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            few: None,
            is_partitioned: false,
            results: None,
        })
    }

    /// Sets the number of rows after which the plan above may stop: the first windows are then small.
    #[must_use]
    pub fn with_few(mut self, few: Option<usize>) -> Self {
        self.few = few;
        self
    }

    /// Computes each partition of the input on its own: its sort windows hold rows of one partition.
    #[must_use]
    pub(crate) fn with_partitions(mut self, is_partitioned: bool) -> Self {
        self.is_partitioned = is_partitioned;
        self
    }

    /// The number of rows after which the plan above may stop.
    pub(crate) fn few(&self) -> Option<usize> {
        self.few
    }

    /// Sets what the step reuses and keeps.
    #[must_use]
    pub(super) fn with_results(mut self, results: Option<Arc<StepResults>>) -> Self {
        self.results = results;
        self
    }

    /// The step.
    pub fn step(&self) -> &Arc<ModelStep> {
        &self.step
    }

    /// The inputs of the step, over the columns of the plan below.
    pub(crate) fn inputs(&self) -> &[Arc<dyn PhysicalExpr>] {
        &self.inputs
    }

    /// The new column.
    pub(crate) fn output(&self) -> &FieldRef {
        &self.schema.fields()[self.schema.fields().len() - 1]
    }

    /// An estimate of the tokens to compute, if the input has statistics.
    fn estimated_tokens(&self) -> Option<usize> {
        let (all, context) = (StatisticsArgs::new(), StatisticsContext::new());
        let statistics = context.compute(self.input.as_ref(), &all).ok()?;
        let rows = *statistics.num_rows.get_value()?;
        let mut bytes = 0;
        for input in &self.inputs {
            let column = input.downcast_ref::<Column>()?;
            bytes += match statistics.column_statistics.get(column.index())?.byte_size {
                Precision::Exact(bytes) | Precision::Inexact(bytes) => bytes,
                Precision::Absent => return None,
            };
        }
        Some(rows * SPECIAL_TOKENS + bytes / BYTES_PER_TOKEN)
    }
}

impl DisplayAs for ModelExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.estimated_tokens().map(|tokens| tokens.to_string());
        let tokens = tokens.as_deref().unwrap_or("unknown");
        if format == DisplayFormatType::TreeRender {
            let summary = self.step.task().summary();
            let inputs: Vec<String> = self.inputs.iter().map(ToString::to_string).collect();
            writeln!(f, "task={}", summary.task)?;
            writeln!(f, "input={}", inputs.join(", "))?;
            writeln!(f, "model={}", summary.name)?;
            return writeln!(f, "estimated_tokens={tokens}");
        }
        let line = self.step.line(&self.inputs, self.output().name());
        write!(f, "ModelExec: {line}, estimated_tokens={tokens}")
    }
}

impl ExecutionPlan for ModelExec {
    fn name(&self) -> &'static str {
        "ModelExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        // A single stream: a sort window sees consecutive rows, in the input's order.
        let required = Distribution::SinglePartition;
        let all = Distribution::UnspecifiedDistribution;
        InputDistributionRequirements::new(vec![if self.is_partitioned { all } else { required }])
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut next = TreeNodeRecursion::Continue;
        for input in &self.inputs {
            next = next.visit_sibling(|| f(input))?;
        }
        Ok(next)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) if children.is_empty() => {
                let (step, output) = (Arc::clone(&self.step), Arc::clone(self.output()));
                let exec = Self::try_new(input, step, self.inputs.clone(), output)?;
                let exec = exec.with_few(self.few).with_partitions(self.is_partitioned);
                Ok(Arc::new(exec.with_results(self.results.clone())))
            }
            _ => plan_err!("ModelExec has one input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = inputs[0].as_ref().clone();
        statistics.total_byte_size = Precision::Absent;
        statistics.column_statistics.push(ColumnStatistics::new_unknown());
        Ok(Arc::new(statistics))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.metrics.clone_inner();
        metrics::describe(self.step.metrics().counts(), &mut metrics);
        Some(metrics)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        self.step.results().enter(&context);
        let reservation =
            MemoryConsumer::new(format!("ModelExec[{partition}]")).register(context.memory_pool());
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let mut stream = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), 1);
        if self.step.task().batching() == Batching::Rows {
            let rows = Rows {
                input,
                step: Arc::clone(&self.step),
                inputs: self.inputs.clone(),
                schema: Arc::clone(&self.schema),
                reservation,
                output: stream.tx(),
                baseline,
                few: self.few,
            };
            stream.spawn(rows.run().in_current_span());
            return Ok(stream.build());
        }
        let (windows, pending) = mpsc::channel(WINDOWS_IN_FLIGHT);
        let gather = Gather {
            input,
            step: Arc::clone(&self.step),
            results: self.results.clone(),
            inputs: self.inputs.clone(),
            reservation,
            permits: Arc::new(Semaphore::new(WINDOWS_IN_FLIGHT)),
            windows,
            few: self.few.filter(|_| !self.step.task().needs_whole_windows()),
            models: None,
            rows: 0,
            rest: None,
        };
        stream.spawn(gather.run().in_current_span());
        let emit = Emit {
            pending,
            step: Arc::clone(&self.step),
            results: self.results.clone(),
            schema: Arc::clone(&self.schema),
            output: stream.tx(),
            baseline,
        };
        stream.spawn(async move { emit.run().await.map_err(external) }.in_current_span());
        Ok(stream.build())
    }
}
