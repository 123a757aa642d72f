//! Special and added tokens: reads them from the configuration files and adds them to a tokenizer.
//!
//! Four files may describe the same token (tokenizer.json, tokenizer_config.json, special_tokens_map.json,
//! added_tokens.json), each with different flags. The precedence decides whether ` <mask>` includes the
//! space before it, so the order here is that of transformers 4.57
//! (`PreTrainedTokenizerBase._from_pretrained`, then `PreTrainedTokenizerFast.__init__`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::bounded;
use super::files::TokenizerFiles;
use super::overrides::extra_ids;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// The attributes with one token each, in the order in which missing tokens get their ids.
const ATTRIBUTES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Only its text.
    Text(String),
    /// With flags.
    Added(RawAddedToken),
}

/// `AddedToken` of the Python package; `normalized` stays unset until the token is used.
#[derive(Clone, Debug, Default)]
pub(super) struct RawAddedToken {
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: Option<bool>,
    pub(super) special: bool,
}

impl PartialEq for RawAddedToken {
    fn eq(&self, other: &Self) -> bool {
        self.resolved() == other.resolved()
    }
}

impl Eq for RawAddedToken {}

impl RawAddedToken {
    fn from_object(object: &Map<String, Value>) -> Self {
        let flag = |name| object.get(name).and_then(Value::as_bool);
        Self {
            content: object.get("content").and_then(Value::as_str).unwrap_or_default().to_string(),
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized"),
            special: flag("special").unwrap_or(false),
        }
    }

    fn from_added(token: &AddedToken) -> Self {
        Self {
            content: token.content.clone(),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: Some(token.normalized),
            special: token.special,
        }
    }

    fn resolved(&self) -> AddedToken {
        AddedToken::from(self.content.as_str(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Added(token) => &token.content,
        }
    }

    fn from_json(value: &Value, attribute: &str) -> Result<Option<Self>> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(Self::Text(text.clone()))),
            Value::Object(object) => Ok(Some(Self::Added(RawAddedToken::from_object(object)))),
            other => Err(Error::new(
                ErrorKind::Model,
                format!("`{attribute}` is `{other}`, expected a token"),
            )),
        }
    }
}

/// The special tokens that a class has where the files give none.
#[derive(Clone, Copy, Debug)]
pub(super) struct DefaultTokens {
    /// By attribute.
    pub(super) named: &'static [(&'static str, &'static str)],
    /// `additional_special_tokens`.
    pub(super) additional_special_tokens: AdditionalTokens,
    /// The flags for an attribute's special token that the files give as plain text. `converted` tells whether the
    /// tokenizer was converted from a slow class. `None` keeps the plain text.
    pub(super) token_flags: fn(attribute: &str, converted: bool) -> Option<RawAddedToken>,
}

impl DefaultTokens {
    pub(super) const NONE: Self = Self {
        named: &[],
        additional_special_tokens: AdditionalTokens::Fixed(&[]),
        token_flags: |_, _| None,
    };

    fn token(&self, attribute: &str) -> Option<&'static str> {
        let token = self.named.iter().find(|(known, _)| *known == attribute);
        token.map(|(_, text)| *text)
    }
}

/// Special tokens without an attribute of their own.
#[derive(Clone, Copy, Debug)]
pub(super) enum AdditionalTokens {
    Fixed(&'static [&'static str]),
    /// `<extra_id_…>`; `extra_ids` in tokenizer_config.json gives their number.
    ExtraIds,
}

/// The special tokens by attribute, and the tokens added to the vocabulary.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// By attribute; a token that a file sets to `null` is absent.
    named: BTreeMap<&'static str, Token>,
    additional: Vec<Token>,
    /// `extra_special_tokens`, with attributes that the model defines.
    extra: Vec<(String, Token)>,
    /// `added_tokens_decoder`, by id.
    added: BTreeMap<u32, RawAddedToken>,
}

