//! Jobs in units: the output of split, killed and incremental jobs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use hfauto_pipe::failpoint::FAILPOINTS;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::support::{Fixture, embed_pipeline, mini_embedder, read_parquet, skip};

/// Input files of the kill tests, one unit each.
const FILES: usize = 12;

fn text(file: usize, row: usize) -> String {
    format!("row {row} of file {file}: boats, bread and the sea {}", file * row)
}

fn write_file(fixture: &Fixture, file: usize, rows: usize) {
    let mut csv = "id,text\n".to_owned();
    for row in 0..rows {
        writeln!(csv, "{},\"{}\"", file * 1000 + row, text(file, row)).unwrap();
    }
    fixture.file(&format!("in/{file:03}.csv"), csv);
}

/// A pipeline over files of twenty rows.
fn fixture(files: usize, more: &str) -> Fixture {
    let fixture = Fixture::new();
    (0..files).for_each(|file| write_file(&fixture, file, 20));
    fixture.file("embed.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", more));
    fixture
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    let sizes = |files: &BTreeMap<String, Vec<u8>>| {
        files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect::<Vec<_>>()
    };
    assert_eq!(sizes(found), sizes(expected));
    assert!(found == expected, "files differ in their bytes");
}

/// The output that readers see, and the files beside it.
fn output(fixture: &Fixture, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let files = fixture.files(folder).into_iter();
    files
        .map(|name| {
            let bytes = fs::read(fixture.path(&format!("{folder}/{name}"))).unwrap();
            (name, bytes)
        })
        .collect()
}

