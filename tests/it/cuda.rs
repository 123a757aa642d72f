//! GPU kernels against candle's operations on the CPU, in f32 over the same rounded values. Without a GPU, the tests
//! are skipped; `just test-cuda` runs them, and the goldens, on a GPU.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use hfauto_pipe::nn::cuda::{device, device_count};
use hfauto_pipe::nn::{
    Activation, Alibi, AlibiForm, AttentionOptions, Embedding, KvCache, LayerNorm, Lengths, Linear,
    ModelInputs, Pooling, PoolingMode, PositionIds, Ragged, RmsNorm, VarBuilder, attention,
    attention_cached, attention_over, to_host,
};

use super::support::skip;

/// The first GPU.
fn card_or_skip() -> Option<Device> {
    if device_count() == 0 {
        skip("no NVIDIA card");
        return None;
    }
    Some(device(0).unwrap())
}

/// Weights for a layer to load.
fn weights(tensors: &[(&str, &Tensor)]) -> VarBuilder<'static> {
    let (dtype, device) = (tensors[0].1.dtype(), tensors[0].1.device().clone());
    let tensors: HashMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| ((*name).to_owned(), (*tensor).clone())).collect();
    VarBuilder::from_tensors(tensors, dtype, &device)
}

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

/// A few times half a unit in the last place of a number of order 1.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 2e-5,
        DType::F16 => 4e-3,
        _ => 3e-2,
    }
}

/// The same values, rounded to `dtype`: on the GPU, and as f32 on the CPU.
fn pair(x: &Tensor, dtype: DType, card: &Device) -> Result<(Tensor, Tensor)> {
    let rounded = x.to_dtype(dtype)?;
    Ok((rounded.to_device(card)?, rounded.to_dtype(DType::F32)?))
}

fn random(shape: &[usize], scale: f64) -> Result<Tensor> {
    Tensor::randn(0f32, 1., shape, &Device::Cpu)? * scale
}

fn assert_close(ours: &Tensor, expected: &Tensor, dtype: DType, what: &str) -> Result<()> {
    assert_eq!(ours.dims(), expected.dims(), "{what}");
    let (ours, expected) = (to_host(ours)?, to_host(expected)?);
    let size = expected.iter().fold(1f32, |most, x| most.max(x.abs()));
    let mut worst = 0f32;
    for (ours, expected) in ours.iter().zip(&expected) {
        let off = (ours - expected).abs();
        assert!(!off.is_nan(), "{what}: {ours} instead of {expected}");
        worst = worst.max(off);
    }
    assert!(worst <= tolerance(dtype) * size, "{what}, {dtype:?}: off by {worst:e} of {size}");
    Ok(())
}

#[test]
fn a_linear_layer() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    for dtype in HALVES {
        for (tokens, inner, width) in
            [(1, 8, 8), (3, 384, 1152), (257, 768, 3072), (64, 31, 2), (0, 8, 4)]
        {
            let (x, x_cpu) = pair(&random(&[tokens, inner], 1.)?, dtype, &card)?;
            let (weight, weight_cpu) =
                pair(&random(&[width, inner], 1. / (inner as f64).sqrt())?, dtype, &card)?;
            let (bias, bias_cpu) = pair(&random(&[width], 1.)?, dtype, &card)?;
            let what = format!("{tokens}x{inner}x{width}");
            let without = Linear::new(weight.clone(), None);
            let layer = Linear::new(weight, Some(bias));
            if tokens > 0 {
                let expected = x_cpu.matmul(&weight_cpu.t()?)?;
                assert_close(&without.forward(&x)?, &expected, dtype, &what)?;
                let expected = expected.broadcast_add(&bias_cpu)?;
                assert_close(&layer.forward(&x)?, &expected, dtype, &what)?;
                let ours = layer.forward_activated(&x, Activation::Gelu)?;
                assert_close(&ours, &Activation::Gelu.forward(&expected)?, dtype, &what)?;
            }
            assert_eq!(layer.forward(&x)?.dims(), [tokens, width]);
            assert!(
                layer
                    .forward(&random(&[2, inner + 1], 1.)?.to_dtype(dtype)?.to_device(&card)?)
                    .is_err()
            );
        }
    }
    Ok(())
}

