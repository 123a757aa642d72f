//! Any bytes as the files that describe a model, split at NULs: config.json, generation_config.json and those of
//! sentence-transformers. The described model must not cost more than their size justifies.
#![no_main]

use std::fs;

use hfauto_pipe::auto::{AutoConfig, SentenceTransformerConfig};
use hfauto_pipe::generation::{GenerationConfig, model_defaults};
use hfauto_pipe::hub::Snapshot;
use hfauto_pipe_fuzz::folder;
use libfuzzer_sys::fuzz_target;
use serde_json::Map;

const FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
];

fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    let mut parts = bytes.splitn(FILES.len(), |byte| *byte == 0);
    for name in FILES {
        let _ = match parts.next() {
            Some(part) if !part.is_empty() => fs::write(folder.join(name), part),
            _ => fs::remove_file(folder.join(name)),
        };
    }
    let snapshot = Snapshot::local(&folder).unwrap();
    let none = Map::new();
    if let Ok(config) = AutoConfig::from_snapshot(&snapshot, &none) {
        let _ = (config.id2label(), config.num_labels(), config.dimensions());
        let file = snapshot.json("generation_config.json").ok().flatten();
        let defaults = model_defaults(
            file.as_ref().and_then(|f| f.as_object()),
            config.json(),
            config.family().special_token_ids,
        );
        if let Ok(generation) = GenerationConfig::new(&defaults, &none) {
            let _ = generation.check_lengths(config.dimensions().max_position_embeddings, &none);
        }
    }
    if let Ok(model) = SentenceTransformerConfig::from_snapshot(&snapshot, &none) {
        let _ = (model.embedding_dimension(), model.prompt(None));
    }
});
