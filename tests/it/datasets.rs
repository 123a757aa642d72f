//! Datasets of a hub as sources and as outputs: requests, the commit that is read, what the token is sent to, and the
//! dataset after every fault.

mod library;
mod server;

use std::process::Command;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use self::server::{DATASET, FakeDataset, TOKEN};
use super::support::{Fixture, Ran, embed_pipeline, mini_embedder};

/// A Parquet file of `rows` rows from `first`, with columns `id`, `text` and, for bulk, `noise`.
fn parquet(first: i64, rows: i64, noise: usize) -> Vec<u8> {
    let ids: Vec<i64> = (first..first + rows).collect();
    let texts: Vec<String> = ids.iter().map(|id| format!("row {id}: boats and bread")).collect();
    let noise: Vec<String> = ids
        .iter()
        .map(|id| {
            let digits = (0..noise as u64 / 16).map(|at| {
                let mixed =
                    (*id as u64 + 1).wrapping_mul(at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                format!("{mixed:016x}")
            });
            digits.collect()
        })
        .collect();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, false),
        Field::new("noise", DataType::Utf8, false),
    ]));
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(Int64Array::from(ids)),
        Arc::new(StringArray::from(texts)),
        Arc::new(StringArray::from(noise)),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// The program in a folder, and a hub.
struct Hub {
    fixture: Fixture,
    fake: FakeDataset,
}

impl Hub {
    fn new(files: &[(&str, &[u8])]) -> Self {
        Self { fixture: Fixture::new(), fake: FakeDataset::new(files) }
    }

    /// Three Parquet files and what else a dataset has.
    fn of_parts() -> Self {
        let parts = [0, 10, 20].map(|first| parquet(first, 10, 0));
        Self::new(&[
            (".gitattributes", b"*.parquet filter=lfs"),
            ("README.md", b"---\nlicense: mit\n---\n# Reviews\n"),
            ("data/a.parquet", &parts[0]),
            ("data/b c.parquet", &parts[1]),
            ("data/c.parquet", &parts[2]),
        ])
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.fixture.command(args);
        command
            .env("HF_ENDPOINT", self.fake.hub.url())
            .env("HF_HUB_OFFLINE", "0")
            .env("XDG_CACHE_HOME", self.fixture.path("cache"))
            .env("HF_TOKEN", TOKEN);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.ran(&mut self.command(args))
    }

    fn ran(&self, command: &mut Command) -> Ran {
        self.fixture.ran(command.output().unwrap())
    }

    /// Writes `embed.yaml`.
    fn embed(&self, source: &str, sink: &str, more: &str) {
        self.fixture.file("embed.yaml", embed_pipeline(&mini_embedder(), source, sink, more));
    }

    /// The result of a query, as text.
    fn sql(&self, query: &str) -> String {
        self.run(&["sql", "--format", "csv", query]).succeeds().stdout.clone()
    }

    /// The requests so far, the token in none but those to the hub.
    #[track_caller]
    fn requests(&self) -> (Vec<String>, Vec<String>) {
        let (hub, storage) = (self.fake.hub.seen(), self.fake.storage.seen());
        let token = format!("Bearer {TOKEN}");
        for seen in &hub {
            assert_eq!(seen.headers.get("authorization"), Some(&token), "{}", seen.line());
        }
        for seen in &storage {
            assert!(!seen.headers.contains_key("authorization"), "{}", seen.line());
        }
        let lines = |seen: Vec<crate::hub::server::Seen>| {
            seen.iter().map(crate::hub::server::Seen::line).collect()
        };
        (lines(hub), lines(storage))
    }
}

#[test]
fn a_dataset_is_listed_in_pages_and_read_at_one_commit() {
    let hub = Hub::of_parts();
    hub.fake.change(|world| world.page = 2);
    hub.embed("hf://datasets/ada/reviews/data/*.parquet", "out", "");
    hub.run(&["run", "embed.yaml"]).succeeds();
    let commit = hub.fake.change(|world| world.head().0.clone());
    let (lines, stored) = hub.requests();
    let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("/revision/main"), 1, "{lines:#?}");
    // A folder and three files, two by two.
    assert_eq!(count(&format!("/tree/{commit}/data?")), 2, "{lines:#?}");
    assert_eq!(count("/resolve/"), count(&format!("/resolve/{commit}/data/")), "{lines:#?}");
    // The address of a file in the storage is asked for once. The glob might be the name of a file.
    assert_eq!(count("HEAD "), 4, "{lines:#?}");
    assert!(!stored.is_empty());
    let query = "SELECT count(*), min(id), max(id), count(embedding) FROM 'out/'";
    assert!(hub.sql(query).ends_with("30,0,29,30\n"));
}

