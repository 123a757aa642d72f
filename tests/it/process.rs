//! Process-level tests of the real program: signals, killed runs, secrets, and terminal output.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::prometheus::Metrics;
use super::support::{Fixture, embed_pipeline, mini_embedder};

/// Three input files, so three units.
fn units() -> Fixture {
    let fixture = Fixture::new();
    for file in 0..3 {
        fixture.file(&format!("in/{file}.csv"), format!("id,text\n{file},row of file {file}\n"));
    }
    fixture.embed_yaml("in/*.csv");
    fixture
}

fn json(fixture: &Fixture, name: &str) -> Value {
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

/// Every file below a folder, as bytes.
fn contents(fixture: &Fixture, folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut names = fixture.files(folder);
    names.push("_hfauto/report.json".to_owned());
    names
        .into_iter()
        .filter_map(|name| {
            let bytes = fs::read(fixture.path(folder).join(&name)).ok()?;
            Some((name, bytes))
        })
        .collect()
}

#[test]
fn a_stray_variable_triggers_no_failpoint() {
    let fixture = units();
    let mut run = fixture.command(&["run", "embed.yaml", "--progress", "none"]);
    run.env("HFAUTO_FAILPOINT", "unit.written:1");
    for key in [None, Some(""), Some("1"), Some("0123456789abcdef0123456789abcdef")] {
        match key {
            Some(key) => run.env("HFAUTO_FAILPOINT_KEY", key),
            None => run.env_remove("HFAUTO_FAILPOINT_KEY"),
        };
        assert!(run.status().unwrap().success(), "{key:?}");
        fs::remove_dir_all(fixture.path("out")).unwrap();
    }
}

#[test]
fn a_second_signal_ends_a_run_that_spins() {
    let fixture = units();
    let mut child = fixture
        .command(&["run", "embed.yaml", "--report", "report.json", "--metrics-file", "run.prom"])
        .env("HFAUTO_FAILPOINT", "unit.committed:2:spin")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let done = fixture.path("out/_hfauto/units");
    until(|| fs::read_dir(&done).is_ok_and(|units| units.count() >= 2));
    let running = json(&fixture, "report.json");
    assert_eq!(running["status"], "running");
    assert!(running["process"].as_str().unwrap().starts_with(&format!("{} on ", child.id())));
    signal(&child, "TERM");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it did not spin");
    signal(&child, "TERM");
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(start.elapsed() < Duration::from_secs(10));
    let report = json(&fixture, "report.json");
    assert_eq!((&report["status"], &report["exit_code"]), (&"interrupted".into(), &143.into()));
    assert_eq!(report["process"], Value::Null);
    let metrics = Metrics::parse(&fs::read_to_string(fixture.path("run.prom")).unwrap());
    assert_eq!(metrics.value("hfauto_pipe_run_running", &[]), Some(0.0));
    assert_eq!(metrics.value("hfauto_pipe_last_run_exit_code", &[]), Some(143.0));
    // Committed units are kept.
    let ran = fixture.run(&["run", "embed.yaml", "--progress", "none"]);
    assert!(ran.succeeds().stdout.contains("2 done before"), "{}", ran.stdout);
}

/// The report and metrics of a killed run say that it was running; readers detect that its process has ended.
#[test]
fn a_killed_run_is_reported_by_its_report_and_the_next_metrics() {
    let fixture = units();
    let run = ["run", "embed.yaml", "--report", "report.json", "--metrics-file", "run.prom"];
    let killed =
        fixture.command(&run).env("HFAUTO_FAILPOINT", "unit.committed:2").output().unwrap();
    assert_eq!(killed.status.code(), None);
    assert_eq!(json(&fixture, "report.json")["status"], "running");
    let page = fixture.run(&["report", "report.json", "-o", "-"]);
    assert!(page.succeeds().stdout.contains("the run died without a report"), "{}", page.stdout);
    // The next run reports it as well, while it is running.
    let mut child = fixture
        .command(&run)
        .env("HFAUTO_FAILPOINT", "unit.committed:1:hold")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(|| {
        let text = fs::read_to_string(fixture.path("run.prom")).unwrap();
        Metrics::parse(&text).value("hfauto_pipe_last_run_success", &[]) == Some(0.0)
    });
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_schedule_outlives_its_runs() {
    let pipeline = |name: &str, input: &str| {
        let text = embed_pipeline(
            &mini_embedder(),
            &format!("../{input}"),
            &format!("../out/{name}/"),
            "schedule: {cron: 0 3 * * *}\nrun: {incremental: new_or_changed}",
        );
        (format!("pipes/{name}.yaml"), text)
    };
    let fixture = units();
    fs::create_dir_all(fixture.path("metrics")).unwrap();
    for (file, text) in [pipeline("a", "in/*.csv"), pipeline("b", "in/0.csv")] {
        fixture.file(&file, text);
    }
    let run = ["run", "--due", "pipes", "--progress", "none", "--metrics-file", "metrics"];
    fixture.run_with(&run, &[("HFAUTO_NOW", "2026-03-02T10:00:00Z")]).succeeds();
    // The process of `a` is killed at its third unit; `b` has a single unit.
    let ran = fixture.run_with(
        &run,
        &[("HFAUTO_NOW", "2026-03-03T03:00:00Z"), ("HFAUTO_FAILPOINT", "unit.committed:3")],
    );
    let killed = "a.yaml: failed with 75: the run was killed by SIGKILL (9)";
    ran.fails(75, &[killed, "b.yaml: done, 1 row"]);
    assert!(fixture.path("out/b/_SUCCESS").exists() && !fixture.path("out/a/_SUCCESS").exists());
    let metrics = fs::read_to_string(fixture.path("metrics/a.yaml.prom")).unwrap();
    let metrics = Metrics::parse(&metrics);
    assert_eq!(metrics.value("hfauto_pipe_run_running", &[]), Some(0.0));
    assert_eq!(metrics.value("hfauto_pipe_last_run_exit_code", &[]), Some(75.0));
    let ran = fixture.run_with(&run, &[("HFAUTO_NOW", "2026-03-04T03:00:00Z")]);
    assert!(ran.succeeds().stderr.contains("a.yaml: done"), "{}", ran.stderr);
    assert!(fixture.path("out/a/_SUCCESS").exists());
}

#[test]
fn no_secret_is_shown_or_kept() {
    let fixture = Fixture::new();
    let password = "hunter2 & söns";
    let encoded = "hunter2%20%26%20s%C3%B6ns";
    let embed = |source: &str| {
        let text = embed_pipeline(&mini_embedder(), "SOURCE", "out/", "name: 'of ${TOK}'");
        text.replace("'SOURCE'", source)
    };
    fixture.file("url.yaml", embed("\"http://jane:${TOK}@127.0.0.1:1/x.jsonl\""));
    fixture.file("folder.yaml", embed("\"in/${TOK}/*.csv\""));
    fixture.file("gone.yaml", embed("\"nothing/${TOK}.csv\""));
    fixture.file("model.yaml", embed("in/x.csv").replace("model: '", "model: 'x/${TOK}/"));
    fixture.file("literal.yaml", embed("'http://jane:trampoline@127.0.0.1:1/x.jsonl'"));
    for file in ["a", "b"] {
        fixture.file(&format!("in/{password}/{file}.csv"), "id,text\n1,a\n");
    }
    fixture.file("in/x.csv", "text\na\n");
    let is_clean = |what: &str, text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        for secret in [password, encoded, "hunter2", "trampoline"] {
            assert!(!text.contains(secret), "`{secret}` in {what}:\n{text}");
        }
    };
    for pipeline in ["url", "folder", "gone", "model", "literal"] {
        let file = format!("{pipeline}.yaml");
        let tok = if pipeline == "url" { encoded } else { password };
        for format in ["text", "json"] {
            let args = ["run", &file, "--fresh", "--report", "r.json", "--metrics-file", "m.prom"];
            let mut command = fixture.command(&args);
            let output = command.args(["--log-format", format]).env("TOK", tok).output().unwrap();
            assert_eq!(output.status.success(), pipeline == "folder", "{pipeline}");
            is_clean(&format!("stderr of {pipeline}"), &output.stderr);
            is_clean(&format!("stdout of {pipeline}"), &output.stdout);
            is_clean("report", &fs::read(fixture.path("r.json")).unwrap());
            is_clean("metrics", &fs::read(fixture.path("m.prom")).unwrap());
        }
        for command in ["plan", "status", "validate"] {
            let output = fixture.command(&[command, &file]).env("TOK", tok).output().unwrap();
            is_clean(command, &output.stderr);
            is_clean(command, &output.stdout);
        }
    }
    let kept = contents(&fixture, "out");
    assert!(kept.len() > 3, "{kept:?}");
    kept.iter().for_each(|(name, bytes)| is_clean(name, bytes));
    // The same place is identified under its hidden name.
    let again = fixture.run_with(&["run", "folder.yaml"], &[("TOK", password)]);
    assert!(again.succeeds().stdout.contains("2 units were done before"), "{}", again.stdout);
    let sql = ["sql", "SELECT * FROM 'http://jane:trampoline@127.0.0.1:1/x.csv'"];
    let output = fixture.command(&sql).output().unwrap();
    is_clean("stderr of sql", &output.stderr);
}

#[test]
fn a_terminal_obeys_no_file_name() {
    let fixture = Fixture::new();
    let name = "in/a\u{1b}[31m\u{7}\u{202e}.csv";
    fixture.file(name, "id,text\n1\n").embed_yaml("in/*.csv");
    let ran = fixture.run(&["run", "embed.yaml", "--progress", "none"]);
    ran.fails(65, &["a\\x1b[31m\\x07\\u{202e}.csv"]);
    let gone = fixture.run(&["run", "b\u{1b}[31m.yaml"]);
    gone.fails(78, &["b\\x1b[31m.yaml"]);
    let sql = "SELECT chr(27) || '[2Jx' AS text";
    let table = fixture.run(&["sql", sql]);
    assert!(table.succeeds().stdout.contains("\\x1b[2Jx"), "{}", table.stdout);
    // Output for another program is exact.
    let csv = fixture.run(&["sql", "--format", "csv", sql]);
    assert_eq!(csv.succeeds().stdout, "text\n\u{1b}[2Jx\n");
}

#[test]
fn sql_that_cannot_be_computed_says_why() {
    let fixture = Fixture::new();
    fixture.file("a.csv", "id,text\n9223372036854775807,a\n1,b\n");
    let check = |sql: &str, code: u8, parts: &[&str]| fixture.run(&["sql", sql]).fails(code, parts);
    check("SELECT id + 1 FROM 'a.csv'", 65, &["`9223372036854775807 + 1` is out of the range"]);
    check("SELECT sum(id) FROM 'a.csv'", 65, &["a SUM is out of the range of Int64"]);
    check("SELECT CAST(text AS INT) FROM 'a.csv'", 65, &["CAST(", ".text AS Int32)", "TRY_CAST"]);
    check("SELECT 1 / (id - id) FROM 'a.csv'", 65, &["Divide by zero"]);
    check("SELECT text ~ '(' FROM 'a.csv'", 78, &["unclosed group"]);
    check("SELECT * FROM 'a.csv' WHERE regexp_like(text, '(')", 78, &["unclosed group"]);
    check("SELECT text FROM", 78, &[]);
    check("SELECT nothing FROM 'a.csv'", 78, &["nothing"]);
    check(
        "SELECT classify(text, 'm').label FROM 'a.csv'",
        78,
        &["hint: write the key in brackets: `classify(text, 'model')['label']`"],
    );
    let deep = |text: &str, with: &str| vec![text; 10_000].join(with);
    for sql in [
        format!("SELECT {}", deep("1", " + ")),
        format!("SELECT id FROM 'a.csv' WHERE {}", deep("id = 1", " OR ")),
        format!("SELECT {}1{}", deep("(", ""), deep(")", "")),
        format!("SELECT 1{}", deep("::INT", "")),
    ] {
        check(&sql, 78, &["the limit is 2000"]);
    }
    // Expressions below the limit, and lists of any length, are computed.
    let chain = vec!["id = 1"; 1900].join(" OR ");
    let list = (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    for sql in [
        format!("SELECT count(*) AS n FROM 'a.csv' WHERE {chain}"),
        format!("SELECT count(*) AS n FROM 'a.csv' WHERE id + 0 IN ({list})"),
        format!("SELECT {} - 1899 AS n", vec!["1"; 1900].join(" + ")),
    ] {
        let ran = fixture.run(&["sql", "--format", "csv", &sql]);
        assert_eq!(ran.succeeds().stdout, "n\n1\n");
    }
    let hash =
        fixture.run(&["sql", "--format", "csv", "SELECT md5('a') AS h, sha256('a') IS NULL AS n"]);
    assert_eq!(hash.succeeds().stdout, "h,n\n0cc175b9c0f1b6a831c399e269772661,false\n");
}

#[test]
fn a_pipeline_file_of_any_size_is_answered_soon() {
    let fixture = Fixture::new();
    let keys: String = (0..20_000).map(|n| format!("key_{n}: {n}\n")).collect();
    let start = Instant::now();
    fixture.file("keys.yaml", format!("version: 1\n{keys}"));
    fixture
        .run(&["validate", "keys.yaml"])
        .fails(78, &["unknown key `key_0` in the pipeline", "more problems are not shown"]);
    fixture.file("names.yaml", format!("version: 1\n{}: 1\n", "x".repeat(1000)));
    fixture.run(&["validate", "names.yaml"]).fails(78, &["unknown key"]);
    fixture.file("large.yaml", "# a comment\n".repeat(2 << 20));
    fixture.run(&["validate", "large.yaml"]).fails(78, &["at most 16777216 bytes"]);
    fixture.file("values.yaml", format!("version: 1\nname: [{}]\n", "1,".repeat(200_000)));
    fixture.run(&["validate", "values.yaml"]).fails(78, &["at most 100000 values"]);
    fixture.file("deep.yaml", "[".repeat(100_000));
    fixture.run(&["validate", "deep.yaml"]).fails(78, &["not valid YAML"]);
    let path = format!("{}=1", vec!["a"; 10_000].join("."));
    fixture.file("small.yaml", "version: 1\n");
    fixture.run(&["validate", "small.yaml", "--set", &path]).fails(78, &["at most 255 parts"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
