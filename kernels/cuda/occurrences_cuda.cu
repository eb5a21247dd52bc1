// A stable radix sort: numbers are integers, and its counts do not depend on order.
#include "kernels/cuda/occurrences.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"

static const int WARPS = 8; // of a block, where each warp works alone
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

// keys[n] = numbers[n] - first, or `count` where that is not in 0 … count - 1. A thread has one.
__global__ void __launch_bounds__(256) shift_keys_kernel(int32_t *keys, const int32_t *numbers,
                                                         int64_t N, int64_t first, int64_t count) {
    int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) return;
    int64_t key = numbers[n] - first;
    keys[n] = (int32_t)(key >= 0 && key < count ? key : count);
}

void list_occurrences(Device *dev, int32_t *at, int32_t *begin, const int32_t *numbers, int64_t N,
                      int64_t count, int64_t first, bool others) {
    int64_t blocks = ceil_div(N, TILE), largest = others ? count : count - 1;
    int32_t *spare =
        (int32_t *)cuda_workspace(dev, (size_t)(4 * N + DIGITS * (blocks + 1)) * sizeof *spare);
    int32_t *sorted[2] = {spare, spare + N}, *values = spare + 2 * N, *shifted = spare + 3 * N;
    int32_t *totals = spare + 4 * N, *counts = totals + DIGITS;
    int passes = 1;
    while (largest >> passes * DIGIT_BITS > 0) passes++;
    const int32_t *keys = numbers, *places = NULL;
    if (others) {
        launch(dev, shift_keys_kernel, grid_of(ceil_div(N, 256)), dim3(256), 0, shifted, numbers, N,
               first, count);
        keys = shifted;
    }
    for (int i = 0; i < passes; i++) {
        int32_t *values_out = (passes - i) % 2 ? at : values; // the last pass fills `at`
        int shift = i * DIGIT_BITS;
        launch(dev, count_digits_kernel, grid_of(blocks), dim3(DIGITS), 0, counts, keys, N, shift);
        launch(dev, add_up_counts_kernel, grid_of(DIGITS / WARPS), dim3(WARPS * WARP), 0, counts,
               totals, blocks);
        launch(dev, sort_pass_kernel, grid_of(blocks), dim3(DIGITS), 0, sorted[i % 2], values_out,
               keys, places, counts, totals, N, shift);
        keys = sorted[i % 2], places = values_out;
    }
    launch(dev, find_first_kernel, grid_of(ceil_div(count + 1, 256)), dim3(256), 0, begin, keys, N,
           count);
}
