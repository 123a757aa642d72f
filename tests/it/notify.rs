//! What a run tells other systems, with a collector on a loopback port: each event is what OpenLineage 2-0-2 requires, and
//! nothing that is slow or away changes the run.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::DateTime;
use serde_json::{Map, Value, json};
use url::Url;

use super::hub::server::{Answer, Seen, Server};
use super::support::{Fixture, embed_pipeline, mini_embedder};

/// The path of events.
const EVENTS: &str = "/api/v1/lineage";

/// The facets that may appear: where, name, version and name of the schema, required keys.
const FACETS: [(&str, &str, &str, &str, &[&str]); 9] = [
    ("run", "nominalTime", "1-0-1", "NominalTimeRunFacet", &["nominalStartTime"]),
    ("run", "processing_engine", "1-1-1", "ProcessingEngineRunFacet", &["version"]),
    ("run", "errorMessage", "1-0-1", "ErrorMessageRunFacet", &["message", "programmingLanguage"]),
    ("job", "jobType", "2-0-4", "JobTypeJobFacet", &["processingType", "integration"]),
    ("job", "documentation", "1-1-0", "DocumentationJobFacet", &["description"]),
    ("dataset", "dataSource", "1-0-1", "DatasourceDatasetFacet", &[]),
    ("dataset", "schema", "1-2-0", "SchemaDatasetFacet", &[]),
    ("dataset", "columnLineage", "1-2-0", "ColumnLineageDatasetFacet", &["fields"]),
    ("output", "outputStatistics", "1-0-2", "OutputStatisticsOutputDatasetFacet", &[]),
];

/// A server that takes events and reports.
pub(super) struct Collector(Server);

impl Collector {
    pub(super) fn start() -> Self {
        Self::answering(|_, _| Answer::new(201, ""))
    }

    /// Answers by the number of the request, from 0.
    fn answering(answer: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static) -> Self {
        let number = AtomicUsize::new(0);
        Self(Server::start(move |seen| answer(seen, number.fetch_add(1, Ordering::SeqCst))))
    }

    pub(super) fn url(&self) -> String {
        self.0.url()
    }

    /// The events since the last call, each of them valid, and the other requests.
    pub(super) fn take(&self) -> (Vec<Value>, Vec<Seen>) {
        let seen = self.0.seen();
        let (events, others): (Vec<Seen>, Vec<Seen>) =
            seen.into_iter().partition(|seen| seen.path.contains("lineage"));
        let event = |seen: &Seen| {
            assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", EVENTS));
            assert_eq!(seen.headers["content-type"], "application/json");
            let event: Value = serde_json::from_slice(&seen.body).unwrap();
            check_event(&event);
            // For a check against the published schema.
            if let Ok(folder) = std::env::var("HFAUTO_KEEP_EVENTS") {
                let name = blake3::hash(&seen.body).to_hex();
                fs::write(format!("{folder}/{name}.json"), &seen.body).unwrap();
            }
            event
        };
        (events.iter().map(event).collect(), others)
    }

    fn events(&self) -> Vec<Value> {
        let (events, others) = self.take();
        assert!(others.is_empty(), "{others:?}");
        events
    }
}

fn keys(object: &Map<String, Value>) -> BTreeSet<&str> {
    object.keys().map(String::as_str).collect()
}

#[track_caller]
fn assert_keys(value: &Value, required: &[&str], optional: &[&str]) {
    let found = keys(value.as_object().unwrap());
    let all: BTreeSet<&str> = required.iter().chain(optional).copied().collect();
    assert!(required.iter().all(|key| found.contains(key)), "{value:#}");
    assert!(found.is_subset(&all), "{value:#}");
}

#[track_caller]
fn assert_time(value: &Value) {
    DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
}

#[track_caller]
fn assert_uri(value: &Value) {
    let text = value.as_str().unwrap();
    Url::parse(text).unwrap();
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}<>\"\\^`|".contains(&byte)));
}

