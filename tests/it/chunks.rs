//! `chunk` steps, whose rows are more than those of their input, and prompts with columns of the row.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use hfauto_pipe::auto::AutoTokenizer;
use hfauto_pipe::pipelines::{ChunkBy, ChunkOptions, Chunker};
use serde_json::{Value, json};

use super::support::{Fixture, mini_embedder, repository};

const TEXT: &str = "The little inn by the harbour was quiet. Café crème, 房间干净安静。 The bread was still warm.\n\nWe came \
     back twice 🙂 and stayed for a week each time.";

/// A pipeline from `rows.jsonl` to `out.jsonl`. JSON is YAML.
fn pipeline(steps: Value) -> Value {
    json!({
        "version": 1,
        "source": {"path": "rows.jsonl"},
        "steps": steps,
        "sink": {"path": "out.jsonl"},
    })
}

/// Runs the steps over rows and returns the rows of the output.
#[track_caller]
fn run(rows: &[Value], steps: Value) -> Vec<Value> {
    let fixture = Fixture::new();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fixture.file("rows.jsonl", lines).file("p.yaml", pipeline(steps).to_string());
    fixture.run(&["run", "p.yaml"]).succeeds();
    written(&fixture)
}

fn written(fixture: &Fixture) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn chunk(options: Value) -> Value {
    let mut step = json!({"model": mini_embedder(), "input": "text", "output": "chunk"});
    step.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    json!({ "chunk": step })
}

fn model(name: &str) -> String {
    repository().join("tests/golden/tasks").join(name).display().to_string()
}

fn rows() -> Vec<Value> {
    vec![
        json!({"id": 1, "text": TEXT, "late": "a"}),
        json!({"id": 2, "text": null, "late": "b"}),
        json!({"id": 3, "text": " ", "late": "c"}),
        json!({"id": 4, "text": "Short.", "late": null}),
    ]
}

#[test]
fn a_row_for_each_chunk_and_no_row_is_lost() {
    let tokenizer = AutoTokenizer::from_pretrained(mini_embedder().to_str().unwrap()).unwrap();
    for (by, name) in [
        (ChunkBy::Tokens, "tokens"),
        (ChunkBy::Sentences, "sentences"),
        (ChunkBy::Markdown, "markdown"),
    ] {
        let options = ChunkOptions { by, max_tokens: 20, overlap: 5, prompt: "" };
        let chunks = Chunker::new(&tokenizer, options).unwrap().chunks(TEXT).unwrap();
        assert!(chunks.len() >= 3, "{name}: {chunks:?}");
        let mut expected: Vec<Value> = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let (start, end) = (chunk.characters.start, chunk.characters.end);
            expected.push(json!({
                "id": 1, "chunk": TEXT[chunk.bytes.clone()], "chunk_index": index, "chunk_start": start,
                "chunk_end": end, "late": "a",
            }));
            let sliced: String = TEXT.chars().skip(start).take(end - start).collect();
            assert_eq!(sliced, TEXT[chunk.bytes.clone()]);
        }
        let without = |mut row: Value| {
            row.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            row
        };
        expected.push(json!({"id": 2, "late": "b"}));
        expected.push(json!({"id": 3, "late": "c"}));
        expected.push(
            json!({"id": 4, "chunk": "Short.", "chunk_index": 0, "chunk_start": 0, "chunk_end": 6}),
        );
        let options = json!({"by": name, "max_tokens": 20, "overlap": 5});
        let found = run(&rows(), json!([chunk(options.clone())]));
        let found: Vec<Value> = found.into_iter().map(without).collect();
        assert_eq!(found, expected, "{name}");

        // The function gives the same items, of rows that have any.
        let call = format!(
            "SELECT id, item.chunk AS chunk, item.index AS chunk_index, item.start AS chunk_start, item.\"end\" AS \
             chunk_end, late FROM (SELECT id, late, unnest(chunk(text, '{}', options => '{options}')) AS item FROM input)",
            mini_embedder().display()
        );
        let found = run(&rows(), json!([{"sql": call}]));
        let found: Vec<Value> = found.into_iter().map(without).collect();
        expected.retain(|row| row["chunk"].is_string());
        assert_eq!(found, expected, "{name} in SQL");
    }
}

