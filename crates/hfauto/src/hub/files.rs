//! Which files of a repository make up a model: configuration, tokenizer, weights, and the folders named in
//! `modules.json`. Not here: their transfer ([`super::transfer`]).

use std::path::{Component, Path};

use serde_json::Value;

use super::quantized::refuse_quantized;
use super::shards;
use super::source::read_file;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// How much of a model is needed. Each variant includes the previous ones, except for adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The files of a LoRA adapter, and nothing else.
    Adapter,
    /// Configuration files: enough to determine the model's class and the types of its columns.
    Config,
    /// The tokenizer's files as well.
    Tokenizer,
    /// All files of the model.
    Weights,
}

/// Files of sentence-transformers at the repository's root.
const ROOT_FILES: &[&str] = &["modules.json", "config_sentence_transformers.json"];

/// The settings of Stanford's ColBERT, whose `config.json` names this architecture.
const STANFORD_FILE: &str = "artifact.metadata";
const STANFORD_ARCHITECTURE: &str = "HF_ColBERT";

/// The image preprocessing. A model that has it may lack a tokenizer.
const IMAGE_CONFIG: &str = "preprocessor_config.json";

/// Configuration files beside the encoder's weights. The first release of sentence-transformers used one file name per
/// architecture for its own.
const CONFIG_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    IMAGE_CONFIG,
    "processor_config.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
];

/// Vocabulary files; a tokenizer needs at least one.
const VOCABULARIES: &[&str] = &[
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
];

/// The files of an adapter of PEFT.
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// Weight files in order of preference, each with the index of its sharded form.
pub(super) const WEIGHT_FILES: &[(&str, &str)] = &[
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// Whether the repository has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Has {
    Yes,
    No,
    /// Not requested from the hub yet.
    Unknown,
}

/// The files of a model, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Files of the model that are present.
    pub(super) files: Vec<String>,
    /// Files that the repository lacks.
    pub(super) absent: Vec<String>,
    /// Files whose presence is unknown.
    pub(super) unknown: Vec<String>,
    /// Required files that are missing.
    pub(super) lacking: Vec<String>,
}

impl Plan {
    /// The files for `need`.
    ///
    /// Reads `modules.json` and the indexes of sharded weights in `dir`. The plan omits the files that they name until
    /// they are downloaded.
    ///
    /// # Errors
    /// `Model` when `modules.json` or an index is damaged.
    pub(super) fn new(need: Need, dir: &Path, has: &dyn Fn(&str) -> Has) -> Result<Self> {
        let mut plan = Self::default();
        if need == Need::Adapter {
            for file in [ADAPTER_CONFIG, ADAPTER_WEIGHTS] {
                if plan.ask(file, has) != Has::Yes {
                    plan.lacking.push(file.to_owned());
                }
            }
            return Ok(plan);
        }
        for file in ROOT_FILES {
            plan.ask(file, has);
        }
        let modules = modules(dir)?;
        let is_encoder = |m: &&Module| m.is_transformer() || m.is_table();
        let first = modules.iter().find(is_encoder);
        let encoder = first.map_or("", |m| m.folder.as_str());
        let is_table = first.is_some_and(Module::is_table);

        for file in CONFIG_FILES {
            plan.ask(&join(encoder, file), has);
        }
        let config = config_json(&dir.join(encoder));
        if let Some(config) = &config {
            refuse_quantized(config).map_err(|error| error.at(join(encoder, "config.json")))?;
        }
        if config.is_some_and(|config| config["architectures"][0] == STANFORD_ARCHITECTURE) {
            plan.ask(STANFORD_FILE, has);
        }
        if !is_table {
            plan.require_one(encoder, &["config.json"], has);
        }
        if need >= Need::Tokenizer {
            for file in TOKENIZER_FILES {
                plan.ask(&join(encoder, file), has);
            }
            if has(&join(encoder, IMAGE_CONFIG)) != Has::Yes {
                plan.require_one(encoder, VOCABULARIES, has);
            }
        }
        if need >= Need::Weights {
            plan.weights(encoder, true, dir, has)?;
        }
        for module in modules.iter().filter(|m| !m.folder.is_empty() && m.folder != encoder) {
            plan.ask(&join(&module.folder, "config.json"), has);
            let with_weights = matches!(module.kind.as_str(), "Dense" | "LayerNorm");
            if with_weights || module.kind == "Pooling" {
                plan.require_one(&module.folder, &["config.json"], has);
            }
            if need >= Need::Weights {
                plan.weights(&module.folder, with_weights, dir, has)?;
            }
        }
        Ok(plan)
    }

