//! The encoder-decoder families of `tests/golden/heads` against transformers: both stacks in one pass, heads over shifted
//! inputs, and generation with the settings of `generate.json`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use super::{CLOSE, read_json, worst};
use crate::auto::{AutoClass, AutoConfig, AutoModel, ModelWithHead, NewHead};
use crate::generation::{Generated, GenerationConfig, generate, model_defaults};
use crate::hub::{Snapshot, Weights};
use crate::models::{Reads, Want};
use crate::nn::Ragged;

const FAMILIES: [&str; 6] = ["bart", "m2m_100", "marian", "mbart", "pegasus", "umt5"];

struct Golden {
    name: String,
    dir: PathBuf,
    json: Value,
    class: AutoClass,
    rows: Vec<Vec<u32>>,
    outputs: Weights,
}

impl Golden {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/heads");
        let mut all = Vec::new();
        for family in FAMILIES {
            for entry in std::fs::read_dir(root.join(family)).unwrap() {
                let dir = entry.unwrap().path();
                let json = read_json(&dir.join("golden.json"));
                all.push(Self {
                    name: format!("{family}/{}", dir.file_name().unwrap().to_string_lossy()),
                    class: AutoClass::find(json["auto_class"].as_str().unwrap()).unwrap(),
                    rows: ids(&json["input_ids"]),
                    outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
                    json,
                    dir,
                });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(all.len() >= 30, "{} goldens", all.len());
        all
    }

    fn snapshot(&self) -> (Snapshot, AutoConfig) {
        let snapshot = Snapshot::local(&self.dir).unwrap();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        (snapshot, config)
    }

    /// The model with the head of `class`, which is new only for goldens of `AutoModel`.
    fn load(&self, class: AutoClass) -> ModelWithHead {
        let (snapshot, config) = self.snapshot();
        let new_head = (self.class == AutoClass::Model).then_some(NewHead { seed: 0 });
        let (dtype, device) = (Some(DType::F32.into()), &Device::Cpu);
        let model = ModelWithHead::load_snapshot(class, &snapshot, config, dtype, device, new_head);
        let model = model.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(model.report().unused, [""; 0], "{}", self.name);
        model
    }

    fn output(&self, name: &str) -> Option<Tensor> {
        self.outputs.shape(name)?;
        Some(self.outputs.tensor(name, DType::F32, &Device::Cpu).unwrap())
    }
}

fn ids(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn rows(ids: &[Vec<u32>]) -> impl Iterator<Item = (&[u32], &[u32])> {
    ids.iter().map(|ids| (&ids[..], &[][..]))
}

fn layers(states: Option<&Vec<Ragged>>, row: usize) -> Option<Tensor> {
    let states: Vec<_> = states?.iter().map(|state| state.row(row).unwrap()).collect();
    Some(Tensor::stack(&states, 0).unwrap())
}

fn attentions(layers: Option<&Vec<Vec<Tensor>>>, row: usize) -> Option<Tensor> {
    let layers: Vec<_> = layers?.iter().map(|layer| layer[row].clone()).collect();
    Some(Tensor::stack(&layers, 0).unwrap())
}

/// Compares what the golden has of `found`; returns the number of comparisons.
fn compare(
    golden: &Golden,
    row: usize,
    found: Vec<(&str, Option<Tensor>)>,
    failures: &mut Vec<String>,
) -> usize {
    let mut compared = 0;
    for (name, ours) in found {
        let name = format!("{name}.{row}");
        let Some((ours, expected)) = ours.zip(golden.output(&name)) else { continue };
        let off = worst(&ours, &expected);
        compared += 1;
        if off.is_nan() || off > CLOSE {
            failures.push(format!("{} {name}: {off:e}", golden.name));
        }
    }
    compared
}

#[test]
fn both_stacks_agree_with_transformers() {
    let (mut failures, mut count) = (Vec::new(), 0);
    for golden in Golden::all() {
        let Some(decoder_rows) = golden.json.get("decoder_input_ids") else { continue };
        count += 1;
        let model = golden.load(AutoClass::Seq2SeqLM);
        let backbone = model.backbone().seq2seq().unwrap();
        let inputs = model.inputs(rows(&golden.rows)).unwrap();
        let decoder_rows = ids(decoder_rows);
        let decoder_inputs = model.inputs(rows(&decoder_rows)).unwrap();
        let mut compared = 0;
        for with_attentions in [false, true] {
            let want = Want { hidden_states: true, attentions: with_attentions, ..Want::default() };
            let output = backbone.forward_seq2seq(&inputs, &decoder_inputs, &want).unwrap();
            for row in 0..golden.rows.len() {
                let last = output.last_hidden_state.row(row).unwrap();
                let encoder_last = output.encoder_last_hidden_state.row(row).unwrap();
                let found = vec![
                    ("logits", Some(model.head().project(&last).unwrap())),
                    ("last_hidden_state", Some(last)),
                    ("encoder_last_hidden_state", Some(encoder_last)),
                    ("encoder_hidden_states", layers(output.encoder_hidden_states.as_ref(), row)),
                    ("decoder_hidden_states", layers(output.decoder_hidden_states.as_ref(), row)),
                    ("encoder_attentions", attentions(output.encoder_attentions.as_ref(), row)),
                    ("decoder_attentions", attentions(output.decoder_attentions.as_ref(), row)),
                    ("cross_attentions", attentions(output.cross_attentions.as_ref(), row)),
                ];
                compared += compare(&golden, row, found, &mut failures);
            }
        }
        assert!(compared >= 20, "{}: {compared}", golden.name);
        // A row alone is bit for bit the row of the batch.
        let want = Want::default();
        let batched = backbone.forward_seq2seq(&inputs, &decoder_inputs, &want).unwrap();
        for row in 0..golden.rows.len() {
            let alone = backbone
                .forward_seq2seq(
                    &model.inputs(rows(&golden.rows[row..=row])).unwrap(),
                    &model.inputs(rows(&decoder_rows[row..=row])).unwrap(),
                    &want,
                )
                .unwrap();
            let off = worst(
                &batched.last_hidden_state.row(row).unwrap(),
                &alone.last_hidden_state.row(0).unwrap(),
            );
            if off.is_nan() || off > 0.0 {
                failures.push(format!("{} row {row} depends on the batch: {off:e}", golden.name));
            }
        }
    }
    assert!(count >= 13, "{count} goldens");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn heads_over_one_pass_agree_with_transformers() {
    let (mut failures, mut count) = (Vec::new(), 0);
    for golden in Golden::all() {
        if golden.json.get("decoder_input_ids").is_some() {
            continue;
        }
        count += 1;
        let want = Want { hidden_states: true, ..Want::default() };
        let (model, logits, reads_tokens, lengths);
        if golden.class == AutoClass::Model {
            let (snapshot, config) = golden.snapshot();
            let base = AutoModel::load_snapshot(&snapshot, config, None, &Device::Cpu).unwrap();
            let inputs = base.inputs(rows(&golden.rows)).unwrap();
            model = base.forward(&inputs, &want).unwrap();
            (logits, reads_tokens, lengths) = (None, true, inputs.lengths);
        } else {
            let head = golden.load(golden.class);
            let inputs = head.inputs(rows(&golden.rows)).unwrap();
            let output = head.forward(&inputs, &want).unwrap();
            model = output.model;
            (logits, lengths) = (Some(output.logits), inputs.lengths);
            reads_tokens = head.head().reads() == Reads::Tokens;
        }
        let mut compared = 0;
        for row in 0..golden.rows.len() {
            let logits = logits.as_ref().map(|logits| {
                if !reads_tokens {
                    return logits.get(row).unwrap();
                }
                let range = lengths.range(row);
                logits.narrow(0, range.start, range.len()).unwrap()
            });
            let column = |number: usize| {
                let logits = logits.as_ref().filter(|logits| reads_tokens && logits.dims()[1] == 2);
                logits.map(|logits| logits.narrow(1, number, 1).unwrap().squeeze(1).unwrap())
            };
            let (start, end) = (column(0), column(1));
            let found = vec![
                ("start_logits", start),
                ("end_logits", end),
                ("logits", logits),
                ("last_hidden_state", Some(model.last_hidden_state.row(row).unwrap())),
                ("decoder_hidden_states", layers(model.hidden_states.as_ref(), row)),
                ("hidden_states", layers(model.hidden_states.as_ref(), row)),
            ];
            compared += compare(&golden, row, found, &mut failures);
        }
        assert!(compared > golden.rows.len(), "{}: {compared}", golden.name);
    }
    assert!(count >= 15, "{count} goldens");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn generated_tokens_are_those_of_transformers() {
    let (mut failures, mut count) = (Vec::new(), 0);
    for golden in Golden::all() {
        if !golden.dir.join("generate.json").is_file() {
            continue;
        }
        count += 1;
        let file = read_json(&golden.dir.join("generate.json"));
        let model = golden.load(golden.class);
        let decoder = model.decoder().unwrap();
        let (snapshot, config) = golden.snapshot();
        let from_file = snapshot.json("generation_config.json").unwrap();
        let from_file = from_file.as_ref().and_then(Value::as_object);
        let settings = model_defaults(from_file, config.json(), config.family().special_token_ids);
        for (number, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            let options = case["settings"].as_object().unwrap();
            let config = GenerationConfig::new(&settings, options).unwrap();
            let cases = case["rows"].as_array().unwrap();
            let prompts: Vec<Vec<u32>> = cases
                .iter()
                .map(|row| serde_json::from_value(row["prompt"].clone()).unwrap())
                .collect();
            let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let run = |prompts: &[&[u32]], budget: usize| -> Vec<Generated> {
                generate(&*decoder, prompts, &config, budget, None).unwrap()
            };
            let alone = prompts.iter().flat_map(|prompt| run(&[prompt], 1)).collect();
            let mut reversed = prompts.clone();
            reversed.reverse();
            let mut reversed = run(&reversed, 10_000);
            reversed.reverse();
            for (how, found) in [
                ("together", run(&prompts, 10_000)),
                ("alone", alone),
                ("few", run(&prompts, 60)),
                ("reversed", reversed),
            ] {
                for (row, found) in cases.iter().zip(found) {
                    let what = format!("{} case {number} {how} {options:?}", golden.name);
                    let expected = row["sequences"].as_array().unwrap();
                    assert_eq!(found.others.len() + 1, expected.len(), "{what}");
                    for (found, expected) in
                        std::iter::once(&found).chain(&found.others).zip(expected)
                    {
                        let tokens: Vec<u32> =
                            serde_json::from_value(expected["tokens"].clone()).unwrap();
                        if found.token_ids != tokens {
                            failures.push(format!("{what}: {:?}, not {tokens:?}", found.token_ids));
                        }
                        let score = expected["sequences_score"].as_f64();
                        let off = score
                            .map(|score| (f64::from(found.sequences_score.unwrap()) - score).abs());
                        // A negative length penalty multiplies the sum.
                        let most = 5e-5 * score.map_or(1.0, |score| score.abs().max(1.0));
                        if off.is_some_and(|off| off > most) {
                            failures.push(format!("{what}: score off by {off:?}"));
                        }
                    }
                }
            }
        }
    }
    assert!(count >= 11, "{count} goldens");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
