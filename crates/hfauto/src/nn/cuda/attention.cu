// Attention over ragged rows in one pass over the keys, on tensor cores (`mma.sync`). Compiled at run time for one
// shape: DTYPE is 1 (f16) or 2 (bf16), HEAD_DIM the head dimension (a multiple of 8), WARPS the warps per block, with
// 16 queries each, KEYS the keys per tile in shared memory (a multiple of 16). Includes no headers.
//
// Method: Dao, "FlashAttention-2", 2023 (running maximum and sum, queries in registers).

typedef unsigned short u16;
typedef unsigned int u32;

// The products take 16 elements of a head at a time; the padding is zeros.
#define DEPTH ((HEAD_DIM + 15) / 16 * 16)
// Eight elements of padding per row put the eight rows of a fragment in different banks.
#define STRIDE (DEPTH + 8)
#define THREADS (WARPS * 32)
#define MINUS_INFINITY __int_as_float(0xff800000)

#if DTYPE == 1
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#define PACK2 "cvt.rn.f16x2.f32"
#else
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#define PACK2 "cvt.rn.bf16x2.f32"
#endif

__device__ __forceinline__ float widen(u16 x) {
#if DTYPE == 1
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
#else
    return __uint_as_float((u32)x << 16);
#endif
}

// Rounds a finite number to bf16, half to even.
__device__ __forceinline__ float to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    return __uint_as_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

