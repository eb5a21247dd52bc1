// Norms of rows. A team of threads works on a row: a warp on narrow rows, a block on wider ones.
// Thread t of a team of S threads owns the row's elements (r·S + t)·WIDTH … + WIDTH for r = 0, 1,
// …; the first RUNS of these runs stay in its registers between the passes over a row, so that
// memory is read once. Rows wider than all registers (8192) are read again for the rest. What is
// added in which order follows from D alone.
#include "kernels/cuda/column_sum.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int KEPT = 16;           // elements of a row in a thread's registers
static const int TEAM_MOST = 512;     // threads of a block that works on one row
static const int WARP_ROWS_BLOCK = 8; // warps of a block whose warps have a row each
// Rows that one team of the backward pass works through: at least these, and so many that a part
// has no more runs.
static const int LEAST_ROWS_OF_WARP = 8, LEAST_ROWS_OF_BLOCK = 16, MOST_RUNS = 1024;

// Whether a warp's registers hold a row.
static inline bool is_warp_row(int64_t D) {
    return D <= KEPT * WARP;
}
// Of a block that works on one row.
static inline dim3 block_of_row(int64_t D) {
    int64_t threads = ceil_div(ceil_div(D, KEPT), WARP) * WARP;
    return dim3((unsigned)(threads < TEAM_MOST ? threads : TEAM_MOST));
}

template <bool WARP_ROW> __device__ static inline int team_size() {
    return WARP_ROW ? (int)WARP : (int)blockDim.x;
}
// Of all teams of the grid.
template <bool WARP_ROW> __device__ static inline int64_t team_number() {
    return WARP_ROW ? (int64_t)blockIdx.x * WARP_ROWS_BLOCK + threadIdx.x / WARP : blockIdx.x;
}
template <bool WARP_ROW> __device__ static inline float team_sum(float value, float *spare) {
    return WARP_ROW ? warp_sum(value) : block_sum(value, spare);
}

// ---- the norms ----------------------------------------------------------------------------------

// What a norm is made of, named by its word.
struct rmsnorm {
    static const int PARAMS = 1;
    static const bool CENTRED = false; // the mean is subtracted
};
struct layernorm {
    static const int PARAMS = 2;
    static const bool CENTRED = true;
};

// ---- forward ------------------------------------------------------------------------------------

// A run of the weight becomes the run of the result.
template <typename Norm, bool VECTORS, int WIDTH>
__device__ static inline void finish(float *w, const float *x, float centre, float scale,
                                     const float *bias, int d, int D) {
    if constexpr (Norm::CENTRED) {
        float b[WIDTH];
        load_run<VECTORS, WIDTH>(b, bias, d, D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) w[i] = (x[i] - centre) * scale * w[i] + b[i];
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) w[i] *= x[i] * scale;
    }
}

// One team a row. Moves the least there is: reads x (and branch), writes out (and sum), each once;
// the weights come from cache. x may be sum: a thread writes only where it has read itself.
template <typename Norm, typename T, bool VECTORS, bool WARP_ROW>
__global__ void __launch_bounds__(TEAM_MOST)
    normalize_forward_kernel(T *out, float *rstd, float *mean, float *sum, const float *x,
                             const T *__restrict__ branch, const float *__restrict__ weight,
                             const float *__restrict__ bias, float eps, int64_t N, int D) {
    constexpr int WIDTH = Vector<T>::COUNT, RUNS = KEPT / WIDTH;
    __shared__ float spare[WARP];
    int team = team_size<WARP_ROW>(), thread = threadIdx.x % team;
    int64_t n = team_number<WARP_ROW>();
    if (n >= N) return;
    x += n * D, out += n * D;
    if (branch) branch += n * D, sum += n * D;

    float kept[RUNS][WIDTH], added[RUNS][WIDTH], total = 0.0f; // of squares, or of elements
#pragma unroll
    for (int r = 0; r < RUNS; r++) {
        int d = (r * team + thread) * WIDTH;
        if (d < D) load_run<VECTORS, WIDTH>(kept[r], x, d, D);
        if (d < D && branch) load_run<VECTORS, WIDTH>(added[r], branch, d, D);
    }
#pragma unroll
    for (int r = 0; r < RUNS; r++) {
        int d = (r * team + thread) * WIDTH;
        if (d >= D) continue;
        if (branch) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) kept[r][i] += added[r][i];
            store_run<VECTORS, WIDTH>(sum, kept[r], d, D);
        }
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            total += Norm::CENTRED ? kept[r][i] : kept[r][i] * kept[r][i];
    }
    const int rest = WARP_ROW ? D : (RUNS * team + thread) * WIDTH; // no registers from here on
