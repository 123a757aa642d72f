//! A small HTTP/1.1 server on a loopback port, and on it a hub with one model: the endpoints, headers
//! and redirects of huggingface.co, with faults on demand. Stops when it is dropped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const REPO: &str = "org/model";
pub(crate) const COMMIT: &str = "1111111111111111111111111111111111111111";

/// A recorded request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The `Content-Length` to claim; the body's own if unset.
    pub(crate) declared: Option<usize>,
    /// Close the connection after this many bytes of the body.
    pub(crate) cut: Option<usize>,
    pub(crate) delay: Duration,
    /// Send this repeatedly with a pause, without a length.
    pub(crate) endless: Option<(Vec<u8>, Duration)>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler = Arc::new(handler);
        let thread = {
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                    std::thread::spawn(move || {
                        // Errors of a disconnected client are ignored.
                        let _ = serve(stream, &log, handler.as_ref());
                    });
                }
            })
        };
        Self { address, log, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes the requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// As [`Server::seen`], as `METHOD /path`, sorted, because transfers run concurrently.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.seen().iter().map(Seen::line).collect();
        lines.sort();
        lines
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    handler: &dyn Fn(&Seen) -> Answer,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let seen = Seen { method, path, headers, body };
    log.lock().unwrap().push(seen.clone());
    let answer = handler(&seen);
    std::thread::sleep(answer.delay);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    let mut stream = stream;
    if let Some((piece, pause)) = answer.endless {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        if seen.method == "HEAD" {
            return stream.shutdown(std::net::Shutdown::Write);
        }
        loop {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            stream.write_all(&piece)?;
            stream.write_all(b"\r\n")?;
            std::thread::sleep(pause);
        }
    }
    let length = answer.declared.unwrap_or(answer.body.len());
    write!(head, "Content-Length: {length}\r\n\r\n").unwrap();
    stream.write_all(head.as_bytes())?;
    if seen.method != "HEAD" {
        let end = answer.cut.unwrap_or(usize::MAX).min(answer.body.len());
        stream.write_all(&answer.body[..end])?;
    }
    stream.flush()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Waits for the client to close, so that no reset overtakes the response.
    let _ = stream.read(&mut [0; 16]);
    Ok(())
}

