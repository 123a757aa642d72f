//! Sources: formats, order, partitions, predicates and error messages.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::arrow;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use futures::StreamExt;
use hfauto_pipe::config::pipeline::{CsvSpec, FileFormat, SourceSpec};
use hfauto_pipe::source::{self, Source};
use hfauto_pipe::{Error, ErrorKind};
use tempfile::TempDir;

/// A folder of input files.
pub(super) struct Data {
    folder: TempDir,
}

impl Data {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(super) fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn put_parquet(&self, name: &str, batch: &RecordBatch) -> PathBuf {
        let path = self.path(name);
        let file = fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        path
    }

    pub(super) fn spec(&self, paths: &[&str]) -> SourceSpec {
        let path = |name: &&str| match name.strip_prefix('/') {
            Some(_) => (*name).to_owned(),
            None => self.folder.path().join(name).to_str().unwrap().to_owned(),
        };
        SourceSpec {
            paths: paths.iter().map(path).collect(),
            ..SourceSpec::of_path("", "job.yaml:2:1")
        }
    }

    /// `text` without the folder's own path.
    pub(super) fn shown(&self, text: &str) -> String {
        text.replace(self.folder.path().to_str().unwrap(), "")
    }
}

pub(super) async fn open(spec: &SourceSpec) -> Result<Source, Error> {
    source::open(&source::session(None).unwrap(), spec).await
}

pub(super) async fn read(spec: &SourceSpec) -> Result<RecordBatch, Error> {
    let source = open(spec).await?;
    let schema = Arc::new(source.dataframe.schema().as_arrow().clone());
    let mut stream = source
        .dataframe
        .execute_stream()
        .await
        .map_err(|error| source::stream_error(error, &source.files))?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch.map_err(|error| source::stream_error(error, &source.files))?);
    }
    Ok(concat_batches(&schema, &batches).unwrap())
}

pub(super) async fn read_error(spec: &SourceSpec) -> Error {
    match read(spec).await {
        Ok(batch) => panic!("{} rows instead of an error", batch.num_rows()),
        Err(error) => error,
    }
}

pub(super) fn ids(batch: &RecordBatch) -> Vec<i64> {
    let ids = batch.column_by_name("id").unwrap().as_any().downcast_ref::<Int64Array>().unwrap();
    ids.values().to_vec()
}

pub(super) fn table(batch: &RecordBatch) -> Vec<String> {
    let text = pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string();
    let words =
        |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|");
    text.lines().filter(|line| line.starts_with('|')).map(words).collect()
}

pub(super) fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let text: StringArray = ids.clone().map(|id| Some(format!("text {id}"))).collect();
    let id: Int64Array = ids.map(Some).collect();
    RecordBatch::try_from_iter([("id", Arc::new(id) as ArrayRef), ("text", Arc::new(text) as _)])
        .unwrap()
}

pub(super) fn compress(name: &str, bytes: &[u8]) -> Vec<u8> {
    match name.rsplit_once('.').unwrap().1 {
        "gz" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zst" => zstd::encode_all(bytes, 0).unwrap(),
        _ => bytes.to_vec(),
    }
}

#[tokio::test]
async fn every_format_and_compression_reads_the_same_rows() {
    let data = Data::new();
    let csv = "id,text\n1,one\n2,\"two\nlines\"\n3,\n";
    let json = "{\"id\":1,\"text\":\"one\"}\n{\"id\":2,\"text\":\"two\\nlines\"}\n{\"id\":3}\n";
    let expected = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec![Some("one"), Some("two\nlines"), None])) as _),
    ])
    .unwrap();
    data.put_parquet("a.parquet", &expected);
    for (stem, content) in [("a.csv", csv), ("a.jsonl", json), ("a.ndjson", json), ("a.json", json)]
    {
        for codec in ["", ".gz", ".zst"] {
            let name = format!("{stem}{codec}");
            data.put(&name, compress(&name, content.as_bytes()));
        }
    }
    // bzip2 and xz of `csv` and `json`, made with the command-line tools.
    for (name, bytes) in SQUEEZED {
        data.put(name, bytes);
    }
    let mut file = arrow::ipc::writer::FileWriter::try_new(
        fs::File::create(data.path("a.arrow")).unwrap(),
        &expected.schema(),
    )
    .unwrap();
    file.write(&expected).unwrap();
    file.finish().unwrap();
    let stream = fs::File::create(data.path("a.arrows")).unwrap();
    let mut stream = arrow::ipc::writer::StreamWriter::try_new(stream, &expected.schema()).unwrap();
    stream.write(&expected).unwrap();
    stream.finish().unwrap();

    let mut names: Vec<_> =
        fs::read_dir(data.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 15 + SQUEEZED.len());
    for name in names {
        let name = name.to_str().unwrap();
        let batch = read(&data.spec(&[name])).await.unwrap();
        assert_eq!(batch.columns(), expected.columns(), "{name}");
        let source = open(&data.spec(&[name])).await.unwrap();
        assert_eq!(source.rows, Some(3), "{name}");
        assert_eq!(source.files[0].rows, Some(3), "{name}");
    }
}

