//! Text formats: numbers that keep their digits, given types, dialects, encodings, limits; and several files as one
//! table.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date64Array, Decimal128Array, DictionaryArray, DurationSecondArray, Float64Array,
    Int32Array, Int64Array, IntervalDayTimeArray, IntervalYearMonthArray, ListArray, NullArray,
    RecordBatch, StringArray, StructArray, Time32MillisecondArray, Time32SecondArray,
    Time64NanosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{
    DataType, Field, Int8Type, Int16Type, Int32Type, IntervalDayTime, TimeUnit,
};
use datafusion::arrow;
use hfauto_pipe::ErrorKind;
use hfauto_pipe::config::pipeline::{ColumnType, CsvSpec, SchemaMode, TextEncoding};

use super::source::{Data, compress, ids, open, read, read_error, rows, table};
use super::support::Fixture;

fn types(batch: &RecordBatch) -> String {
    let schema = batch.schema();
    let of = |field: &Arc<Field>| format!("{}: {}", field.name(), field.data_type());
    schema.fields().iter().map(of).collect::<Vec<_>>().join(", ")
}

fn put_arrow(data: &Data, name: &str, batch: &RecordBatch) {
    let file = fs::File::create(data.path(name)).unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(file, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
}

fn one(name: &str, column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([(name, column, true)]).unwrap()
}

#[tokio::test]
async fn numbers_keep_their_digits_in_csv_and_jsonl() {
    // One column of each kind, and the type inferred for it.
    let columns: [(&[&str], &str, &[&str]); 8] = [
        (&["1", "2.5"], "Float64", &["1.0", "2.5"]),
        (&["9007199254740993", "2.5"], "Utf8", &["9007199254740993", "2.5"]),
        (&["9007199254740993", "2"], "Int64", &["9007199254740993", "2"]),
        (
            &["123456789012345678901234567890", "7"],
            "Utf8",
            &["123456789012345678901234567890", "7"],
        ),
        (&["123456789012345678.91", "1"], "Utf8", &["123456789012345678.91", "1"]),
        (&["0.30000000000000004", "1e5"], "Float64", &["0.30000000000000004", "100000.0"]),
        (&["1e400", "-1"], "Utf8", &["1e400", "-1"]),
        (&["-9223372036854775809", "0"], "Utf8", &["-9223372036854775809", "0"]),
    ];
    for (values, data_type, expected) in columns {
        let data = Data::new();
        data.put("a.csv", format!("n\n{}\n{}\n", values[0], values[1]));
        data.put("a.jsonl", format!("{{\"n\":{}}}\n{{\"n\": {} }}\n", values[0], values[1]));
        // The rows of several files form one column.
        data.put("two/1.csv", format!("n\n{}\n", values[0]));
        data.put("two/2.csv", format!("n\n{}\n", values[1]));
        data.put("three/1.jsonl", format!("{{\"n\":{}}}\n", values[0]));
        data.put("three/2.jsonl", format!("{{\"n\":{}}}\n", values[1]));
        for path in ["a.csv", "a.jsonl", "two", "three"] {
            let batch = read(&data.spec(&[path])).await.unwrap();
            assert_eq!(types(&batch), format!("n: {data_type}"), "{path} {values:?}");
            assert_eq!(table(&batch)[1..], *expected, "{path}");
        }
        data.put(
            "nested.jsonl",
            format!("{{\"s\":[{{\"n\":{}}},{{\"n\":{}}}]}}\n", values[0], values[1]),
        );
        let nested = read(&data.spec(&["nested.jsonl"])).await.unwrap();
        let shown = format!("[{{n: {}}}, {{n: {}}}]", expected[0], expected[1]);
        assert_eq!(table(&nested)[1], shown);
    }
    // An unsigned integer next to a negative one.
    let data = Data::new();
    data.put("a.jsonl", "{\"n\":18446744073709551615}\n{\"n\":-1}\n");
    let source = open(&data.spec(&["a.jsonl"])).await.unwrap();
    assert!(source.notes[0].contains("18446744073709551615 (line 1 of"), "{:?}", source.notes);
    assert_eq!(
        table(&read(&data.spec(&["a.jsonl"])).await.unwrap())[1..],
        ["18446744073709551615", "-1"]
    );
}

#[tokio::test]
async fn columns_have_the_types_that_they_are_given() {
    let data = Data::new();
    data.put("a.csv", "sku,n,seen,on\n1E5,1,2024-01-02 03:04:05,2024-01-02\n007,NA,,\n");
    data.put("a.jsonl", "{\"sku\":1E5,\"n\":1,\"seen\":\"2024-01-02T03:04:05\",\"on\":\"2024-01-02\"}\n{\"sku\":\"007\",\"n\":null}\n");
    let given = [
        ("sku", ColumnType::String),
        ("n", ColumnType::Float64),
        ("seen", ColumnType::String),
        ("on", ColumnType::Timestamp),
    ];
    for (path, seen) in [("a.csv", "2024-01-02 03:04:05"), ("a.jsonl", "2024-01-02T03:04:05")] {
        let mut spec = data.spec(&[path]);
        spec.types = given.map(|(name, given)| (name.to_owned(), given)).into();
        spec.csv.null_values = vec!["NA".to_owned()];
        let batch = read(&spec).await.unwrap();
        let expected = "sku: Utf8, n: Float64, seen: Utf8, on: Timestamp(µs)";
        assert_eq!(types(&batch), expected, "{path}");
        assert_eq!(
            table(&batch)[1..],
            [format!("1E5|1.0|{seen}|2024-01-02T00:00:00"), "007|||".to_owned()]
        );
        spec.types.insert("n".to_owned(), ColumnType::Date);
        let error = read_error(&spec).await;
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(
            error.message(),
            format!(
                "line {}, column `n`: `1` is not of type date",
                if path == "a.csv" { 2 } else { 1 }
            )
        );
        assert!(error.places().iter().any(|place| place.ends_with(path)), "{error}");
        spec.types.insert("skuu".to_owned(), ColumnType::String);
        spec.types.remove("n");
        let error = read_error(&spec).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("did you mean `sku`?"), "{error}");
    }
    data.put_parquet("a.parquet", &rows(0..1));
    let mut spec = data.spec(&["a.parquet"]);
    spec.types.insert("id".to_owned(), ColumnType::String);
    let error = read_error(&spec).await;
    assert!(error.message().contains("parquet files declare their types"), "{error}");
}

