// Softmax cross-entropy over the vocabulary, in place: a warp for a narrow row, a block for a wide
// one. Which of the kernels below computes a row, and with how many threads, is decided by V alone,
// so a row's bits do not depend on its neighbours.
#include <float.h>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

// The maximum of no elements. Finite, so that exp(x - maximum) is 0 and not NaN where x is
// -infinity.
#define LOWEST (-FLT_MAX)

static const int NARROW_LANE = 8, WIDER_LANE = 32; // elements of a row in one lane's registers
static const int NARROW = NARROW_LANE * WARP, WIDER = WIDER_LANE * WARP;
static const int WARPS = 4; // rows of a block

// A warp owns a row of at most LANE · 32 logits and keeps it in registers: reads and writes every
// logit once, the minimum. Lane l holds elements l, l + 32, …; sums run in that order, then over
// the lanes.
template <typename T, int LANE>
__global__ void __launch_bounds__(WARPS *WARP)
    cross_entropy_of_warps(float *losses, T *logits, const int32_t *targets, int64_t N, int V,
                           float scale) {
    int lane = threadIdx.x % WARP;
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (n >= N) return; // a whole warp
    T *row = logits + n * V;
    int target = targets[n];
    if (target == NO_TARGET) {
        if (lane == 0) losses[n] = 0.0f;
        for (int v = lane; v < V && scale != 0.0f; v += WARP) row[v] = from_float<T>(0.0f);
        return;
    }
    float z[LANE], largest = LOWEST, wanted = 0.0f, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LANE; i++) {
        int v = i * WARP + lane;
        z[i] = v < V ? to_float(row[v]) : -INFINITY;
        largest = fmaxf(largest, z[i]);
        if (v == target) wanted = z[i];
    }
    largest = warp_max(largest);
#pragma unroll
    for (int i = 0; i < LANE; i++) {
        z[i] = expf(z[i] - largest);
        sum += z[i];
    }
    sum = warp_sum(sum);
    if (lane == target % WARP) losses[n] = largest - wanted + logf(sum);
    if (scale == 0.0f) return;
    float factor = scale / sum;
#pragma unroll
    for (int i = 0; i < LANE; i++) {
        int v = i * WARP + lane;
        if (v < V) row[v] = from_float<T>(z[i] * factor - (v == target ? scale : 0.0f));
    }
}

// A tile of a row is what all threads of a block take at once: 16 bytes a thread. Element j of a
// thread's share is the j-th of its vector, or, where rows do not consist of vectors, the j-th of
// blockDim.x neighbours.
template <bool VECTORS, int COUNT> __device__ static inline int element(int tile, int j) {
    return tile + (int)(VECTORS ? threadIdx.x * COUNT + j : j * blockDim.x + threadIdx.x);
}

// A thread's share of a tile; -infinity beyond the row.
template <typename T, bool VECTORS>
__device__ static inline void load_share(float *z, const T *row, int tile, int V) {
    const int COUNT = Vector<T>::COUNT;
#pragma unroll
    for (int j = 0; j < COUNT; j++) z[j] = -INFINITY;
    if (VECTORS) {
        int v = element<VECTORS, COUNT>(tile, 0);
        if (v < V) load_vector(z, row + v);
    } else {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            int v = element<VECTORS, COUNT>(tile, j);
            if (v < V) z[j] = to_float(row[v]);
        }
    }
}

template <typename T, bool VECTORS>
__device__ static inline void store_share(T *row, int tile, int V, const float *z) {
    const int COUNT = Vector<T>::COUNT;
    if (VECTORS) {
        int v = element<VECTORS, COUNT>(tile, 0);
        if (v < V) store_vector(row + v, z);
    } else {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            int v = element<VECTORS, COUNT>(tile, j);
            if (v < V) row[v] = from_float<T>(z[j]);
        }
    }
}