const SQUEEZED: [(&str, &[u8]); 4] = [
    ("a.csv.bz2", include_bytes!("data/a.csv.bz2")),
    ("a.csv.xz", include_bytes!("data/a.csv.xz")),
    ("a.jsonl.bz2", include_bytes!("data/a.jsonl.bz2")),
    ("a.jsonl.xz", include_bytes!("data/a.jsonl.xz")),
];

#[tokio::test]
async fn rows_come_in_the_order_of_the_list_and_of_the_files() {
    let data = Data::new();
    // Two hundred files of uneven length, which a planner might reorder to balance.
    let mut expected = Vec::new();
    let mut next = 0;
    for file in 0..200 {
        let end = next + 1 + (file * 37) % 500;
        data.put_parquet(&format!("many/part-{file:05}.parquet"), &rows(next..end));
        next = end;
    }
    expected.extend(0..next);
    assert_eq!(ids(&read(&data.spec(&["many"])).await.unwrap()), expected);
    assert_eq!(ids(&read(&data.spec(&["many/"])).await.unwrap()), expected);
    assert_eq!(ids(&read(&data.spec(&["many/*.parquet"])).await.unwrap()), expected);

    let files = ["many/part-00007.parquet", "many/part-00199.parquet", "many/part-00003.parquet"];
    let mut in_list = Vec::new();
    for file in files {
        in_list.extend(ids(&read(&data.spec(&[file])).await.unwrap()));
    }
    assert_eq!(ids(&read(&data.spec(&files)).await.unwrap()), in_list);
    // A file that is listed twice is read once.
    let twice = [files[0], files[1], files[2], "many/part-0000[37].parquet"];
    assert_eq!(ids(&read(&data.spec(&twice)).await.unwrap()), in_list);

    // The same with a predicate and a limit.
    let mut spec = data.spec(&["many"]);
    spec.predicate = Some("id % 3 = 1".to_owned());
    spec.limit = Some(5000);
    let filtered: Vec<_> = expected.into_iter().filter(|id| id % 3 == 1).take(5000).collect();
    assert_eq!(ids(&read(&spec).await.unwrap()), filtered);
}

#[tokio::test]
async fn csv_files_come_in_order_and_share_their_types() {
    let data = Data::new();
    let mut expected = Vec::new();
    for file in 0..50 {
        let mut text = "id,note\n".to_owned();
        for row in 0..100 {
            let id = file * 100 + row;
            // Only the very last row makes `note` a text.
            let note = if id == 4999 { "word".to_owned() } else { id.to_string() };
            text += &format!("{id},{note}\n");
            expected.push(id);
        }
        data.put(&format!("part-{file:02}.csv"), text);
    }
    let batch = read(&data.spec(&["*.csv"])).await.unwrap();
    assert_eq!(ids(&batch), expected);
    assert_eq!(batch.schema().field(1).data_type(), &DataType::Utf8);
}

