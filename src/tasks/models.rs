//! The models of a pipeline, each resolved once: config and tokenizer immediately, weights on first use.

#[cfg(feature = "cluster")]
use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "cluster")]
use std::sync::PoisonError;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device};
use hfauto::sentence_transformers::StaticEncoder;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::weights::{Weights, once, weights_of};
use super::{DeviceSpec, Dtype, EncodedRow, ModelSpec, WeightSize, memory};
use crate::auto::{
    AutoClass, AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, Head, HeadRequest,
    ModelDtype, ModelWithHead, NewHead, SentenceTransformerConfig, SparseStatic, TextInput,
    auto_devices, auto_dtype, cuda_device,
};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Hub, Need, Snapshot};
use crate::models::ImageDimensions;
use crate::nn::EmbeddingBag;

/// Resolves models; steps with the same model share it.
pub struct Models {
    hub: Arc<Hub>,
    /// The commits of hub models, where another process has resolved them.
    pins: Vec<ModelPin>,
    resolved: Mutex<Vec<Arc<ResolvedModel>>>,
}

impl Models {
    /// Resolves models with this hub.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self::pinned(hub, Vec::new())
    }

    /// Resolves models with this hub, and revisions of hub models to the commits of `pins`.
    pub fn pinned(hub: Arc<Hub>, pins: Vec<ModelPin>) -> Self {
        Self { hub, pins, resolved: Mutex::default() }
    }

    /// Finds the config and the tokenizer of a model that reads text. Downloads them if they are not cached.
    ///
    /// # Errors
    /// `Hub` if the files cannot be obtained; `Unsupported` or `Model` if they cannot be used or the model reads
    /// images.
    pub fn resolve(&self, spec: &ModelSpec) -> Result<Arc<ResolvedModel>> {
        let model = self.find(spec)?;
        if model.processor.tokenizer.is_some() {
            return Ok(model);
        }
        if model.config().dimensions().reads_text() {
            let found = model.sentence_transformer.tokenizer();
            found.map_err(|error| error.at(format!("model `{}`", spec.repo)))?;
        }
        let message = format!("model `{}` reads images, not text", spec.repo);
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// As [`Models::resolve`], for a model that reads images; finds its image processor.
    ///
    /// # Errors
    /// As [`Models::resolve`], if the model reads text.
    pub fn resolve_image(&self, spec: &ModelSpec) -> Result<Arc<ResolvedModel>> {
        let model = self.find(spec)?;
        model.image()?;
        Ok(model)
    }

    fn find(&self, spec: &ModelSpec) -> Result<Arc<ResolvedModel>> {
        let mut resolved = self.resolved.lock().map_err(|_| {
            Error::new(ErrorKind::Internal, "resolving a model panicked in another thread")
        })?;
        if let Some(model) = resolved.iter().find(|model| model.spec == *spec && model.is_current())
        {
            return Ok(Arc::clone(model));
        }
        let pin = self.pins.iter().find(|pin| pin.is_of(spec));
        let revision = pin.map(|pin| pin.commit.as_str()).or(spec.revision.as_deref());
        let model = Arc::new(ResolvedModel::new(spec, revision, &self.hub)?);
        resolved.retain(|model| model.spec != *spec);
        resolved.push(Arc::clone(&model));
        Ok(model)
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models").finish_non_exhaustive()
    }
}

/// The commit that a revision of a hub model was resolved to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPin {
    repo: String,
    revision: Option<String>,
    commit: String,
}

impl ModelPin {
    fn is_of(&self, spec: &ModelSpec) -> bool {
        self.repo == spec.repo && self.revision == spec.revision
    }
}

/// A model: the content of its small files, and its weights once they are loaded.
pub struct ResolvedModel {
    spec: ModelSpec,
    hub: Arc<Hub>,
    snapshot: Snapshot,
    /// The state of its files when they were read.
    identity: String,
    processor: Processor,
    sentence_transformer: SentenceTransformerConfig,
    /// At least one; each holds a copy of the weights.
    devices: Vec<Device>,
    dtype: ModelDtype,
    /// Shared by all jobs of the process.
    weights: Arc<Weights>,
}

