//! Multi-vector (late-interaction, ColBERT) directories: one vector per token, and how queries and documents differ. Reads
//! the layouts of sentence-transformers 6, of PyLate and of Stanford's ColBERT. Not here: the modules that compute the
//! vectors (`modules`).
//!
//! # Source
//! `multi_vector_encoder/model.py`, `multi_vector_encoder/modules/multi_vector_mask.py` and
//! `base/modules/transformer.py` (`query_expansion`) of sentence-transformers at v6.2.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::modules::{Dense, Module};
use super::{Encoder, object};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Snapshot, Weights};
use crate::limits;
use crate::nn::TorchActivation;

/// The architecture in `config.json` of Stanford's checkpoints.
const STANFORD: &str = "HF_ColBERT";

/// Keys of PyLate in `config_sentence_transformers.json`; any of them marks a directory of PyLate.
const PYLATE: [&str; 9] = [
    "query_length",
    "document_length",
    "query_expansion",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "query_prefix",
    "document_prefix",
    "skiplist_words",
];

/// `string.punctuation` of Python.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// The length of queries where no file gives one.
const QUERY_LENGTH: usize = 32;

/// The role of a text: a query or a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextRole {
    /// A query: may be expanded to a fixed length.
    Query,
    /// A document: tokens of the skip list get no vector.
    Document,
}

impl TextRole {
    /// The name, which is also that of its prompt.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Document => "document",
        }
    }

    /// The role of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Query, Self::Document].into_iter().find(|role| role.name() == name)
    }
}

/// Tokens that fill up queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryExpansion {
    /// The number of tokens that a query is filled up to.
    pub length: usize,
    /// Whether longer queries are cut to `length`.
    pub is_fixed: bool,
    /// Whether other tokens attend to those that fill up.
    pub attend: bool,
    /// The token; by default the mask token, or else that at the end of a sentence.
    pub token: Option<String>,
}

/// How a multi-vector directory encodes texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MultiVector {
    /// The most tokens of a query that is not expanded.
    pub query_length: Option<usize>,
    /// The most tokens of a document.
    pub document_length: Option<usize>,
    /// How queries are expanded; `None` if they are not.
    pub query_expansion: Option<QueryExpansion>,
    /// Tokens without a vector.
    pub skiplist_words: Vec<String>,
    /// The roles that the skip list applies to.
    pub skiplist_tasks: Vec<String>,
    /// The only tokens of documents with a vector, if given.
    pub keep_only_token_ids: Vec<u32>,
    /// Whether a score is the mean over the query's tokens rather than the sum.
    pub is_mean: bool,
    /// Texts before queries and documents that the tokenizer should read as one token.
    pub markers: Vec<String>,
}

impl MultiVector {
    /// Whether the skip list applies to texts of this role.
    pub fn skips(&self, role: TextRole) -> bool {
        self.skiplist_tasks.iter().any(|task| task == role.name())
    }
}

/// A MultiVectorMask module.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    skiplist_words: Vec<String>,
    skiplist_tasks: Vec<String>,
    keep_only_token_ids: Vec<u32>,
}

impl Mask {
    /// Reads the module's file; `place` names it.
    pub(super) fn read(json: &Map<String, Value>, place: &str) -> Result<Self> {
        let value = |key: &str| json.get(key).filter(|value| !value.is_null());
        let wrong = |key: &str, value: &Value| {
            Error::new(ErrorKind::Model, format!("`{key}` in {place} is `{value}`"))
        };
        let ids = match value("keep_only_token_ids") {
            None => Vec::new(),
            Some(ids) => {
                Vec::<u32>::deserialize(ids).map_err(|_| wrong("keep_only_token_ids", ids))?
            }
        };
        let tasks = match value("skiplist_tasks") {
            None => vec![TextRole::Document.name().to_owned()],
            Some(tasks) => words(tasks).map_err(|()| wrong("skiplist_tasks", tasks))?,
        };
        if let Some(task) = tasks.iter().find(|task| TextRole::from_name(task).is_none()) {
            let message = format!("`skiplist_tasks` in {place} has `{task}`");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("implemented are `query` and `document`"));
        }
        let words = match value("skiplist_words") {
            None => Vec::new(),
            Some(list @ Value::Array(_)) => {
                words(list).map_err(|()| wrong("skiplist_words", list))?
            }
            Some(other) => return Err(wrong("skiplist_words", other)),
        };
        Ok(Self { skiplist_words: words, skiplist_tasks: tasks, keep_only_token_ids: ids })
    }
}