#[tokio::test]
async fn hive_partitions_are_columns_however_the_path_is_written() {
    let data = Data::new();
    data.put_parquet("t/lang=de/year=2023/b.parquet", &rows(0..2));
    data.put_parquet("t/lang=en/year=2024/a.parquet", &rows(2..3));
    data.put_parquet("t/lang=__HIVE_DEFAULT_PARTITION__/year=a%2Fb/a.parquet", &rows(3..4));
    data.put("t/_SUCCESS", "");
    data.put("t/lang=en/year=2024/.part.crc", "x");
    data.put("t/_hfauto/tmp/x.parquet", "not Parquet");
    let all = [
        "id|text|lang|year",
        "3|text 3||a/b",
        "0|text 0|de|2023",
        "1|text 1|de|2023",
        "2|text 2|en|2024",
    ];
    for path in ["t", "t/**/*.parquet", "t/lang=*", "t/lang=*/year=*/*.parquet"] {
        assert_eq!(table(&read(&data.spec(&[path])).await.unwrap()), all, "{path}");
    }
    let one = ["id|text|lang|year", "2|text 2|en|2024"];
    for path in ["t/lang=en", "t/lang=en/year=2024/a.parquet", "t/lang=e?/*/*.parquet"] {
        assert_eq!(table(&read(&data.spec(&[path])).await.unwrap()), one, "{path}");
    }
}

#[tokio::test]
async fn a_predicate_on_partitions_skips_files_and_others_reach_the_scan() {
    let data = Data::new();
    data.put_parquet("lang=de/a.parquet", &rows(0..2));
    data.put_parquet("lang=en/a.parquet", &rows(2..4));
    let mut spec = data.spec(&[""]);
    spec.predicate = Some("lang = 'en' AND id > 2".to_owned());
    let source = open(&spec).await.unwrap();
    assert_eq!(source.rows, None);
    let plan = source.dataframe.clone().create_physical_plan().await.unwrap();
    let plan = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
    assert!(plan.contains("lang=en/a.parquet") && !plan.contains("lang=de"), "{plan}");
    assert!(plan.contains("predicate=") && plan.contains("id@0 > 2"), "{plan}");
    assert_eq!(ids(&read(&spec).await.unwrap()), [3]);
    spec.predicate = Some("lang = 'fr'".to_owned());
    assert_eq!(read(&spec).await.unwrap().num_rows(), 0);
    spec.select = Some(vec!["lang".to_owned(), "id".to_owned()]);
    assert_eq!(read(&spec).await.unwrap().num_columns(), 2);
}

#[tokio::test]
async fn a_parquet_file_with_one_row_group_is_divided_by_rows() {
    let data = Data::new();
    data.put_parquet("t/a.parquet", &rows(0..1000));
    data.put_parquet("t/b.parquet", &rows(1000..1500));
    let source = open(&data.spec(&["t"])).await.unwrap();
    let plan = source.dataframe.clone().create_physical_plan().await.unwrap();
    assert_eq!(plan.output_partitioning().partition_count(), 1);
    let context = Arc::new(source.dataframe.task_ctx());
    // DataFusion divides the scan below by bytes first.
    let mut options = context.session_config().options().as_ref().clone();
    options.optimizer.repartition_file_min_size = 0;
    let by_bytes = plan.children()[0].repartitioned(3, &options).unwrap().unwrap();
    let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    let by_bytes = Arc::clone(&plan).replace_children(vec![by_bytes], recompute).unwrap();
    let divide = |target| plan.repartitioned(target, &options).unwrap().unwrap();
    for (divided, expected) in [
        (divide(2), vec![750, 750]),
        (divide(4), vec![375; 4]),
        (divide(64), vec![300; 5]),
        (by_bytes, vec![500; 3]),
    ] {
        let mut read = Vec::new();
        let mut counts = Vec::new();
        for partition in 0..divided.output_partitioning().partition_count() {
            let stream = divided.execute(partition, Arc::clone(&context)).unwrap();
            let batches: Vec<RecordBatch> = stream.map(Result::unwrap).collect().await;
            let found: Vec<i64> = batches.iter().flat_map(ids).collect();
            counts.push(found.len());
            read.extend(found);
        }
        assert_eq!(counts, expected);
        assert_eq!(read, (0..1500).collect::<Vec<i64>>());
    }
    // Too few rows for more than one partition.
    data.put_parquet("few.parquet", &rows(0..300));
    let few = open(&data.spec(&["few.parquet"])).await.unwrap();
    let plan = few.dataframe.clone().create_physical_plan().await.unwrap();
    let divided = plan.repartitioned(4, context.session_config().options()).unwrap();
    let count = divided.map_or(1, |plan| plan.output_partitioning().partition_count());
    assert_eq!(count, 1);
}

