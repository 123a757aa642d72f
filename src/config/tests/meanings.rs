//! Pipelines that fit the schema and are wrong.

use super::*;

/// Checks that a text has one problem, with this line, column and message.
#[test]
#[expect(clippy::too_many_lines, reason = "a list of cases")]
fn every_wrong_meaning_has_its_place() {
    let wrong = std::cell::RefCell::new(String::new());
    let check = |text: &str, line: usize, column: usize, message: &str| {
        let report = read_with(text, &[]).expect_err(text);
        let found: Vec<(usize, usize, &str)> =
            report.iter().map(|found| (found.line(), found.column(), found.message())).collect();
        if found != [(line, column, message)] {
            wrong.borrow_mut().push_str(&format!("\n{:?}\n{report}\n", (line, column, message)));
        }
    };
    let source = |rest: &str| format!("version: 1\nsource: {{{rest}}}\nsink: {{path: out/}}\n");
    check(&source("path: ''"), 2, 16, "`path` is empty");
    check(&source("path: []"), 2, 16, "`source.path` is empty");
    check(&source("path: [a, '']"), 2, 20, "`path` is empty");
    check(&source("path: hdfs://b/a.parquet"), 2, 16, "unknown scheme `hdfs://`");
    check(&source("path: ftp://b/a"), 2, 16, "unknown scheme `ftp://`");
    check(&source("path: file://a"), 2, 16, "`file://a` is not the URL of a local file");
    check(
        &source("path: ~you/a"),
        2,
        16,
        "`~you/a`: the home folders of other users are not supported",
    );
    check(&source("path: a, select: []"), 2, 27, "`select` names no column");
    check(&source("path: a, select: [x, x]"), 2, 31, "the column `x` is in `select` twice");
    check(&source("path: a, where: ' '"), 2, 26, "`where` is empty");
    check(&source("path: a, limit: -1"), 2, 26, "`source.limit`: expected at least 0, found `-1`");
    check(
        &source("path: a, limit: 1.5"),
        2,
        26,
        "`source.limit`: expected an integer, found a number with a fraction",
    );
    check(
        &source("path: a, csv: {delimiter: '||'}"),
        2,
        36,
        "`delimiter`: expected one byte, such as `,`, found `||`",
    );
    check(
        &source("path: a, csv: {delimiter: 'é'}"),
        2,
        36,
        "`delimiter`: expected one byte, such as `,`, found `é`",
    );
    check(
        &source("path: a, csv: {quote: '||'}"),
        2,
        32,
        "`quote`: expected one byte, such as `'`, or `\"\"` to disable quoting, found `||`",
    );
    check(
        &source("path: a, csv: {delimiter: '|', quote: '|'}"),
        2,
        48,
        "`quote` and `delimiter` are the same character",
    );
    check(
        &source("path: a, csv: {delimiter: '\"'}"),
        2,
        36,
        "`quote` and `delimiter` are the same character",
    );
    check(
        &source("path: a, csv: {comment: ','}"),
        2,
        34,
        "`comment` and `delimiter` are the same character",
    );
    check(
        &source("path: a, csv: {quote: '', escape: '\\'}"),
        2,
        44,
        "`escape` applies to quoted fields, but `quote` disables quoting",
    );
    check(
        &source("path: a, csv: {encoding: utf-32}"),
        2,
        35,
        "`encoding`: unknown encoding `utf-32`",
    );
    check(&source("path: a, types: {a: text}"), 2, 30, "`source.types.a`: unknown value `text`");
    check(&source("path: a, schema: merge"), 2, 27, "`source.schema`: unknown value `merge`");
    check(
        &source("path: a, max_line_size: 5 furlongs"),
        2,
        34,
        "`max_line_size`: `5 furlongs` is not a size",
    );
    check(&source("path: a, format: json"), 2, 27, "`source.format`: unknown value `json`");
    check(
        &source("path: {a: b}"),
        2,
        16,
        "`source.path`: expected a string or a list, found a mapping",
    );
    check(&source("path: out/"), 3, 14, "the sink would overwrite the source");

    let images = |rest: &str| {
        format!("version: 1\nsource: {{path: in}}\nimages: {{{rest}}}\nsink: {{path: out/}}\n")
    };
    check(&images("root: ''"), 3, 16, "`root` is empty");
    check(&images("root: s3://b/"), 3, 16, "images are read from local files only");
    check(&images("max_file_size: big"), 3, 25, "`max_file_size`: `big` is not a size");
    check(&images("max_pixels: 0"), 3, 22, "`images.max_pixels`: expected at least 1, found `0`");

    let run = |rest: &str| {
        format!("version: 1\nsource: {{path: in}}\nsink: {{path: out/}}\nrun: {{{rest}}}\n")
    };
    let no_scheme =
        |shown: &str| format!("`{shown}` has neither the scheme `http://` nor `https://`");
    check(&run("on_failure: ''"), 4, 19, "`url` is empty");
    check(&run("on_failure: hooks.example.com/x"), 4, 19, &no_scheme("hooks.example.com/x"));
    check(&run("on_success: {url: 'localhost:80'}"), 4, 25, &no_scheme("localhost:80"));
    check(&run("on_success: s3://b/x"), 4, 19, &no_scheme("s3://b/x"));
    check(&run("on_success: 'https://'"), 4, 19, "`https://` is not a URL");
    check(&run("on_success: 'https://${SECRET}:x/'"), 4, 19, "`https://${SECRET}:x/` is not a URL");
    check(&run("on_success: {headers: {}}"), 4, 7, "missing key `url` in `run.on_success`");
    check(
        &run("on_success: [https://a]"),
        4,
        19,
        "`run.on_success`: expected a string or a mapping, found a list",
    );
    check(
        &run("on_success: {url: 'https://a', headers: {X Y: b}}"),
        4,
        48,
        "`X Y` is not the name of a header",
    );
    check(
        &run("on_success: {url: 'https://a', headers: {Host: b}}"),
        4,
        48,
        "the header `Host` cannot be set",
    );
    check(
        &run("on_success: {url: 'https://a', headers: {X-Y: \"b\\nc\"}}"),
        4,
        53,
        "the header `X-Y` has line breaks or other control characters",
    );
    check(&run("openlineage: {namespace: x}"), 4, 7, "missing key `url` in `run.openlineage`");
    check(&run("openlineage: {url: 'marquez:5000'}"), 4, 26, &no_scheme("marquez:5000"));
    check(&run("openlineage: {url: 'http://m', namespace: ' '}"), 4, 49, "`namespace` is empty");
    check(&run("openlineage: {url: 'http://m', api_key: ''}"), 4, 47, "`api_key` is empty");

    let sink = |rest: &str| format!("version: 1\nsource: {{path: in}}\nsink: {{{rest}}}\n");
    check(&sink("path: ''"), 3, 14, "`path` is empty");
    check(&sink("path: https://b/"), 3, 14, "`https://b/`: HTTP is read-only");
    check(
        &sink("path: o.csv, format: parquet"),
        3,
        29,
        "the format is parquet, but the path has the extension of a csv file",
    );
    check(&sink("path: o.json"), 3, 14, "the path has the extension of another format");
    check(
        &sink("path: o.arrow, compression: gzip"),
        3,
        36,
        "arrow files have no `gzip` compression",
    );
    check(
        &sink("path: o, format: csv, compression: snappy"),
        3,
        43,
        "csv files have no `snappy` compression",
    );
    check(
        &sink("path: o, format: jsonl, compression: lz4"),
        3,
        45,
        "jsonl files have no `lz4` compression",
    );
    check(
        &sink("path: o.csv.gz, compression: zstd"),
        3,
        37,
        "the compression differs from that of the path's extension",
    );
    check(
        &sink("path: o.csv, partition_by: [a]"),
        3,
        21,
        "`partition_by` needs a folder, but the path names a single file",
    );
    check(
        &sink("path: o.csv, target_file_size: 1MB"),
        3,
        21,
        "`target_file_size` needs a folder, but the path names a single file",
    );
    check(
        &sink("path: o, partition_by: [a, a]"),
        3,
        35,
        "the column `a` is in `partition_by` twice",
    );
    check(
        &sink("path: o, target_file_size: big"),
        3,
        35,
        "`target_file_size`: `big` is not a size",
    );
    check(
        &sink("path: o, target_file_size: 0"),
        3,
        35,
        "`sink.target_file_size`: expected at least 1, found `0`",
    );

    let with = |line: &str| format!("{MINIMAL}{line}\n");
    check(
        &with("run: {max_batch_tokens: 0}"),
        4,
        25,
        "`run.max_batch_tokens`: expected at least 1, found `0`",
    );
    check(&with("run: {workers: none}"), 4, 16, "`run.workers`: unknown value `none`");
    check(&with("run: {workers: 0}"), 4, 16, "`run.workers`: expected at least 1, found `0`");
    check(&with("name: ''"), 4, 7, "`name` is empty");
    check(&with("models: {a/b: {repo: x}}"), 4, 10, "`a/b` cannot be an alias");
    check(&with("models: {a: {repo: a/b/c}}"), 4, 20, "`a/b/c` is not the name of a model");
    check(&with("models: {a: {repo: x, device: gpu}}"), 4, 31, "`device`: unknown value `gpu`");
    check(
        &with("models: {a: {repo: 'https://huggingface.co/a/b'}}"),
        4,
        20,
        "expected the id of a model, found its URL",
    );
    check(&with("models: {a: {}}"), 4, 10, "missing key `repo` in `models.a`");
    check(
        &with("steps: [sql]"),
        4,
        9,
        "`steps[0]`: expected a mapping with one key, the task; found a string",
    );
    check(&with("steps: [{sql: ''}]"), 4, 15, "`sql` is empty");
    check(
        &with("- x"),
        4,
        3,
        "not valid YAML: while parsing a block mapping, did not find expected key",
    );
    check("version: 2\nstuff: 1\n", 1, 10, "the version `2` of the file format is not known");
    check("", 0, 0, "the pipeline file is empty");
    check("- a\n", 1, 1, "`the pipeline`: expected a mapping, found a list");

    let model = |name: &str| {
        with(&format!(
            "models: {{minilm: {{repo: a/b}}}}\nsteps: [{{feature-extraction: {{model: {name}, input: t, output: e}}}}]"
        ))
    };
    check(&model("minilmm"), 5, 38, "`minilmm` is not an alias of `models`");
    good(&model("bert-base-uncased"));
    good(&model("org/minilmm"));
    check(&model("''"), 5, 38, "`model` is empty");

    let columns = |steps: &str| {
        format!(
            "version: 1\nsource: {{path: in, select: [id, text]}}\nsteps: [{steps}]\nsink: {{path: out/}}\n"
        )
    };
    let task = |input: &str, output: &str| {
        format!("{{feature-extraction: {{model: m, input: {input}, output: {output}}}}}")
    };
    check(&columns(&task("txt", "e")), 3, 48, "there is no column `txt` here");
    check(&columns(&task("text", "id")), 3, 62, "there already is a column `id`");
    let twice = format!("{}, {}", task("text", "e"), task("text", "e"));
    check(&columns(&twice), 3, 120, "there already is a column `e`");
    let apart =
        format!("{}, {{sql: SELECT text FROM input}}, {}", task("text", "e"), task("any", "e"));
    good(&columns(&apart));
    assert!(wrong.borrow().is_empty(), "{}", wrong.borrow());
}

