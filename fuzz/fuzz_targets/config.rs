//! Any JSON object as a `config.json`, and as a `preprocessor_config.json` and a `generation_config.json`.
#![no_main]

use hfauto_pipe::auto::{AutoConfig, AutoImageProcessor};
use hfauto_pipe::generation::GenerationConfig;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|text: &[u8]| {
    let Ok(json) = serde_json::from_slice::<Map<String, Value>>(text) else { return };
    if let Ok(config) = AutoConfig::from_json(json.clone(), &Map::new()) {
        assert!(config.num_labels() >= config.id2label().len().min(1));
        let _ = (config.architectures(), config.problem_type(), config.with_lm_head());
    }
    let _ = AutoImageProcessor::from_json(&json, Some("vit"));
    let _ = GenerationConfig::new(&json, &json);
});
