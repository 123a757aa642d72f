//! A session of queries with models over files and tables. Not here: the session of a pipeline's `sql` steps, which reads
//! no files of its own (`crate::job`).

use std::sync::Arc;

use datafusion::execution::context::SessionContext;
#[cfg(feature = "cluster")]
use datafusion::execution::session_state::SessionStateBuilder;
#[cfg(feature = "cluster")]
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::prelude::SessionConfig;

use super::{ModelCatalog, register, with_file_tables};
use crate::error::Result;
use crate::source;

/// A session with the functions of `models`, with files as tables by their quoted path, and with `information_schema`.
/// Relative paths start from the folder of `models`.
///
/// # Errors
/// `Resources` when the session cannot be set up.
pub fn session(models: Arc<ModelCatalog>) -> Result<SessionContext> {
    let state = source::session_state(None)?;
    let config = SessionConfig::with_information_schema(source::session_config(), true);
    let context = SessionContext::new_with_state(state.with_config(config).build());
    let context = with_file_tables(context, models.dir().to_owned())?;
    register(&context, models).map_err(|e| source::stream_error(e, &[]))?;
    Ok(context)
}

/// A session for the parts of queries that another process has planned: with the functions of [`session`] that run no
/// model, without tables.
///
/// # Errors
/// `Resources` when the session cannot be set up.
#[cfg(feature = "cluster")]
pub(crate) fn for_tasks() -> Result<SessionContext> {
    let context = source::session(None)?;
    super::vectors::functions().into_iter().for_each(|function| context.register_udf(function));
    source::checked_functions().for_each(|function| context.register_udf(function));
    Ok(context)
}

/// Lets a [`session`] plan for a cluster: scans have a partition per unit, and `rule` divides every physical plan.
#[cfg(feature = "cluster")]
pub(crate) fn for_cluster(
    context: &SessionContext,
    rule: Arc<dyn PhysicalOptimizerRule + Send + Sync>,
) {
    let mut state = context.state();
    state.config_mut().set_extension(Arc::new(source::ScansOfUnits));
    let state =
        SessionStateBuilder::new_from_existing(state).with_physical_optimizer_rule(rule).build();
    *context.state_ref().write() = state;
}
