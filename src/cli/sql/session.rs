//! A session of `hfauto-pipe sql`: its tables and models, and the execution of statements.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result as DataFusionResult;
use datafusion::common::format::ExplainFormat;
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::physical_plan::execute_stream;
use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{
    Query, SelectFlavor, SelectItem, SetExpr, Statement as SqlStatement, WildcardAdditionalOptions,
};

use super::{OutputFormat, SqlArgs, output, split};
#[cfg(feature = "cluster")]
use crate::cluster::QueryCluster;
use crate::config::pipeline::{FileFormat, SinkSpec, SourceSpec};
use crate::config::{self, LoadOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::BatchSettings;
use crate::guard::guarded_query;
use crate::hub_store;
use crate::job::{lineage, model_steps, write_stream};
use crate::secret;
use crate::sink::{Sink, SinkOptions};
use crate::source;
use crate::sql::{
    ModelCatalog, ModelStatement, in_partitions, model_statement, name_options, session,
};
use crate::store;

/// A session.
pub(super) struct Session {
    pub(super) context: SessionContext,
    pub(super) catalog: Arc<ModelCatalog>,
    format: OutputFormat,
    output: Option<(PathBuf, bool)>,
    /// Where files are read and models run, unless here.
    #[cfg(feature = "cluster")]
    cluster: Option<Arc<QueryCluster>>,
}

impl Session {
    /// Opens the tables and registers the models of the command line.
    pub(super) async fn open(args: &SqlArgs) -> Result<Self> {
        let dir = std::env::current_dir().map_err(|e| {
            Error::new(ErrorKind::NoInput, "cannot read the current folder").source(e)
        })?;
        let mut catalog = ModelCatalog::new(Arc::new(super::super::hub(args.offline)));
        if let Some(file) = &args.pipeline {
            let pipeline = config::load(file, &LoadOptions::default())?;
            catalog = catalog
                .with_settings(BatchSettings::from(pipeline.run))
                .with_images(pipeline.images);
            for (name, model) in pipeline.models {
                catalog.insert(name, model);
            }
        }
        for (name, repo) in &args.models {
            catalog.execute(&ModelStatement::Create {
                name: name.clone(),
                repo: repo.clone(),
                options: serde_json::Map::new(),
                or_replace: true,
                if_not_exists: false,
            })?;
        }
        let catalog = Arc::new(catalog);
        let context = session(Arc::clone(&catalog))?;
        context.state_ref().write().config_mut().options_mut().explain.format = ExplainFormat::Tree;
        let output = args.output.clone().map(|path| (path, args.fresh));
        let session = Self {
            #[cfg(feature = "cluster")]
            cluster: match args.on.cluster()? {
                Some(cluster) => Some(QueryCluster::new(cluster, Arc::clone(&catalog))?),
                None => None,
            },
            context,
            catalog,
            format: args.format,
            output,
        };
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &session.cluster {
            cluster.register(&session.context);
        }
        for (name, path) in &args.tables {
            let path = store::join(&dir, path).display().to_string();
            let spec = SourceSpec::of_path(path, format!("--table {name}"));
            let table = source::open(&session.context, &spec).await?.dataframe.into_view();
            session
                .context
                .register_table(name.as_str(), table)
                .map_err(|e| source::stream_error(e, &[]))?;
        }
        Ok(session)
    }

    /// Runs the statements of a text. With `--output`, writes the rows of the last one.
    pub(super) async fn run_all(&self, text: &str) -> Result<()> {
        let statements = split::statements(text)?;
        let Some((last, before)) = statements.split_last() else {
            return Err(Error::new(ErrorKind::Usage, "there is no statement to run"));
        };
        for statement in before {
            self.run(statement, None).await?;
        }
        self.run(last, self.output.as_ref()).await
    }

    /// Runs one statement, and prints its rows or writes them to `output`.
    pub(super) async fn run(&self, sql: &str, output: Option<&(PathBuf, bool)>) -> Result<()> {
        if let Some(statement) = model_statement(sql)? {
            self.catalog.execute(&statement)?;
            if statement == ModelStatement::Show {
                let (schema, batch) = self.models()?;
                output::print(schema, [Ok(batch)], self.format)?;
            }
            return Ok(());
        }
        let plan = guarded_query(ErrorKind::Config, async {
            self.plan(sql).await.map_err(|e| source::query_error(e, &[]))
        });
        let plan = plan.await?;
        let run = guarded_query(ErrorKind::Data, self.run_plan(plan.clone(), sql, output)).await;
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &self.cluster {
            cluster.settle().await;
        }
        run.map_err(|e| source::name_cast(e, &plan))
    }

    /// The query with as many partitions as its order of rows allows. On a cluster, scans have partitions of their own.
    fn in_partitions(&self, frame: DataFrame) -> DataFrame {
        #[cfg(feature = "cluster")]
        if self.cluster.is_some() {
            return frame;
        }
        in_partitions(frame)
    }

    async fn run_plan(
        &self,
        plan: LogicalPlan,
        sql: &str,
        output: Option<&(PathBuf, bool)>,
    ) -> Result<()> {
        if let LogicalPlan::Copy(copy) = plan {
            return self.copy(copy, sql).await;
        }
        let failed = |e| source::query_error(e, &[]);
        let frame = self.context.execute_logical_plan(plan).await.map_err(failed)?;
        let frame = self.in_partitions(frame);
        let cancel = super::super::signals::Stop::listen();
        if let Some((path, fresh)) = output {
            let spec = sink_spec(path.clone(), None)?;
            return self.write(frame, sql, &spec, *fresh).await.map(drop);
        }
        let is_plan =
            matches!(frame.logical_plan(), LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
        let schema = Arc::clone(frame.schema().inner());
        if schema.fields().is_empty() {
            // A statement such as CREATE VIEW.
            return frame.collect().await.map(drop).map_err(failed);
        }
        if is_plan {
            // A plan contains our descriptions of tables and models, not rows.
            let batches = tokio::select! {
                batches = frame.collect() => batches.map_err(failed)?,
                kind = cancel.asked() => return Err(Error::new(kind, "stopped by a signal")),
            };
            let batches = batches.iter().map(output::without_secrets);
            return output::print(schema, batches, self.format);
        }
        let stream = frame.execute_stream().await.map_err(failed)?;
        output::stream(schema, stream, self.format, pin!(cancel.asked())).await
    }

    async fn plan(&self, sql: &str) -> DataFusionResult<LogicalPlan> {
        let (state, sql) = (self.context.state(), name_options(sql)?);
        let mut statement =
            state.sql_to_statement(&sql, &state.config().options().sql_parser.dialect)?;
        match &mut statement {
            Statement::Statement(statement) => {
                if let SqlStatement::Query(query) = statement.as_mut() {
                    select_all(query);
                }
            }
            Statement::CopyTo(copy) => {
                if let CopyToSource::Query(query) = &mut copy.source {
                    select_all(query);
                }
            }
            _ => {}
        }
        // DataFusion checks only the last extension, and does not know all of ours.
        if let Statement::CopyTo(copy) = &mut statement
            && copy.stored_as.is_none()
            && let Some((format, _)) = FileFormat::of_path(&copy.target)
        {
            copy.stored_as = Some(format.stored_as().to_owned());
        }
        state.statement_to_plan(statement).await
    }

    /// Runs `COPY … TO`, which publishes its output atomically, like a pipeline's sink.
    async fn copy(&self, copy: CopyTo, sql: &str) -> Result<()> {
        let overwrite = overwrite(copy.options.iter())?;
        let name = copy.file_type.get_ext();
        let format = FileFormat::of_stored_as(&name).ok_or_else(|| {
            let message = format!("COPY writes parquet, csv, json or arrow, not `{name}`");
            Error::new(ErrorKind::Config, message)
        })?;
        let mut spec = sink_spec(PathBuf::from(&copy.output_url), Some(format))?;
        spec.partition_by.clone_from(&copy.partition_by);
        let frame =
            self.in_partitions(DataFrame::new(self.context.state(), copy.input.as_ref().clone()));
        let rows = self.write(frame, sql, &spec, overwrite).await?;
        let schema = Arc::new(Schema::new(vec![Field::new("count", DataType::UInt64, false)]));
        let count = Arc::new(UInt64Array::from(vec![rows]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![count])
            .map_err(|e| Error::new(ErrorKind::Internal, "the count of rows").source(e))?;
        output::print(schema, [Ok(batch)], self.format)
    }

    /// Writes the rows of a query, and returns their number.
    async fn write(
        &self,
        frame: DataFrame,
        sql: &str,
        spec: &SinkSpec,
        overwrite: bool,
    ) -> Result<u64> {
        Sink::check(spec, overwrite)?;
        let failed = |e| source::query_error(e, &[]);
        let (state, plan) = frame.into_parts();
        let optimized = state.optimize(&plan).map_err(failed)?;
        let to = source::Output {
            what: "--output",
            path: &spec.path,
            is_file: Sink::is_file(spec),
            format: spec.format,
            partitions: spec.partition_by.len(),
        };
        source::check_plan(&optimized, to)?;
        let planner = Arc::clone(state.query_planner());
        let plan = planner.create_physical_plan(&optimized, &state).await.map_err(failed)?;
        let vectors = plan.schema();
        let vectors = vectors
            .fields()
            .iter()
            .filter(|field| matches!(field.data_type(), DataType::FixedSizeList(..)))
            .map(|field| field.name().clone());
        let options = SinkOptions {
            lineage: lineage(("hfauto.query", sql.trim()), &model_steps(&optimized)),
            model_columns: vectors.collect(),
            overwrite,
        };
        let sink = Sink::create(spec, plan.schema(), options)?;
        let stream = execute_stream(plan, state.task_ctx()).map_err(failed)?;
        let cancel = super::super::signals::Stop::listen();
        let sink = write_stream(stream, sink, &[], |_, _| {}, pin!(cancel.asked())).await?;
        let written = tokio::task::block_in_place(|| sink.finish())?;
        let (rows, files) = (written.rows, written.files.len());
        tracing::info!(rows, files, "written");
        Ok(rows)
    }

    fn models(&self) -> Result<(SchemaRef, RecordBatch)> {
        let aliases = self.catalog.aliases();
        let field = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let schema = Arc::new(Schema::new(vec![
            field("name", false),
            field("repo", false),
            field("revision", true),
        ]));
        let text = |values: Vec<Option<&str>>| {
            let shown = values.into_iter().map(|value| value.map(secret::hide));
            Arc::new(shown.collect::<StringArray>()) as _
        };
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                text(aliases.keys().map(|name| Some(name.as_str())).collect()),
                text(aliases.values().map(|model| Some(model.repo.as_str())).collect()),
                text(aliases.values().map(|model| model.revision.as_deref()).collect()),
            ],
        )
        .map_err(|e| Error::new(ErrorKind::Internal, "the table of models").source(e))?;
        Ok((schema, batch))
    }
}

/// `FROM t` without SELECT selects every column. DataFusion would select none.
fn select_all(query: &mut Query) {
    if let SetExpr::Select(select) = query.body.as_mut()
        && select.flavor == SelectFlavor::FromFirstNoSelect
    {
        select.flavor = SelectFlavor::Standard;
        select.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
    }
}

/// The one option of COPY: whether it replaces an existing output.
fn overwrite<'o>(options: impl Iterator<Item = (&'o String, &'o String)>) -> Result<bool> {
    let mut overwrite = false;
    for (name, value) in options {
        // DataFusion takes options that it does not know for those of the format.
        let name = name.trim_start_matches("format.");
        let refused =
            |message: String, hint| Err(Error::new(ErrorKind::Config, message).hint(hint));
        overwrite = match (name, value.to_lowercase().as_str()) {
            ("overwrite", "true") => true,
            ("overwrite", "false") => false,
            ("overwrite", _) => {
                let message = format!("COPY: `overwrite` is true or false, not `{value}`");
                return refused(message, "write OPTIONS (overwrite true)");
            }
            _ => {
                let message = format!("COPY has no option `{name}` here");
                return refused(
                    message,
                    "the format follows from the extension, or from STORED AS; OPTIONS (overwrite true) replaces an output",
                );
            }
        };
    }
    Ok(overwrite)
}

