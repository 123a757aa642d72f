//! A store of local files for DataFusion's scans. `object_store`'s own store yields empty chunks forever if a file is
//! shorter than the requested range, for example truncated during the scan; here that is an error. Not here: listing
//! (`listing`).

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::error::{Error, ErrorKind};

/// The chunk size of reads, in bytes.
const CHUNK_BYTES: u64 = 256 << 10;

/// The store of local files, registered in `runtime` under its own URL, next to the session's default store.
pub(super) fn register(runtime: &RuntimeEnv) -> datafusion::error::Result<ObjectStoreUrl> {
    static STORE: LazyLock<Arc<dyn ObjectStore>> =
        LazyLock::new(|| Arc::new(LocalFiles(LocalFileSystem::new())));
    let url = ObjectStoreUrl::parse("file://hfauto-pipe")?;
    runtime.register_object_store(url.as_ref(), Arc::clone(&STORE));
    Ok(url)
}

/// `object_store`'s local store, whose range reads are complete or fail.
#[derive(Debug)]
struct LocalFiles(LocalFileSystem);

impl fmt::Display for LocalFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The error for a file that ends before the requested range. The scan finds the reason: the file changed, or it refers
/// to offsets beyond its end.
fn too_short(path: &Path) -> Error {
    Error::new(ErrorKind::Data, format!("`{}` is shorter than expected", path.display()))
        .at(path.display())
        .hint("it may be cut off; write or copy it again")
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "local files", source: Box::new(error) }
}

fn unreadable(path: &Path, error: io::Error) -> object_store::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return generic(too_short(path));
    }
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ErrorKind::NoInput,
        _ => ErrorKind::Data,
    };
    generic(
        Error::new(kind, format!("cannot read `{}`", path.display()))
            .source(error)
            .at(path.display()),
    )
}

/// Reads a range; a shorter file gives an `UnexpectedEof`. Checks the length of the file first, to avoid allocating
/// memory for bytes that it does not have.
fn read_range(file: &mut File, range: &Range<u64>) -> io::Result<Bytes> {
    if range.end > file.metadata()?.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.seek(SeekFrom::Start(range.start))?;
    let bytes = range.end.saturating_sub(range.start);
    let mut buffer = Vec::with_capacity(bytes as usize);
    Read::take(&mut *file, bytes).read_to_end(&mut buffer)?;
    if (buffer.len() as u64) < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(buffer.into())
}

/// Runs work on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    SpawnedTask::spawn_blocking(work).await.unwrap_or_else(|error| Err(generic(error)))
}

/// Streams a range in chunks; an incomplete range is an error.
fn chunks(file: File, path: PathBuf, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    stream::try_unfold((file, path, range), |(mut file, path, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        blocking(move || {
            let end = (range.start + CHUNK_BYTES).min(range.end);
            let bytes = read_range(&mut file, &(range.start..end))
                .map_err(|error| unreadable(&path, error))?;
            Ok(Some((bytes, (file, path, end..range.end))))
        })
        .await
    })
    .boxed()
}

#[async_trait]
impl ObjectStore for LocalFiles {
    async fn put_opts(
        &self,
        location: &StorePath,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &StorePath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> Result<GetResult> {
        let (asked, is_head) = (options.range.clone(), options.head);
        let end = match &asked {
            Some(GetRange::Bounded(range)) => range.end,
            Some(GetRange::Offset(start)) => *start,
            Some(GetRange::Suffix(_)) | None => 0,
        };
        let path = self.0.path_to_filesystem(location)?;
        if asked.is_some() && !is_head {
            // A range that begins beyond the end gives an error without a reason.
            let looked_at = path.clone();
            blocking(move || match std::fs::metadata(&looked_at) {
                Ok(found) if found.len() < end => Err(generic(too_short(&looked_at))),
                Ok(_) => Ok(()),
                Err(error) => Err(unreadable(&looked_at, error)),
            })
            .await?;
        }
        let mut got = self.0.get_opts(location, options).await?;
        if asked.is_none() || is_head {
            // A whole file is returned as a file: the reader stops at its end, and the scan counts rows.
            return Ok(got);
        }
        let range = got.range.clone();
        got.payload = match got.payload {
            GetResultPayload::File(file, path) => {
                GetResultPayload::Stream(chunks(file, path, range))
            }
            stream @ GetResultPayload::Stream(_) => stream,
        };
        Ok(got)
    }

    async fn get_ranges(&self, location: &StorePath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = self.0.path_to_filesystem(location)?;
        let ranges = ranges.to_vec();
        blocking(move || {
            let mut file = File::open(&path).map_err(|error| unreadable(&path, error))?;
            let read = ranges.iter().map(|range| read_range(&mut file, range));
            read.collect::<io::Result<_>>().map_err(|error| unreadable(&path, error))
        })
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<StorePath>>,
    ) -> BoxStream<'static, Result<StorePath>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &StorePath,
        to: &StorePath,
        options: CopyOptions,
    ) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn a_file_that_becomes_shorter_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("a.bin");
        std::fs::write(&path, vec![7; 3 * CHUNK_BYTES as usize]).unwrap();
        let location = StorePath::from_absolute_path(&path).unwrap();
        let store = LocalFiles(LocalFileSystem::new());
        let range = 10..3 * CHUNK_BYTES;
        let all = store.get_range(&location, range.clone()).await.unwrap();
        assert_eq!(all, vec![7; 3 * CHUNK_BYTES as usize - 10]);

        let options = GetOptions::new().with_range(Some(range.clone()));
        let mut pieces = store.get_opts(&location, options).await.unwrap().into_stream();
        assert_eq!(pieces.next().await.unwrap().unwrap().len(), CHUNK_BYTES as usize);
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        let error = pieces.try_collect::<Vec<_>>().await.unwrap_err();
        assert!(error.to_string().contains("is shorter than expected"), "{error}");

        let error = store.get_range(&location, range).await.unwrap_err();
        assert!(error.to_string().contains("is shorter than expected"), "{error}");
        // Allocates no memory for a range beyond the end of the file.
        let error =
            store.get_ranges(&location, std::slice::from_ref(&(50..1 << 50))).await.unwrap_err();
        assert!(error.to_string().contains("is shorter than expected"), "{error}");
        assert_eq!(
            store.get_ranges(&location, &[98..100, 99..100]).await.unwrap(),
            [vec![7; 2], vec![7]]
        );
    }
}
