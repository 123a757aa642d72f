//! GGUF: a model in one file, with its settings, its tokenizer and its weights in blocks. It is presented as the files that
//! transformers writes, so that everything else reads it like any other checkpoint.
//!
//! The entries are [`Gguf`] and [`contents`]. Not here: the formats of blocks (`crate::blocks`), and which file of a directory
//! or a repository is meant (`super::snapshot`).

mod architectures;
mod keys;
mod names;
mod pre_tokenizer;
mod reader;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use self::architectures::{Architecture, Form};
use self::keys::Keys;
pub(super) use self::reader::MAGIC;
use self::reader::{Header, TensorInfo};
use self::tokenizer::Vocabulary;
use super::layout::{Element, Fault, Stored};
use super::source::WeightFile;
use crate::blocks::BlockFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;
use crate::limits;

/// Small tensors that are settings, without `.weight`.
const FACTORS: [&str; 3] = ["rope_freqs", "rope_factors_long", "rope_factors_short"];

/// A GGUF file: everything except its tensors.
#[derive(Debug)]
pub(super) struct Gguf {
    path: PathBuf,
    header: Header,
    factors: BTreeMap<String, Vec<f32>>,
}

impl Gguf {
    /// Opens a file.
    ///
    /// # Errors
    /// `Model` if it cannot be read or is damaged.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = WeightFile::open(path.to_path_buf()).map_err(|e| {
            Error::new(ErrorKind::Model, format!("cannot read `{}`", path.display())).source(e)
        })?;
        let name = format!("`{}`", path.display());
        guarded(ErrorKind::Model, &name, || Self::read(&file).map_err(|fault| fault.of(path)))
    }

    fn read(file: &WeightFile) -> Result<Self, Fault> {
        let header = Header::read(file)?;
        let mut factors = BTreeMap::new();
        for name in FACTORS {
            let Some(info) = header.tensors.get(&format!("{name}.weight")) else { continue };
            let count = info.shape.iter().product::<usize>();
            if info.shape.len() != 1 || count > limits::ROTARY_HEAD_DIM {
                return Err(Fault::new(format!("has a tensor `{name}.weight` that is no list")));
            }
            let mut numbers = vec![0.0; count];
            let bytes = file.read(info.bytes.clone()).map_err(|e| Fault::unread(&e))?;
            info.format.widen(&bytes, &mut numbers);
            factors.insert(name.to_owned(), numbers);
        }
        Ok(Self { path: file.path.clone(), header, factors })
    }

    /// The content of a file that transformers would have written, if the model has it.
    ///
    /// # Errors
    /// `Unsupported` for an architecture, a tokenizer or a setting that is not implemented, `Model` for metadata that is
    /// missing or contradicts itself.
    pub(super) fn file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.describe(name).map_err(|fault| fault.of(&self.path))
    }

    fn describe(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let keys = Keys::new(&self.header, &self.factors)?;
        let text = |json: Json| Some(json.to_string().into_bytes());
        Ok(match name {
            "config.json" => text(Architecture::find(&keys)?.config_json(&keys)?.into()),
            "generation_config.json" => {
                let Some(vocabulary) = Vocabulary::new(&self.header, keys.architecture())? else {
                    return Ok(None);
                };
                text(match vocabulary.eos_ids().as_slice() {
                    [] => json!({}),
                    [id] => json!({"eos_token_id": id}),
                    ids => json!({"eos_token_id": ids}),
                })
            }
            "modules.json" => pooling(&keys)?.and_then(|_| {
                let dense = DENSE.iter().filter(|(tensor, ..)| keys.has(tensor));
                let modules = [("", TRANSFORMER), (POOLING_FOLDER, POOLING)];
                let modules = modules.into_iter().chain(dense.map(|(_, path, _)| (*path, DENSE_TYPE)));
                let module = |(i, (path, kind)): (usize, (&str, &str))| {
                    json!({"idx": i, "name": i.to_string(), "path": path, "type": kind})
                };
                text(modules.enumerate().map(module).collect())
            }),
            POOLING_CONFIG => match pooling(&keys)? {
                None => None,
                Some(mode) => text(json!({
                    "word_embedding_dimension": keys.size("embedding_length")?,
                    "pooling_mode_cls_token": mode == 2,
                    "pooling_mode_mean_tokens": mode == 1,
                    "pooling_mode_lasttoken": mode == 3,
                })),
            },
            name => match DENSE.iter().find(|(.., file)| *file == name) {
                Some((tensor, ..)) => match keys.shape(tensor) {
                    Some([rows, columns]) => text(json!({
                        "in_features": columns,
                        "out_features": rows,
                        "bias": false,
                        "activation_function": "torch.nn.modules.linear.Identity",
                    })),
                    _ => None,
                },
                None => match Vocabulary::new(&self.header, keys.architecture())? {
                    None => None,
                    Some(vocabulary) => vocabulary.file(name)?,
                },
            },
        })
    }
}

