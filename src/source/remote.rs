//! Files in object stores: listing, stamps, and reads of bytes. Not here: rows, which DataFusion reads from the same
//! store.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader, Length};
use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};

use super::stamp::FileStamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Place, store_error, wait};

/// The bytes per request of a sequential read.
pub(super) const CHUNK_BYTES: u64 = 8 << 20;

/// An object.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub(super) place: Place,
    bytes: u64,
    etag: Option<String>,
}

impl PartialEq for RemoteFile {
    fn eq(&self, other: &Self) -> bool {
        self.url() == other.url() && self.etag == other.etag
    }
}

impl RemoteFile {
    fn new(place: &Place, meta: ObjectMeta) -> (Self, FileStamp) {
        let stamp = FileStamp::of_object(&meta);
        let place = Place { path: meta.location, ..place.clone() };
        (Self { place, bytes: meta.size, etag: meta.e_tag }, stamp)
    }

    /// The object `url`, which another process found in the store of `path`. The credentials of `path` apply.
    ///
    /// # Errors
    /// As [`Place::open`]; `Config` if the URL is of another store.
    pub(super) fn reopened(
        path: &str,
        url: &str,
        bytes: u64,
        etag: Option<String>,
    ) -> Result<Self> {
        let place = Place::open(path)?;
        let Some(key) = url.strip_prefix(place.url.as_str()) else {
            let message = format!("`{url}` is not in the store of `{path}`");
            return Err(Error::new(ErrorKind::Config, message));
        };
        let path = object_store::path::Path::parse(key)
            .unwrap_or_else(|_| object_store::path::Path::from(key));
        Ok(Self { place: Place { path, ..place }, bytes, etag })
    }

    pub(super) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    pub(super) fn url(&self) -> String {
        self.place.url_of(&self.place.path)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The current stamp of the object.
    pub(super) fn look_again(&self) -> Result<FileStamp> {
        let (store, path) = (Arc::clone(&self.place.store), self.place.path.clone());
        match wait(async move { store.head(&path).await })? {
            Ok(meta) => Ok(FileStamp::of_object(&meta)),
            Err(error) => Err(unreadable(&self.url(), error)),
        }
    }

    fn range(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let (store, path) = (Arc::clone(&self.place.store), self.place.path.clone());
        let options = GetOptions::new()
            .with_range(Some(GetRange::Bounded(start..end)))
            // A changed object fails the request.
            .with_if_match(self.etag.clone());
        let got = wait(async move { store.get_opts(&path, options).await?.bytes().await });
        got.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// A sequential reader.
    pub(super) fn reader(&self) -> RemoteReader {
        RemoteReader { file: self.clone(), position: 0, chunk: Bytes::new(), chunk_at: 0 }
    }
}

fn unreadable(url: &str, error: object_store::Error) -> Error {
    store_error(ErrorKind::NoInput, format!("cannot open `{url}`"), url, error)
}

/// The object at a place; `None` if it does not exist.
pub(super) fn object(place: &Place) -> Result<Option<(RemoteFile, FileStamp)>> {
    if place.path.as_ref().is_empty() {
        return Ok(None);
    }
    let (store, path) = (Arc::clone(&place.store), place.path.clone());
    match wait(async move { store.head(&path).await })? {
        Ok(meta) => Ok(Some(RemoteFile::new(place, meta))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(unreadable(&place.url_of(&place.path), error)),
    }
}

/// All objects below a place, sorted by name.
pub(super) fn objects_below(place: &Place) -> Result<Vec<(RemoteFile, FileStamp)>> {
    let (store, path) = (Arc::clone(&place.store), place.path.clone());
    let listed =
        wait(async move { store.list(Some(&path)).try_collect::<Vec<ObjectMeta>>().await })?;
    let mut listed = listed.map_err(|error| {
        let url = place.url_of(&place.path);
        store_error(ErrorKind::NoInput, format!("cannot list `{url}`"), &url, error)
    })?;
    // Some programs mark a folder by an empty object whose name ends with a slash.
    listed.retain(|meta| meta.location != place.path);
    listed.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(listed.into_iter().map(|meta| RemoteFile::new(place, meta)).collect())
}

/// Reads the bytes of an object in order, one request per chunk.
pub(super) struct RemoteReader {
    file: RemoteFile,
    position: u64,
    chunk: Bytes,
    chunk_at: u64,
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.chunk_at + self.chunk.len() as u64;
        if !(self.chunk_at..end).contains(&self.position) {
            if self.position >= self.file.bytes {
                return Ok(0);
            }
            let end = (self.position + CHUNK_BYTES).min(self.file.bytes);
            self.chunk = self.file.range(self.position, end)?;
            self.chunk_at = self.position;
        }
        let ready = &self.chunk[(self.position - self.chunk_at) as usize..];
        let read = ready.len().min(buffer.len());
        buffer[..read].copy_from_slice(&ready[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for RemoteReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.file.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the beginning"))?;
        Ok(self.position)
    }
}

impl Length for RemoteFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for RemoteFile {
    type T = RemoteReader;

    fn get_read(&self, start: u64) -> std::result::Result<RemoteReader, ParquetError> {
        Ok(RemoteReader { position: start, ..self.reader() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        self.range(start, start + length as u64)
            .map_err(|error| ParquetError::External(Box::new(error)))
    }
}
