//! Opens object stores by URL, for the source and the sink: `s3://`, `gs://`, `az://`, `https://`, and datasets on the
//! hub, `hf://`. Settings and credentials come from the providers' environment variables (`AWS_ACCESS_KEY_ID`,
//! `AWS_ENDPOINT_URL`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME`, `HF_TOKEN`…). Not here: reading and writing
//! objects.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use tokio::runtime::Runtime;
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::hub_store::{self, DatasetUrl};
use crate::secret;

/// The schemes of the stores in this build; `http` and `https` are read-only.
pub(crate) const SCHEMES: &[&str] =
    &["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "http", "https", hub_store::SCHEME];

/// Whether a path is a URL with one of the [`SCHEMES`].
pub(crate) fn is_url(path: &str) -> bool {
    scheme(path).is_some_and(|scheme| SCHEMES.contains(&scheme))
}

/// Joins a relative path to a folder; returns URLs unchanged.
pub(crate) fn join(folder: &Path, path: &str) -> PathBuf {
    if is_url(path) {
        return PathBuf::from(path);
    }
    folder.join(path.strip_prefix("file://").unwrap_or(path))
}

/// The scheme of a URL: the part before `://`.
fn scheme(path: &str) -> Option<&str> {
    path.split_once("://").map(|(scheme, _)| scheme)
}

/// A place in a store: an object, or a prefix of object names.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The URL that identifies the store: scheme and bucket, `s3://bucket/`.
    pub(crate) url: ObjectStoreUrl,
    pub(crate) path: StorePath,
}

impl Place {
    /// Opens the store of a URL, without a request. Wildcards in the path stay unchanged.
    ///
    /// # Errors
    /// `Config` if the URL or the settings in the environment are wrong, or if this build lacks the store.
    pub(crate) fn open(text: &str) -> Result<Self> {
        let wrong = |message: String| Error::new(ErrorKind::Config, message);
        let name = scheme(text).unwrap_or_default();
        if name == hub_store::SCHEME {
            DatasetUrl::parse(text)?;
        }
        let url = Url::parse(text)
            .map_err(|error| wrong(format!("`{text}` is not a URL")).source(error))?;
        if url.host_str().is_none_or(str::is_empty) {
            let what = if name.starts_with("http") { "host" } else { "bucket" };
            return Err(wrong(format!("`{text}` has no {what}"))
                .hint(format!("write it as `{name}://{what}/path`")));
        }
        let base = &url[..url::Position::BeforePath];
        // Takes the key as written: a URL parser would decode its `%` and cut it off at a `?`.
        let (_, rest) = text.split_once("://").unwrap_or_default();
        let key = rest.split_once('/').map_or("", |(_, key)| key);
        let is_http = name.starts_with("http");
        let key = if is_http { url.path() } else { key };
        let path = if is_http {
            StorePath::from_url_path(key)
        } else {
            StorePath::parse(key.trim_end_matches('/'))
        };
        let path = path.map_err(|error| {
            wrong(format!("`{text}` is not the name of an object")).source(error)
        })?;
        let store = build(name, base).ok_or_else(|| {
            wrong(format!("`{text}`: this build does not support `{name}://`"))
                .hint(format!("build hfauto-pipe with the feature `{}`", feature(name)))
        })?;
        let store = store.map_err(|error| {
            wrong(format!("cannot set up the store of `{base}`"))
                .source(error)
                .hint(credentials(name))
        })?;
        // Only the store gets the credentials of the URL: the URLs of objects appear in reports and manifests.
        let mut named = url.clone();
        if is_http {
            secret::remember_credentials(text);
            let _ = (named.set_username(""), named.set_password(None));
        }
        let named = &named[..url::Position::BeforePath];
        let url = ObjectStoreUrl::parse(named)
            .map_err(|error| wrong(format!("`{base}` is not a store")).source(error))?;
        Ok(Self { store, url, path })
    }

    /// The URL of an object in this store.
    pub(crate) fn url_of(&self, path: &StorePath) -> String {
        format!("{}{path}", self.url.as_str())
    }
}

type Built = std::result::Result<Arc<dyn ObjectStore>, object_store::Error>;

