//! The settings of `generate()`, from a model's files and from a step's options.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// transformers' default for `max_length`.
const DEFAULT_MAX_LENGTH: usize = 20;

/// Settings that would change the generated text and are not implemented, with the values that turn them off. `null`
/// also turns them off.
///
/// Settings without effect on the text are not listed: memory usage (`low_memory`, `cache_implementation`), speculative
/// decoding (`prompt_lookup_num_tokens`, `assistant_early_exit`), additional outputs (`output_scores`), and replacement
/// of NaN and infinite logits (`remove_invalid_values`; here these are an error).
const NOT_IMPLEMENTED: [(&str, &[f64]); 16] = [
    ("constraints", &[]),
    ("diversity_penalty", &[0.0]),
    ("dola_layers", &[]),
    ("epsilon_cutoff", &[0.0, 1.0]),
    ("eta_cutoff", &[0.0, 1.0]),
    ("force_words_ids", &[]),
    ("guidance_scale", &[1.0]),
    ("max_time", &[]),
    ("num_beam_groups", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("sequence_bias", &[]),
    ("token_healing", &[]),
    ("top_h", &[]),
    ("typical_p", &[1.0]),
    ("watermarking_config", &[]),
    ("watermarking", &[]),
];

/// The settings read from a model's `config.json` when it has no `generation_config.json`, in addition to
/// [`NOT_IMPLEMENTED`].
const IMPLEMENTED: [&str; 32] = [
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "pad_token_id",
    "renormalize_logits",
    "repetition_penalty",
    "seed",
    "stop_strings",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "use_cache",
    "cache_implementation",
];

/// When a beam search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When no running beam is likely to improve (`false`).
    Heuristic,
    /// When `num_beams` beams have finished (`true`).
    Full,
    /// When no running beam can improve (`"never"`).
    Never,
}

impl EarlyStopping {
    /// The value of `early_stopping` in `generation_config.json`.
    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(false) => Some(Self::Heuristic),
            Value::Bool(true) => Some(Self::Full),
            Value::String(word) if word == "never" => Some(Self::Never),
            _ => None,
        }
    }
}

/// What `early_stopping` may be, for errors.
const EARLY_STOPPING: &str = "true, false or \"never\"";

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value)
            .ok_or_else(|| D::Error::custom(format!("expected {EARLY_STOPPING}")))
    }
}

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Heuristic => serializer.serialize_bool(false),
            Self::Full => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for EarlyStopping {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EarlyStopping".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "When a beam search ends.",
            "anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["never"]}],
        })
    }
}

