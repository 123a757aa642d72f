//! The families of `tests/golden/modern` against transformers, cell by cell.

mod adapters;
mod dtypes;
mod gguf;
mod seq2seq;
#[cfg(feature = "image")]
mod vision;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use crate::auto::{AutoClass, AutoConfig, AutoModel, FAMILIES, ModelDtype, ModelWithHead};
use crate::generation::{Generated, GenerationConfig, generate};
use crate::hub::{Snapshot, Weights};
use crate::models::{Head, ModelOutput, Reads, Want};

/// Another library's f32, after a few layers: relative to the largest number, which is of order 1 to 10.
const CLOSE: f32 = 1e-5;

struct Golden {
    name: String,
    dir: PathBuf,
    json: Value,
    /// Each row by its place, or by that of its text and its choice.
    rows: Vec<(String, Vec<u32>, Vec<u32>)>,
    outputs: Weights,
}

/// Token ids and segment ids of a row.
type Row<'a> = (&'a [u32], &'a [u32]);

/// A model with or without a head.
enum Model {
    Base(AutoModel),
    Head(ModelWithHead),
}

impl Golden {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/modern");
        let families = FAMILIES.iter().map(|family| root.join(family.model_type));
        let families = families.filter(|folder| folder.is_dir());
        let mut dirs: Vec<PathBuf> = families
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        dirs.sort();
        assert!(dirs.len() >= 106, "{} goldens", dirs.len());
        dirs.into_iter().map(Self::read).collect()
    }

    fn read(dir: PathBuf) -> Self {
        let json = read_json(&dir.join("golden.json"));
        Self {
            name: dir
                .iter()
                .rev()
                .take(2)
                .map(|part| part.to_string_lossy())
                .collect::<Vec<_>>()
                .join(" of "),
            rows: read_rows(&json["input_ids"], &json["token_type_ids"]),
            outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
            json,
            dir,
        }
    }

    fn load(&self) -> Model {
        let model = self.load_as(DType::F32.into());
        if let Model::Base(model) = &model {
            assert_eq!(model.report().unused, [""; 0], "{}", self.name);
        }
        model
    }

    fn load_as(&self, dtype: ModelDtype) -> Model {
        let class = self.json["auto_class"].as_str().unwrap();
        let snapshot = Snapshot::local(&self.dir).unwrap();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let device = &Device::Cpu;
        match AutoClass::find(class).unwrap() {
            AutoClass::Model => {
                let model = AutoModel::load_snapshot(&snapshot, config, Some(dtype), device);
                Model::Base(model.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
            }
            class => Model::Head(
                ModelWithHead::load_snapshot(class, &snapshot, config, Some(dtype), device, None)
                    .unwrap_or_else(|error| panic!("{}: {error}", self.name)),
            ),
        }
    }

    fn rows(&self) -> Vec<Row<'_>> {
        self.rows.iter().map(|(_, ids, types)| (&ids[..], &types[..])).collect()
    }

    fn output(&self, name: &str) -> Option<Tensor> {
        let tensor = |name: &str| self.outputs.tensor(name, DType::F32, &Device::Cpu).unwrap();
        if self.outputs.shape(name).is_some() {
            return Some(tensor(name));
        }
        // The logits of a text are those of all its choices.
        let (text, choice) = name.strip_prefix("logits.")?.split_once('.')?;
        let logits = tensor(&format!("logits.{text}"));
        Some(logits.narrow(0, choice.parse().unwrap(), 1).unwrap())
    }
}

