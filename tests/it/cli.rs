//! The real program: its files, its messages and its exit codes.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use parquet::arrow::ArrowWriter;

use super::support::{
    Fixture, embed_pipeline, mini_embedder, read_parquet, repository, sample_rows,
};

#[test]
fn run_embeds_the_sample_rows() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    let ran = fixture.run(&["run", "embed.yaml"]);
    ran.succeeds();
    assert!(ran.stdout.contains("tokens/s"), "{}", ran.stdout);
    assert_eq!(fixture.files("out"), ["_SUCCESS", "_hfauto/MANIFEST.json", "part-00000.parquet"]);

    let input = read_parquet(&sample_rows());
    let output = fixture.parquet("out/part-00000.parquet");
    assert_eq!(output.num_rows(), input.num_rows());
    for (index, field) in input.schema().fields().iter().enumerate() {
        assert_eq!(output.column(index), input.column(index), "column `{}`", field.name());
    }
    let text = input.column_by_name("text").unwrap();
    let embedding = output.column_by_name("embedding").unwrap().as_fixed_size_list();
    assert_eq!(embedding.value_length(), 160);
    for row in 0..output.num_rows() {
        assert_eq!(embedding.is_null(row), text.is_null(row), "row {row}");
        if embedding.is_valid(row) {
            let vector = embedding.value(row);
            let norm: f32 =
                vector.as_primitive::<Float32Type>().values().iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-4, "row {row}: norm {norm}");
        }
    }
}

#[test]
fn csv_and_parquet_give_the_same_embeddings() {
    let fixture = Fixture::new();
    let csv = sample_rows().with_extension("csv");
    fixture
        .file(
            "csv.yaml",
            embed_pipeline(&mini_embedder(), csv.to_str().unwrap(), "csv.parquet", ""),
        )
        .file(
            "parquet.yaml",
            embed_pipeline(
                &mini_embedder(),
                sample_rows().to_str().unwrap(),
                "parquet.parquet",
                "",
            ),
        );
    fixture.run(&["run", "csv.yaml"]).succeeds();
    fixture.run(&["run", "parquet.yaml"]).succeeds();
    let (csv, parquet) = (fixture.parquet("csv.parquet"), fixture.parquet("parquet.parquet"));
    let text = parquet.column_by_name("text").unwrap().as_string::<i32>();
    let (csv, parquet) = (&csv["embedding"], &parquet["embedding"]);
    let (csv, parquet) = (csv.as_fixed_size_list(), parquet.as_fixed_size_list());
    assert_eq!(csv.len(), parquet.len());
    for row in 0..parquet.len() {
        // CSV cannot tell an empty text from a null one.
        if parquet.is_valid(row) && !text.value(row).is_empty() {
            assert_eq!(&csv.value(row), &parquet.value(row), "row {row}");
        }
    }
}

#[test]
fn set_limit_and_report() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    let ran = fixture.run(&[
        "run",
        "embed.yaml",
        "--limit",
        "10",
        "--set",
        "sink.path=ten.jsonl",
        "--report",
        "report.json",
        "--progress",
        "json",
    ]);
    ran.succeeds();
    let lines = std::fs::read_to_string(fixture.path("ten.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 10);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["status"], "done");
    assert_eq!(report["run"]["rows_written"], 10);
    assert_eq!(report["run"]["steps"][0]["model"]["model_type"], "bert");
    let progress: serde_json::Value =
        serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(progress["stage"], "committing");
    assert_eq!(progress["total_rows"], 10);
}

#[test]
fn dry_run_checks_everything_and_writes_nothing() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    let ran = fixture.run(&["run", "embed.yaml", "--dry-run"]);
    ran.succeeds();
    assert!(ran.stdout.contains("embedding"), "{}", ran.stdout);
    assert!(fixture.files("out").is_empty());
}

#[test]
fn fresh_replaces_an_earlier_output() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    fixture.run(&["run", "embed.yaml", "--limit", "5"]).succeeds();
    fixture.run(&["run", "embed.yaml", "--limit", "5"]).fails(73, &["out", "--fresh"]);
    assert_eq!(fixture.parquet("out/part-00000.parquet").num_rows(), 5);
    fixture.run(&["run", "embed.yaml", "--limit", "7", "--fresh"]).succeeds();
    assert_eq!(fixture.parquet("out/part-00000.parquet").num_rows(), 7);
}

