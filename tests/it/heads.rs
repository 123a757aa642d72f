//! Models with heads against transformers: one golden per cell of the table, and per variant.
//!
//! Encoder-decoders and generation are in `t5.rs` and `generation.rs`, image models in `vit.rs`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hfauto::error::{ErrorKind, Result};
use hfauto_pipe::auto::{AutoClass, AutoConfig, FAMILIES, ModelWithHead};
use hfauto_pipe::hub::{Snapshot, Weights};
use hfauto_pipe::models::{Reads, Want};
use serde_json::{Map, Value, json};

use crate::parity::{Differences, Tolerance, device, dtype};

/// A golden of a model with a head.
struct HeadGolden {
    dir: PathBuf,
    name: String,
    model_type: String,
    class: AutoClass,
    /// `(input_ids, token_type_ids)` of each sequence; for multiple choice, of all choices.
    sequences: Vec<(Vec<u32>, Vec<u32>)>,
    /// The sequences of each text.
    texts: Vec<std::ops::Range<usize>>,
    outputs: Weights,
}

impl HeadGolden {
    /// All goldens of the classes that return token logits from one forward pass.
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let folders = FAMILIES.iter().flat_map(|family| {
            ["heads", "modern"].map(|folder| root.join(folder).join(family.model_type))
        });
        let mut dirs: Vec<PathBuf> = folders
            .filter(|folder| folder.is_dir())
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|dir| dir.unwrap().path())
            .collect();
        dirs.sort();
        dirs.iter().filter_map(|dir| Self::read(dir)).collect()
    }

    fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let class = AutoClass::find(json["auto_class"].as_str()?)?;
        if matches!(
            class,
            AutoClass::Model
                | AutoClass::Seq2SeqLM
                | AutoClass::ImageClassification
                | AutoClass::ZeroShotImageClassification
        ) {
            return None;
        }
        let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        let (mut sequences, mut texts) = (Vec::new(), Vec::new());
        for (row, input_ids) in json["input_ids"].as_array().unwrap().iter().enumerate() {
            let types = &json["token_type_ids"][row];
            let start = sequences.len();
            let nested = input_ids[0].is_array();
            for choice in 0..if nested { input_ids.as_array().unwrap().len() } else { 1 } {
                let pick = |value: &Value| {
                    if value.is_null() {
                        Vec::new()
                    } else if nested {
                        ids(&value[choice])
                    } else {
                        ids(value)
                    }
                };
                sequences.push((pick(input_ids), pick(types)));
            }
            texts.push(start..sequences.len());
        }
        let family = dir.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        Some(Self {
            name: format!("{family}/{}", dir.file_name().unwrap().to_string_lossy()),
            model_type: family,
            class,
            sequences,
            texts,
            outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
            dir: dir.to_path_buf(),
        })
    }

    fn load(&self) -> Result<ModelWithHead> {
        load(&self.dir, self.class, &Map::new())
    }

    fn output(&self, name: &str) -> Option<Tensor> {
        self.outputs.shape(name)?;
        Some(self.outputs.tensor(name, DType::F32, &Device::Cpu).unwrap())
    }

    fn rows(&self) -> Vec<(&[u32], &[u32])> {
        self.sequences.iter().map(|(ids, types)| (&ids[..], &types[..])).collect()
    }
}

fn load(dir: &Path, class: AutoClass, overrides: &Map<String, Value>) -> Result<ModelWithHead> {
    let snapshot = Snapshot::local(dir)?;
    let config = AutoConfig::from_snapshot(&snapshot, overrides)?;
    ModelWithHead::load_snapshot(class, &snapshot, config, Some(dtype()), &device(), None)
}

/// The logits of sequence `i`: `(tokens, n)` or `(n)`.
fn logits_of(
    model: &ModelWithHead,
    logits: &Tensor,
    rows: &[(&[u32], &[u32])],
    i: usize,
) -> Tensor {
    if model.head().reads() == Reads::Tokens {
        let start: usize = rows[..i].iter().map(|(ids, _)| ids.len()).sum();
        logits.narrow(0, start, rows[i].0.len()).unwrap()
    } else {
        logits.get(i).unwrap()
    }
}