/// The settings of a generation; names and defaults are those of transformers' `GenerationConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// The maximum number of new tokens, without the prompt. Takes precedence over `max_length`.
    pub max_new_tokens: Option<usize>,
    /// The maximum number of tokens, including a decoder's prompt; `None` for the prompt plus 20.
    pub max_length: Option<usize>,
    /// The minimum number of new tokens, without the prompt. Takes precedence over `min_length`.
    pub min_new_tokens: Option<usize>,
    /// The minimum number of tokens, including a decoder's prompt.
    pub min_length: usize,
    /// Samples tokens; otherwise decoding is greedy or a beam search.
    pub do_sample: bool,
    /// Divides logits before sampling; `None` for 1.
    pub temperature: Option<f32>,
    /// Samples from the `top_k` most likely tokens; `None` for all.
    pub top_k: Option<usize>,
    /// Samples from the smallest set of most likely tokens whose probabilities add up to `top_p`; `None` for 1.
    pub top_p: Option<f64>,
    /// Samples from tokens at least this fraction as likely as the most likely one.
    pub min_p: Option<f64>,
    /// Divides positive scores of tokens that already occur, and multiplies negative ones.
    pub repetition_penalty: f32,
    /// Each n-gram of this size occurs at most once; 0 for no limit.
    pub no_repeat_ngram_size: usize,
    /// As `no_repeat_ngram_size`, for the n-grams of the encoder's input, or of a decoder's prompt.
    pub encoder_no_repeat_ngram_size: usize,
    /// Multiplies positive scores of tokens in the encoder's input, or in a decoder's prompt, and divides negative ones.
    pub encoder_repetition_penalty: f64,
    /// After this number of generated tokens, the scores of end tokens grow by this factor with each token.
    pub exponential_decay_length_penalty: Option<(usize, f64)>,
    /// Normalizes the scores of a step again after all other settings have changed them; matters only between beams.
    pub renormalize_logits: bool,
    /// The number of beams; 1 for no beam search.
    pub num_beams: usize,
    /// The number of sequences for each prompt: the best beams, or independent samples.
    pub num_return_sequences: usize,
    /// The exponent of the sequence length that divides a beam's score.
    pub length_penalty: f64,
    /// When a beam search ends.
    pub early_stopping: EarlyStopping,
    /// Tokens that end a sequence.
    pub eos_token_id: Vec<u32>,
    /// The first token of a decoder with an empty prompt.
    pub bos_token_id: Option<u32>,
    /// The token that pads batches in transformers; never generated here.
    pub pad_token_id: Option<u32>,
    /// The first token of a decoder after an encoder.
    pub decoder_start_token_id: Option<u32>,
    /// The forced first token, whatever its score.
    pub forced_bos_token_id: Option<u32>,
    /// The forced last token, at the maximum length.
    pub forced_eos_token_id: Vec<u32>,
    /// Token sequences that must not occur.
    pub bad_words_ids: Vec<Vec<u32>>,
    /// Tokens that must not occur.
    pub suppress_tokens: Vec<u32>,
    /// Tokens that must not come first.
    pub begin_suppress_tokens: Vec<u32>,
    /// Texts that end a sequence.
    pub stop_strings: Vec<String>,
    /// The seed of the random numbers; not a setting of transformers.
    pub seed: u64,
}

/// The settings in a model's files: those of `generation_config.json`, or without one, those in
/// `config.json`, with `special_token_ids` where it has none.
pub fn model_defaults(
    generation_config: Option<&Map<String, Value>>,
    config: &Map<String, Value>,
    special_token_ids: &[(&str, u32)],
) -> Map<String, Value> {
    if let Some(generation_config) = generation_config {
        return generation_config.clone();
    }
    let tokens = special_token_ids.iter().map(|(key, id)| ((*key).to_owned(), Value::from(*id)));
    let mut settings: Map<String, Value> = tokens.collect();
    let refused = NOT_IMPLEMENTED.iter().map(|(key, _)| *key);
    for key in IMPLEMENTED.into_iter().chain(refused) {
        if let Some(value) = config.get(key) {
            settings.insert(key.to_owned(), value.clone());
        }
    }
    settings
}

/// The settings of a transformers pipeline: its own defaults where the model sets nothing, except that a model's
/// `max_length` replaces the default `max_new_tokens`.
///
/// This follows the comments in the pipeline's source. At v4.57, the pipeline's own defaults take precedence instead.
pub fn pipeline_defaults(
    pipeline: &Map<String, Value>,
    model: &Map<String, Value>,
) -> Map<String, Value> {
    let mut settings = pipeline.clone();
    let limit = model.get("max_length").and_then(Value::as_u64);
    if limit.is_some_and(|limit| limit != DEFAULT_MAX_LENGTH as u64) {
        settings.shift_remove("max_new_tokens");
    }
    settings.extend(model.clone());
    settings
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: None,
            max_length: None,
            min_new_tokens: None,
            min_length: 0,
            do_sample: false,
            temperature: None,
            top_k: Some(50),
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            encoder_no_repeat_ngram_size: 0,
            encoder_repetition_penalty: 1.0,
            exponential_decay_length_penalty: None,
            renormalize_logits: false,
            num_beams: 1,
            num_return_sequences: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            eos_token_id: Vec::new(),
            bos_token_id: None,
            pad_token_id: None,
            decoder_start_token_id: None,
            forced_bos_token_id: None,
            forced_eos_token_id: Vec::new(),
            bad_words_ids: Vec::new(),
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            stop_strings: Vec::new(),
            seed: 0,
        }
    }
}

