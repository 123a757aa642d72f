//! The description of a stage of a query and of its units, for executors: a physical plan in DataFusion's proto with our
//! operators, whose input each executor makes itself. The scheduler passes it on without reading it. Not here: which part
//! of a plan is a stage (`plan`), and running one (`stage`).

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{
    Result as DataFusionResult, ScalarValue, internal_err, not_impl_err, plan_err,
};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{PhysicalExprNode, PhysicalPlanNode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic_prost::prost::Message;

use super::wire::{message, parts};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{ModelExec, ModelStep};
use crate::job::build;
use crate::source::{ShippedScan, ShippedUnit};
use crate::sql::ShippedCall;

/// The first bytes of the description of a stage; descriptions of pipelines begin differently.
const MAGIC: &[u8] = b"hfauto-pipe query 1\0";

/// The first byte of our operators.
const INPUT: u8 = b'i';
const MODEL: u8 = b'm';

/// The description of a stage, without its plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StageHead {
    build: String,
    /// The name under which the scheduler keeps the results.
    pub(super) query: String,
    /// The scan at the bottom; `None` if units come with their rows.
    pub(super) scan: Option<ShippedScan>,
    /// The calls of the plan, by number.
    pub(super) calls: Vec<ShippedCall>,
    /// The settings of the client's session that differ from those of [`crate::sql::for_tasks`].
    pub(super) settings: Vec<(String, String)>,
}

impl StageHead {
    pub(super) fn new(
        query: String,
        scan: Option<ShippedScan>,
        calls: Vec<ShippedCall>,
        settings: Vec<(String, String)>,
    ) -> Self {
        Self { build: build().to_owned(), query, scan, calls, settings }
    }

    /// The description with the plan as bytes.
    ///
    /// # Errors
    /// `Internal` if it cannot be serialized.
    pub(super) fn encode(&self, plan: &[u8]) -> Result<Vec<u8>> {
        Ok([MAGIC, &framed(self, plan)?].concat())
    }

    /// Whether these bytes describe a stage of a query.
    pub(super) fn is_of(job: &[u8]) -> bool {
        job.starts_with(MAGIC)
    }

    /// Reads a description, and its plan as bytes. Opens nothing.
    ///
    /// # Errors
    /// `Config` if another build wrote it, `Data` if it is damaged.
    pub(super) fn decode(job: &[u8]) -> Result<(Self, Bytes)> {
        let (head, plan): (Self, Bytes) = unframed(job.strip_prefix(MAGIC).unwrap_or_default())?;
        if head.build != build() {
            let message =
                format!("the query was planned by hfauto-pipe {}, this is {}", head.build, build());
            return Err(Error::new(ErrorKind::Config, message)
                .hint("run the same program file on every machine"));
        }
        Ok((head, plan))
    }
}

/// The description of a unit of a stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UnitHead {
    /// Its number in the query.
    pub(super) number: usize,
    /// The rows of files to scan.
    pub(super) units: Vec<ShippedUnit>,
}

impl UnitHead {
    /// The description with its rows as bytes, if it comes with rows.
    ///
    /// # Errors
    /// `Internal` if it cannot be serialized.
    pub(super) fn encode(&self, rows: &[u8]) -> Result<Vec<u8>> {
        framed(self, rows)
    }

    /// Reads a description, and its rows as bytes.
    ///
    /// # Errors
    /// `Data` if it is damaged.
    pub(super) fn decode(unit: &[u8]) -> Result<(Self, Bytes)> {
        unframed(unit)
    }
}

fn framed(head: &impl Serialize, bytes: &[u8]) -> Result<Vec<u8>> {
    let framed = message(head, bytes).map_err(|status| {
        Error::new(ErrorKind::Internal, "cannot describe the query to the cluster").source(status)
    })?;
    Ok(framed.to_vec())
}

fn unframed<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Bytes)> {
    parts(Bytes::copy_from_slice(bytes)).map_err(|status| {
        Error::new(ErrorKind::Data, "the description of the query is damaged").source(status)
    })
}

/// Rows as an Arrow IPC stream.
pub(super) fn rows_to_bytes(schema: &Schema, batches: &[RecordBatch]) -> DataFusionResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    Ok(bytes)
}

