// Dispatch and combine: row copies and weighted sums on the result of permutation_plan_cuda.cu.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

// ---- rows ---------------------------------------------------------------------------------------

static const int ROW_THREADS = 256;
static const int PIECES_PER_THREAD = 4; // loads of a thread under way at once
// Choices of a token that are read at once. A power of two that covers K of 8 in two rounds.
static const int SLOTS = 4;
// Blocks of combine_rows on a multiprocessor, with 64 registers a thread: rows under way count for
// more than threads.
static const int COMBINE_BLOCKS = 4;

// A block of ROW_THREADS in which `x` threads share a row, so that each has `each` of its pieces or
// the block is one row.
static dim3 block_of_rows(int64_t pieces, int64_t each, int64_t least) {
    int64_t x = least;
    while (x < ROW_THREADS && x * each < pieces) x *= 2;
    return dim3((unsigned)x, (unsigned)(ROW_THREADS / x));
}

// blockDim.x threads copy a row of `pieces` P, each up to four pieces at a time; blockDim.y rows a
// block. Bytes: each row once in and out; a token's row that K choices share comes from L2 but the
// first time. Copies only: no rounding, nothing to order.
template <typename P>
static __global__ void __launch_bounds__(ROW_THREADS)
    gather_pieces(P *__restrict__ out, const P *__restrict__ x, const int32_t *__restrict__ index,
                  int64_t rows, int64_t pieces, int32_t divisor) {
    int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows) return;
    int32_t at = index[r];
    const P *from = x + (int64_t)(at / divisor) * pieces;
    P *to = out + r * pieces;
    for (int64_t first = threadIdx.x; first < pieces;
         first += (int64_t)blockDim.x * PIECES_PER_THREAD) {
        P piece[PIECES_PER_THREAD];
#pragma unroll
        for (int i = 0; i < PIECES_PER_THREAD; i++) {
            int64_t p = first + (int64_t)i * blockDim.x;
            piece[i] = P();
            if (at >= 0 && p < pieces) piece[i] = from[p];
        }
#pragma unroll
        for (int i = 0; i < PIECES_PER_THREAD; i++) {
            int64_t p = first + (int64_t)i * blockDim.x;
            if (p < pieces) to[p] = piece[i];
        }
    }
}

template <typename P>
static void gather(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows, int64_t divisor) {
    int64_t pieces =
        x.shape[1] * (int64_t)dtype_bytes(x.dtype) / (int64_t)sizeof(P); // whole: see the caller
    dim3 block = block_of_rows(pieces, PIECES_PER_THREAD, 8);
    launch(dev, gather_pieces<P>, grid_of(ceil_div(rows, block.y)), block, 0,
           static_cast<P *>(out.data), static_cast<const P *>(x.data), device_data<int32_t>(index),
           rows, pieces, divisor);
}

template <typename T>
static void gather_stored(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                          int64_t divisor) {
    T *to = device_data<T>(out), *from = device_data<T>(x);
    if (rows_are_vectors<T>(to, x.shape[1]) && rows_are_vectors<T>(from, x.shape[1])) {
        gather<uint4>(dev, out, x, index, rows, divisor);
    } else {
        gather<T>(dev, out, x, index, rows, divisor);
    }
}

extern "C" void gather_rows_cuda(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                                 int64_t divisor) {
    // No choice has a number beyond 31 bits: what divides more divides them all to 0.
    if (divisor > INT32_MAX) divisor = INT32_MAX;
    if (x.dtype == BF16) {
        gather_stored<bf16>(dev, out, x, index, rows, divisor);
    } else {
        gather_stored<float>(dev, out, x, index, rows, divisor);
    }
}

// COUNT elements of a row as f32: a whole vector, or one.
template <typename T, int COUNT>
__device__ static inline void load_piece(float *to, const T *from) {
    if constexpr (COUNT == 1) {
        to[0] = to_float(from[0]);
    } else {
        load_vector(to, from);
    }
}
template <typename T, int COUNT>
__device__ static inline void store_piece(T *to, const float *from) {
    if constexpr (COUNT == 1) {
        to[0] = from_float<T>(from[0]);
    } else {
        store_vector(to, from);
    }
}

// blockDim.x threads make a token's row, each COUNT columns at a time, in f32 registers; blockDim.y
// tokens a block. Four choices' rows are read at once and added in slot order, from 0 (dropped ones
// as zeros): the order depends on nothing else. Bytes: each kept choice's row once in, each token's
// row once out: the minimum.
template <typename T, int COUNT>
static __global__ void __launch_bounds__(ROW_THREADS, COMBINE_BLOCKS)
    combine_rows(T *__restrict__ out, const T *__restrict__ y, const int32_t *__restrict__ slot_row,
                 const float *__restrict__ weights, int64_t N, int64_t D, int32_t K) {
    int64_t n = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    for (int64_t d = (int64_t)threadIdx.x * COUNT; d < D; d += (int64_t)blockDim.x * COUNT) {
        float sum[COUNT] = {};
        for (int32_t first = 0; first < K; first += SLOTS) {
            // Indices, then rows, then sums, the sums without a branch: each kind of load is under
            // way four times.
            float part[SLOTS][COUNT] = {}, weight[SLOTS] = {};
            int32_t row[SLOTS];
#pragma unroll
            for (int i = 0; i < SLOTS; i++) {
                row[i] = first + i < K ? slot_row[n * K + first + i] : -1;
                if (row[i] >= 0) weight[i] = weights ? weights[n * K + first + i] : 1.0f;
            }
#pragma unroll
            for (int i = 0; i < SLOTS; i++)
                if (row[i] >= 0) load_piece<T, COUNT>(part[i], y + row[i] * D + d);
#pragma unroll
            for (int i = 0; i < SLOTS; i++) {
#pragma unroll
                for (int j = 0; j < COUNT; j++) sum[j] += weight[i] * part[i][j];
            }
        }
        store_piece<T, COUNT>(out + n * D + d, sum);
    }
}

