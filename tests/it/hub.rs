//! Models from a hub on a loopback port: the requests, the files in the cache, and the state after every fault.

pub(crate) mod server;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hfauto::ErrorKind;
use hfauto_pipe::hub::{Hub, HubProgress, HubSettings, Need, Snapshot, Weights};

use super::support::repository;
use server::{COMMIT, FakeHub, REPO, git_hash, sha1, sha256};

const CONFIG: &[u8] = br#"{"model_type": "bert"}"#;
const TOKENIZER: &[u8] = br#"{"model": {}}"#;

/// A file large enough to be interrupted.
fn weights() -> Vec<u8> {
    (0..100_000u32).flat_map(u32::to_le_bytes).collect()
}

fn model() -> FakeHub {
    FakeHub::new(&[
        ("README.md", b"read me"),
        ("config.json", CONFIG),
        ("tokenizer.json", TOKENIZER),
        ("model.safetensors", &weights()),
        ("model.fp16.safetensors", b"a variant"),
        ("pytorch_model.bin", b"the same again"),
        ("tf_model.h5", b"another framework"),
        ("onnx/model.onnx", b"another runtime"),
    ])
}

struct Fixture {
    fake: FakeHub,
    cache: tempfile::TempDir,
}

impl Fixture {
    fn new(fake: FakeHub) -> Self {
        Self { fake, cache: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> HubSettings {
        HubSettings::from_env()
            .with_cache_dir(self.cache.path())
            .with_endpoint(self.fake.hub.url())
            .with_offline(false)
            .with_token(None)
            .with_retries(2)
            .with_retry_delay(Duration::from_millis(1))
            .with_timeout(Duration::from_secs(10))
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings())
    }

    fn offline(&self) -> Hub {
        Hub::new(self.settings().with_offline(true))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.cache.path().join("models--org--model").join(path)
    }

    /// Names of the blobs, sorted.
    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("blobs")) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn weights_in_snapshot(&self) -> PathBuf {
        self.path(&format!("snapshots/{COMMIT}/model.safetensors"))
    }

    fn expect_nothing_broken(&self) {
        assert!(self.weights_in_snapshot().symlink_metadata().is_err(), "a link to no whole file");
        assert!(!self.blobs().contains(&sha256(&weights())), "{:?}", self.blobs());
    }
}

fn get(hub: &Hub, need: Need) -> hfauto::Result<Snapshot> {
    hub.snapshot(REPO, None, need, &|_| ())
}

/// The error, which must be of kind `Hub` and contain `expected`.
#[track_caller]
fn fails(result: hfauto::Result<Snapshot>, expected: &[&str]) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hub, "{error}");
    let text = error.to_string();
    for part in expected {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    text
}

fn read(snapshot: &Snapshot, file: &str) -> Vec<u8> {
    std::fs::read(snapshot.path(file).unwrap()).unwrap()
}

#[test]
fn downloads_only_what_is_needed_into_the_standard_layout() {
    let fixture = Fixture::new(model());
    let events = RefCell::new(Vec::<HubProgress>::new());
    let snapshot = fixture
        .hub()
        .snapshot(REPO, None, Need::Weights, &|event| events.borrow_mut().push(event))
        .unwrap();

    assert_eq!((snapshot.name(), snapshot.commit()), (REPO, Some(COMMIT)));
    assert_eq!(read(&snapshot, "config.json"), CONFIG);
    assert_eq!(read(&snapshot, "model.safetensors"), weights());
    assert_eq!(snapshot.files().unwrap(), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(snapshot.weight_files().unwrap(), [snapshot.path("model.safetensors").unwrap()]);
    assert_eq!(
        snapshot.digest("config.json").unwrap().unwrap(),
        blake3::hash(CONFIG).to_hex().to_string()
    );

    let resolve = format!("/{REPO}/resolve/{COMMIT}");
    assert_eq!(
        fixture.fake.hub.lines(),
        [
            format!("GET /api/models/{REPO}/revision/main"),
            format!("GET {resolve}/config.json"),
            format!("GET {resolve}/tokenizer.json"),
            format!("HEAD {resolve}/config.json"),
            format!("HEAD {resolve}/model.safetensors"),
            format!("HEAD {resolve}/tokenizer.json"),
        ]
    );
    let hash = sha256(&weights());
    assert_eq!(fixture.fake.storage.lines(), [format!("GET /{hash}?signature=secret")]);

    assert_eq!(std::fs::read_to_string(fixture.path("refs/main")).unwrap(), COMMIT);
    let expected = [git_hash(CONFIG), git_hash(TOKENIZER), hash.clone()];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(fixture.blobs(), expected);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(fixture.weights_in_snapshot()).unwrap(),
        Path::new("../../blobs").join(hash)
    );
    assert!(fixture.path(&format!(".no_exist/{COMMIT}/modules.json")).is_file());

    let events = events.into_inner();
    let last = events.iter().rfind(|event| event.file == "model.safetensors").unwrap();
    assert_eq!((last.received_bytes, last.total_bytes), (400_000, Some(400_000)));
}

