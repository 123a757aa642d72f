//! Checks a tokenizer.json before and after the library parses it. Rejects sizes and counts that no real tokenizer has
//! and that multiply the cost of every text.
//!
//! Not here: the cost of a single text ([`super::bounded`]).

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use tokenizers::{ModelWrapper, NormalizerWrapper, Tokenizer};

use super::bounded;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;
use crate::limits;

const FILE: &str = "`tokenizer.json`";

/// Reads a tokenizer.json.
///
/// # Errors
/// `Model` when it is damaged or exceeds a limit.
pub(super) fn tokenizer_from(bytes: Vec<u8>) -> Result<Tokenizer> {
    check_parts(&bytes)?;
    let tokenizer = Tokenizer::from_bytes(&bytes).map_err(|e| {
        let message = "`tokenizer.json` is not a tokenizer of this library";
        Error::new(ErrorKind::Model, message).source(e)
    })?;
    check_model(&tokenizer)?;
    Ok(tokenizer)
}

/// Runs `work` on a stack that is deep enough for regular-expression parsers, which recurse.
pub(super) fn with_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let work = || guarded(ErrorKind::Model, "the tokenizer", work);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(limits::TOKENIZER_STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).map_err(|e| {
            Error::new(ErrorKind::Resources, "cannot start a thread for the tokenizer").source(e)
        })?;
        thread.join().unwrap_or_else(|panic| {
            Err(Error::new(ErrorKind::Model, crate::guard::message(&*panic)))
        })
    })
}

/// The components before the vocabulary, and the totals of the added tokens.
#[derive(Default)]
struct Parts {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    added_tokens: Option<Added>,
}

/// The relevant data of the added tokens.
#[derive(Default)]
struct Added {
    /// The contents of the tokens that the normalizer processes, and their total size in bytes.
    normalized: Vec<String>,
    bytes: usize,
}

/// Passed to serde as an error, to stop once all required parts are read.
const ENOUGH: &str = "enough";

fn check_parts(bytes: &[u8]) -> Result<()> {
    let mut parts = Parts::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // The library reports malformed files.
    if let Err(error) = (&mut parts).deserialize(&mut json)
        && let Some(refused) = error.to_string().strip_prefix(REFUSED)
    {
        let refused = refused.split(" at line").next().unwrap_or(refused);
        return Err(refuse(refused.to_owned()));
    }
    let steps = [
        ("normalizer", &parts.normalizer, "normalizers"),
        ("pre_tokenizer", &parts.pre_tokenizer, "pretokenizers"),
        ("decoder", &parts.decoder, "decoders"),
        ("post_processor", &parts.post_processor, "processors"),
    ];
    for (name, part, list) in steps {
        let Some(part) = part else { continue };
        let steps = flattened(part, list);
        if steps.len() > limits::TOKENIZER_STEPS {
            let limit = limits::TOKENIZER_STEPS;
            return Err(refuse(format!(
                "`{name}` has {} steps, expected at most {limit}",
                steps.len()
            )));
        }
        steps.iter().try_for_each(|step| check_step(name, step))?;
        match name {
            "normalizer" => check_added_tokens(part, &steps, parts.added_tokens.as_ref())?,
            "pre_tokenizer" => {
                let bytes = steps.iter().filter(|step| kind(step) == "ByteLevel").count();
                if bytes > 3 {
                    return Err(refuse(format!("`{name}` has `ByteLevel` {bytes} times")));
                }
            }
            "post_processor" => check_templates(&steps)?,
            _ => {}
        }
    }
    Ok(())
}

fn refuse(what: String) -> Error {
    Error::new(ErrorKind::Model, what).at(FILE).hint("the file is damaged, or made to do harm")
}

/// The steps of a component, with sequences flattened.
fn flattened<'a>(part: &'a Value, list: &str) -> Vec<&'a Value> {
    match part.get(list).and_then(Value::as_array) {
        Some(steps) => steps.iter().flat_map(|step| flattened(step, list)).collect(),
        None => vec![part],
    }
}

/// The `type` of a step; old files omit it, and the library infers it from the fields.
fn kind(step: &Value) -> &str {
    const FIELDS: [(&str, &str); 5] = [
        ("content", "Replace"),
        ("prepend", "Prepend"),
        ("single", "TemplateProcessing"),
        ("length", "FixedLength"),
        ("trim_offsets", "ByteLevel"),
    ];
    step["type"].as_str().unwrap_or_else(|| {
        let known = FIELDS.iter().find(|(field, _)| step.get(field).is_some());
        known.map_or("", |(_, kind)| kind)
    })
}

