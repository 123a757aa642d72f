//! Processes that join a job in a folder: they start, end, die and freeze at any time. `object_store` has the same in a
//! store.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Fixture, embed_pipeline, mini_embedder, repository};

const FILES: usize = 12;

fn fixture(more: &str) -> Fixture {
    let fixture = Fixture::new();
    for file in 0..FILES {
        let mut csv = "id,text\n".to_owned();
        for row in 0..20 {
            writeln!(csv, "{},\"row {row} of file {file}: boats and bread\"", file * 1000 + row)
                .unwrap();
        }
        fixture.file(&format!("in/{file:03}.csv"), csv);
    }
    let more = format!("run: {{workers: 1}}\n{more}");
    fixture.file("embed.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", &more));
    fixture
}

fn output(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    let names = fixture.files("out").into_iter();
    names
        .map(|name| (name.clone(), fs::read(fixture.path(&format!("out/{name}"))).unwrap()))
        .collect()
}

/// The output of a run.
fn expected(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    fixture.run(&["run", "embed.yaml"]).succeeds();
    let expected = output(fixture);
    fs::remove_dir_all(fixture.path("out")).unwrap();
    expected
}

#[track_caller]
fn assert_same(fixture: &Fixture, expected: &BTreeMap<String, Vec<u8>>) {
    let found = output(fixture);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(found == *expected, "files differ in their bytes");
}

