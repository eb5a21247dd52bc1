// y = x wᵀ with weights in fewer bits. For few rows of x what matters is how fast memory delivers
// w; many rows find it in the L2 cache.
//
// A number of y is one sum in one order: a lane adds the products of its 16 bytes of w, and of
// those that lie 32 times as far, one after another; then the lanes' sums meet by halves. That
// depends on the depth and the type of w alone, so a row's bits are the same whatever is beside it.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/storage.cuh"
#include "kernels/integers.h"

// Of a block; of y, of a warp; of x, of a block.
static const int WARPS = 8, COLUMNS = 4, MOST_ROWS = 8;

// Four numbers of w as f32, from the word or words that hold them.
__device__ static inline void widen_four(float *to, const uint32_t *words, bf16) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        to[2 * i] = __uint_as_float(words[i] << 16);
        to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
__device__ static inline float half_of_bits(uint32_t bits) {
    __half_raw raw;
    raw.x = (unsigned short)bits;
    return __half2float(__half(raw));
}
__device__ static inline void widen_four(float *to, const uint32_t *words, __half) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        to[2 * i] = half_of_bits(words[i] & 0xffffu);
        to[2 * i + 1] = half_of_bits(words[i] >> 16);
    }
}
__device__ static inline void widen_four(float *to, const uint32_t *words, int8_t) {
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = (float)(int8_t)(words[0] >> 8 * i & 0xffu);
}

// A lane's 16 bytes of a row of w from element k on; what lies behind its end is 0.
template <typename W, bool VECTORS>
__device__ static inline void load_words(uint32_t *to, const W *row, int64_t k, int64_t depth) {
    if (VECTORS) {
        uint4 v = *reinterpret_cast<const uint4 *>(row + k);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        return;
    }
    const int EACH = 4 / (int)sizeof(W);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[i] = 0;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            uint32_t bits = 0;
            if (k + i * EACH + j < depth)
                for (int byte = 0; byte < (int)sizeof(W); byte++)
                    bits |=
                        (uint32_t) reinterpret_cast<const uint8_t *>(row + k + i * EACH + j)[byte]
                        << 8 * byte;
            to[i] |= bits << 32 / EACH * j;
        }
    }
}

// Four numbers of x, likewise.
template <bool VECTORS>
__device__ static inline void load_x(float *to, const float *row, int64_t k, int64_t depth) {
    if constexpr (VECTORS) {
        load_vector(to, row + k);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = k + i < depth ? row[k + i] : 0.0f;
    }
}

// A block has ROWS rows of one segment and WARPS · COLUMNS columns, a warp COLUMNS of them. Blocks
// whose tile has no rows leave. Reads w once for every ROWS rows, 16 bytes of a lane side by side.
template <typename W, int ROWS, bool VECTORS>
__global__ void __launch_bounds__(WARPS *WARP)
    quantized_rows_kernel(float *y, const float *x, const W *w, const float *scales, int64_t n,
                          int64_t depth, int64_t first, int64_t end, const int64_t *offsets,
                          int64_t segments, int64_t parts) {
    const int COUNT = 16 / (int)sizeof(W);
    int lane = (int)threadIdx.x % WARP;
    int64_t column_tiles = (n + WARPS * COLUMNS - 1) / (WARPS * COLUMNS);
    int64_t tile = blockIdx.x / column_tiles, matrix = 0;
    int64_t column = (blockIdx.x % column_tiles * WARPS + threadIdx.x / WARP) * COLUMNS;
    if (offsets) {
        int64_t s = find_segment(offsets, segments, ROWS, tile);
        tile -= first_tile(offsets, s, ROWS);
        first = offsets[s];
        end = offsets[s + 1];
        matrix = s / parts * n;
    }
    first += tile * ROWS;
    if (first >= end || column >= n) return;
    float sums[ROWS][COLUMNS] = {};
    for (int64_t k = lane * COUNT; k < depth; k += WARP * COUNT) {
        uint32_t words[COLUMNS][4];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) // the last one stands for those behind it
            load_words<W, VECTORS>(
                words[c], w + (matrix + (column + c < n ? column + c : n - 1)) * depth, k, depth);
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            float four[COLUMNS][4];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                widen_four(four[c], words[c] + i * (int)sizeof(W) / 4, W());
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float own[4];
                load_x<VECTORS>(own, x + (first + r < end ? first + r : end - 1) * depth, k + i,
                                depth);
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++)
                        sums[r][c] = fmaf(own[j], four[c][j], sums[r][c]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            float sum = sums[r][c];
#pragma unroll
            for (int distance = WARP / 2; distance > 0; distance /= 2)
                sum += __shfl_xor_sync(ALL_LANES, sum, distance);
            if (lane == r * COLUMNS + c && first + r < end && column + c < n)
                y[(first + r) * n + column + c] = scales ? sum * scales[matrix + column + c] : sum;
        }
}

template <typename W, int ROWS, bool VECTORS>
static void multiply(Device *dev, Tensor y, Tensor x, QuantizedMatrix w, Segments rows) {
    int64_t N = y.shape[1], segments = rows.groups * rows.parts;
    int64_t first = rows.offsets[0], end = rows.offsets[segments];
    const int64_t *offsets =
        rows.device_offsets.data ? device_data<int64_t>(rows.device_offsets) : NULL;
    CHECK(offsets || rows.groups == 1, "%lld groups of rows without offsets in device memory",
          (long long)rows.groups);
    int64_t tiles = offsets ? (end - first) / ROWS + segments : ceil_div(end - first, ROWS);
    if (end == first) return;
    launch(dev, quantized_rows_kernel<W, ROWS, VECTORS>,
           grid_of(tiles * ceil_div(N, WARPS * COLUMNS)), dim3(WARPS * WARP), 0,
           device_data<float>(y), device_data<float>(x), device_data<W>(w.values),
           w.scales.data ? device_data<float>(w.scales) : NULL, N, x.shape[1], first, end, offsets,
           segments, rows.parts);
}

template <typename W>
static void multiply_by(Device *dev, Tensor y, Tensor x, QuantizedMatrix w, Segments rows) {
    int64_t most = 0, K = x.shape[1];
    for (int64_t s = 0; s < rows.groups * rows.parts; s++)
        most = larger(most, rows.offsets[s + 1] - rows.offsets[s]);
    bool vectors = (K * (int64_t)sizeof(W)) % 16 == 0 && (uintptr_t)w.values.data % 16 == 0 &&
                   rows_are_vectors<float>(x.data, K);
    if (!vectors)
        multiply<W, MOST_ROWS, false>(dev, y, x, w, rows);
    else if (most == 1)
        multiply<W, 1, true>(dev, y, x, w, rows);
    else
        multiply<W, MOST_ROWS, true>(dev, y, x, w, rows);
}

void matmul_quantized_cuda(Device *dev, Tensor y, Tensor x, QuantizedMatrix w, Segments rows) {
    if (w.values.dtype == BF16)
        multiply_by<bf16>(dev, y, x, w, rows);
    else if (w.values.dtype == F16)
        multiply_by<__half>(dev, y, x, w, rows);
    else
        multiply_by<int8_t>(dev, y, x, w, rows);
}
