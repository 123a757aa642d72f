//! Prompts that begin with the same tokens: the tokens of transformers, and the bits of generation without sharing.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use hfauto::ErrorKind;
use hfauto_pipe::auto::{AutoClass, AutoConfig, ModelDtype, ModelWithHead};
use hfauto_pipe::generation::{
    Generated, GenerationConfig, PrefixCache, generate, generate_with_prefixes,
};
use hfauto_pipe::hub::Snapshot;
use serde_json::{Map, Value, json};

use crate::parity::{Tolerance, device, dtype};
use crate::support::Fixture;

/// The minimum length of a prefix in these tests.
const MIN_TOKENS: usize = 4;

fn golden() -> Value {
    let path = folder().join("prefixes.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/prefixes")
}

fn load(name: &str, dtype: Option<ModelDtype>) -> ModelWithHead {
    let snapshot = Snapshot::local(&folder().join(name)).unwrap();
    let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
    ModelWithHead::load_snapshot(AutoClass::CausalLM, &snapshot, config, dtype, &device(), None)
        .unwrap()
}

fn config(max_new_tokens: &Value, options: &Value) -> GenerationConfig {
    let mut options = options.as_object().unwrap().clone();
    options.insert("max_new_tokens".to_owned(), max_new_tokens.clone());
    GenerationConfig::new(&Map::new(), &options).unwrap()
}

/// The length of a row above which its keys have other frequencies, by the models' `config.json`: prompts that are longer
/// share nothing.
fn limit(model: &str) -> usize {
    let by_length = ["llama/for-causal-lm-dynamic", "phi3/for-causal-lm-longrope"];
    if by_length.iter().any(|name| model.ends_with(name)) { 12 } else { usize::MAX }
}

#[test]
fn generated_tokens_are_those_of_transformers() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 26, "{}", cases.len());
    for case in cases {
        let name = case["model"].as_str().unwrap();
        let model = load(name, Some(dtype()));
        let decoder = model.decoder().unwrap();
        let config = config(&golden["max_new_tokens"], &case["options"]);
        let ids = |row: &Value, key: &str| -> Vec<u32> {
            serde_json::from_value(row[key].clone()).unwrap()
        };
        let rows = case["rows"].as_array().unwrap();
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(row, "prompt")).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let expected: Vec<Vec<u32>> = rows.iter().map(|row| ids(row, "tokens")).collect();

        let apart = PrefixCache::new(usize::MAX);
        let run = |prompts: &[&[u32]], budget, prefixes: &PrefixCache| -> Vec<Generated> {
            generate_with_prefixes(&*decoder, prompts, &config, budget, None, prefixes).unwrap()
        };
        let unshared = run(&prompts, 10_000, &apart);
        assert_eq!(apart.take_saved_tokens(), 0);
        let kept = PrefixCache::new(MIN_TOKENS);
        // All at once; few at a time; once more, with known prefixes; each alone, with known prefixes.
        for (how, budget, prefixes) in [
            ("at once", 10_000, &PrefixCache::new(MIN_TOKENS)),
            ("few", 60, &PrefixCache::new(MIN_TOKENS)),
            ("first", 200, &kept),
            ("again", 200, &kept),
        ] {
            let found = run(&prompts, budget, prefixes);
            let what = format!("{name} {} {how}", case["options"]);
            let tokens: Vec<_> = found.iter().map(|row| row.token_ids.clone()).collect();
            assert_eq!(tokens, expected, "{what}");
            if matches!(device(), Device::Cpu) {
                assert_eq!(found, unshared, "{what}: scores are not bit-equal");
            }
            let saved = prefixes.take_saved_tokens();
            let shared = prompts.iter().filter(|prompt| prompt.len() <= limit(name)).count();
            assert_eq!(saved > 0, shared > 1, "{what}: {saved} of {shared} prompts");
            if how == "again" {
                assert!(saved >= 13 * 4 || shared < prompts.len(), "{what}: {saved}");
            }
        }
        for (prompt, expected) in prompts.iter().zip(&expected) {
            assert_eq!(&run(&[prompt], 200, &kept)[0].token_ids, expected, "{name} alone");
        }
    }
}

/// The logits after a prompt, read at once and after a prefix.
#[test]
fn logits_after_a_prefix_are_those_of_the_whole_prompt() {
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        if limit(name) < usize::MAX {
            continue;
        }
        let model = load(name, Some(dtype()));
        let decoder = model.decoder().unwrap();
        for row in case["rows"].as_array().unwrap() {
            let prompt: Vec<u32> = serde_json::from_value(row["prompt"].clone()).unwrap();
            let (_, whole) = decoder.prefill(&[&prompt], &[]).unwrap();
            let whole = whole.get(0).unwrap();
            // Another kernel computes a single token: neither the prefix nor the rest is one.
            for length in (2..prompt.len() - 1).step_by(3) {
                let (prefix, rest) = prompt.split_at(length);
                let (state, _) = decoder.prefill(&[prefix], &[]).unwrap();
                let mut rows = state.prefix(length, 2).unwrap();
                let after = decoder.extend(&[rest, &rest[..1]], &mut rows).unwrap();
                let after = after.get(0).unwrap();
                let what = format!("{name} {length} of {}", prompt.len());
                if matches!(device(), Device::Cpu) {
                    assert_eq!(bits(&after), bits(&whole), "{what}");
                } else {
                    Tolerance::Close.check(&after, &whole).expect(&what);
                }
                // Rows of one prefix do not write into each other.
                let lengths = (state.len(0), rows.len(0), rows.len(1));
                assert_eq!(lengths, (length, prompt.len(), length + 1));
            }
        }
    }
}

