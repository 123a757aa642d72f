//! A `SUM` that reports overflow: DataFusion's wraps around. Not here: arithmetic of single values (`arithmetic`).
//!
//! A sum is a wrapped total of its own type and a count of its wraparounds, which makes it exact in any order: a sum
//! that leaves the range and comes back is still correct.

use std::collections::HashMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    FieldRef, Int64Type, TimeUnit, UInt64Type,
};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature,
};
use datafusion::physical_expr::NullState;

use super::arithmetic::out_of_range;

/// `SUM`, checked for integers, decimals and durations.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CheckedSum {
    inner: Sum,
}

/// `$with!(Type)` for the types that are checked, `$other` for all others.
macro_rules! for_type {
    ($data_type:expr, $with:ident, $other:expr) => {
        match $data_type {
            DataType::Int64 => $with!(Int64Type),
            DataType::UInt64 => $with!(UInt64Type),
            DataType::Decimal32(..) => $with!(Decimal32Type),
            DataType::Decimal64(..) => $with!(Decimal64Type),
            DataType::Decimal128(..) => $with!(Decimal128Type),
            DataType::Decimal256(..) => $with!(Decimal256Type),
            DataType::Duration(TimeUnit::Second) => $with!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $with!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $with!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $with!(DurationNanosecondType),
            _ => $other,
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        if args.is_distinct {
            let inner = self.inner.accumulator(args)?;
            macro_rules! distinct {
                ($type:ty) => {
                    Ok(Box::new(DistinctSum::<$type> { inner, data_type, of: PhantomData }))
                };
            }
            return for_type!(&data_type, distinct, Ok(inner));
        }
        macro_rules! plain {
            ($type:ty) => {
                Ok(Box::new(RunningSum::<$type>::new(data_type)))
            };
        }
        for_type!(&data_type, plain, self.inner.accumulator(args))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let data_type = args.return_field.data_type().clone();
        macro_rules! groups {
            ($type:ty) => {
                Ok(Box::new(GroupSums::<$type>::new(data_type)))
            };
        }
        for_type!(&data_type, groups, self.inner.create_groups_accumulator(args))
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        if args.is_distinct {
            return match data_type {
                DataType::Int64 => Ok(Box::new(SlidingDistinctSum::new())),
                _ => self.inner.create_sliding_accumulator(args),
            };
        }
        macro_rules! sliding {
            ($type:ty) => {
                Ok(Box::new(RunningSum::<$type>::new(data_type)))
            };
        }
        for_type!(&data_type, sliding, self.inner.create_sliding_accumulator(args))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }

    /// DataFusion would rewrite `SUM(x + 1)` as `SUM(x) + 1 * COUNT(x)`, which is not checked; if `x` is a float, no
    /// check is needed.
    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        operator: Operator,
        literal: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        let is_float =
            matches!(literal, Expr::Literal(value, _) if value.data_type().is_floating());
        if !is_float {
            return Ok(None);
        }
        self.inner.simplify_expr_op_literal(function, arg, operator, literal, arg_is_left)
    }
}

/// A sum and its wraparounds: upward minus downward.
#[derive(Clone, Copy, Debug)]
struct Exact<N> {
    sum: N,
    rounds: i64,
}

impl<N: ArrowNativeTypeOp> Exact<N> {
    const ZERO: Self = Self { sum: N::ZERO, rounds: 0 };

    fn add(&mut self, value: N) {
        if let Ok(sum) = self.sum.add_checked(value) {
            self.sum = sum;
        } else {
            self.sum = self.sum.add_wrapping(value);
            self.rounds += if value.is_lt(N::ZERO) { -1 } else { 1 };
        }
    }

    fn subtract(&mut self, value: N) {
        if let Ok(sum) = self.sum.sub_checked(value) {
            self.sum = sum;
        } else {
            self.sum = self.sum.sub_wrapping(value);
            self.rounds += if value.is_lt(N::ZERO) { 1 } else { -1 };
        }
    }

    fn value(self, data_type: &DataType) -> Result<N> {
        if self.rounds == 0 { Ok(self.sum) } else { Err(too_large(data_type)) }
    }
}

fn too_large(data_type: &DataType) -> datafusion::error::DataFusionError {
    out_of_range(format!("a SUM is out of the range of {data_type}"))
}

/// Sums of decimals stay within their precision.
fn within_precision(sums: ArrayRef) -> Result<ArrayRef> {
    let checked = match sums.data_type() {
        DataType::Decimal32(precision, _) => {
            sums.as_primitive::<Decimal32Type>().validate_decimal_precision(*precision)
        }
        DataType::Decimal64(precision, _) => {
            sums.as_primitive::<Decimal64Type>().validate_decimal_precision(*precision)
        }
        DataType::Decimal128(precision, _) => {
            sums.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)
        }
        DataType::Decimal256(precision, _) => {
            sums.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision)
        }
        _ => Ok(()),
    };
    match checked {
        Ok(()) => Ok(sums),
        Err(_) => Err(too_large(sums.data_type())),
    }
}

fn scalar<T: ArrowPrimitiveType>(
    sum: Option<T::Native>,
    data_type: &DataType,
) -> Result<ScalarValue> {
    let sum = PrimitiveArray::<T>::from_iter([sum]).with_data_type(data_type.clone());
    ScalarValue::try_from_array(&within_precision(Arc::new(sum))?, 0)
}

