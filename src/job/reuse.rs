//! Results that a job reuses from an earlier output, and keeps beside its own (`run.reuse`). Not here: how a step looks up
//! rows (`crate::exec`), and the files (`crate::sink`).

use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::Job;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{EarlierResults, UnitResults, identity};
use crate::sink::{ResultFolder, Sink};

impl Job {
    /// Fails if `run.reuse` names an output without results for this job. The own output may not exist yet, and may have
    /// results of an earlier model.
    ///
    /// # Errors
    /// `NoInput` if the output does not exist; `Config` if it has no results for any step.
    pub(super) fn check_reuse(&self) -> Result<()> {
        let Some(path) = &self.pipeline.reuse else { return Ok(()) };
        let folder = ResultFolder::of(path)?;
        if is_same(path, &self.pipeline.sink.path) {
            return Ok(());
        }
        let shown = path.display();
        let wrong = |kind, message: String, hint: &str| {
            Err(Error::new(kind, message).at(self.file().display()).hint(hint))
        };
        if !folder.exists()? {
            let message = format!("`run.reuse`: there is no output `{shown}`");
            return wrong(ErrorKind::NoInput, message, "check the path");
        }
        let kept = folder.steps()?;
        if kept.is_empty() {
            let message = format!("`run.reuse`: `{shown}` has no results to reuse");
            return wrong(
                ErrorKind::Config,
                message,
                "only a run with `reuse` keeps them: let the pipeline of that output reuse its own `sink.path`",
            );
        }
        if self.steps().iter().any(|step| kept.contains(&identity(&**step.task()))) {
            return Ok(());
        }
        let message =
            format!("`run.reuse`: the results in `{shown}` are of other models or options");
        wrong(
            ErrorKind::Config,
            message,
            "use the same model, revision, options, device and version of this program; or remove `reuse`",
        )
    }

    /// What the steps reuse and keep for the rows of a unit; `None` without `run.reuse`.
    pub(super) fn unit_results(&self, unit: &str) -> Result<Option<UnitResults>> {
        let Some(path) = &self.pipeline.reuse else { return Ok(None) };
        let earlier = {
            let mut opened = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(earlier) = &*opened {
                Arc::clone(earlier)
            } else {
                let earlier = EarlierResults::open(&ResultFolder::of(path)?, self.steps())?;
                tracing::info!(rows = earlier.len(), from = %path.display(), "results to reuse");
                Arc::clone(opened.insert(Arc::new(earlier)))
            }
        };
        let sink = &self.pipeline.sink;
        let folder = if Sink::is_file(sink) { None } else { Some(ResultFolder::of(&sink.path)?) };
        Ok(Some(UnitResults::new(&earlier, folder.as_ref(), unit, self.steps())))
    }
}

/// Whether two paths are one, but for a slash at the end.
fn is_same(a: &Path, b: &Path) -> bool {
    let plain = |path: &Path| path.to_string_lossy().trim_end_matches('/').to_owned();
    plain(a) == plain(b)
}
