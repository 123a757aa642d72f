//! Generation against transformers: decoding token by token equals a full forward pass, and the next tokens are the
//! same.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hfauto_pipe::auto::{
    AutoClass, AutoConfig, AutoTokenizer, EncodeOptions, ModelWithHead, NewHead,
};
use hfauto_pipe::generation::{
    Generated, GenerationConfig, StopStrings, generate, log_probabilities, model_defaults,
};
use hfauto_pipe::hub::{Snapshot, Weights};
use hfauto_pipe::models::Want;
use serde_json::{Map, Value};

use crate::parity::{Differences, Tolerance, device, dtype, load};

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn causal_lm(dir: &Path) -> ModelWithHead {
    let snapshot = Snapshot::local(dir).unwrap();
    let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
    let (dtype, device) = (Some(dtype()), device());
    ModelWithHead::load_snapshot(AutoClass::CausalLM, &snapshot, config, dtype, &device, None)
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
        let model = load(&dir);
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

/// The golden's logits at every position, from a prompt of each length and the remaining tokens one by one, several
/// rows at a time. Some families skip padding when they count positions and therefore generate with other positions
/// than a forward pass; `settings.rs` tests these.
#[test]
fn token_by_token_is_all_at_once() {
    let mut differences = Differences::default();
    for name in [
        "gpt2/for-causal-lm",
        "gpt2/for-causal-lm-pre-2020",
        "gpt2/for-causal-lm-relu",
        "gpt2/for-causal-lm-untied",
        "bert/for-causal-lm",
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
            // The first row's prompt is shorter than the others', so lengths always differ.
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

/// A case of `tasks/text-generation` over a column of texts.
struct Case {
    name: String,
    model: PathBuf,
    prompts: Vec<Vec<u32>>,
    config: GenerationConfig,
    expected: Vec<Expected>,
}

#[derive(Debug, PartialEq)]
struct Expected {
    token_ids: Vec<u32>,
    finish_reason: String,
    score: Option<f32>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(golden_dir("tasks/text-generation"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.iter().filter_map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Option<Self> {
        let golden = json(path);
        if golden["input"] != "text" {
            return None;
        }
        let folder = path.parent().unwrap();
        let model = folder.join(golden["model"].as_str().unwrap());
        let snapshot = Snapshot::local(&model).unwrap();
        let mut options = golden["options"].as_object().unwrap().clone();
        if let Some(stop) = options.shift_remove("stop") {
            options.insert("stop_strings".to_owned(), stop);
        }
        let mut settings = object(&snapshot.json("generation_config.json").unwrap().unwrap());
        settings.extend(golden.get("generation_config").map(object).unwrap_or_default());
        let settings = model_defaults(Some(&settings), &Map::new(), &[]);
        let config = GenerationConfig::new(&settings, &options).unwrap();

        let tokenizer = AutoTokenizer::from_snapshot(&snapshot).unwrap();
        let mut case = Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            model,
            prompts: Vec::new(),
            config,
            expected: Vec::new(),
        };
        for (row, text) in golden["rows"].as_array().unwrap().iter().enumerate() {
            let Some(text) = text["text"].as_str() else { continue };
            let mut prompt = tokenizer.encode(text, &EncodeOptions::default()).unwrap().input_ids;
            if options.get("truncation") == Some(&Value::Bool(true)) {
                let room = tokenizer.model_max_length().unwrap();
                let keep = room - case.config.max_new_tokens.unwrap();
                prompt.drain(..prompt.len().saturating_sub(keep));
            }
            case.prompts.push(prompt);
            let expected = &golden["expected"][row];
            case.expected.push(Expected {
                token_ids: serde_json::from_value(golden["generated_ids"][row].clone()).unwrap(),
                finish_reason: expected["finish_reason"].as_str().unwrap().to_owned(),
                score: golden["sequences_scores"][row].as_f64().map(|score| score as f32),
            });
        }
        Some(case)
    }

    fn generate(
        &self,
        model: &ModelWithHead,
        prompts: &[&[u32]],
        max_batch_tokens: usize,
    ) -> Vec<Generated> {
        let tokenizer = AutoTokenizer::from_pretrained(self.model.to_str().unwrap()).unwrap();
        let text = |id: u32| {
            let tokens = ["a".to_owned(), tokenizer.id_to_token(id).unwrap()];
            tokenizer.convert_tokens_to_string(tokens.to_vec()).unwrap().split_off(1)
        };
        let stop = StopStrings::new(&self.config.stop_strings, &text);
        let decoder = model.decoder().unwrap();
        generate(&*decoder, prompts, &self.config, max_batch_tokens, Some(&stop)).unwrap()
    }
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn generated_tokens_are_those_of_transformers() {
    let mut differences = Differences::default();
    let cases = Case::all();
    assert!(cases.len() >= 35, "{} cases", cases.len());
    for case in cases {
        let model = causal_lm(&case.model);
        let prompts: Vec<&[u32]> = case.prompts.iter().map(Vec::as_slice).collect();
        for (row, ours) in case.generate(&model, &prompts, 4096).iter().enumerate() {
            let expected = &case.expected[row];
            let what = format!("{} row {row}", case.name);
            if ours.token_ids != expected.token_ids {
                let text = format!("{:?} instead of {:?}", ours.token_ids, expected.token_ids);
                differences.check(&what, Err(text));
            }
            if ours.finish_reason.name() != expected.finish_reason {
                differences.check(&what, Err(format!("{:?}", ours.finish_reason)));
            }
            match (ours.sequences_score, expected.score) {
                (None, None) => (),
                (Some(ours), Some(expected)) => {
                    // Synthetic scores of order 1: a negative penalty multiplies them by the length.
                    let order = expected.abs().max(1.0);
                    let tensor = |score: f32| Tensor::new(&[score / order], &Device::Cpu).unwrap();
                    let result = Tolerance::Close.check(&tensor(ours), &tensor(expected));
                    differences.check(format!("{what} score"), result);
                }
                other => differences.check(&what, Err(format!("scores {other:?}"))),
            }
        }
    }
    differences.assert_none();
}

#[test]
fn generated_text_does_not_depend_on_neighbours() {
    let mut cases = Case::all();
    let mut sampled: Vec<Case> = Vec::new();
    for (seed, options) in [
        (1, serde_json::json!({})),
        (2, serde_json::json!({"top_k": 5, "temperature": 1.5, "repetition_penalty": 1.2})),
        (3, serde_json::json!({"top_k": 0, "top_p": 0.9, "min_p": 0.01})),
    ] {
        let mut options = object(&options);
        options.extend(object(&serde_json::json!(
            {"do_sample": true, "seed": seed, "max_new_tokens": 12}
        )));
        let mut case = Case::read(&golden_dir("tasks/text-generation/several-eos.json")).unwrap();
        let settings = object(&json(&case.model.join("generation_config.json")));
        case.config = GenerationConfig::new(&settings, &options).unwrap();
        case.name = format!("sampled {seed}");
        sampled.push(case);
    }
    cases.extend(sampled);
    for case in cases {
        let model = causal_lm(&case.model);
        let prompts: Vec<&[u32]> = case.prompts.iter().map(Vec::as_slice).collect();
        let together = case.generate(&model, &prompts, 100_000);
        let same = |how: &str, results: &[Generated]| {
            for (row, (ours, expected)) in results.iter().zip(&together).enumerate() {
                assert_eq!(ours.token_ids, expected.token_ids, "{} row {row} {how}", case.name);
                assert_eq!(ours.finish_reason, expected.finish_reason, "{} row {row}", case.name);
            }
        };
        let alone: Vec<Generated> =
            prompts.iter().flat_map(|prompt| case.generate(&model, &[prompt], 1)).collect();
        same("alone", &alone);
        // Few rows at a time: some wait until others have ended.
        let beams = case.config.num_beams;
        for budget in [90 * beams, 1] {
            same("few at a time", &case.generate(&model, &prompts, budget));
        }
        let reversed: Vec<&[u32]> = prompts.iter().rev().copied().collect();
        let mut reversed = case.generate(&model, &reversed, 200 * beams);
        reversed.reverse();
        same("reversed", &reversed);
    }
}

#[test]
fn a_draw_goes_by_seed_and_prompt() {
    let case = Case::read(&golden_dir("tasks/text-generation/greedy.json")).unwrap();
    let model = causal_lm(&case.model);
    let decoder = model.decoder().unwrap();
    let draw = |seed: u64, prompts: &[&[u32]]| -> Vec<Vec<u32>> {
        let options = serde_json::json!({"do_sample": true, "seed": seed, "temperature": 5.0});
        let config = GenerationConfig::new(&Map::new(), &object(&options)).unwrap();
        let results = generate(&*decoder, prompts, &config, 1000, None).unwrap();
        results.into_iter().map(|result| result.token_ids).collect()
    };
    let (a, b) = (&[5u32, 6, 7][..], &[5u32, 6, 8][..]);
    let first = draw(1, &[a, b, a]);
    assert_eq!(first[0], first[2]);
    assert_ne!(first[0], first[1]);
    assert_eq!(first[0].len(), 20);
    assert_eq!(draw(1, &[a])[0], first[0]);
    assert_ne!(draw(2, &[a])[0], first[0]);
}

#[test]
fn a_prompt_without_room_or_beginning_is_an_error() {
    let case = Case::read(&golden_dir("tasks/text-generation/greedy.json")).unwrap();
    let model = causal_lm(&case.model);
    let decoder = model.decoder().unwrap();
    let config = GenerationConfig::default();
    let error = generate(&*decoder, &[&[5; 64]], &config, 100, None).unwrap_err();
    assert!(error.to_string().contains("64 tokens leaves no room"), "{error}");
    let error = generate(&*decoder, &[&[]], &config, 100, None).unwrap_err();
    assert!(error.to_string().contains("bos_token_id"), "{error}");
    assert_eq!(generate(&*decoder, &[], &config, 100, None).unwrap(), []);
    // If the positions end before the requested number of tokens, so does the row.
    let short = generate(&*decoder, &[&[5; 60]], &config, 100, None).unwrap();
    assert_eq!((short[0].token_ids.len(), short[0].finish_reason.name()), (4, "length"));
}

#[test]
fn log_likelihoods_are_those_of_transformers() {
    let golden = json(&golden_dir("tasks/loglikelihood/gpt2.json"));
    let dir = golden_dir("tasks/gpt2");
    let model = causal_lm(&dir);
    let tokenizer = AutoTokenizer::from_pretrained(dir.to_str().unwrap()).unwrap();
    let vocab_size = model.backbone().dimensions().vocab_size;
    let mut compared = 0;
    for (row, text) in golden["rows"].as_array().unwrap().iter().enumerate() {
        let (Some(text), Some(expected)) =
            (text["text"].as_str(), golden["expected"][row]["loglikelihood"].as_f64())
        else {
            continue;
        };
        let ids = tokenizer.encode(text, &EncodeOptions::default()).unwrap().input_ids;
        let inputs = model.inputs([(&ids[..], &[][..])]).unwrap();
        let states =
            model.backbone().forward(&inputs, &Want::default()).unwrap().last_hidden_state.values;
        let states = states.narrow(0, 0, ids.len() - 1).unwrap();
        // Chunks of all states, of three, and of at least one even if the limit is lower.
        for max_elements in [1 << 20, 3 * vocab_size + 1, 1] {
            let ours =
                log_probabilities(model.head(), &states, &ids[1..], vocab_size, max_elements)
                    .unwrap();
            let sum: f64 = ours.iter().sum();
            assert_eq!(ours.len() as u64, golden["expected"][row]["tokens"].as_u64().unwrap());
            assert!((sum - expected).abs() < 1e-3, "{text}: {sum} instead of {expected}");
        }
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
}

/// Decodes token by token with one layer, whose cache does not depend on attention: only the kernel that reads it can
/// change the last bits of logits. The first token sees itself alone, in whatever kernel.
#[test]
fn eager_attention_counts_while_generating() {
    for (folder, class) in [
        ("bert", AutoClass::CausalLM),
        ("heads/gpt2/model", AutoClass::CausalLM),
        ("heads/t5/model", AutoClass::Seq2SeqLM),
    ] {
        let logits = |attn_implementation: &str| -> Vec<Vec<f32>> {
            let mut overrides = Map::new();
            overrides.insert("attn_implementation".into(), attn_implementation.into());
            overrides.insert("num_hidden_layers".into(), 1.into());
            match folder {
                "bert" => overrides.insert("is_decoder".into(), true.into()),
                "heads/t5/model" => overrides.insert("num_decoder_layers".into(), 1.into()),
                _ => None,
            };
            let snapshot = Snapshot::local(&golden_dir(folder)).unwrap();
            let config = AutoConfig::from_snapshot(&snapshot, &overrides).unwrap();
            let new_head = Some(NewHead { seed: 0 });
            let model = ModelWithHead::load_snapshot(
                class,
                &snapshot,
                config,
                None,
                &Device::Cpu,
                new_head,
            );
            let model = model.unwrap();
            let decoder = model.decoder().unwrap();
            let (mut state, first) = decoder.prefill(&[&[5]], &[0]).unwrap();
            let mut all = vec![first];
            all.extend((6..14).map(|token| decoder.decode(&[token], &mut state).unwrap()));
            all.iter().map(|logits| logits.flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        let (eager, fastest) = (logits("eager"), logits("sdpa"));
        assert_eq!(eager[0], fastest[0], "{folder}");
        assert_ne!(eager[1..], fastest[1..], "{folder}");
        for (eager, fastest) in eager.iter().flatten().zip(fastest.iter().flatten()) {
            assert!((eager - fastest).abs() < 1e-4, "{folder}: {eager} and {fastest}");
        }
    }
}