impl Model {
    fn run(&self, rows: &[Row<'_>], want: &Want) -> (ModelOutput, Option<Tensor>) {
        let rows = rows.iter().copied();
        match self {
            Self::Base(model) => (model.forward(&model.inputs(rows).unwrap(), want).unwrap(), None),
            Self::Head(model) => {
                let output = model.forward(&model.inputs(rows).unwrap(), want).unwrap();
                (output.model, Some(output.logits))
            }
        }
    }

    fn head(&self) -> Option<&Head> {
        match self {
            Self::Base(_) => None,
            Self::Head(model) => Some(model.head()),
        }
    }
}

/// Rows without segments.
fn plain<'a>(rows: &[&'a [u32]]) -> Vec<Row<'a>> {
    rows.iter().map(|ids| (*ids, &[][..])).collect()
}

fn read_rows(input_ids: &Value, types: &Value) -> Vec<(String, Vec<u32>, Vec<u32>)> {
    let ids = |value: &Value| match value {
        Value::Null => Vec::new(),
        value => serde_json::from_value(value.clone()).unwrap(),
    };
    let mut rows = Vec::new();
    for (i, text) in input_ids.as_array().unwrap().iter().enumerate() {
        if text[0].is_array() {
            let choices = text.as_array().unwrap().iter().enumerate();
            rows.extend(
                choices.map(|(j, choice)| (format!("{i}.{j}"), ids(choice), ids(&types[i][j]))),
            );
        } else {
            rows.push((i.to_string(), ids(text), ids(&types[i])));
        }
    }
    rows
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The largest difference, relative to the largest number where that is above 1.
fn worst(ours: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(ours.dims(), expected.dims());
    if ours.elem_count() == 0 {
        return 0.0;
    }
    let largest = |x: Tensor| {
        let numbers = x.abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        numbers.into_iter().fold(0f32, |a, b| if b > a || b.is_nan() { b } else { a })
    };
    largest((ours - expected).unwrap()) / largest(expected.clone()).max(1.0)
}

/// The outputs of row `row`, by their names in a golden.
fn outputs_of(
    row: usize,
    named: &str,
    rows: &[Row<'_>],
    model: &Model,
    (output, logits): &(ModelOutput, Option<Tensor>),
) -> Vec<(String, Tensor)> {
    let mut found =
        vec![(format!("last_hidden_state.{named}"), output.last_hidden_state.row(row).unwrap())];
    if let Some(states) = &output.hidden_states {
        let states: Vec<_> = states.iter().map(|state| state.row(row).unwrap()).collect();
        // The last one may have another size (OPT).
        if states.iter().all(|state| state.dims() == states[0].dims()) {
            found.push((format!("hidden_states.{named}"), Tensor::stack(&states, 0).unwrap()));
        }
    }
    if let Some(layers) = &output.attentions {
        let layers: Vec<_> = layers.iter().map(|layer| layer[row].clone()).collect();
        found.push((format!("attentions.{named}"), Tensor::stack(&layers, 0).unwrap()));
    }
    let Some(logits) = logits else { return found };
    if model.head().unwrap().reads() == Reads::Tokens {
        let start = rows[..row].iter().map(|row| row.0.len()).sum();
        let logits = logits.narrow(0, start, rows[row].0.len()).unwrap();
        if logits.dim(1).unwrap() == 2 {
            for (column, side) in ["start", "end"].into_iter().enumerate() {
                let logits = logits.narrow(1, column, 1).unwrap().squeeze(1).unwrap();
                found.push((format!("{side}_logits.{named}"), logits));
            }
        }
        found.push((format!("logits.{named}"), logits));
    } else {
        found.push((format!("logits.{named}"), logits.get(row).unwrap()));
    }
    found
}

#[test]
fn models_agree_with_transformers_alone_batched_and_reordered() {
    let mut failures = Vec::new();
    for golden in Golden::all() {
        let model = golden.load();
        let rows = golden.rows();
        let name_of = |row: usize| golden.rows[row].0.as_str();
        let (mut compared, mut off) = (0, 0f32);
        let mut batched = Vec::new();
        for attentions in [false, true] {
            let want = Want { hidden_states: true, attentions, ..Want::default() };
            let output = model.run(&rows, &want);
            for row in 0..rows.len() {
                for (name, ours) in outputs_of(row, name_of(row), &rows, &model, &output) {
                    let Some(expected) = golden.output(&name) else { continue };
                    let found = worst(&ours, &expected);
                    off = if found > off || found.is_nan() { found } else { off };
                    compared += 1;
                }
            }
            if !attentions {
                let all = (0..rows.len())
                    .map(|row| outputs_of(row, name_of(row), &rows, &model, &output));
                batched = all.collect();
            }
        }
        println!("{}: {off:e} in {compared}", golden.name);
        if off.is_nan() || off > CLOSE || compared < 10 {
            failures.push(format!("{}: {off:e} in {compared}", golden.name));
        }
        let want = Want { hidden_states: true, ..Want::default() };
        let order: Vec<usize> = (0..rows.len()).rev().collect();
        let reversed: Vec<Row<'_>> = order.iter().map(|row| rows[*row]).collect();
        let output = model.run(&reversed, &want);
        for (place, row) in order.into_iter().enumerate() {
            let alone = model.run(&rows[row..=row], &want);
            let alone = outputs_of(0, name_of(row), &rows[row..=row], &model, &alone);
            let moved = outputs_of(place, name_of(row), &reversed, &model, &output);
            for ((ours, alone), moved) in batched[row].iter().zip(&alone).zip(&moved) {
                let off = worst(&ours.1, &alone.1).max(worst(&ours.1, &moved.1));
                if off.is_nan() || off > 0.0 {
                    failures
                        .push(format!("{} {} depends on the batch: {off:e}", golden.name, ours.0));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn generated_tokens_are_those_of_transformers() {
    let mut failures = Vec::new();
    for golden in Golden::all() {
        if !golden.dir.join("generate.json").is_file() {
            continue;
        }
        let file = read_json(&golden.dir.join("generate.json"));
        let Model::Head(model) = golden.load() else { unreachable!() };
        let decoder = model.decoder().unwrap();
        for (number, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            let mut options =
                Map::from_iter([("max_new_tokens".to_owned(), file["max_new_tokens"].clone())]);
            for key in ["eos_token_id", "num_beams", "length_penalty"] {
                if let Some(value) = case.get(key).filter(|value| !value.is_null()) {
                    options.insert(key.to_owned(), value.clone());
                }
            }
            let config = GenerationConfig::new(&Map::new(), &options).unwrap();
            let rows = case["rows"].as_array().unwrap();
            let ids = |row: &Value, key: &str| -> Vec<u32> {
                serde_json::from_value(row[key].clone()).unwrap()
            };
            let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(row, "prompt")).collect();
            let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let run = |prompts: &[&[u32]], budget: usize| -> Vec<Generated> {
                generate(&*decoder, prompts, &config, budget, None).unwrap()
            };
            let alone = prompts.iter().flat_map(|prompt| run(&[prompt], 1)).collect();
            for (how, found) in
                [("together", run(&prompts, 10_000)), ("alone", alone), ("few", run(&prompts, 60))]
            {
                for (row, found) in rows.iter().zip(&found) {
                    let what = format!("{} case {number} {how} {}", golden.name, row["prompt"]);
                    let expected = ids(row, "tokens");
                    if found.token_ids != expected {
                        failures.push(format!("{what}: {:?}, not {expected:?}", found.token_ids));
                    }
                    let score = row["sequences_score"].as_f64();
                    let off = score
                        .map(|score| (f64::from(found.sequences_score.unwrap()) - score).abs());
                    if off.is_some_and(|off| off > 5e-5) {
                        failures.push(format!("{what}: score off by {off:?}"));
                    }
                }
            }
            let (_, logits) = decoder.prefill(&prompts, &[]).unwrap();
            for (row, expected) in rows.iter().enumerate() {
                let expected: Vec<f32> =
                    serde_json::from_value(expected["first_logits"].clone()).unwrap();
                let expected = Tensor::new(expected, &Device::Cpu).unwrap();
                let off = worst(&logits.get(row).unwrap().narrow(0, 0, 8).unwrap(), &expected);
                if off.is_nan() || off > CLOSE {
                    failures.push(format!("{} logits off by {off:e}", golden.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let refused = |config: Value| {
        let config = config.as_object().unwrap().clone();
        AutoConfig::from_json(config, &Map::new()).unwrap_err().to_string()
    };
    for (config, text) in [
        (json!({"model_type": "qwen3", "num_key_value_heads": 5}), "`num_key_value_heads: 5`"),
        (json!({"model_type": "llama", "hidden_size": 33}), "`hidden_size: 33`"),
        (
            json!({"model_type": "qwen2", "layer_types": ["full_attention"]}),
            "1 entries, but there are 32",
        ),
        (
            json!({"model_type": "qwen2", "num_hidden_layers": 1, "layer_types": ["chunked_attention"]}),
            "layer type `\"chunked_attention\"`",
        ),
        (
            json!({"model_type": "qwen2", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}),
            "no `sliding_window`",
        ),
        (json!({"model_type": "smollm3", "no_rope_layers": [1]}), "`no_rope_layers`"),
        (
            json!({"model_type": "gemma2", "use_bidirectional_attention": true}),
            "`use_bidirectional_attention: true`",
        ),
        (json!({"model_type": "mistral", "hidden_act": "mish"}), "`hidden_act`"),
        (json!({"model_type": "modernbert", "layer_types": []}), "0 entries, but there are 22"),
        (json!({"model_type": "nomic_bert", "prenorm": true}), "`prenorm: true`"),
        (
            json!({"model_type": "nomic_bert", "rotary_emb_interleaved": true}),
            "`rotary_emb_interleaved: true`",
        ),
        (
            json!({"model_type": "nomic_bert", "rotary_emb_fraction": 0.5}),
            "`rotary_emb_fraction: 0.5`",
        ),
        (json!({"model_type": "nomic_bert", "moe_every_n_layers": 2}), "`moe_every_n_layers: 2`"),
        (json!({"model_type": "nomic_bert", "qkv_proj_bias": true}), "`qkv_proj_bias: true`"),
        (
            json!({"model_type": "nomic_bert", "activation_function": "glu"}),
            "`activation_function`",
        ),
        (
            json!({"model_type": "new", "logn_attention_scale": true}),
            "`logn_attention_scale: true`",
        ),
        (json!({"model_type": "new", "pack_qkv": false}), "`pack_qkv: false`"),
        (json!({"model_type": "gte", "layer_norm_type": "rms_norm"}), "`layer_norm_type"),
        (
            json!({"model_type": "llama", "rope_scaling": {"type": "ntk", "factor": 2.0}}),
            "rope type `ntk` of `rope_scaling`",
        ),
        (
            json!({"model_type": "nomic_bert", "rope_scaling": {"type": "ntk", "factor": 2.0}}),
            "rope type `ntk` of `rope_scaling`",
        ),
        (
            json!({
                "model_type": "new",
                "rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}
            }),
            "`rope_scaling.mixed_b`",
        ),
    ] {
        let found = refused(config);
        assert!(found.contains(text), "{found}");
    }
}

#[test]
fn a_row_without_tokens_stays_empty() {
    let rows: [&[u32]; 2] = [&[], &[5, 6]];
    for golden in Golden::all() {
        let model = golden.load();
        for rows in [&rows[..], &rows[..1]] {
            let (output, logits) = model.run(&plain(rows), &Want::default());
            assert_eq!(output.last_hidden_state.row(0).unwrap().dim(0).unwrap(), 0);
            let finite = |x: &Tensor| {
                x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().all(f32::is_finite)
            };
            let all = logits.iter().chain([&output.last_hidden_state.values]);
            assert!(all.into_iter().all(finite), "{}", golden.name);
        }
    }
}
