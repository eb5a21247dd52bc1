// The router's backward pass on the GPU.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/router_row.cuh"

typedef struct BackwardArguments {
    float *dlogits;        // (N, E)
    const float *dweights; // (N, K)
    const int32_t *ids;    // (N, K)
    const float *weights;  // (N, K)
    const float *logits;   // (N, E)
    const float *lse;      // (N)
    const float *balance;  // (parts, E)
    int64_t N, rows;       // rows: tokens of a part
    int E, K;
    float z_scale;
    RouterScore score;
    RouterWeighing weighing;
    float factor; // of the weights, unless scores are exponentials
} BackwardArguments;

// From logits in p to the gradients through the probabilities and lse, of_z times the softmax; and
// of weights over the sum of all scores, whose part for every expert is `inner`.
template <int LANES, int PER_LANE>
__device__ static inline void softmax_terms(float *p, const float *balance, float of_z, float lse,
                                            float inner) {
    float shift = 0;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) {
        p[j] = expf(p[j] - lse);
        shift += balance[j] * p[j];
    }
    shift = of_z - token_sum<LANES>(shift) - inner;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) p[j] *= balance[j] + shift;
}

// The same where the probabilities are other scores over their sum.
template <int LANES, int PER_LANE>
__device__ static inline void score_terms(float *p, const float *balance, RouterScore score,
                                          float of_z, float lse) {
    float best = -INFINITY, sum = 0, shift = 0;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) best = fmaxf(best, log_score(score, p[j]));
    best = token_max<LANES>(best);
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) sum += expf(log_score(score, p[j]) - best);
    float scale = 1.0f / token_sum<LANES>(sum);
#pragma unroll
    for (int j = 0; j < PER_LANE; j++)
        shift += balance[j] * expf(log_score(score, p[j]) - best) * scale;
    shift = token_sum<LANES>(shift);
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) {
        float z = p[j],
              of_balance = expf(log_score(score, z) - best) * scale * (balance[j] - shift);
        p[j] = score_slope(score, z) * of_balance + of_z * expf(z - lse);
    }
}

// LANES lanes own a token; the formulas are router_backward_cpu.c's. Bytes: 8 E + 12 K a token,
// once; balance stays in the caches. Determinism: a token's gradient depends on its own numbers
// alone, sums over experts are butterflies.
template <int LANES, int PER_LANE, bool PLAIN>
__global__ static void __launch_bounds__(THREADS, PLAIN ? 0 : 1)
    unroute_tokens(BackwardArguments a) {
    const int TOKENS = WARP / LANES;
    int lane = (int)threadIdx.x % LANES, within_warp = (int)threadIdx.x % WARP / LANES;
    int64_t of_warp = ((int64_t)blockIdx.x * WARPS + threadIdx.x / WARP) * TOKENS;
    if (of_warp >= a.N) return; // the whole warp
    int64_t n = of_warp + within_warp;
    bool inside = n < a.N;

    int chosen[Slots<LANES>::COUNT];
    float w[Slots<LANES>::COUNT], dw[Slots<LANES>::COUNT], inner = 0;
#pragma unroll
    for (int s = 0; s < Slots<LANES>::COUNT; s++) {
        int k = s * LANES + lane;
        bool has = inside && k < a.K;
        chosen[s] = has ? a.ids[n * a.K + k] : -1;
        w[s] = has ? a.weights[n * a.K + k] : 0.0f;
        dw[s] = has ? a.dweights[n * a.K + k] : 0.0f;
        inner += dw[s] * w[s];
    }
    inner = token_sum<LANES>(inner);

    float p[PER_LANE], balance[PER_LANE], lse = inside ? a.lse[n] : 0.0f;
    load_row<LANES, PER_LANE>(p, a.logits + n * a.E, a.E, inside, -INFINITY);
    load_row<LANES, PER_LANE>(balance, a.balance + n / a.rows * a.E, a.E, inside, 0.0f);
    RouterScore score = PLAIN ? SCORE_EXP : a.score; // the same in all threads
    bool over_chosen = a.weighing == WEIGH_OVER_CHOSEN;
    if (score != SCORE_EXP) {
        inner /= a.factor;
        score_terms<LANES, PER_LANE>(p, balance, score, 2.0f * a.z_scale * lse, lse);
    } else {
        softmax_terms<LANES, PER_LANE>(p, balance, 2.0f * a.z_scale * lse, lse,
                                       over_chosen ? 0.0f : inner);
    }
#pragma unroll
    for (int s = 0; s < Slots<LANES>::COUNT; s++) {
        float own = w[s] * (over_chosen ? dw[s] - inner : dw[s]);
        if (score != SCORE_EXP && chosen[s] >= 0 && chosen[s] < a.E) // given ones may be anything
            own *= score_slope(score, a.logits[n * a.E + chosen[s]]);
        for (int k = 0; k < LANES && s * LANES + k < a.K; k++) {
            int expert = __shfl_sync(ALL_LANES, chosen[s], k, LANES);
            float of_choice = __shfl_sync(ALL_LANES, own, k, LANES);
#pragma unroll
            for (int j = 0; j < PER_LANE; j++)
                if (expert_of<LANES, PER_LANE>(j) == expert) p[j] += of_choice;
        }
    }
    if (inside) store_row<LANES, PER_LANE>(a.dlogits + n * a.E, p, a.E);
}

typedef void (*BackwardKernel)(BackwardArguments);
template <bool PLAIN> static BackwardKernel backward_kernel(int64_t E) {
    return E <= 8     ? unroute_tokens<8, 1, PLAIN>
           : E <= 16  ? unroute_tokens<16, 1, PLAIN>
           : E <= 32  ? unroute_tokens<32, 1, PLAIN>
           : E <= 64  ? unroute_tokens<32, 2, PLAIN>
           : E <= 128 ? unroute_tokens<32, 4, PLAIN>
           : E <= 256 ? unroute_tokens<32, 8, PLAIN>
           : E <= 512 ? unroute_tokens<32, 16, PLAIN>
                      : unroute_tokens<32, 32, PLAIN>;
}

extern "C" void router_backward_cuda(Device *dev, Tensor dlogits, Tensor dweights, Routing routing,
                                     Tensor logits, RouterRule rule, Tensor balance,
                                     float z_scale) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    CHECK_ROUTING(E, K);
    BackwardArguments a = {device_data<float>(dlogits),
                           device_data<float>(dweights),
                           device_data<int32_t>(routing.ids),
                           device_data<float>(routing.weights),
                           device_data<float>(logits),
                           device_data<float>(routing.lse),
                           device_data<float>(balance),
                           N,
                           N / balance.shape[0],
                           (int)E,
                           (int)K,
                           z_scale,
                           router_score(rule, K),
                           router_weighing(rule, K),
                           (float)rule.scaling_factor};
    bool plain = router_score(rule, K) == SCORE_EXP;
    BackwardKernel kernel = plain ? backward_kernel<true>(E) : backward_kernel<false>(E);
    launch(dev, kernel, grid_of(ceil_div(N, THREADS / lanes_of_token(E))), dim3(THREADS), 0, a);
}