#[tokio::test]
async fn select_where_and_limit() {
    let data = Data::new();
    data.put("a.csv", "Id,reviewText,odd name\n1,a,x\n2,b,y\n3,c,z\n4,d,w\n");
    let mut spec = data.spec(&["a.csv"]);
    spec.select = Some(vec!["odd name".to_owned(), "Id".to_owned()]);
    spec.predicate = Some("reviewText <> 'b' AND UPPER(reviewText) < 'Z'".to_owned());
    spec.limit = Some(2);
    assert_eq!(table(&read(&spec).await.unwrap()), ["odd name|Id", "x|1", "z|3"]);
    spec.predicate = Some("\"odd name\" IN ('w')".to_owned());
    assert_eq!(table(&read(&spec).await.unwrap()), ["odd name|Id", "w|4"]);
    spec.predicate = None;
    assert_eq!(open(&spec).await.unwrap().rows, Some(2));
    spec.limit = Some(100);
    assert_eq!(open(&spec).await.unwrap().rows, Some(4));
}

#[tokio::test]
async fn with_a_limit_only_the_rows_that_are_needed_are_inspected() {
    let data = Data::new();
    let mut text = "id\n".to_owned();
    for id in 0..20_000 {
        text += &format!("{id}\n");
    }
    text += "1,2\n";
    data.put("a.csv", text);
    let mut spec = data.spec(&["a.csv"]);
    assert_eq!(read_error(&spec).await.kind(), ErrorKind::Data);
    spec.limit = Some(10);
    let source = open(&spec).await.unwrap();
    assert_eq!((source.rows, source.files[0].rows), (Some(10), None));
    assert_eq!(ids(&read(&spec).await.unwrap()), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn wrong_columns_and_predicates_are_pipeline_errors() {
    let data = Data::new();
    data.put("a.csv", "id,reviewText\n1,a\n");
    let mut spec = data.spec(&["a.csv"]);
    spec.select = Some(vec!["reviewtext".to_owned()]);
    let error = read_error(&spec).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "`source.select`: the source has no column `reviewtext`\n  at job.yaml:2:1\n\
         hint: did you mean `reviewText`? columns are `id`, `reviewText`"
    );
    spec.select = Some(vec!["id".to_owned(), "id".to_owned()]);
    assert!(read_error(&spec).await.message().contains("twice"));
    spec.select = None;
    for predicate in [
        "lang = 'en'",
        "id =",
        "id",
        "no_such_function(id)",
        "id = 1; DROP TABLE x",
        "lower(id, id, id) = 'x'",
        "sum(id) > 1",
    ] {
        spec.predicate = Some(predicate.to_owned());
        let error = read_error(&spec).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{predicate}: {error}");
        assert!(error.message().starts_with("`source.where` is not a predicate"), "{error}");
    }
}

#[tokio::test]
async fn csv_without_header_and_with_another_delimiter() {
    let data = Data::new();
    data.put("a.csv", "1;\"x;y\"\n2;\n");
    let mut spec = data.spec(&["a.csv"]);
    spec.csv = CsvSpec { delimiter: b';', has_header: false, ..CsvSpec::default() };
    assert_eq!(table(&read(&spec).await.unwrap()), ["column_1|column_2", "1|x;y", "2|"]);
}

#[tokio::test]
async fn csv_types_read_as_they_were_inferred() {
    let data = Data::new();
    data.put(
        "a.csv",
        "\u{feff}b,i,f,d,t,zip\ntrue,-1,.5,2024-02-29,2024-02-29 01:02:03.5,00123\n\
         FALSE,,1e3,1900-01-01,1900-01-01T00:00:00,\n,9223372036854775807,NaN,,,1\n",
    );
    let batch = read(&data.spec(&["a.csv"])).await.unwrap();
    let types: Vec<_> = batch.schema().fields().iter().map(|f| f.data_type().clone()).collect();
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(
        types,
        [
            DataType::Boolean,
            DataType::Int64,
            DataType::Float64,
            DataType::Date32,
            timestamp,
            DataType::Utf8
        ]
    );
    assert_eq!(
        table(&batch)[1..],
        [
            "true|-1|0.5|2024-02-29|2024-02-29T01:02:03.500|00123",
            "false||1000.0|1900-01-01|1900-01-01T00:00:00|",
            "|9223372036854775807|NaN|||1",
        ]
    );
}

#[tokio::test]
async fn jsonl_reads_fields_that_come_late_and_nested_ones() {
    let data = Data::new();
    let mut text = String::new();
    for id in 0..2000 {
        text += &format!("{{\"id\":{id}}}\n");
    }
    text += "{\"id\":2000,\"late\":{\"tags\":[\"a\",null],\"n\":18446744073709551615}}\n";
    data.put("a.jsonl", text);
    data.put("b.jsonl", "{\"extra\":1.5}\n");
    let batch = read(&data.spec(&["a.jsonl", "b.jsonl"])).await.unwrap();
    assert_eq!(batch.num_rows(), 2002);
    assert_eq!(table(&batch)[2001..], ["2000|{tags: [a, ], n: 18446744073709551615}|", "||1.5"]);
}

#[tokio::test]
async fn parquet_files_may_gain_columns_and_wider_types() {
    let data = Data::new();
    let narrow = RecordBatch::try_from_iter([(
        "id",
        Arc::new(arrow::array::Int32Array::from(vec![1])) as ArrayRef,
    )])
    .unwrap();
    data.put_parquet("a.parquet", &narrow);
    data.put_parquet("b.parquet", &rows(2..3));
    let batch = read(&data.spec(&["a.parquet", "b.parquet"])).await.unwrap();
    assert_eq!(table(&batch), ["id|text", "1|", "2|text 2"]);
    assert_eq!(batch.schema().field(0).data_type(), &DataType::Int64);
}

#[tokio::test]
async fn files_that_do_not_fit_together_are_named() {
    let data = Data::new();
    data.put("a.csv", "id,text\n1,x\n");
    data.put("d.jsonl", "{\"id\":1}\n");
    data.put("e.jsonl", "{\"id\":\"x\"}\n");
    data.put_parquet("f.parquet", &rows(0..1));
    let other =
        RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]);
    data.put_parquet("g.parquet", &other.unwrap());
    data.put("lang=en/h.csv", "id,text\n1,x\n");
    let check = async |paths: &[&str], kind: ErrorKind, expected: &str| {
        let error = read_error(&data.spec(paths)).await;
        assert_eq!((error.kind(), data.shown(error.message())), (kind, expected.to_owned()));
    };
    use ErrorKind::{Config, Data as Bad};
    check(
        &["d.jsonl", "e.jsonl"],
        Bad,
        "field `id` is a string in this file and a number in one before",
    )
    .await;
    check(
        &["f.parquet", "g.parquet"],
        Bad,
        "`/f.parquet` and `/g.parquet` have different columns: column `id` is Int64 and Utf8",
    )
    .await;
    check(
        &["a.csv", "d.jsonl"],
        Config,
        "a source reads files of one format: `/a.csv` is CSV, `/d.jsonl` is JSONL",
    )
    .await;
    check(
        &["a.csv", "lang=en/h.csv"],
        Bad,
        "files differ in their hive partitions: `/a.csv` has none, `/lang=en/h.csv` has `lang`",
    )
    .await;
}

