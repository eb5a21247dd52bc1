#include "kernels/cuda/column_sum.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 256 };
enum { SCALARS = 2 }; // columns beside the weight mass and the terms' losses: z-loss, entropy

typedef struct TotalsArguments {
    double *totals;                  // (rows, columns)
    int64_t *routed, *dropped_total; // (E), (may_drop)
    float *balance;                  // (parts, E)
    double *loss;                    // (terms, parts) scratch: each part's balance losses
    const double *prob_sum, *entropy_sum, *lse2_sum, *weight_mass;
    const int32_t *tokens_per_expert, *dropped;
    const int32_t *load;   // (parts, E): the choices that f is of
    const int64_t *counts; // (rows, E), or NULL
    int64_t parts, parts_per_row, E, may_drop, columns, mass_column;
    int64_t scalar_columns[SCALARS];
    BalanceRule rule;
} TotalsArguments;

// E · per_step_token · count / choices, of expert e in part p.
__device__ static inline double share_of(const TotalsArguments &a, const LoadTerm &term, int64_t p,
                                         int64_t e) {
    int64_t count = 0;
    if (term.counts_row >= 0) {
        count = a.counts[term.counts_row * a.E + e];
    } else {
        int64_t first = p / term.parts * term.parts;
#pragma unroll 1
        for (int64_t i = first; i < first + term.parts; i++) count += a.load[i * a.E + e];
    }
    return (double)a.E * a.rule.per_step_token * (double)count / term.choices;
}

// A block owns a part: its balance coefficients and its balance losses, the latter in block_sum's
// order over the experts, one term after the other. Bytes: 16 E a part and term. The coefficients
// have the CPU's bits.
__global__ static void __launch_bounds__(THREADS) balance_part(TotalsArguments a) {
    __shared__ double spare[WARP];
    int64_t first = (int64_t)blockIdx.x * a.E;
#pragma unroll 1
    for (int64_t e = threadIdx.x; e < a.E; e += THREADS) {
        double sum = 0;
#pragma unroll 1
        for (int i = 0; i < a.rule.count; i++)
            sum += a.rule.terms[i].coefficient * share_of(a, a.rule.terms[i], blockIdx.x, e);
        a.balance[first + e] = (float)sum;
    }
#pragma unroll 1
    for (int i = 0; i < a.rule.count; i++) {
        double loss = 0;
#pragma unroll 1
        for (int64_t e = threadIdx.x; e < a.E; e += THREADS)
            loss += share_of(a, a.rule.terms[i], blockIdx.x, e) * a.prob_sum[first + e];
        loss = block_sum(loss, spare);
        if (threadIdx.x == 0) a.loss[i * a.parts + blockIdx.x] = loss;
        __syncthreads(); // `spare` serves the next term
    }
}

// A thread owns one column of one row of totals and adds the row's parts to it in order, as the CPU
// does. The last row of threads owns the experts' counts over all parts. Bytes: 8 (E + 2 + terms) a
// part and 8 E for the counts; neighbouring threads read neighbouring experts.
__global__ static void __launch_bounds__(THREADS) add_parts(TotalsArguments a) {
    int64_t width = a.E + SCALARS + a.rule.count;
    int64_t tiles = (width + THREADS - 1) / THREADS, row = blockIdx.x / tiles;
    int64_t i = blockIdx.x % tiles * THREADS + threadIdx.x;
    int64_t first = row * a.parts_per_row, end = first + a.parts_per_row;
    if (first == a.parts) {
        if (i >= a.E) return;
        int64_t in = 0, out = 0;
#pragma unroll 4
        for (int64_t p = 0; p < a.parts; p++) {
            in += a.tokens_per_expert[p * a.E + i];
            out += a.dropped[p * a.E + i];
        }
        a.routed[i] += in - out;
        if (i < a.may_drop) a.dropped_total[i] += out;
        return;
    }
    if (i >= width) return;
    int64_t scalar = i - a.E, term = scalar - SCALARS; // below 0: an expert; from 0: a term
    int64_t column = scalar < 0    ? a.mass_column + i
                     : term >= 0   ? a.rule.terms[term].column
                     : scalar == 0 ? a.scalar_columns[0]
                                   : a.scalar_columns[1];
    double *total = a.totals + row * a.columns + column;
    const double *from = scalar < 0    ? a.weight_mass + i
                         : term >= 0   ? a.loss + term * a.parts
                         : scalar == 0 ? a.lse2_sum
                                       : a.entropy_sum;
    double factor = scalar >= 0 && term < 0 ? a.rule.per_step_token : 1.0, sum = *total;
    int64_t stride = scalar < 0 ? a.E : 1;
#pragma unroll 4
    for (int64_t p = first; p < end; p++) sum += factor * from[p * stride];
    *total = sum;
}