fn report(fixture: &Fixture, args: &[&str]) -> Value {
    let args = [&["run", "embed.yaml", "--report", "report.json"], args].concat();
    fixture.run(&args).succeeds();
    let text = fs::read(fixture.path("report.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["run"].clone()
}

fn ids(fixture: &Fixture, folder: &str) -> Vec<i64> {
    let parts = fixture.files(folder);
    let parts = parts.iter().filter(|name| name.ends_with(".parquet"));
    let mut ids = Vec::new();
    for part in parts {
        let batch = fixture.parquet(&format!("{folder}/{part}"));
        let column = batch["id"].as_any().downcast_ref::<Int64Array>().unwrap().clone();
        ids.extend(column.values().iter().copied());
    }
    ids
}

/// Kills a run, runs again, and compares with the output of an undisturbed run.
fn disturbed(
    fixture: &Fixture,
    expected: &BTreeMap<String, Vec<u8>>,
    what: &str,
    kill: impl FnOnce(Command) -> bool,
) -> bool {
    let _ = fs::remove_dir_all(fixture.path("out"));
    let mut command = fixture.command(&["run", "embed.yaml", "--progress", "none"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let was_killed = kill(command);
    fixture.run(&["run", "embed.yaml", "--progress", "none"]).succeeds();
    let found = output(fixture, "out");
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected), "{what}");
    for (name, bytes) in &found {
        assert_eq!(bytes, &expected[name], "{what}: {name}");
    }
    was_killed
}

fn undisturbed(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    fixture.run(&["run", "embed.yaml"]).succeeds();
    let expected = output(fixture, "out");
    // Only the output and the manifests of its units: nothing staged, no lock.
    let is_unit = |name: &&String| name.starts_with("_hfauto/units/");
    let own = expected.keys().filter(|name| name.starts_with('_'));
    let own: Vec<_> = own.filter(|name| !is_unit(name)).collect();
    assert_eq!(own, ["_SUCCESS", "_hfauto/MANIFEST.json"]);
    assert_eq!(expected.keys().filter(is_unit).count() * 2 + 2, expected.len());
    expected
}

#[test]
fn a_run_that_is_killed_anywhere_is_gone_on_with() {
    let fixture = fixture(FILES, "");
    let expected = undisturbed(&fixture);
    assert_eq!(expected.len(), FILES * 2 + 2);
    for name in FAILPOINTS {
        let times: &[usize] = if name.starts_with("unit.") { &[1, FILES / 2, FILES] } else { &[1] };
        for time in times {
            let what = format!("{name}:{time}");
            let was_killed = disturbed(&fixture, &expected, &what, |mut command| {
                let status = command.env("HFAUTO_FAILPOINT", &what).status().unwrap();
                status.signal() == Some(9)
            });
            assert!(was_killed, "{what} was not come to");
        }
    }
}

/// `HFAUTO_KILLS` sets the number of kills; `just kill` is the long form.
#[test]
fn a_run_that_is_killed_at_any_time_is_gone_on_with() {
    let kills = std::env::var("HFAUTO_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let files = if kills > 50 { 50 } else { FILES };
    let fixture = fixture(files, "run: {workers: 1}");
    let start = Instant::now();
    let expected = undisturbed(&fixture);
    let whole = start.elapsed();
    let mut killed = 0;
    for kill in 0..kills {
        // Spread over the run: multiples of the golden ratio are evenly distributed without repetition.
        let share = (f64::from(kill) * 0.618_033_988_749_895).fract();
        let after = whole.mul_f64(share);
        let was_killed =
            disturbed(&fixture, &expected, &format!("after {after:?}"), |mut command| {
                let mut child = command.spawn().unwrap();
                std::thread::sleep(after);
                child.kill().unwrap();
                child.wait().unwrap().signal() == Some(9)
            });
        killed += u32::from(was_killed);
    }
    assert!(killed >= kills as u32 / 3, "{killed} of {kills} runs were killed before their end");
}

#[test]
fn a_unit_that_kills_its_process_is_tried_three_times() {
    let fixture = fixture(FILES, "");
    let expected = undisturbed(&fixture);
    fs::remove_dir_all(fixture.path("out")).unwrap();
    let deadly = || {
        let mut run = fixture.command(&["run", "embed.yaml", "--progress", "none"]);
        run.env("HFAUTO_FAILPOINT", "unit.begun@003.csv").output().unwrap()
    };
    for round in 0..2 {
        for attempt in 1..=3 {
            assert_eq!(deadly().status.signal(), Some(9), "round {round}, attempt {attempt}");
        }
        let ran = fixture.ran(deadly());
        ran.fails(
            65,
            &["3 attempts at rows 1 to 20 of", "in/003.csv", "11 of 12 units done and kept"],
        );
        assert_eq!(fixture.files("out/_hfauto/units").len(), FILES - 1);
    }
    // A run after the error tries the unit again.
    let report = report(&fixture, &[]);
    assert_eq!(
        (&report["units"]["computed"], &report["units"]["skipped"]),
        (&1.into(), &11.into())
    );
    assert_same(&output(&fixture, "out"), &expected);
}

#[test]
fn a_signal_keeps_the_units_that_are_done() {
    let fixture = fixture(FILES, "");
    let expected = undisturbed(&fixture);
    fs::remove_dir_all(fixture.path("out")).unwrap();
    let mut child = fixture
        .command(&["run", "embed.yaml", "--progress", "none"])
        // Holds the run at its sixth unit, so that the signal finds it there.
        .env("HFAUTO_FAILPOINT", "unit.committed:6:hold")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let units = fixture.path("out/_hfauto/units");
    let is_there = || fs::read_dir(&units).is_ok_and(|units| units.count() >= 6);
    let start = Instant::now();
    while !is_there() && start.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = fixture.run(&["status", "embed.yaml"]);
    let running = format!("running as process {} since", child.id());
    assert!(status.succeeds().stdout.contains(&running), "{}", status.stdout);
    assert!(status.stdout.contains("of 12 units done"), "{}", status.stdout);
    // A second run on the same output fails at once.
    fixture.run(&["run", "embed.yaml"]).fails(75, &["another run is writing"]);
    Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{stderr}");
    assert!(stderr.contains("of 12 units done and kept"), "{stderr}");
    assert!(stderr.contains("the same command continues from there"), "{stderr}");
    assert!(!fixture.path("out/_SUCCESS").exists());
    let status = fixture.run(&["status", "embed.yaml"]);
    assert!(status.succeeds().stdout.contains("interrupted: "), "{}", status.stdout);

    let report = report(&fixture, &[]);
    let status = fixture.run(&["status", "embed.yaml", "--json"]);
    let state: Value = serde_json::from_str(&status.succeeds().stdout).unwrap();
    assert_eq!((&state["state"], &state["rows"]), (&"published".into(), &240.into()));
    let skipped = report["units"]["skipped"].as_u64().unwrap();
    assert!((5..12).contains(&skipped), "{report}");
    assert_eq!(report["units"]["computed"].as_u64().unwrap(), 12 - skipped);
    assert_eq!(report["rows_written"].as_u64().unwrap(), (12 - skipped) * 20);
    assert_same(&output(&fixture, "out"), &expected);
    // A finished job computes nothing; another job is refused.
    let again = self::report(&fixture, &[]);
    assert_eq!(
        (again["units"]["skipped"].as_u64(), again["rows_written"].as_u64()),
        (Some(12), Some(0))
    );
    write_file(&fixture, 0, 19);
    fixture.run(&["run", "embed.yaml"]).fails(73, &["exists", "--fresh"]);
    assert_same(&output(&fixture, "out"), &expected);
}

#[test]
fn shards_share_a_job() {
    let fixture = fixture(7, "on_error: {rows: skip}");
    let expected = {
        fixture.run(&["run", "embed.yaml"]).succeeds();
        output(&fixture, "out")
    };
    fs::remove_dir_all(fixture.path("out")).unwrap();
    let shard = |shard: &str| {
        let mut command = fixture.command(&["run", "embed.yaml", "--progress", "none"]);
        command.args(["--shard", shard]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // One after another: finished units are kept, and the last shard publishes.
    let first = fixture.ran(shard("1/3").output().unwrap());
    assert!(
        first.succeeds().stdout.contains("1/3: 4 units are left to the others"),
        "{}",
        first.stdout
    );
    assert!(!fixture.path("out/_SUCCESS").exists());
    let killed = shard("2/3").env("HFAUTO_FAILPOINT", "unit.renamed:2").output().unwrap();
    assert_eq!(killed.status.signal(), Some(9));
    let third = fixture.ran(shard("3/3").output().unwrap());
    assert!(third.succeeds().stdout.contains("1 unit is left to the others"), "{}", third.stdout);
    let second = fixture.ran(shard("2/3").output().unwrap());
    assert!(second.succeeds().stdout.contains("the output is published"), "{}", second.stdout);
    assert_same(&output(&fixture, "out"), &expected);
    let again = fixture.ran(shard("1/3").output().unwrap());
    assert!(again.succeeds().stdout.contains("nothing to compute"), "{}", again.stdout);

    // All concurrently.
    fs::remove_dir_all(fixture.path("out")).unwrap();
    let shards: Vec<_> = ["1/3", "2/3", "3/3"].map(|name| shard(name).spawn().unwrap()).into();
    for shard in shards {
        fixture.ran(shard.wait_with_output().unwrap()).succeeds();
    }
    assert_same(&output(&fixture, "out"), &expected);

    // While a shard is running, the same shard, a whole run and a shard of another job fail at once.
    fs::remove_dir_all(fixture.path("out")).unwrap();
    let mut held = shard("1/3").env("HFAUTO_FAILPOINT", "unit.committed:1:hold").spawn().unwrap();
    let start = Instant::now();
    while !fixture.path("out/_hfauto/units").exists() {
        assert!(start.elapsed() < Duration::from_mins(1), "the shard did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    fixture.ran(shard("1/3").output().unwrap()).fails(75, &["another run is writing"]);
    fixture.run(&["run", "embed.yaml"]).fails(75, &["another run is writing"]);
    let other = fixture.ran(
        shard("2/3")
            .args(["--set", "steps.0.feature-extraction.normalize=false"])
            .output()
            .unwrap(),
    );
    other.fails(75, &["a shard of another job is writing"]);
    held.kill().unwrap();
    held.wait().unwrap();
    fixture.run(&["run", "embed.yaml"]).succeeds();
    assert_same(&output(&fixture, "out"), &expected);

    fixture
        .ran(shard("1/3").arg("--fresh").output().unwrap())
        .fails(64, &["`--shard` conflicts with"]);
    fixture.ran(shard("4/3").output().unwrap()).fails(64, &["expected I/N, such as 1/4"]);
    let whole = embed_pipeline(&mini_embedder(), "in/*.csv", "one.parquet", "");
    fixture.file("embed.yaml", whole);
    fixture
        .ran(shard("1/3").output().unwrap())
        .fails(78, &["can be computed in units", "one file"]);
}

/// Runs a script in its own mount namespace; `None`, with a line on stderr, where the system forbids it.
fn with_own_mounts(fixture: &Fixture, script: &str) -> Option<String> {
    let program = env!("CARGO_BIN_EXE_hfauto-pipe");
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", script]);
        command.current_dir(fixture.path("")).env("PIPE", program).env("HF_HUB_OFFLINE", "1");
        command.output()
    };
    fs::create_dir_all(fixture.path("out")).unwrap();
    if !run("mount -t tmpfs none out").is_ok_and(|output| output.status.success()) {
        skip("no mounts here (unshare --mount --map-root-user)");
        return None;
    }
    let output = run(script).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some(text(output.stdout) + &text(output.stderr))
}

#[test]
fn a_full_disk_keeps_the_units_that_are_done() {
    let fixture = fixture(6, "");
    let expected = undisturbed(&fixture);
    let bytes: usize = expected.values().map(Vec::len).sum();
    fs::remove_dir_all(fixture.path("out")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size={}k none out
         $PIPE run embed.yaml --progress none; echo code $?
         ls out/_hfauto/units | wc -l; ls out; ls -a out/_hfauto/tmp
         mount -o remount,size=50m out
         $PIPE run embed.yaml --progress none; echo code $?
         cp -r out saved",
        bytes * 2 / 3 / 1024
    );
    let Some(said) = with_own_mounts(&fixture, &script) else { return };
    let codes: Vec<&str> = said.lines().filter(|line| line.starts_with("code ")).collect();
    assert_eq!(codes, ["code 73", "code 0"], "{said}");
    assert!(said.contains("No space left on device") && said.contains("free space"), "{said}");
    assert!(said.contains("of 6 units done and kept"), "{said}");
    assert!(!said.contains(" 0 done before"), "{said}");
    assert_same(&output(&fixture, "saved"), &expected);
}

#[test]
fn a_read_only_output_is_reported_before_the_work() {
    let fixture = fixture(2, "");
    let script = "mount -t tmpfs none out && mount -o remount,ro out
                  $PIPE run embed.yaml --progress none; echo code $?";
    let Some(said) = with_own_mounts(&fixture, script) else { return };
    assert!(said.contains("code 73"), "{said}");
    assert!(
        said.contains("Read-only file system") && said.contains("make the folder writable"),
        "{said}"
    );
}

/// Starts a run that stays for ten seconds at the commit of its first unit.
fn held_at_its_first_unit(fixture: &Fixture) -> std::process::Child {
    let mut command = fixture.command(&["run", "embed.yaml", "--progress", "none"]);
    command.env("HFAUTO_FAILPOINT", "unit.committed:1:hold").stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let start = Instant::now();
    while !fixture.path("out/_hfauto/units").exists() {
        assert!(start.elapsed() < Duration::from_mins(1), "the run did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn an_input_that_changes_while_it_is_read_fails_by_name() {
    let fixture = fixture(4, "");
    let child = held_at_its_first_unit(&fixture);
    write_file(&fixture, 3, 22);
    let ran = fixture.ran(child.wait_with_output().unwrap());
    ran.fails(65, &["in/003.csv` was changed while it was read", "units done and kept"]);
    assert!(!fixture.path("out/_SUCCESS").exists());
    let report = report(&fixture, &[]);
    assert!(report["units"]["skipped"].as_u64().unwrap() >= 2, "{report}");
    assert_eq!(ids(&fixture, "out").len(), 3 * 20 + 22);
}

#[test]
fn a_clock_that_jumps_changes_no_answer() {
    let fixture = fixture(3, "run: {incremental: new_or_changed}");
    // Files from the future and from before the epoch are valid.
    let day = Duration::from_hours(24);
    let touch = |file: &str, time: std::time::SystemTime| {
        fs::File::options()
            .write(true)
            .open(fixture.path(file))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    touch("in/000.csv", std::time::SystemTime::now() + day * 365 * 50);
    touch("in/001.csv", std::time::UNIX_EPOCH - day);
    let mut child = held_at_its_first_unit(&fixture);
    // The clock goes back by an hour during the run, which therefore started in the future.
    let run =
        fixture.files("out/_hfauto/tmp").into_iter().find(|name| name.ends_with("started.json"));
    let path = fixture.path(&format!("out/_hfauto/tmp/{}", run.unwrap()));
    let mut started: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    started["at"] = (chrono::Utc::now() + chrono::Duration::hours(1)).to_rfc3339().into();
    fs::write(&path, started.to_string()).unwrap();
    let status = fixture.run(&["status", "embed.yaml", "--json"]);
    let state: Value = serde_json::from_str(&status.succeeds().stdout).unwrap();
    assert_eq!((&state["is_running"], &state["seconds_left"]), (&true.into(), &Value::Null));
    assert!(child.wait().unwrap().success());
    let again = report(&fixture, &[]);
    assert_eq!((&again["units"]["computed"], &again["units"]["skipped"]), (&0.into(), &3.into()));
    assert_eq!(ids(&fixture, "out").len(), 60);
}

#[test]
fn a_second_signal_ends_at_once() {
    let fixture = fixture(3, "");
    let mut child = fixture
        .command(&["run", "embed.yaml", "--progress", "none"])
        .env("HFAUTO_FAILPOINT", "unit.written:1:hold")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !fixture.path("out/_hfauto/tmp").exists() {
        assert!(start.elapsed() < Duration::from_mins(1), "the run did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    // The unit is held for ten seconds; a single signal waits for it.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    fixture.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(ids(&fixture, "out").len(), 60);
}

#[test]
fn damaged_manifests_are_computed_again_and_newer_ones_are_refused() {
    let fixture = fixture(3, "run: {incremental: new_or_changed}");
    assert_eq!(report(&fixture, &[])["units"]["computed"], 3);
    let expected = output(&fixture, "out");
    let mut manifests = fixture.files("out/_hfauto/units");
    manifests.sort();
    assert_eq!(manifests.len(), 3);
    let path = fixture.path(&format!("out/_hfauto/units/{}", manifests[1]));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(report(&fixture, &[])["units"]["computed"], 1);
    assert_same(&output(&fixture, "out"), &expected);

    fs::write(&path, text.replace("\"version\": 1", "\"version\": 3")).unwrap();
    let failed = fixture.run(&["run", "embed.yaml"]);
    failed.fails(73, &["is of version 3, this program knows 2", "newer hfauto-pipe"]);
    fixture.run(&["run", "embed.yaml", "--fresh"]).succeeds();
    assert_same(&output(&fixture, "out"), &expected);
}

#[test]
fn an_incremental_run_computes_what_is_new_or_has_changed() {
    let fixture = fixture(4, "run: {incremental: new_or_changed}");
    let counts = |fixture: &Fixture, args: &[&str]| {
        let report = report(fixture, args);
        let units = &report["units"];
        let number = |name: &str| units[name].as_u64().unwrap();
        let vanished = units["vanished"].as_array().unwrap().len() as u64;
        (number("computed"), number("skipped"), vanished)
    };
    assert_eq!(counts(&fixture, &[]), (4, 0, 0));
    let first = output(&fixture, "out");

    fixture
        .run(&["run", "embed.yaml", "--set", "run.incremental=null", "--prune"])
        .fails(64, &["`--prune` requires `run.incremental`"]);

    // Nothing to do: no weights are read.
    let report_of_nothing = report(&fixture, &[]);
    assert_eq!(report_of_nothing["steps"][0]["parameters"], 0);
    assert_eq!(report_of_nothing["rows_written"], 0);
    assert_same(&output(&fixture, "out"), &first);

    // A changed file and a new one.
    write_file(&fixture, 1, 25);
    write_file(&fixture, 4, 5);
    let plan = fixture.run(&["plan", "embed.yaml", "--explain"]);
    let why: Vec<&str> =
        plan.succeeds().stdout.lines().map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!(why, ["done before", "the file has changed", "done before", "done before", "new"]);
    let plan = fixture.run(&["plan", "embed.yaml"]);
    assert!(plan.succeeds().stdout.contains("2 to compute, 3 done"), "{}", plan.stdout);
    assert_eq!(counts(&fixture, &[]), (2, 3, 0));
    let mut expected: Vec<i64> = (0..20).collect();
    expected.extend(1000..1025);
    expected.extend(2000..2020);
    expected.extend(3000..3020);
    expected.extend(4000..4005);
    assert_eq!(ids(&fixture, "out"), expected);
    let kept = output(&fixture, "out");
    let same = kept.iter().filter(|(name, bytes)| first.get(*name) == Some(*bytes)).count();
    // Three parts with their manifests, and `_SUCCESS`.
    assert_eq!(same, 7);

    // A removed file: its rows stay until they are pruned.
    fs::remove_file(fixture.path("in/002.csv")).unwrap();
    assert_eq!(counts(&fixture, &[]), (0, 4, 1));
    assert_eq!(ids(&fixture, "out"), expected);
    assert_eq!(counts(&fixture, &["--prune"]), (0, 4, 1));
    expected.retain(|id| !(2000..3000).contains(id));
    assert_eq!(ids(&fixture, "out"), expected);
    assert_eq!(counts(&fixture, &[]), (0, 4, 0));

    // Other options are a different result.
    let pipeline = fs::read_to_string(fixture.path("embed.yaml")).unwrap();
    let other = pipeline.replace("output: embedding", "output: embedding, normalize: false");
    fixture.file("embed.yaml", other);
    let plan = fixture.run(&["plan", "embed.yaml", "--explain"]);
    assert!(plan.succeeds().stdout.contains("an option or the SQL has changed"), "{}", plan.stdout);
    assert_eq!(counts(&fixture, &[]), (4, 0, 0));
    assert_eq!(ids(&fixture, "out"), expected);
    fixture.file("embed.yaml", pipeline);

    // If the exchange is killed at any step, the next run completes it.
    for place in ["unit.committed:2", "publish.planned", "publish.renamed", "publish.marked"] {
        write_file(&fixture, 1, 30);
        fs::remove_dir_all(fixture.path("out")).unwrap();
        counts(&fixture, &[]);
        let before = output(&fixture, "out");
        write_file(&fixture, 1, 31);
        write_file(&fixture, 3, 21);
        let mut run = fixture.command(&["run", "embed.yaml", "--progress", "none"]);
        let status = run.env("HFAUTO_FAILPOINT", place).output().unwrap().status;
        assert_eq!(status.signal(), Some(9), "{place}");
        if place.starts_with("unit") || place == "publish.planned" {
            // Readers still see the previous output.
            let visible = |files: BTreeMap<String, Vec<u8>>| {
                files
                    .into_iter()
                    .filter(|(name, _)| !name.starts_with("_hfauto/"))
                    .collect::<Vec<_>>()
            };
            assert_eq!(visible(output(&fixture, "out")), visible(before), "{place}");
        }
        let rest = counts(&fixture, &[]);
        assert_eq!(rest.0 + rest.1, 4, "{place}");
        let found = ids(&fixture, "out");
        assert_eq!(found.len(), 20 + 31 + 21 + 5, "{place}");
        write_file(&fixture, 3, 20);
    }
}

#[test]
fn jobs_that_cannot_be_incremental_are_reported() {
    let fixture = Fixture::new();
    write_file(&fixture, 0, 3);
    let check = |steps: &str, sink: &str, reason: &str| {
        fixture.file(
            "p.yaml",
            format!(
                "version: 1\nsource: {{path: 'in/*.csv'}}\nsteps:\n- sql: {steps}\nsink: {{path: '{sink}'}}\nrun: {{incremental: new_or_changed}}\n"
            ),
        );
        fixture.run(&["run", "p.yaml"]).fails(78, &["needs a pipeline", reason]);
        // Errors in the text are reported before any input exists.
        let validated = fixture.run(&["validate", "p.yaml"]);
        if reason.starts_with("subquery") {
            validated.succeeds();
        } else {
            validated.fails(78, &["needs a pipeline", reason, "step at", "p.yaml:4:3"]);
        }
    };
    check("SELECT * FROM input ORDER BY id", "out/", "sorts all rows");
    check("SELECT count(*) FROM input", "out/", "aggregates all rows");
    check("SELECT *, row_number() OVER () AS n FROM input", "out/", "window over all rows");
    check("SELECT a.* FROM input a JOIN input b ON a.id = b.id", "out/", "joins all rows");
    check(
        "SELECT *, (SELECT max(id) FROM input) AS m FROM input",
        "out/",
        "subquery over all rows",
    );
    check("SELECT * FROM input LIMIT 2", "out/", "has a limit");
    fixture.file(
        "limit.yaml",
        "version: 1\nsource: {path: 'in/*.csv', limit: 3}\nsink: {path: out/}\nrun: {incremental: new_or_changed}\n",
    );
    for verb in ["validate", "run"] {
        fixture.run(&[verb, "limit.yaml"]).fails(78, &["needs a pipeline", "limit.yaml"]);
    }
    fixture.file(
        "file.yaml",
        "version: 1\nsource: {path: 'in/*.csv'}\nsink: {path: out.parquet}\nrun: {incremental: new_or_changed}\n",
    );
    fixture.run(&["validate", "file.yaml"]).fails(78, &["needs a folder", "file.yaml:4:7"]);
    fixture.file(
        "whole.yaml",
        "version: 1\nsource: {path: 'in/*.csv'}\nsteps:\n- sql: SELECT * FROM input ORDER BY id\nsink: {path: out/}\n",
    );
    let plan = fixture.run(&["plan", "whole.yaml"]);
    assert!(plan.succeeds().stdout.contains("published when it is done"), "{}", plan.stdout);
}

/// The current time is not an option: a job that uses it is resumed.
#[test]
fn a_query_with_the_time_is_the_same_job() {
    let fixture = Fixture::new();
    (0..3).for_each(|file| write_file(&fixture, file, 2));
    fixture.file(
        "p.yaml",
        "version: 1\nsource: {path: 'in/*.csv'}\nsteps:\n- sql: SELECT *, now() AS at FROM input\nsink: {path: out/}\n",
    );
    fixture.run(&["run", "p.yaml"]).succeeds();
    let again = fixture.run(&["run", "p.yaml"]);
    assert!(
        again.succeeds().stdout.contains("nothing to compute: all 3 units"),
        "{}",
        again.stdout
    );
}

/// Files are split at row boundaries: no row is lost or repeated, in any format.
#[test]
fn cut_files_give_all_rows_in_order() {
    const ROWS: usize = 50_000;
    let words = |row: usize| match row % 7 {
        // A line break, a quote and a delimiter, which CSV must quote.
        0 => format!("row {row}\nsays \"no\", and goes on"),
        1 => String::new(),
        _ => "x".repeat(row % 90 + 1),
    };
    let fixture = Fixture::new();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new((0..ROWS as i64).collect::<Int64Array>()),
            Arc::new((0..ROWS).map(|row| Some(words(row))).collect::<StringArray>()),
        ],
    )
    .unwrap();
    for (name, group) in [("small", 1000), ("large", ROWS), ("odd", 20_000)] {
        let file = fs::File::create(fixture.path(&format!("{name}.parquet"))).unwrap();
        let properties =
            WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
        let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    let mut jsonl = fs::File::create(fixture.path("rows.jsonl")).unwrap();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut jsonl);
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let mut csv = "id,text\r\n".to_owned();
    for row in 0..ROWS {
        let text = words(row).replace('"', "\"\"");
        write!(csv, "{row},\"{text}\"{}", if row % 2 == 0 { "\n" } else { "\r\n" }).unwrap();
    }
    let utf16: Vec<u8> =
        format!("\u{feff}{csv}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fixture.file("utf16.csv", utf16);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(csv.as_bytes()).unwrap();
    fixture.file("rows.csv.gz", gzip.finish().unwrap());
    // A byte order mark counts as a part of the text.
    fixture
        .file("marked.csv.zst", zstd::encode_all(format!("\u{feff}{csv}").as_bytes(), 1).unwrap());
    let jsonl = fs::read(fixture.path("rows.jsonl")).unwrap();
    fixture.file("rows.jsonl.zst", zstd::encode_all(&jsonl[..], 1).unwrap());
    fixture.file("rows.csv", csv);
    let mut arrow = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &schema).unwrap();
    (0..ROWS).step_by(1000).for_each(|row| arrow.write(&batch.slice(row, 1000)).unwrap());
    fixture.file("file.arrow", arrow.into_inner().unwrap());
    let mut arrow = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &schema).unwrap();
    arrow.write(&batch).unwrap();
    fixture.file("stream.arrow", arrow.into_inner().unwrap());

    for name in [
        "small.parquet",
        "large.parquet",
        "odd.parquet",
        "rows.jsonl",
        "rows.jsonl.zst",
        "rows.csv",
        "rows.csv.gz",
        "marked.csv.zst",
        "utf16.csv",
        "file.arrow",
        "stream.arrow",
    ] {
        fixture.file(
            "copy.yaml",
            format!(
                "version: 1\nsource: {{path: {name}}}\nsteps:\n- sql: SELECT id, text, id % 3 = 0 AS third FROM input WHERE id % 5 <> 1\nsink: {{path: out/}}\n"
            ),
        );
        fixture.run(&["run", "copy.yaml", "--fresh"]).succeeds();
        let parts: Vec<_> =
            fixture.files("out").into_iter().filter(|part| part.ends_with(".parquet")).collect();
        assert!((3..=5).contains(&parts.len()), "{name}: {parts:?}");
        let batches: Vec<_> =
            parts.iter().map(|part| read_parquet(&fixture.path(&format!("out/{part}")))).collect();
        let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
        let ids: Vec<i64> = (0..ROWS as i64).filter(|id| id % 5 != 1).collect();
        let found = rows["id"].as_any().downcast_ref::<Int64Array>().unwrap();
        assert_eq!(found.values().to_vec(), ids, "{name}");
        let texts = rows["text"].as_any().downcast_ref::<StringArray>().unwrap();
        for (index, &id) in ids.iter().enumerate() {
            let expected = words(id as usize);
            // An empty CSV field is null.
            let found = if texts.is_null(index) { "" } else { texts.value(index) };
            assert_eq!(found, expected, "{name}: row {id}");
        }
    }
    assert!(Path::new(&fixture.path("out/_SUCCESS")).is_file());
}

/// The cut of a file depends on its own rows and the pipeline.
#[test]
fn units_of_a_large_model_have_few_rows() {
    let fixture = Fixture::new();
    fixture.copy_model();
    let config = fixture.path("model/config.json");
    let mut large: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    (large["hidden_size"], large["num_hidden_layers"]) = (4096.into(), 32.into());
    large["num_attention_heads"] = 32.into();
    let units = |fixture: &Fixture, args: &[&str]| {
        let plan = fixture.run(&[&["plan", "embed.yaml", "--explain"], args].concat());
        let lines = plan.succeeds().stdout.lines().map(str::to_owned);
        lines.filter(|line| line.contains("000.csv")).collect::<Vec<_>>()
    };
    fixture.file("embed.yaml", embed_pipeline(Path::new("model"), "in/*.csv", "out/", ""));
    write_file(&fixture, 0, 2000);
    write_file(&fixture, 1, 1);
    assert_eq!(units(&fixture, &[]).len(), 1);
    fs::write(&config, large.to_string()).unwrap();
    let cut = units(&fixture, &[]);
    assert!((10..200).contains(&cut.len()), "{}", cut.len());
    write_file(&fixture, 2, 500);
    assert_eq!(units(&fixture, &[]), cut);
    assert_eq!(units(&fixture, &["--set", "run.unit_rows=1000"]).len(), 2);
    // Longer texts, and fewer rows of them.
    let long: String = (0..2000).map(|row| format!("{row},{}\n", text(0, row).repeat(4))).collect();
    fixture
        .file("in/000.csv", format!("id,text\n{}", long.replace(": boats, bread", " boats bread")));
    let more = units(&fixture, &[]).len();
    assert!(more > cut.len() * 3 / 2, "{more} units after {}", cut.len());
}

#[test]
fn a_single_file_is_made_in_units() {
    let fixture = Fixture::new();
    write_file(&fixture, 0, 50);
    write_file(&fixture, 1, 30);
    let more = "on_error: {rows: 'null', column: _error}\nrun: {unit_rows: 16}";
    for (name, other) in
        [("x.parquet", "y.parquet"), ("x.csv.gz", "y.csv.gz"), ("x.arrow", "y.arrow")]
    {
        let sink =
            |name: &str| embed_pipeline(&mini_embedder(), "in/*.csv", &format!("out/{name}"), more);
        fixture.file("embed.yaml", sink(other));
        let whole = report(&fixture, &[]);
        assert_eq!(whole["units"]["computed"], 6);
        let expected = fs::read(fixture.path(&format!("out/{other}"))).unwrap();
        fixture.file("embed.yaml", sink(name));
        let kill = |place: &str, args: &[&str]| {
            let args = [&["run", "embed.yaml", "--progress", "none"], args].concat();
            let status = fixture.command(&args).env("HFAUTO_FAILPOINT", place).output().unwrap();
            assert_eq!(status.status.signal(), Some(9), "{place}");
        };
        kill("unit.committed:3", &[]);
        assert!(!fixture.path(&format!("out/{name}")).exists());
        let status = fixture.run(&["status", "embed.yaml"]);
        assert!(status.succeeds().stdout.contains("interrupted: "), "{}", status.stdout);
        let plan = fixture.run(&["plan", "embed.yaml"]);
        let rest = report(&fixture, &[]);
        let number = |key: &str| rest["units"][key].as_u64().unwrap();
        let (computed, skipped) = (number("computed"), number("skipped"));
        // The other unit in flight may have been committed, too.
        assert!((3..=4).contains(&skipped) && computed + skipped == 6, "{rest}");
        let expected_plan = format!("{computed} to compute, {skipped} done");
        assert!(plan.succeeds().stdout.contains(&expected_plan), "{}", plan.stdout);
        let found = fs::read(fixture.path(&format!("out/{name}"))).unwrap();
        assert!(found == expected, "{name} differs");
        // The folder of units is gone, and no lock is left.
        let mut names: Vec<_> = fs::read_dir(fixture.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name.starts_with(['.', '_']));
        assert!(names.is_empty(), "{names:?}");
        // Another run may not replace the file; one that may continues where it was killed.
        fixture.run(&["run", "embed.yaml"]).fails(73, &["exists", "--fresh"]);
        kill("unit.committed:2", &["--fresh"]);
        let again = report(&fixture, &["--fresh"]);
        assert!(again["units"]["skipped"].as_u64() >= Some(2), "{again}");
        assert!(fs::read(fixture.path(&format!("out/{name}"))).unwrap() == expected);
    }
    let join = ["run", "embed.yaml", "--join", "--set", "sink.path=new.parquet"];
    fixture.run(&join).fails(78, &["the output is one file"]);
}

/// An output was written without `incremental`: what it has is not computed again.
#[test]
fn incremental_can_be_turned_on_at_any_time() {
    const TURN_ON: &str = "run.incremental=new_or_changed";
    let pipeline = |more: &str| embed_pipeline(&mini_embedder(), "in/*.csv", "out/", more);
    // A job in units, one by an earlier version that kept no manifests of them, and a job of one unit.
    for (files, is_earlier) in [(3, false), (3, true), (1, false)] {
        let fixture = Fixture::new();
        (0..files).for_each(|file| write_file(&fixture, file, 20));
        fixture.file("embed.yaml", pipeline(""));
        report(&fixture, &[]);
        let before = output(&fixture, "out");
        if is_earlier {
            fs::remove_dir_all(fixture.path("out/_hfauto/units")).unwrap();
        }
        write_file(&fixture, files, 5);
        // The refusal names the way, before any work and in its own words.
        fixture.run(&["run", "embed.yaml"]).fails(73, &["exists", TURN_ON]);
        let plan = fixture.run(&["plan", "embed.yaml"]);
        let stdout = &plan.succeeds().stdout;
        assert!(stdout.contains("`run` exits with 73") && stdout.contains(TURN_ON), "{stdout}");
        let plan = fixture.run(&["plan", "embed.yaml", "--explain", "--set", TURN_ON]);
        let done = plan.succeeds().stdout.matches("done before").count();
        assert_eq!(done, files, "{}", plan.stdout);

        let units = &report(&fixture, &["--set", TURN_ON])["units"];
        let files_now = files as u64;
        assert_eq!(
            (units["computed"].as_u64(), units["skipped"].as_u64()),
            (Some(1), Some(files_now)),
            "{units}"
        );
        let expected: Vec<i64> = (0..files as i64)
            .flat_map(|file| (0..20).map(move |row| file * 1000 + row))
            .chain((0..5).map(|row| files as i64 * 1000 + row))
            .collect();
        assert_eq!(ids(&fixture, "out"), expected);
        let now = output(&fixture, "out");
        let parts = before.iter().filter(|(name, _)| name.ends_with(".parquet"));
        assert!(parts.clone().count() > 0);
        parts.for_each(|(name, bytes)| assert!(now.get(name) == Some(bytes), "{name}"));
        // A changed file is computed again, and its old rows go.
        write_file(&fixture, 0, 21);
        assert_eq!(report(&fixture, &["--set", TURN_ON])["units"]["computed"], 1);
        assert_eq!(ids(&fixture, "out").len(), expected.len() + 1);
    }
}