/// Checks an event against the requirements of the published schema.
fn check_event(event: &Value) {
    let required =
        ["eventType", "eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"];
    assert_keys(event, &required, &[]);
    assert_time(&event["eventTime"]);
    assert_uri(&event["producer"]);
    let schema = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
    assert_eq!(event["schemaURL"], schema);
    let kind = event["eventType"].as_str().unwrap();
    assert!(["START", "COMPLETE", "FAIL", "ABORT"].contains(&kind), "{kind}");
    assert_keys(&event["run"], &["runId", "facets"], &[]);
    let id = event["run"]["runId"].as_str().unwrap();
    let form = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        14 => c == '7',
        _ => c.is_ascii_hexdigit() && !c.is_ascii_uppercase(),
    };
    assert!(id.len() == 36 && id.chars().enumerate().all(form), "{id}");
    assert_keys(&event["job"], &["namespace", "name", "facets"], &[]);
    assert!(event["job"]["namespace"].is_string() && event["job"]["name"].is_string());
    check_facets(event, "run", &event["run"]["facets"]);
    check_facets(event, "job", &event["job"]["facets"]);
    let datasets = |key: &str| event[key].as_array().unwrap().iter();
    for dataset in datasets("inputs").chain(datasets("outputs")) {
        assert_keys(dataset, &["namespace", "name", "facets"], &["outputFacets"]);
        assert!(dataset["namespace"].is_string() && dataset["name"].is_string());
        check_facets(event, "dataset", &dataset["facets"]);
    }
    for output in datasets("outputs") {
        if let Some(facets) = output.get("outputFacets") {
            check_facets(event, "output", facets);
        }
    }
}

fn check_facets(event: &Value, place: &str, facets: &Value) {
    for (name, facet) in facets.as_object().unwrap() {
        let known = FACETS.iter().find(|(at, known, ..)| at == &place && known == name);
        let (_, _, version, schema, required) = known.unwrap_or_else(|| panic!("{name}"));
        assert_uri(&facet["_producer"]);
        let url = format!("https://openlineage.io/spec/facets/{version}/{schema}.json");
        assert_eq!(facet["_schemaURL"], format!("{url}#/$defs/{schema}"));
        for key in *required {
            assert!(!facet[*key].is_null(), "{facet:#}");
        }
        match name.as_str() {
            "nominalTime" => assert_time(&facet["nominalStartTime"]),
            "processing_engine" => assert!(facet["version"].is_string()),
            "errorMessage" => assert!(facet["message"].is_string()),
            "jobType" => assert_eq!(facet["processingType"], "BATCH"),
            "documentation" => assert!(facet["description"].is_string()),
            "dataSource" => assert_uri(&facet["uri"]),
            "schema" => facet["fields"].as_array().unwrap().iter().for_each(check_field),
            "columnLineage" => check_lineage(event, facet),
            _ => {
                for key in ["rowCount", "size", "fileCount"] {
                    assert!(facet[key].is_u64(), "{facet:#}");
                }
            }
        }
    }
}

fn check_field(field: &Value) {
    assert_keys(field, &["name", "type"], &["fields"]);
    assert!(field["name"].is_string() && field["type"].is_string());
    field
        .get("fields")
        .into_iter()
        .flat_map(|fields| fields.as_array().unwrap())
        .for_each(check_field);
}

fn check_lineage(event: &Value, facet: &Value) {
    for (_, column) in facet["fields"].as_object().unwrap() {
        for field in column["inputFields"].as_array().unwrap() {
            assert_keys(field, &["namespace", "name", "field", "transformations"], &[]);
            let mut inputs = event["inputs"].as_array().unwrap().iter();
            let is_input =
                |input: &Value| ["namespace", "name"].iter().all(|key| input[key] == field[key]);
            assert!(inputs.any(is_input), "{field:#}");
            let transformation = &field["transformations"][0];
            assert_eq!(transformation["type"], "DIRECT");
            assert!(transformation["subtype"].is_string());
        }
    }
}

