//! Every type through every sink: it arrives unchanged, or its column is refused by name.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, Date32Array, Date64Array, Decimal32Array, Decimal64Array,
    Decimal256Array, DictionaryArray, DurationSecondArray, FixedSizeBinaryArray, Float16Array,
    Int32Array, Int64Array, IntervalDayTimeArray, IntervalMonthDayNanoArray,
    IntervalYearMonthArray, ListArray, ListViewArray, MapBuilder, NullArray, RecordBatch, RunArray,
    StringArray, StringBuilder, StructArray, Time32MillisecondArray, Time32SecondArray,
    Time32SecondBuilder, Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UnionArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Int8Type, Int32Type, IntervalDayTime, IntervalMonthDayNano, Schema, TimeUnit,
    UnionFields, i256,
};
use half::f16;
use hfauto_pipe::config::pipeline::{FileFormat, SinkSpec};
use hfauto_pipe::sink::{Sink, SinkOptions};
use hfauto_pipe::{Error, ErrorKind};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::support::Fixture;

/// 2024-03-31T01:00:00Z.
const MOMENT: i64 = 1_711_846_800;

fn spec(path: &Path, format: FileFormat) -> SinkSpec {
    SinkSpec {
        delta: None,
        path: path.to_owned(),
        format,
        compression: None,
        partition_by: Vec::new(),
        target_file_size_bytes: 256 << 20,
        location: "job.yaml:9:1".to_owned(),
    }
}

fn of_one(column: &ArrayRef) -> RecordBatch {
    let field = Field::new("x", column.data_type().clone(), true);
    RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(column)]).unwrap()
}

fn write(path: &Path, format: FileFormat, column: &ArrayRef) -> Result<(), Error> {
    let (spec, batch) = (spec(path, format), of_one(column));
    let checked = Sink::check_columns(&spec, batch.schema());
    let sink = Sink::create(&spec, batch.schema(), SinkOptions::default());
    // The check and the sink agree on what to refuse.
    let mut sink = match (checked, sink) {
        (Ok(()), Ok(sink)) => sink,
        (Err(error), Err(_)) => return Err(error),
        (checked, created) => panic!("{checked:?} {created:?}"),
    };
    // Row by row, because encoders receive slices.
    for row in 0..batch.num_rows() {
        sink.write(&batch.slice(row, 1))?;
    }
    sink.finish().map(drop)
}

fn refused(format: FileFormat, column: &ArrayRef) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let error = write(&path, format, column).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.message().contains("`x`"), "{error}");
    assert!(!path.exists());
    error
}

/// The column as other readers see it, without Arrow's schema in the Parquet file.
fn parquet(column: &ArrayRef) -> ArrayRef {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, FileFormat::Parquet, column).unwrap();
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let file = std::fs::File::open(&path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
    let mut batches = reader.build().unwrap();
    let batch = batches.next().unwrap().unwrap();
    Arc::clone(batch.column(0))
}

fn text(format: FileFormat, column: &ArrayRef) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("a.{}", format.name()));
    write(&path, format, column).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn arrow_file(column: &ArrayRef) -> ArrayRef {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.arrow");
    write(&path, FileFormat::Arrow, column).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let reader = arrow::ipc::reader::FileReader::try_new(file, None).unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    Arc::clone(arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap().column(0))
}

fn seconds() -> TimestampSecondArray {
    TimestampSecondArray::from(vec![Some(MOMENT), None, Some(-1)])
}

fn list_of(values: ArrayRef) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([2, 0, 1]);
    Arc::new(ListArray::new(item, offsets, values, None))
}

fn struct_of(values: ArrayRef) -> ArrayRef {
    let field = Field::new("a", values.data_type().clone(), true);
    Arc::new(StructArray::new(vec![field].into(), vec![values], None))
}

fn times_in_seconds() -> ArrayRef {
    Arc::new(Time32SecondArray::from(vec![Some(1), None, Some(86_399)]))
}

