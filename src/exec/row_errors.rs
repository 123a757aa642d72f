//! Handles rows that a model step refuses, as `on_error` says: the error goes into its own column, or the row is
//! removed and kept for the dead letters. Not here: detecting row errors ([`super::gather`], [`super::workers`]), and
//! writing dead letters (`dead_letter`).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering as AtomicOrdering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray};
use arrow::compute::{filter_record_batch, interleave, is_not_null, not};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, Result, plan_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

use super::metrics::StepMetrics;
use super::row_error::RowError;
use crate::config::pipeline::{OnErrorRows, OnErrorSpec};
use crate::error::RowErrorKind;

/// The failed rows of a unit or a job.
#[derive(Debug, Default)]
pub(crate) struct FailedRows {
    seen: AtomicU64,
    failed: AtomicU64,
    letters: Mutex<Vec<Letters>>,
}

/// The rows that a step removed, as they were before it, with their errors.
#[derive(Debug)]
pub(crate) struct Letters {
    /// The column of the step.
    pub(crate) step: String,
    pub(crate) batches: Vec<RecordBatch>,
}

impl FailedRows {
    /// Rows that reached the first step, and those that later steps made of them.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(AtomicOrdering::Relaxed)
    }

    /// Rows that failed in any step.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(AtomicOrdering::Relaxed)
    }

    /// Counts rows that a step makes of others.
    pub(super) fn add_seen(&self, rows: u64) {
        self.seen.fetch_add(rows, AtomicOrdering::Relaxed);
    }

    /// Takes the removed rows, by step.
    pub(crate) fn take_letters(&self) -> Vec<Letters> {
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, step: &str, batch: RecordBatch) {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        match letters.iter_mut().find(|letters| letters.step == step) {
            Some(letters) => letters.batches.push(batch),
            None => letters.push(Letters { step: step.to_owned(), batches: vec![batch] }),
        }
    }
}

/// Follows a model step that keeps row errors beside its values.
#[derive(Clone, Debug)]
pub(crate) struct RowErrorsNode {
    input: LogicalPlan,
    rule: Arc<Rule>,
    failed: Arc<FailedRows>,
    schema: DFSchemaRef,
}

/// The rule for failed rows.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Rule {
    /// The column of the step: Struct<value, error, kind> before this node, the value after it.
    step: String,
    /// The name of the step in errors.
    label: String,
    /// The column for errors.
    column: String,
    skips: bool,
    /// Whether this is the first node of its kind.
    is_first: bool,
    /// The counters for its errors, unless an earlier node counts them.
    counted: Counted,
}

/// Counters; they do not affect the equality of rules.
#[derive(Debug, Default)]
struct Counted(Option<Arc<StepMetrics>>);

impl PartialEq for Counted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Counted {}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// The fields of an error struct.
fn error_fields() -> Fields {
    ["step", "kind", "message"].map(|name| Field::new(name, DataType::Utf8, false)).to_vec().into()
}

/// The type of the column for errors.
pub(crate) fn error_type() -> DataType {
    DataType::Struct(error_fields())
}

/// Fails when the rows already have a column with the name of the one for errors.
///
/// # Errors
/// `Plan`.
pub(crate) fn check_free(schema: &DFSchema, column: &str) -> Result<()> {
    if schema.has_column_with_unqualified_name(column) {
        return plan_err!(
            "the rows already have a column `{column}`: set another `on_error.column`"
        );
    }
    Ok(())
}

impl Rule {
    fn new(
        step: &str,
        label: &str,
        on_error: &OnErrorSpec,
        is_first: bool,
        counted: Counted,
    ) -> Self {
        Self {
            step: step.to_owned(),
            label: label.to_owned(),
            column: on_error.column.clone(),
            skips: on_error.rows == OnErrorRows::Skip,
            is_first,
            counted,
        }
    }

