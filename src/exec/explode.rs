//! Makes a row of each item of a list: what follows a step that divides a text. Not here: the step itself (`crate::tasks`), and
//! `unnest` in SQL, which is DataFusion's.
//!
//! A row whose list is null or empty stays, with null in the columns of the item, so that no input row is lost. Other columns
//! are repeated, except the text that was divided: a document of many chunks would be copied into each of them. Rows are made
//! piece by piece, in bounded memory.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, Result, plan_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

use super::row_errors::FailedRows;

/// The most rows of a piece.
const PIECE_ROWS: usize = 8192;

/// The bytes of a piece, as far as the sizes of rows are even.
const PIECE_BYTES: usize = 32 << 20;

/// Follows a model step whose column is a list of structs.
#[derive(Clone, Debug)]
pub(crate) struct ExplodeNode {
    input: LogicalPlan,
    rule: Arc<Rule>,
    failed: Arc<FailedRows>,
    schema: DFSchemaRef,
}

/// Which columns become which.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Rule {
    /// The column of lists.
    list: String,
    /// The columns that are left out.
    dropped: Vec<String>,
    /// The names of the columns for the fields of an item.
    names: Vec<String>,
}

impl Rule {
    /// For each column of the output, the index of the column of the input.
    fn origins(&self, input: &Schema) -> Vec<usize> {
        let fields = input.fields().iter().enumerate();
        fields
            .filter(|(_, field)| !self.dropped.contains(field.name()))
            .flat_map(|(index, field)| {
                let count = if *field.name() == self.list { self.names.len() } else { 1 };
                std::iter::repeat_n(index, count)
            })
            .collect()
    }

    fn fields(&self, input: &Schema) -> Result<Vec<FieldRef>> {
        let mut fields: Vec<FieldRef> = Vec::new();
        for field in input.fields() {
            if *field.name() == self.list {
                let DataType::List(item) = field.data_type() else {
                    return plan_err!("column `{}` is no list", self.list);
                };
                let DataType::Struct(parts) = item.data_type() else {
                    return plan_err!("column `{}` is no list of structs", self.list);
                };
                let named = self.names.iter().zip(parts);
                fields.extend(named.map(|(name, part)| {
                    Arc::new(Field::new(name, part.data_type().clone(), true)) as FieldRef
                }));
            } else if !self.dropped.contains(field.name()) {
                fields.push(Arc::clone(field));
            }
        }
        Ok(fields)
    }
}

impl ExplodeNode {
    /// Adds the node after `input`, whose column `list` has lists of structs. Their fields become columns of these `names`;
    /// the columns `dropped` are left out.
    ///
    /// # Errors
    /// `Plan` when the column is no such list, or `names` has a name of another column.
    pub(crate) fn try_new(
        input: LogicalPlan,
        list: &str,
        dropped: Vec<String>,
        names: Vec<String>,
    ) -> Result<Self> {
        let rule = Rule { list: list.to_owned(), dropped, names };
        Self::with_rule(input, Arc::new(rule), Arc::default())
    }

    fn with_rule(input: LogicalPlan, rule: Arc<Rule>, failed: Arc<FailedRows>) -> Result<Self> {
        let schema = input.schema();
        let fields = rule.fields(schema.as_arrow())?;
        let origins = rule.origins(schema.as_arrow());
        // Qualifiers stay with the columns that stay.
        let qualified = fields.into_iter().zip(origins).map(|(field, index)| {
            let (qualifier, before) = schema.qualified_field(index);
            let stays = *before.name() != rule.list;
            (qualifier.filter(|_| stays).cloned(), field)
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

    /// The node behind a trait object.
    pub(super) fn of_node(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    /// The same node, with the rows that it adds counted in `failed`.
    pub(crate) fn with_failed(&self, failed: Arc<FailedRows>) -> Self {
        Self { failed, ..self.clone() }
    }

    /// The node as a plan.
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The operator over a planned input.
    ///
    /// # Errors
    /// As [`ExplodeNode::try_new`].
    pub(super) fn exec(&self, input: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let (rule, failed) = (Arc::clone(&self.rule), Arc::clone(&self.failed));
        Ok(Arc::new(ExplodeExec::try_new(Arc::clone(input), rule, failed)?))
    }
}

impl PartialEq for ExplodeNode {
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule
            && Arc::ptr_eq(&self.failed, &other.failed)
            && self.input == other.input
    }
}

impl Eq for ExplodeNode {}

impl Hash for ExplodeNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rule.hash(state);
        self.input.hash(state);
    }
}

impl PartialOrd for ExplodeNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other { Some(Ordering::Equal) } else { self.input.partial_cmp(&other.input) }
    }
}

