// Fills, copies, conversions and sums. All of them are bound by memory: what counts is that every
// byte moves once, in whole transactions.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

// ---- bytes --------------------------------------------------------------------------------------

static void check_on_device(Tensor x) {
    CHECK(x.place == ON_DEVICE, "a %s tensor in host memory is given to the GPU",
          dtype_name(x.dtype));
}

void fill_zero_cuda(Device *dev, Tensor x) {
    size_t bytes = tensor_bytes(x);
    if (bytes == 0) return;
    check_on_device(x);
    CUDA_CHECK(cudaMemsetAsync(x.data, 0, bytes, cuda_state(dev)->compute));
}

void copy_cuda(Device *dev, Tensor out, Tensor x) {
    size_t bytes = tensor_bytes(x);
    if (bytes == 0) return;
    check_on_device(out);
    check_on_device(x);
    CUDA_CHECK(cudaMemcpyAsync(out.data, x.data, bytes, cudaMemcpyDeviceToDevice,
                               cuda_state(dev)->compute));
}

// ---- elementwise --------------------------------------------------------------------------------

enum { THREADS = 256 };
enum {
    FOURS = 2,                  // groups of four elements that a thread of convert and add takes
    TILE = THREADS * 4 * FOURS, // elements of one block
};

// The first element of a thread's group of four in its block's tile: neighbours in a warp stand
// side by side in memory.
__device__ static inline int64_t group_of_four(int64_t tile, int group) {
    return tile + ((int64_t)group * THREADS + threadIdx.x) * 4;
}

template <typename T> static inline bool fours_are_aligned(const T *data) {
    return (uintptr_t)data % (4 * sizeof(T)) == 0;
}

static inline dim3 tiles_of(int64_t n) {
    return grid_of(ceil_div(n, TILE));
}

// out = x in another storage. A block owns a tile, a thread FOURS groups of four elements: 16 bytes
// of the f32 side and 8 of the bf16 side an access. Unaligned tensors and the last tile go element
// by element. Moves 6 bytes an element, the minimum.
template <typename To, typename From>
__global__ void __launch_bounds__(THREADS)
    convert_kernel(To *out, const From *x, int64_t n, bool vectors) {
    int64_t tile = (int64_t)blockIdx.x * TILE;
    if (vectors && tile + TILE <= n) {
        float values[FOURS][4];
#pragma unroll
        for (int g = 0; g < FOURS; g++) load_four(values[g], x + group_of_four(tile, g));
#pragma unroll
        for (int g = 0; g < FOURS; g++) store_four(out + group_of_four(tile, g), values[g]);
    } else {
        for (int64_t i = tile + threadIdx.x; i < n && i < tile + TILE; i += THREADS)
            out[i] = from_float<To>(to_float(x[i]));
    }
}

template <typename To, typename From>
static void launch_convert(Device *dev, Tensor out, Tensor x) {
    To *to = device_data<To>(out);
    const From *from = device_data<From>(x);
    int64_t n = tensor_elements(x);
    launch(dev, convert_kernel<To, From>, tiles_of(n), THREADS, 0, to, from, n,
           fours_are_aligned(to) && fours_are_aligned(from));
}

void convert_cuda(Device *dev, Tensor out, Tensor x) {
    if (x.dtype == F32) {
        launch_convert<bf16, float>(dev, out, x);
    } else {
        launch_convert<float, bf16>(dev, out, x);
    }
}

// out = a + b, tiles as in convert. A thread reads its elements of a and b before it writes them,
// so out may be either. Moves the minimum: 6 to 12 bytes an element.
template <typename To, typename A, typename B>
__global__ void __launch_bounds__(THREADS)
    add_kernel(To *out, const A *a, const B *b, int64_t n, bool vectors) {
    int64_t tile = (int64_t)blockIdx.x * TILE;
    if (vectors && tile + TILE <= n) {
        float x[FOURS][4], y[FOURS][4];
#pragma unroll
        for (int g = 0; g < FOURS; g++) {
            load_four(x[g], a + group_of_four(tile, g));
            load_four(y[g], b + group_of_four(tile, g));
        }
#pragma unroll
        for (int g = 0; g < FOURS; g++) {
#pragma unroll
            for (int i = 0; i < 4; i++) x[g][i] += y[g][i];
            store_four(out + group_of_four(tile, g), x[g]);
        }
    } else {
        for (int64_t i = tile + threadIdx.x; i < n && i < tile + TILE; i += THREADS)
            out[i] = from_float<To>(to_float(a[i]) + to_float(b[i]));
    }
}