#[test]
fn only_the_ranges_that_a_query_needs_are_read() {
    let wide = parquet(0, 400, 16 << 10);
    let hub = Hub::new(&[("wide.parquet", &wide)]);
    let said = hub.sql("SELECT sum(id) AS s FROM 'hf://datasets/ada/reviews/wide.parquet'");
    assert_eq!(said, "s\n79800\n");
    let mut asked = 0;
    for seen in hub.fake.storage.seen() {
        let range = seen.headers.get("range").unwrap().strip_prefix("bytes=").unwrap();
        let (start, end) = range.split_once('-').unwrap();
        asked += end.parse::<usize>().unwrap() + 1 - start.parse::<usize>().unwrap();
    }
    assert!(asked > 0 && asked < wide.len() / 4, "{asked} of {}", wide.len());
}

#[test]
fn text_files_revisions_and_folders() {
    let hub = Hub::new(&[
        ("csv/a.csv", b"id,text\n1,boats\n2,bread\n"),
        ("lines/a.jsonl", b"{\"id\": 3}\n{\"id\": 4}\n"),
        ("lines/_skipped.jsonl", b"{\"id\": 99}\n"),
        ("lang=en/a.csv", b"id\n5\n"),
    ]);
    let first = hub.fake.change(|world| {
        let mut files = world.head().1.clone();
        let first = world.head().0.clone();
        files.insert("csv/a.csv".to_owned(), b"id,text\n7,later\n".to_vec());
        world.add(files);
        first
    });
    let root = "hf://datasets/ada/reviews";
    assert_eq!(hub.sql(&format!("SELECT id FROM '{root}/csv/'")), "id\n7\n");
    assert_eq!(hub.sql(&format!("SELECT id FROM '{root}@main/csv/a.csv'")), "id\n7\n");
    assert_eq!(hub.sql(&format!("SELECT id FROM '{root}@{first}/csv/*'")), "id\n1\n2\n");
    assert_eq!(hub.sql(&format!("SELECT id FROM '{root}/lines'")), "id\n3\n4\n");
    assert_eq!(hub.sql(&format!("SELECT id, lang FROM '{root}/lang=*/'")), "id,lang\n5,en\n");
    // Two tables of one session, of two revisions.
    let join = format!(
        "SELECT a.id, b.id AS b FROM '{root}/csv' a, '{root}@{first}/csv' b WHERE b.id = 1"
    );
    assert_eq!(hub.sql(&join), "id,b\n7,1\n");
    let model = mini_embedder();
    let preview = hub.run(&[
        "embed",
        &format!("{root}/csv/a.csv"),
        "--column",
        "text",
        "--model",
        model.to_str().unwrap(),
    ]);
    assert!(preview.succeeds().stdout.contains("later"), "{}", preview.stdout);
}

#[test]
fn faults_of_the_network_are_retried_and_reads_resume() {
    let hub = Hub::new(&[("wide.parquet", &parquet(0, 40, 16 << 10))]);
    hub.fake.change(|world| (world.busy, world.cuts, world.expired) = (1, 2, 1));
    let query = "SELECT count(*) AS n, sum(length(noise)) AS s FROM 'hf://datasets/ada/reviews/'";
    assert_eq!(hub.sql(query), format!("n,s\n40,{}\n", 40 * (16 << 10)));
    hub.fake.change(|world| assert_eq!((world.busy, world.cuts, world.expired), (0, 0, 0)));
}