#[test]
fn heads_agree_with_transformers() {
    let mut differences = Differences::default();
    let mut seen = Vec::new();
    for golden in HeadGolden::all() {
        let model = match golden.load() {
            Ok(model) => model,
            Err(error) => {
                differences.check(&golden.name, Err(error.to_string()));
                continue;
            }
        };
        seen.push((golden.model_type.clone(), golden.class));
        let rows = golden.rows();
        let inputs = model.inputs(rows.iter().copied()).unwrap();
        for attentions in [false, true] {
            let want = Want { hidden_states: true, attentions, ..Want::default() };
            let output = model.forward(&inputs, &want).unwrap();
            let mut check = |name: String, ours: &Tensor| {
                let Some(expected) = golden.output(&name) else { return false };
                let what = format!("{} {name} (attentions: {attentions})", golden.name);
                differences.check(what, Tolerance::Close.check(ours, &expected));
                true
            };
            let mut compared = 0;
            for (text, sequences) in golden.texts.iter().enumerate() {
                let parts: Vec<Tensor> = sequences
                    .clone()
                    .map(|i| logits_of(&model, &output.logits, &rows, i))
                    .collect();
                let logits = if golden.class == AutoClass::MultipleChoice {
                    Tensor::cat(&parts, 0).unwrap()
                } else {
                    parts[0].clone()
                };
                if golden.class == AutoClass::QuestionAnswering {
                    for (column, side) in ["start", "end"].into_iter().enumerate() {
                        let side_logits = logits.narrow(1, column, 1).unwrap().squeeze(1).unwrap();
                        compared +=
                            usize::from(check(format!("{side}_logits.{text}"), &side_logits));
                    }
                } else {
                    compared += usize::from(check(format!("logits.{text}"), &logits));
                }
                let first = sequences.start;
                let states: Vec<Tensor> = output
                    .model
                    .hidden_states
                    .iter()
                    .flatten()
                    .map(|state| state.row(first).unwrap())
                    .collect();
                let suffix = if golden.class == AutoClass::MultipleChoice {
                    format!("{text}.0")
                } else {
                    text.to_string()
                };
                // The last state of some models has another size; their goldens have only that one.
                if states.iter().all(|state| state.dims() == states[0].dims()) {
                    check(format!("hidden_states.{suffix}"), &Tensor::stack(&states, 0).unwrap());
                }
                let last = output.model.last_hidden_state.row(first).unwrap();
                check(format!("last_hidden_state.{suffix}"), &last);
                if attentions {
                    let layers = output.model.attentions.iter().flatten();
                    let layers: Vec<Tensor> = layers.map(|layer| layer[first].clone()).collect();
                    check(format!("attentions.{suffix}"), &Tensor::stack(&layers, 0).unwrap());
                }
            }
            assert!(compared > 0, "{} compares nothing", golden.name);
        }
    }
    // Every cell of the table with logits from one pass has been covered.
    for family in &FAMILIES {
        for class in family.classes() {
            let elsewhere = matches!(
                class,
                AutoClass::Model
                    | AutoClass::Seq2SeqLM
                    | AutoClass::ImageClassification
                    | AutoClass::ZeroShotImageClassification
            );
            let cell = (family.model_type.to_owned(), class);
            if !elsewhere && !seen.contains(&cell) {
                differences.check(format!("{cell:?}"), Err("no golden".to_owned()));
            }
        }
    }
    differences.assert_none();
}

#[test]
fn logits_do_not_depend_on_neighbours() {
    let mut differences = Differences::default();
    for golden in HeadGolden::all() {
        let Ok(model) = golden.load() else { continue };
        let rows = golden.rows();
        let run = |rows: &[(&[u32], &[u32])]| {
            let inputs = model.inputs(rows.iter().copied()).unwrap();
            model.forward(&inputs, &Want::default()).unwrap().logits
        };
        let batched = run(&rows);
        let reversed_rows: Vec<_> = rows.iter().rev().copied().collect();
        let reversed = run(&reversed_rows);
        for i in 0..rows.len() {
            let expected = logits_of(&model, &batched, &rows, i);
            let alone = logits_of(&model, &run(&rows[i..=i]), &rows[i..=i], 0);
            let shuffled = logits_of(&model, &reversed, &reversed_rows, rows.len() - 1 - i);
            for (how, ours) in [("alone", alone), ("reversed", shuffled)] {
                let result = Tolerance::Reordered.check(&ours, &expected);
                differences.check(format!("{} sequence {i} {how}", golden.name), result);
            }
        }
    }
    differences.assert_none();
}

#[test]
fn a_class_that_the_family_lacks_is_refused_with_those_that_it_has() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/distilbert");
    let error = load(&dir, AutoClass::CausalLM, &Map::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("model_type `distilbert` has no `AutoModelForCausalLM`"), "{text}");
    assert!(text.contains("AutoModelForMaskedLM, AutoModelForSequenceClassification"), "{text}");
    assert!(text.contains("`AutoModelForCausalLM` works with bart, bert"), "{text}");
}

#[test]
fn a_missing_head_is_an_error_or_is_created_from_the_seed() {
    use hfauto_pipe::auto::AutoModelForSequenceClassification as Classifier;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert");
    let id = dir.to_str().unwrap();
    let text = Classifier::builder(id).require_head().load().unwrap_err().to_string();
    assert!(text.contains("the checkpoint has no head of this kind"), "{text}");
    assert!(text.contains("`classifier.weight`: missing, expected [2, 32]"), "{text}");
    assert!(text.contains("allow_new_head"), "{text}");

    let logits = |seed: u64| {
        let model = Classifier::builder(id).num_labels(3).seed(seed).load().unwrap();
        assert_eq!(model.report().new, ["classifier.bias", "classifier.weight"]);
        let inputs = model.inputs([(&[2u32, 9, 3][..], &[0u32; 3][..])]).unwrap();
        let logits = model.forward(&inputs, &Want::default()).unwrap().logits;
        logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (first, again, other) = (logits(1), logits(1), logits(2));
    assert_eq!(first.len(), 3);
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(first.iter().any(|logit| logit.abs() > 1e-4), "{first:?}");
}

#[test]
fn labels_are_as_many_as_the_head_has_rows() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/heads/bert/for-sequence-classification-50-labels");
    // `num_labels: 50` beside an `id2label` with two entries, as old libraries wrote it.
    let model = load(&dir, AutoClass::SequenceClassification, &Map::new()).unwrap();
    assert_eq!(model.config().id2label().len(), 50);
    assert_eq!(model.config().label(49).unwrap(), "LABEL_49");

    let two = json!({"num_labels": 2}).as_object().unwrap().clone();
    let error = load(&dir, AutoClass::SequenceClassification, &two);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("expected [2, ") && text.contains("found [50, "), "{text}");
    assert!(text.contains("hint: the head has 50 labels: set `num_labels: 50`"), "{text}");
}