#[tokio::test]
async fn missing_input_is_missing_input() {
    let data = Data::new();
    data.put("empty/_SUCCESS", "");
    data.put("odd/notes.txt", "x");
    data.put("file", "x");
    std::os::unix::fs::symlink("/nowhere", data.path("gone.csv")).unwrap();
    let check = async |path: &str, kind: ErrorKind, expected: &str| {
        let error = read_error(&data.spec(&[path])).await;
        assert_eq!((error.kind(), data.shown(error.message())), (kind, expected.to_owned()));
        assert!(error.places().contains(&"job.yaml:2:1".to_owned()), "{error}");
    };
    use ErrorKind::{Config, NoInput};
    check("no.csv", NoInput, "`/no.csv` does not exist").await;
    check("no/*.csv", NoInput, "nothing matches `/no/*.csv`").await;
    check("[", Config, "`/[` is not a glob: invalid range pattern").await;
    check("empty", NoInput, "the folder `/empty` has no files").await;
    check(
        "odd",
        NoInput,
        "the folder `/odd` has no file of a known format, but there is `/odd/notes.txt`",
    )
    .await;
    check("file", Config, "cannot tell the format of `/file` from its name").await;
    check("file/a.csv", NoInput, "cannot open `/file/a.csv`").await;
    check("gone.csv", NoInput, "`/gone.csv` does not exist").await;
    assert_eq!(NoInput.exit_code(), 66);
    let error = read_error(&data.spec(&["/x/hdfs://bucket/a"])).await;
    assert!(error.message().contains("unknown scheme"), "{error}");
}