#pragma unroll 1
    for (int d = rest; d < D; d += team * WIDTH) {
        float more[WIDTH], with[WIDTH];
        load_run<VECTORS, WIDTH>(more, x, d, D);
        if (branch) {
            load_run<VECTORS, WIDTH>(with, branch, d, D);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) more[i] += with[i];
            store_run<VECTORS, WIDTH>(sum, more, d, D);
        }
#pragma unroll
        for (int i = 0; i < WIDTH; i++) total += Norm::CENTRED ? more[i] : more[i] * more[i];
    }
    total = team_sum<WARP_ROW>(total, spare);

    const float *again = branch ? sum : x;
    float centre = 0.0f;
    if constexpr (Norm::CENTRED) {
        centre = total / (float)D;
        total = 0.0f;
#pragma unroll
        for (int r = 0; r < RUNS; r++) {
            int d = (r * team + thread) * WIDTH;
#pragma unroll
            for (int i = 0; i < WIDTH; i++)
                if (d + i < D) total += (kept[r][i] - centre) * (kept[r][i] - centre);
        }
#pragma unroll 1
        for (int d = rest; d < D; d += team * WIDTH) {
            float more[WIDTH];
            load_run<VECTORS, WIDTH>(more, again, d, D);
#pragma unroll
            for (int i = 0; i < WIDTH; i++)
                if (d + i < D) total += (more[i] - centre) * (more[i] - centre);
        }
        total = team_sum<WARP_ROW>(total, spare);
        if (thread == 0) mean[n] = centre;
    }

    float scale = 1.0f / sqrtf(total / (float)D + eps);
    if (thread == 0) rstd[n] = scale;
#pragma unroll
    for (int r = 0; r < RUNS; r++) {
        int d = (r * team + thread) * WIDTH;
        if (d >= D) continue;
        float w[WIDTH];
        load_run<VECTORS, WIDTH>(w, weight, d, D);
        finish<Norm, VECTORS, WIDTH>(w, kept[r], centre, scale, bias, d, D);
        store_run<VECTORS, WIDTH>(out, w, d, D);
    }
#pragma unroll 1
    for (int d = rest; d < D; d += team * WIDTH) {
        float more[WIDTH], w[WIDTH];
        load_run<VECTORS, WIDTH>(more, again, d, D);
        load_run<VECTORS, WIDTH>(w, weight, d, D);
        finish<Norm, VECTORS, WIDTH>(w, more, centre, scale, bias, d, D);
        store_run<VECTORS, WIDTH>(out, w, d, D);
    }
}

template <typename Norm, typename T>
static void forward(Device *dev, Tensor out, Tensor statistics, Tensor sum, Tensor x, Tensor branch,
                    NormParams params, float eps) {
    int64_t N = x.shape[0], D = x.shape[1];
    bool vectors = rows_are_vectors<T>(out.data, D) && rows_are_vectors<T>(branch.data, D) &&
                   rows_are_vectors<T>(x.data, D) && rows_are_vectors<T>(params.weight.data, D) &&
                   rows_are_vectors<T>(params.bias.data, D) &&
                   (!branch.data || rows_are_vectors<T>(sum.data, D));
    float *rstd = device_data<float>(statistics);
    bool warps = is_warp_row(D);
    auto kernel = vectors ? warps ? normalize_forward_kernel<Norm, T, true, true>
                                  : normalize_forward_kernel<Norm, T, true, false>
                  : warps ? normalize_forward_kernel<Norm, T, false, true>
                          : normalize_forward_kernel<Norm, T, false, false>;
    launch(dev, kernel, grid_of(warps ? ceil_div(N, WARP_ROWS_BLOCK) : N),
           warps ? dim3(WARP_ROWS_BLOCK * WARP) : block_of_row(D), 0, device_data<T>(out), rstd,
           rstd + N, branch.data ? device_data<float>(sum) : NULL, device_data<float>(x),
           branch.data ? device_data<T>(branch) : NULL, device_data<float>(params.weight),
           Norm::PARAMS > 1 ? device_data<float>(params.bias) : NULL, eps, N, D);
}

