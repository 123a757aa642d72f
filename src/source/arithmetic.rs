//! SQL arithmetic that reports overflow: DataFusion's integer `+`, `-` and `*` wrap around. Not here: sums (`sum`).
//!
//! An analyzer rule replaces each operation that could overflow by a function, after type coercion and before constant
//! folding. The function has the operation's name, which preserves column names.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum};
use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Field, FieldRef, TimeUnit,
};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;

use crate::error::{Error, ErrorKind};

/// Replaces arithmetic that could overflow by [`Checked`] functions.
#[derive(Debug)]
pub(super) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn name(&self) -> &'static str {
        "checked_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(check_plan)?.data)
    }
}

fn check_plan(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        let table = scan.table_name.clone();
        schema.merge(&DFSchema::try_from_qualified_schema(table, &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let checked = expr.transform_up(|expr| check_expr(expr, &schema))?;
        Ok(checked.update_data(|expr| name.restore(expr)))
    })
}

fn check_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (operation, args) = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            match Operation::of(op).filter(|_| may_wrap(&left, schema) && may_wrap(&right, schema))
            {
                Some(operation) => (operation, vec![*left, *right]),
                None => {
                    return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
                }
            }
        }
        Expr::Negative(arg) => match arg.get_type(schema) {
            Ok(data_type) if !data_type.is_floating() && !data_type.is_null() => {
                (Operation::Negate, vec![*arg])
            }
            _ => return Ok(Transformed::no(Expr::Negative(arg))),
        },
        // Here Arrow multiplies milliseconds unchecked, but not from one timestamp to another.
        Expr::Cast(Cast { expr, field })
            if matches!(field.data_type(), DataType::Timestamp(..))
                && matches!(expr.get_type(schema), Ok(DataType::Date64)) =>
        {
            let DataType::Timestamp(_, zone) = field.data_type() else {
                return internal_err!("the cast is to a timestamp");
            };
            let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, zone.clone());
            let expr = Box::new(Expr::Cast(Cast::new(expr, milliseconds)));
            return Ok(Transformed::yes(Expr::Cast(Cast { expr, field })));
        }
        other => return Ok(Transformed::no(other)),
    };
    let function = ScalarUDF::new_from_impl(Checked::new(operation));
    let call = ScalarFunction::new_udf(Arc::new(function), args);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

/// Whether arithmetic on this operand wraps or loses precision silently.
fn may_wrap(expr: &Expr, schema: &DFSchema) -> bool {
    // In a chain, the type of each operation would be computed from all the ones before it.
    if let Expr::ScalarFunction(call) = expr
        && let Some(checked) = call.func.inner().downcast_ref::<Checked>()
        && checked.operation != Operation::Negate
    {
        return true;
    }
    expr.get_type(schema).is_ok_and(|data_type| {
        data_type.is_integer() || matches!(data_type, DataType::Decimal128(..))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    ShiftLeft,
    Negate,
}

impl Operation {
    fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            Operator::BitwiseShiftLeft => Some(Self::ShiftLeft),
            _ => None,
        }
    }

    fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract | Self::Negate => Operator::Minus,
            Self::Multiply => Operator::Multiply,
            Self::ShiftLeft => Operator::BitwiseShiftLeft,
        }
    }
}

/// An operation that fails when its result overflows its type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operation: Operation,
    signature: Signature,
}

