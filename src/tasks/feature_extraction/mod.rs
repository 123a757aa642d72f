//! `feature-extraction`: converts a text column to embeddings, token vectors or other outputs of an
//! encoder.
//!
//! The embedding equals that of sentence-transformers' `encode`: prompt, truncation, the modules of
//! `modules.json`, `truncate_dim`, then `normalize_embeddings`, then `precision`. Token-level outputs
//! equal those of transformers' model, without padding.

mod column;
mod multi_vector;
mod static_rows;

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::sentence_transformers::prompt_tokens;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, IntoDeserializer};
use serde_json::{Value, json};

use self::column::Int8Ranges;
use self::multi_vector::MultiVectorTask;
use self::static_rows::StaticTask;
use super::classifier::{forward_failed, summary};
use super::definition::{
    InputColumn, ModelOutputName, OptionsType, RawTaskStep, SqlFunction, TaskDefinition,
    TaskOptions, TaskStep, count,
};
use super::models::{Models, ResolvedModel};
use super::prompt::{Prompt, RowPrompts, check_types};
use super::text_input::{check_prompt, encode_rows, max_tokens};
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, AutoModel, Head, Module, SentenceTransformerConfig};
use crate::document::{Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result};
use crate::models::{Dimensions, Want};
use crate::nn::PoolingMode;

/// The options of `feature-extraction`.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
pub struct FeatureExtraction {
    /// The text column.
    pub input: String,
    /// How to pool the token vectors into one; `none` keeps all of them. Default: as in the model's
    /// `modules.json`, else `mean`.
    pub pooling: Option<Pooling>,
    /// Whether to scale embeddings to unit length. Default: as in the model's `modules.json`, else false.
    pub normalize: Option<bool>,
    /// Text prepended to every row. With columns of the row, `{{ title }}: {{ text }}`, it is a Jinja template of the whole text.
    pub prompt: Option<Prompt>,
    /// The name of a prompt in the model's `config_sentence_transformers.json`.
    pub prompt_name: Option<String>,
    /// The task whose adapter the model uses (Jina Embeddings v3: `retrieval.query`, `retrieval.passage`, `separation`,
    /// `classification`, `text-matching`). Default: as in the model's `sentence_bert_config.json`, else no adapter.
    pub task: Option<String>,
    /// Keep only the first N dimensions (Matryoshka embeddings).
    pub dimensions: Option<NonZeroU64>,
    /// The storage type of embeddings. Default: `f32`.
    pub precision: Option<Precision>,
}

/// How to pool the token vectors into one; named as in sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// With this mode.
    Mode(PoolingMode),
    /// No pooling: keeps all token vectors.
    None,
}

impl<'de> Deserialize<'de> for Pooling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "none" => Ok(Self::None),
            mode => PoolingMode::deserialize(mode.into_deserializer()).map(Self::Mode),
        }
    }
}

impl JsonSchema for Pooling {
    fn schema_name() -> Cow<'static, str> {
        "Pooling".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = PoolingMode::json_schema(generator);
        if let Some(Value::Array(modes)) = schema.get_mut("oneOf") {
            let text = "No pooling: one vector per token.";
            modes.push(json!({"description": text, "type": "string", "const": "none"}));
        }
        schema
    }
}

/// The storage type of embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point.
    F16,
    /// Signed 8-bit integers, scaled to the range of each dimension.
    Int8,
    /// Unsigned 8-bit integers, scaled to the range of each dimension.
    Uint8,
    /// One bit per dimension, packed into signed bytes.
    Binary,
    /// One bit per dimension, packed into unsigned bytes.
    Ubinary,
}

impl Precision {
    /// The name in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Binary => "binary",
            Self::Ubinary => "ubinary",
        }
    }

    /// Whether quantization needs the value ranges of many rows.
    pub fn has_ranges(self) -> bool {
        matches!(self, Self::Int8 | Self::Uint8)
    }

    /// Quantizes the batches of a window, by the ranges of the first one.
    fn finish_window(
        self,
        ranges: &OnceLock<Int8Ranges>,
        batches: Vec<ArrayRef>,
    ) -> Result<Vec<ArrayRef>> {
        if !self.has_ranges() {
            return Ok(batches);
        }
        if ranges.get().is_none()
            && let Some(found) = Int8Ranges::calibrate(&batches)?
        {
            // Windows finish in order, so the first one holds the first rows of the input.
            let _ = ranges.set(found);
        }
        match ranges.get() {
            Some(ranges) => {
                let signed = self == Self::Int8;
                batches.iter().map(|batch| ranges.quantize(batch, signed)).collect()
            }
            None => Ok(batches),
        }
    }
}

