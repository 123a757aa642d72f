//! What the compiler cannot check: who may use whom, module docs, file sizes.

use std::path::{Path, PathBuf};

use super::support::repository;

/// The sources of the program and of the library.
const ROOTS: [&str; 2] = ["src", "crates/hfauto/src"];

/// Every Rust file of both but tests, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ROOTS.iter().map(|root| repository().join(root)).collect();
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

/// The folder that a file is in, or whose name it has (`job.rs`); `None` for other files at the top of their crate.
fn stage(path: &Path) -> Option<String> {
    let folder = path.with_extension("");
    let path = if folder.is_dir() { folder.join("mod.rs") } else { path.to_owned() };
    let mut roots = ROOTS.iter().map(|root| repository().join(root));
    let path = roots.find_map(|root| path.strip_prefix(root).ok().map(Path::to_owned)).unwrap();
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
    // Of the library, then of the program.
    let order: [(&str, &[&str]); 19] = [
        ("hub", &[]),
        ("image", &[]),
        ("nn", &[]),
        ("models", &["nn"]),
        ("generation", &["models", "nn"]),
        ("auto", &["hub", "image", "models", "nn"]),
        ("batch", &[]),
        ("sentence_transformers", &["hub", "auto", "batch", "models", "nn"]),
        (
            "pipelines",
            &["hub", "auto", "batch", "models", "nn", "generation", "sentence_transformers"],
        ),
        ("document", &[]),
        ("config", &["document", "tasks", "auto", "nn"]),
        ("source", &["config"]),
        ("sink", &["config"]),
        ("report", &[]),
        (
            "tasks",
            &[
                "document",
                "hub",
                "image",
                "auto",
                "batch",
                "models",
                "nn",
                "generation",
                "sentence_transformers",
                "pipelines",
            ],
        ),
        ("exec", &["config", "source", "batch", "tasks", "report", "nn"]),
        ("sql", &["config", "source", "tasks", "exec", "hub"]),
        ("job", &["config", "source", "tasks", "exec", "sql", "sink", "report", "hub"]),
        ("schedule", &["config", "job"]),
    ];
    for (path, text) in sources() {
        let Some(stage) = stage(&path) else { continue };
        let Some((_, allowed)) = order.iter().find(|(name, _)| *name == stage) else {
            assert_eq!(stage, "cli", "{} is in a folder that has no row here", path.display());
            continue;
        };
        let code = code(&text);
        let others = order.iter().map(|(name, _)| *name).chain(["cli"]);
        for other in others {
            let uses =
                ["crate", "hfauto"].iter().any(|root| code.contains(&format!("{root}::{other}::")));
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
            Some("source" | "sink") => (&["candle_core", "candle_nn"], &["source", "sink"]),
            Some("config") => (&["arrow::", "datafusion::", "candle_core"], &["config"]),
            _ => continue,
        };
        for word in forbidden {
            assert!(!code.contains(word), "{} in {stages:?} uses {word}", path.display());
        }
    }
}

/// Whoever wants the Auto classes alone compiles no query engine, and without the feature `hub` no network.
#[test]
fn the_library_needs_no_tables() {
    for (path, text) in sources() {
        if path.starts_with(repository().join("crates")) {
            for word in ["arrow::", "datafusion::", "parquet::", "object_store::"] {
                assert!(!code(&text).contains(word), "{} uses {word}", path.display());
            }
        }
    }
    let tree = |arguments: &[&str]| {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.current_dir(repository()).args(["tree", "--locked", "--offline", "-p", "hfauto"]);
        let output = cargo.args(["-e", "normal,build", "--prefix", "none"]).args(arguments);
        let output = output.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let packages = text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned));
        packages.collect::<std::collections::BTreeSet<String>>()
    };
    let has = |packages: &std::collections::BTreeSet<String>, begins: &str| {
        packages.iter().any(|package| package.starts_with(begins))
    };
    let all = tree(&[]);
    assert!(has(&all, "candle-core") && has(&all, "reqwest"), "{all:?}");
    assert!(!["arrow", "parquet", "datafusion"].iter().any(|name| has(&all, name)), "{all:?}");
    let least = tree(&["--no-default-features"]);
    let network = ["reqwest", "tokio", "rustls", "hyper", "hf-hub", "quinn"];
    assert!(!network.iter().any(|name| has(&least, name)), "{least:?}");
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
    let limits = ROOTS.map(|root| repository().join(root).join("limits.rs"));
    let limits = limits.map(|path| std::fs::read_to_string(path).unwrap()).concat();
    let names: Vec<&str> = limits
        .lines()
        .filter_map(|line| line.strip_prefix("pub(crate) const ")?.split(':').next())
        .collect();
    assert!(names.len() > 50, "found {} limits only", names.len());
    for name in names {
        assert!(security.contains(&format!("| `{name}` |")), "SECURITY.md lacks `{name}`");
    }
}