extern "C" void router_totals_cuda(Device *dev, RouterTotals to, Tensor balance, RouterSums sums,
                                   Tensor counts, BalanceRule rule) {
    int64_t parts = sums.tokens_per_expert.shape[0], E = sums.tokens_per_expert.shape[1],
            rows = to.totals.shape[0];
    TotalsArguments a = {
        device_data<double>(to.totals),
        device_data<int64_t>(to.routed),
        device_data<int64_t>(to.dropped),
        device_data<float>(balance),
        (double *)cuda_workspace(dev, (size_t)(parts * rule.count) * sizeof(double)),
        device_data<double>(sums.prob_sum),
        device_data<double>(sums.entropy_sum),
        device_data<double>(sums.lse2_sum),
        device_data<double>(sums.weight_mass),
        device_data<int32_t>(sums.tokens_per_expert),
        device_data<int32_t>(sums.dropped),
        device_data<int32_t>(sums.first_choices.data ? sums.first_choices : sums.tokens_per_expert),
        counts.data ? device_data<int64_t>(counts) : NULL,
        parts,
        parts / rows,
        E,
        to.dropped.shape[0],
        to.totals.shape[1],
        to.weight_mass,
        {to.z, to.entropy},
        rule};
    launch(dev, balance_part, grid_of(parts), dim3(THREADS), 0, a);
    launch(dev, add_parts, grid_of((rows + 1) * ceil_div(E + SCALARS + rule.count, THREADS)),
           dim3(THREADS), 0, a);
}

// A block owns WARP columns; integers, exact. Bytes: those of x.
template <typename T>
__global__ static void __launch_bounds__(COLUMN_THREADS)
    add_rows(int64_t *out, const T *x, int64_t rows, int64_t columns, bool add) {
    __shared__ long long spare[COLUMN_WARPS][WARP];
    int64_t e = (int64_t)blockIdx.x * WARP + threadIdx.x % WARP;
    bool inside = e < columns;
    long long sum = column_sum<long long>(x + e, rows, columns, inside, spare);
    if (threadIdx.x < WARP && inside) out[e] = (add ? out[e] : 0) + sum;
}

extern "C" void sum_columns_cuda(Device *dev, Tensor out, Tensor x, bool add) {
    dim3 blocks = grid_of(ceil_div(x.shape[1], WARP));
    if (x.dtype == I64)
        launch(dev, add_rows<int64_t>, blocks, dim3(COLUMN_THREADS), 0, device_data<int64_t>(out),
               device_data<int64_t>(x), x.shape[0], x.shape[1], add);
    else
        launch(dev, add_rows<int32_t>, blocks, dim3(COLUMN_THREADS), 0, device_data<int64_t>(out),
               device_data<int32_t>(x), x.shape[0], x.shape[1], add);
}

enum { COUNT_CHUNK = 16 * THREADS }; // choices of a block

