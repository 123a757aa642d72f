//! Products of bf16, where the processor has instructions for them.
//!
//! A bf16 has 8 significant bits. An instruction multiplies twice as many as of f32, and accumulates in f32. Not here:
//! what is worth rounding. The entry is [`run`].

#![allow(unsafe_code, reason = "instructions that not every processor has")]

use std::arch::x86_64::{__m512bh, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps};
use std::mem::transmute;

use pulp::x86::V4;
use pulp::{Simd, f32x16};

use super::tile::Operands;

/// What can be computed with [`Bf16`].
pub(super) trait WithBf16 {
    /// Has to be `#[inline(always)]`, as what it calls, for the sake of the instructions.
    fn with_bf16(self, simd: V4, bf16: Bf16);
}

/// Computes `operation` if this processor has the instructions for it, or else gives it back.
pub(super) fn run<O: WithBf16>(operation: O) -> Option<O> {
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
    fn with_instructions<O: WithBf16>(operation: O, simd: V4) {
        operation.with_bf16(simd, Bf16 { _seen: () });
    }
    match V4::try_new() {
        Some(simd) if is_x86_feature_detected!("avx512bf16") => {
            // SAFETY: a `V4` is proof of every feature but the last, which was just seen.
            unsafe { with_instructions(operation, simd) };
            None
        }
        _ => Some(operation),
    }
}

/// Pairs of bf16, the first in the low half of an f32's bits. Proof that the processor has the instructions: only
/// [`run`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Bf16 {
    _seen: (),
}

impl Bf16 {
    /// Sixteen pairs of thirty-two numbers side by side.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it is the proof")]
    fn pairs(self, low: f32x16, high: f32x16) -> f32x16 {
        // SAFETY: that there is a `Bf16` says that there is the instruction. Both types are 64 bytes of which any
        // pattern is legal.
        unsafe {
            let pairs = _mm512_cvtne2ps_pbh(pulp::cast(high), pulp::cast(low));
            transmute::<__m512bh, f32x16>(pairs)
        }
    }
}

impl Operands<V4> for Bf16 {
    const GROUP: usize = 2;

    #[inline(always)]
    fn multiply_add(self, _: V4, a: f32x16, b: f32x16, sum: f32x16) -> f32x16 {
        // SAFETY: as in `pairs`.
        unsafe {
            let (a, b) = (transmute::<f32x16, __m512bh>(a), transmute::<f32x16, __m512bh>(b));
            pulp::cast(_mm512_dpbf16_ps(pulp::cast(sum), a, b))
        }
    }

    #[inline(always)]
    fn join(self, simd: V4, first: f32x16, second: f32x16) -> f32x16 {
        /// One of the first sixteen, one of the second, and so on.
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
        // Groups are written to where no number is left to be read.
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
