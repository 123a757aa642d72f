//! The events of a run as OpenLineage 2-0-2 defines them. Not here: sending them (`outbox`), and the names of datasets
//! (`dataset`).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::dataset::{Dataset, fields, hidden};
use crate::config::pipeline::{Pipeline, Step, StepKind};
use crate::job::Job;
use crate::report::{Report, Status};

/// What makes the events.
const PRODUCER: &str = concat!("urn:hfauto-pipe:", env!("CARGO_PKG_VERSION"));

const RUN_EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// The facets, with the versions of their schemas.
const FACETS: [(&str, &str, &str); 9] = [
    ("columnLineage", "1-2-0", "ColumnLineageDatasetFacet"),
    ("dataSource", "1-0-1", "DatasourceDatasetFacet"),
    ("documentation", "1-1-0", "DocumentationJobFacet"),
    ("errorMessage", "1-0-1", "ErrorMessageRunFacet"),
    ("jobType", "2-0-4", "JobTypeJobFacet"),
    ("nominalTime", "1-0-1", "NominalTimeRunFacet"),
    ("outputStatistics", "1-0-2", "OutputStatisticsOutputDatasetFacet"),
    ("processing_engine", "1-1-1", "ProcessingEngineRunFacet"),
    ("schema", "1-2-0", "SchemaDatasetFacet"),
];

/// The most characters of a step in the job's description.
const STEP_CHARS: usize = 500;

/// The most steps in the job's description.
const STEPS: usize = 50;

/// The most input columns of the facet `columnLineage`; wider tables do without it.
const LINEAGE_COLUMNS: usize = 10_000;

/// The events of one run.
pub(super) struct Lineage {
    namespace: String,
    job: String,
    description: String,
    run_id: String,
    nominal_time: Option<DateTime<Utc>>,
    inputs: Vec<Dataset>,
    output: Dataset,
    /// The columns of the inputs and of the output, and where the latter come from.
    columns: Option<Columns>,
}

struct Columns {
    inputs: Value,
    output: Value,
    lineage: Option<Value>,
}

impl Lineage {
    /// The events of the run `run_id` of a pipeline, which is a job in `namespace`.
    pub(super) fn new(
        pipeline: &Pipeline,
        run_id: &str,
        namespace: String,
        nominal_time: Option<DateTime<Utc>>,
    ) -> Self {
        let mut inputs: Vec<Dataset> = Vec::new();
        for path in &pipeline.source.paths {
            let input = Dataset::of_source(path);
            if !inputs.contains(&input) {
                inputs.push(input);
            }
        }
        Self {
            // As it is written, also by a variable: it is for the collector.
            namespace,
            job: hidden(&pipeline.name),
            description: hidden(&description(&pipeline.steps)),
            run_id: run_id.to_owned(),
            nominal_time,
            inputs,
            output: Dataset::of_path(&pipeline.sink.shown().to_string_lossy()),
            columns: None,
        }
    }

    /// Sets the columns.
    pub(super) fn describe(&mut self, job: &Job) {
        let read = job.source().dataframe.schema().inner().fields().clone();
        let written = job.schema().fields().clone();
        let names: Vec<&str> = read.iter().map(|field| field.name().as_str()).collect();
        let origins = origins(job, &names);
        let lineage = origins.and_then(|origins| {
            let columns = written.iter().map(|field| field.name().as_str());
            column_lineage(columns, &origins, &self.inputs)
        });
        self.columns = Some(Columns { inputs: fields(&read), output: fields(&written), lineage });
    }

    /// The event of the run's begin.
    pub(super) fn start(&self, at: &str) -> String {
        self.event("START", at, Map::new(), None)
    }

    /// The event of the run's end, and its name in messages.
    pub(super) fn end(&self, report: &Report) -> (&'static str, String) {
        let (name, kind) = match report.status {
            Status::Done => ("the event COMPLETE", "COMPLETE"),
            Status::Interrupted => ("the event ABORT", "ABORT"),
            Status::Failed | Status::Running => ("the event FAIL", "FAIL"),
        };
        let mut facets = Map::new();
        if let Some(error) = &report.error {
            let message = hidden(&error.text);
            add(
                &mut facets,
                "errorMessage",
                json!({"message": message, "programmingLanguage": "Rust"}),
            );
        }
        let files = report.run.as_ref().map_or(&[][..], |run| run.output.as_slice());
        let statistics = (report.status == Status::Done && !files.is_empty()).then(|| {
            json!({
                "rowCount": files.iter().map(|file| file.rows).sum::<u64>(),
                "size": files.iter().map(|file| file.bytes).sum::<u64>(),
                "fileCount": files.len(),
            })
        });
        let at = report.ended_at.clone().unwrap_or_else(now);
        (name, self.event(kind, &at, facets, statistics))
    }