#[test]
fn the_types_are_known_before_and_later_steps_read_chunks() {
    let fixture = Fixture::new();
    let lines: String = rows().iter().map(|row| format!("{row}\n")).collect();
    let mut file = pipeline(json!([
        chunk(json!({"max_tokens": 20})),
        {"feature-extraction": {"model": mini_embedder(), "input": "chunk", "output": "embedding"}},
        {"sql": "SELECT id, chunk, chunk_index, chunk_start, chunk_end, embedding FROM input WHERE id < 4"},
    ]));
    file["sink"]["path"] = json!("out.parquet");
    fixture.file("rows.jsonl", lines).file("p.yaml", file.to_string());
    fixture.run(&["validate", "p.yaml"]).succeeds();
    let planned = fixture.run(&["plan", "-v", "p.yaml"]);
    planned.succeeds();
    for part in ["chunk_index", "Int64", "ExplodeExec: chunk", "chunk(text) -> chunk"] {
        assert!(planned.stdout.contains(part), "{part}: {}", planned.stdout);
    }
    fixture.run(&["run", "p.yaml"]).succeeds();
    let batch: RecordBatch = fixture.parquet("out.parquet");
    let types: Vec<_> =
        batch.schema().fields()[1..5].iter().map(|f| f.data_type().clone()).collect();
    assert!(matches!(types[0], DataType::Utf8 | DataType::Utf8View), "{types:?}");
    assert_eq!(types[1..], [DataType::Int64, DataType::Int32, DataType::Int32]);
    assert_eq!(batch["embedding"].null_count(), batch["chunk"].null_count());
    assert_eq!(batch["chunk"].null_count(), 2);
    let ids = batch["id"].as_primitive::<Int64Type>();
    assert!(ids.values().windows(2).all(|pair| pair[0] <= pair[1]));
    assert!(batch["chunk_end"].as_primitive::<Int32Type>().iter().flatten().all(|end| end > 0));

    // A column that nothing reads is not read from the source.
    let preview = fixture.run(&["preview", "p.yaml"]);
    preview.succeeds();
}

/// Files of documents, one unit each.
fn documents(files: usize) -> Fixture {
    let fixture = Fixture::new();
    for file in 0..files {
        let mut csv = "id,text\n".to_owned();
        for row in 0..10 {
            let text = format!("Row {row} of file {file} is here. ").repeat(1 + row * 3);
            writeln!(csv, "{},\"{text}\"", file * 100 + row).unwrap();
        }
        fixture.file(&format!("in/{file}.csv"), csv);
    }
    let file = json!({
        "version": 1,
        "source": {"path": "in/*.csv"},
        "steps": [
            chunk(json!({"max_tokens": 24, "overlap": 6})),
            {"feature-extraction": {"model": mini_embedder(), "input": "chunk", "output": "embedding"}},
        ],
        "sink": {"path": "out/"},
    });
    fixture.file("p.yaml", file.to_string());
    fixture
}

fn output(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    let files = fixture.files("out").into_iter();
    files
        .map(|name| (name.clone(), std::fs::read(fixture.path(&format!("out/{name}"))).unwrap()))
        .collect()
}