#[tokio::test]
async fn codes_stay_as_they_are_written() {
    let data = Data::new();
    let codes = ["007", "+4930", "1_000", "0x10", "inf", "T", "12-34", "1.2.3", "2024-1-1"];
    let header: Vec<String> = (0..codes.len()).map(|index| format!("c{index}")).collect();
    data.put("a.csv", format!("{}\n{}\n", header.join(","), codes.join(",")));
    let batch = read(&data.spec(&["a.csv"])).await.unwrap();
    assert_eq!(table(&batch)[1], codes.join("|"));
}

#[tokio::test]
async fn csv_dialects_are_read() {
    let data = Data::new();
    data.put(
        "a.csv",
        "# it's made by hand\nid|text|n\n1|'x|y'|NULL\n# 2|x|y\n3|'it''s \\'so\\''|-\n4|\"z|7\n",
    );
    let mut spec = data.spec(&["a.csv"]);
    spec.csv = CsvSpec {
        delimiter: b'|',
        quote: Some(b'\''),
        escape: Some(b'\\'),
        comment: Some(b'#'),
        null_values: vec!["NULL".to_owned(), "-".to_owned()],
        ..CsvSpec::default()
    };
    let batch = read(&spec).await.unwrap();
    assert_eq!(types(&batch), "id: Int64, text: Utf8, n: Int64");
    // A value contains the separator of the test's own table.
    let texts = batch.column(1).as_any().downcast_ref::<StringArray>().unwrap();
    assert_eq!(texts.iter().flatten().collect::<Vec<_>>(), ["x|y", "it's 'so'", "\"z"]);
    assert_eq!((batch.column(2).null_count(), batch.num_rows()), (2, 3));

    data.put("b.csv", "a,b\n\"x\"y,\"z\n");
    let mut spec = data.spec(&["b.csv"]);
    let error = read_error(&spec).await;
    assert!(error.message().contains("on line 2 closes a field, but no delimiter"), "{error}");
    spec.csv.quote = None;
    assert_eq!(table(&read(&spec).await.unwrap())[1], "\"x\"y|\"z");
}

