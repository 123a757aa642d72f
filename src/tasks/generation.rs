//! What the tasks that generate share: the settings of a step, the model loaded as a decoder, the column. Not here: the
//! loop (`crate::generation`), what the library's own calls share with them ([`hfauto::pipelines`]), prompts
//! (`text_generation`, `text2text_generation`).

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use hfauto::pipelines::{TextGenerator, TextOf, generation_settings, task_specific_params};
use serde_json::{Map, Value, json};

use super::models::ResolvedModel;
use super::{Sequence, WeightSize};
use crate::auto::ModelWithHead;
use crate::config::pipeline::{EarlyStopping, Generation};
use crate::error::Result;
use crate::generation::GenerationConfig;

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
    options: &Generation,
) -> Result<GenerationConfig> {
    let snapshot = &model.sentence_transformer().transformer;
    let none = Map::new();
    let pipeline = pipeline.as_object().unwrap_or(&none);
    let given = given(options);
    Ok(generation_settings(snapshot, model.config(), pipeline, task_params, &given)?)
}

/// The options that the step gives, under transformers' names.
fn given(options: &Generation) -> Map<String, Value> {
    let early_stopping = options.early_stopping.map(|early_stopping| match early_stopping {
        EarlyStopping::True => json!(true),
        EarlyStopping::False => json!(false),
        EarlyStopping::Never => json!("never"),
    });
    let given = json!({
        "max_new_tokens": options.max_new_tokens,
        "min_new_tokens": options.min_new_tokens,
        "do_sample": options.do_sample,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
        "num_beams": options.num_beams,
        "length_penalty": options.length_penalty,
        "early_stopping": early_stopping,
        "eos_token_id": options.eos_token_id,
        "stop_strings": (!options.stop.is_empty()).then_some(&options.stop),
        "seed": options.seed,
    });
    let Value::Object(mut given) = given else { return Map::new() };
    given.retain(|_, value| !value.is_null());
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
