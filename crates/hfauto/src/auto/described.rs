//! Models that read text, described before their weights are loaded: the files, the configuration and the tokenizer.

use candle_core::Device;

use super::dtype::ModelDtype;
use super::load_options::LoadOptions;
use super::model::AutoModel;
use super::model_for::{HeadRequest, ModelWithHead};
use super::sentence_transformers::{Head, SentenceTransformerConfig};
use super::tokenizer::AutoTokenizer;
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;

impl LoadOptions {
    /// As [`LoadOptions::read`], for a model that may be a sentence-transformers directory.
    ///
    /// # Errors
    /// As [`SentenceTransformerConfig::from_snapshot`]; `Hub` if the files cannot be obtained; `Unsupported` for a
    /// model that reads images.
    pub(crate) fn describe(&self) -> Result<Described> {
        let snapshot = self.snapshot()?;
        let config = SentenceTransformerConfig::from_snapshot(&snapshot, &self.config)?;
        let dimensions = config.config.dimensions();
        if dimensions.image.is_some() && !dimensions.reads_text() {
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
