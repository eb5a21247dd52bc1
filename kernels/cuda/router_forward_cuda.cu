// The router's forward pass on the GPU.
#include "kernels/cuda/column_sum.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/router_row.cuh"

enum { ROUNDS = 4 }; // tokens that each group of lanes takes

typedef struct ForwardArguments {
    int32_t *ids;         // (N, K)
    float *weights;       // (N, K)
    float *lse;           // (N)
    float *squares;       // (N), or NULL
    double *partial;      // (parts, chunks, E + 2): sums of a chunk's probabilities, entropy, lse²
    const float *logits;  // (N, E)
    const float *bias;    // (E), or NULL
    int64_t rows, chunks; // of a part
    int E, K;
    RouterScore score;
    RouterWeighing weighing;
    float factor;  // of the weights, unless scores are exponentials
    bool given;    // ids are input
    bool by_score; // choices are, and not by logit
    int bias_stride;
    int groups, top_groups, group_choices;
} ForwardArguments;

// Finds the K largest keys one after the other, ties to the lower expert; a lane's keys ascend with
// the expert. Takes each out of `key`, and leaves choice k with its lane.
template <int LANES, int PER_LANE>
__device__ static inline void choose(int *chosen, float *logit, uint32_t *key, int K) {
    int lane = (int)threadIdx.x % LANES;
    for (int k = 0; k < K; k++) {
        uint32_t best = key[0], expert = (uint32_t)expert_of<LANES, PER_LANE>(0);
#pragma unroll
        for (int j = 1; j < PER_LANE; j++)
            if (key[j] > best) best = key[j], expert = (uint32_t)expert_of<LANES, PER_LANE>(j);
        uint32_t top = token_max_key<LANES>(best);
        expert = token_min_key<LANES>(best == top ? expert : 0xffffffffu);
#pragma unroll
        for (int j = 0; j < PER_LANE; j++)
            if ((uint32_t)expert_of<LANES, PER_LANE>(j) == expert) key[j] = 0;
#pragma unroll
        for (int s = 0; s < Slots<LANES>::COUNT; s++)
            if (k == s * LANES + lane) chosen[s] = (int)expert, logit[s] = logit_of(top);
    }
}

// Zeroes the keys that are not in the best top_groups groups. Lane g holds the score of group g.
template <int LANES, int PER_LANE>
__device__ static inline void keep_best_groups(uint32_t *key, const ForwardArguments &a) {
    int lane = (int)threadIdx.x % LANES, size = a.E / a.groups;
    uint32_t mine = 0, allowed = 0;
    for (int g = 0; g < a.groups; g++) {
        uint32_t left = 0; // bit j: expert j of the lane is of the group, and its score not summed
        float sum = 0;
#pragma unroll
        for (int j = 0; j < PER_LANE; j++)
            left |=
                (uint32_t)((unsigned)(expert_of<LANES, PER_LANE>(j) - g * size) < (unsigned)size)
                << j;
        for (int i = 0; i < a.group_choices; i++) {
            uint32_t best = 0, expert = 0xffffffffu;
#pragma unroll
            for (int j = 0; j < PER_LANE; j++)
                if ((left >> j & 1u) && key[j] > best)
                    best = key[j], expert = (uint32_t)expert_of<LANES, PER_LANE>(j);
            uint32_t top = token_max_key<LANES>(best);
            expert = token_min_key<LANES>(best == top ? expert : 0xffffffffu);
#pragma unroll
            for (int j = 0; j < PER_LANE; j++)
                if ((uint32_t)expert_of<LANES, PER_LANE>(j) == expert) left &= ~(1u << j);
            sum += logit_of(top);
        }
        if (lane == g) mine = key_of(sum);
    }
    for (int i = 0; i < a.top_groups; i++) {
        uint32_t top = token_max_key<LANES>(mine);
        uint32_t group = token_min_key<LANES>(mine == top ? (uint32_t)lane : 0xffffffffu);
        allowed |= 1u << group;
        if ((uint32_t)lane == group) mine = 0;
    }
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) {
        int group = expert_of<LANES, PER_LANE>(j) / size;
        if (group >= a.groups || !(allowed >> group & 1u)) key[j] = 0;
    }
}

