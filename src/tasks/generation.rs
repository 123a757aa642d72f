//! What the tasks that generate share: settings from the model's files and the step, the model loaded as a
//! decoder, the column. Not here: the loop (`crate::generation`), prompts (`text_generation`,
//! `text2text_generation`).

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Map, Value, json};

use super::models::ResolvedModel;
use super::{Sequence, WeightSize, memory};
use crate::auto::{AutoTokenizer, DecodeOptions, EncodeOptions, ModelWithHead};
use crate::config::pipeline::{EarlyStopping, Generation};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::generation::{
    Generated, GenerationConfig, StopStrings, generate, model_defaults, pipeline_defaults,
};
use crate::models::Dimensions;

/// The text that tokens are put behind to see their own text: what it begins with may differ from what it
/// is within a text.
const BEFORE: &str = "abcdef";

/// The fields of the column.
pub(super) fn fields() -> Fields {
    Fields::from(vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("finish_reason", DataType::Utf8, false),
        Field::new("prompt_tokens", DataType::Int32, false),
        Field::new("generated_tokens", DataType::Int32, false),
    ])
}

/// What the model's files say for `tasks`: names of entries of `task_specific_params`, of which the first
/// that is there counts.
pub(super) fn task_params(model: &ResolvedModel, tasks: &[&str]) -> Map<String, Value> {
    let all = model.config().json().get("task_specific_params").and_then(Value::as_object);
    let found = all.and_then(|all| {
        tasks.iter().find_map(|task| match task.strip_suffix('*') {
            Some(start) => all.iter().find(|(name, _)| name.starts_with(start)).map(|(_, v)| v),
            None => all.get(*task),
        })
    });
    found.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The settings of a step: its options, then the model's `task_specific_params` and
/// `generation_config.json`, then the defaults of transformers' pipeline.
///
/// # Errors
/// As [`GenerationConfig::new`].
pub(super) fn settings(
    model: &ResolvedModel,
    pipeline: &Value,
    task_params: &Map<String, Value>,
    options: &Generation,
) -> Result<GenerationConfig> {
    let snapshot = &model.sentence_transformer().transformer;
    let file = snapshot.json("generation_config.json")?;
    let file = file.as_ref().and_then(Value::as_object);
    let model_settings = model_defaults(file, model.config().json());
    let none = Map::new();
    let pipeline = pipeline.as_object().unwrap_or(&none);
    let mut settings = pipeline_defaults(pipeline, &model_settings);
    settings.extend(task_params.clone());
    let given = given(options);
    let config = GenerationConfig::new(&settings, &given)?;
    config.check_lengths(model.config().dimensions().max_position_embeddings, &given)?;
    check_beams(&config, model.config().dimensions(), &given)?;
    Ok(config)
}

/// Refuses beams whose KV cache does not fit in the available memory.
fn check_beams(
    config: &GenerationConfig,
    dimensions: &Dimensions,
    given: &Map<String, Value>,
) -> Result<()> {
    let Some(available) = memory::available_bytes().filter(|_| config.num_beams > 1) else {
        return Ok(());
    };
    let positions = dimensions.max_position_embeddings.unwrap_or(usize::MAX);
    let tokens = config.max_new_tokens.or(config.max_length).unwrap_or(1).min(positions);
    let a_token = dimensions.num_hidden_layers.saturating_mul(dimensions.hidden_size * 8);
    let needed = config.num_beams.saturating_mul(tokens).saturating_mul(a_token);
    if needed <= available {
        return Ok(());
    }
    let kind = if given.contains_key("num_beams") { ErrorKind::Config } else { ErrorKind::Model };
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Err(Error::new(
        kind,
        format!(
            "`num_beams: {}` of {tokens} tokens take {:.1} GiB, but {:.1} GiB of memory are left",
            config.num_beams,
            gib(needed),
            gib(available)
        ),
    )
    .hint("set fewer `num_beams` or `max_new_tokens`"))
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

/// How the tokens of a row become its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextOf {
    /// The text of prompt and continuation, without as many characters as the prompt's text has.
    Continuation,
    /// The text of the generated tokens.
    Generated,
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
    /// As [`generate`].
    pub(super) fn forward(
        &self,
        sequences: &[&Sequence],
        max_batch_tokens: usize,
    ) -> Result<ArrayRef> {
        let tokenizer = self.resolved.tokenizer();
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let before = tokenizer.encode(BEFORE, &options)?.input_ids;
        let token_text = |id: u32| token_text(tokenizer, &before, id);
        let stop = StopStrings::new(&self.config.stop_strings, &token_text);
        let stop = (!self.config.stop_strings.is_empty()).then_some(&stop);
        let prompts: Vec<&[u32]> = sequences.iter().map(|s| s.input_ids.as_slice()).collect();
        let decoder = self.model.decoder()?;
        let results = generate(&*decoder, &prompts, &self.config, max_batch_tokens, stop)?;

        let (mut texts, mut reasons) = (StringBuilder::new(), StringBuilder::new());
        let (mut prompt_tokens, mut tokens) = (Int32Builder::new(), Int32Builder::new());
        for (prompt, result) in prompts.iter().zip(&results) {
            texts.append_value(self.text(prompt, result)?);
            reasons.append_value(result.finish_reason.name());
            prompt_tokens.append_value(prompt.len() as i32);
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

    fn text(&self, prompt: &[u32], result: &Generated) -> Result<String> {
        let tokenizer = self.resolved.tokenizer();
        let decode = |ids: &[u32], tidy| {
            let options = DecodeOptions {
                skip_special_tokens: true,
                clean_up_tokenization_spaces: Some(tidy),
            };
            tokenizer.decode_with(ids, &options)
        };
        match self.text_of {
            TextOf::Generated => {
                // The token that the decoder begins with is part of the text, unless it is a special one.
                let start = self.config.decoder_start_token_id.or(self.config.bos_token_id);
                let ids: Vec<u32> = start.into_iter().chain(result.token_ids.clone()).collect();
                Ok(decode(&ids, false)?)
            }
            TextOf::Continuation => {
                let start = match (prompt, self.config.bos_token_id) {
                    ([], Some(bos)) => vec![bos],
                    _ => prompt.to_vec(),
                };
                let prompt_chars = decode(prompt, true)?.chars().count();
                let whole = decode(&[start, result.token_ids.clone()].concat(), true)?;
                Ok(whole.chars().skip(prompt_chars).collect())
            }
        }
    }

    /// The size of the loaded weights.
    pub(super) fn weights(&self) -> WeightSize {
        let report = self.model.report();
        WeightSize { parameters: report.parameters as usize, bytes: report.bytes as usize }
    }
}

/// The text of a token within a text.
fn token_text(tokenizer: &AutoTokenizer, before: &[u32], id: u32) -> String {
    let ids = before.iter().chain([&id]);
    let tokens = ids.filter_map(|id| tokenizer.id_to_token(*id)).collect();
    let text = tokenizer.convert_tokens_to_string(tokens).unwrap_or_default();
    let start = text.find(BEFORE).map_or(text.len(), |at| at + BEFORE.len());
    text[start..].to_owned()
}

/// Bytes that a row of the column takes: a token is some six bytes of text.
pub(super) fn output_bytes(config: &GenerationConfig) -> usize {
    64 + 6 * config.max_new_tokens.or(config.max_length).unwrap_or(256)
}

/// The error for a prompt that is too long for anything to come after it.
pub(super) fn no_room(tokens: usize, total: usize) -> Error {
    let message =
        format!("prompt of {tokens} tokens leaves no room to generate: {total} may be in all");
    Error::of_row(RowErrorKind::NoRoom, message)
        .hint("set `truncation: true` to keep the end of longer prompts")
}
