//! Helpers of the generating tasks: the settings of a step, the loaded model, the column. Not here: the decoding loop
//! (`crate::generation`), the settings that the library's own calls share ([`hfauto::pipelines`]), prompts
//! (`text_generation`, `text2text_generation`).

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{
    ArrayRef, AsArray, Int32Array, Int32Builder, StringArray, StringBuilder, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use hfauto::pipelines::{
    GeneratedText, Prompt, TextGenerator, TextOf, generation_settings, task_specific_params,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::models::ResolvedModel;
use super::{Sequence, WeightSize};
use crate::auto::ModelWithHead;
use crate::document::{Cursor, Diagnostic, Diagnostics, StringOrList, TokenIds};
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{EarlyStopping, FinishReason, GenerationConfig, PrefixCache};

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
    let config = generation_settings(snapshot, model.config(), pipeline, task_params, &given)?;
    if config.num_return_sequences > 1 {
        let sequences = config.num_return_sequences;
        let message =
            format!("`num_return_sequences: {sequences}`, but the column has one text per row");
        return Err(Error::new(ErrorKind::Unsupported, message)
            .hint("the setting is in the model's generation_config.json: set it to 1 in a copy"));
    }
    Ok(config)
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
        "encoder_no_repeat_ngram_size": config.encoder_no_repeat_ngram_size,
        "encoder_repetition_penalty": config.encoder_repetition_penalty,
        "exponential_decay_length_penalty": config.exponential_decay_length_penalty,
        "renormalize_logits": config.renormalize_logits,
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
    /// Generated tokens that nobody has asked for yet.
    pub(super) generated_tokens: AtomicU64,
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
        Ok(column(&self.generate(&prompts, &self.config, max_batch_tokens)?))
    }

    /// As [`Generator::forward`], where `start` of a sequence above 0 is one more than the token that its text begins with:
    /// the sequences with one such token are computed together.
    ///
    /// # Errors
    /// As [`Generator::forward`].
    pub(super) fn forward_by_language(
        &self,
        sequences: &[&Sequence],
        max_batch_tokens: usize,
    ) -> Result<ArrayRef> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, sequence) in sequences.iter().enumerate() {
            groups.entry(sequence.start).or_default().push(place);
        }
        let mut results: Vec<Option<GeneratedText>> = sequences.iter().map(|_| None).collect();
        for (start, places) in groups {
            let mut config = self.config.clone();
            if let Some(id) = start.checked_sub(1) {
                config.forced_bos_token_id = u32::try_from(id).ok();
            }
            let prompts: Vec<Prompt<'_>> = places
                .iter()
                .map(|place| Prompt {
                    input_ids: &sequences[*place].input_ids,
                    in_reasoning: false,
                })
                .collect();
            let texts = self.generate(&prompts, &config, max_batch_tokens)?;
            for (place, text) in places.into_iter().zip(texts) {
                results[place] = Some(text);
            }
        }
        let missing = || Error::new(ErrorKind::Internal, "a sequence was not generated");
        let results = results.into_iter().map(|text| text.ok_or_else(missing));
        Ok(column(&results.collect::<Result<Vec<_>>>()?))
    }

    fn generate(
        &self,
        prompts: &[Prompt<'_>],
        config: &GenerationConfig,
        max_batch_tokens: usize,
    ) -> Result<Vec<GeneratedText>> {
        let generator = TextGenerator {
            model: &self.model,
            tokenizer: self.resolved.tokenizer(),
            config,
            text_of: self.text_of,
            include_reasoning: self.include_reasoning,
            prefixes: &self.prefixes,
        };
        let texts = generator.generate(prompts, max_batch_tokens)?;
        let tokens: usize = texts.iter().map(|text| text.token_ids.len()).sum();
        self.generated_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        Ok(texts)
    }

    /// As [`TaskModel::take_generated_tokens`](super::TaskModel::take_generated_tokens).
    pub(super) fn take_generated_tokens(&self) -> u64 {
        self.generated_tokens.swap(0, Ordering::Relaxed)
    }

    /// The size of the loaded weights.
    pub(super) fn weights(&self) -> WeightSize {
        let report = self.model.report();
        WeightSize { parameters: report.parameters as usize, bytes: report.bytes as usize }
    }
}