pub(super) static FEATURE_EXTRACTION: TaskDefinition = TaskDefinition {
    id: "feature-extraction",
    aliases: &[],
    summary: "Computes embeddings or hidden states of a text.",
    auto_class: AutoClass::Model,
    outputs: &[
        ModelOutputName::LastHiddenState,
        ModelOutputName::PoolerOutput,
        ModelOutputName::HiddenStates,
        ModelOutputName::Attentions,
    ],
    generates: false,
    options: OptionsType::of::<FeatureExtraction>(),
    function: SqlFunction {
        name: "embed",
        parameters: &["text"],
        parts: &[],
        description: "The embedding of a text, as SentenceTransformer.encode computes it: FixedSizeList<Float32>.",
        example: "SELECT id, embed(text, 'sentence-transformers/all-MiniLM-L6-v2') FROM reviews",
    },
    usual_type: || DataType::new_list(DataType::Float32, true),
    template: include_str!("template.yaml"),
};

impl FeatureExtraction {
    fn has_template(&self) -> bool {
        self.prompt.as_ref().is_some_and(Prompt::is_template)
    }

    fn precision(&self) -> Precision {
        self.precision.unwrap_or_default()
    }

    /// The step's model, with the adapter of `task`: another model than the one without it, with weights of its own.
    fn model(&self, step: &TaskStep, models: &Models) -> Result<Arc<ResolvedModel>> {
        let Some(task) = &self.task else { return models.resolve(&step.model) };
        let mut spec = step.model.clone();
        spec.config.insert("default_task".to_owned(), task.clone().into());
        models.resolve(&spec).map_err(|error| error.at("`task`"))
    }
}

