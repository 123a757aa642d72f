//! The rows of a table of files: misleading statistics, damaged and hostile files, files that change, links, pipes, and
//! outputs inside sources.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Float16Array, Float32Array, Float64Array,
    Int64Array, ListArray, NullArray, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use datafusion::execution::context::SessionContext;
use futures::StreamExt;
use half::f16;
use hfauto_pipe::config::pipeline::{FileFormat, SourceSpec};
use hfauto_pipe::source;
use hfauto_pipe::{Error, ErrorKind};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use super::support::{Fixture, mini_embedder};

fn spec(path: &Path) -> SourceSpec {
    SourceSpec::of_path(path.to_str().unwrap(), "job.yaml:2:1")
}

async fn read(spec: &SourceSpec) -> Result<Vec<RecordBatch>, Error> {
    read_after(spec, || {}).await
}

/// Reads after modifying the files.
async fn read_after(spec: &SourceSpec, change: impl FnOnce()) -> Result<Vec<RecordBatch>, Error> {
    read_in(&source::session(None).unwrap(), spec, change).await
}

async fn read_in(
    context: &SessionContext,
    spec: &SourceSpec,
    change: impl FnOnce(),
) -> Result<Vec<RecordBatch>, Error> {
    let source = source::open(context, spec).await?;
    change();
    let failed = |error| source::stream_error(error, &source.files);
    let mut stream = source.dataframe.clone().execute_stream().await.map_err(failed)?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch.map_err(failed)?);
    }
    Ok(batches)
}

fn count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let ids = |batch: &RecordBatch| batch["id"].as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(ids).collect()
}

fn write_parquet(path: &Path, batch: &RecordBatch, properties: WriterProperties) {
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// `id` 1, 2, 3, 4 next to numbers; the second and the last are NaN.
fn with_nan() -> RecordBatch {
    let score = [0.1, f64::NAN, 0.9, -f64::NAN];
    let ids: Int64Array = (1..=4).map(Some).collect();
    let double = Arc::new(Float64Array::from(score.to_vec())) as ArrayRef;
    let single: Float32Array = score.iter().map(|score| Some(*score as f32)).collect();
    let half: Float16Array = score.iter().map(|score| Some(f16::from_f64(*score))).collect();
    let inner = Field::new("score", DataType::Float64, true);
    let inside = StructArray::from(vec![(Arc::new(inner), Arc::clone(&double))]);
    RecordBatch::try_from_iter([
        ("id", Arc::new(ids) as ArrayRef),
        ("score", double),
        ("single", Arc::new(single) as _),
        ("half", Arc::new(half) as _),
        ("inside", Arc::new(inside) as _),
    ])
    .unwrap()
}

#[tokio::test]
async fn rows_do_not_depend_on_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let batch = with_nan();
    let properties = |statistics: EnabledStatistics, rows: usize| {
        WriterProperties::builder()
            .set_statistics_enabled(statistics)
            .set_bloom_filter_enabled(statistics != EnabledStatistics::None)
            .set_max_row_group_row_count(Some(rows))
            .set_data_page_row_count_limit(1)
            .set_write_batch_size(1)
            .build()
    };
    for (name, statistics, rows) in [
        ("none", EnabledStatistics::None, 2),
        ("groups", EnabledStatistics::Chunk, 2),
        ("pages", EnabledStatistics::Page, 4),
        ("both", EnabledStatistics::Page, 2),
        ("rows", EnabledStatistics::Page, 1),
    ] {
        let path = folder.path().join(format!("{name}.parquet"));
        write_parquet(&path, &batch, properties(statistics, rows));
        let context = source::session(None).unwrap();
        let table = source::open(&context, &spec(&path)).await.unwrap().dataframe.into_view();
        context.register_table("t", table).unwrap();
        for (query, expected) in [
            // DataFusion orders NaN above every number, and -NaN below.
            ("WHERE score > 0.5", &[2, 3][..]),
            ("WHERE score < 0.5", &[1, 4]),
            ("WHERE score <> 0.9", &[1, 2, 4]),
            ("WHERE NOT score = 0.9", &[1, 2, 4]),
            ("WHERE NOT score <= 0.5", &[2, 3]),
            ("WHERE score NOT IN (0.1, 0.9)", &[2, 4]),
            ("WHERE score NOT BETWEEN 0 AND 1", &[2, 4]),
            ("WHERE score = 'NaN'::double", &[2]),
            ("WHERE score IN ('NaN'::double, 0.1)", &[1, 2]),
            ("WHERE single > 0.5", &[2, 3]),
            ("WHERE half > arrow_cast(0.5, 'Float16')", &[2, 3]),
            ("WHERE inside['score'] > 0.5", &[2, 3]),
            ("WHERE score > 0.5 AND id > 2", &[3]),
            ("WHERE score > 0.5 OR id = 1", &[1, 2, 3]),
            ("WHERE id > 2", &[3, 4]),
        ] {
            let sql = format!("SELECT id FROM t {query} ORDER BY id");
            let rows = context.sql(&sql).await.unwrap().collect().await.unwrap();
            assert_eq!(ids(&rows), expected, "{name}: {query}");
        }
        for (order, expected) in [
            ("score DESC", [2, 3]),
            ("score", [4, 1]),
            ("single DESC", [2, 3]),
            ("half DESC", [2, 3]),
            ("id DESC", [4, 3]),
        ] {
            let sql = format!("SELECT id FROM t ORDER BY {order} LIMIT 2");
            let rows = context.sql(&sql).await.unwrap().collect().await.unwrap();
            assert_eq!(ids(&rows), expected, "{name}: {order}");
        }
        let sql = "SELECT count(*) AS id FROM t";
        let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
        assert_eq!(ids(&rows), [4]);
        let sql = "SELECT max(score) AS score FROM t";
        let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
        assert!(rows[0]["score"].as_primitive::<Float64Type>().value(0).is_nan());
        let sql = "SELECT a.id FROM t AS a JOIN t AS b ON a.score = b.score ORDER BY a.id";
        let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
        assert_eq!(ids(&rows), [1, 2, 3, 4], "{name}");

        let mut source = spec(&path);
        source.predicate = Some("score > 0.5".to_owned());
        assert_eq!(ids(&read(&source).await.unwrap()), [2, 3], "{name}");
    }
}

