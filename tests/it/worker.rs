//! Jobs whose units are computed from descriptions, as by workers on other machines: the output of a run, refusals, and
//! weights.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use hfauto_pipe::ErrorKind;
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{
    Cancel, Coordinator, Job, JobOptions, JobSpec, UnitRecord, UnitSpec, Worker, WorkerOptions,
};
use hfauto_pipe::tasks::{ModelSpec, Models};
use serde_json::Value;

use super::support::{Fixture, embed_pipeline, mini_embedder, sample_rows};

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(HubSettings::from_env().with_offline(true)))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn options() -> WorkerOptions {
    WorkerOptions { hub: Some(hub()) }
}

/// The job of a pipeline file, with its output opened for workers.
fn open(runtime: &tokio::runtime::Runtime, fixture: &Fixture) -> hfauto_pipe::Result<Coordinator> {
    let pipeline = config::load(&fixture.path("p.yaml"), &LoadOptions::default()).unwrap();
    runtime.block_on(async {
        let job = Job::prepare(pipeline, JobOptions::default(), hub()).await?;
        Coordinator::open(job).await
    })
}

/// The unit and the job as another process gets them.
fn sent(coordinator: &Coordinator) -> (JobSpec, Vec<UnitSpec>) {
    let units: Vec<_> = coordinator.open_units(0).collect();
    let units = units.iter().map(|unit| UnitSpec::from_bytes(&unit.to_bytes().unwrap()).unwrap());
    (JobSpec::from_bytes(&coordinator.spec().to_bytes().unwrap()).unwrap(), units.collect())
}

fn files(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    let names = fixture.files("out").into_iter();
    names
        .map(|name| (name.clone(), fs::read(fixture.path(&format!("out/{name}"))).unwrap()))
        .collect()
}

