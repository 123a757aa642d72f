//! Outputs as objects below a URL. A put is atomic and durable, like fsync and rename in a folder. Parts are written to
//! the local temporary folder first: uploads can be retried, and a run that dies leaves no partial object.
//!
//! **The lock** is an object, created by a conditional put, with a lease of 60 seconds, or `HFAUTO_LOCK_SECONDS`. Its
//! holder renews it four times per lease. If all renewals fail for a whole lease by the holder's clock, the holder gives up
//! the lock. A run that finds an expired lock waits for another half lease. If the lock is still unchanged, the run takes
//! it over by a put conditional on its entity tag, which succeeds for one run only. Clocks may therefore differ by up to
//! half a lease. A lock of a dead process on this machine is taken over at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{
    GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion,
    WriteMultipart,
};
use tempfile::TempDir;

use super::object_lock::{GuestLock, ObjectLock, lease_now, put_lease, was_taken};
use super::{
    Hold, Holder, LOCK, Lease, Lock, META, Storage, held, is_shared_lock, joined_lock, lease_time,
    lock_name,
};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::sink::disk::write_error;
use crate::store::{Place, store_error, wait};

/// Concurrent requests.
const REQUESTS: usize = 32;

/// Small objects to read into memory at a time.
const LISTED: usize = 4096;

/// Concurrent uploads: each buffers a few chunks of a file.
const UPLOADS: usize = 4;

/// The chunk size of an upload.
const CHUNK_BYTES: usize = 16 << 20;

type StoreResult<T> = object_store::Result<T>;

#[derive(Debug)]
pub(in crate::sink) struct ObjectStorage {
    place: Place,
    spool: OnceLock<TempDir>,
}

impl ObjectStorage {
    pub(in crate::sink) fn new(place: Place) -> Self {
        Self { place, spool: OnceLock::new() }
    }

    /// Takes the name unchanged, because names of hive folders are already percent-encoded.
    fn path(&self, name: &str) -> StorePath {
        let parts = [self.place.path.as_ref(), name];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let joined = parts.join("/");
        StorePath::parse(&joined).unwrap_or_else(|_| StorePath::from(joined))
    }

