#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/occurrences.h"
#include "kernels/cuda/part_tree.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int WARPS = 8; // of a block, where each warp works alone

// Of all warps of the grid.
__device__ static inline int64_t warp_number() {
    return (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
}

// Numbered rows, and who names them.
template <typename T> struct Rows {
    const T *table; // (E, D)
    int64_t E, first;
    float *coefficients; // of slot 0 of token 0
    int W;               // from token to token
};

template <typename T> static Rows<T> rows_of(NamedRows rows) {
    const T *table = rows.table.data ? device_data<T>(rows.table) : NULL;
    float *coefficients = device_data<float>(rows.coefficients) + rows.first_column;
    if (tensor_elements(rows.coefficients) == 0) coefficients = NULL; // of no token
    return {table, rows.table.data ? rows.table.shape[0] : 0, rows.first, coefficients,
            (int)rows.coefficients.shape[1]};
}

// ---- products -----------------------------------------------------------------------------------

// A warp has a slot of a token: a lane multiplies its runs of both rows, then the warp adds its
// lanes. Bytes: a row of the table and 8 a slot; x is the same for K neighbouring warps.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(WARPS *WARP)
    named_products_kernel(Rows<T> rows, const T *__restrict__ x, const int32_t *__restrict__ ids,
                          int64_t places, int K, int D) {
    constexpr int WIDTH = Vector<T>::COUNT;
    int64_t place = warp_number();
    if (place >= places) return; // the whole warp
    int64_t row = ids[place] - rows.first, m = place / K;
    float product = 0.0f;
    if (row >= 0 && row < rows.E) {
        for (int d = (int)(threadIdx.x % WARP) * WIDTH; d < D; d += WARP * WIDTH) {
            float a[WIDTH], b[WIDTH];
            load_run<VECTORS, WIDTH>(a, rows.table + row * D, d, D);
            load_run<VECTORS, WIDTH>(b, x + m * D, d, D);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) product += a[i] * b[i];
        }
        product = warp_sum(product);
    }
    if (threadIdx.x % WARP == 0) rows.coefficients[m * rows.W + place % K] = product;
}

template <typename T> static void products(Device *dev, NamedRows out, Tensor x, Tensor ids) {
    int64_t places = tensor_elements(ids), D = x.shape[1];
    bool vectors = rows_are_vectors<T>(x.data, D) && rows_are_vectors<T>(out.table.data, D);
    launch(dev, vectors ? named_products_kernel<T, true> : named_products_kernel<T, false>,
           grid_of(ceil_div(places, WARPS)), dim3(WARPS * WARP), 0, rows_of<T>(out),
           device_data<T>(x), device_data<int32_t>(ids), places, ids.shape[1], D);
}

void named_products_cuda(Device *dev, NamedRows out, Tensor x, Tensor ids) {
    (x.dtype == F32 ? products<float> : products<bf16>)(dev, out, x, ids);
}

// ---- sums ---------------------------------------------------------------------------------------

template <typename T> struct Terms {
    Rows<T> rows[NAMED_TABLES];
    int tables;
};

// sum += the slots of one token whose rows lie in a part of the table, in their order: the warp
// looks at 32 numbers at a time.
template <typename T, bool VECTORS, int WIDTH>
__device__ static inline void add_slots(float *sum, Rows<T> rows, const int32_t *ids, int64_t m,
                                        int K, int64_t begin, int64_t end, int d, int D) {
    int lane = threadIdx.x % WARP;
    for (int first = 0; first < K; first += WARP) {
        int64_t row = first + lane < K ? ids[m * K + first + lane] - rows.first : -1;
        unsigned here = __ballot_sync(ALL_LANES, row >= begin && row < end);
        for (; here; here &= here - 1) {
            int slot = __ffs(here) - 1;
            int64_t of_slot = __shfl_sync(ALL_LANES, row, slot);
            if (d >= D) continue;
            float factor = rows.coefficients[m * rows.W + first + slot], run[WIDTH];
            load_run<VECTORS, WIDTH>(run, rows.table + of_slot * D, d, D);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) sum[i] += factor * run[i];
        }
    }
}

// A warp has a token's tile of WARP · WIDTH columns and goes over its slots once for each part.
// Bytes: a row of each table a slot, out once. Shared memory: a slot for each height of the tree
// and warp.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(WARPS *WARP)
    named_sums_kernel(float *__restrict__ out, Terms<T> terms, const int32_t *__restrict__ ids,
                      int64_t M, int K, int D, int parts, int heights) {
    constexpr int WIDTH = Vector<T>::COUNT;
    DYNAMIC_SHARED(float, all_slots);
    int tiles = (D + WARP * WIDTH - 1) / (WARP * WIDTH);
    int64_t m = warp_number() / tiles, rows_of_part = terms.rows[0].E / parts;
    if (m >= M) return; // the whole warp
    int d = (int)(warp_number() % tiles) * WARP * WIDTH + (int)(threadIdx.x % WARP) * WIDTH;
    float *slots =
        all_slots + threadIdx.x / WARP * heights * WARP * WIDTH + (int)(threadIdx.x % WARP) * WIDTH;
    unsigned waiting = 0;
    float sum[WIDTH] = {};
    for (int part = 0; part < parts; part++) {
        if (part > 0) wait_for<WIDTH>(sum, &waiting, 31 - __clz(part ^ (part - 1)), slots);
        for (int t = 0; t < terms.tables; t++)
            add_slots<T, VECTORS, WIDTH>(sum, terms.rows[t], ids, m, K, part * rows_of_part,
                                         (part + 1) * rows_of_part, d, D);
    }
    join_below<WIDTH>(sum, &waiting, heights, slots);
    if (d < D) store_run<VECTORS, WIDTH>(out + m * D, sum, d, D);
}