    fn schema(&self, input: &Schema) -> Schema {
        let mut fields: Vec<FieldRef> = Vec::new();
        for field in input.fields() {
            if *field.name() == self.step {
                let DataType::Struct(parts) = field.data_type() else { continue };
                let field = field.as_ref().clone().with_data_type(parts[0].data_type().clone());
                fields.push(Arc::new(field));
            } else if *field.name() != self.column {
                fields.push(Arc::clone(field));
            }
        }
        if !self.skips {
            fields.push(Arc::new(Field::new(&self.column, error_type(), true)));
        }
        Schema::new_with_metadata(fields, input.metadata().clone())
    }

    fn apply(
        &self,
        batch: &RecordBatch,
        schema: &SchemaRef,
        failed: &FailedRows,
    ) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let both = batch[self.step.as_str()].as_struct();
        let (values, messages) = (both.column(0), both.column(1).as_string::<i32>());
        let kinds = both.column(2).as_string::<i32>();
        let has_failed = is_not_null(messages)?;
        if self.is_first {
            failed.seen.fetch_add(rows as u64, AtomicOrdering::Relaxed);
        }
        failed.failed.fetch_add(has_failed.true_count() as u64, AtomicOrdering::Relaxed);
        if let Counted(Some(counters)) = &self.counted {
            for message in messages.iter().flatten() {
                let (kind, message) = (RowErrorKind::InvalidUtf8, message.to_owned());
                counters.failed(&RowError { kind, message });
            }
        }

        let errors = self.errors(batch, messages, kinds)?;
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut before: Vec<(FieldRef, ArrayRef)> = Vec::new();
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if *field.name() == self.step {
                columns.push(Arc::clone(values));
            } else if *field.name() != self.column {
                columns.push(Arc::clone(column));
                before.push((Arc::clone(field), Arc::clone(column)));
            }
        }
        if !self.skips {
            columns.push(errors);
            return Ok(RecordBatch::try_new(Arc::clone(schema), columns)?);
        }
        let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
        if has_failed.true_count() == 0 {
            return Ok(batch);
        }
        before.push((Arc::new(Field::new(&self.column, errors.data_type().clone(), true)), errors));
        let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) = before.into_iter().unzip();
        let letters = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        failed.keep(&self.step, filter_record_batch(&letters, &has_failed)?);
        Ok(filter_record_batch(&batch, &not(&has_failed)?)?)
    }

    /// The errors of earlier steps and of this one.
    fn errors(
        &self,
        batch: &RecordBatch,
        messages: &StringArray,
        kinds: &StringArray,
    ) -> Result<ArrayRef> {
        let rows = messages.len();
        let step: StringArray = std::iter::repeat_n(Some(&self.label), rows).collect();
        // The fields are not nullable, but rows without an error are null.
        let filled = |texts: &StringArray| -> ArrayRef {
            Arc::new(texts.iter().map(|text| Some(text.unwrap_or(""))).collect::<StringArray>())
        };
        let valid = messages.nulls().cloned();
        let columns = vec![Arc::new(step) as ArrayRef, filled(kinds), filled(messages)];
        let own: ArrayRef = Arc::new(StructArray::try_new(error_fields(), columns, valid)?);
        let Some(earlier) = batch.column_by_name(&self.column) else { return Ok(own) };
        let source = (0..rows).map(|row| (usize::from(earlier.is_null(row)), row));
        Ok(interleave(&[earlier.as_ref(), own.as_ref()], &source.collect::<Vec<_>>())?)
    }
}

impl RowErrorsNode {
    /// Adds the node after `input`, which ends in the step with the column `step`.
    ///
    /// # Errors
    /// `Plan` when `input` has another column with the name of the one for errors.
    pub(crate) fn try_new(
        input: LogicalPlan,
        step: &str,
        on_error: &OnErrorSpec,
        is_first: bool,
    ) -> Result<Self> {
        let schema = input.schema();
        let is_of_errors = |index: usize| *schema.field(index).data_type() == error_type();
        let earlier = schema.index_of_column_by_name(None, &on_error.column);
        if on_error.rows == OnErrorRows::Skip || !earlier.is_some_and(is_of_errors) {
            check_free(schema, &on_error.column)?;
        }
        let rule = Rule::new(step, step, on_error, is_first, Counted::default());
        Self::with_rule(input, Arc::new(rule), Arc::default())
    }

