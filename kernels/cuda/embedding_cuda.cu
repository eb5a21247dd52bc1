// The gradient of the embedding adds up, for every token of the vocabulary, the rows where it
// occurs in the text: a stable radix sort lists the occurrences (tokens are integers: its counts do
// not depend on order), then one warp has a row's columns to itself and adds in the order of the
// text.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/storage.cuh"

static const int WARPS = 8;                              // of a block, where each warp works alone
static const int WIDTH = 4, WARP_COLUMNS = WARP * WIDTH; // columns of a lane and of a warp

static const int DIGIT_BITS = 9, DIGITS = 1 << DIGIT_BITS; // two passes for a vocabulary of 262144
static const int SORT_WARPS = DIGITS / WARP;               // a thread for each digit
static const int ROUNDS = 4, WARP_TILE = WARP * ROUNDS,
                 TILE = SORT_WARPS * WARP_TILE; // keys of a warp, a block

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

// ---- the list of occurrences --------------------------------------------------------------------

__device__ static inline int digit_of(int32_t key, int shift) {
    return key >> shift & (DIGITS - 1);
}

// counts[digit, block] = keys of the block's tile with this digit. A block has TILE keys one after
// another, read once.
__global__ void __launch_bounds__(DIGITS)
    count_digits_kernel(int32_t *counts, const int32_t *keys, int64_t N, int shift) {
    __shared__ int here[DIGITS];
    here[threadIdx.x] = 0;
    __syncthreads();
    int64_t first = (int64_t)blockIdx.x * TILE;
    for (int64_t n = first + threadIdx.x; n < N && n < first + TILE; n += DIGITS)
        atomicAdd(&here[digit_of(keys[n], shift)], 1);
    __syncthreads();
    counts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x] = here[threadIdx.x];
}

// Turns the counts of each digit's row into the counts of the blocks before, in place, and
// totals[digit] into their sum. A warp has a row.
__global__ void __launch_bounds__(WARPS *WARP)
    add_up_counts_kernel(int32_t *counts, int32_t *totals, int blocks) {
    int digit = (int)warp_number(), lane = lane_number(), before = 0;
    int32_t *row = counts + (int64_t)digit * blocks;
    for (int first = 0; first < blocks; first += WARP) {
        int b = first + lane, own = b < blocks ? row[b] : 0, up_to = lanes_running_sum(own, WARP);
        if (b < blocks) row[b] = before + up_to - own;
        before += __shfl_sync(ALL_LANES, up_to, WARP - 1);
    }
    if (lane == 0) totals[digit] = before;
}

// One pass of the sort: every key and its value (in the first pass, values NULL, its number) go
// behind all keys of smaller digits and all earlier ones of its own. A block has a tile, a warp
// WARP_TILE keys one after another of it; thread d serves digit d between them. Reads and writes 8
// bytes a key, scattered.
__global__ void __launch_bounds__(DIGITS)
    sort_pass_kernel(int32_t *keys_out, int32_t *values_out, const int32_t *keys,
                     const int32_t *values, const int32_t *counts, const int32_t *totals, int64_t N,
                     int shift) {
    __shared__ int next[SORT_WARPS][DIGITS]; // where each warp's next key of each digit goes
    __shared__ int spare[WARP];
    int lane = lane_number(), warp = threadIdx.x / WARP, own = threadIdx.x;
    int64_t first = (int64_t)blockIdx.x * TILE + warp * WARP_TILE + lane;
    for (int w = 0; w < SORT_WARPS; w++) next[w][own] = 0;
    __syncthreads();
    for (int r = 0; r < ROUNDS; r++) {
        int64_t n = first + r * WARP;
        if (n < N) atomicAdd(&next[warp][digit_of(keys[n], shift)], 1);
    }

    // Behind all keys of smaller digits and those of the blocks before. All warps have counted at
    // block_sum_before's barriers.
    int all, place = block_sum_before(totals[own], spare, &all);
    place += counts[(int64_t)own * gridDim.x + blockIdx.x];
    for (int w = 0; w < SORT_WARPS; w++) {
        int count = next[w][own];
        next[w][own] = place;
        place += count;
    }
    __syncthreads();

    for (int r = 0; r < ROUNDS; r++) {
        int64_t n = first + r * WARP;
        int32_t key = n < N ? keys[n] : 0;
        int digit = n < N ? digit_of(key, shift) : DIGITS; // of nobody's
        unsigned same = __match_any_sync(ALL_LANES, digit), earlier = same & ((1u << lane) - 1);
        if (n < N) {
            int to = next[warp][digit] + __popc(earlier);
            keys_out[to] = key;
            values_out[to] = values ? values[n] : (int32_t)n;
        }
        __syncwarp();
        if (n < N && earlier == 0) next[warp][digit] += __popc(same);
        __syncwarp();
    }
}

