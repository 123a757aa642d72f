//! `AutoModelFor…`: loads a checkpoint's architecture with a head.

use std::marker::PhantomData;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use serde_json::{Map, Value};

use super::config::AutoConfig;
use super::dtype::ModelDtype;
use super::family::Family;
use super::heads::FamilyHead;
use super::load_options::{LoadOptions, load_options};
use super::loader::{self, Load, LoadReport, NewHead, Owner};
use super::model::{check_kind, image_inputs, text_inputs};
use super::tokenizer::AutoTokenizer;
use crate::auto_class::AutoClass;
use crate::error::{Error, ErrorKind, Result, forward_failed};
use crate::hub::Snapshot;
use crate::models::{Backbone, Decoder, Fields, Head, HeadSizes, ModelOutput, Reads, Want};
use crate::nn::{ModelInputs, VarBuilder, logits_to_host};

/// A backbone with a head, of any Auto class.
pub struct ModelWithHead {
    name: String,
    commit: Option<String>,
    class: AutoClass,
    config: AutoConfig,
    backbone: Box<dyn Backbone>,
    head: Head,
    device: Device,
    report: LoadReport,
}

/// A head to load.
#[derive(Clone, Copy, Debug)]
pub struct HeadRequest<'a> {
    /// Its Auto class.
    pub class: AutoClass,
    /// Used if the checkpoint has no such head.
    pub new_head: Option<NewHead>,
    /// Restricts a head over the vocabulary to these tokens: `forward` returns their logits after the last token of each
    /// row. The other rows of the head are not loaded, unless it shares the word embeddings.
    pub vocabulary_rows: Option<&'a [u32]>,
}

impl HeadRequest<'_> {
    /// The whole head of `class`; random weights (seed 0) where the checkpoint has none.
    pub fn of(class: AutoClass) -> Self {
        Self { class, new_head: Some(NewHead { seed: 0 }), vocabulary_rows: None }
    }
}

/// The outputs of a model with a head.
#[derive(Clone, Debug)]
pub struct LogitsOutput {
    /// `(total_tokens, n)` for a head that reads all tokens, otherwise `(rows, n)`.
    pub logits: Tensor,
    /// The outputs of the backbone.
    pub model: ModelOutput,
}

impl ModelWithHead {
    /// Loads the weights of `snapshot` into the architecture that `config` names, with the head of `class`.
    /// `new_head` is used if the checkpoint has no such head.
    ///
    /// # Errors
    /// `Unsupported` if the family has no such head; as
    /// [`AutoModel::load_snapshot`](super::AutoModel::load_snapshot).
    pub fn load_snapshot(
        class: AutoClass,
        snapshot: &Snapshot,
        config: AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
        new_head: Option<NewHead>,
    ) -> Result<Self> {
        let head = HeadRequest { class, new_head, vocabulary_rows: None };
        Self::load_head(head, snapshot, config, dtype, device)
    }

    /// As [`ModelWithHead::load_snapshot`], for the head of a request.
    ///
    /// # Errors
    /// As [`ModelWithHead::load_snapshot`]; `Model` for a token outside the vocabulary; `Unsupported` if the head is not
    /// over the vocabulary, but its rows are given.
    pub fn load_head(
        head: HeadRequest<'_>,
        snapshot: &Snapshot,
        config: AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
    ) -> Result<Self> {
        let class = head.class;
        let (config, (backbone, head), report) =
            Self::read(head, snapshot, config, dtype, device, false)?;
        if !report.new.is_empty() {
            tracing::warn!(
                tensors = ?report.new,
                "some weights of {class} are missing in the checkpoint `{}` and were initialized randomly: \
                 train the model before you use it",
                snapshot.name()
            );
        }
        Ok(Self {
            name: snapshot.name().to_owned(),
            commit: snapshot.commit().map(str::to_owned),
            class,
            config,
            backbone,
            head,
            device: device.clone(),
            report,
        })
    }