#[test]
fn options_that_contradict_each_other() {
    let check = |options: &str, expected: &[&str]| {
        let report = read_with(&step(options), &[]).expect_err(options);
        let found: Vec<&str> = report.iter().map(Diagnostic::message).collect();
        assert_eq!(found, expected, "{report}");
    };
    let shapes = |key: &str| format!("`{key}` changes the embedding, but `outputs` replaces it");
    check(
        "      prompt: a\n      prompt_name: b\n",
        &["`prompt` and `prompt_name` exclude each other"],
    );
    check(
        "      outputs: [last_hidden_state]\n      pooling: mean\n      normalize: true\n      \
         dimensions: 8\n      precision: f16\n",
        &[&shapes("pooling"), &shapes("normalize"), &shapes("dimensions"), &shapes("precision")],
    );
    check("      outputs: []\n", &["`outputs` names no output"]);
    check("      outputs: [attentions, attentions]\n", &["an output is named twice"]);
    let one = |key: &str| {
        format!("`{key}` needs one vector per row, but `pooling: none` keeps all vectors")
    };
    check("      pooling: none\n      dimensions: 8\n", &[&one("dimensions")]);
    check("      pooling: none\n      precision: binary\n", &[&one("precision")]);
    good(&step("      pooling: none\n      precision: f16\n"));
    good(&step("      outputs: [pooler_output]\n      normalize: false\n      precision: f32\n"));
    expect_report(
        &step("      prompt: a\n      prompt_name: b\n"),
        "
error: `prompt` and `prompt_name` exclude each other
 --> /data/p.yaml:9:7
  |
8 |       prompt: a
  |       ------ the other
9 |       prompt_name: b
  |       ^^^^^^^^^^^
  |
  = hint: keep one of them
",
    );
}

