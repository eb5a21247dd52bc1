#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 256 };

typedef struct DocumentChoices {
    const int32_t *ids, *positions, *capacities;
    const float *weights;
    int64_t choices;
    int T, K;
    DropPolicy policy;
    RngStream stream;
    uint64_t first_choice;
} DocumentChoices;

// What is kept first of an expert's choices; of equal keys the lower choice (capacity_cpu.c).
__device__ static inline uint32_t drop_key(const DocumentChoices &a, int64_t choice) {
    switch (a.policy) {
    case DROP_POSITION:
        return (uint32_t)(choice % a.K); // first choices, then second ones
    case DROP_PROBABILITY:
        return ~__float_as_uint(a.weights[choice]);
    case DROP_RANDOM:
        return philox_u32(a.stream, a.first_choice + (uint64_t)choice);
    }
    return 0;
}

// A thread owns a choice and counts those of its document and expert that come before it, until
// they fill the expert. Reads the document's ids, which its neighbours read at the same time.
// Exact: it compares and counts.
__global__ static void __launch_bounds__(THREADS)
    keep_in_documents(uint8_t *kept, DocumentChoices a) {
    int64_t choice = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (choice >= a.choices) return;
    int64_t row = choice / a.K;
    int t = (int)(row % a.T), first = t - a.positions[row], last = t;
    const int32_t *of_sequence = a.positions + (row - t);
    for (int end = a.T - 1; last < end;) { // the document's last row is one of [last, end]
        int middle = (last + end + 1) / 2;
        if (middle - of_sequence[middle] == first)
            last = middle;
        else
            end = middle - 1;
    }
    int capacity = a.capacities[last - first + 1], before = 0, expert = a.ids[choice];
    uint32_t key = drop_key(a, choice);
    int64_t begin = (row - t + first) * a.K, end = (row - t + last + 1) * a.K;
    for (int64_t other = begin; other < end && before < capacity; other++) {
        if (a.ids[other] != expert || other == choice) continue;
        uint32_t its = drop_key(a, other);
        before += its < key || (its == key && other < choice);
    }
    kept[choice] = before < capacity;
}

extern "C" void capacity_assign_documents_cuda(Device *dev, Tensor kept, Tensor tokens_per_expert,
                                               Tensor dropped, Tensor ids, Tensor weights,
                                               Tensor positions, Tensor capacities,
                                               CapacityRule rule, Tensor order) {
    int64_t N = ids.shape[0], K = ids.shape[1], T = N / tokens_per_expert.shape[0];
    (void)dropped, (void)order;
    CHECK_ROUTING(tokens_per_expert.shape[1], K);
    CHECK(T <= 1 << 30, "sequences of %lld tokens", (long long)T);
    DocumentChoices choices = {device_data<int32_t>(ids),
                               device_data<int32_t>(positions),
                               device_data<int32_t>(capacities),
                               device_data<float>(weights),
                               N * K,
                               (int)T,
                               (int)K,
                               rule.policy,
                               rule.stream,
                               (uint64_t)(rule.first_token * K)};
    launch(dev, keep_in_documents, grid_of(ceil_div(N * K, THREADS)), dim3(THREADS), 0,
           device_data<uint8_t>(kept), choices);
}