#[tokio::test]
async fn a_name_without_extension_reads_with_a_format() {
    let data = Data::new();
    data.put("export", "id\n1\n");
    data.put("dump.gz", compress("x.gz", b"id\n2\n"));
    let mut spec = data.spec(&["export"]);
    spec.format = Some(FileFormat::Csv);
    assert_eq!(ids(&read(&spec).await.unwrap()), [1]);
    spec.paths = data.spec(&["*.gz"]).paths;
    assert_eq!(ids(&read(&spec).await.unwrap()), [2]);
}

#[tokio::test]
async fn odd_file_names_are_read() {
    let data = Data::new();
    for name in ["a b#1%20é.csv", "x[1].csv", "q?.csv", "sub/../dots.csv"] {
        data.path("sub/x");
        data.put(name, "id\n1\n");
        assert_eq!(ids(&read(&data.spec(&[name])).await.unwrap()), [1], "{name}");
    }
}

#[tokio::test]
async fn broken_files_are_named() {
    let data = Data::new();
    let whole = fs::read(data.put_parquet("whole.parquet", &rows(0..1000))).unwrap();
    data.put("cut.parquet", &whole[..whole.len() / 2]);
    data.put("tiny.parquet", "PAR1");
    data.put("zero.parquet", "");
    data.put("text.parquet", "id,text\n1,x\n".repeat(100));
    data.put("cut.arrow", b"ARROW1\0\0\xff\xff\xff\xff");
    data.put("text.arrow", "hello, world");
    data.put("ragged.csv", "id,text\n1,x\n2\n");
    data.put("latin1.csv", b"id,text\n1,\xe9\n");
    data.put("bad.jsonl", "{\"id\":1}\n{\"id\":\n");
    data.put("zero.csv", "");
    let csv: String = (0..10_000).map(|id| format!("{id},some text {id}\n")).collect();
    for name in ["cut.csv.gz", "cut.csv.zst"] {
        let packed = compress(name, csv.as_bytes());
        data.put(name, &packed[..packed.len() / 2]);
    }
    data.put("not.csv.gz", "id,text\n1,x\n");
    let mut flipped = compress("x.gz", csv.as_bytes());
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    data.put("flipped.jsonl.gz", flipped);
    let check = async |name: &str, expected: &str| {
        let error = read_error(&data.spec(&[name])).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{name}: {error}");
        let text = data.shown(&error.to_string());
        assert!(text.contains(&format!("/{name}")) && text.contains(expected), "{name}: {text}");
    };
    check("cut.parquet", "is not a whole Parquet file").await;
    check("tiny.parquet", "is not a whole Parquet file").await;
    check("zero.parquet", "is not a whole Parquet file").await;
    check("text.parquet", "is not a whole Parquet file").await;
    check("cut.arrow", "is not a whole Arrow IPC file").await;
    check("text.arrow", "is not a whole Arrow IPC file").await;
    check("ragged.csv", "line 3 has 1 field, the header (line 1) has 2").await;
    check("latin1.csv", "line 2, column `text`: the text is not UTF-8").await;
    check("bad.jsonl", "line 2 is not JSON").await;
    check("zero.csv", "has no columns").await;
    check("cut.csv.gz", "the file").await;
    check("cut.csv.zst", "the file").await;
    check("not.csv.gz", "cannot read the file after line").await;
    check("flipped.jsonl.gz", "line").await;
    assert_eq!(ErrorKind::Data.exit_code(), 65);
}

/// Reads the rows after applying `change` to an opened source.
async fn read_after(spec: &SourceSpec, change: impl FnOnce()) -> Error {
    let source = open(spec).await.unwrap();
    change();
    let result = source.dataframe.collect().await;
    source::stream_error(result.expect_err("broken rows were read"), &source.files)
}