/// A sink at a path, with the format of its extension or the given one.
fn sink_spec(path: PathBuf, format: Option<FileFormat>) -> Result<SinkSpec> {
    if hub_store::is_hub(&path.to_string_lossy()) {
        let message = format!("`{}`: a query does not write to the hub", path.display());
        return Err(Error::new(ErrorKind::Usage, message)
            .hint("write a pipeline with a `sql` step, whose `sink.path` may be a dataset"));
    }
    let is_url = store::is_url(&path.to_string_lossy());
    let is_folder = path.to_string_lossy().ends_with('/') || path.is_dir();
    let path = if is_url { Ok(path) } else { std::path::absolute(&path) }
        .map_err(|e| Error::new(ErrorKind::Sink, "cannot read the current folder").source(e))?;
    let by_path = path.to_str().and_then(FileFormat::of_path);
    // Refuses an unknown extension: a folder named `x.tsv` would surprise.
    if by_path.is_none() && format.is_none() && path.extension().is_some() && !is_folder {
        let message = format!("cannot tell the format of `{}` from its name", path.display());
        return Err(Error::new(ErrorKind::Usage, message).hint(
            "end the name in .parquet, .csv, .jsonl or .arrow (text files also in .gz or .zst), or in `/` for a folder",
        ));
    }
    Ok(SinkSpec {
        delta: None,
        format: by_path.map(|(format, _)| format).or(format).unwrap_or(FileFormat::Parquet),
        compression: by_path.and_then(|(_, compression)| compression),
        partition_by: Vec::new(),
        target_file_size_bytes: 256 << 20,
        location: path.display().to_string(),
        path,
    })
}