__device__ __forceinline__ u32 pack2(float low, float high) {
    u32 both;
    asm(PACK2 " %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ void mma(float c[4], const u32 a[4], u32 b0, u32 b1) {
    asm volatile(MMA " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void load_matrices(u32 m[4], const u16 *row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void load_transposed(u32 m[4], const u16 *row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address) : "memory");
}

// Starts the copy of KEYS rows, from `first` on, into shared memory. Zeroes rows from `count` on, and columns from
// HEAD_DIM on.
__device__ __forceinline__ void copy_tile(u16 *tile, const u16 *from, size_t stride, int first, int count) {
    const int packs = DEPTH / 8;
#pragma unroll
    for (int i = threadIdx.x; i < KEYS * packs; i += THREADS) {
        int row = i / packs, column = i % packs * 8;
        bool there = first + row < count && column < HEAD_DIM;
        const u16 *source = there ? from + (size_t)(first + row) * stride + column : from;
        u32 address = (u32)__cvta_generic_to_shared(tile + row * STRIDE + column);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :: "r"(address), "l"(source), "r"(there ? 16 : 0) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Grid: (row, head, tile of queries). `scale` includes the factor log2(e), so that softmax uses powers of two. If
// `key_rows` is given, row r has key_counts[r] keys and values at its own addresses; otherwise, keys and values have
// the same offsets as the queries. `bias` is (heads, bias_rows, bias_stride); the last query of a row is at the
// position of its last key. `slopes` are those of ALiBi, one per head: with a `key_scale` of 0, the bias is -slope times
// the distance; otherwise slope times the key's position, in bf16, times `key_scale`.
extern "C" __global__ void __launch_bounds__(THREADS) attention(
    u16 *out, const u16 *q, const u16 *k, const u16 *v,
    const u32 *starts,
    const unsigned long long *key_rows, const unsigned long long *value_rows, const u32 *key_counts,
    const u16 *bias, int bias_rows, int bias_stride, const float *slopes, float key_scale,
    int q_stride, int k_stride, int v_stride, int out_stride, float scale, int causal)
{
    __shared__ __align__(16) u16 key_tile[KEYS * STRIDE];
    __shared__ __align__(16) u16 value_tile[KEYS * STRIDE];

    const int row = blockIdx.x, head = blockIdx.y;
    const int query_start = starts[row], queries = starts[row + 1] - query_start;
    const int block_first = blockIdx.z * (WARPS * 16);
    if (block_first >= queries) return;

    int keys;
    if (key_rows) {
        keys = key_counts[row];
        k = (const u16 *)key_rows[row];
        v = (const u16 *)value_rows[row];
    } else {
        keys = queries;
        k += (size_t)query_start * k_stride;
        v += (size_t)query_start * v_stride;
    }
    k += head * HEAD_DIM;
    v += head * HEAD_DIM;
    q += (size_t)query_start * q_stride + head * HEAD_DIM;
    out += (size_t)query_start * out_stride + head * HEAD_DIM;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int group = lane / 4, pair = lane % 4 * 2;
    const int first = block_first + warp * 16;       // this warp's first query
    const int upper = first + group, lower = upper + 8; // this lane's two queries
    const int before = keys - queries;               // keys before those of the first query
    const float slope = slopes ? slopes[head] : 0.0f;

    // Fragments of the queries. Those past the end of the row are zeros, and their results are not written.
    u32 query[DEPTH / 16][4];
#pragma unroll
    for (int d = 0; d < DEPTH / 16; d++)
#pragma unroll
        for (int part = 0; part < 4; part++) {
            int at = part % 2 ? lower : upper, column = d * 16 + part / 2 * 8 + pair;
            query[d][part] = at < queries && column < HEAD_DIM
                ? *(const u32 *)(q + (size_t)at * q_stride + column) : 0u;
        }

    float mixed[DEPTH / 8][4];
#pragma unroll
    for (int n = 0; n < DEPTH / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) mixed[n][i] = 0.0f;
    float highest[2] = {MINUS_INFINITY, MINUS_INFINITY}, total[2] = {0.0f, 0.0f};

    // The number of keys that the last query of the block sees.
    int end = keys;
    if (causal) {
        int last = block_first + WARPS * 16;
        end = min(end, before + (last < queries ? last : queries));
    }

    if (end > 0) copy_tile(key_tile, k, k_stride, 0, keys);
    for (int start = 0; start < end; start += KEYS) {
        copy_tile(value_tile, v, v_stride, start, keys);
        asm volatile("cp.async.wait_group 1;" ::: "memory"); // the keys have arrived
        __syncthreads();

        float scores[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
#pragma unroll
        for (int d = 0; d < DEPTH / 16; d++)
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                // Sixteen keys: elements 0..8 and 8..16 of this part of the head, for the first and the last eight
                // keys.
                u32 m[4];
                load_matrices(m, key_tile + (n * 16 + lane / 16 * 8 + lane % 8) * STRIDE
                                     + d * 16 + lane / 8 % 2 * 8);
                mma(scores[2 * n], query[d], m[0], m[1]);
                mma(scores[2 * n + 1], query[d], m[2], m[3]);
            }

        float found[2] = {highest[0], highest[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = start + n * 8 + pair + i % 2, at = i / 2 ? lower : upper;
                float score = scores[n][i] * scale;
                bool seen = key < keys && (!causal || key <= before + at);
                if (bias && seen && at < queries)
                    score += 1.4426950408889634f
                        * widen(bias[((size_t)head * bias_rows + before + at) * bias_stride + key]);
                if (slopes) {
                    float linear = key_scale == 0.0f
                        ? -slope * fabsf((float)(before + at - key))
                        : to_bf16(to_bf16(slope) * to_bf16((float)key)) * key_scale;
                    score += 1.4426950408889634f * linear;
                }
                scores[n][i] = seen ? score : MINUS_INFINITY;
                found[i / 2] = fmaxf(found[i / 2], scores[n][i]);
            }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            found[half] = fmaxf(found[half], __shfl_xor_sync(0xffffffffu, found[half], 1));
            found[half] = fmaxf(found[half], __shfl_xor_sync(0xffffffffu, found[half], 2));
            // A query that has seen no key yet keeps weights of 0.
            float base = found[half] == MINUS_INFINITY ? 0.0f : found[half];
            float shrink = exp2f(highest[half] - base);
            highest[half] = found[half];
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[n][i] = exp2f(scores[n][i] - base);
                    sum += scores[n][i];
                }
            total[half] = total[half] * shrink + sum;
#pragma unroll
            for (int n = 0; n < DEPTH / 8; n++) {
                mixed[n][2 * half] *= shrink;
                mixed[n][2 * half + 1] *= shrink;
            }
        }

        asm volatile("cp.async.wait_group 0;" ::: "memory"); // the values have arrived
        __syncthreads(); // all warps are done with the keys
        if (start + KEYS < end) copy_tile(key_tile, k, k_stride, start + KEYS, keys);

#pragma unroll
        for (int part = 0; part < KEYS / 16; part++) {
            const float *low = scores[2 * part], *high = scores[2 * part + 1];
            u32 weights[4] = {pack2(low[0], low[1]), pack2(low[2], low[3]),
                              pack2(high[0], high[1]), pack2(high[2], high[3])};
#pragma unroll
            for (int n = 0; n < DEPTH / 16; n++) {
                u32 m[4];
                load_transposed(m, value_tile + (part * 16 + lane % 16) * STRIDE + n * 16 + lane / 16 * 8);
                mma(mixed[2 * n], weights, m[0], m[1]);
                mma(mixed[2 * n + 1], weights, m[2], m[3]);
            }
        }
        __syncthreads(); // all warps are done with the values
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = total[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float inverse = sum > 0.0f ? 1.0f / sum : (sum != sum ? sum : 0.0f);
        int at = half ? lower : upper;
        if (at >= queries) continue;
#pragma unroll
        for (int n = 0; n < DEPTH / 8; n++) {
            int column = n * 8 + pair;
            if (column < HEAD_DIM)
                *(u32 *)(out + (size_t)at * out_stride + column) =
                    pack2(mixed[n][2 * half] * inverse, mixed[n][2 * half + 1] * inverse);
        }
    }
}