/// A text, or a list of texts.
fn words(value: &Value) -> std::result::Result<Vec<String>, ()> {
    match value {
        Value::String(word) => Ok(vec![word.clone()]),
        value => Vec::deserialize(value).map_err(|_| ()),
    }
}

fn punctuation() -> Vec<String> {
    PUNCTUATION.chars().map(String::from).collect()
}

/// Whether `config_sentence_transformers.json` has keys of PyLate.
pub(super) fn has_pylate_keys(saved: &Map<String, Value>) -> bool {
    PYLATE.iter().any(|key| saved.contains_key(*key))
}

/// The settings of a directory with `modules.json`.
pub(super) struct Saved<'a> {
    /// `config_sentence_transformers.json`.
    pub(super) saved: &'a Map<String, Value>,
    /// The settings of the Transformer module, which win.
    pub(super) transformer: &'a Map<String, Value>,
    /// The MultiVectorMask, which PyLate does not save.
    pub(super) mask: Option<Mask>,
    /// Whether PyLate saved the directory.
    pub(super) is_pylate: bool,
    /// The name of the file, for errors.
    pub(super) place: &'a str,
}

impl Saved<'_> {
    /// The settings of a multi-vector encoder; `None` for another class. Completes what PyLate leaves out of `modules`,
    /// and puts its prefixes in front of `prompts`.
    ///
    /// # Errors
    /// As [`multi_vector`](Self::multi_vector); `Unsupported` for modules that do not suit the class.
    pub(super) fn of(
        self,
        encoder: Encoder,
        modules: &mut Vec<Module>,
        prompts: &mut Vec<(String, String)>,
    ) -> Result<Option<MultiVector>> {
        if encoder != Encoder::MultiVectorEncoder {
            if self.mask.is_some() {
                let class = encoder.name();
                let message =
                    format!("modules.json has a MultiVectorMask, which a {class} cannot have");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            return Ok(None);
        }
        if self.is_pylate {
            *modules = converted(std::mem::take(modules));
        }
        check_modules(modules)?;
        self.multi_vector(prompts).map(Some)
    }

    /// The settings, and the prompts with the prefixes of PyLate in front.
    ///
    /// # Errors
    /// `Model` for settings of another type than expected.
    fn multi_vector(self, prompts: &mut Vec<(String, String)>) -> Result<MultiVector> {
        let Self { saved, transformer, mask, is_pylate, place } = self;
        let wrong = |key: &str, value: &Value| {
            Error::new(ErrorKind::Model, format!("`{key}` in {place} is `{value}`"))
        };
        let of = |key: &str| transformer.get(key).or_else(|| saved.get(key));
        let value = |key: &str| of(key).filter(|value| !value.is_null());
        let length = |key: &str| value(key).map(|length| count(length, key, place)).transpose();
        let flag = |key: &str| match value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(wrong(key, value)),
        };
        let mut markers = Vec::new();
        for role in [TextRole::Query, TextRole::Document] {
            let prefix = match saved.get(&format!("{}_prefix", role.name())) {
                None => continue,
                Some(Value::Null) => "",
                Some(Value::String(prefix)) => prefix,
                Some(value) => return Err(wrong("prefix", value)),
            };
            markers.push(prefix.to_owned());
            match prompts.iter_mut().find(|(name, _)| name == role.name()) {
                Some((_, prompt)) => {
                    let rest = prompt.strip_prefix(prefix).unwrap_or(prompt);
                    *prompt = format!("{prefix}{rest}");
                }
                None => prompts.push((role.name().to_owned(), prefix.to_owned())),
            }
        }
        let mut query_length = length("query_length")?;
        let query_expansion = match of("query_expansion") {
            Some(Value::Object(expansion)) => Some(expansion_of(expansion, place)?),
            Some(Value::Null) => None,
            Some(value) => return Err(wrong("query_expansion", value)),
            None if !has_pylate_keys(saved) || flag("do_query_expansion")? == Some(false) => None,
            None => {
                let attend = flag("attend_to_expansion_tokens")?.or(flag("attend_to_mask_tokens")?);
                Some(QueryExpansion {
                    length: query_length.take().unwrap_or(QUERY_LENGTH),
                    is_fixed: true,
                    attend: attend.unwrap_or(false),
                    token: None,
                })
            }
        };
        let (mask, is_masked) = if let Some(mask) = mask {
            (mask, true)
        } else {
            let skipped = saved.get("skiplist_words").filter(|words| !words.is_null());
            let own = skipped.map(|words| ("skiplist_words".to_owned(), words.clone()));
            let mut mask = Mask::read(&own.into_iter().collect(), place)?;
            // PyLate skips punctuation where its file says nothing.
            if is_pylate && skipped.is_none() {
                mask.skiplist_words = punctuation();
            }
            (mask, is_pylate)
        };
        if query_expansion.is_some() && !is_masked {
            let message = "queries are expanded, but modules.json has no MultiVectorMask";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let is_mean = saved.get("similarity_fn_name").is_some_and(|name| name == "meanmaxsim");
        Ok(MultiVector {
            query_length,
            document_length: length("document_length")?,
            query_expansion,
            skiplist_words: mask.skiplist_words,
            skiplist_tasks: mask.skiplist_tasks,
            keep_only_token_ids: mask.keep_only_token_ids,
            is_mean,
            markers,
        })
    }
}

