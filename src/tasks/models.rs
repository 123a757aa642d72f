//! Models of a pipeline, resolved once each: config and tokenizer at once, weights when they are needed.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::{DType, Device};

use super::{WeightSize, memory};
use crate::auto::{
    AutoClass, AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, Head, ModelDtype,
    ModelWithHead, NewHead, SentenceTransformer, auto_device, auto_dtype, cuda_device,
};
use crate::config::pipeline::{DeviceSpec, Dtype, ModelSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Hub, Need, Snapshot, Weights};
use crate::models::ImageDimensions;

/// Resolves models; two steps that name the same one share it.
pub struct Models {
    hub: Arc<Hub>,
    resolved: Mutex<Vec<Arc<ResolvedModel>>>,
}

impl Models {
    /// Models from this hub.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, resolved: Mutex::default() }
    }

    /// Finds the config and the tokenizer of a model that reads text, downloading them when they are not
    /// cached.
    ///
    /// # Errors
    /// `Hub` when the files cannot be had, `Unsupported` or `Model` when they cannot be used or the model
    /// reads images.
    pub fn resolve(&self, spec: &ModelSpec) -> Result<Arc<ResolvedModel>> {
        let model = self.find(spec)?;
        match &model.processor {
            Processor::Tokenizer(_) => Ok(model),
            Processor::Image(_) => {
                let message = format!("model `{}` reads images, not text", spec.repo);
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    /// The same of a model that reads images, with its image processor.
    ///
    /// # Errors
    /// As [`Models::resolve`], when the model reads text.
    pub fn resolve_image(&self, spec: &ModelSpec) -> Result<Arc<ResolvedModel>> {
        let model = self.find(spec)?;
        model.image()?;
        Ok(model)
    }

    fn find(&self, spec: &ModelSpec) -> Result<Arc<ResolvedModel>> {
        let mut resolved = self.resolved.lock().map_err(|_| {
            Error::new(ErrorKind::Internal, "resolving a model panicked in another thread")
        })?;
        if let Some(model) = resolved.iter().find(|model| model.spec == *spec) {
            return Ok(Arc::clone(model));
        }
        let model = Arc::new(ResolvedModel::new(spec, &self.hub)?);
        resolved.push(Arc::clone(&model));
        Ok(model)
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models").finish_non_exhaustive()
    }
}

/// One model: what its small files say, and its weights once they are loaded.
pub struct ResolvedModel {
    spec: ModelSpec,
    hub: Arc<Hub>,
    snapshot: Snapshot,
    processor: Processor,
    sentence_transformer: SentenceTransformer,
    device: Device,
    dtype: ModelDtype,
    model: OnceLock<Arc<AutoModel>>,
    /// Loaded models with a head, by Auto class and whether a new head was allowed.
    with_head: Mutex<Vec<(AutoClass, bool, Arc<ModelWithHead>)>>,
}

/// What makes a model's inputs.
enum Processor {
    Tokenizer(AutoTokenizer),
    Image(AutoImageProcessor),
}

impl Processor {
    fn new(model: &SentenceTransformer) -> Result<Self> {
        if model.config.dimensions().image.is_some() {
            return AutoImageProcessor::from_snapshot(&model.transformer).map(Self::Image);
        }
        let model_type = Some(model.config.model_type());
        let tokenizer = AutoTokenizer::for_model_type(&model.transformer, model_type)?;
        let lower_case = model.do_lower_case;
        Ok(Self::Tokenizer(if lower_case { tokenizer.lower_cased()? } else { tokenizer }))
    }
}

impl ResolvedModel {
    fn new(spec: &ModelSpec, hub: &Arc<Hub>) -> Result<Self> {
        let snapshot = hub
            .snapshot(&spec.repo, spec.revision.as_deref(), Need::Tokenizer, &|_| ())
            .map_err(|e| {
                let repo = &spec.repo;
                e.at(format!("model `{repo}`, a hub id: there is no directory of this name"))
            })?;
        let sentence_transformer = SentenceTransformer::from_snapshot(&snapshot, &spec.config)?;
        let at = |error: Error| error.at(format!("model `{}`", spec.repo));
        let device = match spec.device {
            DeviceSpec::Auto => auto_device(),
            DeviceSpec::Cpu => Ok(Device::Cpu),
            DeviceSpec::Cuda(ordinal) => cuda_device(ordinal),
        };
        let device = device.map_err(at)?;
        let dtype = match spec.dtype {
            Dtype::Auto => ModelDtype::Float(auto_dtype(&device)),
            Dtype::F32 => ModelDtype::Float(DType::F32),
            Dtype::F16 => ModelDtype::Float(DType::F16),
            Dtype::Bf16 => ModelDtype::Float(DType::BF16),
            Dtype::Int8 => ModelDtype::Int8,
        };
        let config = &sentence_transformer.config;
        ModelDtype::computable(Some(dtype), &device, config, AutoClass::Model).map_err(at)?;
        let processor = Processor::new(&sentence_transformer).map_err(at)?;
        Ok(Self {
            spec: spec.clone(),
            hub: Arc::clone(hub),
            snapshot,
            processor,
            sentence_transformer,
            device,
            dtype,
            model: OnceLock::new(),
            with_head: Mutex::default(),
        })
    }

    /// The files that are known so far.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Its `config.json`, overrides applied.
    pub fn config(&self) -> &AutoConfig {
        &self.sentence_transformer.config
    }

    /// Its tokenizer.
    ///
    /// # Panics
    /// When the model reads images: [`Models::resolve`] gives no such model.
    pub fn tokenizer(&self) -> &AutoTokenizer {
        match &self.processor {
            Processor::Tokenizer(tokenizer) => tokenizer,
            Processor::Image(_) => unreachable!("bug: a task over text has a model of images"),
        }
    }

    /// Whether its tokenizer gives the segments of tokens; a model of images has none.
    pub fn gives_token_type_ids(&self) -> bool {
        match &self.processor {
            Processor::Tokenizer(tokenizer) => tokenizer.gives_token_type_ids(),
            Processor::Image(_) => false,
        }
    }

    /// The images that it reads, and what makes them.
    ///
    /// # Errors
    /// `Unsupported` when the model reads text.
    pub fn image(&self) -> Result<(&ImageDimensions, &AutoImageProcessor)> {
        match (&self.config().dimensions().image, &self.processor) {
            (Some(image), Processor::Image(processor)) => Ok((image, processor)),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("model `{}` reads text, not images", self.spec.repo),
            )),
        }
    }

    /// A digest of its tokenizer or image processor.
    pub fn processor_digest(&self) -> blake3::Hash {
        match &self.processor {
            Processor::Tokenizer(tokenizer) => tokenizer.digest(),
            Processor::Image(processor) => processor.digest(),
        }
    }

    /// Its sentence-transformers modules.
    pub fn sentence_transformer(&self) -> &SentenceTransformer {
        &self.sentence_transformer
    }

    /// The dtype to compute in.
    pub fn dtype(&self) -> ModelDtype {
        self.dtype
    }

    /// The device to compute on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The kind of the device, as reports and lineage say it.
    pub fn device_name(&self) -> &'static str {
        if self.device.is_cpu() { "cpu" } else { "cuda" }
    }

    /// The same model with its weight files, at the commit that the small files came from.
    fn with_weights(&self, hub: &Hub) -> Result<SentenceTransformer> {
        let revision = self.snapshot.commit().or(self.spec.revision.as_deref());
        let snapshot = hub.snapshot(&self.spec.repo, revision, Need::Weights, &|_| ())?;
        SentenceTransformer::from_snapshot(&snapshot, &self.spec.config)
    }

    /// The size of the weights, from the tables of contents of their files; `None` when those are not on
    /// this machine or cannot be read.
    pub fn weight_size(&self) -> Option<WeightSize> {
        let offline = Hub::new(self.hub.settings().clone().with_offline(true));
        let local = self.with_weights(&offline).ok()?;
        let weights = Weights::open(&local.transformer.weight_files().ok()?).ok()?;
        let shapes = weights.names().filter_map(|name| weights.shape(name));
        let parameters = shapes.map(|shape| shape.iter().product::<usize>()).sum();
        Some(WeightSize { parameters, bytes: parameters * self.dtype().tensors().size_in_bytes() })
    }

    /// What tells this model from another: the commit of the hub, or of a local directory the files with
    /// their sizes and times.
    pub fn identity(&self) -> String {
        if let Some(commit) = self.snapshot.commit() {
            return format!("{}@{commit}", self.snapshot.name());
        }
        let mut identity = self.snapshot.name().to_owned();
        for file in self.snapshot.files().unwrap_or_default() {
            let found = std::fs::metadata(self.snapshot.dir().join(&file));
            let stamp = found.and_then(|found| Ok((found.len(), found.modified()?)));
            identity += &format!("\n{file} {stamp:?}");
        }
        identity
    }

    /// Refuses a model whose weights do not fit in memory, before they are read.
    fn check_memory(&self) -> Result<()> {
        memory::check(self.weight_size(), memory::free_bytes(&self.device))
            .map_err(|e| e.at(format!("model `{}`", self.spec.repo)))
    }

    /// The loaded model.
    ///
    /// # Errors
    /// `Hub` when weights cannot be had, `Model` when they do not fit the config.
    pub fn load(&self) -> Result<Arc<AutoModel>> {
        if let Some(model) = self.model.get() {
            return Ok(Arc::clone(model));
        }
        let SentenceTransformer { transformer, config, .. } = self.with_weights(&self.hub)?;
        self.check_memory()?;
        let (dtype, device) = (Some(self.dtype), &self.device);
        let model = AutoModel::load_snapshot(&transformer, config, dtype, device)?;
        Ok(Arc::clone(self.model.get_or_init(|| Arc::new(model))))
    }

    /// Checks, without weights, that the model has the Auto class.
    ///
    /// # Errors
    /// `Unsupported` with the classes that it has.
    pub fn require(&self, class: AutoClass) -> Result<()> {
        let has_class = self.config().family().head(class, &self.config().architectures());
        let computes = ModelDtype::computable(Some(self.dtype), &self.device, self.config(), class);
        has_class.and(computes.map(|_| ())).map_err(|e| e.at(format!("model `{}`", self.spec.repo)))
    }

    /// The model loaded with the head of an Auto class.
    ///
    /// # Errors
    /// As [`ResolvedModel::load`]; `Model` when the checkpoint has no such head and `allow_new_head` is
    /// false.
    pub fn load_with_head(
        &self,
        class: AutoClass,
        allow_new_head: bool,
    ) -> Result<Arc<ModelWithHead>> {
        let mut loaded = self.with_head.lock().map_err(|_| {
            Error::new(ErrorKind::Internal, "loading a model panicked in another thread")
        })?;
        let same =
            |(other, new, _): &&(AutoClass, bool, _)| *other == class && *new == allow_new_head;
        if let Some((_, _, model)) = loaded.iter().find(same) {
            return Ok(Arc::clone(model));
        }
        let SentenceTransformer { transformer, config, .. } = self.with_weights(&self.hub)?;
        self.check_memory()?;
        let model = ModelWithHead::load_snapshot(
            class,
            &transformer,
            config,
            Some(self.dtype),
            &self.device,
            allow_new_head.then_some(NewHead { seed: 0 }),
        )?;
        let model = Arc::new(model);
        loaded.push((class, allow_new_head, Arc::clone(&model)));
        Ok(model)
    }

    /// The loaded modules after the transformer; `modules` are those of this model, or changed ones.
    ///
    /// # Errors
    /// As [`ResolvedModel::load`].
    pub fn load_head(&self, modules: &SentenceTransformer) -> Result<Head> {
        let revision = self.snapshot.commit().or(self.spec.revision.as_deref());
        let snapshot = self.hub.snapshot(&self.spec.repo, revision, Need::Weights, &|_| ())?;
        modules.load(&snapshot, &self.device)
    }
}

impl fmt::Debug for ResolvedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvedModel").field("spec", &self.spec).finish_non_exhaustive()
    }
}
