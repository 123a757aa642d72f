//! Reads the pipeline file: parses it, checks it, and resolves it to a [`Pipeline`]. Not here: anything that needs the
//! network, weights, or files other than the pipeline file.
//!
//! ```text
//! text ─ node ─► tree with spans ─ overrides (`--set`) ─ interpolate (`${VAR}`) ─► tree
//!      ─ check (JSON Schema of raw) ─► raw ─ resolve ─► Pipeline
//! ```
//!
//! Every stage adds its problems to one [`Diagnostics`]. A stage that needs a valid tree runs only if the stages before
//! it found no problem. Entry: [`load`].

mod call;
mod format;
mod interpolate;
mod overrides;
pub mod pipeline;
pub mod raw;
mod resolve;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::Deserialize;

use crate::document::{Data, Node, check, nearest, node};
pub use crate::document::{Diagnostic, Diagnostics};
pub use call::{Call, call, model};
use pipeline::{Pipeline, Written};
use raw::RawPipeline;
#[cfg(feature = "cluster")]
pub(crate) use resolve::duration;
pub(crate) use resolve::size_bytes;

use crate::limits::PIPELINE_BYTES;
use crate::tasks::TaskDefinition;

/// The version of the file format that this program reads.
const VERSION: u64 = 1;

static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(RawPipeline);
    schema.insert("title".to_owned(), "hfauto-pipe pipeline, version 1".into());
    schema.to_value()
});

/// Looks up a variable by name; `None` means that it is not set.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Options for reading a pipeline file.
#[derive(Clone)]
pub struct LoadOptions {
    /// Overrides, as `--set key=value`: a path of keys and list indexes (`steps.0.feature-extraction.pooling`), and a
    /// YAML value. They apply in order, before variables are interpolated.
    pub set: Vec<(String, String)>,
    /// The source of `${VAR}`. Default: the environment of the process.
    pub variables: Variables,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { set: Vec::new(), variables: Arc::new(|name| std::env::var(name).ok()) }
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("set", &self.set).finish_non_exhaustive()
    }
}

/// Reads and checks the pipeline file at `path`.
///
/// # Errors
/// All problems of the file at once, or a single one if it cannot be read. `Error::from` turns them into an error of
/// kind `Config`.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Pipeline, Diagnostics> {
    let name = path.display().to_string();
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(PIPELINE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| {
        let problem = Diagnostic::of_file(format!("cannot read the pipeline file: {error}"));
        let near = (error.kind() == io::ErrorKind::NotFound).then(|| near_file(path)).flatten();
        Diagnostics::of_file(name.clone(), problem.nearest(near.as_deref()))
    })?;
    if bytes.len() as u64 > PIPELINE_BYTES {
        let message = format!("a pipeline file has at most {PIPELINE_BYTES} bytes");
        return Err(Diagnostics::of_file(name, Diagnostic::of_file(message)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("the pipeline file is not UTF-8: line {line} has invalid bytes");
        Diagnostics::of_file(name, Diagnostic::of_file(message))
    })?;
    parse(&text, path, options)
}

/// Like [`load`], for the `text` of the file at `path`.
///
/// # Errors
/// All problems of the file at once.
pub fn parse(text: &str, path: &Path, options: &LoadOptions) -> Result<Pipeline, Diagnostics> {
    let mut report = Diagnostics::new(path.display().to_string(), text);
    let used = Arc::new(Mutex::new(BTreeMap::new()));
    let options = LoadOptions { variables: recording(options, &used), set: options.set.clone() };
    let read = read(text, &options, &mut report);
    match read {
        Some((root, Some(raw))) => {
            let variables = &*options.variables;
            let mut pipeline = resolve::resolve(&raw, &root, path, variables, &mut report);
            let variables = used.lock().unwrap_or_else(PoisonError::into_inner).clone();
            pipeline.written = Written { text: text.to_owned(), set: options.set, variables };
            if report.is_empty() { Ok(pipeline) } else { Err(report) }
        }
        _ => Err(report),
    }
}

