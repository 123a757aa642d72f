//! Sources and sinks in object stores, against moto, a server of the S3 protocol (`pip install 'moto[server]'`), found
//! on the `PATH` or through `HFAUTO_MOTO`. Without it, these tests are reported as skipped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use hfauto_pipe::failpoint::FAILPOINTS;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

use super::support::{Fixture, Ran, embed_pipeline, mini_embedder, skip};

/// A server with an empty bucket, which ends with the test.
struct Store {
    server: Child,
    url: String,
    client: Arc<AmazonS3>,
    runtime: tokio::runtime::Runtime,
    fixture: Fixture,
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Store {
    /// `None`, with a line on stderr, if moto is missing.
    fn start() -> Option<Self> {
        let program = std::env::var("HFAUTO_MOTO").unwrap_or_else(|_| "moto_server".to_owned());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(server) = server else {
            skip(&format!("no `{program}`; `pip install 'moto[server]'` and set HFAUTO_MOTO"));
            return None;
        };
        let url = format!("http://127.0.0.1:{port}");
        let client = AmazonS3Builder::new()
            .with_endpoint(&url)
            .with_allow_http(true)
            .with_bucket_name("bucket")
            .with_region("us-east-1")
            .with_access_key_id("key")
            .with_secret_access_key("secret")
            .build()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let fixture = Fixture::new();
        let store = Self { server, url, client: Arc::new(client), runtime, fixture };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_mins(1), "moto did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        store.plain_put("/bucket", "", "");
        Some(store)
    }

    /// An unsigned request, for operations that the client lacks.
    fn plain_put(&self, path: &str, headers: &str, body: &str) {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn put(&self, key: &str, content: impl Into<Vec<u8>>) {
        let content: Vec<u8> = content.into();
        self.runtime.block_on(self.client.put(&key.into(), content.into())).unwrap();
    }

    fn get(&self, key: &str) -> Vec<u8> {
        let key = StorePath::from(key);
        let got = self.runtime.block_on(async { self.client.get(&key).await?.bytes().await });
        got.unwrap().to_vec()
    }

    /// All objects below a prefix, by relative name, except the output's last report, which contains times.
    fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let folder = StorePath::from(prefix);
        let listed = self.client.list(Some(&folder)).try_collect::<Vec<_>>();
        let names = self.runtime.block_on(listed).unwrap().into_iter();
        let names = names.map(|meta| meta.location.to_string());
        let names = names.filter(|name| !name.ends_with("_hfauto/report.json"));
        names.map(|name| (name[prefix.len() + 1..].to_owned(), self.get(&name))).collect()
    }

    fn clear(&self, prefix: &str) {
        for name in self.objects(prefix).keys() {
            self.runtime.block_on(self.client.delete(&format!("{prefix}/{name}").into())).unwrap();
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.fixture.command(args);
        command
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "us-east-1");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.ran(&mut self.command(args))
    }

    fn ran(&self, command: &mut Command) -> Ran {
        self.fixture.ran(command.output().unwrap())
    }

    /// Files of twenty rows below `in/`, and a pipeline `embed.yaml` from there to `out/`.
    fn embed(&self, files: usize, more: &str) {
        for file in 0..files {
            self.put(&format!("in/{file:03}.csv"), rows(file));
        }
        let pipeline =
            embed_pipeline(&mini_embedder(), "s3://bucket/in/*.csv", "s3://bucket/out/", more);
        self.fixture.file("embed.yaml", pipeline);
    }

    /// The rows of the output, by SQL.
    fn count(&self, table: &str) -> String {
        let query = format!("SELECT count(*) AS n, count(DISTINCT id) AS d FROM '{table}'");
        let ran = self.run(&["sql", &query, "--format", "csv"]);
        ran.succeeds().stdout.lines().nth(1).unwrap().to_owned()
    }
}

fn rows(file: usize) -> String {
    let mut csv = "id,text\n".to_owned();
    for row in 0..20 {
        writeln!(csv, "{},\"row {row} of file {file}: boats and bread\"", file * 1000 + row)
            .unwrap();
    }
    csv
}

#[test]
fn killed_anywhere_the_next_run_goes_on() {
    let Some(store) = Store::start() else { return };
    store.embed(4, "");
    store.run(&["run", "embed.yaml"]).succeeds();
    let expected = store.objects("out");
    let (units, own): (Vec<&str>, Vec<&str>) = (expected.keys().map(String::as_str))
        .filter(|name| name.starts_with('_'))
        .partition(|name| name.starts_with("_hfauto/units/"));
    assert_eq!(own, ["_SUCCESS", "_hfauto/MANIFEST.json"]);
    assert_eq!((units.len(), expected.len()), (4, 4 + 4 + 2));
    assert_eq!(store.count("s3://bucket/out/"), "80,80");

    for name in FAILPOINTS {
        store.clear("out");
        let what = format!("{name}:{}", if name.starts_with("unit.") { 2 } else { 1 });
        let status = store
            .command(&["run", "embed.yaml", "--progress", "none"])
            .env("HFAUTO_FAILPOINT", &what)
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(9), "{what}");
        if name.starts_with("publish.r") {
            assert!(!store.objects("out").contains_key("_SUCCESS"), "{what}");
        }
        let again = store.run(&["run", "embed.yaml", "--progress", "none"]);
        again.succeeds();
        let found = store.objects("out");
        assert!(found == expected, "{what}: {:?}", found.keys());
    }
    // Published units are not computed again.
    let again = store.run(&["run", "embed.yaml"]);
    assert!(again.succeeds().stdout.contains("nothing to compute"), "{}", again.stdout);
    let status = store.run(&["status", "embed.yaml"]);
    assert!(status.succeeds().stdout.contains("done, 80 rows"), "{}", status.stdout);
}