// A block owns COUNT_CHUNK choices and counts them in shared memory, then adds what it has found;
// whole numbers, so that no order matters. Bytes: 4 a choice, 5 with kept.
__global__ static void __launch_bounds__(THREADS)
    count_chunk(unsigned long long *counts, const int32_t *ids, const uint8_t *kept, int64_t n,
                int64_t E) {
    DYNAMIC_SHARED(unsigned, found);
    for (int64_t e = threadIdx.x; e < E; e += THREADS) found[e] = 0;
    __syncthreads();
    int64_t first = (int64_t)blockIdx.x * COUNT_CHUNK;
    int64_t end = first + COUNT_CHUNK < n ? first + COUNT_CHUNK : n;
    for (int64_t i = first + threadIdx.x; i < end; i += THREADS) {
        int32_t id = ids[i];
        if (id >= 0 && id < E && (!kept || kept[i])) atomicAdd(&found[id], 1u);
    }
    __syncthreads();
    for (int64_t e = threadIdx.x; e < E; e += THREADS)
        if (found[e] > 0) atomicAdd(&counts[e], (unsigned long long)found[e]);
}

extern "C" void count_ids_cuda(Device *dev, Tensor counts, Tensor ids, Tensor kept) {
    int64_t n = tensor_elements(ids), E = counts.shape[0];
    launch(dev, count_chunk, grid_of(ceil_div(n, COUNT_CHUNK)), dim3(THREADS),
           (size_t)E * sizeof(unsigned),
           reinterpret_cast<unsigned long long *>(device_data<int64_t>(counts)),
           device_data<int32_t>(ids), kept.data ? device_data<uint8_t>(kept) : nullptr, n, E);
}

// A thread owns a token. Bytes: 4 a token; whole numbers, so that no order matters.
__global__ static void __launch_bounds__(THREADS)
    count_firsts(int *counts, const int32_t *ids, int64_t N, int64_t rows, int64_t E, int64_t K) {
    int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (n >= N) return;
    int32_t id = ids[n * K];
    if (id >= 0 && id < E) atomicAdd(&counts[n / rows * E + id], 1);
}

extern "C" void count_first_choices_cuda(Device *dev, Tensor counts, Tensor ids) {
    int64_t N = ids.shape[0];
    CUDA_CHECK(cudaMemsetAsync(counts.data, 0, tensor_bytes(counts), cuda_state(dev)->compute));
    launch(dev, count_firsts, grid_of(ceil_div(N, THREADS)), dim3(THREADS), 0,
           device_data<int32_t>(counts), device_data<int32_t>(ids), N, N / counts.shape[0],
           counts.shape[1], ids.shape[1]);
}

// A block owns THREADS tokens and adds what it has found. Bytes: 4 a token; whole numbers.
__global__ static void __launch_bounds__(THREADS)
    add_squares(unsigned long long *counts, const float *squares, int64_t n, int64_t E) {
    __shared__ long long spare[WARP];
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    double mean = i < n ? (double)squares[i] / (double)E : 0;
    mean = mean > 0 ? (mean < 0x1p40 ? mean : 0x1p40) : 0;
    long long whole = (long long)mean;
    long long rest = __double2ll_rn((mean - (double)whole) * 0x1p32);
    whole = block_sum(whole, spare);
    rest = block_sum(rest, spare);
    if (threadIdx.x > 0) return;
    int64_t first = (int64_t)blockIdx.x * THREADS;
    atomicAdd(&counts[0], (unsigned long long)whole);
    atomicAdd(&counts[1], (unsigned long long)rest);
    atomicAdd(&counts[2],
              (unsigned long long)(n - first < (int64_t)THREADS ? n - first : (int64_t)THREADS));
}

extern "C" void count_squares_cuda(Device *dev, Tensor counts, Tensor squares, int64_t E) {
    int64_t n = squares.shape[0];
    launch(dev, add_squares, grid_of(ceil_div(n, THREADS)), dim3(THREADS), 0,
           reinterpret_cast<unsigned long long *>(device_data<int64_t>(counts)),
           device_data<float>(squares), n, E);
}