    fn url(&self, name: &str) -> String {
        self.place.url_of(&self.path(name))
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.place.store)
    }

    fn failed(&self, what: &str, name: &str, error: object_store::Error) -> Error {
        let url = self.url(name);
        store_error(ErrorKind::Sink, format!("cannot {what} `{url}`"), &url, error)
    }

    fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>> {
        let (store, path) = (self.store(), self.path(folder));
        wait(async move { store.list(Some(&path)).try_collect().await })?
            .map_err(|error| self.failed("list", folder, error))
    }

    /// The name of an object relative to a folder.
    fn below(&self, folder: &str, path: &StorePath) -> Option<String> {
        let folder = self.path(folder);
        let rest = path.as_ref().strip_prefix(folder.as_ref())?;
        Some(rest.trim_start_matches('/').to_owned()).filter(|name| !name.is_empty())
    }

    fn delete(&self, folder: &str, paths: Vec<StorePath>) -> Result<()> {
        let store = self.store();
        let deleted = wait(async move {
            let paths = futures::stream::iter(paths).map(Ok).boxed();
            let deleted = store.delete_stream(paths);
            // An object that is already gone is no error.
            let deleted = deleted.filter(|result| {
                futures::future::ready(!matches!(result, Err(object_store::Error::NotFound { .. })))
            });
            deleted.try_for_each(|_| futures::future::ready(Ok(()))).await
        });
        deleted?.map_err(|error| self.failed("remove from", folder, error))
    }

    /// The current content and version of the lock `name`.
    fn lock_now(&self, name: &str) -> Result<Option<(Lease, UpdateVersion)>> {
        wait(lease_now(self.store(), self.path(name)))?
            .map_err(|error| self.failed("read", name, error))
    }

    fn put_lock(&self, name: &str, lease: &Lease, mode: PutMode) -> Result<Option<UpdateVersion>> {
        let put = wait(put_lease(self.store(), self.path(name), lease.clone(), mode))?;
        match put {
            Ok(version) => Ok(Some(version)),
            Err(error) if was_taken(&error) => Ok(None),
            Err(error) => Err(self.failed("write", name, error)),
        }
    }

    /// Takes the lock `name`, from a dead holder if necessary. Messages name `output`.
    fn take(&self, name: &str, output: PathBuf) -> Result<ObjectLock> {
        let lease = Lease::new();
        let mut version = self.put_lock(name, &lease, PutMode::Create)?;
        if version.is_none()
            && let Some((found, seen)) = self.lock_now(name)?
        {
            if !found.is_free() {
                return Err(held(&output, found.holder.as_ref()));
            }
            if !found.is_dead() {
                tracing::warn!(
                    lock = %self.url(name),
                    holder = ?found.holder,
                    "an expired lock: it is taken over unless its holder renews it"
                );
                std::thread::sleep(lease_time() / 2);
                let later = self.lock_now(name)?;
                if later.is_some_and(|(_, now)| now.e_tag != seen.e_tag) {
                    return Err(held(&output, found.holder.as_ref()));
                }
            }
            version = self.put_lock(name, &lease, PutMode::Update(seen))?;
        }
        let Some(version) = version else { return Err(held(&output, None)) };
        ObjectLock::start((self.store(), self.path(name)), name, output, lease, version)
    }

    /// The names and leases of the locks that processes hold beside each other.
    fn shared_locks(&self) -> Result<Vec<(String, Lease, UpdateVersion)>> {
        let (store, path) = (self.store(), self.path(META));
        let listed = wait(async move { store.list_with_delimiter(Some(&path)).await })?
            .map_err(|error| self.failed("list", META, error))?;
        let mut locks = Vec::new();
        for meta in listed.objects {
            let name = meta.location.filename().filter(|name| is_shared_lock(name));
            let Some(name) = name.map(|name| format!("{META}/{name}")) else { continue };
            if let Some((lease, version)) = self.lock_now(&name)? {
                locks.push((name, lease, version));
            }
        }
        Ok(locks)
    }

    /// The holders of the shared locks. Removes the locks of dead holders, and those that expired and stay unchanged for
    /// another half lease; the caller holds the exclusive lock.
    fn live_sharers(&self) -> Result<Vec<Option<Holder>>> {
        let locks = self.shared_locks()?;
        let (free, live): (Vec<_>, Vec<_>) =
            locks.into_iter().partition(|(_, lease, _)| lease.is_free());
        let mut live: Vec<_> = live.into_iter().map(|(_, lease, _)| lease.holder).collect();
        if !live.is_empty() {
            return Ok(live);
        }
        if free.iter().any(|(_, lease, _)| !lease.is_dead()) {
            tracing::warn!(
                output = %self.url(""),
                "expired locks: they are taken over unless their holders renew them"
            );
            std::thread::sleep(lease_time() / 2);
        }
        for (name, lease, seen) in free {
            // The conditional put fails if the holder has renewed its lock, and makes the holder's next renewal fail.
            if self.put_lock(&name, &Lease::new(), PutMode::Update(seen))?.is_some() {
                self.delete(META, vec![self.path(&name)])?;
            } else if self.lock_now(&name)?.is_some() {
                live.push(lease.holder);
            }
        }
        Ok(live)
    }

    fn take_shared(&self, name: &str) -> Result<ObjectLock> {
        let lock = self.take(name, self.shown(""))?;
        // Taking the exclusive lock checks for shared locks afterwards, so at least one of two concurrent runs sees the other.
        if let Some((lease, _)) = self.lock_now(LOCK)?
            && !lease.is_free()
        {
            lock.release();
            return Err(held(&self.shown(""), lease.holder.as_ref()));
        }
        Ok(lock)
    }

    fn guest(&self, token: String) -> GuestLock {
        GuestLock::new(self.store(), self.path(LOCK), self.shown(""), token)
    }

    fn take_alone(&self) -> Result<ObjectLock> {
        let lock = self.take(LOCK, self.shown(""))?;
        if let Some(holder) = self.live_sharers()?.into_iter().next() {
            lock.release();
            return Err(held(&self.shown(""), holder.as_ref()));
        }
        Ok(lock)
    }
}

impl Storage for ObjectStorage {
    fn shown(&self, name: &str) -> PathBuf {
        self.url(name).into()
    }

    fn exists(&self) -> Result<bool> {
        Ok(true)
    }

    fn is_file(&self, name: &str) -> Result<Option<bool>> {
        Ok(self.modified(name)?.map(|_| true))
    }

    fn check_writable(&self, _output: &Path) -> Result<()> {
        // Checks that the bucket exists and can be listed; only a put could check more.
        let (store, path) = (self.store(), self.path(META));
        wait(async move { store.list_with_delimiter(Some(&path)).await })?
            .map(drop)
            .map_err(|error| self.failed("write to", "", error))
    }

    fn files(&self, folder: &str) -> Result<BTreeMap<String, u64>> {
        let is_data = |name: &String| !name.split('/').any(|part| part.starts_with(['.', '_']));
        let found = self.list(folder)?.into_iter().filter_map(|meta| {
            let name = self.below(folder, &meta.location).filter(is_data)?;
            Some((name, meta.size))
        });
        Ok(found.collect())
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let (store, path) = (self.store(), self.path(folder));
        let listed = wait(async move { store.list_with_delimiter(Some(&path)).await })?
            .map_err(|error| self.failed("list", folder, error))?;
        let names = listed.common_prefixes.iter().filter_map(|path| self.below(folder, path));
        Ok(names.collect())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let (store, path) = (self.store(), self.path(name));
        match wait(async move { store.get(&path).await?.bytes().await })? {
            Ok(content) => Ok(Some(content.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name, error)),
        }
    }