impl SpecialTokens {
    /// Reads the tokens from the files. `saved` is the tokenizer of tokenizer.json. With `converted`, the
    /// tokens are those that the slow class passes to the fast one.
    ///
    /// # Errors
    /// `Model` if a file has an unexpected structure.
    pub(super) fn read(
        files: &mut TokenizerFiles<'_>,
        config: &Map<String, Value>,
        defaults: &DefaultTokens,
        saved: Option<&Tokenizer>,
        converted: bool,
    ) -> Result<Self> {
        let mut named: BTreeMap<&'static str, Option<Token>> = BTreeMap::new();
        for attribute in ATTRIBUTES {
            if let Some(value) = config.get(attribute) {
                named.insert(attribute, Token::from_json(value, attribute)?);
            }
        }
        let mut additional = config.get("additional_special_tokens").map(token_list).transpose()?;
        let extra = match config.get("extra_special_tokens") {
            Some(Value::Object(extra)) => {
                let mut tokens = Vec::new();
                for (attribute, value) in extra {
                    if let Some(token) = Token::from_json(value, attribute)? {
                        tokens.push((attribute.clone(), token));
                    }
                }
                tokens
            }
            // transformers 5 writes `additional_special_tokens` under this name.
            Some(list @ Value::Array(_)) => {
                additional.get_or_insert_with(Vec::new).extend(token_list(list)?);
                Vec::new()
            }
            _ => Vec::new(),
        };

        // `added_tokens_decoder` overrides all older forms.
        let mut added = BTreeMap::new();
        let mut known: BTreeMap<String, RawAddedToken> = BTreeMap::new();
        if let Some(decoder) = config.get("added_tokens_decoder") {
            for (id, token) in decoder_entries(decoder)? {
                known.insert(token.content.clone(), token.clone());
                added.insert(id, token);
            }
        } else {
            // Always read, so that the digest covers them.
            let map = files.read_object("special_tokens_map.json")?.unwrap_or_default();
            let mut special_texts = merge_map(&map, &mut named, &mut additional)?;
            special_texts.extend(texts_of(&named, additional.as_deref()));
            if let Some(ids) = files.read_object("added_tokens.json")? {
                for (content, id) in ids {
                    let special = special_texts.contains(&content);
                    let token = RawAddedToken { content, special, ..RawAddedToken::default() };
                    added.insert(token_id(&id)?, token);
                }
            }
            for (id, token) in saved
                .iter()
                .flat_map(|saved| saved.get_added_vocabulary().get_added_tokens_decoder())
            {
                let token = RawAddedToken::from_added(token);
                known.insert(token.content.clone(), token.clone());
                added.insert(*id, token);
            }
        }
        let specials = additional.as_ref().map_or(0, Vec::len).saturating_add(extra.len());
        for (what, found, most) in [
            ("special tokens", specials, limits::TOKENIZER_SPECIAL_TOKENS),
            ("added tokens", added.len(), limits::TOKENIZER_ADDED_TOKENS),
        ] {
            if found > most {
                let message = format!("the tokenizer has {found} {what}, expected at most {most}");
                return Err(Error::new(ErrorKind::Model, message));
            }
        }
        for token in named.values_mut().flatten() {
            if let Some(known) = known.get(token.content()) {
                *token = Token::Added(known.clone());
            }
        }

        let additional = match (&defaults.additional_special_tokens, additional) {
            (AdditionalTokens::ExtraIds, given) => {
                with_extra_ids(given.unwrap_or_default(), extra_ids(config)?)?
            }
            (AdditionalTokens::Fixed(_), Some(given)) => given,
            (AdditionalTokens::Fixed(defaults), None) => {
                defaults.iter().map(|text| Token::Text((*text).to_string())).collect()
            }
        };
        let passed_on = |token: Token| if converted { with_resolved_flags(token) } else { token };
        let additional = additional.into_iter().map(passed_on).collect();
        let extra = extra.into_iter().map(|(name, token)| (name, passed_on(token))).collect();
        let mut special = Self { named: BTreeMap::new(), additional, extra, added };
        for attribute in ATTRIBUTES {
            let token = match named.remove(attribute) {
                Some(token) => token,
                None => defaults.token(attribute).map(|text| Token::Text(text.to_string())),
            };
            if let Some(token) = token {
                let token = with_class_flags(defaults, attribute, token, converted);
                special.named.insert(attribute, token);
            }
        }
        Ok(special)
    }

    /// The text of an attribute's token.
    pub(super) fn get(&self, attribute: &str) -> Option<&str> {
        self.named.get(attribute).map(Token::content)
    }