/// The structs of the column.
fn column(results: &[GeneratedText]) -> ArrayRef {
    let mut rows = GeneratedRows::default();
    for result in results {
        let tokens = [result.prompt_tokens as i32, result.token_ids.len() as i32];
        rows.push(&result.text, result.finish_reason.name(), tokens);
    }
    rows.finish()
}

/// Builds the structs of the column.
#[derive(Default)]
struct GeneratedRows {
    texts: StringBuilder,
    reasons: StringBuilder,
    prompt_tokens: Int32Builder,
    generated_tokens: Int32Builder,
    valid: Vec<bool>,
}

impl GeneratedRows {
    fn push(&mut self, text: &str, reason: &str, [prompt_tokens, generated_tokens]: [i32; 2]) {
        self.texts.append_value(text);
        self.reasons.append_value(reason);
        self.prompt_tokens.append_value(prompt_tokens);
        self.generated_tokens.append_value(generated_tokens);
        self.valid.push(true);
    }

    fn push_null(&mut self) {
        self.push("", "", [0, 0]);
        if let Some(last) = self.valid.last_mut() {
            *last = false;
        }
    }

    fn finish(mut self) -> ArrayRef {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.texts.finish()),
            Arc::new(self.reasons.finish()),
            Arc::new(self.prompt_tokens.finish()),
            Arc::new(self.generated_tokens.finish()),
        ];
        let nulls = self.valid.contains(&false).then(|| NullBuffer::from(self.valid));
        Arc::new(StructArray::new(fields(), arrays, nulls))
    }
}

/// Joins the generated texts of rows that consist of several sequences.
pub(super) struct JoinedTexts<'a> {
    texts: &'a StringArray,
    reasons: &'a StringArray,
    counts: [&'a Int32Array; 2],
    rows: GeneratedRows,
}

impl<'a> JoinedTexts<'a> {
    /// `values` are the structs of all sequences.
    ///
    /// # Errors
    /// `Internal` for another type.
    pub(super) fn new(values: &'a ArrayRef) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::Internal, "generated texts of another type");
        let values = values.as_struct_opt().filter(|values| *values.fields() == fields());
        let columns = values.ok_or_else(wrong)?.columns();
        Ok(Self {
            texts: columns[0].as_string(),
            reasons: columns[1].as_string(),
            counts: [columns[2].as_primitive(), columns[3].as_primitive()],
            rows: GeneratedRows::default(),
        })
    }

    /// Adds a row of these sequences; `None` for a null. `ends_line` tells after which of them a line ends; spaces join the
    /// others.
    pub(super) fn push(&mut self, sequences: Option<Range<usize>>, ends_line: &[bool]) {
        let Some(sequences) = sequences else { return self.rows.push_null() };
        let mut text = String::new();
        for (part, sequence) in sequences.clone().enumerate() {
            if let Some(before) = part.checked_sub(1) {
                text.push(if ends_line.get(before) == Some(&true) { '\n' } else { ' ' });
            }
            text.push_str(self.texts.value(sequence));
        }
        // A row ends by its length if one of its parts does.
        let length = FinishReason::Length.name();
        let cut = sequences.clone().any(|sequence| self.reasons.value(sequence) == length);
        let reason = if cut { length } else { FinishReason::Stop.name() };
        let counts = self.counts.map(|counts| {
            sequences.clone().fold(0i32, |sum, i| sum.saturating_add(counts.value(i)))
        });
        self.rows.push(&text, reason, counts);
    }

    /// The column.
    pub(super) fn finish(self) -> ArrayRef {
        self.rows.finish()
    }
}

/// The memory of a row of the column in bytes, at about six bytes of text per token.
pub(super) fn output_bytes(config: &GenerationConfig) -> usize {
    64 + 6 * config.max_new_tokens.or(config.max_length).unwrap_or(256)
}
