//! The GGUF files of `tests/golden/gguf` against transformers.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::{CLOSE, plain, read_json, worst};
use crate::auto::{
    AutoClass, AutoConfig, AutoModel, AutoTokenizer, EncodeOptions, LoadReport, ModelDtype,
    ModelWithHead, SentenceTransformerConfig,
};
use crate::generation::{GenerationConfig, generate};
use crate::hub::{Snapshot, Weights};
use crate::models::Want;
use crate::nn::Ragged;
use crate::sentence_transformers::SentenceTransformer;

struct Golden {
    name: String,
    dir: PathBuf,
    json: Value,
    outputs: Weights,
}

fn goldens() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gguf");
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    assert!(dirs.len() >= 29, "{} goldens", dirs.len());
    let golden = |dir: PathBuf| Golden {
        name: dir.file_name().unwrap().to_string_lossy().into_owned(),
        json: read_json(&dir.join("golden.json")),
        outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
        dir,
    };
    dirs.into_iter().map(golden).collect()
}

enum Model {
    Base(AutoModel),
    Head(AutoClass, ModelWithHead),
}

impl Golden {
    /// The file, by its folder.
    fn snapshot(&self) -> Snapshot {
        let snapshot = Snapshot::local(&self.dir).unwrap();
        assert!(snapshot.is_gguf());
        snapshot
    }

    fn ids(&self) -> Vec<Vec<u32>> {
        serde_json::from_value(self.json["input_ids"].clone()).unwrap()
    }

    /// The class that computed it.
    fn class(&self) -> AutoClass {
        let class = self.json["auto_class"].as_str().unwrap_or_default();
        if class.ends_with("ForConditionalGeneration") {
            return AutoClass::Seq2SeqLM;
        }
        if self.outputs.shape("scores.0").is_some() {
            return AutoClass::SequenceClassification;
        }
        let has_logits = self.outputs.shape("logits.0").is_some();
        if has_logits { AutoClass::CausalLM } else { AutoClass::Model }
    }

    fn load(&self, dtype: ModelDtype) -> Model {
        let snapshot = self.snapshot();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let dtype = Some(dtype);
        let class = self.class();
        if class == AutoClass::Model {
            let model = AutoModel::load_snapshot(&snapshot, config, dtype, &Device::Cpu);
            return Model::Base(model.unwrap_or_else(|error| panic!("{}: {error}", self.name)));
        }
        let model =
            ModelWithHead::load_snapshot(class, &snapshot, config, dtype, &Device::Cpu, None);
        Model::Head(class, model.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }
}

impl Model {
    fn report(&self) -> &LoadReport {
        match self {
            Self::Base(model) => model.report(),
            Self::Head(_, model) => model.report(),
        }
    }

