//! Generation against transformers: token by token as all at once, then what comes next.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hfauto_pipe::auto::{AutoClass, AutoConfig, AutoModel, ModelWithHead};
use hfauto_pipe::hub::{Snapshot, Weights};
use hfauto_pipe::models::Want;
use serde_json::{Map, Value};

use crate::parity::{Differences, Tolerance};

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn causal_lm(dir: &Path) -> ModelWithHead {
    let snapshot = Snapshot::local(dir).unwrap();
    let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
    ModelWithHead::load_snapshot(AutoClass::CausalLM, &snapshot, config, None, &Device::Cpu, None)
        .unwrap()
}

fn input_ids(dir: &Path) -> Vec<Vec<u32>> {
    serde_json::from_value(json(&dir.join("golden.json"))["input_ids"].clone()).unwrap()
}

#[test]
fn gpt2_agrees_with_transformers() {
    let mut differences = Differences::default();
    for name in ["heads/gpt2/model", "heads/gpt2/model-inverse-layer"] {
        let dir = golden_dir(name);
        let ids = input_ids(&dir);
        let expected = Weights::open(&[dir.join("golden.safetensors")]).unwrap();
        let model = AutoModel::from_pretrained(dir.to_str().unwrap()).unwrap();
        let inputs = model.inputs(ids.iter().map(|ids| (&ids[..], &[][..]))).unwrap();
        for attentions in [false, true] {
            let want = Want { hidden_states: true, attentions, ..Want::default() };
            let output = model.forward(&inputs, &want).unwrap();
            let mut compared = 0;
            let mut check = |name: String, ours: &dyn Fn() -> Tensor| {
                if expected.shape(&name).is_some() {
                    let expected = expected.tensor(&name, DType::F32, &Device::Cpu).unwrap();
                    let result = Tolerance::Close.check(&ours(), &expected);
                    differences.check(&name, result);
                    compared += 1;
                }
            };
            for row in 0..ids.len() {
                check(format!("last_hidden_state.{row}"), &|| {
                    output.last_hidden_state.row(row).unwrap()
                });
                check(format!("hidden_states.{row}"), &|| {
                    let states = output.hidden_states.as_ref().unwrap();
                    let states: Vec<_> = states.iter().map(|s| s.row(row).unwrap()).collect();
                    Tensor::stack(&states, 0).unwrap()
                });
                if attentions {
                    check(format!("attentions.{row}"), &|| {
                        let layers = output.attentions.as_ref().unwrap();
                        let layers: Vec<_> = layers.iter().map(|l| l[row].clone()).collect();
                        Tensor::stack(&layers, 0).unwrap()
                    });
                }
            }
            assert!(compared >= 8, "{name}: {compared} comparisons");
        }
    }
    differences.assert_none();
}

/// The logits of the golden at every position, from a prompt of each length and the tokens after it one
/// by one, several rows at a time.
#[test]
fn token_by_token_is_all_at_once() {
    let mut differences = Differences::default();
    for name in [
        "gpt2/for-causal-lm",
        "gpt2/for-causal-lm-pre-2020",
        "gpt2/for-causal-lm-relu",
        "gpt2/for-causal-lm-untied",
        "bert/for-causal-lm",
        "roberta/for-causal-lm",
        "xlm-roberta/for-causal-lm",
        "camembert/for-causal-lm",
    ] {
        let dir = golden_dir("heads").join(name);
        let expected = Weights::open(&[dir.join("golden.safetensors")]).unwrap();
        let model = causal_lm(&dir);
        let decoder = model.decoder().unwrap();
        let rows: Vec<(usize, Vec<u32>)> =
            input_ids(&dir).into_iter().enumerate().filter(|(_, ids)| ids.len() >= 5).collect();
        assert!(rows.len() >= 2, "{name}");
        let len = rows.iter().map(|(_, ids)| ids.len()).min().unwrap();
        for prompt in 1..len {
            // The first row's prompt is shorter than the others', so that lengths differ all the way.
            let start = |row: usize| if row == 0 { prompt - prompt / 2 } else { prompt };
            let prompts: Vec<&[u32]> =
                rows.iter().enumerate().map(|(row, (_, ids))| &ids[..start(row)]).collect();
            let (mut state, mut logits) = decoder.prefill(&prompts, &[]).unwrap();
            for step in 0..=len - prompt {
                for (row, (text, _)) in rows.iter().enumerate() {
                    let position = start(row) + step - 1;
                    let theirs = expected
                        .tensor(&format!("logits.{text}"), DType::F32, &Device::Cpu)
                        .unwrap()
                        .get(position)
                        .unwrap();
                    let result = Tolerance::Close.check(&logits.get(row).unwrap(), &theirs);
                    let what = format!("{name} text {text} position {position} after {prompt}");
                    differences.check(what, result);
                }
                if prompt + step < len {
                    let next: Vec<u32> = rows
                        .iter()
                        .enumerate()
                        .map(|(row, (_, ids))| ids[start(row) + step])
                        .collect();
                    logits = decoder.decode(&next, &mut state).unwrap();
                }
            }
        }
    }
    differences.assert_none();
}

#[test]
fn an_encoder_has_no_decoder_and_an_empty_prompt_no_logits() {
    let encoder = causal_lm(&golden_dir("heads/bert/for-causal-lm-not-decoder"));
    let error = encoder.decoder().err().unwrap();
    assert!(error.to_string().contains("is_decoder: true"), "{error}");

    let model = causal_lm(&golden_dir("heads/gpt2/for-causal-lm"));
    let decoder = model.decoder().unwrap();
    let error = decoder.prefill(&[&[1, 2], &[]], &[]).unwrap_err();
    assert!(error.to_string().contains("prompt 1 is empty"), "{error}");
    let (mut state, _) = decoder.prefill(&[&[5; 24]], &[]).unwrap();
    let error = decoder.decode(&[5], &mut state).unwrap_err();
    assert!(error.to_string().contains("longer than the 24 positions"), "{error}");
}
