//! AutoModel: a checkpoint's architecture without a head, loaded.

use candle_core::{Device, Tensor};

use super::config::AutoConfig;
use super::dtype::ModelDtype;
use super::families::cannot_load;
use super::load_options::{LoadOptions, load_options};
use super::loader::{self, LoadReport};
use crate::auto_class::AutoClass;
use crate::error::{Error, Result};
use crate::hub::{Snapshot, Weights};
use crate::models::{Backbone, ModelOutput, Want};
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
    /// As [`AutoModel::load_snapshot`]; `Hub` when the files cannot be had.
    pub fn load(self) -> Result<AutoModel> {
        let (snapshot, config) = self.options.read()?;
        AutoModel::load_snapshot(&snapshot, config, self.options.dtype, &self.options.device)
    }
}

impl AutoModel {
    /// Loads a hub id or a directory, in f32 on the CPU.
    ///
    /// # Errors
    /// As [`AutoModel::load_snapshot`]; `Hub` when the files cannot be had.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// The same with options.
    pub fn builder(id: impl Into<String>) -> AutoModelBuilder {
        AutoModelBuilder { options: LoadOptions::new(id) }
    }

    /// Loads the weights of `snapshot` into the architecture that `config` names. Without `dtype`, f32;
    /// narrower checkpoints are widened.
    ///
    /// # Errors
    /// `Model` with every tensor that is missing or has another shape than the configuration asks for,
    /// or when the files are damaged; `Unsupported` for a dtype that the device cannot compute in.
    pub fn load_snapshot(
        snapshot: &Snapshot,
        config: AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
    ) -> Result<Self> {
        let at = |error: Error| error.at(format!("model `{}`", snapshot.name()));
        let dtype = ModelDtype::computable(dtype, device, &config, AutoClass::Model).map_err(at)?;
        let files = snapshot.weight_files().map_err(at)?;
        let weights = Weights::open(&files).map_err(at)?;
        let family = config.family();
        let fields = crate::models::Fields::new(config.json());
        let prefix = family.base_model_prefix;
        let (mut backbone, mut report) =
            loader::load(&weights, prefix, dtype.tensors(), device, None, |vb| {
                (family.auto_model)(&fields, vb)
            })
            .map_err(at)?;
        let in_int8 = dtype.pack(&mut *backbone, None).map_err(cannot_load).map_err(at)?;
        report.computes_in(dtype, in_int8);
        drop(fields);
        tracing::debug!(
            model = snapshot.name(),
            model_type = config.model_type(),
            parameters = report.parameters,
            dtype = dtype.as_str(),
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

    /// The hub id or directory that it was loaded from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit of the hub that it was loaded from.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The configuration, overrides included.
    pub fn config(&self) -> &AutoConfig {
        &self.config
    }

    /// The loaded architecture.
    pub fn backbone(&self) -> &dyn Backbone {
        &*self.backbone
    }

    /// The device that the weights are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Parameters, memory, and what of the checkpoint is not used.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Features of a hidden state.
    pub fn hidden_size(&self) -> usize {
        self.backbone.hidden_size()
    }

    /// Rows of `(input_ids, token_type_ids)` as this model wants them.
    ///
    /// # Errors
    /// When the device cannot hold the tensors.
    pub fn inputs<'a>(
        &self,
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    ) -> candle_core::Result<ModelInputs> {
        let inputs = text_inputs(&*self.backbone, rows, &self.device)?;
        Ok(inputs
            .with_eager_attention(self.config.eager_attention())
            .with_precision(self.report.dtype.precision()))
    }

    /// Images, as an [`AutoImageProcessor`](super::AutoImageProcessor) makes them, `(channels, height,
    /// width)` each.
    ///
    /// # Errors
    /// When the model reads no images, they differ in size, or the device cannot hold the tensors.
    pub fn image_inputs(&self, images: &[Tensor]) -> candle_core::Result<ModelInputs> {
        let inputs = image_inputs(&*self.backbone, images, &self.device)?;
        Ok(inputs
            .with_eager_attention(self.config.eager_attention())
            .with_precision(self.report.dtype.precision()))
    }

    /// Runs the model. What `output_hidden_states` and `output_attentions` of the configuration ask for
    /// is computed too, as in transformers.
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

/// Inputs of a model that reads images.
pub(super) fn image_inputs(
    backbone: &dyn Backbone,
    images: &[Tensor],
    device: &Device,
) -> candle_core::Result<ModelInputs> {
    let Some(image) = backbone.dimensions().image else {
        candle_core::bail!("the model reads text, not images");
    };
    let pixel_values = Tensor::stack(images, 0)?.to_device(device)?;
    ModelInputs::from_pixel_values(pixel_values, image.tokens)
}

/// Inputs of a model that reads text.
///
/// # Errors
/// When the device cannot hold the tensors; on a card also when an id or a row is outside of its table, which on a CPU
/// is found when it is looked up.
pub(super) fn text_inputs<'a>(
    backbone: &dyn Backbone,
    rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    device: &Device,
) -> candle_core::Result<ModelInputs> {
    let inputs = ModelInputs::new(rows, backbone.position_ids(), device)?;
    let dimensions = backbone.dimensions();
    if !device.is_cpu() && dimensions.image.is_none() {
        inputs.check(dimensions.vocab_size, dimensions.max_position_embeddings)?;
    }
    Ok(inputs)
}

/// Images for a model that reads text would be taken for texts of token 0.
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
