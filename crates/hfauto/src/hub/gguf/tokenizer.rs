//! The tokenizer of a GGUF file as the files that transformers reads: `tokenizer_config.json`, and a `tokenizer.json`, a
//! sentencepiece model or a `vocab.txt`. Not here: the tokenizers (`crate::auto`). The entry is [`Vocabulary`].
//!
//! # Source
//! `llama-vocab.cpp` of llama.cpp, `gguf_tokenizer_mapping.py` of transformers at v5.24.

use serde_json::{Map, Value as Json, json};

use super::pre_tokenizer;
use super::reader::{Header, Texts, Value};
use crate::hub::layout::Fault;

/// The keys of special tokens, and their names in transformers.
pub(super) const SPECIAL_IDS: [(&str, &str); 7] = [
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    // The specification spells it so.
    ("tokenizer.ggml.seperator_token_id", "sep_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
    ("tokenizer.ggml.cls_token_id", "cls_token"),
    ("tokenizer.ggml.mask_token_id", "mask_token"),
];

/// Tokens that end an answer, besides those of the keys: llama.cpp finds them by their texts.
const ENDS: [&str; 5] = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// The kind of a tokenizer: `tokenizer.ggml.model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// BPE of sentencepiece.
    Llama,
    /// Byte-level BPE.
    Gpt2,
    /// WordPiece.
    Bert,
    /// Unigram of sentencepiece.
    T5,
}