/// The preprocessors of the model's inputs: one of them, or both for a model of texts and images. Such a model may have the
/// files of one only: many classifiers of images come without a tokenizer.
struct Processor {
    tokenizer: Option<AutoTokenizer>,
    image: Option<AutoImageProcessor>,
}

impl Processor {
    fn new(model: &SentenceTransformerConfig) -> Result<Self> {
        let dimensions = model.config.dimensions();
        if dimensions.image.is_none() {
            return Ok(Self { tokenizer: Some(model.tokenizer()?), image: None });
        }
        let image = AutoImageProcessor::from_snapshot(&model.transformer);
        if !dimensions.reads_text() {
            return Ok(Self { tokenizer: None, image: Some(image?) });
        }
        match (model.tokenizer(), image) {
            (Err(_), Err(error)) => Err(error.into()),
            (tokenizer, image) => Ok(Self { tokenizer: tokenizer.ok(), image: image.ok() }),
        }
    }

    /// A digest of what the inputs depend on.
    fn digest(&self) -> blake3::Hash {
        let tokenizer = self.tokenizer.as_ref().map(AutoTokenizer::digest);
        let image = self.image.as_ref().map(AutoImageProcessor::digest);
        match (tokenizer, image) {
            (Some(tokenizer), Some(image)) => {
                blake3::hash(format!("{tokenizer}\n{image}").as_bytes())
            }
            (Some(digest), None) | (None, Some(digest)) => digest,
            (None, None) => blake3::hash(b""),
        }
    }
}

impl ResolvedModel {
    fn new(spec: &ModelSpec, revision: Option<&str>, hub: &Arc<Hub>) -> Result<Self> {
        let snapshot = snapshot_of(spec, revision, Need::Tokenizer, hub).map_err(|e| {
            let repo = &spec.repo;
            e.at(format!("model `{repo}`, a hub id: there is no directory of this name"))
        })?;
        let snapshot = if SentenceTransformerConfig::needs_weights(&snapshot)? {
            snapshot_of(spec, revision, Need::Weights, hub)?
        } else {
            snapshot
        };
        let sentence_transformer =
            SentenceTransformerConfig::from_snapshot(&snapshot, &spec.config)?;
        let is_table = sentence_transformer.is_table();
        let at = |error: hfauto::Error| error.at(format!("model `{}`", spec.repo));
        let devices = match spec.device {
            // A table is read on the processor: its rows are not worth a copy to a GPU.
            DeviceSpec::Auto if is_table => Ok(vec![Device::Cpu]),
            DeviceSpec::Cuda(_) if is_table => Err(hfauto::Error::new(
                hfauto::ErrorKind::Config,
                "a static embedding computes on the CPU",
            )
            .hint("leave `device` out")),
            DeviceSpec::Auto => auto_devices(),
            DeviceSpec::Cpu => Ok(vec![Device::Cpu]),
            DeviceSpec::Cuda(ordinal) => cuda_device(ordinal).map(|device| vec![device]),
        };
        let devices = devices.map_err(at)?;
        let dtype = match spec.dtype {
            Dtype::Auto => ModelDtype::Float(auto_dtype(&devices)),
            Dtype::F32 => ModelDtype::Float(DType::F32),
            Dtype::F16 => ModelDtype::Float(DType::F16),
            Dtype::Bf16 => ModelDtype::Float(DType::BF16),
            Dtype::Int8 => ModelDtype::Int8,
        };
        if is_table && dtype != ModelDtype::Float(DType::F32) {
            let error =
                Error::new(ErrorKind::Config, "a static embedding has the dtype of its file")
                    .hint("leave `dtype` out");
            return Err(error.at(format!("model `{}`", spec.repo)));
        }
        let config = &sentence_transformer.config;
        for device in &devices {
            ModelDtype::computable(Some(dtype), device, config).map_err(at)?;
        }
        let processor = Processor::new(&sentence_transformer)
            .map_err(|error| error.at(format!("model `{}`", spec.repo)))?;
        let identity = identity_of(&snapshot);
        let weights = weights_of(format!("{identity}\n{dtype:?}\n{}", json!(spec.config)));
        Ok(Self {
            spec: spec.clone(),
            hub: Arc::clone(hub),
            snapshot,
            identity,
            processor,
            sentence_transformer,
            devices,
            dtype,
            weights,
        })
    }

