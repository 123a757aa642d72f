//! A version of a table: its columns and files, by the newest checkpoint and the versions after it.

use std::collections::BTreeMap;

use super::actions::{Action, Add, Metadata, Protocol, key};
use super::checkpoint;
use super::log::{Log, version_of};
use super::protocol;
use crate::error::{Error, ErrorKind, Result};

/// A version of a table.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The path or URL of the table.
    pub(super) table: String,
    /// The number of the version.
    pub(crate) version: u64,
    pub(super) protocol: Protocol,
    pub(super) metadata: Metadata,
    /// Its files, in the order of their paths.
    pub(super) files: BTreeMap<(String, String), Add>,
    /// The last transaction of each application.
    transactions: BTreeMap<String, i64>,
    /// The version of the checkpoint that was read.
    base: Option<u64>,
    /// The last version that changed rows, of those after the checkpoint.
    last_change: Option<u64>,
}

#[derive(Default)]
struct Replay {
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    files: BTreeMap<(String, String), Add>,
    transactions: BTreeMap<String, i64>,
    has_sidecars: bool,
}

impl Replay {
    /// Applies an action. Returns whether it changes rows.
    fn apply(&mut self, action: Action) -> bool {
        let mut changes = false;
        if let Some(protocol) = action.protocol {
            self.protocol = Some(protocol);
        }
        if let Some(metadata) = action.meta_data {
            self.metadata = Some(metadata);
        }
        if let Some(txn) = action.txn {
            self.transactions.insert(txn.app_id, txn.version);
        }
        if let Some(add) = action.add {
            changes |= add.data_change;
            self.files.insert(key(&add.path, add.deletion_vector.as_ref()), add);
        }
        if let Some(remove) = action.remove {
            changes |= remove.data_change;
            self.files.remove(&key(&remove.path, remove.deletion_vector.as_ref()));
        }
        self.has_sidecars |= action.sidecar.is_some();
        changes
    }
}

impl Snapshot {
    /// The last version of a table, or the one asked for; `None` if there is no table.
    ///
    /// # Errors
    /// `NoInput` if the log or the version cannot be read, `Data` if the log is damaged or the table needs what is not
    /// read.
    pub(crate) fn of(table: &str, version: Option<u64>) -> Result<Option<Self>> {
        let log = Log::of(table)?;
        let names = log.names()?;
        let commits = names.iter().filter_map(|name| version_of(name));
        let commits = commits.filter(|(_, rest)| *rest == "json");
        let commits: Vec<u64> = commits.map(|(version, _)| version).collect();
        let newest = checkpoint::newest(&log, &names, u64::MAX)?;
        let Some(last) = commits.last().copied().max(newest.map(|(version, _)| version)) else {
            return Ok(None);
        };
        let wanted = version.unwrap_or(last);
        let absent = |why: &str| {
            let message = format!("the Delta table `{table}` has no version {wanted}{why}");
            Error::new(ErrorKind::NoInput, message).hint(format!("the last one is {last}"))
        };
        if wanted > last {
            return Err(absent(""));
        }
        let base = checkpoint::newest(&log, &names, wanted)?;
        let mut replay = Replay::default();
        for part in base.iter().flat_map(|(_, parts)| parts) {
            checkpoint::each_action(&log, part, &mut |action| {
                replay.apply(action);
                Ok(())
            })?;
        }
        if let (true, Some((version, _))) = (replay.has_sidecars, &base) {
            return Err(checkpoint::unread(&log, *version));
        }
        let mut last_change = None;
        for version in base.as_ref().map_or(0, |(version, _)| version + 1)..=wanted {
            if commits.binary_search(&version).is_err() {
                if version == 0 {
                    return Err(absent(": its log has been cleaned up"));
                }
                return Err(log.broken(&format!("there is no version {version}")));
            }
            let name = format!("{version:020}.json");
            let text = log.read(&name)?;
            for line in text.split(|byte| *byte == b'\n') {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let action: Action = serde_json::from_slice(line)
                    .map_err(|error| log.broken(&format!("`{name}`: {error}")))?;
                if replay.apply(action) {
                    last_change = Some(version);
                }
            }
        }
        let (Some(protocol), Some(metadata)) = (replay.protocol, replay.metadata) else {
            return Err(log.broken(&format!("version {wanted} has no columns or no protocol")));
        };
        protocol::check_read(table, &protocol, &metadata)?;
        Ok(Some(Self {
            table: table.to_owned(),
            version: wanted,
            protocol,
            metadata,
            files: replay.files,
            transactions: replay.transactions,
            base: base.map(|(version, _)| version),
            last_change,
        }))
    }

    /// The version that the application `app` made, as far as the log says.
    pub(crate) fn transaction(&self, app: &str) -> Option<u64> {
        self.transactions.get(app).and_then(|version| u64::try_from(*version).ok())
    }

    /// Whether the rows are those that version `version` left. Where a checkpoint hides which version changed them last,
    /// they are not.
    pub(crate) fn is_unchanged_since(&self, version: u64) -> bool {
        let last = self.last_change.or(self.base);
        version == self.version || last.is_some_and(|last| last <= version)
    }

    /// The rows of the files whose path contains a text, as far as the log counts them.
    pub(crate) fn rows_of(&self, text: &str) -> u64 {
        let rows = |add: &Add| {
            let stats: serde_json::Value = serde_json::from_str(add.stats.as_deref()?).ok()?;
            stats.get("numRecords")?.as_u64()
        };
        self.files.values().filter(|add| add.path.contains(text)).filter_map(rows).sum()
    }
}
