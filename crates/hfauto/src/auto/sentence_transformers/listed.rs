//! The modules that `modules.json` lists, each read from its folder. Not here: their computation (`modules`).

use serde_json::Value;

use super::keys::{self, File};
use super::modules::{self, Module, SpladePooling};
use super::multi_vector::Mask;
use super::{Encoder, MODEL_FILE};
use crate::auto::families::FAMILIES;
use crate::auto::family::Family;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Snapshot;
use crate::limits;

/// The module types that are implemented, by the last part of their dotted path.
const MODULE_TYPES: &str = "Transformer, CLIPModel, StaticEmbedding, Pooling, Dense, LayerNorm, Normalize, Dropout; MLMTransformer, \
                            SpladePooling and SparseStaticEmbedding for `sparse-encoding`; LogitScore for `rerank`; \
                            MultiVectorMask for several vectors per text";

/// The one class of PyLate that is a module.
const PYLATE_DENSE: &str = "pylate.models.Dense.Dense";

/// The kind of the first module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Transformer,
    MLMTransformer,
    StaticEmbedding,
    SparseStaticEmbedding,
}

/// The modules that `modules.json` lists.
pub(super) struct ListedModules {
    /// The files of the first module.
    pub(super) transformer: Snapshot,
    pub(super) first: First,
    /// The type of a first module that is remote code, which some family computes.
    pub(super) remote_module: Option<String>,
    pub(super) modules: Vec<Module>,
    pub(super) splade_pooling: Option<SpladePooling>,
    /// The folder of LogitScore.
    pub(super) logit_score: Option<String>,
    pub(super) mask: Option<Mask>,
}

impl ListedModules {
    /// Whether they are those of a sparse encoder.
    pub(super) fn is_sparse(&self) -> bool {
        self.splade_pooling.is_some() || self.first == First::SparseStaticEmbedding
    }

    /// Reads the list. With `on_tokens`, a Dense module whose file does not name its input works on tokens.
    ///
    /// # Errors
    /// `Unsupported` for a module that is not implemented, `Model` for damaged files.
    pub(super) fn read(snapshot: &Snapshot, listed: &Value, on_tokens: bool) -> Result<Self> {
        let list = listed
            .as_array()
            .filter(|list| !list.is_empty())
            .ok_or_else(|| Error::new(ErrorKind::Model, "modules.json is not a list of modules"))?;
        if list.len() > limits::MODEL_MODULES {
            let (found, most) = (list.len(), limits::MODEL_MODULES);
            let message = format!("modules.json has {found} modules, expected at most {most}");
            return Err(Error::new(ErrorKind::Model, message));
        }
        let mut found = Self {
            transformer: snapshot.clone(),
            first: First::Transformer,
            remote_module: None,
            modules: Vec::new(),
            splade_pooling: None,
            logit_score: None,
            mask: None,
        };
        for (index, entry) in list.iter().enumerate() {
            let text = |key| entry.get(key).and_then(Value::as_str);
            let (Some(kind), Some(path)) = (text("type"), text("path")) else {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!("module {index} of modules.json has no `type` or no `path`"),
                ));
            };
            if let Some(entry) = entry.as_object() {
                keys::check(File::Modules, entry, &format!("module {index} of modules.json"))?;
            }
            // Other packages are Python code, which is not run.
            let own = kind.strip_prefix("sentence_transformers.");
            let own = own.or((kind == PYLATE_DENSE).then_some("Dense"));
            let known = FAMILIES.iter().any(|family| family.remote_module == Some(kind));
            let own = own.or((known && index == 0).then_some("Transformer"));
            let class = own.and_then(|path| path.rsplit('.').next()).unwrap_or_default();
            let path = path.trim_end_matches('/');
            // model2vec writes the root as a dot.
            let path = if path == "." { "" } else { path };
            match (index, class) {
                (0, "Transformer" | "MLMTransformer" | "CLIPModel") => {
                    if class == "MLMTransformer" {
                        found.first = First::MLMTransformer;
                    }
                    found.remote_module = known.then(|| kind.to_owned());
                    found.transformer = folder(snapshot, path, "config.json")?;
                }
                (0, "StaticEmbedding") => {
                    found.first = First::StaticEmbedding;
                    found.transformer = folder(snapshot, path, "tokenizer.json")?;
                }
                (0, "SparseStaticEmbedding") if list.len() == 1 => {
                    found.first = First::SparseStaticEmbedding;
                    found.transformer = folder(snapshot, path, "config.json")?;
                }
                (1.., "Pooling") => {
                    found.modules.push(Module::Pooling(modules::pooling(snapshot, path)?));
                }
                (1.., "Dense") => {
                    let dense = modules::dense(snapshot, path, on_tokens)?;
                    found.modules.push(Module::Dense(dense));
                }
                (1.., "LayerNorm") => {
                    found.modules.push(Module::LayerNorm(modules::layer_norm(snapshot, path)?));
                }
                (1.., "Normalize") => {
                    found.modules.push(modules::normalization(snapshot, path)?);
                }
                (1.., "Dropout") => modules::dropout(snapshot, path)?,
                (1.., "MultiVectorMask") if found.mask.is_none() => {
                    let (settings, place) = modules::multi_vector_mask(snapshot, path)?;
                    found.mask = Some(Mask::read(&settings, &place)?);
                }
                (1, "SpladePooling") if list.len() == 2 => {
                    found.splade_pooling = Some(modules::splade(snapshot, path)?);
                }
                (1, "LogitScore") if list.len() == 2 => {
                    found.logit_score = Some(path.to_owned());
                }
                (_, "LogitScore") => {
                    let message = format!("module {index} of modules.json is a LogitScore");
                    return Err(Error::new(ErrorKind::Unsupported, message)
                        .hint("a LogitScore is the second and last module, after a Transformer"));
                }
                _ => return Err(not_implemented(index, kind)),
            }
        }
        Ok(found)
    }
}