#[tokio::test]
async fn statistics_of_other_columns_still_skip_row_groups() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(1)).build();
    write_parquet(&path, &with_nan(), properties);
    let mut spec = spec(&path);
    spec.predicate = Some("id = 3".to_owned());
    let context = source::session(None).unwrap();
    let rows = source::open(&context, &spec).await.unwrap().dataframe;
    let plan = rows.create_physical_plan().await.unwrap();
    let batches =
        datafusion::physical_plan::collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
    assert_eq!(ids(&batches), [3]);
    let shown = datafusion::physical_plan::display::DisplayableExecutionPlan::with_metrics(&*plan);
    let shown = shown.indent(true).to_string();
    assert!(shown.contains("row_groups_pruned_statistics=4 total → 1 matched"), "{shown}");
}

/// Rows of several types, for damaging their files.
fn varied() -> RecordBatch {
    let ids: Int64Array = (0..6).map(Some).collect();
    let text = StringArray::from(vec![Some("a"), None, Some("the sea"), Some("b"), Some(""), None]);
    let lists = (0..6).map(|row| (row != 2).then(|| vec![Some(f64::from(row)), None]));
    let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(lists);
    let words: DictionaryArray<Int32Type> =
        [Some("x"), Some("y"), None, Some("x"), Some("x"), Some("y")].into_iter().collect();
    RecordBatch::try_from_iter([
        ("id", Arc::new(ids) as ArrayRef),
        ("text", Arc::new(text) as _),
        ("lists", Arc::new(lists) as _),
        ("words", Arc::new(words) as _),
    ])
    .unwrap()
}