#[test]
fn activations_and_norms() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let (x, x_cpu) = pair(&random(&[37, 51], 3.)?, dtype, &card)?;
        for activation in [
            Activation::Identity,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::QuickGelu,
            Activation::Relu,
            Activation::Sigmoid,
            Activation::Silu,
            Activation::Tanh,
        ] {
            let what = format!("{activation:?}");
            assert_close(&activation.forward(&x)?, &activation.forward(&x_cpu)?, dtype, &what)?;
            // The input is unchanged.
            assert_close(&x, &x_cpu, DType::F32, &what)?;
        }
        // Widths of whole packs and of partial ones, within registers and beyond.
        for width in [8, 32, 50, 384, 768, 1024, 1500, 2048] {
            let (x, x_cpu) = pair(&(random(&[9, width], 1.)? + 2.)?, dtype, &card)?;
            let (residual, residual_cpu) = pair(&random(&[9, width], 1.)?, dtype, &card)?;
            let (weight, weight_cpu) = pair(&random(&[width], 1.)?, dtype, &card)?;
            let (bias, bias_cpu) = pair(&random(&[width], 1.)?, dtype, &card)?;
            let formula = |x: &Tensor, mean: bool| -> Result<Tensor> {
                let x = if mean { x.broadcast_sub(&x.mean_keepdim(1)?)? } else { x.clone() };
                let root = (x.sqr()?.mean_keepdim(1)? + 1e-6)?.sqrt()?;
                let scaled = x.broadcast_div(&root)?.broadcast_mul(&weight_cpu)?;
                if mean { scaled.broadcast_add(&bias_cpu) } else { Ok(scaled) }
            };
            let vb = weights(&[("weight", &weight), ("bias", &bias)]);
            let layer_norm = LayerNorm::load(vb, width, 1e-6)?;
            let ours = layer_norm.forward_residual(&x, &residual)?;
            let expected = formula(&(&x_cpu + &residual_cpu)?, true)?;
            assert_close(&ours, &expected, dtype, &format!("LayerNorm of {width}"))?;
            let ours = layer_norm.forward(&x)?;
            assert_close(&ours, &formula(&x_cpu, true)?, dtype, &format!("LayerNorm of {width}"))?;
            let ours = RmsNorm::load(weights(&[("weight", &weight)]), width, 1e-6)?.forward(&x)?;
            assert_close(&ours, &formula(&x_cpu, false)?, dtype, &format!("RMSNorm of {width}"))?;
        }
    }
    Ok(())
}

#[test]
fn lookups_and_pooling() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for width in [24, 13] {
            let (table, table_cpu) = pair(&random(&[10, width], 1.)?, dtype, &card)?;
            let ids = Tensor::new(&[9u32, 0, 3, 3], &card)?;
            let expected =
                table_cpu.index_select(&Tensor::new(&[9u32, 0, 3, 3], &Device::Cpu)?, 0)?;
            let table = Embedding::load(weights(&[("weight", &table)]), 10, width)?;
            assert_close(&table.forward(&ids)?, &expected, DType::F32, "lookup")?;
            let outside = table.forward(&Tensor::new(&[1u32, 10], &card)?)?;
            let numbers = to_host(&outside)?;
            assert!(numbers[..width].iter().all(|x| x.is_finite()));
            assert!(numbers[width..].iter().all(|x| x.is_nan()));
        }
        let lengths = Lengths::new([3, 0, 1, 40]);
        for width in [16, 1029] {
            let (values, values_cpu) = pair(&random(&[44, width], 1.)?, dtype, &card)?;
            for include_prompt in [true, false] {
                let pooling = Pooling::new(PoolingMode::ALL, include_prompt);
                let pool = |values: Tensor| {
                    pooling.forward(&Ragged { values, lengths: lengths.clone() }, 2)
                };
                let ours = pool(values.clone())?;
                assert_eq!(ours.dtype(), DType::F32);
                assert_close(&ours, &pool(values_cpu.clone())?, DType::F32, "pooling")?;
            }
        }
    }
    Ok(())
}

