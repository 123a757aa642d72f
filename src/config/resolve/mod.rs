//! Turns the pipeline as written into the pipeline as used: aliases, defaults, paths, and every check that needs several
//! values or more than a type. Reports all problems, each with its span. Not here: whether files, columns and models
//! exist, except that an existing directory takes precedence over a hub id. Entry: [`resolve`].

mod images;
mod model;
mod notices;
mod on_error;
mod path;
mod schedule;
mod sink;
mod source;
mod steps;
mod tests_key;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::document::{Cursor, Diagnostic, Diagnostics, Node};
use crate::hub_store;

use super::pipeline::{ImagesSpec, ModelSpec, OnErrorRows, Pipeline, RunSpec, TaskStep, Written};
use super::raw::{RawModel, RawPipeline, RawRun, RawStep, Workers};
#[cfg(feature = "cluster")]
pub(crate) use schedule::duration;
pub(crate) use sink::size_bytes;

/// Resolves `raw`, which was read from `root`. The result has placeholders for values with problems: it is valid only if
/// the report stays empty.
pub(crate) fn resolve(
    raw: &RawPipeline,
    root: &Node,
    file: &Path,
    variables: &dyn Fn(&str) -> Option<String>,
    report: &mut Diagnostics,
) -> Pipeline {
    let top = Cursor::root(root);
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let dir = absolute.parent().map_or_else(|| absolute.clone(), Path::to_path_buf);
    let mut resolver = Resolver { dir, images: ImagesSpec::default(), variables, report };

    let name = resolver.name(raw, top, file);
    let models = resolver.models(raw.models.as_ref(), top.key("models"));
    let source = resolver.source(&raw.source, top.key("source"));
    resolver.images = resolver.images(raw.images.as_ref(), top.key("images"));
    let steps = resolver.steps(
        raw.steps.as_deref().unwrap_or_default(),
        top.key("steps"),
        &models,
        source.select.as_deref().map(|names| (names, top.key("source").key("select"))),
    );
    let sink = resolver.sink(&raw.sink, &name, top.key("sink"));
    if source.paths.iter().any(|path| Path::new(path) == sink.path) {
        let at = top.key("sink").key("path");
        resolver.report.push(
            Diagnostic::new(at.value, "the sink would overwrite the source")
                .related(top.key("source").key("path").value, "read from here")
                .hint("write to another path"),
        );
    }
    let run = run(raw.run.as_ref());
    if run.is_incremental && sink.is_single_file() {
        let message = "`incremental` needs a folder, but the sink's path names a single file";
        resolver.report.push(
            Diagnostic::new(top.key("run").key("incremental").key, message)
                .related(top.key("sink").key("path").value, "a single file")
                .hint("name a folder, such as `out/`, or remove `incremental`"),
        );
    }
    let reuse = raw.run.as_ref().and_then(|run| run.reuse.as_deref());
    let reuse_at = top.key("run").key("reuse");
    let reuse = reuse.and_then(|path| resolver.path(path, reuse_at, "reuse"));
    if sink.is_single_file() && reuse.as_ref() == Some(&sink.path) {
        let message = "a single file keeps no results to reuse";
        resolver.report.push(
            Diagnostic::new(reuse_at.value, message)
                .related(top.key("sink").key("path").value, "a single file")
                .hint("name a folder, such as `out/`, or remove `reuse`"),
        );
    }
    let notices = resolver.notices(raw.run.as_ref(), top.key("run"));
    let is_hub = |path: &Path| hub_store::is_hub(&path.to_string_lossy());
    let goes_on = match &sink.delta {
        Some(_) => Some("a Delta table takes its files away"),
        None => is_hub(&sink.path).then_some("one on the hub leaves its folder"),
    };
    if let Some(goes_on) = goes_on {
        let sink_at = top.key("sink").key("path");
        for (is_set, key) in [(run.is_incremental, "incremental"), (reuse.is_some(), "reuse")] {
            if is_set {
                let message = format!("`{key}` needs an output that stays, and {goes_on}");
                resolver.report.push(
                    Diagnostic::new(top.key("run").key(key).key, message)
                        .related(sink_at.value, "the output")
                        .hint("write to a local folder or an object store, or remove it"),
                );
            }
        }
    }
    let on_error = resolver.on_error(raw.on_error.as_ref(), top.key("on_error"), &sink);
    if on_error.rows == OnErrorRows::Skip && is_hub(&on_error.dead_letter) {
        let message = "dead letters are not written to the hub";
        resolver.report.push(
            Diagnostic::new(top.key("on_error").key("rows").value, message)
                .related(top.key("sink").key("path").value, "the output")
                .hint("set `on_error.dead_letter` to a local folder, such as `errors/`"),
        );
    }
    let at = top.key("schedule");
    let schedule = raw.schedule.as_ref().and_then(|raw| resolver.schedule(raw, at));
    let tests = resolver.tests(raw.tests.as_deref(), top.key("tests"));
    let (dir, images) = (resolver.dir, resolver.images);
    let file = file.to_path_buf();
    Pipeline {
        file,
        dir,
        name,
        models,
        source,
        images,
        steps,
        on_error,
        sink,
        run,
        reuse,
        notices,
        schedule,
        tests,
        written: Written::default(),
    }
}