    /// The hidden states of a row, and the logits of its last token, the first of a decoder, or the scores of its labels.
    fn row(&self, rows: &[&[u32]], row: usize) -> Vec<(&'static str, Tensor)> {
        let want = Want { hidden_states: true, ..Want::default() };
        let plain_rows = plain(rows);
        let inputs = plain_rows.iter().copied();
        let stack = |states: Vec<Ragged>| {
            let states: Vec<_> = states.iter().map(|state| state.row(row).unwrap()).collect();
            ("hidden_states", Tensor::stack(&states, 0).unwrap())
        };
        match self {
            Self::Base(model) => {
                let output = model.forward(&model.inputs(inputs).unwrap(), &want).unwrap();
                vec![stack(output.hidden_states.unwrap())]
            }
            Self::Head(AutoClass::Seq2SeqLM, model) => {
                let starts = vec![&[0u32][..]; rows.len()];
                let starts = model.inputs(plain(&starts).iter().copied()).unwrap();
                let inputs = model.inputs(inputs).unwrap();
                let backbone = model.backbone().seq2seq().unwrap();
                let output = backbone.forward_seq2seq(&inputs, &starts, &want).unwrap();
                let last = output.last_hidden_state.row(row).unwrap();
                let logits = model.head().project(&last).unwrap().get(0).unwrap();
                vec![stack(output.encoder_hidden_states.unwrap()), ("logits", logits)]
            }
            Self::Head(class, model) => {
                let output = model.forward(&model.inputs(inputs).unwrap(), &want).unwrap();
                let scores = if *class == AutoClass::SequenceClassification {
                    ("scores", output.logits.get(row).unwrap())
                } else {
                    let last = rows[..=row].iter().map(|row| row.len()).sum::<usize>() - 1;
                    ("logits", output.logits.get(last).unwrap())
                };
                vec![stack(output.model.hidden_states.unwrap()), scores]
            }
        }
    }
}

#[test]
fn models_agree_with_transformers_alone_and_batched() {
    let mut failures = Vec::new();
    for golden in goldens() {
        let model = golden.load(DType::F32.into());
        let ids = golden.ids();
        let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        for row in 0..rows.len() {
            let batched = model.row(&rows, row);
            let alone = model.row(&rows[row..=row], 0);
            for ((name, ours), (_, alone)) in batched.iter().zip(&alone) {
                let name = format!("{name}.{row}");
                let expected = golden.outputs.tensor(&name, DType::F32, &Device::Cpu).unwrap();
                let off = worst(ours, &expected);
                println!("{} {name}: {off:e}", golden.name);
                if off.is_nan() || off > CLOSE {
                    failures.push(format!("{} {name}: {off:e}", golden.name));
                }
                if worst(ours, alone) != 0.0 {
                    failures.push(format!("{} {name} depends on the batch", golden.name));
                }
            }
        }
        if !model.report().unused.is_empty() {
            failures.push(format!("{}: unused {:?}", golden.name, model.report().unused));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn weights_stay_in_their_blocks() {
    for golden in goldens() {
        let report = golden.load(DType::F32.into());
        let file = golden.dir.join("model.gguf").metadata().unwrap().len();
        let bytes = report.report().bytes;
        assert!(bytes < file, "{}: {bytes} bytes of {file}", golden.name);
    }
}

#[test]
fn generated_tokens_are_those_of_transformers() {
    for golden in goldens() {
        let rows = golden.json["continuations"].as_array().unwrap();
        let (false, Model::Head(_, model)) = (rows.is_empty(), golden.load(DType::F32.into()))
        else {
            continue;
        };
        let decoder = model.decoder().unwrap();
        let ids = |row: &Value, key: &str| -> Vec<u32> {
            serde_json::from_value(row[key].clone()).unwrap()
        };
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(row, "input_ids")).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let new = ids(&rows[0], "new").len();
        let options = [("max_new_tokens".to_owned(), new.into())];
        let start = ("decoder_start_token_id".to_owned(), 0.into());
        let is_seq2seq = golden.class() == AutoClass::Seq2SeqLM;
        let options = options.into_iter().chain(is_seq2seq.then_some(start)).collect();
        let config = GenerationConfig::new(&Map::new(), &options).unwrap();
        let found = generate(&*decoder, &prompts, &config, 10_000, None).unwrap();
        for (row, found) in rows.iter().zip(found) {
            assert_eq!(found.token_ids, ids(row, "new"), "{}", golden.name);
        }
    }
}

/// Blocks are repacked row by row: a few hundredths off, as from other files.
#[test]
fn int8_and_bf16_are_made_from_blocks() {
    for golden in goldens() {
        let ids = golden.ids();
        let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let exact = golden.load(DType::F32.into()).row(&rows, 0);
        for (dtype, bound) in [(ModelDtype::Int8, 0.2), (DType::BF16.into(), 0.05)] {
            let ours = golden.load(dtype).row(&rows, 0);
            let off = worst(&ours[0].1, &exact[0].1);
            assert!(off < bound, "{} {}: {off}", golden.name, dtype.as_str());
        }
    }
}

#[test]
fn tokenizers_are_those_that_the_files_were_made_from() {
    let mut failures = Vec::new();
    for golden in goldens() {
        let tokenizer = AutoTokenizer::from_snapshot(&golden.snapshot())
            .unwrap_or_else(|error| panic!("{}: {error}", golden.name));
        let strings = golden.json["strings"].as_array().unwrap().iter();
        let mut rows: Vec<(String, Vec<u32>)> =
            strings.map(|row| serde_json::from_value(row.clone()).unwrap()).collect();
        let texts: Vec<String> = serde_json::from_value(golden.json["texts"].clone()).unwrap();
        rows.extend(texts.into_iter().zip(golden.ids()));
        let pairs: Vec<[String; 2]> =
            serde_json::from_value(golden.json.get("pairs").cloned().unwrap_or(json!([]))).unwrap();
        for ([first, second], expected) in pairs.iter().zip(golden.ids()) {
            let found = tokenizer.encode_pair(first, second, &EncodeOptions::default()).unwrap();
            if found.input_ids != expected {
                failures.push(format!("{} {first:?} {second:?}: {found:?}", golden.name));
            }
        }
        for (text, expected) in rows {
            let options = EncodeOptions { max_length: Some(10_000), ..EncodeOptions::default() };
            let found = tokenizer.encode(&text, &options).unwrap().input_ids;
            if found != expected {
                failures.push(format!("{} {text:?}: {found:?}, not {expected:?}", golden.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_pooling_of_a_file_counts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gguf/bert");
    let snapshot = Snapshot::local(&dir.join("model.gguf")).unwrap();
    let config = SentenceTransformerConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
    let text = format!("{:?}", config.modules);
    assert!(text.contains("Cls"), "{text}");
}

#[test]
fn an_embedder_has_the_projections_of_its_file() {
    let golden = goldens().into_iter().find(|golden| golden.name == "gemma-embedding").unwrap();
    let model = SentenceTransformer::builder(golden.dir.to_str().unwrap()).load().unwrap();
    let ids = golden.ids();
    for (row, text) in golden.json["texts"].as_array().unwrap().iter().enumerate() {
        let vectors = model.encode(&[text.as_str().unwrap()]).unwrap();
        let expected = golden.outputs.tensor(&format!("vector.{row}"), DType::F32, &Device::Cpu);
        let ours = Tensor::new(&vectors[0][..], &Device::Cpu).unwrap();
        let off = worst(&ours, &expected.unwrap());
        assert!(off < CLOSE, "{row} of {} tokens: {off:e}", ids[row].len());
    }
}