/// Three input files, so three units, and a pipeline with these keys of `run`.
fn units(run: &str) -> Fixture {
    let fixture = Fixture::new();
    for file in 0..3 {
        fixture.file(&format!("in/{file}.csv"), format!("id,text\n{file},row of file {file}\n"));
    }
    fixture.file("embed.yaml", pipeline("in/*.csv", run));
    fixture
}

fn pipeline(source: &str, run: &str) -> String {
    embed_pipeline(&mini_embedder(), source, "out/", &format!("run: {{{run}}}"))
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["eventType"].as_str().unwrap()).collect()
}

fn run_id(event: &Value) -> &str {
    event["run"]["runId"].as_str().unwrap()
}

fn report(fixture: &Fixture, name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture.path(name)).unwrap()).unwrap()
}

fn signal(child: &Child, name: &str) {
    Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
}

/// Waits until `is_so` is true.
#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "it never came to it");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_run_sends_when_it_begins_and_what_it_published() {
    let collector = Collector::start();
    let url = collector.url();
    let run = format!(
        "openlineage: {{url: '{url}', namespace: tests}}, on_failure: '{url}/bad', \
         on_success: {{url: '{url}/good?x=1', headers: {{X-Team: search}}}}"
    );
    let fixture = units(&run);
    // Nothing is told about runs that write nothing.
    let plan = fixture.run(&["plan", "embed.yaml"]);
    let expected =
        format!("lineage   to {url}, namespace tests\non_failure to {url}\non_success to {url}\n");
    assert!(plan.succeeds().stdout.ends_with(&expected), "{}", plan.stdout);
    for args in [&["run", "embed.yaml", "--dry-run"][..], &["validate", "embed.yaml"]] {
        fixture.run(args).succeeds();
    }
    assert!(collector.0.seen().is_empty());

    let variables = [("OPENLINEAGE_API_KEY", "t0ken-of-the-collector")];
    let ran = fixture
        .run_with(&["run", "embed.yaml", "--report", "r.json", "--progress", "none"], &variables);
    assert_eq!(ran.succeeds().stderr, "");
    let seen = collector.0.seen();
    let token = "Bearer t0ken-of-the-collector";
    let tokens: Vec<_> = seen.iter().map(|seen| seen.headers.get("authorization")).collect();
    assert_eq!(tokens.iter().filter(|found| found.is_some_and(|found| found == token)).count(), 2);
    let posted = seen.iter().find(|seen| seen.path == "/good?x=1").unwrap();
    assert_eq!((posted.headers["x-team"].as_str(), posted.method.as_str()), ("search", "POST"));
    assert_eq!(posted.headers.get("authorization"), None);
    assert_eq!(posted.body, fs::read(fixture.path("r.json")).unwrap());
    assert_eq!(posted.body, fs::read(fixture.path("out/_hfauto/report.json")).unwrap());

    // Again, for the events.
    fixture.run(&["run", "embed.yaml", "--fresh", "--report", "r.json"]).succeeds();
    let (events, others) = collector.take();
    assert_eq!((kinds(&events), others.len()), (vec!["START", "COMPLETE"], 1));
    let [start, complete] = &events[..] else { panic!("{events:?}") };
    assert_eq!(start["run"]["runId"], complete["run"]["runId"]);
    let report = report(&fixture, "r.json");
    assert_eq!(
        (run_id(start), &report["undelivered"]),
        (report["run_id"].as_str().unwrap(), &Value::Null)
    );
    assert_eq!(
        (&start["eventTime"], &complete["eventTime"]),
        (&report["started_at"], &report["ended_at"])
    );
    for event in &events {
        let job = &event["job"];
        assert_eq!((&job["namespace"], &job["name"]), (&"tests".into(), &"embed".into()));
        let description = &job["facets"]["documentation"]["description"];
        assert!(
            description.as_str().unwrap().starts_with("feature-extraction: /"),
            "{description}"
        );
        let (input, output) = (&event["inputs"][0], &event["outputs"][0]);
        assert_eq!((&input["namespace"], &output["namespace"]), (&"file".into(), &"file".into()));
        assert_eq!(input["name"], fixture.path("in").to_str().unwrap());
        assert_eq!(output["name"], fixture.path("out").to_str().unwrap());
    }
    let fields = |facets: &Value| facets["schema"]["fields"].clone();
    assert_eq!(
        fields(&complete["inputs"][0]["facets"]),
        json!([{"name": "id", "type": "Int64"}, {"name": "text", "type": "Utf8"}])
    );
    let output = &complete["outputs"][0];
    let embedding = &fields(&output["facets"])[2];
    assert_eq!(embedding["name"], "embedding");
    assert!(embedding["type"].as_str().unwrap().starts_with("FixedSizeList(160"), "{embedding}");
    let lineage = &output["facets"]["columnLineage"]["fields"];
    let origin = |column: &str| &lineage[column]["inputFields"][0];
    assert_eq!(origin("id")["transformations"], json!([{"type": "DIRECT", "subtype": "IDENTITY"}]));
    assert_eq!(origin("embedding")["field"], "text");
    assert_eq!(origin("embedding")["transformations"][0]["subtype"], "TRANSFORMATION");
    let files = report["run"]["output"].as_array().unwrap();
    let bytes: u64 = files.iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
    let statistics = &output["outputFacets"]["outputStatistics"];
    let found = ["rowCount", "size", "fileCount"].map(|key| statistics[key].as_u64().unwrap());
    assert_eq!(found, [3, bytes, files.len() as u64]);
}

