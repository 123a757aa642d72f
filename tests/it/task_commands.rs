//! One command per task: a pipeline of one step without a pipeline file; `preview`.

use arrow::array::AsArray;

use super::support::{Fixture, mini_embedder, repository};

fn model(name: &str) -> String {
    repository().join("tests/golden/tasks").join(name).display().to_string()
}

fn reviews() -> Fixture {
    let fixture = Fixture::new();
    fixture
        .file("reviews.csv", "id,text\n1,The inn by the harbour was quiet.\n2,Never again!\n3,\n");
    fixture
}

#[test]
fn a_command_writes_what_its_pipeline_writes() {
    let fixture = reviews();
    let ran = fixture.run(&[
        "embed",
        "reviews.csv",
        "--column",
        "text",
        "-o",
        "a.parquet",
        "--write-pipeline",
        "files/embed.yaml",
    ]);
    // The folder of the pipeline file is not made.
    assert_eq!(ran.code, 73, "{}", ran.stderr);
    fixture.file("files/keep", "");
    let args = ["embed", "reviews.csv", "-c", "text", "-o", "a.parquet"];
    let ran = fixture.run(&[&args[..], &["--write-pipeline", "files/embed.yaml"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("note: no `--model`"), "{}", ran.stderr);
    let rows = fixture.parquet("a.parquet");
    assert_eq!((rows.num_rows(), rows.num_columns()), (3, 3));
    assert_eq!(rows.column_by_name("embedding").unwrap().as_fixed_size_list().value_length(), 160);

    // The file that it wrote gives the same rows, from any folder.
    let pipeline = fixture.path("files/embed.yaml");
    let ran = fixture.run(&["run", pipeline.to_str().unwrap(), "--set", "sink.path=b.parquet"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(fixture.parquet("files/b.parquet"), rows);

    // The program's model is the one of the repository.
    fixture.embed_yaml("reviews.csv");
    let ran = fixture.run(&["run", "embed.yaml", "--set", "sink.path=c.parquet"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let own = fixture.parquet("c.parquet");
    assert_eq!(own.column_by_name("embedding"), rows.column_by_name("embedding"));

    // An existing output is kept.
    let ran = fixture.run(&args);
    assert_eq!(ran.code, 73, "{}", ran.stderr);
    assert_eq!(fixture.run(&[&args[..], &["--fresh"]].concat()).code, 0);
}

#[test]
fn tasks_have_their_names_of_transformers() {
    let fixture = reviews();
    for (verb, model, extra) in [
        ("classify", model("bert-sentiment"), &["--top-k", "all"] as &[&str]),
        ("sentiment-analysis", model("bert-sentiment"), &[]),
        ("ner", model("bert-ner"), &["--aggregation-strategy=simple"]),
        ("token-classification", model("bert-ner"), &[]),
        ("zero-shot", model("bert-nli"), &["--candidate-labels", "sport,travel"]),
        ("generate", model("gpt2"), &["--max-new-tokens", "4", "--do-sample=false"]),
        ("summarize", model("t5"), &["--max-new-tokens", "4"]),
    ] {
        let args = [verb, "reviews.csv", "-c", "text", "-m", &model, "-o", "out.jsonl", "--fresh"];
        let ran = fixture.run(&[&args[..], extra].concat());
        assert_eq!(ran.code, 0, "{verb}: {}", ran.stderr);
        let text = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 3, "{verb}: {text}");
    }
    // An alias is a step of a pipeline file, too.
    fixture.file(
        "ner.yaml",
        format!(
            "version: 1\nsource: {{path: reviews.csv}}\nsteps:\n  - ner: {{model: '{}', input: text, output: entities}}\nsink: {{path: out}}\n",
            model("bert-ner")
        ),
    );
    let ran = fixture.run(&["run", "ner.yaml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("token-classification"), "{}", ran.stdout);
    let ran = fixture.run(&["init", "sentiment-analysis"]);
    assert!(ran.stdout.contains("- text-classification:"), "{}", ran.stdout);
}

#[test]
fn an_adapter_is_merged_as_in_a_pipeline_file_and_in_sql() {
    let fixture = reviews();
    let golden = |path: &str| repository().join("tests/golden").join(path).display().to_string();
    let (model, adapter) =
        (golden("heads/bert/for-sequence-classification"), golden("adapters/bert"));
    let rows = |name: &str| std::fs::read_to_string(fixture.path(name)).unwrap();
    let args =
        ["classify", "reviews.csv", "-c", "text", "-m", &model, "--as", "label", "--top-k=all"];
    for (output, more) in [
        ("plain.jsonl", &[] as &[&str]),
        ("adapted.jsonl", &["--adapter", &adapter, "--write-pipeline", "adapted.yaml"]),
    ] {
        let ran = fixture.run(&[&args[..], &["-o", output], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    assert_ne!(rows("plain.jsonl"), rows("adapted.jsonl"));
    let ran = fixture.run(&["run", "adapted.yaml", "--set", "sink.path=again.jsonl"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(rows("again.jsonl"), rows("adapted.jsonl"));
    let query = format!(
        "CREATE MODEL tuned FROM '{model}' OPTIONS (adapter '{adapter}'); \
         COPY (SELECT *, classify(text, 'tuned', top_k => 'all') AS label FROM 'reviews.csv') TO 'sql.jsonl'"
    );
    let ran = fixture.run(&["sql", &query]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(rows("sql.jsonl"), rows("adapted.jsonl"));

    let ran =
        fixture.run(&[&args[..], &["--adapter", &golden("adapters/llama"), "-o", "x/"]].concat());
    assert_eq!(ran.code, 69, "{}", ran.stderr);
    assert!(ran.stderr.contains("has no modules"), "{}", ran.stderr);
}

#[test]
fn wrong_flags_say_what_is_expected() {
    let fixture = reviews();
    let model = mini_embedder();
    let model = model.to_str().unwrap();
    let check = |args: &[&str], code: i32, expected: &str| {
        let ran = fixture.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
    };
    check(&["embed", "reviews.csv"], 64, "--column");
    check(&["embed", "reviews.csv", "-c", "text", "--pooling", "median"], 64, "weightedmean");
    check(&["embed", "reviews.csv", "-c", "txt", "-m", model, "-o", "o/"], 78, "`text`");
    check(&["embed", "missing.csv", "-c", "text", "-m", model, "-o", "o/"], 66, "missing.csv");
    check(&["rerank", "reviews.csv", "--query", "text"], 64, "--document");
    check(&["embed", "reviews.csv", "-c", "text", "-m", model, "-o", "o.tsv"], 78, "o.tsv");
    check(&["embedd", "reviews.csv"], 64, "embed");
}

#[test]
fn a_preview_runs_the_steps_and_touches_no_output() {
    let fixture = reviews();
    fixture.embed_yaml("reviews.csv");
    let ran = fixture.run(&["preview", "embed.yaml", "-n", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("| id | text"), "{}", ran.stdout);
    assert!(ran.stdout.contains("2 rows, nothing is written"), "{}", ran.stdout);
    assert!(ran.stdout.contains("whole run: "), "{}", ran.stdout);
    assert!(fixture.files("out").is_empty());
    // Not even where the output exists.
    fixture.file("out/other.parquet", "kept");
    assert_eq!(fixture.run(&["preview", "embed.yaml"]).code, 0);
    assert_eq!(fixture.files("out"), ["other.parquet"]);
    assert_eq!(fixture.run(&["preview", "embed.yaml", "-n", "0"]).code, 64);
}
