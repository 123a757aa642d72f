//! The state and the lock of each scheduled pipeline: a folder with a small JSON file and a lock file for each, by
//! default `.hfauto/schedule` beside the pipeline files.
//!
//! ```text
//! reviews.yaml.json    the due time up to which it is done, the run in progress, how the last one ended
//! reviews.yaml.lock    held while it is read or run; the operating system releases it when the process dies
//! scheduler.lock       held by a `schedule` in service
//! ```
//!
//! A state is written to a temporary file, synced and renamed, so that a crash leaves the previous one intact. Not
//! here: decisions based on a state (`due`).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::own_file;

/// The version of state files that this program reads and writes.
const VERSION: u64 = 1;

/// The default folder of states, within the folder of pipelines.
pub const STATE_FOLDER: &str = ".hfauto/schedule";

const SCHEDULER: &str = "scheduler";

/// The prefix of a lock's content.
const LOCK_BEGINS: &[u8] = b"process ";

/// The recorded state of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The version of the file format.
    pub version: u64,
    /// The pipeline file's name.
    pub file: String,
    /// The cron expression and time zone for which `done_until` holds; empty before they are known.
    pub schedule: String,
    /// Due times up to this one are done.
    #[serde(with = "rfc3339")]
    pub done_until: DateTime<Utc>,
    /// The run in progress, or one that did not end.
    pub open: Option<Open>,
    /// The last run that ended, with any outcome.
    pub last: Option<LastRun>,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The due time.
    #[serde(with = "rfc3339")]
    pub due: DateTime<Utc>,
    /// When the last attempt started.
    #[serde(with = "rfc3339")]
    pub started_at: DateTime<Utc>,
    /// The number of attempts.
    pub attempts: u32,
    /// When the last attempt was suspended. Without it, the attempt is in progress or has crashed.
    #[serde(with = "rfc3339::option")]
    pub put_off_at: Option<DateTime<Utc>>,
    /// Whether a signal suspended it.
    pub was_stopped: bool,
    /// The process of the last attempt.
    pub pid: u32,
    /// The host or container of that process.
    pub host: String,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// The due time.
    #[serde(with = "rfc3339")]
    pub due: DateTime<Utc>,
    /// When it started.
    #[serde(with = "rfc3339")]
    pub started_at: DateTime<Utc>,
    /// When it ended.
    #[serde(with = "rfc3339")]
    pub finished_at: DateTime<Utc>,
    /// How it ended.
    pub outcome: Outcome,
    /// The exit code that `run` would have had.
    pub exit_code: u8,
    /// The error message.
    pub error: Option<String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Successfully, including runs with nothing to do.
    Done,
    /// With an error; it is not retried.
    Failed,
    /// Because of a temporary obstacle, for example another run on its output; it is retried.
    Busy,
    /// By a signal; the next process resumes it.
    Interrupted,
}

impl Outcome {
    /// The outcome of a run that ended with this error.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Interrupted | ErrorKind::Terminated => Self::Interrupted,
            ErrorKind::Resources => Self::Busy,
            _ => Self::Failed,
        }
    }

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Interrupted => "interrupted",
        }
    }
}

impl State {
    /// The state of a pipeline that no scheduler has seen.
    pub(super) fn new(file: &str) -> Self {
        Self {
            version: VERSION,
            file: file.to_owned(),
            schedule: String::new(),
            done_until: DateTime::UNIX_EPOCH,
            open: None,
            last: None,
        }
    }

    /// Records the start of an attempt for a due time.
    pub(super) fn start(
        &mut self,
        due: DateTime<Utc>,
        now: DateTime<Utc>,
        (pid, host): (u32, String),
    ) {
        let attempts = self.open.as_ref().map_or(0, |open| open.attempts);
        self.open = Some(Open {
            due,
            started_at: now,
            attempts: attempts.saturating_add(1),
            put_off_at: None,
            was_stopped: false,
            pid,
            host,
        });
    }

    /// Records the end of the current attempt.
    pub(super) fn finish(
        &mut self,
        now: DateTime<Utc>,
        outcome: Outcome,
        exit_code: u8,
        error: Option<String>,
    ) {
        let Some(mut open) = self.open.take() else { return };
        let (due, started_at) = (open.due, open.started_at);
        match outcome {
            Outcome::Done | Outcome::Failed => self.done_until = self.done_until.max(due),
            Outcome::Busy | Outcome::Interrupted => {
                open.put_off_at = Some(now);
                open.was_stopped = outcome == Outcome::Interrupted;
                if open.was_stopped {
                    open.attempts = 0;
                }
                self.open = Some(open);
            }
        }
        self.last = Some(LastRun { due, started_at, finished_at: now, outcome, exit_code, error });
    }
}