fn count(value: &Value, key: &str, place: &str) -> Result<usize> {
    match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
        Some(count) if (1..=limits::MODEL_SIZE).contains(&count) => Ok(count),
        _ => Err(Error::new(ErrorKind::Model, format!("`{key}` in {place} is `{value}`"))),
    }
}

fn expansion_of(expansion: &Map<String, Value>, place: &str) -> Result<QueryExpansion> {
    let wrong = |key: &str, value: &Value| {
        let message = format!("`query_expansion.{key}` in {place} is `{value}`");
        Error::new(ErrorKind::Model, message)
    };
    const KEYS: [&str; 4] = ["strategy", "attend", "token", "length"];
    if let Some((key, value)) = expansion.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(wrong(key, value).hint(format!("known keys are: {}", KEYS.join(", "))));
    }
    let of = |key: &str| expansion.get(key).unwrap_or(&Value::Null);
    Ok(QueryExpansion {
        length: count(of("length"), "query_expansion.length", place)?,
        is_fixed: match of("strategy").as_str() {
            Some("fixed") => true,
            Some("min") => false,
            _ => return Err(wrong("strategy", of("strategy")).hint("it is `fixed` or `min`")),
        },
        attend: match of("attend") {
            Value::Null => false,
            Value::Bool(attend) => *attend,
            value => return Err(wrong("attend", value)),
        },
        token: match of("token") {
            Value::Null => None,
            Value::String(token) => Some(token.clone()),
            value => return Err(wrong("token", value)),
        },
    })
}

/// Whether a directory without `modules.json` is a checkpoint of Stanford's ColBERT.
pub(super) fn is_stanford(snapshot: &Snapshot) -> Result<bool> {
    let config = snapshot.json("config.json")?.unwrap_or_default();
    let architectures = config.get("architectures").and_then(Value::as_array);
    Ok(architectures.is_some_and(|names| names.iter().any(|name| name == STANFORD)))
}

/// Prompts by their names.
type Prompts = Vec<(String, String)>;

