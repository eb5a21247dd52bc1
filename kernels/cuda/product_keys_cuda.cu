#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int WARPS = 4; // of a block, where each warp has a query
static const int MOST = PRODUCT_KEYS_TOP_K, OWN = MOST / WARP; // experts of a query, of a lane

// A score and where it stands: the larger score is before, of equal ones the lower number.
typedef struct Scored {
    float score;
    int number;
} Scored;

__device__ static inline bool is_before(Scored a, Scored b) {
    return a.score > b.score || (a.score == b.score && a.number < b.number);
}

// The foremost place of the warp, in every lane. Places are different, so the order in which lanes
// are compared does not matter.
__device__ static inline Scored warp_foremost(Scored mine) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Scored other = {__shfl_xor_sync(ALL_LANES, mine.score, distance),
                        __shfl_xor_sync(ALL_LANES, mine.number, distance)};
        if (is_before(other, mine)) mine = other;
    }
    return mine;
}

// A score that is not a number is the smallest.
__device__ static inline float ordered(float score) {
    return score == score ? score : -INFINITY;
}

// The k keys of a half with the largest scores, one after another: of those behind the last one
// found the foremost. Reads the scores k times, from the cache but for the first time.
__device__ static inline void find_best(float *best, int *keys, const float *scores, int n, int k) {
    int lane = threadIdx.x % WARP;
    Scored last = {INFINITY, -1};
    for (int i = 0; i < k; i++) {
        Scored mine = {-INFINITY, n}; // behind all
        for (int j = lane; j < n; j += WARP) {
            Scored here = {ordered(scores[j]), j};
            if (is_before(last, here) && is_before(here, mine)) mine = here;
        }
        last = warp_foremost(mine);
        if (lane == 0) best[i] = last.score, keys[i] = last.number;
    }
    __syncwarp();
}

// A warp has a query: the best keys of each half, then the best pairs of them, of which the next
// one of each first key waits in its lane. Bytes: the scores of both halves in, 8 an expert out.
__global__ void __launch_bounds__(WARPS *WARP)
    product_keys_kernel(int32_t *__restrict__ ids, float *__restrict__ weights,
                        const float *__restrict__ first, const float *__restrict__ second,
                        int64_t R, int n, int k) {
    __shared__ float best[WARPS][2][MOST], sums[WARPS][MOST];
    __shared__ int keys[WARPS][2][MOST];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int64_t r = (int64_t)blockIdx.x * WARPS + warp;
    if (r >= R) return; // the whole warp
    find_best(best[warp][0], keys[warp][0], first + r * n, n, k);
    find_best(best[warp][1], keys[warp][1], second + r * n, n, k);
    int next[OWN] = {};
    for (int found = 0; found < k; found++) {
        Scored mine = {-INFINITY, k * k}; // behind all
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            int a = lane + i * WARP;
            if (a >= k || next[i] >= k) continue;
            Scored here = {ordered(best[warp][0][a] + best[warp][1][next[i]]), a * k + next[i]};
            if (is_before(here, mine)) mine = here;
        }
        mine = warp_foremost(mine);
        int a = mine.number / k, b = mine.number % k;
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (a == lane + i * WARP) next[i]++;
        if (lane == 0) {
            sums[warp][found] = mine.score;
            ids[r * k + found] = keys[warp][0][a] * n + keys[warp][1][b];
        }
    }
    __syncwarp();
    float total = 0.0f; // every lane adds all, in their order
    for (int i = 0; i < k; i++) total += expf(sums[warp][i] - sums[warp][0]);
    for (int i = lane; i < k; i += WARP)
        weights[r * k + i] = expf(sums[warp][i] - sums[warp][0]) / total;
}

void product_keys_forward_cuda(Device *dev, Tensor ids, Tensor weights, Tensor first,
                               Tensor second) {
    int64_t R = ids.shape[0];
    launch(dev, product_keys_kernel, grid_of(ceil_div(R, WARPS)), dim3(WARPS * WARP), 0,
           device_data<int32_t>(ids), device_data<float>(weights), device_data<float>(first),
           device_data<float>(second), R, first.shape[1], ids.shape[1]);
}

// A warp has a query. Bytes: 12 an expert in, 12 out.
__global__ void __launch_bounds__(WARPS *WARP)
    product_keys_backward_kernel(float *__restrict__ dsums, int32_t *__restrict__ first_keys,
                                 int32_t *__restrict__ second_keys,
                                 const float *__restrict__ dweights,
                                 const int32_t *__restrict__ ids, const float *__restrict__ weights,
                                 int64_t R, int n, int k) {
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (r >= R) return; // the whole warp
    const float *w = weights + r * k, *dw = dweights + r * k;
    float mean = 0.0f; // every lane adds all, in their order
    for (int i = 0; i < k; i++) mean += w[i] * dw[i];
    for (int i = (int)threadIdx.x % WARP; i < k; i += WARP) {
        dsums[r * k + i] = w[i] * (dw[i] - mean);
        first_keys[r * k + i] = ids[r * k + i] / n;
        second_keys[r * k + i] = ids[r * k + i] % n;
    }
}

void product_keys_backward_cuda(Device *dev, Tensor dsums, Tensor first_keys, Tensor second_keys,
                                Tensor dweights, Tensor ids, Tensor weights, int64_t n) {
    int64_t R = ids.shape[0];
    launch(dev, product_keys_backward_kernel, grid_of(ceil_div(R, WARPS)), dim3(WARPS * WARP), 0,
           device_data<float>(dsums), device_data<int32_t>(first_keys),
           device_data<int32_t>(second_keys), device_data<float>(dweights),
           device_data<int32_t>(ids), device_data<float>(weights), R, n, ids.shape[1]);
}

// A warp owns a query, its lanes the keys, a warp apart. Bytes: 4 a score, 8 a choice.
__global__ static void __launch_bounds__(WARPS *WARP)
    spread_sums_kernel(float *__restrict__ dscores, const float *__restrict__ dsums,
                       const int32_t *__restrict__ keys, int64_t R, int n, int k) {
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (r >= R) return; // the whole warp
    for (int j = (int)threadIdx.x % WARP; j < n; j += WARP) {
        float sum = 0.0f;
        for (int i = 0; i < k; i++)
            if (keys[r * k + i] == j) sum += dsums[r * k + i];
        dscores[r * n + j] = sum;
    }
}

void spread_sums_cuda(Device *dev, Tensor dscores, Tensor dsums, Tensor keys) {
    int64_t R = dsums.shape[0];
    launch(dev, spread_sums_kernel, grid_of(ceil_div(R, WARPS)), dim3(WARPS * WARP), 0,
           device_data<float>(dscores), device_data<float>(dsums), device_data<int32_t>(keys), R,
           (int)dscores.shape[1], (int)dsums.shape[1]);
}