/// Checks that only a cross-encoder has a LogitScore.
///
/// # Errors
/// `Model` if another encoder has one.
pub(super) fn check_logit_score(is_there: bool, encoder: Encoder) -> Result<()> {
    if !is_there || encoder == Encoder::CrossEncoder {
        return Ok(());
    }
    let class = encoder.name();
    let message = format!("modules.json has a LogitScore, which a {class} cannot have");
    Err(Error::new(ErrorKind::Model, message)
        .hint(format!("a reranker has `model_type: CrossEncoder` in {MODEL_FILE}")))
}

/// Checks that a first module of remote code, if there is one, is that of `family`.
///
/// # Errors
/// `Unsupported` if it is not.
pub(super) fn check_remote_module(kind: Option<&str>, family: &Family) -> Result<()> {
    match kind {
        Some(kind) if family.remote_module != Some(kind) => Err(not_implemented(0, kind)),
        _ => Ok(()),
    }
}

/// The error for a module that is not implemented.
fn not_implemented(index: usize, kind: &str) -> Error {
    let message = format!("module {index} of modules.json, `{kind}`, is not implemented");
    Error::new(ErrorKind::Unsupported, message).hint(format!(
        "implemented are, of sentence_transformers, {MODULE_TYPES}; a Transformer or a StaticEmbedding is the first"
    ))
}

/// A folder of the snapshot, which has `file`, as a snapshot of its own; the empty path is the snapshot itself.
fn folder(snapshot: &Snapshot, path: &str, file: &str) -> Result<Snapshot> {
    if path.is_empty() {
        return Ok(snapshot.clone());
    }
    let known = format!("{path}/{file}");
    let dir = snapshot.path(&known).and_then(|file| Some(file.parent()?.to_path_buf()));
    let dir = dir.ok_or_else(|| {
        Error::new(ErrorKind::Model, format!("modules.json names `{path}`, which has no {file}"))
    })?;
    Snapshot::local(&dir)
}
