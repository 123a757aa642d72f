//! Weight files, read lazily by byte range, and small files, read whole up to a limit.
//!
//! Files are not memory-mapped: truncating a mapped file would end the process with SIGBUS. Reading a truncated file
//! returns an error.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A weight file.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    file: File,
    len: usize,
}

impl WeightFile {
    /// # Errors
    /// The file does not exist, or is not a regular file.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(&path)?;
        let len = usize::try_from(file.metadata()?.len())
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(Self { path, file, len })
    }

    /// The size of the file at the time of opening.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The file, positioned at its start.
    pub(super) fn stream(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    }

    /// The first `count` bytes, or the whole file if it is shorter.
    pub(super) fn head(&self, count: usize) -> io::Result<Vec<u8>> {
        self.read(0..count.min(self.len))
    }

    /// The bytes of `range`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the range exceeds the file, for example after a truncation.
    pub(super) fn read(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        if range.end > self.len || range.start > range.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; range.len()];
        self.read_into(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// Fills `bytes` from offset `start`.
    #[cfg(unix)]
    pub(super) fn read_into(&self, bytes: &mut [u8], start: usize) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, start as u64)
    }

    /// Fills `bytes` from offset `start`.
    #[cfg(not(unix))]
    pub(super) fn read_into(&self, bytes: &mut [u8], start: usize) -> io::Result<()> {
        // `seek` and `read` are two calls on one shared file position.
        static PLACE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _turn = PLACE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        io::Seek::seek(&mut file, io::SeekFrom::Start(start as u64))?;
        file.read_exact(bytes)
    }
}

/// The content of `path`, at most `limit` bytes.
///
/// # Errors
/// `Model` when the file is longer, unreadable or not a regular file.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let cannot = |e: io::Error| {
        Error::new(ErrorKind::Model, format!("cannot read `{}`", path.display())).source(e)
    };
    let too_long = |len: u64| {
        Error::new(
            ErrorKind::Model,
            format!("`{}` has {len} bytes, expected at most {limit}", path.display()),
        )
        .hint("no model has such a file: it is damaged, or made to do harm")
    };
    let metadata = path.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(cannot(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if metadata.len() > limit {
        return Err(too_long(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // The file may grow during the read.
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(cannot)?;
    if bytes.len() as u64 > limit { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_off_later_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7; 100]).unwrap();
        let file = WeightFile::open(path.clone()).unwrap();
        assert_eq!(file.read(98..100).unwrap(), [7, 7]);
        assert!(file.read(98..101).is_err());
        std::fs::write(&path, vec![7; 50]).unwrap();
        let error = file.read(90..100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(WeightFile::open(folder.path().to_path_buf()).is_err());
    }

    #[test]
    fn a_long_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(read_file(&path, 2).unwrap(), b"{}");
        let error = read_file(&path, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.message().contains("has 2 bytes, expected at most 1"), "{error}");
    }
}
