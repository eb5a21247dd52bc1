#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256;

// What an element is multiplied by, and where that is 0.
typedef struct Keep {
    RngStream stream;
    uint32_t least; // words below it drop
    float scale;
} Keep;

// A thread owns the elements of a row that share four words, `groups` of them a row. VECTORS: rows
// of whole fours, which are then aligned in memory too. Each element is read and written once; ten
// rounds of two 32-bit products for four elements stay below what memory takes. Elements are
// independent. out may be x: a thread writes where it has read itself.
template <typename To, typename From, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    dropout_kernel(To *out, const From *x, const int64_t *__restrict__ rows, int64_t first_row,
                   int64_t N, int64_t D, int64_t groups, Keep keep) {
    int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x, n = t / groups;
    if (n >= N) return;
    uint64_t first = (uint64_t)(rows ? rows[n] : first_row + n) * (uint64_t)D;
    uint64_t index = first / 4 + (uint64_t)(t - n * groups);
    int64_t d = (int64_t)(index * 4 - first); // from -3 on
    uint4 words = philox_words(keep.stream, index);
    float factor[4] = {
        words.x >= keep.least ? keep.scale : 0.0f, words.y >= keep.least ? keep.scale : 0.0f,
        words.z >= keep.least ? keep.scale : 0.0f, words.w >= keep.least ? keep.scale : 0.0f};
    const From *from = x + n * D + d;
    To *to = out + n * D + d;
    if (VECTORS) {
        float values[4];
        load_four(values, from);
#pragma unroll
        for (int i = 0; i < 4; i++) values[i] *= factor[i];
        store_four(to, values);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (d + i >= 0 && d + i < D) to[i] = from_float<To>(to_float(from[i]) * factor[i]);
    }
}

template <typename To, typename From>
static void launch_dropout(Device *dev, Tensor out, Tensor x, Dropout rule) {
    int64_t N = x.shape[0], D = x.shape[1];
    To *to = device_data<To>(out);
    const From *from = device_data<From>(x);
    bool vectors = D % 4 == 0 && (uintptr_t)to % (4 * sizeof(To)) == 0 &&
                   (uintptr_t)from % (4 * sizeof(From)) == 0;
    int64_t groups = D % 4 == 0 ? D / 4 : D / 4 + 2;
    Keep keep = {rule.stream, (uint32_t)(rule.rate * 0x1p32 + 0.5),
                 (float)(1.0 / (1.0 - rule.rate))};
    launch(dev, vectors ? dropout_kernel<To, From, true> : dropout_kernel<To, From, false>,
           grid_of(ceil_div(N * groups, THREADS)), dim3(THREADS), 0, to, from,
           rule.rows.data ? device_data<int64_t>(rule.rows) : NULL, rule.first_row, N, D, groups,
           keep);
}

template <typename To> static void drop_into(Device *dev, Tensor out, Tensor x, Dropout rule) {
    if (x.dtype == F32) {
        launch_dropout<To, float>(dev, out, x, rule);
    } else {
        launch_dropout<To, bf16>(dev, out, x, rule);
    }
}

void dropout_cuda(Device *dev, Tensor out, Tensor x, Dropout rule) {
    if (out.dtype == F32) {
        drop_into<float>(dev, out, x, rule);
    } else {
        drop_into<bf16>(dev, out, x, rule);
    }
}