#[test]
fn copies_go_both_ways_in_order() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    for count in [0, 1, 1000, 300_000] {
        let ids: Vec<u32> = (0..count).map(|i| i * 3).collect();
        let inputs = |ids: &[u32]| ModelInputs::new([(ids, &[][..])], PositionIds::FromZero, &card);
        let tensors = inputs(&ids)?;
        // The staging memory is reused immediately.
        inputs(&vec![7; count as usize])?;
        let back = to_host(&tensors.input_ids)?;
        assert!(back.iter().zip(&ids).all(|(a, b)| *a == *b as f32), "{count}");
        let back = to_host(&tensors.position_ids)?;
        assert!(back.iter().enumerate().all(|(i, a)| *a == i as f32), "{count}");
        assert_eq!(back.len(), count as usize);
        assert_eq!(to_host(&tensors.cumulative_lengths)?, [0.0, count as f32]);
    }
    Ok(())
}

/// Options of attention with `num_heads` heads of `head_dim`.
fn options(num_heads: usize, head_dim: usize, causal: bool) -> AttentionOptions<'static> {
    AttentionOptions::new(num_heads, head_dim).with_causal(causal)
}

fn inputs(lengths: &[usize], device: &Device) -> Result<ModelInputs> {
    let rows: Vec<Vec<u32>> = lengths.iter().map(|&len| vec![0; len]).collect();
    ModelInputs::new(rows.iter().map(|row| (&row[..], &[][..])), PositionIds::FromZero, device)
}