    /// Adds the node after the rows of the source. `failed` is the column with their errors; `label` is their place in
    /// error messages; `counters` counts them.
    ///
    /// # Errors
    /// As [`RowErrorsNode::try_new`].
    pub(crate) fn of_source(
        input: LogicalPlan,
        failed: &str,
        label: &str,
        on_error: &OnErrorSpec,
        counters: Arc<StepMetrics>,
    ) -> Result<Self> {
        let rule = Rule::new(failed, label, on_error, true, Counted(Some(counters)));
        Self::with_rule(input, Arc::new(rule), Arc::default())
    }

    fn with_rule(input: LogicalPlan, rule: Arc<Rule>, failed: Arc<FailedRows>) -> Result<Self> {
        let schema = rule.schema(input.schema().as_arrow());
        // Qualifiers stay with the columns that stay.
        let qualified = schema.fields().iter().map(|field| {
            let index = input.schema().index_of_column_by_name(None, field.name());
            let qualifier =
                index.and_then(|index| input.schema().qualified_field(index).0.cloned());
            (qualifier, Arc::clone(field))
        });
        let schema = DFSchema::new_with_metadata(qualified.collect(), HashMap::default())?;
        Ok(Self { input, rule, failed, schema: Arc::new(schema) })
    }

    /// The node, if the plan is one.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The columns of dead letters; `None` if failed rows stay.
    pub(crate) fn letters(&self) -> Option<SchemaRef> {
        let is_kept = |field: &&FieldRef| {
            *field.name() != self.rule.step && *field.name() != self.rule.column
        };
        let fields: Vec<_> = self.input.schema().fields().iter().filter(is_kept).cloned().collect();
        self.rule.skips.then(|| Arc::new(Schema::new(fields)))
    }

    /// The same node, with errors counted in `failed`.
    pub(crate) fn with_failed(&self, failed: Arc<FailedRows>) -> Self {
        Self { failed, ..self.clone() }
    }

    /// The node as a plan.
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The operator over a planned input.
    pub(crate) fn exec(&self, input: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(RowErrorsExec::new(
            Arc::clone(input),
            Arc::clone(&self.rule),
            Arc::clone(&self.failed),
        ))
    }

    /// The node behind a trait object.
    pub(crate) fn of_node(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }
}

impl PartialEq for RowErrorsNode {
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule
            && Arc::ptr_eq(&self.failed, &other.failed)
            && self.input == other.input
    }
}

impl Eq for RowErrorsNode {}

impl Hash for RowErrorsNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rule.hash(state);
        self.input.hash(state);
    }
}

impl PartialOrd for RowErrorsNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other { Some(Ordering::Equal) } else { self.input.partial_cmp(&other.input) }
    }
}

impl UserDefinedLogicalNodeCore for RowErrorsNode {
    fn name(&self) -> &'static str {
        "RowErrors"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { step, column, skips, .. } = &*self.rule;
        write!(f, "RowErrors: {step}, {column}, rows={}", if *skips { "skip" } else { "null" })
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match inputs.pop() {
            Some(input) if inputs.is_empty() => {
                Self::with_rule(input, Arc::clone(&self.rule), Arc::clone(&self.failed))
            }
            _ => plan_err!("RowErrors has one input"),
        }
    }
}

/// Applies a rule to every batch.
#[derive(Debug)]
struct RowErrorsExec {
    input: Arc<dyn ExecutionPlan>,
    rule: Arc<Rule>,
    failed: Arc<FailedRows>,
    properties: Arc<PlanProperties>,
}

impl RowErrorsExec {
    fn new(input: Arc<dyn ExecutionPlan>, rule: Arc<Rule>, failed: Arc<FailedRows>) -> Self {
        let schema = Arc::new(rule.schema(&input.schema()));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { input, rule, failed, properties: Arc::new(properties) }
    }
}

impl DisplayAs for RowErrorsExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match format {
            DisplayFormatType::TreeRender => writeln!(f, "step={}", self.rule.step),
            _ => write!(f, "RowErrorsExec: {}", self.rule.step),
        }
    }
}

