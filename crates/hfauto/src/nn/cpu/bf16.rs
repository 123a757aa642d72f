//! Dot products in bf16, on processors with instructions for them.
//!
//! A bf16 has 8 significant bits. One instruction multiplies twice as many elements as in f32, and accumulates in f32.
//! Not here: which products may be rounded to bf16. The entry is [`run`].

#![allow(unsafe_code, reason = "instructions that not every processor has")]

use std::arch::x86_64::{__m512bh, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps};
use std::mem::transmute;

use pulp::x86::V4;
use pulp::{Simd, f32x16};

use super::tile::{Multiply, Operands};

/// A computation that can use [`Bf16`].
pub(super) trait WithBf16 {
    type Output;

    /// Must be `#[inline(always)]`, and so must its callees, to be compiled with these instructions.
    fn with_bf16(self, simd: V4, bf16: Bf16) -> Self::Output;
}

/// Runs `operation` if this processor has the instructions; otherwise returns it as the error.
pub(super) fn run<O: WithBf16>(operation: O) -> Result<O::Output, O> {
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
    fn with_instructions<O: WithBf16>(operation: O, simd: V4) -> O::Output {
        operation.with_bf16(simd, Bf16 { _seen: () })
    }
    match V4::try_new() {
        Some(simd) if is_x86_feature_detected!("avx512bf16") => {
            // SAFETY: a `V4` proves every feature but `avx512bf16`, which was just detected.
            Ok(unsafe { with_instructions(operation, simd) })
        }
        _ => Err(operation),
    }
}

/// Operands of pairs of bf16, the first in the low half of an f32's bits. A value proves that the processor has the
/// instructions: only [`run`] creates one.
#[derive(Clone, Copy)]
pub(super) struct Bf16 {
    _seen: (),
}

impl Bf16 {
    /// Rounds thirty-two contiguous elements to sixteen pairs.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it is the proof")]
    fn pairs(self, low: f32x16, high: f32x16) -> f32x16 {
        // SAFETY: a `Bf16` proves that the processor has the instruction. Both types have 64 bytes and accept any bit
        // pattern.
        unsafe {
            let pairs = _mm512_cvtne2ps_pbh(pulp::cast(high), pulp::cast(low));
            transmute::<__m512bh, f32x16>(pairs)
        }
    }
}

impl Multiply<V4> for Bf16 {
    const PARTS: usize = 1;

    #[inline(always)]
    fn weights(self, _: V4, vector: f32x16, _: usize) -> f32x16 {
        vector
    }

    #[inline(always)]
    fn multiply_add(self, _: V4, a: f32x16, b: f32x16, sum: f32x16) -> f32x16 {
        // SAFETY: as in `pairs`.
        unsafe {
            let (a, b) = (transmute::<f32x16, __m512bh>(a), transmute::<f32x16, __m512bh>(b));
            pulp::cast(_mm512_dpbf16_ps(pulp::cast(sum), a, b))
        }
    }
}

impl Operands<V4> for Bf16 {
    const GROUP: usize = 2;

    #[inline(always)]
    fn join(self, simd: V4, first: f32x16, second: f32x16) -> f32x16 {
        /// Alternating indices of the first and the second sixteen.
        const TURNS: [u16; 32] = {
            let mut turns = [0; 32];
            let mut place = 0;
            while place < 32 {
                turns[place] = (place / 2 + place % 2 * 16) as u16;
                place += 1;
            }
            turns
        };
        let numbers = pulp::cast(self.pairs(first, second));
        pulp::cast(simd.avx512bw._mm512_permutexvar_epi16(pulp::cast(TURNS), numbers))
    }

    #[inline(always)]
    fn group(self, simd: V4, groups: &mut [f32], x: &[f32]) {
        let (groups, last_groups) = V4::as_mut_simd_f32s(groups);
        let (blocks, rest) = x.as_chunks::<32>();
        for (groups, block) in groups.iter_mut().zip(blocks) {
            let block = V4::as_simd_f32s(block).0;
            *groups = self.pairs(block[0], block[1]);
        }
        if !rest.is_empty() {
            let (low, high) = rest.split_at(rest.len().min(16));
            let last = self.pairs(simd.partial_load_f32s(low), simd.partial_load_f32s(high));
            match groups.get_mut(blocks.len()) {
                Some(groups) => *groups = last,
                None => simd.partial_store_f32s(last_groups, last),
            }
        }
    }

    #[inline(always)]
    fn group_in_place(self, simd: V4, x: &mut [f32]) {
        let (vectors, rest) = V4::as_mut_simd_f32s(x);
        let (whole, rest) = (vectors.len() / 2, simd.partial_load_f32s(rest));
        // Each group is written to positions whose elements have already been read.
        for place in 0..whole {
            vectors[place] = self.pairs(vectors[2 * place], vectors[2 * place + 1]);
        }
        let last = match vectors.get(2 * whole) {
            Some(vector) => self.pairs(*vector, rest),
            None => self.pairs(rest, simd.splat_f32s(0.0)),
        };
        let end = x.len().min(16 * whole + 16);
        simd.partial_store_f32s(&mut x[16 * whole..end], last);
    }
}