#[test]
fn attention_over_ragged_rows() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    let rows: [&[usize]; 5] =
        [&[1], &[5, 0, 16, 1], &[17, 3, 64, 65], &[130, 2, 200, 63], &[512, 511]];
    for dtype in HALVES {
        for head_dim in [8, 16, 24, 32, 64, 80, 96, 128] {
            for lengths in rows {
                let (num_heads, total) = (3, lengths.iter().sum::<usize>());
                let hidden_size = num_heads * head_dim;
                // Queries, keys and values are views of one product.
                let (qkv, qkv_cpu) = pair(&random(&[total, 3 * hidden_size], 1.)?, dtype, &card)?;
                let part = |x: &Tensor, i| x.narrow(1, i * hidden_size, hidden_size);
                let longest = lengths.iter().copied().max().unwrap_or(0);
                let (bias, bias_cpu) =
                    pair(&random(&[num_heads, longest + 1, longest + 3], 1.)?, dtype, &card)?;
                let by_key = AlibiForm::Bf16Key { scale: 0.25 };
                for (causal, with_bias, form) in [
                    (false, false, None),
                    (true, false, None),
                    (false, true, None),
                    (true, false, Some(AlibiForm::Distance)),
                    (false, true, Some(AlibiForm::Distance)),
                    (true, false, Some(by_key)),
                ] {
                    let run = |qkv: &Tensor, device: &Device, bias| -> Result<Tensor> {
                        let alibi = form.map(|form| Alibi::new(num_heads, form, device));
                        let alibi = alibi.transpose()?;
                        let options = options(num_heads, head_dim, causal).with_bias(bias);
                        let options = options.with_alibi(alibi.as_ref());
                        let inputs = inputs(lengths, device)?;
                        let (q, k, v) = (part(qkv, 0)?, part(qkv, 1)?, part(qkv, 2)?);
                        Ok(attention(&q, &k, &v, &inputs, options)?.values)
                    };
                    let ours = run(&qkv, &card, with_bias.then_some(&bias))?;
                    let expected = run(&qkv_cpu, &Device::Cpu, with_bias.then_some(&bias_cpu))?;
                    let what =
                        format!("heads of {head_dim}, rows {lengths:?}, causal {causal}, {form:?}");
                    assert_close(&ours, &expected, dtype, &what)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_row_is_the_same_among_others() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    let (num_heads, head_dim) = (2, 64);
    let width = num_heads * head_dim;
    let qkv = random(&[16 + 100, 3 * width], 1.)?.to_dtype(DType::BF16)?.to_device(&card)?;
    let run = |from: usize, lengths: &[usize]| -> Result<Vec<f32>> {
        let qkv = qkv.narrow(0, from, lengths.iter().sum())?;
        let part = |i| qkv.narrow(1, i * width, width);
        let options = options(num_heads, head_dim, false);
        let inputs = inputs(lengths, &card)?;
        to_host(&attention(&part(0)?, &part(1)?, &part(2)?, &inputs, options)?.values)
    };
    let (both, alone) = (run(0, &[16, 100])?, run(16, &[100])?);
    assert_eq!(both[16 * width..], alone);
    Ok(())
}

#[test]
fn rows_with_keys_of_their_own() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    let (num_heads, head_dim) = (4, 32);
    let width = num_heads * head_dim;
    let (queries, keys) = (Lengths::new([1, 3, 1]), Lengths::new([70, 9, 1]));
    for dtype in HALVES {
        let (q, q_cpu) = pair(&random(&[5, width], 1.)?, dtype, &card)?;
        let (k, k_cpu) = pair(&random(&[80, width], 1.)?, dtype, &card)?;
        let (v, v_cpu) = pair(&random(&[80, width], 1.)?, dtype, &card)?;
        let run = |q: &Tensor, k: &Tensor, v: &Tensor| -> Result<Tensor> {
            let cache = KvCache::new(k, v, &keys)?;
            let alibi = Alibi::new(num_heads, AlibiForm::Distance, q.device())?;
            let options = options(num_heads, head_dim, true).with_alibi(Some(&alibi));
            Ok(attention_over(q, &queries, &cache, options)?.values)
        };
        assert_close(&run(&q, &k, &v)?, &run(&q_cpu, &k_cpu, &v_cpu)?, dtype, "a cache")?;
    }
    Ok(())
}

#[test]
fn a_cache_grows_and_its_rows_come_and_go() -> Result<()> {
    let Some(card) = card_or_skip() else { return Ok(()) };
    let (num_heads, head_dim) = (2, 16);
    let width = num_heads * head_dim;
    let options = options(num_heads, head_dim, true);
    let (mut ours, mut expected) = (KvCache::default(), KvCache::default());
    // A prefill, single tokens beyond the initial capacity, a repeated row, and a removed row.
    let steps: [(&[usize], Option<&[usize]>); 6] = [
        (&[5, 1, 9], None),
        (&[1, 1, 1], None),
        (&[14, 2, 1], Some(&[2, 0, 0])),
        (&[1, 1, 1], None),
        (&[3, 1, 1], Some(&[1, 2])),
        (&[1, 1], None),
    ];
    for (step, (lengths, then)) in steps.into_iter().enumerate() {
        let total: usize = lengths.iter().sum();
        let (qkv, qkv_cpu) = pair(&random(&[total, 3 * width], 1.)?, DType::F16, &card)?;
        let run = |qkv: &Tensor, cache: &mut KvCache| -> Result<Tensor> {
            let part = |i| qkv.narrow(1, i * width, width);
            let inputs = inputs(lengths, qkv.device())?;
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            Ok(attention_cached(&q, &k, &v, &inputs, Some(cache), options)?.values)
        };
        let what = format!("step {step}");
        assert_close(&run(&qkv, &mut ours)?, &run(&qkv_cpu, &mut expected)?, DType::F16, &what)?;
        if let Some(rows) = then {
            ours.select(rows)?;
            expected.select(rows)?;
        }
    }
    Ok(())
}

#[test]
fn exceeding_the_gpus_memory_is_out_of_memory() {
    let Some(card) = card_or_skip() else { return };
    let (_, all) = hfauto_pipe::nn::cuda::memory(&card).unwrap();
    let error = Tensor::zeros(2 * all, DType::U8, &card).unwrap_err();
    assert!(error.to_string().contains("OUT_OF_MEMORY"), "{error}");
}
