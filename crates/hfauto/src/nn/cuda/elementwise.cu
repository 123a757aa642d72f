// Kernels over rows and elements, compiled at run time for one dtype: DTYPE is 0 (f32), 1 (f16) or 2 (bf16). Includes
// no headers, because machines that run the program have the driver and NVRTC, but no CUDA toolkit.

typedef unsigned short u16;
typedef unsigned int u32;

#if DTYPE == 0
typedef float number;
__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ float store(float x) { return x; }
#else
typedef u16 number;
__device__ __forceinline__ float load(u16 x) {
#if DTYPE == 1
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
#else
    return __uint_as_float((u32)x << 16);
#endif
}
__device__ __forceinline__ u16 store(float x) {
    u16 y;
#if DTYPE == 1
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
#endif
    return y;
}
#endif

// Sixteen bytes, loaded and stored at once.
#define PACK (16 / (int)sizeof(number))
union pack {
    uint4 bits;
    number numbers[PACK];
};

// Activation functions as in `Activation::forward`; NaN stays NaN.
__device__ __forceinline__ float activated(float x, int activation) {
    switch (activation) {
    case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case 2: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case 3: return x / (1.0f + expf(-1.702f * x));
    case 4: return x < 0.0f ? 0.0f : x;
    case 5: return 1.0f / (1.0f + expf(-x));
    case 6: return x / (1.0f + expf(-x));
    case 7: return tanhf(x);
    default: return x;
    }
}

// Applies an activation in place to `count` elements.
extern "C" __global__ void activate(number *x, size_t count, int activation) {
    size_t step = (size_t)gridDim.x * blockDim.x;
    size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    pack *packs = (pack *)x;
    for (size_t i = first; i < count / PACK; i += step) {
        pack values;
        values.bits = packs[i].bits;
#pragma unroll
        for (int j = 0; j < PACK; j++)
            values.numbers[j] = store(activated(load(values.numbers[j]), activation));
        packs[i].bits = values.bits;
    }
    for (size_t i = count / PACK * PACK + first; i < count; i += step)
        x[i] = store(activated(load(x[i]), activation));
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

// Normalizes rows of `width` elements of `x`, or of `x + residual`, with sums in f32. With `mean`, subtracts the mean
// and adds `bias` (LayerNorm); without, neither (RMSNorm). One warp per row, so no block synchronization. Rows of up to
// MAX_PACKS * 32 packs stay in registers.
#define MAX_PACKS 4

__device__ __forceinline__ void normalize_in_registers(
    number *out, const number *x, const number *residual, const number *weight, const number *bias,
    int width, float eps, bool mean, int lane)
{
    float values[MAX_PACKS][PACK];
    int packs = width / PACK;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MAX_PACKS; i++) {
        int at = i * 32 + lane;
        if (at < packs) {
            pack a, b;
            a.bits = ((const pack *)x)[at].bits;
            if (residual) b.bits = ((const pack *)residual)[at].bits;
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float value = load(a.numbers[j]) + (residual ? load(b.numbers[j]) : 0.0f);
                values[i][j] = value;
                sum += value;
            }
        }
    }
    float middle = mean ? warp_sum(sum) / width : 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < MAX_PACKS; i++)
        if (i * 32 + lane < packs)
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float value = values[i][j] - middle;
                squares += value * value;
            }
    float inverse = rsqrtf(warp_sum(squares) / width + eps);
#pragma unroll
    for (int i = 0; i < MAX_PACKS; i++) {
        int at = i * 32 + lane;
        if (at < packs) {
            pack w, b, result;
            w.bits = ((const pack *)weight)[at].bits;
            if (bias) b.bits = ((const pack *)bias)[at].bits;
#pragma unroll
            for (int j = 0; j < PACK; j++)
                result.numbers[j] = store((values[i][j] - middle) * inverse * load(w.numbers[j])
                                          + (bias ? load(b.numbers[j]) : 0.0f));
            ((pack *)out)[at].bits = result.bits;
        }
    }
}

extern "C" __global__ void normalize(
    number *out, const number *x, const number *residual, const number *weight, const number *bias,
    int rows, int width, float eps, int mean)
{
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    size_t start = (size_t)row * width;
    x += start;
    out += start;
    if (residual) residual += start;
    if (width % PACK == 0 && width <= MAX_PACKS * 32 * PACK) {
        normalize_in_registers(out, x, residual, weight, bias, width, eps, mean, lane);
        return;
    }
    float sum = 0.0f;
    for (int i = lane; i < width; i += 32) sum += load(x[i]) + (residual ? load(residual[i]) : 0.0f);
    float middle = mean ? warp_sum(sum) / width : 0.0f;
    float squares = 0.0f;
    for (int i = lane; i < width; i += 32) {
        float value = load(x[i]) + (residual ? load(residual[i]) : 0.0f) - middle;
        squares += value * value;
    }
    float inverse = rsqrtf(warp_sum(squares) / width + eps);
    for (int i = lane; i < width; i += 32) {
        float value = load(x[i]) + (residual ? load(residual[i]) : 0.0f) - middle;
        out[i] = store(value * inverse * load(weight[i]) + (bias ? load(bias[i]) : 0.0f));
    }
}

