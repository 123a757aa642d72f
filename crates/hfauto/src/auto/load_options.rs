//! The options common to the model builders: revision, dtype, device, overrides of `config.json`.

use candle_core::Device;
use serde_json::{Map, Value};

use super::config::AutoConfig;
use super::dtype::ModelDtype;
use super::snapshot;
use crate::error::Result;
use crate::hub::{Hub, Need, Snapshot};

/// The source of a model, and how it computes.
#[derive(Clone, Debug)]
pub(crate) struct LoadOptions {
    pub(super) id: String,
    pub(super) revision: Option<String>,
    pub(super) adapter: Option<String>,
    pub(super) dtype: Option<ModelDtype>,
    pub(super) device: Device,
    pub(super) config: Map<String, Value>,
}

impl LoadOptions {
    /// The options for a hub id or directory: f32 on the CPU.
    pub(crate) fn new(id: impl Into<String>) -> Self {
        let (revision, adapter, dtype, config) = (None, None, None, Map::new());
        Self { id: id.into(), revision, adapter, dtype, device: Device::Cpu, config }
    }

    pub(crate) fn set_revision(&mut self, revision: String) {
        self.revision = Some(revision);
    }

    pub(crate) fn set_adapter(&mut self, adapter: String) {
        self.adapter = Some(adapter);
    }

    pub(crate) fn set_dtype(&mut self, dtype: ModelDtype) {
        self.dtype = Some(dtype);
    }

    pub(crate) fn set_device(&mut self, device: Device) {
        self.device = device;
    }

    /// Overrides keys of `config.json`.
    pub(crate) fn override_config(&mut self, config: Map<String, Value>) {
        self.config.extend(config);
    }

    /// Overrides one key of `config.json`.
    pub(crate) fn override_key(&mut self, key: &str, value: impl Into<Value>) {
        self.config.insert(key.to_owned(), value.into());
    }

    /// The model's files, with those of the adapter.
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let model = snapshot(&self.id, self.revision.as_deref(), Need::Weights)?;
        let Some(adapter) = &self.adapter else { return Ok(model) };
        Ok(model.with_adapter(Hub::from_env().adapter(adapter, None, &|_| ())?))
    }

    /// The model's files and its `config.json` with the overrides applied.
    pub(super) fn read(&self) -> Result<(Snapshot, AutoConfig)> {
        let snapshot = self.snapshot()?;
        let config = AutoConfig::from_snapshot(&snapshot, &self.config)?;
        Ok((snapshot, config))
    }
}

/// Adds the builder methods for the [`LoadOptions`] in its field `options`.
macro_rules! load_options {
    () => {
        /// The branch, tag or commit; default `main`.
        #[must_use]
        pub fn revision(mut self, revision: impl Into<String>) -> Self {
            self.options.set_revision(revision.into());
            self
        }

        /// A LoRA adapter of PEFT, a directory or a hub id: it is merged into the weights when they are loaded.
        #[must_use]
        pub fn adapter(mut self, adapter: impl Into<String>) -> Self {
            self.options.set_adapter(adapter.into());
            self
        }

        /// The dtype of the computation; default f32 on a CPU.
        #[must_use]
        pub fn dtype(mut self, dtype: impl Into<$crate::auto::ModelDtype>) -> Self {
            self.options.set_dtype(dtype.into());
            self
        }

        /// The device of the computation; default the CPU.
        #[must_use]
        pub fn device(mut self, device: candle_core::Device) -> Self {
            self.options.set_device(device);
            self
        }

        /// The attention implementation: `sdpa` (default), the fastest kernel for the device, or `eager`, plain
        /// matrix products.
        #[must_use]
        pub fn attn_implementation(mut self, attn_implementation: &str) -> Self {
            self.options.override_key("attn_implementation", attn_implementation);
            self
        }

        /// Overrides of `config.json`.
        #[must_use]
        pub fn config(mut self, config: serde_json::Map<String, serde_json::Value>) -> Self {
            self.options.override_config(config);
            self
        }
    };
}
pub(crate) use load_options;