fn bits(logits: &Tensor) -> Vec<u32> {
    logits.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_draw_does_not_depend_on_the_prefix() {
    let golden = golden();
    let case = &golden["cases"][0];
    let model = load(case["model"].as_str().unwrap(), Some(dtype()));
    let decoder = model.decoder().unwrap();
    let options = json!({"do_sample": true, "temperature": 2.0, "seed": 3});
    let config = config(&json!(10), &options);
    let prompts: Vec<Vec<u32>> = case["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| serde_json::from_value(row["prompt"].clone()).unwrap())
        .collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let prefixes = PrefixCache::new(MIN_TOKENS);
    let shared =
        generate_with_prefixes(&*decoder, &prompts, &config, 300, None, &prefixes).unwrap();
    assert!(prefixes.take_saved_tokens() > 0);
    assert_eq!(shared, generate(&*decoder, &prompts, &config, 300, None).unwrap());
}

#[test]
fn an_encoder_decoder_shares_no_prefix() {
    let snapshot = Snapshot::local(&folder().join("../tasks/t5")).unwrap();
    let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
    let class = AutoClass::Seq2SeqLM;
    let model =
        ModelWithHead::load_snapshot(class, &snapshot, config, Some(dtype()), &device(), None)
            .unwrap();
    let decoder = model.decoder().unwrap();
    assert_eq!(decoder.shares_prefixes_up_to(), Some(0));
    let options = json!({"max_new_tokens": 4, "decoder_start_token_id": 0});
    let config = GenerationConfig::new(options.as_object().unwrap(), &Map::new()).unwrap();
    let prompts: [&[u32]; 2] = [&[5, 6, 7, 8, 9, 10, 11], &[5, 6, 7, 8, 9, 10, 12]];
    let prefixes = PrefixCache::new(1);
    let found = generate_with_prefixes(&*decoder, &prompts, &config, 300, None, &prefixes).unwrap();
    assert_eq!(prefixes.take_saved_tokens(), 0);
    assert_eq!(found, generate(&*decoder, &prompts, &config, 300, None).unwrap());
}

/// transformers raises an error in `torch.multinomial`; greedy decoding takes token 0 there as well.
#[test]
fn a_row_that_may_sample_no_token_is_an_error() {
    let golden = golden();
    let model = load(golden["cases"][0]["model"].as_str().unwrap(), Some(dtype()));
    let decoder = model.decoder().unwrap();
    let all: Vec<usize> = (0..decoder.vocab_size()).collect();
    let options = |do_sample: bool| json!({"do_sample": do_sample, "suppress_tokens": all});
    let run = |do_sample| {
        let config = config(&json!(2), &options(do_sample));
        generate(&*decoder, &[&[5, 6]], &config, 100, None)
    };
    let error = run(true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("forbid every token"), "{error}");
    assert_eq!(run(false).unwrap()[0].token_ids, [0, 0]);
}

/// A run counts the prompt tokens that it did not compute.
#[test]
fn the_report_says_what_sharing_saved() {
    let model = folder().join("../tasks/gpt2");
    let fixture = Fixture::new();
    let system = "The little inn by the harbour was quiet, bright and very clean, and the bread";
    let row = |word: &str| format!("{}\n", json!({"text": format!("{system} {word} x")}));
    let rows: String = ["a", "b", "c", "d", "e", "f"].map(row).concat();
    let pipeline = json!({
        "version": 1,
        "source": {"path": "rows.jsonl"},
        "steps": [{"text-generation": {
            "model": model, "input": "text", "output": "out", "max_new_tokens": 2
        }}],
        "sink": {"path": "out.jsonl"},
    });
    fixture.file("rows.jsonl", rows).file("pipeline.yaml", pipeline.to_string());
    let ran = fixture.run(&["run", "pipeline.yaml", "--report", "report.json"]);
    let shown = &ran.succeeds().stdout;
    assert!(shown.contains("tokens reused from prefixes of other rows"), "{shown}");
    let report: Value =
        serde_json::from_slice(&std::fs::read(fixture.path("report.json")).unwrap()).unwrap();
    let counts = &report["run"]["steps"][0]["counts"];
    let (tokens, computed, cached) = (
        counts["tokens"].as_u64().unwrap(),
        counts["computed_tokens"].as_u64().unwrap(),
        counts["cached_tokens"].as_u64().unwrap(),
    );
    assert_eq!(computed + cached, tokens);
    // At least the tokens of the shortest prefix, in all rows but one of each worker.
    assert!(cached >= 32, "{counts}");
    let rows = std::fs::read_to_string(fixture.path("out.jsonl")).unwrap();
    let row =
        |line| serde_json::from_str::<Value>(line).unwrap()["out"]["generated_tokens"].clone();
    let generated: u64 = rows.lines().map(row).filter_map(|tokens| tokens.as_u64()).sum();
    assert!(generated > 0 && counts["generated_tokens"] == generated, "{generated}: {counts}");
    assert!(shown.contains(&format!("{generated} tokens generated, ")), "{shown}");
}