// Reads the logits of a token's choices, which were not chosen by them; returns the largest.
template <int LANES>
__device__ static inline float logits_of_chosen(float *logit, const int *chosen, const float *row,
                                                int E, int K, bool inside) {
    float best = -INFINITY;
#pragma unroll
    for (int s = 0; s < Slots<LANES>::COUNT; s++) {
        bool has = inside && s * LANES + (int)threadIdx.x % LANES < K;
        bool expert = has && chosen[s] >= 0 && chosen[s] < E;
        logit[s] = expert ? row[chosen[s]] : -INFINITY;
        best = fmaxf(best, logit[s]);
    }
    return token_max<LANES>(best);
}

// A block owns a chunk of a part's tokens, LANES lanes a token at a time, ROUNDS times; it reads
// the logits once, into registers. Bytes: 4 E a token read, 8 K + 4 written, and 8 (E + 2) a chunk:
// E = 256 and 32 tokens a chunk, 6 % more than the logits. Determinism: a token's results depend on
// its logits alone. A chunk's sums run over a lane's tokens in order, over the tokens of a warp as
// a butterfly, over the warps in order; chunks start with their part.
template <int LANES, int PER_LANE, bool PLAIN>
__global__ static void __launch_bounds__(THREADS, PLAIN ? 0 : 1) route_tokens(ForwardArguments a) {
    const int TOKENS = WARP / LANES;
    __shared__ double sums[LANES * PER_LANE + 2];
    int lane = (int)threadIdx.x % LANES, warp = (int)threadIdx.x / WARP;
    int within_warp = (int)threadIdx.x % WARP / LANES;
    int64_t part = blockIdx.x / a.chunks, chunk = blockIdx.x % a.chunks;
    // One address, and not one for each expert, which would be registers.
    const float *bias = PLAIN || !a.bias ? NULL : a.bias + part * a.bias_stride;
    double prob[PER_LANE], entropy_sum = 0, lse2_sum = 0;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) prob[j] = 0;

    for (int round = 0; round < ROUNDS; round++) {
        int64_t of_warp = (chunk * ROUNDS + round) * (WARPS * TOKENS) + warp * TOKENS;
        if (of_warp >= a.rows) break; // for the whole warp
        bool inside = of_warp + within_warp < a.rows;
        int64_t n = part * a.rows + of_warp + within_warp;
        float z[PER_LANE], p[PER_LANE];
        load_row<LANES, PER_LANE>(z, a.logits + n * a.E, a.E, inside, -INFINITY);

        float largest = -INFINITY, sum = 0;
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) largest = fmaxf(largest, z[j]);
        largest = token_max<LANES>(largest);
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) sum += p[j] = expf(z[j] - largest);
        sum = token_sum<LANES>(sum);
        float lse = largest + logf(sum), shift = lse, log_rest = 0, entropy = 0;
        RouterScore score = PLAIN ? SCORE_EXP : a.score; // the same in all threads
        if (score != SCORE_EXP) {
            shift = log_score(score, largest);
            sum = 0;
#pragma unroll
            for (int j = 0; j < PER_LANE; j++) sum += p[j] = expf(log_score(score, z[j]) - shift);
            sum = token_sum<LANES>(sum);
            log_rest = logf(sum);
        }
        float scale = 1.0f / sum;
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) {
            if (!inside || expert_of<LANES, PER_LANE>(j) >= a.E) continue;
            p[j] *= scale;
            prob[j] += (double)p[j];
            entropy -= p[j] * (log_score(score, z[j]) - shift - log_rest);
        }
        entropy = token_sum<LANES>(entropy);
        if (a.squares) {
            float square = 0;
#pragma unroll
            for (int j = 0; j < PER_LANE; j++) {
                float finite = expert_of<LANES, PER_LANE>(j) < a.E ? z[j] : 0.0f;
                square += finite * finite;
            }
            square = token_sum<LANES>(square);
            if (inside && lane == 0) a.squares[n] = square;
        }
        if (inside) entropy_sum += (double)entropy, lse2_sum += (double)lse * (double)lse;

        int chosen[Slots<LANES>::COUNT] = {0};
        float w[Slots<LANES>::COUNT] = {0};
        if (!PLAIN && a.given) {
#pragma unroll
            for (int s = 0; s < Slots<LANES>::COUNT; s++)
                if (inside && s * LANES + lane < a.K) chosen[s] = a.ids[n * a.K + s * LANES + lane];
        } else {
            uint32_t key[PER_LANE];
#pragma unroll
            for (int j = 0; j < PER_LANE; j++) {
                int e = expert_of<LANES, PER_LANE>(j);
                float by = z[j];
                if (!PLAIN && a.by_score)
                    by = score == SCORE_EXP ? p[j] : expf(log_score(score, by));
                if (!PLAIN && bias && e < a.E) by += bias[e];
                key[j] = e < a.E ? key_of(by) : 0;
            }
            if (!PLAIN && a.groups > 1) keep_best_groups<LANES, PER_LANE>(key, a);
            choose<LANES, PER_LANE>(chosen, w, key, a.K);
        }
        float best = largest; // logit of the chosen
        if (!PLAIN && (a.bias || a.given || a.groups > 1))
            best = logits_of_chosen<LANES>(w, chosen, a.logits + n * a.E, a.E, a.K, inside);
        float chosen_sum = 0;
        switch (a.weighing) {
        case WEIGH_OVER_ALL:
            shift = lse;
            break;
        case WEIGH_OVER_CHOSEN:
            shift = log_score(score, best);
            break;
        case WEIGH_ALONE:
            shift = 0.0f;
            break;
        }
