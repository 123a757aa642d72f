//! What the fuzz targets share.

use std::path::PathBuf;
use std::sync::OnceLock;

use tempfile::TempDir;

/// A folder in memory, where there is one, for the life of the process.
pub fn folder() -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        tempfile::tempdir_in(folder).expect("a temporary folder")
    });
    folder.path().to_path_buf()
}