    /// `special_tokens_map`: the non-empty tokens by attribute.
    pub(super) fn map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let named = ATTRIBUTES.iter().filter_map(|name| Some((*name, self.named.get(name)?)));
        for (attribute, token) in named.filter(|(_, token)| !token.content().is_empty()) {
            map.insert(attribute.to_string(), token.content().into());
        }
        if !self.additional.is_empty() {
            let texts: Vec<Value> = self.additional.iter().map(|t| t.content().into()).collect();
            map.insert("additional_special_tokens".to_string(), texts.into());
        }
        for (attribute, token) in self.extra.iter().filter(|(_, token)| !token.content().is_empty())
        {
            map.insert(attribute.clone(), token.content().into());
        }
        map
    }

    /// Sets the default token of an attribute, unless the files or the class set one.
    pub(super) fn set_default(&mut self, attribute: &'static str, text: &str) {
        self.named.entry(attribute).or_insert_with(|| Token::Text(text.to_string()));
    }

    /// The texts of `added_tokens_decoder`, by id.
    pub(super) fn added(&self) -> impl Iterator<Item = (usize, &str)> {
        self.added.iter().map(|(id, token)| (*id as usize, token.content.as_str()))
    }

    /// Has the tokens of `added_tokens_decoder` found in the text before it is normalized.
    pub(super) fn match_added_before_normalization(&mut self) {
        self.added.values_mut().for_each(|token| token.normalized = Some(false));
    }

    /// Replaces `additional_special_tokens`.
    pub(super) fn set_additional<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        self.additional = texts.into_iter().map(|text| Token::Text(text.to_owned())).collect();
    }

    /// Appends to `additional_special_tokens` those that are not there.
    pub(super) fn extend_additional<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        let there: BTreeSet<String> =
            self.additional.iter().map(|token| token.content().to_owned()).collect();
        let new = texts.into_iter().filter(|text| !there.contains(*text));
        self.additional.extend(new.map(|text| Token::Text(text.to_owned())));
    }

    /// The text of an attribute's token.
    ///
    /// # Errors
    /// `Model` if the tokenizer has no such token.
    pub(super) fn require(&self, attribute: &str) -> Result<&str> {
        self.get(attribute).ok_or_else(|| {
            Error::new(ErrorKind::Model, format!("the tokenizer has no `{attribute}`"))
        })
    }

    /// Adds the tokens with ids to `tokenizer`, then the special tokens that it lacks.
    pub(super) fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let mut to_add: Vec<RawAddedToken> = self.added.values().cloned().collect();
        let mut has_text: BTreeSet<String> =
            sorted_added_tokens(tokenizer).into_iter().map(|token| token.content).collect();
        has_text.extend(to_add.iter().map(|token| token.content.clone()));

        let named = ATTRIBUTES.iter().filter_map(|attribute| self.named.get(attribute));
        let mut special_texts = BTreeSet::new();
        let specials: Vec<&Token> = named
            .chain(&self.additional)
            .chain(self.extra.iter().map(|(_, token)| token))
            .filter(|token| !token.content().is_empty())
            .filter(|token| special_texts.insert(token.content().to_string()))
            .collect();
        for token in specials {
            match token {
                Token::Text(text) => {
                    if !has_text.contains(text) {
                        let content = text.clone();
                        to_add.push(RawAddedToken { content, ..RawAddedToken::default() });
                    }
                }
                // A token with flags is added even if its text exists: its flags replace the existing ones.
                Token::Added(token) => {
                    if !to_add.contains(token) {
                        to_add.push(token.clone());
                    }
                }
            }
        }
        for token in &mut to_add {
            token.special |= special_texts.contains(&token.content);
        }
        add_tokens(tokenizer, to_add.iter().map(RawAddedToken::resolved))
    }
}

/// Adds tokens to a tokenizer, as version 0.22 of the library does.
///
/// In 0.22, a special token that is added again stays in its matching pass (before or after normalization),
/// whatever the new flags; 0.23 moves it. An existing token is skipped, even if an earlier one in `tokens`
/// has changed its flags.
pub(super) fn add_tokens(
    tokenizer: &mut Tokenizer,
    tokens: impl IntoIterator<Item = AddedToken>,
) -> Result<()> {
    let there = sorted_added_tokens(tokenizer);
    let by_content: BTreeMap<&str, &AddedToken> =
        there.iter().map(|token| (token.content.as_str(), token)).collect();
    let is_there = |token: &AddedToken| by_content.get(token.content.as_str()) == Some(&token);
    let mut tokens: Vec<AddedToken> = tokens.into_iter().filter(|token| !is_there(token)).collect();
    let mut normalized: BTreeMap<String, bool> = there
        .into_iter()
        .filter(|token| token.special)
        .map(|token| (token.content, token.normalized))
        .collect();
    for token in &mut tokens {
        if let Some(first) = normalized.get(&token.content) {
            token.normalized = *first;
        } else if token.special {
            normalized.insert(token.content.clone(), token.normalized);
        }
    }
    if let Some(normalizer) = tokenizer.get_normalizer() {
        let normalized = tokens.iter().filter(|token| token.normalized);
        bounded::check_added(normalizer, normalized.map(|token| token.content.as_str()))?;
    }
    if !tokens.is_empty() {
        tokenizer.add_tokens(tokens).map_err(|e| {
            Error::new(ErrorKind::Model, "cannot add the added tokens to the vocabulary").source(e)
        })?;
    }
    Ok(())
}

