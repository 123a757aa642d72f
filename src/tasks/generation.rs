//! What the tasks that generate share: the settings of a step, the model loaded as a decoder, the column. Not here: the
//! loop (`crate::generation`), what the library's own calls share with them ([`hfauto::pipelines`]), prompts
//! (`text_generation`, `text2text_generation`).

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use hfauto::pipelines::{TextGenerator, TextOf, generation_settings, task_specific_params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::models::ResolvedModel;
use super::{Sequence, WeightSize};
use crate::auto::ModelWithHead;
use crate::document::{Cursor, Diagnostic, Diagnostics, StringOrList, TokenIds};
use crate::error::Result;
use crate::generation::{EarlyStopping, GenerationConfig};

/// The options of every task that generates, under transformers' names.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct GenerationOptions {
    /// Tokens to generate at most. Default: by the model's generation_config.json, else 256.
    pub max_new_tokens: Option<NonZeroU64>,
    /// Tokens to generate at least.
    pub min_new_tokens: Option<u64>,
    /// Whether tokens are drawn at random. Default: by the model's
    /// generation_config.json, else false.
    pub do_sample: Option<bool>,
    /// How random: below 1 less, above 1 more.
    #[schemars(range(min = 0))]
    pub temperature: Option<f64>,
    /// Draw from the so many best tokens; 0 is no bound.
    pub top_k: Option<u64>,
    /// Draw from the best tokens that have this probability together.
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f64>,
    /// Draw from the tokens that have this share of the best one's probability.
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f64>,
    /// Above 1, tokens that were there before become less likely.
    #[schemars(range(min = 0))]
    pub repetition_penalty: Option<f64>,
    /// No run of so many tokens comes twice; 0 is no bound.
    pub no_repeat_ngram_size: Option<u64>,
    /// Beams of the search; 1 is none.
    pub num_beams: Option<NonZeroU64>,
    /// Above 0, longer beams are better; below 0, shorter ones. Default: 1.
    pub length_penalty: Option<f64>,
    /// When a beam search ends: `true` as soon as there are enough finished beams, `false`
    /// when no better one is likely, `never` when there can be none.
    pub early_stopping: Option<EarlyStopping>,
    /// Tokens that end a generation: an id or a list of them. Default: by the model's
    /// generation_config.json.
    pub eos_token_id: Option<TokenIds>,
    /// Strings that end a generation.
    #[serde(rename(serialize = "stop_strings"))]
    pub stop: Option<StringOrList>,
    /// Where random numbers start from. A row's numbers depend on this and on its prompt.
    pub seed: Option<u64>,
}

impl GenerationOptions {
    /// Reports options that contradict each other or that their type does not bound.
    pub(crate) fn check(&self, at: Cursor<'_>, report: &mut Diagnostics) {
        if self.do_sample == Some(true) && self.num_beams.is_some_and(|beams| beams.get() > 1) {
            report.push(
                Diagnostic::new(at.key("num_beams").key, "a beam search draws no tokens at random")
                    .related(at.key("do_sample").key, "asks for random tokens")
                    .hint("remove `do_sample` or `num_beams`"),
            );
        }
        if let (Some(min), Some(max)) = (self.min_new_tokens, self.max_new_tokens)
            && min > max.get()
        {
            let message = format!("`min_new_tokens: {min}` is more than `max_new_tokens: {max}`");
            report.push(
                Diagnostic::new(at.key("min_new_tokens").value, message)
                    .related(at.key("max_new_tokens").value, "at most so many"),
            );
        }
        for (key, value) in
            [("temperature", self.temperature), ("repetition_penalty", self.repetition_penalty)]
        {
            if value.is_some_and(|value| value <= 0.0) {
                let message = format!("`{key}` is not more than 0");
                let problem = Diagnostic::new(at.key(key).value, message);
                report.push(if key == "temperature" {
                    problem.hint("write `do_sample: false` for the best token each time")
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
                let message = format!("`{key}` is for random tokens, but `do_sample` is false");
                report.push(
                    Diagnostic::new(at.key(key).key, message)
                        .related(at.key("do_sample").value, "no random tokens"),
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

/// What the model's files say for `tasks`, as [`task_specific_params`] does.
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

/// The options that the step gives, under transformers' names.
fn given(options: &GenerationOptions) -> Map<String, Value> {
    let Ok(Value::Object(mut given)) = serde_json::to_value(options) else { return Map::new() };
    given.retain(|_, value| !value.is_null());
    given.entry("seed").or_insert_with(|| 0.into());
    given
}

/// What lineage says of the settings: all that change what is generated.
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
}

impl Generator {
    /// Generates for each prompt; the column's structs.
    ///
    /// # Errors
    /// As [`TextGenerator::generate`].
    pub(super) fn forward(
        &self,
        sequences: &[&Sequence],
        max_batch_tokens: usize,
    ) -> Result<ArrayRef> {
        let prompts: Vec<&[u32]> = sequences.iter().map(|s| s.input_ids.as_slice()).collect();
        let generator = TextGenerator {
            model: &self.model,
            tokenizer: self.resolved.tokenizer(),
            config: &self.config,
            text_of: self.text_of,
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

/// Bytes that a row of the column takes: a token is some six bytes of text.
pub(super) fn output_bytes(config: &GenerationConfig) -> usize {
    64 + 6 * config.max_new_tokens.or(config.max_length).unwrap_or(256)
}
