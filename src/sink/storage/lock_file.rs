//! Lock files in a folder, which the system releases when their process dies, and the folders that hold them. Not here:
//! which files a run locks (`local`, `joined`).

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Holder, held};
use crate::error::Result;
use crate::own_file;
use crate::sink::disk::write_error;

/// The process that a lock file names.
pub(super) fn holder_of(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&own_file::read(path).ok()?).ok()
}

/// The prefix of a [`Holder`]'s JSON.
const LOCK_BEGINS: &[u8] = b"{\"pid\":";

/// Takes a lock file, or fails if another run holds it. The file then names this process as its holder. Adds the folders
/// that did not exist to `created`.
pub(super) fn lock_file(
    path: &Path,
    output: &Path,
    shared: bool,
    created: &mut Vec<PathBuf>,
) -> Result<File> {
    let failed = |error| write_error(output, error);
    let mut tries = 0..FOLDER_TRIES;
    loop {
        if let Some(folder) = path.parent() {
            make_folders(folder, created).map_err(failed)?;
        }
        let file = match own_file::open_lock(path, LOCK_BEGINS) {
            Err(error) if is_removed(&error) && tries.next().is_some() => continue,
            opened => opened.map_err(failed)?,
        };
        let taken = if shared { file.try_lock_shared() } else { file.try_lock() };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(output, holder_of(path).as_ref())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The previous run may have removed the file between our open and our lock.
        let ours = file.metadata().map_err(failed)?.ino();
        if !fs::symlink_metadata(path).is_ok_and(|current| current.ino() == ours) {
            continue;
        }
        let holder = serde_json::to_vec(&Holder::of_this_process()).unwrap_or_default();
        // Only for messages: a full disk fails at the first part.
        let _ = own_file::rewrite(&file, &holder);
        return Ok(file);
    }
}

/// Creates a folder and its parents, and adds the new ones to `created`.
fn make_folders(folder: &Path, created: &mut Vec<PathBuf>) -> io::Result<()> {
    let missing: Vec<_> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(Path::to_owned)
        .collect();
    create_folders(folder)?;
    created.extend(missing);
    Ok(())
}

/// How often a folder is created again that another run, which ends, removes as empty.
pub(super) const FOLDER_TRIES: usize = 1000;

pub(super) fn is_removed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Creates a folder and its parents.
pub(in crate::sink) fn create_folders(folder: &Path) -> io::Result<()> {
    let mut tries = 0..FOLDER_TRIES;
    loop {
        match fs::create_dir_all(folder) {
            Err(error) if is_removed(&error) && tries.next().is_some() => {}
            created => return created,
        }
    }
}