fn check_step(part: &str, step: &Value) -> Result<()> {
    let Some(fields) = step.as_object() else { return Ok(()) };
    let kind = Some(kind(step)).filter(|kind| !kind.is_empty()).unwrap_or(part);
    if kind == "FixedLength" && step["length"] == 0 {
        return Err(refuse("`FixedLength` has a `length` of 0".to_owned()));
    }
    for (name, value) in fields {
        if name == "precompiled_charsmap" {
            check_charsmap(value)?;
            continue;
        }
        let text = match value {
            Value::Object(pattern) => pattern.values().find_map(Value::as_str),
            value => value.as_str(),
        };
        let (found, limit) = (text.map_or(0, str::len), limits::TOKENIZER_TEXT_BYTES);
        if found > limit {
            return Err(refuse(format!(
                "`{name}` of `{kind}` has {found} bytes, expected at most {limit}"
            )));
        }
    }
    Ok(())
}

/// Checks SentencePiece's normalization rules: a trie, followed by the NUL-terminated replacement texts.
fn check_charsmap(map: &Value) -> Result<()> {
    let Some(map) = map.as_str() else { return Ok(()) };
    // Base64: for most files its length is enough, as 4 characters are 3 bytes.
    let bytes = base64(map);
    check_precompiled(&bytes)
}

/// [`check_charsmap`] for the decoded bytes.
pub(super) fn check_precompiled(bytes: &[u8]) -> Result<()> {
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return Ok(()) };
    let trie = u32::from_le_bytes(*size) as usize;
    let Some(texts) = rest.get(trie..) else {
        return Err(refuse("`precompiled_charsmap` ends before its trie does".to_owned()));
    };
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    let limit = limits::TOKENIZER_CHARSMAP_BYTES;
    if longest > limit {
        return Err(refuse(format!(
            "`precompiled_charsmap` expands a character to {longest} bytes, expected at most {limit}"
        )));
    }
    Ok(())
}

/// The bytes of a base64 string, up to its first error.
fn base64(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::with_capacity(text.len() / 4 * 3));
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// Checks the growth of the added tokens and the time of regular expressions: the library normalizes these tokens while
/// it parses the file.
fn check_added_tokens(part: &Value, steps: &[&Value], added: Option<&Added>) -> Result<()> {
    let mut factor = 1_usize;
    for step in steps {
        let len = |value: &Value| value.as_str().map(str::len);
        let grows = match kind(step) {
            "Replace" => {
                let content = len(&step["content"]).unwrap_or(0);
                // Empty matches occur between characters too.
                content / len(&step["pattern"]["String"]).unwrap_or(1).max(1) + 1
            }
            "Prepend" => len(&step["prepend"]).unwrap_or(0) + 1,
            _ => 1,
        };
        factor = factor.saturating_mul(grows);
    }
    let Some(added) = added else { return Ok(()) };
    let bytes = factor.saturating_mul(added.bytes);
    let limit = limits::TOKENIZER_ADDED_BYTES;
    if bytes > limit {
        return Err(refuse(format!(
            "`normalizer` expands the added tokens to up to {bytes} bytes, expected at most {limit}"
        )));
    }
    if added.normalized.is_empty() || !steps.iter().any(|step| kind(step) == "Replace") {
        return Ok(());
    }
    // The library reports a normalizer that cannot be parsed.
    let Ok(normalizer) = serde_json::from_value::<NormalizerWrapper>(part.clone()) else {
        return Ok(());
    };
    bounded::check_added(&normalizer, added.normalized.iter().map(String::as_str))
        .map_err(|e| e.at(FILE))
}

/// Checks how often templates repeat a text, and how many tokens they add.
fn check_templates(steps: &[&Value]) -> Result<()> {
    let (mut texts, mut tokens) = (1_usize, 0_usize);
    for step in steps.iter().filter(|step| kind(step) == "TemplateProcessing") {
        let (mut most_texts, mut most_tokens) = (1, 0);
        for template in ["single", "pair"] {
            let (mut of_text, mut of_special) = ([0_usize; 2], 0_usize);
            for piece in step[template].as_array().into_iter().flatten() {
                if let Some(text) = piece.get("Sequence") {
                    of_text[usize::from(text["id"] == "B")] += 1;
                } else if let Some(special) = piece.get("SpecialToken") {
                    let name = special["id"].as_str().unwrap_or_default();
                    let ids = step["special_tokens"][name]["ids"].as_array().map_or(1, Vec::len);
                    of_special = of_special.saturating_add(ids);
                }
            }
            most_texts = most_texts.max(of_text[0]).max(of_text[1]);
            most_tokens = most_tokens.max(of_special);
        }
        texts = texts.saturating_mul(most_texts);
        tokens = tokens.saturating_add(most_tokens);
    }
    if texts > limits::TOKENIZER_TEMPLATE_TEXTS {
        let limit = limits::TOKENIZER_TEMPLATE_TEXTS;
        return Err(refuse(format!(
            "`post_processor` repeats a text {texts} times, expected at most {limit}"
        )));
    }
    if tokens > limits::TOKENIZER_TEMPLATE_TOKENS {
        let limit = limits::TOKENIZER_TEMPLATE_TOKENS;
        return Err(refuse(format!(
            "`post_processor` adds {tokens} tokens to a text, expected at most {limit}"
        )));
    }
    Ok(())
}

