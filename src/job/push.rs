//! Pushes a finished output to a dataset on the hub: data files, manifest and card in one commit on the tip of the branch
//! that the run found; or as a version of a Delta table. Not here: the text of the card (`card`), the version (`table`),
//! and the requests (`hfauto::hub`).
//!
//! A run that dies before the commit leaves the dataset as it was, and the output in its local folder. The next run of the
//! same job pushes it from there. The lineage of a manifest names the job, so that a run finds out what is done: in the
//! folder, and on the hub.

use std::collections::BTreeSet;
use std::sync::Arc;

use hfauto::hub::{Change, Content, Dataset};

use super::progress::Stage;
use super::table::TablePush;
use super::{Job, JobOptions, card};
use crate::config::pipeline::{Pipeline, SinkSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::failpoint;
use crate::hub_store::{self, DatasetUrl};
use crate::limits::{CARD_BYTES, PUSHED_MANIFEST_BYTES};
use crate::report::OutputFile;
use crate::sink::{self, Held, Published};
use crate::store::wait;

const CARD: &str = "README.md";

/// Where an output goes when it is finished, as a run found it.
pub(super) enum Push {
    Hub(HubPush),
    Table(TablePush),
}

impl Push {
    /// Looks at the destination. Writes nothing.
    async fn look(job: &Job) -> Result<Self> {
        let (spec, identity, overwrite) =
            (&job.pipeline.sink, job.identity(), job.options.overwrite);
        match &spec.delta {
            Some(delta) => {
                let look = || TablePush::look(spec, delta, job.schema(), &identity, overwrite);
                tokio::task::block_in_place(look).map(Self::Table)
            }
            None => HubPush::look(spec, &identity, overwrite).await.map(Self::Hub),
        }
    }

    /// The rows of the output of this very job, if the destination has it.
    fn done(&self) -> Option<u64> {
        match self {
            Self::Hub(push) => push.done,
            Self::Table(push) => push.done,
        }
    }
}

/// A branch of a dataset.
pub(super) struct HubPush {
    dataset: Arc<Dataset>,
    url: DatasetUrl,
    /// The commit at the tip of the branch.
    parent: String,
    /// The files of an earlier output in the folder, by their paths in the dataset.
    earlier: BTreeSet<String>,
    /// The rows of the output of this very job, if the dataset has it.
    done: Option<u64>,
    /// Whether the dataset has a card.
    has_card: bool,
}

impl JobOptions {
    /// Refuses several processes for an output that is pushed: its last process would be the one to push it.
    pub(super) fn check_pushed(&self, pipeline: &Pipeline) -> Result<()> {
        let shares =
            [(self.shard.is_some(), "--shard"), (self.join, "--join"), (self.cluster, "--cluster")];
        let shared = shares.into_iter().find(|(is_set, _)| *is_set);
        match shared {
            Some((_, flag)) if sink::is_staged(&pipeline.sink) => Err(Error::new(
                ErrorKind::Usage,
                format!("`{flag}` conflicts with an output on the hub or in a Delta table, which one process makes"),
            )
            .hint("write files with several processes, and read them with a second pipeline that pushes them")),
            _ => Ok(()),
        }
    }
}

/// An error of the hub about an output is one of the sink.
fn of_sink(error: impl Into<Error>) -> Error {
    let error = error.into();
    match error.kind() {
        ErrorKind::Hub => error.of_kind(ErrorKind::Sink),
        _ => error,
    }
}

impl HubPush {
    /// Looks at the dataset. Writes nothing.
    ///
    /// # Errors
    /// `Sink` if the dataset cannot be written, or if its folder has other files than an earlier output; with an earlier
    /// output of another job also, unless `overwrite`.
    async fn look(spec: &SinkSpec, job: &str, overwrite: bool) -> Result<Self> {
        let shown = spec.path.display();
        let url = DatasetUrl::parse(&spec.path.to_string_lossy())?;
        let dataset = hub_store::dataset(&url.id).map_err(of_sink)?;
        dataset.check_writable(&url.revision).await.map_err(of_sink)?;
        let parent = dataset.commit_of(&url.revision).await.map_err(of_sink)?;
        let files = dataset.files(&parent, &url.path).await.map_err(of_sink)?;
        let files: BTreeSet<String> = files.into_iter().map(|file| file.path).collect();
        let in_folder = |name: &str| format!("{}/{name}", url.path);
        let manifest = in_folder(sink::MANIFEST);
        let earlier = if files.contains(&manifest) {
            let text = dataset
                .content(&parent, &manifest, PUSHED_MANIFEST_BYTES)
                .await
                .map_err(of_sink)?;
            text.and_then(|text| Published::read(&text))
        } else {
            None
        };
        let known: BTreeSet<String> = earlier
            .iter()
            .flat_map(|earlier| &earlier.files)
            .map(|(name, _)| in_folder(name))
            .chain(earlier.is_some().then(|| manifest.clone()))
            .collect();
        if let Some(foreign) = files.iter().find(|file| !known.contains(*file)) {
            let message = format!(
                "the output `{shown}` contains `{foreign}`, which hfauto-pipe did not write"
            );
            return Err(Error::new(ErrorKind::Sink, message)
                .hint("move it away or choose another `sink.path`"));
        }
        let is_done = !overwrite && earlier.as_ref().and_then(Published::job) == Some(job);
        if earlier.is_some() && !is_done && !overwrite {
            return Err(Error::new(ErrorKind::Sink, format!("the output `{shown}` exists"))
                .hint("`--fresh` replaces it in one commit; or choose another `sink.path`"));
        }
        let has_card = dataset.file(&parent, CARD).await.map_err(of_sink)?.is_some();
        Ok(Self {
            dataset,
            url,
            parent,
            earlier: known.intersection(&files).cloned().collect(),
            done: earlier.filter(|_| is_done).map(|earlier| earlier.rows()),
            has_card,
        })
    }

    /// Commits the output in its local folder. Returns the commit; `None` if the dataset has all files.
    async fn commit(
        &self,
        spec: &SinkSpec,
        output: &Published,
        text: &str,
    ) -> Result<Option<String>> {
        let Self { dataset, url, parent, .. } = self;
        let folder = sink::staging_folder(spec)?;
        let names = output.files.iter().map(|(name, _)| name.as_str()).chain([sink::MANIFEST]);
        let mut changes: Vec<Change> = names
            .map(|name| Change {
                path: format!("{}/{name}", url.path),
                content: Content::File(folder.join(name)),
                counts: true,
            })
            .collect();
        let kept: BTreeSet<&str> = changes.iter().map(|change| change.path.as_str()).collect();
        let gone = self.earlier.iter().filter(|path| !kept.contains(path.as_str()));
        let gone: Vec<Change> = gone
            .map(|path| Change { path: path.clone(), content: Content::Deleted, counts: true })
            .collect();
        changes.extend(gone);
        let card = if self.has_card {
            dataset.content(parent, CARD, CARD_BYTES).await.map_err(of_sink)?
        } else {
            None
        };
        let card = card.map(String::from_utf8).transpose().map_err(|error| {
            Error::new(ErrorKind::Sink, format!("`{CARD}` of `{}` is not UTF-8", url.id))
                .source(error)
        })?;
        let title = url.id.rsplit('/').next().unwrap_or_default();
        let card =
            card::merged(card.as_deref(), title, &url.path, &data_files(&url.path, output), text);
        // A card alone is no reason for a commit: its times differ from run to run.
        changes.push(Change {
            path: CARD.to_owned(),
            content: Content::Bytes(card.into()),
            counts: false,
        });
        let summary = format!("Output of hfauto-pipe in {}", url.path);
        let prepared =
            dataset.prepare(&url.revision, parent, &changes, &summary).await.map_err(of_sink)?;
        failpoint("push.uploaded");
        let Some(prepared) = prepared else { return Ok(None) };
        let pushed = dataset.commit(&prepared).await.map_err(of_sink)?;
        failpoint("push.committed");
        Ok(Some(pushed.commit))
    }
}

/// The glob of the data files of an output, for the front matter of a card.
fn data_files(folder: &str, output: &Published) -> String {
    let first = output.files.first().map_or("part-00000.parquet", |(name, _)| name.as_str());
    let (folders, file) = first.rsplit_once('/').unwrap_or(("", first));
    let extension = file.split_once('.').map_or("*", |(_, extension)| extension);
    let between = if folders.is_empty() { "" } else { "**/" };
    format!("{folder}/{between}*.{extension}")
}

impl Job {
    /// The identity of the job: two jobs with the same one write the same output.
    pub(super) fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.plan_hash().as_bytes());
        for file in &self.source.files {
            hasher.update(format!("{}\n{}\n", file.path.display(), file.stamp).as_bytes());
        }
        let sink = &self.pipeline.sink;
        let form = (sink.format.name(), sink.compression, sink.target_file_size_bytes);
        hasher.update(
            format!("{form:?} {:?} {:?}", sink.partition_by, self.options.limit).as_bytes(),
        );
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The reason why the output could not be pushed as things are; `None` for other outputs.
    pub(super) fn refused_push(&self) -> Option<Error> {
        let spec = self.pipeline.sink.clone();
        if !sink::is_staged(&spec) {
            return None;
        }
        let (job, overwrite) = (self.identity(), self.options.overwrite);
        if let Some(delta) = &spec.delta {
            return TablePush::look(&spec, delta, self.schema(), &job, overwrite).err();
        }
        wait(async move { HubPush::look(&spec, &job, overwrite).await }).flatten().err()
    }

    /// Looks at the destination of the output, and takes its folder. `None` if the output is not pushed.
    pub(super) async fn begin_push(&self) -> Result<Option<(Push, Held)>> {
        let spec = &self.pipeline.sink;
        if !sink::is_staged(spec) {
            return Ok(None);
        }
        let at = |error: Error| error.at(&spec.location);
        let held = tokio::task::block_in_place(|| sink::hold(spec)).map_err(at)?;
        let push = Push::look(self).await.map_err(at)?;
        tokio::task::block_in_place(|| {
            let staged = sink::published(spec)?;
            let is_old = |staged: &Published| staged.job() != Some(&self.identity());
            if push.done().is_some()
                || staged.is_some_and(|staged| self.options.overwrite || is_old(&staged))
            {
                sink::discard(spec)?;
            }
            Ok(())
        })
        .map_err(at)?;
        Ok(Some((push, held)))
    }

    /// Whether the output is finished, in its folder or where it goes: there is nothing to compute.
    pub(super) fn is_made(&self, push: &Push) -> Result<bool> {
        if let Some(rows) = push.done() {
            let units = if self.whole.is_some() { 1 } else { self.unit_jobs().len() };
            self.progress.with_units(|counts| counts.total = units);
            self.skip_units(units, rows);
            tracing::info!(rows, "nothing to do: the destination has the output of this job");
            return Ok(true);
        }
        Ok(tokio::task::block_in_place(|| sink::published(&self.pipeline.sink))?.is_some())
    }

    /// Pushes the output from its folder, and removes it there.
    pub(super) async fn finish_push(&self, push: &Push) -> Result<()> {
        if push.done().is_some() {
            return Ok(());
        }
        self.progress.enter(Stage::Committing);
        let spec = &self.pipeline.sink;
        let kept = |error: Error| {
            error.at(&spec.location).hint("the output is kept: the same command pushes it")
        };
        match push {
            Push::Hub(push) => {
                let pushed = self.push_output(push).await.map_err(kept)?;
                if let Some(commit) = pushed {
                    tracing::info!(dataset = push.url.id, commit, "output pushed");
                } else {
                    tracing::info!(dataset = push.url.id, "the dataset has these files already");
                }
            }
            Push::Table(push) => {
                let commit = || self.commit_version(push);
                tokio::task::block_in_place(commit).map_err(kept)?;
            }
        }
        tokio::task::block_in_place(|| sink::discard(spec))
    }

    async fn push_output(&self, push: &HubPush) -> Result<Option<String>> {
        let spec = &self.pipeline.sink;
        let (output, text) = tokio::task::block_in_place(|| {
            let output = sink::published(spec)?.ok_or_else(|| {
                Error::new(ErrorKind::Internal, "the output to push is not finished")
            })?;
            // That of the run which computed the output.
            let text = match sink::kept_card(spec)? {
                Some(text) => text,
                None => card::section(self, &push.url.path, &output, &self.progress.report()),
            };
            sink::keep_card(spec, &text)?;
            Ok::<_, Error>((output, text))
        })?;
        let pushed = push.commit(spec, &output, &text).await?;
        let files = output.files.iter().map(|(name, bytes)| {
            let path = spec.path.join(name);
            OutputFile { path, rows: 0, bytes: *bytes }
        });
        if self.progress.report().output.is_empty() {
            self.progress.set_output(files.collect());
        }
        Ok(pushed)
    }
}
