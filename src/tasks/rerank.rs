//! `rerank`: scores a document against a query, as sentence-transformers' `CrossEncoder.predict`. A multi-vector encoder
//! scores by MaxSim (`rerank_late`).
//!
//! # Source
//! `sentence_transformers/cross_encoder/model.py` at v6.2.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::sentence_transformers::{PairOptions, PairScorer};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::classifier::{Classifier, LoadedClassifier};
use super::definition::{
    InputColumn, OptionsType, RawTaskStep, SqlFunction, TaskDefinition, TaskOptions, TaskStep,
};
use super::models::{Models, ResolvedModel};
use super::prompt::{Prompt, RowPrompts, check_types, no_columns};
use super::rerank_late::LateRerankTask;
use super::text_input::{TextInput, check_prompt};
use super::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::AutoClass;
use crate::document::{Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::TorchActivation;

/// The options of `rerank`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Rerank {
    /// `{query, document}`.
    pub input: QueryDocument,
    /// The function that turns the logit into a score. Default: as in the model's configuration.
    pub activation: Option<Activation>,
    /// Text prepended to every query; the system message of a model with a chat template. With columns of the row,
    /// `{{ query }} ({{ lang }})`, it is a Jinja template of the whole query, or of the system message. Default: the model's
    /// default prompt.
    pub prompt: Option<Prompt>,
    /// The name of a prompt in the model's `config_sentence_transformers.json`.
    pub prompt_name: Option<String>,
    /// The instruction of a model with a chat template: its system message. Default: the model's default prompt.
    pub instruction: Option<String>,
    /// A Jinja template over messages with the roles `query` and `document`, and `system` for the instruction; or the
    /// name of one of the model's templates. Default: the model's chat template, if it has one.
    pub chat_template: Option<String>,
    /// For a causal language model: the token whose logit is the score, a token of the vocabulary or a text of one
    /// token. Default: the model's LogitScore, else `yes`.
    pub true_token: Option<String>,
    /// The token whose logit is subtracted from that of `true_token`. Default: the model's LogitScore, else `no`; nothing
    /// is subtracted if only `true_token` is set.
    pub false_token: Option<String>,
}

/// A query and a document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryDocument {
    /// The column of the query.
    pub query: String,
    /// The column of the document.
    pub document: String,
}

/// The function that turns a logit into a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Sigmoid: a score from 0 to 1.
    Sigmoid,
    /// The unchanged logit.
    Identity,
}

pub(super) static RERANK: TaskDefinition = TaskDefinition {
    id: "rerank",
    aliases: &[],
    summary: "Scores a document against a query.",
    auto_class: AutoClass::SequenceClassification,
    outputs: &[],
    generates: false,
    options: OptionsType::of::<Rerank>(),
    function: SqlFunction {
        name: "rerank",
        parameters: &["query", "document"],
        parts: &[],
        description: "The relevance of a document to a query, as CrossEncoder.predict computes it: Float32.",
        example: "SELECT id FROM documents ORDER BY rerank('warm coat', text, 'reranker') DESC LIMIT 10",
    },
    usual_type: || DataType::Float32,
    template: include_str!("../../pipelines/rerank.yaml"),
};

impl TaskOptions for Rerank {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        let QueryDocument { query, document } = &self.input;
        let mut inputs =
            vec![InputColumn::part("query", query), InputColumn::part("document", document)];
        let of_prompt = self.prompt.iter().flat_map(|prompt| prompt.inputs("prompt", &inputs));
        inputs.extend(of_prompt.collect::<Vec<_>>());
        inputs
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        check_prompt(self.prompt.is_some(), self.prompt_name.is_some(), at, report);
        if let Some(prompt) = &self.prompt {
            prompt.check(None, at.key("prompt"), report);
        }
        no_columns(&[("instruction", self.instruction.as_ref())], at, report);
        let prompts =
            [("prompt", self.prompt.is_some()), ("prompt_name", self.prompt_name.is_some())];
        for (key, _) in prompts.iter().filter(|(_, given)| *given) {
            if self.instruction.is_some() {
                let message = format!("`instruction` and `{key}` exclude each other");
                report.push(
                    Diagnostic::new(at.key("instruction").key, message)
                        .related(at.key(key).key, "the other")
                        .hint("keep one of them"),
                );
            }
        }
        if self.false_token.is_some() && self.true_token.is_none() {
            let message = "`false_token` needs `true_token`";
            report.push(
                Diagnostic::new(at.key("false_token").key, message)
                    .hint("set both, or `true_token` alone to score by its logit"),
            );
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        let model = models.resolve(&step.model)?;
        if model.sentence_transformer().multi_vector.is_some() {
            let columns = [self.input.query.as_str(), self.input.document.as_str()];
            return Ok(Arc::new(LateRerankTask::resolve(step, columns, &self.given(), model)?));
        }
        Ok(Arc::new(RerankTask::resolve(step, self, model)?))
    }
}

