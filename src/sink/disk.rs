//! Files in progress: counts and hashes their bytes, and keeps disk errors apart from encoder errors. The disk is a trait
//! to let tests simulate a full one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind};
use crate::own_file;

/// A file that can be made durable.
pub(super) trait RawFile: Write + Send {
    /// Returns once the bytes are on stable storage.
    fn sync(&mut self) -> io::Result<()>;
}

impl RawFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Where files are created.
pub(super) trait Disk: Send + Sync {
    /// Creates a file. Removes an existing file or link of that name, and never follows a link.
    fn create(&self, path: &Path) -> io::Result<Box<dyn RawFile>>;
}

/// The local file system.
pub(super) struct LocalDisk;

impl Disk for LocalDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn RawFile>> {
        Ok(Box::new(own_file::create(path)?))
    }
}

/// The counters of a file that an encoder owns.
#[derive(Clone, Default)]
pub(super) struct Gauge {
    bytes: Arc<AtomicU64>,
    fault: Arc<Mutex<Option<io::Error>>>,
}

impl Gauge {
    /// The bytes written to the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The first error of the disk.
    pub(super) fn take_fault(&self) -> Option<io::Error> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A file that counts and hashes its bytes.
pub(super) struct OutFile {
    raw: Box<dyn RawFile>,
    hasher: blake3::Hasher,
    gauge: Gauge,
}

impl OutFile {
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> io::Result<(Self, Gauge)> {
        let gauge = Gauge::default();
        let raw = disk.create(path)?;
        Ok((Self { raw, hasher: blake3::Hasher::new(), gauge: gauge.clone() }, gauge))
    }

    /// Makes the file durable; returns its BLAKE3 hash in hex.
    pub(super) fn close(mut self) -> io::Result<String> {
        self.raw.flush()?;
        self.raw.sync()?;
        Ok(self.hasher.finalize().to_hex().to_string())
    }

    fn keep<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            let copy = match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            };
            self.gauge.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(copy);
        }
        result
    }
}

impl Write for OutFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let result = self.raw.write(buffer);
        let written = self.keep(result)?;
        self.hasher.update(&buffer[..written]);
        self.gauge.bytes.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.raw.flush();
        self.keep(result)
    }
}

/// Turns a disk error into ours, with a remedy.
pub(super) fn write_error(path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free space or choose another `sink.path`"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make the folder writable or choose another `sink.path`"
        }
        // A link, or something else that is not our file.
        io::ErrorKind::InvalidInput => "remove it, or choose another `sink.path`",
        io::ErrorKind::InvalidFilename => "choose a shorter `sink.path`",
        _ => "check the disk or choose another `sink.path`",
    };
    Error::new(ErrorKind::Sink, format!("cannot write `{}`", path.display()))
        .source(error)
        .hint(hint)
}

/// Makes renames and new entries in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| write_error(folder, error))
}

/// Removes a file, if it exists.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(path, error)),
        _ => Ok(()),
    }
}
