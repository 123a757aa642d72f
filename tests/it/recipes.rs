//! Adding a task or a format touches only the files that `docs/extending.md` names.

use std::path::{Path, PathBuf};

use hfauto_pipe::config;
use hfauto_pipe::tasks::TASKS;

use super::support::repository;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// The files below `src` that contain `word` in code outside tests.
fn files_with(word: &str) -> Vec<String> {
    let root = repository();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if !name.ends_with("/tests") {
                    folders.push(path);
                }
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            if code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word))
            {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_task_is_one_file_and_one_row() {
    for task in TASKS {
        let files = files_with(&format!("\"{}\"", task.id));
        assert_eq!(files.len(), 1, "`{}` is named in {files:?}", task.id);
        assert!(files[0].starts_with("src/tasks/"), "{files:?}");
        // The file is a module of its own; only the list of tasks uses it.
        let module = files[0].trim_start_matches("src/tasks/").trim_end_matches(".rs");
        let module = module.trim_end_matches("/mod");
        let row = format!("&{module}::");
        assert_eq!(files_with(&row), ["src/tasks/mod.rs"], "{row}");
    }
}

#[test]
fn documents_and_the_schema_have_every_task() {
    let (readme, page) = (read("README.md"), read("docs/tasks.md"));
    let extending = read("docs/extending.md");
    let schema = config::schema();
    let steps = schema["$defs"]["RawStep"]["oneOf"].as_array().unwrap();
    let aliases: usize = TASKS.iter().map(|task| task.aliases.len()).sum();
    assert_eq!(steps.len(), 1 + TASKS.len() + aliases, "`sql`, the tasks and their aliases");
    for (task, step) in TASKS.iter().zip(&steps[1..]) {
        assert!(readme.contains(&format!("`{}`", task.id)), "README: {}", task.id);
        assert!(readme.contains(&format!("`{}`", task.function.name)), "README: {}", task.id);
        let options = step["properties"][task.id]["properties"].as_object().unwrap();
        for option in options.keys() {
            assert!(page.contains(option.as_str()), "docs/tasks.md: `{option}` of {}", task.id);
        }
        assert!(task.template.contains(&format!("- {}:", task.id)), "{}", task.id);
    }
    for file in ["src/tasks/NAME.rs", "src/tasks/mod.rs", "pipelines/NAME.yaml"] {
        assert!(extending.contains(file), "docs/extending.md does not name {file}");
    }
}

/// Only the table has names, extensions and compressions; variants are named only in code that reads and writes
/// files.
#[test]
fn a_format_is_a_row_a_reader_and_a_writer() {
    for variant in ["Parquet", "Csv", "Jsonl", "Arrow"] {
        for file in files_with(&format!("FileFormat::{variant}")) {
            let recipe = file == "src/config/format.rs"
                || file.starts_with("src/source/")
                || file.starts_with("src/sink/");
            // The default of a sink, the rows of a pipeline's tests, and the output of `run --dry-run`.
            let uses_one = ["src/config/resolve/sink.rs", "src/cli/", "src/job"];
            let matches = read(&file).lines().any(|line| {
                line.contains(&format!("FileFormat::{variant} =>"))
                    || line.contains(&format!("FileFormat::{variant} |"))
            });
            let may_name = uses_one.iter().any(|prefix| file.starts_with(prefix)) && !matches;
            assert!(recipe || may_name, "{file} decides by the format {variant}");
        }
    }
    for extension in ["ndjson", "feather", "pq"] {
        let files = files_with(&format!("\"{extension}\""));
        assert_eq!(files, ["src/config/format.rs"], "{extension}");
    }
}
