//! A session of queries with models over files and tables. Not here: the session of a pipeline's `sql` steps, which reads
//! no files of its own (`crate::job`).

use std::sync::Arc;

use datafusion::execution::context::SessionContext;
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
