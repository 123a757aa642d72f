//! Helpers of the generating tasks: the settings of a step, the loaded model, the column. Not here: the decoding loop
//! (`crate::generation`), the settings that the library's own calls share ([`hfauto::pipelines`]), prompts
//! (`text_generation`, `text2text_generation`).

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use hfauto::pipelines::{Prompt, TextGenerator, TextOf, generation_settings, task_specific_params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::models::ResolvedModel;
use super::{Sequence, WeightSize};
use crate::auto::ModelWithHead;
use crate::document::{Cursor, Diagnostic, Diagnostics, StringOrList, TokenIds};
use crate::error::Result;
use crate::generation::{EarlyStopping, GenerationConfig, PrefixCache};

/// The options common to the tasks that generate, named as in transformers.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct GenerationOptions {
    /// The maximum number of new tokens. Default: as in the model's `generation_config.json`, else 256.
    pub max_new_tokens: Option<NonZeroU64>,
    /// The minimum number of new tokens.
    pub min_new_tokens: Option<u64>,
    /// Whether to sample tokens instead of decoding greedily or with beam search. Default: as in the model's
    /// `generation_config.json`, else false.
    pub do_sample: Option<bool>,
    /// The sampling temperature; lower is more deterministic.
    #[schemars(range(min = 0))]
    pub temperature: Option<f64>,
    /// Sample from the k most likely tokens (top-k sampling); 0 turns it off.
    pub top_k: Option<u64>,
    /// Sample from the smallest set of tokens whose probabilities add up to this (nucleus sampling).
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f64>,
    /// Sample from the tokens with at least this fraction of the top token's probability (min-p sampling).
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f64>,
    /// Penalty on tokens that already occurred; values above 1 make them less likely.
    #[schemars(range(min = 0))]
    pub repetition_penalty: Option<f64>,
    /// Never repeat an n-gram of this size; 0 turns it off.
    pub no_repeat_ngram_size: Option<u64>,
    /// The number of beams of beam search; 1 turns it off.
    pub num_beams: Option<NonZeroU64>,
    /// The length penalty of beam search: above 0 favours longer sequences, below 0 shorter ones. Default: 1.
    pub length_penalty: Option<f64>,
    /// When beam search stops: `true` once `num_beams` beams are finished, `false` when a better beam is unlikely,
    /// `never` when a better beam is impossible.
    pub early_stopping: Option<EarlyStopping>,
    /// The end-of-sequence tokens: an id or a list of ids. Default: as in the model's `generation_config.json`.
    pub eos_token_id: Option<TokenIds>,
    /// Stop strings: texts that end the generation.
    #[serde(rename(serialize = "stop_strings"))]
    pub stop: Option<StringOrList>,
    /// The seed for sampling. The random numbers of a row depend on it and on the row's prompt.
    pub seed: Option<u64>,
}

impl GenerationOptions {
    /// Reports conflicting options and values that the schema cannot rule out.
    pub(crate) fn check(&self, at: Cursor<'_>, report: &mut Diagnostics) {
        if self.do_sample == Some(true) && self.num_beams.is_some_and(|beams| beams.get() > 1) {
            report.push(
                Diagnostic::new(at.key("num_beams").key, "beam search does not sample")
                    .related(at.key("do_sample").key, "turns sampling on")
                    .hint("remove `do_sample` or `num_beams`"),
            );
        }
        if let (Some(min), Some(max)) = (self.min_new_tokens, self.max_new_tokens)
            && min > max.get()
        {
            let message = format!("`min_new_tokens: {min}` is more than `max_new_tokens: {max}`");
            report.push(
                Diagnostic::new(at.key("min_new_tokens").value, message)
                    .related(at.key("max_new_tokens").value, "the maximum"),
            );
        }
        for (key, value) in
            [("temperature", self.temperature), ("repetition_penalty", self.repetition_penalty)]
        {
            if value.is_some_and(|value| value <= 0.0) {
                let message = format!("`{key}` is not greater than 0");
                let problem = Diagnostic::new(at.key(key).value, message);
                report.push(if key == "temperature" {
                    problem.hint("write `do_sample: false` for greedy decoding")
                } else {
                    problem
                });
            }
        }
        let only_sampling = [
            ("temperature", self.temperature.is_some()),
            ("top_k", self.top_k.is_some()),
            ("top_p", self.top_p.is_some()),
            ("min_p", self.min_p.is_some()),
            ("seed", self.seed.is_some()),
        ];
        for (key, _) in only_sampling.into_iter().filter(|(_, given)| *given) {
            if self.do_sample == Some(false) {
                let message = format!("`{key}` applies to sampling, but `do_sample` is false");
                report.push(
                    Diagnostic::new(at.key(key).key, message)
                        .related(at.key("do_sample").value, "turns sampling off"),
                );
            }
        }
        let stop = self.stop.as_ref().map(StringOrList::strings).unwrap_or_default();
        for (index, text) in stop.iter().enumerate() {
            if text.is_empty() {
                let here = at.key("stop").item(index);
                report.push(Diagnostic::new(here.value, "a stop string is empty"));
            }
        }
    }
}