    fn event(
        &self,
        kind: &str,
        at: &str,
        mut run: Map<String, Value>,
        statistics: Option<Value>,
    ) -> String {
        let version = env!("CARGO_PKG_VERSION");
        add(
            &mut run,
            "processing_engine",
            json!({
                "version": version,
                "name": "hfauto-pipe",
                "openlineageAdapterVersion": version,
            }),
        );
        if let Some(time) = self.nominal_time {
            let time = time.to_rfc3339_opts(SecondsFormat::Secs, true);
            add(&mut run, "nominalTime", json!({"nominalStartTime": time}));
        }
        let mut job = Map::new();
        add(
            &mut job,
            "jobType",
            json!({
                "processingType": "BATCH",
                "integration": "HFAUTO_PIPE",
                "jobType": "PIPELINE",
                "emissionPattern": {
                    "eventTrigger": "EVENT_BASED",
                    "eventContentMode": "ACCUMULATIVE",
                },
            }),
        );
        add(&mut job, "documentation", json!({"description": self.description}));
        let columns = self.columns.as_ref();
        let inputs: Vec<Value> = self
            .inputs
            .iter()
            .map(|input| dataset(input, columns.map(|columns| &columns.inputs), None))
            .collect();
        let lineage = columns.and_then(|columns| columns.lineage.as_ref());
        let mut output = dataset(&self.output, columns.map(|columns| &columns.output), lineage);
        if let Some(statistics) = statistics {
            let mut facets = Map::new();
            add(&mut facets, "outputStatistics", statistics);
            output["outputFacets"] = facets.into();
        }
        json!({
            "eventType": kind,
            "eventTime": at,
            "producer": PRODUCER,
            "schemaURL": RUN_EVENT,
            "run": {"runId": self.run_id, "facets": run},
            "job": {"namespace": self.namespace, "name": self.job, "facets": job},
            "inputs": inputs,
            "outputs": [output],
        })
        .to_string()
    }
}

/// Adds a facet of [`FACETS`].
fn add(facets: &mut Map<String, Value>, name: &str, mut facet: Value) {
    let Some((_, version, schema)) = FACETS.iter().find(|(known, ..)| *known == name) else {
        return;
    };
    facet["_producer"] = PRODUCER.into();
    facet["_schemaURL"] =
        format!("https://openlineage.io/spec/facets/{version}/{schema}.json#/$defs/{schema}")
            .into();
    facets.insert(name.to_owned(), facet);
}

fn dataset(dataset: &Dataset, columns: Option<&Value>, lineage: Option<&Value>) -> Value {
    let mut facets = Map::new();
    let mut source = json!({"name": dataset.namespace});
    if let Some(uri) = dataset.uri() {
        source["uri"] = uri.into();
    }
    add(&mut facets, "dataSource", source);
    if let Some(columns) = columns {
        add(&mut facets, "schema", json!({"fields": columns}));
    }
    if let Some(lineage) = lineage {
        add(&mut facets, "columnLineage", json!({"fields": lineage}));
    }
    json!({"namespace": dataset.namespace, "name": dataset.name, "facets": facets})
}

/// The steps of a pipeline, one per line.
fn description(steps: &[Step]) -> String {
    let line = |step: &Step| {
        let line = match &step.kind {
            StepKind::Sql(query) => {
                format!("sql: {}", query.split_whitespace().collect::<Vec<_>>().join(" "))
            }
            StepKind::Task(step) => {
                format!("{}: {} -> {}", step.task.id, step.model_name, step.output)
            }
        };
        match line.char_indices().nth(STEP_CHARS) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    };
    let mut lines: Vec<String> = steps.iter().take(STEPS).map(line).collect();
    if steps.len() > STEPS {
        lines.push(format!("and {} more steps", steps.len() - STEPS));
    }
    if lines.is_empty() { "copies rows".to_owned() } else { lines.join("\n") }
}

/// The source's columns that a column comes from, and the step that computes it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Origin {
    columns: BTreeSet<String>,
    step: Option<String>,
}

/// The origin of each column; `None` for a pipeline with `sql` steps, whose columns may come from any other.
fn origins(job: &Job, read: &[&str]) -> Option<BTreeMap<String, Origin>> {
    let mut origins: BTreeMap<String, Origin> = read
        .iter()
        .map(|name| {
            let columns = BTreeSet::from([(*name).to_owned()]);
            ((*name).to_owned(), Origin { columns, step: None })
        })
        .collect();
    for step in &job.pipeline().steps {
        let StepKind::Task(config) = &step.kind else { return None };
        let is_this = |task: &str| task == config.output;
        let model = job.steps().iter().find(|step| is_this(step.task().field().name()))?;
        let inputs = model.task().inputs();
        let found = inputs.iter().filter_map(|input| origins.get(*input));
        let columns: BTreeSet<String> =
            found.flat_map(|origin| origin.columns.iter().cloned()).collect();
        let step = Some(format!("{} with {}", config.task.id, config.model_name));
        for output in config.columns() {
            origins.insert(output, Origin { columns: columns.clone(), step: step.clone() });
        }
    }
    Some(origins)
}

/// The columns of the output with the columns of the inputs that they come from; `None` if there are too many.
fn column_lineage<'c>(
    columns: impl Iterator<Item = &'c str>,
    origins: &BTreeMap<String, Origin>,
    inputs: &[Dataset],
) -> Option<Value> {
    let (mut lineage, mut total) = (Map::new(), 0);
    for column in columns {
        let Some(origin) = origins.get(column) else { continue };
        let transformation = match &origin.step {
            Some(step) => {
                json!({"type": "DIRECT", "subtype": "TRANSFORMATION", "description": hidden(step)})
            }
            None => json!({"type": "DIRECT", "subtype": "IDENTITY"}),
        };
        total += inputs.len() * origin.columns.len();
        if total > LINEAGE_COLUMNS {
            return None;
        }
        let fields: Vec<Value> = inputs
            .iter()
            .flat_map(|input| {
                origin.columns.iter().map(|field| {
                    json!({
                        "namespace": input.namespace,
                        "name": input.name,
                        "field": hidden(field),
                        "transformations": [transformation],
                    })
                })
            })
            .collect();
        lineage.insert(hidden(column), json!({"inputFields": fields}));
    }
    Some(lineage.into())
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}