void normalize_forward_cuda(Device *dev, Tensor out, Tensor statistics, Tensor sum, Tensor x,
                            Tensor branch, NormParams params, NormRule rule) {
    bool wide = out.dtype == F32;
    switch (rule.kind) {
#define ROW(value, word, params_count, statistics_count, meaning)                                  \
    case value:                                                                                    \
        (wide ? forward<word, float> : forward<word, bf16>)(dev, out, statistics, sum, x, branch,  \
                                                            params, rule.eps);                     \
        break;
        NORMS(ROW)
#undef ROW
    }
}

// ---- backward -----------------------------------------------------------------------------------

// A part's rows are cut into `runs` runs of run_rows rows, a function of the part's own size; one
// team works through a run:
//   dx[n] += rstd (g - x · slope), g = dout · weight, slope = rstd² mean(g x); where the mean is
//     subtracted, of x - mean for x and with - mean(g)
//   sums[run] = Σ dout · x · rstd (and Σ dout), in the order of the rows, each column in the
//     registers of its thread
// A row of sums holds the gradients of all params, one after the other. Reads x, dout and dx and
// writes dx once each, the least there is, and besides writes one row of sums a run. The sums of
// columns beyond the registers (rows wider than 8192) grow in memory, where no other thread touches
// them.
template <typename Norm, typename T, bool VECTORS, bool WARP_ROW>
__global__ void __launch_bounds__(TEAM_MOST)
    normalize_backward_kernel(float *dx, float *sums, const T *__restrict__ dout,
                              const float *__restrict__ x, const float *__restrict__ rstd,
                              const float *__restrict__ mean, const float *__restrict__ weight,
                              int64_t parts, int64_t rows, int64_t runs, int64_t run_rows, int D) {
    constexpr int WIDTH = Vector<T>::COUNT, RUNS = KEPT / WIDTH;
    __shared__ float spare[WARP];
    int team = team_size<WARP_ROW>(), thread = threadIdx.x % team;
    int64_t number = team_number<WARP_ROW>();
    if (number >= parts * runs) return;
    int64_t first = number % runs * run_rows;
    int64_t count = rows - first < run_rows ? rows - first : run_rows;
    first += number / runs * rows;
    x += first * D, dout += first * D, dx += first * D, rstd += first, mean += first;
    sums += number * Norm::PARAMS * D;
    const int rest = WARP_ROW ? D : (RUNS * team + thread) * WIDTH; // no registers from here on

    float dweight[RUNS][WIDTH] = {}, dbias[RUNS][WIDTH] = {};
    for (int64_t n = 0; n < count; n++, x += D, dout += D, dx += D) {
        float in[RUNS][WIDTH], g[RUNS][WIDTH], before[RUNS][WIDTH], product = 0.0f, sum = 0.0f;
        const float scale = rstd[n], centre = Norm::CENTRED ? mean[n] : 0.0f;
#pragma unroll
        for (int r = 0; r < RUNS; r++) {
            int d = (r * team + thread) * WIDTH;
            if (d >= D) continue;
            float w[WIDTH];
            load_run<VECTORS, WIDTH>(in[r], x, d, D);
            load_run<VECTORS, WIDTH>(g[r], dout, d, D);
            if (!Norm::CENTRED) load_run<VECTORS, WIDTH>(before[r], dx, d, D);
            load_run<VECTORS, WIDTH>(w, weight, d, D);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                if constexpr (Norm::CENTRED) {
                    in[r][i] -= centre;
                    dbias[r][i] += g[r][i];
                    sum += g[r][i] * w[i];
                }
                dweight[r][i] += g[r][i] * (in[r][i] * scale);
                g[r][i] *= w[i];
                product += g[r][i] * in[r][i];
            }
        }
#pragma unroll 1
        for (int d = rest; d < D; d += team * WIDTH) {
            float more[WIDTH], dy[WIDTH], w[WIDTH], total[WIDTH] = {};
            load_run<VECTORS, WIDTH>(more, x, d, D);
            load_run<VECTORS, WIDTH>(dy, dout, d, D);
            load_run<VECTORS, WIDTH>(w, weight, d, D);
            if (n > 0) load_run<VECTORS, WIDTH>(total, sums, d, D);
            if constexpr (Norm::CENTRED) {
                float shift[WIDTH] = {};
                if (n > 0) load_run<VECTORS, WIDTH>(shift, sums + D, d, D);
#pragma unroll
                for (int i = 0; i < WIDTH; i++) {
                    more[i] -= centre;
                    shift[i] += dy[i];
                    sum += dy[i] * w[i];
                }
                store_run<VECTORS, WIDTH>(sums + D, shift, d, D);
            }
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                total[i] += dy[i] * (more[i] * scale);
                product += dy[i] * w[i] * more[i];
            }
            store_run<VECTORS, WIDTH>(sums, total, d, D);
        }

        float slope = team_sum<WARP_ROW>(product, spare) * scale * scale / (float)D, shift = 0.0f;
        if constexpr (Norm::CENTRED) shift = team_sum<WARP_ROW>(sum, spare) / (float)D;
