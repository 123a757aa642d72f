//! The model functions in a caller's own `SessionContext`, over a caller's own table: finds log lines that relate to a
//! question.
//!
//! ```sh
//! cargo run --release --example sql_functions [model directory or hub id]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::pretty::print_batches;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::{MemTable, TableType};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use hfauto_pipe::config::pipeline::ModelSpec;
use hfauto_pipe::hub::Hub;
use hfauto_pipe::sql::{ModelCatalog, register};

/// A table of the caller: log lines, generated on read.
#[derive(Debug)]
struct Log {
    lines: i64,
}

const MESSAGES: [&str; 7] = [
    "user signed in",
    "user signed out",
    "disk almost full on node-3",
    "backup finished",
    "certificate renewed",
    "request took 30 ms",
    "cache cleared",
];

#[async_trait]
impl TableProvider for Log {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("line", DataType::Int64, false),
            Field::new("message", DataType::Utf8, false),
        ]))
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let message = |line: i64| MESSAGES[line as usize % MESSAGES.len()];
        let messages: StringArray = (0..self.lines).map(|line| Some(message(line))).collect();
        let lines = Int64Array::from_iter_values(0..self.lines);
        let batch = RecordBatch::try_new(self.schema(), vec![Arc::new(lines), Arc::new(messages)])?;
        let table = MemTable::try_new(self.schema(), vec![vec![batch]])?;
        table.scan(session, projection, filters, limit).await
    }
}

fn main() -> Result<()> {
    let embedded = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/mini-embedder");
    let model = std::env::args().nth(1);
    run(model.as_deref().unwrap_or(embedded)).map(drop)
}

/// The messages nearest to the question, the nearest first.
pub(crate) fn run(model: &str) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let context = SessionContext::new();
        context.register_table("log", Arc::new(Log { lines: 700 }))?;

        let models = ModelCatalog::new(Arc::new(Hub::from_env()));
        models.insert("embedder", ModelSpec::of_repo(model));
        register(&context, Arc::new(models))?;

        // Seven hundred lines have seven distinct messages: the model computes each once, and the question once.
        let found = context
            .sql(
                "SELECT message, count(*) AS lines, \
                        max(cosine_similarity(embed(message, 'embedder'), \
                                              embed('the disk is full', 'embedder'))) AS score \
                 FROM log GROUP BY message ORDER BY score DESC LIMIT 1",
            )
            .await?
            .collect()
            .await?;
        print_batches(&found)?;
        let messages = found.iter().flat_map(|batch| {
            let messages = batch["message"].as_string::<i32>().iter();
            messages.flatten().map(str::to_owned).collect::<Vec<_>>()
        });
        Ok(messages.collect())
    })
}