impl TaskOptions for FeatureExtraction {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        let mut inputs = vec![InputColumn::whole(&self.input)];
        let of_prompt = self.prompt.iter().flat_map(|prompt| prompt.inputs("prompt", &inputs));
        inputs.extend(of_prompt.collect::<Vec<_>>());
        inputs
    }

    fn check(&self, step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        check_prompt(self.prompt.is_some(), self.prompt_name.is_some(), at, report);
        if let Some(prompt) = &self.prompt {
            prompt.check(Some(&self.input), at.key("prompt"), report);
        }
        let mut clash = |key: &str, message: &str, other: &str, label, hint: &str| {
            report.push(
                Diagnostic::new(at.key(key).key, message)
                    .related(at.key(other).key, label)
                    .hint(hint),
            );
        };
        let quantized = !matches!(self.precision(), Precision::F32 | Precision::F16);
        if step.keys.outputs.is_some() {
            let embedding_only = [
                ("pooling", self.pooling.is_some()),
                ("normalize", self.normalize == Some(true)),
                ("dimensions", self.dimensions.is_some()),
                ("precision", self.precision() != Precision::F32),
            ];
            for (key, _) in embedding_only.into_iter().filter(|(_, given)| *given) {
                let message = format!("`{key}` changes the embedding, but `outputs` replaces it");
                let hint = format!("remove `{key}`, or compute the embedding in a separate step");
                clash(key, &message, "outputs", "replaces the embedding", &hint);
            }
        } else if self.pooling == Some(Pooling::None) {
            let one_vector = [("dimensions", self.dimensions.is_some()), ("precision", quantized)];
            for (key, _) in one_vector.into_iter().filter(|(_, given)| *given) {
                let message = format!(
                    "`{key}` needs one vector per row, but `pooling: none` keeps all vectors"
                );
                let hint = format!("remove `{key}`, or choose another `pooling`");
                clash(key, &message, "pooling", "one vector per token", &hint);
            }
        }
    }

    fn why_whole(&self) -> Option<&'static str> {
        self.precision()
            .has_ranges()
            .then_some("has int8 or uint8 embeddings, whose ranges come from many rows")
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        let model = self.model(step, models)?;
        let config = model.sentence_transformer();
        if config.static_embedding.is_some() {
            return Ok(Arc::new(StaticTask::resolve(step, self, model)?));
        }
        let own_vectors = step.outputs.is_empty() && self.pooling.is_none();
        if config.multi_vector.is_some() && own_vectors {
            return Ok(Arc::new(MultiVectorTask::resolve(step, self, model)?));
        }
        Ok(Arc::new(FeatureExtractionTask::resolve(step, self, model)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct FeatureExtractionTask {
    base: TaskBase,
    dimensions: Dimensions,
    /// The same without images, which the task does not read.
    of_texts: Dimensions,
    output: Output,
    prompt: Text,
    /// The number of prompt tokens at the start of each row, excluded from pooling.
    prompt_tokens: usize,
    max_length: usize,
    truncation: bool,
}

/// The content of the column.
#[derive(Clone, Debug)]
enum Output {
    /// One vector per row.
    Embedding(Embedding),
    /// One named output, or a struct of several.
    Named(Vec<ModelOutputName>),
}

/// How to compute the one vector per row.
#[derive(Clone, Debug)]
struct Embedding {
    /// The modules after the backbone; `None` for `pooling: none`.
    modules: Option<SentenceTransformerConfig>,
    /// The number of dimensions that remain after truncation.
    dimensions: usize,
    /// Normalize again after truncation, as `normalize_embeddings=True` does.
    normalize: bool,
    precision: Precision,
}

impl Output {
    fn data_type(&self, model: &Dimensions) -> DataType {
        match self {
            Self::Named(names) => column::outputs_type(names, model),
            Self::Embedding(embedding) => {
                let vector = column::embedding_type(embedding.dimensions, embedding.precision);
                match embedding.modules {
                    Some(_) => vector,
                    None => DataType::List(Arc::new(Field::new_list_field(vector, false))),
                }
            }
        }
    }

    /// The memory of a row of `tokens` tokens while its window is computed, in bytes.
    fn bytes(&self, model: &Dimensions, tokens: usize) -> usize {
        match self {
            Self::Named(names) => column::outputs_bytes(names, model, tokens),
            Self::Embedding(embedding) => {
                let vector = embedding.dimensions * size_of::<f32>();
                if embedding.modules.is_some() { vector } else { vector * tokens }
            }
        }
    }
}

impl FeatureExtractionTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// `Config` for an option that the model does not support.
    fn resolve(
        step: &TaskStep,
        options: &FeatureExtraction,
        model: Arc<ResolvedModel>,
    ) -> Result<Self> {
        let output = output(step, options, &model)?;
        let dimensions = model.config().dimensions().clone();
        let of_texts = Dimensions { image: None, ..dimensions.clone() };
        let field = Arc::new(Field::new(&step.output, output.data_type(&dimensions), true));
        let stated = model.tokenizer().model_max_length();
        let max_length = max_tokens(&model, step.max_length, stated, false)?;
        let truncation = step.truncation.unwrap_or(true);
        let columns = columns(options);
        let fixed = prompt(step, options, &output, &model)?;
        let prompt_tokens = match &output {
            Output::Embedding(Embedding { modules: Some(modules), .. })
                if !modules.include_prompt() && !fixed.is_empty() =>
            {
                if options.has_template() {
                    let message = "the model does not pool the prompt, which a template does not tell from the text";
                    return Err(Error::new(ErrorKind::Config, message)
                        .hint("set a `prompt` without columns"));
                }
                prompt_tokens(&fixed, model.tokenizer(), max_length)?
            }
            _ => 0,
        };
        let prompt = Text::new(options, fixed, &columns)?;
        let summary = summary(
            step.task.id,
            step,
            &model,
            shown_options(&output, prompt.shown(options), max_length, truncation),
        );
        let base = TaskBase { columns, field, model, summary };
        Ok(Self {
            base,
            dimensions,
            of_texts,
            output,
            prompt,
            prompt_tokens,
            max_length,
            truncation,
        })
    }
}

/// The columns that the step reads: its input, then those of its prompt.
fn columns(options: &FeatureExtraction) -> Vec<String> {
    options.inputs().into_iter().map(|input| input.name.to_owned()).collect()
}

/// The text to tokenize.
#[derive(Clone, Debug)]
enum Text {
    /// The prompt, then the row's text. Keeps surrounding white space, as sentence-transformers does since 5.4.
    After(String),
    /// A template with columns of the row.
    Rendered(RowPrompts),
}

impl Text {
    /// The text with the prompt `fixed`, unless the step's own is a template.
    ///
    /// # Errors
    /// As [`Prompt::over`].
    fn new(options: &FeatureExtraction, fixed: String, columns: &[String]) -> Result<Self> {
        let rows = options.prompt.as_ref().map(|prompt| prompt.over(columns)).transpose()?;
        Ok(rows.flatten().map_or(Self::After(fixed), Self::Rendered))
    }

    /// The prompt in plans, reports and lineage: the text before each row, or the template.
    fn shown<'a>(&'a self, options: &'a FeatureExtraction) -> &'a str {
        match self {
            Self::After(prompt) => prompt,
            Self::Rendered(_) => options.prompt.as_ref().map_or("", Prompt::text),
        }
    }

    /// The text that the prompt stands before, for each row, from the columns of the step.
    ///
    /// # Errors
    /// As [`RowPrompts::texts`].
    fn texts<'c>(
        &self,
        columns: &'c [ArrayRef],
        names: &[String],
        first_row: u64,
    ) -> Result<Cow<'c, [ArrayRef]>> {
        Ok(match self {
            Self::After(_) => Cow::Borrowed(&columns[..1]),
            Self::Rendered(rows) => {
                Cow::Owned(vec![Arc::new(rows.texts(columns, names, 1, first_row)?) as ArrayRef])
            }
        })
    }

    /// The prompt and a row's text.
    fn prepared<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self {
            Self::After(prompt) if !prompt.is_empty() => Cow::Owned(format!("{prompt}{text}")),
            Self::After(_) | Self::Rendered(_) => Cow::Borrowed(text),
        }
    }
}