impl UserDefinedLogicalNodeCore for ExplodeNode {
    fn name(&self) -> &'static str {
        "Explode"
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

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.rule.names.iter().cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Explode: {} -> {}", self.rule.list, self.rule.names.join(", "))
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match inputs.pop() {
            Some(input) if inputs.is_empty() => {
                Self::with_rule(input, Arc::clone(&self.rule), Arc::clone(&self.failed))
            }
            _ => plan_err!("Explode has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let input = self.input.schema().as_arrow();
        let origins = self.rule.origins(input);
        let list = input.index_of(&self.rule.list).ok()?;
        let mut needed: Vec<usize> =
            output_columns.iter().filter_map(|column| origins.get(*column).copied()).collect();
        needed.push(list);
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// Makes rows of the items of each batch.
#[derive(Debug)]
struct ExplodeExec {
    input: Arc<dyn ExecutionPlan>,
    rule: Arc<Rule>,
    failed: Arc<FailedRows>,
    properties: Arc<PlanProperties>,
}

impl ExplodeExec {
    fn try_new(
        input: Arc<dyn ExecutionPlan>,
        rule: Arc<Rule>,
        failed: Arc<FailedRows>,
    ) -> Result<Self> {
        let schema = Arc::new(Schema::new(rule.fields(&input.schema())?));
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self { input, rule, failed, properties: Arc::new(properties) })
    }
}

impl DisplayAs for ExplodeExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match format {
            DisplayFormatType::TreeRender => writeln!(f, "list={}", self.rule.list),
            _ => write!(f, "ExplodeExec: {}", self.rule.list),
        }
    }
}

impl ExecutionPlan for ExplodeExec {
    fn name(&self) -> &'static str {
        "ExplodeExec"
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
                Ok(Arc::new(Self::try_new(input, rule, failed)?))
            }
            _ => plan_err!("ExplodeExec has one input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(Recompute))
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::GreaterEqual
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
        let pieces = input.flat_map(move |batch| {
            let pieces = batch.map(|batch| {
                let pieces = Pieces::new(&rule, &batch, Arc::clone(&of));
                failed.add_seen(pieces.rows.saturating_sub(batch.num_rows()) as u64);
                pieces
            });
            let (pieces, error) = match pieces {
                Ok(pieces) => (Some(pieces), None),
                Err(error) => (None, Some(Err(error))),
            };
            futures::stream::iter(pieces.into_iter().flatten().chain(error))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, pieces)))
    }
}

/// The rows of a batch, made piece by piece.
struct Pieces {
    schema: SchemaRef,
    /// The columns before the lists and those after them.
    kept: [Vec<ArrayRef>; 2],
    list: ListArray,
    /// The rows of all pieces.
    rows: usize,
    /// The most rows of one.
    most: usize,
    /// The next row of the batch, and its next item.
    next: (usize, usize),
}