    /// The commit of a hub model; `None` for a local directory.
    pub fn pin(&self) -> Option<ModelPin> {
        let commit = self.snapshot.commit()?.to_owned();
        let ModelSpec { repo, revision, .. } = self.spec.clone();
        Some(ModelPin { repo, revision, commit })
    }

    /// Whether its files are as they were read: training may save to the same local directory again.
    fn is_current(&self) -> bool {
        self.identity == identity_of(&self.snapshot)
    }

    /// The files that are known so far.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Its `config.json` with the overrides applied.
    pub fn config(&self) -> &AutoConfig {
        &self.sentence_transformer.config
    }

    /// Its tokenizer.
    ///
    /// # Panics
    /// If there is none; [`Models::resolve`] never returns such a model.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        match &self.processor.tokenizer {
            Some(tokenizer) => tokenizer,
            None => unreachable!("bug: a text task has an image model"),
        }
    }

    /// Whether its tokenizer returns segment ids; false for an image model.
    pub fn gives_token_type_ids(&self) -> bool {
        let tokenizer = self.processor.tokenizer.as_ref();
        tokenizer.is_some_and(AutoTokenizer::gives_token_type_ids)
    }

    /// The dimensions of its images, and its image processor.
    ///
    /// # Errors
    /// `Unsupported` if the model reads text.
    pub fn image(&self) -> Result<(&ImageDimensions, &AutoImageProcessor)> {
        match (&self.config().dimensions().image, &self.processor.image) {
            (Some(image), Some(processor)) => Ok((image, processor)),
            (Some(_), None) => {
                let files = &self.sentence_transformer.transformer;
                let missing = || {
                    let message = format!("model `{}` has no image processor", self.spec.repo);
                    Error::new(ErrorKind::Model, message)
                };
                Err(AutoImageProcessor::from_snapshot(files).err().map_or_else(missing, |error| {
                    error.at(format!("model `{}`", self.spec.repo)).into()
                }))
            }
            (None, _) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("model `{}` reads text, not images", self.spec.repo),
            )),
        }
    }

    /// A digest of its tokenizer or image processor.
    pub fn processor_digest(&self) -> blake3::Hash {
        self.processor.digest()
    }

    /// Its sentence-transformers modules.
    pub fn sentence_transformer(&self) -> &SentenceTransformerConfig {
        &self.sentence_transformer
    }

    /// Checks that the model's embedding tables cover every token and segment of a row. Many checkpoints have added
    /// tokens without resizing the embeddings, so only rows with such a token fail.
    ///
    /// # Errors
    /// `Data` for the row, with the token and both numbers.
    pub(super) fn check_tokens(&self, row: &EncodedRow) -> Result<()> {
        let input = self.text_input(usize::MAX, false);
        for sequence in &row.sequences {
            input.check_tokens(&sequence.input_ids, &sequence.token_type_ids)?;
        }
        Ok(())
    }

    /// The text input for at most `max_length` tokens per text; `truncation` cuts longer texts.
    ///
    /// # Panics
    /// As [`ResolvedModel::tokenizer`].
    pub(super) fn text_input(&self, max_length: usize, truncation: bool) -> TextInput<'_> {
        let (config, tokenizer) = (self.config(), self.tokenizer());
        TextInput { name: &self.spec.repo, config, tokenizer, max_length, truncation }
    }

    /// The dtype of the computation.
    pub fn dtype(&self) -> ModelDtype {
        self.dtype
    }

    /// The devices of the computation, all of one kind; at least one.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The kind of the devices, as in reports and lineage.
    pub fn device_name(&self) -> &'static str {
        if self.devices[0].is_cpu() { "cpu" } else { "cuda" }
    }

    /// The same model with its weight files, at the commit of the small files.
    fn with_weights(&self, hub: &Hub) -> Result<SentenceTransformerConfig> {
        let revision = self.snapshot.commit().or(self.spec.revision.as_deref());
        let snapshot = snapshot_of(&self.spec, revision, Need::Weights, hub)?;
        Ok(SentenceTransformerConfig::from_snapshot(&snapshot, &self.spec.config)?)
    }

    /// The size that the weights of a head and its backbone have once they are loaded, or of the backbone alone for
    /// [`AutoClass::Model`], from the headers of their files: those that are used, each in the form that the dtype gives
    /// it, a tied head once. `None` if the files are not on this machine or cannot be read.
    pub fn weight_size(&self, head: HeadRequest<'_>) -> Option<WeightSize> {
        let offline = Hub::new(self.hub.settings().clone().with_offline(true));
        let local = self.with_weights(&offline).ok()?;
        let (snapshot, config) = (&local.transformer, local.config);
        let (dtype, device) = (Some(self.dtype), &self.devices[0]);
        let report = if head.class == AutoClass::Model {
            AutoModel::weight_report(snapshot, &config, dtype, device)
        } else {
            ModelWithHead::weight_report(head, snapshot, config, dtype, device)
        };
        let report = report.ok()?;
        let (parameters, bytes) = (report.parameters.try_into(), report.bytes.try_into());
        Some(WeightSize { parameters: parameters.ok()?, bytes: bytes.ok()? })
    }

    /// Whether the weights on this machine include the head of an Auto class, by the headers of their files; `None` if they
    /// are not on this machine. [`AutoClass::Model`] needs no head.
    pub fn has_head(&self, class: AutoClass) -> Option<bool> {
        let head = HeadRequest { new_head: None, ..HeadRequest::of(class) };
        self.weight_size(HeadRequest::of(AutoClass::Model))?;
        Some(self.weight_size(head).is_some())
    }

    /// The identity of the model: the commit on the hub, or the sizes and modification times of the files of a local
    /// directory.
    pub fn identity(&self) -> String {
        identity_of(&self.snapshot)
    }

    /// The content of its files: the commit on the hub, or a hash of the files of a local directory, which does not depend
    /// on the machine. Reads all of them at the first call.
    ///
    /// # Errors
    /// `Model` if a file cannot be read.
    #[cfg(feature = "cluster")]
    pub(crate) fn content(&self) -> Result<String> {
        /// The contents of local directories by their state.
        static KNOWN: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
        let is_of_hub = |snapshot: &Snapshot| snapshot.commit().is_some();
        if is_of_hub(&self.snapshot) && self.snapshot.adapter().is_none_or(is_of_hub) {
            return Ok(self.identity());
        }
        let state = self.identity();
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = known().get(&state) {
            return Ok(content.clone());
        }
        let mut hasher = blake3::Hasher::new();
        for snapshot in [Some(&self.snapshot), self.snapshot.adapter()].into_iter().flatten() {
            for file in snapshot.files()? {
                let digest = snapshot.digest(&file)?.unwrap_or_default();
                hasher.update(format!("{file} {digest}\n").as_bytes());
            }
        }
        let content = hasher.finalize().to_hex().to_string();
        known().insert(state, content.clone());
        Ok(content)
    }

    /// Rejects a model whose weights do not fit in memory, before reading them.
    fn check_memory(&self, head: HeadRequest<'_>, device: &Device) -> Result<()> {
        memory::check(self.weight_size(head), memory::free_bytes(device))
            .map_err(|e| e.at(format!("model `{}`", self.spec.repo)))
    }

    /// The model, loaded to one of its devices.
    ///
    /// # Errors
    /// `Hub` if weights cannot be obtained, `Model` if they do not match the config.
    pub fn load(&self, device: &Device) -> Result<Arc<AutoModel>> {
        once(&self.weights.models, device.location(), || {
            let SentenceTransformerConfig { transformer, config, .. } =
                self.with_weights(&self.hub)?;
            self.check_memory(HeadRequest::of(AutoClass::Model), device)?;
            Ok(AutoModel::load_snapshot(&transformer, config, Some(self.dtype), device)?)
        })
    }

    /// The table of a static embedding.
    ///
    /// # Errors
    /// As [`ResolvedModel::load`].
    pub fn table(&self) -> Result<Arc<EmbeddingBag>> {
        once(&self.weights.table, (), || {
            let config = self.with_weights(&self.hub)?;
            Ok(StaticEncoder::table(&config)?)
        })
    }

    /// The weights of tokens of a sparse encoder without a transformer.
    ///
    /// # Errors
    /// As [`ResolvedModel::load`].
    pub fn sparse_table(&self, sparse: &SparseStatic) -> Result<Vec<f32>> {
        let config = self.with_weights(&self.hub)?;
        Ok(sparse.load(&config.transformer, self.tokenizer())?)
    }

    /// Checks, without weights, that the model has the Auto class.
    ///
    /// # Errors
    /// `Unsupported` with the valid classes.
    pub fn require(&self, class: AutoClass) -> Result<()> {
        let has_class = self.config().family().head(class, &self.config().architectures());
        has_class.map_err(|e| e.at(format!("model `{}`", self.spec.repo)))?;
        Ok(())
    }

    /// The model with the head of an Auto class, loaded to one of its devices; with `vocabulary_rows`, only these rows
    /// of a head over the vocabulary.
    ///
    /// # Errors
    /// As [`ResolvedModel::load`]; `Model` if the checkpoint has no such head and `allow_new_head` is false.
    pub fn load_with_head(
        &self,
        class: AutoClass,
        allow_new_head: bool,
        vocabulary_rows: Option<&[u32]>,
        device: &Device,
    ) -> Result<Arc<ModelWithHead>> {
        let rows = vocabulary_rows.map(<[u32]>::to_vec);
        let key = (device.location(), class, allow_new_head, rows);
        once(&self.weights.with_head, key, || {
            let SentenceTransformerConfig { transformer, config, .. } =
                self.with_weights(&self.hub)?;
            let new_head = allow_new_head.then_some(NewHead { seed: 0 });
            let head = HeadRequest { class, new_head, vocabulary_rows };
            self.check_memory(head, device)?;
            Ok(ModelWithHead::load_head(head, &transformer, config, Some(self.dtype), device)?)
        })
    }

    /// The modules after the transformer, loaded to one of its devices. `modules` are those of this model, possibly
    /// modified.
    ///
    /// # Errors
    /// As [`ResolvedModel::load`].
    pub fn load_head(&self, modules: &SentenceTransformerConfig, device: &Device) -> Result<Head> {
        let revision = self.snapshot.commit().or(self.spec.revision.as_deref());
        let snapshot = snapshot_of(&self.spec, revision, Need::Weights, &self.hub)?;
        Ok(modules.load(&snapshot, device)?)
    }
}