#[test]
fn a_changed_file_is_computed_again_and_others_are_not() {
    let hub = Hub::of_parts();
    hub.embed("hf://datasets/ada/reviews/data/", "out", "run: {incremental: new_or_changed}");
    hub.run(&["run", "embed.yaml"]).succeeds();
    hub.fake.change(|world| {
        let mut files = world.head().1.clone();
        files.insert("data/b c.parquet".to_owned(), parquet(100, 10, 0));
        files.insert("README.md".to_owned(), b"# Changed\n".to_vec());
        world.add(files);
    });
    let ran = hub.run(&["plan", "embed.yaml", "--explain"]);
    let lines: Vec<&str> = ran.succeeds().stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.stdout);
    for (line, what) in lines.iter().zip(["skip", "the file has changed", "skip"]) {
        assert!(line.contains(what) && line.contains("hf://datasets/ada/reviews"), "{line}");
    }
    hub.run(&["run", "embed.yaml"]).succeeds();
    let query = "SELECT count(*) AS n, max(id) AS m FROM 'out/'";
    assert_eq!(hub.sql(query), "n,m\n30,109\n");
}

#[test]
fn errors_say_what_to_do() {
    let hub = Hub::of_parts();
    let sql = |path: &str| hub.run(&["sql", &format!("SELECT * FROM '{path}'")]);
    let path = "hf://datasets/ada/reviews/data/*.parquet";

    let mut offline = hub.command(&["sql", &format!("SELECT * FROM '{path}'")]);
    hub.ran(offline.env("HF_HUB_OFFLINE", "1"))
        .fails(66, &["dataset `ada/reviews`", "switched off", "unset `HF_HUB_OFFLINE`"]);
    hub.embed(path, "out", "");
    hub.run(&["run", "embed.yaml", "--offline"]).fails(66, &["switched off", "--offline"]);
    assert!(hub.fake.hub.seen().is_empty());

    sql("hf://datasets/ada/reviews/dta/").fails(66, &["does not exist", "at revision `main`"]);
    sql("hf://datasets/ada/reviews/data/*.csv").fails(66, &["nothing matches"]);
    sql("hf://datasets/ada/reviews@v9/data/").fails(66, &["no revision `v9`", "a tag"]);
    sql("hf://datasets/ada/other/data/").fails(66, &["dataset `ada/other`", "check the spelling"]);
    sql("hf://datasets/reviews").fails(78, &["names no dataset", "hf://datasets/owner/name"]);
    sql("hf://spaces/ada/reviews/a.csv").fails(78, &["is not the URL of a dataset"]);

    hub.fake.change(|world| world.refuse_files = Some((403, "GatedRepo")));
    sql(path).fails(66, &["dataset `ada/reviews` is gated", "/datasets/ada/reviews", "token"]);
    hub.fake.change(|world| (world.refuse_files, world.refuse) = (None, Some((401, ""))));
    sql(path).fails(66, &["does not accept the token", "settings/tokens"]);
    let mut anonymous = hub.command(&["sql", &format!("SELECT * FROM '{path}'")]);
    hub.ran(anonymous.env_remove("HF_TOKEN"))
        .fails(66, &["does not exist, or is private", "set `HF_TOKEN`"]);
}

#[test]
fn validate_shows_where_a_url_is_wrong_without_a_request() {
    let hub = Hub::of_parts();
    hub.embed("hf://datasets/reviews", "out", "");
    hub.run(&["validate", "embed.yaml"])
        .fails(78, &["names no dataset", "embed.yaml:2:", "hf://datasets/owner/name"]);
    hub.embed("hf://datasets/ada/reviews", "hf://datasets/ada/reviews/out/", "");
    hub.run(&["run", "embed.yaml"]).fails(78, &["overlap"]);
    hub.embed("hf://datasets/ada/reviews", "out", "");
    hub.run(&["validate", "embed.yaml"]).succeeds();
    assert!(hub.fake.hub.seen().is_empty());
}

const OUTPUT: &str = "hf://datasets/ada/reviews/vectors/";

impl Hub {
    /// A pipeline over the parts of the dataset, whose output is pushed to it.
    fn pushing() -> Self {
        let hub = Self::of_parts();
        hub.embed("hf://datasets/ada/reviews/data/", OUTPUT, "");
        hub
    }

    /// The names of the files of the output at the tip of the branch.
    fn output(&self) -> Vec<String> {
        let files = self.fake.files().into_keys();
        files.filter(|name| name.starts_with("vectors/")).collect()
    }