#[tokio::test]
async fn files_that_break_after_the_check_are_named() {
    let data = Data::new();
    let check = |error: Error, kind: ErrorKind, file: &str| {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(data.shown(&error.to_string()).contains(file), "{error}");
    };
    // Damaged pages between valid footers.
    let path = data.put_parquet("pages.parquet", &rows(0..5000));
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() / 2;
    bytes[4..end].fill(0xff);
    let spec = data.spec(&["pages.parquet"]);
    let error = read_after(&spec, || fs::write(&path, bytes).unwrap()).await;
    check(error, ErrorKind::Data, "/pages.parquet");

    for name in ["x/a.parquet", "x/b.parquet", "x/c.parquet"] {
        data.put_parquet(name, &rows(0..100));
    }
    let cut = data.path("x/b.parquet");
    let error = read_after(&data.spec(&["x"]), || fs::write(&cut, "PAR1").unwrap()).await;
    check(error, ErrorKind::Data, "/x/b.parquet");

    let csv = data.put("a.csv", "id,text\n1,x\n");
    let spec = data.spec(&["a.csv"]);
    let error = read_after(&spec, || fs::write(&csv, "id,text\n1,x,y\n").unwrap()).await;
    check(error, ErrorKind::Data, "/a.csv");
    fs::write(&csv, "id,text\n1,x\n").unwrap();
    let error = read_after(&spec, || fs::write(&csv, "id,text\nx,x\n").unwrap()).await;
    check(error, ErrorKind::Data, "/a.csv");
    fs::write(&csv, "id,text\n1,x\n").unwrap();
    let error = read_after(&spec, || fs::write(&csv, b"id,text\n1,\xff\n").unwrap()).await;
    check(error, ErrorKind::Data, "/a.csv");
    fs::write(&csv, "id,text\n1,x\n").unwrap();
    let error = read_after(&spec, || fs::remove_file(&csv).unwrap()).await;
    check(error, ErrorKind::NoInput, "/a.csv");
}

#[tokio::test]
async fn errors_of_sql_steps_have_their_kind() {
    let data = Data::new();
    data.put("a.csv", "id,text\n0,x\n");
    let ctx = source::session(None).unwrap();
    let source = source::open(&ctx, &data.spec(&["a.csv"])).await.unwrap();
    ctx.register_table("input", source.dataframe.into_view()).unwrap();
    let run = async |sql: &str| {
        let error = match ctx.sql(sql).await {
            Ok(dataframe) => dataframe.collect().await.expect_err("an error"),
            Err(error) => error,
        };
        source::stream_error(error, &source.files)
    };
    assert_eq!(run("SELECT nope FROM input").await.kind(), ErrorKind::Config);
    assert_eq!(run("SELEC 1").await.kind(), ErrorKind::Config);
    assert_eq!(run("SELECT 1 / id FROM input").await.kind(), ErrorKind::Data);
    assert_eq!(run("SELECT CAST(text AS BIGINT) FROM input").await.kind(), ErrorKind::Data);
}

#[tokio::test]
async fn memory_that_runs_out_is_a_resource() {
    let data = Data::new();
    data.put_parquet("a.parquet", &rows(0..200_000));
    let ctx = source::session(Some(100_000)).unwrap();
    let source = source::open(&ctx, &data.spec(&["a.parquet"])).await.unwrap();
    ctx.register_table("input", source.dataframe.into_view()).unwrap();
    let sql = "SELECT array_agg(text) FROM input GROUP BY id % 10";
    let error = ctx.sql(sql).await.unwrap().collect().await.unwrap_err();
    let error = source::stream_error(error, &source.files);
    assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
}

#[tokio::test]
async fn types_of_the_file_are_kept() {
    let data = Data::new();
    let views: arrow::array::StringViewArray = ["a", "b"].into_iter().map(Some).collect();
    let dictionary: arrow::array::DictionaryArray<arrow::datatypes::Int32Type> =
        ["x", "x"].into_iter().collect();
    let large = arrow::array::LargeStringArray::from(vec!["p", "q"]);
    let batch = RecordBatch::try_from_iter([
        ("utf8", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef),
        ("view", Arc::new(views) as _),
        ("large", Arc::new(large) as _),
        ("dictionary", Arc::new(dictionary) as _),
    ])
    .unwrap();
    data.put_parquet("a.parquet", &batch);
    assert_eq!(read(&data.spec(&["a.parquet"])).await.unwrap().columns(), batch.columns());
}
