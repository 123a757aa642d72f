//! A model function as DataFusion sees it during planning. It is only a marker: the analyzer lifts each call into a
//! model node (`lift`) before anything is evaluated. Not here: the list of functions (`functions`).

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err, plan_datafusion_err, plan_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::catalog::ModelCatalog;
use super::functions::SECTION;
use crate::exec::{RowErrors, output_type};
use crate::tasks::{Task, TaskDefinition};

/// A session's function of a task, with a catalog of models.
#[derive(Debug)]
pub(super) struct ModelFunction {
    pub(super) task: &'static TaskDefinition,
    /// Whether this is the `try_` variant.
    pub(super) row_errors: RowErrors,
    pub(super) catalog: Arc<ModelCatalog>,
    /// The session's function of the same name, for calls that are not ours.
    other: Option<Arc<ScalarUDF>>,
    name: String,
    signature: Signature,
    documentation: Documentation,
}

/// A resolved call.
pub(super) struct Resolved {
    pub(super) task: Arc<dyn Task>,
    /// The field names, if the first argument is a struct.
    pub(super) parts: Option<Vec<String>>,
}

impl ModelFunction {
    pub(super) fn try_new(
        task: &'static TaskDefinition,
        row_errors: RowErrors,
        catalog: Arc<ModelCatalog>,
    ) -> Result<Self> {
        let function = &task.function;
        let (name, description) = match row_errors {
            RowErrors::Fail => (function.name.to_owned(), function.description.to_owned()),
            RowErrors::Keep | RowErrors::KeepKind => {
                let name = function.name;
                let description = format!(
                    "{name} that keeps the error of a row beside its value: Struct<value, error>. {}",
                    function.description
                );
                (format!("try_{name}"), description)
            }
        };
        let count = function.parameters.len();
        let names = function.parameters.iter().chain(&["model", "options"]).copied();
        // `Any` accepts every type, so that a type error can name the argument. `SHOW FUNCTIONS` shows the exact
        // signature.
        let signature = Signature::one_of(
            vec![
                TypeSignature::Any(count + 1),
                TypeSignature::Any(count + 2),
                TypeSignature::Exact(vec![DataType::Utf8; count + 2]),
            ],
            // Calls are lifted before the optimizer could fold or repeat them.
            Volatility::Immutable,
        )
        .with_parameter_names(names.collect::<Vec<_>>())?;
        let mut documentation =
            Documentation::builder(SECTION, description, function.syntax(&name)).with_sql_example(
                format!("```sql\n{}\n```", function.example.replace(function.name, &name)),
            );
        for parameter in function.parameters {
            documentation = documentation.with_argument(*parameter, "What the model reads.");
        }
        let documentation = documentation
            .with_argument(
                "model",
                "A literal: an alias (`CREATE MODEL`, or `models` of a pipeline), a hub id or a directory.",
            )
            .with_argument(
                "options",
                format!(
                    "The options of the task `{}`, each by its name (`option => value`), or as one JSON object.",
                    task.id
                ),
            )
            .build();
        Ok(Self { task, row_errors, catalog, other: None, name, signature, documentation })
    }

    /// Delegates the calls that are not ours to another function of this name.
    pub(super) fn beside(mut self, other: Arc<ScalarUDF>) -> Self {
        self.other = Some(other);
        self
    }

    /// The function for a call that is not ours: one with a third argument that is not a JSON object, as in
    /// DataFusion's `translate(text, from, to)`.
    fn other(&self, literals: &[Option<&ScalarValue>]) -> Option<&Arc<ScalarUDF>> {
        let other = self.other.as_ref()?;
        let is_ours = match literals.get(self.task.function.parameters.len() + 1) {
            None => literals.len() > self.task.function.parameters.len(),
            Some(options) => options.is_some_and(|options| match options.try_as_str() {
                Some(Some(text)) => text.trim_start().starts_with('{'),
                _ => options.is_null(),
            }),
        };
        (!is_ours).then_some(other)
    }

