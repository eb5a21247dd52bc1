// The gradient of the embedding adds up, for every token of the vocabulary, the rows where it
// occurs in the text: a stable radix sort lists the occurrences (tokens are integers: its counts do
// not depend on order), then one warp has a row's columns to itself and adds in the order of the
// text.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/occurrences.h"
#include "kernels/cuda/part_tree.cuh"
#include "kernels/cuda/storage.cuh"

static const int WARPS = 8;                              // of a block, where each warp works alone
static const int WIDTH = 4, WARP_COLUMNS = WARP * WIDTH; // columns of a lane and of a warp

__device__ static inline int lane_number() {
    return threadIdx.x % WARP;
}
// Of all warps of the grid.
__device__ static inline int64_t warp_number() {
    return (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
}

// ---- forward ------------------------------------------------------------------------------------

// A warp copies one token's row: N·D elements read, as many written, besides the tokens.
template <bool VECTORS>
__global__ void __launch_bounds__(WARPS *WARP)
    embedding_forward_kernel(float *out, const int32_t *tokens, const float *__restrict__ weight,
                             int64_t N, int D) {
    int64_t n = warp_number();
    if (n >= N) return;
    const float *from = weight + (int64_t)tokens[n] * D;
#pragma unroll 4
    for (int d = lane_number() * WIDTH; d < D; d += WARP_COLUMNS) {
        float run[WIDTH];
        load_run<VECTORS, WIDTH>(run, from, d, D);
        store_run<VECTORS, WIDTH>(out + n * D, run, d, D);
    }
}

void embedding_forward_cuda(Device *dev, Tensor out, Tensor tokens, Tensor weight) {
    int64_t N = out.shape[0], D = out.shape[1];
    bool vectors = rows_are_vectors<float>(out.data, D) && rows_are_vectors<float>(weight.data, D);
    launch(dev, vectors ? embedding_forward_kernel<true> : embedding_forward_kernel<false>,
           grid_of(ceil_div(N, WARPS)), dim3(WARPS * WARP), 0, device_data<float>(out),
           device_data<int32_t>(tokens), device_data<float>(weight), N, D);
}

// ---- backward -----------------------------------------------------------------------------------

// A warp has WARP_COLUMNS columns of one row of dweight and adds the row's occurrences in their
// order, from a list of which each lane holds one in 32; the rows of a batch are on their way at
// once. Reads dout once and the list once for every 128 columns, writes dweight once. Shared
// memory: `heights` slots for each warp.
template <bool VECTORS>
__global__ void __launch_bounds__(WARPS *WARP, 2)
    embedding_backward_kernel(float *dweight, const float *__restrict__ dout,
                              const int32_t *__restrict__ at, const int32_t *__restrict__ first,
                              int64_t V, int D, int tokens_of_part, int heights) {
    constexpr int BATCH = 8;
    DYNAMIC_SHARED(float, all_slots);
    int lane = lane_number(), tiles = (D + WARP_COLUMNS - 1) / WARP_COLUMNS;
    int64_t v = warp_number() / tiles;
    if (v >= V) return; // the whole warp
    int d = (int)(warp_number() % tiles) * WARP_COLUMNS + lane * WIDTH;
    float *slots = all_slots + threadIdx.x / WARP * heights * WARP_COLUMNS + lane * WIDTH;
    int part = -1;
    int64_t part_end = 0; // the first token of the next part
    unsigned waiting = 0;
    float sum[WIDTH] = {};
    for (int i = first[v], end = first[v + 1]; i < end; i += WARP) {
        int listed = i + lane < end ? at[i + lane] : 0, count = min(end - i, (int)WARP);
        for (int j = 0; j < count; j += BATCH) {
            float rows[BATCH][WIDTH];
            int token[BATCH];
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                token[b] = __shfl_sync(ALL_LANES, listed, j + b);
                if (j + b < count && d < D)
                    load_run<VECTORS, WIDTH>(rows[b], dout + (int64_t)token[b] * D, d, D);
            }
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                if (j + b >= count || d >= D) continue;
                if (token[b] >= part_end) {
                    int next = token[b] / tokens_of_part;
                    if (part >= 0) wait_for<WIDTH>(sum, &waiting, 31 - __clz(part ^ next), slots);
                    part = next;
                    part_end = (int64_t)(part + 1) * tokens_of_part;
                }
#pragma unroll
                for (int k = 0; k < WIDTH; k++) sum[k] += rows[b][k];
            }
        }
    }
    join_below<WIDTH>(sum, &waiting, heights, slots);
    if (d < D) store_run<VECTORS, WIDTH>(dweight + v * D, sum, d, D);
}

void embedding_backward_cuda(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                             Tensor order) {
    int64_t N = dout.shape[0], D = dout.shape[1], V = dweight.shape[0];
    int32_t *at = device_data<int32_t>(order), *first = at + N;
    list_occurrences(dev, at, first, device_data<int32_t>(tokens), N, V, 0, false);
    int heights = 0;
    while ((int64_t)1 << heights < parts) heights++;
    bool vectors =
        rows_are_vectors<float>(dweight.data, D) && rows_are_vectors<float>(dout.data, D);
    launch(dev, vectors ? embedding_backward_kernel<true> : embedding_backward_kernel<false>,
           grid_of(ceil_div(V * ceil_div(D, WARP_COLUMNS), WARPS)), dim3(WARPS * WARP),
           (size_t)(WARPS * heights * WARP_COLUMNS) * sizeof(float), device_data<float>(dweight),
           device_data<float>(dout), at, first, V, D, N / parts, heights);
}