/// Reads a file with each single byte damaged and with each truncation; none may cause more than an error.
async fn damage(name: &str, whole: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let context = source::session(None).unwrap();
    let mut number = 0;
    let mut check = async |bytes: &[u8]| {
        number += 1;
        let path = folder.path().join(format!("{number}.{name}"));
        fs::write(&path, bytes).unwrap();
        let mut spec = spec(&path);
        let reading = async {
            let rows = read_in(&context, &spec, || {}).await;
            spec.predicate = Some("id > 2".to_owned());
            let _ = read_in(&context, &spec, || {}).await;
            rows
        };
        let rows = tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
        if let Err(error) = rows {
            let kinds = [ErrorKind::Data, ErrorKind::Config, ErrorKind::NoInput];
            assert!(kinds.contains(&error.kind()), "{error} {:?}", error.kind());
        }
        fs::remove_file(&path).unwrap();
    };
    check(whole).await;
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= if at % 2 == 0 { 0x80 } else { 0xff };
        check(&bytes).await;
        if at % 7 == 0 {
            check(&whole[..at]).await;
        }
    }
}

#[tokio::test]
async fn a_damaged_parquet_file_is_an_error() {
    for (compression, version) in [
        (Compression::SNAPPY, WriterVersion::PARQUET_1_0),
        (Compression::ZSTD(ZstdLevel::default()), WriterVersion::PARQUET_2_0),
    ] {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_writer_version(version)
            .set_max_row_group_row_count(Some(3))
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, varied().schema(), Some(properties)).unwrap();
        writer.write(&varied()).unwrap();
        writer.close().unwrap();
        damage("parquet", &bytes).await;
    }
}

#[tokio::test]
async fn a_damaged_arrow_file_is_an_error() {
    let batch = varied();
    for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let options = || IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut bytes = Vec::new();
        let mut writer =
            FileWriter::try_new_with_options(&mut bytes, &batch.schema(), options()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        drop(writer);
        damage("arrow", &bytes).await;
        if compression.is_none() {
            let mut bytes = Vec::new();
            let mut writer =
                StreamWriter::try_new_with_options(&mut bytes, &batch.schema(), options()).unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            drop(writer);
            damage("arrows", &bytes).await;
        }
    }
}

/// A Parquet file of six rows, with a number of its footer replaced.
fn patched(from: &[u8], to: &[u8]) -> Vec<u8> {
    let ids: Int64Array = (0..6).map(Some).collect();
    let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert_eq!(found.len(), 1, "{from:x?}");
    drop(bytes.splice(found[0]..found[0] + from.len(), to.iter().copied()));
    // The length of the footer, if it grew.
    let end = bytes.len() - 8;
    let footer = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap());
    let footer = footer + (to.len() - from.len()) as u32;
    bytes[end..end + 4].copy_from_slice(&footer.to_le_bytes());
    bytes
}

#[tokio::test]
async fn row_counts_are_those_that_pages_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    // Field 3 of the footer, an i64 of value six, before the row groups; the row groups' counts are used.
    fs::write(&path, patched(&[0x16, 12, 0x19], &[0x16, 0, 0x19])).unwrap();
    let source = source::open(&source::session(None).unwrap(), &spec(&path)).await.unwrap();
    assert_eq!(source.rows, Some(6));
    assert_eq!(ids(&read(&spec(&path)).await.unwrap()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(source.dataframe.count().await.unwrap(), 6);

    // A count of 10^12 rows, which nothing else in the file confirms.
    let huge = [0x16, 0x80, 0xc0, 0xa8, 0xca, 0x9a, 0x3a, 0x19];
    fs::write(&path, patched(&[0x16, 12, 0x19], &huge)).unwrap();
    assert_eq!(ids(&read(&spec(&path)).await.unwrap()), [0, 1, 2, 3, 4, 5]);
    // A count of -6 rows.
    fs::write(&path, patched(&[0x16, 12, 0x19], &[0x16, 11, 0x19])).unwrap();
    let error = read(&spec(&path)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
}

/// A file of two megabytes with batches of gigabytes, if they had 8,192 rows.
#[tokio::test]
async fn repeated_long_values_make_small_batches() {
    let folder = tempfile::tempdir().unwrap();
    let rows = 3000;
    let long = "x".repeat(1 << 20);
    let texts = StringArray::from_iter_values((0..500).map(|_| &long));
    let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_page_size_limit(4 << 20).build();
    let write = |name: &str, batch: &RecordBatch, times: usize| {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        let properties = Some(properties.clone());
        let mut writer = ArrowWriter::try_new(file, batch.schema(), properties).unwrap();
        for _ in 0..times {
            writer.write(batch).unwrap();
        }
        writer.close().unwrap();
    };
    write("a.parquet", &batch, rows / 500);
    assert!(fs::metadata(folder.path().join("a.parquet")).unwrap().len() < 4 << 20);
    let check = async || {
        let source = source::open(&source::session(None).unwrap(), &spec(folder.path())).await;
        let mut stream = source.unwrap().dataframe.execute_stream().await.unwrap();
        let mut count = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch.unwrap();
            assert!(batch.num_rows() <= 256, "{}", batch.num_rows());
            count += batch.num_rows();
        }
        count
    };
    assert_eq!(check().await, rows);
    // Files of different columns, which our own reader reads.
    let other =
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    write("b.parquet", &other.unwrap(), 1);
    assert_eq!(check().await, rows + 1);
}

/// A table of millions of rows in a file of a few hundred bytes: its pages contain only nulls.
#[tokio::test]
async fn many_nulls_in_a_small_file_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let rows = 3_000_000;
    let nulls = arrow::array::new_null_array(&DataType::Int64, rows);
    let batch = RecordBatch::try_from_iter([("id", nulls)]).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows))
        .set_data_page_row_count_limit(rows)
        .set_write_batch_size(rows)
        .build();
    write_parquet(&path, &batch, properties);
    assert!(fs::metadata(&path).unwrap().len() < 10_000);
    assert_eq!(count(&read(&spec(&path)).await.unwrap()), rows);
}

