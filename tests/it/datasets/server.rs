//! A hub with one dataset on a loopback port, and the storage behind it on another: what `huggingface_hub` uses to list,
//! read and commit files, with faults on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::hub::server::{Answer, Seen, Server, git_hash, sha1, sha256};

pub(super) const DATASET: &str = "ada/reviews";
pub(super) const TOKEN: &str = "hf_secret_of_ada";

type Files = BTreeMap<String, Vec<u8>>;

/// The dataset, and the faults to inject.
#[derive(Default)]
pub(super) struct World {
    /// The commits of `main`, oldest first: hash and files.
    pub(super) commits: Vec<(String, Files)>,
    /// The objects of large file storage, by hash.
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    /// The parts of uploads, by hash and number.
    parts: BTreeMap<(String, usize), Vec<u8>>,
    /// Answer every request to the hub with this status and code.
    pub(super) refuse: Option<(u16, &'static str)>,
    /// Answer requests for bytes with this status and code.
    pub(super) refuse_files: Option<(u16, &'static str)>,
    /// Answer this many requests with 503 first.
    pub(super) busy: usize,
    /// Cut this many responses of the storage.
    pub(super) cuts: usize,
    /// Refuse this many addresses of the storage, as if they had expired.
    pub(super) expired: usize,
    /// Entries per page of a listing.
    pub(super) page: usize,
    /// The bytes of a part, if files are uploaded in parts.
    pub(super) chunk_size: Option<usize>,
    /// Somebody else commits before the next commit.
    pub(super) race: bool,
    /// Drop the answer to the next commit, after making it.
    pub(super) lose_answer: bool,
}

impl World {
    pub(super) fn head(&self) -> &(String, Files) {
        self.commits.last().unwrap()
    }

    /// Makes a commit with these files.
    pub(super) fn add(&mut self, files: Files) -> String {
        let hash = sha1(format!("commit {}", self.commits.len()).as_bytes());
        for (name, bytes) in &files {
            if is_large(name) {
                self.objects.insert(sha256(bytes), bytes.clone());
            }
        }
        self.commits.push((hash.clone(), files));
        hash
    }
}

/// A hub and the storage behind it, each on its own port.
pub(super) struct FakeDataset {
    pub(super) hub: Server,
    pub(super) storage: Server,
    pub(super) world: Arc<Mutex<World>>,
}

/// As the `.gitattributes` of a new dataset say.
fn is_large(file: &str) -> bool {
    [".parquet", ".arrow", ".gz", ".zst"].iter().any(|end| file.ends_with(end))
}

impl FakeDataset {
    pub(super) fn new(files: &[(&str, &[u8])]) -> Self {
        let mut world = World { page: 1000, ..World::default() };
        world.add(files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect());
        let world = Arc::new(Mutex::new(world));
        let storage = {
            let world = Arc::clone(&world);
            Server::start(move |seen| store(&mut world.lock().unwrap(), seen))
        };
        let hub = {
            let (world, storage) = (Arc::clone(&world), storage.url());
            Server::start(move |seen| answer(&mut world.lock().unwrap(), &storage, seen))
        };
        Self { hub, storage, world }
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.lock().unwrap())
    }

    /// The files at the tip of `main`.
    pub(super) fn files(&self) -> Files {
        self.world.lock().unwrap().head().1.clone()
    }

    pub(super) fn commits(&self) -> usize {
        self.world.lock().unwrap().commits.len()
    }
}

fn refusal((status, code): (u16, &str)) -> Answer {
    let answer = Answer::new(status, r#"{"error": "the server's words"}"#);
    if code.is_empty() { answer } else { answer.header("X-Error-Code", code) }
}

fn ok(value: Value) -> Answer {
    Answer::new(200, value.to_string()).header("Content-Type", "application/json")
}

/// The bytes that a request asks for.
fn ranged(seen: &Seen, bytes: &[u8]) -> Answer {
    let Some(range) = seen.headers.get("range") else { return Answer::new(200, bytes) };
    let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1).min(bytes.len());
    let said = format!("bytes {start}-{}/{}", end - 1, bytes.len());
    Answer::new(206, &bytes[start..end]).header("Content-Range", said)
}

fn answer(world: &mut World, storage: &str, seen: &Seen) -> Answer {
    if let Some(refuse) = world.refuse {
        return refusal(refuse);
    }
    if world.busy > 0 {
        world.busy -= 1;
        return refusal((503, "")).header("Retry-After", "0");
    }
    let may_write = seen.headers.get("authorization") == Some(&format!("Bearer {TOKEN}"));
    if seen.method == "POST" && !may_write {
        return refusal((403, ""));
    }
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let api = path.strip_prefix(&format!("/api/datasets/{DATASET}/"));
    if let Some(api) = api {
        let (what, rest) = api.split_once('/').unwrap_or((api, ""));
        return match what {
            "revision" => match commit_of(world, rest) {
                Some((hash, _)) => ok(json!({ "id": DATASET, "sha": hash, "siblings": [] })),
                None => refusal((404, "RevisionNotFound")),
            },
            "tree" => tree(world, rest, query),
            "preupload" if rest == "main" => preupload(world, seen),
            "commit" if rest == "main" => commit(world, seen),
            _ => refusal((404, "RevisionNotFound")),
        };
    }
    let git = path.strip_prefix(&format!("/datasets/{DATASET}.git/info/lfs/"));
    if let Some(git) = git {
        return lfs(world, storage, git, seen);
    }
    let file = path.strip_prefix(&format!("/datasets/{DATASET}/resolve/"));
    let Some((revision, file)) = file.and_then(|rest| rest.split_once('/')) else {
        return refusal((404, "RepoNotFound"));
    };
    if let Some(refuse) = world.refuse_files {
        return refusal(refuse);
    }
    let Some((hash, files)) = commit_of(world, revision) else {
        return refusal((404, "RevisionNotFound"));
    };
    let file = file.replace("%20", " ");
    let Some(bytes) = files.get(&file) else { return refusal((404, "EntryNotFound")) };
    if is_large(&file) {
        let oid = sha256(bytes);
        return Answer::new(302, "")
            .header("Location", format!("{storage}/{oid}?signature=secret"))
            .header("X-Linked-ETag", format!("\"{oid}\""))
            .header("X-Linked-Size", bytes.len().to_string())
            .header("X-Repo-Commit", hash);
    }
    ranged(seen, bytes).header("ETag", format!("\"{}\"", git_hash(bytes)))
}

fn commit_of<'w>(world: &'w World, revision: &str) -> Option<&'w (String, Files)> {
    if revision == "main" {
        return world.commits.last();
    }
    world.commits.iter().find(|(hash, _)| hash == revision)
}