template <typename To, typename A, typename B>
static void launch_add(Device *dev, Tensor out, Tensor a, Tensor b) {
    To *to = device_data<To>(out);
    const A *x = device_data<A>(a);
    const B *y = device_data<B>(b);
    int64_t n = tensor_elements(out);
    launch(dev, add_kernel<To, A, B>, tiles_of(n), THREADS, 0, to, x, y, n,
           fours_are_aligned(to) && fours_are_aligned(x) && fours_are_aligned(y));
}

template <typename To, typename A>
static void add_second(Device *dev, Tensor out, Tensor a, Tensor b) {
    if (b.dtype == F32) {
        launch_add<To, A, float>(dev, out, a, b);
    } else {
        launch_add<To, A, bf16>(dev, out, a, b);
    }
}

template <typename To> static void add_first(Device *dev, Tensor out, Tensor a, Tensor b) {
    if (a.dtype == F32) {
        add_second<To, float>(dev, out, a, b);
    } else {
        add_second<To, bf16>(dev, out, a, b);
    }
}

void add_cuda(Device *dev, Tensor out, Tensor a, Tensor b) {
    if (out.dtype == F32) {
        add_first<float>(dev, out, a, b);
    } else {
        add_first<bf16>(dev, out, a, b);
    }
}

// ---- sums ---------------------------------------------------------------------------------------

enum { MOST_THREADS = 1024 };

// A block owns one part: thread t adds its elements t, t + blockDim.x, …, then the block adds its
// threads. The order is a function of the part's length alone. Reads every element once.
__global__ void __launch_bounds__(MOST_THREADS)
    segment_sum_kernel(double *sums, int64_t columns, int64_t column, const float *x, int64_t count,
                       double divisor) {
    __shared__ double spare[WARP];
    const float *part = x + (int64_t)blockIdx.x * count;
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += (double)part[i];
    sum = block_sum(sum, spare);
    if (threadIdx.x == 0) sums[(int64_t)blockIdx.x * columns + column] += sum / divisor;
}

void segment_sum_cuda(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor) {
    int64_t parts = sums.shape[0], count = x.shape[0] / parts;
    int64_t threads = ceil_div(count, WARP) * WARP;
    if (threads < WARP) threads = WARP;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    launch(dev, segment_sum_kernel, grid_of(parts), (unsigned)threads, 0, device_data<double>(sums),
           sums.shape[1], column, device_data<float>(x), count, divisor);
}

// A block owns a column of one part. Reads every element once.
__global__ void __launch_bounds__(MOST_THREADS)
    segment_max_kernel(double *maxima, int64_t columns, int64_t column, const float *x,
                       int64_t rows, int H) {
    __shared__ float spare[WARP];
    int64_t part = blockIdx.x / H;
    int h = (int)(blockIdx.x % H);
    float largest = -INFINITY;
    for (int64_t n = threadIdx.x; n < rows; n += blockDim.x)
        largest = fmaxf(largest, x[(part * rows + n) * H + h]);
    largest = block_max(largest, spare);
    if (threadIdx.x == 0) maxima[part * columns + column + h] = (double)largest;
}

void segment_max_cuda(Device *dev, Tensor maxima, int64_t column, Tensor x) {
    int64_t parts = maxima.shape[0], rows = x.shape[0] / parts, H = x.shape[1];
    int64_t threads = ceil_div(rows, WARP) * WARP;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    launch(dev, segment_max_kernel, grid_of(parts * H), (unsigned)threads, 0,
           device_data<double>(maxima), maxima.shape[1], column, device_data<float>(x), rows, H);
}

// The blocks of 4096 elements that sum_of_squares cuts each segment into. The offsets are on the
// device, so no one on the host knows how many there are; instead segment s is given the slots from
// offsets[s] / 4096 + s on. Those are enough: with a = offsets[s] / 4096 and b = offsets[s + 1] /
// 4096 as real numbers, floor(b) - floor(a) + 1 > b - a, hence at least ceil(b - a), the segment's
// blocks. No prefix sum, and at most n / 4096 + S slots, of which some stay unused.
enum { SQUARES = 4096, SQUARES_PER_THREAD = SQUARES / THREADS };

__device__ static inline int64_t first_slot(const int64_t *offsets, int64_t s) {
    return offsets[s] / SQUARES + s;
}