#[test]
fn a_killed_run_gives_the_same_rows() {
    let fixture = documents(4);
    fixture.run(&["run", "p.yaml"]).succeeds();
    let expected = output(&fixture);
    let rows: usize = expected
        .keys()
        .filter(|name| name.ends_with(".parquet"))
        .map(|name| fixture.parquet(&format!("out/{name}")).num_rows())
        .sum();
    assert!(rows > 100, "{rows}");
    for what in ["unit.begun:3", "unit.committed:2"] {
        std::fs::remove_dir_all(fixture.path("out")).unwrap();
        let mut command = fixture.command(&["run", "p.yaml"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).env("HFAUTO_FAILPOINT", what);
        assert_eq!(command.status().unwrap().signal(), Some(9), "{what}");
        fixture.run(&["run", "p.yaml"]).succeeds();
        assert!(output(&fixture) == expected, "{what}");
    }
}

#[test]
fn only_new_documents_are_divided() {
    let fixture = documents(2);
    let incremental = ["--set", "run.incremental=new_or_changed"];
    let report = || {
        let args = [&["run", "p.yaml", "--report", "report.json"], &incremental[..]].concat();
        fixture.run(&args).succeeds();
        let text = std::fs::read(fixture.path("report.json")).unwrap();
        let report: Value = serde_json::from_slice(&text).unwrap();
        report["run"]["units"].clone()
    };
    assert_eq!(report()["total"], 2);
    fixture.file("in/9.csv", "id,text\n900,One more. And another one.\n");
    let units = report();
    assert_eq!((&units["total"], &units["skipped"]), (&json!(3), &json!(2)), "{units}");
}

#[test]
fn rows_that_fail_count_among_chunks() {
    let fixture = Fixture::new();
    let lines: String = rows().iter().map(|row| format!("{row}\n")).collect();
    let mut file = pipeline(json!([
        chunk(json!({"max_tokens": 20, "by": "sentences"})),
        {"feature-extraction": {
            "model": mini_embedder(), "input": "chunk", "output": "embedding", "max_length": 12, "truncation": false,
        }},
    ]));
    file["on_error"] = json!({"rows": "null", "max_fraction": 0.9});
    fixture.file("rows.jsonl", lines).file("p.yaml", file.to_string());
    fixture.run(&["run", "p.yaml"]).succeeds();
    let rows = written(&fixture);
    let failed = rows.iter().filter(|row| row["_error"].is_object()).count();
    // More chunks fail than there are texts, but not all of them.
    assert!(failed >= 3 && failed < rows.len() - 2, "{rows:?}");
    assert!(rows.iter().all(|row| row["_error"].is_null() || row["_error"]["kind"] == "too_long"));
    // Every row of the input is there.
    for id in 1..=4 {
        assert!(rows.iter().any(|row| row["id"] == id), "{id}");
    }
}

#[test]
fn mistakes_are_shown_where_they_are() {
    let check = |steps: &str, expected: &[&str]| {
        let fixture = Fixture::new();
        let text = format!(
            "version: 1\nsource: {{path: rows.jsonl, select: [id, title, text]}}\nsink: {{path: out/}}\nsteps:\n{steps}"
        );
        fixture.file("p.yaml", text).file("rows.jsonl", "");
        let ran = fixture.run(&["validate", "p.yaml"]);
        ran.fails(78, expected);
    };
    let chunk = |more: &str| format!("- chunk: {{model: a/b, input: text, output: chunk{more}}}\n");
    let embed = |input: &str, more: &str| {
        format!("- feature-extraction: {{model: a/b, input: {input}, output: e{more}}}\n")
    };
    check(
        &format!("{}{}", chunk(""), embed("text", "")),
        &["p.yaml:6:", "there is no column `text` here", "chunk_start"],
    );
    check(
        &chunk(", max_tokens: 10, overlap: 6"),
        &["p.yaml:5:", "`overlap` is more than half of `max_tokens`"],
    );
    check(
        &chunk(", max_length: 10"),
        &["p.yaml:5:", "`max_length` is not an option of this step", "`max_tokens`"],
    );
    check(&chunk(", by: words"), &["p.yaml:5:", "`words`", "tokens, sentences, markdown"]);
    check(&chunk(", prompt: '{{ title }}: '"), &["depends on the row"]);
    let twice =
        "- token-count: {model: a/b, input: text, output: chunk_index}\n".to_owned() + &chunk("");
    check(&twice, &["p.yaml:6:", "there already is a column `chunk_index`"]);

    check(
        &embed("text", ", prompt: '{{ titel }}: {{ text }}'"),
        &["p.yaml:5:", "there is no column `titel` here", "did you mean `title`"],
    );
    check(
        &embed("text", ", prompt: '{{ title }}'"),
        &["does not read the input `text`", "add `{{ text }}`"],
    );
    check(&embed("text", ", prompt: '{{ text'"), &["p.yaml:5:", "not a template"]);
    let generate = |more: &str| format!("- text-generation: {{model: a/b, output: e, {more}}}\n");
    check(&generate("input: text, system: 'In {{ lang }}.'"), &["there is no column `lang` here"]);
    check(
        &generate("input: {messages: text}, system: Kind."),
        &["`system` applies to a text column"],
    );
    check(&generate("input: text, chat_template: x"), &["or set `prompt` or `system`"]);
    let sparse = "- sparse-encoding: {model: a/b, input: text, output: e, prompt: '{{ title }}'}\n";
    check(sparse, &["the same for all rows"]);
}

#[test]
fn a_prompt_with_columns_is_the_text_of_the_row() {
    let rows = [
        json!({"id": 1, "text": "The inn was quiet.", "title": "Inn", "stars": 4}),
        json!({"id": 2, "text": "Warm bread", "title": null, "stars": null}),
        json!({"id": 3, "text": null, "title": "Nothing", "stars": 5}),
    ];
    let embed = |model: &str, input: &str, prompt: Option<&str>| {
        let mut step = json!({"model": model, "input": input, "output": "e"});
        if let Some(prompt) = prompt {
            step["prompt"] = prompt.into();
        }
        json!({"feature-extraction": step})
    };
    let keep = json!({"sql": "SELECT id, e FROM input"});
    let joined = json!({"sql": "SELECT id, coalesce(title, '') || ' (' || coalesce(CAST(stars AS STRING), '') || '): ' || text AS text FROM input"});
    let prompt = "{{ title }} ({{ stars }}): {{ text }}";
    let of_golden = |name: &str| repository().join("tests/golden").join(name).display().to_string();
    for model in [mini_embedder().display().to_string(), of_golden("static/model2vec")] {
        let ours = run(&rows, json!([embed(&model, "text", Some(prompt)), keep]));
        let expected = run(&rows, json!([joined, embed(&model, "text", None), keep]));
        assert_eq!(ours, expected, "{model}");
        assert!(ours[1]["e"].is_array() && ours[2]["e"].is_null());
    }
}

#[test]
fn a_text_with_a_system_message_is_a_conversation() {
    let rows = [
        json!({"id": 1, "text": "Is the inn quiet?", "lang": "French"}),
        json!({"id": 2, "text": "Bread", "lang": null}),
        json!({"id": 3, "text": null, "lang": "German"}),
    ];
    let generate = |model: &str, input: Value, more: Value| {
        let mut step = json!({"model": model, "input": input, "output": "e", "max_new_tokens": 6});
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"text-generation": step})
    };
    let keep = json!({"sql": "SELECT id, e FROM input"});
    let messages = |system: Option<&str>, user: &str| {
        let system =
            system.map_or(String::new(), |text| format!("{{role: 'system', content: {text}}}, "));
        json!({"sql": format!(
            "SELECT id, CASE WHEN text IS NOT NULL THEN [{system}{{role: 'user', content: {user}}}] END AS messages FROM input"
        )})
    };
    let chat = model("gpt2-thinking");
    let chat_input = json!({"messages": "messages"});
    for (more, system, user) in [
        (
            json!({"system": "Answer in {{ lang }}.", "prompt": "Q: {{ text }}"}),
            Some("'Answer in ' || coalesce(lang, '') || '.'"),
            "'Q: ' || text",
        ),
        (json!({"system": "Be kind."}), Some("'Be kind.'"), "text"),
        (json!({"prompt": "Say: "}), None, "'Say: ' || text"),
    ] {
        let ours = run(&rows, json!([generate(&chat, json!("text"), more.clone()), keep]));
        let expected = run(
            &rows,
            json!([messages(system, user), generate(&chat, chat_input.clone(), json!({})), keep]),
        );
        assert_eq!(ours, expected, "{more}");
        assert!(ours[0]["e"]["prompt_tokens"].as_u64() > Some(0) && ours[2]["e"].is_null());
    }
    // Without a chat template, the prompt is the text.
    let plain = model("qwen2-causal");
    let asked = json!({"sql": "SELECT id, 'Q: ' || text || ' A:' AS text FROM input"});
    for full in [false, true] {
        let more = json!({"prompt": "Q: {{ text }} A:", "return_full_text": full});
        let ours = run(&rows, json!([generate(&plain, json!("text"), more), keep]));
        let expected = run(
            &rows,
            json!([
                asked,
                generate(&plain, json!("text"), json!({"return_full_text": full})),
                keep
            ]),
        );
        assert_eq!(ours, expected);
    }
    let fixture = Fixture::new();
    let step = generate(&plain, json!("text"), json!({"system": "Be kind."}));
    fixture
        .file("rows.jsonl", "{\"text\": \"a\"}\n")
        .file("p.yaml", pipeline(json!([step])).to_string());
    fixture.run(&["run", "p.yaml"]).fails(78, &["the model has no chat template"]);
}

