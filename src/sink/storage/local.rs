//! Outputs in a folder of a local or shared file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::joined::{self, JoinedLock};
use super::lock_file::{FOLDER_TRIES, create_folders, holder_of, is_removed, lock_file};
use super::{
    Guard, Hold, LOCK, Lease, Lock, META, Storage, held, is_new_lease, is_shared_lock, lease_time,
    lock_name, lost, nonce,
};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::own_file;
use crate::sink::disk::{remove_file, sync_folder, write_error};

#[derive(Debug)]
pub(in crate::sink) struct LocalStorage {
    root: PathBuf,
    /// What messages call it: the URL of an output that is pushed from here, otherwise its path.
    shown: PathBuf,
    /// The folders that this run created.
    created: Mutex<Vec<PathBuf>>,
}

impl LocalStorage {
    pub(in crate::sink) fn new(root: &Path) -> Self {
        // Drops a trailing slash, which makes the system demand a folder.
        let root: PathBuf = root.components().collect();
        Self { shown: root.clone(), root, created: Mutex::default() }
    }

    /// The folder in which an output is made that messages call `shown`.
    pub(in crate::sink) fn shown_as(self, shown: &str) -> Self {
        Self { shown: shown.trim_end_matches('/').into(), ..self }
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    /// A path below the output. Folders below the output must not be links, because runs created them; the output itself
    /// may be one.
    fn inside(&self, name: &str) -> io::Result<PathBuf> {
        if let Some(folder) = Path::new(name).parent() {
            own_file::check_folders(&self.root, folder)?;
        }
        Ok(self.path(name))
    }

    /// A folder below the output that is not a link either.
    fn folder_inside(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        own_file::check_folders(&self.root, Path::new(name))
            .map_err(|error| write_error(&path, error))?;
        Ok(path)
    }

    fn to_change(&self, name: &str) -> Result<PathBuf> {
        self.inside(name).map_err(|error| write_error(&self.path(name), error))
    }

    /// The paths of the locks that processes hold beside each other.
    fn shared_locks(&self) -> Vec<PathBuf> {
        self.own_files(is_shared_lock)
    }

    /// The paths of files of [`META`] by their names.
    fn own_files(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path(META)) else { return Vec::new() };
        let entries = entries.flatten();
        let wanted = entries.filter(|entry| is_wanted(&entry.file_name().to_string_lossy()));
        wanted.map(|entry| entry.path()).collect()
    }

    /// The leases of joined processes.
    fn leases(&self) -> Vec<(PathBuf, Lease)> {
        let mut leases = Vec::new();
        for path in self.shared_locks() {
            leases.extend(joined::lease_of(&path).map(|lease| (path, lease)));
        }
        leases
    }

    /// Takes the exclusive lock file, once the leases of all joined processes have ended. A lease that has expired, of a
    /// process that may be alive, is watched for another half lease. The lock file is free meanwhile, because renewals
    /// need it.
    fn lock_alone(&self, created: &mut Vec<PathBuf>) -> Result<File> {
        let path = self.path(LOCK);
        let mut watched: Option<Vec<(PathBuf, Lease)>> = None;
        loop {
            let file = lock_file(&path, &self.root, false, created)?;
            let leases = self.leases();
            let is_same = |(path, lease): &&(PathBuf, Lease)| {
                let before = watched.iter().flatten().find(|(other, _)| other == path);
                before.is_some_and(|(_, before)| before.renewed == lease.renewed)
            };
            let live = leases.iter().find(|found| {
                !found.1.is_free() || watched.is_some() && !found.1.is_dead() && !is_same(found)
            });
            if let Some((_, lease)) = live {
                let error = held(&self.root, lease.holder.as_ref());
                let _ = fs::remove_file(&path);
                return Err(error);
            }
            if watched.is_some() || leases.iter().all(|(_, lease)| lease.is_dead()) {
                // A process that was killed while it renewed its lease leaves a temporary file, too.
                for path in self.own_files(|name| is_shared_lock(name) || is_new_lease(name)) {
                    let _ = fs::remove_file(path);
                }
                return Ok(file);
            }
            watched = Some(leases);
            drop(file);
            std::thread::sleep(lease_time() / 2);
        }
    }

    /// Removes the folders of a file that are empty, innermost first.
    fn remove_empty_parents(&self, name: &str) {
        for folder in Path::new(name).ancestors().skip(1) {
            // Fails as intended if the folder is not empty.
            if folder.as_os_str().is_empty() || fs::remove_dir(self.root.join(folder)).is_err() {
                break;
            }
        }
    }

