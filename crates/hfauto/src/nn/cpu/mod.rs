//! Kernels over slices of host memory. Each runs on the calling thread.
//!
//! The unit of parallelism on a CPU is a worker with its own batch. Batches are independent, so workers never wait for
//! each other, and their caches stay warm. With fewer batches than workers, expensive layers split ranges of tokens, or
//! heads, over the threads of idle workers ([`shared`]). The split does not change a single bit of the result. `pulp`
//! selects the instruction set at run time. Not here: the layers (`crate::nn`). The entries are [`PackedWeight`] and
//! [`Int8Weight`] for products with weights, [`Attention`], and the functions of `rows` and `functions`.
//!
//! # Products
//! Linear layers are packed at load into panels of 32 outputs, in the order in which the kernel reads them, as f32 or
//! bf16 (`packed`) or 8-bit integers (`int8`). Blocks of a GGUF file keep their bytes, and are widened by panels
//! (`blocks`). Each row is summed in the same order, whatever the number of rows. Results go to uninitialized memory; every product counts the elements that it has written. Layers work in
//! blocks of 128 tokens, so that the activation function, and the second product of a feed-forward layer, find their
//! input in the cache.
//!
//! Two crates were considered. `gemm` packs its operands in every call: it is as fast for many tokens, but several
//! times slower for a few, as in generation. `rten-gemm` comes close, but it turns on features of `smallvec` that would
//! rebuild all of DataFusion, and it needs 7-bit values on processors without VNNI.
//!
//! # Attention
//! Attention (`attention`) packs the keys and values of one sequence into the same panels. It takes a few queries at a
//! time through product, softmax and product, so scores never leave the L1 cache. Softmax is computed with powers of
//! two. With 8-bit weights, these products are in bf16 where the processor supports it (`bf16`): the same code, with
//! pairs of bf16 in the bits of each f32. Scores, softmax and sums stay f32. Attention has no weights, so `ModelInputs`
//! carries the model's dtype.

mod attention;
mod best;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod blocks;
mod functions;
mod int8;
mod packed;
mod rows;
mod threads;
mod tile;
mod transpose;

use std::ops::Range;

use candle_core::{DType, Device, Layout, Result, Storage, StorageRef, Tensor, bail};

pub(in crate::nn) use attention::{Attention, Bias, Positions, Scratch, Slopes};
pub use best::BestOutputs;
pub(in crate::nn) use blocks::BlockWeight;
pub(in crate::nn) use functions::{
    CoarseGelu, Gelu, GeluTanh, QuickGelu, Relu, Sigmoid, Silu, Tanh, map,
};
pub(in crate::nn) use int8::Int8Weight;
pub(in crate::nn) use packed::PackedWeight;
pub(in crate::nn) use rows::{
    layer_norm, max_and_sum_exp, multiply, quantize_to_i16, quantize_to_u8, rms_norm, sum_rows,
    zip_repeated,
};
pub use threads::SpareThreads;
pub(in crate::nn) use threads::shared;

/// Whether products in bf16 have instructions on this processor.
#[cfg(test)]
pub(crate) fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && pulp::x86::V4::try_new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the kernels of this folder apply to `tensor`: f32 in host memory.
pub(in crate::nn) fn applies(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu) && tensor.dtype() == DType::F32
}

/// Read access to the elements of an f32 tensor in host memory.
pub(in crate::nn) struct CpuView<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> CpuView<'a> {
    pub(in crate::nn) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// The storage from the tensor's first element on.
    pub(in crate::nn) fn slice(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => {
                let numbers = storage.as_slice::<f32>()?;
                // The start offset of an empty view may be past the end of the storage.
                Ok(numbers.get(self.layout.start_offset()..).unwrap_or_default())
            }
            _ => bail!("expected a tensor in host memory"),
        }
    }

    /// The tensor as a matrix with its own strides.
    pub(in crate::nn) fn matrix(&self) -> Result<Matrix<'_>> {
        let (rows, columns) = self.layout.shape().dims2()?;
        let [row_stride, column_stride] = *self.layout.stride() else {
            bail!("expected a matrix, found {:?}", self.layout.shape())
        };
        Ok(Matrix { data: self.slice()?, rows, columns, row_stride, column_stride })
    }
}

