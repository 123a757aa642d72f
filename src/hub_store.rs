//! Datasets on the Hugging Face hub as an object store, to read: `hf://datasets/owner/name@revision/path`. A revision is
//! resolved to a commit once, and all files are read at that commit while anything holds the store. Not here: commits
//! of outputs (`crate::job`), and the requests (`hfauto::hub`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use hfauto::hub::{Dataset, DatasetFile, HubSettings, Pieces};
use object_store::path::Path as StorePath;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use crate::error::{self, Error, ErrorKind};

/// The scheme of the hub.
pub(crate) const SCHEME: &str = "hf";

/// What every URL of a dataset begins with.
const PREFIX: &str = "hf://datasets/";

const DEFAULT_REVISION: &str = "main";

/// Revisions that contain slashes, as Python's `HfFileSystem` reads them.
const REFS: [&str; 2] = ["refs/convert/", "refs/pr/"];

/// A URL of a dataset, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DatasetUrl {
    /// `owner/name`
    pub(crate) id: String,
    /// The branch, tag or commit: `main` if none is written.
    pub(crate) revision: String,
    /// The path in the dataset; empty for all of it.
    pub(crate) path: String,
}

/// Whether a text is a URL of the hub.
pub(crate) fn is_hub(text: &str) -> bool {
    text.strip_prefix(SCHEME).is_some_and(|rest| rest.starts_with("://"))
}

impl DatasetUrl {
    /// Takes a URL apart. Makes no request.
    ///
    /// # Errors
    /// `Config` if it names no dataset.
    pub(crate) fn parse(text: &str) -> error::Result<Self> {
        let rest = text.strip_prefix(PREFIX).ok_or_else(|| {
            let message = format!("`{text}` is not the URL of a dataset");
            Error::new(ErrorKind::Config, message).hint(FORM)
        })?;
        Self::of_key(rest)
            .ok_or_else(|| Error::new(ErrorKind::Config, format!("`{text}` names no dataset")))
            .map_err(|error| error.hint(FORM))
    }

    /// Takes the part after [`PREFIX`] apart: `owner/name@revision/path`.
    fn of_key(key: &str) -> Option<Self> {
        let (owner, rest) = key.split_once('/')?;
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, revision, path) = match name.split_once('@') {
            None => (name, DEFAULT_REVISION.to_owned(), path),
            Some((name, first)) => {
                let whole = format!("{first}/{path}");
                let special = REFS.iter().find_map(|refs| {
                    let number = whole.strip_prefix(refs)?.split('/').next()?;
                    Some(refs.len() + number.len()).filter(|_| !number.is_empty())
                });
                match special {
                    Some(end) => {
                        let rest = &path[(end - first.len()).saturating_sub(1).min(path.len())..];
                        (name, whole[..end].to_owned(), rest.trim_start_matches('/'))
                    }
                    None => (name, first.replace("%2F", "/").replace("%2f", "/"), path),
                }
            }
        };
        let is_word = |word: &str| {
            !word.is_empty()
                && !word.starts_with(['.', '-'])
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let is_revision = !revision.is_empty()
            && revision.len() <= 255
            && !revision
                .contains(|c: char| c.is_whitespace() || c.is_control() || "*?[".contains(c))
            && !revision.split('/').any(|part| part.is_empty() || part.starts_with('.'));
        let path = path.trim_matches('/').to_owned();
        let is_path = !path.split('/').any(|part| matches!(part, "." | ".."));
        (is_word(owner) && is_word(name) && is_revision && is_path).then(|| Self {
            id: format!("{owner}/{name}"),
            revision,
            path,
        })
    }
}

/// The local folder in which an output is made before it is pushed to a dataset: below `HFAUTO_STAGING`, else
/// `hfauto-pipe/staging` in the user's cache.
///
/// # Errors
/// `Sink` if there is no such folder.
pub(crate) fn staging(url: &DatasetUrl) -> error::Result<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let root = set("HFAUTO_STAGING").or_else(|| Some(cache()?.join("hfauto-pipe/staging")));
    let root = root.ok_or_else(|| {
        let message = format!("no folder to make the output for the dataset `{}` in", url.id);
        Error::new(ErrorKind::Sink, message).hint("set HFAUTO_STAGING to a folder of your own")
    })?;
    let settings = HubSettings::from_env();
    let host = settings.endpoint().rsplit("://").next().unwrap_or_default();
    // Without credentials, as one name.
    let host = host.rsplit('@').next().unwrap_or_default().replace(['/', ':'], "-");
    let revision = url.revision.replace('/', "%2F");
    let folder = root.join(host).join(format!("{}@{revision}", url.id));
    Ok(if url.path.is_empty() { folder } else { folder.join(&url.path) })
}