    fn reader(&self, name: &str) -> Result<Option<Box<dyn Read>>> {
        let (store, path) = (self.store(), self.path(name));
        let read = wait(async move { store.get(&path).await.map(GetResult::into_stream) })?;
        match read {
            Ok(chunks) => Ok(Some(Box::new(Chunks { chunks: Some(chunks), chunk: Bytes::new() }))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name, error)),
        }
    }

    fn read_each(
        &self,
        folder: &str,
        found: &mut dyn FnMut(String, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let failed = |error| self.failed("read from", folder, error);
        let mut listing = self.store().list(Some(&self.path(folder))).chunks(LISTED);
        loop {
            let (listed, rest) = wait(async move { (listing.next().await, listing) })?;
            listing = rest;
            let Some(listed) = listed else { return Ok(()) };
            let listed = listed.into_iter().collect::<StoreResult<Vec<_>>>().map_err(failed)?;
            let mut named: Vec<(String, StorePath)> = Vec::new();
            for meta in listed {
                let name = self.below(folder, &meta.location);
                let name = name.filter(|name| !name.starts_with(['.', '_']) && !name.contains('/'));
                named.extend(name.map(|name| (name, meta.location)));
            }
            let (names, paths): (Vec<String>, Vec<StorePath>) = named.into_iter().unzip();
            let store = self.store();
            let read = wait(async move {
                let reads = paths.into_iter().map(|path| {
                    let store = Arc::clone(&store);
                    async move {
                        match store.get(&path).await {
                            Ok(got) => got.bytes().await.map(Some),
                            Err(object_store::Error::NotFound { .. }) => Ok(None),
                            Err(error) => Err(error),
                        }
                    }
                });
                futures::stream::iter(reads)
                    .buffered(REQUESTS)
                    .try_collect::<Vec<Option<Bytes>>>()
                    .await
            });
            for (name, content) in names.into_iter().zip(read?.map_err(failed)?) {
                if let Some(content) = content {
                    found(name, content.to_vec())?;
                }
            }
        }
    }

    fn modified(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        let (store, path) = (self.store(), self.path(name));
        match wait(async move { store.head(&path).await })? {
            Ok(meta) => Ok(Some(meta.last_modified)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name, error)),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let (store, path) = (self.store(), self.path(name));
        let content = PutPayload::from(content.to_vec());
        wait(async move { store.put(&path, content).await })?
            .map(drop)
            .map_err(|error| self.failed("write", name, error))
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<bool> {
        let (store, path) = (self.store(), self.path(name));
        let payload = PutPayload::from(content.to_vec());
        let put =
            wait(async move { store.put_opts(&path, payload, PutMode::Create.into()).await })?;
        match put {
            Ok(_) => Ok(true),
            // A put that is retried after a lost answer finds its own object.
            Err(error) if was_taken(&error) => Ok(self.read(name)?.as_deref() == Some(content)),
            Err(error) => Err(self.failed("write", name, error)),
        }
    }

    fn mark(&self, name: &str) -> Result<()> {
        self.write(name, b"")
    }

    fn unmark(&self, names: &[String]) {
        if let Err(error) = self.remove_all(names) {
            tracing::warn!(%error, "a mark stays");
        }
    }

    // Publishing removes a thousand marks with one request.
    fn unmark_done(&self, _names: &[String]) {}

    fn write_with(
        &self,
        name: &str,
        content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let mut spool = || {
            let path = self.spool(name)?;
            let mut out = BufWriter::new(fs::File::create(&path)?);
            content(&mut out)?;
            out.flush()?;
            Ok(path)
        };
        let spooled = spool().map_err(|error| write_error(&self.shown(name), error))?;
        let (store, path) = (self.store(), self.path(name));
        wait(upload(store, spooled, path))?.map_err(|error| self.failed("write", name, error))
    }

    fn spool(&self, name: &str) -> io::Result<PathBuf> {
        if self.spool.get().is_none() {
            let made = tempfile::Builder::new().prefix("hfauto-pipe-").tempdir()?;
            self.spool.get_or_init(|| made);
        }
        let folder = self.spool.get().ok_or_else(|| io::Error::other("no temporary folder"))?;
        let path = folder.path().join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(path)
    }

    fn keep(&self, parts: &[(PathBuf, String)]) -> Result<()> {
        let uploads: Vec<_> =
            parts.iter().map(|(from, name)| (from.clone(), self.path(name))).collect();
        let store = self.store();
        let uploaded = wait(async move {
            futures::stream::iter(uploads)
                .map(|(from, to)| upload(Arc::clone(&store), from, to))
                .buffer_unordered(UPLOADS)
                .try_collect::<()>()
                .await
        });
        uploaded?.map_err(|error| self.failed("write to", "", error))?;
        failpoint("unit.renamed");
        Ok(())
    }

    fn publish(&self, from: &str, moves: &[(String, String)]) -> Result<()> {
        // One listing shows which objects still have to be moved.
        let there = self.list(from)?.into_iter().map(|meta| meta.location);
        let there: BTreeSet<StorePath> = there.collect();
        let moves = moves.iter();
        let moves = moves.map(|(name, to)| (self.path(&format!("{from}/{name}")), self.path(to)));
        let moves: Vec<_> = moves.filter(|(from, _)| there.contains(from)).collect();
        let sources = moves.iter().map(|(from, _)| from.clone()).collect();
        let store = self.store();
        let copied = wait(async move {
            futures::stream::iter(moves)
                .map(|(from, to)| {
                    let store = Arc::clone(&store);
                    async move { store.copy(&from, &to).await }
                })
                .buffer_unordered(REQUESTS)
                .try_collect::<()>()
                .await
        });
        copied?.map_err(|error| self.failed("copy to", "", error))?;
        self.delete("", sources)
    }

    fn remove_all(&self, names: &[String]) -> Result<()> {
        self.delete("", names.iter().map(|name| self.path(name)).collect())
    }

    fn remove_folder(&self, folder: &str) -> Result<()> {
        let paths = self.list(folder)?.into_iter().map(|meta| meta.location).collect();
        self.delete(folder, paths)
    }

    fn remove_if_empty(&self, _folder: &str) {}

    fn lock(&self, hold: Hold) -> Result<Box<dyn Lock>> {
        Ok(match hold {
            Hold::Alone => Box::new(self.take_alone()?),
            Hold::Shard(shard) => Box::new(self.take_shared(&shard.lock_name())?),
            Hold::Joined => Box::new(self.take_shared(&joined_lock())?),
            Hold::Guest(token) => Box::new(self.guest(token)),
        })
    }

    fn lock_of(&self, file: &str) -> Result<Box<dyn Lock>> {
        Ok(Box::new(self.take(&lock_name(file), self.shown(file))?))
    }

    fn is_held(&self) -> Result<bool> {
        if self.lock_now(LOCK)?.is_some_and(|(lease, _)| !lease.is_free()) {
            return Ok(true);
        }
        Ok(self.shared_locks()?.iter().any(|(_, lease, _)| !lease.is_free()))
    }

    fn is_live(&self, name: &str) -> Result<bool> {
        Ok(self.lock_now(name)?.is_some_and(|(lease, _)| !lease.is_free()))
    }

    fn prune(&self) {}
}

/// The streamed content of an object.
struct Chunks {
    /// `None` after an error.
    chunks: Option<BoxStream<'static, StoreResult<Bytes>>>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let Some(mut chunks) = self.chunks.take() else { return Ok(0) };
            let next = wait(async move { (chunks.next().await, chunks) });
            let (next, rest) = next.map_err(io::Error::other)?;
            let Some(chunk) = next else { return Ok(0) };
            self.chunk = chunk.map_err(io::Error::other)?;
            self.chunks = Some(rest);
        }
        let read = self.chunk.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.chunk.split_to(read));
        Ok(read)
    }
}

