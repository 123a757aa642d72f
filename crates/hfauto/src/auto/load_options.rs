//! The options common to the model builders: revision, dtype, device, overrides of `config.json`.

use candle_core::Device;
use serde_json::{Map, Value};

use super::config::AutoConfig;
use super::dtype::ModelDtype;
use super::model::AutoModel;
use super::model_for::{HeadRequest, ModelWithHead};
use super::sentence_transformers::{Head, SentenceTransformerConfig};
use super::snapshot;
use super::tokenizer::AutoTokenizer;
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Need, Snapshot};

/// The source of a model, and how it computes.
#[derive(Clone, Debug)]
pub(crate) struct LoadOptions {
    id: String,
    pub(super) revision: Option<String>,
    pub(super) dtype: Option<ModelDtype>,
    pub(super) device: Device,
    pub(super) config: Map<String, Value>,
}

impl LoadOptions {
    /// The options for a hub id or directory: f32 on the CPU.
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), revision: None, dtype: None, device: Device::Cpu, config: Map::new() }
    }

    pub(crate) fn set_revision(&mut self, revision: String) {
        self.revision = Some(revision);
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

    /// The model's files and its `config.json` with the overrides applied.
    pub(super) fn read(&self) -> Result<(Snapshot, AutoConfig)> {
        let snapshot = snapshot(&self.id, self.revision.as_deref(), Need::Weights)?;
        let config = AutoConfig::from_snapshot(&snapshot, &self.config)?;
        Ok((snapshot, config))
    }

    /// As [`LoadOptions::read`], for a model that may be a sentence-transformers directory.
    ///
    /// # Errors
    /// As [`SentenceTransformerConfig::from_snapshot`]; `Hub` if the files cannot be obtained; `Unsupported` for a
    /// model that reads images.
    pub(crate) fn describe(&self) -> Result<Described> {
        let snapshot = snapshot(&self.id, self.revision.as_deref(), Need::Weights)?;
        let config = SentenceTransformerConfig::from_snapshot(&snapshot, &self.config)?;
        if config.config.dimensions().image.is_some() {
            let message = format!("model `{}` reads images, not text", snapshot.name());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let tokenizer = config.tokenizer()?;
        let (dtype, device) = (self.dtype, self.device.clone());
        Ok(Described { snapshot, config, tokenizer, dtype, device })
    }
}

/// A model that reads text, without its weights.
#[derive(Debug)]
pub(crate) struct Described {
    snapshot: Snapshot,
    pub(crate) config: SentenceTransformerConfig,
    pub(crate) tokenizer: AutoTokenizer,
    pub(crate) dtype: Option<ModelDtype>,
    device: Device,
}

impl Described {
    /// Loads the transformer.
    ///
    /// # Errors
    /// As [`AutoModel::load_snapshot`].
    pub(crate) fn load(&self) -> Result<AutoModel> {
        let SentenceTransformerConfig { transformer, config, .. } = &self.config;
        AutoModel::load_snapshot(transformer, config.clone(), self.dtype, &self.device)
    }

    /// Loads the transformer with the head of an Auto class. The checkpoint must have the head.
    ///
    /// # Errors
    /// As [`ModelWithHead::load_snapshot`].
    pub(crate) fn load_with_head(&self, class: AutoClass) -> Result<ModelWithHead> {
        self.load_rows(class, None)
    }

    /// As [`Described::load_with_head`], with only these rows of a head over the vocabulary, if they are given.
    ///
    /// # Errors
    /// As [`ModelWithHead::load_head`].
    pub(crate) fn load_rows(
        &self,
        class: AutoClass,
        vocabulary_rows: Option<&[u32]>,
    ) -> Result<ModelWithHead> {
        let SentenceTransformerConfig { transformer, config, .. } = &self.config;
        let head = HeadRequest { class, new_head: None, vocabulary_rows };
        ModelWithHead::load_head(head, transformer, config.clone(), self.dtype, &self.device)
    }

    /// Loads the weights of `modules`: those of the directory, possibly modified.
    ///
    /// # Errors
    /// As [`SentenceTransformerConfig::load`].
    pub(crate) fn load_modules(&self, modules: &SentenceTransformerConfig) -> Result<Head> {
        modules.load(&self.snapshot, &self.device)
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