impl Checked {
    fn new(operation: Operation) -> Self {
        Self { operation, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        match self.operation {
            Operation::Add => "checked_add",
            Operation::Subtract => "checked_subtract",
            Operation::Multiply => "checked_multiply",
            Operation::ShiftLeft => "checked_shift_left",
            Operation::Negate => "checked_negate",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [left, right] => Ok(format!("({left} {} {right})", self.operation.operator())),
            [arg] => Ok(format!("(- {arg})")),
            _ => internal_err!("`{}` has one or two arguments", self.name()),
        }
    }

    /// The column name that the operation itself would produce.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [left, right] => {
                let (left, right) = (left.schema_name(), right.schema_name());
                Ok(format!("{left} {} {right}", self.operation.operator()))
            }
            [arg] => Ok(format!("(- {})", arg.schema_name())),
            _ => internal_err!("`{}` has one or two arguments", self.name()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [left, right] => {
                BinaryTypeCoercer::new(left, &self.operation.operator(), right).get_result_type()
            }
            [arg] => Ok(arg.clone()),
            _ => internal_err!("`{}` has one or two arguments", self.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<_> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = args.return_field.data_type().to_string();
        let result = match (self.operation, args.args.as_slice()) {
            (Operation::Add, [left, right]) => apply(left, right, add),
            (Operation::Subtract, [left, right]) => apply(left, right, sub),
            (Operation::Multiply, [left, right]) => apply(left, right, mul),
            (Operation::ShiftLeft, [left, right]) => apply(left, right, shift_left),
            (Operation::Negate, [ColumnarValue::Array(values)]) => {
                neg(values).map(ColumnarValue::Array).map_err(DataFusionError::from)
            }
            (Operation::Negate, [ColumnarValue::Scalar(value)]) => value
                .to_array()
                .and_then(|value| Ok(neg(&value)?))
                .and_then(|value| ScalarValue::try_from_array(&value, 0))
                .map(ColumnarValue::Scalar),
            _ => return internal_err!("`{}` has one or two arguments", self.name()),
        };
        let result = result.map_err(|error| explained(error, &name))?;
        if let DataType::Decimal128(precision @ DECIMAL128_MAX_PRECISION, _) =
            args.return_field.data_type()
        {
            let values = result.to_array(1)?;
            let checked = values.as_primitive::<Decimal128Type>();
            checked
                .validate_decimal_precision(*precision)
                .map_err(|_| out_of_range(format!("a result has more than {precision} digits")))?;
        }
        Ok(result)
    }
}

/// The functions, for plans that name them and come from another process.
#[cfg(feature = "cluster")]
pub(crate) fn checked_functions() -> impl Iterator<Item = ScalarUDF> {
    let operations = [
        Operation::Add,
        Operation::Subtract,
        Operation::Multiply,
        Operation::ShiftLeft,
        Operation::Negate,
    ];
    operations.into_iter().map(|operation| ScalarUDF::new_from_impl(Checked::new(operation)))
}

/// An overflow as an error that names the operation and the type.
fn explained(error: DataFusionError, data_type: &str) -> DataFusionError {
    let said = match &error {
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::ArithmeticOverflow(said) => said,
            _ => return error,
        },
        _ => return error,
    };
    let operation = said.trim_start_matches("Overflow happened on: ");
    out_of_range(format!("`{operation}` is out of the range of {data_type}"))
}

/// The error for a result that does not fit in its type.
pub(super) fn out_of_range(message: String) -> DataFusionError {
    let error = Error::new(ErrorKind::Data, format!("SQL arithmetic: {message}"))
        .hint("cast to a wider type first, such as CAST(x AS DECIMAL(38, 0)) or DOUBLE");
    DataFusionError::External(Box::new(error))
}

