// Importance of experts on the GPU.
#include "kernels/cuda/balance_sums.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256;

// A thread owns a choice; whole numbers, so that no order matters. Bytes: 8 a choice, and the
// atomics stay in L2.
__global__ static void __launch_bounds__(THREADS)
    add_weights(unsigned long long *sums, const int32_t *ids, const float *weights, int64_t count,
                int64_t of_part, int64_t E) {
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= count || ids[c] < 0 || ids[c] >= E) return;
    atomicAdd(&sums[c / of_part * E + ids[c]], balance_units(weights[c]));
}

// A thread owns a choice. Bytes: 12 a choice; the slopes stay in the caches.
__global__ static void __launch_bounds__(THREADS)
    add_slopes(float *dweights, const int32_t *ids, const float *slopes, int64_t count,
               int64_t of_part, int64_t E) {
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= count || ids[c] < 0 || ids[c] >= E) return;
    dweights[c] += slopes[c / of_part * E + ids[c]];
}

extern "C" void importance_sums_cuda(Device *dev, Tensor sums, Tensor ids, Tensor weights) {
    int64_t count = tensor_elements(ids);
    CUDA_CHECK(cudaMemsetAsync(sums.data, 0, tensor_bytes(sums), cuda_state(dev)->compute));
    launch(dev, add_weights, grid_of(ceil_div(count, THREADS)), dim3(THREADS), 0,
           reinterpret_cast<unsigned long long *>(device_data<int64_t>(sums)),
           device_data<int32_t>(ids), device_data<float>(weights), count, count / sums.shape[0],
           sums.shape[1]);
}

extern "C" void importance_backward_cuda(Device *dev, Tensor dweights, Tensor ids, Tensor slopes) {
    int64_t count = tensor_elements(ids);
    launch(dev, add_slopes, grid_of(ceil_div(count, THREADS)), dim3(THREADS), 0,
           device_data<float>(dweights), device_data<int32_t>(ids), device_data<float>(slopes),
           count, count / slopes.shape[0], slopes.shape[1]);
}
