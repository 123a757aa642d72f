//! Commits files to a dataset on the hub, all in one commit: large files go to large file storage first. The protocol is
//! that of `_commit_api.py` and `lfs.py` in `huggingface_hub`. Not here: which files, and reading ([`super::dataset`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{Body, Client, Method, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use url::Url;

use super::dataset::Dataset;
use super::http::{Failure, NO_HUB, header};
use super::settings::DEFAULT_ENDPOINT;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Files per request of upload modes, and of places in large file storage.
const FILES_PER_REQUEST: usize = 256;
/// The bytes of a file by which the hub tells whether it is text.
const SAMPLE_BYTES: usize = 512;
const PARALLEL_UPLOADS: usize = 4;
/// The bytes read from a file at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// The least bytes per second of an upload.
const LEAST_PACE: u64 = 64 << 10;
const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// A change of one file.
#[derive(Clone, Debug)]
pub struct Change {
    /// The path in the repository.
    pub path: String,
    /// The content after the commit.
    pub content: Content,
    /// Whether it is a reason for a commit; otherwise it is part of one that there is in any case.
    pub counts: bool,
}

/// The content of a file after a commit.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of a local file.
    File(PathBuf),
    /// None: the file, which exists, is deleted.
    Deleted,
}

/// A commit whose large files are in the storage already.
#[derive(Debug)]
pub struct Prepared {
    branch: String,
    /// The request, one JSON object per line.
    lines: Vec<u8>,
    /// The number of files that change.
    pub changes: usize,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The new commit.
    pub commit: String,
}

/// The size and the hashes of a file.
struct Known {
    size: u64,
    sha256: String,
    /// The hash by which git knows it.
    git: String,
    sample: Vec<u8>,
}

#[derive(Deserialize)]
struct Modes {
    files: Vec<Mode>,
}

/// How a file is uploaded.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
    /// The hash of the file that the branch has.
    oid: Option<String>,
}

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

/// A file in the answer of large file storage.
#[derive(Deserialize)]
struct Object {
    oid: String,
    /// None if the storage has it.
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
}

impl Dataset {
    /// Fails if the token may not write to the dataset, as far as the hub says so before a commit.
    ///
    /// # Errors
    /// `Hub` without a token, or with one that may not write.
    pub async fn check_writable(&self, branch: &str) -> Result<()> {
        if self.http.settings.token.is_none() {
            let message = format!("no token to write to {}", self.http.repo);
            return Err(Error::new(ErrorKind::Hub, message).hint(TOKEN));
        }
        let file =
            Known { size: 1, sha256: String::new(), git: String::new(), sample: vec![b'\n'] };
        self.modes(branch, &[("README.md", &file)]).await.map(drop)
    }

    /// Uploads the files that `branch` lacks to large file storage, and describes the commit that follows `parent`.
    /// `None` if the branch has all files that count. Until [`Dataset::commit`], readers see nothing of it.
    ///
    /// # Errors
    /// `Hub` when the hub refuses, or is unreachable; `Data` when a local file cannot be read.
    pub async fn prepare(
        &self,
        branch: &str,
        parent: &str,
        changes: &[Change],
        summary: &str,
    ) -> Result<Option<Prepared>> {
        let mut known = Vec::new();
        for change in changes {
            let file = known_of(&change.content).map_err(|error| unread(&change.path, error))?;
            known.extend(file.map(|file| (change, file)));
        }
        let named: Vec<(&str, &Known)> =
            known.iter().map(|(change, file)| (change.path.as_str(), file)).collect();
        let modes = self.modes(branch, &named).await?;
        let (mut lines, mut large) = (Vec::new(), Vec::<(&Change, &Known)>::new());
        let mut add = |value: Value| {
            lines.extend_from_slice(value.to_string().as_bytes());
            lines.push(b'\n');
        };
        let header = json!({ "summary": summary, "description": "", "parentCommit": parent });
        add(json!({ "key": "header", "value": header }));
        let (mut count, mut is_needed, mut within) = (0, false, 0);
        for (change, file) in known.iter().map(|(change, file)| (*change, file)) {
            let path = &change.path;
            let mode = modes.get(path.as_str()).ok_or_else(|| {
                self.http.no_hub(format!("it does not say how to upload `{path}`"))
            })?;
            if mode.should_ignore {
                let message = format!("`.gitignore` of {} excludes `{path}`", self.http.repo);
                return Err(
                    Error::new(ErrorKind::Hub, message).hint("change it, or choose another folder")
                );
            }
            // Large file storage takes no empty files.
            let is_large = mode.upload_mode == "lfs" && file.size > 0;
            let local = if is_large { &file.sha256 } else { &file.git };
            if mode.oid.as_ref() == Some(local) {
                continue;
            }
            count += 1;
            is_needed |= change.counts;
            if is_large {
                let value = json!({
                    "path": path, "algo": "sha256", "oid": file.sha256, "size": file.size
                });
                add(json!({ "key": "lfsFile", "value": value }));
                large.push((change, file));
                continue;
            }
            within += file.size;
            if within > limits::COMMIT_BYTES {
                let most = limits::COMMIT_BYTES;
                let message = format!(
                    "the files that {} does not keep in large file storage have more than {most} bytes",
                    self.http.repo
                );
                return Err(Error::new(ErrorKind::Hub, message)
                    .hint("write Parquet, or add the extension to its `.gitattributes`"));
            }
            let content = match &change.content {
                Content::Bytes(bytes) => base64(bytes),
                Content::File(file) => {
                    base64(&std::fs::read(file).map_err(|error| unread(path, error))?)
                }
                Content::Deleted => continue,
            };
            let value = json!({ "content": content, "path": path, "encoding": "base64" });
            add(json!({ "key": "file", "value": value }));
        }
        for change in changes.iter().filter(|change| matches!(change.content, Content::Deleted)) {
            count += 1;
            is_needed |= change.counts;
            add(json!({ "key": "deletedFile", "value": { "path": change.path } }));
        }
        if !is_needed {
            return Ok(None);
        }
        self.upload(branch, &large).await?;
        Ok(Some(Prepared { branch: branch.to_owned(), lines, changes: count }))
    }