#[tokio::test]
async fn csv_encodings_are_read() {
    let data = Data::new();
    let text = "id,café\n1,naïve “é”\n2,ÿ\n";
    let utf16 = |mark: &str, text: &str| -> Vec<u8> {
        format!("{mark}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    let swapped =
        |bytes: Vec<u8>| -> Vec<u8> { bytes.chunks(2).flat_map(|b| [b[1], b[0]]).collect() };
    let cp1252: Vec<u8> = text
        .chars()
        .map(|c| match c {
            '“' => 0x93,
            '”' => 0x94,
            c => u8::try_from(u32::from(c)).unwrap(),
        })
        .collect();
    let named = |label| TextEncoding::of_label(label).unwrap();
    let expected = ["id|café", "1|naïve “é”", "2|ÿ"];
    for (name, bytes, encoding) in [
        ("mark8.csv", format!("\u{feff}{text}").into_bytes(), TextEncoding::Utf8),
        ("mark16.csv", utf16("\u{feff}", text), TextEncoding::Utf8),
        ("mark16be.csv", swapped(utf16("\u{feff}", text)), TextEncoding::Utf8),
        ("plain16.csv", utf16("", text), named("utf-16le")),
        ("cp1252.csv", cp1252.clone(), named("windows-1252")),
        ("packed.csv.gz", compress("x.gz", &cp1252), named("cp1252")),
    ] {
        data.put(name, bytes);
        let mut spec = data.spec(&[name]);
        spec.csv.encoding = encoding;
        assert_eq!(table(&read(&spec).await.unwrap()), expected, "{name}");
    }
    data.put("latin1.csv", b"a\n\xe9\n");
    let mut spec = data.spec(&["latin1.csv"]);
    spec.csv.encoding = TextEncoding::Latin1;
    assert_eq!(table(&read(&spec).await.unwrap()), ["a", "é"]);
    // Without a byte order mark or a name, the encoding is only suggested in the error.
    let error = read_error(&data.spec(&["plain16.csv"])).await;
    assert!(error.remedy().unwrap().contains("utf-16le"), "{error}");
    data.put("mark16.jsonl", utf16("\u{feff}", "{\"a\":\"é\"}\n"));
    assert_eq!(table(&read(&data.spec(&["mark16.jsonl"])).await.unwrap()), ["a", "é"]);
}

#[tokio::test]
async fn jsonl_reads_what_python_writes() {
    let data = Data::new();
    data.put(
        "nan.jsonl",
        "{\"s\": NaN, \"l\": [1, -Infinity]}\n{\"s\": 1.0, \"l\": [Infinity, null]}\n",
    );
    let batch = read(&data.spec(&["nan.jsonl"])).await.unwrap();
    assert_eq!(table(&batch)[1..], ["NaN|[1.0, -inf]", "1.0|[inf, ]"]);
    data.put("mark.jsonl", "\u{feff}{\"a\":1}\n{\"a\":2}\n");
    assert_eq!(table(&read(&data.spec(&["mark.jsonl"])).await.unwrap()), ["a", "1", "2"]);
    data.put("half.jsonl", "{\"text\":\"ok\"}\n{\"text\":\"bad \\ud83d end\"}\n");
    let error = read_error(&data.spec(&["half.jsonl"])).await;
    assert!(error.message().starts_with("line 2, field `text`"), "{error}");
    data.put("pair.jsonl", "{\"text\":\"\\ud83d\\ude00\"}\n");
    assert_eq!(table(&read(&data.spec(&["pair.jsonl"])).await.unwrap()), ["text", "😀"]);
    data.put("twice.jsonl", "{\"a\":1,\"a\":2}\n{\"b\":1}\n");
    assert_eq!(table(&read(&data.spec(&["twice.jsonl"])).await.unwrap()), ["a|b", "2|", "|1"]);
}

#[tokio::test]
async fn headers_are_made_unique() {
    let data = Data::new();
    data.put("a.csv", ",text,text,\n1,x,y,z\n");
    let source = open(&data.spec(&["a.csv"])).await.unwrap();
    assert!(
        source.notes[0].contains("column 1 has no name: it is read as `column_1`, and 2 more"),
        "{:?}",
        source.notes
    );
    let batch = read(&data.spec(&["a.csv"])).await.unwrap();
    assert_eq!(table(&batch), ["column_1|text|text_duplicated_0|column_4", "1|x|y|z"]);
}

#[tokio::test]
async fn text_files_are_one_table_by_name() {
    let data = Data::new();
    data.put("t/a.csv", "id,text\n1,a\n");
    data.put("t/b.csv", "text,id,extra\nb,2,x\n");
    data.put("t/c.csv.gz", compress("x.gz", b"id\n3\n"));
    let mut spec = data.spec(&["t"]);
    assert_eq!(table(&read(&spec).await.unwrap()), ["id|text|extra", "1|a|", "2|b|x", "3||"]);
    let notes = open(&spec).await.unwrap().notes;
    assert!(notes[0].contains("1 of 3 files do not have the column `text`"), "{notes:?}");
    spec.predicate = Some("extra IS NULL AND id > 1".to_owned());
    assert_eq!(table(&read(&spec).await.unwrap())[1..], ["3||"]);
    spec.predicate = None;
    spec.select = Some(vec!["extra".to_owned()]);
    assert_eq!(table(&read(&spec).await.unwrap()), ["extra", "", "x", ""]);
    spec.schema = SchemaMode::Strict;
    let error = read_error(&spec).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(
        data.shown(error.message())
            .contains("`/t/b.csv`: there is a column `extra` of Utf8, which is not in `/t/a.csv`"),
        "{error}"
    );
    assert!(error.remedy().unwrap().contains("union"), "{error}");
}

/// Two files whose column types differ but are compatible, and the resulting table.
fn unions() -> [(&'static str, ArrayRef, ArrayRef, DataType); 8] {
    let words = || vec![Some("x"), None];
    let object = |fields: &[(&str, ArrayRef)]| -> ArrayRef {
        let field = |(name, array): &(&str, ArrayRef)| {
            (Arc::new(Field::new(*name, array.data_type().clone(), true)), Arc::clone(array))
        };
        Arc::new(StructArray::from(fields.iter().map(field).collect::<Vec<_>>()))
    };
    let int: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let text: ArrayRef = Arc::new(StringArray::from(words()));
    let nulls: ArrayRef = Arc::new(ListArray::new(
        Arc::new(Field::new_list_field(DataType::Null, true)),
        arrow::buffer::OffsetBuffer::from_lengths([1, 0]),
        Arc::new(NullArray::new(1)),
        None,
    ));
    let numbers: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
    ]));
    let decimal = |precision, scale| -> ArrayRef {
        let array = Decimal128Array::from(vec![Some(150), None]);
        Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
    };
    let list_type = numbers.data_type().clone();
    let whole = DataType::Struct(
        vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)].into(),
    );
    [
        (
            "dictionary",
            Arc::new(words().into_iter().collect::<DictionaryArray<Int8Type>>()),
            Arc::clone(&text),
            DataType::Utf8,
        ),
        (
            "keys",
            Arc::new(words().into_iter().collect::<DictionaryArray<Int8Type>>()),
            Arc::new(words().into_iter().collect::<DictionaryArray<Int16Type>>()),
            DataType::Utf8,
        ),
        ("decimal", decimal(10, 2), decimal(12, 4), DataType::Decimal128(12, 4)),
        (
            "struct",
            object(&[("a", Arc::clone(&int))]),
            object(&[("a", Arc::new(Int64Array::from(vec![3, 4]))), ("b", Arc::clone(&text))]),
            whole,
        ),
        (
            "float",
            Arc::new(Int64Array::from(vec![1, 2])),
            Arc::new(Float64Array::from(vec![0.5, 2.5])),
            DataType::Float64,
        ),
        (
            "unit",
            Arc::new(TimestampMicrosecondArray::from(vec![1, 2])),
            Arc::new(TimestampNanosecondArray::from(vec![1, 2])),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
        ),
        ("list", nulls, numbers, list_type),
        (
            "unsigned",
            Arc::new(UInt64Array::from(vec![u64::MAX, 0])),
            Arc::new(Int64Array::from(vec![i64::MIN, 1])),
            DataType::Decimal128(20, 0),
        ),
    ]
}

