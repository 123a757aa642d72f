//! Shared by the fuzz targets.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use hfauto_pipe::config::pipeline::SourceSpec;
use hfauto_pipe::source::{self, StepWork, UnitSize};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A folder in memory, if available, for the life of the process.
pub fn folder() -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        tempfile::tempdir_in(folder).expect("a temporary folder")
    });
    folder.path().to_path_buf()
}

/// Reads bytes as a file of a source. A file that passes inspection must yield its rows.
pub fn read_source(name: &str, bytes: &[u8], change: impl FnOnce(&mut SourceSpec)) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"));
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("the input");
    let mut spec = SourceSpec::of_path(path.to_str().expect("a path"), "fuzz");
    change(&mut spec);
    runtime.block_on(async {
        let context = source::session(None).expect("a session");
        let Ok(source) = source::open(&context, &spec).await else { return };
        let batches = source.dataframe.collect().await.expect("the rows of a sound file");
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(Some(rows as u64), source.rows);
    });
}

/// Reads the rows of a file with these bytes as a pipeline does, with and without a predicate.
pub fn read_table(name: &str, bytes: &[u8]) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static FILES: AtomicU64 = AtomicU64::new(0);
    let runtime = RUNTIME
        .get_or_init(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));
    // Footers are cached by name and modification time, whose granularity is a clock tick.
    let path = folder().join(format!("{}-{name}", FILES.fetch_add(1, Ordering::Relaxed)));
    fs::write(&path, bytes).expect("a file");
    runtime.block_on(async {
        let context = source::session(None).expect("a session");
        let spec = SourceSpec::of_path(path.display().to_string(), "fuzz");
        let Ok(source) = source::open(&context, &spec).await else { return };
        let column = source.dataframe.schema().field(0).name().clone();
        let work = StepWork { columns: vec![column.clone()], work: vec![(64, 0.001)] };
        for size in [UnitSize::default(), UnitSize { rows: 100, steps: vec![work] }] {
            let _ = source.units(&size);
        }
        let rows = source.dataframe.clone().limit(0, Some(100_000));
        let _ = rows.expect("a plan").collect().await;
        let predicate = source.dataframe.parse_sql_expr(&format!("\"{column}\" > '3'"));
        if let Ok(rows) = predicate.and_then(|predicate| source.dataframe.filter(predicate)) {
            let _ = rows.limit(0, Some(100_000)).expect("a plan").collect().await;
        }
    });
    let _ = fs::remove_file(&path);
}
