//! T5, mT5 and UMT5 against transformers: encoder and decoder in one pass, then token by token. Heads on single texts are in
//! `heads.rs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hfauto_pipe::auto::{
    AutoClass, AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, EncodeOptions, ModelWithHead,
    NewHead,
};
use hfauto_pipe::error::ErrorKind;
use hfauto_pipe::hub::{Snapshot, Weights};
use hfauto_pipe::models::{DecoderState, Want};
use hfauto_pipe::nn::{Ragged, to_host};
use serde_json::{Map, Value};

use crate::parity::{Differences, Tolerance, device, dtype, load};

/// A golden with separate decoder inputs.
struct Seq2SeqGolden {
    name: String,
    dir: PathBuf,
    input_ids: Vec<Vec<u32>>,
    decoder_input_ids: Vec<Vec<u32>>,
    outputs: Weights,
}

fn heads_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/heads")
}

impl Seq2SeqGolden {
    fn all() -> Vec<Self> {
        let mut goldens = Vec::new();
        for family in ["mt5", "t5", "umt5"] {
            for dir in std::fs::read_dir(heads_dir().join(family)).unwrap() {
                goldens.extend(Self::read(&dir.unwrap().path(), family));
            }
        }
        goldens.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<&str> = goldens.iter().map(|golden| &golden.name[..]).collect();
        assert!(
            names.contains(&"mt5/for-seq2seq-lm") && names.contains(&"t5/model"),
            "goldens of T5: {names:?}"
        );
        goldens
    }

    fn read(dir: &Path, family: &str) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let ids = |key: &str| serde_json::from_value(json.get(key)?.clone()).ok();
        Some(Self {
            name: format!("{family}/{}", dir.file_name().unwrap().to_string_lossy()),
            input_ids: ids("input_ids").unwrap(),
            decoder_input_ids: ids("decoder_input_ids")?,
            outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
            dir: dir.to_path_buf(),
        })
    }

    fn named(name: &str) -> Self {
        Self::read(&heads_dir().join(name), name.split('/').next().unwrap()).unwrap()
    }

    /// The model with its language model head; goldens of `AutoModel` may have none.
    fn model(&self) -> ModelWithHead {
        let snapshot = Snapshot::local(&self.dir).unwrap();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let new_head = (!self.has_logits()).then_some(NewHead { seed: 0 });
        ModelWithHead::load_snapshot(
            AutoClass::Seq2SeqLM,
            &snapshot,
            config,
            Some(dtype()),
            &device(),
            new_head,
        )
        .unwrap()
    }

    fn has_logits(&self) -> bool {
        self.outputs.shape("logits.0").is_some()
    }

    fn output(&self, name: &str) -> Option<Tensor> {
        self.outputs.shape(name)?;
        Some(self.outputs.tensor(name, DType::F32, &Device::Cpu).unwrap())
    }
}

fn rows(ids: &[Vec<u32>]) -> impl Iterator<Item = (&[u32], &[u32])> {
    ids.iter().map(|ids| (&ids[..], &[][..]))
}

fn layers_of(states: Option<&Vec<Ragged>>, row: usize) -> Option<Tensor> {
    let states: Vec<_> = states?.iter().map(|state| state.row(row).unwrap()).collect();
    Some(Tensor::stack(&states, 0).unwrap())
}

fn attentions_of(attentions: Option<&Vec<Vec<Tensor>>>, row: usize) -> Option<Tensor> {
    let layers: Vec<_> = attentions?.iter().map(|layer| layer[row].clone()).collect();
    Some(Tensor::stack(&layers, 0).unwrap())
}