#[test]
fn rows_are_those_of_a_local_run() {
    let Some(store) = Store::start() else { return };
    store.embed(2, "");
    for file in 0..2 {
        store.fixture.file(&format!("in/{file:03}.csv"), rows(file));
    }
    store.run(&["run", "embed.yaml"]).succeeds();
    let local = embed_pipeline(&mini_embedder(), "in/*.csv", "out/", "");
    store.fixture.file("local.yaml", local);
    store.run(&["run", "local.yaml"]).succeeds();
    let query = "SELECT count(*) AS n FROM 'out/' a JOIN 's3://bucket/out/' b \
                 ON a.id = b.id AND a.text = b.text AND a.embedding = b.embedding";
    let ran = store.run(&["sql", query, "--format", "csv"]);
    assert_eq!(ran.succeeds().stdout, "n\n40\n");
}

#[test]
fn an_incremental_job_finds_what_has_changed() {
    let Some(store) = Store::start() else { return };
    store.embed(3, "run: {incremental: new_or_changed}");
    let counts = || {
        store.run(&["run", "embed.yaml", "--report", "report.json"]).succeeds();
        let text = std::fs::read(store.fixture.path("report.json")).unwrap();
        let units = serde_json::from_slice::<Value>(&text).unwrap()["run"]["units"].clone();
        (units["computed"].as_u64().unwrap(), units["skipped"].as_u64().unwrap())
    };
    assert_eq!(counts(), (3, 0));
    assert_eq!(counts(), (0, 3));
    store.put("in/001.csv", format!("{}1999,one more\n", rows(1)));
    store.put("in/003.csv", rows(3));
    assert_eq!(counts(), (2, 2));
    assert_eq!(store.count("s3://bucket/out/"), "81,81");
    let damaged = store.objects("out/_hfauto/units").into_keys().next().unwrap();
    store.put(&format!("out/_hfauto/units/{damaged}"), "{\"version\": 1");
    assert_eq!(counts(), (1, 3));
}