#pragma unroll
        for (int s = 0; s < Slots<LANES>::COUNT; s++) {
            w[s] = s * LANES + lane < a.K ? expf(log_score(score, w[s]) - shift) : 0.0f;
            chosen_sum += w[s];
        }
        chosen_sum = token_sum<LANES>(chosen_sum);
        bool over_chosen = a.weighing == WEIGH_OVER_CHOSEN;
#pragma unroll
        for (int s = 0; s < Slots<LANES>::COUNT; s++) {
            int k = s * LANES + lane;
            if (!inside || k >= a.K) continue;
            a.ids[n * a.K + k] = chosen[s];
            float weight = score == SCORE_EXP ? w[s] : a.factor * w[s];
            bool none = !PLAIN && a.given && best == -INFINITY; // no expert among those given
            a.weights[n * a.K + k] = none ? 0.0f : over_chosen ? weight / chosen_sum : weight;
        }
        if (inside && lane == 0) a.lse[n] = lse;
    }

#pragma unroll
    for (int distance = LANES; distance < WARP; distance *= 2) {
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) prob[j] += __shfl_xor_sync(ALL_LANES, prob[j], distance);
        entropy_sum += __shfl_xor_sync(ALL_LANES, entropy_sum, distance);
        lse2_sum += __shfl_xor_sync(ALL_LANES, lse2_sum, distance);
    }
    for (int w = 0; w < WARPS; w++) {
        if (warp == w && within_warp == 0) {
#pragma unroll
            for (int j = 0; j < PER_LANE; j++) {
                int e = expert_of<LANES, PER_LANE>(j);
                if (e < a.E) sums[e] = (w == 0 ? 0 : sums[e]) + prob[j];
            }
            if (lane == 0) {
                sums[a.E] = (w == 0 ? 0 : sums[a.E]) + entropy_sum;
                sums[a.E + 1] = (w == 0 ? 0 : sums[a.E + 1]) + lse2_sum;
            }
        }
        __syncthreads();
    }
    double *partial = a.partial + (int64_t)blockIdx.x * (a.E + 2);
    for (int i = (int)threadIdx.x; i < a.E + 2; i += THREADS) partial[i] = sums[i];
}