#[test]
fn encoder_and_decoder_agree_with_transformers() {
    let mut differences = Differences::default();
    for golden in Seq2SeqGolden::all() {
        let model = golden.model();
        assert!(model.report().unused.is_empty(), "{}", golden.name);
        let inputs = model.inputs(rows(&golden.input_ids)).unwrap();
        let decoder_inputs = model.inputs(rows(&golden.decoder_input_ids)).unwrap();
        let backbone = model.backbone().seq2seq().unwrap();
        let mut compared = std::collections::BTreeMap::<&str, usize>::new();
        for attentions in [false, true] {
            let want = Want { hidden_states: true, attentions, ..Want::default() };
            let output = backbone.forward_seq2seq(&inputs, &decoder_inputs, &want).unwrap();
            for row in 0..golden.input_ids.len() {
                let last = output.last_hidden_state.row(row).unwrap();
                let logits = model.head().project(&last).unwrap();
                let encoder_last = output.encoder_last_hidden_state.row(row).unwrap();
                let encoder_states = layers_of(output.encoder_hidden_states.as_ref(), row);
                let decoder_states = layers_of(output.decoder_hidden_states.as_ref(), row);
                let ours = [
                    ("logits", Some(logits)),
                    ("last_hidden_state", Some(last)),
                    ("encoder_last_hidden_state", Some(encoder_last)),
                    ("encoder_hidden_states", encoder_states),
                    ("decoder_hidden_states", decoder_states),
                    ("encoder_attentions", attentions_of(output.encoder_attentions.as_ref(), row)),
                    ("decoder_attentions", attentions_of(output.decoder_attentions.as_ref(), row)),
                    ("cross_attentions", attentions_of(output.cross_attentions.as_ref(), row)),
                ];
                for (name, ours) in ours {
                    let Some(ours) = ours else {
                        assert!(!attentions, "{name}");
                        continue;
                    };
                    if let Some(expected) = golden.output(&format!("{name}.{row}")) {
                        let result = Tolerance::Close.check(&ours, &expected);
                        differences.check(format!("{} {name}.{row}", golden.name), result);
                        *compared.entry(name).or_default() += 1;
                    }
                }
            }
        }
        assert!(compared.len() >= 7 && compared.values().all(|n| *n >= 2), "{compared:?}");
        let every_row = if golden.has_logits() { "logits" } else { "last_hidden_state" };
        assert_eq!(compared[every_row], 2 * golden.input_ids.len(), "{}", golden.name);
    }
    differences.assert_none();
}

#[test]
fn auto_model_is_the_encoder() {
    let mut differences = Differences::default();
    for golden in Seq2SeqGolden::all() {
        let model = load(&golden.dir);
        assert!(model.report().unused.is_empty(), "{}", golden.name);
        assert!(model.backbone().seq2seq().is_none());
        let inputs = model.inputs(rows(&golden.input_ids)).unwrap();
        let want = Want { hidden_states: true, ..Want::default() };
        let output = model.forward(&inputs, &want).unwrap();
        let mut compared = 0;
        for row in 0..golden.input_ids.len() {
            let last = output.last_hidden_state.row(row).unwrap();
            let states = layers_of(output.hidden_states.as_ref(), row).unwrap();
            assert_eq!(states.dim(0).unwrap(), model.backbone().num_hidden_layers() + 1);
            for (name, ours) in
                [("encoder_last_hidden_state", last), ("encoder_hidden_states", states)]
            {
                if let Some(expected) = golden.output(&format!("{name}.{row}")) {
                    let result = Tolerance::Close.check(&ours, &expected);
                    differences.check(format!("{} {name}.{row}", golden.name), result);
                    compared += 1;
                }
            }
        }
        assert!(compared >= 4, "{}: {compared}", golden.name);
        let want = Want { pooler_output: true, ..Want::default() };
        let error = model.forward(&inputs, &want).unwrap_err();
        assert!(error.to_string().contains("`pooler_output`"), "{error}");
    }
    differences.assert_none();
}

