//! Links, pipes and foreign files under the names of a sink's own files; leftovers of `--fresh`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::support::Fixture;

const PRECIOUS: &str = "precious";

/// Writes rows to a sink at `path`; `more` is added below the other keys.
fn fixture(path: &str, more: &str) -> Fixture {
    let fixture = Fixture::new();
    fixture.file("in.jsonl", "{\"id\":1,\"k\":\"a\"}\n{\"id\":2,\"k\":\"b\"}\n").file(
        "p.yaml",
        format!(
            "version: 1\nsource: {{path: in.jsonl}}\nsteps: []\nsink: {{path: {path}}}\n{more}\n"
        ),
    );
    fixture.file("victim", PRECIOUS);
    fs::create_dir(fixture.path("elsewhere")).unwrap();
    fixture
}

fn intact(fixture: &Fixture) {
    assert_eq!(fs::read_to_string(fixture.path("victim")).unwrap(), PRECIOUS);
    assert_eq!(fixture.files("elsewhere"), [""; 0]);
}

fn is_regular(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

#[test]
fn links_at_names_of_one_file_are_replaced_or_refused() {
    let fixture = fixture("x.parquet", "");
    symlink("victim", fixture.path(".x.parquet.hfauto-tmp")).unwrap();
    fixture.run(&["run", "p.yaml"]).succeeds();
    assert!(is_regular(&fixture.path("x.parquet")));
    assert_eq!(fixture.parquet("x.parquet").num_rows(), 2);
    assert!(!fixture.path(".x.parquet.hfauto-tmp").exists());

    for link in ["victim", "nowhere"] {
        symlink(link, fixture.path(".x.parquet.hfauto-lock")).unwrap();
        fixture
            .run(&["run", "p.yaml", "--fresh"])
            .fails(73, &["hfauto-lock` is a link", "remove it"]);
        fs::remove_file(fixture.path(".x.parquet.hfauto-lock")).unwrap();
    }
    fs::write(fixture.path(".x.parquet.hfauto-lock"), PRECIOUS).unwrap();
    fixture.run(&["run", "p.yaml", "--fresh"]).fails(73, &["is not a lock of hfauto-pipe"]);
    let left = fs::read_to_string(fixture.path(".x.parquet.hfauto-lock")).unwrap();
    assert_eq!(left, PRECIOUS);
    intact(&fixture);
    assert!(!fixture.path("nowhere").exists());
}

#[test]
fn a_link_in_place_of_kept_results_is_refused() {
    let fixture = fixture("out/", "run: {reuse: out/}");
    fs::create_dir_all(fixture.path("out/_hfauto")).unwrap();
    symlink("../../elsewhere", fixture.path("out/_hfauto/results")).unwrap();
    fixture.run(&["run", "p.yaml"]).fails(73, &["is a link, which is not followed"]);
    intact(&fixture);
}

#[test]
fn links_in_an_output_folder_are_refused() {
    for (link, target) in [
        ("out/_hfauto/lock", "../../victim"),
        ("out/_hfauto", "../elsewhere"),
        ("out/_hfauto/tmp", "../../elsewhere"),
        ("out/_hfauto/units", "../../elsewhere"),
        ("out/_hfauto/staged", "../../elsewhere"),
        ("out/_hfauto/MANIFEST.json", "../../victim"),
        ("out/_SUCCESS", "../victim"),
    ] {
        for more in ["", "run: {incremental: new_or_changed}"] {
            let fixture = fixture("out/", more);
            fs::create_dir_all(fixture.path(link).parent().unwrap()).unwrap();
            symlink(target, fixture.path(link)).unwrap();
            let ran = fixture.run(&["run", "p.yaml"]);
            if ran.code == 0 {
                // The link was replaced by a file.
                assert!(
                    !fs::symlink_metadata(fixture.path(link)).is_ok_and(|found| found.is_symlink()),
                    "{link}"
                );
            } else {
                let is_told = ["is a link, which is not followed", "exists"];
                ran.fails(73, &["out"]);
                assert!(is_told.iter().any(|text| ran.stderr.contains(text)), "{}", ran.stderr);
            }
            intact(&fixture);
        }
    }
}

#[test]
fn small_files_of_an_output_replace_links() {
    let fixture = fixture("out/", "run: {incremental: new_or_changed}");
    fixture.run(&["run", "p.yaml"]).succeeds();
    for link in ["out/_hfauto/MANIFEST.part", "out/_SUCCESS.part", "out/_hfauto/.report.json.tmp"] {
        let up = if link.contains("_hfauto") { "../../victim" } else { "../victim" };
        symlink(up, fixture.path(link)).unwrap();
    }
    fs::remove_file(fixture.path("out/_hfauto/report.json")).unwrap();
    symlink("../../victim", fixture.path("out/_hfauto/report.json")).unwrap();
    fixture.file("in.jsonl", "{\"id\":3,\"k\":\"c\"}\n");
    fixture.run(&["run", "p.yaml"]).succeeds();
    intact(&fixture);
    for file in ["out/_hfauto/MANIFEST.json", "out/_SUCCESS", "out/_hfauto/report.json"] {
        assert!(is_regular(&fixture.path(file)), "{file}");
    }
}

/// A forged plan moves and removes nothing outside the output.
#[test]
fn a_plan_does_not_reach_through_a_link() {
    let fixture = fixture("out/", "");
    fs::create_dir_all(fixture.path("out/_hfauto/tmp/run-x")).unwrap();
    symlink("..", fixture.path("out/k")).unwrap();
    fixture.file(
        "out/_hfauto/tmp/run-x/plan.json",
        "{\"replaced\":[\"k/victim\"],\"manifest\":{\"files\":[]}}",
    );
    let ran = fixture.run(&["run", "p.yaml", "--fresh"]);
    assert_ne!(ran.code, 0);
    intact(&fixture);
}

#[test]
fn reports_metrics_and_dead_letters_do_not_follow_links() {
    let skip = "on_error: {rows: skip}";
    let fixture = fixture("out/", skip);
    for name in ["r.json", "m.prom", ".r.json.tmp", ".m.prom.tmp"] {
        symlink("victim", fixture.path(name)).unwrap();
    }
    fixture.run(&["run", "p.yaml", "--report", "r.json", "--metrics-file", "m.prom"]).succeeds();
    for name in ["r.json", "m.prom"] {
        assert!(is_regular(&fixture.path(name)), "{name}");
    }
    intact(&fixture);
    symlink("../elsewhere", fixture.path("out/_errors")).unwrap();
    fixture.run(&["run", "p.yaml", "--fresh"]).fails(73, &["_errors` is a link"]);
    intact(&fixture);
    // A pipe given as the output is written to directly.
    let ran = fixture.run(&["run", "p.yaml", "--set", "sink.path=o2/", "--report", "/dev/stdout"]);
    assert!(ran.succeeds().stdout.contains("\"pipeline\""), "{}", ran.stdout);
}

#[test]
fn pipes_and_broken_links_are_no_outputs() {
    for path in ["x.parquet", "out/"] {
        let fixture = fixture(path, "");
        let place = fixture.path(path.trim_end_matches('/'));
        assert!(Command::new("mkfifo").arg(&place).status().unwrap().success());
        for verb in [&["run", "p.yaml"][..], &["run", "p.yaml", "--fresh"]] {
            fixture.run(verb).fails(73, &["exists and is not a f"]);
        }
        fs::remove_file(&place).unwrap();
        symlink("nowhere", &place).unwrap();
        fixture.run(&["run", "p.yaml"]).fails(73, &[place.file_name().unwrap().to_str().unwrap()]);
        assert!(!fixture.path("nowhere").exists());
    }
    for name in ["_hfauto/MANIFEST.json", "_SUCCESS", "_hfauto/lock"] {
        let fixture = fixture("out/", "");
        fs::create_dir_all(fixture.path("out/_hfauto")).unwrap();
        let pipe = fixture.path("out").join(name);
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fixture.run(&["run", "p.yaml"]).fails(73, &["out"]);
    }
}

#[test]
fn names_that_are_too_long_are_named() {
    let partitioned = fixture("out/", "");
    let long = "v".repeat(300);
    partitioned.file("in.jsonl", format!("{{\"id\":1,\"k\":\"{long}\"}}\n"));
    let ran = partitioned.run(&["run", "p.yaml", "--set", "sink.partition_by=[k]"]);
    ran.fails(65, &["of the column `k` is too long for a folder name", "302 bytes"]);
    assert!(!partitioned.path("out").exists());
    let name = format!("{}.parquet", "n".repeat(300));
    partitioned
        .run(&["run", "p.yaml", "--set", &format!("sink.path={name}")])
        .fails(73, &["too long"]);
    partitioned
        .run(&["run", "p.yaml", "--set", "sink.partition_by=[_k]", "--set", "source.select=[id]"])
        .fails(78, &["_k"]);
}

#[test]
fn fresh_leaves_nothing_of_the_output_before() {
    let fixture = fixture("out/", "on_error: {rows: skip}");
    fixture.run(&["run", "p.yaml", "--set", "sink.partition_by=[k]"]).succeeds();
    assert!(
        fixture.files("out").contains(&"k=a/part-00000.parquet".to_owned())
            || !fixture.files("out").is_empty()
    );
    // A hidden folder of an earlier version, and dead letters of a pipeline with another name.
    let manifest = fs::read_to_string(fixture.path("out/_hfauto/MANIFEST.json")).unwrap();
    let first = manifest.split("\"path\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    fs::create_dir(fixture.path("out/_k=a")).unwrap();
    let first_part = fixture.path("out").join(&first);
    fs::rename(&first_part, fixture.path("out/_k=a/part.parquet")).unwrap();
    fs::remove_dir(first_part.parent().unwrap()).unwrap();
    fixture.file("out/_hfauto/MANIFEST.json", manifest.replace(&first, "_k=a/part.parquet"));
    fixture.file("out/_errors/other-00000-0123abcd-x.parquet", "PAR1");
    fixture.file("out/_errors/.pending/other-00001-0123abcd-x.parquet", "PAR1");
    fixture.file("out/_errors/notes.txt", "mine");
    fixture.run(&["run", "p.yaml", "--fresh"]).succeeds();
    let files = fixture.files("out");
    assert!(!files.iter().any(|name| name.contains("=a/") || name.contains("=b/")), "{files:?}");
    assert!(!files.iter().any(|name| name.contains("other-")), "{files:?}");
    assert!(files.contains(&"_errors/notes.txt".to_owned()), "{files:?}");
    for gone in ["_k=a", "k=a", "k=b"] {
        assert!(!fixture.path("out").join(gone).exists(), "{gone}");
    }
}

/// A quota of file sizes first raises a signal, which must not end a run.
#[test]
fn a_file_size_limit_is_an_error_with_a_report() {
    let fixture = fixture("out.csv", "");
    let rows: String = (0..40_000).map(|id| format!("{{\"id\":{id},\"k\":\"a\"}}\n")).collect();
    fixture.file("in.jsonl", rows);
    let program = env!("CARGO_BIN_EXE_hfauto-pipe");
    let script = format!("ulimit -f 64; exec {program} run p.yaml --progress none --report r.json");
    let folder = fixture.path("");
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
    fixture.ran(output).fails(73, &["File too large", "free space or choose another `sink.path`"]);
    let report = fs::read_to_string(fixture.path("r.json")).unwrap();
    assert!(report.contains("File too large"), "{report}");
    assert!(!fixture.path("out.csv").exists());
}