/// The settings, modules and prompts of Stanford's ColBERT, whose projection is beside the tensors of the model.
///
/// # Errors
/// `Model` for a checkpoint without the projection, and for damaged settings.
pub(super) fn stanford(snapshot: &Snapshot) -> Result<(MultiVector, Vec<Module>, Prompts)> {
    const FILE: &str = "artifact.metadata";
    let place = format!("`{FILE}`");
    let metadata = object(snapshot, FILE)?.unwrap_or_default();
    let value = |key: &str| metadata.get(key).filter(|value| !value.is_null());
    let wrong = |key: &str, value: &Value| {
        Error::new(ErrorKind::Model, format!("`{key}` in {place} is `{value}`"))
    };
    let marker = |key: &str, default: &str| match value(key) {
        None => Ok(format!("{default} ")),
        Some(Value::String(token)) if token.is_empty() => Ok(format!("{default} ")),
        Some(Value::String(token)) => Ok(format!("{token} ")),
        Some(value) => Err(wrong(key, value)),
    };
    let flag = |key: &str, default: bool| match value(key) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(value) => Err(wrong(key, value)),
    };
    let length = |key: &str| value(key).map(|length| count(length, key, &place)).transpose();
    let query = marker("query_token_id", "[unused0]")?;
    let document = marker("doc_token_id", "[unused1]")?;

    let weights = Weights::open(&snapshot.weight_files()?)?;
    let (out_features, in_features) = match *weights.shape("linear.weight").unwrap_or_default() {
        [out, width] if out > 0 && width > 0 => (out, width),
        ref shape => {
            let message = format!(
                "a ColBERT checkpoint has no matrix `linear.weight`, but the shape {shape:?}"
            );
            return Err(Error::new(ErrorKind::Model, message));
        }
    };
    let projection = Dense {
        path: String::new(),
        in_features,
        out_features,
        bias: false,
        activation: TorchActivation::IDENTITY,
        use_residual: false,
        on_tokens: true,
    };
    let multi_vector = MultiVector {
        document_length: length("doc_maxlen")?,
        query_expansion: Some(QueryExpansion {
            length: length("query_maxlen")?.unwrap_or(QUERY_LENGTH),
            is_fixed: true,
            attend: flag("attend_to_mask_tokens", false)?,
            token: None,
        }),
        skiplist_words: if flag("mask_punctuation", true)? { punctuation() } else { Vec::new() },
        skiplist_tasks: vec![TextRole::Document.name().to_owned()],
        markers: vec![query.clone(), document.clone()],
        ..MultiVector::default()
    };
    let prompts = [(TextRole::Query, query), (TextRole::Document, document)];
    let prompts = prompts.map(|(role, marker)| (role.name().to_owned(), marker));
    Ok((multi_vector, vec![Module::Dense(projection), Module::NormalizeTokens], prompts.to_vec()))
}

/// The modules of a directory that was saved as a bi-encoder with settings of PyLate: its Dense layers work on tokens,
/// and its pooling falls away.
fn converted(modules: Vec<Module>) -> Vec<Module> {
    let modules = modules.into_iter().filter_map(|module| match module {
        Module::Pooling(_) | Module::Normalize => None,
        Module::Dense(dense) => Some(Module::Dense(Dense { on_tokens: true, ..dense })),
        module => Some(module),
    });
    modules.chain([Module::NormalizeTokens]).collect()
}

/// Checks that every module works on tokens.
///
/// # Errors
/// `Unsupported` for a module that makes one vector of a text.
fn check_modules(modules: &[Module]) -> Result<()> {
    let on_tokens = |module: &Module| match module {
        Module::NormalizeTokens => true,
        Module::Dense(dense) => dense.on_tokens,
        Module::Pooling(_) | Module::Features(_) | Module::LayerNorm(_) | Module::Normalize => {
            false
        }
    };
    if modules.iter().all(on_tokens) {
        return Ok(());
    }
    let message = "modules.json of a MultiVectorEncoder has a module that does not work on tokens";
    Err(Error::new(ErrorKind::Unsupported, message)
        .hint("implemented are Dense and Normalize with `module_input_name: token_embeddings`"))
}
