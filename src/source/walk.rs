//! Lists the files below a folder or matched by a glob, each once however many paths lead to it. Not here: selecting
//! data files (`listing`).
//!
//! - A file is identified by its resolved path, and listed under its link-free path, or else the first path by name.
//! - Links to folders are followed, except those to a folder that contains them.
//! - Hard links count as separate files, as copies do.
//! - Names that are not UTF-8 are skipped, with a warning.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::FOLDER_DEPTH;

/// The glob options.
pub(super) const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: true,
};

/// A path to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The path as found.
    pub(super) path: PathBuf,
    /// The path without links; as found if it is dangling.
    pub(super) real: PathBuf,
    /// Whether it contains a link.
    is_linked: bool,
}

impl Way {
    /// The path of a named file.
    pub(super) fn to_file(path: &Path) -> Self {
        Self { path: path.to_owned(), real: real(path), is_linked: false }
    }
}

/// Whether a name is not data, by convention.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// The resolved path, or the path itself if it is dangling.
pub(super) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The files below a folder, sorted by path.
pub(super) fn folder(path: &Path) -> Result<Vec<Way>> {
    let mut walk = Walk::default();
    walk.enter(Way { path: path.to_owned(), real: real(path), is_linked: false })?;
    walk.follow()?;
    Ok(walk.done())
}

/// The files that a glob matches, and those below the folders that it matches, sorted by path.
///
/// # Errors
/// `Config` when it is not a glob, `NoInput` when a folder cannot be listed.
pub(super) fn glob(written: &str, path: &Path) -> Result<Vec<Way>> {
    let parts: Vec<_> = path.components().collect();
    let text = |part: &Component<'_>| part.as_os_str().to_string_lossy().into_owned();
    let base = parts.iter().take_while(|part| literal(&text(part)).is_some()).count();
    let mut start: PathBuf = parts[..base].iter().filter_map(|part| literal(&text(part))).collect();
    if base == 0 {
        start.push(".");
    }
    let rest: Vec<Part> =
        parts[base..].iter().map(|part| Part::of(&text(part))).collect::<Result<_, _>>().map_err(
            |error| {
                Error::new(ErrorKind::Config, format!("`{written}` is not a glob: {}", error.msg))
            },
        )?;
    let is_relative = base == 0;
    let names_hidden = parts[base..].iter().any(|part| is_hidden(&text(part)));
    let only_folders = written.ends_with('/');
    let mut expansion = Expansion {
        parts: &rest,
        names_hidden,
        matches: Vec::new(),
        deferred: VecDeque::new(),
        seen: BTreeSet::new(),
        walk: Walk::default(),
    };
    let start = Way { real: real(&start), path: start, is_linked: false };
    if start.path.is_dir() {
        expansion.step(start, 0)?;
        while let Some((way, part)) = expansion.deferred.pop_front() {
            expansion.step(way, part)?;
        }
    }
    let Expansion { mut matches, mut walk, .. } = expansion;
    if is_relative {
        for way in &mut matches {
            if let Ok(path) = way.path.strip_prefix(".") {
                way.path = path.to_owned();
            }
        }
    }
    // Folders reached without links come first; a link to one then adds nothing.
    matches.sort_by(|a, b| (a.is_linked, &a.path).cmp(&(b.is_linked, &b.path)));
    for way in matches {
        if way.path.is_dir() {
            walk.enter(way)?;
        } else if !only_folders {
            walk.files.push(way);
        }
    }
    walk.follow()?;
    Ok(walk.done())
}

fn unreadable(folder: &Path) -> impl Fn(io::Error) -> Error {
    move |error| {
        Error::new(ErrorKind::NoInput, format!("cannot list the folder `{}`", folder.display()))
            .source(error)
    }
}

fn leads_back(link: &Path) {
    tracing::warn!(link = %link.display(), "a link to one of its parent folders is not followed");
}

/// An entry of a folder.
struct Entry {
    name: String,
    is_link: bool,
    is_folder: bool,
}

#[derive(Default)]
struct Walk {
    files: Vec<Way>,
    /// The folders visited.
    folders: BTreeSet<PathBuf>,
    /// Links and their parent folders, deferred until everything else has been visited.
    links: VecDeque<(PathBuf, PathBuf)>,
    /// Names that are not UTF-8.
    skipped: BTreeSet<PathBuf>,
}

