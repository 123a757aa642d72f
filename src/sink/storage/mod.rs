//! The storage of an output: a local folder, or the objects below a URL. Both use the same protocol (`commit`, `units`).
//! Names are relative to the output, with `/`. All calls block.
//!
//! | what               | a folder                          | objects                                        |
//! |--------------------|-----------------------------------|------------------------------------------------|
//! | a part in progress | a file in `_hfauto/tmp`           | a file in the local temporary folder           |
//! | a small file       | temporary file, fsync, rename     | one put                                        |
//! | a new small file   | temporary file, fsync, hard link  | a conditional put                              |
//! | a move             | rename, fsync of the folders      | copy, then delete: idempotent                  |
//! | one run at a time  | `flock`, which dies with its process | a lease: a conditional put, renewed by the run |

mod joined;
mod local;
mod lock_file;
mod object;
mod object_lock;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub(super) use self::local::LocalStorage;
pub(super) use self::lock_file::create_folders;
use self::object::ObjectStorage;
use crate::error::{Error, ErrorKind, Result};
use crate::hub_store::{self, DatasetUrl};
use crate::store::{self, Place};

/// The subfolder for everything that is not data.
pub(super) const META: &str = "_hfauto";

/// The storage of an output; see the module.
pub(super) trait Storage: fmt::Debug + Send + Sync {
    /// The path or URL of a name, for messages.
    fn shown(&self, name: &str) -> PathBuf;

    /// Whether the output's folder exists.
    ///
    /// # Errors
    /// `Sink` if it cannot be read, or is not a folder.
    fn exists(&self) -> Result<bool>;

    /// Whether a name is a file; `None` if it does not exist.
    fn is_file(&self, name: &str) -> Result<Option<bool>>;

    /// Fails if the storage is not writable; the message names `output`.
    fn check_writable(&self, output: &Path) -> Result<()>;

    /// The data files below a folder, relative to it, with their sizes. A missing folder has none.
    fn files(&self, folder: &str) -> Result<BTreeMap<String, u64>>;

    /// The names of the subfolders.
    fn folders(&self, folder: &str) -> Result<Vec<String>>;

    /// The content of a file; `None` if it does not exist.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// A reader of a file from its start; `None` if it does not exist.
    fn reader(&self, name: &str) -> Result<Option<Box<dyn Read>>>;

    /// Visits the name and content of each data file in a folder, without subfolders and in any order. Keeps few contents
    /// in memory.
    fn read_each(
        &self,
        folder: &str,
        found: &mut dyn FnMut(String, Vec<u8>) -> Result<()>,
    ) -> Result<()>;

    /// The time when a file was last written; `None` if it does not exist.
    fn modified(&self, name: &str) -> Result<Option<DateTime<Utc>>>;

    /// Writes a small file atomically and durably.
    fn write(&self, name: &str, content: &[u8]) -> Result<()>;

    /// Like [`Storage::write`], unless the file exists. Of several processes that create one file, one writes it.
    /// Returns whether this call wrote it.
    fn create(&self, name: &str, content: &[u8]) -> Result<bool>;

    /// Creates an empty file, which a crash of the machine may lose.
    fn mark(&self, name: &str) -> Result<()>;

    /// Removes files of [`Storage::mark`], and folders that become empty. A file that cannot be removed stays.
    fn unmark(&self, names: &[String]);

    /// Like [`Storage::unmark`], for marks that mean nothing any more and that publishing removes in any case.
    fn unmark_done(&self, names: &[String]) {
        self.unmark(names);
    }

    /// Like [`Storage::write`], with streamed content.
    fn write_with(
        &self,
        name: &str,
        content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()>;

    /// The local path of a part before [`Storage::keep`]; creates its folder.
    fn spool(&self, name: &str) -> io::Result<PathBuf>;

    /// Moves complete local files to their names, durably.
    fn keep(&self, parts: &[(PathBuf, String)]) -> Result<()>;

    /// Moves files from a folder into the output, durably: names in the folder, and in the output. Skips missing files:
    /// an earlier attempt moved them.
    fn publish(&self, from: &str, moves: &[(String, String)]) -> Result<()>;

    /// Removes files that exist, and folders that become empty, durably.
    fn remove_all(&self, names: &[String]) -> Result<()>;

    /// Removes a folder, if it exists.
    fn remove_folder(&self, folder: &str) -> Result<()>;

    /// Removes a folder, if it is empty.
    fn remove_if_empty(&self, folder: &str);

    /// Takes the lock of the output.
    ///
    /// # Errors
    /// `Resources` if another run holds it.
    fn lock(&self, hold: Hold) -> Result<Box<dyn Lock>>;

    /// Takes the lock of a single file, for a run that writes no other; creates the file's folder.
    ///
    /// # Errors
    /// `Resources` if another run holds it.
    fn lock_of(&self, file: &str) -> Result<Box<dyn Lock>>;

    /// Whether a run holds the output.
    fn is_held(&self) -> Result<bool>;

    /// Whether a process holds the lock `name`, which [`Lock::name`] returned to it.
    fn is_live(&self, name: &str) -> Result<bool>;

    /// Removes empty folders that this run created.
    fn prune(&self);
}

/// The mode of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Exclusive.
    Alone,
    /// Shared with the other shards of the job, but not with another run of the same shard.
    Shard(Shard),
    /// Shared with shards and joined processes, and renewed: a process that stops running loses it.
    Joined,
    /// None: the process works for the run that holds the output under this token.
    Guest(String),
}

/// One of the processes that share a job: it computes every `count`-th unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The shard's number, from 0.
    pub index: usize,
    /// The number of shards.
    pub count: usize,
}

impl Shard {
    /// Whether this shard computes the unit at position `sequence`.
    pub fn has(&self, sequence: usize) -> bool {
        sequence % self.count == self.index
    }