/// The faults to inject, and the model to serve. Tests change them between runs.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Revision → commit.
    pub(crate) refs: BTreeMap<String, String>,
    /// Respond to every request to the hub with this status and `X-Error-Code`.
    pub(crate) refuse: Option<(u16, &'static str)>,
    /// Refuse only requests for files.
    pub(crate) refuse_files: Option<(u16, &'static str)>,
    /// Interrupt this many responses of the storage after this many bytes.
    pub(crate) cuts: usize,
    pub(crate) cut_after: usize,
    /// The storage responds with this status and an error page.
    pub(crate) storage_status: u16,
    /// The storage ignores ranges and sends the whole file.
    pub(crate) no_ranges: bool,
    /// The storage sends these bytes instead of the file.
    pub(crate) storage_body: Option<Vec<u8>>,
    /// The etag of small files.
    pub(crate) etag: Option<String>,
    /// The response for small files, instead of their content.
    pub(crate) endless_file: Option<(Vec<u8>, Duration)>,
    /// The response for the repository listing.
    pub(crate) endless_info: Option<(Vec<u8>, Duration)>,
    /// The content of small files, instead of the one that matches their etag.
    pub(crate) evil: Option<Vec<u8>>,
    pub(crate) delay: Duration,
}

/// A hub and the storage behind it, each on its own port.
pub(crate) struct FakeHub {
    pub(crate) hub: Server,
    pub(crate) storage: Server,
    pub(crate) world: Arc<Mutex<World>>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The git hash of a file.
pub(crate) fn git_hash(bytes: &[u8]) -> String {
    sha1(&[format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat())
}

pub(crate) fn sha1(bytes: &[u8]) -> String {
    Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As on the hub, weights are in large file storage and other files in git.
fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".bin") || file.ends_with(".onnx")
}

impl FakeHub {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let world = Arc::new(Mutex::new(World {
            files: files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect(),
            refs: BTreeMap::from([("main".to_owned(), COMMIT.to_owned())]),
            refuse: None,
            refuse_files: None,
            cuts: 0,
            cut_after: 0,
            storage_status: 200,
            no_ranges: false,
            storage_body: None,
            etag: None,
            endless_file: None,
            endless_info: None,
            evil: None,
            delay: Duration::ZERO,
        }));
        let storage = {
            let world = Arc::clone(&world);
            Server::start(move |seen| store(&mut world.lock().unwrap(), seen))
        };
        let hub = {
            let (world, storage) = (Arc::clone(&world), storage.url());
            Server::start(move |seen| answer(&world.lock().unwrap(), &storage, seen))
        };
        Self { hub, storage, world }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }
}

fn refusal((status, code): (u16, &'static str)) -> Answer {
    Answer::new(status, r#"{"error": "the server's words"}"#).header("X-Error-Code", code)
}

fn answer(world: &World, storage: &str, seen: &Seen) -> Answer {
    let delay = world.delay;
    Answer { delay, ..answer_now(world, storage, seen) }
}

fn answer_now(world: &World, storage: &str, seen: &Seen) -> Answer {
    if let Some(refuse) = world.refuse {
        return refusal(refuse);
    }
    if let Some(revision) = seen.path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
        let revision = revision.replace("%2F", "/");
        if let Some(endless) = &world.endless_info {
            return Answer { endless: Some(endless.clone()), ..Answer::new(200, "") };
        }
        let commit = match world.refs.get(&revision) {
            Some(commit) => commit,
            None if world.refs.values().any(|commit| *commit == revision) => &revision,
            None => return refusal((404, "RevisionNotFound")),
        };
        let files: Vec<_> =
            world.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "id": REPO, "sha": commit, "siblings": files });
        return Answer::new(200, info.to_string()).header("Content-Type", "application/json");
    }
    let resolved =
        seen.path.strip_prefix(&format!("/{REPO}/resolve/")).and_then(|rest| rest.split_once('/'));
    let Some((revision, file)) = resolved else { return refusal((404, "RepoNotFound")) };
    let commit = world.refs.get(revision).map_or(revision, String::as_str);
    if let Some(refuse) = world.refuse_files {
        return refusal(refuse);
    }
    let Some(bytes) = world.files.get(file) else { return refusal((404, "EntryNotFound")) };
    let hash = sha256(bytes);
    if is_large(file) {
        return Answer::new(302, "")
            .header("Location", format!("{storage}/{hash}?signature=secret"))
            .header("ETag", "\"of-the-redirect\"")
            .header("X-Linked-ETag", format!("\"{hash}\""))
            .header("X-Linked-Size", bytes.len().to_string())
            .header("X-Repo-Commit", commit);
    }
    let etag = world.etag.clone().unwrap_or_else(|| git_hash(bytes));
    let answer = Answer::new(200, world.evil.as_ref().unwrap_or(bytes).clone())
        .header("ETag", format!("\"{etag}\""))
        .header("X-Repo-Commit", commit);
    Answer { endless: world.endless_file.clone(), ..answer }
}

fn store(world: &mut World, seen: &Seen) -> Answer {
    let hash = seen.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    if world.storage_status != 200 {
        return Answer::new(world.storage_status, "<html>an error page</html>");
    }
    let file = world.files.values().find(|bytes| sha256(bytes) == hash);
    let Some(bytes) = world.storage_body.as_ref().or(file) else { return Answer::new(404, "") };
    let from = seen.headers.get("range").filter(|_| !world.no_ranges).map(|range| {
        range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap()
    });
    let mut answer = match from {
        Some(from) if from >= bytes.len() => Answer::new(416, ""),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new(206, &bytes[from..]).header("Content-Range", range)
        }
        None => Answer::new(200, bytes.clone()),
    };
    if world.cuts > 0 {
        world.cuts -= 1;
        answer.cut = Some(world.cut_after);
    }
    answer
}