fn output(step: &TaskStep, options: &FeatureExtraction, model: &ResolvedModel) -> Result<Output> {
    if !step.outputs.is_empty() {
        return Ok(Output::Named(step.outputs.clone()));
    }
    if options.pooling == Some(Pooling::None) {
        let full = model.config().dimensions().hidden_size;
        return Ok(Output::Embedding(Embedding {
            modules: None,
            dimensions: full,
            normalize: false,
            precision: options.precision(),
        }));
    }
    let mut modules = model.sentence_transformer().bi_encoder()?;
    if options.pooling.is_none() {
        modules.require_pooling()?;
    }
    if let Some(Pooling::Mode(mode)) = options.pooling {
        modules = modules.with_pooling([mode])?;
    }
    if let Some(normalize) = options.normalize {
        modules = modules.with_normalize(normalize);
    }
    let full = modules.embedding_dimension();
    let saved = modules.truncate_dim.map_or(full, |dimensions| dimensions.min(full));
    let dimensions = options.dimensions.map_or(saved, count);
    if dimensions > full {
        return Err(Error::new(
            ErrorKind::Config,
            format!("`dimensions: {dimensions}` is more than the model's {full}"),
        ));
    }
    // Truncation breaks the unit length that a Normalize module gives. As in sentence-transformers, only
    // an explicit `normalize: true` restores it.
    let normalize = options.normalize == Some(true) && dimensions < full;
    let precision = options.precision();
    Ok(Output::Embedding(Embedding { modules: Some(modules), dimensions, normalize, precision }))
}

fn prompt(
    step: &TaskStep,
    options: &FeatureExtraction,
    output: &Output,
    model: &ResolvedModel,
) -> Result<String> {
    if let Some(prompt) = &options.prompt {
        return Ok(prompt.text().to_owned());
    }
    if !step.outputs.is_empty() && options.prompt_name.is_none() {
        return Ok(String::new());
    }
    let name = options.prompt_name.as_deref();
    let modules = match output {
        Output::Embedding(Embedding { modules: Some(modules), .. }) => modules,
        _ => model.sentence_transformer(),
    };
    Ok(modules.prompt_text(None, name)?)
}

fn shown_options(output: &Output, prompt: &str, max_length: usize, truncation: bool) -> Value {
    let mut options = json!({"max_length": max_length, "truncation": truncation});
    if !prompt.is_empty() {
        options["prompt"] = prompt.into();
    }
    match output {
        Output::Named(names) => {
            options["outputs"] = names.iter().map(|name| name.name()).collect();
        }
        Output::Embedding(Embedding { modules: None, .. }) => options["pooling"] = "none".into(),
        Output::Embedding(embedding) => {
            if let Some(modules) = &embedding.modules {
                options["modules"] = module_names(modules).into();
            }
            options["dimensions"] = embedding.dimensions.into();
            if embedding.normalize {
                options["normalize"] = true.into();
            }
            options["precision"] = embedding.precision.name().into();
        }
    }
    options
}

/// The modules after the transformer, or instead of it, for example `Pooling(mean), Normalize`.
pub fn module_names(modules: &SentenceTransformerConfig) -> String {
    let names = modules.modules.iter().map(|module| match module {
        Module::Features(_) => "Features".to_owned(),
        Module::Pooling(pooling) => {
            let modes: Vec<_> = pooling.modes().iter().map(|mode| mode.name()).collect();
            format!("Pooling({})", modes.join("+"))
        }
        Module::Dense(dense) => format!("Dense({} to {})", dense.in_features, dense.out_features),
        Module::LayerNorm(_) => "LayerNorm".to_owned(),
        Module::Normalize => "Normalize".to_owned(),
        Module::NormalizeTokens => "Normalize(tokens)".to_owned(),
    });
    let tables = [
        ("StaticEmbedding", modules.static_embedding.is_some()),
        ("SparseStaticEmbedding", modules.sparse_static.is_some()),
    ];
    let table = tables.into_iter().filter(|(_, is_used)| *is_used).map(|(name, _)| name.to_owned());
    let score = modules.logit_score.map(|_| "LogitScore".to_owned());
    table.chain(names).chain(score).collect::<Vec<_>>().join(", ")
}

