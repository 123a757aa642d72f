//! Places where the kill tests end the process: `HFAUTO_FAILPOINT=unit.renamed:3` kills it with SIGKILL when
//! it comes to `unit.renamed` for the third time; with `:hold` at the end it stays there instead, with `:panic` it
//! panics; with `:spin` it keeps a thread of the runtime busy for ever. `unit.begun@003.csv` is a place of the units
//! whose input contains `003.csv`. Without the variable, a failpoint costs a single load of a static.
//!
//! A variable that is set by accident has no effect: `HFAUTO_FAILPOINT_KEY` must hold the [`key`] of this very program,
//! which nobody computes by accident.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Every place, in the order in which a job comes to them.
pub const FAILPOINTS: &[&str] = &[
    "lock.taken",
    "unit.begun",
    "unit.written",
    "unit.renamed",
    "unit.synced",
    "unit.manifest",
    "unit.committed",
    "publish.begun",
    "publish.planned",
    "publish.unmarked",
    "publish.renamed",
    "publish.removed",
    "publish.manifest",
    "publish.marked",
    "publish.cleaned",
];

/// Places around a run that was due, in their order.
pub const SCHEDULE_FAILPOINTS: &[&str] = &["schedule.started", "schedule.ran", "schedule.finished"];

/// Places around the commit of an output to a dataset on the hub.
pub const PUSH_FAILPOINTS: &[&str] = &["push.uploaded", "push.committed"];

struct Chosen {
    name: String,
    count: u64,
    then: Option<String>,
}

/// The required value of `HFAUTO_FAILPOINT_KEY` for this build, derived from the size and mtime of the program file.
pub fn key(program: &Path) -> Option<String> {
    let found = std::fs::metadata(program).ok()?;
    let modified = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let text = format!("failpoints of hfauto-pipe {} {}", found.len(), modified.as_nanos());
    Some(blake3::hash(text.as_bytes()).to_hex()[..32].to_owned())
}

/// Kills the process if this is the place, for the time, that the environment names.
pub(crate) fn failpoint(name: &str) {
    failpoint_at(name, "");
}

/// Like [`failpoint`], at a place that concerns `what`.
pub(crate) fn failpoint_at(name: &str, what: &str) {
    static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("HFAUTO_FAILPOINT").ok()?;
        let ours = key(&std::env::current_exe().ok()?)?;
        if std::env::var("HFAUTO_FAILPOINT_KEY").ok()? != ours {
            return None;
        }
        let mut parts = text.split(':');
        let name = parts.next()?.to_owned();
        let count = parts.next().map_or(Ok(1), str::parse).ok()?;
        Some(Chosen { name, count, then: parts.next().map(str::to_owned) })
    });
    let Some(chosen) = chosen else { return };
    debug_assert!(
        [FAILPOINTS, SCHEDULE_FAILPOINTS, PUSH_FAILPOINTS]
            .iter()
            .any(|names| names.contains(&name))
    );
    let is_here = match chosen.name.split_once('@') {
        Some((place, part)) => place == name && what.contains(part),
        None => chosen.name == name,
    };
    if is_here && HITS.fetch_add(1, Ordering::Relaxed) + 1 == chosen.count {
        match chosen.then.as_deref() {
            Some("hold") => return std::thread::sleep(Duration::from_secs(10)),
            Some("panic") => panic!("the failpoint `{name}`"),
            Some("spin") => loop {
                std::hint::spin_loop();
            },
            _ => {}
        }
        // Nothing of ours runs any more, as when the system or an operator kills it.
        let pid = std::process::id().to_string();
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
        std::thread::sleep(Duration::from_mins(1));
    }
}