    /// What [`ModelWithHead::load_head`] would report, from the headers of the files alone.
    ///
    /// # Errors
    /// As [`ModelWithHead::load_head`].
    pub fn weight_report(
        head: HeadRequest<'_>,
        snapshot: &Snapshot,
        config: AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
    ) -> Result<LoadReport> {
        Ok(Self::read(head, snapshot, config, dtype, device, true)?.2)
    }

    fn read(
        head: HeadRequest<'_>,
        snapshot: &Snapshot,
        config: AutoConfig,
        dtype: Option<ModelDtype>,
        device: &Device,
        only_sizes: bool,
    ) -> Result<(AutoConfig, BackboneAndHead, LoadReport)> {
        let HeadRequest { class, new_head, vocabulary_rows } = head;
        let at = |error: Error| error.at(format!("model `{}`", snapshot.name()));
        let family = config.family();
        let row = family.head(class, &config.architectures()).map_err(at)?;
        let dtype = ModelDtype::computable(dtype, device, &config).map_err(at)?;
        let weights = snapshot.weights().map_err(at)?;
        let rows = row.layout.label_weight().and_then(|name| {
            let mut prefixes = family.base_model_prefixes();
            let prefixed = || prefixes.find_map(|p| weights.shape(&format!("{p}.{name}")));
            weights.shape(&name).or_else(prefixed)?.first().copied()
        });
        let config = match rows {
            Some(rows) => config.with_labels_of(rows),
            None => config,
        };
        if let Some(rows) = vocabulary_rows {
            check_vocabulary_rows(&config, row, rows).map_err(at)?;
        }
        let fields = Fields::new(config.json());
        let (num_labels, owner) = (config.num_labels(), Owner::Family(family));
        let load = Load { weights: &weights, owner, dtype, device, new_head, only_sizes };
        let built = load.run(|vb| build(&head, row, &fields, family, num_labels, &vb));
        let (model, report) = built.map_err(|e| match rows {
            Some(rows) if rows != num_labels => at(e.hint(format!(
                "the head has {rows} labels: set `num_labels: {rows}` in the model's `config`"
            ))),
            _ => at(missing_head(e, class)),
        })?;
        drop(fields);
        Ok((config, model, report))
    }

    /// The hub id or directory of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hub commit of the model.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The Auto class.
    pub fn class(&self) -> AutoClass {
        self.class
    }

    /// The configuration with its overrides.
    pub fn config(&self) -> &AutoConfig {
        &self.config
    }

    /// The backbone.
    pub fn backbone(&self) -> &dyn Backbone {
        &*self.backbone
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The decoder for generation.
    ///
    /// # Errors
    /// `Unsupported` for an architecture without one, such as an encoder, and for a head with only some rows of the
    /// vocabulary.
    pub fn decoder(&self) -> Result<Box<dyn Decoder + '_>> {
        if self.head.reads() == Reads::Last {
            let message = format!("model `{}` has only some rows of its head", self.name);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("load it without `vocabulary_rows` to generate text"));
        }
        self.backbone.decoder(&self.head).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("model `{}` does not generate text: it is an encoder", self.name),
            )
            .hint("BERT and RoBERTa generate with `is_decoder: true` in config.json")
        })
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of parameters, the memory, and the new and unused tensors.
    pub fn report(&self) -> &LoadReport {
        &self.report
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

    /// Builds inputs from images `(channels, height, width)` of an
    /// [`AutoImageProcessor`](super::AutoImageProcessor).
    ///
    /// # Errors
    /// If the model does not read images, they differ in size, or the device cannot hold the tensors.
    pub fn image_inputs(&self, images: &[Tensor]) -> candle_core::Result<ModelInputs> {
        image_inputs(&*self.backbone, images, &self.device)
    }

    /// Runs the model and its head. Also computes what `output_hidden_states` and `output_attentions` of the
    /// configuration request.
    ///
    /// # Errors
    /// As [`Backbone::forward`] and [`Head::forward`].
    pub fn forward(&self, inputs: &ModelInputs, want: &Want) -> candle_core::Result<LogitsOutput> {
        let want = Want {
            pooler_output: want.pooler_output || self.head.reads() == Reads::Pooled,
            hidden_states: want.hidden_states || self.config.output_hidden_states(),
            attentions: want.attentions || self.config.output_attentions(),
        };
        check_kind(&*self.backbone, inputs)?;
        let model = self.backbone.forward(inputs, &want)?;
        let logits = self.head.forward(inputs, &model)?;
        Ok(LogitsOutput { logits, model })
    }
}