impl Rerank {
    /// The names of the options that are set.
    fn given(&self) -> Vec<&'static str> {
        let options = [
            ("activation", self.activation.is_some()),
            ("prompt", self.prompt.is_some()),
            ("prompt_name", self.prompt_name.is_some()),
            ("instruction", self.instruction.is_some()),
            ("chat_template", self.chat_template.is_some()),
            ("true_token", self.true_token.is_some()),
            ("false_token", self.false_token.is_some()),
        ];
        options.into_iter().filter_map(|(key, given)| given.then_some(key)).collect()
    }

    /// The options as the library takes them.
    fn pair_options(&self) -> PairOptions<'_> {
        PairOptions {
            activation: self.activation.map(|activation| match activation {
                Activation::Sigmoid => TorchActivation::SIGMOID,
                Activation::Identity => TorchActivation::IDENTITY,
            }),
            prompt: self.prompt.as_ref().map(Prompt::text),
            prompt_name: self.prompt_name.as_deref(),
            instruction: self.instruction.as_deref(),
            chat_template: self.chat_template.as_deref(),
            true_token: self.true_token.as_deref(),
            false_token: self.false_token.as_deref(),
        }
    }

    /// The options in plans, reports and lineage.
    fn shown(&self, scorer: &PairScorer, max_length: usize) -> Value {
        let mut shown = json!({
            "max_length": max_length,
            "activation": scorer.activation().name().to_lowercase(),
            "prompt": scorer.prompt(),
        });
        if let Some(score) = scorer.logit_score() {
            shown["true_token_id"] = score.true_token_id.into();
            shown["false_token_id"] = score.false_token_id.into();
        }
        if scorer.has_chat_template() {
            shown["chat_template"] = match &self.chat_template {
                Some(template) => template.as_str().into(),
                None => true.into(),
            };
        }
        shown
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct RerankTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    scorer: Arc<PairScorer>,
    /// The template of `prompt`.
    prompt: Option<RowPrompts>,
}

impl RerankTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// `Unsupported` if the model has no head that scores pairs, more than one label or an activation that is not
    /// implemented; as [`PairScorer::resolve`].
    fn resolve(step: &TaskStep, options: &Rerank, model: Arc<ResolvedModel>) -> Result<Self> {
        let scorer = PairScorer::resolve(
            model.sentence_transformer(),
            model.tokenizer(),
            model.dtype(),
            &options.pair_options(),
        )?;
        if step.auto_class.is_some() && scorer.auto_class() != AutoClass::SequenceClassification {
            let class = scorer.auto_class();
            let message = format!("model `{}` is loaded as `{class}`", step.model_name);
            return Err(Error::new(ErrorKind::Config, message).hint("leave `auto_class` out"));
        }
        let labels = model.config().num_labels();
        if scorer.logit_score().is_none() && labels != 1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("model `{}` has {labels} labels; `rerank` needs one", step.model_name),
            )
            .hint(
                "use `text-classification` with `{text, text_pair}` for a model with several labels",
            ));
        }
        let max_length = scorer.max_tokens(model.config(), model.tokenizer(), step.max_length)?;
        let columns: Vec<String> =
            options.inputs().into_iter().map(|input| input.name.to_owned()).collect();
        let prompt = options.prompt.as_ref().map(|prompt| prompt.over(&columns)).transpose()?;
        let prompt = prompt.flatten();
        let reads_query =
            options.prompt.as_ref().is_none_or(|prompt| prompt.reads(&options.input.query));
        if prompt.is_some() && !scorer.has_chat_template() && !reads_query {
            let query = &options.input.query;
            let message = format!("the template of `prompt` does not read the query `{query}`");
            return Err(Error::new(ErrorKind::Config, message).hint(format!(
                "model `{}` has no chat template, so that it is the whole query: add `{{{{ {query} }}}}`",
                step.model_name
            )));
        }
        let input = TextInput::of(
            Arc::clone(&model),
            [options.input.query.as_str(), options.input.document.as_str()],
            max_length,
            step.truncation.unwrap_or(true),
        );
        let rows = scorer.vocabulary_rows();
        let classifier = Classifier::with_rows(step, scorer.auto_class(), model, rows)?;
        let shown = options.shown(&scorer, max_length);
        let summary = classifier.summary(step.task.id, step, shown);
        let field = Arc::new(Field::new(&step.output, DataType::Float32, true));
        let base = TaskBase { columns, field, model: Arc::clone(&classifier.model), summary };
        Ok(Self { classifier, input, base, scorer: Arc::new(scorer), prompt })
    }
}

impl Task for RerankTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let input = self.input.rows();
        let Some(prompt) = &self.prompt else {
            return self.input.encode_rows(columns, first_row, |texts| {
                Ok(self.scorer.encode(&input, texts[0], texts[1])?.into())
            });
        };
        let prompts = prompt.texts(columns, &self.base.columns, 2, first_row)?;
        let prompts: ArrayRef = Arc::new(prompts);
        let columns = [&columns[..2], &[prompts]].concat();
        self.input.encode_rows(&columns, first_row, |texts| {
            let (query, document, prompt) = (texts[0], texts[1], texts[2]);
            Ok(if self.scorer.has_chat_template() {
                self.scorer.encode_with(&input, prompt, query, document)?.into()
            } else {
                self.scorer.encode_with(&input, "", prompt, document)?.into()
            })
        })
    }

    fn check_inputs(&self, types: &[&DataType]) -> Result<()> {
        check_types(&self.base.columns, types, 2)
    }

    fn output_bytes(&self, _tokens: usize) -> usize {
        size_of::<f32>()
    }

    fn weights(&self) -> Option<WeightSize> {
        self.classifier.weight_size()
    }

    fn auto_class(&self) -> AutoClass {
        self.scorer.auto_class()
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(RerankModel {
            model: self.classifier.load(device)?,
            scorer: Arc::clone(&self.scorer),
        }))
    }
}

/// The task with its weights.
struct RerankModel {
    model: LoadedClassifier,
    scorer: Arc<PairScorer>,
}

impl TaskModel for RerankModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let (scores, _) = self.scorer.forward(&self.model.model, self.model.rows(sequences))?;
        Ok(Arc::new(Float32Array::from(scores)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