#pragma unroll
        for (int r = 0; r < RUNS; r++) {
            int d = (r * team + thread) * WIDTH;
            if (d >= D) continue;
            if constexpr (Norm::CENTRED) { // in[], dweight[] and dbias[] leave g[] no registers
                float w[WIDTH];
                load_run<VECTORS, WIDTH>(before[r], dx, d, D);
                load_run<VECTORS, WIDTH>(g[r], dout, d, D);
                load_run<VECTORS, WIDTH>(w, weight, d, D);
#pragma unroll
                for (int i = 0; i < WIDTH; i++) g[r][i] = g[r][i] * w[i] - shift;
            }
#pragma unroll
            for (int i = 0; i < WIDTH; i++) before[r][i] += scale * (g[r][i] - in[r][i] * slope);
            store_run<VECTORS, WIDTH>(dx, before[r], d, D);
        }
#pragma unroll 1
        for (int d = rest; d < D; d += team * WIDTH) {
            float more[WIDTH], dy[WIDTH], w[WIDTH], total[WIDTH];
            load_run<VECTORS, WIDTH>(more, x, d, D);
            load_run<VECTORS, WIDTH>(dy, dout, d, D);
            load_run<VECTORS, WIDTH>(w, weight, d, D);
            load_run<VECTORS, WIDTH>(total, dx, d, D);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                if constexpr (Norm::CENTRED)
                    total[i] += scale * (dy[i] * w[i] - (more[i] - centre) * slope - shift);
                else
                    total[i] += scale * (dy[i] * w[i] - more[i] * slope);
            }
            store_run<VECTORS, WIDTH>(dx, total, d, D);
        }
    }
#pragma unroll
    for (int r = 0; r < RUNS; r++) {
        int d = (r * team + thread) * WIDTH;
        if (d < D) store_run<VECTORS, WIDTH>(sums, dweight[r], d, D);
        if (d < D && Norm::PARAMS > 1) store_run<VECTORS, WIDTH>(sums + D, dbias[r], d, D);
    }
}

// partial[p] = Σ of the part's runs (column_sum), of D columns. A block has WARP columns of one
// part; each sum is read once.
__global__ void __launch_bounds__(COLUMN_THREADS)
    sum_runs_kernel(float *partial, const float *sums, int64_t runs, int D) {
    __shared__ float spare[COLUMN_WARPS][WARP];
    int tiles = (D + WARP - 1) / WARP, d = (int)(blockIdx.x % tiles) * WARP + threadIdx.x % WARP;
    int64_t p = blockIdx.x / tiles;
    float sum = column_sum(sums + p * runs * D + d, runs, D, d < D, spare);
    if (threadIdx.x < WARP && d < D) partial[p * D + d] = sum;
}

