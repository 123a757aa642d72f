//! `AutoModel`: loads a checkpoint's architecture without a head.

use candle_core::{Device, Tensor};

use super::config::AutoConfig;
use super::dtype::ModelDtype;
use super::load_options::{LoadOptions, load_options};
use super::loader::{Load, LoadReport, Owner};
use crate::error::{Error, Result};
use crate::hub::Snapshot;
use crate::models::{Backbone, Fields, ModelOutput, Want};
use crate::nn::ModelInputs;

/// A loaded model without a head, as `AutoModel` of transformers.
pub struct AutoModel {
    name: String,
    commit: Option<String>,
    config: AutoConfig,
    backbone: Box<dyn Backbone>,
    device: Device,
    report: LoadReport,
}

/// Options of [`AutoModel::builder`].
#[derive(Clone, Debug)]
pub struct AutoModelBuilder {
    options: LoadOptions,
}

impl AutoModelBuilder {
    load_options!();

    /// Loads the model.
    ///
    /// # Errors
    /// As [`AutoModel::load_snapshot`]; `Hub` if the files cannot be obtained.
    pub fn load(self) -> Result<AutoModel> {
        let (snapshot, config) = self.options.read()?;
        AutoModel::load_snapshot(&snapshot, config, self.options.dtype, &self.options.device)
    }
}

impl AutoModel {
    /// Loads a hub id or directory in f32 on the CPU.
    ///
    /// # Errors
    /// As [`AutoModel::load_snapshot`]; `Hub` if the files cannot be obtained.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// As [`AutoModel::from_pretrained`], with options.
    pub fn builder(id: impl Into<String>) -> AutoModelBuilder {
        AutoModelBuilder { options: LoadOptions::new(id) }
    }

    /// Loads the weights of `snapshot` into the architecture that `config` names. The default `dtype` is f32;
    /// narrower checkpoints are widened.
    ///
    /// # Errors
    /// `Model` with every tensor that is missing or has another shape than the configuration requires, or if the
    /// files are damaged; `Unsupported` for a dtype that the device does not support.
    pub fn load_snapshot(
        snapshot: &Snapshot,
        config: AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
    ) -> Result<Self> {
        let (backbone, report) = Self::read(snapshot, &config, dtype, device, false)?;
        tracing::debug!(
            model = snapshot.name(),
            model_type = config.model_type(),
            parameters = report.parameters,
            dtype = report.dtype.as_str(),
            "loaded weights"
        );
        Ok(Self {
            name: snapshot.name().to_owned(),
            commit: snapshot.commit().map(str::to_owned),
            config,
            backbone,
            device: device.clone(),
            report,
        })
    }

    /// What [`AutoModel::load_snapshot`] would report, from the headers of the files alone.
    ///
    /// # Errors
    /// As [`AutoModel::load_snapshot`].
    pub fn weight_report(
        snapshot: &Snapshot,
        config: &AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
    ) -> Result<LoadReport> {
        Ok(Self::read(snapshot, config, dtype, device, true)?.1)
    }

    fn read(
        snapshot: &Snapshot,
        config: &AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
        only_sizes: bool,
    ) -> Result<(Box<dyn Backbone>, LoadReport)> {
        let at = |error: Error| error.at(format!("model `{}`", snapshot.name()));
        let dtype = ModelDtype::computable(dtype, device, config).map_err(at)?;
        let weights = snapshot.weights().map_err(at)?;
        let (family, fields) = (config.family(), Fields::new(config.json()));
        let owner = Owner::Family(family);
        let load = Load { weights: &weights, owner, dtype, device, new_head: None, only_sizes };
        load.run(|vb| (family.auto_model)(&fields, vb)).map_err(at)
    }

    /// The hub id or directory of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hub commit of the model.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The configuration with its overrides.
    pub fn config(&self) -> &AutoConfig {
        &self.config
    }

    /// The loaded architecture.
    pub fn backbone(&self) -> &dyn Backbone {
        &*self.backbone
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of parameters, the memory, and the unused tensors of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The size of a hidden state.
    pub fn hidden_size(&self) -> usize {
        self.backbone.hidden_size()
    }

    /// Builds inputs from rows of `(input_ids, token_type_ids)`.
    ///
    /// # Errors
    /// If the device cannot hold the tensors.
    pub fn inputs<'a>(
        &self,
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    ) -> candle_core::Result<ModelInputs> {
        text_inputs(&*self.backbone, rows, &self.device)
    }

    /// Builds inputs from images `(channels, height, width)` of an [`AutoImageProcessor`](super::AutoImageProcessor).
    ///
    /// # Errors
    /// If the model does not read images, they differ in size, or the device cannot hold the tensors.
    pub fn image_inputs(&self, images: &[Tensor]) -> candle_core::Result<ModelInputs> {
        image_inputs(&*self.backbone, images, &self.device)
    }

    /// Runs the model. Also computes what `output_hidden_states` and `output_attentions` of the configuration
    /// request, as in transformers.
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    pub fn forward(&self, inputs: &ModelInputs, want: &Want) -> candle_core::Result<ModelOutput> {
        let want = Want {
            hidden_states: want.hidden_states || self.config.output_hidden_states(),
            attentions: want.attentions || self.config.output_attentions(),
            ..*want
        };
        check_kind(&*self.backbone, inputs)?;
        self.backbone.forward(inputs, &want)
    }
}

/// The inputs of a model that reads images.
pub(super) fn image_inputs(
    backbone: &dyn Backbone,
    images: &[Tensor],
    device: &Device,
) -> candle_core::Result<ModelInputs> {
    let Some(image) = backbone.dimensions().image else {
        candle_core::bail!("the model reads text, not images");
    };
    let pixel_values = Tensor::stack(images, 0)?.to_device(device)?;
    let (_, _, height, width) = pixel_values.dims4()?;
    // The model says so itself if it does not read images of this size.
    let tokens = image.tokens_of(height, width).unwrap_or(image.tokens);
    ModelInputs::from_pixel_values(pixel_values, tokens)
}

/// The inputs of a model that reads text.
///
/// # Errors
/// If the device cannot hold the tensors; on a GPU, also if an id or a row is outside its table. A CPU detects that
/// at lookup.
pub(super) fn text_inputs<'a>(
    backbone: &dyn Backbone,
    rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    device: &Device,
) -> candle_core::Result<ModelInputs> {
    let inputs = ModelInputs::new(rows, backbone.position_ids(), device)?;
    let dimensions = backbone.dimensions();
    if !device.is_cpu() && dimensions.reads_text() {
        inputs.check(dimensions.vocab_size, dimensions.position_limit())?;
    }
    Ok(inputs)
}

/// Rejects images for a model that reads text: it would treat them as texts of token 0.
pub(super) fn check_kind(backbone: &dyn Backbone, inputs: &ModelInputs) -> candle_core::Result<()> {
    if inputs.pixel_values.is_some() && backbone.dimensions().image.is_none() {
        candle_core::bail!("the model reads text, not images");
    }
    Ok(())
}

impl std::fmt::Debug for AutoModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AutoModel")
            .field("name", &self.name)
            .field("commit", &self.commit)
            .field("model_type", &self.config.model_type())
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}
