//! The DataFusion session that reads rows. Callers that add a query planner, an analyzer rule or SQL functions start from
//! [`session_state`]. Not here: our own tables and functions.

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

/// Rows per record batch of a scan: DataFusion's default. It keeps text columns in the cache, and `limit` reads little
/// ahead.
pub const ROWS_PER_BATCH: usize = 8192;

/// The settings of a session, each with its reason.
pub fn session_config() -> SessionConfig {
    let mut config = SessionConfig::new()
        // One partition keeps the order of the input. A pipeline is parallel in its models, not in its scans.
        .with_target_partitions(1)
        .with_batch_size(ROWS_PER_BATCH);
    let options = config.options_mut();
    // Work stealing moves files between the partitions of a scan at run time, which makes the row order vary.
    options.execution.enable_file_stream_work_stealing = false;
    // Our tables list their files and compute statistics themselves.
    options.execution.collect_statistics = false;
    // Columns keep the type of the file: `Utf8` stays `Utf8`.
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    // Column names are case-sensitive, also unquoted: `reviewText` is not `reviewtext`. Function names stay
    // case-insensitive.
    options.sql_parser.enable_ident_normalization = false;
    // Errors then contain the position of an unknown name.
    options.sql_parser.collect_spans = true;
    config
}

/// A session state with [`session_config`], SQL built-ins and an optional limit on the memory of operators that buffer
/// (sorts, joins, aggregates). They spill to disk if they can.
///
/// # Errors
/// `Resources` if the temporary folder for spilling cannot be created.
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
