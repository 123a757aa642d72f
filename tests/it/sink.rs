//! Sinks: they write exactly the rows that they are given, all or none.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Decimal128Array, DictionaryArray, FixedSizeListArray,
    Float32Array, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray, StructArray,
    TimestampMillisecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use datafusion::arrow;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::basic::Encoding;
use hfauto_pipe::config::pipeline::{Compression, FileFormat, SinkSpec, SourceSpec};
use hfauto_pipe::sink::{Sink, SinkOptions, Written};
use hfauto_pipe::{Error, ErrorKind, source};
use serde_json::Value;
use tempfile::TempDir;

fn spec(path: impl Into<PathBuf>, format: FileFormat) -> SinkSpec {
    SinkSpec {
        delta: None,
        path: path.into(),
        format,
        compression: None,
        partition_by: Vec::new(),
        target_file_size_bytes: 256 << 20,
        location: "job.yaml:9:1".to_owned(),
    }
}

fn write(spec: &SinkSpec, batches: &[RecordBatch], overwrite: bool) -> Result<Written, Error> {
    let options = SinkOptions { overwrite, ..SinkOptions::default() };
    Sink::check(spec, overwrite)?;
    let mut sink = Sink::create(spec, batches[0].schema(), options)?;
    for batch in batches {
        sink.write(batch)?;
    }
    sink.finish()
}

/// Reads an output with our own sources.
async fn read(path: &Path) -> RecordBatch {
    let spec = SourceSpec::of_path(path.to_str().unwrap(), "");
    let source = source::open(&source::session(None).unwrap(), &spec).await.unwrap();
    let schema = Arc::new(source.dataframe.schema().as_arrow().clone());
    concat_batches(&schema, &source.dataframe.collect().await.unwrap()).unwrap()
}

fn ids(range: std::ops::Range<i64>) -> RecordBatch {
    let text: StringArray =
        range.clone().map(|id| (id % 7 != 0).then(|| format!("text {id}"))).collect();
    let id: Int64Array = range.map(Some).collect();
    RecordBatch::try_from_iter([("id", Arc::new(id) as ArrayRef), ("text", Arc::new(text) as _)])
        .unwrap()
}

fn id_values(batch: &RecordBatch) -> Vec<i64> {
    batch
        .column_by_name("id")
        .unwrap()
        .as_primitive::<arrow::datatypes::Int64Type>()
        .values()
        .to_vec()
}

/// All files below a folder, relative.
fn tree(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}

/// Every column type that passes through.
fn rich() -> RecordBatch {
    let nulls = || NullBuffer::from(vec![true, false, true]);
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
    ]);
    let structs = StructArray::new(
        vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)].into(),
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None, None])) as ArrayRef,
            Arc::new(StringArray::from(vec![Some("x"), None, Some("y")])),
        ],
        Some(nulls()),
    );
    let dictionary: DictionaryArray<Int32Type> = [Some("p"), None, Some("p")].into_iter().collect();
    let decimal = Decimal128Array::from(vec![Some(12345), None, Some(-1)]);
    let time = TimestampMillisecondArray::from(vec![Some(1_700_000_000_123), None, Some(0)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("utf8", Arc::new(StringArray::from(vec![Some("a,\"\n"), None, Some("é😀")]))),
        (
            "view",
            Arc::new(StringViewArray::from(vec![
                Some("a long string, not inline"),
                None,
                Some(""),
            ])),
        ),
        ("dictionary", Arc::new(dictionary)),
        ("list", Arc::new(list)),
        ("struct", Arc::new(structs)),
        ("decimal", Arc::new(decimal.with_precision_and_scale(10, 2).unwrap())),
        ("time", Arc::new(time.with_timezone("Europe/Berlin"))),
        ("binary", Arc::new(BinaryArray::from(vec![Some(&b"\0\xff"[..]), None, Some(b"")]))),
        ("vector", vectors(3)),
    ];
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), *name != "vector"))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn vectors(rows: usize) -> ArrayRef {
    let values: Float32Array = (0..rows * 4).map(|i| Some(i as f32 / 3.0)).collect();
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    Arc::new(FixedSizeListArray::new(item, 4, Arc::new(values), None))
}

