//! README.md and the pages of `docs/` are correct: commands run, pipelines validate, paths and links exist.
//!
//! CONTRIBUTING.md lists the info strings of code blocks and the checks for each.

use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{Fixture, Ran, repository};

/// A fenced block of a page.
struct Block {
    /// The line of its opening fence, from 1.
    line: usize,
    info: String,
    text: String,
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap()
}

/// The names of a folder's files with this extension, sorted.
fn names(folder: &str, extension: &str) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|found| found == extension) {
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    names.sort();
    names
}

/// README.md and the pages of the book.
fn pages() -> Vec<String> {
    let book = names("docs", "md").into_iter().filter(|name| name != "SUMMARY.md");
    let mut pages = vec!["README.md".to_owned()];
    pages.extend(book.map(|name| format!("docs/{name}")));
    pages.extend(
        names("docs/cookbook", "md").into_iter().map(|name| format!("docs/cookbook/{name}")),
    );
    assert!(pages.len() > 10, "found {} pages only", pages.len());
    pages
}

/// The text outside the fenced blocks of a page, and the blocks.
fn split(page: &str, text: &str) -> (String, Vec<Block>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(info), None) => {
                open = Some(Block { line: number + 1, info: info.to_owned(), text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert!(open.is_none(), "{page}: a block has no end");
    (prose, blocks)
}

/// A folder that looks like the root of the repository, for the blocks of one page.
fn root() -> Fixture {
    let fixture = Fixture::new();
    for name in ["examples", "tests"] {
        std::os::unix::fs::symlink(repository().join(name), fixture.path(name)).unwrap();
    }
    for name in names("pipelines", "yaml") {
        let path = format!("pipelines/{name}");
        fixture.file(&path, read(&path));
    }
    fixture
}

/// Runs a block as a user would, with the program on the PATH and without access to the hub.
fn shell(fixture: &Fixture, script: &str) -> Ran {
    let program = Path::new(env!("CARGO_BIN_EXE_hfauto-pipe"));
    let mut path = vec![program.parent().unwrap().to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("sh");
    command
        .args(["-euc", script])
        .current_dir(fixture.path("."))
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HF_HOME", fixture.path("out/hf-home"))
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_CACHE")
        .env_remove("TRANSFORMERS_CACHE")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    fixture.ran(command.output().unwrap())
}

/// Runs the blocks of a page in order.
fn check_blocks(page: &str) {
    let (_, blocks) = split(page, &read(page));
    let fixture = root();
    let mut last = None;
    let mut written = vec!["examples".to_owned(), "tests".into(), "pipelines".into(), "out".into()];
    for Block { line, info, text } in blocks {
        let mut succeeds = |ran: Ran| {
            assert_eq!(ran.code, 0, "{page}:{line}\n{text}\nstderr:\n{}", ran.stderr);
            last = Some(ran);
        };
        match info.as_str() {
            "sh" => succeeds(shell(&fixture, &text)),
            "yaml" => {
                let name = text.lines().next().and_then(|first| first.strip_prefix("# "));
                let name = name.filter(|name| name.ends_with(".yaml")).unwrap_or("block.yaml");
                fixture.file(name, &text);
                written.push(name.to_owned());
                succeeds(shell(&fixture, &format!("hfauto-pipe validate {name}")));
            }
            "sql" => {
                fixture.file("out/block.sql", &text);
                succeeds(shell(&fixture, "hfauto-pipe sql -f out/block.sql"));
            }
            "rust" => {
                let part = |name: &String| read(&format!("examples/{name}")).contains(&text);
                assert!(names("examples", "rs").iter().any(part), "{page}:{line}: in no example");
            }
            // README.md is a doctest.
            "rust,no_run" => assert_eq!(page, "README.md"),
            // The tests of the wheel run them (crates/python/tests).
            "python" => assert!(["README.md", "docs/python.md"].contains(&page), "{page}:{line}"),
            "text,output" => {
                let found = last.as_ref().map_or("", |ran| ran.stdout.as_str());
                assert!(found.contains(&text), "{page}:{line}: the block before prints\n{found}");
            }
            "sh,no_run" | "yaml,fragment" | "text" | "toml" => {}
            other => panic!("{page}:{line}: unknown info string `{other}`; see CONTRIBUTING.md"),
        }
    }
    for entry in std::fs::read_dir(fixture.path(".")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(written.contains(&name), "{page} writes `{name}`, which is not below `out/`");
    }
}

#[test]
fn every_block_of_every_page_does_what_it_says() {
    let pages = pages();
    // Two at a time, because short commands mostly wait.
    std::thread::scope(|scope| {
        for half in pages.chunks(pages.len().div_ceil(2)) {
            scope.spawn(move || half.iter().for_each(|page| check_blocks(page)));
        }
    });
}

#[test]
fn every_page_is_listed_and_begins_with_an_example() {
    let summary = read("docs/SUMMARY.md");
    for page in pages() {
        let Some(name) = page.strip_prefix("docs/") else { continue };
        assert!(summary.contains(&format!("]({name})")), "SUMMARY.md lacks {name}");
        let text = read(&page);
        let (title, rest) = text.split_once('\n').unwrap();
        assert!(title.starts_with("# "), "{page} has no title");
        assert!(rest.trim_start().starts_with("```"), "{page} begins with no example");
        let first = &split(&page, &text).1[0];
        // Those of Python run in crates/python/tests/test_docs.py.
        let runs = ["sh", "yaml", "sql", "rust", "python"].contains(&first.info.as_str());
        assert!(runs, "{page} begins with `{}`, which does not run", first.info);
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines; details belong in docs/");
}

/// The anchor of a heading, as GitHub and mdBook generate it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_and_paths_lead_to_files_of_the_repository() {
    let mut files = pages();
    let others =
        ["docs/SUMMARY.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];
    files.extend(others.map(str::to_owned));
    for file in files {
        let prose = split(&file, &read(&file)).0;
        for (at, _) in prose.match_indices("](") {
            let link = prose[at + 2..].split([')', '\n']).next().unwrap();
            if link.starts_with("https://") || link.starts_with("mailto:") {
                continue;
            }
            let (name, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&file).parent().unwrap();
            let target = if name.is_empty() {
                file.clone()
            } else {
                folder.join(name).display().to_string()
            };
            assert!(repository().join(&target).exists(), "{file}: `{link}` leads nowhere");
            let found = || {
                let prose = split(&target, &read(&target)).0;
                let mut headings = prose.lines().filter(|line| line.starts_with('#'));
                headings.any(|line| anchor(line.trim_start_matches('#')) == heading)
            };
            assert!(heading.is_empty() || found(), "{file}: `{link}` names no heading");
        }
        // The changelog also names files that no longer exist.
        if file == "CHANGELOG.md" {
            continue;
        }
        let folders =
            ["benches/", "crates/", "docs/", "examples/", "pipelines/", "src/", "tests/", "tools/"];
        for code in prose.split('`').skip(1).step_by(2) {
            let is_path = folders.iter().any(|folder| code.starts_with(folder));
            if is_path && !code.contains([' ', '*', '…', '\n']) && !code.contains("NAME") {
                assert!(repository().join(code).exists(), "{file}: there is no `{code}`");
            }
        }
    }
}