/// The sum of all rows, or of a sliding window frame.
#[derive(Debug)]
struct RunningSum<T: ArrowPrimitiveType> {
    exact: Exact<T::Native>,
    /// The number of values that are not null.
    count: u64,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> RunningSum<T> {
    fn new(data_type: DataType) -> Self {
        Self { exact: Exact::ZERO, count: 0, data_type }
    }
}

/// All values that are not null.
fn each<T: ArrowPrimitiveType>(values: &ArrayRef, mut take: impl FnMut(T::Native)) -> u64 {
    let values = values.as_primitive::<T>();
    if values.null_count() == 0 {
        values.values().iter().for_each(|value| take(*value));
    } else {
        values.iter().flatten().for_each(take);
    }
    (values.len() - values.null_count()) as u64
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for RunningSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut exact = self.exact;
        self.count += each::<T>(&values[0], |value| exact.add(value));
        self.exact = exact;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut exact = self.exact;
        self.count -= each::<T>(&values[0], |value| exact.subtract(value));
        self.exact = exact;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return scalar::<T>(None, &self.data_type);
        }
        scalar::<T>(Some(self.exact.value(&self.data_type)?), &self.data_type)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of distinct values, collected by DataFusion's accumulator.
#[derive(Debug)]
struct DistinctSum<T> {
    inner: Box<dyn Accumulator>,
    data_type: DataType,
    of: PhantomData<fn() -> T>,
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for DistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = RunningSum::<T>::new(self.data_type.clone());
        for state in self.inner.state()? {
            if let ScalarValue::List(list) = state {
                sum.update_batch(&[Arc::clone(list.values())])?;
            }
        }
        sum.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

/// The sum of the distinct values in a sliding window frame.
#[derive(Debug)]
struct SlidingDistinctSum {
    counts: HashMap<i64, u64>,
    exact: Exact<i64>,
}

impl SlidingDistinctSum {
    fn new() -> Self {
        Self { counts: HashMap::new(), exact: Exact::ZERO }
    }
}

impl Accumulator for SlidingDistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Self { counts, exact } = self;
        each::<Int64Type>(&values[0], |value| {
            let count = counts.entry(value).or_default();
            if *count == 0 {
                exact.add(value);
            }
            *count += 1;
        });
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Self { counts, exact } = self;
        each::<Int64Type>(&values[0], |value| {
            if let Some(count) = counts.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&value);
                    exact.subtract(value);
                }
            }
        });
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states[0].as_list::<i32>();
        lists.iter().flatten().try_for_each(|values| self.update_batch(&[values]))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut values: Vec<_> = self.counts.keys().copied().collect();
        values.sort_unstable();
        let values: Vec<_> =
            values.into_iter().map(|value| ScalarValue::Int64(Some(value))).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Int64))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let is_empty = self.counts.is_empty();
        let sum = self.exact.value(&DataType::Int64)?;
        Ok(ScalarValue::Int64((!is_empty).then_some(sum)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(i64, u64)>()
    }
}

/// The sums of groups.
struct GroupSums<T: ArrowPrimitiveType> {
    sums: Vec<T::Native>,
    /// The wraparounds of groups; very few groups have any.
    rounds: HashMap<usize, i64>,
    nulls: NullState,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> GroupSums<T> {
    fn new(data_type: DataType) -> Self {
        Self { sums: Vec::new(), rounds: HashMap::new(), nulls: NullState::new(), data_type }
    }
}

impl<T: ArrowPrimitiveType + Send> GroupsAccumulator for GroupSums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.sums.resize(total_num_groups, T::Native::ZERO);
        let Self { sums, rounds, nulls, .. } = self;
        let values = values[0].as_primitive::<T>();
        nulls.accumulate(group_indices, values, opt_filter, total_num_groups, |group, value| {
            let sum = &mut sums[group];
            if let Ok(added) = sum.add_checked(value) {
                *sum = added;
            } else {
                let mut exact = Exact { sum: *sum, rounds: 0 };
                exact.add(value);
                *sum = exact.sum;
                *rounds.entry(group).or_default() += exact.rounds;
            }
        });
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.nulls.build(emit_to);
        if !self.rounds.is_empty() {
            let emitted = sums.len();
            let rounds = std::mem::take(&mut self.rounds);
            if rounds.iter().any(|(group, rounds)| *group < emitted && *rounds != 0) {
                return Err(too_large(&self.data_type));
            }
            let rest = rounds.into_iter().filter(|(group, _)| *group >= emitted);
            self.rounds = rest.map(|(group, rounds)| (group - emitted, rounds)).collect();
        }
        let sums = PrimitiveArray::<T>::new(sums.into(), nulls);
        within_precision(Arc::new(sums.with_data_type(self.data_type.clone())))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.update_batch(values, group_indices, None, total_num_groups)
    }

    /// The group of each row.
    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<T>();
        let kept =
            |row: usize| opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        let rows = (0..values.len())
            .map(|row| (values.is_valid(row) && kept(row)).then(|| values.value(row)));
        let state = rows.collect::<PrimitiveArray<T>>().with_data_type(self.data_type.clone());
        Ok(vec![Arc::new(state)])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<T::Native>()
            + self.nulls.size()
            + self.rounds.capacity() * size_of::<(usize, i64)>()
    }
}
