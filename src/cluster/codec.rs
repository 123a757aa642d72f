//! The plan of a job on a cluster: [`UnitExec`] over a table in memory with one partition per task and one row per unit.
//!
//! The units are rows of a memory source because Ballista cuts the plan of a task down to its partitions at the sources
//! that it knows; a source of our own would be sent whole to every task. A unit is sent as its description, not as a
//! plan: the proto of a scan lacks the row ranges of a unit. Not here: running units (`executor`).

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use ballista_core::execution_plans::ShuffleWriterExec;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, internal_err, not_impl_err, plan_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    Partitioning, PlanProperties, ReplaceChildrenOptions, SendableRecordBatchStream,
};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

/// The first bytes of an encoded [`UnitExec`]; no plan of Ballista begins with them.
const MAGIC: &[u8] = b"hfauto-pipe units 1\0";

/// Computes the units in the rows of its input. Executors of hfauto-pipe run it; other engines cannot.
#[derive(Debug)]
pub(super) struct UnitExec {
    /// The job, as its coordinator wrote it.
    job: Bytes,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl UnitExec {
    fn new(job: Bytes, input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { job, input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for UnitExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitExec: job={}", &blake3::hash(&self.job).to_hex()[..8])
    }
}

impl ExecutionPlan for UnitExec {
    fn name(&self) -> &'static str {
        "UnitExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("UnitExec has one input");
        };
        Ok(Arc::new(Self::new(self.job.clone(), input)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        not_impl_err!("only executors of hfauto-pipe run units")
    }
}

/// A job and the units of one task, or of all.
#[derive(Debug, PartialEq)]
pub(super) struct Tasks {
    pub(super) job: Bytes,
    /// The units of each partition.
    pub(super) partitions: Vec<Vec<Vec<u8>>>,
}

impl Tasks {
    /// The plan in Ballista's proto.
    ///
    /// # Errors
    /// `Internal` if Arrow or the proto refuses the plan.
    pub(super) fn encode(&self) -> DataFusionResult<Bytes> {
        let schema = schema();
        let partitions = self.partitions.iter().map(|units| {
            let units = BinaryArray::from_iter_values(units);
            Ok(vec![RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(units)])?])
        });
        let partitions = partitions.collect::<DataFusionResult<Vec<_>>>()?;
        let source = MemorySourceConfig::try_new(&partitions, schema, None)?;
        let input: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(source);
        let plan = Arc::new(UnitExec::new(self.job.clone(), input));
        physical_plan_to_bytes_with_extension_codec(plan, &UnitCodec::default())
    }

    /// Reads a plan as a client submits it, or as an executor receives it. Accepts no other plan.
    ///
    /// # Errors
    /// `Plan` for every other plan, or the proto's error.
    pub(super) fn decode(plan: &[u8]) -> DataFusionResult<Self> {
        let context = TaskContext::default();
        let codec = UnitCodec::default();
        let plan = physical_plan_from_bytes_with_extension_codec(plan, &context, &codec)?;
        Self::of(&plan)
    }

    fn of(plan: &Arc<dyn ExecutionPlan>) -> DataFusionResult<Self> {
        if plan.is::<ShuffleWriterExec>()
            && let [input] = plan.children().as_slice()
        {
            return Self::of(input);
        }
        let source = plan.downcast_ref::<UnitExec>().and_then(|units| {
            let source = units.input.downcast_ref::<DataSourceExec>()?;
            Some((units, source.data_source().downcast_ref::<MemorySourceConfig>()?))
        });
        let Some((units, source)) = source else {
            return plan_err!("the plan has more than the units of a pipeline");
        };
        let partitions = source.partitions().iter().map(|batches| {
            let mut found = Vec::new();
            for batch in batches {
                let column = batch.columns().first().and_then(|c| c.as_any().downcast_ref());
                let Some(column) = column.filter(|column: &&BinaryArray| column.null_count() == 0)
                else {
                    return plan_err!("the units of the plan are damaged");
                };
                found.extend(column.iter().flatten().map(<[u8]>::to_vec));
            }
            Ok(found)
        });
        let partitions = partitions.collect::<DataFusionResult<_>>()?;
        Ok(Self { job: units.job.clone(), partitions })
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("unit", DataType::Binary, false)]))
}

/// Encodes [`UnitExec`], and all else as Ballista does.
#[derive(Debug, Default)]
pub(super) struct UnitCodec {
    ballista: BallistaPhysicalExtensionCodec,
}

impl PhysicalExtensionCodec for UnitCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Some(job) = buf.strip_prefix(MAGIC) else {
            return self.ballista.try_decode(buf, inputs, ctx, proto_converter);
        };
        let [input] = inputs else {
            return plan_err!("UnitExec has one input, found {}", inputs.len());
        };
        Ok(Arc::new(UnitExec::new(Bytes::copy_from_slice(job), Arc::clone(input))))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<()> {
        let Some(units) = node.downcast_ref::<UnitExec>() else {
            return self.ballista.try_encode(node, buf, proto_converter);
        };
        buf.extend_from_slice(MAGIC);
        buf.extend_from_slice(&units.job);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::JobId;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    fn tasks(partitions: &[&[&str]]) -> Tasks {
        let partitions = partitions
            .iter()
            .map(|units| units.iter().map(|unit| unit.as_bytes().to_vec()).collect());
        Tasks { job: Bytes::from_static(b"{\"job\": \0\xff}"), partitions: partitions.collect() }
    }

    #[test]
    fn tasks_survive_the_proto() {
        for partitions in [&[&["a", "b"][..], &["c"]][..], &[&[""]], &[&["x"]]] {
            let tasks = tasks(partitions);
            assert_eq!(Tasks::decode(&tasks.encode().unwrap()).unwrap(), tasks);
        }
    }

    #[test]
    fn a_task_is_wrapped_by_ballista() {
        let tasks = tasks(&[&["a"], &["b"]]);
        let plan = physical_plan_from_bytes_with_extension_codec(
            &tasks.encode().unwrap(),
            &TaskContext::default(),
            &UnitCodec::default(),
        );
        let job = JobId::from("j".to_owned());
        let wrapped = ShuffleWriterExec::try_new(job, 1, plan.unwrap(), String::new()).unwrap();
        let bytes =
            physical_plan_to_bytes_with_extension_codec(Arc::new(wrapped), &UnitCodec::default());
        assert_eq!(Tasks::decode(&bytes.unwrap()).unwrap(), tasks);
    }

    #[test]
    fn other_plans_are_refused() {
        let encode = |plan: Arc<dyn ExecutionPlan>| {
            physical_plan_to_bytes_with_extension_codec(plan, &UnitCodec::default()).unwrap()
        };
        let empty: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(schema()));
        let over_other = UnitExec::new(Bytes::new(), Arc::clone(&empty));
        for bytes in [encode(empty), encode(Arc::new(over_other)), Bytes::from_static(b"\xffx")] {
            assert!(Tasks::decode(&bytes).is_err());
        }
    }
}