#[test]
fn a_second_run_asks_for_the_commit_only_and_one_hub_asks_once() {
    let fixture = Fixture::new(model());
    let hub = fixture.hub();
    get(&hub, Need::Config).unwrap();
    assert_eq!(fixture.fake.hub.lines().len(), 3);
    get(&hub, Need::Tokenizer).unwrap();
    let resolve = format!("/{REPO}/resolve/{COMMIT}/tokenizer.json");
    assert_eq!(fixture.fake.hub.lines(), [format!("GET {resolve}"), format!("HEAD {resolve}")]);
    get(&hub, Need::Weights).unwrap();
    fixture.fake.hub.seen();
    fixture.fake.storage.seen();

    get(&hub, Need::Weights).unwrap();
    assert!(fixture.fake.hub.lines().is_empty());
    get(&fixture.hub(), Need::Weights).unwrap();
    assert_eq!(fixture.fake.hub.lines(), [format!("GET /api/models/{REPO}/revision/main")]);
    assert!(fixture.fake.storage.lines().is_empty());
}

#[test]
fn offline_uses_the_cache_and_names_what_is_missing() {
    let fixture = Fixture::new(model());
    let cache = fixture.path("");
    let cache = cache.to_str().unwrap().trim_end_matches('/');
    fails(
        get(&fixture.offline(), Need::Config),
        &[
            "`org/model` at revision `main` is not in the cache",
            cache,
            "hfauto-pipe fetch org/model",
        ],
    );
    get(&fixture.hub(), Need::Config).unwrap();
    fixture.fake.hub.seen();
    assert_eq!(get(&fixture.offline(), Need::Config).unwrap().commit(), Some(COMMIT));
    fails(
        get(&fixture.offline(), Need::Weights),
        &["lacks `tokenizer.json`, `model.safetensors` of", cache, "HF_HUB_OFFLINE"],
    );
    get(&fixture.hub(), Need::Weights).unwrap();
    fixture.fake.hub.seen();
    assert_eq!(
        read(&get(&fixture.offline(), Need::Weights).unwrap(), "model.safetensors"),
        weights()
    );
    assert!(fixture.fake.hub.lines().is_empty());
}

#[test]
fn uses_a_cache_that_python_filled() {
    let fixture = Fixture::new(model());
    let commit = "2222222222222222222222222222222222222222";
    for (file, bytes) in [("config.json", CONFIG), ("vocab.txt", b"a"), ("pytorch_model.bin", b"b")]
    {
        let blob = sha256(bytes);
        std::fs::create_dir_all(fixture.path("blobs")).unwrap();
        std::fs::create_dir_all(fixture.path(&format!("snapshots/{commit}"))).unwrap();
        std::fs::write(fixture.path("blobs").join(&blob), bytes).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(
            Path::new("../../blobs").join(&blob),
            fixture.path(&format!("snapshots/{commit}/{file}")),
        )
        .unwrap();
    }
    std::fs::create_dir_all(fixture.path("refs")).unwrap();
    std::fs::write(fixture.path("refs/main"), commit).unwrap();
    let snapshot = get(&fixture.offline(), Need::Weights).unwrap();
    assert_eq!(snapshot.commit(), Some(commit));
    assert_eq!(snapshot.files().unwrap(), ["config.json", "pytorch_model.bin", "vocab.txt"]);
}