    fn card(&self) -> String {
        String::from_utf8(self.fake.files()["README.md"].clone()).unwrap()
    }

    /// Whether the local folder of the output is gone.
    fn has_no_staging(&self) -> bool {
        self.fixture.files("cache/hfauto-pipe/staging").is_empty()
    }

    fn report(&self) -> Value {
        let text = std::fs::read(self.fixture.path("report.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["run"].clone()
    }

    fn run_reported(&self) -> Ran {
        self.run(&["run", "embed.yaml", "--report", "report.json"])
    }

    /// Kills a run at a place.
    fn kill(&self, place: &str) {
        use std::os::unix::process::ExitStatusExt;
        let mut command = self.command(&["run", "embed.yaml"]);
        let output = command.env("HFAUTO_FAILPOINT", place).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(9), "{place}: {stderr}");
    }
}

#[test]
fn an_output_is_pushed_in_one_commit_and_only_once() {
    let hub = Hub::pushing();
    let before = hub.card();
    hub.run(&["plan", "embed.yaml"]).succeeds();
    hub.run_reported().succeeds();
    assert_eq!(hub.fake.commits(), 2);
    let output = hub.output();
    assert_eq!(output.len(), 4, "{output:?}");
    assert_eq!(output[0], "vectors/_hfauto/MANIFEST.json");
    let written = hub.report()["output"].as_array().unwrap().clone();
    assert_eq!(written.len(), 3);
    let written = written[0]["path"].as_str().unwrap().to_owned();
    assert!(written.starts_with(OUTPUT), "{written}");
    assert!(hub.has_no_staging());
    hub.requests();

    // The card of the owner is as it was, before a section of ours.
    let card = hub.card();
    assert!(card.starts_with(before.trim_end()), "{card}");
    let commit = hub.fake.change(|world| world.commits[0].0.clone());
    for text in [
        "<!-- hfauto-pipe: vectors -->\n## Output in `vectors/`",
        "the pipeline `embed`",
        &format!("| source | `hf://datasets/ada/reviews/data` at `{commit}` |"),
        "| rows | 30 |",
        "| units | 3 |",
        "| `embedding` | feature-extraction | `mini-embedder` | local | f32 |",
        "The run that finished it wrote 30 rows",
        "<!-- /hfauto-pipe: vectors -->\n",
    ] {
        assert!(card.contains(text), "no {text} in\n{card}");
    }
    assert!(!card.contains(hub.fixture.path("").to_str().unwrap()), "{card}");
    let query =
        format!("SELECT count(*) AS n, sum(id) AS s, count(embedding) AS e FROM '{OUTPUT}'");
    assert_eq!(hub.sql(&query), "n,s,e\n30,435,30\n");

    // The commit of the output is one of the source, too, and leaves its files alone.
    hub.run_reported().succeeds();
    assert_eq!((hub.fake.commits(), hub.report()["units"]["skipped"].as_u64()), (2, Some(3)));
    hub.run(&["run", "embed.yaml", "--fresh"]).succeeds();
    assert_eq!(hub.fake.commits(), 2);
    assert!(hub.has_no_staging());
}

#[test]
fn a_killed_run_leaves_the_dataset_and_ends_in_one_commit() {
    for place in ["unit.committed:2", "publish.planned", "push.uploaded", "push.committed"] {
        let hub = Hub::pushing();
        hub.kill(place);
        let is_committed = place == "push.committed";
        assert_eq!(hub.fake.commits(), 1 + usize::from(is_committed), "{place}");
        hub.fake.storage.seen();
        hub.run_reported().succeeds();
        assert_eq!(hub.fake.commits(), 2, "{place}");
        assert_eq!(hub.output().len(), 4, "{place}");
        assert!(hub.has_no_staging(), "{place}");
        let uploads = hub.fake.storage.seen().iter().filter(|seen| seen.method == "PUT").count();
        match place {
            "push.uploaded" | "push.committed" => assert_eq!(uploads, 0, "{place}"),
            _ => assert_eq!(uploads, 3, "{place}"),
        }
        hub.run(&["run", "embed.yaml"]).succeeds();
        assert_eq!(hub.fake.commits(), 2, "{place}");
    }
}

#[test]
fn an_output_that_is_one_unit_is_pushed_once_as_well() {
    let hub = Hub::of_parts();
    let pipeline = format!(
        "version: 1\nsource: {{path: 'hf://datasets/ada/reviews/data/'}}\nsteps:\n\
         - sql: SELECT * FROM input ORDER BY id DESC\n\
         - feature-extraction: {{model: '{}', input: text, output: embedding}}\n\
         sink: {{path: '{OUTPUT}', format: csv}}\n",
        mini_embedder().display()
    );
    hub.fixture.file("embed.yaml", pipeline);
    hub.kill("push.uploaded");
    assert_eq!(hub.fake.commits(), 1);
    hub.run(&["run", "embed.yaml"]).succeeds();
    hub.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(hub.fake.commits(), 2);
    // Text goes into the commit itself.
    assert!(hub.fake.storage.seen().iter().all(|seen| seen.method != "PUT"));
    assert_eq!(hub.output(), ["vectors/_hfauto/MANIFEST.json", "vectors/part-00000.csv"]);
}

#[test]
fn another_commit_in_between_is_not_overwritten() {
    let hub = Hub::pushing();
    hub.fake.change(|world| world.race = true);
    hub.run(&["run", "embed.yaml"])
        .fails(75, &["another commit came to `main`", "run the same command again"]);
    assert!(hub.output().is_empty());
    hub.run_reported().succeeds();
    assert!(hub.fake.files().contains_key("other.txt"));
    assert_eq!((hub.fake.commits(), hub.output().len()), (3, 4));
    assert_eq!(hub.report()["rows_written"], 0);
}

#[test]
fn a_commit_whose_answer_is_lost_is_found() {
    let hub = Hub::pushing();
    hub.fake.change(|world| world.lose_answer = true);
    let ran = hub.run(&["run", "embed.yaml"]);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("run the same command again")
            || ran.stderr.contains("the same command pushes it"),
        "{}",
        ran.stderr
    );
    hub.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!(hub.fake.commits(), 2);
    assert!(hub.has_no_staging());
}