#[test]
fn one_run_at_a_time_and_dead_ones_are_succeeded() {
    let Some(store) = Store::start() else { return };
    store.embed(2, "");
    let lock = |renewed: chrono::DateTime<chrono::Utc>| {
        let holder = json!({"pid": 7, "host": "elsewhere", "machine": null, "since": "2026-01-01T00:00:00Z"});
        let lease = json!({"holder": holder, "renewed": renewed, "seconds": 2.0});
        store.put("out/_hfauto/lock", lease.to_string());
    };
    let run = || store.ran(store.command(&["run", "embed.yaml"]).env("HFAUTO_LOCK_SECONDS", "2"));

    lock(chrono::Utc::now() + chrono::Duration::minutes(1));
    run().fails(75, &["another run is writing `s3://bucket/out`", "process 7 on `elsewhere`"]);
    let status = store.run(&["status", "embed.yaml"]);
    assert!(status.succeeds().stdout.contains("running"), "{}", status.stdout);

    // A holder with a clock that is behind, but alive.
    let hour_ago = chrono::Utc::now() - chrono::Duration::hours(1);
    lock(hour_ago);
    let child = store
        .command(&["run", "embed.yaml"])
        .env("HFAUTO_LOCK_SECONDS", "2")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for tick in 0..12 {
        std::thread::sleep(Duration::from_millis(150));
        lock(hour_ago + chrono::Duration::seconds(tick));
    }
    store.fixture.ran(child.wait_with_output().unwrap()).fails(75, &["another run is writing"]);

    // A dead holder.
    lock(hour_ago);
    run().succeeds();
    assert_eq!(store.count("s3://bucket/out/"), "40,40");
    assert!(!store.objects("out").contains_key("_hfauto/lock"));
}

#[test]
fn a_run_that_lost_its_lock_publishes_nothing() {
    let Some(store) = Store::start() else { return };
    store.embed(2, "");
    let child = store
        .command(&["run", "embed.yaml", "--progress", "none"])
        .env("HFAUTO_FAILPOINT", "publish.begun:1:hold")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while store.objects("out/_hfauto/units").len() < 2 {
        assert!(start.elapsed() < Duration::from_mins(1), "no units");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The holder's machine slept, and another run took over the lock.
    store.put("out/_hfauto/lock", "{\"seconds\": 60.0}");
    let ran = store.fixture.ran(child.wait_with_output().unwrap());
    ran.fails(75, &["the lock of `s3://bucket/out` was lost"]);
    let found = store.objects("out");
    assert!(
        !found.contains_key("_SUCCESS") && found.contains_key("_hfauto/lock"),
        "{:?}",
        found.keys()
    );
    assert!(!found.keys().any(|name| name.starts_with("part-")), "{:?}", found.keys());
}

#[test]
fn one_object_is_one_run_s() {
    let Some(store) = Store::start() else { return };
    store.embed(2, "");
    let sink = "sink.path=s3://bucket/one.parquet";
    let args = ["run", "embed.yaml", "--set", sink, "--progress", "none"];
    let first = store
        .command(&args)
        .env("HFAUTO_FAILPOINT", "publish.begun:1:hold")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let lock = ".one.parquet.hfauto-lock";
    let is_there =
        |name: &str| store.runtime.block_on(store.client.head(&StorePath::from(name))).is_ok();
    while !is_there(lock) {
        assert!(start.elapsed() < Duration::from_mins(1), "no lock");
        std::thread::sleep(Duration::from_millis(50));
    }
    let who = format!("process {} on", first.id());
    store.run(&args).fails(75, &["another run is writing `s3://bucket/one.parquet`", &who]);
    // Another output in the same folder is not locked.
    let other = "sink.path=s3://bucket/other.parquet";
    store.run(&["run", "embed.yaml", "--set", other]).succeeds();
    store.fixture.ran(first.wait_with_output().unwrap()).succeeds();
    assert!(is_there("one.parquet") && !is_there(lock));
    assert_eq!(store.count("s3://bucket/one.parquet"), "40,40");

    // A run takes over a dead holder's lock immediately, and leaves nothing behind.
    let killed = store
        .command(&[&args[..], &["--fresh"]].concat())
        .env("HFAUTO_FAILPOINT", "publish.begun")
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None);
    assert!(is_there(lock));
    store.run(&[&args[..], &["--fresh"]].concat()).succeeds();
    assert!(!is_there(lock));
}

#[test]
fn an_output_keeps_the_report_of_its_last_run() {
    let Some(store) = Store::start() else { return };
    store.embed(2, "");
    store
        .run(&["report", "embed.yaml"])
        .fails(66, &["cannot read the report", "no run has written a report yet"]);
    store.run(&["run", "embed.yaml"]).succeeds();
    let report = store.get("out/_hfauto/report.json");
    let told = serde_json::from_slice::<Value>(&report).unwrap();
    assert_eq!(
        (told["status"].as_str(), told["run"]["rows_written"].as_u64()),
        (Some("done"), Some(40))
    );
    // A run with nothing to do does not replace the report.
    store.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(store.get("out/_hfauto/report.json"), report);
    let page = store.run(&["report", "embed.yaml", "-o", "-"]);
    assert!(page.succeeds().stdout.contains("</html>"), "{}", page.stderr);
}

