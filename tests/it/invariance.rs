//! A row's result does not depend on its neighbours: alone = batched = shuffled = with another kernel, for every
//! family.
//!
//! The last digits may differ, because a product over more rows sums in another order: `Tolerance::Reordered`, 5·10⁻⁶
//! for hidden states of order 1. The same batch twice gives identical bits.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hfauto_pipe::auto::{AutoClass, AutoConfig, AutoModel, FAMILIES, ModelWithHead};
use hfauto_pipe::generation::{Generated, GenerationConfig, generate};
use hfauto_pipe::hub::Snapshot;
use hfauto_pipe::models::Want;
use hfauto_pipe::nn::{AttnImplementation, Ragged};
use serde_json::{Map, json};

use crate::parity::{Golden, Tolerance};

/// Tokens of a long row: more than the tiny checkpoints are made for, and than their windows.
const LONG: usize = 150;

/// The golden's rows, including an empty one.
fn rows(golden: &Golden) -> Vec<(&[u32], &[u32])> {
    let mut rows = golden.rows();
    rows.insert(2, (&[], &[]));
    rows
}

fn for_each_family(check: impl Fn(&Golden)) {
    let goldens = FAMILIES.iter().filter_map(|family| Golden::of_family(family.model_type));
    let goldens: Vec<Golden> = goldens.collect();
    // All but those that read images, and their encoders of texts.
    let vision = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision");
    let vision = std::fs::read_dir(vision).unwrap().count();
    assert!(goldens.len() + vision + 2 >= FAMILIES.len(), "{} goldens", goldens.len());
    for golden in goldens {
        check(&golden);
    }
}

fn same(what: &str, tolerance: Tolerance, ours: &Tensor, expected: &Tensor) {
    tolerance.check(ours, expected).unwrap_or_else(|text| panic!("{what}: {text}"));
}

fn run(golden: &Golden, rows: &[(&[u32], &[u32])], want: &Want) -> Ragged {
    let model = golden.model();
    let inputs = model.inputs(rows.iter().copied()).unwrap();
    model.forward(&inputs, want).unwrap().last_hidden_state
}

#[test]
fn alone_is_batched() {
    for_each_family(|golden| {
        let rows = rows(golden);
        for want in [Want::default(), Want { attentions: true, ..Want::default() }] {
            let batched = run(golden, &rows, &want);
            for (i, row) in rows.iter().enumerate() {
                let alone = run(golden, &[*row], &want);
                let what = format!("{golden}, row {i}, {want:?}");
                same(&what, Tolerance::Reordered, &alone.values, &batched.row(i).unwrap());
            }
        }
    });
}

#[test]
fn order_does_not_matter() {
    for_each_family(|golden| {
        let rows = rows(golden);
        let batched = run(golden, &rows, &Want::default());
        // A very different order: the second half first, and each half reversed.
        let half = rows.len() / 2;
        let order: Vec<usize> = (half..rows.len()).rev().chain((0..half).rev()).collect();
        let shuffled: Vec<_> = order.iter().map(|&i| rows[i]).collect();
        let shuffled = run(golden, &shuffled, &Want::default());
        for (place, &i) in order.iter().enumerate() {
            let what = format!("{golden}, row {i}");
            let (ours, expected) = (shuffled.row(place).unwrap(), batched.row(i).unwrap());
            same(&what, Tolerance::Reordered, &ours, &expected);
        }
    });
}

#[test]
fn long_and_short_neighbours_do_not_matter() {
    for_each_family(|golden| {
        let longest = golden.input_ids.iter().max_by_key(|ids| ids.len()).unwrap();
        let limit = golden.model().backbone().max_position_embeddings().unwrap_or(LONG);
        let long: Vec<u32> = longest.iter().copied().cycle().take(LONG.min(limit)).collect();
        let zeros = vec![0; long.len()];
        let (long, short) = ((&long[..], &zeros[..]), (&long[..1], &zeros[..1]));
        let want = Want::default();
        let mut rows = rows(golden);
        rows.extend([long, short]);
        for (i, row) in rows.iter().enumerate() {
            let alone = run(golden, &[*row], &want).values;
            for (place, batch) in
                [(1, &[long, *row, short][..]), (0, &[*row, long]), (1, &[short, *row])]
            {
                let what = format!("{golden}, row {i} at {place} of {}", batch.len());
                let among = run(golden, batch, &want).row(place).unwrap();
                same(&what, Tolerance::Reordered, &among, &alone);
            }
        }
    });
}

/// A causal language model of each family, and its variants: several windows, rope types, tied heads.
fn causal_lms() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = FAMILIES.iter().flat_map(|family| {
        ["heads", "modern"].map(|folder| root.join(folder).join(family.model_type))
    });
    let mut dirs: Vec<PathBuf> = folders
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|dir| dir.file_name().unwrap().to_string_lossy().starts_with("for-causal-lm"))
        .collect();
    dirs.sort();
    assert!(dirs.len() > 25, "{} causal language models", dirs.len());
    dirs
}