    /// Commits what is prepared.
    ///
    /// # Errors
    /// `Resources` when the branch has another commit by now; otherwise as [`Dataset::prepare`].
    pub async fn commit(&self, prepared: &Prepared) -> Result<Pushed> {
        let url = self.http.api_url(&["commit", &prepared.branch])?;
        let client = self.http.upload_client()?;
        let request = self.http.request_by(&client, Method::POST, &url);
        let request = request.header(CONTENT_TYPE, "application/x-ndjson");
        let request = request.body(prepared.lines.clone());
        let time = self.upload_time(prepared.lines.len() as u64);
        let sent = async {
            let response = self.http.send_within(request, &url, time).await?;
            self.written(response, &prepared.branch).await
        };
        // Not repeated: the hub may have made the commit whose answer is lost. The next run finds it.
        let body = match sent.await {
            Err(Failure::Network { error, .. }) => {
                let message = format!("{} did not answer to a commit", self.http.repo);
                return Err(Error::new(ErrorKind::Hub, message)
                    .source(error.message().to_owned())
                    .hint("run the same command again: it finds out whether the commit was made"));
            }
            sent => sent?,
        };
        let made: Committed = serde_json::from_slice(&body).map_err(|e| self.http.no_hub(e))?;
        Ok(Pushed { commit: made.commit_oid })
    }

    /// How each file is uploaded, by path.
    async fn modes(
        &self,
        branch: &str,
        files: &[(&str, &Known)],
    ) -> Result<BTreeMap<String, Mode>> {
        let url = self.http.api_url(&["preupload", branch])?;
        let mut modes = BTreeMap::new();
        for files in files.chunks(FILES_PER_REQUEST) {
            let files = files.iter().map(|(path, file)| {
                json!({ "path": path, "sample": base64(&file.sample), "size": file.size })
            });
            let body = json!({ "files": files.collect::<Vec<_>>() });
            let body = self.post(&url, &body, "application/json", branch).await?;
            let found: Modes = serde_json::from_slice(&body).map_err(|e| self.http.no_hub(e))?;
            modes.extend(found.files.into_iter().map(|mode| (mode.path.clone(), mode)));
        }
        Ok(modes)
    }