#[test]
fn large_files_are_uploaded_in_parts() {
    let hub = Hub::pushing();
    hub.fake.change(|world| world.chunk_size = Some(1000));
    hub.run(&["run", "embed.yaml"]).succeeds();
    assert_eq!((hub.fake.commits(), hub.output().len()), (2, 4));
    hub.requests();
    assert!(hub.sql(&format!("SELECT count(embedding) AS n FROM '{OUTPUT}'")).ends_with("30\n"));
}

#[test]
fn an_existing_output_is_replaced_by_fresh_only() {
    let hub = Hub::pushing();
    hub.run(&["run", "embed.yaml"]).succeeds();
    let limit = ["--limit", "15"];
    hub.run(&[&["run", "embed.yaml"][..], &limit].concat())
        .fails(73, &["the output `hf://datasets/ada/reviews/vectors/` exists", "`--fresh`"]);
    let plan = hub.run(&["plan", "embed.yaml", "--limit", "15"]);
    assert!(plan.succeeds().stdout.contains("`run` exits with 73"), "{}", plan.stdout);
    assert_eq!(hub.fake.commits(), 2);
    hub.run(&[&["run", "embed.yaml", "--fresh"][..], &limit].concat()).succeeds();
    assert_eq!(hub.fake.commits(), 3);
    assert_eq!(hub.output(), ["vectors/_hfauto/MANIFEST.json", "vectors/part-00000.parquet"]);
    assert_eq!(hub.card().matches("## Output in `vectors/`").count(), 1);
    assert!(hub.card().contains("| rows | 15 |"), "{}", hub.card());

    hub.fake.change(|world| {
        let mut files = world.head().1.clone();
        files.insert("vectors/mine.txt".to_owned(), b"precious".to_vec());
        world.add(files);
    });
    hub.run(&["run", "embed.yaml", "--fresh"])
        .fails(73, &["contains `vectors/mine.txt`, which hfauto-pipe did not write"]);
    assert_eq!(hub.fake.commits(), 4);
}