#[test]
fn a_query_with_columns_is_scored() {
    let rows = [
        json!({"id": 1, "query": "quiet inn", "document": "The inn was quiet.", "place": "harbour"}),
        json!({"id": 2, "query": "warm bread", "document": "Fish", "place": null}),
        json!({"id": 3, "query": null, "document": "Fish", "place": "town"}),
    ];
    let rerank = |model: &str, prompt: Option<&str>| {
        let mut step = json!({"model": model, "input": {"query": "query", "document": "document"}, "output": "e"});
        if let Some(prompt) = prompt {
            step["prompt"] = prompt.into();
        }
        json!({"rerank": step})
    };
    let keep = json!({"sql": "SELECT id, e FROM input"});
    let pairs = model("bert-rerank");
    let joined = json!({"sql": "SELECT id, query || ' near ' || coalesce(place, '') AS query, document FROM input"});
    let ours = run(&rows, json!([rerank(&pairs, Some("{{ query }} near {{ place }}")), keep]));
    assert_eq!(ours, run(&rows, json!([joined, rerank(&pairs, None), keep])));
    assert!(ours[1]["e"].is_number() && ours[2]["e"].is_null());

    // With a chat template, the prompt is the system message.
    let chat = model("qwen3-rerank");
    let ours = run(&rows, json!([rerank(&chat, Some("Near {{ place }}")), keep]));
    for (index, prompt) in [(0, "Near harbour"), (1, "Near ")] {
        let one = run(&rows[index..=index], json!([rerank(&chat, Some(prompt)), keep]));
        assert_eq!(ours[index], one[0]);
    }

    let fixture = Fixture::new();
    let step = rerank(&pairs, Some("{{ place }}"));
    fixture
        .file("rows.jsonl", format!("{}\n", rows[0]))
        .file("p.yaml", pipeline(json!([step])).to_string());
    fixture.run(&["run", "p.yaml"]).fails(78, &["does not read the query `query`"]);
}