#[tokio::test]
async fn every_format_and_compression_comes_back() {
    use Compression::{Gzip, Lz4, Snappy, Uncompressed, Zstd};
    let batches = [ids(0..3000), ids(3000..3001), ids(3001..5000)];
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    let formats: [(FileFormat, &str, &[Compression]); 4] = [
        (FileFormat::Parquet, "parquet", &[Uncompressed, Zstd, Snappy, Gzip, Lz4]),
        (FileFormat::Csv, "csv", &[Uncompressed, Zstd, Gzip]),
        (FileFormat::Jsonl, "jsonl", &[Uncompressed, Zstd, Gzip]),
        (FileFormat::Arrow, "arrow", &[Uncompressed, Zstd, Lz4]),
    ];
    for (format, extension, compressions) in formats {
        for compression in [None].into_iter().chain(compressions.iter().copied().map(Some)) {
            let folder = tempfile::tempdir().unwrap();
            let mut spec = spec(folder.path().join("out"), format);
            spec.compression = compression;
            let suffix = match (format, compression) {
                (FileFormat::Csv | FileFormat::Jsonl, Some(Zstd)) => ".zst",
                (FileFormat::Csv | FileFormat::Jsonl, Some(Gzip)) => ".gz",
                _ => "",
            };
            let name = format!("part-00000.{extension}{suffix}");
            let written = write(&spec, &batches, false).unwrap();
            assert_eq!(tree(&spec.path), ["_SUCCESS", "_hfauto/MANIFEST.json", &name]);
            let path = spec.path.join(&name);
            assert_eq!((written.rows, &written.files[0].path), (5000, &path));
            let bytes = fs::read(&path).unwrap();
            assert_eq!(written.bytes, bytes.len() as u64);
            assert_eq!(written.files[0].blake3, blake3::hash(&bytes).to_hex().to_string());
            assert_eq!(read(&spec.path).await.columns(), all.columns(), "{name}");

            // The same as one file, whose name determines the compression.
            let single = folder.path().join(format!("one/x.{extension}{suffix}"));
            let spec = SinkSpec { path: single.clone(), ..spec };
            write(&spec, &batches, false).unwrap();
            assert_eq!(tree(single.parent().unwrap()), [format!("x.{extension}{suffix}")]);
            assert_eq!(fs::read(&single).unwrap(), bytes, "{name}");
        }
    }
}

#[test]
fn parquet_and_arrow_keep_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let batch = rich();
    let parquet = spec(folder.path().join("a.parquet"), FileFormat::Parquet);
    write(&parquet, std::slice::from_ref(&batch), false).unwrap();
    let file = File::open(&parquet.path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let back: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(back[0].schema(), batch.schema());
    assert_eq!(back, std::slice::from_ref(&batch));

    let arrow = spec(folder.path().join("a.arrow"), FileFormat::Arrow);
    // The batches have different dictionaries.
    let other: DictionaryArray<Int32Type> = [Some("q"), Some("r"), None].into_iter().collect();
    let mut columns = batch.columns().to_vec();
    columns[2] = Arc::new(other);
    let second = RecordBatch::try_new(batch.schema(), columns).unwrap();
    write(&arrow, &[batch.clone(), second], false).unwrap();
    let reader =
        arrow::ipc::reader::FileReader::try_new(File::open(&arrow.path).unwrap(), None).unwrap();
    let back: Vec<_> = reader.map(Result::unwrap).collect();
    for (index, field) in batch.schema().fields().iter().enumerate() {
        let stored = back[0].schema().field(index).clone();
        if field.name() == "dictionary" {
            assert_eq!(stored.data_type(), &DataType::Utf8);
            let values: Vec<_> = back[1].column(index).as_string::<i32>().iter().collect();
            assert_eq!(values, [Some("q"), Some("r"), None]);
        } else {
            assert_eq!(&stored, field.as_ref());
            assert_eq!(back[0].column(index), batch.column(index));
        }
    }
}

