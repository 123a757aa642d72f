//! Schedules through the real program: each due time is run exactly once, whatever happens. `HFAUTO_NOW` sets the
//! clock.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use hfauto_pipe::failpoint::SCHEDULE_FAILPOINTS;
use serde_json::Value;

use super::prometheus::Metrics;
use super::support::{Fixture, Ran, embed_pipeline, mini_embedder, repository};

/// Rows copied to `out/NAME`, at the times of `schedule`.
fn copy(name: &str, schedule: &str) -> String {
    format!(
        "version: 1\nsource: {{path: ../in/*.csv}}\nsink: {{path: ../out/{name}/}}\nschedule: {{{schedule}}}\n"
    )
}

const DAILY: &str = "cron: 0 3 * * *";

/// Two input files, and pipelines in `pipes`.
fn fixture(pipelines: &[(&str, &str)]) -> Fixture {
    let fixture = Fixture::new();
    fixture.file("in/a.csv", "id,text\n1,a\n2,b\n").file("in/b.csv", "id,text\n3,c\n");
    for (name, text) in pipelines {
        fixture.file(&format!("pipes/{name}"), text);
    }
    fixture
}

fn due_at(fixture: &Fixture, now: &str) -> Ran {
    fixture.run_with(&["run", "--due", "pipes", "--progress", "none"], &[("HFAUTO_NOW", now)])
}