/// Columns of `sql` steps may come from any column, and nested columns have fields.
#[test]
fn the_columns_of_sql_steps_have_types_and_no_origin() {
    let collector = Collector::start();
    let fixture = Fixture::new();
    let url = collector.url();
    fixture.file("in.csv", "id,text\n1,a\n").file("in2.csv", "id,text\n2,b\n").file(
        "p.yaml",
        format!(
            "version: 1\nname: nested\nsource: {{path: [in.csv, in2.csv]}}\nsteps:\n\
             - sql: SELECT id, struct(text AS word) AS part FROM input\nsink: {{path: out.jsonl}}\n\
             run: {{openlineage: {{url: '{url}/'}}}}\n"
        )
        .replace("struct(text AS word)", "named_struct('word', text)"),
    );
    fixture.run(&["run", "p.yaml"]).succeeds();
    let events = collector.events();
    let complete = &events[1];
    assert_eq!(complete["job"]["namespace"], "default");
    assert_eq!(complete["inputs"].as_array().unwrap().len(), 2);
    let output = &complete["outputs"][0];
    assert_eq!(output["name"], fixture.path("out.jsonl").to_str().unwrap());
    assert_eq!(output["facets"]["columnLineage"], Value::Null);
    let part = &output["facets"]["schema"]["fields"][1];
    assert!(part["type"].as_str().unwrap().starts_with("Struct("), "{part}");
    assert_eq!(part["fields"], json!([{"name": "word", "type": "Utf8"}]));
}

#[test]
fn a_run_that_fails_sends_why() {
    let collector = Collector::start();
    let url = collector.url();
    let run =
        format!("openlineage: {{url: '{url}'}}, on_failure: '{url}/bad', on_success: '{url}/good'");
    let fixture = units(&run);
    fs::remove_dir_all(fixture.path("in")).unwrap();
    fixture.run(&["run", "embed.yaml", "--report", "r.json"]).fails(66, &[]);
    let (events, others) = collector.take();
    assert_eq!(kinds(&events), ["START", "FAIL"]);
    let report = report(&fixture, "r.json");
    let message = &events[1]["run"]["facets"]["errorMessage"]["message"];
    assert_eq!(*message, report["error"]["text"]);
    let [posted] = &others[..] else { panic!("{others:?}") };
    assert_eq!(posted.path, "/bad");
    assert_eq!(serde_json::from_slice::<Value>(&posted.body).unwrap(), report);
    assert_eq!((&report["status"], &report["exit_code"]), (&"failed".into(), &66.into()));
    // A file that cannot be read has no hooks.
    fixture.file("embed.yaml", pipeline("in/*.csv", &format!("{run}, no_such_key: 1")));
    fixture.run(&["run", "embed.yaml"]).fails(78, &["unknown key `no_such_key`"]);
    assert!(collector.0.seen().is_empty());
}