#[test]
fn a_new_card_says_where_the_data_is() {
    let hub = Hub::new(&[("data/a.parquet", &parquet(0, 10, 0))]);
    hub.embed("hf://datasets/ada/reviews/data/", OUTPUT, "");
    hub.run(&["run", "embed.yaml"]).succeeds();
    let card = hub.card();
    let front = "---\nconfigs:\n- config_name: default\n  data_files: \"vectors/*.parquet\"\n\
                 library_name: hfauto-pipe\ntags:\n- hfauto-pipe\n---\n\n# reviews\n\n";
    assert!(card.starts_with(front), "{card}");
}

#[test]
fn writing_needs_a_token_that_may_write() {
    let hub = Hub::pushing();
    let run = |token: Option<&str>| {
        let mut command = hub.command(&["run", "embed.yaml"]);
        match token {
            Some(token) => command.env("HF_TOKEN", token),
            None => command.env_remove("HF_TOKEN"),
        };
        hub.ran(&mut command)
    };
    run(None).fails(73, &["no token to write to dataset `ada/reviews`", "set `HF_TOKEN`"]);
    run(Some("hf_read_only"))
        .fails(73, &["may not write to dataset `ada/reviews`", "write access"]);
    hub.embed("hf://datasets/ada/reviews/data/", "hf://datasets/ada/reviews@next/vectors/", "");
    run(Some(TOKEN)).fails(73, &["its branch `next` does not exist", "create it first"]);
    hub.embed("hf://datasets/ada/reviews/data/", OUTPUT, "");
    hub.run(&["run", "embed.yaml", "--offline"]).fails(66, &["switched off"]);
    assert_eq!(hub.fake.commits(), 1);
    assert!(hub.has_no_staging());
}

#[test]
fn what_an_output_on_the_hub_cannot_be_is_refused() {
    let hub = Hub::of_parts();
    let source = "hf://datasets/ada/reviews/data/";
    let validate = |sink: &str, more: &str, texts: &[&str]| {
        hub.embed(source, sink, more);
        hub.run(&["validate", "embed.yaml"]).fails(78, texts);
    };
    validate(
        "hf://datasets/ada/reviews/a.parquet",
        "",
        &["is a folder of a dataset", "embed.yaml:5:"],
    );
    validate("hf://datasets/ada/reviews", "", &["is a folder of a dataset"]);
    validate("hf://datasets/ada", "", &["names no dataset", "embed.yaml:5:"]);
    let incremental = "run: {incremental: new_or_changed}";
    validate(OUTPUT, incremental, &["`incremental` needs an output that stays"]);
    validate(OUTPUT, "on_error: {rows: skip}", &["dead letters are not written to the hub"]);
    hub.embed(source, OUTPUT, "");
    for flags in [&["--shard", "1/2"][..], &["--join"]] {
        hub.run(&[&["run", "embed.yaml"][..], flags].concat())
            .fails(64, &["conflicts with an output on the hub"]);
    }
    hub.run(&["sql", "SELECT 1 AS a", "-o", OUTPUT])
        .fails(64, &["a query does not write to the hub"]);
    hub.run(&["compact", OUTPUT]).fails(66, &["are not compacted"]);
    assert_eq!(hub.fake.commits(), 1);
}

/// The pipeline of the page, with the model of the repository.
#[test]
fn the_page_of_the_cookbook_does_what_it_says() {
    let page = super::support::repository().join("docs/cookbook/hub-data-set.md");
    let page = std::fs::read_to_string(page).unwrap();
    let pipeline = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(pipeline.contains(DATASET), "{pipeline}");
    let model = mini_embedder().display().to_string();
    let hub = Hub::of_parts();
    hub.fixture.file("hub.yaml", pipeline.replace("examples/models/mini-embedder", &model));
    hub.run(&["plan", "hub.yaml"]).succeeds();
    hub.run(&["run", "hub.yaml"]).succeeds();
    assert_eq!(hub.fake.commits(), 2);
    let query = "SELECT id FROM 'hf://datasets/ada/reviews/embeddings/' ORDER BY \
                 cosine_similarity(embedding, embed('row 7: boats and bread', 'mini')) DESC LIMIT 1";
    let mini = format!("mini={model}");
    let ran = hub.run(&["sql", "--format", "csv", "--model", &mini, query]);
    assert_eq!(ran.succeeds().stdout, "id\n7\n");
}