// A block owns a row. First pass, from the front: every thread keeps the largest logit of its share
// and the sum of exponentials relative to it (arXiv:1805.02867), then the block joins them. Second
// pass, from the back, over what the first one has left in L1 and L2: the gradient. At most two
// large blocks run on a multiprocessor, so of bf16 rows up to some 90000 logits all rows in flight
// stay in 50 MB of L2, and V · sizeof(T) bytes read and as many written, the minimum, reach memory;
// of longer rows a part is read twice. When scale is 0 there is the first pass alone. Sums run over
// the thread's tiles, then over the threads: a function of V.
template <typename T, bool VECTORS, int THREADS>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_of_blocks(float *losses, T *logits, const int32_t *targets, int V, float scale) {
    const int COUNT = Vector<T>::COUNT, TILE = THREADS * COUNT;
    __shared__ float spare[WARP];
    int64_t n = blockIdx.x;
    T *row = logits + n * V;
    int target = targets[n];
    if (target == NO_TARGET) { // the whole block
        if (threadIdx.x == 0) losses[n] = 0.0f;
        for (int v = threadIdx.x; v < V && scale != 0.0f; v += THREADS)
            row[v] = from_float<T>(0.0f);
        return;
    }
    // Read before the first barrier: afterwards the logit becomes a gradient.
    float wanted = threadIdx.x == 0 ? to_float(row[target]) : 0.0f;
    float z[COUNT], largest = LOWEST, sum = 0.0f;
#pragma unroll 2
    for (int tile = 0; tile < V; tile += TILE) {
        load_share<T, VECTORS>(z, row, tile, V);
        float before = largest;
#pragma unroll
        for (int j = 0; j < COUNT; j++) largest = fmaxf(largest, z[j]);
        sum *= expf(before - largest);
#pragma unroll
        for (int j = 0; j < COUNT; j++) sum += expf(z[j] - largest);
    }
    float own = largest;
    largest = block_max(largest, spare);
    sum = block_sum(sum * expf(own - largest), spare);
    if (threadIdx.x == 0) losses[n] = largest - wanted + logf(sum);
    if (scale == 0.0f) return;
    float factor = scale / sum;
    for (int tile = (V - 1) / TILE * TILE; tile >= 0; tile -= TILE) {
        load_share<T, VECTORS>(z, row, tile, V);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            float onehot = element<VECTORS, COUNT>(tile, j) == target ? scale : 0.0f;
            z[j] = expf(z[j] - largest) * factor - onehot;
        }
        store_share<T, VECTORS>(row, tile, V, z);
    }
}

enum { MIDDLE = 8192 }; // the widest row that a small block takes
enum { SMALL_BLOCK = 256, LARGE_BLOCK = 1024 };
enum { MOST_V = 1 << 30 }; // element numbers of a row are int

template <typename T, int LANE>
static void launch_warps(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale) {
    int64_t N = logits.shape[0];
    launch(dev, cross_entropy_of_warps<T, LANE>, grid_of(ceil_div(N, WARPS)), WARPS * WARP, 0,
           device_data<float>(losses), device_data<T>(logits), device_data<int32_t>(targets), N,
           (int)logits.shape[1], scale);
}

template <typename T, bool VECTORS, int THREADS>
static void launch_blocks(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale) {
    launch(dev, cross_entropy_of_blocks<T, VECTORS, THREADS>, grid_of(logits.shape[0]), THREADS, 0,
           device_data<float>(losses), device_data<T>(logits), device_data<int32_t>(targets),
           (int)logits.shape[1], scale);
}

template <typename T>
static void cross_entropy_of(Device *dev, Tensor losses, Tensor logits, Tensor targets,
                             float scale) {
    int64_t V = logits.shape[1];
    CHECK(V <= MOST_V, "cross-entropy over a vocabulary of %lld, at most %d", (long long)V,
          (int)MOST_V);
    bool vectors = rows_are_vectors<T>(logits.data, V); // by V: tensors begin at aligned addresses
    if (V <= NARROW) {
        launch_warps<T, NARROW_LANE>(dev, losses, logits, targets, scale);
    } else if (V <= WIDER) {
        launch_warps<T, WIDER_LANE>(dev, losses, logits, targets, scale);
    } else if (V <= MIDDLE && vectors) {
        launch_blocks<T, true, SMALL_BLOCK>(dev, losses, logits, targets, scale);
    } else if (V <= MIDDLE) {
        launch_blocks<T, false, SMALL_BLOCK>(dev, losses, logits, targets, scale);
    } else if (vectors) {
        launch_blocks<T, true, LARGE_BLOCK>(dev, losses, logits, targets, scale);
    } else {
        launch_blocks<T, false, LARGE_BLOCK>(dev, losses, logits, targets, scale);
    }
}

void cross_entropy_cuda(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale) {
    if (logits.dtype == F32) {
        cross_entropy_of<float>(dev, losses, logits, targets, scale);
    } else {
        cross_entropy_of<bf16>(dev, losses, logits, targets, scale);
    }
}