template <typename T>
static void sums(Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts) {
    int64_t M = out.shape[0], D = out.shape[1];
    int columns = WARP * Vector<T>::COUNT, heights = 0;
    while ((int64_t)1 << heights < parts) heights++;
    Terms<T> terms = {};
    terms.tables = (int)tables.count;
    bool vectors = rows_are_vectors<float>(out.data, D);
    for (int64_t t = 0; t < tables.count; t++) {
        terms.rows[t] = rows_of<T>(tables.rows[t]);
        vectors = vectors && rows_are_vectors<T>(tables.rows[t].table.data, D);
    }
    launch(dev, vectors ? named_sums_kernel<T, true> : named_sums_kernel<T, false>,
           grid_of(ceil_div(M * ceil_div(D, columns), WARPS)), dim3(WARPS * WARP),
           (size_t)(WARPS * heights * columns) * sizeof(float), device_data<float>(out), terms,
           device_data<int32_t>(ids), M, ids.shape[1], D, parts, heights);
}

void named_sums_cuda(Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts) {
    (tables.rows[0].table.dtype == F32 ? sums<float> : sums<bf16>)(dev, out, tables, ids, parts);
}

// ---- the gradient of a table --------------------------------------------------------------------

void list_names_cuda(Device *dev, Tensor at, Tensor listed, Tensor ids, int64_t first) {
    list_occurrences(dev, device_data<int32_t>(at), device_data<int32_t>(listed),
                     device_data<int32_t>(ids), tensor_elements(ids), listed.shape[0] - 1, first,
                     true);
}

// A warp has a row's tile of WARP · WIDTH columns and adds the places where it is named in their
// order, of which each lane holds one in 32. Bytes: x and 8 a place, dtable once out. Shared memory
// as above.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(WARPS *WARP)
    named_gradient_kernel(float *__restrict__ dtable, const int32_t *marks, Rows<T> rows,
                          const T *__restrict__ x, const int32_t *__restrict__ at,
                          const int32_t *__restrict__ listed, int64_t E, int K, int D,
                          int tokens_of_part, int heights) {
    constexpr int WIDTH = Vector<T>::COUNT;
    DYNAMIC_SHARED(float, all_slots);
    int lane = threadIdx.x % WARP, tiles = (D + WARP * WIDTH - 1) / (WARP * WIDTH);
    int64_t e = warp_number() / tiles;
    if (e >= E) return;                                               // the whole warp
    if (marks && marks[e] == 0 && listed[e] == listed[e + 1]) return; // likewise
    int d = (int)(warp_number() % tiles) * WARP * WIDTH + lane * WIDTH;
    float *slots = all_slots + threadIdx.x / WARP * heights * WARP * WIDTH + lane * WIDTH;
    int part = -1;
    unsigned waiting = 0;
    float sum[WIDTH] = {};
    for (int i = listed[e], end = listed[e + 1]; i < end; i += WARP) {
        int mine = i + lane < end ? at[i + lane] : 0, count = min(end - i, (int)WARP);
        for (int j = 0; j < count; j++) {
            int place = __shfl_sync(ALL_LANES, mine, j), token = place / K;
            int next = token / tokens_of_part;
            if (next != part) {
                if (part >= 0) wait_for<WIDTH>(sum, &waiting, 31 - __clz(part ^ next), slots);
                part = next;
            }
            if (d >= D) continue;
            float factor = rows.coefficients[(int64_t)token * rows.W + place % K], run[WIDTH];
            load_run<VECTORS, WIDTH>(run, x + (int64_t)token * D, d, D);
#pragma unroll
            for (int b = 0; b < WIDTH; b++) sum[b] += factor * run[b];
        }
    }
    join_below<WIDTH>(sum, &waiting, heights, slots);
    if (d < D) store_run<VECTORS, WIDTH>(dtable + e * D, sum, d, D);
}

// marks[e] = whether row e is named. A thread has one.
__global__ static void __launch_bounds__(256)
    mark_named_kernel(int32_t *marks, const int32_t *__restrict__ listed, int64_t E) {
    int64_t e = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (e < E) marks[e] = listed[e + 1] > listed[e];
}

template <typename T>
static void gradient(Device *dev, Tensor dtable, Tensor marks, NamedRows rows, Tensor x, Tensor at,
                     Tensor listed, int64_t K, int64_t parts) {
    int64_t E = dtable.shape[0], D = dtable.shape[1];
    int columns = WARP * Vector<T>::COUNT, heights = 0;
    while ((int64_t)1 << heights < parts) heights++;
    bool vectors = rows_are_vectors<float>(dtable.data, D) && rows_are_vectors<T>(x.data, D);
    int32_t *marked = marks.data ? device_data<int32_t>(marks) : NULL;
    rows.table = {};
    launch(dev, vectors ? named_gradient_kernel<T, true> : named_gradient_kernel<T, false>,
           grid_of(ceil_div(E * ceil_div(D, columns), WARPS)), dim3(WARPS * WARP),
           (size_t)(WARPS * heights * columns) * sizeof(float), device_data<float>(dtable), marked,
           rows_of<T>(rows), device_data<T>(x), device_data<int32_t>(at),
           device_data<int32_t>(listed), E, K, D, x.shape[0] / parts, heights);
    if (marked)
        launch(dev, mark_named_kernel, grid_of(ceil_div(E, 256)), dim3(256), 0, marked,
               device_data<int32_t>(listed), E);
}

void named_gradient_cuda(Device *dev, Tensor dtable, Tensor marks, NamedRows rows, Tensor x,
                         Tensor at, Tensor listed, int64_t K, int64_t parts) {
    (x.dtype == F32 ? gradient<float> : gradient<bf16>)(dev, dtable, marks, rows, x, at, listed, K,
                                                        parts);
}