const TRANSFORMER: &str = "sentence_transformers.models.Transformer";
const POOLING: &str = "sentence_transformers.models.Pooling";
const POOLING_FOLDER: &str = "1_Pooling";
const POOLING_CONFIG: &str = "1_Pooling/config.json";
const DENSE_TYPE: &str = "sentence_transformers.models.Dense";

/// Projections of a vector: the tensor, the folder of the module, and its configuration.
const DENSE: [(&str, &str, &str); 2] = [
    ("dense_2.weight", "2_Dense", "2_Dense/config.json"),
    ("dense_3.weight", "3_Dense", "3_Dense/config.json"),
];

/// How vectors of tokens become one: mean (1), that of the first token (2), that of the last (3); `None` if the file does not
/// say it, or has no such vector.
fn pooling(keys: &Keys<'_>) -> Result<Option<usize>, Fault> {
    match keys.optional_size("pooling_type")? {
        None | Some(0 | 4) => Ok(None),
        Some(mode @ 1..=3) => Ok(Some(mode)),
        Some(mode) => {
            Err(Fault::unsupported(format!("has the pooling {mode}, which is not implemented")))
        }
    }
}

/// The tensors of a file, under their names in transformers.
pub(super) fn contents(file: &WeightFile) -> Result<BTreeMap<String, Stored>, Fault> {
    let Gguf { header, factors, .. } = Gguf::read(file)?;
    let keys = Keys::new(&header, &factors)?;
    let architecture = Architecture::find(&keys)?;
    let mut tensors = BTreeMap::new();
    for (name, info) in &header.tensors {
        if FACTORS.iter().any(|factors| name.strip_suffix(".weight") == Some(factors)) {
            continue;
        }
        let (theirs, form) = match architecture.tensor(&keys, name)? {
            Some(known) => known,
            // The loader reports it as unused.
            None => (name.clone(), Form::default()),
        };
        let mut insert = |theirs: String, stored| {
            if tensors.contains_key(&theirs) {
                return Err(Fault::new(format!("has two tensors that are `{theirs}`")));
            }
            if tensors.len() == limits::GGUF_TENSORS {
                let most = limits::GGUF_TENSORS;
                return Err(Fault::new(format!(
                    "has more than {most} tensors, with those of experts"
                )));
            }
            tensors.insert(theirs, stored);
            Ok(())
        };
        match theirs.split_once('*') {
            None => insert(theirs, stored(name, info, form)?)?,
            Some((before, after)) => {
                for (expert, stored) in each_expert(&keys, name, info)?.into_iter().enumerate() {
                    insert(format!("{before}{expert}{after}"), stored)?;
                }
            }
        }
    }
    Ok(tensors)
}

/// The matrices of a tensor that has those of all experts, one after the other.
fn each_expert(keys: &Keys<'_>, name: &str, info: &TensorInfo) -> Result<Vec<Stored>, Fault> {
    let count = keys.experts()?.unwrap_or(0);
    let &[experts, rows, columns] = info.shape.as_slice() else {
        return Err(Fault::new(format!("has a tensor `{name}` that is no list of matrices")));
    };
    if experts != count || !(1..=limits::GGUF_TENSORS).contains(&count) {
        return Err(Fault::new(format!(
            "has {experts} experts in tensor `{name}`, not the {count} of `expert_count`"
        )));
    }
    let size = info.bytes.len() / count;
    let expert = |i: usize| {
        let bytes = info.bytes.start + i * size..info.bytes.start + (i + 1) * size;
        let one = TensorInfo { format: info.format, shape: vec![rows, columns], bytes };
        stored(name, &one, Form::default())
    };
    (0..count).map(expert).collect()
}

fn stored(name: &str, info: &TensorInfo, form: Form) -> Result<Stored, Fault> {
    let element = match info.format {
        BlockFormat::F32 => Element::F32,
        format => Element::Block(format),
    };
    let rows = info.shape.first().copied().unwrap_or(0);
    if form.order.is_some_and(|order| !order.fits(rows)) {
        return Err(Fault::new(format!(
            "has {rows} rows in tensor `{name}`, which its heads do not divide"
        )));
    }
    let stored = Stored::contiguous(element, info.shape.clone(), info.bytes.clone());
    let stored = stored.rearranged(form.order, form.shift);
    Ok(if form.is_transposed { stored.transposed() } else { stored })
}