/// The tokens must be in the vocabulary, and the head over it.
fn check_vocabulary_rows(config: &AutoConfig, head: &FamilyHead, rows: &[u32]) -> Result<()> {
    if head.layout.vocabulary().is_none() {
        let message = format!("the head of {} is not over the vocabulary", head.class);
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let vocab_size = config.dimensions().vocab_size;
    match rows.iter().find(|row| **row as usize >= vocab_size) {
        Some(row) => {
            let message = format!("token {row} is outside the model's vocabulary of {vocab_size}");
            Err(Error::new(ErrorKind::Model, message))
        }
        None => Ok(()),
    }
}

type BackboneAndHead = (Box<dyn Backbone>, Head);

/// Builds the backbone, and the head of `class`.
fn build(
    request: &HeadRequest<'_>,
    row: &FamilyHead,
    fields: &Fields<'_>,
    family: &Family,
    num_labels: usize,
    vb: &VarBuilder<'_>,
) -> Result<BackboneAndHead> {
    // The accuracy of encoders' heads over the vocabulary in int8 is not measured.
    let generates = matches!(request.class, AutoClass::CausalLM | AutoClass::Seq2SeqLM);
    let vocabulary_precision =
        if generates { vb.precision() } else { vb.unquantized().precision() };
    let backbone_vb = match row.layout.vocabulary() {
        Some(name) if (family.tie_word_embeddings)(fields)? => {
            vb.with_tied_head(&format!("{name}.weight"), vocabulary_precision)
        }
        _ => vb.clone(),
    };
    let backbone = row.backbone.unwrap_or(family.auto_model)(fields, backbone_vb)?;
    let sizes = HeadSizes {
        hidden_size: backbone.hidden_size(),
        num_labels,
        word_embeddings: backbone.word_embeddings(),
        vocabulary_precision,
        pad_token_id: family.special_token_id("pad_token_id"),
        eos_token_id: family.special_token_id("eos_token_id"),
        vocabulary_rows: request.vocabulary_rows,
    };
    let head = Head::load(&row.layout, fields, vb, sizes)?;
    Ok((backbone, head))
}

impl ModelWithHead {
    /// Runs the model over rows of `(input_ids, token_type_ids)`. Returns all logits in host memory and the number
    /// of logits per row.
    ///
    /// # Shapes
    /// As in the table at [`AutoModelFor`], flattened.
    ///
    /// # Errors
    /// `Model` for logits that are not finite; `Internal` if a tensor operation fails.
    pub fn logits<'a>(
        &self,
        rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>,
    ) -> Result<(Vec<f32>, usize)> {
        let inputs = self.inputs(rows).map_err(forward_failed)?;
        let output = self.forward(&inputs, &Want::default()).map_err(forward_failed)?;
        logit_rows(&output.logits)
    }
}

/// The logits `(rows, n)` in host memory, and `n`.
///
/// # Errors
/// As [`logits_to_host`].
pub fn logit_rows(logits: &Tensor) -> Result<(Vec<f32>, usize)> {
    let (_, columns) = logits
        .dims2()
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot read logits").source(e))?;
    Ok((logits_to_host(logits)?, columns))
}

impl std::fmt::Debug for ModelWithHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(self.class.name())
            .field("name", &self.name)
            .field("commit", &self.commit)
            .field("model_type", &self.config.model_type())
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// Adds a hint for a checkpoint that only lacks the head.
fn missing_head(error: Error, class: AutoClass) -> Error {
    if error.kind() == ErrorKind::Model && error.message().starts_with(loader::NO_HEAD) {
        return error.hint(format!(
            "choose a checkpoint that was saved from {class}, or set `allow_new_head` to accept a \
             new head with random weights"
        ));
    }
    error
}

/// The head of an [`AutoModelFor`].
pub trait HeadClass {
    /// The Auto class.
    const CLASS: AutoClass;

