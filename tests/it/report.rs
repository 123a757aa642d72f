//! The operator's view of a run: metrics, logs, the report, and its page in a real browser.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hfauto_pipe::report::{Kept, Report, page, prometheus};
use serde_json::Value;

use super::prometheus::Metrics;
use super::support::{Fixture, embed_pipeline, mini_embedder, repository, skip};

/// A name that would break every format without escaping.
const HOSTILE: &str = "a\"b\\c\nd<script>document.title='run'</script>&{}";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Six files of twenty rows, one unit each.
fn units(more: &str) -> Fixture {
    let fixture = Fixture::new();
    for file in 0..6 {
        let rows = (0..20).map(|row| format!("{row},boats {}\n", "and bread ".repeat(row * file)));
        fixture.file(&format!("in/{file}.csv"), format!("id,text\n{}", rows.collect::<String>()));
    }
    fixture.file("embed.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", more));
    fixture
}

fn read_metrics(fixture: &Fixture, name: &str) -> Metrics {
    Metrics::parse(&fs::read_to_string(fixture.path(name)).unwrap())
}

/// Texts for a masked model, in units. In every file, one row is too long, one has no mask, and one has two.
fn fill_mask(name: &str) -> Fixture {
    let fixture = Fixture::new();
    for file in 0..3 {
        let csv = format!(
            "id,text\n1,The [MASK] was quiet {file}.\n2,{}[MASK]\n3,no mask {file}\n4,[MASK] and [MASK] {file}\n",
            "much ".repeat(60 + file)
        );
        fixture.file(&format!("in/{file}.csv"), csv);
    }
    let model = repository().join("tests/golden/tasks/bert-mlm");
    fixture.file(
        "fill.yaml",
        format!(
            "version: 1\nname: {name}\nsource: {{path: 'in/*.csv'}}\nsteps:\n\
             - fill-mask: {{model: '{}', input: text, output: words, max_length: 20, truncation: false}}\n\
             sink: {{path: out/}}\non_error: {{rows: null}}\n",
            model.display()
        ),
    );
    fixture
}