    fn ask(&mut self, file: &str, has: &dyn Fn(&str) -> Has) -> Has {
        let answer = has(file);
        let list = match answer {
            Has::Yes => &mut self.files,
            Has::No => &mut self.absent,
            Has::Unknown => &mut self.unknown,
        };
        if !list.iter().any(|known| known == file) {
            list.push(file.to_owned());
        }
        answer
    }

    /// Records the first of `files` as lacking if none of them is present.
    fn require_one(&mut self, folder: &str, files: &[&str], has: &dyn Fn(&str) -> Has) {
        if !files.iter().any(|file| has(&join(folder, file)) == Has::Yes) {
            self.lacking.push(join(folder, files[0]));
        }
    }

    fn weights(
        &mut self,
        folder: &str,
        required: bool,
        dir: &Path,
        has: &dyn Fn(&str) -> Has,
    ) -> Result<()> {
        for (whole, index) in WEIGHT_FILES {
            if self.ask(&join(folder, whole), has) == Has::Yes {
                return Ok(());
            }
            let index = join(folder, index);
            if self.ask(&index, has) == Has::Yes {
                if !dir.join(&index).is_file() {
                    return Ok(());
                }
                for shard in shards::ShardIndex::read(&dir.join(&index))?.shards() {
                    let shard = join(folder, shard);
                    if self.ask(&shard, has) != Has::Yes {
                        self.lacking.push(shard);
                    }
                }
                return Ok(());
            }
        }
        if required {
            self.lacking.push(join(folder, WEIGHT_FILES[0].0));
        }
        Ok(())
    }
}

/// One entry of `modules.json`.
struct Module {
    /// The last component of the Python class path, which is the same in all releases.
    kind: String,
    /// Its folder in the repository; empty for the root.
    folder: String,
}

impl Module {
    fn is_transformer(&self) -> bool {
        matches!(self.kind.as_str(), "Transformer" | "MLMTransformer" | "CLIPModel")
    }

    /// Whether it is a table of embeddings or weights, which needs no `config.json`.
    fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "StaticEmbedding" | "SparseStaticEmbedding")
    }
}

/// The `config.json` of `dir`, as far as it is there.
fn config_json(dir: &Path) -> Option<Value> {
    let bytes = read_file(&dir.join("config.json"), limits::MODEL_JSON_BYTES).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn modules(dir: &Path) -> Result<Vec<Module>> {
    let path = dir.join("modules.json");
    let damaged = |what: &str| {
        Error::new(ErrorKind::Model, format!("`{}` {what}", path.display()))
            .hint("it should be a list of `{\"idx\", \"name\", \"path\", \"type\"}`")
    };
    if !path.try_exists().unwrap_or(true) {
        return Ok(Vec::new());
    }
    let bytes = read_file(&path, limits::MODEL_JSON_BYTES)?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|e| damaged("is not JSON").source(e))?;
    let list = value.as_array().ok_or_else(|| damaged("is not a list"))?;
    let (found, limit) = (list.len(), limits::MODEL_MODULES);
    if found > limit {
        return Err(damaged(&format!("has {found} modules, expected at most {limit}")));
    }
    let mut modules = Vec::with_capacity(list.len());
    for module in list {
        let text = |key: &str| module.get(key).and_then(Value::as_str);
        let kind = text("type").ok_or_else(|| damaged("has a module without `type`"))?;
        let folder = text("path").unwrap_or("").trim_end_matches('/');
        // model2vec writes the root as a dot.
        let folder = if folder == "." { "" } else { folder };
        if !folder.is_empty() && !is_plain(folder) {
            return Err(damaged(&format!("names `{folder}`, which is outside the model's folder")));
        }
        let kind = kind.rsplit('.').next().unwrap_or(kind);
        modules.push(Module { kind: kind.to_owned(), folder: folder.to_owned() });
    }
    Ok(modules)
}

/// Whether `path`, joined to a folder, stays below it on every platform.
pub(super) fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

