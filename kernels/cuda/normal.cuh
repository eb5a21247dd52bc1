// The normal distribution on the GPU.
#ifndef MOETRAIN_KERNELS_CUDA_NORMAL_CUH
#define MOETRAIN_KERNELS_CUDA_NORMAL_CUH

// Φ(x), the share below x, and the density φ(x).
__device__ static inline float normal_share(float x) {
    return 0.5f * erfcf(-0.707106781f * x);
}
__device__ static inline float normal_density(float x) {
    return 0.398942280f * expf(-0.5f * x * x);
}

#endif