fn state(fixture: &Fixture, file: &str) -> Value {
    let path = fixture.path(&format!("pipes/.hfauto/schedule/{file}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn is_there(fixture: &Fixture, name: &str) -> bool {
    fixture.path(&format!("out/{name}/_SUCCESS")).exists()
}

#[test]
fn a_due_time_runs_once() {
    let fixture = fixture(&[("a.yaml", &copy("a", DAILY)), ("plain.yaml", &copy("plain", DAILY))]);
    let plain = fs::read_to_string(fixture.path("pipes/plain.yaml")).unwrap();
    fixture.file("pipes/plain.yaml", plain.split("schedule:").next().unwrap());

    // A new pipeline is due from the next time on.
    let ran = due_at(&fixture, "2026-03-02T10:00:00Z");
    let first = "a.yaml: seen for the first time, next 2026-03-03 03:00:00 UTC";
    assert!(ran.succeeds().stderr.contains(first), "{}", ran.stderr);
    for early in ["2026-03-02T10:05:00Z", "2026-03-03T02:59:58Z"] {
        let ran = due_at(&fixture, early);
        assert_eq!((ran.succeeds().stderr.as_str(), ran.stdout.as_str()), ("", ""));
    }
    assert!(!is_there(&fixture, "a"));

    let ran = due_at(&fixture, "2026-03-03T03:00:30Z");
    ran.succeeds();
    assert!(ran.stderr.contains("a.yaml: started, due 2026-03-03 03:00:00 UTC"), "{}", ran.stderr);
    assert!(ran.stderr.contains("a.yaml: done, 3 rows"), "{}", ran.stderr);
    assert!(ran.stderr.contains("next 2026-03-04 03:00:00 UTC"), "{}", ran.stderr);
    assert!(is_there(&fixture, "a") && !is_there(&fixture, "plain"));

    // It is not due again, even if the clock goes back by seconds or by a month.
    for now in ["2026-03-03T03:00:31Z", "2026-03-03T23:00:00Z", "2026-03-03T02:59:59Z"] {
        assert_eq!(due_at(&fixture, now).succeeds().stderr, "");
    }
    let ran = due_at(&fixture, "2026-02-01T03:00:00Z");
    assert!(ran.succeeds().stderr.contains("the clock is behind the last run"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("started"), "{}", ran.stderr);

    // Forward by a month, or after a month without a scheduler: once.
    let ran = due_at(&fixture, "2026-04-10T12:00:00Z");
    let started = ran.succeeds().stderr.matches("started, due 2026-04-10 03:00:00 UTC").count();
    assert_eq!(started, 1, "{}", ran.stderr);
    assert_eq!(due_at(&fixture, "2026-04-10T12:00:10Z").succeeds().stderr, "");
    let last = &state(&fixture, "a.yaml")["last"];
    assert_eq!((&last["outcome"], &last["exit_code"]), (&"done".into(), &0.into()));
    assert_eq!(last["due"], "2026-04-10T03:00:00Z");
}

#[test]
fn each_pipeline_has_its_metrics() {
    let broken = copy("b", DAILY).replace("in/*.csv", "none/*.csv");
    let fixture = fixture(&[("a.yaml", &copy("a", DAILY)), ("b.yml", &broken)]);
    let run = |now: &str, metrics: &str| {
        let args = ["run", "--due", "pipes", "--progress", "none", "--metrics-file", metrics];
        fixture.run_with(&args, &[("HFAUTO_NOW", now)])
    };
    run("2026-03-02T10:00:00Z", "metrics").fails(64, &["`metrics` is not a folder"]);
    fs::create_dir(fixture.path("metrics")).unwrap();
    run("2026-03-02T10:00:00Z", "metrics").succeeds();
    assert_eq!(fixture.files("metrics"), [""; 0]);
    run("2026-03-03T03:00:05Z", "metrics").fails(66, &["b.yml"]);
    // As a collector reads it: all files, with no duplicate series.
    let text = |name: &str| fs::read_to_string(fixture.path(&format!("metrics/{name}"))).unwrap();
    assert_eq!(fixture.files("metrics"), ["a.yaml.prom", "b.yml.prom"]);
    for (name, pipeline, success) in [("a.yaml.prom", "a", 1.0), ("b.yml.prom", "b", 0.0)] {
        let metrics = Metrics::parse(&text(name));
        assert_eq!(metrics.pipelines(), [pipeline.to_owned()].into());
        assert_eq!(metrics.value("hfauto_pipe_last_run_success", &[]), Some(success), "{name}");
    }
}

#[test]
fn times_are_those_of_the_zone_and_jitter_puts_them_off() {
    let berlin = copy("a", "cron: 30 2 * * *, timezone: Europe/Berlin");
    let late = copy("b", "cron: 0 3 * * *, jitter: 30m, catch_up: false");
    let fixture = fixture(&[("a.yaml", &berlin), ("b.yaml", &late)]);
    // On 29 March the clock goes from 02:00 to 03:00.
    let ran = due_at(&fixture, "2026-03-28T12:00:00Z");
    assert!(ran.succeeds().stderr.contains("next 2026-03-29 03:00:00 CEST"), "{}", ran.stderr);
    let next = ran.stderr.split("b.yaml: seen for the first time, next ").nth(1).unwrap();
    let next = next[..19].replace(' ', "T") + "Z";
    assert!("2026-03-29T03:00:00Z" < next.as_str() && next.as_str() < "2026-03-29T03:30:00Z");
    let ran = due_at(&fixture, "2026-03-29T01:00:00Z");
    assert!(ran.succeeds().stderr.contains("due 2026-03-29 03:00:00 CEST"), "{}", ran.stderr);
    assert!(ran.stderr.contains("next 2026-03-30 02:30:00 CEST"), "{}", ran.stderr);
    assert_eq!(due_at(&fixture, "2026-03-29T03:00:00Z").succeeds().stderr, "");
    let ran = due_at(&fixture, &next);
    assert!(ran.succeeds().stderr.contains("b.yaml: started"), "{}", ran.stderr);

    // Days later, without `catch_up`: skipped and reported.
    let ran = due_at(&fixture, "2026-04-05T12:00:00Z");
    let left_out = "b.yaml: skipped 2026-04-05 03:00:00 UTC";
    assert!(ran.succeeds().stderr.contains(left_out), "{}", ran.stderr);
    assert!(ran.stderr.contains("a.yaml: started"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("b.yaml: started"), "{}", ran.stderr);
    assert_eq!(due_at(&fixture, "2026-04-05T12:00:10Z").succeeds().stderr, "");
}

#[test]
fn a_failure_does_not_affect_other_pipelines() {
    let missing = copy("missing", DAILY).replace("../in/*.csv", "../nothing/*.csv");
    let fixture = fixture(&[
        ("a-missing.yaml", &missing),
        ("b-broken.yaml", "version: 1\nsource: {path: ../in/a.csv}\nsnk: {path: out}\n"),
        ("c-good.yaml", &copy("good", DAILY)),
    ]);
    let ran = due_at(&fixture, "2026-03-02T10:00:00Z");
    ran.fails(78, &["b-broken.yaml: cannot be run: 1:1 missing", "error: `b-broken.yaml` failed"]);
    let ran = due_at(&fixture, "2026-03-03T03:00:00Z");
    // Unusable files come first.
    ran.fails(
        78,
        &[
            "a-missing.yaml: failed with 66: ",
            "c-good.yaml: done, 3 rows",
            "2 pipelines failed: `b-broken.yaml`, `a-missing.yaml`",
        ],
    );
    assert!(is_there(&fixture, "good"));
    fs::remove_file(fixture.path("pipes/b-broken.yaml")).unwrap();
    // A failed run is not retried; the next time is due.
    assert_eq!(due_at(&fixture, "2026-03-03T03:05:00Z").succeeds().stderr, "");
    due_at(&fixture, "2026-03-04T03:05:00Z").fails(66, &["a-missing.yaml: failed with 66"]);

    let status = |args: &[&str]| {
        let args = [&["status", "pipes"], args].concat();
        fixture.run_with(&args, &[("HFAUTO_NOW", "2026-03-04T04:00:00Z")])
    };
    fixture.file("pipes/d-broken.yaml", "version: 1\n").file("pipes/e.yaml", copy("e", DAILY));
    let text = status(&[]).succeeds().stdout.clone();
    let line = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
    };
    let next = "2026-03-05 03:00:00 UTC";
    assert_eq!(line("a-missing"), ["a-missing.yaml", next, "failed", "2026-03-04 03:05:00 UTC"]);
    assert_eq!(line("c-good")[..3], ["c-good.yaml", next, "done"]);
    assert_eq!(line("d-broken"), ["d-broken.yaml", "cannot be run"]);
    assert_eq!(line("e.yaml"), ["e.yaml", next, "never run"]);
    assert!(text.contains("    exit code 66: nothing matches"), "{text}");

    let json: Value = serde_json::from_str(&status(&["--json"]).succeeds().stdout).unwrap();
    let pipelines = json["pipelines"].as_array().unwrap();
    assert_eq!(pipelines.len(), 4);
    let failed = &pipelines[0]["scheduled"];
    assert_eq!(
        (&failed["state"], &failed["next"]),
        (&"waiting".into(), &"2026-03-05T03:00:00Z".into())
    );
    assert_eq!((&failed["last"]["exit_code"], &failed["cron"]), (&66.into(), &"0 3 * * *".into()));
    assert!(failed["last"]["error"].as_str().unwrap().contains("nothing matches"));
    assert!(pipelines[2]["error"].as_str().unwrap().contains("d-broken.yaml"));
    // A check writes nothing: `e.yaml` has no state.
    assert!(!fixture.path("pipes/.hfauto/schedule/e.yaml.json").exists());

    let one = fixture
        .run_with(&["status", "pipes/c-good.yaml"], &[("HFAUTO_NOW", "2026-03-05T04:00:00Z")]);
    let expected = "schedule  0 3 * * * UTC, next due 2026-03-05 03:00:00 UTC\nlast run  done 2026-03-04 03:05:0";
    assert!(one.succeeds().stdout.contains(expected), "{}", one.stdout);
    let one = fixture.run(&["status", "pipes/c-good.yaml", "--json"]);
    let json: Value = serde_json::from_str(&one.succeeds().stdout).unwrap();
    assert_eq!(
        (&json["state"], &json["scheduled"]["last"]["outcome"]),
        (&"published".into(), &"done".into())
    );
}

#[test]
fn a_crash_costs_no_due_time_and_no_run_is_made_twice() {
    for place in SCHEDULE_FAILPOINTS {
        let fixture = fixture(&[("a.yaml", &copy("a", DAILY))]);
        due_at(&fixture, "2026-03-02T10:00:00Z").succeeds();
        let mut run = fixture.command(&["run", "--due", "pipes"]);
        let run = run.env("HFAUTO_NOW", "2026-03-03T03:00:00Z").env("HFAUTO_FAILPOINT", place);
        assert_eq!(run.output().unwrap().status.signal(), Some(9), "{place}");
        let ran = due_at(&fixture, "2026-03-03T03:00:05Z");
        ran.succeeds();
        match *place {
            "schedule.finished" => assert_eq!(ran.stderr, "", "{place}"),
            place => {
                let again =
                    "started again, due 2026-03-03 03:00:00 UTC: the previous run did not end";
                assert!(ran.stderr.contains(again), "{place}\n{}", ran.stderr);
                // Units that were done are not computed again.
                let units = if place == "schedule.ran" { (0, 2) } else { (2, 0) };
                let units = format!("{} units computed, {} done before", units.0, units.1);
                assert!(ran.stderr.contains(&units), "{place}\n{}", ran.stderr);
            }
        }
        assert!(is_there(&fixture, "a"));
        assert_eq!(due_at(&fixture, "2026-03-03T03:00:09Z").succeeds().stderr, "", "{place}");
    }
}

#[test]
fn damaged_states_lose_no_time_and_newer_ones_are_refused() {
    let fixture =
        fixture(&[("a.yaml", &copy("a", "cron: '* * * * *'")), ("b.yaml", &copy("b", DAILY))]);
    let due = || fixture.run(&["run", "--due", "pipes", "--progress", "none"]);
    due().succeeds();
    let path = fixture.path("pipes/.hfauto/schedule/a.yaml.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    // As of two minutes ago, so that a time has passed since.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_mins(2)).unwrap();
    let ran = due();
    assert!(
        ran.succeeds().stderr.contains("a.yaml: its state is damaged: times until"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("a.yaml: done, 3 rows"), "{}", ran.stderr);
    assert_eq!(state(&fixture, "a.yaml")["last"]["outcome"], "done");

    fs::write(&path, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    due().fails(73, &["a.yaml: cannot be run: the state", "is of version 2, this program knows 1"]);
    fixture.run(&["status", "pipes"]).succeeds();
}

#[test]
fn states_can_be_elsewhere() {
    let fixture = fixture(&[("a.yaml", &copy("a", DAILY))]);
    for (now, is_done) in [("2026-03-02T10:00:00Z", false), ("2026-03-03T03:00:00Z", true)] {
        let args = ["run", "--due", "pipes", "--state", "var/states", "--progress", "none"];
        fixture.run_with(&args, &[("HFAUTO_NOW", now)]).succeeds();
        assert_eq!(is_there(&fixture, "a"), is_done);
    }
    assert_eq!(fixture.files("pipes"), ["a.yaml"]);
    assert!(fixture.path("var/states/a.yaml.json").exists());
    let status = fixture.run(&["status", "pipes", "--state", "var/states"]);
    assert!(status.succeeds().stdout.contains("done"), "{}", status.stdout);

    // Without a writable state, nothing is run.
    fixture.file("file", "");
    let args = ["run", "--due", "pipes", "--state", "file/states"];
    fixture.run(&args).fails(73, &["a.yaml: cannot be run: cannot make the state", "--state DIR"]);
    fixture.run(&["run", "--due", "nowhere"]).fails(66, &["cannot read the folder `nowhere`"]);
    assert!(!fixture.path("nowhere").exists());
    fixture.run(&["schedule", "nowhere"]).fails(66, &["cannot read the folder `nowhere`"]);
    fixture.run(&["run", "pipes"]).fails(64, &["`pipes` is a folder", "run --due FOLDER"]);
}

/// A running scheduler service, and its output.
struct Staying {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Staying {
    fn start(fixture: &Fixture, now: &str, failpoint: &str) -> Self {
        let mut child = fixture
            .command(&["schedule", "pipes"])
            .env("HFAUTO_NOW", now)
            .env("HFAUTO_FAILPOINT", failpoint)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok()
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    fn says(&mut self, text: &str) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_mins(2) {
            match self.lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => {
                    let is_it = line.contains(text);
                    self.said.push(line);
                    if is_it {
                        return;
                    }
                }
                Err(_) => assert!(self.child.try_wait().unwrap().is_none(), "{:#?}", self.said),
            }
        }
        panic!("it never said `{text}`: {:#?}", self.said);
    }

    fn signal(&self, name: &str) {
        Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
    }

    /// The exit code after a signal, and the complete output.
    fn ends(&mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        self.said.extend(self.lines.iter());
        (code, self.said.join("\n"))
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_scheduler_that_stays_follows_its_folder() {
    let every_minute = copy("b", "cron: '* * * * *'");
    let fixture = fixture(&[("a.yaml", &copy("a", DAILY)), ("z-broken.yaml", "version: 1\n")]);
    due_at(&fixture, "2026-03-02T10:00:00Z").fails(78, &[]);
    // A time has passed while no scheduler was running.
    let mut staying = Staying::start(&fixture, "2026-03-03T04:30:40Z", "");
    staying.says("z-broken.yaml: cannot be run");
    staying.says("a.yaml: started, due 2026-03-03 03:00:00 UTC");
    staying.says("a.yaml: done, 3 rows");
    // A second scheduler reports the first one; `run --due` finds nothing left to do.
    let who = format!("another scheduler serves `pipes`: process {} on ", staying.child.id());
    fixture.run(&["schedule", "pipes"]).fails(75, &[&who]);
    fs::remove_file(fixture.path("pipes/z-broken.yaml")).unwrap();
    assert_eq!(due_at(&fixture, "2026-03-03T04:31:00Z").succeeds().stderr, "");

    // A new file, then a changed, broken, fixed and removed one.
    fixture.file("pipes/b.yaml", &every_minute);
    staying.says("z-broken.yaml: is gone");
    staying.says("b.yaml: seen for the first time, next 2026-03-03 04:3");
    fixture.file("pipes/a.yaml", copy("a", "cron: 0 5 * * *"));
    staying.says("a.yaml: next 2026-03-03 05:00:00 UTC");
    fixture.file("pipes/a.yaml", "version: 1\n");
    staying.says("a.yaml: cannot be run: 1:1 missing");
    fixture.file("pipes/a.yaml", copy("a", "cron: 0 6 * * *"));
    staying.says("a.yaml: can be run again");
    staying.says("a.yaml: next 2026-03-03 06:00:00 UTC");
    staying.says("b.yaml: done, 3 rows");
    fs::remove_file(fixture.path("pipes/b.yaml")).unwrap();
    staying.says("b.yaml: is gone");
    staying.signal("TERM");
    let (code, said) = staying.ends();
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("error: stopped by SIGTERM"), "{said}");
    assert_eq!(said.matches("z-broken.yaml: cannot be run").count(), 1, "{said}");
    assert!(is_there(&fixture, "a") && is_there(&fixture, "b"));
}

#[test]
fn a_scheduler_survives_a_panic() {
    let fixture = fixture(&[("a.yaml", &copy("a", DAILY)), ("b.yaml", &copy("b", DAILY))]);
    due_at(&fixture, "2026-03-02T10:00:00Z").succeeds();
    let mut staying = Staying::start(&fixture, "2026-03-03T03:00:00Z", "unit.written:1:panic");
    // Each run is a child process, which reaches the failpoint.
    staying.says("a.yaml: failed with 70: the run panicked: the failpoint `unit.written`");
    staying.says("b.yaml: failed with 70: the run panicked: the failpoint `unit.written`");
    staying.signal("INT");
    let (code, said) = staying.ends();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(state(&fixture, "a.yaml")["last"]["exit_code"], 70);
    // The crashed run blocks nobody.
    due_at(&fixture, "2026-03-04T03:00:00Z").succeeds();
    assert!(is_there(&fixture, "a"));
}

#[test]
fn a_signal_keeps_units_and_the_next_start_goes_on() {
    let embed = embed_pipeline(
        &mini_embedder(),
        "../in/*.csv",
        "../out/a/",
        "schedule: {cron: 0 3 * * *, catch_up: false}",
    );
    let fixture = fixture(&[("a.yaml", &embed)]);
    for file in 0..6 {
        fixture.file(&format!("in/{file}.csv"), format!("id,text\n{file},row of file {file}\n"));
    }
    due_at(&fixture, "2026-03-02T10:00:00Z").succeeds();
    // Holds the run at its third unit, so that the signal finds it there.
    let mut staying = Staying::start(&fixture, "2026-03-03T03:00:00Z", "unit.committed:3:hold");
    staying.says("a.yaml: started");
    let units = fixture.path("out/a/_hfauto/units");
    let start = Instant::now();
    while fs::read_dir(&units).map_or(0, Iterator::count) < 3 {
        assert!(start.elapsed() < Duration::from_mins(1), "{:#?}", staying.said);
        std::thread::sleep(Duration::from_millis(5));
    }
    // Meanwhile, another caller skips it, and `status` names the process that runs it.
    let process = format!("process {} on ", staying.child.id());
    let ran = due_at(&fixture, "2026-03-03T03:00:10Z");
    assert!(
        ran.succeeds().stderr.contains(&format!("a.yaml: skipped: {process}")),
        "{}",
        ran.stderr
    );
    let status = fixture.run(&["status", "pipes"]);
    assert!(status.succeeds().stdout.contains("running"), "{}", status.stdout);
    let status = fixture.run(&["status", "pipes/a.yaml"]);
    assert!(status.succeeds().stdout.contains(&process), "{}", status.stdout);
    staying.signal("TERM");
    let (code, said) = staying.ends();
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("a.yaml: interrupted: "), "{said}");
    assert!(said.contains("the next start resumes"), "{said}");
    assert!(!is_there(&fixture, "a"));
    assert_eq!(state(&fixture, "a.yaml")["last"]["outcome"], "interrupted");

    // Hours later, without `catch_up`: this run had started, so it is resumed.
    let ran = due_at(&fixture, "2026-03-03T12:00:00Z");
    assert!(
        ran.succeeds().stderr.contains("started again, due 2026-03-03 03:00:00"),
        "{}",
        ran.stderr
    );
    let before = ran.stderr.split(" computed, ").nth(1).unwrap();
    let before: u32 = before.split(' ').next().unwrap().parse().unwrap();
    assert!((2..8).contains(&before), "{}", ran.stderr);
    assert!(is_there(&fixture, "a"));
}

#[test]
fn an_output_that_is_held_is_tried_again() {
    let fixture = fixture(&[("a.yaml", &copy("a", DAILY))]);
    due_at(&fixture, "2026-03-02T10:00:00Z").succeeds();
    let mut by_hand = fixture
        .command(&["run", "pipes/a.yaml", "--progress", "none"])
        .env("HFAUTO_FAILPOINT", "unit.written:1:hold")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !fixture.path("out/a/_hfauto/lock").exists() {
        assert!(start.elapsed() < Duration::from_mins(1), "the run did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran = due_at(&fixture, "2026-03-03T03:00:00Z");
    ran.fails(75, &["a.yaml: failed with 75: another run is writing", "next 2026-03-03 03:01:0"]);
    assert!(by_hand.wait().unwrap().success());
    assert_eq!(due_at(&fixture, "2026-03-03T03:00:30Z").succeeds().stderr, "");
    let ran = due_at(&fixture, "2026-03-03T03:02:00Z");
    assert!(ran.succeeds().stderr.contains("0 units computed, 2 done before"), "{}", ran.stderr);
}

#[test]
fn the_ready_made_files_are_sound() {
    let examples = repository().join("examples");
    let text = fs::read_to_string(examples.join("kubernetes/cronjob.yaml")).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let kind = |name: &str| documents.iter().find(|document| document["kind"] == name).unwrap();
    let spec = &kind("CronJob")["spec"];
    assert_eq!(spec["concurrencyPolicy"], "Forbid");
    let pod = &spec["jobTemplate"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let args: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!(args[..3], ["run", "--due", "/pipelines"]);
    // Every mount has a volume, and the state is on a persistent one.
    let volume = |name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == name).unwrap().clone()
    };
    let mount = |path: &str| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["mountPath"] == path).unwrap()["name"].clone()
    };
    let state = args[args.iter().position(|arg| *arg == "--state").unwrap() + 1];
    let data = state.rsplit_once('/').unwrap().0;
    let claim = &volume(mount(data).as_str().unwrap())["persistentVolumeClaim"]["claimName"];
    assert_eq!(claim, &kind("PersistentVolumeClaim")["metadata"]["name"]);
    let map = &volume(mount("/pipelines").as_str().unwrap())["configMap"]["name"];
    let config = kind("ConfigMap");
    assert_eq!(map, &config["metadata"]["name"]);
    // Its pipeline is valid.
    let fixture = Fixture::new();
    for (name, pipeline) in config["data"].as_object().unwrap() {
        fixture.file(name, pipeline.as_str().unwrap());
        fixture.run(&["validate", name]).succeeds();
    }

    let unit = |name: &str| fs::read_to_string(examples.join("systemd").join(name)).unwrap();
    let service = unit("hfauto-pipe.service");
    assert!(service.contains("\nExecStart=/usr/local/bin/hfauto-pipe run --due "), "{service}");
    assert!(unit("hfauto-pipe.timer").contains("\nOnCalendar="));
    let staying = unit("hfauto-pipe-scheduler.service");
    assert!(staying.contains("\nExecStart=/usr/local/bin/hfauto-pipe schedule "), "{staying}");
    // systemd's own check, with this program instead of the installed one.
    for name in ["hfauto-pipe.service", "hfauto-pipe.timer", "hfauto-pipe-scheduler.service"] {
        let program = env!("CARGO_BIN_EXE_hfauto-pipe");
        fixture.file(name, unit(name).replace("/usr/local/bin/hfauto-pipe", program));
    }
    let files = ["hfauto-pipe.service", "hfauto-pipe.timer", "hfauto-pipe-scheduler.service"];
    let paths = files.map(|name| fixture.path(name));
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths).output() {
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr);
            let ours: Vec<&str> =
                said.lines().filter(|line| line.contains("hfauto-pipe")).collect();
            assert!(ours.is_empty(), "{ours:#?}");
        }
        Err(_) => eprintln!("skipped: there is no systemd-analyze here"),
    }
}