/// `left << right`; fails if bits would be shifted out.
fn shift_left(left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
    let (lefts, left_is_scalar) = left.get();
    let (rights, right_is_scalar) = right.get();
    let rows = if left_is_scalar { rights.len() } else { lefts.len() };
    macro_rules! shifted {
        ($type:ty) => {{
            let (lefts, rights) = (lefts.as_primitive::<$type>(), rights.as_primitive::<$type>());
            let one = |row: usize| {
                let (left, right) =
                    (if left_is_scalar { 0 } else { row }, if right_is_scalar { 0 } else { row });
                if lefts.is_null(left) || rights.is_null(right) {
                    return Ok(None);
                }
                let (value, bits) = (lefts.value(left), rights.value(right));
                let shifted = u32::try_from(bits).ok().and_then(|bits| value.checked_shl(bits));
                match shifted.filter(|shifted| shifted >> bits == value) {
                    Some(shifted) => Ok(Some(shifted)),
                    None => Err(ArrowError::ArithmeticOverflow(format!("{value} << {bits}"))),
                }
            };
            let values = (0..rows)
                .map(one)
                .collect::<Result<arrow::array::PrimitiveArray<$type>, ArrowError>>()?;
            Ok(Arc::new(values) as ArrayRef)
        }};
    }
    use arrow::datatypes as types;
    match (lefts.data_type(), rights.data_type()) {
        (DataType::Int8, DataType::Int8) => shifted!(types::Int8Type),
        (DataType::Int16, DataType::Int16) => shifted!(types::Int16Type),
        (DataType::Int32, DataType::Int32) => shifted!(types::Int32Type),
        (DataType::Int64, DataType::Int64) => shifted!(types::Int64Type),
        (DataType::UInt8, DataType::UInt8) => shifted!(types::UInt8Type),
        (DataType::UInt16, DataType::UInt16) => shifted!(types::UInt16Type),
        (DataType::UInt32, DataType::UInt32) => shifted!(types::UInt32Type),
        (DataType::UInt64, DataType::UInt64) => shifted!(types::UInt64Type),
        (left, right) => Err(ArrowError::NotYetImplemented(format!("{left} << {right}"))),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    use datafusion::execution::context::SessionContext;

    use super::*;
    use crate::source::{session, stream_error};

    async fn context() -> SessionContext {
        let context = session(None).unwrap();
        let create = "CREATE TABLE t AS SELECT * FROM (VALUES
            (1, 9223372036854775807, 5, 'a', arrow_cast(3, 'UInt64')),
            (2, -9223372036854775808, 7, 'a', arrow_cast(4, 'UInt64')),
            (3, NULL, 9, 'b', NULL)) AS v(id, b, i, g, u)";
        context.sql(create).await.unwrap().collect().await.unwrap();
        context
    }

    async fn ask(context: &SessionContext, sql: &str) -> crate::Result<Vec<String>> {
        let rows = async { context.sql(sql).await?.collect().await };
        let batches = rows.await.map_err(|e| stream_error(e, &[]))?;
        let mut values = Vec::new();
        for batch in batches {
            let options = FormatOptions::new().with_null("NULL");
            let column = ArrayFormatter::try_new(batch.column(0), &options).unwrap();
            values.extend((0..batch.num_rows()).map(|row| column.value(row).to_string()));
        }
        Ok(values)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_leaves_its_range_is_an_error_of_the_rows() {
        let context = context().await;
        for sql in [
            "SELECT b + 1 FROM t",
            "SELECT b - 1 FROM t",
            "SELECT b * i FROM t",
            "SELECT -b FROM t",
            "SELECT abs(b) FROM t",
            "SELECT b / -1 FROM t",
            "SELECT arrow_cast(3, 'UInt64') - arrow_cast(4, 'UInt64')",
            "SELECT i << 62 FROM t",
            "SELECT i << 64 FROM t",
            "SELECT id FROM t WHERE b + 1 > 0",
            "SELECT max(b + 1) FROM t",
            "SELECT g FROM t GROUP BY g HAVING max(b) + 1 > 0",
            "SELECT id FROM t ORDER BY b * 2",
            "SELECT a.id FROM t a JOIN t b ON a.b + 1 = b.b",
            "SELECT CASE WHEN id = 1 THEN b + 1 ELSE 0 END FROM t",
            "SELECT 9223372036854775807 + 1",
            "SELECT 9223372036854775807 + 1 FROM t",
            "SELECT 4611686018427387904 * 2",
            "SELECT arrow_cast(100, 'Int8') + arrow_cast(100, 'Int8')",
            "SELECT (SELECT max(b) + 1 FROM t)",
            "WITH c AS (SELECT b * 2 AS d FROM t) SELECT d FROM c",
            "SELECT CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) + 1",
            "SELECT CAST('9999-12-31' AS DATE) + INTERVAL '300000' YEAR",
            "SELECT CAST(arrow_cast(253402214400000, 'Date64') AS TIMESTAMP)",
        ] {
            let error = ask(&context, sql).await.expect_err(sql);
            assert_eq!(error.kind(), ErrorKind::Data, "{sql}\n{error}");
        }
        let error = ask(&context, "SELECT b + 1 FROM t").await.unwrap_err().to_string();
        let expected = "SQL arithmetic: `9223372036854775807 + 1` is out of the range of Int64";
        assert!(error.contains(expected) && error.contains("hint: cast"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_stays_in_its_range_is_computed_and_named_as_ever() {
        let context = context().await;
        for (sql, expected) in [
            ("SELECT b + 0 FROM t", &["9223372036854775807", "-9223372036854775808", "NULL"][..]),
            ("SELECT i * 2 - 1 FROM t", &["9", "13", "17"]),
            ("SELECT -i FROM t", &["-5", "-7", "-9"]),
            ("SELECT u + 1 FROM t", &["4", "5", "NULL"]),
            ("SELECT i << 2 FROM t", &["20", "28", "36"]),
            ("SELECT -1 << 63", &["-9223372036854775808"]),
            ("SELECT 1.5 * 2", &["3.0"]),
            ("SELECT i + 0.5 FROM t WHERE id = 1", &["5.5"]),
            ("SELECT b + 1.0 FROM t WHERE id = 1", &["9.223372036854776e18"]),
            ("SELECT DATE '2024-01-31' + INTERVAL '1' MONTH", &["2024-02-29"]),
            ("SELECT DATE '2024-01-31' - DATE '2024-01-01'", &["30"]),
            ("SELECT TIME '23:00:00' + INTERVAL '2' HOUR", &["01:00:00"]),
            ("SELECT NULL + 1", &["NULL"]),
            ("SELECT i % 2 + i / 2 FROM t WHERE id = 1", &["3"]),
            ("SELECT CASE WHEN id > 5 THEN b + 1 ELSE id END FROM t", &["1", "2", "3"]),
        ] {
            let found = ask(&context, sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}"));
            assert_eq!(found, expected, "{sql}");
        }
        let named = context.sql("SELECT i + 1, (id + i) * 2, -i, i << 1 FROM t").await.unwrap();
        let batches = named.collect().await.unwrap();
        let schema = batches[0].schema();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(
            names,
            ["t.i + Int64(1)", "t.id + t.i * Int64(2)", "(- t.i)", "t.i << Int64(1)"]
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sums_are_exact_or_an_error() {
        let context = context().await;
        for sql in [
            "SELECT sum(b) FROM (SELECT b FROM t WHERE id = 1 UNION ALL SELECT 1)",
            "SELECT sum(b) FROM (SELECT b, 'x' AS g FROM t WHERE id = 1 UNION ALL SELECT 1, 'x') GROUP BY g",
            "SELECT sum(DISTINCT b) FROM (SELECT b FROM t WHERE id = 1 UNION ALL SELECT 1)",
            "SELECT sum(b) OVER () FROM (SELECT b FROM t WHERE id = 1 UNION ALL SELECT 1)",
            "SELECT sum(b) OVER (ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (SELECT b FROM t WHERE id = 1 UNION ALL SELECT 1)",
            "SELECT sum(DISTINCT b) OVER (ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (SELECT b FROM t WHERE id = 1 UNION ALL SELECT 1)",
            "SELECT sum(x + 1) FROM (SELECT b - 1 AS x FROM t WHERE id = 1 UNION ALL SELECT 0)",
            "SELECT sum(d) FROM (SELECT CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) AS d UNION ALL SELECT CAST(1 AS DECIMAL(38, 0)))",
        ] {
            let error = ask(&context, sql).await.expect_err(sql);
            assert_eq!(error.kind(), ErrorKind::Data, "{sql}\n{error}");
        }
        for (sql, expected) in [
            // Overflows and comes back.
            (
                "SELECT sum(b) FROM (SELECT b FROM t UNION ALL SELECT 1 UNION ALL SELECT -1)",
                &["-1"][..],
            ),
            (
                "SELECT sum(b) FROM (VALUES (9223372036854775807), (1), (-1)) AS v(b)",
                &["9223372036854775807"],
            ),
            (
                "SELECT sum(b) FROM (VALUES (9223372036854775807, 1), (1, 1), (-1, 1), (5, 2)) AS v(b, g) GROUP BY g ORDER BY g",
                &["9223372036854775807", "5"],
            ),
            ("SELECT sum(i) FROM t GROUP BY g ORDER BY g", &["12", "9"]),
            ("SELECT sum(DISTINCT i % 2) FROM t", &["1"]),
            ("SELECT sum(i) OVER (ORDER BY id) FROM t", &["5", "12", "21"]),
            (
                "SELECT sum(i) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
                &["5", "12", "16"],
            ),
            (
                "SELECT sum(DISTINCT i) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
                &["5", "12", "16"],
            ),
            ("SELECT sum(i) FILTER (WHERE id > 1) FROM t", &["16"]),
            ("SELECT sum(b) FROM t WHERE id = 3", &["NULL"]),
            ("SELECT sum(i) FROM t WHERE id > 9", &["NULL"]),
            ("SELECT sum(u) FROM t", &["7"]),
            ("SELECT sum(i * 0.5) FROM t", &["10.5"]),
            ("SELECT avg(b) FROM t WHERE id = 1", &["9.223372036854776e18"]),
            ("SELECT sum(CAST(i AS DECIMAL(10, 2))) FROM t", &["21.00"]),
            ("SELECT sum(i), count(DISTINCT i), sum(DISTINCT i) FROM t", &["21"]),
        ] {
            let found = ask(&context, sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}"));
            assert_eq!(found, expected, "{sql}");
        }
    }
}
