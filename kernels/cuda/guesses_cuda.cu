#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256;

// A block owns a row, a thread every THREADS-th logit of it; whole numbers, so that no order
// matters. Bytes: the row's, once.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    count_right_kernel(unsigned long long *counts, const T *__restrict__ logits,
                       const int32_t *__restrict__ targets, int64_t V) {
    __shared__ int spare[WARP];
    const T *row = logits + (int64_t)blockIdx.x * V;
    int target = targets[blockIdx.x];
    if (target == NO_TARGET) return; // the whole block
    float wanted = to_float(row[target]);
    int before = 0; // logits that go before the target's
    for (int64_t v = threadIdx.x; v < V; v += THREADS) {
        float other = to_float(row[v]);
        before += v < target ? !(other < wanted) : !(other <= wanted);
    }
    before = block_sum(before, spare);
    if (threadIdx.x > 0) return;
    atomicAdd(&counts[0], 1ull);
    if (before == 0) atomicAdd(&counts[1], 1ull);
}

template <typename T>
static void count_right_of(Device *dev, Tensor counts, Tensor logits, Tensor targets) {
    launch(dev, count_right_kernel<T>, grid_of(logits.shape[0]), dim3(THREADS), 0,
           reinterpret_cast<unsigned long long *>(device_data<int64_t>(counts)),
           device_data<T>(logits), device_data<int32_t>(targets), logits.shape[1]);
}

void count_right_guesses_cuda(Device *dev, Tensor counts, Tensor logits, Tensor targets) {
    if (logits.dtype == F32) {
        count_right_of<float>(dev, counts, logits, targets);
    } else {
        count_right_of<bf16>(dev, counts, logits, targets);
    }
}