#[tokio::test]
async fn an_arrow_batch_that_claims_rows_without_bytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.arrow");
    let write = |rows: usize| {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Null, true)]));
        let nulls = Arc::new(NullArray::new(rows)) as ArrayRef;
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![nulls]).unwrap();
        let mut writer = FileWriter::try_new(fs::File::create(&path).unwrap(), &schema).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    };
    write(1_000_000);
    assert_eq!(count(&read(&spec(&path)).await.unwrap()), 1_000_000);
    write(1 << 50);
    let error = read(&spec(&path)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.to_string().contains("not a whole Arrow IPC file"), "{error}");
}

#[tokio::test]
async fn a_file_that_changes_during_the_read_is_reported() {
    let fixture = Fixture::new();
    let lines = |rows: usize| -> String {
        (0..rows).map(|id| format!("{{\"id\":{id},\"text\":\"the sea {id}\"}}\n")).collect()
    };
    let csv = |rows: usize| -> String {
        "id,text\n".to_owned() + &(0..rows).map(|id| format!("{id},x\n")).collect::<String>()
    };
    let changed = async |name: &str, before: String, after: String| {
        fixture.file(name, before);
        let path = fixture.path(name);
        // File times have the granularity of the system's clock ticks.
        std::thread::sleep(Duration::from_millis(20));
        let error =
            read_after(&spec(&path), || fs::write(&path, after).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        let expected = format!("`{}` was changed while it was read", path.display());
        assert_eq!(error.message(), expected, "{name}");
    };
    for rows in [100, 20_000] {
        changed("a.jsonl", lines(rows), lines(50)).await;
        changed("b.jsonl", lines(rows), lines(rows + 1)).await;
        changed("a.csv", csv(rows), csv(50)).await;
        changed("b.csv", csv(rows), csv(rows + 1)).await;
    }
    let path = fixture.path("a.parquet");
    write_parquet(&path, &varied(), WriterProperties::default());
    std::thread::sleep(Duration::from_millis(20));
    let cut = || fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = read_after(&spec(&path), cut).await.unwrap_err();
    assert!(error.message().ends_with("was changed while it was read"), "{error}");

    // In units, which read byte ranges of the file.
    let file = fixture.path("units.jsonl");
    fs::write(&file, lines(40_000)).unwrap();
    let context = source::session(None).unwrap();
    let source = source::open(&context, &spec(&file)).await.unwrap();
    let units = source.units(&source::UnitSize::default());
    assert_eq!(units.len(), 3);
    let plan = source.dataframe.logical_plan().clone();
    let datafusion::logical_expr::LogicalPlan::TableScan(scan) = plan else { panic!("{plan}") };
    let table =
        datafusion::catalog::default_table_source::source_as_provider(&scan.source).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_len(1_000_000).unwrap();
    for unit in &units[1..] {
        let table = source.unit_table(&table, &source.unit(unit)).unwrap();
        let rows = context.read_table(table).unwrap().collect();
        let rows = tokio::time::timeout(Duration::from_secs(20), rows).await.unwrap();
        let error = source::stream_error(rows.unwrap_err(), &source.files);
        assert!(error.message().ends_with("was changed while it was read"), "{error}");
    }
}

#[tokio::test]
async fn pipes_and_devices_are_never_opened() {
    let fixture = Fixture::new();
    fixture.file("in/a.jsonl", "{\"id\":1}\n");
    let folder = fixture.path("in");
    let pipe = fixture.path("in/b.jsonl");
    let is_refused = async |what: &str| {
        for path in [folder.clone(), folder.join("*.jsonl"), folder.join("**"), pipe.clone()] {
            let spec = spec(&path);
            let reading = read(&spec);
            let rows = tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
            let error = rows.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoInput, "{what} {error}");
            let expected = format!("`{}` is neither a file nor a folder", pipe.display());
            assert_eq!(error.message(), expected, "{what}");
        }
        let sql = format!("SELECT * FROM '{}'", pipe.display());
        fixture.run(&["sql", &sql]).fails(66, &["is neither a file nor a folder"]);
        fs::remove_file(&pipe).unwrap();
    };
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    is_refused("a pipe").await;
    symlink("/dev/zero", &pipe).unwrap();
    is_refused("a device").await;
    let socket = std::os::unix::net::UnixListener::bind(&pipe).unwrap();
    is_refused("a socket").await;
    drop(socket);

    // A pipe that is not named like data does not matter.
    let other = fixture.path("in/control");
    assert!(std::process::Command::new("mkfifo").arg(&other).status().unwrap().success());
    assert_eq!(ids(&read(&spec(&folder)).await.unwrap()), [1]);
    // A folder named like a data file is still a folder.
    fixture.file("in/c.jsonl/part.jsonl", "{\"id\":2}\n");
    assert_eq!(ids(&read(&spec(&folder)).await.unwrap()), [1, 2]);
    symlink("nowhere", fixture.path("in/d.jsonl")).unwrap();
    let error = read(&spec(&folder)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoInput, "{error}");
    assert!(error.remedy().unwrap().contains("a link to `nowhere`"), "{error}");
}