// dweight, and then dbias, = the fixed binary tree over the parts' rows of `partial`, which it uses
// up; a thread a column of all params together.
__global__ void __launch_bounds__(256)
    sum_parts_kernel(float *dweight, float *dbias, float *partial, int64_t parts, int params,
                     int D) {
    int columns = params * D, d = blockIdx.x * blockDim.x + threadIdx.x;
    if (d >= columns) return;
    for (int64_t apart = 1; apart < parts; apart *= 2)
        for (int64_t p = 0; p < parts; p += 2 * apart)
            partial[p * columns + d] += partial[(p + apart) * columns + d];
    (d < D ? dweight : dbias - D)[d] = partial[d];
}

template <typename Norm, typename T>
static void backward(Device *dev, Tensor dx, NormParams dparams, Tensor dout, Tensor x,
                     Tensor statistics, NormParams params, Tensor partial) {
    int64_t N = x.shape[0], D = x.shape[1], parts = partial.shape[0], rows = N / parts;
    int64_t columns = Norm::PARAMS * D; // of all sums
    bool warps = is_warp_row(D);
    int64_t least = warps ? LEAST_ROWS_OF_WARP : LEAST_ROWS_OF_BLOCK;
    int64_t run_rows = ceil_div(rows, MOST_RUNS) > least ? ceil_div(rows, MOST_RUNS) : least;
    int64_t runs = ceil_div(rows, run_rows), teams = parts * runs;
    // Without rows there are no sums, but an address that kernels may count from.
    float *sums =
        (float *)cuda_workspace(dev, (size_t)((teams > 0 ? teams : 1) * columns) * sizeof *sums);
    bool vectors = rows_are_vectors<T>(dx.data, D) && rows_are_vectors<T>(dout.data, D) &&
                   rows_are_vectors<T>(x.data, D) && rows_are_vectors<T>(params.weight.data, D);
    auto kernel = vectors ? warps ? normalize_backward_kernel<Norm, T, true, true>
                                  : normalize_backward_kernel<Norm, T, true, false>
                  : warps ? normalize_backward_kernel<Norm, T, false, true>
                          : normalize_backward_kernel<Norm, T, false, false>;
    const float *rstd = device_data<float>(statistics);
    launch(dev, kernel, grid_of(warps ? ceil_div(teams, WARP_ROWS_BLOCK) : teams),
           warps ? dim3(WARP_ROWS_BLOCK * WARP) : block_of_row(D), 0, device_data<float>(dx), sums,
           device_data<T>(dout), device_data<float>(x), rstd, rstd + N,
           device_data<float>(params.weight), parts, rows, runs, run_rows, D);
    launch(dev, sum_runs_kernel, grid_of(parts * ceil_div(columns, WARP)), dim3(COLUMN_THREADS), 0,
           device_data<float>(partial), sums, runs, columns);
    launch(dev, sum_parts_kernel, grid_of(ceil_div(columns, 256)), dim3(256), 0,
           device_data<float>(dparams.weight),
           Norm::PARAMS > 1 ? device_data<float>(dparams.bias) : NULL, device_data<float>(partial),
           parts, Norm::PARAMS, D);
}

void normalize_backward_cuda(Device *dev, Tensor dx, NormParams dparams, Tensor dout, Tensor x,
                             Tensor statistics, NormParams params, NormRule rule, Tensor partial) {
    bool wide = dout.dtype == F32;
    switch (rule.kind) {
#define ROW(value, word, params_count, statistics_count, meaning)                                  \
    case value:                                                                                    \
        (wide ? backward<word, float> : backward<word, bf16>)(dev, dx, dparams, dout, x,           \
                                                              statistics, params, partial);        \
        break;
        NORMS(ROW)
#undef ROW
    }
}
