//! A scan whose partitions are read by other processes: one partition per unit. A session with [`ScansOfUnits`] plans
//! all its scans of files so. Not here: its description for another process (`shipped`).

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, not_impl_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, CardinalityEffect, EmissionType, SchedulingType,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

use super::table_file::TableFile;
use crate::config::pipeline::{FileFormat, SourceSpec};

/// An extension of a session whose scans of files are [`UnitScanExec`]s, and whose models run per partition.
#[derive(Debug)]
pub(crate) struct ScansOfUnits;

/// The units of the files of a table. This process does not read them.
#[derive(Debug)]
pub(crate) struct UnitScanExec {
    pub(super) format: FileFormat,
    pub(super) spec: Arc<SourceSpec>,
    /// The columns of the files, and of their hive partitions.
    pub(super) columns: SchemaRef,
    pub(super) partitions: Vec<FieldRef>,
    pub(super) is_plain: bool,
    pub(super) files: usize,
    /// The rows of each unit, in order.
    pub(super) units: Vec<TableFile>,
    pub(super) projection: Option<Vec<usize>>,
    pub(super) limit: Option<usize>,
    pub(super) statistics: Arc<Statistics>,
    pub(super) properties: Arc<PlanProperties>,
}

impl UnitScanExec {
    pub(super) fn properties_of(schema: SchemaRef, units: usize) -> Arc<PlanProperties> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(units),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative))
    }

    /// The number of units.
    pub(crate) fn num_units(&self) -> usize {
        self.units.len()
    }
}

impl DisplayAs for UnitScanExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (format, files, units) = (self.format.name(), self.files, self.units.len());
        if kind == DisplayFormatType::TreeRender {
            writeln!(f, "format={format}")?;
            writeln!(f, "files={files}")?;
            return writeln!(f, "units={units}");
        }
        let schema = self.properties.eq_properties.schema();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        write!(f, "UnitScanExec: {format}, files={files}, units={units}, columns=[{names}]")?;
        match self.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for UnitScanExec {
    fn name(&self) -> &'static str {
        "UnitScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(match args.partition() {
            None => Arc::clone(&self.statistics),
            Some(_) => {
                Arc::new(Statistics::new_unknown(self.properties.eq_properties.schema().as_ref()))
            }
        })
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        not_impl_err!("executors of a cluster read the units of a scan")
    }
}