/// The store of a scheme; `None` if this build lacks it.
#[allow(unused_variables, reason = "a build without stores")]
fn build(scheme: &str, base: &str) -> Option<Built> {
    fn shared(store: impl ObjectStore) -> Arc<dyn ObjectStore> {
        Arc::new(store)
    }
    match scheme {
        #[cfg(feature = "aws")]
        "s3" | "s3a" => {
            let builder = object_store::aws::AmazonS3Builder::from_env().with_url(base);
            Some(builder.build().map(shared))
        }
        #[cfg(feature = "gcp")]
        "gs" => {
            let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_url(base);
            Some(builder.build().map(shared))
        }
        #[cfg(feature = "azure")]
        "az" | "azure" | "abfs" | "abfss" | "adl" => {
            let builder = object_store::azure::MicrosoftAzureBuilder::from_env().with_url(base);
            Some(builder.build().map(shared))
        }
        #[cfg(feature = "http")]
        "http" | "https" => {
            let options = object_store::ClientOptions::new().with_allow_http(scheme == "http");
            let builder = object_store::http::HttpBuilder::new().with_url(base);
            Some(builder.with_client_options(options).build().map(shared))
        }
        hub_store::SCHEME => Some(Ok(hub_store::store())),
        _ => None,
    }
}

fn feature(scheme: &str) -> &'static str {
    match scheme {
        "s3" | "s3a" => "aws",
        "gs" => "gcp",
        "http" | "https" => "http",
        _ => "azure",
    }
}

fn credentials(scheme: &str) -> &'static str {
    match scheme {
        "s3" | "s3a" => {
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION; for your own server also \
             AWS_ENDPOINT_URL, and AWS_ALLOW_HTTP=true without TLS"
        }
        "gs" => "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
        "http" | "https" => "check the address",
        hub_store::SCHEME => "set HF_TOKEN",
        _ => "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    }
}

/// The error of ours that a store of ours returned.
fn own_error(error: object_store::Error) -> std::result::Result<Error, object_store::Error> {
    match error {
        object_store::Error::Generic { store, source } => source
            .downcast::<Error>()
            .map(|own| *own)
            .map_err(|source| object_store::Error::Generic { store, source }),
        error => Err(error),
    }
}

/// Turns a store's error into ours, with a remedy. `kind` is the kind of the operation that failed.
pub(crate) fn store_error(
    kind: ErrorKind,
    message: String,
    url: &str,
    error: object_store::Error,
) -> Error {
    let error = match own_error(error) {
        Ok(own) => return own.at(format!("`{url}`")),
        Err(error) => error,
    };
    let said = error.to_string();
    let hint = match &error {
        object_store::Error::NotFound { .. } => "check the bucket and the path",
        // Without credentials in the environment, the store asks the provider's metadata service.
        _ if said.contains("169.254.169.254") || said.contains("metadata") => {
            credentials(scheme(url).unwrap_or_default())
        }
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => {
            credentials(scheme(url).unwrap_or_default())
        }
        // A listing has no error variant for a missing bucket.
        _ if said.contains("NoSuchBucket") => "check the bucket",
        object_store::Error::Precondition { .. } => "another process changed the object: run again",
        _ => "check the endpoint, the credentials and the network, and run again",
    };
    Error::new(kind, message).source(error).hint(hint)
}

/// Runs a future on the stores' own runtime and blocks until it ends. Callers may be inside or outside of async code.
///
/// # Errors
/// `Resources` if the threads cannot be started.
pub(crate) fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("object-store")
            .enable_all()
            .build()
    });
    let failed = || Error::new(ErrorKind::Resources, "cannot start the threads of object stores");
    let runtime = RUNTIME.as_ref().map_err(|error| failed().source(error.to_string()))?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = sender.send(work.await);
    });
    receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "work on an object store panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_store_and_a_path() {
        let check = |text: &str, url: &str, path: &str| {
            let place = Place::open(text).unwrap();
            assert_eq!((place.url.as_str(), place.path.as_ref()), (url, path), "{text}");
        };
        check("s3://bucket/a/b c.parquet", "s3://bucket/", "a/b c.parquet");
        check("s3://bucket/out/", "s3://bucket/", "out");
        check("s3://bucket", "s3://bucket/", "");
        check("s3://bucket/lang=*/[ab]?.csv", "s3://bucket/", "lang=*/[ab]?.csv");
        check("http://localhost:8080/a%20b.csv", "http://localhost:8080/", "a b.csv");
        check("http://jane:pw@localhost/a.csv", "http://localhost/", "a.csv");
        check("hf://datasets/a/b@v1/x/*.csv", "hf://datasets/", "a/b@v1/x/*.csv");
        let error = Place::open("s3:///a").unwrap_err();
        assert_eq!(error.message(), "`s3:///a` has no bucket");
    }
}