// A block owns a slot; it finds its segment among S by bisection. Thread t adds the squares of
// elements 4t … 4t + 3 of each quarter of the 4096, then the block adds its threads, all in f64: a
// function of the elements' place in their segment alone, whether they can be read by vectors or
// not. Reads every element once.
__global__ void __launch_bounds__(THREADS)
    squares_of_slots_kernel(double *slots, const float *x, const int64_t *offsets,
                            const int32_t *marks, int64_t S) {
    __shared__ double spare[WARP];
    int64_t slot = blockIdx.x, s = 0;
    for (int64_t above = S; above - s > 1;) { // the last segment that begins at or before the slot
        int64_t middle = s + (above - s) / 2;
        if (first_slot(offsets, middle) <= slot) {
            s = middle;
        } else {
            above = middle;
        }
    }
    int64_t first = offsets[s] + (slot - first_slot(offsets, s)) * SQUARES;
    int64_t left = offsets[s + 1] - first;
    if (slot < first_slot(offsets, s) || left <= 0) return; // unused; the same for the whole block
    if (marks && marks[s] == 0) return;                     // likewise
    const float *block = x + first;
    float values[SQUARES_PER_THREAD];
    if (left >= SQUARES && (uintptr_t)block % 16 == 0) {
#pragma unroll
        for (int i = 0; i < SQUARES_PER_THREAD; i += 4)
            load_vector(values + i, block + i * THREADS + threadIdx.x * 4);
    } else {
#pragma unroll
        for (int i = 0; i < SQUARES_PER_THREAD; i++) {
            int at = i / 4 * 4 * THREADS + (int)threadIdx.x * 4 + i % 4;
            values[i] = at < left ? block[at] : 0.0f;
        }
    }
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < SQUARES_PER_THREAD; i++) sum += (double)values[i] * (double)values[i];
    sum = block_sum(sum, spare);
    if (threadIdx.x == 0) slots[slot] = sum;
}

// A block owns one segment and adds its slots: thread t those numbered t, t + 256, …, then the
// block its threads. An order given by the segment's length alone; not one chain, which would take
// longer than reading x where a segment is large.
__global__ void __launch_bounds__(THREADS)
    squares_of_segments_kernel(double *sums, const double *slots, const int64_t *offsets,
                               const int32_t *marks) {
    __shared__ double spare[WARP];
    int64_t s = blockIdx.x;
    int64_t count = (offsets[s + 1] - offsets[s] + SQUARES - 1) / SQUARES;
    if (marks && marks[s] == 0) count = 0;
    const double *from = slots + first_slot(offsets, s);
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < count; i += THREADS) sum += from[i];
    sum = block_sum(sum, spare);
    if (threadIdx.x == 0) sums[s] = sum;
}

void sum_of_squares_cuda(Device *dev, Tensor sums, Tensor x, Tensor offsets, Tensor marks) {
    int64_t S = sums.shape[0], count = x.shape[0] / SQUARES + S;
    if (S == 0) return;
    const int64_t *at = device_data<int64_t>(offsets);
    const int32_t *read = marks.data ? device_data<int32_t>(marks) : NULL;
    double *slots = static_cast<double *>(cuda_workspace(dev, (size_t)count * sizeof *slots));
    launch(dev, squares_of_slots_kernel, grid_of(count), THREADS, 0, slots, device_data<float>(x),
           at, read, S);
    launch(dev, squares_of_segments_kernel, grid_of(S), THREADS, 0, device_data<double>(sums),
           slots, at, read);
}

// A warp owns a row: lane l adds columns l, l + 32, …, then the warp its lanes. Reads every marked
// row once.
__global__ void __launch_bounds__(THREADS)
    squares_of_rows_kernel(double *squares, const float *x, const int32_t *marks, int64_t R,
                           int D) {
    int64_t r = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / WARP;
    if (r >= R) return; // the whole warp
    double sum = 0.0;
    for (int d = (int)threadIdx.x % WARP; d < D && !(marks && marks[r] == 0); d += WARP)
        sum += (double)x[r * D + d] * (double)x[r * D + d];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) squares[r] = sum;
}

// A block owns a run of rows: thread t adds those numbered t, t + 256, …, then the block its
// threads.
__global__ void __launch_bounds__(THREADS)
    squares_of_runs_kernel(double *sums, const double *squares, int64_t rows) {
    __shared__ double spare[WARP];
    const double *from = squares + blockIdx.x * rows;
    double sum = 0.0;
    for (int64_t r = threadIdx.x; r < rows; r += THREADS) sum += from[r];
    sum = block_sum(sum, spare);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

void sum_of_row_squares_cuda(Device *dev, Tensor sums, Tensor x, Tensor marks) {
    int64_t R = x.shape[0], parts = sums.shape[0];
    if (R == 0) return fill_zero_cuda(dev, sums);
    double *squares = static_cast<double *>(cuda_workspace(dev, (size_t)R * sizeof *squares));
    launch(dev, squares_of_rows_kernel, grid_of(ceil_div(R * WARP, THREADS)), THREADS, 0, squares,
           device_data<float>(x), marks.data ? device_data<int32_t>(marks) : nullptr, R,
           x.shape[1]);
    launch(dev, squares_of_runs_kernel, grid_of(parts), THREADS, 0, device_data<double>(sums),
           squares, R / parts);
}