#[test]
fn times_are_times_in_parquet_whatever_their_unit() {
    let date64 = Date64Array::from(vec![Some(1_711_843_200_000), None, Some(-86_400_000)]);
    let date64: ArrayRef = Arc::new(date64);
    let millis =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Millisecond, zone.map(Into::into));
    let in_zone: ArrayRef = Arc::new(seconds().with_timezone("Europe/Berlin"));
    let seconds: ArrayRef = Arc::new(seconds());
    let keys = arrow::array::Int8Array::from(vec![Some(0), None, Some(2)]);
    let dictionary: ArrayRef =
        Arc::new(DictionaryArray::<Int8Type>::new(keys, Arc::clone(&seconds)));
    let runs: ArrayRef = {
        let ends = Int32Array::from(vec![2, 3, 4]);
        Arc::new(RunArray::<Int32Type>::try_new(&ends, &date64).unwrap())
    };
    let expected = [
        (Arc::clone(&seconds), millis(None)),
        // Without Arrow's schema, a zone reads back as UTC; with it, unchanged: see below.
        (Arc::clone(&in_zone), millis(Some("UTC"))),
        (Arc::clone(&date64), DataType::Date32),
        (times_in_seconds(), DataType::Time32(TimeUnit::Millisecond)),
        (dictionary, millis(None)),
        (runs, DataType::Date32),
    ];
    for (column, data_type) in expected {
        let read = parquet(&column);
        assert_eq!(read.data_type(), &data_type, "{}", column.data_type());
        let plain = match column.data_type() {
            DataType::Dictionary(_, values) => cast(&column, values).unwrap(),
            DataType::RunEndEncoded(_, values) => cast(&column, values.data_type()).unwrap(),
            _ => Arc::clone(&column),
        };
        assert_eq!(&cast(&read, plain.data_type()).unwrap(), &plain);
    }
    for (inner, stored) in [
        (Arc::clone(&seconds), millis(None)),
        (date64, DataType::Date32),
        (times_in_seconds(), DataType::Time32(TimeUnit::Millisecond)),
    ] {
        for nested in [list_of(Arc::clone(&inner)), struct_of(list_of(Arc::clone(&inner)))] {
            let read = parquet(&nested);
            assert!(
                read.data_type().to_string().contains(&stored.to_string()),
                "{}",
                read.data_type()
            );
            assert_eq!(cast(&read, nested.data_type()).unwrap().to_data(), nested.to_data());
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, FileFormat::Parquet, &in_zone).unwrap();
    let batch = super::support::read_parquet(&path);
    assert_eq!(batch.column(0).data_type(), &millis(Some("Europe/Berlin")));
}

#[test]
fn a_moment_beyond_the_range_of_a_file_is_an_error_and_no_null() {
    let folder = tempfile::tempdir().unwrap();
    let late: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
    for (format, expected) in [
        (FileFormat::Parquet, "is out of range for"),
        (FileFormat::Csv, "out of range: the calendar"),
        (FileFormat::Jsonl, "out of range: the calendar"),
    ] {
        for column in [Arc::clone(&late), struct_of(Arc::clone(&late))] {
            let path = folder.path().join(format!("out-{}", format.name()));
            let error = write(&path, format, &column).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data, "{error}");
            assert!(error.message().contains(expected), "{error}");
            assert!(!path.exists());
        }
    }
    let columns: [ArrayRef; 4] = [
        Arc::new(Date32Array::from(vec![i32::MIN])),
        Arc::new(Time32SecondArray::from(vec![86_400])),
        Arc::new(Time64NanosecondArray::from(vec![-1])),
        Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN]).with_timezone("+01:00")),
    ];
    for column in columns {
        let path = folder.path().join("out");
        let error = write(&path, FileFormat::Jsonl, &column).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{}: {error}", column.data_type());
    }
}

#[test]
fn times_are_written_as_text() {
    let seconds_in_zone: ArrayRef = Arc::new(seconds().with_timezone("+02:00"));
    let cases: [(ArrayRef, &str); 10] = [
        (Arc::new(seconds()), "2024-03-31T01:00:00"),
        (seconds_in_zone, "2024-03-31T03:00:00+02:00"),
        (
            Arc::new(TimestampNanosecondArray::from(vec![MOMENT * 1_000_000_000 + 1])),
            "2024-03-31T01:00:00.000000001",
        ),
        (Arc::new(Date32Array::from(vec![19_813])), "2024-03-31"),
        (times_in_seconds(), "00:00:01"),
        (Arc::new(Time32MillisecondArray::from(vec![1])), "00:00:00.001"),
        (Arc::new(Time64MicrosecondArray::from(vec![1])), "00:00:00.000001"),
        (Arc::new(DurationSecondArray::from(vec![1])), "PT1S"),
        (Arc::new(IntervalYearMonthArray::from(vec![14])), "1 years 2 mons"),
        (
            Arc::new(Decimal64Array::from(vec![-12_345]).with_precision_and_scale(18, 2).unwrap()),
            "-123.45",
        ),
    ];
    for (column, expected) in cases {
        let of_csv = text(FileFormat::Csv, &column);
        let of_jsonl = text(FileFormat::Jsonl, &column);
        if column.data_type().is_temporal() {
            assert_eq!(of_jsonl[0], format!("{{\"x\":\"{expected}\"}}"), "{}", column.data_type());
        }
        assert_eq!(of_csv[1], expected, "{}", column.data_type());
    }
}

