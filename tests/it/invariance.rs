//! A row's result does not depend on its neighbours: alone = batched = shuffled = with another kernel, for every
//! family.
//!
//! The last digits may differ, because a product over more rows sums in another order: `Tolerance::Reordered`, 5·10⁻⁶
//! for hidden states of order 1. The same batch twice gives identical bits.

use candle_core::Tensor;
use hfauto_pipe::auto::{AutoModel, FAMILIES};
use hfauto_pipe::models::Want;
use hfauto_pipe::nn::{AttnImplementation, Ragged};

use crate::parity::{Golden, Tolerance};

/// The golden's rows, including an empty one.
fn rows(golden: &Golden) -> Vec<(&[u32], &[u32])> {
    let mut rows = golden.rows();
    rows.insert(2, (&[], &[]));
    rows
}

fn for_each_family(check: impl Fn(&Golden)) {
    let goldens = FAMILIES.iter().filter_map(|family| Golden::of_family(family.model_type));
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
