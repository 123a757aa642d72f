//! `run --cluster` and `sql --cluster` with a scheduler and executors as processes on loopback: outputs and rows equal those
//! of one process, whatever is killed, frozen or stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{Fixture, Ran, embed_pipeline, mini_embedder, repository, skip};

/// Input files, one unit each.
const FILES: usize = 24;

/// The timeout of the services, in seconds; the default is 20.
const SECONDS: &str = "2";

/// A pipeline over files of some hundred rows, which take a while.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for file in 0..FILES {
        let mut csv = "id,text\n".to_owned();
        for row in 0..400 {
            let text = "boats, bread and the sea ".repeat(1 + row % 9);
            writeln!(csv, "{},\"row {row} of file {file}: {text}\"", file * 1000 + row).unwrap();
        }
        fixture.file(&format!("in/{file:03}.csv"), csv);
    }
    let more = "run: {workers: 1}";
    fixture.file("embed.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", more));
    fixture
}

/// The output that readers see.
fn output(fixture: &Fixture, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let bytes = fs::read(fixture.path(&format!("{folder}/{name}"))).unwrap();
        (name, bytes)
    };
    fixture.files(folder).into_iter().map(read).collect()
}

/// A process that dies with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn signal(&self, name: &str) {
        Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().unwrap();
    }

    /// The exit code, within a minute.
    fn code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < Duration::from_mins(1), "the process does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A scheduler, and executors that a test adds.
struct Services<'f> {
    fixture: &'f Fixture,
    scheduler: Process,
    address: String,
}

impl<'f> Services<'f> {
    fn start(fixture: &'f Fixture) -> Self {
        Self::start_with(fixture, "127.0.0.1:0", &[])
    }

    fn start_with(fixture: &'f Fixture, bind: &str, args: &[&str]) -> Self {
        let args = [&["cluster", "scheduler", "--bind", bind][..], args].concat();
        let (scheduler, address) = service(fixture.command(&args));
        Self { fixture, scheduler, address }
    }

    fn executor(&self) -> Process {
        self.executor_with(&[], &[])
    }

    fn executor_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Process {
        let args = [&["cluster", "executor", &self.address][..], args].concat();
        let mut command = self.fixture.command(&args);
        command.envs(variables.iter().copied());
        service(command).0
    }