#[test]
fn text_formats_write_nested_values_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let batch = rich();
    let csv = spec(folder.path().join("a.csv"), FileFormat::Csv);
    let error = write(&csv, std::slice::from_ref(&batch), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.message(),
        "csv cannot hold the column `binary`: its type is Binary, which is not text"
    );
    assert!(tree(folder.path()).is_empty());

    let keep: Vec<_> = (0..9).filter(|index| *index != 7).collect();
    write(&csv, &[batch.project(&keep).unwrap()], false).unwrap();
    assert_eq!(
        fs::read_to_string(&csv.path).unwrap(),
        "utf8,view,dictionary,list,struct,decimal,time,vector\n\
         \"a,\"\"\n\",\"a long string, not inline\",p,\"[1,null]\",\"{\"\"a\"\":1,\"\"b\"\":\"\"x\"\"}\",\
         123.45,2023-11-14T23:13:20.123+01:00,\"[0.0,0.33333334,0.6666667,1.0]\"\n\
         ,,,,,,,\"[1.3333334,1.6666666,2.0,2.3333333]\"\n\
         é😀,,p,[],\"{\"\"a\"\":null,\"\"b\"\":\"\"y\"\"}\",-0.01,1970-01-01T01:00:00+01:00,\
         \"[2.6666667,3.0,3.3333333,3.6666667]\"\n"
    );

    let jsonl = spec(folder.path().join("a.jsonl"), FileFormat::Jsonl);
    write(&jsonl, &[batch], false).unwrap();
    let text = fs::read_to_string(&jsonl.path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["struct"], serde_json::json!({"a": 1, "b": "x"}));
    assert_eq!(lines[0]["binary"], "00ff");
    assert_eq!(lines[1].as_object().unwrap().len(), 9);
    assert!(lines[1]["utf8"].is_null() && lines[1]["list"].is_null());
}

#[test]
fn model_columns_have_neither_dictionary_nor_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path().join("a.parquet"), FileFormat::Parquet);
    let label = StringArray::from(vec!["x"; 3]);
    let fields = vec![
        Field::new("label", DataType::Utf8, true),
        Field::new("embedding", vectors(3).data_type().clone(), true),
    ];
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(label), vectors(3)]).unwrap();
    let options = SinkOptions {
        lineage: vec![("hfauto.model".to_owned(), "m@1".to_owned())],
        model_columns: vec!["embedding".to_owned()],
        overwrite: false,
    };
    let mut sink = Sink::create(&spec, schema, options).unwrap();
    sink.write(&batch).unwrap();
    sink.finish().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&spec.path).unwrap()).unwrap();
    let metadata = reader.metadata();
    let key_values = metadata.file_metadata().key_value_metadata().unwrap();
    let value =
        |key: &str| key_values.iter().find(|kv| kv.key == key).and_then(|kv| kv.value.clone());
    assert_eq!(value("hfauto.model").as_deref(), Some("m@1"));
    assert!(value("ARROW:schema").is_some());
    let columns = metadata.row_group(0).columns();
    let encodings = |index: usize| columns[index].encodings().collect::<Vec<_>>();
    assert_eq!(columns[0].column_path().string(), "label");
    assert!(columns[0].statistics().is_some());
    assert!(encodings(0).contains(&Encoding::RLE_DICTIONARY));
    assert!(columns[1].column_path().string().starts_with("embedding."));
    assert!(columns[1].statistics().is_none());
    assert!(columns[1].dictionary_page_offset().is_none());
    assert!(encodings(1).contains(&Encoding::PLAIN), "{:?}", encodings(1));
    assert!(!encodings(1).contains(&Encoding::RLE_DICTIONARY));
}

#[tokio::test]
async fn files_roll_over_by_size_and_rows_stay_in_order() {
    for format in [FileFormat::Parquet, FileFormat::Csv, FileFormat::Jsonl, FileFormat::Arrow] {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = spec(folder.path().join("out"), format);
        spec.compression = Some(Compression::Uncompressed);
        spec.target_file_size_bytes = 50_000;
        let batches: Vec<_> = (0..40).map(|n| ids(n * 777..(n + 1) * 777)).collect();
        let written = write(&spec, &batches, false).unwrap();
        assert!(written.files.len() > 3, "{format:?}: {}", written.files.len());
        for file in &written.files {
            // One slice of 1024 rows beyond the target, and the footer.
            assert!(file.bytes < 50_000 + 60_000, "{format:?}: {}", file.bytes);
            assert!(file.rows > 0);
        }
        assert_eq!(id_values(&read(&spec.path).await), (0..40 * 777).collect::<Vec<_>>());

        // A sink with a single file writes one file.
        let extension = written.files[0].path.extension().unwrap().to_str().unwrap().to_owned();
        spec.path = folder.path().join(format!("x.{extension}"));
        assert_eq!(write(&spec, &batches, false).unwrap().files.len(), 1);
    }
}

