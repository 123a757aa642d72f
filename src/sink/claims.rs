//! Claims of joined processes on units. A claim names the lock of its process: it ends with the unit, or with the lock.
//! Claims only save work; what counts as done is decided by manifests (`units`). Not here: which unit a process claims
//! (`crate::job`).
//!
//! ```text
//! out/_hfauto/claims/<unit>-0   the first claim
//! out/_hfauto/claims/<unit>-1   another process computes the unit, too: the first one is dead or slow
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::commit::CLAIMS;
use super::manifest;
use super::storage::Storage;
use crate::error::Result;

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// The name of the lock of the process.
    lock: String,
}

/// A claim of this process; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Claim {
    storage: Arc<dyn Storage>,
    /// Empty once the unit is done.
    name: String,
}

impl Claim {
    /// Ends the claim, whose unit is done.
    pub(crate) fn done(mut self) {
        let name = std::mem::take(&mut self.name);
        self.storage.unmark_done(&[name]);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.storage.unmark(std::slice::from_ref(&self.name));
        }
    }
}

/// Claims a unit for the process that holds the shared lock `lock`; `None` if the claim with this number exists.
pub(super) fn claim(
    storage: &Arc<dyn Storage>,
    unit: &str,
    number: u32,
    lock: &str,
) -> Result<Option<Claim>> {
    let name = format!("{CLAIMS}/{unit}-{number}");
    let is_ours = manifest::create(storage.as_ref(), &name, &Content { lock: lock.to_owned() })?;
    Ok(is_ours.then(|| Claim { storage: Arc::clone(storage), name }))
}

/// The numbers of the claims on each unit, in ascending order.
pub(super) fn numbers(storage: &dyn Storage) -> Result<BTreeMap<String, Vec<u32>>> {
    let mut numbers: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for name in storage.files(CLAIMS)?.into_keys() {
        if let Some((unit, number)) = name.split_once('-')
            && let Ok(number) = number.parse()
        {
            numbers.entry(unit.to_owned()).or_default().push(number);
        }
    }
    numbers.values_mut().for_each(|numbers| numbers.sort_unstable());
    Ok(numbers)
}

/// The name of the lock of the process that made a claim; `None` if the claim has ended.
pub(super) fn lock_of(storage: &dyn Storage, unit: &str, number: u32) -> Result<Option<String>> {
    let name = format!("{CLAIMS}/{unit}-{number}");
    let Some(text) = storage.read(&name)? else { return Ok(None) };
    let content: Option<Content> = serde_json::from_slice(&text).ok();
    // A damaged claim has no live process.
    Ok(Some(content.map(|content| content.lock).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::storage::LocalStorage;
    use super::*;

    #[test]
    fn a_claim_belongs_to_one_process_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.path()));
        let take = |number: u32, lock: &str| claim(&storage, "0a", number, lock).unwrap();
        let first = take(0, "one").unwrap();
        assert!(take(0, "two").is_none());
        let second = take(1, "two").unwrap();
        assert_eq!(numbers(storage.as_ref()).unwrap()["0a"], [0, 1]);
        let lock = |number: u32| lock_of(storage.as_ref(), "0a", number).unwrap();
        assert_eq!((lock(0).as_deref(), lock(1).as_deref()), (Some("one"), Some("two")));
        drop(first);
        assert_eq!(lock(0), None);
        assert!(take(0, "three").is_some());
        drop(second);
        assert!(numbers(storage.as_ref()).unwrap().is_empty());
        assert!(!folder.path().join("_hfauto").exists());
    }

    /// Of many processes that create one file, one succeeds, and its content stays.
    #[test]
    fn a_file_is_created_once() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.path()));
        for round in 0..50 {
            let name = format!("{CLAIMS}/{round}");
            let create =
                |number: u32| storage.create(&name, number.to_string().as_bytes()).unwrap();
            let won: Vec<u32> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|number| scope.spawn(move || (number, create(number)))).collect();
                let ended = threads.into_iter().map(|thread| thread.join().unwrap());
                ended.filter(|(_, won)| *won).map(|(number, _)| number).collect()
            });
            let content = storage.read(&name).unwrap().unwrap();
            assert_eq!(won.len(), 1);
            assert_eq!(content, won[0].to_string().as_bytes());
        }
        assert_eq!(storage.files(CLAIMS).unwrap().len(), 50);
    }
}