#[tokio::test]
async fn typed_files_are_one_table() {
    for (name, first, second, expected) in unions() {
        let data = Data::new();
        for (file, column) in [("1", &first), ("2", &second)] {
            let batch = one("c", Arc::clone(column));
            data.put_parquet(&format!("p/{file}.parquet"), &batch);
            put_arrow(&data, &format!("a/{file}.arrow"), &batch);
        }
        let mut shown = Vec::new();
        for path in ["p", "a"] {
            let mut spec = data.spec(&[path]);
            let batch = read(&spec).await.unwrap_or_else(|error| panic!("{name} {path}: {error}"));
            assert_eq!(batch.schema().field(0).data_type(), &expected, "{name} {path}");
            assert_eq!(batch.num_rows(), 4, "{name} {path}");
            shown.push(table(&batch));
            let notes = open(&spec).await.unwrap().notes;
            assert!(notes[0].starts_with("the column `c` is "), "{notes:?}");
            spec.predicate = Some("c IS NOT NULL".to_owned());
            let nulls = batch.column(0).null_count();
            assert_eq!(read(&spec).await.unwrap().num_rows(), 4 - nulls, "{name} {path}");
            spec.schema = SchemaMode::Strict;
            assert_eq!(read_error(&spec).await.kind(), ErrorKind::Data);
        }
        assert_eq!(shown[0], shown[1], "{name}");
    }
    let data = Data::new();
    data.put_parquet(
        "1.parquet",
        &one("c", Arc::new(Int64Array::from(vec![9_007_199_254_740_993]))),
    );
    data.put_parquet("2.parquet", &one("c", Arc::new(Float64Array::from(vec![0.5]))));
    let error = read_error(&data.spec(&["1.parquet", "2.parquet"])).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(
        error.message().contains("column `c`") && error.message().contains("more digits"),
        "{error}"
    );
    assert!(error.places().iter().any(|place| place.ends_with("1.parquet")), "{error}");
    data.put_parquet("3.parquet", &one("c", Arc::new(StringArray::from(vec!["x"]))));
    let error = read_error(&data.spec(&["2.parquet", "3.parquet"])).await;
    assert!(data.shown(error.message()).ends_with("column `c` is Float64 and Utf8"), "{error}");
}

