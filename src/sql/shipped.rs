//! The description of a call for another process, which resolves the same model and checks that it has the same files.
//! Not here: the transport, and the plan around the call (`crate::cluster`).

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::catalog::ModelCatalog;
use crate::config::pipeline::{DeviceSpec, Dtype, ImagesSpec, ModelSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{BatchSettings, ModelStep, RowErrors, WorkerPool};
use crate::hub::Hub;
use crate::source::query_error;
use crate::tasks::{ModelPin, Models, TASKS};

/// A call of a function, with its model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShippedCall {
    /// The function, without `try_`.
    function: String,
    input: Value,
    options: Option<String>,
    /// Whether errors of rows are kept.
    keeps_errors: bool,
    /// The model as the query names it.
    model: String,
    repo: String,
    revision: Option<String>,
    adapter: Option<String>,
    dtype: Dtype,
    device: String,
    config: Map<String, Value>,
    /// The commit of a hub model.
    pin: Option<ModelPin>,
    /// The content of the model's files.
    content: String,
    /// The folder that relative paths of images start from.
    dir: PathBuf,
    images_root: Option<PathBuf>,
    max_pixels: u64,
    max_file_bytes: u64,
    max_batch_tokens: Option<usize>,
    sort_window_rows: usize,
    name: String,
    place: String,
    /// The type of the column in the process that describes the call.
    data_type: String,
}

impl ModelCatalog {
    /// Describes the call of a step that this catalog has resolved. Reads the files of a local model.
    ///
    /// # Errors
    /// `Model` if a file cannot be read; `Internal` if the step is of another catalog.
    pub(crate) fn ship(&self, step: &ModelStep) -> Result<ShippedCall> {
        let (key, dir, images) = self.call_of(step.task()).ok_or_else(|| {
            let message = format!("the call `{}` belongs to another session", step.name());
            Error::new(ErrorKind::Internal, message)
        })?;
        let resolved = &step.task().base().model;
        let settings = step.settings();
        Ok(ShippedCall {
            function: key.function.to_owned(),
            input: key.input,
            options: key.options,
            keeps_errors: step.row_errors() != RowErrors::Fail,
            model: key.model,
            repo: key.spec.repo,
            revision: key.spec.revision,
            adapter: key.spec.adapter,
            dtype: key.spec.dtype,
            device: key.spec.device.to_string(),
            config: key.spec.config,
            pin: resolved.pin(),
            content: resolved.content()?,
            dir,
            images_root: images.root,
            max_pixels: images.max_pixels,
            max_file_bytes: images.max_file_bytes,
            max_batch_tokens: settings.max_batch_tokens,
            sort_window_rows: settings.sort_window_rows,
            name: step.name().to_owned(),
            place: step.place().to_owned(),
            data_type: step.data_type().to_string(),
        })
    }
}

impl ShippedCall {
    /// The folder that paths of images must lie in.
    pub(crate) fn images_root(&self) -> Option<&std::path::Path> {
        self.images_root.as_deref()
    }

    /// Resolves the call: reads the small files of its model, and all files of a local one.
    ///
    /// # Errors
    /// `Config` if the model has other files here; those of the model.
    pub(crate) fn open(&self, hub: &Arc<Hub>, workers: &Arc<WorkerPool>) -> Result<ModelStep> {
        let wrong = |message: String| Error::new(ErrorKind::Config, message);
        let mut tasks = TASKS.iter().copied();
        let definition = tasks.find(|task| task.function.name == self.function);
        let definition =
            definition.ok_or_else(|| wrong(format!("there is no function `{}`", self.function)))?;
        let device = DeviceSpec::of_name(&self.device)
            .ok_or_else(|| wrong(format!("`{}` is not a device", self.device)))?;
        let settings = BatchSettings {
            max_batch_tokens: self.max_batch_tokens,
            sort_window_rows: self.sort_window_rows,
            ..BatchSettings::default()
        };
        let pins = self.pin.iter().cloned().collect();
        let models = Arc::new(Models::pinned(Arc::clone(hub), pins));
        let catalog = ModelCatalog::with_models(models, self.dir.clone(), settings)
            .with_images(ImagesSpec {
                root: self.images_root.clone(),
                max_pixels: self.max_pixels,
                max_file_bytes: self.max_file_bytes,
            })
            .with_workers(Arc::clone(workers));
        let spec = ModelSpec {
            repo: self.repo.clone(),
            revision: self.revision.clone(),
            adapter: self.adapter.clone(),
            dtype: self.dtype,
            device,
            config: self.config.clone(),
        };
        catalog.insert(&self.model, spec);
        let (name, options) = (self.function.as_str(), self.options.as_deref());
        let task = catalog
            .task(definition, name, &self.input, &self.model, options)
            .map_err(|error| query_error(error, &[]))?;
        if task.base().model.content()? != self.content {
            let message = format!("the model `{}` has other files on this machine", self.model);
            return Err(wrong(message).hint(
                "local models need the same files on every machine, at the path that the client uses",
            ));
        }
        let row_errors = if self.keeps_errors { RowErrors::Keep } else { RowErrors::Fail };
        let workers = Arc::clone(workers);
        let step = ModelStep::new(task, settings, workers, self.place.clone())
            .with_name(self.name.clone())
            .with_row_errors(row_errors);
        let data_type = step.data_type().to_string();
        if data_type != self.data_type {
            return Err(wrong(format!(
                "`{}` gives {data_type} on this machine, the client expects {}",
                self.name, self.data_type
            )));
        }
        Ok(step)
    }
}
