//! The kernels below the models, each on one core, at the sizes of MiniLM and BERT-base, compared with the measured
//! peak of the core. `--peak` prints only that.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use hfauto::nn::{
    Activation, AttentionOptions, KvCache, LayerNorm, Lengths, Linear, ModelInputs, PositionIds,
    Precision, attention, attention_over,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of attempts; the fastest counts, because noise only slows down.
const TRIES: usize = 9;

fn main() -> Result<()> {
    let peak = peak();
    if std::env::args().any(|arg| arg == "--peak") {
        println!("{peak:.1}");
        return Ok(());
    }
    println!("peak of a core: {peak:.0} GFLOP/s in f32; int8 is shown against four times that\n");
    println!("linear layers, GFLOP/s and GOP/s (share of peak)");
    println!("  tokens x in x out      as loaded       packed         int8");
    for (inputs, outputs) in [(384, 1152), (384, 1536), (1536, 384), (768, 2304), (3072, 768)] {
        for tokens in [1, 8, 64, 512] {
            linear(tokens, inputs, outputs, peak)?;
        }
    }
    println!(
        "\nattention of 12 heads, GFLOP/s of its two products, softmax included (share of f32 peak)"
    );
    println!("                                 f32         int8");
    for head_dim in [32, 64] {
        for tokens in [16, 27, 128, 512] {
            attend(tokens, head_dim, peak)?;
        }
    }
    println!("\ndecoding, one query of 12 heads over a cache, GFLOP/s");
    for (tokens, head_dim) in [(64, 64), (512, 64), (512, 128)] {
        decode(tokens, head_dim)?;
    }
    println!("\npasses over 512 tokens, nanoseconds a number");
    passes()
}

/// The peak GFLOP/s of a core: fused multiply-adds in registers.
fn peak() -> f64 {
    struct Peak;
    impl pulp::WithSimd for Peak {
        type Output = f64;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, simd: S) -> f64 {
            const STEPS: usize = 1_000_000;
            let mut sums = [simd.splat_f32s(0.0); 12];
            let (a, b) = (simd.splat_f32s(black_box(1.0)), simd.splat_f32s(black_box(1e-9)));
            // A closure would be compiled without the instruction set of this function.
            let mut seconds = f64::INFINITY;
            for _ in 0..TRIES {
                let start = Instant::now();
                for _ in 0..STEPS {
                    for sum in &mut sums {
                        *sum = simd.mul_add_e_f32s(a, b, *sum);
                    }
                }
                seconds = start.elapsed().as_secs_f64().min(seconds);
            }
            for sum in sums {
                black_box(simd.reduce_sum_f32s(sum));
            }
            (STEPS * 12 * 2 * S::F32_LANES) as f64 / seconds / 1e9
        }
    }
    pulp::Arch::new().dispatch(Peak)
}

/// The run time of the fastest of a few attempts, in seconds.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let seconds = (0..TRIES).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

/// GFLOP/s; `run` is repeated until the clock can measure it.
fn rate(operations: f64, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let times = (2e8 / operations).ceil().max(1.0);
    let mut result = Ok(());
    let seconds = best(|| {
        for _ in 0..times as usize {
            if result.is_ok() {
                result = run();
            }
        }
    });
    result.map(|()| operations * times / seconds / 1e9)
}

fn linear(tokens: usize, inputs: usize, outputs: usize, peak: f64) -> Result<()> {
    let device = Device::Cpu;
    let x = Tensor::randn(0f32, 1.0, (tokens, inputs), &device)?;
    let bias = Tensor::randn(0f32, 1.0, outputs, &device)?;
    let layer = Linear::new(Tensor::randn(0f32, 1.0, (outputs, inputs), &device)?, Some(bias));
    let pack = |precision| layer.clone().packed(precision, None, &[outputs]);
    let (packed, bf16, int8) =
        (pack(Precision::Full)?, pack(Precision::Bf16)?, pack(Precision::Int8)?);
    print!("  {:<18}", format!("{tokens}x{inputs}x{outputs}"));
    for (layer, peak) in [(&layer, peak), (&packed, peak), (&bf16, peak), (&int8, 4.0 * peak)] {
        let rate = rate(2.0 * (tokens * inputs * outputs) as f64, || {
            black_box(layer.forward(&x)?);
            Ok(())
        })?;
        print!("  {rate:>5.0} ({:>3.0}%)", 100.0 * rate / peak);
    }
    println!();
    Ok(())
}

fn attend(tokens: usize, head_dim: usize, peak: f64) -> Result<()> {
    let hidden_size = 12 * head_dim;
    let rows = 512 / tokens;
    let ids = vec![1u32; tokens];
    let inputs = ModelInputs::new(
        (0..rows).map(|_| (&ids[..], &ids[..])),
        PositionIds::FromZero,
        &Device::Cpu,
    )?;
    let qkv = Tensor::randn(0f32, 1.0, (rows * tokens, 3 * hidden_size), &Device::Cpu)?;
    let part = |i| qkv.narrow(1, i * hidden_size, hidden_size);
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let options = AttentionOptions::new(12, head_dim);
    let operations = (rows * 4 * tokens * tokens * hidden_size) as f64;
    print!("  {:<26}", format!("rows of {tokens}, heads of {head_dim}"));
    for precision in [Precision::Full, Precision::Int8] {
        let options = options.with_precision(precision);
        let rate = rate(operations, || {
            black_box(attention(&q, &k, &v, &inputs, options)?);
            Ok(())
        })?;
        print!("  {rate:>5.0} ({:>3.0}%)", 100.0 * rate / peak);
    }
    println!();
    Ok(())
}

fn decode(tokens: usize, head_dim: usize) -> Result<()> {
    let hidden_size = 12 * head_dim;
    let keys = Tensor::randn(0f32, 1.0, (8 * tokens, hidden_size), &Device::Cpu)?;
    let cache = KvCache::new(&keys, &keys, &Lengths::new([tokens; 8]))?;
    let q = Tensor::randn(0f32, 1.0, (8, hidden_size), &Device::Cpu)?;
    let options = AttentionOptions::new(12, head_dim).with_causal(true);
    let queries = Lengths::new([1; 8]);
    let rate = rate((8 * 4 * tokens * hidden_size) as f64, || {
        black_box(attention_over(&q, &queries, &cache, options)?);
        Ok(())
    })?;
    println!("  {:<26}  {rate:>5.1}", format!("{tokens} keys, heads of {head_dim}"));
    Ok(())
}

fn passes() -> Result<()> {
    let x = Tensor::randn(0f32, 1.0, (512, 1536), &Device::Cpu)?;
    let count = x.elem_count() as f64;
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let rate = rate(count, || {
            black_box(activation.forward(&x)?);
            Ok(())
        })?;
        println!("  {activation:?}: {:.2}", 1.0 / rate);
    }
    let tensors = [("weight", Tensor::ones(1536, candle_core::DType::F32, &Device::Cpu)?)];
    let mut tensors: std::collections::HashMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    tensors.insert("bias".to_owned(), Tensor::zeros(1536, candle_core::DType::F32, &Device::Cpu)?);
    let vb = hfauto::nn::VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
    let norm = LayerNorm::load(vb, 1536, 1e-12)?;
    let rate = rate(count, || {
        black_box(norm.forward_residual(&x, &x)?);
        Ok(())
    })?;
    println!("  residual and layer normalisation: {:.2}", 1.0 / rate);
    Ok(())
}