impl GenerationConfig {
    /// Merges a model's settings with `options`, which take precedence.
    ///
    /// # Errors
    /// `Config` for an option and `Model` for a model's setting with a wrong type or an impossible value; `Unsupported`
    /// for an active setting that is not implemented.
    pub fn new(model: &Map<String, Value>, options: &Map<String, Value>) -> Result<Self> {
        let settings = Settings { model, options };
        let do_sample = settings.flag("do_sample")?.unwrap_or(false);
        let num_beams = settings.at_most("num_beams", 1, limits::GENERATION_BEAMS)?.unwrap_or(1);
        for (key, off) in NOT_IMPLEMENTED {
            let is_unused = match key {
                // Logits warpers; only sampling uses them.
                "epsilon_cutoff" | "eta_cutoff" | "top_h" | "typical_p" => !do_sample,
                // Contrastive search uses neither beams nor sampling.
                "penalty_alpha" => do_sample || num_beams > 1,
                _ => false,
            };
            if !is_unused {
                settings.off(key, off)?;
            }
        }
        let default = Self::default();
        let number_or = |key, default, range: fn(f64) -> bool, expected| {
            Ok::<_, Error>(settings.number(key, range, expected)?.unwrap_or(default))
        };
        let config = Self {
            max_new_tokens: settings.tokens("max_new_tokens", 1)?,
            max_length: match (
                settings.options.get("max_length"),
                settings.tokens("max_length", 1)?,
            ) {
                // transformers' default in a model's file does not limit the length.
                (None | Some(Value::Null), Some(DEFAULT_MAX_LENGTH)) => None,
                (_, max_length) => max_length,
            },
            min_new_tokens: settings.tokens("min_new_tokens", 0)?,
            min_length: settings.tokens("min_length", 0)?.unwrap_or(0),
            do_sample,
            temperature: settings
                .number("temperature", |n| n >= 0.0, "a number above 0")?
                .map(|n| n as f32),
            top_k: match settings.get("top_k") {
                None => default.top_k,
                Some(_) => settings.count("top_k", 0)?.filter(|k| *k > 0),
            },
            top_p: settings.number("top_p", |n| (0.0..=1.0).contains(&n), "from 0 to 1")?,
            min_p: settings.number("min_p", |n| (0.0..=1.0).contains(&n), "from 0 to 1")?,
            repetition_penalty: number_or(
                "repetition_penalty",
                1.0,
                |n| n > 0.0,
                "a number above 0",
            )? as f32,
            no_repeat_ngram_size: settings.count("no_repeat_ngram_size", 0)?.unwrap_or(0),
            encoder_no_repeat_ngram_size: settings
                .count("encoder_no_repeat_ngram_size", 0)?
                .unwrap_or(0),
            encoder_repetition_penalty: number_or(
                "encoder_repetition_penalty",
                1.0,
                |n| n > 0.0,
                "a number above 0",
            )?,
            exponential_decay_length_penalty: settings.decay()?,
            renormalize_logits: settings.flag("renormalize_logits")?.unwrap_or(false),
            num_beams,
            num_return_sequences: settings
                .at_most("num_return_sequences", 1, limits::GENERATION_BEAMS)?
                .unwrap_or(1),
            length_penalty: number_or("length_penalty", 1.0, |_| true, "a number")?,
            early_stopping: match settings.get("early_stopping") {
                None | Some(Value::Null) => EarlyStopping::Heuristic,
                Some(value) => EarlyStopping::from_json(value)
                    .ok_or_else(|| settings.wrong("early_stopping", EARLY_STOPPING))?,
            },
            eos_token_id: settings.ids("eos_token_id")?,
            bos_token_id: settings.id("bos_token_id")?,
            pad_token_id: settings.id("pad_token_id")?,
            decoder_start_token_id: settings.id("decoder_start_token_id")?,
            forced_bos_token_id: settings.id("forced_bos_token_id")?,
            forced_eos_token_id: settings.ids("forced_eos_token_id")?,
            bad_words_ids: settings.parsed("bad_words_ids", "a list of lists of token ids")?,
            suppress_tokens: settings.ids("suppress_tokens")?,
            begin_suppress_tokens: settings.ids("begin_suppress_tokens")?,
            stop_strings: match settings.get("stop_strings") {
                Some(Value::String(text)) => vec![text.clone()],
                _ => settings.parsed("stop_strings", "a list of texts")?,
            },
            seed: settings.parsed("seed", "a whole number of at least 0")?,
        };
        config.check(&settings)?;
        Ok(config)
    }