fn run(raw: Option<&RawRun>) -> RunSpec {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let default = RunSpec::default();
    RunSpec {
        max_batch_tokens: raw
            .and_then(|run| run.max_batch_tokens)
            .map(|tokens| count(tokens.get())),
        sort_window_rows: raw
            .and_then(|run| run.sort_window_rows)
            .map_or(default.sort_window_rows, |rows| count(rows.get())),
        workers: match raw.and_then(|run| run.workers) {
            Some(Workers::Number(workers)) => Some(count(workers.get())),
            Some(Workers::Auto) | None => None,
        },
        unit_rows: raw.and_then(|run| run.unit_rows).map(std::num::NonZeroU64::get),
        is_incremental: raw.is_some_and(|run| run.incremental.is_some()),
    }
}

pub(super) struct Resolver<'a> {
    /// The pipeline file's folder, absolute.
    dir: PathBuf,
    /// The limits on images.
    images: ImagesSpec,
    variables: &'a dyn Fn(&str) -> Option<String>,
    report: &'a mut Diagnostics,
}

impl Resolver<'_> {
    /// Resolves the step of a call; `None` for `sql`.
    pub(super) fn call(
        raw: &RawStep,
        root: &Node,
        dir: &Path,
        models: &BTreeMap<String, ModelSpec>,
        report: &mut Diagnostics,
    ) -> Option<TaskStep> {
        let variables = |name: &str| std::env::var(name).ok();
        let images = ImagesSpec::default();
        let mut resolver =
            Resolver { dir: dir.to_path_buf(), images, variables: &variables, report };
        let top = Cursor::root(root);
        let RawStep::Task(raw) = raw else { return None };
        let here = top.key(raw.task.id);
        Some(resolver.task_step(raw, here, models))
    }

    /// Resolves the first of `models`.
    pub(super) fn alias(
        raw: &BTreeMap<String, RawModel>,
        root: &Node,
        dir: &Path,
        report: &mut Diagnostics,
    ) -> Option<ModelSpec> {
        let variables = |name: &str| std::env::var(name).ok();
        let images = ImagesSpec::default();
        let mut resolver =
            Resolver { dir: dir.to_path_buf(), images, variables: &variables, report };
        let top = Cursor::root(root);
        resolver.models(Some(raw), top.key("models")).into_values().next()
    }

    fn name(&mut self, raw: &RawPipeline, top: Cursor<'_>, file: &Path) -> String {
        if let Some(name) = &raw.name {
            self.not_empty(name, top.key("name"), "name");
            return name.clone();
        }
        let stem = file.file_stem().unwrap_or(file.as_os_str());
        stem.to_string_lossy().into_owned()
    }

    /// Reports an empty or blank text.
    fn not_empty(&mut self, text: &str, at: Cursor<'_>, what: &str) -> bool {
        if text.trim().is_empty() {
            self.report.push(Diagnostic::new(at.value, format!("`{what}` is empty")));
        }
        !text.trim().is_empty()
    }

    /// Reports empty and duplicate names in a list of columns.
    fn columns(&mut self, columns: &[String], at: Cursor<'_>, what: &str) {
        for (index, column) in columns.iter().enumerate() {
            let here = at.item(index);
            if self.not_empty(column, here, what)
                && let Some(first) = columns[..index].iter().position(|other| other == column)
            {
                let message = format!("the column `{}` is in `{what}` twice", here.shown(column));
                self.report.push(
                    Diagnostic::new(here.value, message)
                        .related(at.item(first).value, "first named here"),
                );
            }
        }
    }
}