/// A page of a listing; the cursor is the number of the first entry.
fn tree(world: &World, rest: &str, query: &str) -> Answer {
    let (revision, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let Some((_, files)) = commit_of(world, revision) else {
        return refusal((404, "RevisionNotFound"));
    };
    assert!(query.starts_with("recursive=true&expand=false"), "{query}");
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut entries = Vec::new();
    let mut folders = Vec::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        if let Some((parent, _)) = name.rsplit_once('/')
            && !folders.contains(&parent)
        {
            folders.push(parent);
            entries.push(json!({ "type": "directory", "oid": "0", "size": 0, "path": parent }));
        }
        let mut entry =
            json!({ "type": "file", "oid": git_hash(bytes), "size": bytes.len(), "path": name });
        if is_large(name) {
            entry["size"] = json!(bytes.len());
            entry["oid"] = json!("of-the-pointer");
            entry["lfs"] = json!({ "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 130 });
        }
        entries.push(entry);
    }
    if entries.is_empty() && !folder.is_empty() {
        return refusal((404, "EntryNotFound"));
    }
    let first = query.split_once("cursor=").map_or(0, |(_, at)| at.parse::<usize>().unwrap());
    let end = (first + world.page).min(entries.len());
    let page = ok(json!(entries[first..end]));
    if end == entries.len() {
        return page;
    }
    // The hub behind a mirror names itself.
    let next = format!(
        "https://huggingface.co/api/datasets/{DATASET}/tree/{rest}?recursive=true&expand=false&cursor={end}"
    );
    page.header("Link", format!("<{next}>; rel=\"next\""))
}

fn store(world: &mut World, seen: &Seen) -> Answer {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let path = path.trim_start_matches('/');
    if query != "signature=secret" {
        return Answer::new(403, "<html>no signature</html>");
    }
    if seen.method == "PUT" {
        let (oid, number) = path.split_once('/').unwrap_or((path, "0"));
        let number = number.parse().unwrap();
        world.parts.insert((oid.to_owned(), number), seen.body.clone());
        if number == 0 {
            world.objects.insert(oid.to_owned(), seen.body.clone());
        }
        return Answer::new(200, "").header("ETag", format!("\"part-{number}\""));
    }
    if world.expired > 0 {
        world.expired -= 1;
        return Answer::new(403, "<html>expired</html>");
    }
    let Some(bytes) = world.objects.get(path) else { return Answer::new(404, "") };
    let mut answer = ranged(seen, bytes);
    if world.cuts > 0 && answer.body.len() > 2 {
        world.cuts -= 1;
        answer.cut = Some(answer.body.len() / 2);
    }
    answer
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

fn preupload(world: &World, seen: &Seen) -> Answer {
    let files = &world.head().1;
    let asked = body(seen);
    let modes = asked["files"].as_array().unwrap().iter().map(|file| {
        let path = file["path"].as_str().unwrap();
        // An empty file is in git, whatever its name.
        let is_object = |bytes: &[u8]| is_large(path) && !bytes.is_empty();
        let hash = |bytes: &Vec<u8>| if is_object(bytes) { sha256(bytes) } else { git_hash(bytes) };
        let oid = files.get(path).map(hash);
        json!({
            "path": path,
            "uploadMode": if is_large(path) { "lfs" } else { "regular" },
            "shouldIgnore": false,
            "oid": oid,
        })
    });
    ok(json!({ "files": modes.collect::<Vec<_>>() }))
}

fn lfs(world: &mut World, storage: &str, what: &str, seen: &Seen) -> Answer {
    let asked = body(seen);
    match what {
        "objects/batch" => {
            assert_eq!(
                (&asked["operation"], &asked["hash_algo"]),
                (&json!("upload"), &json!("sha256"))
            );
            let host = format!("http://{}", seen.headers["host"]);
            let git = format!("{host}/datasets/{DATASET}.git/info/lfs");
            let objects = asked["objects"].as_array().unwrap().iter().map(|object| {
                let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
                if world.objects.contains_key(oid) {
                    return json!({ "oid": oid, "size": size });
                }
                let signed = |path: String| format!("{storage}/{path}?signature=secret");
                let upload = match world.chunk_size {
                    None => json!({ "href": signed(oid.to_owned()), "header": { "x-of-upload": "1" } }),
                    Some(bytes) => {
                        let mut header = json!({ "chunk_size": bytes.to_string() });
                        for part in 1..=(size as usize).div_ceil(bytes) {
                            header[part.to_string()] = json!(signed(format!("{oid}/{part}")));
                        }
                        json!({ "href": format!("{git}/complete"), "header": header })
                    }
                };
                let verify = json!({ "href": format!("{git}/verify") });
                json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
            });
            ok(json!({ "transfer": "basic", "objects": objects.collect::<Vec<_>>() }))
        }
        "complete" => {
            let oid = asked["oid"].as_str().unwrap().to_owned();
            let parts = asked["parts"].as_array().unwrap();
            let mut bytes = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                assert_eq!(part["partNumber"], json!(index + 1));
                assert_eq!(part["etag"], json!(format!("\"part-{}\"", index + 1)));
                bytes.extend_from_slice(&world.parts[&(oid.clone(), index + 1)]);
            }
            world.objects.insert(oid, bytes);
            ok(json!({}))
        }
        "verify" => {
            let oid = asked["oid"].as_str().unwrap();
            let stored = world.objects.get(oid).unwrap();
            assert_eq!(sha256(stored), oid);
            assert_eq!(json!(stored.len()), asked["size"]);
            ok(json!({}))
        }
        _ => refusal((404, "")),
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for c in text.chars().take_while(|c| *c != '=') {
        bits = bits << 6 | digits.find(c).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 255) as u8);
        }
    }
    bytes
}

