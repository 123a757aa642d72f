//! The LoRA adapters of `tests/golden/adapters` against peft.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::Map;

use super::{CLOSE, plain, read_json, worst};
use crate::auto::{AutoClass, AutoConfig, ModelWithHead};
use crate::error::{ErrorKind, Result};
use crate::hub::{Snapshot, Weights};
use crate::models::{Reads, Want};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// The base model of an adapter with this adapter.
fn load(base: &str, adapter: &Path, class: AutoClass) -> Result<ModelWithHead> {
    let snapshot = Snapshot::local(&golden(base))?;
    let snapshot = snapshot.with_adapter(Snapshot::local_adapter(adapter)?);
    let config = AutoConfig::from_snapshot(&snapshot, &Map::new())?;
    ModelWithHead::load_snapshot(class, &snapshot, config, None, &Device::Cpu, None)
}

#[test]
fn logits_are_those_of_peft() {
    for name in ["llama", "bert", "gpt2"] {
        let dir = golden("adapters").join(name);
        let json = read_json(&dir.join("golden.json"));
        let outputs = Weights::open(&[dir.join("golden.safetensors")]).unwrap();
        let class = AutoClass::find(json["auto_class"].as_str().unwrap()).unwrap();
        let model = load(json["base"].as_str().unwrap(), &dir, class)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let ids: Vec<Vec<u32>> = serde_json::from_value(json["input_ids"].clone()).unwrap();
        for (row, ids) in ids.iter().enumerate() {
            let rows = plain(&[ids]);
            let inputs = model.inputs(rows.iter().copied()).unwrap();
            let logits = model.forward(&inputs, &Want::default()).unwrap().logits;
            let logits = match model.head().reads() {
                Reads::Tokens => logits,
                _ => logits.get(0).unwrap(),
            };
            let expected = outputs.tensor(&format!("logits.{row}"), DType::F32, &Device::Cpu);
            let off = worst(&logits, &expected.unwrap());
            println!("{name} {row}: {off:e}");
            assert!(off < CLOSE, "{name} {row}: {off:e}");
        }
    }
}

#[test]
fn adapters_of_other_models_are_named() {
    let causal = AutoClass::CausalLM;
    let refused = |base: &str, adapter: &Path| load(base, adapter, causal).unwrap_err();
    let error = refused("modern/llama/for-causal-lm", &golden("adapters/gpt2"));
    assert_eq!(error.kind(), ErrorKind::Model);
    let text = error.to_string();
    assert!(
        text.contains("has no modules `transformer.h.0.") && text.contains("base_model"),
        "{text}"
    );
    let text = refused("modern/llama/for-causal-lm-tied", &golden("adapters/llama")).to_string();
    assert!(text.contains("of the adapter is for a weight of"), "{text}");
    let text = refused("modern/llama/for-causal-lm", &golden("modern/llama/model")).to_string();
    assert!(text.contains("is not an adapter"), "{text}");
}

#[test]
fn adapters_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (golden("adapters/llama"), folder.path());
    std::fs::copy(from.join("adapter_model.safetensors"), to.join("adapter_model.safetensors"))
        .unwrap();
    let mut json = read_json(&from.join("adapter_config.json"));
    for (key, value, expected) in [
        ("r", 5.into(), "expected 5, the rank in adapter_config.json"),
        ("use_dora", true.into(), "`use_dora: true` in adapter_config.json is not implemented"),
        ("peft_type", "IA3".into(), "`peft_type: IA3`"),
        ("lora_alpha", "x".into(), "`lora_alpha` in adapter_config.json is `\"x\"`"),
    ] {
        let mut json = json.clone();
        json[key] = value;
        std::fs::write(to.join("adapter_config.json"), json.to_string()).unwrap();
        let text = load("modern/llama/for-causal-lm", to, AutoClass::CausalLM).unwrap_err();
        assert!(text.to_string().contains(expected), "{text}");
    }
    json["target_modules"] = "all-linear".into();
    std::fs::write(to.join("adapter_config.json"), json.to_string()).unwrap();
    assert!(load("modern/llama/for-causal-lm", to, AutoClass::CausalLM).is_ok());
    std::fs::write(to.join("adapter_model.safetensors"), b"cut").unwrap();
    assert!(load("modern/llama/for-causal-lm", to, AutoClass::CausalLM).is_err());
}
