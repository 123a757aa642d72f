//! Models inside SQL: the functions, the rules that make model nodes of their calls, and what a session
//! needs for them. Entry: [`register`]. Not here: the operator that runs a model (`crate::engine`), the
//! `sql` command (`crate::cli`).
//!
//! ```text
//! SELECT embed(text, 'minilm') FROM t WHERE lang = 'en'
//!      │ functions   a marker function; its type from config files alone
//!      ▼
//! Projection: embed(text, 'minilm')
//!      │ lift        analyzer rule: every distinct call becomes a model node, guarded where it is lazy
//!      ▼
//! Projection: __model_1 ─ Model ─ Filter ─ TableScan
//!      │ optimize    unused models vanish; sorts and limits go below
//!      ▼
//! ModelExec           planner: the engine's operator
//! ```

mod calls;
mod catalog;
mod cosine;
mod functions;
mod lift;
mod optimize;
mod planner;
mod statement;
mod tables;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::context::SessionContext;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::ScalarUDF;

pub use catalog::ModelCatalog;
pub use functions::{FUNCTIONS, Function};
pub use planner::ModelQueryPlanner;
pub use statement::{ModelStatement, model_statement};
pub use tables::with_file_tables;

use crate::engine::RowErrors;
use functions::ModelFunction;

/// Adds the model functions to a session: the functions and their `try_` twins, `cosine_similarity`, the
/// rules and the planner of model nodes. What the session has stays; its query planner is asked for
/// everything but model nodes. A function of the session that has one of these names is hidden by ours.
///
/// # Errors
/// `Plan` when DataFusion refuses the signature of a function.
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
    for function in FUNCTIONS {
        for row_errors in [RowErrors::Fail, RowErrors::Keep] {
            let function = ModelFunction::try_new(function, row_errors, Arc::clone(&models))?;
            context.register_udf(ScalarUDF::new_from_impl(function));
        }
    }
    context.register_udf(ScalarUDF::new_from_impl(cosine::CosineSimilarity::default()));
    context.add_analyzer_rule(Arc::new(lift::LiftModelCalls));
    context.add_optimizer_rule(Arc::new(optimize::PruneModels));
    let state = context.state();
    let planner = ModelQueryPlanner::around(Arc::clone(state.query_planner()));
    let mut builder =
        SessionStateBuilder::new_from_existing(state).with_query_planner(Arc::new(planner));
    // Before the rules that put projections between models.
    if let Some(optimizer) = builder.optimizer() {
        optimizer.rules.insert(0, Arc::new(optimize::SortBelowModels));
    }
    *context.state_ref().write() = builder.build();
    Ok(())
}