impl Task for FeatureExtractionTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let model = &*self.base.model;
        let input = model.text_input(self.max_length, self.truncation);
        let options = input.options();
        let columns = self.prompt.texts(columns, &self.base.columns, first_row)?;
        encode_rows(Some(model), &self.base.columns, &columns, first_row, |texts| {
            let encoding = model.tokenizer().encode(&self.prompt.prepared(texts[0]), &options)?;
            input.fits(encoding.input_ids.len())?;
            let sequence = Sequence::new(encoding.input_ids, encoding.token_type_ids);
            Ok(EncodedRow { truncated: encoding.truncated, ..sequence.into() })
        })
    }

    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        check_types(&self.base.columns, types, 1)
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        self.output.bytes(&self.dimensions, tokens)
    }

    fn dimensions(&self) -> Option<&Dimensions> {
        Some(&self.of_texts)
    }

    fn needs_whole_windows(&self) -> bool {
        matches!(&self.output, Output::Embedding(embedding) if embedding.precision.has_ranges())
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        let model = self.base.model.load(device)?;
        if let Output::Named(names) = &self.output
            && names.contains(&ModelOutputName::PoolerOutput)
            && !model.backbone().has_pooler()
        {
            return Err(Error::new(
                ErrorKind::Config,
                "`outputs: [pooler_output]`: the checkpoint has no pooler",
            )
            .hint(
                "transformers would initialize one with random weights; choose `last_hidden_state`",
            ));
        }
        let modules = match &self.output {
            Output::Embedding(Embedding { modules: Some(modules), .. }) => {
                Some(self.base.model.load_head(modules, device)?)
            }
            _ => None,
        };
        Ok(Box::new(FeatureExtractionModel {
            model,
            modules,
            dimensions: self.dimensions.clone(),
            output: self.output.clone(),
            prompt_tokens: self.prompt_tokens,
            ranges: OnceLock::new(),
        }))
    }
}

/// The task with its weights.
struct FeatureExtractionModel {
    model: Arc<AutoModel>,
    modules: Option<Head>,
    dimensions: Dimensions,
    output: Output,
    prompt_tokens: usize,
    ranges: OnceLock<Int8Ranges>,
}

impl TaskModel for FeatureExtractionModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let rows = sequences.iter().map(|s| (s.input_ids.as_slice(), s.token_type_ids.as_slice()));
        if let (Output::Embedding(embedding), Some(modules)) = (&self.output, &self.modules) {
            let vectors = hfauto::sentence_transformers::Embedding {
                prompt_tokens: self.prompt_tokens,
                dimensions: embedding.dimensions,
                normalize: embedding.normalize,
            };
            let vectors = vectors.forward(&self.model, modules, rows)?;
            return column::embeddings(&vectors, embedding.precision);
        }
        let inputs = self.model.inputs(rows).map_err(forward_failed)?;
        let output =
            self.model.backbone().forward(&inputs, &self.want()).map_err(forward_failed)?;
        match &self.output {
            Output::Named(names) => column::outputs(names, &self.dimensions, &output),
            Output::Embedding(embedding) => {
                let tokens = &output.last_hidden_state;
                column::token_vectors(&tokens.values, &tokens.lengths, embedding.precision)
            }
        }
    }

    fn finish_window(&self, batches: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        match &self.output {
            Output::Embedding(embedding) => {
                embedding.precision.finish_window(&self.ranges, batches)
            }
            Output::Named(_) => Ok(batches),
        }
    }

    fn weights(&self) -> WeightSize {
        let report = self.model.report();
        WeightSize { parameters: report.parameters as usize, bytes: report.bytes as usize }
    }
}

impl FeatureExtractionModel {
    fn want(&self) -> Want {
        let Output::Named(names) = &self.output else { return Want::default() };
        Want {
            pooler_output: names.contains(&ModelOutputName::PoolerOutput),
            hidden_states: names.contains(&ModelOutputName::HiddenStates),
            attentions: names.contains(&ModelOutputName::Attentions),
        }
    }
}
