//! Checks that the compiler cannot make: dependencies between folders, module docs, file sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hfauto_pipe::auto::FAMILIES;

use super::support::repository;

/// The sources of the program and the library.
const ROOTS: [&str; 2] = ["src", "crates/hfauto/src"];

/// Every Rust file of both except tests, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ROOTS.iter().map(|root| repository().join(root)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name == "tests") {
                // Tests in files of their own.
            } else if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "tests.rs") {
                // The tests in a file of their own.
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files.sort();
    assert!(files.len() > 20, "found only {} files", files.len());
    files
}

/// The folder of a file, or its name as a folder (`job.rs`); `None` for other files at the top of their crate.
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
    // The library's folders, then the program's.
    let order: [(&str, &[&str]); 21] = [
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
        ("exec", &["config", "source", "sink", "batch", "tasks", "report", "nn"]),
        ("sql", &["config", "source", "tasks", "exec", "hub", "sentence_transformers"]),
        ("job", &["config", "source", "tasks", "exec", "sql", "sink", "report", "hub"]),
        ("schedule", &["config", "job"]),
        ("cluster", &["source", "exec", "sql", "job", "report", "hub"]),
        ("notify", &["config", "job", "report"]),
    ];
    for (path, text) in sources() {
        let Some(stage) = stage(&path) else { continue };
        let Some((_, allowed)) = order.iter().find(|(name, _)| *name == stage) else {
            assert_eq!(stage, "cli", "{} is in a folder without a row here", path.display());
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

/// Remaining dependency cycles between files.
const CYCLES: [(&str, &[&str]); 4] = [
    (
        "src/source",
        &["arrow_ipc", "csv", "inspect", "jsonl", "parquet", "quotes", "text", "value_sizes"],
    ),
    ("crates/hfauto/src/hub", &["files", "shards"]),
    ("crates/hfauto/src/hub", &["download", "online", "transfer"]),
    ("crates/hfauto/src/image", &["bmp", "decode", "gif", "jpeg", "tiff"]),
];

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn flat(tree: &str) -> Vec<String> {
    let Some((prefix, list)) = tree.split_once('{') else {
        return vec![tree.trim().to_owned()];
    };
    let (mut paths, mut path, mut depth) = (Vec::new(), String::new(), 0_i32);
    for c in list.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth < 0 || depth == 0 && c == ',' {
            paths.extend(flat(&path));
            path.clear();
        } else {
            path.push(c);
        }
    }
    paths.iter().map(|path| format!("{}{path}", prefix.trim())).collect()
}

/// The paths that code refers to, in `use` and elsewhere.
fn paths(code: &str) -> Vec<String> {
    let trees = code.split(';').filter_map(|statement| statement.rsplit_once("use "));
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let inline =
        code.split(|c| !is_path(c)).filter(|word| word.contains("::") && !word.ends_with("::"));
    trees.flat_map(|(_, tree)| flat(tree)).chain(inline.map(str::to_owned)).collect()
}

/// The dependencies between the modules of a folder. A name that the folder re-exports counts for its module.
fn uses(folder: &Path, files: &[(PathBuf, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let module = |path: &Path| {
        let path = path.strip_prefix(folder).ok()?.with_extension("");
        let names: Vec<_> = path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        let depth = names.len() - usize::from(names.last().is_some_and(|name| name == "mod"));
        Some((names[0].clone(), depth)).filter(|_| depth > 0)
    };
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, _) in files {
        uses.extend(module(path).map(|(name, _)| (name, BTreeSet::new())));
    }
    let parents = [folder.join("mod.rs"), folder.with_extension("rs")];
    let parent = files.iter().find(|(path, _)| parents.contains(path));
    let mut exports = BTreeMap::new();
    for path in parent.map(|(_, text)| paths(&code(text))).unwrap_or_default() {
        if let Some((module, name)) = path.trim_start_matches("self::").split_once("::")
            && uses.contains_key(module)
        {
            let name = name.rsplit("::").next().unwrap_or(name);
            exports.insert(name.to_owned(), module.to_owned());
        }
    }
    let source = folder.iter().skip_while(|name| *name != "src").skip(1);
    let names: Vec<&str> = source.map(|name| name.to_str().unwrap()).collect();
    let absolute = format!("crate::{}::", names.join("::"));
    for (path, text) in files {
        let Some((name, depth)) = module(path) else { continue };
        for path in paths(&code(text)) {
            let inside = path.strip_prefix(&"super::".repeat(depth));
            let Some(inside) = inside.or_else(|| path.strip_prefix(&absolute)) else { continue };
            let first = inside.split("::").next().unwrap_or(inside);
            let used = exports.get(first).map_or(first, String::as_str);
            if used != name && uses.contains_key(used) {
                uses.entry(name.clone()).or_default().insert(used.to_owned());
            }
        }
    }
    uses
}

/// The files that a file depends on, directly and indirectly.
fn reached<'u>(uses: &'u BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<&'u str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = uses[from].iter().map(String::as_str).collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(uses[file].iter().map(String::as_str));
        }
    }
    reached
}