#[test]
fn resolves_branches_tags_and_commits() {
    let fixture = Fixture::new(model());
    let moved = "3333333333333333333333333333333333333333";
    fixture.fake.change(|world| {
        world.refs.insert("v1.0".to_owned(), COMMIT.to_owned());
        world.refs.insert("feature/x".to_owned(), COMMIT.to_owned());
    });
    let at = |revision: &str| {
        fixture.hub().snapshot(REPO, Some(revision), Need::Weights, &|_| ()).map(|s| {
            assert_eq!(read(&s, "model.safetensors"), weights());
            s.commit().unwrap().to_owned()
        })
    };
    assert_eq!(at("v1.0").unwrap(), COMMIT);
    assert_eq!(at("feature/x").unwrap(), COMMIT);
    assert_eq!(std::fs::read_to_string(fixture.path("refs/feature/x")).unwrap(), COMMIT);
    fixture.fake.hub.seen();
    assert_eq!(at(COMMIT).unwrap(), COMMIT);
    assert!(fixture.fake.hub.lines().is_empty(), "a cached commit needs no network");
    assert!(!fixture.path(&format!("refs/{COMMIT}")).exists());

    // The branch moves but the content stays, so nothing is downloaded again.
    fixture.fake.change(|world| drop(world.refs.insert("main".to_owned(), moved.to_owned())));
    fixture.fake.storage.seen();
    assert_eq!(at("main").unwrap(), moved);
    assert!(fixture.fake.storage.lines().is_empty());
    assert_eq!(at(moved).unwrap(), moved);

    let fresh = Fixture::new(model());
    let snapshot = fresh.hub().snapshot(REPO, Some(COMMIT), Need::Config, &|_| ()).unwrap();
    assert_eq!(snapshot.commit(), Some(COMMIT));
    assert!(!fresh.path("refs").exists());

    fails(at("v2.0").map(|_| unreachable!()), &["`org/model` has no revision `v2.0`"]);
    for bad in ["", "../x", "a b", "/main"] {
        fails(at(bad).map(|_| unreachable!()), &["is not a revision"]);
    }
}

#[test]
fn tells_apart_why_the_hub_refuses() {
    let fixture = Fixture::new(model());
    let check = |refuse, token: Option<&str>, expected: &[&str]| {
        fixture.fake.change(|world| world.refuse = Some(refuse));
        let hub = Hub::new(fixture.settings().with_token(token.map(str::to_owned)));
        let text = fails(get(&hub, Need::Config), expected);
        assert!(!text.contains("hf_token"), "{text}");
    };
    check((401, "RepoNotFound"), None, &["does not exist, or is private", "`HF_TOKEN`"]);
    check((401, ""), Some("hf_token"), &["does not accept the token", "expired"]);
    check((403, "GatedRepo"), None, &["is gated", "accept its conditions", "`HF_TOKEN`"]);
    check((403, "GatedRepo"), Some("hf_token"), &["is gated", "with the account of the token"]);
    check((403, ""), Some("hf_token"), &["forbids access", "may not read"]);
    check((404, "RepoNotFound"), None, &["`org/model` does not exist", "check the spelling"]);
    check((404, "RevisionNotFound"), None, &["no revision `main`", "the server's words"]);
    check((404, ""), None, &["`org/model` or its revision `main` does not exist"]);
    check((429, ""), None, &["slow down"]);
    check((503, ""), None, &["answered 503"]);
    assert!(fixture.blobs().is_empty());

    // The file list of a gated model is public; its files are not.
    fixture.fake.change(|world| {
        world.refuse = None;
        world.refuse_files = Some((401, "GatedRepo"));
    });
    fails(get(&fixture.hub(), Need::Config), &["is gated"]);
    fixture.fake.change(|world| world.refuse_files = Some((404, "EntryNotFound")));
    fails(get(&fixture.hub(), Need::Config), &["lists `config.json`, but does not have it"]);
    assert!(fixture.blobs().is_empty() && !fixture.path("refs").exists());
}