#[test]
fn other_types_arrive_in_parquet_and_arrow_files() {
    let strings: ArrayRef = Arc::new(StringArray::from(vec![Some("p"), None, Some("q")]));
    let dictionary: DictionaryArray<Int32Type> = [Some("p"), None, Some("q")].into_iter().collect();
    let view = {
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let values = Arc::new(Int64Array::from(vec![1, 2, 3]));
        ListViewArray::new(item, vec![0, 2, 1].into(), vec![2, 1, 0].into(), values, None)
    };
    let map = {
        let mut map = MapBuilder::new(None, StringBuilder::new(), Time32SecondBuilder::new());
        for row in 0..3 {
            map.keys().append_value("k");
            map.values().append_value(row);
            map.append(true).unwrap();
        }
        map.finish()
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float16Array::from(vec![Some(f16::from_f32(0.5)), None, Some(f16::INFINITY)])),
        Arc::new(
            Decimal32Array::from(vec![Some(7), None, Some(-7)])
                .with_precision_and_scale(1, 0)
                .unwrap(),
        ),
        Arc::new(
            Decimal64Array::from(vec![Some(7), None, Some(-7)])
                .with_precision_and_scale(18, 3)
                .unwrap(),
        ),
        Arc::new(
            Decimal256Array::from(vec![
                Some(i256::MAX / i256::from(10)),
                None,
                Some(i256::MINUS_ONE),
            ])
            .with_precision_and_scale(76, 5)
            .unwrap(),
        ),
        Arc::new(
            FixedSizeBinaryArray::try_from_iter([b"ab", b"cd", b"\0\xff"].into_iter()).unwrap(),
        ),
        Arc::new(BinaryViewArray::from(vec![
            Some(&b"a longer text than twelve"[..]),
            None,
            Some(b""),
        ])),
        Arc::new(DurationSecondArray::from(vec![Some(1), None, Some(-3)])),
        Arc::new(NullArray::new(3)),
        Arc::new(view),
        Arc::new(map),
        list_of(Arc::new(dictionary.clone())),
        struct_of(Arc::new(dictionary)),
        list_of(strings),
    ];
    for column in columns {
        let data_type = column.data_type();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path, FileFormat::Parquet, &column).unwrap();
        let batch = super::support::read_parquet(&path);
        let in_parquet = cast(batch.column(0), data_type).unwrap();
        let shown = |column: &ArrayRef| {
            let options = arrow::util::display::FormatOptions::default();
            let shown = arrow::util::display::ArrayFormatter::try_new(column, &options).unwrap();
            (0..column.len()).map(|row| shown.value(row).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(shown(&in_parquet), shown(&column), "{data_type}");
        let in_arrow = arrow_file(&column);
        assert_eq!(shown(&in_arrow), shown(&column), "{data_type}");
    }
    let runs: ArrayRef = {
        let (ends, values) = (Int32Array::from(vec![2, 3]), StringArray::from(vec!["a", "b"]));
        Arc::new(RunArray::<Int32Type>::try_new(&ends, &values).unwrap())
    };
    for read in [parquet(&runs), cast(&arrow_file(&runs), &DataType::Utf8).unwrap()] {
        let expected: ArrayRef = Arc::new(StringArray::from(vec!["a", "a", "b"]));
        assert_eq!(read.to_data(), expected.to_data());
    }
}