/// The rows of an Arrow IPC stream.
pub(super) fn rows_of_bytes(bytes: &[u8]) -> DataFusionResult<(SchemaRef, Vec<RecordBatch>)> {
    let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    Ok((reader.schema(), reader.collect::<std::result::Result<_, _>>()?))
}

/// The bottom of a stage in its description: whatever rows an executor puts there.
#[derive(Debug)]
pub(super) struct StageInput {
    properties: Arc<PlanProperties>,
}

impl StageInput {
    /// The input of one unit.
    pub(super) fn of(schema: SchemaRef) -> Arc<dyn ExecutionPlan> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(Self { properties: Arc::new(properties) })
    }
}

impl DisplayAs for StageInput {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StageInput")
    }
}

impl ExecutionPlan for StageInput {
    fn name(&self) -> &'static str {
        "StageInput"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        internal_err!("a stage was run without its input")
    }
}

/// The plan over another input: `input` replaces the node that `is_input` accepts, at the end of a chain of operators.
pub(super) fn over_input(
    plan: &Arc<dyn ExecutionPlan>,
    is_input: &dyn Fn(&dyn ExecutionPlan) -> bool,
    input: &Arc<dyn ExecutionPlan>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    if is_input(plan.as_ref()) {
        return Ok(Arc::clone(input));
    }
    let [child] = plan.children()[..] else {
        return plan_err!("`{}` is not an operator of a stage", plan.name());
    };
    let child = over_input(child, is_input, input)?;
    with_children(plan, vec![child])
}

/// The operator over other inputs.
pub(super) fn with_children(
    plan: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(plan).replace_children(children, options)
}

/// A model in an encoded plan.
#[derive(Serialize, Deserialize)]
struct EncodedModel {
    /// Its number in [`StageHead::calls`].
    call: usize,
    output: String,
    few: Option<usize>,
    /// Its inputs, in DataFusion's proto.
    inputs: Vec<Vec<u8>>,
}

/// Encodes and decodes our operators; their models are resolved elsewhere.
pub(super) struct StageCodec {
    /// The steps of the plan, by the numbers of their calls.
    pub(super) steps: Vec<Arc<ModelStep>>,
}

impl fmt::Debug for StageCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageCodec").finish_non_exhaustive()
    }
}

impl StageCodec {
    /// The plan of a stage as bytes. With `results`, scalar subqueries have their results, otherwise they are null.
    ///
    /// # Errors
    /// An operator or expression that the proto lacks.
    pub(super) fn encode(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        results: SubqueryResults,
    ) -> DataFusionResult<Bytes> {
        physical_plan_to_bytes_with_proto_converter(plan, self, &Converter(results))
    }

    /// Reads the plan of a stage. `context` has the functions.
    ///
    /// # Errors
    /// A function that the context lacks, or a damaged plan.
    pub(super) fn decode(
        &self,
        plan: &[u8],
        context: &TaskContext,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        physical_plan_from_bytes_with_extension_codec(plan, context, self)
    }
}

