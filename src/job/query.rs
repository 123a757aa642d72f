//! Queries and single model steps over tables in memory, for callers that hold Arrow data. Not here: pipelines, which
//! read and write files ([`super::Job`]).

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::{SQLOptions, SessionContext, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use super::{check_columns, model_steps};
use crate::config::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{ModelNode, ModelStep};
use crate::guard::guarded_query;
use crate::source;
use crate::sql::{ModelCatalog, in_partitions, query};
use crate::tasks::TaskDefinition;

/// A planned query: its models and types are known, no weights are loaded.
pub struct Query {
    /// With as many partitions as the order of rows allows.
    state: SessionState,
    plan: LogicalPlan,
    steps: Vec<Arc<ModelStep>>,
}

impl Query {
    /// Plans a single SQL query, which must not write or change the session.
    ///
    /// # Errors
    /// `Config` for the query; those of the models that it calls.
    pub async fn of_sql(context: &SessionContext, text: &str) -> Result<Self> {
        source::check_nesting(text)?;
        let reads_only = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        let frame = guarded_query(ErrorKind::Config, async {
            let frame = query(context, text, reads_only).await;
            frame.map_err(|e| source::query_error(e, &[]))
        });
        Self::optimized(frame.await?).await
    }

    /// Plans one model step: the columns of `rows`, then the column `output`. `call.input` names columns of `rows`.
    ///
    /// # Errors
    /// `Config` for columns and options; those of the model.
    pub async fn of_call(
        models: &ModelCatalog,
        rows: DataFrame,
        call: &Call<'_>,
        output: &str,
    ) -> Result<Self> {
        let task = TaskDefinition::find(call.task_id).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("there is no task `{}`", call.task_id))
        })?;
        let failed = |e| source::query_error(e, &[]);
        let task = tokio::task::block_in_place(|| {
            models.task(task, call.function, call.input, call.model, call.options)
        });
        let task = task.map_err(failed)?;
        let place = format!("the call of `{}`", call.function);
        check_columns(&*task, &rows, &[output.to_owned()]).map_err(|e| e.at(&place))?;
        let step = ModelStep::new(task, models.settings(), Arc::clone(models.workers()), place);
        let (state, plan) = rows.into_parts();
        let node = ModelNode::over_columns(plan, Arc::new(step), output).map_err(failed)?;
        Self::optimized(DataFrame::new(state, node.into_plan())).await
    }

    async fn optimized(frame: DataFrame) -> Result<Self> {
        let (state, written) = in_partitions(frame).into_parts();
        let plan = guarded_query(ErrorKind::Config, async {
            let plan = state.optimize(&written).map_err(|e| source::query_error(e, &[]));
            plan.map_err(|e| source::name_cast(e, &written))
        })
        .await?;
        let steps = model_steps(&plan);
        Ok(Self { state, plan, steps })
    }

    /// The model steps in data flow order.
    pub fn steps(&self) -> &[Arc<ModelStep>] {
        &self.steps
    }

    /// Computes all rows. Dropping the future stops the models.
    ///
    /// # Errors
    /// The first error of any row or model.
    pub async fn collect(&self) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let failed = |e| source::query_error(e, &[]);
        let collected = guarded_query(ErrorKind::Data, async {
            let planner = Arc::clone(self.state.query_planner());
            let plan = planner.create_physical_plan(&self.plan, &self.state).await;
            let stream = execute_stream(plan.map_err(failed)?, self.state.task_ctx());
            let stream = stream.map_err(failed)?;
            let schema = stream.schema();
            Ok((schema, stream.try_collect().await.map_err(failed)?))
        });
        collected.await.map_err(|e| source::name_cast(e, &self.plan))
    }
}
