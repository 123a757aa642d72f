//! The lock of a joined process in a folder: a lease in a file of its own, which a thread renews. A process that stops
//! running without dying loses it, unlike a lock file of the system. Not here: leases in object stores (`object`).
//!
//! The process renews the lease, and commits units, while it shares the lock file of the output. A run that takes the
//! output over holds that file exclusively when it removes an expired lease. A process that wakes up later therefore
//! finds that its lease is gone, before it changes anything.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::Utc;

use super::lock_file::lock_file;
use super::{Guard, LOCK, Lease, Lock, joined_lock, lease_time, lost};
use crate::error::{Error, ErrorKind, Result};
use crate::own_file;
use crate::sink::disk::write_error;

/// The time between two tries to share the lock file.
const PAUSE: Duration = Duration::from_millis(20);

/// The lease of this process.
#[derive(Debug)]
pub(super) struct JoinedLock {
    name: String,
    renewal: Arc<Renewal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Renewal {
    output: PathBuf,
    path: PathBuf,
    lease: Lease,
    lost: AtomicBool,
    /// Whether the thread ends.
    ends: Mutex<bool>,
    wake: Condvar,
}

/// The lease in a lock of a joined process; unreadable content is an expired lease. `None` for other locks.
pub(super) fn lease_of(path: &Path) -> Option<Lease> {
    let name = path.file_name()?.to_string_lossy();
    let content = name.starts_with("join-").then(|| own_file::read(path).ok())??;
    Some(serde_json::from_slice(&content).unwrap_or_default())
}

impl JoinedLock {
    /// Creates a lease, unless a run holds the output alone. Adds the folders that did not exist to `created`.
    pub(super) fn take(output: &Path, created: &mut Vec<PathBuf>) -> Result<Self> {
        let name = joined_lock();
        let shared = lock_file(&output.join(LOCK), output, true, created)?;
        let renewal = Arc::new(Renewal {
            output: output.to_owned(),
            path: output.join(&name),
            lease: Lease::new(),
            lost: AtomicBool::new(false),
            ends: Mutex::new(false),
            wake: Condvar::new(),
        });
        renewal.write()?;
        drop(shared);
        let thread = std::thread::Builder::new().name("lock".to_owned()).spawn({
            let renewal = Arc::clone(&renewal);
            move || renewal.keep_renewing()
        });
        let thread = thread.map_err(|error| {
            let _ = fs::remove_file(&renewal.path);
            Error::new(ErrorKind::Resources, "cannot start the thread of a lock").source(error)
        })?;
        Ok(Self { name, renewal, thread: Mutex::new(Some(thread)) })
    }
}

impl Renewal {
    fn write(&self) -> Result<()> {
        let lease = Lease { renewed: Some(Utc::now()), ..self.lease.clone() };
        let content = serde_json::to_vec(&lease).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot write a lease").source(error)
        })?;
        own_file::replace(&self.path, &self.path.with_extension("tmp"), &content)
            .map_err(|error| write_error(&self.output, error))
    }

    fn is_ours(&self) -> bool {
        let found = lease_of(&self.path);
        !self.lost.load(Ordering::SeqCst)
            && found.is_some_and(|found| found.token() == self.lease.token())
    }

    /// Shares the lock file of the output, and fails if the lease is gone.
    fn share(&self, patience: Duration) -> Result<File> {
        let begun = Instant::now();
        loop {
            // Checked first: `lock_file` creates folders, and the output may have been removed.
            if !self.is_ours() {
                self.lost.store(true, Ordering::SeqCst);
                return Err(lost(&self.output));
            }
            match lock_file(&self.output.join(LOCK), &self.output, true, &mut Vec::new()) {
                Ok(file) if self.is_ours() => return Ok(file),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Resources => {
                    if begun.elapsed() > patience {
                        return Err(error);
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn keep_renewing(&self) {
        let mut renewed = Instant::now();
        loop {
            let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.wake.wait_timeout_while(ends, lease_time() / 4, |ends| !*ends);
            let (ends, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *ends {
                return;
            }
            drop(ends);
            let asked = Instant::now();
            let result = self.share(lease_time() / 4).and_then(|_shared| self.write());
            match result {
                Ok(()) => renewed = asked,
                // A network file system may recover within the lease.
                Err(_) if renewed.elapsed() > lease_time() => {
                    self.lost.store(true, Ordering::SeqCst);
                }
                Err(_) => {}
            }
            if self.lost.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

impl Lock for JoinedLock {
    fn check(&self) -> Result<Guard> {
        self.renewal.share(lease_time()).map(|file| Guard(Some(file)))
    }

    fn token(&self) -> &str {
        self.renewal.lease.token()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn release(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        *self.renewal.ends.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.renewal.wake.notify_all();
        // The panic hook has reported a panic of the thread.
        let _ = thread.join();
        if self.renewal.is_ours() {
            let _ = fs::remove_file(&self.renewal.path);
        }
        // The last process removes the lock file.
        let path = self.renewal.output.join(LOCK);
        if let Ok(file) = own_file::open_existing_lock(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for JoinedLock {
    fn drop(&mut self) {
        self.release();
    }
}
