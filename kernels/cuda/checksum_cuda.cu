// Checksums of runs of rows. Bound by memory: every byte is read once.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

enum {
    THREADS = 256,
    WORDS = 16,             // of a thread
    TILE = THREADS * WORDS, // words of a block
    MOST_RUNS = 64,         // of a launch: they travel as arguments
};

struct Runs {
    const char *x;
    const int32_t *index; // NULL: the rows of the runs are x's own
    int64_t row_bytes;
    int64_t first[MOST_RUNS], bytes[MOST_RUNS];
};

// Byte of a run, or NULL where it is 0.
template <bool GATHERED>
__device__ static inline const char *place_of(const Runs &runs, int64_t first, int64_t byte) {
    if (!GATHERED) return runs.x + first * runs.row_bytes + byte;
    int64_t row = runs.index[first + byte / runs.row_bytes];
    return row < 0 ? nullptr : runs.x + row * runs.row_bytes + byte % runs.row_bytes;
}

// Word i of a run: byte by byte where rows of bf16 begin between words.
template <bool GATHERED>
__device__ static inline uint32_t word_of(const Runs &runs, int64_t first, int64_t bytes, int64_t i,
                                          bool aligned) {
    if (aligned && 4 * i + 4 <= bytes) {
        const char *place = place_of<GATHERED>(runs, first, 4 * i);
        return place ? *reinterpret_cast<const uint32_t *>(place) : 0;
    }
    uint32_t word = 0;
    for (int byte = 0; byte < 4 && 4 * i + byte < bytes; byte++) {
        const char *place = place_of<GATHERED>(runs, first, 4 * i + byte);
        if (place) word |= (uint32_t)(unsigned char)*place << 8 * byte;
    }
    return word;
}

// Blocks (·, s) own the words of run s, TILE each; a thread takes every 256th of them. Whole
// numbers: no order changes a bit. Reads every byte once.
template <bool GATHERED>
__global__ static void __launch_bounds__(THREADS)
    checksums_kernel(unsigned long long *sums, Runs runs) {
    __shared__ unsigned long long spare[WARP];
    int64_t run = runs.first[blockIdx.y];
    int64_t bytes = runs.bytes[blockIdx.y], words = (bytes + 3) / 4;
    int64_t first = (int64_t)blockIdx.x * TILE + threadIdx.x;
    if ((int64_t)blockIdx.x * TILE >= words) return; // the same for the whole block
    bool aligned =
        GATHERED ? runs.row_bytes % 4 == 0 : (uintptr_t)place_of<GATHERED>(runs, run, 0) % 4 == 0;
    unsigned long long plain = 0, weighted = 0;
#pragma unroll(GATHERED ? 1 : 4)
    for (int k = 0; k < WORDS; k++) {
        int64_t i = first + k * THREADS;
        if (i >= words) break;
        unsigned long long word = word_of<GATHERED>(runs, run, bytes, i, aligned);
        plain += word;
        weighted += word * (unsigned long long)i;
    }
    plain = block_sum(plain, spare);
    weighted = block_sum(weighted, spare);
    if (threadIdx.x > 0) return;
    atomicAdd(&sums[2 * blockIdx.y], plain);
    atomicAdd(&sums[2 * blockIdx.y + 1], weighted);
}

extern "C" void checksums_cuda(Device *dev, Tensor sums, Tensor x, CheckedRuns runs) {
    if (tensor_elements(x) == 0) return;
    bool gathered = runs.index.data != nullptr;
    unsigned long long *to = reinterpret_cast<unsigned long long *>(device_data<int64_t>(sums));
    int64_t row_bytes = (int64_t)tensor_bytes(x) / x.shape[0], next = 0;
    for (int64_t begin = 0; begin < runs.count; begin += MOST_RUNS) {
        int64_t left = runs.count - begin, most = 0;
        int64_t count = left < MOST_RUNS ? left : (int64_t)MOST_RUNS;
        Runs some = {};
        some.x = static_cast<const char *>(x.data);
        some.index = gathered ? device_data<int32_t>(runs.index) : nullptr;
        some.row_bytes = row_bytes;
        for (int64_t k = 0; k < count; k++) {
            int64_t s = begin + k;
            some.first[k] = runs.first ? runs.first[s] : next;
            next = some.first[k] + runs.rows[s];
            some.bytes[k] = s == runs.except ? 0 : runs.rows[s] * row_bytes;
            if (some.bytes[k] > most) most = some.bytes[k];
        }
        dim3 grid = grid_of(ceil_div(most, 4 * TILE));
        grid.y = (unsigned)count;
        if (gathered)
            launch(dev, checksums_kernel<true>, grid, THREADS, 0, to + 2 * begin, some);
        else
            launch(dev, checksums_kernel<false>, grid, THREADS, 0, to + 2 * begin, some);
    }
}
