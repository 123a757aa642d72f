//! The functions of the module, as the Python files call them: options are JSON, so that the schemas of the program check
//! them. Not here: signatures and docstrings, which the Python files make from [`declarations`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::TableReference;
use hfauto_pipe::config::raw::RawStep;
use hfauto_pipe::config::{self, Call as TaskCall, LoadOptions};
use hfauto_pipe::exec::ModelStep;
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions, Query};
use hfauto_pipe::sink::Sink;
use hfauto_pipe::source::{missing_column, query_error};
use hfauto_pipe::sql::ModelCatalog;
use hfauto_pipe::tasks::{TASKS, TaskDefinition, is_text};
use hfauto_pipe::{Error, ErrorKind, Result, cli, runtime};
use pyo3::prelude::*;
use serde_json::{Map, Value, json};

use crate::input::{Input, Rows};
use crate::table::Table;
use crate::wait::wait;

/// The alias of a model that a call describes by a dict. Errors of loading it name its repository.
const ALIAS: &str = "model";

/// Runs the program with these arguments and returns its exit code. `program` is the command that starts it again.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>, program: Vec<OsString>) -> u8 {
    cli::set_program(program);
    py.detach(|| cli::main(args))
}

/// The tasks and the JSON Schema of pipeline files, as JSON.
#[pyfunction]
pub(crate) fn declarations() -> String {
    let tasks = TASKS.iter().map(|task| {
        json!({
            "id": task.id,
            "summary": task.summary,
            "function": task.function.name,
            "description": task.function.description,
            "parameters": task.function.parameters,
            "parts": task.function.parts,
            "output": output_of_template(task),
            "model": task.hub_model(),
        })
    });
    json!({ "tasks": tasks.collect::<Vec<_>>(), "schema": config::schema() }).to_string()
}

/// The name of the column that the task's template makes.
fn output_of_template(task: &TaskDefinition) -> Option<String> {
    let file = PathBuf::from(task.id);
    let raw = config::parse_raw(task.template, &file, &LoadOptions::default()).ok()?;
    raw.steps?.into_iter().find_map(|step| match step {
        RawStep::Task(step) if step.task.id == task.id => Some(step.keys.output),
        _ => None,
    })
}

/// Runs a pipeline file, and returns its report as JSON.
#[pyfunction]
#[pyo3(signature = (pipeline, *, set, limit, fresh, prune, offline, meter))]
#[expect(clippy::too_many_arguments, reason = "the options of `run`, each by its name")]
pub(crate) fn run(
    py: Python<'_>,
    pipeline: PathBuf,
    set: Vec<(String, String)>,
    limit: Option<usize>,
    fresh: bool,
    prune: bool,
    offline: bool,
    meter: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    let options = JobOptions { limit, overwrite: fresh, prune, ..JobOptions::default() };
    wait(py, meter.as_ref(), move |call| {
        refuse_fork()?;
        let pipeline = config::load(&pipeline, &LoadOptions { set, ..LoadOptions::default() })?;
        options.check(&pipeline)?;
        Sink::check(&pipeline.sink, options.overwrite || pipeline.run.is_incremental)?;
        let hub = Arc::new(Hub::new(settings(offline)));
        let report = runtime::block_on(async {
            let job = tokio::select! {
                job = Job::prepare(pipeline, options, hub) => job?,
                kind = call.interrupted() => return Err(Error::new(kind, "the run was interrupted")),
            };
            let progress = job.progress();
            call.counts(move || (progress.rows(), progress.total_rows()));
            job.run(call.interrupted()).await
        })?;
        let mut report = serde_json::to_value(report)
            .map_err(|e| Error::new(ErrorKind::Internal, "the report of the run").source(e))?;
        hfauto::secret::hide_json(&mut report);
        Ok(report.to_string())
    })
}