impl Walk {
    /// The entries of a folder by name.
    fn entries(&mut self, folder: &Path) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
            let entry = entry.map_err(unreadable(folder))?;
            let Ok(name) = entry.file_name().into_string() else {
                if !is_hidden(&entry.file_name().to_string_lossy()) {
                    self.skipped.insert(entry.path());
                }
                continue;
            };
            let kind = entry.file_type().map_err(unreadable(folder))?;
            entries.push(Entry { name, is_link: kind.is_symlink(), is_folder: kind.is_dir() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Finds the files below a folder; defers links.
    fn enter(&mut self, way: Way) -> Result<()> {
        if way.path.components().count() > FOLDER_DEPTH {
            let message = format!("folders are nested more than {FOLDER_DEPTH} levels deep");
            return Err(Error::new(ErrorKind::NoInput, message).at(way.path.display()));
        }
        if !self.folders.insert(way.real.clone()) {
            return Ok(());
        }
        for entry in self.entries(&way.path)? {
            if is_hidden(&entry.name) {
                continue;
            }
            let path = way.path.join(&entry.name);
            if entry.is_link {
                self.links.push_back((path, way.real.clone()));
                continue;
            }
            let is_linked = way.is_linked;
            let way = Way { path, real: way.real.join(&entry.name), is_linked };
            if entry.is_folder {
                self.enter(way)?;
            } else {
                self.files.push(way);
            }
        }
        Ok(())
    }

    /// Follows the deferred links.
    fn follow(&mut self) -> Result<()> {
        while let Some((path, folder)) = self.links.pop_front() {
            let way = Way { real: real(&path), path, is_linked: true };
            // A dangling link is listed, to fail by name rather than vanish.
            if !way.real.is_dir() {
                self.files.push(way);
            } else if folder.starts_with(&way.real) {
                leads_back(&way.path);
            } else {
                self.enter(way)?;
            }
        }
        Ok(())
    }

    /// The files, each once.
    fn done(self) -> Vec<Way> {
        if let Some(first) = self.skipped.first() {
            let (first, count) = (first.display(), self.skipped.len());
            tracing::warn!(%first, count, "skipped names that are not UTF-8");
        }
        let mut files = self.files;
        files.sort_by(|a, b| (a.is_linked, &a.path).cmp(&(b.is_linked, &b.path)));
        let mut seen = BTreeSet::new();
        files.retain(|way| seen.insert(way.real.clone()));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }
}

/// A component of a glob pattern.
enum Part {
    Literal(String),
    Pattern(Pattern),
    /// `**`: any number of folders.
    Folders,
}

impl Part {
    fn of(text: &str) -> Result<Self, glob::PatternError> {
        if text == "**" {
            return Ok(Self::Folders);
        }
        Ok(match literal(text) {
            Some(literal) => Self::Literal(literal),
            None => Self::Pattern(Pattern::new(text)?),
        })
    }
}

/// A component without wildcards, as a name; `[x]` stands for `x`.
fn literal(part: &str) -> Option<String> {
    let mut name = String::new();
    let mut chars = part.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' | '?' => return None,
            '[' => {
                let (inner, end) = (chars.next()?, chars.next()?);
                if end != ']' {
                    return None;
                }
                name.push(inner);
            }
            other => name.push(other),
        }
    }
    Some(name)
}

struct Expansion<'p> {
    parts: &'p [Part],
    names_hidden: bool,
    matches: Vec<Way>,
    /// Links met by `**`, with their component, deferred until everything else has been visited.
    deferred: VecDeque<(Way, usize)>,
    /// The folders visited by `**`, by component.
    seen: BTreeSet<(usize, PathBuf)>,
    walk: Walk,
}

impl Expansion<'_> {
    /// Matches the entries of a folder against the components from `part` on.
    fn step(&mut self, folder: Way, part: usize) -> Result<()> {
        if folder.path.components().count() > FOLDER_DEPTH {
            let message = format!("folders are nested more than {FOLDER_DEPTH} levels deep");
            return Err(Error::new(ErrorKind::NoInput, message).at(folder.path.display()));
        }
        let parts = self.parts;
        match parts.get(part) {
            None => self.matches.push(folder),
            Some(Part::Literal(name)) => {
                let path = folder.path.join(name);
                if path.symlink_metadata().is_ok() {
                    let is_plain = !matches!(name.as_str(), "." | "..") && !path.is_symlink();
                    let real = if is_plain { folder.real.join(name) } else { real(&path) };
                    let is_linked = folder.is_linked || !is_plain;
                    self.found(Way { path, real, is_linked }, part)?;
                }
            }
            Some(Part::Pattern(pattern)) => {
                for entry in self.walk.entries(&folder.path)? {
                    if !pattern.matches_with(&entry.name, GLOB)
                        || (is_hidden(&entry.name) && !self.names_hidden)
                    {
                        continue;
                    }
                    let way = child(&folder, &entry);
                    let is_last = part + 1 == parts.len();
                    if is_last && entry.is_link && folder.real.starts_with(&way.real) {
                        leads_back(&way.path);
                        continue;
                    }
                    self.found(way, part)?;
                }
            }
            Some(Part::Folders) => {
                if !self.seen.insert((part, folder.real.clone())) {
                    return Ok(());
                }
                // `**` also matches zero folders.
                self.step(folder.clone(), part + 1)?;
                for entry in self.walk.entries(&folder.path)? {
                    let is_hidden = is_hidden(&entry.name) && !self.names_hidden;
                    if is_hidden || entry.name.starts_with('.') {
                        continue;
                    }
                    let way = child(&folder, &entry);
                    if entry.is_folder {
                        self.step(way, part)?;
                    } else if entry.is_link
                        && way.real.is_dir()
                        && !folder.real.starts_with(&way.real)
                    {
                        self.deferred.push_back((way, part));
                    }
                }
            }
        }
        Ok(())
    }

    /// Continues after a match of `part`.
    fn found(&mut self, way: Way, part: usize) -> Result<()> {
        if part + 1 == self.parts.len() {
            self.matches.push(way);
        } else if way.path.is_dir() {
            self.step(way, part + 1)?;
        }
        Ok(())
    }
}