const FORM: &str = "write it as `hf://datasets/owner/name/path`, or with a branch, a tag or a commit as \
                    `hf://datasets/owner/name@revision/path`";

/// Makes every request of this process to datasets an error, as `HF_HUB_OFFLINE` does.
pub(crate) fn switch_off() {
    OFF.store(true, Ordering::Relaxed);
}

static OFF: AtomicBool = AtomicBool::new(false);

/// A dataset on the hub, with the settings of the environment.
///
/// # Errors
/// `Hub` when the hub is switched off, `Config` for a wrong id.
pub(crate) fn dataset(id: &str) -> error::Result<Arc<Dataset>> {
    let settings = HubSettings::from_env();
    let is_off = settings.offline() || OFF.load(Ordering::Relaxed);
    Ok(Arc::new(Dataset::new(settings.with_offline(is_off), id)?))
}

/// The store of all datasets. Everything in this process that reads datasets at the same time shares one, and with it the
/// commits.
pub(crate) fn store() -> Arc<HubStore> {
    static STORE: Mutex<Weak<HubStore>> = Mutex::new(Weak::new());
    let mut known = STORE.lock().unwrap_or_else(PoisonError::into_inner);
    known.upgrade().unwrap_or_else(|| {
        let store = Arc::new(HubStore::default());
        *known = Arc::downgrade(&store);
        store
    })
}

/// The URL of the dataset of `path`, and the commit at which this process reads it; `None` if it reads none.
pub(crate) fn pinned(path: &str) -> Option<(String, String)> {
    let DatasetUrl { id, revision, path } = DatasetUrl::parse(path).ok()?;
    let store = store();
    let commits = store.commits.try_lock().ok()?;
    let commit = commits.get(&(id.clone(), revision))?.clone();
    Some((format!("{PREFIX}{id}/{path}"), commit))
}

/// The store of all datasets; see the module.
#[derive(Default)]
pub(crate) struct HubStore {
    /// By id.
    datasets: Mutex<BTreeMap<String, Arc<Dataset>>>,
    /// The commit of each revision of a dataset.
    commits: tokio::sync::Mutex<BTreeMap<(String, String), String>>,
}

impl fmt::Debug for HubStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubStore").finish_non_exhaustive()
    }
}

impl fmt::Display for HubStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)
    }
}

/// A file of a dataset at a commit, or a folder.
struct Place {
    dataset: Arc<Dataset>,
    commit: String,
    path: String,
}

/// An error of ours inside an error of a store. What a reader cannot get is missing input.
fn generic(error: impl Into<Error>) -> object_store::Error {
    let error = error.into();
    let error = match error.kind() {
        ErrorKind::Hub => error.of_kind(ErrorKind::NoInput),
        _ => error,
    };
    object_store::Error::Generic { store: "Hugging Face hub", source: Box::new(error) }
}

fn read_only(what: &str) -> object_store::Error {
    let message = format!("cannot {what} in a dataset file by file");
    generic(
        Error::new(ErrorKind::Config, message).hint("`sink.path` of a pipeline may be a dataset"),
    )
}

impl HubStore {
    fn dataset(&self, id: &str) -> error::Result<Arc<Dataset>> {
        let mut datasets = self.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dataset) = datasets.get(id) {
            return Ok(Arc::clone(dataset));
        }
        let dataset = dataset(id)?;
        datasets.insert(id.to_owned(), Arc::clone(&dataset));
        Ok(dataset)
    }

    /// Where a location is. Asks for the commit once.
    async fn place(&self, location: &StorePath) -> Result<Place> {
        let url = DatasetUrl::parse(&format!("{PREFIX}{location}")).map_err(generic)?;
        let DatasetUrl { id, revision, path } = url;
        let dataset = self.dataset(&id).map_err(generic)?;
        let mut commits = self.commits.lock().await;
        let key = (id, revision);
        let commit = if let Some(commit) = commits.get(&key) {
            commit.clone()
        } else {
            let commit = dataset.commit_of(&key.1).await.map_err(generic)?;
            tracing::debug!(dataset = key.0, revision = key.1, commit, "dataset resolved");
            commits.insert(key, commit.clone());
            commit
        };
        Ok(Place { dataset, commit, path })
    }
}

fn meta(location: StorePath, file: &DatasetFile) -> ObjectMeta {
    ObjectMeta {
        location,
        // A listing does not say it; the hash of the content is what tells files apart.
        last_modified: DateTime::<Utc>::UNIX_EPOCH,
        size: file.size,
        e_tag: Some(file.etag.clone()),
        version: None,
    }
}

/// The bytes of a range as a stream.
fn bytes(pieces: Pieces) -> BoxStream<'static, Result<Bytes>> {
    stream::try_unfold(pieces, |mut pieces| async move {
        let piece = pieces.next().await.map_err(generic)?;
        Ok(piece.map(|piece| (Bytes::from(piece), pieces)))
    })
    .boxed()
}