/// The folder of states.
#[derive(Clone, Debug)]
pub struct StateFolder {
    path: PathBuf,
}

/// The content of a state file.
pub(super) enum Found {
    /// A valid state.
    State(State),
    /// An invalid file, for example after a disk failure, with the state derived from its modification time.
    Damaged(State),
}

/// A held lock, released on drop.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// The result of a lock attempt.
pub(super) enum Asked {
    /// The lock was acquired.
    Ours(Lock),
    /// Another process holds the lock; its description, as far as it is known.
    Theirs(String),
}

impl StateFolder {
    /// The states of the pipelines in `folder`; creates nothing yet.
    pub fn new(folder: &Path, elsewhere: Option<&Path>) -> Self {
        let path = elsewhere.map_or_else(|| folder.join(STATE_FOLDER), Path::to_path_buf);
        Self { path }
    }

    /// The folder of the states.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state of a pipeline file, without locking or writing.
    ///
    /// # Errors
    /// `Sink` when it cannot be read, or has a newer version.
    pub fn look(&self, file: &str) -> Result<Option<State>> {
        Ok(self.read(file)?.map(|found| match found {
            Found::State(state) | Found::Damaged(state) => state,
        }))
    }

    pub(super) fn read(&self, file: &str) -> Result<Option<Found>> {
        let path = self.state_file(file);
        let text = match own_file::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable("read", &path, error)),
        };
        let json = serde_json::from_slice::<serde_json::Value>(&text).unwrap_or_default();
        let version = json["version"].as_u64();
        if let Some(version) = version.filter(|version| *version > VERSION) {
            let message = format!(
                "the state `{}` is of version {version}, this program knows {VERSION}",
                path.display()
            );
            return Err(Error::new(ErrorKind::Sink, message).hint(
                "a newer hfauto-pipe wrote it: use that one; without the file, the pipeline is due \
                 from its next time on",
            ));
        }
        if let Ok(state) = serde_json::from_value::<State>(json) {
            return Ok(Some(Found::State(State { file: file.to_owned(), ..state })));
        }
        // The file was written when a run started or ended. Later times have not been run.
        let written = fs::metadata(&path).and_then(|found| found.modified());
        let written = written.map_err(|error| unusable("read", &path, error))?;
        let done_until = DateTime::<Utc>::from(written);
        Ok(Some(Found::Damaged(State { done_until, ..State::new(file) })))
    }

    pub(super) fn write(&self, state: &State) -> Result<()> {
        let path = self.state_file(&state.file);
        let mut text = serde_json::to_string_pretty(state).map_err(|e| {
            Error::new(ErrorKind::Internal, "the state cannot be written as JSON").source(e)
        })?;
        text.push('\n');
        let aside = self.path.join(format!("{}.json.new", state.file));
        let written = own_file::replace(&path, &aside, text.as_bytes())
            .and_then(|()| File::open(&self.path)?.sync_all());
        written.map_err(|error| unusable("write", &path, error))
    }

    /// Tries to lock a pipeline file.
    pub(super) fn lock(&self, file: &str) -> Result<Asked> {
        fs::create_dir_all(&self.path).map_err(|error| unusable("make", &self.path, error))?;
        let path = self.lock_file(file);
        let opened = own_file::open_lock(&path, LOCK_BEGINS)
            .map_err(|error| unusable("lock", &path, error))?;
        let mut looks = 0;
        loop {
            match opened.try_lock() {
                Ok(()) => break,
                // `status` holds the lock for a moment.
                Err(TryLockError::WouldBlock) if looks < 3 => {
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Ok(Asked::Theirs(holder(&path))),
                Err(TryLockError::Error(error)) => return Err(unusable("lock", &path, error)),
            }
        }
        // The content informs other processes; the lock works without it.
        let (pid, host) = myself();
        let _ = own_file::rewrite(&opened, format!("process {pid} on {host}\n").as_bytes());
        Ok(Asked::Ours(Lock { _file: opened }))
    }

    /// Tries to acquire the lock of the scheduler service.
    pub(super) fn lock_scheduler(&self) -> Result<Asked> {
        self.lock(SCHEDULER)
    }

    /// The process that currently runs a pipeline, if any. Holds the lock only for the check.
    pub fn runs(&self, file: &str) -> Option<String> {
        let path = self.lock_file(file);
        let opened = own_file::open_existing_lock(&path).ok()?;
        matches!(opened.try_lock(), Err(TryLockError::WouldBlock)).then(|| holder(&path))
    }

    fn state_file(&self, file: &str) -> PathBuf {
        self.path.join(format!("{file}.json"))
    }

    fn lock_file(&self, file: &str) -> PathBuf {
        self.path.join(format!("{file}.lock"))
    }
}