#[test]
fn a_cut_connection_is_resumed() {
    let fixture = Fixture::new(model());
    fixture.fake.change(|world| (world.cuts, world.cut_after) = (1, 150_000));
    let snapshot = get(&fixture.hub(), Need::Weights).unwrap();
    assert_eq!(read(&snapshot, "model.safetensors"), weights());
    let ranges: Vec<_> =
        fixture.fake.storage.seen().iter().map(|seen| seen.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=150000-".to_owned())]);
    assert!(!fixture.blobs().iter().any(|name| name.ends_with(".incomplete")));
}

#[test]
fn a_connection_that_is_always_cut_fails_and_leaves_what_can_be_resumed() {
    let fixture = Fixture::new(model());
    fixture.fake.change(|world| (world.cuts, world.cut_after) = (usize::MAX, 1_000));
    fails(
        get(&fixture.hub(), Need::Weights),
        &["connection was interrupted", "3000 of 400000 bytes", "attempt 3 of 3", "run again"],
    );
    assert_eq!(fixture.fake.storage.seen().len(), 3);
    fixture.expect_nothing_broken();
    assert!(!fixture.path("refs/main").exists());
    let incomplete = format!("{}.incomplete", sha256(&weights()));
    assert!(fixture.blobs().contains(&incomplete), "{:?}", fixture.blobs());

    // A later run resumes, even if the storage no longer supports ranges.
    for no_ranges in [false, true] {
        fixture.fake.change(|world| (world.cuts, world.no_ranges) = (0, no_ranges));
        let snapshot = get(&fixture.hub(), Need::Weights).unwrap();
        assert_eq!(read(&snapshot, "model.safetensors"), weights());
        let seen = fixture.fake.storage.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].headers["range"], "bytes=3000-");
        let blob = fixture.path("blobs").join(sha256(&weights()));
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(format!("{}.incomplete", blob.display()), &weights()[..3000]).unwrap();
    }
}

#[test]
fn a_partial_download_of_another_file_is_discarded() {
    let fixture = Fixture::new(model());
    std::fs::create_dir_all(fixture.path("blobs")).unwrap();
    let incomplete = fixture.path("blobs").join(format!("{}.incomplete", sha256(&weights())));
    for length in [1_000, 400_000, 500_000] {
        std::fs::write(&incomplete, vec![7; length]).unwrap();
        let snapshot = get(&fixture.hub(), Need::Weights).unwrap();
        assert_eq!(read(&snapshot, "model.safetensors"), weights(), "{length}");
        std::fs::remove_file(fixture.path("blobs").join(sha256(&weights()))).unwrap();
    }
}

#[test]
fn a_wrong_size_or_hash_is_never_kept() {
    let fixture = Fixture::new(model());
    let check = |body: Vec<u8>, expected: &[&str]| {
        fixture.fake.change(|world| world.storage_body = Some(body));
        fails(get(&fixture.hub(), Need::Weights), expected);
        fixture.expect_nothing_broken();
    };
    check(vec![0; 399_999], &["wrong size", "declares 400000 bytes", "sends 399999"]);
    check(vec![0; 400_001], &["wrong size", "sends 400001"]);
    let mut changed = weights();
    changed[1234] ^= 1;
    check(
        changed.clone(),
        &["is corrupt after the download", &sha256(&weights()), &sha256(&changed)],
    );
    // Concurrent downloads of smaller files may have left partial files.
    let incomplete = format!("{}.incomplete", sha256(&weights()));
    assert!(!fixture.blobs().contains(&incomplete), "{:?}", fixture.blobs());

    // A corrupt blob of another program is downloaded again.
    fixture.fake.change(|world| world.storage_body = None);
    std::fs::write(fixture.path("blobs").join(sha256(&weights())), b"half").unwrap();
    assert_eq!(read(&get(&fixture.hub(), Need::Weights).unwrap(), "model.safetensors"), weights());
}

