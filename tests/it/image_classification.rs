//! `image-classification` beyond its goldens: bytes, relative paths, damaged images.

use std::future::pending;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BinaryViewArray, LargeBinaryArray, RecordBatch};
use hfauto_pipe::config::{self, LoadOptions};
use hfauto_pipe::error::{Error, ErrorKind, Result};
use hfauto_pipe::hub::{Hub, HubSettings};
use hfauto_pipe::job::{Job, JobOptions};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use super::support::{Fixture, repository};

fn model() -> String {
    repository().join("tests/golden/tasks/vit").display().to_string()
}

fn image(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/golden/tasks/images").join(name)).unwrap()
}

/// Runs `rows` of the fixture through a step with `options` and returns the new column.
fn run(fixture: &Fixture, rows: &str, options: &Value) -> Result<Vec<Value>> {
    let mut step = json!({"input": "image", "output": "labels", "model": model()});
    step.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let pipeline = json!({
        "version": 1,
        "source": {"path": rows},
        "steps": [{"image-classification": step}, {"sql": "SELECT labels FROM input"}],
        "sink": {"path": "out.jsonl"},
    });
    fixture.file("pipeline.yaml", pipeline.to_string());
    let pipeline = config::load(&fixture.path("pipeline.yaml"), &LoadOptions::default())?;
    let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let job = Job::prepare(pipeline, JobOptions::default(), hub).await?;
        job.run(pending()).await
    })?;
    let written = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    let rows = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    Ok(rows.map(|row| row.get("labels").cloned().unwrap_or_default()).collect())
}

fn by_path(paths: &[&str], options: &Value) -> Result<Vec<Value>> {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("pictures")).unwrap();
    for name in ["rgb.png", "photo-420.jpg", "lossy.webp"] {
        std::fs::write(fixture.path("pictures").join(name), image(name)).unwrap();
    }
    std::fs::write(fixture.path("pictures/cut.png"), &image("rgb.png")[..200]).unwrap();
    std::fs::write(fixture.path("pictures/text.png"), "not an image").unwrap();
    let rows: String = paths.iter().map(|path| json!({"image": path}).to_string() + "\n").collect();
    fixture.file("rows.jsonl", rows);
    run(&fixture, "rows.jsonl", options)
}

fn refused(path: &str) -> Error {
    by_path(&["pictures/rgb.png", path], &json!({})).unwrap_err()
}

