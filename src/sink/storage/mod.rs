//! What an output is written to: a folder of this machine, or the objects below a URL. The protocol above
//! (`commit`, `units`) is the same for both. Names are relative to the output, with `/`. All calls block.
//!
//! | what               | a folder                          | objects                                        |
//! |--------------------|-----------------------------------|------------------------------------------------|
//! | a part in writing  | a file of `_hfauto/tmp`           | a file of this machine's temporary folder      |
//! | a small file       | written beside, fsync, rename     | one put                                        |
//! | a move             | rename, fsync of the folders      | copy, then delete: a move may be done again    |
//! | one run at a time  | `flock`, which dies with its process | a conditional put, renewed while the run lives |

mod local;
mod object;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub(super) use self::local::{LocalStorage, make_folders, remove_created};
use self::object::ObjectStorage;
use super::commit::META;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Place};

/// See the module.
pub(super) trait Storage: fmt::Debug + Send + Sync {
    /// A name as messages show it.
    fn shown(&self, name: &str) -> PathBuf;

    /// Whether something is there that may be an output.
    ///
    /// # Errors
    /// `Sink` when it cannot be looked at, or is no folder.
    fn exists(&self) -> Result<bool>;

    /// Whether a name is a file; `None` when nothing is there.
    fn is_file(&self, name: &str) -> Result<Option<bool>>;

    /// Fails when it cannot be written to; `output` is what the message names.
    fn check_writable(&self, output: &Path) -> Result<()>;

    /// The files below a folder that readers take for data, relative to it, with their sizes. A folder that
    /// is not there has none.
    fn files(&self, folder: &str) -> Result<BTreeMap<String, u64>>;

    /// The names of a folder's folders.
    fn folders(&self, folder: &str) -> Result<Vec<String>>;

    /// A file's content; `None` when it is not there.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// The beginning of a file's content; `None` when it is not there.
    fn reader(&self, name: &str) -> Result<Option<Box<dyn Read>>>;

    /// Reads the files of a folder that readers take for data, without its folders, in any order: names, and what is
    /// in them. However many there are, few are in memory.
    fn read_each(
        &self,
        folder: &str,
        found: &mut dyn FnMut(String, Vec<u8>) -> Result<()>,
    ) -> Result<()>;

    /// When a file was last written; `None` when it is not there.
    fn modified(&self, name: &str) -> Result<Option<DateTime<Utc>>>;

    /// Puts a small file there, whole and durable or not at all.
    fn write(&self, name: &str, content: &[u8]) -> Result<()>;

    /// As [`Storage::write`], of content that is made as it is written.
    fn write_with(
        &self,
        name: &str,
        content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()>;

    /// The file of this machine that a part is written to before [`Storage::keep`]; its folder is made.
    fn spool(&self, name: &str) -> io::Result<PathBuf>;

    /// Moves files of this machine, which are whole, to their names; durable then.
    fn keep(&self, parts: &[(PathBuf, String)]) -> Result<()>;

    /// Moves files from a folder into the output; durable then. Those that are not there were moved already.
    fn publish(&self, from: &str, names: &[String]) -> Result<()>;

    /// Removes files that may be gone already, and folders that become empty; durable then.
    fn remove_all(&self, names: &[String]) -> Result<()>;

    /// Removes a folder that may be gone already.
    fn remove_folder(&self, folder: &str) -> Result<()>;

    /// Removes a folder that nothing is in.
    fn remove_if_empty(&self, folder: &str);

    /// Takes the lock of the output.
    ///
    /// # Errors
    /// `Resources` when another run has it.
    fn lock(&self, hold: Hold) -> Result<Box<dyn Lock>>;

    /// Takes the lock of one file, for a run that writes no other.
    ///
    /// # Errors
    /// `Resources` when another run has it.
    fn lock_of(&self, file: &str) -> Result<Box<dyn Lock>>;

    /// Whether a run holds the output.
    fn is_held(&self) -> Result<bool>;

    /// Removes folders that were made for a run that left nothing.
    fn prune(&self);
}

/// How a run holds an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// No other run.
    Alone,
    /// Beside the other shards of the job, not beside another run of this one.
    Shard(Shard),
}

/// One of the processes that share a job: it computes every `count`-th unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number, from 0.
    pub index: usize,
    /// All of them.
    pub count: usize,
}

impl Shard {
    /// Whether a unit is its own.
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

/// The lock of one file, beside it and hidden.
fn lock_name(file: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/.{name}.hfauto-lock"),
        None => format!(".{file}.hfauto-lock"),
    }
}

/// A lock that is held; dropped, it is free.
pub(super) trait Lock: fmt::Debug + Send + Sync {
    /// Fails when the lock was lost: another run may have taken it.
    ///
    /// # Errors
    /// `Resources`.
    fn check(&self) -> Result<()>;

    /// Frees it, and removes what says so.
    fn release(&self);
}

/// Who holds a lock, as the lock says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) host: String,
    /// The running system and its space of process numbers: within one, a number tells whether the process
    /// lives.
    machine: Option<String>,
    /// Since when, RFC 3339, UTC.
    pub(super) since: String,
}

impl Holder {
    fn of_this_process() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .or_else(|_| std::env::var("HOSTNAME"))
            .unwrap_or_default();
        let since = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        Self { pid: std::process::id(), host: host.trim().to_owned(), machine: machine(), since }
    }

    /// Whether the process is known to be gone.
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

/// The error for an output that another run holds.
fn held(output: &Path, holder: Option<&Holder>) -> Error {
    let by = holder.map_or_else(String::new, |Holder { pid, host, since, .. }| {
        format!(": process {pid} on `{host}`, since {since}")
    });
    Error::new(ErrorKind::Resources, format!("another run is writing `{}`{by}", output.display()))
        .hint("wait for it, or choose another `sink.path`")
}

/// The storage of a path or URL.
///
/// # Errors
/// `Config` when it is a URL that cannot be written to.
pub(super) fn storage_of(path: &Path) -> Result<Arc<dyn Storage>> {
    let text = path.to_string_lossy();
    if !store::is_url(&text) {
        return Ok(Arc::new(LocalStorage::new(path)));
    }
    if text.starts_with("http") {
        let message = format!("`{text}`: nothing is written over HTTP");
        return Err(Error::new(ErrorKind::Config, message)
            .hint("write to a local folder, or to s3://, gs:// or az://"));
    }
    Ok(Arc::new(ObjectStorage::new(Place::open(&text)?)))
}