/// The vocabulary of a file.
pub(super) struct Vocabulary<'a> {
    header: &'a Header,
    architecture: &'a str,
    kind: Kind,
    tokens: &'a Texts,
    /// One for each token.
    types: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    /// The vocabulary of a file of this architecture; `None` if it has none.
    pub(super) fn new(header: &'a Header, architecture: &'a str) -> Result<Option<Self>, Fault> {
        let Some(kind) = header.text("tokenizer.ggml.model") else { return Ok(None) };
        let kind = match kind {
            "llama" => Kind::Llama,
            "gpt2" => Kind::Gpt2,
            "bert" => Kind::Bert,
            "t5" => Kind::T5,
            "none" | "no_vocab" => return Ok(None),
            other => {
                return Err(Fault::unsupported(format!(
                    "has a tokenizer of kind `{other}`, which is not implemented: llama, gpt2, bert, t5 are"
                )));
            }
        };
        let Some(Value::Texts(tokens)) = header.get("tokenizer.ggml.tokens") else {
            return Err(Fault::new("has no `tokenizer.ggml.tokens`"));
        };
        let types = match header.get("tokenizer.ggml.token_type") {
            None => vec![1; tokens.len()],
            Some(Value::Numbers(numbers)) => numbers.iter().map(|kind| kind as u64).collect(),
            Some(_) => Vec::new(),
        };
        if types.len() != tokens.len() {
            return Err(Fault::new(format!(
                "has {} types in `tokenizer.ggml.token_type` for {} tokens",
                types.len(),
                tokens.len()
            )));
        }
        Ok(Some(Self { header, architecture, kind, tokens, types }))
    }

    /// A file of the tokenizer, if it has it.
    pub(super) fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        Ok(match (name, self.kind) {
            ("tokenizer_config.json", _) => Some(bytes(&Json::from(self.config()?))),
            ("tokenizer.json", Kind::Gpt2) => Some(bytes(&self.byte_level()?)),
            ("tokenizer.model", Kind::Llama | Kind::T5) => Some(self.model_proto()?),
            ("vocab.txt", Kind::Bert) => Some(self.words()?),
            _ => None,
        })
    }

    /// The ids that end an answer: several if there are several.
    pub(super) fn eos_ids(&self) -> Vec<u32> {
        let keys = ["eos_token_id", "eot_token_id", "eom_token_id"];
        let stated = keys.iter().filter_map(|key| self.header.id(&format!("tokenizer.ggml.{key}")));
        let known = (0..).zip(self.tokens.iter()).zip(&self.types);
        let known = known.filter(|((_, token), kind)| **kind == CONTROL && ENDS.contains(token));
        let mut ids: Vec<u32> = Vec::new();
        for id in stated.chain(known.map(|((id, _), _)| id)) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.header.flag(&format!("tokenizer.ggml.{key}"))
    }

    /// Whether a text begins with `bos_token`, and ends with `eos_token`.
    fn frame(&self) -> (bool, bool) {
        let (bos, eos) = match self.kind {
            Kind::Llama => (true, false),
            Kind::Gpt2 => (pre_tokenizer::adds_bos(self.pre()), false),
            Kind::Bert => (true, true),
            // XLM-RoBERTa is a bert with a tokenizer of this kind.
            Kind::T5 => (self.architecture == "bert", true),
        };
        (self.flag("add_bos_token").unwrap_or(bos), self.flag("add_eos_token").unwrap_or(eos))
    }

    /// Whether it is a RoBERTa's, or an XLM-RoBERTa's, which have two `eos_token` between two texts.
    fn is_roberta(&self) -> bool {
        self.architecture == "bert" && self.kind != Kind::Bert && self.frame() == (true, true)
    }

    /// Whether a space is added before the first word.
    fn adds_space(&self) -> bool {
        self.flag("add_space_prefix").unwrap_or(true)
    }

    fn pre(&self) -> &str {
        self.header.text("tokenizer.ggml.pre").unwrap_or("default")
    }

    fn config(&self) -> Result<Map<String, Json>, Fault> {
        let class = match self.kind {
            Kind::Bert => "BertTokenizer",
            Kind::Llama if self.architecture.starts_with("gemma") => "GemmaTokenizer",
            // The tokenizer of Phi-3 adds a space to each part of a text, also before a space.
            Kind::Llama if self.adds_space() && self.architecture != "phi3" => "LlamaTokenizer",
            Kind::Llama | Kind::Gpt2 | Kind::T5 => "PreTrainedTokenizerFast",
        };
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), class.into());
        for (key, name) in SPECIAL_IDS {
            let Some(id) = self.header.id(key) else { continue };
            let token = self.tokens.get(id as usize).ok_or_else(|| {
                Fault::new(format!("has {id} as `{key}`, beyond its {} tokens", self.tokens.len()))
            })?;
            config.insert(name.into(), token.into());
        }
        let (bos, eos) = self.frame();
        if self.kind == Kind::Bert {
            config.insert("do_lower_case".into(), self.is_uncased().into());
        } else {
            config.insert("add_bos_token".into(), bos.into());
            config.insert("add_eos_token".into(), eos.into());
            // Not a setting of transformers: its classes of the family always do it.
            config.insert("two_eos_in_pair".into(), self.is_roberta().into());
        }
        if let Some(templates) = self.chat_templates() {
            config.insert("chat_template".into(), templates);
        }
        Ok(config)
    }

    fn chat_templates(&self) -> Option<Json> {
        const KEY: &str = "tokenizer.chat_template";
        let plain = self.header.text(KEY);
        let named: Vec<Json> = self
            .header
            .metadata
            .iter()
            .filter_map(|(key, value)| match value {
                Value::Text(template) => {
                    let name = key.strip_prefix(KEY)?.strip_prefix('.')?;
                    Some(json!({"name": name, "template": template}))
                }
                _ => None,
            })
            .collect();
        if named.is_empty() {
            return plain.map(Json::from);
        }
        let plain = plain.map(|template| json!({"name": "default", "template": template}));
        Some(plain.into_iter().chain(named).collect())
    }

    /// Whether a vocabulary of WordPiece has no upper-case letters; the file does not say so.
    fn is_uncased(&self) -> bool {
        let words = self.tokens.iter().filter(|token| !is_bracketed(token));
        !words.flat_map(str::chars).any(char::is_uppercase)
    }

    /// `vocab.txt`: the file marks the starts of words, `vocab.txt` the other pieces.
    fn words(&self) -> Result<Vec<u8>, Fault> {
        let mut text = String::new();
        for token in self.tokens.iter() {
            if token.contains(['\n', '\r']) {
                return Err(Fault::new(format!("has the token {token:?}, which no WordPiece has")));
            }
            match token.strip_prefix('▁') {
                Some(word) => text += word,
                None if is_bracketed(token) => text += token,
                None => {
                    text += "##";
                    text += token;
                }
            }
            text.push('\n');
        }
        Ok(text.into_bytes())
    }

    /// `tokenizer.json` of a byte-level BPE.
    fn byte_level(&self) -> Result<Json, Fault> {
        let Some(Value::Texts(merges)) = self.header.get("tokenizer.ggml.merges") else {
            return Err(Fault::new("has no `tokenizer.ggml.merges`"));
        };
        let mut vocab = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if vocab.insert(token.to_owned(), id.into()).is_some() {
                return Err(Fault::new(format!("has the token {token:?} twice")));
            }
        }
        let merges: Vec<Json> = merges
            .iter()
            .map(|merge| {
                // A piece may be a space.
                let after_first = merge.chars().next().map_or(0, char::len_utf8);
                let space = merge[after_first..].find(' ').map(|place| place + after_first);
                match space.map(|place| merge.split_at(place)) {
                    Some((left, right)) => json!([left, &right[1..]]),
                    None => json!(merge),
                }
            })
            .collect();
        let added: Vec<Json> = self
            .tokens
            .iter()
            .zip(&self.types)
            .enumerate()
            .filter(|(_, (token, kind))| {
                matches!(**kind, CONTROL | USER_DEFINED) && !token.is_empty()
            })
            .map(|(id, (token, kind))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind == CONTROL,
                })
            })
            .collect();
        let steps = pre_tokenizer::steps(self.pre())?;
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": steps.normalizer,
            "pre_tokenizer": steps.pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": false,
                "use_regex": false,
            },
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": steps.ignore_merges,
                "vocab": vocab,
                "merges": merges,
            },
        }))
    }

    fn post_processor(&self) -> Json {
        let (bos, eos) = self.frame();
        let token = |key: &str, adds: bool| {
            let id = self.header.id(key).filter(|_| adds)?;
            Some((id, self.tokens.get(id as usize)?))
        };
        let bos = token("tokenizer.ggml.bos_token_id", bos);
        let eos = token("tokenizer.ggml.eos_token_id", eos);
        if bos.is_none() && eos.is_none() {
            return json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": false,
                "use_regex": false,
            });
        }
        let second_bos = match self.architecture {
            // One first token, also in front of two texts.
            "modern-bert" => None,
            _ if self.is_roberta() => eos,
            _ => bos,
        };
        let part = |sequence: &str, segment: u32, bos: Option<(u32, &str)>| {
            let special = |token: Option<(u32, &str)>| {
                token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": segment}}))
            };
            let text = json!({"Sequence": {"id": sequence, "type_id": segment}});
            [special(bos), Some(text), special(eos)].into_iter().flatten().collect::<Vec<Json>>()
        };
        let tokens: Map<String, Json> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        let pair = [part("A", 0, bos), part("B", 1, second_bos)].concat();
        json!({
            "type": "TemplateProcessing",
            "single": part("A", 0, bos),
            "pair": pair,
            "special_tokens": tokens,
        })
    }

    /// The sentencepiece model: its protocol buffer.
    fn model_proto(&self) -> Result<Vec<u8>, Fault> {
        let scores: Vec<f32> = match self.header.get("tokenizer.ggml.scores") {
            Some(Value::Numbers(numbers)) => numbers.iter().map(|score| score as f32).collect(),
            _ => return Err(Fault::new("has no `tokenizer.ggml.scores`")),
        };
        if scores.len() != self.tokens.len() {
            return Err(Fault::new(format!(
                "has {} scores for {} tokens",
                scores.len(),
                self.tokens.len()
            )));
        }
        let mut model = Message::default();
        for ((token, kind), score) in self.tokens.iter().zip(&self.types).zip(scores) {
            let mut piece = Message::default();
            // The file has the spaces of these pieces as such.
            let text =
                if *kind == USER_DEFINED { token.replace(' ', "▁") } else { token.to_owned() };
            piece.bytes(1, text.as_bytes());
            piece.float(2, score);
            piece.number(3, *kind);
            model.bytes(1, &piece.0);
        }
        let is_unigram = self.kind == Kind::T5;
        let unknown = self.header.id("tokenizer.ggml.unknown_token_id");
        let unknown = unknown.or_else(|| {
            self.types.iter().position(|kind| *kind == UNKNOWN).map(|place| place as u32)
        });
        let mut trainer = Message::default();
        trainer.number(3, if is_unigram { 1 } else { 2 });
        trainer.number(35, u64::from(!is_unigram));
        if let Some(token) = unknown.and_then(|id| self.tokens.get(id as usize)) {
            trainer.number(40, u64::from(unknown.unwrap_or_default()));
            trainer.bytes(45, token.as_bytes());
        }
        model.bytes(2, &trainer.0);
        let mut normalizer = Message::default();
        if let Some(Value::Numbers(rules)) = self.header.get("tokenizer.ggml.precompiled_charsmap")
        {
            normalizer.bytes(2, &rules.bytes);
        }
        normalizer.number(3, self.adds_space().into());
        let removes = self.flag("remove_extra_whitespaces").unwrap_or(is_unigram);
        normalizer.number(4, removes.into());
        normalizer.number(5, 1);
        model.bytes(3, &normalizer.0);
        Ok(model.0)
    }
}

/// Whether WordPiece has a token as a special one.
fn is_bracketed(token: &str) -> bool {
    token.starts_with('[') && token.ends_with(']')
}

fn bytes(json: &Json) -> Vec<u8> {
    json.to_string().into_bytes()
}

/// A message of a protocol buffer.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number > 127 {
            self.0.push(number as u8 | 128);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn number(&mut self, field: u64, number: u64) {
        self.varint(field << 3);
        self.varint(number);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn float(&mut self, field: u64, number: f32) {
        self.varint(field << 3 | 5);
        self.0.extend_from_slice(&number.to_le_bytes());
    }
}