#[async_trait]
impl ObjectStore for HubStore {
    async fn put_opts(
        &self,
        _location: &StorePath,
        _payload: PutPayload,
        _options: PutOptions,
    ) -> Result<PutResult> {
        Err(read_only("write"))
    }

    async fn put_multipart_opts(
        &self,
        _location: &StorePath,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only("write"))
    }

    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> Result<GetResult> {
        let Place { dataset, commit, path } = self.place(location).await?;
        let missing = || object_store::Error::NotFound {
            path: location.to_string(),
            source: format!("not at commit {commit}").into(),
        };
        if path.is_empty() {
            return Err(missing());
        }
        let file = dataset.file(&commit, &path).await.map_err(generic)?.ok_or_else(missing)?;
        let meta = meta(location.clone(), &file);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            Some(GetRange::Bounded(range)) => range.start..range.end.min(file.size),
            Some(GetRange::Offset(start)) => start..file.size,
            Some(GetRange::Suffix(bytes)) => file.size.saturating_sub(bytes)..file.size,
            None => 0..file.size,
        };
        if range.start > range.end {
            let message = format!("`{PREFIX}{location}` is shorter than expected");
            return Err(generic(
                Error::new(ErrorKind::Data, message).hint("it changed: run again"),
            ));
        }
        let payload = if options.head {
            stream::empty().boxed()
        } else {
            bytes(dataset.read(&commit, &path, range.clone()))
        };
        let payload = GetResultPayload::Stream(payload);
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<StorePath>>,
    ) -> BoxStream<'static, Result<StorePath>> {
        locations.map(|location| location.and_then(|_| Err(read_only("delete")))).boxed()
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        // The stream outlives this borrow, and this store is the one of the process.
        let store = store();
        let listed = async move {
            let Place { dataset, commit, path } = store.place(&prefix).await?;
            let files = dataset.files(&commit, &path).await.map_err(generic)?;
            // The revision stays as it is written.
            let text = prefix.to_string();
            let root = text[..text.len() - path.len()].trim_end_matches('/').to_owned();
            let metas = files.into_iter().map(move |file| {
                let location = format!("{root}/{}", file.path);
                let location =
                    StorePath::parse(&location).unwrap_or_else(|_| StorePath::from(location));
                Ok(meta(location, &file))
            });
            Ok::<_, object_store::Error>(stream::iter(metas))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&StorePath>) -> Result<ListResult> {
        Err(read_only("list"))
    }

    async fn copy_opts(
        &self,
        _from: &StorePath,
        _to: &StorePath,
        _options: CopyOptions,
    ) -> Result<()> {
        Err(read_only("copy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_dataset_a_revision_and_a_path() {
        let check = |text: &str, id: &str, revision: &str, path: &str| {
            let url = DatasetUrl::parse(text).unwrap();
            let found = (url.id.as_str(), url.revision.as_str(), url.path.as_str());
            assert_eq!(found, (id, revision, path), "{text}");
        };
        check("hf://datasets/a/b", "a/b", "main", "");
        check("hf://datasets/a/b/", "a/b", "main", "");
        check("hf://datasets/a/b/data/*.parquet", "a/b", "main", "data/*.parquet");
        check("hf://datasets/a/b@v1.0/x.csv", "a/b", "v1.0", "x.csv");
        check("hf://datasets/a/b@v1", "a/b", "v1", "");
        check("hf://datasets/a/b@my%2Fbranch/x/", "a/b", "my/branch", "x");
        check(
            "hf://datasets/a/b@refs/convert/parquet/d/0.parquet",
            "a/b",
            "refs/convert/parquet",
            "d/0.parquet",
        );
        check("hf://datasets/a/b@refs/convert/parquet", "a/b", "refs/convert/parquet", "");
        check("hf://datasets/a/b@refs%2Fpr%2F1/d", "a/b", "refs/pr/1", "d");
        check("hf://datasets/a/b@refs/pr/12/d/e", "a/b", "refs/pr/12", "d/e");
        for wrong in [
            "hf://a/b/c.parquet",
            "hf://models/a/b",
            "hf://datasets/b",
            "hf://datasets//b",
            "hf://datasets/a/b@/c",
            "hf://datasets/a*/b/c",
            "hf://datasets/a/b@v*/c",
            "hf://datasets/../b/c",
            "hf://datasets/a/b@../c",
            "hf://datasets/a/b/../c",
        ] {
            let error = DatasetUrl::parse(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{wrong}");
            assert!(error.remedy().unwrap().contains("hf://datasets/owner/name"), "{error}");
        }
    }

    #[test]
    fn everything_that_reads_shares_the_commits() {
        let one = store();
        assert!(Arc::ptr_eq(&one, &store()));
    }
}