    /// Makes the entries of folders durable, inner folders first.
    fn sync_folders_of<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<()> {
        let mut folders = BTreeSet::new();
        for name in names {
            let inside = Path::new(name).ancestors().skip(1);
            folders.extend(inside.map(|folder| self.root.join(folder)));
        }
        // The removals may have removed folders.
        for folder in folders.iter().rev().filter(|folder| folder.exists()) {
            sync_folder(folder)?;
        }
        Ok(())
    }
}

impl Storage for LocalStorage {
    fn shown(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.shown.clone() } else { self.shown.join(name) }
    }

    fn exists(&self) -> Result<bool> {
        match fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => Ok(true),
            Ok(_) => Err(Error::new(
                ErrorKind::Sink,
                format!("the output `{}` exists and is not a folder", self.root.display()),
            )
            .hint("choose another `sink.path`")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(&self.root).is_ok() {
                    let root = self.root.display();
                    let message = format!("the output `{root}` is a dangling link");
                    return Err(Error::new(ErrorKind::Sink, message).hint(
                        "create the folder that it points to, or choose another `sink.path`",
                    ));
                }
                Ok(false)
            }
            Err(error) => Err(write_error(&self.root, error)),
        }
    }

    fn is_file(&self, name: &str) -> Result<Option<bool>> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.is_file())),
            // A dangling link still counts as existing.
            Err(error) if is_missing(&error) => {
                Ok(fs::symlink_metadata(&path).is_ok().then_some(false))
            }
            Err(error) => Err(write_error(&path, error)),
        }
    }

    fn check_writable(&self, output: &Path) -> Result<()> {
        let nearest = self
            .root
            .ancestors()
            .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .find_map(|folder| match fs::metadata(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => Some(Err(error)),
                Ok(_) => Some(Ok(folder)),
            });
        let probe = match nearest {
            Some(Ok(folder)) => tempfile::tempfile_in(folder).map(drop),
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        probe.map_err(|error| write_error(output, error))
    }

    fn files(&self, folder: &str) -> Result<BTreeMap<String, u64>> {
        fn walk(folder: &Path, prefix: &str, found: &mut BTreeMap<String, u64>) -> io::Result<()> {
            // Another run may remove files and folders meanwhile.
            let entries = match fs::read_dir(folder) {
                Err(error) if is_removed(&error) => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(['.', '_']) {
                    continue;
                }
                match entry.metadata() {
                    Err(error) if is_removed(&error) => {}
                    Err(error) => return Err(error),
                    Ok(metadata) if metadata.is_dir() => {
                        walk(&entry.path(), &format!("{prefix}{name}/"), found)?;
                    }
                    Ok(metadata) => drop(found.insert(format!("{prefix}{name}"), metadata.len())),
                }
            }
            Ok(())
        }
        let folder = self.folder_inside(folder)?;
        let mut found = BTreeMap::new();
        walk(&folder, "", &mut found).map_err(|error| write_error(&folder, error))?;
        Ok(found)
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let folder = self.folder_inside(folder)?;
        let entries = match fs::read_dir(&folder) {
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            entries => entries.map_err(|error| write_error(&folder, error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| write_error(&folder, error))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        match self.inside(name).and_then(|path| own_file::read(&path)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(cannot_read(&path, error)),
        }
    }

    fn reader(&self, name: &str) -> Result<Option<Box<dyn Read>>> {
        let path = self.path(name);
        match self.inside(name).and_then(|path| own_file::open(&path)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(cannot_read(&path, error)),
        }
    }

    fn read_each(
        &self,
        folder: &str,
        found: &mut dyn FnMut(String, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let path = self.folder_inside(folder)?;
        let entries = match fs::read_dir(&path) {
            Err(error) if is_missing(&error) => return Ok(()),
            entries => entries.map_err(|error| cannot_read(&path, error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| cannot_read(&path, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(['.', '_']) || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if let Some(content) = self.read(&format!("{folder}/{name}"))? {
                found(name, content)?;
            }
        }
        Ok(())
    }

    fn modified(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        let modified = fs::metadata(self.path(name)).and_then(|found| found.modified());
        Ok(modified.ok().map(DateTime::from))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.write_with(name, &mut |out| out.write_all(content))
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<bool> {
        let path = self.path(name);
        let aside = path.with_extension(format!("{}.part", &nonce()[..16]));
        let create = || {
            self.spool(name)?;
            let mut file = own_file::create(&aside)?;
            file.write_all(content)?;
            file.sync_all()?;
            // Fails if the name exists, on network file systems, too.
            match fs::hard_link(&aside, &path) {
                Err(error) if is_without_links(&error) => create_new(&path, content),
                linked => linked,
            }
        };
        let created = create();
        let _ = fs::remove_file(&aside);
        match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(write_error(&self.root, error)),
            Ok(()) => path.parent().map_or(Ok(()), sync_folder).map(|()| true),
        }
    }

    fn mark(&self, name: &str) -> Result<()> {
        let mut tries = 0..FOLDER_TRIES;
        loop {
            let path = self.spool(name).map_err(|error| write_error(&self.path(name), error))?;
            match own_file::create(&path) {
                // Another process has removed the empty folder.
                Err(error) if is_removed(&error) && tries.next().is_some() => {}
                created => return created.map(drop).map_err(|error| write_error(&path, error)),
            }
        }
    }

    fn unmark(&self, names: &[String]) {
        for name in names {
            let Ok(path) = self.inside(name) else { continue };
            let _ = fs::remove_file(path);
            self.remove_empty_parents(name);
        }
    }

    fn write_with(
        &self,
        name: &str,
        content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.path(name);
        let part = path.with_extension("part");
        let mut write = || {
            self.spool(name)?;
            let mut out = BufWriter::new(own_file::create(&part)?);
            content(&mut out)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        write().map_err(|error| write_error(&self.root, error))?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    fn spool(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.inside(name)?;
        if let Some(folder) = path.parent() {
            create_folders(folder)?;
        }
        Ok(path)
    }

    fn keep(&self, parts: &[(PathBuf, String)]) -> Result<()> {
        for (from, name) in parts {
            let to = self.spool(name).map_err(|error| write_error(&self.path(name), error))?;
            if *from != to {
                fs::rename(from, &to).map_err(|error| write_error(&to, error))?;
            }
        }
        failpoint("unit.renamed");
        self.sync_folders_of(parts.iter().map(|(_, name)| name.as_str()))
    }

    fn publish(&self, from: &str, moves: &[(String, String)]) -> Result<()> {
        for (source, name) in moves {
            let from = self.to_change(&format!("{from}/{source}"))?;
            // A missing file was moved by an earlier attempt.
            let Ok(found) = fs::symlink_metadata(&from) else { continue };
            if !found.is_file() {
                return Err(write_error(&from, io::ErrorKind::InvalidInput.into()));
            }
            let to = self.spool(name).map_err(|error| write_error(&self.path(name), error))?;
            fs::rename(&from, &to).map_err(|error| write_error(&to, error))?;
        }
        self.sync_folders_of(moves.iter().map(|(_, name)| name.as_str()))
    }

    fn remove_all(&self, names: &[String]) -> Result<()> {
        for name in names {
            remove_file(&self.to_change(name)?)?;
            self.remove_empty_parents(name);
        }
        self.sync_folders_of(names.iter().map(String::as_str))
    }

    fn remove_folder(&self, folder: &str) -> Result<()> {
        let folder = self.to_change(folder)?;
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(write_error(&folder, error))
            }
            _ => Ok(()),
        }
    }

    fn remove_if_empty(&self, folder: &str) {
        // Fails as intended if the folder is not empty.
        let _ = fs::remove_dir(self.path(folder));
    }

    fn lock(&self, hold: Hold) -> Result<Box<dyn Lock>> {
        let path = self.path(LOCK);
        let mut created = Vec::new();
        self.folder_inside(&format!("{META}/tmp"))?;
        let lock: Result<Box<dyn Lock>> = match hold {
            Hold::Alone => {
                self.lock_alone(&mut created).map(|file| LocalLock::boxed(LOCK, path, vec![file]))
            }
            Hold::Shard(shard) => {
                let name = shard.lock_name();
                let own = self.path(&name);
                lock_file(&path, &self.root, true, &mut created).and_then(|shared| {
                    let file = lock_file(&own, &self.root, false, &mut created)?;
                    Ok(LocalLock::boxed(&name, own, vec![file, shared]))
                })
            }
            Hold::Joined => JoinedLock::take(&self.root, &mut created)
                .map(|lock| Box::new(lock) as Box<dyn Lock>),
            Hold::Guest(token) => {
                Ok(Box::new(GuestLock { path, output: self.root.clone(), token }))
            }
        };
        match lock {
            Ok(lock) => {
                let mut all = self.created.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend(created);
                Ok(lock)
            }
            Err(error) => {
                remove_created(&created);
                Err(error)
            }
        }
    }

    fn lock_of(&self, file: &str) -> Result<Box<dyn Lock>> {
        let path = self.to_change(&lock_name(file))?;
        let mut created = Vec::new();
        let lock = lock_file(&path, &self.path(file), false, &mut created)
            .inspect_err(|_| remove_created(&created))?;
        self.created.lock().unwrap_or_else(PoisonError::into_inner).extend(created);
        Ok(LocalLock::boxed(&lock_name(file), path, vec![lock]))
    }

    fn is_held(&self) -> Result<bool> {
        let opened = self.inside(LOCK).and_then(|path| own_file::open_existing_lock(&path));
        let is_locked = |file: File| matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if opened.is_ok_and(is_locked) {
            return Ok(true);
        }
        Ok(self.leases().iter().any(|(_, lease)| !lease.is_free()))
    }

    fn is_live(&self, name: &str) -> Result<bool> {
        Ok(joined::lease_of(&self.path(name)).is_some_and(|lease| !lease.is_free()))
    }

    fn prune(&self) {
        let meta = self.path(META);
        // These fail as intended if a folder is not empty.
        let _ = fs::remove_dir(meta.join("tmp"));
        let _ = fs::remove_dir(&meta);
        remove_created(&self.created.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn cannot_read(path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        // A link, or something else that is not our file.
        io::ErrorKind::InvalidInput => "remove it, or choose another `sink.path`",
        _ => "make it readable, or choose another `sink.path`",
    };
    Error::new(ErrorKind::Sink, format!("cannot read `{}`", path.display()))
        .source(error)
        .hint(hint)
}

/// Whether an error means that the path does not exist, also because a parent is a file.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether an error means that the file system has no hard links.
fn is_without_links(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [libc::EPERM, libc::ENOTSUP, libc::ENOSYS, libc::EMLINK].iter().any(|no| code == Some(*no))
}

/// Creates a file in place. A crash leaves it incomplete: readers take it for damaged.
fn create_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A lock that the system releases when the process dies: it is never stale.
#[derive(Debug)]
struct LocalLock {
    name: String,
    path: PathBuf,
    token: String,
    files: Mutex<Vec<File>>,
}

impl LocalLock {
    fn boxed(name: &str, path: PathBuf, files: Vec<File>) -> Box<dyn Lock> {
        let token = holder_of(&path).map(|holder| holder.token).unwrap_or_default();
        Box::new(Self { name: name.to_owned(), path, token, files: Mutex::new(files) })
    }
}

impl Lock for LocalLock {
    fn check(&self) -> Result<Guard> {
        Ok(Guard::default())
    }

    fn token(&self) -> &str {
        &self.token
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn release(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Only once: afterwards another run may own the file.
        if !files.is_empty() {
            let _ = fs::remove_file(&self.path);
        }
        files.clear();
    }
}

/// The lock of the run that this process works for.
#[derive(Debug)]
struct GuestLock {
    path: PathBuf,
    output: PathBuf,
    token: String,
}

impl Lock for GuestLock {
    fn check(&self) -> Result<Guard> {
        let file = own_file::open_existing_lock(&self.path);
        // The system releases the lock of a dead process.
        let is_held =
            file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        let token = holder_of(&self.path).map(|holder| holder.token);
        if is_held && token.as_ref() == Some(&self.token) {
            return Ok(Guard::default());
        }
        Err(lost(&self.output))
    }

    fn token(&self) -> &str {
        &self.token
    }

    fn name(&self) -> &str {
        LOCK
    }

    fn release(&self) {}
}

/// Removes folders that [`make_folders`] created and that are empty, innermost first.
fn remove_created(created: &[PathBuf]) {
    for folder in created {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shard;
    use super::*;

    const ROUNDS: usize = 400;

    /// Each run removes its empty folders when it ends, between the steps of the others.
    #[test]
    fn runs_that_start_and_end_together_find_their_folders() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/out");
        let run = |number: usize| {
            let mut held = 0;
            for round in 0..ROUNDS {
                let storage = LocalStorage::new(&root);
                let lock = match number {
                    0 => storage.lock(Hold::Alone),
                    1 => storage.lock_of("file.parquet"),
                    _ => storage.lock(Hold::Shard(Shard { index: number, count: 9 })),
                };
                match lock {
                    Ok(lock) => {
                        held += 1;
                        let name = format!("_hfauto/tmp/run-{number}-{round}");
                        storage.write(&format!("{name}/started.json"), b"{}").unwrap();
                        storage.files("").unwrap();
                        storage.remove_folder(&name).unwrap();
                        lock.release();
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Resources, "{error:?}"),
                }
                storage.prune();
            }
            held
        };
        let run = &run;
        let held: Vec<usize> = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..5).map(|number| scope.spawn(move || run(number))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        // The lock of the file has no other taker; who gets that of the output depends on the scheduler.
        assert_eq!(held[1], ROUNDS, "{held:?}");
        assert!(held.iter().sum::<usize>() > ROUNDS, "{held:?}");
    }
}