#[test]
fn a_run_that_is_stopped_aborts() {
    let collector = Collector::start();
    let url = collector.url();
    let run = format!("openlineage: {{url: '{url}'}}, on_failure: '{url}/bad'");
    // The first shuts down; the second cannot, and a second signal ends it.
    for (place, signals, code) in
        [("hold", &["INT"][..], 130), ("spin", &["TERM", "TERM"][..], 143)]
    {
        let fixture = units(&run);
        let mut child = fixture
            .command(&["run", "embed.yaml", "--report", "r.json", "--progress", "none"])
            .env("HFAUTO_FAILPOINT", format!("unit.committed:2:{place}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let done = fixture.path("out/_hfauto/units");
        until(|| fs::read_dir(&done).is_ok_and(|units| units.count() >= 2));
        for name in signals {
            signal(&child, name);
            std::thread::sleep(Duration::from_millis(500));
        }
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let (events, others) = collector.take();
        assert_eq!(kinds(&events), ["START", "ABORT"], "{place}");
        let posted: Value = serde_json::from_slice(&others[0].body).unwrap();
        assert_eq!(
            (&posted["status"], &posted["exit_code"]),
            (&"interrupted".into(), &code.into())
        );
        // The same command is another run.
        let ran = fixture.run(&["run", "embed.yaml"]);
        assert!(ran.succeeds().stdout.contains("done before"), "{}", ran.stdout);
        let (again, _) = collector.take();
        assert_eq!(kinds(&again), ["START", "COMPLETE"]);
        assert_ne!(run_id(&again[0]), run_id(&events[0]));
        // The statistics are those of the output, also of the units that the first run wrote.
        let statistics = &again[1]["outputs"][0]["outputFacets"]["outputStatistics"];
        assert_eq!(statistics["rowCount"], 3);
    }
}

#[test]
fn what_is_not_delivered_is_said_and_changes_nothing() {
    let gone = Collector::start().url();
    let run = format!("openlineage: {{url: '{gone}'}}, on_success: '{gone}/secret-path'");
    let fixture = units(&run);
    let start = Instant::now();
    let ran = fixture.run(&["run", "embed.yaml", "--report", "r.json"]);
    assert!(start.elapsed() < Duration::from_secs(30));
    ran.succeeds();
    let report = report(&fixture, "r.json");
    let undelivered: Vec<&str> = report["undelivered"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    assert_eq!((report["status"].as_str(), undelivered.len()), (Some("done"), 3));
    for what in ["the event START", "the event COMPLETE", "the report of `on_success`"] {
        let message = format!("{what} was not delivered to {gone}: it cannot be reached");
        assert!(undelivered.iter().any(|text| text.starts_with(&message)), "{undelivered:?}");
        assert!(ran.stderr.contains(&message), "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("secret-path"), "{}", ran.stderr);
    assert_eq!(self::report(&fixture, "out/_hfauto/report.json"), report);
    let page = fixture.run(&["report", "r.json", "-o", "-"]);
    assert!(page.succeeds().stdout.contains("the event START was not delivered"));
}

#[test]
fn a_collector_that_is_slow_or_refuses_costs_seconds_at_most() {
    // Slow: no answer before the time is over.
    let slow = Collector::answering(|_, _| Answer {
        delay: Duration::from_mins(1),
        ..Answer::new(201, "")
    });
    let fixture = units(&format!("openlineage: {{url: '{}'}}", slow.url()));
    let start = Instant::now();
    let ran = fixture.run(&["run", "embed.yaml", "--report", "r.json"]);
    let elapsed = start.elapsed();
    assert!(
        ran.succeeds().stderr.contains("the event COMPLETE was not delivered"),
        "{}",
        ran.stderr
    );
    assert!(elapsed < Duration::from_secs(40), "{elapsed:?}");
    assert_eq!(report(&fixture, "r.json")["undelivered"].as_array().unwrap().len(), 2);

    // An error that passes.
    let busy =
        Collector::answering(|_, number| Answer::new(if number % 2 == 0 { 503 } else { 200 }, ""));
    let fixture = units(&format!("openlineage: {{url: '{}'}}", busy.url()));
    let ran = fixture.run(&["run", "embed.yaml", "--progress", "none"]);
    assert_eq!(ran.succeeds().stderr, "");
    assert_eq!(kinds(&busy.events()), ["START", "START", "COMPLETE", "COMPLETE"]);

    // Errors that do not pass: no second attempt, and nothing for the address that it names.
    let other = Collector::start();
    let elsewhere = other.url();
    for (status, why) in [(401, "it answered 401 Unauthorized"), (307, "it answered 307 Temporary")]
    {
        let elsewhere = elsewhere.clone();
        let refusing = Collector::answering(move |_, _| {
            Answer::new(status, "no").header("Location", format!("{elsewhere}{EVENTS}"))
        });
        let fixture =
            units(&format!("openlineage: {{url: '{}', api_key: abcdefgh}}", refusing.url()));
        let ran = fixture.run(&["run", "embed.yaml"]);
        assert!(ran.succeeds().stderr.contains(why), "{}", ran.stderr);
        assert_eq!(kinds(&refusing.events()), ["START", "COMPLETE"]);
    }
    assert!(other.0.seen().is_empty());
}

#[test]
fn no_secret_is_sent_but_to_its_address() {
    let collector = Collector::start();
    let address = collector.url().replace("http://", "");
    let password = "hunter2-and-more";
    let run = format!(
        "openlineage: {{url: 'http://${{TOK}}@{address}', namespace: '${{SPACE}}', api_key: literal-key-1}}, \
         on_failure: {{url: 'http://{address}/${{TOK}}', headers: {{Authorization: Bearer literal-key-2}}}}, \
         on_success: {{url: 'http://jane:trampoline@{address}/good', headers: {{X-Api-Key: '${{TOK}}'}}}}"
    );
    let fixture = units(&run);
    fs::rename(fixture.path("in"), fixture.path(password)).unwrap();
    let text = pipeline("${TOK}/*.csv", &run) + "name: of ${TOK}\n";
    fixture.file("embed.yaml", &text);
    fixture.file("fails.yaml", text.replace("/*.csv", "/${TOK}.csv").replace("out/", "bad/"));
    for (file, is_done) in [("embed.yaml", true), ("fails.yaml", false)] {
        let mut command = fixture.command(&["run", file, "--report", "r.json"]);
        command.env("TOK", password).env("SPACE", "production");
        let ran = fixture.ran(command.output().unwrap());
        assert_eq!(ran.code == 0, is_done, "{}", ran.stderr);
        let seen = collector.0.seen();
        let header = |path: &str, name: &str| {
            let posted = seen.iter().find(|seen| seen.path.starts_with(path)).unwrap();
            posted.headers[name].clone()
        };
        assert_eq!(header(EVENTS, "authorization"), "Bearer literal-key-1");
        if is_done {
            assert_eq!(header("/good", "x-api-key"), password);
            assert_eq!(header("/good", "authorization"), "Basic amFuZTp0cmFtcG9saW5l");
        } else {
            assert_eq!(header(&format!("/{password}"), "authorization"), "Bearer literal-key-2");
        }
        let mut texts = vec![ran.stdout, ran.stderr];
        texts.push(fs::read_to_string(fixture.path("r.json")).unwrap());
        for posted in &seen {
            let body = String::from_utf8(posted.body.clone()).unwrap();
            if posted.path == EVENTS {
                let event: Value = serde_json::from_str(&body).unwrap();
                check_event(&event);
                // The namespace is for the collector, whatever it comes from.
                assert_eq!(event["job"]["namespace"], "production");
                assert_eq!(event["job"]["name"], "of ${TOK}");
                let name = event["inputs"][0]["name"].as_str().unwrap();
                assert!(name.contains("/${TOK}"), "{name}");
            }
            texts.push(body);
        }
        for text in texts {
            for secret in [password, "literal-key", "trampoline", "amFuZT"] {
                assert!(!text.contains(secret), "`{secret}` in:\n{text}");
            }
        }
    }
    for command in ["plan", "validate"] {
        let mut command = fixture.command(&[command, "embed.yaml"]);
        command.env("TOK", password).env("SPACE", "production");
        let ran = fixture.ran(command.output().unwrap());
        let text = ran.succeeds().stdout.clone() + &ran.stderr;
        assert!(!text.contains(password) && !text.contains("trampoline"), "{text}");
    }
}

#[test]
fn a_schedule_says_when_a_run_was_due_and_stands_in_for_one_that_died() {
    let collector = Collector::start();
    let url = collector.url();
    let run = format!("openlineage: {{url: '{url}'}}, on_failure: '{url}/bad'");
    let fixture = units("");
    let text = pipeline("../in/*.csv", &run).replace("'out/'", "'../out/'");
    fixture.file("pipes/embed.yaml", text + "schedule: {cron: 0 3 * * *}\n");
    let due = ["run", "--due", "pipes", "--progress", "none"];
    fixture.run_with(&due, &[("HFAUTO_NOW", "2026-03-02T10:00:00Z")]).succeeds();
    assert!(collector.0.seen().is_empty());
    let killed = [("HFAUTO_NOW", "2026-03-03T03:00:01Z"), ("HFAUTO_FAILPOINT", "unit.committed:2")];
    fixture.run_with(&due, &killed).fails(75, &["the run was killed by SIGKILL (9)"]);
    let (events, others) = collector.take();
    assert_eq!(kinds(&events), ["START", "FAIL"]);
    assert_eq!(run_id(&events[0]), run_id(&events[1]));
    let message = &events[1]["run"]["facets"]["errorMessage"]["message"];
    assert!(message.as_str().unwrap().contains("SIGKILL"), "{message}");
    let posted: Value = serde_json::from_slice(&others[0].body).unwrap();
    assert_eq!(posted["run_id"], events[0]["run"]["runId"]);
    fixture.run_with(&due, &[("HFAUTO_NOW", "2026-03-04T03:00:01Z")]).succeeds();
    let again = collector.events();
    assert_eq!(kinds(&again), ["START", "COMPLETE"]);
    for (events, time) in [(&events, "2026-03-03T03:00:00Z"), (&again, "2026-03-04T03:00:00Z")] {
        for event in events {
            assert_eq!(event["run"]["facets"]["nominalTime"]["nominalStartTime"], time);
        }
    }
}

/// Each joined process is a run of the same job.
#[test]
fn joined_processes_send_their_runs() {
    let collector = Collector::start();
    let fixture = units(&format!("openlineage: {{url: '{}'}}", collector.url()));
    let join = || {
        let mut command = fixture.command(&["run", "--join", "embed.yaml", "--progress", "none"]);
        command.env("HFAUTO_LOCK_SECONDS", "2").stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    for mut process in [join(), join()] {
        assert!(process.wait().unwrap().success());
    }
    let events = collector.events();
    let ids: BTreeSet<&str> = events.iter().map(run_id).collect();
    assert_eq!((events.len(), ids.len()), (4, 2));
    for id in ids {
        let own: Vec<Value> = events.iter().filter(|event| run_id(event) == id).cloned().collect();
        assert_eq!(kinds(&own), ["START", "COMPLETE"]);
    }
}