#[tokio::test]
async fn partitions_are_hive_folders() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(folder.path().join("out"), FileFormat::Parquet);
    spec.partition_by = vec!["lang".to_owned()];
    let batch = |start: i64| {
        let id: Int64Array = (start..start + 4).map(Some).collect();
        let lang = StringArray::from(vec![Some("en"), None, Some("a/b"), Some("en")]);
        RecordBatch::try_from_iter([
            ("lang", Arc::new(lang) as ArrayRef),
            ("id", Arc::new(id) as _),
        ])
        .unwrap()
    };
    let written = write(&spec, &[batch(0), batch(4)], false).unwrap();
    assert_eq!(written.rows, 8);
    assert_eq!(
        tree(&spec.path),
        [
            "_SUCCESS",
            "_hfauto/MANIFEST.json",
            "lang=__HIVE_DEFAULT_PARTITION__/part-00000.parquet",
            "lang=a%2Fb/part-00000.parquet",
            "lang=en/part-00000.parquet",
        ]
    );
    let back = read(&spec.path).await;
    assert_eq!(id_values(&back), [1, 5, 2, 6, 0, 3, 4, 7]);
    let langs: Vec<_> = back.column_by_name("lang").unwrap().as_string::<i32>().iter().collect();
    let (ab, en) = (Some("a/b"), Some("en"));
    assert_eq!(langs, [None, None, ab, ab, en, en, en, en]);

    for (columns, expected) in [
        (vec!["nope"], "there is no column `nope`"),
        (vec!["lang", "lang"], "twice"),
        (vec!["lang", "id"], "leaves no column"),
    ] {
        spec.path = folder.path().join("other");
        spec.partition_by = columns.into_iter().map(str::to_owned).collect();
        let error = write(&spec, &[batch(0)], false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(expected), "{error}");
    }
    assert!(!spec.path.exists());
}

#[tokio::test]
async fn more_partitions_than_open_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(folder.path().join("out"), FileFormat::Csv);
    spec.partition_by = vec!["key".to_owned()];
    let batch = |start: i64| {
        let id: Int64Array = (start..start + 100).map(Some).collect();
        let key: Int64Array = (0..100).map(Some).collect();
        RecordBatch::try_from_iter([("id", Arc::new(id) as ArrayRef), ("key", Arc::new(key) as _)])
            .unwrap()
    };
    let written = write(&spec, &[batch(0), batch(100), batch(200)], false).unwrap();
    // 100 folders with a limit of 64 open files: every folder is closed and reopened.
    assert_eq!((written.files.len(), written.rows), (300, 300));
    assert_eq!(id_values(&read(&spec.path.join("key=42")).await), [42, 142, 242]);
}

#[tokio::test]
async fn no_rows_are_a_whole_output() {
    for (format, extension) in [
        (FileFormat::Parquet, "parquet"),
        (FileFormat::Csv, "csv"),
        (FileFormat::Jsonl, "jsonl"),
        (FileFormat::Arrow, "arrow"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path().join("out"), format);
        let written = write(&spec, &[ids(0..0)], false).unwrap();
        assert_eq!((written.rows, written.files.len()), (0, 1));
        let path = spec.path.join(format!("part-00000.{extension}"));
        assert!(path.exists() && spec.path.join("_SUCCESS").exists());
        match format {
            FileFormat::Jsonl => assert_eq!(fs::read(&path).unwrap(), b""),
            FileFormat::Csv => assert_eq!(fs::read(&path).unwrap(), b"id,text\n"),
            _ => {
                let back = read(&spec.path).await;
                assert_eq!((back.num_rows(), back.schema()), (0, ids(0..0).schema()));
            }
        }
    }
}

