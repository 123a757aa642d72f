//! Random tensors for tests, the same in every run.

use std::cell::Cell;

use candle_core::{Device, Result, Shape, Tensor};

thread_local! {
    /// The state of the generator. Each test has a thread of its own.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// A number from 0 to 1 (SplitMix64).
fn uniform() -> f32 {
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let bits = u16::try_from((mixed ^ (mixed >> 31)) >> 48).unwrap();
    (f32::from(bits) + 0.5) / 65536.0
}

/// Numbers of a normal distribution, as `Tensor::randn`.
pub(super) fn randn(
    mean: f32,
    std: f32,
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    let normal = || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
    let numbers = (0..shape.elem_count()).map(|_| mean + std * normal()).collect();
    Tensor::from_vec(numbers, shape, device)
}