    /// The Auto class for one model, if it depends on the model.
    ///
    /// # Errors
    /// `Unsupported` if the model does not have this class.
    fn of(config: &AutoConfig) -> Result<AutoClass> {
        let _ = config;
        Ok(Self::CLASS)
    }
}

/// A model with a head, loaded by an Auto class. `forward` returns logits:
///
/// | class | logits |
/// |---|---|
/// | `AutoModelForSequenceClassification`, `…ImageClassification` | `(rows, num_labels)` |
/// | `AutoModelForZeroShotImageClassification` | `(rows, n)`: vectors of unit length (`image_embeds`, `text_embeds`), which [`Backbone::similarity`] compares |
/// | `AutoModelForNextSentencePrediction` | `(rows, 2)`, the first is "is next" |
/// | `AutoModelForMultipleChoice` | `(rows, 1)`, a row for each choice |
/// | `AutoModelForTokenClassification` | `(total_tokens, num_labels)` |
/// | `AutoModelForQuestionAnswering` | `(total_tokens, 2)`: start and end |
/// | `AutoModelForMaskedLM`, `…CausalLM` | `(total_tokens, vocab_size)` |
/// | `AutoModelForSeq2SeqLM` | `(total_tokens, vocab_size)`, of a decoder over the inputs shifted right |
///
/// # Example
/// ```
/// use hfauto::auto::{AutoModelForSequenceClassification, AutoTokenizer, EncodeOptions};
/// use hfauto::models::Want;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A bare encoder: its new head has random weights.
/// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/bert");
/// let tokenizer = AutoTokenizer::from_pretrained(id)?;
/// let model = AutoModelForSequenceClassification::builder(id).num_labels(3).load()?;
///
/// let encoding = tokenizer.encode("a test", &EncodeOptions::default())?;
/// let inputs = model.inputs([(&encoding.input_ids[..], &encoding.token_type_ids[..])])?;
/// let logits = model.forward(&inputs, &Want::default())?.logits;
/// assert_eq!(logits.dims(), [1, 3]);
/// assert_eq!(model.config().labels()?, ["LABEL_0", "LABEL_1", "LABEL_2"]);
/// assert!(model.report().new.contains(&"classifier.weight".to_owned()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AutoModelFor<C> {
    model: ModelWithHead,
    snapshot: Snapshot,
    tokenizer: OnceLock<AutoTokenizer>,
    class: PhantomData<C>,
}

/// Options of [`AutoModelFor::builder`].
#[derive(Clone, Debug)]
pub struct AutoModelForBuilder<C> {
    options: LoadOptions,
    new_head: Option<NewHead>,
    class: PhantomData<C>,
}

impl<C: HeadClass> AutoModelForBuilder<C> {
    load_options!();

    /// The number of labels of a new head.
    #[must_use]
    pub fn num_labels(mut self, num_labels: usize) -> Self {
        self.options.override_key("num_labels", num_labels);
        self
    }

    /// The labels by id.
    #[must_use]
    pub fn id2label<T: Into<String>>(mut self, labels: impl IntoIterator<Item = T>) -> Self {
        let labels = labels.into_iter().enumerate();
        let labels: Map<String, Value> =
            labels.map(|(id, label)| (id.to_string(), Value::String(label.into()))).collect();
        self.options.override_key("id2label", labels);
        self
    }

    /// The seed of a new head's random weights; default 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.new_head = Some(NewHead { seed });
        self
    }

    /// Rejects a checkpoint without the head. By default, it gets a new one with random weights and a warning, as in
    /// transformers.
    #[must_use]
    pub fn require_head(mut self) -> Self {
        self.new_head = None;
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// As [`ModelWithHead::load_snapshot`]; `Hub` if the files cannot be obtained.
    pub fn load(self) -> Result<AutoModelFor<C>> {
        let (snapshot, config) = self.options.read()?;
        let model = ModelWithHead::load_snapshot(
            C::of(&config)?,
            &snapshot,
            config,
            self.options.dtype,
            &self.options.device,
            self.new_head,
        )?;
        Ok(AutoModelFor { model, snapshot, tokenizer: OnceLock::new(), class: PhantomData })
    }
}