#[tokio::test]
async fn a_file_is_read_once_however_it_is_reached() {
    let fixture = Fixture::new();
    fixture.file("in/a.csv", "id\n1\n").file("in/b.csv", "id\n2\n");
    symlink("in/a.csv", fixture.path("link.csv")).unwrap();
    fs::hard_link(fixture.path("in/a.csv"), fixture.path("in/c.csv")).unwrap();
    let mut spec = spec(&fixture.path("in/a.csv"));
    let path = |name: &str| fixture.path(name).to_str().unwrap().to_owned();
    spec.paths =
        ["in/b.csv", "link.csv", "in/a.csv", "in/./a.csv", "in/../in/a.csv", "in/[ab].csv"]
            .map(path)
            .to_vec();
    assert_eq!(ids(&read(&spec).await.unwrap()), [2, 1]);
    // Hard links count as two files, as copies do.
    spec.paths = vec![path("in")];
    assert_eq!(ids(&read(&spec).await.unwrap()), [1, 2, 1]);
}

#[tokio::test]
async fn the_folder_wins_over_a_column_of_its_name() {
    let fixture = Fixture::new();
    let texts = |values: &[&str]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    for (folder, id) in [("in/lang=en", 1), ("in/lang=__HIVE_DEFAULT_PARTITION__", 2)] {
        let batch = RecordBatch::try_from_iter([
            ("lang", texts(&["de"])),
            ("id", Arc::new(Int64Array::from(vec![id])) as _),
            ("text", texts(&["x"])),
        ])
        .unwrap();
        fs::create_dir_all(fixture.path(folder)).unwrap();
        write_parquet(
            &fixture.path(&format!("{folder}/a.parquet")),
            &batch,
            WriterProperties::default(),
        );
        let file = fs::File::create(fixture.path(&format!("{folder}/a.arrow"))).unwrap();
        let mut writer = FileWriter::try_new(file, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        fixture.file(&format!("{folder}/a.csv"), format!("lang,id,text\nde,{id},x\n")).file(
            &format!("{folder}/a.jsonl"),
            format!("{{\"lang\":\"de\",\"id\":{id},\"text\":\"x\"}}\n"),
        );
    }
    for format in [FileFormat::Parquet, FileFormat::Arrow, FileFormat::Csv, FileFormat::Jsonl] {
        let mut spec = spec(&fixture.path(&format!("in/*/*.{}", format.name())));
        let rows = read(&spec).await.unwrap();
        let names: Vec<_> = rows[0].schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["lang", "id", "text"], "{format:?}");
        let texts = |rows: &[RecordBatch], column: &str| -> Vec<Option<String>> {
            let texts = |batch: &RecordBatch| {
                let texts = batch[column].as_string::<i32>().iter();
                texts.map(|text| text.map(str::to_owned)).collect::<Vec<_>>()
            };
            rows.iter().flat_map(texts).collect()
        };
        assert_eq!(texts(&rows, "lang"), [None, Some("en".to_owned())], "{format:?}");
        assert_eq!(ids(&rows), [2, 1], "{format:?}");
        assert_eq!(texts(&rows, "text"), [Some("x".to_owned()), Some("x".to_owned())]);
        for (predicate, expected) in [
            ("lang = 'en'", &[1][..]),
            ("lang = 'de'", &[]),
            ("lang IS NULL", &[2]),
            ("lang = 'en' AND id = 1", &[1]),
        ] {
            spec.predicate = Some(predicate.to_owned());
            assert_eq!(ids(&read(&spec).await.unwrap()), expected, "{format:?} {predicate}");
        }
        spec.predicate = None;
        spec.select = Some(vec!["text".to_owned(), "lang".to_owned()]);
        let rows = read(&spec).await.unwrap();
        assert_eq!(texts(&rows, "lang"), [None, Some("en".to_owned())], "{format:?}");
    }
}