impl ExecutionPlan for RowErrorsExec {
    fn name(&self) -> &'static str {
        "RowErrorsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) if children.is_empty() => {
                let (rule, failed) = (Arc::clone(&self.rule), Arc::clone(&self.failed));
                Ok(Arc::new(Self::new(input, rule, failed)))
            }
            _ => plan_err!("RowErrorsExec has one input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(Recompute))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (rule, failed, schema) =
            (Arc::clone(&self.rule), Arc::clone(&self.failed), self.schema());
        let of = Arc::clone(&schema);
        let batches = input.map(move |batch| rule.apply(&batch?, &of, &failed));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Int32Array};

    use super::super::row_error::{RowErrors, error_parts};
    use super::*;

    /// Five rows: a value, a failure, a null, an earlier failure, and a failure after an earlier failure.
    fn batch(with_earlier: bool) -> RecordBatch {
        let value: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None, None, None, None]));
        let error: ArrayRef =
            Arc::new(StringArray::from(vec![None, Some("too long"), None, None, Some("late")]));
        let kind: ArrayRef =
            Arc::new(StringArray::from(vec![None, Some("too_long"), None, None, Some("no_room")]));
        let fields = error_parts(&DataType::Float32, RowErrors::KeepKind);
        let score: ArrayRef =
            Arc::new(StructArray::try_new(fields, vec![value, error, kind], None).unwrap());
        let id: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5]));
        let mut columns = vec![("id", id, false), ("score", score, true)];
        if with_earlier {
            let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; 5])) };
            let valid = vec![false, false, false, true, true].into();
            let columns_of = vec![text("first"), text("data"), text("no image")];
            let earlier = StructArray::try_new(error_fields(), columns_of, Some(valid)).unwrap();
            columns.push(("_error", Arc::new(earlier), true));
        }
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    fn rule(skips: bool, is_first: bool) -> Rule {
        let rows = if skips { OnErrorRows::Skip } else { OnErrorRows::Null };
        let on_error = OnErrorSpec {
            rows,
            column: "_error".to_owned(),
            dead_letter: "dead".into(),
            max_fraction: 1.0,
            location: "p.yaml:1:1".to_owned(),
        };
        Rule::new("score", "score", &on_error, is_first, Counted::default())
    }

    fn messages(batch: &RecordBatch) -> Vec<Option<String>> {
        let errors = batch["_error"].as_struct();
        let texts = errors.column(2).as_string::<i32>();
        (0..batch.num_rows())
            .map(|row| errors.is_valid(row).then(|| texts.value(row).to_owned()))
            .collect()
    }

    #[test]
    fn errors_are_in_a_column_and_the_first_one_is_kept() {
        let (batch, rule, failed) = (batch(true), rule(false, false), FailedRows::default());
        let schema = Arc::new(rule.schema(&batch.schema()));
        let out = rule.apply(&batch, &schema, &failed).unwrap();
        let names: Vec<_> =
            out.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["id", "score", "_error"]);
        assert_eq!((out.num_rows(), out["score"].null_count()), (5, 4));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            messages(&out),
            [None, some("too long"), None, some("no image"), some("no image")]
        );
        assert_eq!((failed.seen(), failed.failed()), (0, 2));
    }

    #[test]
    fn skipped_rows_are_kept_as_they_were() {
        let (batch, rule, failed) = (batch(false), rule(true, true), FailedRows::default());
        let schema = Arc::new(rule.schema(&batch.schema()));
        let out = rule.apply(&batch, &schema, &failed).unwrap();
        assert_eq!(out["id"].as_primitive::<arrow::datatypes::Int32Type>().values(), &[1, 3, 4]);
        assert!(out.column_by_name("_error").is_none());
        assert_eq!((failed.seen(), failed.failed()), (5, 2));
        let letters = failed.take_letters();
        assert_eq!((letters.len(), letters[0].step.as_str()), (1, "score"));
        let letters = &letters[0].batches[0];
        assert_eq!(letters["id"].as_primitive::<arrow::datatypes::Int32Type>().values(), &[2, 5]);
        assert_eq!(messages(letters), [Some("too long".to_owned()), Some("late".to_owned())]);
        assert!(letters.column_by_name("score").is_none());
    }
}
