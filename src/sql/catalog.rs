//! The models that SQL functions can name: aliases, and the resolved tasks of earlier calls. Models keep their weights,
//! so queries of one session load them once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use datafusion::common::Result as DataFusionResult;
use datafusion::error::DataFusionError;
use serde_json::Value;

use crate::config::pipeline::{ImagesSpec, ModelSpec, TaskStep};
use crate::config::{self, Call};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{BatchSettings, WorkerPool};
use crate::hub::Hub;
use crate::tasks::{self, Models, Task, TaskDefinition};

/// The models that a session's functions can name, and their settings.
#[derive(Debug)]
pub struct ModelCatalog {
    aliases: RwLock<BTreeMap<String, ModelSpec>>,
    models: Arc<Models>,
    dir: PathBuf,
    images: ImagesSpec,
    settings: BatchSettings,
    workers: Arc<WorkerPool>,
    tasks: Mutex<Vec<(Key, Arc<dyn Task>)>>,
}

/// The key of a call: equal keys share a task.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) function: &'static str,
    pub(super) input: Value,
    pub(super) model: String,
    pub(super) spec: ModelSpec,
    pub(super) options: Option<String>,
}

impl ModelCatalog {
    /// A catalog without aliases: calls name hub ids, and directories relative to the current one.
    pub fn new(hub: Arc<Hub>) -> Self {
        let dir = std::env::current_dir().unwrap_or_default();
        Self::with_models(Arc::new(Models::new(hub)), dir, BatchSettings::default())
    }

    /// A catalog without aliases that shares the models and workers of this one: a second call of a model does not load
    /// it again.
    #[must_use]
    pub fn sharing(&self) -> Self {
        let (models, workers) = (Arc::clone(&self.models), Arc::clone(&self.workers));
        let shared = Self::with_models(models, self.dir.clone(), self.settings);
        shared.with_images(self.images.clone()).with_workers(workers)
    }

    /// A catalog that shares models with others.
    pub(crate) fn with_models(models: Arc<Models>, dir: PathBuf, settings: BatchSettings) -> Self {
        Self {
            aliases: RwLock::default(),
            models,
            dir,
            images: ImagesSpec::default(),
            settings,
            workers: Arc::new(WorkerPool::new(settings.workers)),
            tasks: Mutex::default(),
        }
    }

    /// Runs batches on shared workers.
    #[must_use]
    pub(crate) fn with_workers(mut self, workers: Arc<WorkerPool>) -> Self {
        self.workers = workers;
        self
    }

    /// Sets how batches are formed and computed.
    #[must_use]
    pub fn with_settings(mut self, settings: BatchSettings) -> Self {
        self.settings = settings;
        self.workers = Arc::new(WorkerPool::new(settings.workers));
        self
    }

    /// Sets the restrictions on images in calls.
    #[must_use]
    pub fn with_images(mut self, images: ImagesSpec) -> Self {
        self.images = images;
        self
    }

    /// Adds or replaces an alias.
    pub fn insert(&self, name: impl Into<String>, model: ModelSpec) {
        self.aliases.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), model);
    }

    /// Removes an alias and returns its model.
    pub fn remove(&self, name: &str) -> Option<ModelSpec> {
        self.aliases.write().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// The names and their models.
    pub fn aliases(&self) -> BTreeMap<String, ModelSpec> {
        self.aliases.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folder that relative paths start from.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    pub(crate) fn settings(&self) -> BatchSettings {
        self.settings
    }

    pub(crate) fn workers(&self) -> &Arc<WorkerPool> {
        &self.workers
    }

    /// The task of a call, resolved once.
    pub(crate) fn task(
        &self,
        definition: &'static TaskDefinition,
        name: &str,
        input: &Value,
        model: &str,
        options: Option<&str>,
    ) -> DataFusionResult<Arc<dyn Task>> {
        let call = Call { function: name, task_id: definition.id, input, model, options };
        let external = |error| DataFusionError::External(Box::new(error));
        let mut step = config::call(&call, &self.aliases(), &self.dir).map_err(|problems| {
            let message = format!("invalid call of `{name}`");
            external(Error::new(ErrorKind::Config, message).source(problems))
        })?;
        step.images = self.images.clone();
        let key = Key {
            function: definition.function.name,
            input: input.clone(),
            model: model.to_owned(),
            spec: step.model.clone(),
            options: options.map(str::to_owned),
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, task)) = tasks.iter().find(|(other, _)| *other == key) {
            return Ok(Arc::clone(task));
        }
        let task =
            self.resolve(&step).map_err(|e| external(e.at(format!("the call of `{name}`"))))?;
        tasks.push((key, Arc::clone(&task)));
        Ok(task)
    }

    /// The call that a task was resolved for, the folder of relative paths, and the restrictions on images.
    #[cfg(feature = "cluster")]
    pub(super) fn call_of(&self, task: &Arc<dyn Task>) -> Option<(Key, PathBuf, ImagesSpec)> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, _) = tasks.iter().find(|(_, known)| Arc::ptr_eq(known, task))?;
        Some((key.clone(), self.dir.clone(), self.images.clone()))
    }

    /// Reads files, and uses the network for files that are not cached. Runs on a dedicated thread, because planning
    /// may run on the only thread of a runtime.
    fn resolve(&self, step: &TaskStep) -> Result<Arc<dyn Task>> {
        std::thread::scope(|scope| {
            scope.spawn(|| tasks::resolve(step, &self.models)).join().unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Internal, "resolving a model panicked"))
            })
        })
    }
}