#[test]
fn plan_needs_no_weights() {
    let fixture = Fixture::new();
    fixture.copy_model();
    std::fs::remove_file(fixture.path("model/model.safetensors")).unwrap();
    fixture.file(
        "embed.yaml",
        embed_pipeline("model".as_ref(), sample_rows().to_str().unwrap(), "out", "")
            .replace("'model'", "./model"),
    );
    let ran = fixture.run(&["plan", "embed.yaml"]);
    ran.succeeds();
    for text in ["FixedSizeList", "160", "tokens", "bert"] {
        assert!(ran.stdout.contains(text), "no `{text}` in:\n{}", ran.stdout);
    }
    fixture.run(&["run", "embed.yaml"]).fails(69, &["model.safetensors"]);
    assert!(fixture.files("out").is_empty());
}

#[test]
fn usage_errors_exit_64() {
    let fixture = Fixture::new();
    fixture.run(&["run"]).fails(64, &["<PIPELINE>"]);
    fixture.run(&["rum", "a.yaml"]).fails(64, &["run"]);
    fixture
        .run(&["scheduler", "a"])
        .fails(64, &["unrecognized subcommand 'scheduler'", "schedule"]);
    fixture.run(&["run", "a.yaml", "--set", "limit"]).fails(64, &["KEY=VALUE"]);
    assert_eq!(fixture.run(&["--help"]).succeeds().stderr, "");
}

#[test]
fn a_device_or_dtype_that_is_not_there_exits_69_before_anything_runs() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    fixture
        .run(&["run", "embed.yaml", "--device", "cuda:99"])
        .fails(69, &["`cuda:99`", "use `cpu` or `auto`"]);
    fixture
        .run(&["run", "embed.yaml", "--device", "cpu", "--dtype", "f16"])
        .fails(69, &["dtype `f16` is not implemented on a CPU", "f32"]);
    fixture.run(&["run", "embed.yaml", "--device", "gpu"]).fails(64, &["cuda:0"]);
    assert!(fixture.files("out").is_empty());
    fixture.run(&["run", "embed.yaml", "--device", "cpu", "--limit", "3"]).succeeds();
}

#[test]
fn bad_pipelines_exit_78_with_every_problem() {
    let fixture = Fixture::new();
    fixture.file(
        "bad.yaml",
        "version: 1\nsource: {pth: a.parquet}\nsteps:\n- feature-extractoin: {model: m}\nsink: {path: out}\n",
    );
    fixture.run(&["validate", "bad.yaml"]).fails(
        78,
        &[
            "bad.yaml:2:",
            "`pth`",
            "`path`",
            "bad.yaml:4:",
            "feature-extractoin",
            "feature-extraction",
        ],
    );
    fixture.run(&["validate", "missing.yaml"]).fails(78, &["missing.yaml"]);
}