#[test]
fn shards_share_an_output() {
    let Some(store) = Store::start() else { return };
    store.embed(5, "");
    let shards: Vec<Child> = ["1/3", "2/3", "3/3"]
        .iter()
        .map(|shard| {
            store
                .command(&["run", "embed.yaml", "--progress", "none", "--shard", shard])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut published = 0;
    for shard in shards {
        let ran = store.fixture.ran(shard.wait_with_output().unwrap());
        ran.succeeds();
        published += usize::from(ran.stdout.contains("the output is published"));
    }
    assert!(published >= 1);
    assert_eq!(store.count("s3://bucket/out/"), "100,100");
    let mut own: Vec<String> =
        store.objects("out").into_keys().filter(|name| name.starts_with('_')).collect();
    own.retain(|name| !name.starts_with("_hfauto/units/"));
    assert_eq!(own, ["_SUCCESS", "_hfauto/MANIFEST.json"]);
}

/// The processes of a join, with a lease of two seconds.
fn join(store: &Store, failpoint: Option<&str>) -> Child {
    let mut command = store.command(&["run", "--join", "embed.yaml", "--progress", "none"]);
    command.env("HFAUTO_LOCK_SECONDS", "2").envs(failpoint.map(|name| ("HFAUTO_FAILPOINT", name)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn joined_processes_write_the_objects_of_a_run() {
    let Some(store) = Store::start() else { return };
    store.embed(8, "run: {workers: 1}");
    store.run(&["run", "embed.yaml"]).succeeds();
    let expected = store.objects("out");
    store.clear("out");
    // One is killed in a unit; another one freezes for longer than its lease.
    let mut killed = join(&store, Some("unit.renamed:2"));
    let frozen = join(&store, Some("unit.written:2:hold"));
    let start = Instant::now();
    while store.objects("out/_hfauto/units").is_empty() {
        assert!(start.elapsed() < Duration::from_mins(1), "no unit");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(killed.wait().unwrap().signal(), Some(9));
    std::thread::sleep(Duration::from_secs(1));
    let signal = |name: &str| {
        let kill = Command::new("kill").args(["-s", name, &frozen.id().to_string()]).status();
        assert!(kill.unwrap().success());
    };
    signal("STOP");
    let joined = [join(&store, None), join(&store, None)];
    for child in joined {
        store.fixture.ran(child.wait_with_output().unwrap()).succeeds();
    }
    assert!(store.objects("out") == expected, "{:?}", store.objects("out").keys());
    signal("CONT");
    store.fixture.ran(frozen.wait_with_output().unwrap()).fails(75, &["was lost"]);
    assert!(store.objects("out") == expected, "{:?}", store.objects("out").keys());
    let again = store.fixture.ran(join(&store, None).wait_with_output().unwrap());
    assert!(again.succeeds().stdout.contains("nothing to compute"), "{}", again.stdout);
}

/// A shard whose clock is behind keeps its lock while it renews it; a dead one loses it.
#[test]
fn an_expired_lock_of_a_shard_is_watched() {
    let Some(store) = Store::start() else { return };
    store.embed(2, "");
    let name = "out/_hfauto/shard-1-of-2.lock";
    let hour_ago = chrono::Utc::now() - chrono::Duration::hours(1);
    let lock = |renewed: chrono::DateTime<chrono::Utc>| {
        let holder = json!({"pid": 7, "host": "elsewhere", "machine": null, "since": "2026-01-01T00:00:00Z"});
        let lease = json!({"holder": holder, "renewed": renewed, "seconds": 2.0});
        store.put(name, lease.to_string());
    };
    lock(hour_ago);
    let mut run = store.command(&["run", "embed.yaml"]);
    let mut run = run.env("HFAUTO_LOCK_SECONDS", "2").stderr(Stdio::piped()).spawn().unwrap();
    let mut ticks = 0;
    while run.try_wait().unwrap().is_none() {
        ticks += 1;
        lock(hour_ago + chrono::Duration::seconds(ticks));
        std::thread::sleep(Duration::from_millis(150));
    }
    let ran = store.fixture.ran(run.wait_with_output().unwrap());
    ran.fails(75, &["another run is writing", "process 7 on `elsewhere`"]);
    assert!(store.objects("out").contains_key("_hfauto/shard-1-of-2.lock"));
    let run = store.ran(store.command(&["run", "embed.yaml"]).env("HFAUTO_LOCK_SECONDS", "2"));
    run.succeeds();
    assert!(!store.objects("out").contains_key("_hfauto/shard-1-of-2.lock"));
}

#[test]
fn objects_are_listed_like_files() {
    let Some(store) = Store::start() else { return };
    for (key, id) in [
        ("t/lang=de/a.csv", 1),
        ("t/lang=en/b.csv", 2),
        ("t/lang=en/_hidden.csv", 3),
        ("t/_meta/c.csv", 4),
        ("other/lang=de/d.csv", 5),
    ] {
        store.put(key, format!("id\n{id}\n"));
    }
    let check = |path: &str, expected: &str| {
        let query = format!("SELECT id, lang FROM '{path}' ORDER BY id");
        let ran = store.run(&["sql", &query, "--format", "csv"]);
        assert_eq!(ran.succeeds().stdout, format!("id,lang\n{expected}"), "{path}");
    };
    check("s3://bucket/t/", "1,de\n2,en\n");
    check("s3://bucket/t", "1,de\n2,en\n");
    check("s3://bucket/t/*/*.csv", "1,de\n2,en\n");
    check("s3://bucket/t/lang=*", "1,de\n2,en\n");
    check("s3://bucket/*/lang=de/?.csv", "1,de\n5,de\n");
    check("s3://bucket/t/lang=de/a.csv", "1,de\n");
    // Plain HTTP has no listing: one object at a time.
    store.plain_put("/bucket/web/lang=fr/e.csv", "x-amz-acl: public-read\r\n", "id\n6\n");
    check(&format!("{}/bucket/web/lang=fr/e.csv", store.url), "6,fr\n");

    let fails = |path: &str, texts: &[&str]| {
        store.run(&["sql", &format!("SELECT * FROM '{path}'")]).fails(66, texts);
    };
    fails("s3://bucket/nothing.csv", &["`s3://bucket/nothing.csv` does not exist"]);
    fails("s3://bucket/t/*.parquet", &["nothing matches `s3://bucket/t/*.parquet`"]);
    fails("s3://no-bucket/x.csv", &["no-bucket"]);
}

#[test]
fn every_format_is_read_and_written() {
    let Some(store) = Store::start() else { return };
    // Larger than one part of a multipart upload.
    let mut csv = "id,text\n".to_owned();
    let mut state = 1_u64;
    for row in 0..400_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        writeln!(csv, "{row},{state:016x}{:016x}{:08x}", state.rotate_left(17) ^ row, row * 31)
            .unwrap();
    }
    assert!(csv.len() > 17 << 20);
    store.put("big/rows.csv", csv);
    for sink in ["copy.parquet", "copy.csv", "copy.jsonl.gz", "copy.arrow", "parts/"] {
        let pipeline = format!(
            "version: 1\nsource: {{path: 's3://bucket/big/rows.csv'}}\nsink: {{path: 's3://bucket/big/{sink}'}}\n"
        );
        store.fixture.file("copy.yaml", pipeline);
        store.run(&["run", "copy.yaml"]).succeeds();
        assert_eq!(store.count(&format!("s3://bucket/big/{sink}")), "400000,400000", "{sink}");
    }
    store.run(&["run", "copy.yaml"]).succeeds();
    store.fixture.file(
        "copy.yaml",
        "version: 1\nsource: {path: 's3://bucket/big/rows.csv', limit: 5}\nsink: {path: 's3://bucket/big/copy.csv'}\n",
    );
    store.run(&["run", "copy.yaml"]).fails(73, &["the output `s3://bucket/big/copy.csv` exists"]);
    store.run(&["run", "copy.yaml", "--fresh"]).succeeds();
    assert_eq!(store.count("s3://bucket/big/copy.csv"), "5,5");
    let copy =
        "COPY (SELECT id FROM 's3://bucket/big/copy.csv' LIMIT 2) TO 's3://bucket/big/two.parquet'";
    store.run(&["sql", copy]).succeeds();
    assert_eq!(store.count("s3://bucket/big/two.parquet"), "2,2");
}

#[test]
fn hive_folders_keep_their_values() {
    let Some(store) = Store::start() else { return };
    store.put("k/in.csv", "id,k\n1,plain\n2,a b%/c=é\n3,\n");
    store.fixture.file(
        "copy.yaml",
        "version: 1\nsource: {path: 's3://bucket/k/in.csv'}\n\
         sink: {path: 's3://bucket/parts/', partition_by: [k]}\n\
         run: {incremental: new_or_changed}\n",
    );
    store.run(&["run", "copy.yaml"]).succeeds();
    let again = store.run(&["run", "copy.yaml"]);
    assert!(again.succeeds().stdout.contains("nothing to compute"), "{}", again.stdout);
    let query = "SELECT id, k FROM 's3://bucket/parts/' ORDER BY id";
    let ran = store.run(&["sql", query, "--format", "csv"]);
    assert_eq!(ran.succeeds().stdout, "id,k\n1,plain\n2,a b%/c=é\n3,\n");
}

#[test]
fn dead_letters_lie_beside_the_output() {
    let Some(store) = Store::start() else { return };
    store.put(
        "in/a.csv",
        "id,text\n1,short\n2,this row has many more words than the model may read here\n",
    );
    store.put("in/b.csv", rows(3));
    let model = mini_embedder();
    store.fixture.file(
        "embed.yaml",
        format!(
            "version: 1\nsource: {{path: 's3://bucket/in/'}}\nsteps:\n- feature-extraction: \
             {{model: '{}', input: text, output: e, max_length: 6, truncation: false}}\n\
             on_error: {{rows: skip}}\nsink: {{path: 's3://bucket/out/'}}\n",
            model.display()
        ),
    );
    store.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(store.count("s3://bucket/out/"), "1,1");
    let letters: Vec<String> = store.objects("out/_errors").into_keys().collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.iter().all(|name| name.starts_with("embed-")), "{letters:?}");
    assert_eq!(store.count(&format!("s3://bucket/out/_errors/{}", letters[0])), "1,1");
}

#[test]
fn an_unavailable_store_is_reported() {
    let Some(store) = Store::start() else { return };
    store.embed(1, "");
    let pipeline =
        embed_pipeline(&mini_embedder(), "s3://bucket/in/*.csv", "s3://no-such/out/", "");
    store.fixture.file("embed.yaml", pipeline);
    store.run(&["run", "embed.yaml"]).fails(73, &["s3://no-such/out", "check the bucket"]);
    let pipeline =
        embed_pipeline(&mini_embedder(), "s3://bucket/in/*.csv", "https://x.org/out/", "");
    store.fixture.file("embed.yaml", pipeline);
    store.run(&["validate", "embed.yaml"]).fails(78, &["HTTP is read-only"]);
}

#[test]
fn a_delta_table_is_written_once_and_read() {
    let Some(store) = Store::start() else { return };
    let embed = |files: usize| {
        store.embed(files, "");
        let yaml = std::fs::read_to_string(store.fixture.path("embed.yaml")).unwrap();
        let sink = "{path: 's3://bucket/out/', format: delta, mode: append}";
        store.fixture.file("embed.yaml", yaml.replace("{path: 's3://bucket/out/'}", sink));
    };
    let versions =
        || store.objects("out/_delta_log").keys().filter(|name| name.ends_with(".json")).count();
    embed(1);
    store.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!((store.count("s3://bucket/out/"), versions()), ("20,20".to_owned(), 1));
    for place in ["push.uploaded", "push.committed"] {
        embed(if place == "push.uploaded" { 2 } else { 3 });
        let before = versions();
        let status = store
            .command(&["run", "embed.yaml", "--progress", "none"])
            .env("HFAUTO_FAILPOINT", place)
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(9), "{place}");
        assert_eq!(versions(), before + usize::from(place == "push.committed"), "{place}");
        store.run(&["run", "embed.yaml"]).succeeds();
        store.run(&["run", "embed.yaml"]).succeeds();
        assert_eq!(versions(), before + 1, "{place}");
    }
    // Every run appends all files that it reads.
    assert_eq!(store.count("s3://bucket/out/"), "120,60");
    let left = store.objects("out");
    assert!(!left.keys().any(|name| name.starts_with("_hfauto/")), "{:?}", left.keys());
}