// Pools the tokens of each row to one f32 vector. `mode` is 0 for the first token, 1 for the maximum, 2 for the mean, 3
// for the sum divided by the square root of the count, 4 for the mean weighted by position, 5 for the last token. One
// block per row. The vector of row r starts at out[r * out_stride]. The first `skipped` tokens are excluded; a row
// without others gives 0, or its first token in mode 0.
extern "C" __global__ void pool(
    float *out, const number *x, const u32 *cumulative, int width, int out_stride, int skipped, int mode)
{
    int row = blockIdx.x;
    size_t first = cumulative[row] + (size_t)skipped, end = cumulative[row + 1];
    if (mode == 0 && first >= end) first = cumulative[row];
    out += (size_t)row * out_stride;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float result = 0.0f;
        if (first < end) {
            const number *column = x + i;
            if (mode == 0) {
                result = load(column[first * width]);
            } else if (mode == 5) {
                result = load(column[(end - 1) * width]);
            } else if (mode == 1) {
                result = load(column[first * width]);
                for (size_t token = first + 1; token < end; token++) {
                    float value = load(column[token * width]);
                    result = value > result || value != value ? value : result;
                }
            } else {
                float weights = 0.0f;
                for (size_t token = first; token < end; token++) {
                    float weight = mode == 4 ? (float)(token - first + skipped + 1) : 1.0f;
                    weights += weight;
                    result += weight * load(column[token * width]);
                }
                result /= mode == 3 ? sqrtf(weights) : weights;
            }
        }
        out[i] = result;
    }
}

// Elementwise sum.
extern "C" __global__ void add(number *out, const number *a, const number *b, size_t count)
{
    size_t step = (size_t)gridDim.x * blockDim.x;
    size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (size_t i = first; i < count / PACK; i += step) {
        pack x, y;
        x.bits = ((const pack *)a)[i].bits;
        y.bits = ((const pack *)b)[i].bits;
#pragma unroll
        for (int j = 0; j < PACK; j++) x.numbers[j] = store(load(x.numbers[j]) + load(y.numbers[j]));
        ((pack *)out)[i].bits = x.bits;
    }
    for (size_t i = count / PACK * PACK + first; i < count; i += step) out[i] = store(load(a[i]) + load(b[i]));
}

// Converts elements to f32.
extern "C" __global__ void widen(float *out, const number *x, size_t count)
{
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) out[i] = load(x[i]);
}

// Scales rows of `width` elements to length 1. Lengths below `shortest` count as `shortest`. One warp per row.
extern "C" __global__ void unit_rows(number *out, const number *x, int rows, int width, float shortest)
{
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (size_t)row * width;
    out += (size_t)row * width;
    float squares = 0.0f;
    for (int i = lane; i < width; i += 32) squares += load(x[i]) * load(x[i]);
    float length = sqrtf(warp_sum(squares));
    // This form keeps NaN.
    length = length < shortest ? shortest : length;
    for (int i = lane; i < width; i += 32) out[i] = store(load(x[i]) / length);
}

// Looks up rows of a table by id, or adds them to `out`. An id outside the table gives NaN, because a wrong id must not
// read other memory. One warp per row.
extern "C" __global__ void lookup(
    number *out, const number *table, const u32 *ids, int count, u32 table_rows, int width, int add)
{
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= count) return;
    u32 id = ids[row];
    out += (size_t)row * width;
    if (id >= table_rows) {
        for (int i = lane; i < width; i += 32) out[i] = store(__int_as_float(0x7fc00000));
        return;
    }
    table += (size_t)id * width;
    if (add) {
        for (int i = lane; i < width; i += 32) out[i] = store(load(out[i]) + load(table[i]));
    } else if (width % PACK == 0) {
        for (int i = lane; i < width / PACK; i += 32) ((pack *)out)[i].bits = ((const pack *)table)[i].bits;
    } else {
        for (int i = lane; i < width; i += 32) out[i] = table[i];
    }
}

// Appends new keys and values to rows with their own addresses. Row r has counts[r] tokens including the new ones,
// which are those of `k` and `v` from starts[r] on. Grid: (row, tile of its tokens).
extern "C" __global__ void append(
    const number *k, const number *v, const unsigned long long *key_rows, const unsigned long long *value_rows,
    const u32 *counts, const u32 *starts, int k_stride, int v_stride, int width)
{
    int row = blockIdx.x;
    u32 start = starts[row], added = starts[row + 1] - start, before = counts[row] - added;
    for (u32 token = blockIdx.y; token < added; token += gridDim.y) {
        const pack *from_k = (const pack *)(k + (size_t)(start + token) * k_stride);
        const pack *from_v = (const pack *)(v + (size_t)(start + token) * v_stride);
        pack *to_k = (pack *)((number *)key_rows[row] + (size_t)(before + token) * width);
        pack *to_v = (pack *)((number *)value_rows[row] + (size_t)(before + token) * width);
        for (int i = threadIdx.x; i < width / PACK; i += blockDim.x) {
            to_k[i].bits = from_k[i].bits;
            to_v[i].bits = from_v[i].bits;
        }
    }
}
