//! Refuses a source that reads its own pipeline's output: each run would then read the rows of the run before. The check
//! by paths alone refuses the first run already; a second check resolves the links of the files found. Not here: how a
//! sink handles existing files.

use std::any::Any;
use std::path::{Component, Path, PathBuf};

use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use glob::Pattern;

use super::listing::{form_of, is_glob, local_path};
use super::table::FilesTable;
use super::walk::{GLOB, is_hidden};
use crate::config::pipeline::{FileFormat, SourceSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::hub_store::{self, DatasetUrl};
use crate::store;

/// The destination of an output, as far as a source may read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output<'o> {
    /// Its key, for messages: `sink.path`.
    pub(crate) what: &'o str,
    pub(crate) path: &'o Path,
    /// Whether it is a single file rather than a folder of parts.
    pub(crate) is_file: bool,
    pub(crate) format: FileFormat,
    /// The number of columns that partition it into folders.
    pub(crate) partitions: usize,
}

/// Refuses a source that reads, or would read after a run, the contents of `output`, or that lies inside it.
///
/// # Errors
/// `Config` with both paths.
pub(crate) fn check_output(spec: &SourceSpec, output: Output<'_>) -> Result<()> {
    let written = place(&output.path.to_string_lossy());
    for path in &spec.paths {
        if reads(path, spec.format, &written, output) {
            return Err(refusal(path, output).at(&spec.location));
        }
    }
    Ok(())
}

/// Like [`check_output`], for every table of files in a plan.
///
/// # Errors
/// `Config` with both paths.
pub(crate) fn check_plan(plan: &LogicalPlan, output: Output<'_>) -> Result<()> {
    let mut checked = Ok(());
    let visited = plan.apply_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = node else { return Ok(TreeNodeRecursion::Continue) };
        // Tables of other kinds read no files that we write.
        if let Ok(table) = source_as_provider(&scan.source)
            && let Some(table) = (table.as_ref() as &dyn Any).downcast_ref::<FilesTable>()
        {
            checked = table.check_output(output);
        }
        Ok(if checked.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    visited.map_err(|error| super::stream_error(error, &[]))?;
    checked
}

impl FilesTable {
    /// Refuses an output that contains the table's files, or that the table would read from.
    pub(super) fn check_output(&self, output: Output<'_>) -> Result<()> {
        check_output(self.spec(), output)?;
        let written = place(&output.path.to_string_lossy());
        let is_inside = |found: &[String]| match found.strip_prefix(written.as_slice()) {
            Some([]) => true,
            Some(rest) => !output.is_file && !rest.iter().any(|name| is_hidden(name)),
            None => false,
        };
        let found = self.files().find(|file| {
            is_inside(&match file.remote {
                Some(_) => place(&file.path.to_string_lossy()),
                // Already resolved, and there may be very many.
                None => names(&file.real),
            })
        });
        match found {
            Some(file) => {
                Err(refusal(&file.path.to_string_lossy(), output).at(&self.spec().location))
            }
            None => Ok(()),
        }
    }
}

fn refusal(source: &str, output: Output<'_>) -> Error {
    let Output { what, path, .. } = output;
    let message = format!(
        "the source `{source}` and the output `{}` (`{what}`) overlap: a run would read the output \
         of another run",
        path.display()
    );
    Error::new(ErrorKind::Config, message)
        .hint("write beside the source, or to a folder in it whose name starts with `_` or `.`")
}

/// The components of a path, with links resolved as far as it exists; an object's path starts with its store.
fn place(path: &str) -> Vec<String> {
    // `main` may be written or not.
    if let Ok(DatasetUrl { id, revision, path }) = DatasetUrl::parse(path) {
        let path = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned);
        return [format!("{}://{id}@{revision}", hub_store::SCHEME)]
            .into_iter()
            .chain(path)
            .collect();
    }
    if store::is_url(path) {
        let (scheme, rest) = path.split_once("://").unwrap_or_default();
        let scheme = if scheme == "s3a" { "s3" } else { scheme };
        let rest = rest.split('/').filter(|part| !part.is_empty());
        return [format!("{scheme}://")].into_iter().chain(rest.map(str::to_owned)).collect();
    }
    let path = local_path(path).unwrap_or_else(|_| path.into());
    let path = std::path::absolute(&path).unwrap_or(path);
    let mut resolved = PathBuf::new();
    let mut exists = true;
    for part in path.components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            part => resolved.push(part),
        }
        if exists {
            match std::fs::canonicalize(&resolved) {
                Ok(real) => resolved = real,
                Err(_) => exists = false,
            }
        }
    }
    names(&resolved)
}

fn names(path: &Path) -> Vec<String> {
    path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
}