/// Runs a query over tables by name. `models` is a JSON object of aliases.
#[pyfunction]
#[pyo3(signature = (query, tables, *, models, offline, meter))]
pub(crate) fn sql(
    py: Python<'_>,
    query: String,
    tables: Vec<(String, Bound<'_, PyAny>)>,
    models: String,
    offline: bool,
    meter: Option<Bound<'_, PyAny>>,
) -> PyResult<Table> {
    let tables = tables.into_iter().map(|(name, data)| Ok((name, Input::of(&data)?)));
    let tables: Vec<(String, Input)> = tables.collect::<PyResult<_>>()?;
    wait(py, meter.as_ref(), move |call| {
        let catalog = catalog(offline)?;
        for (name, model) in object(&models, "models")? {
            insert(&catalog, &name, &model)?;
        }
        let context = hfauto_pipe::sql::session(Arc::new(catalog))?;
        for (name, input) in tables {
            let table = Arc::new(input.read(&name)?.into_table()?);
            let registered = context.register_table(TableReference::bare(name), table);
            registered.map_err(|e| query_error(e, &[]))?;
        }
        call.block_on(async {
            let query = Query::of_sql(&context, &query).await?;
            let steps = query.steps().to_vec();
            call.counts(move || (steps.iter().map(|step| computed(step)).sum(), None));
            let (schema, batches) = query.collect().await?;
            Ok(Table::new(schema, batches))
        })
    })
}

/// Adds the column of a task to a table, or returns it alone for a column. `column`, `model` and `options` are JSON.
#[pyfunction]
#[pyo3(signature = (function, data, *, column, model, output, options, offline, meter))]
#[expect(clippy::too_many_arguments, reason = "the options of a task's function, each by its name")]
pub(crate) fn task(
    py: Python<'_>,
    function: &str,
    data: Bound<'_, PyAny>,
    column: String,
    model: String,
    output: String,
    options: String,
    offline: bool,
    meter: Option<Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let function = function.to_owned();
    let input = Input::of(&data)?;
    let is_column = input.is_column();
    let table = wait(py, meter.as_ref(), move |call| {
        let task = TASKS.iter().copied().find(|task| task.function.name == function);
        let task = task.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("there is no function `{function}`"))
        })?;
        let catalog = catalog(offline)?;
        let model = match value(&model, "model")? {
            Value::String(name) => name,
            Value::Null => cli::default_model(task)?.ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("`{function}` needs `model`"))
                    .hint("name a model of the hub (`org/name`) or a directory")
            })?,
            model => {
                insert(&catalog, ALIAS, &model)?;
                ALIAS.to_owned()
            }
        };
        let parameter = task.function.parameters.first().copied().unwrap_or_default();
        let rows = input.read(parameter)?;
        let columns = columns(task, value(&column, "column")?, &rows)?;
        let total = rows.len();
        let context = hfauto_pipe::sql::session(Arc::new(catalog.sharing()))?;
        let frame = context.read_table(Arc::new(rows.into_table()?));
        let frame = frame.map_err(|e| query_error(e, &[]))?;
        let task_call = TaskCall {
            function: task.function.name,
            task_id: task.id,
            input: &columns,
            model: &model,
            options: Some(options.as_str()),
        };
        call.block_on(async {
            let query = Query::of_call(&catalog, frame, &task_call, &output).await?;
            let steps = query.steps().to_vec();
            call.counts(move || {
                (steps.iter().map(|step| computed(step)).min().unwrap_or(0), Some(total))
            });
            let (schema, batches) = query.collect().await?;
            Ok(Table::new(schema, batches))
        })
    })?;
    if is_column {
        let last = table.width().saturating_sub(1);
        return Ok(Py::new(py, table.array(last))?.into_any());
    }
    Ok(Py::new(py, table)?.into_any())
}

/// The rows that a step is done with.
fn computed(step: &ModelStep) -> u64 {
    let counts = step.metrics().counts();
    counts.computed_rows.max(counts.rows)
}

