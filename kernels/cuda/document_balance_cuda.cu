#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/router_row.cuh"

// THREADS of router_row.cuh: a warp a row here, and WARPS runs of a document's rows below.

// A warp owns a row: the softmax of the logarithms of its scores. Bytes: 8 E a row.
__global__ static void __launch_bounds__(THREADS)
    document_probabilities(float *p, const float *logits, int64_t N, int E, RouterScore score) {
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = (int)threadIdx.x % WARP;
    if (n >= N) return; // a whole warp
    const float *z = logits + n * E;
    float best = -INFINITY, sum = 0.0f;
    for (int e = lane; e < E; e += WARP) best = fmaxf(best, log_score(score, z[e]));
    best = warp_max(best);
    for (int e = lane; e < E; e += WARP) sum += expf(log_score(score, z[e]) - best);
    float scale = 1.0f / warp_sum(sum);
    for (int e = lane; e < E; e += WARP) p[n * E + e] = expf(log_score(score, z[e]) - best) * scale;
}

typedef struct DocumentShares {
    float *balance; // (N, E): the probabilities, then what it is to be
    double *losses; // (sequences, E)
    const float *base;
    const int32_t *ids, *positions;
    int64_t rows_of_part;
    int E, K, slots;
    DocumentTerm term;
} DocumentShares;

// A block owns WARP experts, one for each lane, of a sequence, and takes its documents in turn:
// warp w adds up the rows w, w + WARPS, … of each, then the warps are added in order. Bytes: 12 a
// row and expert, and its ids.
__global__ static void __launch_bounds__(THREADS) document_shares(DocumentShares a) {
    __shared__ double sums[WARPS][WARP];
    __shared__ int counts[WARPS][WARP];
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int tiles = (a.E + WARP - 1) / WARP, e = (int)(blockIdx.x % (unsigned)tiles) * WARP + lane;
    int64_t sequence = blockIdx.x / (unsigned)tiles, row = sequence * a.term.T;
    int T = (int)a.term.T;
    double loss = 0;
    for (int first = 0, end; first < T; first = end) {
        for (end = first + 1; end < T && a.positions[row + end] > 0;) end++;
        double sum = 0;
        int count = 0;
        for (int n = first + warp; n < end; n += WARPS) {
            if (e < a.E) sum += (double)a.balance[(row + n) * a.E + e];
            for (int k = 0; k < a.slots; k++) count += a.ids[(row + n) * a.K + k] == e;
        }
        sums[warp][lane] = sum;
        counts[warp][lane] = count;
        __syncthreads();
        sum = 0;
        count = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += sums[w][lane], count += counts[w][lane];
        __syncthreads(); // they serve the next document
        double share = (double)a.E * a.term.per_step_token * (double)count /
                       (a.term.choices_a_token * (double)(end - first));
        loss += share * sum;
        float own = (float)(a.term.coefficient * share);
        for (int n = first + warp; n < end && e < a.E; n += WARPS)
            a.balance[(row + n) * a.E + e] = a.base[(row + n) / a.rows_of_part * a.E + e] + own;
    }
    if (warp == 0 && e < a.E) a.losses[sequence * a.E + e] = loss;
}

// A block owns a row of the totals and adds up the losses of its sequences.
__global__ static void __launch_bounds__(THREADS)
    add_document_losses(double *totals, int64_t columns, const double *losses, int64_t count) {
    __shared__ double spare[WARP];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += THREADS) sum += losses[blockIdx.x * count + i];
    sum = block_sum(sum, spare);
    if (threadIdx.x == 0) totals[blockIdx.x * columns] += sum;
}

extern "C" void document_balance_cuda(Device *dev, Tensor balance, Tensor totals, Tensor base,
                                      Tensor logits, Tensor ids, Tensor positions,
                                      DocumentTerm term) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = ids.shape[1], R = totals.shape[0];
    int64_t sequences = N / term.T;
    CHECK_ROUTING(E, K);
    CHECK(term.T <= 1 << 30, "sequences of %lld tokens", (long long)term.T);
    double *losses =
        static_cast<double *>(cuda_workspace(dev, (size_t)(sequences * E) * sizeof(double)));
    launch(dev, document_probabilities, grid_of(ceil_div(N, WARPS)), dim3(THREADS), 0,
           device_data<float>(balance), device_data<float>(logits), N, (int)E, term.score);
    DocumentShares shares = {device_data<float>(balance),
                             losses,
                             device_data<float>(base),
                             device_data<int32_t>(ids),
                             device_data<int32_t>(positions),
                             N / base.shape[0],
                             (int)E,
                             (int)K,
                             (int)(term.first_choices ? 1 : K),
                             term};
    launch(dev, document_shares, grid_of(sequences * ceil_div(E, WARP)), dim3(THREADS), 0, shares);
    launch(dev, add_document_losses, grid_of(R), dim3(THREADS), 0,
           device_data<double>(totals) + term.column, totals.shape[1], losses, sequences / R * E);
}