/// Sizes of the model that multiply the cost of each word or token.
pub(super) fn check_model(tokenizer: &Tokenizer) -> Result<()> {
    let limit = limits::TOKENIZER_TOKEN_BYTES;
    let check = |name: &str, text: Option<&String>| match text.map_or(0, String::len) {
        found if found > limit => {
            Err(refuse(format!("`{name}` has {found} bytes, expected at most {limit}")))
        }
        _ => Ok(()),
    };
    match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) => {
            let (found, limit) =
                (model.max_input_chars_per_word, limits::TOKENIZER_MAX_INPUT_CHARS_PER_WORD);
            if found > limit {
                return Err(refuse(format!(
                    "`max_input_chars_per_word` is {found}, expected at most {limit}"
                )));
            }
            check("unk_token", Some(&model.unk_token))?;
            check("continuing_subword_prefix", Some(&model.continuing_subword_prefix))
        }
        ModelWrapper::WordLevel(model) => check("unk_token", Some(&model.unk_token)),
        ModelWrapper::BPE(model) => {
            check("unk_token", model.unk_token.as_ref())?;
            check("continuing_subword_prefix", model.continuing_subword_prefix.as_ref())?;
            check("end_of_word_suffix", model.end_of_word_suffix.as_ref())
        }
        ModelWrapper::Unigram(model) => {
            // The search compares every position of a text with every prefix of a piece.
            let longest = model.iter().map(|(piece, _)| piece.len()).max().unwrap_or(0);
            let limit = limits::TOKENIZER_PIECE_BYTES;
            if longest > limit {
                return Err(refuse(format!(
                    "`vocab` has a piece of {longest} bytes, expected at most {limit}"
                )));
            }
            Ok(())
        }
    }
}

/// The prefix of messages about rejected files.
const REFUSED: &str = "refused: ";

impl<'de> DeserializeSeed<'de> for &mut Parts {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Parts {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tokenizer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let part = match key.as_ref() {
                "normalizer" => &mut self.normalizer,
                "pre_tokenizer" => &mut self.pre_tokenizer,
                "post_processor" => &mut self.post_processor,
                "decoder" => &mut self.decoder,
                "added_tokens" => {
                    self.added_tokens = Some(map.next_value_seed(AddedTokens)?);
                    continue;
                }
                _ => {
                    let all = [
                        &self.normalizer,
                        &self.pre_tokenizer,
                        &self.post_processor,
                        &self.decoder,
                    ];
                    if self.added_tokens.is_some() && all.iter().all(|part| part.is_some()) {
                        // The vocabulary follows; the library reads it.
                        return Err(A::Error::custom(ENOUGH));
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *part = Some(map.next_value()?);
        }
        Ok(())
    }
}

/// Counts added tokens and their bytes.
struct AddedTokens;

impl<'de> DeserializeSeed<'de> for AddedTokens {
    type Value = Added;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

#[derive(serde::Deserialize)]
struct AddedToken<'a> {
    #[serde(borrow, default)]
    content: std::borrow::Cow<'a, str>,
    #[serde(default)]
    normalized: bool,
}

impl<'de> Visitor<'de> for AddedTokens {
    type Value = Added;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of added tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut count, mut added) = (0, Added::default());
        while let Some(token) = list.next_element::<AddedToken<'_>>()? {
            count += 1;
            let limit = limits::TOKENIZER_ADDED_TOKENS;
            if count > limit {
                let message = format!("{REFUSED}more than {limit} `added_tokens`");
                return Err(A::Error::custom(message));
            }
            if token.normalized {
                added.bytes += token.content.len();
                added.normalized.push(token.content.into_owned());
            }
        }
        Ok(added)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(parts: &Value) -> String {
        let mut all = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
        });
        for (key, value) in parts.as_object().unwrap() {
            all[key] = value.clone();
        }
        tokenizer_from(all.to_string().into_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn steps_that_multiply_texts_are_refused() {
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let doubles = json!({
            "type": "TemplateProcessing", "single": [text, text], "pair": [text, text], "special_tokens": {}
        });
        let processors = json!({"type": "Sequence", "processors": vec![doubles; 40]});
        assert!(refused(&json!({"post_processor": processors})).contains("repeats a text"));
        let grows =
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1000)});
        let chain = json!({"type": "Sequence", "normalizers": vec![grows; 4]});
        let added = json!([{
            "id": 1, "content": "aaa", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false
        }]);
        let message = refused(&json!({"normalizer": chain, "added_tokens": added}));
        assert!(message.contains("expands the added tokens"), "{message}");
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        });
        let chain = json!({"type": "Sequence", "pretokenizers": vec![bytes; 9]});
        assert!(refused(&json!({"pre_tokenizer": chain})).contains("`ByteLevel` 9 times"));
        let model = json!({
            "type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 1_000_000_000
        });
        assert!(
            refused(&json!({"model": model})).contains("`max_input_chars_per_word` is 1000000000")
        );
    }

    #[test]
    fn base64_is_read() {
        assert_eq!(base64("aGVsbG8="), b"hello");
        assert_eq!(base64("AP8Q"), [0, 255, 16]);
    }
}