pub(super) fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// Looks files up in the complete listing of a repository.
#[cfg(any(test, feature = "hub"))]
pub(super) fn listed(files: &std::collections::BTreeSet<String>) -> impl Fn(&str) -> Has {
    |file| if files.contains(file) { Has::Yes } else { Has::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(need: Need, dir: &Path, files: &[&str]) -> Plan {
        let files = files.iter().map(|f| (*f).to_owned()).collect();
        Plan::new(need, dir, &listed(&files)).unwrap()
    }

    #[test]
    fn plans_only_the_files_of_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let repo = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "vocab.txt",
            "model.safetensors",
            "model.fp16.safetensors",
            "pytorch_model.bin",
            "tf_model.h5",
            "flax_model.msgpack",
            "onnx/model.onnx",
            "openvino/openvino_model.bin",
        ];
        let check = |need, expected: &[&str]| {
            let plan = plan(need, dir.path(), &repo);
            assert_eq!(plan.files, expected, "{need:?}");
            assert!(plan.lacking.is_empty() && plan.unknown.is_empty());
        };
        check(Need::Config, &["config.json"]);
        check(Need::Tokenizer, &["config.json", "tokenizer.json", "vocab.txt"]);
        check(Need::Weights, &["config.json", "tokenizer.json", "vocab.txt", "model.safetensors"]);
    }

    #[test]
    fn plans_generation_chat_and_image_files() {
        let dir = tempfile::tempdir().unwrap();
        let repo = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "model.safetensors",
        ];
        assert_eq!(plan(Need::Weights, dir.path(), &repo).files, repo);
        let repo = ["config.json", "preprocessor_config.json", "model.safetensors"];
        let pictures = plan(Need::Weights, dir.path(), &repo);
        assert_eq!(pictures.files, repo);
        assert!(pictures.lacking.is_empty());
        let neither = plan(Need::Weights, dir.path(), &["config.json", "model.safetensors"]);
        assert_eq!(neither.lacking, ["tokenizer.json"]);
    }

    #[test]
    fn follows_modules_json_and_shards() {
        let dir = tempfile::tempdir().unwrap();
        let repo = [
            "modules.json",
            "0_Transformer/config.json",
            "0_Transformer/vocab.txt",
            "0_Transformer/pytorch_model.bin.index.json",
            "0_Transformer/pytorch_model-00001-of-00001.bin",
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/pytorch_model.bin",
        ];
        assert_eq!(plan(Need::Weights, dir.path(), &repo).files, ["modules.json"]);
        std::fs::write(
            dir.path().join("modules.json"),
            r#"[{"idx": 0, "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}]"#,
        )
        .unwrap();
        let first = plan(Need::Weights, dir.path(), &repo);
        assert!(!first.files.iter().any(|f| f.contains("00001")), "{:?}", first.files);
        std::fs::create_dir(dir.path().join("0_Transformer")).unwrap();
        std::fs::write(
            dir.path().join("0_Transformer/pytorch_model.bin.index.json"),
            r#"{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}"#,
        )
        .unwrap();
        let mut files = plan(Need::Weights, dir.path(), &repo).files;
        files.sort();
        let mut expected = repo.to_vec();
        expected.sort_unstable();
        assert_eq!(files, expected);
    }

    #[test]
    fn a_table_of_embeddings_needs_no_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("modules.json");
        let of = |folder: &str, repo: &[&str]| {
            let kind = "sentence_transformers.models.StaticEmbedding";
            let module = serde_json::json!([{"idx": 0, "path": folder, "type": kind}]);
            std::fs::write(&path, module.to_string()).unwrap();
            let mut plan = plan(Need::Weights, dir.path(), repo);
            plan.files.sort();
            (plan.files, plan.lacking)
        };
        let own = ["0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json"];
        let repo = [&own[..], &["modules.json"]].concat();
        let (files, lacking) = of("0_StaticEmbedding", &repo);
        assert_eq!((files, lacking), (repo.iter().map(ToString::to_string).collect(), vec![]));
        let root = ["config.json", "model.safetensors", "modules.json", "tokenizer.json"];
        let (files, lacking) = of(".", &root);
        assert_eq!((files, lacking), (root.iter().map(ToString::to_string).collect(), vec![]));
        assert_eq!(of("", &["modules.json"]).1, ["tokenizer.json", "model.safetensors"]);
    }

    #[test]
    fn reports_missing_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            plan(Need::Weights, dir.path(), &["README.md"]).lacking,
            ["config.json", "tokenizer.json", "model.safetensors"]
        );
    }

    #[test]
    fn an_image_processor_stands_in_for_a_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let repo = ["config.json", "preprocessor_config.json", "model.safetensors"];
        let plan = plan(Need::Weights, dir.path(), &repo);
        assert_eq!(plan.files, repo);
        assert!(plan.lacking.is_empty(), "{:?}", plan.lacking);
    }

    #[test]
    fn refuses_folders_outside_the_model() {
        for path in ["../x", "/etc", "a/../b", "a//b", "c:\\x", ""] {
            assert!(!is_plain(path), "{path}");
        }
        assert!(is_plain("1_Pooling") && is_plain("a/b.c"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("modules.json"), r#"[{"path": "../x", "type": "a.B"}]"#)
            .unwrap();
        let error = Plan::new(Need::Config, dir.path(), &|_| Has::Yes).unwrap_err();
        assert!(error.to_string().contains("outside the model's folder"), "{error}");
    }
}