/// The files of a model and of its adapter, at `revision` of the model.
fn snapshot_of(
    spec: &ModelSpec,
    revision: Option<&str>,
    need: Need,
    hub: &Hub,
) -> hfauto::Result<Snapshot> {
    let model = hub.snapshot(&spec.repo, revision, need, &|_| ())?;
    let Some(adapter) = &spec.adapter else { return Ok(model) };
    let adapter = hub
        .adapter(adapter, None, &|_| ())
        .map_err(|error| error.at(format!("adapter of model `{}`", spec.repo)))?;
    Ok(model.with_adapter(adapter))
}

fn identity_of(snapshot: &Snapshot) -> String {
    if let Some(adapter) = snapshot.adapter() {
        let model = identity_of_files(snapshot);
        return format!("{model}\nadapter {}", identity_of_files(adapter));
    }
    identity_of_files(snapshot)
}

fn identity_of_files(snapshot: &Snapshot) -> String {
    if let Some(commit) = snapshot.commit() {
        return format!("{}@{commit}", snapshot.name());
    }
    let mut identity = snapshot.name().to_owned();
    for file in snapshot.files().unwrap_or_default() {
        let found = std::fs::metadata(snapshot.dir().join(&file));
        let stamp = found.and_then(|found| Ok((found.len(), found.modified()?)));
        identity += &format!("\n{file} {stamp:?}");
    }
    identity
}

impl fmt::Debug for ResolvedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvedModel").field("spec", &self.spec).finish_non_exhaustive()
    }
}
