//! Sinks on a failing disk. `tests/it/sink.rs` has all other tests.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, Int64Array};

use super::disk::RawFile;
use super::*;
use crate::config::pipeline::FileFormat;

/// A disk with a limited number of free bytes.
#[derive(Clone)]
struct SmallDisk(Arc<AtomicU64>);

struct SmallFile {
    file: Box<dyn RawFile>,
    room: Arc<AtomicU64>,
}

impl Disk for SmallDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn RawFile>> {
        Ok(Box::new(SmallFile { file: LocalDisk.create(path)?, room: Arc::clone(&self.0) }))
    }
}

impl Write for SmallFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::Relaxed).min(buffer.len() as u64);
        if room == 0 && !buffer.is_empty() {
            return Err(io::Error::from_raw_os_error(28));
        }
        let written = self.file.write(&buffer[..room as usize])?;
        self.room.fetch_sub(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl RawFile for SmallFile {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

fn spec(path: PathBuf, format: FileFormat) -> SinkSpec {
    SinkSpec {
        delta: None,
        path,
        format,
        compression: None,
        partition_by: Vec::new(),
        target_file_size_bytes: 10_000,
        location: "job.yaml:9:1".to_owned(),
    }
}

fn batch(start: i64) -> RecordBatch {
    let scattered = (start..start + 1000).map(|id| id.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let ids: Int64Array = scattered.map(Some).collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef)]).unwrap()
}

#[test]
fn a_full_disk_is_one_clear_error_and_leaves_nothing() {
    let formats = [FileFormat::Parquet, FileFormat::Csv, FileFormat::Jsonl, FileFormat::Arrow];
    for format in formats {
        for name in [
            "deep/out/",
            "deep/out.parquet",
            "deep/out.csv.gz",
            "deep/out.jsonl.zst",
            "deep/out.arrow",
        ] {
            // Fails at the first byte, in the middle, and while the last buffer is flushed.
            for room in [0, 5, 30_000] {
                let folder = tempfile::tempdir().unwrap();
                let spec = spec(folder.path().join(name), format);
                if Target::of(&spec).is_err() {
                    continue;
                }
                let disk = SmallDisk(Arc::new(AtomicU64::new(room)));
                let run = || {
                    let options = SinkOptions::default();
                    let mut sink =
                        Sink::create_on(&spec, batch(0).schema(), options, Box::new(disk))?;
                    for start in 0..10 {
                        sink.write(&batch(start * 1000))?;
                    }
                    sink.finish()
                };
                let error = run().unwrap_err();
                let case = format!("{format:?} {name} {room}");
                assert_eq!(error.kind(), ErrorKind::Sink, "{case}: {error}");
                let text = error.to_string();
                assert!(text.contains("deep/out") && text.contains("No space left"), "{text}");
                assert_eq!(error.remedy(), Some("free space or choose another `sink.path`"));
                assert_eq!(error.places(), ["job.yaml:9:1"], "{case}");
                let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
                assert!(left.is_empty(), "{case}: {left:?}");
            }
        }
    }
}

#[test]
fn after_an_error_nothing_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path().join("out"), FileFormat::Csv);
    let disk = SmallDisk(Arc::new(AtomicU64::new(100_000)));
    let options = SinkOptions::default();
    let room = Arc::clone(&disk.0);
    let mut sink = Sink::create_on(&spec, batch(0).schema(), options, Box::new(disk)).unwrap();
    sink.write(&batch(0)).unwrap();
    room.store(0, Ordering::Relaxed);
    let error = (1..100).find_map(|start| sink.write(&batch(start * 1000)).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Sink);
    assert_eq!(sink.write(&batch(0)).unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(sink.finish().unwrap_err().kind(), ErrorKind::Internal);
    assert!(!folder.path().join("out").exists());
}