#[test]
fn the_manifest_tells_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path().join("out"), FileFormat::Csv);
    let options = SinkOptions {
        lineage: vec![("hfauto.version".to_owned(), "0.1.0".to_owned())],
        ..SinkOptions::default()
    };
    let mut sink = Sink::create(&spec, ids(0..1).schema(), options).unwrap();
    sink.write(&ids(0..2)).unwrap();
    let written = sink.finish().unwrap();
    let text = fs::read(spec.path.join("_hfauto/MANIFEST.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        manifest,
        serde_json::json!({
            "version": 1,
            "format": "csv",
            "rows": 2,
            "bytes": 20,
            "partition_by": [],
            "files": [{
                "path": "part-00000.csv", "rows": 2, "bytes": 20, "blake3": written.files[0].blake3,
            }],
            "schema": [
                {"name": "id", "type": "Int64", "nullable": false},
                {"name": "text", "type": "Utf8", "nullable": true},
            ],
            "lineage": {"hfauto.version": "0.1.0"},
        })
    );
}

#[test]
fn a_sink_that_is_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["deep/out/", "deep/out.parquet"] {
        let spec = spec(folder.path().join(name), FileFormat::Parquet);
        let start = || {
            let mut sink = Sink::create(&spec, ids(0..1).schema(), SinkOptions::default()).unwrap();
            sink.write(&ids(0..10)).unwrap();
            sink
        };
        start().abort();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(start());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // A killed run frees its lock and leaves files that readers ignore.
        let killed = start();
        let seen = tree(folder.path());
        assert!(
            seen.iter().all(|file| file.contains("_hfauto") || file.contains("/.out")),
            "{seen:?}"
        );
        let busy = Sink::create(&spec, ids(0..1).schema(), SinkOptions::default()).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Resources, "{busy}");
        drop(killed);
    }
}

#[test]
fn an_output_that_exists_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let check = |spec: &SinkSpec, overwrite: bool, expected: &str| {
        let error = write(spec, &[ids(0..1)], overwrite).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink);
        assert_eq!(error.kind().exit_code(), 73);
        let text = error.to_string().replace(folder.path().to_str().unwrap(), "");
        assert!(text.contains(expected), "{text}");
        let options = SinkOptions { overwrite, ..SinkOptions::default() };
        let created = Sink::create(spec, ids(0..1).schema(), options).unwrap_err();
        assert_eq!(created.to_string(), error.to_string());
    };
    let one = spec(folder.path().join("a.csv"), FileFormat::Csv);
    write(&one, &[ids(1..2)], false).unwrap();
    check(
        &one,
        false,
        "the output `/a.csv` exists\n  at job.yaml:9:1\nhint: `--fresh` replaces it",
    );
    assert_eq!(fs::read_to_string(&one.path).unwrap(), "id,text\n1,text 1\n");
    write(&one, &[ids(2..3)], true).unwrap();
    assert_eq!(fs::read_to_string(&one.path).unwrap(), "id,text\n2,text 2\n");

    // The next run takes over what a killed run left.
    fs::write(folder.path().join(".b.csv.hfauto-tmp"), "x".repeat(1000)).unwrap();
    let taken_over = spec(folder.path().join("b.csv"), FileFormat::Csv);
    write(&taken_over, &[ids(1..2)], false).unwrap();
    assert_eq!(fs::read_to_string(&taken_over.path).unwrap(), "id,text\n1,text 1\n");
    assert_eq!(tree(folder.path()), ["a.csv", "b.csv"]);

    let mut out = spec(folder.path().join("out"), FileFormat::Csv);
    out.target_file_size_bytes = 1000;
    let many: Vec<_> = (0..40).map(|n| ids(n * 1024..(n + 1) * 1024)).collect();
    assert!(write(&out, &many, false).unwrap().files.len() > 2);
    check(&out, false, "the output `/out` exists");
    // An abandoned replacement changes nothing.
    let before = tree(&out.path);
    let options = SinkOptions { overwrite: true, ..SinkOptions::default() };
    let mut sink = Sink::create(&out, ids(0..1).schema(), options).unwrap();
    sink.write(&ids(0..1)).unwrap();
    drop(sink);
    assert_eq!(tree(&out.path), before);
    write(&out, &[ids(7..9)], true).unwrap();
    assert_eq!(tree(&out.path), ["_SUCCESS", "_hfauto/MANIFEST.json", "part-00000.csv"]);
    assert_eq!(
        fs::read_to_string(out.path.join("part-00000.csv")).unwrap(),
        "id,text\n7,\n8,text 8\n"
    );

    fs::write(out.path.join("mine.csv"), "x\n").unwrap();
    check(&out, true, "the output `/out` contains `mine.csv`, which hfauto-pipe did not write");
    let foreign = spec(folder.path().join("foreign"), FileFormat::Parquet);
    fs::create_dir(&foreign.path).unwrap();
    Sink::check(&foreign, false).unwrap();
    fs::write(foreign.path.join("data.parquet"), "x").unwrap();
    check(&foreign, false, "the output `/foreign` exists");
    check(&foreign, true, "contains `data.parquet`");
    check(&spec(foreign.path.join("data.parquet/"), FileFormat::Parquet), true, "is not a folder");
    fs::create_dir(folder.path().join("folder.csv")).unwrap();
    check(&spec(folder.path().join("folder.csv"), FileFormat::Csv), true, "is not a file");
}

