//! What the compiler cannot check: who may use whom, module docs, file sizes.

use std::path::{Path, PathBuf};

use super::support::repository;

/// Every Rust file below `src` but tests, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![repository().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "tests.rs") {
                // The tests of the file beside it.
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files.sort();
    assert!(files.len() > 20, "found {} files only", files.len());
    files
}

/// The folder of `src` that a file is in; `None` for files at its top.
fn stage(path: &Path) -> Option<String> {
    let path = path.strip_prefix(repository().join("src")).unwrap();
    let first = path.components().next()?.as_os_str().to_str()?.to_owned();
    (path.components().count() > 1).then_some(first)
}

/// The text without tests and comments.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn folders_use_only_what_is_before_them() {
    let allowed: [(&str, &[&str]); 12] = [
        ("config", &[]),
        ("source", &["config"]),
        ("hub", &[]),
        ("image", &[]),
        ("auto", &["hub", "image", "models", "nn"]),
        ("batch", &[]),
        ("models", &["nn"]),
        ("nn", &[]),
        ("generation", &["models", "nn"]),
        ("sink", &["config"]),
        ("report", &[]),
        ("tasks", &["config", "hub", "image", "auto", "batch", "models", "nn", "generation"]),
    ];
    let all = [
        "config",
        "source",
        "hub",
        "image",
        "auto",
        "batch",
        "models",
        "nn",
        "generation",
        "tasks",
        "report",
        "engine",
        "sink",
        "sql",
        "schedule",
        "cli",
    ];
    for (path, text) in sources() {
        let Some(stage) = stage(&path) else { continue };
        let Some((_, allowed)) = allowed.iter().find(|(name, _)| *name == stage) else { continue };
        let code = code(&text);
        for other in all {
            let uses = code.contains(&format!("crate::{other}::"));
            assert!(
                !uses || other == stage || allowed.contains(&other),
                "{} uses `{other}`",
                path.display()
            );
        }
    }
}

#[test]
fn tensors_and_tables_stay_apart() {
    for (path, text) in sources() {
        let code = code(&text);
        let (forbidden, stages): (&[&str], &[&str]) = match stage(&path).as_deref() {
            Some("models" | "nn") => (&["arrow::", "datafusion::", "parquet::"], &["models", "nn"]),
            Some("source" | "sink") => (&["candle_core", "candle_nn"], &["source", "sink"]),
            Some("config") => (&["arrow::", "datafusion::", "candle_core"], &["config"]),
            _ => continue,
        };
        for word in forbidden {
            assert!(!code.contains(word), "{} in {stages:?} uses {word}", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no module doc", path.display());
    }
}

#[test]
fn files_stay_within_a_room() {
    for (path, text) in sources() {
        let lines = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
        assert!(lines <= 700, "{} has {lines} lines without tests", path.display());
    }
}

#[test]
fn only_the_command_line_prints() {
    for (path, text) in sources() {
        if stage(&path).as_deref() != Some("cli") {
            for word in ["println!", "eprintln!", "std::io::stdout", "std::io::stderr"] {
                assert!(!code(&text).contains(word), "{} uses {word}", path.display());
            }
        }
    }
}

#[test]
fn every_test_file_is_listed() {
    let main = std::fs::read_to_string(repository().join("tests/it/main.rs")).unwrap();
    for entry in std::fs::read_dir(repository().join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(name == "main" || main.contains(&format!("mod {name};")), "{name} is not listed");
    }
}

#[test]
fn every_limit_is_documented() {
    let security = std::fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let limits = std::fs::read_to_string(repository().join("src/limits.rs")).unwrap();
    let names: Vec<&str> = limits
        .lines()
        .filter_map(|line| line.strip_prefix("pub(crate) const ")?.split(':').next())
        .collect();
    assert!(names.len() > 50, "found {} limits only", names.len());
    for name in names {
        assert!(security.contains(&format!("| `{name}` |")), "SECURITY.md lacks `{name}`");
    }
}