    /// A client that runs the pipeline.
    fn client(&self, args: &[&str]) -> Process {
        let mut command = self.fixture.command(&["run", "embed.yaml", "--cluster", &self.address]);
        command.args(["--progress", "none"]).args(args).env("HFAUTO_CLUSTER_SECONDS", SECONDS);
        command.env("HFAUTO_LOCK_SECONDS", "4");
        Process(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Runs the pipeline to its end.
    fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.fixture.command(&["run", "embed.yaml", "--cluster", &self.address]);
        command.args(["--progress", "none"]).args(args).env("HFAUTO_CLUSTER_SECONDS", SECONDS);
        command.env("HFAUTO_LOCK_SECONDS", "4");
        self.fixture.ran(command.output().unwrap())
    }

    /// A client that runs a query and prints its rows.
    fn query(&self, query: &str, args: &[&str]) -> Command {
        let args = [&["sql", query, "--cluster", &self.address][..], args].concat();
        let mut command = self.fixture.command(&args);
        command.env("HFAUTO_CLUSTER_SECONDS", SECONDS);
        command
    }

    /// The rows of a query, as JSON lines.
    fn rows(&self, query: &str) -> String {
        let command = &mut self.query(query, &["--format", "jsonl"]);
        self.fixture.ran(command.output().unwrap()).succeeds().stdout.clone()
    }

    /// A running query, with its rows in a file.
    fn asking(&self, query: &str, rows: &str) -> Process {
        let rows = fs::File::create(self.fixture.path(rows)).unwrap();
        let mut command = self.query(query, &["--format", "jsonl"]);
        Process(command.stdout(rows).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until rows of a running query are there.
    #[track_caller]
    fn wait_for_rows(&self, rows: &str) {
        let start = Instant::now();
        while fs::metadata(self.fixture.path(rows)).unwrap().len() == 0 {
            assert!(start.elapsed() < Duration::from_mins(1), "no row came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn status(&self) -> Value {
        let ran = self.fixture.run(&["cluster", "status", &self.address, "--json"]);
        serde_json::from_str(&ran.succeeds().stdout).unwrap()
    }

    /// The finished units of the output in progress.
    fn done(&self) -> usize {
        let units = fs::read_dir(self.fixture.path("out/_hfauto/units"));
        units.map_or(0, Iterator::count)
    }

    #[track_caller]
    fn wait_for(&self, units: usize) {
        let start = Instant::now();
        while self.done() < units {
            assert!(start.elapsed() < Duration::from_mins(1), "{} units are done", self.done());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Starts a service, which prints its name once it works.
fn service(mut command: Command) -> (Process, String) {
    command.env("HFAUTO_CLUSTER_SECONDS", SECONDS).env("HFAUTO_LOCK_SECONDS", "4");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let process = Process(child);
    assert!(!line.is_empty(), "the service did not start");
    (process, line.trim().to_owned())
}

/// The exit code and stderr of a client.
fn ended(mut client: Process) -> (Option<i32>, String) {
    let code = client.code();
    let mut stderr = String::new();
    client.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (code, stderr)
}

#[track_caller]
fn succeeds(client: Process) {
    let (code, stderr) = ended(client);
    assert_eq!(code, Some(0), "{stderr}");
}

/// The output of `run`, for comparison; the output folder is empty afterwards.
fn expected(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    fixture.run(&["run", "embed.yaml"]).succeeds();
    let expected = output(fixture, "out");
    assert_eq!(expected.len(), FILES * 2 + 2);
    fs::remove_dir_all(fixture.path("out")).unwrap();
    expected
}

#[track_caller]
fn assert_same(fixture: &Fixture, expected: &BTreeMap<String, Vec<u8>>) {
    let found = output(fixture, "out");
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(found == *expected, "files differ in their bytes");
}

/// The units that executors have computed, by their metrics.
fn computed(fixture: &Fixture, files: &[&str]) -> usize {
    let of = |file: &&str| -> usize {
        let text = fs::read_to_string(fixture.path(file)).unwrap();
        let line = "hfauto_pipe_executor_units_total{result=\"done\"} ";
        text.lines().find_map(|found| found.strip_prefix(line)).unwrap().parse().unwrap()
    };
    files.iter().map(of).sum()
}

#[test]
fn a_cluster_writes_the_bytes_of_a_run() {
    let fixture = fixture();
    let expected = expected(&fixture);
    let services = Services::start(&fixture);
    let mut executors = [
        services.executor_with(&["--metrics-file", "a.prom"], &[]),
        services.executor_with(&["--metrics-file", "b.prom"], &[]),
    ];
    services.run(&["--report", "report.json"]).succeeds();
    assert_same(&fixture, &expected);
    let report: Value =
        serde_json::from_slice(&fs::read(fixture.path("report.json")).unwrap()).unwrap();
    let run = &report["run"];
    assert_eq!(run["units"]["computed"], FILES);
    assert_eq!(run["rows_written"], FILES * 400);
    let status = services.status();
    assert_eq!(status["executors"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&status["jobs"][0]["state"], &status["jobs"][0]["units"]),
        (&"done".into(), &FILES.into())
    );
    // Nothing is left to do, for a cluster or for one process.
    services.run(&[]).succeeds();
    fixture.run(&["run", "embed.yaml"]).succeeds();
    assert_same(&fixture, &expected);
    for executor in &mut executors {
        executor.signal("TERM");
        assert_eq!(executor.code(), Some(0));
    }
    assert_eq!(computed(&fixture, &["a.prom", "b.prom"]), FILES);
}

/// The peak of the client's own memory in KiB, until it has submitted units of `files` files in `submissions` parts.
fn memory_of_client(files: usize, submissions: usize) -> u64 {
    let fixture = Fixture::new();
    for file in 0..files {
        fixture.file(&format!("in/{file:05}.csv"), format!("id,text\n{file},boats\n"));
    }
    fixture.file("embed.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", ""));
    let services = Services::start(&fixture);
    let mut client = services.client(&["--cluster-wait", "2m"]);
    let (path, mut peak) = (format!("/proc/{}/status", client.0.id()), 0);
    let start = Instant::now();
    for round in 0.. {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        let is_look = round % 100 == 99;
        if is_look && services.status()["jobs"].as_array().unwrap().len() >= submissions {
            break;
        }
        assert!(start.elapsed() < Duration::from_mins(3), "the units are not submitted");
        assert!(client.0.try_wait().unwrap().is_none(), "{:?}", ended(client));
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}

#[test]
fn the_client_of_many_units_needs_little_memory() {
    if !cfg!(target_os = "linux") {
        return skip("memory is read from /proc");
    }
    let (few, many) = (500, 10_000);
    // The next units are submitted before executors have done the first ones.
    let (least, most) = (memory_of_client(few, 1), memory_of_client(many, 2));
    eprintln!("{few} and {many} units: {least} and {most} KiB");
    let (of_units, of_submissions) = (many as u64, 16 << 10);
    assert!(most < least + of_units + of_submissions, "{least} and {most} KiB");
}

#[test]
fn the_client_sends_the_events_of_a_run() {
    let collector = super::notify::Collector::start();
    let fixture = Fixture::new();
    for file in 0..2 {
        fixture.file(&format!("in/{file}.csv"), format!("id,text\n{file},a\n"));
    }
    let more = format!("run: {{openlineage: {{url: '{}'}}}}", collector.url());
    fixture.file("embed.yaml", embed_pipeline(&mini_embedder(), "in/*.csv", "out/", &more));
    let services = Services::start(&fixture);
    let _executor = services.executor();
    services.run(&[]).succeeds();
    let (events, _) = collector.take();
    let kinds: Vec<&Value> = events.iter().map(|event| &event["eventType"]).collect();
    assert_eq!(kinds, ["START", "COMPLETE"]);
    let statistics = &events[1]["outputs"][0]["outputFacets"]["outputStatistics"];
    assert_eq!(statistics["rowCount"], 2);
}

#[test]
fn executors_may_be_killed_and_added_at_any_time() {
    let fixture = fixture();
    let expected = expected(&fixture);
    let services = Services::start(&fixture);
    let mut executors = vec![services.executor(), services.executor()];
    for units in [1, 8, 15] {
        let client = services.client(&[]);
        services.wait_for(units);
        // SIGKILL.
        drop(executors.remove(0));
        executors.push(services.executor());
        succeeds(client);
        assert_same(&fixture, &expected);
        fs::remove_dir_all(fixture.path("out")).unwrap();
    }
    // From two executors to none, and back.
    let client = services.client(&[]);
    services.wait_for(3);
    executors.clear();
    std::thread::sleep(Duration::from_secs(3));
    executors.push(services.executor());
    succeeds(client);
    assert_same(&fixture, &expected);
}

#[test]
fn a_scheduler_and_a_client_may_be_killed() {
    let fixture = fixture();
    let expected = expected(&fixture);
    let mut services = Services::start(&fixture);
    let _executors = [services.executor(), services.executor()];
    let client = services.client(&[]);
    services.wait_for(4);
    let bind = services.address.replace("df://", "");
    let _ = services.scheduler.0.kill();
    let _ = services.scheduler.0.wait();
    let again = Services::start_with(&fixture, &bind, &[]);
    succeeds(client);
    assert_same(&fixture, &expected);
    fs::remove_dir_all(fixture.path("out")).unwrap();

    let client = again.client(&[]);
    again.wait_for(4);
    drop(client);
    // Its units are kept, and the executors write nothing for it any more.
    again.run(&[]).succeeds();
    assert_same(&fixture, &expected);
}

#[test]
fn a_signal_ends_a_client_and_the_same_command_continues() {
    let fixture = fixture();
    let expected = expected(&fixture);
    let services = Services::start(&fixture);
    let _executor = services.executor();
    let client = services.client(&[]);
    services.wait_for(3);
    client.signal("INT");
    let (code, stderr) = ended(client);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("the same command continues from there"), "{stderr}");
    assert!(!fixture.path("out/_SUCCESS").exists());
    services.run(&[]).succeeds();
    assert_same(&fixture, &expected);
}

#[test]
fn an_executor_that_is_terminated_ends_its_units() {
    let fixture = fixture();
    let expected = expected(&fixture);
    let services = Services::start(&fixture);
    let mut first = services.executor_with(&["--metrics-file", "a.prom"], &[]);
    let mut second = services.executor_with(&["--metrics-file", "b.prom"], &[]);
    let client = services.client(&[]);
    services.wait_for(5);
    first.signal("TERM");
    assert_eq!(first.code(), Some(0));
    succeeds(client);
    assert_same(&fixture, &expected);
    second.signal("TERM");
    assert_eq!(second.code(), Some(0));
    assert_eq!(computed(&fixture, &["a.prom", "b.prom"]), FILES, "a unit was computed twice");
}

#[test]
fn a_unit_that_kills_its_executors_ends_the_job() {
    let fixture = fixture();
    let services = Services::start(&fixture);
    let start = || services.executor_with(&[], &[("HFAUTO_FAILPOINT", "unit.begun@005.csv:1")]);
    let mut executors = [start(), start()];
    let mut client = services.client(&[]);
    let begun = Instant::now();
    let mut killed = 0;
    while client.0.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_mins(1), "{killed} executors died");
        for executor in &mut executors {
            if executor.0.try_wait().unwrap().is_some() {
                killed += 1;
                *executor = start();
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, stderr) = ended(client);
    assert_eq!(code, Some(65), "{stderr}");
    assert!(stderr.contains("005.csv") && stderr.contains("3 attempts"), "{stderr}");
    assert_eq!(killed, 3);
    assert_eq!(services.done(), FILES - 1, "every other unit is done");
}

#[test]
fn a_frozen_executor_writes_nothing_twice() {
    let fixture = fixture();
    let expected = expected(&fixture);
    let services = Services::start(&fixture);
    let frozen = services.executor();
    let client = services.client(&[]);
    services.wait_for(3);
    frozen.signal("STOP");
    let _other = services.executor();
    succeeds(client);
    assert_same(&fixture, &expected);
    frozen.signal("CONT");
    std::thread::sleep(Duration::from_secs(3));
    assert_same(&fixture, &expected);
    // It serves the next job.
    let begun = Instant::now();
    while services.status()["executors"].as_array().unwrap().len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the executor does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_is_not_allowed_is_refused_before_anything_is_written() {
    let fixture = fixture();
    fixture.file("token", "a-token-for-tests").file("wrong", "another-token");
    let services = Services::start_with(&fixture, "127.0.0.1:0", &["--token-file", "token"]);
    let _executor = services.executor_with(&["--token-file", "token", "--allow", "elsewhere"], &[]);
    services
        .run(&[])
        .fails(64, &["refused the call: the scheduler requires a token", "--token-file"]);
    services.run(&["--token-file", "wrong"]).fails(64, &["the token is wrong"]);
    let refused = services.run(&["--token-file", "token"]);
    refused.fails(78, &["this executor may not write to `[DIR]/out/`", "[DIR]/elsewhere"]);
    let names = fixture.files("out");
    assert!(
        !names.iter().any(|name| name.contains("part-") || name.contains("units/")),
        "{names:?}"
    );

    let args = ["cluster", "executor", "df://192.0.2.1:50050"];
    fixture.run(&args).fails(64, &["is another machine", "--insecure"]);
    fixture.run(&[&args[..], &["--insecure"]].concat()).fails(64, &["requires `--allow`"]);
    let args = ["cluster", "scheduler", "--bind", "0.0.0.0:0"];
    fixture.run(&args).fails(64, &["without TLS and a token", "--insecure"]);
    let args = ["run", "embed.yaml", "--token-file", "token"];
    fixture.run(&args).fails(64, &["require `--cluster`"]);
}

#[test]
fn a_job_that_is_one_unit_is_refused() {
    let fixture = fixture();
    let pipeline = fs::read_to_string(fixture.path("embed.yaml")).unwrap();
    let sorted = pipeline.replace("steps:", "steps:\n- sql: SELECT * FROM input ORDER BY id");
    fixture.file("embed.yaml", sorted);
    let services = Services::start(&fixture);
    services.run(&[]).fails(78, &["sorts all rows"]);
}

/// The rows of a query in one process, as JSON lines.
fn rows(fixture: &Fixture, query: &str) -> String {
    fixture.run(&["sql", query, "--format", "jsonl"]).succeeds().stdout.clone()
}

/// The query that embeds every text of [`fixture`].
fn embed_all() -> String {
    format!("SELECT id, embed(text, '{}') AS e FROM 'in/*.csv'", mini_embedder().display())
}

#[test]
fn queries_on_a_cluster_give_the_rows_of_one_process() {
    let fixture = Fixture::new();
    for file in 0..3 {
        let mut csv = "id,lang,text\n".to_owned();
        for row in 0..40 {
            let lang = ["en", "de"][row % 2];
            writeln!(csv, "{},{lang},row {} of {file}", file * 100 + row, row % 13).unwrap();
        }
        fixture.file(&format!("in/{file}.csv"), csv);
    }
    let copy = "COPY (SELECT * FROM 'in/*.csv') TO 'all.parquet'";
    fixture.run(&["sql", copy]).succeeds();
    let services = Services::start(&fixture);
    let _executors = [services.executor(), services.executor()];
    let model = mini_embedder().display().to_string();
    for query in [
        "SELECT id, embed(text, M) AS e FROM 'in/*.csv'",
        "SELECT id, embed(text, M) AS e, id + 1 AS next, md5(text) AS h FROM 'all.parquet' WHERE lang = 'en'",
        "SELECT id FROM 'in/*.csv' ORDER BY cosine_similarity(embed(text, M), embed('row 7', M)) DESC, id LIMIT 9",
        "SELECT id FROM 'in/*.csv' WHERE cosine_similarity(embed(text, M), embed('row 7', M)) > 0.9 ORDER BY id DESC",
        "SELECT lang, count(*) AS n, max(embed(text, M)[1]) AS m FROM 'in/*.csv' GROUP BY lang ORDER BY lang",
        "SELECT count(*) AS n, sum(id) AS s, array_agg(id) AS ids FROM 'in/*.csv' WHERE id % 7 = 3",
        "SELECT id, embed(text, M) AS e FROM 'in/*.csv' LIMIT 7 OFFSET 38",
        "SELECT a.id, embed(concat(a.text, b.lang), M) AS e FROM 'in/*.csv' AS a JOIN 'all.parquet' AS b ON a.id = b.id + 1 ORDER BY a.id",
        "SELECT t, embed(t, M) AS e FROM (SELECT DISTINCT text AS t FROM 'in/*.csv') ORDER BY t",
        "SELECT x, try_embed(x, M) AS e FROM (VALUES ('a'), (NULL), ('b')) AS t(x)",
        "SELECT embed('one', M) AS e",
        "SELECT id, row_number() OVER (ORDER BY embed(text, M)[1], id) AS n FROM 'in/*.csv' ORDER BY n LIMIT 20",
        "SELECT id, w, embed(w, M) AS e FROM (SELECT id, unnest(string_to_array(text, ' ')) AS w FROM 'in/0.csv')",
        "SELECT count(*) AS n FROM 'all.parquet' WHERE id > 1000",
    ] {
        let query = query.replace(", M)", &format!(", '{model}')"));
        assert_eq!(services.rows(&query), rows(&fixture, &query), "{query}");
    }

    let query = format!("SELECT id, embed(text, '{model}') AS e FROM 'all.parquet'");
    fixture.run(&["sql", &query, "-o", "alone.parquet"]).succeeds();
    let command = &mut services.query(&query, &["-o", "together.parquet"]);
    fixture.ran(command.output().unwrap()).succeeds();
    assert_eq!(fixture.parquet("together.parquet"), fixture.parquet("alone.parquet"));

    assert_eq!(services.status()["jobs"][0]["state"], "done");

    let plan = services.rows(&format!("EXPLAIN FORMAT INDENT {query} ORDER BY e[1] LIMIT 3"));
    let mut rest = plan.as_str();
    for part in [
        "SortExec: TopK(fetch=3)",
        "ClusterExec: executors run the plan below, tasks=1",
        "SortExec: TopK(fetch=3)",
        "ModelExec: feature-extraction",
        "UnitScanExec: parquet, files=1, units=1",
    ] {
        let found = rest.find(part).unwrap_or_else(|| panic!("no `{part}` after all else: {plan}"));
        rest = &rest[found + part.len()..];
    }
}

#[test]
fn a_query_gives_no_row_twice_whatever_its_executors_do() {
    let fixture = fixture();
    let query = embed_all();
    let expected = rows(&fixture, &query);
    let services = Services::start(&fixture);
    let mut executors = vec![services.executor(), services.executor()];
    let same = |client, name: &str| {
        succeeds(client);
        let found = fs::read_to_string(fixture.path(name)).unwrap();
        assert!(
            found == expected,
            "{} rows of {}",
            found.lines().count(),
            expected.lines().count()
        );
    };

    let client = services.asking(&query, "killed");
    services.wait_for_rows("killed");
    drop(executors.remove(0));
    same(client, "killed");

    let client = services.asking(&query, "frozen");
    services.wait_for_rows("frozen");
    executors[0].signal("STOP");
    let _other = services.executor();
    // Past the timeout, so that its units are given to others while it has them.
    std::thread::sleep(Duration::from_secs(3));
    executors[0].signal("CONT");
    same(client, "frozen");
}

#[test]
fn a_query_survives_its_scheduler_and_ends_with_its_client() {
    let fixture = fixture();
    let query = embed_all();
    let expected = rows(&fixture, &query);
    let mut services = Services::start(&fixture);
    let _executors = [services.executor(), services.executor()];
    let client = services.asking(&query, "restarted");
    services.wait_for_rows("restarted");
    let bind = services.address.replace("df://", "");
    let _ = services.scheduler.0.kill();
    let _ = services.scheduler.0.wait();
    let services = Services::start_with(&fixture, &bind, &[]);
    succeeds(client);
    assert!(fs::read_to_string(fixture.path("restarted")).unwrap() == expected);

    let is_idle = || {
        let status = services.status();
        let executors = status["executors"].as_array().unwrap();
        let jobs = status["jobs"].as_array().unwrap();
        executors.iter().all(|executor| executor["free"] == executor["slots"])
            && jobs.iter().all(|job| job["state"] != "running")
    };
    let wait = || {
        let start = Instant::now();
        while !is_idle() {
            assert!(start.elapsed() < Duration::from_secs(30), "{}", services.status());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait();
    let client = services.asking(&query, "interrupted");
    services.wait_for_rows("interrupted");
    client.signal("INT");
    let (code, stderr) = ended(client);
    assert_eq!(code, Some(130), "{stderr}");
    wait();
    assert_eq!(services.status()["jobs"][0]["state"], "failed", "the job went on");
    // A client that is killed cannot cancel its job.
    let client = services.asking(&query, "gone");
    services.wait_for_rows("gone");
    drop(client);
    wait();
}

#[test]
fn a_query_whose_unit_kills_its_executors_ends() {
    let fixture = fixture();
    let services = Services::start(&fixture);
    let start = || services.executor_with(&[], &[("HFAUTO_FAILPOINT", "unit.begun@005.csv:1")]);
    let mut executors = [start(), start()];
    let mut client = services.asking("SELECT id, upper(text) AS t FROM 'in/*.csv'", "rows");
    let begun = Instant::now();
    let mut killed = 0;
    while client.0.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_mins(1), "{killed} executors died");
        for executor in &mut executors {
            if executor.0.try_wait().unwrap().is_some() {
                killed += 1;
                *executor = start();
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, stderr) = ended(client);
    assert_eq!(code, Some(65), "{stderr}");
    assert!(stderr.contains("005.csv") && stderr.contains("3 attempts"), "{stderr}");
    assert_eq!(killed, 3);
    let rows = fs::read_to_string(fixture.path("rows")).unwrap();
    assert_eq!(rows.lines().count(), 5 * 400, "the rows before it are there");
}

#[test]
fn queries_that_are_not_allowed_are_refused() {
    let fixture = Fixture::new();
    fixture.file("token", "a-token-for-tests").file("in/a.csv", "id,text\n1,a\n");
    let services = Services::start_with(&fixture, "127.0.0.1:0", &["--token-file", "token"]);
    let _executor = services.executor_with(&["--token-file", "token", "--allow", "elsewhere"], &[]);
    let query = "SELECT * FROM 'in/a.csv'";
    let run = |args: &[&str]| fixture.ran(services.query(query, args).output().unwrap());
    run(&[]).fails(64, &["the scheduler requires a token"]);
    let refused = run(&["--token-file", "token"]);
    refused.fails(78, &["this executor may not read `[DIR]/in/a.csv`", "[DIR]/elsewhere"]);
    assert_eq!(refused.stdout, "");
    fixture.run(&["sql", query, "--token-file", "token"]).fails(64, &["require `--cluster`"]);
}

/// Asserts that the program knows every argument: it complains about the one that is added.
#[track_caller]
fn are_known(fixture: &Fixture, args: &[&str]) {
    let args = [args, &["--no-such-flag"]].concat();
    fixture.run(&args).fails(64, &["unexpected argument '--no-such-flag'"]);
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn the_ready_made_files_are_sound() {
    let examples = repository().join("examples");
    let read = |name: &str| fs::read_to_string(examples.join(name)).unwrap();
    let fixture = Fixture::new();

    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&read("kubernetes/cluster.yaml")).unwrap();
    let mut containers = 0;
    for document in &documents {
        let pod = &document["spec"]["template"]["spec"];
        for container in pod["containers"].as_array().into_iter().flatten() {
            are_known(&fixture, &words(&container["args"]));
            containers += 1;
            // Every mount has a volume.
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                let volumes = pod["volumes"].as_array().unwrap();
                assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
            }
        }
        for (name, pipeline) in document["data"].as_object().into_iter().flatten() {
            fixture.file(name, pipeline.as_str().unwrap());
            fixture.run(&["validate", name]).succeeds();
        }
    }
    assert_eq!(containers, 3);

    let compose: Value = serde_saphyr::from_str(&read("docker/compose.yaml")).unwrap();
    for service in ["scheduler", "executor", "client"] {
        are_known(&fixture, &words(&compose["services"][service]["command"]));
    }

    let mut units = Vec::new();
    for name in ["hfauto-pipe-cluster-scheduler.service", "hfauto-pipe-cluster-executor.service"] {
        let unit = read(&format!("systemd/{name}"));
        let command = unit.split_once("ExecStart=/usr/local/bin/hfauto-pipe ").unwrap().1;
        let command = command.replace("\\\n", " ");
        let command = command.lines().next().unwrap();
        are_known(&fixture, &command.split_whitespace().collect::<Vec<_>>());
        let program = env!("CARGO_BIN_EXE_hfauto-pipe");
        fixture.file(name, unit.replace("/usr/local/bin/hfauto-pipe", program));
        units.push(fixture.path(name));
    }
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output() {
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr);
            let ours: Vec<&str> =
                said.lines().filter(|line| line.contains("hfauto-pipe")).collect();
            assert!(ours.is_empty(), "{ours:#?}");
        }
        Err(_) => skip("there is no systemd-analyze here"),
    }
}
