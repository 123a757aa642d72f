//! Angles and turned queries of transformers, for every rope type and spelling; hostile settings.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use serde_json::{Value, json};

use super::super::lengths::Lengths;
use super::{FIRST_POSITIONS, RotaryConfig, RotaryEmbedding, RotaryLayout, Table};
use crate::error;
use crate::nn::random::randn;

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// What each family of the goldens says about its settings.
fn layout(model_type: &str, layer_type: Option<&str>) -> RotaryLayout {
    let nested = |layer_type, theta_key, rope_theta, scaled| RotaryLayout::Nested {
        layer_type,
        theta_key,
        rope_theta,
        scaled,
    };
    match (model_type, layer_type) {
        ("phi3", _) => RotaryLayout::Phi3,
        ("gemma3_text", Some(FULL)) => nested(FULL, "rope_theta", 1e6, true),
        ("gemma3_text", _) => nested(SLIDING, "rope_local_base_freq", 1e4, false),
        ("modernbert", Some(FULL)) => nested(FULL, "global_rope_theta", 160_000.0, true),
        ("modernbert", _) => nested(SLIDING, "local_rope_theta", 1e4, true),
        ("smollm3", _) => RotaryLayout::Flat { rope_theta: 2e6 },
        ("nomic_bert", _) => RotaryLayout::Flat { rope_theta: 1e3 },
        ("gte", _) => RotaryLayout::Gte,
        _ => RotaryLayout::Flat { rope_theta: 1e4 },
    }
}

fn read(config: &Value, layout: RotaryLayout, head_dim: usize) -> error::Result<RotaryConfig> {
    let max = config["max_position_embeddings"].as_u64().unwrap_or(64) as usize;
    RotaryConfig::new(|key| config.get(key), layout, head_dim, max)
}