#[test]
fn options_of_tasks_that_contradict_each_other_are_told() {
    let check = |step: &str, expected: &str| {
        let text = format!("{MINIMAL}steps: [{{{step}}}]\n");
        let found = report(&text);
        assert!(found.contains(expected), "{text}\n{found}");
    };
    let generate =
        |options: &str| format!("text-generation: {{model: a/b, input: t, output: o, {options}}}");
    check(&generate("do_sample: true, num_beams: 2"), "beam search does not sample");
    check(&generate("do_sample: false, top_p: 0.5"), "`top_p` applies to sampling");
    check(&generate("min_new_tokens: 9, max_new_tokens: 8"), "`min_new_tokens: 9` is more than");
    check(&generate("temperature: 0"), "`temperature`");
    check(&generate("stop: ['']"), "a stop string is empty");
    check(&generate("chat_template: x"), "`chat_template` applies to conversations");
    check(
        &generate("auto_class: AutoModelForMaskedLM"),
        "`text-generation` loads a model with `AutoModelForCausalLM`",
    );
    check(&generate("auto_class: AutoModelForCausalML"), "AutoModelForCausalLM");
    check(&generate("auto_class: AutoModelForT5"), "does not load a model with `AutoModelForT5`");
    check(&generate("outputs: [logits]"), "`text-generation` has no output `logits`");
    good(&format!("{MINIMAL}steps: [{{{}}}]\n", generate("auto_class: AutoModelWithLMHead")));
    check(
        "zero-shot-classification: {model: a/b, input: t, output: o, candidate_labels: ' , ', hypothesis_template: x}",
        "has no label",
    );
    check(
        "question-answering: {model: a/b, input: {question: q, context: c}, output: o, doc_stride: 9, max_seq_len: 9}",
        "`doc_stride: 9` is not less than the window length",
    );
    check(
        "summarization: {model: a/b, input: t, output: o, src_lang: en, tgt_lang: de}",
        "`src_lang` is an option of `translation`",
    );
    check("translation: {model: a/b, input: t, output: o, src_lang: en}", "belong together");
    check(
        "token-classification: {model: a/b, input: t, output: o, stride: 2}",
        "`stride` merges the spans of windows",
    );
    check("rerank: {model: a/b, input: {query: ' ', document: d}, output: o}", "`query` is empty");
}