// first[v] = the first place of token v, or of a larger one, among the sorted keys, for v in 0 … V;
// a thread each, by bisection.
__global__ void __launch_bounds__(256)
    find_first_kernel(int32_t *first, const int32_t *keys, int64_t N, int64_t V) {
    int64_t v = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (v > V) return;
    int64_t low = 0, high = N;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (keys[middle] < v) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    first[v] = (int32_t)low;
}

// at (N): the numbers of the text's tokens, by token and then by number; first (V + 1): where each
// token's begin in it.
static void list_occurrences(Device *dev, int32_t *at, int32_t *first, const int32_t *tokens,
                             int64_t N, int64_t V) {
    int64_t blocks = ceil_div(N, TILE);
    int32_t *spare =
        (int32_t *)cuda_workspace(dev, (size_t)(3 * N + DIGITS * (blocks + 1)) * sizeof *spare);
    int32_t *sorted[2] = {spare, spare + N}, *values = spare + 2 * N;
    int32_t *totals = spare + 3 * N, *counts = totals + DIGITS;
    int passes = 1;
    while ((V - 1) >> passes * DIGIT_BITS > 0) passes++;
    const int32_t *keys = tokens, *numbers = NULL;
    for (int i = 0; i < passes; i++) {
        int32_t *values_out = (passes - i) % 2 ? at : values; // the last pass fills `at`
        int shift = i * DIGIT_BITS;
        launch(dev, count_digits_kernel, grid_of(blocks), dim3(DIGITS), 0, counts, keys, N, shift);
        launch(dev, add_up_counts_kernel, grid_of(DIGITS / WARPS), dim3(WARPS * WARP), 0, counts,
               totals, blocks);
        launch(dev, sort_pass_kernel, grid_of(blocks), dim3(DIGITS), 0, sorted[i % 2], values_out,
               keys, numbers, counts, totals, N, shift);
        keys = sorted[i % 2], numbers = values_out;
    }
    launch(dev, find_first_kernel, grid_of(ceil_div(V + 1, 256)), dim3(256), 0, first, keys, N, V);
}

// ---- backward -----------------------------------------------------------------------------------

// The tree of a row's parts, as they come: `sum` belongs to the newest part and all that is joined
// with it; slot h holds the sum that waits at height h of the tree for its right neighbour, if bit
// h of `waiting` is set. A lane has its own columns of every slot. Parts without occurrences are
// +0, which changes no sum: sums begin at +0 and so are never -0.
__device__ static inline void join_below(float *sum, unsigned *waiting, int height,
                                         const float *slots) {
    while (unsigned below = *waiting & ((1u << height) - 1)) {
        int lowest = __ffs(below) - 1;
        *waiting ^= 1u << lowest;
        float left[WIDTH];
        load_vector(left, slots + lowest * WARP_COLUMNS);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[i] = left[i] + sum[i];
    }
}

// A part begins whose sum meets that of the one before at this height.
__device__ static inline void wait_for(float *sum, unsigned *waiting, int height, float *slots) {
    join_below(sum, waiting, height, slots);
    store_vector(slots + height * WARP_COLUMNS, sum);
    *waiting |= 1u << height;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] = 0.0f;
}

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
                    if (part >= 0) wait_for(sum, &waiting, 31 - __clz(part ^ next), slots);
                    part = next;
                    part_end = (int64_t)(part + 1) * tokens_of_part;
                }
#pragma unroll
                for (int k = 0; k < WIDTH; k++) sum[k] += rows[b][k];
            }
        }
    }
    join_below(sum, &waiting, heights, slots);
    if (d < D) store_run<VECTORS, WIDTH>(dweight + v * D, sum, d, D);
}

void embedding_backward_cuda(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                             Tensor order) {
    int64_t N = dout.shape[0], D = dout.shape[1], V = dweight.shape[0];
    int32_t *at = device_data<int32_t>(order), *first = at + N;
    list_occurrences(dev, at, first, device_data<int32_t>(tokens), N, V);
    int heights = 0;
    while ((int64_t)1 << heights < parts) heights++;
    bool vectors =
        rows_are_vectors<float>(dweight.data, D) && rows_are_vectors<float>(dout.data, D);
    launch(dev, vectors ? embedding_backward_kernel<true> : embedding_backward_kernel<false>,
           grid_of(ceil_div(V * ceil_div(D, WARP_COLUMNS), WARPS)), dim3(WARPS * WARP),
           (size_t)(WARPS * heights * WARP_COLUMNS) * sizeof(float), device_data<float>(dweight),
           device_data<float>(dout), at, first, V, D, N / parts, heights);
}