/// The pipeline that another process loaded from the file at `path`. Uses no variables but the recorded ones.
///
/// # Errors
/// All problems of the file at once, such as keys that this version does not have.
pub fn reload(written: &Written, path: &Path) -> Result<Pipeline, Diagnostics> {
    let known = written.variables.clone();
    let variables: Variables = Arc::new(move |name| known.get(name).cloned());
    parse(&written.text, path, &LoadOptions { set: written.set.clone(), variables })
}

/// The variables of `options`, with those that are looked up added to `used`.
fn recording(options: &LoadOptions, used: &Arc<Mutex<BTreeMap<String, String>>>) -> Variables {
    let (variables, used) = (Arc::clone(&options.variables), Arc::clone(used));
    Arc::new(move |name| {
        let value = variables(name)?;
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(name.to_owned(), value.clone());
        Some(value)
    })
}

/// Parses a pipeline as written. Checks it against the JSON Schema only.
///
/// # Errors
/// All problems of the file at once.
pub fn parse_raw(
    text: &str,
    path: &Path,
    options: &LoadOptions,
) -> Result<RawPipeline, Diagnostics> {
    let mut report = Diagnostics::new(path.display().to_string(), text);
    match read(text, options, &mut report) {
        Some((_, Some(raw))) => Ok(raw),
        _ => Err(report),
    }
}

/// The JSON Schema of pipeline files, for editors; `pipelines/schema.json` is this value.
pub fn schema() -> serde_json::Value {
    SCHEMA.clone()
}

/// The tree, and the raw pipeline if the tree is valid.
fn read(
    text: &str,
    options: &LoadOptions,
    report: &mut Diagnostics,
) -> Option<(Node, Option<RawPipeline>)> {
    let mut root = node::parse(text, 0, 0, report)?;
    overrides::apply(&mut root, &options.set, report);
    name_tasks(&mut root);
    interpolate::interpolate(&mut root, &*options.variables, report);
    if let Some(problem) = whole_file(&root) {
        report.push(problem);
        return None;
    }
    check::check(&SCHEMA, &root, report);
    if !report.is_empty() {
        return Some((root, None));
    }
    let raw = RawPipeline::deserialize(root.to_json());
    if raw.is_err() {
        // The error's text may contain the value of a variable.
        report.push(
            Diagnostic::of_file("the file fits the schema, but not the types behind it")
                .hint("this is a bug of hfauto-pipe: please report it with the file"),
        );
    }
    Some((root, raw.ok()))
}

/// Replaces the aliases of tasks by their ids.
fn name_tasks(root: &mut Node) {
    let Data::Map(entries) = &mut root.data else { return };
    let steps = entries.iter_mut().filter(|entry| entry.name == "steps");
    for steps in steps {
        let Data::List(steps) = &mut steps.value.data else { continue };
        for step in steps {
            // A step with several keys is reported as it is written.
            if let Data::Map(keys) = &mut step.data
                && let [key] = keys.as_mut_slice()
                && let Some(task) = TaskDefinition::find(&key.name)
            {
                task.id.clone_into(&mut key.name);
            }
        }
    }
}

/// A problem of the whole file that makes all others irrelevant.
fn whole_file(root: &Node) -> Option<Diagnostic> {
    if matches!(root.data, Data::Null) {
        let problem = Diagnostic::of_file("the pipeline file is empty");
        return Some(problem.hint("`hfauto-pipe init` writes one to start from"));
    }
    let version = &root.entry("version")?.value;
    match &version.data {
        Data::Number(number) if number.as_u64() != Some(VERSION) => Some(
            Diagnostic::new(
                version.span,
                format!("the version `{}` of the file format is not known", version.shown()),
            )
            .hint(format!("this program reads `version: {VERSION}`")),
        ),
        _ => None,
    }
}

/// A YAML file in the same folder with a similar name.
fn near_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(".yaml") || name.ends_with(".yml"));
    names.sort();
    let near = nearest(name, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near).display().to_string())
}

#[cfg(test)]
mod tests;