    /// Rejects settings that conflict, and lists that are too long.
    fn check(&self, settings: &Settings<'_>) -> Result<()> {
        if self.do_sample && self.temperature == Some(0.0) {
            return Err(settings
                .wrong("temperature", "a number above 0")
                .hint("for greedy decoding, set `do_sample: false`"));
        }
        if self.do_sample && self.num_beams > 1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "`do_sample: true` with `num_beams: {}` is not implemented",
                    self.num_beams
                ),
            )
            .hint("set `do_sample: false` for beam search, or `num_beams: 1` for sampling"));
        }
        if !self.do_sample && self.num_return_sequences > self.num_beams {
            let expected = format!("at most `num_beams: {}` without sampling", self.num_beams);
            return Err(settings.wrong("num_return_sequences", &expected));
        }
        for (key, found) in [
            ("eos_token_id", self.eos_token_id.len()),
            ("forced_eos_token_id", self.forced_eos_token_id.len()),
            ("stop_strings", self.stop_strings.len()),
            ("bad_words_ids", self.bad_words_ids.iter().map(Vec::len).sum::<usize>() / 16),
        ] {
            settings.is_short(key, found)?;
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(settings.wrong("stop_strings", "texts that are not empty"));
        }
        Ok(())
    }

    /// The maximum number of tokens for a decoder's prompt of `prompt` tokens, including the prompt. The model's
    /// position embeddings also limit it.
    pub fn max_total_tokens(&self, prompt: usize, max_position_embeddings: Option<usize>) -> usize {
        let wanted = match (self.max_new_tokens, self.max_length) {
            (Some(new), _) => prompt.saturating_add(new),
            (None, Some(total)) => total,
            (None, None) => prompt + DEFAULT_MAX_LENGTH,
        };
        wanted.min(max_position_embeddings.unwrap_or(usize::MAX))
    }

    /// Rejects excessive lengths for models without position embeddings, whose sequences may grow to the length limit.
    /// `given` are the options, which override a model's files.
    ///
    /// # Errors
    /// `Config` for an option and `Model` for a model's setting.
    pub fn check_lengths(
        &self,
        max_position_embeddings: Option<usize>,
        given: &Map<String, Value>,
    ) -> Result<()> {
        let most = limits::GENERATION_TOKENS_WITHOUT_POSITIONS;
        let (key, wanted) = match (self.max_new_tokens, self.max_length) {
            (Some(new), _) => ("max_new_tokens", new),
            (None, Some(total)) => ("max_length", total),
            (None, None) => return Ok(()),
        };
        if max_position_embeddings.is_some() || wanted <= most {
            return Ok(());
        }
        let (kind, place) = if given.get(key).is_some_and(|option| !option.is_null()) {
            (ErrorKind::Config, "")
        } else {
            (ErrorKind::Model, " in the model's generation settings")
        };
        Err(Error::new(
            kind,
            format!(
                "`{key}`{place} is `{wanted}`, not at most {most}, for a model without positions"
            ),
        )
        .hint("set `max_new_tokens` to what the texts need"))
    }

    /// The minimum number of tokens for a decoder's prompt of `prompt` tokens, including the prompt.
    pub(super) fn min_total_tokens(&self, prompt: usize) -> usize {
        match self.min_new_tokens {
            Some(new) => prompt.saturating_add(new),
            None => self.min_length,
        }
    }
}