template <typename T>
static void combine(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights) {
    int64_t N = out.shape[0], D = out.shape[1], K = slot_row.shape[1];
    T *to = device_data<T>(out), *from = device_data<T>(y);
    const int32_t *row = device_data<int32_t>(slot_row);
    const float *weight = device_data<float>(weights);
    bool vectors = rows_are_vectors<T>(to, D) && rows_are_vectors<T>(from, D);
    dim3 block = block_of_rows(vectors ? D / Vector<T>::COUNT : D, 1, 8);
    launch(dev, vectors ? combine_rows<T, Vector<T>::COUNT> : combine_rows<T, 1>,
           grid_of(ceil_div(N, block.y)), block, 0, to, from, row, weight, N, D, K);
}

extern "C" void combine_forward_cuda(Device *dev, Tensor out, Tensor y, Tensor slot_row,
                                     Tensor weights) {
    if (y.dtype == BF16) {
        combine<bf16>(dev, out, y, slot_row, weights);
    } else {
        combine<float>(dev, out, y, slot_row, weights);
    }
}

// A warp takes a token (blockDim is (32, 8)), or where rows are wide a block does (blockDim is
// (256, 1)). Each thread has the same columns of dout, of the rows of y and of those of dy: it
// reads y before it writes dy there, and no other thread touches them, so dy may be y. Four choices
// at a time share one reading of dout. The products of a dot are added by thread, columns in order,
// then over lanes, then over warps: an order of D alone. Bytes: rows of y once in, rows of dy once
// out, dout once from memory and from L1 for each further four choices.
template <typename T, int COUNT>
static __global__ void __launch_bounds__(ROW_THREADS)
    combine_backward_rows(T *dy, float *__restrict__ dweights, const T *__restrict__ dout,
                          const T *y, const int32_t *__restrict__ slot_row,
                          const float *__restrict__ weights, int64_t N, int64_t D, int32_t K) {
    __shared__ float of_warp[ROW_THREADS / WARP][SLOTS];
    int64_t n = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return; // a whole warp without a token; a block of wide rows has one
    for (int32_t first = 0; first < K; first += SLOTS) {
        float dot[SLOTS] = {}, weight[SLOTS] = {};
        int32_t row[SLOTS];
#pragma unroll
        for (int i = 0; i < SLOTS; i++) {
            row[i] = first + i < K ? slot_row[n * K + first + i] : -1;
            if (row[i] >= 0) weight[i] = weights[n * K + first + i];
        }
        for (int64_t d = (int64_t)threadIdx.x * COUNT; d < D; d += (int64_t)blockDim.x * COUNT) {
            float dsum[COUNT], part[SLOTS][COUNT] = {};
            load_piece<T, COUNT>(dsum, dout + n * D + d);
#pragma unroll
            for (int i = 0; i < SLOTS; i++)
                if (row[i] >= 0) load_piece<T, COUNT>(part[i], y + row[i] * D + d);
#pragma unroll
            for (int i = 0; i < SLOTS; i++) {
                if (row[i] < 0) continue;
#pragma unroll
                for (int j = 0; j < COUNT; j++) {
                    dot[i] += dsum[j] * part[i][j];
                    part[i][j] = weight[i] * dsum[j];
                }
                store_piece<T, COUNT>(dy + row[i] * D + d, part[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < SLOTS; i++) dot[i] = warp_sum(dot[i]);
        if (blockDim.x > WARP) {
            int warp = threadIdx.x / WARP;
            __syncthreads(); // the sums of the choices before have been read
            if (threadIdx.x % WARP == 0) {
#pragma unroll
                for (int i = 0; i < SLOTS; i++) of_warp[warp][i] = dot[i];
            }
            __syncthreads();
            if (threadIdx.x < SLOTS && first + (int32_t)threadIdx.x < K) {
                float sum = 0.0f;
                for (int w = 0; w < ROW_THREADS / WARP; w++) sum += of_warp[w][threadIdx.x];
                dweights[n * K + first + threadIdx.x] = sum;
            }
        } else if (threadIdx.x == 0) {
#pragma unroll
            for (int i = 0; i < SLOTS; i++)
                if (first + i < K) dweights[n * K + first + i] = dot[i];
        }
    }
}

// The rows of x that no choice names become zeros: blockDim.x threads a row, blockDim.y rows a
// block. Bytes: each such row once out, and 4 a row.
template <typename T, int COUNT>
static __global__ void __launch_bounds__(ROW_THREADS)
    clear_padding(T *x, const int32_t *__restrict__ row_choice, int64_t rows, int64_t D) {
    int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (r >= rows || row_choice[r] >= 0) return;
    const float zeros[COUNT] = {};
    for (int64_t d = (int64_t)threadIdx.x * COUNT; d < D; d += (int64_t)blockDim.x * COUNT)
        store_piece<T, COUNT>(x + r * D + d, zeros);
}

// Pieces of a row that a warp still reads in few rounds; wider rows take a block.
static const int WARP_PIECES = 4 * WARP;

template <typename T>
static void combine_backward_stored(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                                    Tensor slot_row, Tensor row_choice, Tensor weights) {
    int64_t N = dout.shape[0], D = dout.shape[1], K = slot_row.shape[1];
    T *to = device_data<T>(dy), *from = device_data<T>(y), *gradient = device_data<T>(dout);
    float *dweight = device_data<float>(dweights);
    const float *weight = device_data<float>(weights);
    bool vectors = rows_are_vectors<T>(to, D) && rows_are_vectors<T>(from, D) &&
                   rows_are_vectors<T>(gradient, D);
    bool wide = (vectors ? D / Vector<T>::COUNT : D) > WARP_PIECES;
    dim3 block = wide ? dim3(ROW_THREADS) : dim3(WARP, ROW_THREADS / WARP);
    launch(dev, vectors ? combine_backward_rows<T, Vector<T>::COUNT> : combine_backward_rows<T, 1>,
           grid_of(ceil_div(N, block.y)), block, 0, to, dweight, gradient, from,
           device_data<int32_t>(slot_row), weight, N, D, K);
    if (!row_choice.data) return;
    int64_t rows = row_choice.shape[0];
    launch(dev, vectors ? clear_padding<T, Vector<T>::COUNT> : clear_padding<T, 1>,
           grid_of(ceil_div(rows, block.y)), block, 0, to, device_data<int32_t>(row_choice), rows,
           D);
}

extern "C" void combine_backward_cuda(Device *dev, Tensor dy, Tensor dweights, Tensor dout,
                                      Tensor y, Tensor slot_row, Tensor row_choice,
                                      Tensor weights) {
    if (y.dtype == BF16) {
        combine_backward_stored<bf16>(dev, dy, dweights, dout, y, slot_row, row_choice, weights);
    } else {
        combine_backward_stored<float>(dev, dy, dweights, dout, y, slot_row, row_choice, weights);
    }
}

// ---- weights ------------------------------------------------------------------------------------

// A thread a token, its K weights added in slot order; neighbouring threads' weights share the
// cache lines. Bytes: 9 a choice.
static __global__ void __launch_bounds__(ROW_THREADS)
    renormalize_weights(float *__restrict__ scaled, const float *__restrict__ weights,
                        const uint8_t *__restrict__ kept, int64_t N, int64_t K) {
    int64_t n = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (n >= N) return;
    float sum = 0.0f;
    for (int64_t c = n * K; c < (n + 1) * K; c++) sum += kept[c] ? weights[c] : 0.0f;
    for (int64_t c = n * K; c < (n + 1) * K; c++)
        scaled[c] = kept[c] && sum > 0.0f ? weights[c] / sum : 0.0f;
}

extern "C" void renormalize_forward_cuda(Device *dev, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    launch(dev, renormalize_weights, grid_of(ceil_div(N, ROW_THREADS)), dim3(ROW_THREADS), 0,
           device_data<float>(scaled), device_data<float>(weights), device_data<uint8_t>(kept), N,
           K);
}

// s_k = w_k / Σ w over the kept: dw_k = (ds_k - Σ_j ds_j s_j) / Σ w. A thread a token, in slot
// order. Bytes: 17 a choice.
static __global__ void __launch_bounds__(ROW_THREADS)
    renormalize_gradients(float *__restrict__ gradient, const float *__restrict__ scaled,
                          const float *__restrict__ weights, const uint8_t *__restrict__ kept,
                          int64_t N, int64_t K) {
    int64_t n = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (n >= N) return;
    float sum = 0.0f, mean = 0.0f;
    for (int64_t c = n * K; c < (n + 1) * K; c++) {
        sum += kept[c] ? weights[c] : 0.0f;
        mean += kept[c] ? gradient[c] * scaled[c] : 0.0f;
    }
    for (int64_t c = n * K; c < (n + 1) * K; c++)
        gradient[c] = kept[c] && sum > 0.0f ? (gradient[c] - mean) / sum : 0.0f;
}

extern "C" void renormalize_backward_cuda(Device *dev, Tensor dscaled, Tensor scaled,
                                          Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    launch(dev, renormalize_gradients, grid_of(ceil_div(N, ROW_THREADS)), dim3(ROW_THREADS), 0,
           device_data<float>(dscaled), device_data<float>(scaled), device_data<float>(weights),
           device_data<uint8_t>(kept), N, K);
}