    /// Uploads files to large file storage, unless it has them.
    async fn upload(&self, branch: &str, files: &[(&Change, &Known)]) -> Result<()> {
        let client = self.http.upload_client()?;
        let path = format!("{}.git", self.http.repo.path());
        let url = self.http.url(path.split('/').chain(["info", "lfs", "objects", "batch"]))?;
        for files in files.chunks(FILES_PER_REQUEST) {
            let objects =
                files.iter().map(|(_, file)| json!({ "oid": file.sha256, "size": file.size }));
            let body = json!({
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "objects": objects.collect::<Vec<_>>(),
                "hash_algo": "sha256",
                "ref": { "name": branch },
            });
            let body = self.post(&url, &body, LFS_JSON, branch).await?;
            let batch: Batch = serde_json::from_slice(&body).map_err(|e| self.http.no_hub(e))?;
            let uploads = batch.objects.into_iter().map(|object| {
                // Two files of one content are one object.
                let file = files.iter().find(|(_, file)| file.sha256 == object.oid).copied();
                self.upload_object(&client, file, object, branch)
            });
            futures::stream::iter(uploads)
                .buffer_unordered(PARALLEL_UPLOADS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn upload_object(
        &self,
        client: &Client,
        file: Option<(&Change, &Known)>,
        object: Object,
        branch: &str,
    ) -> Result<()> {
        let Some((change, known)) = file else {
            return Err(self.http.no_hub("it names a file that nobody uploads"));
        };
        if let Some(error) = object.error {
            let message =
                format!("large file storage refuses `{}`: {}", change.path, error.message);
            return Err(self.http.error(message));
        }
        let Some(Actions { upload, verify }) = object.actions else { return Ok(()) };
        if let Some(action) = upload {
            let url = self.href(&action.href)?;
            if let Some(size) = action.header.get("chunk_size") {
                let parts = (size, &action.header);
                self.upload_parts(client, (change, known), parts, &url, branch).await?;
            } else {
                let put = || async {
                    let request = self.http.request_by(client, Method::PUT, &url);
                    let request = with_headers(request, &action.header);
                    self.put(request, &url, change, 0..known.size).await
                };
                self.http.retried(put).await?;
            }
        }
        if let Some(action) = verify {
            let url = self.href(&action.href)?;
            let body = json!({ "oid": known.sha256, "size": known.size });
            self.post(&url, &body, LFS_JSON, branch).await?;
        }
        Ok(())
    }

    /// Uploads a file in parts, whose addresses are the numbered values of `header`.
    async fn upload_parts(
        &self,
        client: &Client,
        (change, known): (&Change, &Known),
        (size, header): (&Value, &BTreeMap<String, Value>),
        complete: &Url,
        branch: &str,
    ) -> Result<()> {
        let size = size.as_u64().or_else(|| size.as_str()?.parse().ok()).filter(|size| *size > 0);
        let size = size.ok_or_else(|| self.http.no_hub("its `chunk_size` is not a number"))?;
        let number = |(name, url): (&String, &Value)| {
            Some((name.parse::<u64>().ok()?, url.as_str()?.to_owned()))
        };
        let urls: BTreeMap<u64, String> = header.iter().filter_map(number).collect();
        if urls.len() as u64 != known.size.div_ceil(size) {
            return Err(self.http.no_hub("it has another number of parts than the file"));
        }
        let mut parts = Vec::new();
        for (index, url) in urls.values().enumerate() {
            let (start, url) = (index as u64 * size, self.href(url)?);
            let range = start..(start + size).min(known.size);
            let put = || async {
                let request = self.http.request_by(client, Method::PUT, &url);
                self.put(request, &url, change, range.clone()).await
            };
            let headers = self.http.retried(put).await?;
            let etag = headers.get("etag").and_then(|etag| etag.to_str().ok());
            let etag = etag.ok_or_else(|| self.http.no_hub("a part has no etag"))?;
            parts.push(json!({ "partNumber": index + 1, "etag": etag }));
        }
        let body = json!({ "oid": known.sha256, "parts": parts });
        self.post(complete, &body, LFS_JSON, branch).await.map(drop)
    }

    /// Sends a range of a file as the body of a request.
    async fn put(
        &self,
        request: RequestBuilder,
        url: &Url,
        change: &Change,
        range: std::ops::Range<u64>,
    ) -> Result<HeaderMap, Failure> {
        let bytes = range.end - range.start;
        let body = body_of(&change.content, range).map_err(|error| unread(&change.path, error))?;
        let request = request.header(CONTENT_LENGTH, bytes).body(body);
        let response = self.http.send_within(request, url, self.upload_time(bytes)).await?;
        if response.status().is_success() {
            return Ok(response.headers().clone());
        }
        Err(self.http.refused(&response, "", &change.path))
    }

    fn upload_time(&self, bytes: u64) -> Duration {
        self.http.answer_time() + Duration::from_secs(bytes / LEAST_PACE)
    }

    /// Posts JSON to the hub or its storage; returns the body of the answer.
    async fn post(&self, url: &Url, body: &Value, kind: &str, branch: &str) -> Result<Vec<u8>> {
        let body = body.to_string();
        let post = || async {
            let request = self.http.request(Method::POST, url).header(CONTENT_TYPE, kind);
            let request = request.header("accept", kind).body(body.clone());
            let response = self.http.ask(request, url).await?;
            self.written(response, branch).await
        };
        Ok(self.http.retried(post).await?)
    }

    /// The body of an answer to a request that writes.
    async fn written(&self, response: Response, branch: &str) -> Result<Vec<u8>, Failure> {
        let repo = &self.http.repo;
        let status = response.status();
        if status.is_success() {
            return self.http.small_body(response, limits::HUB_ANSWER_BYTES).await;
        }
        let is_gated = header(response.headers(), "x-error-code") == Some("GatedRepo");
        let error = match status.as_u16() {
            401 | 403 if !is_gated => {
                let message = format!("the token may not write to {repo}");
                Error::new(ErrorKind::Hub, message).hint(TOKEN)
            }
            409 | 412 => {
                let message = format!("another commit came to `{branch}` of {repo} in between");
                Error::new(ErrorKind::Resources, message).hint(
                    "run the same command again: it commits on top of that one, and computes nothing again",
                )
            }
            404 => {
                let message = format!("{repo} or its branch `{branch}` does not exist");
                Error::new(ErrorKind::Hub, message).hint(format!(
                    "create it first: `hf repo create {} --repo-type dataset`; or the token may not see it",
                    repo.as_str()
                ))
            }
            _ => return Err(self.http.refused_with_body(response, branch, None).await),
        };
        Err(Failure::Fatal(error))
    }

    fn href(&self, text: &str) -> Result<Url> {
        // A mirror passes on what the hub behind it says.
        let url = match text.strip_prefix(DEFAULT_ENDPOINT) {
            Some(path) if path.starts_with('/') => {
                Url::parse(&format!("{}{path}", self.http.settings.endpoint()))
            }
            _ => Url::parse(text),
        };
        let url = url.map_err(|e| self.http.no_hub(e))?;
        match url.scheme() {
            "https" | "http" => Ok(url),
            _ => Err(self.http.error("large file storage has no web address").hint(NO_HUB)),
        }
    }
}

const TOKEN: &str = "set `HF_TOKEN` to a token with write access (https://huggingface.co/settings/tokens), or run `hf auth login` once";

fn with_headers(request: RequestBuilder, headers: &BTreeMap<String, Value>) -> RequestBuilder {
    let texts = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    texts.fold(request, |request, (name, value)| request.header(name, value))
}

fn unread(path: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Data, format!("cannot read `{path}` to upload it")).source(error)
}

/// The size and the hashes of a content; `None` for a deleted file.
fn known_of(content: &Content) -> io::Result<Option<Known>> {
    let (size, mut reader): (u64, Box<dyn Read + '_>) = match content {
        Content::Bytes(bytes) => (bytes.len() as u64, Box::new(bytes.as_slice())),
        Content::File(path) => {
            let file = File::open(path)?;
            (file.metadata()?.len(), Box::new(file))
        }
        Content::Deleted => return Ok(None),
    };
    let (mut sha256, mut sha1) = (Sha256::new(), Sha1::new());
    sha1.update(format!("blob {size}\0"));
    let (mut sample, mut chunk, mut read) = (Vec::new(), vec![0; CHUNK_BYTES as usize], 0);
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        let bytes = &chunk[..count];
        sample.extend_from_slice(&bytes[..count.min(SAMPLE_BYTES - sample.len())]);
        sha256.update(bytes);
        sha1.update(bytes);
        read += count as u64;
    }
    if read != size {
        return Err(io::Error::other("the file changed while it was read"));
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Known { size, sha256: hex(&sha256.finalize()), git: hex(&sha1.finalize()), sample }))
}