#[tokio::test]
async fn the_folders_values_are_of_the_columns_type_where_they_are() {
    let fixture = Fixture::new();
    fixture
        .file("year=2023/a.csv", "year,id\n1999,1\n")
        .file("year=2024/a.csv", "year,id\n1999,2\n");
    let mut source = spec(&fixture.path("year=*"));
    source.predicate = Some("year > 2023".to_owned());
    let rows = read(&source).await.unwrap();
    assert_eq!(*rows[0]["year"].data_type(), DataType::Int64);
    assert_eq!(rows[0]["year"].as_primitive::<Int64Type>().values(), &[2024]);
    fixture.file("year=next/a.csv", "year,id\n1999,3\n");
    source.predicate = None;
    let rows = read(&source).await.unwrap();
    assert_eq!(*rows[0]["year"].data_type(), DataType::Utf8);
}

#[tokio::test]
async fn a_format_that_is_given_reads_names_without_extension() {
    let fixture = Fixture::new();
    fixture
        .file("in/part-00000", "id\n1\n")
        .file("in/part-00001.csv", "id\n2\n")
        .file("in/_SUCCESS", "x")
        .file("in/notes.txt", "x")
        .file("in/other.jsonl", "{}");
    let mut source = spec(&fixture.path("in"));
    source.format = Some(FileFormat::Csv);
    assert_eq!(ids(&read(&source).await.unwrap()), [1, 2]);
    fixture.file("text/notes.txt", "id\n3\n");
    source = spec(&fixture.path("text"));
    let error = read(&source).await.unwrap_err();
    assert!(error.remedy().unwrap().contains("`source.format`"), "{error}");
    source.format = Some(FileFormat::Csv);
    let error = read(&source).await.unwrap_err();
    assert!(error.remedy().unwrap().contains("/text/*` reads every file as csv"), "{error}");
    assert_eq!(
        ids(&read(&SourceSpec { paths: spec(&fixture.path("text/*")).paths, ..source })
            .await
            .unwrap()),
        [3]
    );
}

