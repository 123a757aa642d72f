//! A partial download: its file beside the blob, and its running hash. Not here: the transfer ([`super::transfer`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// A partial download: the file on disk and the running hash.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// Bytes received so far.
    pub(super) len: u64,
    /// For files in large file storage, whose etag is the SHA-256 of their content.
    sha256: Option<Sha256>,
}

impl Part {
    /// Resumes from the file at `path` if it may be a prefix of the content with this etag.
    pub(super) fn open(path: &Path, etag: &str, size: Option<u64>) -> Result<Self> {
        let write = |e| disk(path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(write)?;
        let len = file.metadata().map_err(write)?.len();
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        let mut part = Self {
            path: path.to_path_buf(),
            len,
            sha256: is_sha256.then(Sha256::new),
            file: file.try_clone().map_err(write)?,
        };
        // Without a hash, a prefix cannot be verified. A file longer than the content is not a prefix of it.
        if part.sha256.is_none() || size.is_some_and(|size| len > size) {
            part.restart()?;
        } else if let Some(hasher) = &mut part.sha256
            && len > 0
        {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = file.read(&mut buffer).map_err(write)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
            }
        }
        Ok(part)
    }

    /// Discards the received bytes and starts over.
    pub(super) fn restart(&mut self) -> Result<()> {
        if self.len > 0 {
            let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
            emptied.map_err(|e| disk(&self.path, e))?;
            self.len = 0;
            self.sha256 = self.sha256.as_ref().map(|_| Sha256::new());
        }
        Ok(())
    }

    /// Appends received bytes.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk).map_err(|e| disk(&self.path, e))?;
        self.len += chunk.len() as u64;
        if let Some(hasher) = &mut self.sha256 {
            hasher.update(chunk);
        }
        Ok(())
    }

    /// The file's hash in hexadecimal and its algorithm, if the etag is a hash. Large files have SHA-256. Small files
    /// have SHA-1, over git's header and the content or, behind some mirrors, over the content alone.
    pub(super) fn hash(&mut self, etag: &str) -> Result<Option<(&'static str, String)>> {
        if let Some(hasher) = self.sha256.take() {
            return Ok(Some(("sha256", hex(hasher.finalize()))));
        }
        if etag.len() != 40 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let git = self.sha1(format!("blob {}\0", self.len).as_bytes())?;
        if git.eq_ignore_ascii_case(etag) {
            return Ok(Some(("git hash", git)));
        }
        let plain = self.sha1(b"")?;
        Ok(Some(("git hash", if plain.eq_ignore_ascii_case(etag) { plain } else { git })))
    }

    /// SHA-1 of `before` followed by the content.
    fn sha1(&mut self, before: &[u8]) -> Result<String> {
        let read = |e| disk(&self.path, e);
        let mut hasher = Sha1::new_with_prefix(before);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut buffer).map_err(read)?;
            if count == 0 {
                return Ok(hex(hasher.finalize()));
            }
            hasher.update(&buffer[..count]);
        }
    }

    /// Flushes the content to disk, so that it survives a crash of the machine.
    pub(super) fn keep(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| disk(&self.path, e))
    }

    /// Deletes the partial download.
    pub(super) fn remove(&self) {
        // The next download detects a remaining file as wrong and replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

fn hex(hash: impl IntoIterator<Item = u8>) -> String {
    hash.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error of the cache's file system.
pub(super) fn disk(path: &Path, e: io::Error) -> Error {
    let hint = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: free some space, or set `HF_HOME` to a folder on a larger one"
        }
        _ => "the cache must be writable; set `HF_HOME` to have it elsewhere",
    };
    Error::new(ErrorKind::Hub, format!("cannot write `{}` in the cache", path.display()))
        .source(e)
        .hint(hint)
}