/// Rows join and leave while decoding token by token; each always gives the golden's logits.
#[test]
fn token_by_token_is_all_at_once() {
    let mut differences = Differences::default();
    for golden in Seq2SeqGolden::all().iter().filter(|golden| golden.has_logits()) {
        let model = golden.model();
        let decoder = model.decoder().unwrap();
        assert!(decoder.is_encoder_decoder());
        assert_eq!(decoder.max_position_embeddings(), None);
        let targets = &golden.decoder_input_ids;
        let start = targets[0][0];
        let prompts: Vec<&[u32]> = golden.input_ids.iter().map(|ids| &ids[..]).collect();
        let mut check = |row: usize, position: usize, ours: &Tensor| {
            let expected = golden.output(&format!("logits.{row}")).unwrap();
            let result = Tolerance::Close.check(ours, &expected.get(position).unwrap());
            differences.check(format!("{} row {row} position {position}", golden.name), result);
        };
        // All but the last row start; that one joins two steps later.
        let late = prompts.len() - 1;
        let mut state = DecoderState::default();
        let mut going: Vec<(usize, usize)> = Vec::new();
        let mut compared = 0;
        for step in 0.. {
            if step > 0 && going.is_empty() {
                break;
            }
            if !going.is_empty() {
                let tokens: Vec<u32> =
                    going.iter().map(|(row, position)| targets[*row][*position]).collect();
                let logits = decoder.decode(&tokens, &mut state).unwrap();
                assert_eq!(logits.dims(), [going.len(), decoder.vocab_size()]);
                for (i, (row, position)) in going.iter_mut().enumerate() {
                    check(*row, *position, &logits.get(i).unwrap());
                    *position += 1;
                    compared += 1;
                }
            }
            let join = match step {
                0 => 0..late,
                2 => late..late + 1,
                _ => 0..0,
            };
            if !join.is_empty() {
                let (new, logits) = decoder.prefill(&prompts[join.clone()], &[start]).unwrap();
                for (i, row) in join.clone().enumerate() {
                    check(row, 0, &logits.get(i).unwrap());
                    compared += 1;
                }
                state.extend(new);
                going.extend(join.map(|row| (row, 1)));
            }
            // Finished rows leave, and the others change places.
            let mut order: Vec<usize> =
                (0..going.len()).filter(|i| going[*i].1 < targets[going[*i].0].len()).collect();
            order.reverse();
            state.select(&order).unwrap();
            going = order.iter().map(|i| going[*i]).collect();
        }
        assert_eq!(compared, targets.iter().map(Vec::len).sum::<usize>(), "{}", golden.name);
        // A decoder prompt of several tokens.
        let row = late;
        for len in 2..=targets[row].len() {
            let (state, logits) =
                decoder.prefill(&prompts[row..=row], &targets[row][..len]).unwrap();
            assert_eq!(state.len(0), len);
            check(row, len - 1, &logits.get(0).unwrap());
        }
    }
    differences.assert_none();
}

/// From the texts of every T5 golden, with any head, to the tokens that transformers passed to the model.
#[test]
fn texts_become_the_tokens_of_transformers() {
    let mut compared = 0;
    for family in ["mt5", "t5"] {
        for dir in std::fs::read_dir(heads_dir().join(family)).unwrap() {
            let dir = dir.unwrap().path();
            let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            let tokenizer = AutoTokenizer::from_pretrained(dir.to_str().unwrap()).unwrap();
            let max_length = json["max_length"].as_u64().map(|length| length as usize);
            let options = EncodeOptions { max_length, ..EncodeOptions::default() };
            let expected: Vec<Vec<u32>> =
                serde_json::from_value(json["input_ids"].clone()).unwrap();
            let ours: Vec<Vec<u32>> = if let Some(texts) = json["texts"].as_array() {
                let texts = texts.iter().map(|text| text.as_str().unwrap());
                texts.map(|text| tokenizer.encode(text, &options).unwrap().input_ids).collect()
            } else {
                let pairs: Vec<[String; 2]> =
                    serde_json::from_value(json["pairs"].clone()).unwrap();
                // Outside a batch, an empty second text counts as none.
                let encode = |[first, second]: &[String; 2]| match second.as_str() {
                    "" => tokenizer.encode(first, &options),
                    second => tokenizer.encode_pair(first, second, &options),
                };
                pairs.iter().map(|pair| encode(pair).unwrap().input_ids).collect()
            };
            assert_eq!(ours, expected, "{}", dir.display());
            compared += 1;
        }
    }
    assert!(compared >= 12, "{compared} goldens");
}