#[test]
fn files_of_a_folder_use_each_other_in_one_direction() {
    let files = sources();
    let folders: BTreeSet<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
    let roots = ROOTS.map(|root| repository().join(root));
    let mut cycles = BTreeSet::new();
    for folder in folders.into_iter().filter(|folder| !roots.iter().any(|root| root == folder)) {
        let name = folder.strip_prefix(repository()).unwrap().to_str().unwrap();
        let uses = uses(folder, &files);
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            uses.keys().map(|file| (file.as_str(), reached(&uses, file))).collect();
        for (file, others) in &reached {
            let cycle: Vec<&str> =
                others.iter().filter(|other| reached[*other].contains(file)).copied().collect();
            let is_known = CYCLES.iter().any(|(folder, files)| {
                *folder == name && cycle.iter().all(|file| files.contains(file))
            });
            if !cycle.is_empty() && !is_known {
                cycles.insert(format!("{name}: {}", cycle.join(", ")));
            }
        }
    }
    assert!(cycles.is_empty(), "{cycles:#?}");
}

#[test]
fn a_cycle_is_found() {
    let file = |name: &str, text: &str| (PathBuf::from("/r/src/f").join(name), text.to_owned());
    let files = [
        file("mod.rs", "mod a;\nmod b;\npub use b::{B, c::C};"),
        file("a.rs", "use super::{\n    B,\n    d::{D, E as F},\n};"),
        file("b/mod.rs", "fn f() -> crate::f::d::D { super::g() }"),
        file("b/c.rs", "use super::super::a::A;\n// use super::super::d::D;"),
        file("d.rs", "use crate::e;\n#[cfg(test)]\nmod tests { use super::super::a; }"),
    ];
    let uses = uses(Path::new("/r/src/f"), &files);
    let of = |name: &str| uses[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!((of("a"), of("b"), of("d")), (vec!["b", "d"], vec!["a", "d"], vec![]));
    assert!(reached(&uses, "a").contains("a") && !reached(&uses, "d").contains("d"));
}

/// A new architecture changes only the files that its recipe names, and no `match` elsewhere.
#[test]
fn a_family_is_in_the_files_that_the_recipe_names() {
    let library = repository().join("crates/hfauto/src");
    let documentation = std::fs::read_to_string(repository().join("docs/extending.md")).unwrap();
    let recipe = documentation.split("\n## ").find(|part| part.starts_with("An architecture"));
    let recipe = recipe.unwrap();
    let models = std::fs::read_to_string(library.join("models/mod.rs")).unwrap();
    let modules =
        models.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let model_types = FAMILIES.iter().map(|family| format!("\"{}\"", family.model_type));
    let words: Vec<String> =
        model_types.chain(modules.map(|module| format!("models::{module}"))).collect();
    let mut named = 0;
    for (path, text) in sources() {
        let Ok(place) = path.strip_prefix(&library) else { continue };
        // Names of GGUF are those of another library.
        if place.starts_with("models") || place.starts_with("hub/gguf") {
            continue;
        }
        let code = code(&text);
        let found: Vec<&String> = words.iter().filter(|word| code.contains(*word)).collect();
        if recipe.contains(&format!("`crates/hfauto/src/{}`", place.display())) {
            named += found.len();
        } else {
            assert!(found.is_empty(), "{} names {found:?}", path.display());
        }
    }
    assert!(named >= FAMILIES.len(), "the table is not where the recipe says");
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

/// The library does not compile a query engine, and without the feature `hub` no network code.
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
        packages.collect::<BTreeSet<String>>()
    };
    let has = |packages: &BTreeSet<String>, begins: &str| {
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
    assert!(names.len() > 50, "found only {} limits", names.len());
    for name in names {
        assert!(security.contains(&format!("| `{name}` |")), "SECURITY.md lacks `{name}`");
    }
}