    fn lock_name(self) -> String {
        format!("{META}/shard-{}-of-{}.lock", self.index + 1, self.count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

const LOCK: &str = "_hfauto/lock";

/// Whether a file of [`META`] is a lock that several processes hold beside each other.
fn is_shared_lock(name: &str) -> bool {
    (name.starts_with("shard-") || name.starts_with("join-")) && name.ends_with(".lock")
}

/// Whether a file of [`META`] is a lease that is being written.
fn is_new_lease(name: &str) -> bool {
    name.starts_with("join-") && name.ends_with(".tmp")
}

/// A new name for the lock of a joined process.
fn joined_lock() -> String {
    format!("{META}/join-{}.lock", &nonce()[..16])
}

/// A random text of 32 hex digits.
pub(crate) fn nonce() -> String {
    let random = || RandomState::new().hash_one((std::process::id(), Utc::now()));
    format!("{:016x}{:016x}", random(), random())
}

/// The name of a single file's lock: hidden, beside the file.
fn lock_name(file: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/.{name}.hfauto-lock"),
        None => format!(".{file}.hfauto-lock"),
    }
}

/// A held lock. Dropping it releases it.
pub(super) trait Lock: fmt::Debug + Send + Sync {
    /// Fails if the lock was lost: another run may have taken it. In a folder, no other run takes it over while the
    /// guard lives.
    ///
    /// # Errors
    /// `Resources`.
    fn check(&self) -> Result<Guard>;

    /// The fencing token: identifies this holding of the lock to [`Hold::Guest`].
    fn token(&self) -> &str;

    /// The name of its file or object.
    fn name(&self) -> &str;

    /// Releases the lock, and removes its file or object.
    fn release(&self);
}

/// Keeps other runs from taking the output over.
#[derive(Debug, Default)]
pub(super) struct Guard(#[expect(dead_code, reason = "it is held, not read")] Option<File>);

/// The holder of a lock, as recorded in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) host: String,
    /// The boot and the PID namespace, within which a process id shows whether the process is alive.
    machine: Option<String>,
    /// The time when it was taken, RFC 3339, UTC.
    pub(super) since: String,
    /// Identifies this holding of the lock; empty in locks of earlier versions.
    #[serde(default)]
    pub(super) token: String,
}

impl Holder {
    fn of_this_process() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .or_else(|_| std::env::var("HOSTNAME"))
            .unwrap_or_default();
        let since = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let (pid, host) = (std::process::id(), host.trim().to_owned());
        Self { pid, host, machine: machine(), since, token: nonce() }
    }

    /// Whether the process is known to be dead.
    fn is_dead(&self) -> bool {
        self.machine.is_some()
            && self.machine == machine()
            && !Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let processes = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), processes.display()))
}

/// The content of a lock that must be renewed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Lease {
    holder: Option<Holder>,
    /// The time of the last renewal, by the holder's clock.
    renewed: Option<DateTime<Utc>>,
    seconds: f64,
}

impl Lease {
    fn new() -> Self {
        Self {
            holder: Some(Holder::of_this_process()),
            renewed: Some(Utc::now()),
            seconds: lease_time().as_secs_f64(),
        }
    }

    fn token(&self) -> &str {
        self.holder.as_ref().map_or("", |holder| &holder.token)
    }

    /// Whether the holder is known to be dead.
    fn is_dead(&self) -> bool {
        self.holder.as_ref().is_some_and(Holder::is_dead)
    }

    /// Whether the lease has expired, or its holder is dead.
    fn is_free(&self) -> bool {
        let age = |renewed: DateTime<Utc>| (Utc::now() - renewed).as_seconds_f64();
        self.is_dead() || self.renewed.is_none_or(|renewed| age(renewed) > self.seconds)
    }
}

/// The time after which a lock that is not renewed has expired.
pub(super) fn lease_time() -> Duration {
    static TIME: OnceLock<Duration> = OnceLock::new();
    *TIME.get_or_init(|| {
        let seconds = std::env::var("HFAUTO_LOCK_SECONDS").ok().and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(60_u64).max(1))
    })
}

/// The error for a lock that another run may have taken over.
fn lost(output: &Path) -> Error {
    let message = format!("the lock of `{}` was lost", output.display());
    Error::new(ErrorKind::Resources, message).hint(
        "another run may have taken it over, or the store was unreachable for too long: run again",
    )
}

/// The error for an output that is held by another run.
fn held(output: &Path, holder: Option<&Holder>) -> Error {
    let by = holder.map_or_else(String::new, |Holder { pid, host, since, .. }| {
        format!(": process {pid} on `{host}`, since {since}")
    });
    Error::new(ErrorKind::Resources, format!("another run is writing `{}`{by}", output.display()))
        .hint("wait for it, or choose another `sink.path`")
}

/// The storage of a path or URL. An output on the hub is made in a local folder (`crate::sink::staged`).
///
/// # Errors
/// `Config` for a URL that is not writable.
pub(super) fn storage_of(path: &Path) -> Result<Arc<dyn Storage>> {
    let text = path.to_string_lossy();
    if !store::is_url(&text) {
        return Ok(Arc::new(LocalStorage::new(path)));
    }
    if hub_store::is_hub(&text) {
        let folder = hub_store::staging(&DatasetUrl::parse(&text)?)?;
        return Ok(Arc::new(LocalStorage::new(&folder).shown_as(&text)));
    }
    if text.starts_with("http") {
        let message = format!("`{text}`: HTTP is read-only");
        return Err(Error::new(ErrorKind::Config, message)
            .hint("write to a local folder, or to s3://, gs://, az:// or hf://"));
    }
    Ok(Arc::new(ObjectStorage::new(Place::open(&text)?)))
}