/// Runs the pipeline, then computes it again by four threads, and compares the outputs.
#[track_caller]
fn assert_same_as_run(fixture: &Fixture, units: usize) {
    fixture.run(&["run", "p.yaml"]).succeeds();
    let expected = files(fixture);
    fs::remove_dir_all(fixture.path("out")).unwrap();
    let runtime = runtime();
    let coordinator = open(&runtime, fixture).unwrap();
    let (spec, open) = sent(&coordinator);
    assert_eq!((open.len(), coordinator.total()), (units, units));
    assert_eq!(spec.sink_url().trim_end_matches('/'), fixture.path("out").to_str().unwrap());
    let worker = Worker::open(spec.clone(), options()).unwrap();
    assert!(Arc::ptr_eq(&worker, &Worker::open(spec, options()).unwrap()));
    let (cancel, worker, open) = (Cancel::new(), &worker, &open);
    let records: Vec<UnitRecord> = std::thread::scope(|scope| {
        // Each unit twice, at the same time.
        let run = |unit: usize| {
            let cancel = cancel.clone();
            scope.spawn(move || worker.run(&open[unit], &cancel).unwrap())
        };
        let threads: Vec<_> = (0..open.len()).flat_map(|unit| [run(unit), run(unit)]).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for pair in records.chunks(2) {
        assert_eq!((pair[0].rows, &pair[0].unit), (pair[1].rows, &pair[1].unit));
    }
    let again = worker.run(&open[0], &cancel).unwrap();
    assert!(again.was_done && again.rows == records[0].rows, "{again:?}");
    assert_eq!(coordinator.done().unwrap(), units);
    coordinator.check_deadly().unwrap();
    assert_eq!(coordinator.open_units(0).count(), 0);
    let report = coordinator.publish().unwrap();
    assert_eq!(report.units.unwrap().computed, units);
    let found = files(fixture);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(found == expected, "files differ in their bytes");
    // The token of the run is gone with it; an incremental output keeps its manifests.
    match worker.run(&open[0], &cancel) {
        Ok(record) => assert!(record.was_done && files(fixture) == expected),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Resources, "{error}"),
    }
}

#[test]
fn workers_write_the_bytes_of_a_run() {
    let fixture = Fixture::new();
    for file in 0..5 {
        let rows =
            (0..20).map(|row| format!("{},\"row {row} of {file}: the sea\"\n", file * 100 + row));
        fixture.file(&format!("in/{file}.csv"), format!("id,text\n{}", rows.collect::<String>()));
    }
    let pipeline = embed_pipeline(&mini_embedder(), "in/*.csv", "out/", "run: {workers: 1}");
    fixture.file("p.yaml", pipeline);
    assert_same_as_run(&fixture, 5);
}

/// Units of cut files, hive partitions, and text that is not UTF-8.
#[test]
fn workers_read_units_without_the_other_files() {
    let fixture = Fixture::new();
    for (lang, shift) in [("de", 0), ("en", 7)] {
        let mut rows = b"id,text\n".to_vec();
        for row in 0..40_000 {
            let text: &[u8] = if row % 9_000 == shift { b"na\xefve" } else { b"plain" };
            rows.extend_from_slice(format!("{row},").as_bytes());
            rows.extend_from_slice(text);
            rows.push(b'\n');
        }
        fixture.file(&format!("in/lang={lang}/rows.csv"), rows);
    }
    let pipeline = |more: &str| {
        format!(
            "version: 1\nsource: {{path: in/}}\nsteps:\n- sql: SELECT id, upper(text) AS t, text, lang FROM input \
             WHERE id % 3 <> ${{REST:-1}}\nsink: {{path: out/, {more}}}\non_error: {{rows: skip}}\n"
        )
    };
    fixture.file("p.yaml", pipeline("format: parquet"));
    assert_same_as_run(&fixture, 6);
    fs::remove_dir_all(fixture.path("out")).unwrap();
    fixture.file("p.yaml", pipeline("format: jsonl, partition_by: [lang]"));
    assert_same_as_run(&fixture, 6);
}

#[test]
fn workers_read_parquet() {
    let fixture = Fixture::new();
    for file in 0..2 {
        fixture.file(&format!("in/{file}.parquet"), fs::read(sample_rows()).unwrap());
    }
    fixture.file(
        "p.yaml",
        "version: 1\nsource: {path: in/, where: id % 2 = 0}\nsink: {path: out/}\nrun: {incremental: new_or_changed}\n",
    );
    assert_same_as_run(&fixture, 2);
}

#[test]
fn what_does_not_fit_is_refused() {
    let fixture = Fixture::new();
    for file in 0..3 {
        fixture.file(&format!("in/{file}.csv"), format!("id\n{file}\n"));
    }
    let text = "version: 1\nsource: {path: 'in/*.csv'}\nsink: {path: out/}\n";
    fixture.file("p.yaml", text);
    let runtime = runtime();
    let coordinator = open(&runtime, &fixture).unwrap();
    let bytes = coordinator.spec().to_bytes().unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut spec: Value =
            serde_json::from_slice(&zstd::decode_all(bytes.as_slice()).unwrap()).unwrap();
        change(&mut spec);
        let text = serde_json::to_vec(&spec).unwrap();
        JobSpec::from_bytes(&zstd::encode_all(text.as_slice(), 1).unwrap())
            .and_then(|spec| Worker::open(spec, options()).map(drop))
            .unwrap_err()
    };
    let check = |kind: ErrorKind, message: &str, change: &dyn Fn(&mut Value)| {
        let error = changed(change);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "no `{message}` in {error}");
    };
    check(ErrorKind::Config, "run the same program file", &|spec| spec["build"] = "0.0.1 x".into());
    check(ErrorKind::Config, "run the same program file", &|spec| spec["protocol"] = 2.into());
    check(ErrorKind::Config, "does not write to", &|spec| spec["sink"] = "/elsewhere".into());
    check(ErrorKind::Config, "plans the job differently", &|spec| {
        let text = text.replace("'in/*.csv'}", "'in/*.csv', where: id > 0}");
        spec["pipeline"]["text"] = text.into();
    });
    check(ErrorKind::Data, "damaged", &|spec| drop(spec["owner"].take()));
    check(ErrorKind::Resources, "was lost", &|spec| spec["owner"] = "0123456789abcdef".into());
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        let error = JobSpec::from_bytes(&bytes[..cut]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{cut}: {error}");
    }

    // A unit of another job.
    let worker = Worker::open(coordinator.spec().clone(), options()).unwrap();
    let units: Vec<_> = coordinator.open_units(0).collect();
    let unit: Value =
        serde_json::from_slice(&zstd::decode_all(units[0].to_bytes().unwrap().as_slice()).unwrap())
            .unwrap();
    for (key, value) in [("id", "../../x"), ("id", "00")] {
        let mut unit = unit.clone();
        unit[key] = value.into();
        let text = serde_json::to_vec(&unit).unwrap();
        let unit = UnitSpec::from_bytes(&zstd::encode_all(text.as_slice(), 1).unwrap()).unwrap();
        let error = worker.run(&unit, &Cancel::new()).unwrap_err();
        assert!(error.message().contains("belongs to another job"), "{error}");
    }
    // A cancelled unit is not done, and counts no attempt.
    let cancel = Cancel::new();
    cancel.cancel(ErrorKind::Terminated);
    if let Err(error) = worker.run(&units[1], &cancel) {
        assert_eq!(error.kind(), ErrorKind::Terminated);
    }
    assert!(!fixture.path("out/_hfauto/attempts").exists());
    // An output that is held, and one with units missing.
    let error = open(&runtime, &fixture).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
    worker.run(&units[0], &Cancel::new()).unwrap();
    let error = coordinator.publish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
    assert!(error.message().contains("of the job are missing"), "{error}");
    let ran = fixture.run(&["run", "p.yaml"]);
    assert!(ran.succeeds().stdout.contains("done before"), "{}", ran.stdout);
}

#[test]
fn jobs_share_the_weights_of_a_model() {
    let spec = ModelSpec::of_repo(mini_embedder().to_str().unwrap());
    let load = || {
        let model = Models::new(hub()).resolve(&spec).unwrap();
        let weights = model.load(&model.devices()[0]).unwrap();
        (model, weights)
    };
    let (first, second) = (load(), load());
    assert!(Arc::ptr_eq(&first.1, &second.1));
    let other = ModelSpec { dtype: hfauto_pipe::tasks::Dtype::Bf16, ..spec.clone() };
    let other = Models::new(hub()).resolve(&other).unwrap();
    let weights = other.load(&other.devices()[0]).unwrap();
    assert!(!Arc::ptr_eq(&first.1, &weights));
    let gone = Arc::downgrade(&first.1);
    drop((first, second));
    assert!(gone.upgrade().is_none(), "the weights outlive their jobs");
}