/// In host memory: on a GPU, the last bits of a row depend on its batch, and a tie in the logits may turn.
#[test]
fn generation_does_not_depend_on_neighbours() {
    const NEW_TOKENS: usize = 8;
    for dir in causal_lms() {
        let snapshot = Snapshot::local(&dir).unwrap();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let (class, dtype) = (AutoClass::CausalLM, Some(DType::F32.into()));
        let model =
            ModelWithHead::load_snapshot(class, &snapshot, config, dtype, &Device::Cpu, None);
        let model = model.unwrap();
        let Ok(decoder) = model.decoder() else {
            // The heads of encoders score every token, but do not generate.
            continue;
        };
        let vocab_size = model.backbone().dimensions().vocab_size;
        let limit = model.backbone().max_position_embeddings().unwrap_or(LONG) - NEW_TOKENS;
        let prompts = [LONG / 2, 1, 9, 2].map(|len| -> Vec<u32> {
            (0..len.min(limit)).map(|i| (5 + (7 * i + 3 * len) % (vocab_size - 5)) as u32).collect()
        });
        let prompts = prompts.each_ref().map(Vec::as_slice);
        for num_beams in [1, 3] {
            let options = json!({"max_new_tokens": NEW_TOKENS, "num_beams": num_beams});
            let options = options.as_object().unwrap();
            let config = GenerationConfig::new(&Map::new(), options).unwrap();
            let run = |prompts: &[&[u32]], budget| -> Vec<Generated> {
                generate(&*decoder, prompts, &config, budget, None).unwrap()
            };
            let alone: Vec<_> = prompts.iter().flat_map(|prompt| run(&[prompt], 1)).collect();
            let mut backwards = prompts;
            backwards.reverse();
            let mut reordered = run(&backwards, 10_000);
            reordered.reverse();
            for found in [run(&prompts, 10_000), run(&prompts, 60), reordered] {
                for (row, (found, alone)) in found.iter().zip(&alone).enumerate() {
                    let what = format!("{}, {num_beams} beams, row {row}", dir.display());
                    assert_eq!(found.token_ids, alone.token_ids, "{what}");
                    let score = |row: &Generated| {
                        Tensor::new(&[row.sequences_score.unwrap_or(0.0)], &Device::Cpu).unwrap()
                    };
                    same(&what, Tolerance::Reordered, &score(found), &score(alone));
                }
            }
        }
    }
}

#[test]
fn kernels_agree() {
    for_each_family(|golden| {
        let rows = rows(golden);
        let per_row = run(golden, &rows, &Want::default());
        let eager = run(golden, &rows, &Want { attentions: true, ..Want::default() });
        let what = golden.to_string();
        same(&what, Tolerance::Reordered, &per_row.values, &eager.values);
    });
}

#[test]
fn the_same_batch_twice_is_equal_bit_for_bit() {
    for_each_family(|golden| {
        let rows = rows(golden);
        let first = run(golden, &rows, &Want::default());
        let second = run(golden, &rows, &Want::default());
        same(&golden.to_string(), Tolerance::Exact, &first.values, &second.values);
    });
}

#[test]
fn batches_without_tokens_are_legal() {
    for_each_family(|golden| {
        let model = golden.model();
        let none: [(&[u32], &[u32]); 2] = [(&[], &[]), (&[], &[])];
        for rows in [&none[..], &[]] {
            for attentions in [false, true] {
                let pooler_output = model.backbone().has_pooler();
                let want = Want { pooler_output, hidden_states: true, attentions };
                let inputs = model.inputs(rows.iter().copied()).unwrap();
                let output = model.forward(&inputs, &want).unwrap();
                assert_eq!(output.last_hidden_state.values.dims(), [0, model.hidden_size()]);
                assert_eq!(output.last_hidden_state.lengths.rows(), rows.len());
                if let Some(pooled) = output.pooler_output {
                    assert_eq!(pooled.dims(), [rows.len(), model.hidden_size()]);
                }
            }
        }
    });
}

#[test]
fn eager_attention_is_a_choice_and_changes_no_result() {
    for_each_family(|golden| {
        let id = golden.dir.to_str().unwrap();
        let rows = rows(golden);
        let fastest = golden.model();
        let eager = AutoModel::builder(id).attn_implementation("eager").load().unwrap();
        let run = |model: &AutoModel| {
            let inputs = model.inputs(rows.iter().copied()).unwrap();
            let chosen = model.config().attn_implementation();
            (chosen, model.forward(&inputs, &Want::default()).unwrap())
        };
        let ((fast_chosen, fastest), (eager_chosen, eager)) = (run(&fastest), run(&eager));
        assert_eq!(fast_chosen, AttnImplementation::Sdpa);
        assert_eq!(eager_chosen, AttnImplementation::Eager);
        let what = golden.to_string();
        let (ours, expected) = (eager.last_hidden_state.values, fastest.last_hidden_state.values);
        same(&what, Tolerance::Reordered, &ours, &expected);
        let refused = AutoModel::builder(id).attn_implementation("flash_attention_2").load();
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("`attn_implementation: \"flash_attention_2\"`"), "{text}");
    });
}

#[test]
fn ids_outside_the_tables_are_errors() {
    for_each_family(|golden| {
        let model = golden.model();
        let vocab_size = model.backbone().dimensions().vocab_size as u32;
        // Relative positions are unbounded.
        let positions = model.backbone().max_position_embeddings();
        let too_long = positions.map(|positions| vec![5; positions + 1]);
        for ids in [Some(vec![vocab_size]), too_long].into_iter().flatten() {
            let zeros = vec![0; ids.len()];
            let output = model
                .inputs([(&ids[..], &zeros[..])])
                .and_then(|inputs| model.forward(&inputs, &Want::default()));
            assert!(output.is_err(), "{golden}: {}", ids.len());
        }
    });
}