// A block owns WARP columns of one part's chunk sums and adds them in column_sum's order. Reads
// what route_tokens wrote.
__global__ static void __launch_bounds__(COLUMN_THREADS)
    add_chunks(double *prob_sum, double *entropy_sum, double *lse2_sum, const double *partial,
               int64_t chunks, int64_t E) {
    __shared__ double spare[COLUMN_WARPS][WARP];
    int64_t tiles = (E + 2 + WARP - 1) / WARP, part = blockIdx.x / tiles;
    int64_t column = blockIdx.x % tiles * WARP + threadIdx.x % WARP;
    bool inside = column < E + 2;
    double sum = column_sum<double>(partial + part * chunks * (E + 2) + column, chunks, E + 2,
                                    inside, spare);
    if (threadIdx.x >= WARP || !inside) return;
    if (column < E) {
        prob_sum[part * E + column] = sum;
    } else if (column == E) {
        entropy_sum[part] = sum;
    } else {
        lse2_sum[part] = sum;
    }
}

typedef void (*ForwardKernel)(ForwardArguments);
template <bool PLAIN> static ForwardKernel forward_kernel(int64_t E) {
    return E <= 8     ? route_tokens<8, 1, PLAIN>
           : E <= 16  ? route_tokens<16, 1, PLAIN>
           : E <= 32  ? route_tokens<32, 1, PLAIN>
           : E <= 64  ? route_tokens<32, 2, PLAIN>
           : E <= 128 ? route_tokens<32, 4, PLAIN>
           : E <= 256 ? route_tokens<32, 8, PLAIN>
           : E <= 512 ? route_tokens<32, 16, PLAIN>
                      : route_tokens<32, 32, PLAIN>;
}

extern "C" void router_forward_cuda(Device *dev, Routing routing, RouterSums sums, Tensor logits,
                                    Tensor bias, RouterRule rule) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    int64_t parts = sums.prob_sum.shape[0], rows = N / parts;
    CHECK_ROUTING(E, K);
    int64_t chunks = ceil_div(rows, ROUNDS * (THREADS / lanes_of_token(E)));
    double *partial =
        (double *)cuda_workspace(dev, (size_t)(parts * chunks * (E + 2)) * sizeof(double));
    bool grouped = rule.groups > 1, of_parts = bias.data && bias.rank == 2;
    ForwardArguments a = {device_data<int32_t>(routing.ids),
                          device_data<float>(routing.weights),
                          device_data<float>(routing.lse),
                          routing.squares.data ? device_data<float>(routing.squares) : NULL,
                          partial,
                          device_data<float>(logits),
                          bias.data ? device_data<float>(bias) : NULL,
                          rows,
                          chunks,
                          (int)E,
                          (int)K,
                          router_score(rule, K),
                          router_weighing(rule, K),
                          (float)rule.scaling_factor,
                          rule.given,
                          grouped || (bias.data && rule.kind != SINKHORN),
                          of_parts ? (int)E : 0,
                          grouped ? (int)rule.groups : 1,
                          (int)rule.top_groups,
                          grouped ? (int)router_group_choices(rule, E / rule.groups, K) : 0};
    bool plain = is_plain(rule, a.bias, K);
    ForwardKernel kernel = plain ? forward_kernel<true>(E) : forward_kernel<false>(E);
    launch(dev, kernel, grid_of(parts * chunks), dim3(THREADS), 0, a);
    launch(dev, add_chunks, grid_of(parts * ceil_div(E + 2, WARP)), dim3(COLUMN_THREADS), 0,
           device_data<double>(sums.prob_sum), device_data<double>(sums.entropy_sum),
           device_data<double>(sums.lse2_sum), partial, chunks, E);
}