#[test]
fn a_place_that_cannot_be_written_is_found_early() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "x").unwrap();
    for name in ["file/out/", "file/deep/out.csv", "file/out.csv"] {
        let spec = spec(folder.path().join(name), FileFormat::Csv);
        let error = Sink::check(&spec, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink);
        assert!(error.message().contains(name.trim_end_matches('/')), "{error}");
        let error = Sink::create(&spec, ids(0..1).schema(), SinkOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sink);
    }
    let spec = spec(folder.path().join("new/deep/out"), FileFormat::Csv);
    Sink::check(&spec, false).unwrap();
    assert_eq!(tree(folder.path()), ["file"]);
    assert!(!folder.path().join("new").exists());
}

#[test]
fn contradictions_are_pipeline_errors() {
    let check = |path: &str, format, compression, expected: &str| {
        let spec = SinkSpec { compression, ..spec(path, format) };
        let error = Sink::check(&spec, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(expected), "{error}");
    };
    use Compression::{Gzip, Lz4, Snappy};
    check(
        "/x/out.csv",
        FileFormat::Parquet,
        None,
        "has the extension of a csv file, but `sink.format` is parquet",
    );
    check("/x/out.csv", FileFormat::Csv, Some(Gzip), "name the file `/x/out.csv.gz`");
    check("/x/out", FileFormat::Csv, Some(Lz4), "choose gzip, zstd, none");
    check("/x/out", FileFormat::Arrow, Some(Snappy), "choose zstd, lz4, none");
    let mut file = spec("/x/out.csv", FileFormat::Csv);
    file.partition_by = vec!["id".to_owned()];
    assert!(Sink::check(&file, false).unwrap_err().message().contains("needs a folder"));
}

/// The test below runs itself again in a process with a file size limit.
const SMALL_FILES: &str = "HFAUTO_TEST_SMALL_FILES";

#[test]
fn a_file_size_limit_of_the_system_is_reported_and_nothing_stays() {
    if let Ok(path) = std::env::var(SMALL_FILES) {
        let spec = spec(path, FileFormat::Csv);
        let mut sink = Sink::create(&spec, ids(0..1).schema(), SinkOptions::default()).unwrap();
        let error = (0..100).find_map(|n| sink.write(&ids(n * 1000..(n + 1) * 1000)).err());
        let error = error.or_else(|| sink.finish().err()).expect("the limit holds");
        assert_eq!(error.kind(), ErrorKind::Sink);
        assert!(error.to_string().contains("File too large"), "{error}");
        return;
    }
    let folder: TempDir = tempfile::tempdir().unwrap();
    // 16 blocks of 512 or 1024 bytes, depending on the shell. The signal would kill the process before it sees the
    // error.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact \"$1\"";
    let name = "sink::a_file_size_limit_of_the_system_is_reported_and_nothing_stays";
    for output in ["out/", "out.csv"] {
        let status = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(SMALL_FILES, folder.path().join(output))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&status.stdout);
        assert!(status.status.success() && text.contains("1 passed"), "{text}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