#[test]
fn a_small_file_with_another_git_hash_is_never_kept() {
    let fixture = Fixture::new(model());
    let other = br#"{"model_type": "gpt2"}"#.to_vec();
    assert_eq!(other.len(), CONFIG.len());
    fixture.fake.change(|world| world.evil = Some(other.clone()));
    fails(
        get(&fixture.hub(), Need::Config),
        &["is corrupt after the download", &git_hash(CONFIG), &git_hash(&other)],
    );
    assert!(fixture.blobs().is_empty(), "{:?}", fixture.blobs());
    fixture.fake.change(|world| world.evil = None);
    assert_eq!(read(&get(&fixture.hub(), Need::Config).unwrap(), "config.json"), CONFIG);

    // Some mirrors send the hash of the content alone; other etags are not verified.
    for etag in [sha1(CONFIG), "6f".repeat(16)] {
        let fixture = Fixture::new(model());
        fixture.fake.change(|world| world.etag = Some(etag));
        assert!(get(&fixture.hub(), Need::Config).is_ok());
    }
}

#[test]
fn an_answer_without_end_is_given_up() {
    let fixture = Fixture::new(model());
    let fast = (vec![b'a'; 1 << 20], Duration::ZERO);
    fixture.fake.change(|world| world.endless_file = Some(fast.clone()));
    fails(get(&fixture.hub(), Need::Config), &["`config.json`", "sends more than 67108864 bytes"]);
    assert!(fixture.blobs().is_empty(), "{:?}", fixture.blobs());
    fixture.fake.change(|world| world.endless_info = Some(fast));
    fails(get(&fixture.hub(), Need::Config), &["sends more than 67108864 bytes"]);
}

#[test]
fn an_answer_that_drips_is_given_up() {
    let fixture = Fixture::new(model());
    let drip = (b" ".to_vec(), Duration::from_millis(100));
    let hub = || Hub::new(fixture.settings().with_timeout(Duration::from_millis(500)));
    let started = std::time::Instant::now();
    fixture.fake.change(|world| world.endless_file = Some(drip.clone()));
    fails(get(&hub(), Need::Config), &["sends `config.json` too slowly"]);
    fixture.fake.change(|world| world.endless_info = Some(drip));
    fails(get(&hub(), Need::Config), &["sends its response too slowly"]);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn without_a_home_no_folder_is_guessed() {
    // In a child process, because the environment is global.
    let program = env!("CARGO_BIN_EXE_hfauto-pipe");
    let mut command = std::process::Command::new(program);
    command.args(["fetch", REPO]).env_clear().env("HF_ENDPOINT", "http://127.0.0.1:1");
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    assert!(stderr.contains("`HOME` is not set") && stderr.contains("`HF_HOME`"), "{stderr}");
}

#[test]
fn an_error_page_is_never_taken_for_the_file() {
    let fixture = Fixture::new(model());
    for (status, tries) in [(403, 1), (500, 3)] {
        fixture.fake.change(|world| world.storage_status = status);
        fails(get(&fixture.hub(), Need::Weights), &["`org/model`"]);
        assert_eq!(fixture.fake.storage.seen().len(), tries, "{status}");
        fixture.expect_nothing_broken();
    }
}

#[test]
fn an_etag_that_is_not_a_file_name_is_refused() {
    let fixture = Fixture::new(model());
    for etag in ["../../../../evil", "", "a/b", ".."] {
        fixture.fake.change(|world| world.etag = Some(etag.to_owned()));
        fails(get(&fixture.hub(), Need::Config), &["no usable etag"]);
    }
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let fixture = Fixture::new(model());
    let settings = fixture.settings().with_token(Some("hf_token\n".to_owned()));
    assert!(!format!("{settings:?}").contains("hf_token"));
    get(&Hub::new(settings), Need::Weights).unwrap();
    let seen = fixture.fake.hub.seen();
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|seen| seen.headers["authorization"] == "Bearer hf_token"));
    let seen = fixture.fake.storage.seen();
    assert!(
        !seen.is_empty() && seen.iter().all(|seen| !seen.headers.contains_key("authorization"))
    );

    let without = Fixture::new(model());
    get(&without.hub(), Need::Config).unwrap();
    assert!(without.fake.hub.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[test]
fn a_hub_out_of_reach_is_replaced_by_the_cache() {
    let fixture = Fixture::new(model());
    let nowhere = || Hub::new(fixture.settings().with_endpoint("http://127.0.0.1:1"));
    fails(get(&nowhere(), Need::Config), &["cannot reach `http://127.0.0.1:1`", "HF_HUB_OFFLINE"]);
    get(&fixture.hub(), Need::Tokenizer).unwrap();
    assert_eq!(get(&nowhere(), Need::Tokenizer).unwrap().commit(), Some(COMMIT));
    fails(get(&nowhere(), Need::Weights), &["cannot reach"]);
    fixture.fake.change(|world| world.refuse = Some((503, "")));
    assert_eq!(get(&fixture.hub(), Need::Tokenizer).unwrap().commit(), Some(COMMIT));
    // A model that the hub refuses is not served from the cache.
    fixture.fake.change(|world| world.refuse = Some((403, "GatedRepo")));
    fails(get(&fixture.hub(), Need::Tokenizer), &["is gated"]);
}

#[test]
fn a_silent_server_is_given_up() {
    let fixture = Fixture::new(model());
    fixture.fake.change(|world| world.delay = Duration::from_secs(2));
    let settings = fixture.settings().with_timeout(Duration::from_millis(100)).with_retries(0);
    let started = std::time::Instant::now();
    fails(get(&Hub::new(settings), Need::Config), &["cannot reach"]);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_endpoint_that_is_not_a_hub_is_reported() {
    let page = server::Server::start(|_| server::Answer::new(200, "<html>a login page</html>"));
    let fixture = Fixture::new(model());
    let hub = Hub::new(fixture.settings().with_endpoint(page.url()));
    fails(get(&hub, Need::Config), &["does not respond like a hub", "`HF_ENDPOINT`"]);
}

#[test]
fn two_at_once_share_one_transfer() {
    let fixture = Fixture::new(model());
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    read(&get(&fixture.hub(), Need::Weights).unwrap(), "model.safetensors")
                })
            })
            .collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), weights());
        }
    });
    assert_eq!(fixture.fake.storage.seen().len(), 1);
    assert!(fixture.cache.path().join(".locks/models--org--model").is_dir());
}