/// A strided matrix within a slice.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A contiguous matrix.
    pub(in crate::nn) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The numbers of rows and columns.
    pub(in crate::nn) fn shape(self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The single row of this matrix, repeated `times` times.
    ///
    /// # Panics
    /// When the matrix does not have exactly one row: a bug of the caller.
    pub(in crate::nn) fn repeated(self, times: usize) -> Self {
        assert_eq!(self.rows, 1, "bug: only one row can be repeated");
        Self { rows: times, row_stride: 0, ..self }
    }

    /// Row `row`.
    ///
    /// # Panics
    /// When the elements of a row are not contiguous, or the row does not exist: bugs of the caller.
    #[inline(always)]
    fn row(self, row: usize) -> &'a [f32] {
        assert!(self.column_stride == 1 || self.columns < 2, "bug: a strided row");
        assert!(row < self.rows, "bug: row outside matrix");
        &self.data[row * self.row_stride..][..self.columns]
    }

    /// Rows `rows` and columns `columns` of this matrix.
    ///
    /// # Panics
    /// When the block is not inside the matrix: a bug of the caller.
    pub(in crate::nn) fn block(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "bug: block outside matrix");
        let start = rows.start * self.row_stride + columns.start * self.column_stride;
        Self {
            data: self.data.get(start..).unwrap_or(&[]),
            rows: rows.len(),
            columns: columns.len(),
            ..self
        }
    }

    /// Columns `columns` of this matrix.
    ///
    /// # Panics
    /// When the columns are not inside the matrix: a bug of the caller.
    pub(in crate::nn) fn columns(self, columns: Range<usize>) -> Self {
        self.block(0..self.rows, columns)
    }

    /// The transposed matrix, as a view.
    pub(in crate::nn) fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The number of elements of `data` that the matrix spans.
    fn span(self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => {
                (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1
            }
        }
    }
}

/// Whether [`matmul`] overwrites its output or adds to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::nn) enum Output {
    Overwrite,
    Add,
}

/// `out = scale · lhs · rhs`, or `out += scale · lhs · rhs`; row `i` of the product starts at
/// `out[i * out_stride]`.
///
/// # Panics
/// When the shapes do not match: a bug of the caller.
pub(in crate::nn) fn matmul(
    out: &mut [f32],
    out_stride: usize,
    mode: Output,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let (rows, inner, columns) = (lhs.rows, lhs.columns, rhs.columns);
    assert_eq!(inner, rhs.rows, "bug: inner dimensions of a product differ");
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= out_stride || rows == 1, "bug: rows of a product overlap");
    assert!((rows - 1) * out_stride + columns <= out.len(), "bug: product larger than its output");
    assert!(lhs.span() <= lhs.data.len() && rhs.span() <= rhs.data.len(), "bug: short matrix");
    // A slice has at most isize::MAX bytes, so no stride within one is truncated.
    let stride = |stride: usize| stride as isize;
    // SAFETY: the assertions above keep every element that `gemm` reads inside `lhs.data` and `rhs.data`, and every
    // element that it writes inside `out`. `out` is a unique borrow, so it overlaps neither.
    #[allow(unsafe_code, reason = "`gemm` takes pointers")]
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            stride(out_stride),
            mode == Output::Add,
            lhs.data.as_ptr(),
            stride(lhs.column_stride),
            stride(lhs.row_stride),
            rhs.data.as_ptr(),
            stride(rhs.column_stride),
            stride(rhs.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without its feature of `pulp`, an instruction set is not used, and nothing but the speed tells.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn kernels_use_avx2_and_avx512_where_the_processor_has_them() {
        let arch = pulp::Arch::new();
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            assert!(matches!(arch, pulp::Arch::V4(_)), "{arch:?}");
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            assert!(matches!(arch, pulp::Arch::V3(_)), "{arch:?}");
        }
    }

    #[test]
    fn matmul_takes_blocks_transposes_and_adds() {
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let a = Matrix::new(&a, 3, 4);
        // rows 1..3, columns 2..4 of a: [[6, 7], [10, 11]]
        let block = a.block(1..3, 2..4);
        let mut out = vec![1.0; 6];
        matmul(&mut out, 3, Output::Add, 2.0, block, block.t());
        assert_eq!(out, [171.0, 275.0, 1.0, 275.0, 443.0, 1.0]);
        matmul(&mut out, 3, Output::Overwrite, 1.0, block, block);
        assert_eq!(out[..2], [106.0, 119.0]);
        assert_eq!(out[3..5], [170.0, 191.0]);
    }
}
