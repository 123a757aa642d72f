//! Final columns against transformers' pipelines and sentence-transformers: every case of
//! `tests/golden/tasks`, through whole jobs, from a pipeline file to the sink.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::error::{ErrorKind, Result};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions};
use serde_json::{Map, Value, json};

use super::support::{Fixture, repository};
use hfauto_pipe::tasks::TaskDefinition;

/// The tolerance between a number in a column and the reference's.
const ABSOLUTE: f64 = 1e-5;
/// Sums over a text are not of order 1.
const RELATIVE: f64 = 1e-5;

/// Tasks with cases compared elsewhere, and where.
const ELSEWHERE: [&str; 3] = ["chat", "images", "warpers"];

/// Failures of the reference that do not occur here (a part of its error), by task.
const NOT_ERRORS_HERE: [(&str, &str); 3] = [
    // A failure inside numpy.
    ("question-answering", "kth(="),
    // A 1 × 1 image that the reference takes for a list of channels.
    ("image-classification", "mean must have 1 elements"),
    // Here, an empty text has an answer like any other.
    ("zero-shot-classification", "at least one label and at least one sequence"),
];

/// One case.
struct Case {
    dir: PathBuf,
    name: String,
    json: Value,
}

impl Case {
    /// Every case of every task, by name.
    fn all() -> Vec<Self> {
        let root = repository().join("tests/golden/tasks");
        let mut cases = Vec::new();
        for task in std::fs::read_dir(root).unwrap() {
            let dir = task.unwrap().path();
            let task = dir.file_name().unwrap().to_string_lossy().into_owned();
            let is_model =
                ["config.json", "modules.json"].iter().any(|file| dir.join(file).is_file());
            if is_model || ELSEWHERE.contains(&task.as_str()) {
                continue;
            }
            for file in std::fs::read_dir(&dir).unwrap() {
                let file = file.unwrap().path();
                if file.extension().is_none_or(|extension| extension != "json") {
                    continue;
                }
                let json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                let name = format!("{task}/{}", file.file_stem().unwrap().to_string_lossy());
                cases.push(Self { dir: dir.clone(), name, json });
            }
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(!cases.is_empty());
        cases
    }

    fn task(&self) -> &str {
        self.json["task"].as_str().unwrap()
    }

    /// The model's directory, or a copy with other files if the case has some.
    fn model(&self, fixture: &Fixture) -> PathBuf {
        let model = self.dir.join(self.json["model"].as_str().unwrap());
        let changed = ["generation_config", "preprocessor_config"]
            .map(|key| (format!("{key}.json"), self.json.get(key)));
        if changed.iter().all(|(_, change)| change.is_none()) {
            return model;
        }
        let copy = fixture.path("model");
        std::fs::create_dir_all(&copy).unwrap();
        for file in std::fs::read_dir(&model).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        for (file, change) in changed {
            let Some(Value::Object(change)) = change else { continue };
            let path = copy.join(&file);
            // The image processor's file is replaced, and the other one is merged.
            let mut object = match std::fs::read(&path) {
                Ok(bytes) if file.starts_with("generation") => {
                    serde_json::from_slice::<Map<String, Value>>(&bytes).unwrap()
                }
                _ => Map::new(),
            };
            object.extend(change.clone());
            std::fs::write(&path, Value::Object(object).to_string()).unwrap();
        }
        copy
    }

    /// Runs rows through a whole job and returns the new column. A step that makes several rows of one is called in SQL, which
    /// gives their list; `chunks.rs` compares the two.
    fn run(&self, rows: &[Value], settings: &str) -> Result<Vec<Value>> {
        let makes_rows = self.task() == "chunk";
        self.run_as(if makes_rows { Self::call } else { Self::step }, rows, settings)
    }

    /// The case as a task step.
    fn step(&self, model: &str) -> Value {
        let mut step = self.json["options"].as_object().unwrap().clone();
        step.insert("model".to_owned(), model.into());
        step.insert("input".to_owned(), self.json["input"].clone());
        step.insert("output".to_owned(), "result".into());
        json!({ self.task(): step })
    }

    /// The case as a `sql` step that calls the task's function.
    fn call(&self, model: &str) -> Value {
        let function = &TaskDefinition::find(self.task()).unwrap().function;
        let column = |name: &Value| format!("\"{}\"", name.as_str().unwrap());
        let input = &self.json["input"];
        let arguments = if function.parameters.len() > 1 {
            let argument = |name: &&str| match &input[*name] {
                Value::Array(columns) if columns.len() > 1 => {
                    format!("[{}]", columns.iter().map(column).collect::<Vec<_>>().join(", "))
                }
                Value::Array(columns) => column(&columns[0]),
                name => column(name),
            };
            function.parameters.iter().map(argument).collect::<Vec<_>>().join(", ")
        } else if let Some(messages) = input.get("messages") {
            column(messages)
        } else if let Some(parts) = input.as_object() {
            let parts = parts.iter().map(|(key, name)| format!("{key}: {}", column(name)));
            format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
        } else {
            column(input)
        };
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let (model, options) = (quoted(model), quoted(&self.json["options"].to_string()));
        let name = function.name;
        json!({
            "sql": format!(
                "SELECT row_number, {name}({arguments}, {model}, options => {options}) AS result \
                 FROM input"
            )
        })
    }

    fn run_as(
        &self,
        step: fn(&Self, &str) -> Value,
        rows: &[Value],
        settings: &str,
    ) -> Result<Vec<Value>> {
        let fixture = Fixture::new();
        let mut lines = String::new();
        for (number, row) in rows.iter().enumerate() {
            let mut row = row.as_object().unwrap().clone();
            if let Some(Value::String(path)) = row.get_mut("image") {
                *path = self.dir.join(&*path).display().to_string();
            }
            row.insert("row_number".to_owned(), number.into());
            writeln!(lines, "{}", Value::Object(row)).unwrap();
        }
        let step = step(self, &self.model(&fixture).display().to_string());
        // JSON is YAML.
        let pipeline = json!({
            "version": 1,
            "source": {"path": "rows.jsonl"},
            "steps": [step],
            "sink": {"path": "out.jsonl"},
            "run": serde_json::from_str::<Value>(settings).unwrap(),
        });
        fixture.file("rows.jsonl", lines).file("pipeline.yaml", pipeline.to_string());
        let pipeline = config::load(&fixture.path("pipeline.yaml"), &LoadOptions::default())?;
        let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let job = Job::prepare(pipeline, JobOptions::default(), hub).await?;
            job.run(pending()).await
        })?;
        let written = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap();
        let rows: Vec<Value> =
            written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (number, row) in rows.iter().enumerate() {
            assert_eq!(row["row_number"], number, "{}", self.name);
        }
        Ok(rows.into_iter().map(|row| row.get("result").cloned().unwrap_or_default()).collect())
    }

    /// The expected value for a row.
    fn expected(&self, row: usize) -> Value {
        let mut expected = self.json["expected"][row].clone();
        let wants_logits = self.json["options"]["outputs"] == json!(["logits"]);
        if wants_logits && !expected.is_null() {
            let logits = self.json["logits"][row].clone();
            if expected.is_array() {
                let name =
                    if self.task() == "token-classification" { "entities" } else { "labels" };
                expected = json!({name: expected});
            }
            expected["logits"] = logits;
        }
        expected
    }
}