#[tokio::test]
async fn a_column_that_is_missing_is_null_under_a_predicate() {
    let data = Data::new();
    let numbered = |id: i64| {
        RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![id])) as ArrayRef),
            ("n", Arc::new(Int64Array::from(vec![id * 10])) as ArrayRef),
        ])
        .unwrap()
    };
    data.put_parquet("p/1.parquet", &one("id", Arc::new(Int64Array::from(vec![1]))));
    data.put_parquet("p/2.parquet", &numbered(2));
    put_arrow(&data, "a/1.arrow", &one("id", Arc::new(Int64Array::from(vec![1]))));
    put_arrow(&data, "a/2.arrow", &numbered(2));
    for path in ["p", "a"] {
        for (predicate, expected) in [
            ("n IS NULL", vec!["1|"]),
            ("n = 20", vec!["2|20"]),
            ("n > 5 OR id = 1", vec!["1|", "2|20"]),
            ("coalesce(n, 0) = 0", vec!["1|"]),
        ] {
            let mut spec = data.spec(&[path]);
            spec.predicate = Some(predicate.to_owned());
            assert_eq!(table(&read(&spec).await.unwrap())[1..], expected, "{path} {predicate}");
        }
    }
}

#[tokio::test]
async fn times_arrive_as_they_are() {
    let columns: [(&str, ArrayRef); 9] = [
        ("t32s", Arc::new(Time32SecondArray::from(vec![3661]))),
        ("t32ms", Arc::new(Time32MillisecondArray::from(vec![1]))),
        ("t64", Arc::new(Time64NanosecondArray::from(vec![1]))),
        ("d64", Arc::new(Date64Array::from(vec![86_400_000]))),
        ("ts", Arc::new(TimestampSecondArray::from(vec![1]).with_timezone("Europe/Berlin"))),
        ("tz", Arc::new(TimestampMicrosecondArray::from(vec![1]).with_timezone("+02:00"))),
        ("ym", Arc::new(IntervalYearMonthArray::from(vec![13]))),
        ("dt", Arc::new(IntervalDayTimeArray::from(vec![IntervalDayTime::new(1, 2)]))),
        ("du", Arc::new(DurationSecondArray::from(vec![7]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let data = Data::new();
    put_arrow(&data, "a.arrow", &batch);
    data.put_parquet("a.parquet", &batch);
    // Next to a file that lacks all but one of the columns.
    put_arrow(&data, "two/1.arrow", &batch);
    put_arrow(&data, "two/2.arrow", &batch.project(&[0]).unwrap());
    for path in ["a.arrow", "a.parquet", "two"] {
        let read = read(&data.spec(&[path])).await.unwrap();
        assert_eq!(types(&read), types(&batch), "{path}");
        assert_eq!(read.slice(0, 1).columns(), batch.columns(), "{path}");
    }
}

#[tokio::test]
async fn rows_without_end_and_columns_without_number_are_refused() {
    let data = Data::new();
    let long = "x".repeat(3_000_000);
    data.put("long.csv", format!("a\n{long}\n"));
    data.put("quoted.csv", format!("a\n\"{}\"\n", "x\n".repeat(1_500_000)));
    data.put("long.jsonl", format!("{{\"a\":\"{long}\"}}\n"));
    data.put("bomb.jsonl.gz", compress("x.gz", format!("{{\"a\":\"{long}").as_bytes()));
    for name in ["long.csv", "quoted.csv", "long.jsonl", "bomb.jsonl.gz"] {
        let mut spec = data.spec(&[name]);
        if name != "bomb.jsonl.gz" {
            assert_eq!(read(&spec).await.unwrap().num_rows(), 1, "{name}");
        }
        spec.max_line_size_bytes = 1_000_000;
        let error = read_error(&spec).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{name}");
        assert!(error.message().contains("longer than 1000000 bytes"), "{name}: {error}");
        assert!(error.remedy().unwrap().contains("source.max_line_size"), "{name}: {error}");
    }
    let names: Vec<String> = (0..100_000).map(|index| format!("c{index}")).collect();
    data.put("wide.csv", format!("{}\n{}\n", names.join(","), names.join(",")));
    let object: Vec<String> = names.iter().map(|name| format!("\"{name}\":1")).collect();
    data.put("wide.jsonl", format!("{{{}}}\n", object.join(",")));
    let lines: Vec<String> = names.iter().map(|name| format!("{{\"{name}\":1}}\n")).collect();
    data.put("tall.jsonl", lines.concat());
    data.put("deep.jsonl", format!("{{\"a\":{}", "[".repeat(200_000)));
    for name in ["wide.csv", "wide.jsonl", "tall.jsonl", "deep.jsonl"] {
        let error = read_error(&data.spec(&[name])).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{name}: {error}");
    }
    // Rows within the limit are read.
    let names = &names[..5000];
    let mut spec = data.spec(&["many.csv"]);
    spec.max_columns = 5000;
    data.put(
        "many.csv",
        format!("{}\n{}\n{}\n", names.join(","), names.join(","), names.join(",")),
    );
    assert_eq!(read(&spec).await.unwrap().num_columns(), 5000);
    spec.max_columns = 4999;
    let error = read_error(&spec).await;
    assert!(error.remedy().unwrap().contains("source.max_columns"), "{error}");
}

#[tokio::test]
async fn gzip_with_padding_and_members_is_read() {
    let data = Data::new();
    let mut file = fs::File::create(data.path("a.csv.gz")).unwrap();
    file.write_all(&compress("x.gz", b"id\n1\n")).unwrap();
    file.write_all(&compress("x.gz", b"2\n")).unwrap();
    file.write_all(&[0; 1024]).unwrap();
    drop(file);
    assert_eq!(table(&read(&data.spec(&["a.csv.gz"])).await.unwrap()), ["id", "1", "2"]);
}

/// Offsets in a file with a byte order mark, and in a single-byte encoding, are those of its bytes.
#[test]
fn text_files_are_cut_where_their_bytes_are() {
    let fixture = Fixture::new();
    let text: String = (0..40_000).map(|id| format!("{id},\u{e9} {}\n", id % 7)).collect();
    let text = format!("id,t\u{e9}xt\n{text}");
    fixture.file("mark.csv", format!("\u{feff}{text}"));
    fixture.file("latin1.csv", text.chars().map(|c| c as u8).collect::<Vec<u8>>());
    for (name, encoding) in [("mark", "utf-8"), ("latin1", "latin1"), ("latin1", "cp1252")] {
        fixture.file(
            "copy.yaml",
            format!(
                "version: 1\nsource: {{path: {name}.csv, csv: {{encoding: {encoding}}}}}\nsteps:\n- sql: SELECT * FROM input\nsink: {{path: out/}}\n"
            ),
        );
        fixture.run(&["run", "copy.yaml", "--fresh"]).succeeds();
        let parts = fixture.files("out").into_iter().filter(|part| part.ends_with(".parquet"));
        let batches: Vec<_> = parts.map(|part| fixture.parquet(&format!("out/{part}"))).collect();
        assert_eq!(batches.len(), 3, "{name}");
        let all = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        assert_eq!(ids(&all), (0..40_000).collect::<Vec<i64>>(), "{name}");
        let rows = table(&all);
        assert_eq!((rows[0].as_str(), rows[20_001].as_str()), ("id|t\u{e9}xt", "20000|\u{e9} 1"));
    }
}

/// Differences between files are reported, and a different type gives a different result.
#[test]
fn reports_say_what_was_widened() {
    let fixture = Fixture::new();
    fixture.file("in/a.csv", "id,code\n1,1E5\n");
    fixture.file("in/b.csv", "code,id,more\n2E5,2,x\n");
    fixture.file(
        "copy.yaml",
        "version: 1\nsource: {path: in}\nsteps:\n- sql: SELECT * FROM input\nsink: {path: out/}\n",
    );
    let run = |args: &[&str]| -> serde_json::Value {
        let args = [&["run", "copy.yaml", "--report", "report.json"], args].concat();
        fixture.run(&args).succeeds();
        serde_json::from_slice(&fs::read(fixture.path("report.json")).unwrap()).unwrap()
    };
    let report = run(&[]);
    let note = report["run"]["source_notes"][0].as_str().unwrap();
    assert!(note.starts_with("1 of 2 files do not have the column `more`"), "{note}");
    assert_eq!(run(&[])["run"]["units"]["computed"], 0);
    let report = run(&["--fresh", "--set", "source.types.code=string"]);
    assert_eq!(report["run"]["units"]["computed"], 2);
    let parts = fixture.files("out").into_iter().filter(|part| part.ends_with(".parquet"));
    let rows: Vec<_> = parts.map(|part| fixture.parquet(&format!("out/{part}"))).collect();
    assert_eq!(table(&rows[0])[1..], ["1|1E5|"]);
    assert_eq!(table(&rows[1])[1..], ["2|2E5|x"]);
    fixture
        .run(&["run", "copy.yaml", "--fresh", "--set", "source.schema=strict"])
        .fails(65, &["in/b.csv", "column `more`", "in/a.csv", "schema: union"]);
}

/// Every part of the program treats an output path alike: any extension of its format means a file.
#[test]
fn outputs_of_one_file_have_any_extension_of_their_format() {
    let fixture = Fixture::new();
    fixture.file("in.csv", "a,b\n1,x\n");
    fixture.file("copy.yaml", "version: 1\nsource: {path: in.csv}\nsink: {path: out/}\n");
    for (name, format) in [("a.ipc", "arrow"), ("a.feather", ""), ("a.pq", ""), ("a.json", "jsonl")]
    {
        let path = format!("sink.path={name}");
        let format = format!("sink.format={format}");
        let mut args = vec!["run", "copy.yaml", "--set", &path];
        if !format.ends_with('=') {
            args.extend(["--set", &format]);
        }
        fixture.run(&args).succeeds();
        assert!(fixture.path(name).is_file(), "{name}");
        let ran = fixture.run(&["sql", &format!("SELECT a, b FROM '{name}'"), "--format", "csv"]);
        assert!(ran.succeeds().stdout.contains("1,x"), "{name}");
    }
    fixture
        .run(&["run", "copy.yaml", "--set", "sink.path=b.json"])
        .fails(78, &["has the extension of another format", ".jsonl"]);
}