/// The `input` of the step: as given, or the columns that the parameters of the function name, or the only text column.
fn columns(task: &TaskDefinition, given: Value, rows: &Rows) -> Result<Value> {
    let function = &task.function;
    let names: Vec<&str> = rows.schema.fields().iter().map(|field| field.name().as_str()).collect();
    if rows.is_column {
        let [parameter] = function.parameters else {
            let message = format!(
                "`{}` reads several columns, `{}`: it needs a table",
                function.name,
                function.parameters.join("`, `")
            );
            return Err(Error::new(ErrorKind::Usage, message));
        };
        if !given.is_null() {
            let message = "`column` names a column of a table, but the data is a column";
            return Err(Error::new(ErrorKind::Usage, message).hint("leave `column` out"));
        }
        return Ok(json!(parameter));
    }
    if !given.is_null() {
        return Ok(given);
    }
    let missing = function.parameters.iter().find(|name| !names.contains(name));
    match (missing, function.parameters) {
        (None, [parameter]) => Ok(json!(parameter)),
        (None, parameters) => {
            let input = parameters.iter().map(|name| ((*name).to_owned(), json!(name)));
            Ok(Value::Object(input.collect()))
        }
        (Some(missing), parameters) => {
            let texts: Vec<&str> = rows
                .schema
                .fields()
                .iter()
                .filter(|f| is_text(f.data_type()))
                .map(|f| f.name().as_str())
                .collect();
            match (parameters, &texts[..]) {
                ([_], [text]) => Ok(json!(text)),
                _ => Err(missing_column("the table has no column", missing, &names)
                    .at(format!("the call of `{}`: `column` names another one", function.name))),
            }
        }
    }
}

/// Adds an alias: a hub id or directory, or an object with `repo` and the other keys of a model in a pipeline file.
fn insert(catalog: &ModelCatalog, name: &str, model: &Value) -> Result<()> {
    let (repo, options) = match model {
        Value::String(repo) => (Some(repo.clone()), Map::new()),
        Value::Object(keys) => {
            let mut keys = keys.clone();
            (keys.shift_remove("repo").and_then(|repo| repo.as_str().map(str::to_owned)), keys)
        }
        _ => (None, Map::new()),
    };
    let repo = repo.ok_or_else(|| {
        let message =
            "a model is a hub id, a directory, or a dict with `repo` and other keys of a model";
        Error::new(ErrorKind::Usage, message)
    })?;
    catalog.insert(name, config::model(name, &repo, &options, catalog.dir())?);
    Ok(())
}

fn value(json: &str, what: &str) -> Result<Value> {
    serde_json::from_str(json)
        .map_err(|e| Error::new(ErrorKind::Usage, format!("`{what}` is not JSON")).source(e))
}

fn object(json: &str, what: &str) -> Result<Map<String, Value>> {
    match value(json, what)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::new(ErrorKind::Usage, format!("`{what}` is not a mapping"))),
    }
}

/// The hub's settings from the environment.
fn settings(offline: bool) -> HubSettings {
    let settings = HubSettings::from_env();
    let offline = offline || settings.offline();
    settings.with_offline(offline)
}

/// The models of earlier calls, which keep their weights, and the settings that they depend on.
static MODELS: Mutex<Option<(HubSettings, ModelCatalog)>> = Mutex::new(None);

/// A catalog that shares the models of earlier calls, as long as the hub's settings and the current folder stay.
fn catalog(offline: bool) -> Result<ModelCatalog> {
    refuse_fork()?;
    let (settings, dir) = (settings(offline), std::env::current_dir().unwrap_or_default());
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, catalog)) = models.as_ref()
        && *known == settings
        && catalog.dir() == dir
    {
        return Ok(catalog.sharing());
    }
    let catalog = ModelCatalog::new(Arc::new(Hub::new(settings.clone())));
    let shared = catalog.sharing();
    *models = Some((settings, catalog));
    Ok(shared)
}

/// Forgets the models of earlier calls, which frees their weights.
#[pyfunction]
pub(crate) fn unload(py: Python<'_>) {
    let models = MODELS.lock().unwrap_or_else(PoisonError::into_inner).take();
    py.detach(|| drop(models));
}

/// The first process that computed.
static PROCESS: Mutex<Option<u32>> = Mutex::new(None);

/// Fails in a process that was forked after its parent had computed: the threads of the parent, which this one would wait
/// for, do not exist here.
fn refuse_fork() -> Result<()> {
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let (first, own) = (*process.get_or_insert_with(std::process::id), std::process::id());
    if first == own {
        return Ok(());
    }
    let message = "this process was forked from one that had used hfauto_pipe already";
    Err(Error::new(ErrorKind::Usage, message)
        .hint("start processes with `multiprocessing.get_context(\"spawn\")`"))
}