#[test]
fn bytes_give_what_paths_give() {
    let names = ["rgb.png", "photo-420.jpg", "lossy.webp"];
    let paths = names.map(|name| format!("pictures/{name}"));
    let expected = by_path(&paths.each_ref().map(String::as_str), &json!({})).unwrap();
    assert_eq!(expected.len(), 3);
    assert_eq!(expected[0].as_array().unwrap().len(), 5);

    let images = names.map(image);
    let rows = || [None, Some(&images[0]), Some(&images[1]), Some(&images[0]), Some(&images[2])];
    let rows = || rows().map(|row| row.map(Vec::as_slice));
    let columns: [ArrayRef; 3] = [
        Arc::new(BinaryArray::from_iter(rows())),
        Arc::new(LargeBinaryArray::from_iter(rows())),
        Arc::new(BinaryViewArray::from_iter(rows())),
    ];
    for column in columns {
        let fixture = Fixture::new();
        let batch = RecordBatch::try_from_iter([("image", column)]).unwrap();
        let file = std::fs::File::create(fixture.path("rows.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let labels = run(&fixture, "rows.parquet", &json!({})).unwrap();
        let picked = [&Value::Null, &expected[0], &expected[1], &expected[0], &expected[2]];
        assert_eq!(labels.iter().collect::<Vec<_>>(), picked);
    }
}

#[test]
fn a_report_tells_pictures_per_second_and_the_time_of_decoding() {
    let fixture = Fixture::new();
    fixture.file("a.png", image("rgb.png")).file("b.jpg", image("photo-420.jpg"));
    let rows = [json!("a.png"), json!("b.jpg"), Value::Null, json!("a.png")];
    let rows: String = rows.iter().map(|path| json!({"image": path}).to_string() + "\n").collect();
    let pipeline = json!({
        "version": 1,
        "source": {"path": "rows.jsonl"},
        "steps": [{"image-feature-extraction": {"model": model(), "input": "image", "output": "vector"}}],
        "sink": {"path": "out.jsonl"},
    });
    fixture.file("rows.jsonl", rows).file("p.yaml", pipeline.to_string());
    let ran = fixture.run(&["run", "p.yaml", "--report", "r.json", "--metrics-file", "r.prom"]);
    let shown = &ran.succeeds().stdout;
    assert!(
        shown.contains("    pictures 2 computed, ") && shown.contains(" pictures/s; "),
        "{shown}"
    );
    let report = std::fs::read(fixture.path("r.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let step = &report["run"]["steps"][0];
    let (counts, rate) = (&step["counts"], step["images_per_second"].as_f64().unwrap());
    assert_eq!(counts["images"], 2, "{counts}");
    assert!(rate > 0.0, "{step}");
    let seconds = |name: &str| counts[name].as_f64().unwrap();
    assert!(seconds("image_seconds") > 0.0, "{counts}");
    assert!(seconds("image_seconds") < seconds("model_seconds"), "{counts}");
    let metrics = std::fs::read_to_string(fixture.path("r.prom")).unwrap();
    assert!(
        metrics.contains("hfauto_pipe_step_images_total{pipeline=\"p\",step=\"vector\"} 2\n"),
        "{metrics}"
    );
}

#[test]
fn logits_stand_beside_the_labels_on_request() {
    let options = json!({"outputs": ["logits"], "top_k": 1});
    let labels = by_path(&["pictures/rgb.png"], &options).unwrap();
    assert_eq!(labels[0]["labels"].as_array().unwrap().len(), 1);
    assert_eq!(labels[0]["logits"].as_array().unwrap().len(), 7);
}

#[test]
fn bytes_that_are_not_an_image_are_a_data_error() {
    for (path, parts) in [
        ("pictures/cut.png", &["cannot decode the PNG file", "pictures/cut.png"][..]),
        (
            "pictures/text.png",
            &["not a JPEG, PNG, WebP, GIF, BMP or TIFF file", "pictures/text.png"],
        ),
        ("pictures/none.png", &["cannot read the file", "pictures/none.png"]),
        ("https://example.com/a.png", &["not fetched from URLs: `https://…`", "row 2", "`image`"]),
    ] {
        let error = refused(path);
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    let fixture = Fixture::new();
    let (whole, cut) = (image("photo-420.jpg"), &image("photo-420.jpg")[..300]);
    let column: ArrayRef = Arc::new(BinaryArray::from_iter([Some(&whole[..]), None, Some(cut)]));
    let batch = RecordBatch::try_from_iter([("image", column)]).unwrap();
    let file = std::fs::File::create(fixture.path("rows.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let error = run(&fixture, "rows.parquet", &json!({})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.to_string().contains("row 3"), "{error}");
}

#[test]
fn models_of_text_and_of_images_do_not_stand_in_for_each_other() {
    let bert = repository().join("tests/golden/bert").display().to_string();
    let error = by_path(&["pictures/rgb.png"], &json!({"model": bert})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("reads text, not images"), "{error}");

    let fixture = Fixture::new();
    let pipeline = json!({
        "version": 1,
        "source": {"path": "rows.jsonl"},
        "steps": [{"text-classification": {"input": "text", "output": "x", "model": model()}}],
        "sink": {"path": "out.jsonl"},
    });
    fixture.file("rows.jsonl", "{\"text\": \"a\"}\n");
    fixture.file("pipeline.yaml", pipeline.to_string());
    let pipeline = config::load(&fixture.path("pipeline.yaml"), &LoadOptions::default()).unwrap();
    let hub = Arc::new(Hub::new(HubSettings::from_env().with_offline(true)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let job = runtime.block_on(Job::prepare(pipeline, JobOptions::default(), hub));
    let error = job.map(drop).unwrap_err();
    assert!(error.to_string().contains("reads images, not text"), "{error}");
}

/// Runs the program on rows of `paths` with limited memory and time. Returns its output for each row.
fn hostile(fixture: &Fixture, paths: &[&str], more: &str) -> (i32, Vec<Value>, String) {
    let rows: String = paths.iter().map(|path| json!({"image": path}).to_string() + "\n").collect();
    fixture.file("rows.jsonl", rows).file(
        "p.yaml",
        format!(
            "version: 1\nsource: {{path: rows.jsonl}}\nsteps:\n\
             - image-classification: {{model: '{}', input: image, output: labels}}\n\
             on_error: {{rows: 'null'}}\nsink: {{path: out.jsonl}}\n{more}\n",
            model()
        ),
    );
    let program = env!("CARGO_BIN_EXE_hfauto-pipe");
    let script = format!(
        "ulimit -c 0; ulimit -v 6000000; exec timeout -k 5 30 {program} run p.yaml --fresh --progress none"
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(fixture.path(""))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let written = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap_or_default();
    let rows = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let code = output.status.code().unwrap_or(-1);
    (code, rows, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn hostile_images_are_errors_of_their_rows() {
    let fixture = Fixture::new();
    fixture.file("good.png", image("rgb.png"));
    let golden = |case: &str, name: &str| {
        std::fs::read(repository().join("tests/golden").join(case).join(name)).unwrap()
    };
    let mkfifo = std::process::Command::new("mkfifo").arg(fixture.path("pipe")).status().unwrap();
    assert!(mkfifo.success());
    std::fs::File::create(fixture.path("sparse.png")).unwrap().set_len(1 << 42).unwrap();
    let mut claims = golden("pictures", "jpeg-444-progressive.jpg");
    let frame = claims.windows(2).position(|pair| pair == [0xff, 0xc2]).unwrap();
    claims[frame + 5..frame + 9].copy_from_slice(&[0x34, 0, 0x34, 0]);
    fixture.file("claims.jpg", &claims);
    let scan = claims.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
    let mut scans = claims[..claims.len() - 2].to_vec();
    (0..5000).for_each(|_| scans.extend_from_slice(&claims[scan..claims.len() - 2]));
    fixture.file("scans.jpg", scans);
    let mut deep = golden("pictures", "png-16-rgba.png");
    deep[16..24].copy_from_slice(&[0, 0, 0x24, 0, 0, 0, 0x24, 0]);
    fixture.file("deep.png", deep);
    let mut screen = golden("bitmaps", "gif-part-of-screen.gif");
    screen[6..10].copy_from_slice(&[0, 0x10, 0, 0x10]);
    fixture.file("screen.gif", screen);
    let names = [
        "good.png",
        "pipe",
        "/dev/zero",
        "/proc/kmsg",
        "sparse.png",
        "claims.jpg",
        "scans.jpg",
        "deep.png",
        "claims.jpg",
        "deep.png",
        "good.png",
    ];
    let (code, rows, stderr) = hostile(&fixture, &names, "");
    assert_eq!(code, 0, "{stderr}");
    for (name, row) in names.iter().zip(&rows) {
        let is_good = *name == "good.png";
        assert_eq!(row["labels"].is_null(), !is_good, "{name}: {row}");
        let kind = row["_error"]["kind"].as_str();
        let expected = match *name {
            "good.png" => None,
            "claims.jpg" | "scans.jpg" | "deep.png" => Some("image_decode"),
            _ => Some("image_read"),
        };
        assert_eq!(kind, expected, "{name}: {row}");
    }
    // A complete image on a logical screen of this size is valid input.
    let (code, rows, stderr) = hostile(&fixture, &["screen.gif"], "");
    assert_eq!((code, rows[0]["labels"].is_null()), (0, false), "{stderr}");
}

#[test]
fn images_are_confined_and_limited_as_the_pipeline_says() {
    let fixture = Fixture::new();
    fixture.file("images/good.png", image("rgb.png")).file("outside.png", image("rgb.png"));
    std::os::unix::fs::symlink("../outside.png", fixture.path("images/link.png")).unwrap();
    let names = ["images/good.png", "outside.png", "images/link.png", "images/../outside.png"];
    let (code, rows, stderr) = hostile(&fixture, &names, "images: {root: images}");
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(rows[0]["_error"], Value::Null);
    for row in &rows[1..] {
        assert_eq!(row["_error"]["message"], "the image is outside `images.root`");
    }
    let (_, rows, _) = hostile(&fixture, &names[..1], "images: {max_pixels: 10}");
    assert!(rows[0]["_error"]["message"].as_str().unwrap().contains("expected at most 10"));
    let (_, rows, _) = hostile(&fixture, &names[..1], "images: {max_file_size: 10}");
    assert_eq!(rows[0]["_error"]["message"], "the file is larger than 10 bytes");
    let (code, _, stderr) = hostile(&fixture, &names, "images: {root: nowhere}");
    assert!(code == 66 && stderr.contains("`images.root`"), "{code}: {stderr}");
}

#[test]
fn models_of_texts_and_images_classify_images_without_a_tokenizer() {
    for family in ["siglip", "clip"] {
        let folder = format!("tests/golden/vision/{family}/for-image-classification");
        let model = repository().join(folder).display().to_string();
        let found = by_path(&["pictures/rgb.png"], &json!({"model": model})).unwrap();
        assert!(!found[0].as_array().unwrap().is_empty(), "{found:?}");
    }
    let folder = "tests/golden/vision/siglip/for-zero-shot-image-classification";
    let model = repository().join(folder).display().to_string();
    let spec = hfauto_pipe::tasks::ModelSpec::of_repo(model);
    let models = hfauto_pipe::tasks::Models::new(Arc::new(Hub::from_env()));
    models.resolve_image(&spec).unwrap();
    let error = models.resolve(&spec).unwrap_err();
    assert!(error.to_string().contains("no files for `SiglipTokenizer`"), "{error}");
}