/// The fields of the column.
pub(super) fn fields() -> Fields {
    Fields::from(vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("finish_reason", DataType::Utf8, false),
        Field::new("prompt_tokens", DataType::Int32, false),
        Field::new("generated_tokens", DataType::Int32, false),
    ])
}

/// The parameters of the model's files for `tasks`, as [`task_specific_params`] returns them.
pub(super) fn task_params(model: &ResolvedModel, tasks: &[&str]) -> Map<String, Value> {
    task_specific_params(model.config(), tasks)
}

/// The settings of a step: its options, then the model's `task_specific_params` and
/// `generation_config.json`, then the defaults of transformers' pipeline.
///
/// # Errors
/// As [`generation_settings`].
pub(super) fn settings(
    model: &ResolvedModel,
    pipeline: &Value,
    task_params: &Map<String, Value>,
    options: &GenerationOptions,
) -> Result<GenerationConfig> {
    let snapshot = &model.sentence_transformer().transformer;
    let none = Map::new();
    let pipeline = pipeline.as_object().unwrap_or(&none);
    let given = given(options);
    Ok(generation_settings(snapshot, model.config(), pipeline, task_params, &given)?)
}

/// The options that the step sets, named as in transformers.
fn given(options: &GenerationOptions) -> Map<String, Value> {
    let Ok(Value::Object(mut given)) = serde_json::to_value(options) else { return Map::new() };
    given.retain(|_, value| !value.is_null());
    given.entry("seed").or_insert_with(|| 0.into());
    given
}

/// The settings that lineage records: all that affect the generated text.
pub(super) fn shown(config: &GenerationConfig) -> Value {
    let sampling = config.do_sample.then(|| {
        json!({
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
            "min_p": config.min_p,
            "seed": config.seed,
        })
    });
    json!({
        "max_new_tokens": config.max_new_tokens,
        "max_length": config.max_length,
        "min_new_tokens": config.min_new_tokens,
        "min_length": config.min_length,
        "do_sample": sampling,
        "num_beams": config.num_beams,
        "length_penalty": config.length_penalty,
        "early_stopping": format!("{:?}", config.early_stopping),
        "repetition_penalty": config.repetition_penalty,
        "no_repeat_ngram_size": config.no_repeat_ngram_size,
        "eos_token_id": config.eos_token_id,
        "forced_bos_token_id": config.forced_bos_token_id,
        "forced_eos_token_id": config.forced_eos_token_id,
        "bad_words_ids": config.bad_words_ids,
        "suppress_tokens": config.suppress_tokens,
        "begin_suppress_tokens": config.begin_suppress_tokens,
        "stop": config.stop_strings,
    })
}

/// A model that generates, with its weights.
pub(super) struct Generator {
    pub(super) model: Arc<ModelWithHead>,
    pub(super) resolved: Arc<ResolvedModel>,
    pub(super) config: GenerationConfig,
    pub(super) text_of: TextOf,
    pub(super) include_reasoning: bool,
    pub(super) prefixes: PrefixCache,
}

impl Generator {
    /// Generates a text for each prompt and returns the structs of the column. `start` of a sequence is above 0 if its
    /// prompt ends inside the model's reasoning.
    ///
    /// # Errors
    /// As [`TextGenerator::generate`].
    pub(super) fn forward(
        &self,
        sequences: &[&Sequence],
        max_batch_tokens: usize,
    ) -> Result<ArrayRef> {
        let prompts: Vec<Prompt<'_>> = sequences
            .iter()
            .map(|s| Prompt { input_ids: &s.input_ids, in_reasoning: s.start > 0 })
            .collect();
        let generator = TextGenerator {
            model: &self.model,
            tokenizer: self.resolved.tokenizer(),
            config: &self.config,
            text_of: self.text_of,
            include_reasoning: self.include_reasoning,
            prefixes: &self.prefixes,
        };
        let results = generator.generate(&prompts, max_batch_tokens)?;

        let (mut texts, mut reasons) = (StringBuilder::new(), StringBuilder::new());
        let (mut prompt_tokens, mut tokens) = (Int32Builder::new(), Int32Builder::new());
        for result in &results {
            texts.append_value(&result.text);
            reasons.append_value(result.finish_reason.name());
            prompt_tokens.append_value(result.prompt_tokens as i32);
            tokens.append_value(result.token_ids.len() as i32);
        }
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(texts.finish()),
            Arc::new(reasons.finish()),
            Arc::new(prompt_tokens.finish()),
            Arc::new(tokens.finish()),
        ];
        Ok(Arc::new(StructArray::new(fields(), arrays, None)))
    }

    /// The size of the loaded weights.
    pub(super) fn weights(&self) -> WeightSize {
        let report = self.model.report();
        WeightSize { parameters: report.parameters as usize, bytes: report.bytes as usize }
    }
}

/// The memory of a row of the column in bytes, at about six bytes of text per token.
pub(super) fn output_bytes(config: &GenerationConfig) -> usize {
    64 + 6 * config.max_new_tokens.or(config.max_length).unwrap_or(256)
}
