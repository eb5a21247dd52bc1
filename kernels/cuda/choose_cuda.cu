#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 128 };

// A thread owns a choice. Bytes: 4 a choice, the minimum.
__global__ static void __launch_bounds__(THREADS)
    in_turn(int32_t *ids, int64_t choices, int64_t first, int64_t E) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < choices) ids[i] = (int32_t)((first + i) % E);
}

void choose_in_turn_cuda(Device *dev, Tensor ids, int64_t E, int64_t first_token) {
    int64_t choices = tensor_elements(ids);
    launch(dev, in_turn, grid_of(ceil_div(choices, THREADS)), THREADS, 0, device_data<int32_t>(ids),
           choices, first_token * ids.shape[1], E);
}

// A thread owns a choice. Bytes: 8 a choice, the minimum.
__global__ static void __launch_bounds__(THREADS)
    number_by_head(int32_t *out, const int32_t *ids, int64_t choices, int64_t K, int64_t heads,
                   int64_t E) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < choices) out[i] = (int32_t)(i / K % heads * E) + ids[i];
}

void choices_of_heads_cuda(Device *dev, Tensor out, Tensor ids, int64_t E) {
    int64_t choices = tensor_elements(ids);
    launch(dev, number_by_head, grid_of(ceil_div(choices, THREADS)), THREADS, 0,
           device_data<int32_t>(out), device_data<int32_t>(ids), choices, ids.shape[1],
           ids.shape[0] / out.shape[0], E);
}

// As choose_cpu.c says, in integers throughout. A thread owns a token; its chosen experts, in
// ascending order, lie in its local memory. Bytes: 4 a choice, and log2(E) reads of `end` from the
// cache.
__global__ static void __launch_bounds__(THREADS)
    draw_tokens(int32_t *ids, const int32_t *tokens, const int32_t *end, ExpertDraw draw, int64_t N,
                int K) {
    int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (n >= N) return;
    uint64_t number = tokens ? (uint64_t)tokens[n] : (uint64_t)(draw.first_token + n);
    int chosen[MOST_DRAWN], E = (int)draw.experts, left = end ? end[E - 1] : E;
    for (int k = 0; k < K; k++) {
        uint32_t word = philox_u32(draw.stream, number * (uint64_t)K + (uint64_t)k);
        int r = (int)((uint64_t)word * (uint64_t)left >> 32);
        for (int i = 0; i < k; i++) {
            int e = chosen[i], begin = !end ? e : e > 0 ? end[e - 1] : 0;
            if (r < begin) break;
            r += end ? end[e] - begin : 1;
        }
        int e = r;
        if (end) {
            int low = 0, high = E - 1;
            while (low < high) {
                int middle = (low + high) / 2;
                if (end[middle] > r)
                    high = middle;
                else
                    low = middle + 1;
            }
            e = low;
        }
        left -= !end ? 1 : e > 0 ? end[e] - end[e - 1] : end[e];
        int at = k;
        for (; at > 0 && chosen[at - 1] > e; at--) chosen[at] = chosen[at - 1];
        chosen[at] = e;
        ids[n * K + k] = e;
    }
}

void choose_by_draw_cuda(Device *dev, Tensor ids, Tensor tokens, Tensor ends, ExpertDraw draw) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    CHECK_ROUTING(draw.experts, K);
    launch(dev, draw_tokens, grid_of(ceil_div(N, THREADS)), THREADS, 0, device_data<int32_t>(ids),
           tokens.data ? device_data<int32_t>(tokens) : nullptr,
           ends.data ? device_data<int32_t>(ends) : nullptr, draw, N, K);
}
