//! The folder of a table's log, local or in a store: its names, and the bytes of its files.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::remote::{self, RemoteFile};
use crate::error::{Error, ErrorKind, Result};
use crate::hub_store;
use crate::limits::DELTA_LOG_FILE_BYTES;
use crate::store::{self, Place};

/// The folder of the log in a table's folder.
pub(super) const FOLDER: &str = "_delta_log";

/// The log of a table.
#[derive(Debug)]
pub(super) struct Log {
    /// The table, for messages.
    pub(super) table: String,
    root: Root,
}

#[derive(Debug)]
enum Root {
    Local(PathBuf),
    /// The files of the log, by name: they were listed.
    Store(Vec<(String, RemoteFile)>),
}

/// Whether a path or URL is the folder of a table.
///
/// # Errors
/// `Config` for a wrong URL, `NoInput` if the store does not answer.
pub(in crate::source) fn is_table(written: &str, path: &Path) -> Result<bool> {
    if !store::is_url(written) {
        return Ok(path.join(FOLDER).is_dir());
    }
    // HTTP has no listing, and so has no tables; a dataset of the hub has files. The name of a file costs no request.
    let name = written.rsplit('/').next().unwrap_or_default();
    let is_other = written.starts_with("http") || hub_store::is_hub(written);
    if is_other || written.contains(['*', '?', '[']) || name.contains('.') {
        return Ok(false);
    }
    Ok(!remote::objects_below(&log_of(written)?)?.is_empty())
}

fn log_of(url: &str) -> Result<Place> {
    Place::open(&format!("{}/{FOLDER}", url.trim_end_matches('/')))
}

impl Log {
    /// The log of the table at a path or URL, which may not exist.
    ///
    /// # Errors
    /// `Config` for a wrong URL, `NoInput` if the store does not answer.
    pub(super) fn of(table: &str) -> Result<Self> {
        if !store::is_url(table) {
            let path = super::super::listing::local_path(table)?;
            return Ok(Self { table: table.to_owned(), root: Root::Local(path.join(FOLDER)) });
        }
        let place = log_of(table)?;
        let folder = format!("{}/", place.path);
        let files = remote::objects_below(&place)?.into_iter().filter_map(|(file, _)| {
            let name = file.place.path.as_ref().strip_prefix(&folder)?.to_owned();
            Some((name, file))
        });
        Ok(Self { table: table.to_owned(), root: Root::Store(files.collect()) })
    }

    /// The names of its files, sorted. A log that does not exist has none.
    ///
    /// # Errors
    /// `NoInput` if it cannot be listed.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match &self.root {
            Root::Store(files) => files.iter().map(|(name, _)| name.clone()).collect(),
            Root::Local(folder) => {
                let entries = match fs::read_dir(folder) {
                    Ok(entries) => entries,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                    Err(error) => return Err(self.unreadable(FOLDER, error)),
                };
                let names = entries.map(|entry| {
                    let entry = entry.map_err(|error| self.unreadable(FOLDER, error))?;
                    Ok(entry.file_name().into_string().ok())
                });
                names.filter_map(Result::transpose).collect::<Result<_>>()?
            }
        };
        names.sort();
        Ok(names)
    }

    /// The content of a file.
    ///
    /// # Errors
    /// `NoInput` if it cannot be read, `Data` if it is too large.
    pub(super) fn read(&self, name: &str) -> Result<Bytes> {
        let unreadable = |error| self.unreadable(&format!("{FOLDER}/{name}"), error);
        let source: Box<dyn Read> = match &self.root {
            Root::Local(folder) => Box::new(fs::File::open(folder.join(name)).map_err(unreadable)?),
            Root::Store(files) => {
                let found = files.iter().find(|(found, _)| found == name);
                let (_, file) = found.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?;
                Box::new(file.reader())
            }
        };
        let mut bytes = Vec::new();
        source.take(DELTA_LOG_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > DELTA_LOG_FILE_BYTES {
            return Err(self.broken(&format!(
                "`{FOLDER}/{name}` is longer than {DELTA_LOG_FILE_BYTES} bytes"
            )));
        }
        Ok(bytes.into())
    }

    fn unreadable(&self, name: &str, error: io::Error) -> Error {
        let message = format!("cannot read `{name}` of the Delta table `{}`", self.table);
        Error::new(ErrorKind::NoInput, message).source(error)
    }

    /// The error for a log that cannot be true.
    pub(super) fn broken(&self, what: &str) -> Error {
        let message = format!("the log of the Delta table `{}` is damaged: {what}", self.table);
        Error::new(ErrorKind::Data, message).hint("restore `_delta_log`, or copy the table again")
    }
}

/// The number of the version in a name of the log, and the rest of the name.
pub(super) fn version_of(name: &str) -> Option<(u64, &str)> {
    let (digits, rest) = name.split_once('.')?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| is_number)?, rest))
}

/// The name of a version's file in the table.
pub(super) fn version_path(version: u64) -> String {
    format!("{FOLDER}/{version:020}.json")
}