/// Uploads a local file to an object, and removes the file.
async fn upload(store: Arc<dyn ObjectStore>, from: PathBuf, to: StorePath) -> StoreResult<()> {
    let local = |error: io::Error| object_store::Error::Generic {
        store: "temporary folder",
        source: Box::new(error),
    };
    let bytes = tokio::fs::metadata(&from).await.map_err(local)?.len();
    if bytes <= CHUNK_BYTES as u64 {
        let content = tokio::fs::read(&from).await.map_err(local)?;
        store.put(&to, content.into()).await?;
    } else {
        let mut writer =
            WriteMultipart::new_with_chunk_size(store.put_multipart(&to).await?, CHUNK_BYTES);
        let mut file = tokio::fs::File::open(&from).await.map_err(local)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut read_on = async || -> StoreResult<()> {
            loop {
                let read =
                    tokio::io::AsyncReadExt::read(&mut file, &mut chunk).await.map_err(local)?;
                if read == 0 {
                    return Ok(());
                }
                writer.wait_for_capacity(UPLOADS).await?;
                writer.write(&chunk[..read]);
            }
        };
        if let Err(error) = read_on().await {
            // Stores charge for the chunks of an unfinished upload.
            writer.abort().await?;
            return Err(error);
        }
        writer.finish().await?;
    }
    tokio::fs::remove_file(&from).await.map_err(local)
}