#[test]
fn works_inside_a_runtime() {
    let fixture = Fixture::new(model());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let commit = runtime.block_on(async {
        get(&fixture.hub(), Need::Config).unwrap().commit().unwrap().to_owned()
    });
    assert_eq!(commit, COMMIT);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported() {
    let fixture = Fixture::new(model());
    std::fs::create_dir_all(fixture.path("blobs")).unwrap();
    let incomplete = fixture.path("blobs").join(format!("{}.incomplete", sha256(&weights())));
    std::os::unix::fs::symlink("/dev/full", &incomplete).unwrap();
    fails(get(&fixture.hub(), Need::Weights), &["cannot write", "the disk is full", "`HF_HOME`"]);
    fixture.expect_nothing_broken();
}

#[test]
fn follows_modules_and_shards() {
    let shard = |name: &str| {
        let raw = 1f32.to_le_bytes();
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &raw).unwrap();
        safetensors::serialize([(name, view)], None).unwrap()
    };
    let fixture = Fixture::new(FakeHub::new(&[
        ("config.json", CONFIG),
        ("tokenizer.json", TOKENIZER),
        (
            "modules.json",
            br#"[{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
                 {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                 {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#,
        ),
        ("1_Pooling/config.json", b"{}"),
        ("2_Dense/config.json", b"{}"),
        ("2_Dense/model.safetensors", &shard("linear.weight")),
        (
            "model.safetensors.index.json",
            br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#,
        ),
        ("model-00001-of-00002.safetensors", &shard("a")),
        ("model-00002-of-00002.safetensors", &shard("b")),
        ("model-00003-of-00003.safetensors", b"of another save"),
    ]));
    let config = get(&fixture.hub(), Need::Config).unwrap();
    assert!(config.path("2_Dense/config.json").is_some());
    assert!(config.path("2_Dense/model.safetensors").is_none());

    let snapshot = get(&fixture.hub(), Need::Weights).unwrap();
    assert!(snapshot.path("model-00003-of-00003.safetensors").is_none());
    let weights = Weights::open(&snapshot.weight_files().unwrap()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    let dense = Weights::open(&snapshot.weight_files_in("2_Dense").unwrap()).unwrap();
    assert_eq!(dense.names().collect::<Vec<_>>(), ["linear.weight"]);
    assert_eq!(snapshot.files().unwrap().len(), 9);

    std::fs::remove_file(
        fixture.path(&format!("snapshots/{COMMIT}/model-00002-of-00002.safetensors")),
    )
    .unwrap();
    fails(get(&fixture.offline(), Need::Weights), &["lacks `model-00002-of-00002.safetensors`"]);
}

#[test]
fn a_directory_is_used_as_it_is() {
    let fixture = Fixture::new(model());
    let dir = fixture.cache.path().join("my-model");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("config.json"), CONFIG).unwrap();
    let snapshot =
        fixture.hub().snapshot(dir.to_str().unwrap(), None, Need::Weights, &|_| ()).unwrap();
    assert_eq!(snapshot.commit(), None);
    assert_eq!(read(&snapshot, "config.json"), CONFIG);
    assert!(fixture.fake.hub.lines().is_empty());
    fails(
        fixture.hub().snapshot("./no-model", None, Need::Config, &|_| ()),
        &["`./no-model` is neither an existing directory nor a hub id"],
    );
}

#[test]
fn of_a_quantized_checkpoint_only_the_config_is_downloaded() {
    let config = br#"{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}"#;
    let fixture = Fixture::new(FakeHub::new(&[
        ("config.json", config),
        ("tokenizer.json", TOKENIZER),
        ("model.safetensors", &weights()),
    ]));
    for need in [Need::Config, Need::Weights] {
        let error = get(&fixture.hub(), need).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains("`gptq`") && text.contains("config.json"), "{text}");
    }
    assert_eq!(fixture.blobs(), [git_hash(config)]);
}

/// A repository with one model in two quantizations.
fn quantizations() -> FakeHub {
    let file = repository().join("tests/golden/gguf/qwen2/model.gguf");
    let bytes = std::fs::read(file).unwrap();
    FakeHub::new(&[
        ("README.md", b"read me"),
        ("config.json", CONFIG),
        ("m-Q4_0.gguf", &bytes),
        ("m-Q8_0.gguf", &bytes),
    ])
}

#[test]
fn a_gguf_file_is_found_by_its_name_and_by_its_quantization() {
    for name in ["org/model:Q8_0", "org/model/m-Q8_0.gguf"] {
        let fixture = Fixture::new(quantizations());
        let get = |hub: &Hub| hub.snapshot(name, None, Need::Config, &|_| ());
        for hub in [fixture.hub(), fixture.offline()] {
            let snapshot = get(&hub).unwrap();
            assert_eq!((snapshot.name(), snapshot.commit()), (name, Some(COMMIT)));
            assert_eq!(snapshot.files().unwrap(), ["m-Q8_0.gguf"]);
            let config = snapshot.json("config.json").unwrap().unwrap();
            assert_eq!(config["model_type"], "qwen2");
            assert!(Weights::open(&snapshot.weight_files().unwrap()).is_ok());
        }
        assert_eq!(fixture.blobs().len(), 1);
    }
    let fixture = Fixture::new(quantizations());
    let get = |name: &str| fixture.hub().snapshot(name, None, Need::Config, &|_| ());
    fails(get(REPO), &["several GGUF files: `m-Q4_0.gguf`, `m-Q8_0.gguf`", "`org/model/m-Q4_0"]);
    fails(get("org/model:Q5_K_M"), &["no GGUF file of the quantization `Q5_K_M`", "m-Q4_0.gguf"]);
    fails(get("org/model/x.gguf"), &["no file `x.gguf`"]);
    assert_eq!(fixture.blobs(), [""; 0]);
}

#[test]
fn an_adapter_is_two_files() {
    let (config, tensors) = (br#"{"peft_type": "LORA"}"#, b"tensors");
    let fixture = Fixture::new(FakeHub::new(&[
        ("README.md", b"read me"),
        ("adapter_config.json", config),
        ("adapter_model.safetensors", tensors),
        ("tokenizer.json", TOKENIZER),
    ]));
    for hub in [fixture.hub(), fixture.offline()] {
        let adapter = hub.adapter(REPO, None, &|_| ()).unwrap();
        assert_eq!(read(&adapter, "adapter_model.safetensors"), tensors);
        assert_eq!(adapter.files().unwrap(), ["adapter_config.json", "adapter_model.safetensors"]);
    }
    assert_eq!(fixture.blobs().len(), 2);
}
