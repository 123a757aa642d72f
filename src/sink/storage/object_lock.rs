//! Locks as objects with a lease: reading, writing and renewing them. Not here: which locks a run takes (`object`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use chrono::Utc;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};

use super::{Guard, LOCK, Lease, Lock, lease_time, lost};
use crate::error::{Error, ErrorKind, Result};
use crate::store::wait;

type StoreResult<T> = object_store::Result<T>;

/// The current content and version of a lock. Unreadable content becomes an expired lease.
pub(super) async fn lease_now(
    store: Arc<dyn ObjectStore>,
    path: StorePath,
) -> StoreResult<Option<(Lease, UpdateVersion)>> {
    let got = match store.get(&path).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        got => got?,
    };
    let version =
        UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
    let content = got.bytes().await?;
    Ok(Some((serde_json::from_slice(&content).unwrap_or_default(), version)))
}

/// Whether a conditional put lost against another one.
pub(super) fn was_taken(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. }
            | object_store::Error::NotModified { .. }
            | object_store::Error::NotFound { .. }
    )
}

/// Writes a lease that begins now.
pub(super) async fn put_lease(
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    mut lease: Lease,
    mode: PutMode,
) -> StoreResult<UpdateVersion> {
    lease.renewed = Some(Utc::now());
    let content = serde_json::to_vec(&lease)
        .map_err(|error| object_store::Error::Generic { store: "lock", source: Box::new(error) })?;
    let put = store.put_opts(&path, content.into(), mode.into()).await?;
    Ok(put.into())
}

/// The lock of the run that this process works for.
#[derive(Debug)]
pub(super) struct GuestLock {
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    output: PathBuf,
    token: String,
    /// The last version of the lock, and when it was first seen.
    seen: Mutex<(Option<String>, Instant)>,
}

impl GuestLock {
    /// The lock at `path`, held under `token`. Messages name `output`.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        path: StorePath,
        output: PathBuf,
        token: String,
    ) -> Self {
        Self { store, path, output, token, seen: Mutex::new((None, Instant::now())) }
    }
}

impl Lock for GuestLock {
    fn check(&self) -> Result<Guard> {
        let found = wait(lease_now(Arc::clone(&self.store), self.path.clone()))?;
        let found = found.map_err(|error| lost(&self.output).source(error))?;
        let found = found.filter(|(lease, _)| lease.token() == self.token && !lease.is_dead());
        let Some((lease, version)) = found else { return Err(lost(&self.output)) };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Clocks of two machines are not compared.
        if seen.0 != version.e_tag {
            *seen = (version.e_tag, Instant::now());
        } else if seen.1.elapsed().as_secs_f64() > lease.seconds {
            return Err(lost(&self.output));
        }
        Ok(Guard::default())
    }

    fn token(&self) -> &str {
        &self.token
    }

    fn name(&self) -> &str {
        LOCK
    }

    fn release(&self) {}
}

/// A lock that a background thread renews.
#[derive(Debug)]
pub(super) struct ObjectLock {
    shared: Arc<Renewal>,
    name: String,
    output: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
    is_free: AtomicBool,
}

#[derive(Debug)]
struct Renewal {
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    lease: Lease,
    lost: AtomicBool,
    state: Mutex<Renewed>,
    wake: Condvar,
}

#[derive(Debug)]
struct Renewed {
    version: UpdateVersion,
    at: Instant,
    ends: bool,
}

impl Renewal {
    /// Renews the lock; returns `false` if it is lost.
    fn renew(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ends || self.lost.load(Ordering::SeqCst) {
            return !self.lost.load(Ordering::SeqCst);
        }
        let asked = Instant::now();
        let mode = PutMode::Update(state.version.clone());
        let put =
            wait(put_lease(Arc::clone(&self.store), self.path.clone(), self.lease.clone(), mode));
        match put {
            Ok(Ok(version)) => (state.version, state.at) = (version, asked),
            Ok(Err(error)) if was_taken(&error) => self.lost.store(true, Ordering::SeqCst),
            // The network may recover within the lease.
            _ if state.at.elapsed() < lease_time() => {}
            _ => self.lost.store(true, Ordering::SeqCst),
        }
        !self.lost.load(Ordering::SeqCst)
    }

    fn keep_renewing(&self) {
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.wake.wait_timeout(state, lease_time() / 4);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.ends {
                return;
            }
            drop(state);
            if !self.renew() {
                return;
            }
        }
    }
}

impl ObjectLock {
    /// Keeps the lease that was written as `version`. `name` is the lock's name in the output; messages name `output`.
    pub(super) fn start(
        (store, path): (Arc<dyn ObjectStore>, StorePath),
        name: &str,
        output: PathBuf,
        lease: Lease,
        version: UpdateVersion,
    ) -> Result<Self> {
        let state = Mutex::new(Renewed { version, at: Instant::now(), ends: false });
        let (lost, wake) = (AtomicBool::new(false), Condvar::new());
        let shared = Arc::new(Renewal { store, path, lease, lost, state, wake });
        let renewal = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("lock".to_owned())
            .spawn(move || renewal.keep_renewing())
            .map_err(|error| {
                Error::new(ErrorKind::Resources, "cannot start the thread of a lock").source(error)
            })?;
        Ok(Self {
            shared,
            name: name.to_owned(),
            output,
            thread: Mutex::new(Some(thread)),
            is_free: AtomicBool::new(false),
        })
    }

    fn stop(&self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ends = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The panic hook has reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

impl Lock for ObjectLock {
    fn check(&self) -> Result<Guard> {
        if self.shared.renew() { Ok(Guard::default()) } else { Err(lost(&self.output)) }
    }

    fn token(&self) -> &str {
        self.shared.lease.token()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn release(&self) {
        self.stop();
        // Only once: afterwards another run may own it.
        if self.is_free.swap(true, Ordering::SeqCst) || self.shared.lost.load(Ordering::SeqCst) {
            return;
        }
        let (store, path) = (Arc::clone(&self.shared.store), self.shared.path.clone());
        // A lock that is not deleted expires with its lease.
        let _ = wait(async move { store.delete(&path).await });
    }
}

impl Drop for ObjectLock {
    fn drop(&mut self) {
        self.release();
    }
}