#[test]
fn validate_checks_sql_and_model_directories_without_data() {
    let fixture = Fixture::new();
    fixture.file(
        "bad.yaml",
        "version: 1\nsource: {path: a.parquet, where: 'id >'}\nsteps:\n- sql: SELEC x\n\
         - feature-extraction: {model: ./nowhere, input: text, output: e}\nsink: {path: out}\n",
    );
    let ran = fixture.run(&["validate", "bad.yaml"]);
    ran.fails(
        69,
        &["`where: id >`", "bad.yaml:2:1", "SELEC", "bad.yaml:4:", "nowhere", "bad.yaml:5:"],
    );
    assert_eq!(ran.stderr.matches("Expected: an SQL statement").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_report_that_cannot_be_written_fails_before_the_run() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    let no_folder = ["run", "embed.yaml", "--report", "embed.yaml/r.json"];
    fixture.run(&no_folder).fails(73, &["embed.yaml/r.json"]);
    assert!(fixture.files("out").is_empty());
    // Its folder is created.
    fixture.run(&["run", "embed.yaml", "--report", "new/dir/r.json"]).succeeds();
    assert!(fixture.path("new/dir/r.json").is_file());
}

#[test]
fn a_damaged_page_names_its_file() {
    let fixture = Fixture::new();
    let good = std::fs::read(sample_rows()).unwrap();
    let mut damaged = good.clone();
    // Damaged page headers are detected before anything is computed.
    damaged[1000..30_000].fill(0x5a);
    fixture.file("rows/a.parquet", &good).file("rows/b.parquet", damaged).embed_yaml("rows");
    fixture.run(&["run", "embed.yaml"]).fails(65, &["rows/b.parquet", "page header"]);
    assert!(fixture.files("out").is_empty(), "{:?}", fixture.files("out"));

    // The rows of a page are decoded on read.
    let mut damaged = good.clone();
    damaged[60_000..60_200].fill(0x5a);
    fixture.file("rows/b.parquet", damaged);
    fixture.run(&["run", "embed.yaml"]).fails(65, &["rows/b.parquet", "1 of 2 units"]);
    // The unit of the intact file stays staged.
    let files = fixture.files("out");
    assert!(files.iter().all(|file| file.starts_with("_hfauto/")), "{files:?}");
}

#[test]
fn weights_that_give_no_numbers_exit_69() {
    let fixture = Fixture::new();
    fixture.copy_model();
    let file = fixture.path("model/model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    // The end of the file belongs to some tensor; all ones in f16 is NaN.
    let end = bytes.len();
    bytes[end - 400_000..].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    fixture.file(
        "embed.yaml",
        embed_pipeline("./model".as_ref(), sample_rows().to_str().unwrap(), "out", ""),
    );
    fixture.run(&["run", "embed.yaml"]).fails(69, &["NaN", "damaged"]);
    assert!(fixture.files("out").is_empty());
}

#[test]
fn a_column_that_is_not_text_exits_78() {
    let fixture = Fixture::new();
    fixture.file(
        "embed.yaml",
        embed_pipeline(&mini_embedder(), sample_rows().to_str().unwrap(), "out", "")
            .replace("input: text", "input: stars"),
    );
    fixture.run(&["run", "embed.yaml"]).fails(78, &["`stars`", "Int32", "embed.yaml:4:"]);
    fixture.file(
        "embed.yaml",
        embed_pipeline(&mini_embedder(), sample_rows().to_str().unwrap(), "out", "")
            .replace("input: text", "input: txet"),
    );
    fixture.run(&["run", "embed.yaml"]).fails(78, &["`txet`", "`text`", "embed.yaml:4:"]);
}

#[test]
fn missing_input_exits_66() {
    let fixture = Fixture::new();
    fixture.embed_yaml("nothing/*.parquet");
    fixture.run(&["run", "embed.yaml"]).fails(66, &["nothing/*.parquet"]);
}

#[test]
fn broken_input_exits_65_and_publishes_nothing() {
    let good = std::fs::read(sample_rows()).unwrap();
    let ragged = "id,text\n1,a\n2,b,c\n";
    let invalid = b"id,text\n1,a\n2,\xff\xfe\n".as_slice();
    let cases: [(&str, &[u8], &[&str]); 4] = [
        ("cut.parquet", &good[..good.len() / 2], &["cut.parquet"]),
        ("text.parquet", b"id,text\n1,a\n", &["text.parquet"]),
        ("ragged.csv", ragged.as_bytes(), &["ragged.csv", "3"]),
        ("invalid.csv", invalid, &["invalid.csv", "UTF-8"]),
    ];
    for (name, content, texts) in cases {
        let fixture = Fixture::new();
        fixture.file(name, content).embed_yaml(name);
        fixture.run(&["run", "embed.yaml"]).fails(65, texts);
        assert!(fixture.files("out").is_empty(), "{name}: {:?}", fixture.files("out"));
    }
}

#[test]
fn rows_that_break_in_the_middle_publish_nothing() {
    let fixture = Fixture::new();
    let mut csv = String::from("id,text\n");
    for id in 0..100_000 {
        csv += &format!("{id},some text number {}\n", id % 100);
    }
    csv += "100000,ragged,row\n";
    fixture.file("late.csv", csv).embed_yaml("late.csv");
    fixture.run(&["run", "embed.yaml"]).fails(65, &["late.csv"]);
    assert!(fixture.files("out").is_empty(), "{:?}", fixture.files("out"));
}

#[test]
fn unavailable_models_exit_69() {
    let fixture = Fixture::new();
    let source = sample_rows();
    let pipeline = |model: &str| {
        embed_pipeline(model.as_ref(), source.to_str().unwrap(), "out", "").replace('\'', "\"")
    };
    fixture.file("embed.yaml", pipeline("./no-such-model"));
    fixture.run(&["run", "embed.yaml"]).fails(69, &["no-such-model"]);
    fixture.file("embed.yaml", pipeline("org/not-cached"));
    fixture.run(&["run", "embed.yaml"]).fails(69, &["org/not-cached", "offline"]);

    fixture.copy_model();
    let config = std::fs::read_to_string(fixture.path("model/config.json")).unwrap();
    fixture.file("embed.yaml", pipeline("./model"));
    fixture.file("model/config.json", config.replace("\"bert\"", "\"berd\""));
    fixture.run(&["run", "embed.yaml"]).fails(69, &["`berd`", "`bert`", "distilbert"]);

    // A third layer and wider feed-forward layers than in the weights: the error names every tensor.
    let config = config
        .replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")
        .replace("\"intermediate_size\": 640", "\"intermediate_size\": 641");
    fixture.file("model/config.json", config);
    fixture.run(&["run", "embed.yaml"]).fails(
        69,
        &[
            "encoder.layer.2.attention.self.query.weight",
            "encoder.layer.0.intermediate.dense.weight",
            "641",
            "640",
        ],
    );
    assert!(fixture.files("out").is_empty());
}

#[test]
fn unwritable_output_exits_73() {
    let fixture = Fixture::new();
    fixture.file("file", "not a folder");
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    fixture.run(&["run", "embed.yaml", "--set", "sink.path=file/out/"]).fails(73, &["file/out"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_exits_73_and_publishes_nothing() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    // A file size limit stands in for a full disk: writes beyond it fail.
    let program = fixture.command(&["run", "embed.yaml"]);
    let mut shell = std::process::Command::new("bash");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "bash"])
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(fixture.path(""))
        .env("HF_HUB_OFFLINE", "1");
    let output = shell.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(73), "{stderr}");
    assert!(stderr.contains("part-00000.parquet") || stderr.contains("out"), "{stderr}");
    assert!(fixture.files("out").is_empty(), "{:?}", fixture.files("out"));
}

#[cfg(unix)]
#[test]
fn signals_exit_130_and_143_and_publish_nothing() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let fixture = Fixture::new();
        write_rows(&fixture, "many.parquet", 400_000);
        fixture.embed_yaml("many.parquet");
        let mut child = fixture
            .command(&["run", "embed.yaml", "--progress", "json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The folder appears when the first rows arrive.
        let start = Instant::now();
        while !fixture.path("out/_hfauto").exists() {
            assert!(start.elapsed() < Duration::from_mins(1), "the run did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let pid = child.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-s", signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "SIG{signal}");
        // Finished units are staged; readers see nothing.
        let files = fixture.files("out");
        assert!(files.iter().all(|file| file.starts_with("_hfauto/")), "{files:?}");
    }
}

#[test]
fn schema_completions_init_and_models_print_results() {
    let fixture = Fixture::new();
    let schema = fixture.run(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema.succeeds().stdout).unwrap();
    assert!(schema["properties"]["source"].is_object());
    assert!(fixture.run(&["completions", "bash"]).succeeds().stdout.contains("hfauto-pipe"));
    fixture.run(&["init", "--output", "new.yaml"]).succeeds();
    fixture.run(&["validate", "new.yaml"]).succeeds();
    fixture.run(&["init", "--output", "new.yaml"]).fails(73, &["new.yaml"]);
    let models = fixture.run(&["models"]);
    for name in ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "AutoModel"]
    {
        assert!(models.succeeds().stdout.contains(name), "no `{name}` in:\n{}", models.stdout);
    }
    let classes = "MaskedLM, SequenceClassification";
    assert!(models.stdout.contains(classes), "{}", models.stdout);
    assert!(models.stdout.lines().all(|line| line.len() <= 80), "{}", models.stdout);
    let model = fixture.run(&["models", mini_embedder().to_str().unwrap()]);
    for text in ["bert", "model.safetensors", "160", "mean"] {
        assert!(model.succeeds().stdout.contains(text), "no `{text}` in:\n{}", model.stdout);
    }
}

/// The tasks are those for which the checkpoint has the head, and the parameters those that a run reports.
#[test]
fn models_says_which_tasks_a_checkpoint_runs() {
    let fixture = Fixture::new();
    let model = |name: &str| repository().join("tests/golden").join(name).display().to_string();
    let line = |name: &str, key: &str| {
        let ran = fixture.run(&["models", &model(name)]);
        let found = ran.succeeds().stdout.lines().find_map(|line| line.strip_prefix(key));
        found.unwrap_or_else(|| panic!("no {key} in:\n{}", ran.stdout)).trim().to_owned()
    };
    for (name, tasks) in [
        ("tasks/bert-ner", "feature-extraction, token-classification, token-count, chunk"),
        (
            "tasks/qwen3-rerank",
            "feature-extraction, rerank, text-generation, loglikelihood, token-count, chunk",
        ),
        (
            "tasks/bert-nli",
            "feature-extraction, text-classification, zero-shot-classification, token-count, chunk",
        ),
        ("tasks/gpt2", "feature-extraction, text-generation, loglikelihood, token-count, chunk"),
        ("tasks/vit", "image-classification, image-feature-extraction"),
    ] {
        assert_eq!(line(name, "tasks"), tasks, "{name}");
    }
    let rows = sample_rows().display().to_string();
    let ran = fixture.run(&[
        "ner",
        &rows,
        "--model",
        &model("tasks/bert-ner"),
        "--column",
        "text",
        "-o",
        "spans.jsonl",
    ]);
    let parameters = line("tasks/bert-ner", "parameters");
    let said = format!("{}{}", ran.succeeds().stdout, ran.stderr).replace(',', "");
    assert!(said.contains(&format!("{parameters} parameters")), "{parameters}: {said}");
}

#[test]
fn words_are_completed_in_a_shell() {
    let fixture = Fixture::new();
    let completed = |words: &str| {
        let script = format!(
            "source <(\"$0\" completions bash); COMP_WORDS=(hfauto-pipe {words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             $(complete -p hfauto-pipe | grep -o '_hfauto[^ ]*') hfauto-pipe \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; \
             echo \"${{COMPREPLY[*]}}\""
        );
        let program = env!("CARGO_BIN_EXE_hfauto-pipe");
        let ran = std::process::Command::new("bash").args(["-c", &script, program]).output();
        let ran = fixture.ran(ran.unwrap());
        ran.succeeds().stdout.trim().to_owned()
    };
    assert_eq!(completed("pre"), "preview");
    assert!(completed("''").contains("token-classification"), "{}", completed("''"));
    assert_eq!(completed("cluster ex"), "executor");
    assert!(completed("run --pro").contains("--progress"), "{}", completed("run --pro"));
    assert_eq!(completed("run --progress ba"), "bar");
    assert!(completed("feature-extraction --po").contains("--pooling"));
    assert_eq!(completed("feature-extraction --pooling lastt"), "lasttoken");
    assert_eq!(completed("init fill"), "fill-mask");
}

#[test]
fn quiet_leaves_errors_and_verbose_says_more() {
    let fixture = Fixture::new();
    fixture.embed_yaml(sample_rows().to_str().unwrap());
    let limited = ["run", "embed.yaml", "--limit", "40"];
    let quiet = fixture.run(&[&limited[..], &["-q"]].concat());
    assert_eq!((quiet.succeeds().stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let again = fixture.run(&["-q", "run", "no.yaml"]);
    again.fails(78, &["no.yaml"]);
    let verbose = fixture.run(&[&limited[..], &["--fresh", "--progress", "none", "-v"]].concat());
    assert!(verbose.succeeds().stderr.contains("run done"), "{}", verbose.stderr);
    let plan = fixture.run(&["plan", "embed.yaml", "--limit", "40", "-v"]);
    assert!(plan.succeeds().stdout.contains("ModelExec"), "{}", plan.stdout);
    fixture.run(&["plan", "embed.yaml", "-q", "-v"]).fails(64, &["cannot be used with"]);
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let fixture = Fixture::new();
    let mut child = fixture.command(&["schema"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn write_rows(fixture: &Fixture, name: &str, rows: i64) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
    ]));
    let file = std::fs::File::create(fixture.path(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).unwrap();
    for start in (0..rows).step_by(10_000) {
        let ids: Vec<i64> = (start..(start + 10_000).min(rows)).collect();
        let texts = ids.iter().map(|id| Some(format!("row number {id} of a long table")));
        let texts: StringArray = texts.collect();
        let columns: Vec<Arc<dyn Array>> = vec![Arc::new(Int64Array::from(ids)), Arc::new(texts)];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn validate_refuses_a_model_that_the_task_cannot_use_before_anything_runs() {
    let fixture = Fixture::new();
    let model =
        |name: &str| repository().join("tests/golden/tasks").join(name).display().to_string();
    fixture.file(
        "p.yaml",
        format!(
            "version: 1\nsource: {{path: rows.csv}}\nsink: {{path: out/}}\nsteps:\n\
             - text-generation: {{model: '{}', input: text, output: a}}\n\
             - fill-mask: {{model: '{}', input: text, output: b}}\n\
             - image-classification: {{model: '{}', input: text, output: c}}\n\
             - summarization: {{model: '{}', input: text, output: d, auto_class: AutoModelForT5}}\n",
            model("bert-mlm"),
            model("gpt2"),
            model("bert-ner"),
            model("gpt2"),
        ),
    );
    fixture.run(&["validate", "p.yaml"]).fails(
        69,
        &[
            "bert-mlm` is an encoder: it does not generate text",
            "model_type `gpt2` has no `AutoModelForMaskedLM`",
            "`gpt2` works with AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification",
            "reads text, not images",
            "`AutoModelForT5` loads T5, but the model_type is `gpt2`",
        ],
    );
}

#[test]
fn sql_reads_files_and_writes_rows() {
    let fixture = Fixture::new();
    fixture.file("rows.csv", "id,text\n1,a boat\n2,the sea\n3,\n");
    let model = format!("m={}", mini_embedder().display());
    let sql = |args: &[&str]| {
        let mut all = vec!["sql", "--model", &model];
        all.extend(args);
        fixture.run(&all)
    };
    let ran =
        sql(&["--format", "csv", "SELECT id, token_count(text, 'm') > 2 AS many FROM 'rows.csv'"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "id,many\n1,true\n2,true\n3,\n"),
        "{}",
        ran.stderr
    );
    let ran = sql(&[
        "--format",
        "jsonl",
        "--table",
        "r=rows.csv",
        "SELECT 1; SELECT max(id) AS n FROM r",
    ]);
    assert_eq!(ran.stdout, "{\"Int64(1)\":1}\n{\"n\":3}\n", "{}", ran.stderr);

    let ran =
        sql(&["-o", "out.parquet", "SELECT id, embed(text, 'm') AS e FROM 'rows.csv' ORDER BY id"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    let written = fixture.parquet("out.parquet");
    assert_eq!((written.num_rows(), written.column(1).null_count()), (3, 1));
    sql(&["-o", "out.parquet", "SELECT 1"]).fails(73, &["out.parquet"]);
    let ran = sql(&["COPY (SELECT id FROM 'rows.csv' WHERE id > 1) TO 'copy.csv'"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let copied = std::fs::read_to_string(fixture.path("copy.csv")).unwrap();
    assert_eq!(copied, "id\n2\n3\n");
    let ran = sql(&["--format", "csv", "FROM 'copy.csv' LIMIT 1"]);
    assert_eq!(ran.stdout, "id\n2\n", "{}", ran.stderr);
    let copy = "COPY (SELECT id FROM 'rows.csv' WHERE id > 2) TO 'copy.csv'";
    sql(&[copy]).fails(73, &["copy.csv"]);
    sql(&[&format!("{copy} OPTIONS (overwrite false)")]).fails(73, &["copy.csv"]);
    assert_eq!(sql(&[&format!("{copy} OPTIONS (overwrite true)")]).code, 0);
    assert_eq!(std::fs::read_to_string(fixture.path("copy.csv")).unwrap(), "id\n3\n");
    sql(&[&format!("{copy} OPTIONS (overwrite maybe)")]).fails(78, &["true or false"]);
    sql(&[&format!("{copy} OPTIONS (header true)")]).fails(78, &["no option `header`"]);

    sql(&["SELECT embed('a', 'no/model')"]).fails(69, &["`no/model`", "the call of `embed`"]);
    sql(&["SELECT 1;\n  SELEC 2"]).fails(78, &["Line: 2, Column: 3"]);
    sql(&["SELECT * FROM 'none.csv'"]).fails(66, &["none.csv"]);
    sql(&["CREATE MODEL"]).fails(78, &["CREATE MODEL name FROM"]);
}