impl<C: HeadClass> AutoModelFor<C> {
    /// Loads a hub id or directory in f32 on the CPU.
    ///
    /// # Errors
    /// As [`ModelWithHead::load_snapshot`]; `Hub` if the files cannot be obtained.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// As [`AutoModelFor::from_pretrained`], with options.
    pub fn builder(id: impl Into<String>) -> AutoModelForBuilder<C> {
        AutoModelForBuilder {
            options: LoadOptions::new(id),
            new_head: Some(NewHead { seed: 0 }),
            class: PhantomData,
        }
    }
}

impl<C> AutoModelFor<C> {
    /// The model's files.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The tokenizer of the model, loaded on first use.
    ///
    /// # Errors
    /// As [`AutoTokenizer::from_snapshot`].
    pub fn tokenizer(&self) -> Result<&AutoTokenizer> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let model_type = Some(self.model.config().model_type());
        let tokenizer = AutoTokenizer::for_model_type(&self.snapshot, model_type)?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }
}

impl<C> std::ops::Deref for AutoModelFor<C> {
    type Target = ModelWithHead;

    fn deref(&self) -> &ModelWithHead {
        &self.model
    }
}

/// Declares the Auto classes that compute logits in one forward pass.
macro_rules! classes {
    ($($(#[$doc:meta])* $alias:ident = $class:ident;)*) => {$(
        #[doc = concat!("Marks [`", stringify!($alias), "`].")]
        #[derive(Clone, Copy, Debug)]
        pub enum $class {}

        impl HeadClass for $class {
            const CLASS: AutoClass = AutoClass::$class;
        }

        $(#[$doc])*
        pub type $alias = AutoModelFor<$class>;
    )*};
}

classes! {
    /// Predicts the next token; generates through [`ModelWithHead::decoder`].
    AutoModelForCausalLM = CausalLM;
    /// Predicts masked tokens.
    AutoModelForMaskedLM = MaskedLM;
    /// Generates text from text with an encoder-decoder model.
    /// [`Seq2SeqBackbone::forward_seq2seq`](crate::models::Seq2SeqBackbone::forward_seq2seq) takes the inputs of
    /// both.
    AutoModelForSeq2SeqLM = Seq2SeqLM;
    /// Predicts one label, several labels or a number for a text.
    AutoModelForSequenceClassification = SequenceClassification;
    /// Predicts a span of a context.
    AutoModelForQuestionAnswering = QuestionAnswering;
    /// Predicts a label for each token.
    AutoModelForTokenClassification = TokenClassification;
    /// Predicts a score for each choice.
    AutoModelForMultipleChoice = MultipleChoice;
    /// Predicts whether a text follows another.
    AutoModelForNextSentencePrediction = NextSentencePrediction;
    /// Predicts labels for an image.
    AutoModelForImageClassification = ImageClassification;
    /// Computes comparable vectors of texts and images.
    AutoModelForZeroShotImageClassification = ZeroShotImageClassification;
}

/// Marks [`AutoModelForT5`].
#[derive(Clone, Copy, Debug)]
pub enum T5 {}

impl HeadClass for T5 {
    const CLASS: AutoClass = AutoClass::Seq2SeqLM;

    fn of(config: &AutoConfig) -> Result<AutoClass> {
        config.require_t5().map(|()| Self::CLASS)
    }
}

/// `AutoModelForSeq2SeqLM`, but only for T5 and mT5.
pub type AutoModelForT5 = AutoModelFor<T5>;

/// Marks [`AutoModelWithLMHead`].
#[derive(Clone, Copy, Debug)]
pub enum WithLMHead {}

impl HeadClass for WithLMHead {
    /// The class if it does not depend on the model.
    const CLASS: AutoClass = AutoClass::MaskedLM;

    fn of(config: &AutoConfig) -> Result<AutoClass> {
        config.with_lm_head()
    }
}

/// Deprecated in transformers: `AutoModelForCausalLM`, `…MaskedLM` or `…Seq2SeqLM`, by the architecture.
pub type AutoModelWithLMHead = AutoModelFor<WithLMHead>;