/// Two layers of settings; options take precedence.
struct Settings<'a> {
    model: &'a Map<String, Value>,
    options: &'a Map<String, Value>,
}

impl<'a> Settings<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        // A null option counts as unset. A null setting of the model counts as set to nothing.
        self.options.get(key).filter(|value| !value.is_null()).or_else(|| self.model.get(key))
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let value = self.get(key).unwrap_or(&Value::Null);
        if self.options.get(key).is_some_and(|option| !option.is_null()) {
            Error::new(ErrorKind::Config, format!("`{key}` is `{value}`, not {expected}"))
        } else {
            Error::new(
                ErrorKind::Model,
                format!("`{key}` in the model's generation settings is `{value}`, not {expected}"),
            )
        }
    }

    /// Rejects a setting that is on.
    fn off(&self, key: &str, off: &[f64]) -> Result<()> {
        let is_off = match self.value(key) {
            None | Some(Value::Bool(false)) => true,
            Some(Value::Number(number)) => number.as_f64().is_some_and(|n| off.contains(&n)),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if is_off {
            return Ok(());
        }
        let value = self.get(key).unwrap_or(&Value::Null);
        Err(Error::new(ErrorKind::Unsupported, format!("`{key}: {value}` is not implemented"))
            .hint("the setting is in the model's generation_config.json or config.json"))
    }

    fn count(&self, key: &str, least: u64) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value
            .as_u64()
            .filter(|count| *count >= least)
            .and_then(|count| usize::try_from(count).ok())
            .map(Some)
            .ok_or_else(|| self.wrong(key, &format!("a whole number of at least {least}")))
    }

    /// A number of tokens.
    fn tokens(&self, key: &str, least: u64) -> Result<Option<usize>> {
        self.at_most(key, least, limits::GENERATION_TOKENS)
    }

    /// A count that scales memory or time.
    fn at_most(&self, key: &str, least: u64, most: usize) -> Result<Option<usize>> {
        let count = self.count(key, least)?;
        if count.is_some_and(|count| count > most) {
            return Err(self.wrong(key, &format!("at most {most}")));
        }
        Ok(count)
    }

    /// Checks the length of a list that is compared with every new token.
    fn is_short(&self, key: &str, found: usize) -> Result<()> {
        let most = limits::GENERATION_LIST;
        if found <= most {
            return Ok(());
        }
        let given = self.options.get(key).is_some_and(|option| !option.is_null());
        let kind = if given { ErrorKind::Config } else { ErrorKind::Model };
        Err(Error::new(
            kind,
            format!("`{key}` has {found} entries or more, expected at most {most}"),
        ))
    }

    fn number(
        &self,
        key: &str,
        range: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value
            .as_f64()
            .filter(|number| range(*number))
            .map(Some)
            .ok_or_else(|| self.wrong(key, expected))
    }

    /// `exponential_decay_length_penalty`: a number of tokens and a factor.
    fn decay(&self) -> Result<Option<(usize, f64)>> {
        const KEY: &str = "exponential_decay_length_penalty";
        let Some(value) = self.value(KEY) else { return Ok(None) };
        let pair = match value.as_array().map(Vec::as_slice) {
            Some([start, factor]) => start.as_u64().zip(factor.as_f64()),
            _ => None,
        };
        let pair = pair.and_then(|(start, factor)| Some((usize::try_from(start).ok()?, factor)));
        let pair = pair.filter(|(_, factor)| *factor > 0.0);
        pair.map(Some).ok_or_else(|| self.wrong(KEY, "a number of tokens and a factor above 0"))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.ids(key)?.first().copied())
    }

    /// One token id or a list of them; negative ids are ignored.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let ids: Option<Vec<i64>> = list.iter().map(Value::as_i64).collect();
        let ids = ids.ok_or_else(|| self.wrong(key, "a token id or a list of them"))?;
        Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
    }

    fn parsed<T: serde::de::DeserializeOwned + Default>(
        &self,
        key: &str,
        expected: &str,
    ) -> Result<T> {
        let Some(value) = self.value(key) else { return Ok(T::default()) };
        serde_json::from_value(value.clone()).map_err(|_| self.wrong(key, expected))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn config(model: Value, options: Value) -> Result<GenerationConfig> {
        GenerationConfig::new(&map(model), &map(options))
    }

    #[test]
    fn options_come_before_the_model_and_the_model_before_the_defaults() {
        let model = json!({"temperature": 0.6, "top_k": 20, "eos_token_id": [1, 2], "top_p": null,
            "transformers_version": "4.57.6", "seed": 3});
        let ours = config(model, json!({"top_k": 5, "do_sample": true, "temperature": null}));
        let ours = ours.unwrap();
        assert_eq!((ours.temperature, ours.top_k, ours.top_p), (Some(0.6), Some(5), None));
        assert_eq!((&ours.eos_token_id[..], ours.seed), (&[1, 2][..], 3));
        assert_eq!(config(json!({}), json!({})).unwrap(), GenerationConfig::default());
        assert_eq!(config(json!({"top_k": null}), json!({})).unwrap().top_k, None);
        assert!(config(json!({"eos_token_id": -1}), json!({})).unwrap().eos_token_id.is_empty());
        let never = config(json!({"early_stopping": "never"}), json!({})).unwrap();
        assert_eq!(never.early_stopping, EarlyStopping::Never);
        let one = config(json!({}), json!({"stop_strings": "x"})).unwrap();
        assert_eq!(one.stop_strings, ["x"]);
    }

    #[test]
    fn counts_that_take_all_memory_are_refused_with_their_key() {
        for (key, value) in [
            ("num_beams", json!(1_000_000_000)),
            ("num_beams", json!(1_u64 << 63)),
            ("max_new_tokens", json!(1_u64 << 40)),
            ("max_length", json!(u64::MAX)),
            ("eos_token_id", json!(vec![1; 100_000])),
        ] {
            let setting = json!({ key: value });
            let error = config(setting.clone(), json!({})).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Model, "{error}");
            assert!(error.message().contains(&format!("`{key}`")), "{error}");
            let error = config(json!({}), setting).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        }
        let long = config(json!({"max_length": 1_000_000}), json!({})).unwrap();
        assert!(long.check_lengths(Some(512), &Map::new()).is_ok());
        let error = long.check_lengths(None, &Map::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        let error = long.check_lengths(None, &map(json!({"max_length": 1}))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn lengths_are_counted_as_transformers_counts_them() {
        let total = |model: Value, options: Value| {
            config(model, options).unwrap().max_total_tokens(7, Some(100))
        };
        assert_eq!(total(json!({}), json!({})), 27);
        assert_eq!(total(json!({"max_length": 20}), json!({})), 27);
        assert_eq!(total(json!({"max_length": 50}), json!({})), 50);
        assert_eq!(total(json!({}), json!({"max_length": 20})), 20);
        assert_eq!(total(json!({"max_length": 50}), json!({"max_new_tokens": 3})), 10);
        assert_eq!(total(json!({}), json!({"max_new_tokens": 300})), 100);
        let least = |model: Value| config(model, json!({})).unwrap().min_total_tokens(7);
        assert_eq!(least(json!({"min_length": 9})), 9);
        assert_eq!(least(json!({"min_length": 9, "min_new_tokens": 4})), 11);
    }

    #[test]
    fn unimplemented_or_invalid_settings_are_refused_by_name() {
        let refused = |model: Value, options: Value| {
            let error = config(model, options).unwrap_err();
            (error.kind(), error.to_string())
        };
        let sampling = json!({"do_sample": true});
        let (kind, text) = refused(json!({"typical_p": 0.9}), sampling.clone());
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(text.starts_with("`typical_p: 0.9` is not implemented"), "{text}");
        assert!(config(json!({"typical_p": 1.0}), sampling.clone()).is_ok());
        for (model, options) in [
            (json!({"typical_p": 0.9, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1}), json!({})),
            (json!({"penalty_alpha": 0.6, "top_k": 4}), sampling),
            (json!({"low_memory": true, "remove_invalid_values": true}), json!({"num_beams": 2})),
            (json!({"prompt_lookup_num_tokens": 3, "assistant_early_exit": 2}), json!({})),
            (json!({"cache_implementation": "static", "output_scores": true}), json!({})),
        ] {
            assert!(config(model.clone(), options).is_ok(), "{model}");
        }
        for (model, options) in [
            (json!({"penalty_alpha": 0.6}), json!({})),
            (json!({"sequence_bias": [[[1], 2.0]]}), json!({"num_beams": 2})),
            (json!({"max_time": 3.0}), json!({})),
        ] {
            assert_eq!(refused(model.clone(), options).0, ErrorKind::Unsupported, "{model}");
        }
        let (_, text) = refused(json!({"num_beam_groups": 2}), json!({}));
        assert!(text.contains("num_beam_groups"), "{text}");
        let (_, text) = refused(json!({}), json!({"do_sample": true, "num_beams": 4}));
        assert!(text.contains("`num_beams: 4`") && text.contains("hint"), "{text}");
        let (kind, text) = refused(json!({}), json!({"do_sample": true, "temperature": 0.0}));
        assert_eq!(kind, ErrorKind::Config);
        assert!(text.contains("do_sample: false"), "{text}");
        let (kind, text) = refused(json!({"top_p": 1.5}), json!({}));
        assert_eq!(kind, ErrorKind::Model);
        assert!(text.contains("`top_p` in the model's generation settings is `1.5`"), "{text}");
        let (_, text) = refused(json!({}), json!({"num_beams": 0}));
        assert_eq!(text, "`num_beams` is `0`, not a whole number of at least 1");
        assert!(config(json!({}), json!({"stop_strings": [""]})).is_err());
        let (kind, text) = refused(json!({"num_beams": 2}), json!({"num_return_sequences": 3}));
        assert_eq!(kind, ErrorKind::Config);
        assert_eq!(
            text,
            "`num_return_sequences` is `3`, not at most `num_beams: 2` without sampling"
        );
        for value in [json!(3), json!([3]), json!([-1, 1.5]), json!([3, 0])] {
            let (kind, text) =
                refused(json!({"exponential_decay_length_penalty": value}), json!({}));
            assert_eq!(kind, ErrorKind::Model);
            assert!(text.contains("a number of tokens and a factor"), "{text}");
        }
    }

    #[test]
    fn a_models_own_settings_come_from_its_files() {
        let gpt2 = map(json!({"model_type": "gpt2", "max_length": 50, "n_layer": 2,
            "typical_p": 0.5, "eos_token_id": 7}));
        let special = [("bos_token_id", 50256), ("eos_token_id", 50256)];
        let ours = model_defaults(None, &gpt2, &special);
        assert_eq!(ours["eos_token_id"], 7);
        assert_eq!(ours["bos_token_id"], 50256);
        assert_eq!((&ours["max_length"], ours.get("n_layer")), (&json!(50), None));
        let sampling = map(json!({"do_sample": true}));
        assert!(GenerationConfig::new(&ours, &sampling).is_err(), "typical_p");
        let file = map(json!({"temperature": 0.5}));
        assert_eq!(model_defaults(Some(&file), &gpt2, &special), file);

        let pipeline = map(json!({"max_new_tokens": 256, "do_sample": true, "temperature": 0.7}));
        let ours = pipeline_defaults(&pipeline, &file);
        assert_eq!((&ours["temperature"], &ours["max_new_tokens"]), (&json!(0.5), &json!(256)));
        let limited = map(json!({"max_length": 50}));
        assert_eq!(pipeline_defaults(&pipeline, &limited).get("max_new_tokens"), None);
    }
}