fn join(fixture: &Fixture, variables: &[(&str, &str)]) -> Command {
    let mut command = fixture.command(&["run", "--join", "embed.yaml", "--progress", "none"]);
    command.env("HFAUTO_LOCK_SECONDS", "2").envs(variables.iter().copied());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn manifests(fixture: &Fixture) -> usize {
    fs::read_dir(fixture.path("out/_hfauto/units")).map_or(0, Iterator::count)
}

#[test]
fn joined_processes_write_the_output_of_a_run() {
    let fixture = fixture("on_error: {rows: skip}");
    let expected = expected(&fixture);
    let joined: Vec<Child> = (0..3).map(|_| join(&fixture, &[]).spawn().unwrap()).collect();
    // One more, while the others compute or end.
    until("a unit", || manifests(&fixture) > 0 || fixture.path("out/_SUCCESS").exists());
    let late = join(&fixture, &[]).spawn().unwrap();
    for child in joined.into_iter().chain([late]) {
        fixture.ran(child.wait_with_output().unwrap()).succeeds();
    }
    assert_same(&fixture, &expected);
    let again = fixture.ran(join(&fixture, &[]).output().unwrap());
    assert!(again.succeeds().stdout.contains("nothing to compute"), "{}", again.stdout);
    fixture
        .run(&["run", "--join", "embed.yaml", "--fresh"])
        .fails(64, &["`--join` conflicts with `--fresh`"]);
    fixture.run(&["run", "--join", "--shard", "1/2", "embed.yaml"]).fails(64, &["--shard"]);
    fixture
        .run(&["run", "--join", "embed.yaml", "--set", "sink.path=one.parquet"])
        .fails(78, &["`--join` needs a pipeline that can be computed in units", "one file"]);
}

#[test]
fn an_incremental_output_is_joined() {
    let fixture = fixture("");
    let pipeline = fs::read_to_string(fixture.path("embed.yaml")).unwrap();
    let pipeline = pipeline.replace("{workers: 1}", "{workers: 1, incremental: new_or_changed}");
    fixture.file("embed.yaml", pipeline);
    let expected = expected(&fixture);
    for _ in 0..2 {
        let joined: Vec<Child> = (0..2).map(|_| join(&fixture, &[]).spawn().unwrap()).collect();
        for child in joined {
            fixture.ran(child.wait_with_output().unwrap()).succeeds();
        }
        assert_same(&fixture, &expected);
    }
}

/// Processes are killed at random times while others go on; the last ones finish the job.
#[test]
fn killed_processes_lose_only_their_units() {
    let fixture = fixture("");
    let start = Instant::now();
    let expected = expected(&fixture);
    let whole = start.elapsed();
    let mut killed = 0;
    for round in 0..4 {
        let joined: Vec<Child> = (0..3).map(|_| join(&fixture, &[]).spawn().unwrap()).collect();
        let mut joined = joined.into_iter();
        for (number, mut child) in joined.by_ref().take(2).enumerate() {
            let share = (f64::from(round * 2 + number as i32) * 0.618_033_988_749_895).fract();
            std::thread::sleep(whole.mul_f64(share / 2.0));
            child.kill().unwrap();
            killed += usize::from(child.wait().unwrap().signal() == Some(9));
        }
        for child in joined {
            fixture.ran(child.wait_with_output().unwrap()).succeeds();
        }
        assert_same(&fixture, &expected);
        fs::remove_dir_all(fixture.path("out")).unwrap();
    }
    assert!(killed >= 3, "{killed} of 8 processes were killed before their end");
}

#[test]
fn a_frozen_process_writes_no_row_twice() {
    let fixture = fixture("");
    let expected = expected(&fixture);
    let frozen = join(&fixture, &[("HFAUTO_FAILPOINT", "unit.written:3:hold")]).spawn().unwrap();
    until("units", || manifests(&fixture) >= 2);
    std::thread::sleep(Duration::from_millis(500));
    signal(&frozen, "STOP");
    let other = fixture.ran(join(&fixture, &[]).output().unwrap());
    other.succeeds();
    assert_same(&fixture, &expected);
    signal(&frozen, "CONT");
    let ran = fixture.ran(frozen.wait_with_output().unwrap());
    ran.fails(75, &["the lock of", "was lost"]);
    assert_same(&fixture, &expected);
}

#[test]
fn a_slow_process_is_helped() {
    let fixture = fixture("");
    let expected = expected(&fixture);
    let slow = join(&fixture, &[("HFAUTO_FAILPOINT", "unit.written:1:hold")]).spawn().unwrap();
    until("an attempt", || fixture.path("out/_hfauto/attempts").exists());
    std::thread::sleep(Duration::from_millis(300));
    let fast = join(&fixture, &[]).spawn().unwrap();
    until("every unit", || manifests(&fixture) == FILES);
    let units = || fs::read_dir(fixture.path("out/_hfauto/claims")).map_or(0, Iterator::count);
    assert!(units() >= 1, "the slow process has lost its claim");
    for child in [slow, fast] {
        fixture.ran(child.wait_with_output().unwrap()).succeeds();
    }
    assert_same(&fixture, &expected);
}

#[test]
fn a_unit_that_kills_its_process_ends_the_job_after_three_attempts() {
    let fixture = fixture("");
    let expected = expected(&fixture);
    let deadly = [("HFAUTO_FAILPOINT", "unit.begun@003.csv")];
    for attempt in 1..=3 {
        let killed = join(&fixture, &deadly).output().unwrap();
        assert_eq!(killed.status.signal(), Some(9), "attempt {attempt}");
    }
    let joined: Vec<Child> = (0..2).map(|_| join(&fixture, &deadly).spawn().unwrap()).collect();
    for child in joined {
        let ran = fixture.ran(child.wait_with_output().unwrap());
        ran.fails(
            65,
            &["3 attempts at rows 1 to 20 of", "in/003.csv", "11 of 12 units done and kept"],
        );
    }
    assert_eq!(manifests(&fixture), FILES - 1);
    assert!(!fixture.path("out/_SUCCESS").exists());
    // The next process tries it again.
    fixture.ran(join(&fixture, &[]).output().unwrap()).succeeds();
    assert_same(&fixture, &expected);
}

#[test]
fn joined_processes_and_a_run_exclude_each_other() {
    let fixture = fixture("");
    let expected = expected(&fixture);
    let mut run = fixture.command(&["run", "embed.yaml", "--progress", "none"]);
    let mut run = run.env("HFAUTO_FAILPOINT", "unit.committed:2:hold").spawn().unwrap();
    until("a unit", || manifests(&fixture) > 0);
    fixture.ran(join(&fixture, &[]).output().unwrap()).fails(75, &["another run is writing"]);
    run.kill().unwrap();
    run.wait().unwrap();

    let held = join(&fixture, &[("HFAUTO_FAILPOINT", "unit.committed:2:hold")]).spawn().unwrap();
    until("the lease", || {
        let names = fs::read_dir(fixture.path("out/_hfauto")).unwrap().flatten();
        names.into_iter().any(|name| name.file_name().to_string_lossy().starts_with("join-"))
    });
    let status = fixture.run(&["status", "embed.yaml"]);
    assert!(status.succeeds().stdout.contains("running"), "{}", status.stdout);
    fixture.run(&["run", "embed.yaml"]).fails(75, &["another run is writing"]);
    fixture.ran(join(&fixture, &[]).output().unwrap()).succeeds();
    fixture.ran(held.wait_with_output().unwrap()).succeeds();
    assert_same(&fixture, &expected);
}

#[test]
fn the_ready_made_job_is_sound() {
    let text = fs::read_to_string(repository().join("examples/kubernetes/join-job.yaml")).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let kind = |name: &str| documents.iter().find(|document| document["kind"] == name).unwrap();
    let job = &kind("Job")["spec"];
    assert_eq!(job.get("completions"), None);
    let codes = &job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"];
    // Another process may succeed after 69, 75, 130 and 143, but not after these.
    assert_eq!(*codes, json!([64, 65, 66, 73, 78]));
    let args = job["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    assert_eq!(args[..3], [json!("run"), json!("--join"), json!("/pipelines/embed.yaml")]);
    let fixture = Fixture::new();
    fixture.file("embed.yaml", kind("ConfigMap")["data"]["embed.yaml"].as_str().unwrap());
    fixture.run(&["validate", "embed.yaml"]).succeeds();
}
