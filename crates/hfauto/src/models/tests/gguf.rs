//! The GGUF files of `tests/golden/gguf` against transformers.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use super::{CLOSE, plain, read_json, worst};
use crate::auto::{
    AutoClass, AutoConfig, AutoModel, AutoTokenizer, EncodeOptions, LoadReport, ModelDtype,
    ModelWithHead, SentenceTransformerConfig,
};
use crate::generation::{GenerationConfig, generate};
use crate::hub::{Snapshot, Weights};
use crate::models::{ModelOutput, Want};

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
    assert!(dirs.len() >= 15, "{} goldens", dirs.len());
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
    Causal(ModelWithHead),
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

    fn load(&self, dtype: ModelDtype) -> Model {
        let snapshot = self.snapshot();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let dtype = Some(dtype);
        if self.outputs.shape("logits.0").is_none() {
            let model = AutoModel::load_snapshot(&snapshot, config, dtype, &Device::Cpu);
            return Model::Base(model.unwrap_or_else(|error| panic!("{}: {error}", self.name)));
        }
        let class = AutoClass::CausalLM;
        let model =
            ModelWithHead::load_snapshot(class, &snapshot, config, dtype, &Device::Cpu, None);
        Model::Causal(model.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }
}

impl Model {
    fn report(&self) -> &LoadReport {
        match self {
            Self::Base(model) => model.report(),
            Self::Causal(model) => model.report(),
        }
    }

    fn run(&self, rows: &[&[u32]]) -> (ModelOutput, Option<Tensor>) {
        let want = Want { hidden_states: true, ..Want::default() };
        let rows = plain(rows);
        let rows = rows.iter().copied();
        match self {
            Self::Base(model) => {
                (model.forward(&model.inputs(rows).unwrap(), &want).unwrap(), None)
            }
            Self::Causal(model) => {
                let output = model.forward(&model.inputs(rows).unwrap(), &want).unwrap();
                (output.model, Some(output.logits))
            }
        }
    }

    /// The hidden states of a row, and the logits of its last token.
    fn row(&self, rows: &[&[u32]], row: usize) -> Vec<(&'static str, Tensor)> {
        let (output, logits) = self.run(rows);
        let states = output.hidden_states.unwrap();
        let states: Vec<_> = states.iter().map(|state| state.row(row).unwrap()).collect();
        let mut found = vec![("hidden_states", Tensor::stack(&states, 0).unwrap())];
        if let Some(logits) = logits {
            let last = rows[..=row].iter().map(|row| row.len()).sum::<usize>() - 1;
            found.push(("logits", logits.get(last).unwrap()));
        }
        found
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
        let Model::Causal(model) = golden.load(DType::F32.into()) else { continue };
        let decoder = model.decoder().unwrap();
        let rows = golden.json["continuations"].as_array().unwrap();
        let ids = |row: &Value, key: &str| -> Vec<u32> {
            serde_json::from_value(row[key].clone()).unwrap()
        };
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(row, "input_ids")).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let new = ids(&rows[0], "new").len();
        let options = Map::from_iter([("max_new_tokens".to_owned(), new.into())]);
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