#[test]
fn schedules_are_checked_at_their_place() {
    let schedule = good(WHOLE).schedule.unwrap();
    assert_eq!(schedule.expression, "0 3 * * *");
    assert_eq!(schedule.timezone, chrono_tz::Europe::Berlin);
    assert_eq!((schedule.jitter.as_secs(), schedule.catch_up), (60, false));
    let schedule = good(&format!("{MINIMAL}schedule: {{cron: '@daily'}}\n")).schedule.unwrap();
    assert_eq!(schedule.timezone, chrono_tz::Tz::UTC);
    assert_eq!((schedule.jitter.as_secs(), schedule.catch_up), (0, true));
    assert_eq!(good(MINIMAL).schedule, None);

    let check = |line: &str, expected: &[&str]| {
        let found = report(&format!("{MINIMAL}{line}\n"));
        for expected in expected {
            assert!(found.contains(expected), "{line}\n{found}");
        }
    };
    check(
        "schedule: {cron: 0 25 * * *}",
        &[
            "error: `0 25 * * *` is not a cron expression: the hour `25` is not valid\n --> /data/p.yaml:4:18",
            "hint: it takes 0 to 23;",
        ],
    );
    check(
        "schedule: {cron: 0 0 3 * * *}",
        &["expected five fields, found 6", "there are neither seconds nor years"],
    );
    check("schedule: {cron: ''}", &["expected five fields, found 0"]);
    check("schedule: {cron: '@dayly'}", &["did you mean `@daily`?", "valid names: @hourly"]);
    check("schedule: {cron: 0 0 30 2 *}", &["`0 0 30 2 *` is never due"]);
    check(
        "schedule: {cron: '@daily', timezone: Europe/Berln}",
        &[
            "the time zone `Europe/Berln` is not known\n --> /data/p.yaml:4:38",
            "did you mean `Europe/Berlin`?",
        ],
    );
    for name in ["Berlin", "europe/berlin"] {
        let line = format!("schedule: {{cron: '@daily', timezone: {name}}}");
        check(&line, &["did you mean `Europe/Berlin`?"]);
    }
    check(
        "schedule: {cron: '@daily', jitter: soon}",
        &[
            "`soon` is not a duration\n --> /data/p.yaml:4:36",
            "hint: write a whole number with s, m or h: `60s`",
        ],
    );
    check("schedule: {cron: '@daily', jitter: 25h}", &["a jitter of `25h` is more than a day"]);
    check("schedule: {cron: '@daily', jitter: 60}", &["jitter"]);
    // All problems at once.
    let found = report(&format!("{MINIMAL}schedule: {{cron: x, timezone: y, jitter: z}}\n"));
    assert_eq!(found.matches("error: ").count(), 3, "{found}");
    // A message does not reveal the value of a variable.
    let text = format!(
        "{MINIMAL}schedule: {{cron: '${{SECRET}}', timezone: '${{SECRET}}', jitter: '${{SECRET}}'}}\n"
    );
    let found = report(&text);
    assert!(found.contains("`${SECRET}`") && !found.contains("hunter2"), "{found}");
}