fn sorted_added_tokens(tokenizer: &Tokenizer) -> Vec<AddedToken> {
    let decoder = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let sorted: BTreeMap<_, _> = decoder.iter().collect();
    sorted.into_values().cloned().collect()
}

/// T5's additional tokens. Appends `extra_ids` tokens `<extra_id_…>` unless `given` has some.
fn with_extra_ids(mut given: Vec<Token>, extra_ids: usize) -> Result<Vec<Token>> {
    let count = given.iter().filter(|token| token.content().contains("<extra_id_")).count();
    if count == 0 {
        given.extend((0..extra_ids).map(|i| Token::Text(format!("<extra_id_{i}>"))));
    } else if extra_ids > 0 && count != extra_ids {
        return Err(Error::new(
            ErrorKind::Model,
            format!(
                "`additional_special_tokens` have {count} `<extra_id_…>`, but `extra_ids` is {extra_ids}"
            ),
        ));
    }
    Ok(given)
}

/// The token of an attribute. If the files give plain text, it gets the flags of its class.
fn with_class_flags(
    defaults: &DefaultTokens,
    attribute: &str,
    token: Token,
    converted: bool,
) -> Token {
    let token = match (token, (defaults.token_flags)(attribute, converted)) {
        (Token::Text(content), Some(flags)) => Token::Added(RawAddedToken { content, ..flags }),
        (token, _) => token,
    };
    if converted { with_resolved_flags(token) } else { token }
}

/// The token that the fast class receives from the slow one: a copy with `normalized` resolved, so that
/// marking it as special later does not change it.
fn with_resolved_flags(token: Token) -> Token {
    match token {
        Token::Added(token) => {
            let normalized = Some(token.resolved().normalized);
            Token::Added(RawAddedToken { normalized, ..token })
        }
        text @ Token::Text(_) => text,
    }
}

/// Applies special_tokens_map.json over the configuration; returns the texts in it.
fn merge_map(
    map: &Map<String, Value>,
    named: &mut BTreeMap<&'static str, Option<Token>>,
    additional: &mut Option<Vec<Token>>,
) -> Result<BTreeSet<String>> {
    // All tokens in this file are special.
    let special = |token| match token {
        Token::Added(token) => Token::Added(RawAddedToken { special: true, ..token }),
        text @ Token::Text(_) => text,
    };
    let mut texts = BTreeSet::new();
    for attribute in ATTRIBUTES {
        if let Some(value) = map.get(attribute) {
            let token = Token::from_json(value, attribute)?.map(special);
            texts.extend(token.iter().map(|token| token.content().to_string()));
            named.insert(attribute, token);
        }
    }
    if let Some(list) = map.get("additional_special_tokens") {
        let all = additional.get_or_insert_with(Vec::new);
        for token in token_list(list)?.into_iter().map(special) {
            texts.insert(token.content().to_string());
            if !all.contains(&token) {
                all.push(token);
            }
        }
    }
    Ok(texts)
}

/// The texts of the tokens given as plain text.
fn texts_of(
    named: &BTreeMap<&'static str, Option<Token>>,
    additional: Option<&[Token]>,
) -> BTreeSet<String> {
    let tokens = named.values().flatten().chain(additional.unwrap_or_default());
    tokens
        .filter_map(|token| match token {
            Token::Text(text) => Some(text.clone()),
            Token::Added(_) => None,
        })
        .collect()
}

fn tokens<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<Vec<Token>> {
    let tokens = values.into_iter().map(|value| Token::from_json(value, "a special token"));
    Ok(tokens.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn token_list(value: &Value) -> Result<Vec<Token>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => tokens(values),
        other => Err(Error::new(
            ErrorKind::Model,
            format!("`additional_special_tokens` is `{other}`, expected a list"),
        )),
    }
}

fn decoder_entries(decoder: &Value) -> Result<Vec<(u32, RawAddedToken)>> {
    let broken = |what: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Model,
            format!(
                "`added_tokens_decoder` in tokenizer_config.json has `{what}`, expected tokens by id"
            ),
        )
    };
    let Value::Object(entries) = decoder else { return Err(broken(decoder)) };
    let entry = |(id, token): (&String, &Value)| {
        let id = id.parse().map_err(|_| broken(id))?;
        let token = token.as_object().ok_or_else(|| broken(token))?;
        Ok((id, RawAddedToken::from_object(token)))
    };
    entries.iter().map(entry).collect()
}

fn token_id(id: &Value) -> Result<u32> {
    id.as_u64()
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| Error::new(ErrorKind::Model, format!("added_tokens.json has the id `{id}`")))
}