fn golden() -> (Vec<Value>, HashMap<String, Tensor>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/rotary");
    let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let tensors = folder.join("golden.safetensors");
    let tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
    (json["cases"].as_array().unwrap().clone(), tensors)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Where `ours` is farther than 1e-6 from numbers of order 1.
fn differences(what: &str, ours: &Tensor, expected: &Tensor, found: &mut Vec<String>) {
    assert_eq!(ours.dims(), expected.dims(), "{what}");
    let worst = numbers(ours).into_iter().zip(numbers(expected)).fold(0f32, |worst, (a, b)| {
        let off = (a - b).abs() / b.abs().max(1.0);
        if off <= worst { worst } else { off }
    });
    if worst.is_nan() || worst > 1e-6 {
        found.push(format!("{what}: {worst:e}"));
    }
}

/// A golden's case: its embedding, and the positions of its rows.
fn case(json: &Value) -> (RotaryEmbedding, Vec<Vec<u32>>) {
    let config = &json["config"];
    let layout = layout(config["model_type"].as_str().unwrap(), json["layer_type"].as_str());
    let head_dim = json["head_dim"].as_u64().unwrap() as usize;
    let rows = json["rows"].as_array().unwrap().iter();
    let positions = rows.map(|row| serde_json::from_value(row["positions"].clone()).unwrap());
    (RotaryEmbedding::new(read(config, layout, head_dim).unwrap()), positions.collect())
}

#[test]
fn frequencies_are_those_of_transformers() {
    let (cases, tensors) = golden();
    let mut found = Vec::new();
    for (i, json) in cases.iter().enumerate() {
        let (embedding, rows) = case(json);
        for (j, positions) in rows.iter().enumerate() {
            let what = format!("{} row {j}", json["config"]);
            let seq_len = *positions.iter().max().unwrap() as usize + 1;
            let theirs = numbers(&tensors[&format!("inv_freq.{i}.{j}")]);
            let ours = embedding.config.inv_freq(seq_len);
            // torch rounds a power by SLEEF, to the last digit but one.
            let apart = |(a, b): (&f32, &f32)| a.to_bits().abs_diff(b.to_bits()) > 2;
            if ours.len() != theirs.len() || ours.iter().zip(&theirs).any(apart) {
                found.push(format!("{what}: {ours:?} instead of {theirs:?}"));
            }
            let factor = json["rows"][j]["attention_factor"].as_f64().unwrap() as f32;
            let ours = embedding.config.attention_factor();
            if (ours - factor).abs() > 1e-6 {
                found.push(format!("{what}: attention factor {ours} instead of {factor}"));
            }
            // At any position, by their frequencies: the last digit of a frequency counts far out.
            let (mut angles, n) = (Vec::new(), theirs.len());
            Table::new(theirs, factor).compute(&mut angles, positions.iter().copied());
            let angles = Tensor::from_vec(angles, (positions.len(), 2 * n), &Device::Cpu).unwrap();
            for (name, start) in [("cos", 0), ("sin", n)] {
                let (ours, name) = (angles.narrow(1, start, n).unwrap(), format!("{name}.{i}.{j}"));
                differences(&format!("{what} {name}"), &ours, &tensors[&name], &mut found);
            }
        }
    }
    assert!(cases.len() > 40 && found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn angles_and_rotations_are_those_of_transformers() {
    let (cases, tensors) = golden();
    let mut found = Vec::new();
    for (i, json) in cases.iter().enumerate() {
        let (embedding, rows) = case(json);
        let queries = &tensors[&format!("queries.{}", embedding.config.head_dim())];
        let queries: Vec<Tensor> =
            rows.iter().map(|row| queries.narrow(0, 0, row.len()).unwrap()).collect();
        // All rows of a case at once: none depends on another.
        let lengths = Lengths::new(rows.iter().map(Vec::len));
        let rotation = embedding.rotation(&rows.concat(), &lengths, &Device::Cpu).unwrap();
        let turned = rotation.apply(&Tensor::cat(&queries, 0).unwrap()).unwrap();
        let n = rotation.angles.dim(1).unwrap() / 2;
        for (j, range) in lengths.ranges().enumerate() {
            if rows[j].iter().any(|position| *position > 100) {
                continue;
            }
            let row = |tensor: &Tensor| tensor.narrow(0, range.start, range.len()).unwrap();
            let angles = row(&rotation.angles);
            let (cos, sin) = (angles.narrow(1, 0, n).unwrap(), angles.narrow(1, n, n).unwrap());
            for (name, ours) in [("cos", cos), ("sin", sin), ("turned", row(&turned))] {
                let name = format!("{name}.{i}.{j}");
                let what = format!("{} {name}", json["config"]);
                differences(&what, &ours, &tensors[&name], &mut found);
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn views_and_other_dtypes_turn_alike_and_parts_beyond_stay() -> Result<()> {
    let config = json!({"partial_rotary_factor": 0.5});
    let embedding = RotaryEmbedding::new(read(&config, RotaryLayout::Phi3, 8).unwrap());
    let lengths = Lengths::new([3, 0, 2]);
    let rotation = embedding.rotation(&[0, 1, 2, 7, 8], &lengths, &Device::Cpu)?;
    let fused = randn(0f32, 1., (5, 40), &Device::Cpu)?;
    let view = fused.narrow(1, 8, 16)?;
    let turned = rotation.apply(&view)?;
    assert_eq!(numbers(&turned), numbers(&rotation.apply(&view.contiguous()?)?));
    assert_eq!(numbers(&turned), numbers(&rotation.apply(&view.t()?.contiguous()?.t()?)?));
    let mut found = Vec::new();
    let double = rotation.apply(&view.to_dtype(DType::F64)?)?.to_dtype(DType::F32)?;
    differences("f64", &double, &turned, &mut found);
    assert!(found.is_empty(), "{found:?}");
    let (turned, view) = (turned.reshape((5, 2, 8))?, view.reshape((5, 2, 8))?);
    assert_eq!(numbers(&turned.narrow(2, 4, 4)?), numbers(&view.narrow(2, 4, 4)?));
    assert_eq!(numbers(&turned.get(0)?), numbers(&view.get(0)?));
    assert_ne!(numbers(&turned.get(1)?), numbers(&view.get(1)?));
    assert!(rotation.apply(&fused.narrow(1, 0, 12)?).is_err());
    assert!(rotation.apply(&fused.narrow(0, 0, 4)?).is_err());
    assert!(embedding.rotation(&[0; 4], &lengths, &Device::Cpu).is_err());
    Ok(())
}

#[test]
fn tables_grow_to_what_is_used_and_end_somewhere() {
    let table = Table::new(vec![1.0; 1 << 13], 1.0);
    assert_eq!(table.covering(3).unwrap().len(), FIRST_POSITIONS << 14);
    assert_eq!(table.covering(1000).unwrap().len(), 1024 << 14);
    assert!(table.covering(1025).is_none());
    let (mut near, mut far) = (Vec::new(), Vec::new());
    table.gather(&mut near, &[5], 6);
    table.gather(&mut far, &[5], 1 << 30);
    assert_eq!(near, far);
}

#[test]
fn hostile_settings_are_errors_that_name_the_key() {
    let flat = RotaryLayout::Flat { rope_theta: 1e4 };
    let scaled = |rope_type: &str, more: Value| {
        let mut scaling = json!({"rope_type": rope_type});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"rope_scaling": scaling})
    };
    let long = |short: Value, long: Value| {
        scaled("longrope", json!({"short_factor": short, "long_factor": long}))
    };
    let ones = json!([1, 1, 1, 1]);
    for (config, key) in [
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_theta": -5.0}), "rope_theta"),
        (json!({"rope_theta": 0.5}), "rope_theta"),
        (json!({"rope_theta": 1e300}), "rope_theta"),
        (json!({"rope_theta": "NaN"}), "rope_theta"),
        (json!({"rope_parameters": {"rope_theta": [1]}}), "rope_parameters.rope_theta"),
        (json!({"rope_parameters": []}), "rope_parameters"),
        (json!({"rope_parameters": {"full_attention": {}}}), "rope_parameters.full_attention"),
        (json!({"rope_scaling": 2.0}), "rope_scaling"),
        (json!({"rope_scaling": {"type": 3}}), "rope_scaling.type"),
        (scaled("ntk", json!({"factor": 2})), "rope type `ntk` of `rope_scaling`"),
        (scaled("linear", json!({})), "rope_scaling.factor"),
        (scaled("linear", json!({"factor": 0})), "rope_scaling.factor"),
        (scaled("linear", json!({"factor": 1e300})), "rope_scaling.factor"),
        (scaled("dynamic", json!({"factor": -1})), "rope_scaling.factor"),
        (scaled("linear", json!({"factor": 2, "partial_rotary_factor": 0.5})), "partial_rotary"),
        (scaled("yarn", json!({"factor": 2, "beta_fast": -1})), "rope_scaling.beta_fast"),
        (scaled("yarn", json!({"factor": 2, "truncate": 1})), "rope_scaling.truncate"),
        (
            scaled("yarn", json!({"factor": 2, "original_max_position_embeddings": 0})),
            "rope_scaling.original_max_position_embeddings",
        ),
        (
            scaled("yarn", json!({"original_max_position_embeddings": 1u64 << 40})),
            "original_max_position_embeddings",
        ),
        (long(json!([1, 1, 1]), ones.clone()), "rope_scaling.short_factor"),
        (long(ones.clone(), json!([1, 1, 0, 1])), "rope_scaling.long_factor"),
        (long(ones.clone(), Value::Null), "rope_scaling.long_factor"),
        (
            scaled("llama3", json!({"factor": 8, "low_freq_factor": 4, "high_freq_factor": 4})),
            "rope_scaling.high_freq_factor",
        ),
    ] {
        let error = read(&config, flat, 8).unwrap_err().to_string();
        assert!(error.contains(key), "{config}: {error}");
    }
    let config = json!({});
    for head_dim in [0, 1, 7, usize::MAX] {
        let error = read(&config, flat, head_dim).unwrap_err().to_string();
        assert!(error.contains("`head_dim`"), "{head_dim}: {error}");
    }
    let of_length = |max| RotaryConfig::new(|key| config.get(key), flat, 8, max);
    assert!(of_length(0).unwrap_err().to_string().contains("`max_position_embeddings`"));
    // A length that nothing is allocated for.
    assert!(of_length(1 << 40).is_ok());
    let error = read(&scaled("dynamic", json!({"factor": 2})), flat, 2).unwrap_err();
    assert!(error.to_string().contains("`head_dim: 2`"), "{error}");
    let error = read(&scaled("yarn", json!({"factor": 2})), flat, 8);
    let embedding = RotaryEmbedding::new(error.unwrap());
    let far = embedding.rotation(&[u32::MAX], &Lengths::new([1]), &Device::Cpu).unwrap();
    assert!(numbers(&far.angles).iter().all(|number| number.is_finite()));
}
