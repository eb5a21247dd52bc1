// What the kernels of all optimizers share: how runs of parameters are cut.
#ifndef MOETRAIN_KERNELS_CUDA_UPDATE_CUH
#define MOETRAIN_KERNELS_CUDA_UPDATE_CUH

#include "kernels/cuda/storage.cuh"

enum { THREADS = 256, PER_THREAD = 4, UNIT = 16 }; // elements of one group number

// Fatal unless groups of four elements can be read at once; parameter runs begin at multiples of 16
// elements.
template <typename T> static T *aligned_data(Tensor x, const char *name) {
    T *data = device_data<T>(x);
    CHECK((uintptr_t)data % (PER_THREAD * sizeof(T)) == 0,
          "an update: %s begins at address %p, which is not aligned to %d elements", name,
          (void *)data, (int)PER_THREAD);
    return data;
}

#endif