#[tokio::test]
async fn braces_are_no_wildcards_and_odd_names_no_panic() {
    let fixture = Fixture::new();
    fixture.file("in/a.csv", "id\n1\n").file("in/{a,b}.jsonl", "{\"id\":7}");
    let error = read(&spec(&fixture.path("in/{a,b}.csv"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoInput);
    assert!(error.remedy().unwrap().contains("`{a,b}` is not a wildcard"), "{error}");
    assert!(error.remedy().unwrap().contains("`path: [a.csv, …]`"), "{error}");
    let error = read(&spec(&fixture.path("i*/{a,b}.csv"))).await.unwrap_err();
    assert!(error.remedy().unwrap().contains("is not a wildcard"), "{error}");
    // A file may have this name.
    assert_eq!(ids(&read(&spec(&fixture.path("in/{a,b}.jsonl"))).await.unwrap()), [7]);

    let odd = fixture.path("in").join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("b.csv"), "id\n2\n").unwrap();
    fs::remove_file(fixture.path("in/{a,b}.jsonl")).unwrap();
    for path in ["in", "in/*", "in/**/*.csv", "*/*"] {
        assert_eq!(ids(&read(&spec(&fixture.path(path))).await.unwrap()), [1], "{path}");
    }
    let ran = fixture.run(&["sql", "--format", "csv", "SELECT id FROM 'in/**/*.csv'"]);
    assert_eq!(ran.succeeds().stdout, "id\n1\n");
}

#[test]
fn a_pipeline_does_not_read_what_it_writes() {
    let fixture = Fixture::new();
    fixture.file("in/a.csv", "id,text\n1,x\n");
    symlink("in", fixture.path("link")).unwrap();
    let pipeline = |source: &str, sink: &str, more: &str| {
        let step = match more {
            "" => "sql: 'SELECT * FROM input'".to_owned(),
            _ => format!(
                "feature-extraction: {{model: '{}', input: text, output: e}}",
                mini_embedder().display()
            ),
        };
        fixture.file(
            "p.yaml",
            format!("version: 1\nsource: {{path: {source}}}\nsteps: [{{{step}}}]\nsink: {{path: {sink}}}\n{more}"),
        );
    };
    for (source, sink, more) in [
        ("in/", "in/out/", ""),
        ("in/", "link/out.parquet", ""),
        ("link/*", "in/out/", ""),
        ("in/", "out/", "on_error: {rows: skip, dead_letter: in/dead}"),
    ] {
        pipeline(source, sink, more);
        for verb in ["validate", "plan", "run"] {
            fixture.run(&[verb, "p.yaml"]).fails(78, &["overlap"]);
        }
    }
    for (source, sink) in [("in/*.csv", "in/out/"), ("in/", "in/_out/")] {
        pipeline(source, sink, "");
        for _ in 0..2 {
            fixture.run(&["run", "p.yaml", "--fresh"]).succeeds();
        }
        let out = if sink == "in/out/" { "in/out" } else { "in/_out" };
        assert_eq!(fixture.parquet(&format!("{out}/part-00000.parquet")).num_rows(), 1);
        fs::remove_dir_all(fixture.path(out)).unwrap();
    }
    // A folder with foreign files is not an output, whoever reads them.
    pipeline("in/a.csv", "in/", "");
    fixture.run(&["validate", "p.yaml"]).fails(78, &["overlap"]);
    fixture.run(&["run", "p.yaml"]).fails(73, &["exists"]);
    // Through a link inside the folder, which no path reveals; detected by comparing files.
    pipeline("in/", "out/, format: csv", "");
    fixture.run(&["run", "p.yaml"]).succeeds();
    symlink("../out", fixture.path("in/more")).unwrap();
    fixture.run(&["run", "p.yaml", "--fresh"]).fails(78, &["overlap"]);
    fs::remove_file(fixture.path("in/more")).unwrap();

    let query = "SELECT * FROM 'in/'";
    fixture.run(&["sql", query, "--output", "in/all.csv"]).fails(78, &["overlap"]);
    let copy = format!("COPY ({query}) TO 'in/all.csv'");
    fixture.run(&["sql", &copy]).fails(78, &["overlap"]);
    fixture.run(&["sql", query, "--output", "all.csv"]).succeeds();
}
