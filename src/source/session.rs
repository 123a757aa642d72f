//! The DataFusion session that reads rows. Not here: tables and functions of our own. Callers that need more (a query
//! planner, an analyzer rule, SQL functions) start from [`session_state`].

use std::sync::Arc;

use datafusion::execution::context::SessionContext;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::AggregateUDF;
use datafusion::prelude::SessionConfig;

use super::arithmetic::CheckedArithmetic;
use super::digest;
use super::sum::CheckedSum;
use crate::error::{Error, ErrorKind, Result};

/// Rows of a record batch that a scan emits: DataFusion's own default, small enough that text columns
/// stay in the cache and that `limit` does not read far ahead.
pub const ROWS_PER_BATCH: usize = 8192;

/// The settings of a session, each with its reason.
pub fn session_config() -> SessionConfig {
    let mut config = SessionConfig::new()
        // One partition: the order of the input is the order of the output. The parallelism of a
        // pipeline is in its models, not in its scans.
        .with_target_partitions(1)
        .with_batch_size(ROWS_PER_BATCH);
    let options = config.options_mut();
    // A scan with several partitions would otherwise move files between them at run time, and rows
    // would arrive in another order each time.
    options.execution.enable_file_stream_work_stealing = false;
    // Our tables list their own files; nothing may be collected behind their back.
    options.execution.collect_statistics = false;
    // Columns pass through with the type that the file has: `Utf8` stays `Utf8`.
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    // Column names are what the file says, also unquoted in SQL: `reviewText` is not `reviewtext`.
    // Function names stay case-insensitive.
    options.sql_parser.enable_ident_normalization = false;
    // A name that is not there is told with its place.
    options.sql_parser.collect_spans = true;
    config
}

/// A session state with [`session_config`], SQL built-ins and, if asked for, a limit on the memory of
/// operators that buffer (sorts, joins, aggregates). They spill to disk when they can.
///
/// # Errors
/// `Resources` when the temporary folder for spilling cannot be set up.
pub fn session_state(memory_limit_bytes: Option<usize>) -> Result<SessionStateBuilder> {
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = memory_limit_bytes {
        runtime = runtime.with_memory_limit(bytes, 1.0);
    }
    let runtime = runtime.build().map_err(|error| {
        Error::new(ErrorKind::Resources, "cannot set up the memory and spill limits").source(error)
    })?;
    let mut builder = SessionStateBuilder::new()
        .with_config(session_config())
        .with_runtime_env(Arc::new(runtime))
        .with_default_features()
        // Integer overflow is an error instead of a wrapped number.
        .with_analyzer_rule(Arc::new(CheckedArithmetic));
    // The last function registered under a name wins.
    let sum = Arc::new(AggregateUDF::new_from_impl(CheckedSum::default()));
    builder.aggregate_functions().get_or_insert_default().push(sum);
    builder.scalar_functions().get_or_insert_default().extend(digest::functions());
    Ok(builder)
}

/// A session ready for [`super::open`]: [`session_state`], built.
///
/// # Errors
/// As [`session_state`].
pub fn session(memory_limit_bytes: Option<usize>) -> Result<SessionContext> {
    let state: SessionState = session_state(memory_limit_bytes)?.build();
    Ok(SessionContext::new_with_state(state))
}