#[test]
fn unsupported_types_are_refused_with_column_type_and_remedy() {
    let union: ArrayRef = {
        let fields = UnionFields::from_fields(vec![Field::new("i", DataType::Int32, true)]);
        let values: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        Arc::new(UnionArray::try_new(fields, vec![0].into(), None, vec![values]).unwrap())
    };
    let empty: ArrayRef = Arc::new(StructArray::new_empty_fields(1, None));
    let nano = IntervalMonthDayNano::new(1, 2, 3);
    let intervals: [ArrayRef; 3] = [
        Arc::new(IntervalYearMonthArray::from(vec![1])),
        Arc::new(IntervalDayTimeArray::from(vec![IntervalDayTime::new(1, -1)])),
        Arc::new(IntervalMonthDayNanoArray::from(vec![nano])),
    ];
    for interval in &intervals {
        for column in [Arc::clone(interval), struct_of(Arc::clone(interval))] {
            let error = refused(FileFormat::Parquet, &column);
            let remedy = error.remedy().unwrap();
            assert!(remedy.contains("CAST(x AS VARCHAR), or write jsonl or arrow"), "{remedy}");
        }
        arrow_file(interval);
    }
    let error = refused(FileFormat::Parquet, &union);
    assert!(error.message().contains("Union"), "{error}");
    assert_eq!(error.remedy(), Some("leave the column out with a `sql` step, or write arrow"));
    for format in [FileFormat::Csv, FileFormat::Jsonl] {
        refused(format, &union);
    }
    let error = refused(FileFormat::Parquet, &empty);
    assert!(error.message().contains("empty struct"), "{error}");
    let remedy = error.remedy().unwrap();
    assert!(remedy.ends_with("or write jsonl or arrow"), "{remedy}");
    let binary: ArrayRef = Arc::new(BinaryViewArray::from(vec![&b"\0"[..]]));
    let error = refused(FileFormat::Csv, &struct_of(binary));
    assert!(error.remedy().unwrap().ends_with("or write parquet or jsonl or arrow"), "{error}");
    let nowhere: ArrayRef = Arc::new(seconds().with_timezone("Nowhere/Land"));
    for format in [FileFormat::Csv, FileFormat::Jsonl] {
        refused(format, &nowhere);
    }
}

/// Types are checked when a job is planned, before a model is loaded or a row computed.
#[test]
fn plan_refuses_what_the_sink_cannot_hold() {
    let fixture = Fixture::new();
    let column: ArrayRef = Arc::new(IntervalYearMonthArray::from(vec![1]));
    let batch = of_one(&column);
    let file = std::fs::File::create(fixture.path("in.arrow")).unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    fixture.file(
        "p.yaml",
        "version: 1\nsource: {path: in.arrow}\nsteps: [{sql: 'SELECT x, x AS y FROM input'}]\n\
         sink: {path: out/}\n",
    );
    for verb in ["plan", "run"] {
        fixture
            .run(&[verb, "p.yaml"])
            .fails(78, &["cannot hold the column `x`", "Interval", "CAST(x"]);
    }
    fixture.run(&["run", "p.yaml", "--set", "sink.format=jsonl"]).succeeds();
    let ran = fixture.run(&["sql", "SELECT x FROM 'in.arrow'", "-o", "x.parquet"]);
    ran.fails(78, &["cannot hold the column `x`"]);
}

#[test]
fn seconds_of_sql_are_timestamps_in_parquet() {
    let fixture = Fixture::new();
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![MOMENT]));
    let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let file = std::fs::File::create(fixture.path("in.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let query = "SELECT from_unixtime(id) AS a, to_timestamp_seconds(id) AS b, \
                 CAST('2024-03-31 01:00:00' AS TIMESTAMP(0)) AS c, \
                 date_trunc('day', from_unixtime(id)) AS d FROM input";
    fixture.file(
        "p.yaml",
        format!("version: 1\nsource: {{path: in.parquet}}\nsteps:\n- sql: \"{query}\"\nsink: {{path: out.parquet}}\n"),
    );
    fixture.run(&["run", "p.yaml"]).succeeds();
    let query = query.replace("FROM input", "FROM 'in.parquet'");
    fixture.run(&["sql", &query, "-o", "sql.parquet"]).succeeds();
    fixture.run(&["sql", &format!("COPY ({query}) TO 'copy.parquet'")]).succeeds();
    for name in ["out.parquet", "sql.parquet", "copy.parquet"] {
        let file = std::fs::File::open(fixture.path(name)).unwrap();
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            assert!(matches!(field.data_type(), DataType::Timestamp(..)), "{name}: {field}");
            let utc = DataType::Timestamp(TimeUnit::Second, None);
            let read = cast(column, &utc).unwrap();
            let moment = if field.name() == "d" { MOMENT - 3600 } else { MOMENT };
            let expected: ArrayRef = Arc::new(TimestampSecondArray::from(vec![moment]));
            assert_eq!(&read, &expected, "{name}: {field}");
        }
    }
}