fn commit(world: &mut World, seen: &Seen) -> Answer {
    if std::mem::take(&mut world.race) {
        let mut files = world.head().1.clone();
        files.insert("other.txt".to_owned(), b"somebody else's".to_vec());
        world.add(files);
    }
    assert_eq!(seen.headers["content-type"], "application/x-ndjson");
    let text = String::from_utf8(seen.body.clone()).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let header = lines.next().unwrap();
    assert_eq!(header["key"], "header");
    if header["value"]["parentCommit"].as_str() != Some(&world.head().0) {
        return Answer::new(
            412,
            r#"{"error": "A commit has happened since. Please refresh and try again."}"#,
        );
    }
    let mut files = world.head().1.clone();
    for line in lines {
        let value = &line["value"];
        let path = value["path"].as_str().unwrap().to_owned();
        match line["key"].as_str().unwrap() {
            "file" => {
                assert_eq!(value["encoding"], "base64");
                files.insert(path, decoded(value["content"].as_str().unwrap()));
            }
            "lfsFile" => {
                let object = &world.objects[value["oid"].as_str().unwrap()];
                assert_eq!(json!(object.len()), value["size"]);
                files.insert(path, object.clone());
            }
            "deletedFile" => {
                assert!(files.remove(&path).is_some(), "there is no {path}");
            }
            other => panic!("{other}"),
        }
    }
    let hash = world.add(files);
    let answer = ok(json!({ "commitUrl": "…", "commitOid": hash }));
    if std::mem::take(&mut world.lose_answer) {
        return Answer { cut: Some(0), ..answer };
    }
    answer
}