#[test]
fn metrics_tell_a_run_from_its_start_to_its_end() {
    let fixture = units("");
    let mut child = fixture
        .command(&["run", "embed.yaml", "--metrics-file", "run.prom", "--progress", "none"])
        // Holds the run for ten seconds at its third unit.
        .env("HFAUTO_FAILPOINT", "unit.committed:3:hold")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_mins(2), "{seen:?}");
        // At any time the file is complete, and no other file is beside it.
        if let Ok(text) = fs::read_to_string(fixture.path("run.prom")) {
            let metrics = Metrics::parse(&text);
            assert_eq!(metrics.value("hfauto_pipe_last_run_success", &[]).is_some(), {
                metrics.value("hfauto_pipe_run_running", &[]) == Some(0.0)
            });
            let done = metrics.value("hfauto_pipe_units", &[("state", "computed")]);
            seen.insert(done.unwrap_or(-1.0) as i64);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(child.wait().unwrap().success());
    assert!(seen.iter().any(|done| (1..6).contains(done)), "{seen:?}");
    assert_eq!(fixture.files("").iter().filter(|name| name.contains(".prom")).count(), 1);

    let metrics = read_metrics(&fixture, "run.prom");
    assert_eq!(metrics.pipelines(), BTreeSet::from(["embed".to_owned()]));
    let value = |name: &str, labels: &[(&str, &str)]| {
        metrics.value(&format!("hfauto_pipe_{name}"), labels).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!((value("run_running", &[]), value("last_run_success", &[])), (0.0, 1.0));
    assert_eq!((value("rows_total", &[]), value("rows_expected", &[])), (120.0, 120.0));
    assert_eq!(value("units", &[("state", "computed")]), 6.0);
    assert_eq!(
        (value("units", &[("state", "open")]), value("units", &[("state", "skipped")])),
        (0.0, 0.0)
    );
    let step = ("step", "embedding");
    assert_eq!(value("step_rows_total", &[step]), 120.0);
    assert_eq!(value("step_row_tokens_count", &[step]), 120.0);
    assert_eq!(value("step_row_tokens_sum", &[step]), value("step_tokens_total", &[step]));
    assert!(value("step_batches_total", &[step]) >= 1.0);
    assert!((0.0..1.0).contains(&value("step_padding_ratio", &[step])));
    assert!(value("step_seconds_total", &[step, ("stage", "model")]) > 0.0);
    assert!(value("run_stage_seconds", &[("stage", "run")]) > 0.0);
    assert!(value("memory_peak_bytes", &[]) > 1e6);
    let (end, success) = (
        value("last_run_end_timestamp_seconds", &[]),
        value("last_success_timestamp_seconds", &[]),
    );
    assert_eq!(end, success);
    assert!(end > value("run_start_timestamp_seconds", &[]) && end > 1.7e9);
}

/// A killed run cannot report its end. The time of the last update shows it, and the next run reports it.
#[test]
fn metrics_of_a_run_that_was_killed_grow_old() {
    let fixture = units("");
    let run = ["run", "embed.yaml", "--metrics-file", "run.prom", "--progress", "none"];
    let killed =
        fixture.command(&run).env("HFAUTO_FAILPOINT", "unit.committed:2").output().unwrap();
    assert_eq!(killed.status.code(), None);
    let dead = read_metrics(&fixture, "run.prom");
    let written = |metrics: &Metrics| {
        metrics.value("hfauto_pipe_last_update_timestamp_seconds", &[]).unwrap()
    };
    assert_eq!(dead.value("hfauto_pipe_run_running", &[]), Some(1.0));
    fixture.run(&run).succeeds();
    let metrics = read_metrics(&fixture, "run.prom");
    assert_eq!(metrics.value("hfauto_pipe_run_running", &[]), Some(0.0));
    assert!(written(&metrics) > written(&dead));
    let end = metrics.value("hfauto_pipe_last_run_end_timestamp_seconds", &[]).unwrap();
    assert!(written(&metrics) >= end && written(&metrics) < end + 60.0);
}

#[test]
fn a_failed_run_keeps_the_time_of_the_last_success() {
    let fixture = units("");
    let run = ["run", "embed.yaml", "--metrics-file", "run.prom", "--report", "report.json"];
    fixture.run(&run).succeeds();
    let success = "hfauto_pipe_last_success_timestamp_seconds";
    let first = read_metrics(&fixture, "run.prom").value(success, &[]).unwrap();
    std::thread::sleep(Duration::from_millis(20));

    // An error in the rows, in the pipeline file, and in between.
    fixture.file("in/3.csv", "id,text\n1,a,b\n");
    let good = fs::read_to_string(fixture.path("embed.yaml")).unwrap();
    for (pipeline, code, kind) in
        [(good.clone(), 65, "data"), ("version: 1\n".to_owned(), 78, "config")]
    {
        fixture.file("embed.yaml", pipeline);
        fixture.run(&[&run[..], &["--fresh"]].concat()).fails(code, &[]);
        let metrics = read_metrics(&fixture, "run.prom");
        assert_eq!(metrics.pipelines(), BTreeSet::from(["embed".to_owned()]));
        assert_eq!(metrics.value("hfauto_pipe_last_run_success", &[]), Some(0.0));
        assert_eq!(metrics.value("hfauto_pipe_last_run_exit_code", &[]), Some(f64::from(code)));
        assert_eq!(metrics.value(success, &[]), Some(first));
        assert!(metrics.value("hfauto_pipe_last_run_end_timestamp_seconds", &[]).unwrap() > first);
        let report = json(&fixture.path("report.json"));
        assert_eq!((&report["status"], &report["exit_code"]), (&"failed".into(), &code.into()));
        assert_eq!(report["error"]["kind"], kind);
        assert_eq!(report["version"], 1);
    }
    fixture.file("embed.yaml", good).file("in/3.csv", "id,text\n1,a\n");
    fixture.run(&[&run[..], &["--fresh"]].concat()).succeeds();
    assert!(read_metrics(&fixture, "run.prom").value(success, &[]).unwrap() > first);
    // An unwritable file is reported before the work.
    let run = ["run", "embed.yaml", "--metrics-file", "no/run.prom", "--fresh"];
    fixture.run(&run).fails(73, &["cannot write the metrics file `no/run.prom`"]);
}

#[test]
fn names_are_escaped_in_metrics() {
    let fixture = fill_mask(&serde_json::to_string(HOSTILE).unwrap());
    for _ in 0..2 {
        fixture.run(&["run", "fill.yaml", "--metrics-file", "run.prom", "--fresh"]).succeeds();
        let text = fs::read_to_string(fixture.path("run.prom")).unwrap();
        assert_eq!(Metrics::parse(&text).pipelines(), BTreeSet::from([HOSTILE.to_owned()]));
        assert_eq!(Kept::pipeline(&text).as_deref(), Some(HOSTILE));
        assert_eq!(Kept::of(&text, HOSTILE).success, Some(1.0));
        assert_eq!(Kept::of(&text, "another"), Kept::default());
    }
}

#[test]
fn row_errors_have_their_kinds_everywhere() {
    let fixture = fill_mask("masks");
    let run = ["run", "fill.yaml", "--metrics-file", "run.prom", "--report", "report.json"];
    let shown = fixture.run(&run).succeeds().stdout.clone();
    let report = json(&fixture.path("report.json"));
    let errors = report["run"]["steps"][0]["errors"].as_array().unwrap().clone();
    let metrics = read_metrics(&fixture, "run.prom");
    let total = "hfauto_pipe_row_errors_total";
    for (kind, message) in [
        ("too_long", "tokens, expected at most 20"),
        ("missing_mask", "text without the mask token `[MASK]`"),
        ("several_masks", "text with 2 mask tokens"),
    ] {
        let found = errors.iter().find(|error| error["kind"] == kind).unwrap();
        assert_eq!(found["rows"], 3, "{found}");
        assert!(found["examples"][0].as_str().unwrap().contains(message), "{found}");
        assert_eq!(metrics.value(total, &[("step", "words"), ("kind", kind)]), Some(3.0));
        assert!(shown.contains(&format!("words: 3 {kind}: ")), "{shown}");
    }
    assert_eq!(metrics.labels(total, "kind").len(), 3);
    assert_eq!(report["run"]["row_errors"]["failed"], 9);
    let page = page(&Report::from_json(&report.to_string()).unwrap()).unwrap();
    assert!(page.contains("<code>several_masks</code>"), "{page}");

    let text = fs::read_to_string(fixture.path("fill.yaml")).unwrap();
    fixture.file("fill.yaml", text.replace("on_error: {rows: null}", ""));
    fixture.run(&[&run[..], &["--fresh"]].concat()).fails(65, &[]);
    let kind = json(&fixture.path("report.json"))["error"]["row_error"].clone();
    assert!(
        ["too_long", "missing_mask", "several_masks"].iter().any(|word| kind == *word),
        "{kind}"
    );
}

#[test]
fn a_report_is_written_however_a_run_ends() {
    let fixture = units("");
    let run = ["run", "embed.yaml", "--report", "report.json", "--progress", "none"];
    let mut child = fixture
        .command(&run)
        .env("HFAUTO_FAILPOINT", "unit.committed:3:hold")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let units = fixture.path("out/_hfauto/units");
    let start = Instant::now();
    while !fs::read_dir(&units).is_ok_and(|units| units.count() >= 3) {
        assert!(start.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(1100));
    // Another process reads the progress from disk.
    let status = fixture.run(&["status", "embed.yaml", "--json"]);
    let status: Value = serde_json::from_str(&status.succeeds().stdout).unwrap();
    assert_eq!((&status["state"], &status["units"]), (&"unfinished".into(), &6.into()));
    assert!(status["done"].as_u64().unwrap() >= 3, "{status}");
    assert!(status["rows_per_second"].as_f64().unwrap() > 0.0, "{status}");
    assert!(status["seconds_left"].as_f64().unwrap() > 0.0, "{status}");
    let shown = fixture.run(&["status", "embed.yaml"]).succeeds().stdout.clone();
    assert!(shown.contains(" rows/s, ETA 0:"), "{shown}");
    Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report = json(&fixture.path("report.json"));
    assert_eq!((&report["status"], &report["exit_code"]), (&"interrupted".into(), &130.into()));
    assert_eq!(report["error"]["message"], "stopped by a signal");
    let done = report["run"]["units"]["computed"].as_u64().unwrap();
    assert!((2..6).contains(&done), "{report}");
    assert_eq!(report["run"]["units"]["slowest"].as_array().unwrap().len() as u64, done);
    assert_eq!(report["run"]["steps"][0]["model"]["model_type"], "bert");
    // The published output keeps it.
    assert_eq!(json(&fixture.path("out/_hfauto/report.json")), report);

    fixture.run(&run).succeeds();
    let report = json(&fixture.path("report.json"));
    assert_eq!((&report["status"], &report["exit_code"]), (&"done".into(), &0.into()));
    let run_report = &report["run"];
    assert!(run_report["units"]["skipped"].as_u64().unwrap() >= 2);
    let times = ["load_seconds", "run_seconds", "commit_seconds"]
        .map(|name| run_report[name].as_f64().unwrap());
    let wall = run_report["wall_seconds"].as_f64().unwrap();
    assert!((times.iter().sum::<f64>() - wall).abs() < 0.05 * wall, "{run_report}");
    let samples = run_report["throughput"].as_array().unwrap();
    assert!((2..=200).contains(&samples.len()), "{}", samples.len());
    assert_eq!(samples.last().unwrap()["rows"], run_report["rows_written"]);
    let lengths = &run_report["steps"][0]["token_lengths"];
    let counts: u64 =
        lengths["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(counts, run_report["rows_written"].as_u64().unwrap());
    assert_eq!(lengths["sum"], run_report["steps"][0]["counts"]["tokens"]);

    // A run with nothing to do writes a report of that, but the output keeps the report of the run that made it.
    fixture.run(&run).succeeds();
    let nothing = json(&fixture.path("report.json"));
    assert_eq!(
        (&nothing["status"], &nothing["run"]["units"]["computed"]),
        (&"done".into(), &0.into())
    );
    assert_eq!(json(&fixture.path("out/_hfauto/report.json")), report);
    fixture.run(&["report", "embed.yaml", "-o", "page.html"]).succeeds();
    let page = fs::read_to_string(fixture.path("page.html")).unwrap();
    assert!(page.contains("units") && page.contains("<svg"), "{page}");
    // A second run on the same output leaves the first one's report.
    fixture.file("in/0.csv", "id,text\n1,changed\n");
    fixture.run(&run).fails(73, &["--fresh"]);
    assert_eq!(json(&fixture.path("out/_hfauto/report.json")), report);
}

#[test]
fn the_report_command_says_what_is_missing() {
    let fixture = units("");
    fixture.run(&["report", "none.json"]).fails(66, &["none.json", "run --report"]);
    fixture
        .run(&["report", "embed.yaml"])
        .fails(66, &["out/_hfauto/report.json", "no run has written a report yet"]);
    fixture.file("other.json", "{}").run(&["report", "other.json"]).fails(65, &["not a report"]);
    fixture.file("new.json", r#"{"version": 9, "status": "done"}"#);
    fixture.run(&["report", "new.json"]).fails(65, &["version 9", "newer hfauto-pipe"]);
    let single = ["report", "embed.yaml", "--set", "sink.path=one.parquet"];
    fixture.run(&single).fails(66, &["single file keeps no report"]);
    fixture.run(&["report", "new.json", "-o", "no/page.html"]).fails(65, &[]);
}

/// Every line of stderr, which must be JSON.
fn lines(stderr: &str) -> Vec<Value> {
    let line = |line: &str| -> Value {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let at = line["timestamp"].as_str().unwrap();
        assert!(at.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(at).is_ok(), "{line}");
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
        line
    };
    stderr.lines().map(line).collect()
}

#[test]
fn logs_are_json_when_they_are_asked_for() {
    let fixture = units("");
    let ran = fixture.run(&["run", "embed.yaml", "--log-format", "json"]);
    let lines_of_run = lines(&ran.succeeds().stderr);
    let done: Vec<&Value> =
        lines_of_run.iter().filter(|line| line["message"] == "unit done").collect();
    assert_eq!(done.len(), 6);
    for line in done {
        assert_eq!(line["spans"][0]["pipeline"], "embed", "{line}");
        assert!(line["spans"][1]["input"].as_str().unwrap().contains("in/"), "{line}");
        assert_eq!((&line["rows"], &line["level"]), (&20.into(), &"INFO".into()));
    }
    for message in ["run begun", "run done", "progress"] {
        assert!(lines_of_run.iter().any(|line| line["message"] == message), "{message}");
    }
    // Warnings of other parts of the program also name their pipeline; the user's level applies.
    let warned = units("run: {incremental: new_or_changed}");
    let run = ["run", "embed.yaml", "--log-format=json", "--log-level=warn", "--progress=none"];
    assert_eq!(warned.run(&run).succeeds().stderr, "");
    warned.file("out/_hfauto/units/x.json", "{");
    let all = lines(&warned.run(&run).succeeds().stderr);
    let [line] = &all[..] else { panic!("{all:?}") };
    assert_eq!((&line["level"], &line["spans"][0]["pipeline"]), (&"WARN".into(), &"embed".into()));
    assert!(line["manifest"].as_str().unwrap().ends_with("x.json"), "{line}");

    fixture.file("in/3.csv", "id,text\n1,a,b\n");
    let ran = fixture.run(&["run", "embed.yaml", "--fresh", "--log-format", "json"]);
    ran.fails(65, &[]);
    let all = lines(&ran.stderr);
    let error = all.last().unwrap();
    assert_eq!(
        (&error["level"], &error["kind"], &error["exit_code"]),
        (&"ERROR".into(), &"data".into(), &65.into())
    );
    assert!(error["at"].is_array() && error["text"].as_str().unwrap().contains("3.csv"), "{error}");
    // The problems of a pipeline file and of the command line.
    fixture.file("embed.yaml", "version: 1\nsource: {pth: a}\n");
    let ran = fixture.run(&["run", "embed.yaml", "--log-format", "json"]);
    ran.fails(78, &[]);
    let error = lines(&ran.stderr).remove(0);
    assert!(
        error["problems"].as_array().unwrap().iter().any(|problem| problem["line"] == 2),
        "{error}"
    );
    let ran = fixture.run(&["run", "--log-format", "json"]);
    ran.fails(64, &[]);
    let error = lines(&ran.stderr).remove(0);
    assert_eq!((&error["exit_code"], &error["kind"]), (&64.into(), &"usage".into()));
    assert!(error["message"].as_str().unwrap().contains("<PIPELINE>"), "{error}");

    // As text, lines have a time and name their pipeline.
    let fixture = units("");
    let ran = fixture.run(&["run", "embed.yaml", "--log-level", "info", "--progress", "none"]);
    let line =
        ran.succeeds().stderr.lines().find(|line| line.contains("unit done")).unwrap().to_owned();
    assert!(line.contains("run{pipeline=\"embed\"}:unit{") && line.contains("INFO"), "{line}");
    assert!(chrono::DateTime::parse_from_rfc3339(line.split_whitespace().next().unwrap()).is_ok());
}

/// The machine's browser; without one, the tests that need it are skipped.
fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let folders = std::env::split_paths(&std::env::var_os("PATH")?).collect::<Vec<_>>();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skip("no chromium on the PATH, so the page was not looked at in a browser");
    }
    found
}

/// The document that a browser builds from a page in a window of this width, and its stderr.
fn dump_dom(browser: &Path, fixture: &Fixture, page: &str, size: &str) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        .args([
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        // Also waits for messages between frames.
        .arg("--virtual-time-budget=2000")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={size}"))
        .arg(format!("file://{}", fixture.path(page).display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    assert!(output.status.success(), "{}", text(output.stderr));
    (text(output.stdout), text(output.stderr))
}

/// A server that counts connections.
fn counting_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) =
        (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, count)
}

/// Numbers of a path's data.
fn numbers(data: &str) -> Vec<f64> {
    let numbers = data.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
    numbers.filter(|number| !number.is_empty()).map(|number| number.parse().unwrap()).collect()
}

#[test]
fn a_browser_shows_the_page_and_nothing_else() {
    let Some(browser) = browser() else { return };
    let (address, connections) = counting_server();
    // A name and messages that would run scripts and fetch files if they were markup.
    let attack = format!(
        "</title></h1><img src=http://{address}/i onerror=\"document.title='attacked'\">\
         <script>document.title='attacked'</script><link rel=stylesheet href=http://{address}/c>"
    );
    let fixture = fill_mask(&serde_json::to_string(&attack).unwrap());
    let run = ["run", "fill.yaml", "--report", "report.json"];
    fixture.run(&run).succeeds();
    let mut report: Value = json(&fixture.path("report.json"));
    report["run"]["steps"][0]["errors"][0]["examples"] = vec![attack.clone()].into();
    report["run"]["steps"][0]["output"] = attack.clone().into();
    report["run"]["units"]["slowest"][0]["unit"] = attack.clone().into();
    report["run"]["output"][0]["path"] = attack.clone().into();
    report["run"]["steps"][0]["model"]["options"]["x"] = attack.clone().into();
    report["error"] = serde_json::json!({"kind": attack, "message": attack, "text": attack});
    fixture.file("report.json", report.to_string());
    fixture.run(&["report", "report.json", "-o", "page.html"]).succeeds();

    let (dom, stderr) = dump_dom(&browser, &fixture, "page.html", "1000,900");
    assert!(!stderr.contains("CONSOLE"), "{stderr}");
    assert_eq!(connections.load(Ordering::SeqCst), 0, "the page fetches something");
    assert!(!dom.contains("<script") && !dom.contains("<img"), "{dom}");
    assert!(!dom.contains("<title>attacked"), "{dom}");
    assert_eq!(dom.matches("<link ").count(), 1, "the empty icon alone");
    for section in
        ["status", "error", "throughput", "steps", "errors", "units", "times", "lineage", "files"]
    {
        assert_eq!(dom.matches(&format!(" id=\"{section}\"")).count(), 1, "{section}: {dom}");
    }
    // Plots have points at the right positions.
    let lines: Vec<Vec<f64>> = dom
        .split("<path class=\"line\" d=\"")
        .skip(1)
        .map(|rest| numbers(rest.split('"').next().unwrap()))
        .collect();
    assert_eq!(lines.len(), 2, "tokens and rows a second");
    for line in &lines {
        assert!(line.len() >= 6 && line.len() % 2 == 0, "{line:?}");
        assert!(line.iter().step_by(2).is_sorted(), "{line:?}");
        assert!(line.iter().step_by(2).all(|x| (0.0..=1000.0).contains(x)), "{line:?}");
        assert!(line.iter().skip(1).step_by(2).all(|y| (0.0..=200.0).contains(y)), "{line:?}");
        assert!(line.iter().skip(1).step_by(2).any(|y| *y < 150.0), "a flat line: {line:?}");
    }
    assert!(dom.matches("<rect class=\"bar\"").count() >= 1, "{dom}");
    assert!(dom.contains(">max ") && dom.contains("rows per token"), "{dom}");
    assert!(dom.contains("run fill.yaml") && dom.contains("fill.yaml</bdi>"), "{dom}");

    // After layout, every shape has a size, and nothing is wider than the screen, even on a phone. The page forbids
    // scripts; a copy without that rule measures itself.
    let page = fs::read_to_string(fixture.path("page.html")).unwrap();
    let measure = "<script>addEventListener('load', () => {
        const sizes = [...document.querySelectorAll('svg[role=img]')].map(svg => svg.getBoundingClientRect());
        const lines = [...document.querySelectorAll('path.line, rect.bar')];
        const titles = [...document.querySelectorAll('svg[role=img]')].every(svg =>
            svg.getAttribute('aria-labelledby').split(' ').every(id => document.getElementById(id).textContent));
        const measured = JSON.stringify({
            width: innerWidth, scroll: document.documentElement.scrollWidth, titles,
            plots: sizes.filter(size => size.width > 200 && size.height > 100).length,
            empty: lines.filter(line => line.getTotalLength() < 1).length, shapes: lines.length,
        });
        if (parent !== window) return parent.postMessage(measured, '*');
        document.body.innerHTML = '<pre id=measured>' + measured + '</pre>';
    })</script></body>";
    let copy = page
        .replacen("default-src 'none'", "script-src 'unsafe-inline'", 1)
        .replacen("</body>", measure, 1);
    fixture.file("measured.html", copy);
    // This browser has no window as narrow as a phone, but a frame can be.
    let frame = "<body><iframe src=measured.html style='width:400px;height:800px;border:0'></iframe><script>
        onmessage = message => document.body.innerHTML = '<pre id=measured>' + message.data + '</pre>';
    </script></body>";
    fixture.file("frame.html", frame);
    for (page, width) in [("measured.html", 1200), ("frame.html", 400)] {
        let (dom, stderr) = dump_dom(&browser, &fixture, page, "1200,800");
        let measured =
            dom.split("<pre id=\"measured\">").nth(1).unwrap_or_else(|| panic!("{dom}{stderr}"));
        let measured: Value = serde_json::from_str(measured.split('<').next().unwrap()).unwrap();
        assert_eq!(measured["plots"], 3, "{measured}");
        assert_eq!(measured["titles"], true, "{measured}");
        assert_eq!(measured["width"], width, "{measured}");
        assert!(measured["scroll"].as_u64().unwrap() <= width, "{measured}");
        assert!(measured["shapes"].as_u64() > measured["empty"].as_u64(), "{measured}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[test]
fn pages_of_any_report_are_whole() {
    // Empty, partial, and extreme reports.
    for text in [
        r#"{"version": 1, "status": "failed"}"#.to_owned(),
        r#"{"version": 1, "status": "done", "run": {"steps": [{}], "units": {"total": 5}}}"#.to_owned(),
        r#"{"version": 1, "status": "running", "run": {"wall_seconds": 1e308, "rows_written": 18446744073709551615,
            "throughput": [{"seconds": -1, "rows": 9}, {"seconds": 1e308, "rows": 1, "tokens": 18446744073709551615}],
            "row_errors": {"failed": 3}, "steps": [{"counts": {"computed_tokens": 9, "padded_tokens": 1},
            "token_lengths": {"bounds": [18446744073709551615, 1], "counts": [1, 2, 3, 4]}}]}}"#
            .to_owned(),
    ] {
        let report = Report::from_json(&text).unwrap();
        let page = page(&report).unwrap();
        assert!(page.ends_with("</html>\n") && !page.contains("NaN") && !page.contains("inf\""), "{page}");
        Metrics::parse(&prometheus(&report, Kept::default(), chrono::Utc::now()));
    }
}
