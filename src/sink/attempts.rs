//! Counts the attempts at a unit that ended with their process. A file marks an attempt from its begin to its end; the
//! mark of a process that was killed stays. Not here: what an attempt computes (`crate::job`), and how it commits
//! (`units`).
//!
//! ```text
//! out/_hfauto/attempts/<unit>/<nonce>    an attempt that has not ended
//! out/_hfauto/attempts/<unit>/reported   a run has ended with an error because of them
//! ```

use std::sync::Arc;

use super::commit::ATTEMPTS;
use super::storage::{Storage, nonce};
use crate::error::Result;

/// The number of attempts without an end after which a unit is not tried again.
pub const MAX_ATTEMPTS: usize = 3;

/// Marks that the unit was reported: the next run tries it again.
const REPORTED: &str = "reported";

/// The attempts at a unit that have not ended.
#[derive(Debug)]
pub(crate) struct Attempts {
    storage: Arc<dyn Storage>,
    folder: String,
    marks: Vec<String>,
}

impl Attempts {
    pub(super) fn at(storage: &Arc<dyn Storage>, unit: &str) -> Result<Self> {
        let folder = format!("{ATTEMPTS}/{unit}");
        let names = storage.files(&folder)?.into_keys().filter(|name| name != REPORTED);
        let marks = names.map(|name| format!("{folder}/{name}")).collect();
        Ok(Self { storage: Arc::clone(storage), folder, marks })
    }

    /// Their number.
    pub(crate) fn count(&self) -> usize {
        self.marks.len()
    }

    /// Begins another attempt.
    ///
    /// # Errors
    /// `Sink` if the output cannot be written.
    pub(crate) fn begin(self) -> Result<Attempt> {
        let mark = format!("{}/{}", self.folder, &nonce()[..16]);
        self.storage.mark(&mark)?;
        Ok(Attempt { storage: self.storage, mark: Some(mark), earlier: self.marks })
    }
}

/// An attempt at a unit in progress; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Attempt {
    storage: Arc<dyn Storage>,
    /// This attempt's; none once the unit is done.
    mark: Option<String>,
    earlier: Vec<String>,
}

impl Attempt {
    /// Ends the attempt, whose unit is done: the earlier ones count no longer.
    pub(crate) fn done(mut self) {
        let mut marks = std::mem::take(&mut self.earlier);
        marks.extend(self.mark.take());
        self.storage.unmark_done(&marks);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(mark) = &self.mark {
            self.storage.unmark(std::slice::from_ref(mark));
        }
    }
}

/// Records that a run ends with an error because of a unit.
pub(super) fn report(storage: &dyn Storage, unit: &str) -> Result<()> {
    storage.mark(&format!("{ATTEMPTS}/{unit}/{REPORTED}"))
}

/// Forgets the attempts at units that were reported. The caller holds the output alone.
pub(super) fn forget_reported(storage: &dyn Storage) -> Result<()> {
    let marks: Vec<String> = storage.files(ATTEMPTS)?.into_keys().collect();
    let reported = marks.iter().filter_map(|mark| mark.strip_suffix(REPORTED));
    for folder in reported {
        let marks = marks.iter().filter(|mark| mark.starts_with(folder));
        storage.unmark(&marks.map(|mark| format!("{ATTEMPTS}/{mark}")).collect::<Vec<_>>());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::storage::LocalStorage;
    use super::*;

    #[test]
    fn attempts_without_an_end_are_counted_until_they_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.path()));
        let at = |unit: &str| Attempts::at(&storage, unit).unwrap();
        let count = |unit: &str| at(unit).count();
        let begin = |unit: &str| at(unit).begin().unwrap();
        drop(begin("a"));
        assert_eq!(count("a"), 0);
        for killed in 1..=2 {
            std::mem::forget(begin("a"));
            std::mem::forget(begin("b"));
            assert_eq!((count("a"), count("b")), (killed, killed));
        }
        begin("a").done();
        assert_eq!((count("a"), count("b")), (0, 2));
        forget_reported(storage.as_ref()).unwrap();
        assert_eq!(count("b"), 2);
        report(storage.as_ref(), "b").unwrap();
        assert_eq!(count("b"), 2);
        forget_reported(storage.as_ref()).unwrap();
        assert_eq!(count("b"), 0);
        assert!(!folder.path().join("_hfauto").exists());
    }
}