#[test]
fn rows_alone_are_rows_together_and_may_be_empty() {
    let mut differences = Differences::default();
    for golden in Seq2SeqGolden::all() {
        let model = golden.model();
        let backbone = model.backbone().seq2seq().unwrap();
        let run = |sources: &[Vec<u32>], targets: &[Vec<u32>]| {
            let inputs = model.inputs(rows(sources)).unwrap();
            let targets = model.inputs(rows(targets)).unwrap();
            backbone.forward_seq2seq(&inputs, &targets, &Want::default()).unwrap()
        };
        let (mut sources, mut targets) =
            (golden.input_ids.clone(), golden.decoder_input_ids.clone());
        sources.extend([vec![], vec![5, 1]]);
        targets.extend([vec![0, 7], vec![]]);
        let together = run(&sources, &targets).last_hidden_state;
        let count = sources.len();
        let reversed: Vec<Vec<u32>> = sources.iter().rev().cloned().collect();
        let reversed_targets: Vec<Vec<u32>> = targets.iter().rev().cloned().collect();
        let reversed = run(&reversed, &reversed_targets).last_hidden_state;
        for row in 0..count {
            let expected = together.row(row).unwrap();
            let alone = run(&sources[row..=row], &targets[row..=row]).last_hidden_state;
            let other = reversed.row(count - 1 - row).unwrap();
            for (how, ours) in [("alone", alone.row(0).unwrap()), ("reversed", other)] {
                let result = Tolerance::Reordered.check(&ours, &expected);
                differences.check(format!("{} row {row} {how}", golden.name), result);
            }
            let finite = to_host(&expected).unwrap().iter().all(|x| x.is_finite());
            assert!(finite, "{} row {row}", golden.name);
        }
        assert_eq!(together.row(count - 1).unwrap().dims()[0], 0);
    }
    differences.assert_none();
}

#[test]
fn the_shared_embeddings_may_have_any_of_their_names() {
    let golden = Seq2SeqGolden::named("t5/for-seq2seq-lm-gated-gelu");
    let tensors =
        candle_core::safetensors::load(golden.dir.join("model.safetensors"), &Device::Cpu).unwrap();
    for name in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
        let dir = tempfile::tempdir().unwrap();
        let renamed: HashMap<&str, Tensor> = tensors
            .iter()
            .map(|(key, tensor)| {
                (if key == "shared.weight" { name } else { &key[..] }, tensor.clone())
            })
            .collect();
        candle_core::safetensors::save(&renamed, dir.path().join("model.safetensors")).unwrap();
        std::fs::copy(golden.dir.join("config.json"), dir.path().join("config.json")).unwrap();
        let renamed = Seq2SeqGolden {
            dir: dir.path().to_path_buf(),
            ..Seq2SeqGolden::named("t5/for-seq2seq-lm-gated-gelu")
        };
        let model = renamed.model();
        assert!(model.report().unused.is_empty() && model.report().new.is_empty());
        let decoder = model.decoder().unwrap();
        let (_, logits) = decoder.prefill(&[&golden.input_ids[1]], &[0]).unwrap();
        let expected = golden.output("logits.1").unwrap().get(0).unwrap();
        Tolerance::Close.check(&logits.get(0).unwrap(), &expected).unwrap();
    }
}

#[test]
fn missing_decoder_settings_are_named() {
    let golden = Seq2SeqGolden::named("t5/for-seq2seq-lm");
    let model = golden.model();
    let decoder = model.decoder().unwrap();
    let text = |error: candle_core::Error| error.to_string();
    let error = decoder.prefill(&[&[5, 1], &[]], &[0]).map(|_| ()).unwrap_err();
    assert!(text(error).contains("prompt 1 is empty"));
    let error = decoder.prefill(&[&[5, 1]], &[]).map(|_| ()).unwrap_err();
    assert!(text(error).contains("no start token"));
    let (mut state, _) = decoder.prefill(&[&[5, 1]], &[0]).unwrap();
    let error = decoder.decode(&[5, 6], &mut state).unwrap_err();
    assert!(text(error).contains("a state of 1 rows got tokens of 2"));
    state.cross_attention.clear();
    let error = decoder.decode(&[5], &mut state).unwrap_err();
    assert!(text(error).contains("1 layers got 1 and 0 caches"));

    // Without a start token, the decoder inputs cannot be derived, as in transformers.
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(golden.dir.join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&config).unwrap();
    config.shift_remove("decoder_start_token_id");
    let config = serde_json::to_string(&config).unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let weights = dir.path().join("model.safetensors");
    std::fs::copy(golden.dir.join("model.safetensors"), weights).unwrap();
    let model = AutoModelForSeq2SeqLM::from_pretrained(dir.path().to_str().unwrap()).unwrap();
    let inputs = model.inputs([(&[5u32, 1][..], &[][..])]).unwrap();
    let error = model.forward(&inputs, &Want::default()).unwrap_err();
    assert!(text(error).contains("`decoder_start_token_id`"));
    let error = AutoModelForSeq2SeqLM::from_pretrained(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert").to_str().unwrap(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