    /// Finds the task of a call. A literal is `None` if the argument is not a literal.
    pub(super) fn resolve(
        &self,
        types: &[&DataType],
        literals: &[Option<&ScalarValue>],
    ) -> Result<Resolved> {
        let (name, count) = (&self.name, self.task.function.parameters.len());
        let Some((&Some(model), options)) =
            literals.get(count..).and_then(|rest| rest.split_first())
        else {
            return plan_err!(
                "`{name}`: the model must be a literal, such as `{name}({}, 'minilm')`",
                self.task.function.parameters.join(", ")
            );
        };
        let Some(Some(model)) = model.try_as_str() else {
            return plan_err!("`{name}`: the model must be a text, found {}", model.data_type());
        };
        let options = match options.first() {
            None => None,
            Some(Some(options)) => match options.try_as_str() {
                Some(options) => options,
                None => {
                    return plan_err!(
                        "`{name}`: `options` must be a JSON object as text, found {}",
                        options.data_type()
                    );
                }
            },
            Some(None) => return plan_err!("`{name}`: `options` must be a literal"),
        };
        let (input, parts) = self.task.function.input(&types[..count])?;
        let task = self.catalog.task(self.task, name, &input, model, options)?;
        let read: Vec<DataType> = match (&parts, types) {
            (Some(_), [DataType::Struct(fields), ..]) => {
                fields.iter().map(|field| field.data_type().clone()).collect()
            }
            _ => types[..count].iter().map(|data_type| (*data_type).clone()).collect(),
        };
        // A null counts as a null text.
        let text = |found: DataType| if found.is_null() { DataType::Utf8 } else { found };
        let read: Vec<DataType> = read.into_iter().map(text).collect();
        let order =
            parts.clone().unwrap_or_else(|| task.inputs().into_iter().map(str::to_owned).collect());
        let in_order = task.inputs().into_iter().map(|input| {
            let index = order.iter().position(|name| name == input);
            index.and_then(|index| read.get(index)).ok_or_else(|| {
                plan_datafusion_err!("`{name}`: the task reads `{input}`, which no argument is")
            })
        });
        let in_order: Vec<&DataType> = in_order.collect::<Result<_>>()?;
        task.check_inputs(&in_order)
            .map_err(|error| DataFusionError::External(Box::new(as_argument(error, name))))?;
        Ok(Resolved { task, parts })
    }

    /// [`ModelFunction::resolve`] for a call in an expression.
    pub(super) fn resolve_call(&self, args: &[Expr], types: &[DataType]) -> Result<Resolved> {
        let literals: Vec<Option<&ScalarValue>> = args.iter().map(literal).collect();
        self.resolve(&types.iter().collect::<Vec<_>>(), &literals)
    }
}

/// Type errors of tasks name columns and `sql` steps; here, they name arguments.
fn as_argument(error: crate::Error, function: &str) -> crate::Error {
    let message = error.message().replacen("column", "argument", 1);
    crate::Error::new(error.kind(), format!("`{function}`: {message}"))
        .hint("cast it: CAST(… AS STRING)")
}

/// Whether DataFusion requests the type to list functions. `information_schema` names the arguments this way, and omits
/// a function without a type. A real call over columns of these names fails when its model is looked up.
fn is_listing(args: &ReturnFieldArgs<'_>) -> bool {
    args.scalar_arguments.iter().all(Option::is_none)
        && args.arg_fields.iter().enumerate().all(|(i, field)| *field.name() == format!("arg_{i}"))
}

/// Returns the calls that are not ours to the session's functions, before other rules see them.
#[derive(Debug)]
pub(super) struct OtherFunctions;

impl FunctionRewrite for OtherFunctions {
    fn name(&self) -> &'static str {
        "functions_beside_models"
    }

    fn rewrite(
        &self,
        expr: Expr,
        _schema: &DFSchema,
        _config: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let Expr::ScalarFunction(call) = &expr else { return Ok(Transformed::no(expr)) };
        let Some(function) =
            (call.func.inner().as_ref() as &dyn Any).downcast_ref::<ModelFunction>()
        else {
            return Ok(Transformed::no(expr));
        };
        let literals: Vec<Option<&ScalarValue>> = call.args.iter().map(literal).collect();
        let Some(other) = function.other(&literals) else { return Ok(Transformed::no(expr)) };
        let call = ScalarFunction::new_udf(Arc::clone(other), call.args.clone());
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    }
}

/// The value of an expression that is a literal.
pub(super) fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        Expr::Alias(alias) => literal(&alias.expr),
        Expr::Cast(cast) => literal(&cast.expr),
        _ => None,
    }
}

impl PartialEq for ModelFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.catalog, &other.catalog)
    }
}

impl Eq for ModelFunction {}

impl Hash for ModelFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for ModelFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        exec_err!("the type of `{}` depends on its model", self.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        if let Some(other) = self.other(args.scalar_arguments) {
            let arg_fields = fields_with_udf(args.arg_fields, other.as_ref())?;
            return other.return_field_from_args(ReturnFieldArgs {
                arg_fields: &arg_fields,
                scalar_arguments: args.scalar_arguments,
            });
        }
        if is_listing(&args) {
            let data_type = output_type(
                &Field::new(&self.name, (self.task.usual_type)(), true),
                self.row_errors,
            );
            return Ok(Arc::new(Field::new(&self.name, data_type, true)));
        }
        let types: Vec<&DataType> = args.arg_fields.iter().map(|field| field.data_type()).collect();
        let resolved = self.resolve(&types, args.scalar_arguments)?;
        let data_type = output_type(resolved.task.field(), self.row_errors);
        Ok(Arc::new(Field::new(&self.name, data_type, true)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!(
            "`{}` runs as a step of a query, not as part of an expression: this place cannot have it",
            self.name
        )
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}