/// A range of a content as the body of a request, read as it is sent.
fn body_of(content: &Content, range: std::ops::Range<u64>) -> io::Result<Body> {
    match content {
        Content::Bytes(bytes) => {
            let bytes = bytes.get(range.start as usize..range.end as usize);
            Ok(Body::from(bytes.unwrap_or_default().to_vec()))
        }
        Content::File(path) => {
            let path: &Path = path;
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut left = range.end - range.start;
            let chunks = std::iter::from_fn(move || {
                let bytes = left.min(CHUNK_BYTES);
                left -= bytes;
                (bytes > 0).then(|| {
                    let mut chunk = vec![0; bytes as usize];
                    file.read_exact(&mut chunk).map(|()| chunk)
                })
            });
            Ok(Body::wrap_stream(futures::stream::iter(chunks)))
        }
        Content::Deleted => Ok(Body::from(Vec::new())),
    }
}

/// Bytes as base64, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let is_padding = digit > three.len();
            text.push(if is_padding { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_padding() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
            (&[0, 255, 16], "AP8Q"),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn a_file_is_known_by_the_hashes_of_git_and_of_large_file_storage() {
        let known = known_of(&Content::Bytes(b"hello\n".to_vec())).unwrap().unwrap();
        assert_eq!(known.git, "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(
            known.sha256,
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert_eq!((known.size, known.sample.as_slice()), (6, b"hello\n".as_slice()));
        assert!(known_of(&Content::Deleted).unwrap().is_none());
    }
}