impl PhysicalExtensionCodec for StageCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        match (buf.split_first(), inputs) {
            (Some((&INPUT, schema)), []) => Ok(StageInput::of(rows_of_bytes(schema)?.0)),
            (Some((&MODEL, model)), [input]) => {
                let model: EncodedModel = serde_json::from_slice(model)
                    .map_err(|error| DataFusionError::External(Box::new(error)))?;
                let Some(step) = self.steps.get(model.call) else {
                    return plan_err!("the stage has no call {}", model.call);
                };
                let context = PhysicalPlanDecodeContext::new(ctx, self);
                let schema = input.schema();
                let exprs = model.inputs.iter().map(|bytes| {
                    let expr = PhysicalExprNode::decode(bytes.as_slice())
                        .map_err(|error| DataFusionError::External(Box::new(error)))?;
                    proto_converter.proto_to_physical_expr(&expr, &schema, &context)
                });
                let exprs = exprs.collect::<DataFusionResult<_>>()?;
                let output = Arc::new(Field::new(model.output, step.data_type(), true));
                let exec = ModelExec::try_new(Arc::clone(input), Arc::clone(step), exprs, output)?;
                Ok(Arc::new(exec.with_few(model.few)))
            }
            _ => plan_err!("the plan of a stage is damaged"),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<()> {
        if node.is::<StageInput>() {
            buf.push(INPUT);
            buf.extend(rows_to_bytes(&node.schema(), &[])?);
            return Ok(());
        }
        let Some(model) = node.downcast_ref::<ModelExec>() else {
            return not_impl_err!("`{}` cannot be sent to executors", node.name());
        };
        let mut steps = self.steps.iter();
        let Some(call) = steps.position(|step| Arc::ptr_eq(step, model.step())) else {
            return internal_err!("the stage lacks a call of its plan");
        };
        let inputs = model.inputs().iter().map(|input| {
            let input = proto_converter.physical_expr_to_proto(input, self)?;
            Ok(input.encode_to_vec())
        });
        let encoded = EncodedModel {
            call,
            output: model.output().name().clone(),
            few: model.few(),
            inputs: inputs.collect::<DataFusionResult<_>>()?,
        };
        buf.push(MODEL);
        serde_json::to_writer(buf, &encoded)
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

/// What stands for scalar subqueries, which run on the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SubqueryResults {
    /// Nulls of their types: they have not run.
    Pending,
    /// Their results.
    Known,
}

/// Writes scalar subqueries as constants.
struct Converter(SubqueryResults);

impl PhysicalProtoConverterExtension for Converter {
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.default_proto_to_execution_plan(proto, ctx)
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> DataFusionResult<PhysicalPlanNode> {
        PhysicalPlanNode::try_from_physical_plan_with_converter(Arc::clone(plan), codec, self)
    }

    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        input_schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        self.default_proto_to_physical_expr(proto, input_schema, ctx)
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> DataFusionResult<PhysicalExprNode> {
        if !expr.is::<ScalarSubqueryExpr>() {
            return serialize_physical_expr_with_converter(expr, codec, self);
        }
        let empty = Arc::new(Schema::empty());
        let value = match self.0 {
            SubqueryResults::Pending => ScalarValue::try_from(&expr.data_type(&empty)?)?,
            SubqueryResults::Known => match expr.evaluate(&RecordBatch::new_empty(empty))? {
                ColumnarValue::Scalar(value) => value,
                ColumnarValue::Array(_) => return internal_err!("a subquery has many results"),
            },
        };
        let literal: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(value));
        serialize_physical_expr_with_converter(&literal, codec, self)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use datafusion::physical_plan::displayable;
    use datafusion::physical_plan::filter::FilterExec;

    use super::*;

    fn filter() -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true)]));
        let predicate = binary(col("a", &schema).unwrap(), Operator::Gt, lit(3), &schema).unwrap();
        Arc::new(FilterExec::try_new(predicate, StageInput::of(schema)).unwrap())
    }

    #[test]
    fn a_stage_survives_its_description() {
        let codec = StageCodec { steps: Vec::new() };
        let plan = codec.encode(filter(), SubqueryResults::Known).unwrap();
        let head = StageHead::new("q".to_owned(), None, Vec::new(), Vec::new());
        let job = head.encode(&plan).unwrap();
        assert!(StageHead::is_of(&job) && !StageHead::is_of(b"a pipeline"));
        let (head, plan) = StageHead::decode(&job).unwrap();
        assert_eq!(head.query, "q");
        let back = codec.decode(&plan, &TaskContext::default()).unwrap();
        let shown = |plan: &Arc<dyn ExecutionPlan>| displayable(&**plan).indent(false).to_string();
        assert_eq!(shown(&back), shown(&filter()));
    }

    #[test]
    fn another_build_and_damage_are_refused() {
        let mut head = StageHead::new("q".to_owned(), None, Vec::new(), Vec::new());
        head.build = "0.0.1 other".to_owned();
        let error = StageHead::decode(&head.encode(b"").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for job in [&b""[..], MAGIC, b"hfauto-pipe query 1\0\x05\0\0\0{\"a\"}"] {
            assert_eq!(StageHead::decode(job).unwrap_err().kind(), ErrorKind::Data);
        }
        let codec = StageCodec { steps: Vec::new() };
        codec.decode(b"nonsense", &TaskContext::default()).unwrap_err();
    }
}