impl Pieces {
    fn new(rule: &Rule, batch: &RecordBatch, schema: SchemaRef) -> Self {
        let list = batch[rule.list.as_str()].as_list::<i32>().clone();
        let (mut kept, mut side) = ([Vec::new(), Vec::new()], 0);
        let mut bytes = 0;
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if *field.name() == rule.list {
                side = 1;
            } else if !rule.dropped.contains(field.name()) {
                bytes += column.get_array_memory_size();
                kept[side].push(Arc::clone(column));
            }
        }
        let of_item = list.values().get_array_memory_size() / list.values().len().max(1);
        let of_row = bytes / batch.num_rows().max(1) + of_item;
        let rows = (0..list.len()).map(|row| items_of(&list, row).max(1)).sum();
        let most = (PIECE_BYTES / of_row.max(1)).clamp(1, PIECE_ROWS);
        Self { schema, kept, list, rows, most, next: (0, 0) }
    }

    /// The row of the batch and the item of each row of the next piece.
    fn places(&mut self) -> (Vec<u32>, Vec<Option<u32>>) {
        let (mut rows, mut items) = (Vec::new(), Vec::new());
        let (row, item) = &mut self.next;
        while *row < self.list.len() && rows.len() < self.most {
            let count = items_of(&self.list, *row);
            let first = self.list.value_offsets()[*row] as usize;
            rows.push(*row as u32);
            items.push((count > 0).then(|| (first + *item) as u32));
            *item += 1;
            if *item >= count {
                (*row, *item) = (*row + 1, 0);
            }
        }
        (rows, items)
    }

    fn piece(&mut self) -> Result<RecordBatch> {
        let (rows, items) = self.places();
        let (rows, items) = (UInt32Array::from(rows), UInt32Array::from(items));
        let of = |columns: &[ArrayRef], places: &UInt32Array| {
            columns.iter().map(|column| Ok(take(column, places, None)?)).collect::<Result<Vec<_>>>()
        };
        let mut columns = of(&self.kept[0], &rows)?;
        columns.extend(of(self.list.values().as_struct().columns(), &items)?);
        columns.extend(of(&self.kept[1], &rows)?);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// The number of items of a row; none if it is null.
fn items_of(list: &ListArray, row: usize) -> usize {
    if list.is_null(row) { 0 } else { list.value_length(row) as usize }
}

impl Iterator for Pieces {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next.0 < self.list.len()).then(|| self.piece())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray, StructArray};
    use arrow::buffer::{NullBuffer, OffsetBuffer};
    use arrow::datatypes::{Fields, Int32Type, Int64Type};

    use super::*;

    /// Rows with two items, none, null and three.
    fn batch() -> RecordBatch {
        let parts: Fields = vec![
            Field::new("chunk", DataType::Utf8, false),
            Field::new("index", DataType::Int64, false),
        ]
        .into();
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "x", "c", "d", "e"]));
        let indexes: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 9, 0, 1, 2]));
        let items = StructArray::new(parts.clone(), vec![texts, indexes], None);
        let item = Arc::new(Field::new_list_field(DataType::Struct(parts), false));
        let offsets = OffsetBuffer::from_lengths([2, 0, 1, 3]);
        let valid = NullBuffer::from(vec![true, true, false, true]);
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::new(items), Some(valid)));
        let id: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["ab", "", "-", "cde"]));
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::clone(&id), false),
            ("text", text, true),
            ("part", list, true),
            ("late", id, true),
        ])
        .unwrap()
    }

    fn exploded(batch: &RecordBatch, most: usize) -> Vec<RecordBatch> {
        let rule = Rule {
            list: "part".to_owned(),
            dropped: vec!["text".to_owned()],
            names: ["part", "part_index"].map(str::to_owned).to_vec(),
        };
        let schema = Arc::new(Schema::new(rule.fields(&batch.schema()).unwrap()));
        let mut pieces = Pieces::new(&rule, batch, schema);
        pieces.most = most;
        assert_eq!(pieces.rows, if batch.num_rows() == 4 { 7 } else { 5 });
        pieces.collect::<Result<_>>().unwrap()
    }

    fn rows(batches: &[RecordBatch]) -> Vec<(i32, Option<String>, Option<i64>)> {
        let of = |batch: &RecordBatch| {
            assert_eq!(batch["late"].to_data(), batch["id"].to_data());
            let text = batch["part"].as_string::<i32>();
            let index = batch["part_index"].as_primitive::<Int64Type>();
            (0..batch.num_rows())
                .map(|row| {
                    (
                        batch["id"].as_primitive::<Int32Type>().value(row),
                        text.is_valid(row).then(|| text.value(row).to_owned()),
                        index.is_valid(row).then(|| index.value(row)),
                    )
                })
                .collect::<Vec<_>>()
        };
        batches.iter().flat_map(of).collect()
    }

    #[test]
    fn a_row_for_each_item_and_no_row_is_lost() {
        let batch = batch();
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            (1, text("a"), Some(0)),
            (1, text("b"), Some(1)),
            (2, None, None),
            (3, None, None),
            (4, text("c"), Some(0)),
            (4, text("d"), Some(1)),
            (4, text("e"), Some(2)),
        ];
        for most in [1, 2, 3, 100] {
            let pieces = exploded(&batch, most);
            assert!(pieces.iter().all(|piece| piece.num_rows() <= most));
            assert_eq!(rows(&pieces), expected, "{most}");
        }
        assert_eq!(rows(&exploded(&batch.slice(1, 3), 2)), expected[2..]);
        let names: Vec<_> =
            exploded(&batch, 9)[0].schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["id", "part", "part_index", "late"]);
    }
}