/// The path to an entry of a folder.
fn child(folder: &Way, entry: &Entry) -> Way {
    let path = folder.path.join(&entry.name);
    let real = if entry.is_link { real(&path) } else { folder.real.join(&entry.name) };
    Way { path, real, is_linked: folder.is_linked || entry.is_link }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for file in files {
                let path = folder.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            Self(folder)
        }

        fn link(&self, name: &str, target: &str) {
            symlink(target, self.0.path().join(name)).unwrap();
        }

        fn shown(&self, ways: Vec<Way>) -> Vec<String> {
            let root = self.0.path();
            ways.into_iter()
                .map(|way| way.path.strip_prefix(root).unwrap().display().to_string())
                .collect()
        }

        fn folder(&self, name: &str) -> Vec<String> {
            self.shown(folder(&self.0.path().join(name)).unwrap())
        }

        fn glob(&self, pattern: &str) -> Vec<String> {
            let path = self.0.path().join(pattern);
            self.shown(glob(path.to_str().unwrap(), &path).unwrap())
        }
    }

    #[test]
    fn a_link_adds_nothing_that_is_there() {
        let tree = Tree::new(&["in/2023/a", "in/2024/a", "in/2024/b", "else/c"]);
        tree.link("in/0-latest", "2024");
        tree.link("in/2023/again", "../2024/b");
        tree.link("in/more", "../else");
        let all = ["in/2023/a", "in/2024/a", "in/2024/b", "in/more/c"];
        assert_eq!(tree.folder("in"), all);
        for pattern in ["in/*", "in/**/*", "in/**", "in/*/*", "i?/*/[abc]*"] {
            assert_eq!(tree.glob(pattern), all, "{pattern}");
        }
        // If nothing else leads there, the link does.
        assert_eq!(tree.glob("in/0*/a"), ["in/0-latest/a"]);
        assert_eq!(tree.folder("in/0-latest"), ["in/0-latest/a", "in/0-latest/b"]);
    }

    #[test]
    fn links_that_lead_back_are_not_followed() {
        let tree = Tree::new(&["in/a", "in/sub/b"]);
        tree.link("in/loop", ".");
        tree.link("in/sub/up", "..");
        tree.link("in/sub/top", "../..");
        tree.link("in/self", "self");
        let all = ["in/a", "in/self", "in/sub/b"];
        assert_eq!(tree.folder("in"), all);
        for pattern in ["in/*", "in/**/*"] {
            assert_eq!(tree.glob(pattern), all, "{pattern}");
        }
        assert_eq!(tree.glob("in/**/b"), ["in/sub/b"]);
    }

    #[test]
    fn hidden_names_and_those_that_are_not_utf8_are_left_out() {
        let tree = Tree::new(&["in/a", "in/_b", "in/.c", "in/_d/e", "in/.f/g"]);
        let odd = tree.0.path().join("in").join(std::ffi::OsStr::from_bytes(b"x\xff"));
        fs::create_dir(&odd).unwrap();
        fs::write(odd.join("h"), "").unwrap();
        assert_eq!(tree.folder("in"), ["in/a"]);
        for pattern in ["in/*", "in/**", "in/**/*", "**/[a-z]"] {
            assert_eq!(tree.glob(pattern), ["in/a"], "{pattern}");
        }
        assert_eq!(tree.glob("in/_*"), ["in/_b", "in/_d/e"]);
        assert_eq!(tree.glob("in/.f/*"), ["in/.f/g"]);
        assert_eq!(tree.glob("in/*/"), Vec::<String>::new());
    }

    #[test]
    fn brackets_around_one_character_are_that_character() {
        let tree = Tree::new(&["x[1]/a", "x1/b"]);
        assert_eq!(tree.glob("x[[]1[]]/*"), ["x[1]/a"]);
        assert_eq!(tree.glob("x[1]/*"), ["x1/b"]);
        assert_eq!(tree.glob("x[0-9]/?"), ["x1/b"]);
    }
}
