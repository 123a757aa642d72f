//! The program's own files in folders that other users may write to: locks, manifests, states, temporary parts. A
//! foreign file in their place is replaced or refused; links are never followed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Open flags: follow no link, and do not wait for the other end of a pipe.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// The error for a link in the place of one of our files or folders.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is a link, which is not followed", .0.display())]
pub(crate) struct IsLink(PathBuf);

/// Creates a file. Removes an existing file or link of that name, but not a link's target.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Opens a regular file for reading.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(FLAGS).open(path);
    regular(path, opened)
}

/// The content of a regular file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// Opens or creates a lock file, and keeps its content.
///
/// `begins` is the prefix of our locks' content. Refuses a file with other content or with several hard links, which is
/// not ours.
pub(crate) fn open_lock(path: &Path, begins: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(FLAGS);
    let mut file = regular(path, options.open(path))?;
    let mut found = vec![0; begins.len()];
    let mut length = 0;
    while length < found.len() {
        match file.read(&mut found[length..])? {
            0 => break,
            read => length += read,
        }
    }
    // A process that died, or a full disk, leaves a truncated prefix.
    if !begins.starts_with(&found[..length]) || file.metadata()?.nlink() > 1 {
        let message = format!("`{}` is not a lock of hfauto-pipe", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(file)
}

/// Opens an existing lock file.
pub(crate) fn open_existing_lock(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().write(true).custom_flags(FLAGS).open(path);
    regular(path, opened)
}

/// Rewrites a lock with its new holder.
pub(crate) fn rewrite(mut lock: &File, content: &[u8]) -> io::Result<()> {
    use std::io::Seek;
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(content)
}

/// Replaces a file atomically; `aside` is the temporary file.
pub(crate) fn replace(path: &Path, aside: &Path, content: &[u8]) -> io::Result<()> {
    let write = || {
        let mut file = create(aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(aside, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(aside)))
}

/// Fails when `relative`, or a folder between it and `root`, is a link.
pub(crate) fn check_folders(root: &Path, relative: &Path) -> io::Result<()> {
    let mut folder = root.to_path_buf();
    for part in relative.components() {
        folder.push(part);
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_symlink() => return Err(is_link(&folder)),
            Ok(_) => {}
            // Nothing exists below a missing folder.
            Err(_) => break,
        }
    }
    Ok(())
}

fn is_link(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, IsLink(path.to_owned()))
}

fn regular(path: &Path, opened: io::Result<File>) -> io::Result<File> {
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(is_link(path)),
        // A pipe without a reader, or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(irregular(path)),
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular(path)) }
}

fn irregular(path: &Path) -> io::Error {
    let message = format!("`{}` is not a regular file", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn links_and_pipes_are_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "precious").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        fs::hard_link(at("victim"), at("second")).unwrap();
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        for name in ["link", "pipe", "."] {
            let error = open(&at(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}: {error}");
            let error = open_lock(&at(name), b"{").unwrap_err();
            assert!(error.kind() != io::ErrorKind::NotFound, "{name}: {error}");
        }
        for name in ["second", "victim"] {
            assert!(open_lock(&at(name), b"pre").is_err(), "{name} has two names");
        }
        create(&at("link")).unwrap().write_all(b"ours").unwrap();
        replace(&at("second"), &at("aside"), b"ours").unwrap();
        assert_eq!(fs::read(at("victim")).unwrap(), b"precious");
        assert_eq!(read(&at("link")).unwrap(), b"ours");
        assert!(!at("aside").exists());
    }

    #[test]
    fn a_lock_is_ours_by_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        for (content, is_ours) in [("", true), ("{\"p", true), ("{\"pid\":1}", true), ("x", false)]
        {
            fs::write(&path, content).unwrap();
            assert_eq!(open_lock(&path, b"{\"pid\":").is_ok(), is_ours, "{content}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        rewrite(&open_existing_lock(&path).unwrap(), b"{}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
    }

    #[test]
    fn folders_that_are_links_are_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        symlink("/", folder.path().join("a/c")).unwrap();
        for (relative, is_fine) in
            [("a/b", true), ("a/b/new/c", true), ("a/c", false), ("a/c/tmp", false)]
        {
            let checked = check_folders(folder.path(), Path::new(relative));
            assert_eq!(checked.is_ok(), is_fine, "{relative}");
        }
    }
}
