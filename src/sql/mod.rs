//! Models in SQL: the functions, the rules that turn their calls into model nodes, and their registration in a session.
//! Entry: [`register`]. Not here: the operator that runs a model (`crate::exec`), the `sql` command (`crate::cli`).
//!
//! ```text
//! SELECT embed(text, 'minilm') FROM t WHERE lang = 'en'
//!      │ marker      a function that is never evaluated; its type from config files alone
//!      ▼
//! Projection: embed(text, 'minilm')
//!      │ lift        analyzer rule: every distinct call becomes a model node, guarded where it is lazy
//!      ▼
//! Projection: __model_1 ─ Model ─ Filter ─ TableScan
//!      │ optimize    unused models vanish; sorts and limits go below
//!      ▼
//! ModelExec           planner: the operator of `exec`
//! ```
//!
//! An analyzer rule lifts the calls, because the optimizer would fold, repeat and move calls that it takes for plain
//! functions.
//!
//! - Predicates without calls run first, then those with calls, one after the other.
//! - A call in a lazy place (CASE, COALESCE, AND, OR, FILTER) reads `CASE WHEN needed THEN text END`. A null gives a
//!   null, and no model sees it. `calls` derives the condition.
//! - A call without columns is made once, in an uncorrelated scalar subquery.
//! - A call in the condition of an inner join runs after the join; over a cross product, it runs below it.
//! - `sort_below_models` moves a sort below models that it does not need. `prune_models` removes models whose column is
//!   unused. DataFusion's own rules move limits and predicates below model nodes.
//! - A limit cannot pass a predicate on the model's column. `few_rows_first` then makes the first windows small, each
//!   twice the previous one: the model stops when the limit is reached.
//!
//! [`register`] rejects a session that has a function with one of the names. The exception is DataFusion's own
//! `translate(text, from, to)`, which receives calls whose third argument is not a JSON object. A session with its own
//! query planner keeps it: it plans the part below a model, which is then a table for the part above.

mod calls;
mod catalog;
mod functions;
mod lift;
mod marker;
mod named;
mod optimize;
mod order;
mod planner;
mod session;
#[cfg(feature = "cluster")]
mod shipped;
mod statement;
mod tables;
mod vectors;

use std::sync::Arc;

use datafusion::common::{Result, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SessionContext;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{ScalarUDF, ScalarUDFImpl};

pub use catalog::ModelCatalog;
pub use named::{name_options, query};
pub use order::in_partitions;
pub use planner::ModelQueryPlanner;
pub use session::session;
#[cfg(feature = "cluster")]
pub(crate) use session::{for_cluster, for_tasks};
#[cfg(feature = "cluster")]
pub(crate) use shipped::ShippedCall;
pub use statement::{ModelStatement, model_statement};
pub use tables::with_file_tables;

use crate::exec::RowErrors;
use marker::{ModelFunction, OtherFunctions};

use crate::tasks::TASKS;

/// Registers the model functions with their `try_` variants, `cosine_similarity`, the rules, and the planner of model
/// nodes. The session keeps its own query planner for everything but model nodes, and `translate(text, from, to)`
/// remains DataFusion's.
///
/// # Errors
/// `Plan` when the session has another function with one of these names; nothing is registered then.
///
/// # Example
/// ```no_run
/// use std::sync::Arc;
/// use datafusion::prelude::SessionContext;
/// use hfauto_pipe::config::pipeline::ModelSpec;
/// use hfauto_pipe::hub::{Hub, HubSettings};
/// use hfauto_pipe::sql::{ModelCatalog, register};
///
/// # async fn example() -> datafusion::error::Result<()> {
/// let context = SessionContext::new();
/// let models = ModelCatalog::new(Arc::new(Hub::new(HubSettings::from_env())));
/// models.insert("minilm", ModelSpec::of_repo("sentence-transformers/all-MiniLM-L6-v2"));
/// register(&context, Arc::new(models))?;
/// context.sql("SELECT embed('hello', 'minilm')").await?.show().await?;
/// # Ok(())
/// # }
/// ```
pub fn register(context: &SessionContext, models: Arc<ModelCatalog>) -> Result<()> {
    let session = context.state();
    let mut functions = vectors::functions().to_vec();
    for task in TASKS {
        for row_errors in [RowErrors::Fail, RowErrors::Keep] {
            let mut ours = ModelFunction::try_new(task, row_errors, Arc::clone(&models))?;
            let other = session.scalar_functions().get(ours.name());
            if let Some(other) = other.filter(|other| is_of_datafusion(other)) {
                ours = ours.beside(Arc::clone(other));
            }
            functions.push(ScalarUDF::new_from_impl(ours));
        }
    }
    let taken = functions.iter().find(|function| {
        let other = session.scalar_functions().get(function.name());
        other.is_some_and(|other| !is_of_datafusion(other))
            || session.aggregate_functions().contains_key(function.name())
            || session.window_functions().contains_key(function.name())
    });
    if let Some(function) = taken {
        return plan_err!(
            "the session has a function `{}` already: deregister it, or register the models in a \
             context of their own",
            function.name()
        );
    }
    functions.into_iter().for_each(|function| context.register_udf(function));
    context.add_analyzer_rule(Arc::new(lift::LiftModelCalls));
    context.add_optimizer_rule(Arc::new(optimize::PruneModels));
    context.add_optimizer_rule(Arc::new(optimize::FewRowsFirst));
    context.state_ref().write().register_function_rewrite(Arc::new(OtherFunctions))?;
    let state = context.state();
    let planner = ModelQueryPlanner::around(Arc::clone(state.query_planner()));
    let mut builder =
        SessionStateBuilder::new_from_existing(state).with_query_planner(Arc::new(planner));
    // Before the rules that insert projections between models.
    if let Some(optimizer) = builder.optimizer() {
        optimizer.rules.insert(0, Arc::new(optimize::SortBelowModels));
    }
    *context.state_ref().write() = builder.build();
    Ok(())
}

/// Whether it is a function of DataFusion that may coexist with ours.
fn is_of_datafusion(function: &ScalarUDF) -> bool {
    function.name() == "translate"
        && datafusion::functions::unicode::translate().as_ref() == function
}