fn holder(lock: &Path) -> String {
    let text = own_file::read(lock).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = text.trim();
    if text.is_empty() { "another process".to_owned() } else { text.to_owned() }
}

/// This process, as named in states and locks.
pub(super) fn myself() -> (u32, String) {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "this machine" } else { host.trim() };
    (std::process::id(), host.to_owned())
}

fn unusable(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Sink, format!("cannot {what} the state `{}`", path.display()))
        .source(error)
        .hint("make the folder writable, or set another folder with `--state DIR`")
}

/// Timestamps in state files.
mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::{DateTime, SecondsFormat, Utc};

    pub(super) fn serialize<S: Serializer>(
        time: &DateTime<Utc>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DateTime<Utc>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }

    pub(super) mod option {
        use super::{DateTime, Deserialize, Deserializer, SecondsFormat, Serializer, Utc, de};

        #[expect(clippy::ref_option, reason = "serde calls it so")]
        pub(crate) fn serialize<S: Serializer>(
            time: &Option<DateTime<Utc>>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => {
                    serializer.serialize_some(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
                }
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<DateTime<Utc>>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, StateFolder) {
        let dir = tempfile::tempdir().unwrap();
        let states = StateFolder::new(dir.path(), None);
        fs::create_dir_all(states.path()).unwrap();
        (dir, states)
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let (_dir, states) = folder();
        assert_eq!(states.look("a.yaml").unwrap(), None);
        let mut state = State::new("a.yaml");
        state.start(at("2026-03-02T03:00:00Z"), at("2026-03-02T03:00:07Z"), myself());
        states.write(&state).unwrap();
        assert_eq!(states.look("a.yaml").unwrap(), Some(state.clone()));
        state.finish(at("2026-03-02T04:00:00Z"), Outcome::Busy, 75, Some("busy".to_owned()));
        states.write(&state).unwrap();
        assert_eq!(states.look("a.yaml").unwrap(), Some(state));
        // Only the state file is left.
        let files: Vec<_> = fs::read_dir(states.path()).unwrap().collect();
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn a_damaged_state_counts_as_done_until_it_was_written_and_a_newer_one_is_refused() {
        let (_dir, states) = folder();
        let mut state = State::new("a.yaml");
        state.start(at("2026-03-02T03:00:00Z"), at("2026-03-02T03:00:07Z"), myself());
        states.write(&state).unwrap();
        let path = states.path().join("a.yaml.json");
        let text = fs::read_to_string(&path).unwrap();
        for broken in ["", "{}", "null", &text[..text.len() / 2], &text.replace("03-02", "13-02")] {
            fs::write(&path, broken).unwrap();
            let Some(Found::Damaged(found)) = states.read("a.yaml").unwrap() else {
                panic!("{broken}");
            };
            let age = Utc::now() - found.done_until;
            assert!(age.num_minutes().abs() < 5, "{age}");
            assert_eq!((found.open, found.schedule.as_str()), (None, ""));
        }
        fs::write(&path, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
        let error = states.look("a.yaml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink);
        assert!(error.to_string().contains("is of version 2, this program knows 1"), "{error}");
    }

    #[test]
    fn one_process_holds_a_lock_and_another_learns_its_name() {
        let (_dir, states) = folder();
        assert_eq!(states.runs("a.yaml"), None);
        let Asked::Ours(lock) = states.lock("a.yaml").unwrap() else { panic!("it is free") };
        let who = format!("process {} on ", std::process::id());
        assert!(states.runs("a.yaml").unwrap().starts_with(&who));
        match states.lock("a.yaml").unwrap() {
            Asked::Theirs(holder) => assert!(holder.starts_with(&who), "{holder}"),
            Asked::Ours(_) => panic!("it is held"),
        }
        assert!(matches!(states.lock("b.yaml").unwrap(), Asked::Ours(_)));
        drop(lock);
        assert_eq!(states.runs("a.yaml"), None);
        assert!(matches!(states.lock("a.yaml").unwrap(), Asked::Ours(_)));
    }
}