/// Whether a source path matches files written to `output`, whose components are `written`.
fn reads(source: &str, format: Option<FileFormat>, written: &[String], output: Output<'_>) -> bool {
    let is_url = store::is_url(source);
    let is_there = !is_url && local_path(source).is_ok_and(|path| path.exists());
    // An existing path is not a glob, whatever its name.
    let parts: Vec<&str> = source.split('/').collect();
    let wildcard = parts.iter().position(|part| is_glob(part)).filter(|_| !is_there);
    let base = match parts[..wildcard.unwrap_or(parts.len())].join("/") {
        root if root.is_empty() && source.starts_with('/') => place("/"),
        base => place(&base),
    };
    let pattern = wildcard.map_or(&[][..], |wildcard| &parts[wildcard..]);
    let is_hidden_below = |rest: &[String]| rest.iter().any(|name| is_hidden(name));
    // The output replaces everything inside it.
    if let Some(rest) = base.strip_prefix(written) {
        return rest.is_empty() || !(output.is_file || is_hidden_below(rest));
    }
    let Some(below) = written.strip_prefix(base.as_slice()) else { return false };
    if wildcard.is_none() {
        let is_folder = match local_path(source) {
            Ok(path) if is_there => path.is_dir(),
            _ => source.ends_with('/') || form_of(Path::new(source), None).is_none(),
        };
        let is_format = format.is_none_or(|format| format == output.format);
        return is_folder && is_format && !is_hidden_below(below);
    }
    let names_hidden = pattern.iter().any(|part| is_hidden(part));
    if is_hidden_below(below) && !names_hidden {
        return false;
    }
    let mut file = below.to_vec();
    if !output.is_file {
        file.extend((0..output.partitions).map(|number| format!("key{number}=value")));
        file.push(format!("part-00000.{}", output.format.name()));
    }
    // A matching folder includes its contents.
    (1..=file.len()).any(|end| matches(pattern, &file[..end]))
}

/// Whether components match those of a glob.
fn matches(pattern: &[&str], names: &[String]) -> bool {
    match (pattern.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((&"", rest)), _) => matches(rest, names),
        (Some((&"**", rest)), _) => (0..=names.len()).any(|skip| matches(rest, &names[skip..])),
        (Some((first, rest)), Some((name, names))) => {
            let is_match = Pattern::new(first).is_ok_and(|first| first.matches_with(name, GLOB));
            is_match && matches(rest, names)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn overlaps(root: &Path, source: &str, format: Option<FileFormat>, sink: &str) -> bool {
        let path = |name: &str| {
            if store::is_url(name) { name.to_owned() } else { format!("{}/{name}", root.display()) }
        };
        let mut spec = SourceSpec::of_path(path(source), "p.yaml:1");
        spec.format = format;
        let sink = path(sink);
        let by_name = FileFormat::of_path(&sink);
        let output = Output {
            what: "sink.path",
            path: Path::new(&sink),
            is_file: by_name.is_some(),
            format: by_name.map_or(FileFormat::Parquet, |(format, _)| format),
            partitions: 0,
        };
        check_output(&spec, output).is_err()
    }

    #[test]
    fn what_a_source_would_read_is_refused_before_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("in/sub")).unwrap();
        fs::write(root.join("in/a.csv"), "").unwrap();
        symlink("in", root.join("link")).unwrap();
        for (source, sink) in [
            ("in", "in/out/"),
            ("in/", "in/out.parquet"),
            ("in", "in"),
            ("in", "link/out/"),
            ("link", "in/out/"),
            ("in", "in/sub/../out/"),
            ("in/../in", "in/sub"),
            ("in/*", "in/out/"),
            ("in/*.parquet", "in/out.parquet"),
            ("**/*.parquet", "in/out/"),
            ("in/**", "in/x/y/out/"),
            ("link/o*", "in/out/"),
            ("in/a.csv", "in/a.csv"),
            ("in/a.csv", "in/"),
            ("in/sub", "in"),
            ("in/sub/*", "in"),
            ("later/", "later/out"),
            ("s3://b/in/", "s3://b/in/out/"),
            ("s3a://b/in/*.parquet", "s3://b/in/out.parquet"),
            ("hf://datasets/a/b", "hf://datasets/a/b@main/out/"),
            ("s3://b/in/x/", "s3://b/in"),
        ] {
            assert!(overlaps(root, source, None, sink), "{source} {sink}");
        }
        for (source, sink) in [
            ("in", "out/"),
            ("in", "inside/"),
            ("in", "in/_out/"),
            ("in", "in/.cache/out/"),
            ("in/*", "in/_out/"),
            ("in/*.csv", "in/out/"),
            ("in/*.csv", "in/out.parquet"),
            ("in/a.csv", "in/out/"),
            ("in/a.csv", "in/b.csv"),
            ("s3://b/in/", "s3://b/into/"),
            ("s3://b/in/", "s3://c/in/out/"),
            ("s3://b/in/", "gs://b/in/out/"),
            ("hf://datasets/a/b", "hf://datasets/a/b@next/out/"),
            ("hf://datasets/a/b/in", "hf://datasets/a/b/out/"),
        ] {
            assert!(!overlaps(root, source, None, sink), "{source} {sink}");
        }
        // A source of another format skips the output.
        assert!(!overlaps(root, "in", Some(FileFormat::Csv), "in/out/"));
        assert!(overlaps(root, "in", Some(FileFormat::Csv), "in/out.csv"));
    }
}