/// The first difference between two values, with its path.
fn difference(ours: &Value, expected: &Value, at: &str) -> Option<String> {
    let differ = || Some(format!("{at}: {ours} instead of {expected}"));
    match (ours, expected) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            let near = (a - b).abs() <= ABSOLUTE + RELATIVE * b.abs();
            if near { None } else { differ() }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(i, (a, b))| difference(a, b, &format!("{at}[{i}]")))
        }
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let (a, b) = (a.get(key), b.get(key));
                difference(
                    a.unwrap_or(&Value::Null),
                    b.unwrap_or(&Value::Null),
                    &format!("{at}.{key}"),
                )
            })
        }
        _ if ours == expected => None,
        _ => differ(),
    }
}

/// Removes the spans with probability 0 that pad a list of answers. There are too many, and the reference's choice
/// depends on the processor, through numpy's partition.
fn leave_out_impossible_answers(value: &mut Value) {
    if let Value::Array(answers) = value {
        let mut place = 0..;
        answers.retain(|answer| place.next() == Some(0) || answer["score"] != 0.0);
    }
}

fn check(case: &Case, problems: &mut Vec<String>) {
    let rows = case.json["rows"].as_array().unwrap();
    let reversed: Vec<Value> = rows.iter().rev().cloned().collect();
    for (how, rows, settings) in [
        ("batched", rows, r#"{"workers": 2}"#),
        ("alone", rows, r#"{"max_batch_tokens": 1, "workers": 1}"#),
        ("reversed", &reversed, r#"{"max_batch_tokens": 64, "sort_window_rows": 3}"#),
    ] {
        let values = match case.run(rows, settings) {
            Ok(values) => values,
            Err(error) => {
                problems.push(format!("{} {how}: {error}", case.name));
                return;
            }
        };
        assert_eq!(values.len(), rows.len(), "{}", case.name);
        for (row, mut value) in values.into_iter().enumerate() {
            let original = if how == "reversed" { rows.len() - 1 - row } else { row };
            let mut expected = case.expected(original);
            if case.task() == "question-answering" {
                leave_out_impossible_answers(&mut value);
                leave_out_impossible_answers(&mut expected);
            }
            if let Some(text) = difference(&value, &expected, "") {
                problems.push(format!("{} {how}, row {original} {text}", case.name));
                break;
            }
        }
    }
    // The function runs the same operator as the task: identical bits.
    let step = case.run(rows, "{}");
    match (step, case.run_as(Case::call, rows, "{}")) {
        (Ok(step), Ok(call)) if step == call => {}
        (Ok(_), Ok(_)) => problems.push(format!("{}: SQL gives another result", case.name)),
        (_, Err(error)) | (Err(error), _) => {
            problems.push(format!("{} in SQL: {error}", case.name));
        }
    }
    for refused in case.json["errors"].as_array().into_iter().flatten() {
        let error = refused["error"].as_str().unwrap();
        let here = |(task, part): &(&str, &str)| *task == case.task() && error.contains(part);
        if NOT_ERRORS_HERE.iter().any(here) {
            continue;
        }
        match case.run(std::slice::from_ref(&refused["row"]), "{}") {
            Ok(values) => {
                let value = &values[0];
                problems.push(format!("{}: {value} instead of an error: {error}", case.name));
            }
            // A failed row is detected as such, not by a failed tensor operation.
            Err(ours) if ours.kind() != ErrorKind::Data => {
                problems.push(format!("{}: no fault of the row's: {ours}", case.name));
            }
            Err(_) => {}
        }
    }
}

/// Checks the cases of one task.
fn check_task(task: &str) {
    let cases: Vec<Case> = Case::all().into_iter().filter(|case| case.task() == task).collect();
    assert!(!cases.is_empty(), "no case of {task}");
    let mut problems = Vec::new();
    for case in &cases {
        check(case, &mut problems);
    }
    let shown: Vec<&String> = problems.iter().take(40).collect();
    assert!(problems.is_empty(), "{} problems:\n{shown:#?}", problems.len());
}

/// One test per task.
macro_rules! tasks {
    ($($name:ident $id:literal,)*) => {
        $(
            #[test]
            fn $name() {
                check_task($id);
            }
        )*

        #[test]
        fn every_task_has_cases_that_are_compared() {
            let compared = BTreeSet::from([$($id),*]);
            let all = Case::all();
            for case in &all {
                assert!(compared.contains(case.task()), "{} is not compared", case.name);
            }
        }
    };
}

tasks! {
    chunk "chunk",
    fill_mask "fill-mask",
    image_classification "image-classification",
    image_feature_extraction "image-feature-extraction",
    loglikelihood "loglikelihood",
    multiple_choice "multiple-choice",
    next_sentence_prediction "next-sentence-prediction",
    question_answering "question-answering",
    rerank "rerank",
    sparse_encoding "sparse-encoding",
    summarization "summarization",
    text2text_generation "text2text-generation",
    text_classification "text-classification",
    text_generation "text-generation",
    token_classification "token-classification",
    token_count "token-count",
    translation "translation",
    zero_shot_classification "zero-shot-classification",
    zero_shot_image_classification "zero-shot-image-classification",
}

/// A case's files are where it says.
#[test]
fn cases_name_models_that_are_there() {
    for case in Case::all() {
        let model = case.dir.join(case.json["model"].as_str().unwrap());
        assert!(Path::new(&model).is_dir(), "{}: {}", case.name, model.display());
    }
}
