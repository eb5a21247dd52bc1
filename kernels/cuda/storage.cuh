// Storage types: T is float or __nv_bfloat16, arithmetic is float. The one use of templates over
// types in kernels/cuda/.
#ifndef MOETRAIN_KERNELS_CUDA_STORAGE_CUH
#define MOETRAIN_KERNELS_CUDA_STORAGE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/check.h"
#include "kernels/tensor.h"

typedef __nv_bfloat16 bf16;

__device__ static inline float to_float(float x) {
    return x;
}
__device__ static inline float to_float(bf16 x) {
    return __bfloat162float(x);
}
// Rounds to nearest even.
template <typename T> __device__ static inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) {
    return x;
}
template <> __device__ inline bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

// 16 bytes of T: one memory transaction of a thread.
template <typename T> struct Vector { static const int COUNT = 16 / (int)sizeof(T); };

// Loads or stores Vector<T>::COUNT elements; the pointer is 16-byte aligned.
__device__ static inline void load_vector(float *to, const float *from) {
    float4 v = *reinterpret_cast<const float4 *>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ static inline void load_vector(float *to, const bf16 *from) {
    uint4 v = *reinterpret_cast<const uint4 *>(from);
    uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = __uint_as_float(pairs[i] << 16);
        to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
}
__device__ static inline void store_vector(float *to, const float *from) {
    *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
}
__device__ static inline uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162_raw pair = __floats2bfloat162_rn(low, high); // one instruction
    return pair.x | (uint32_t)pair.y << 16;
}
__device__ static inline void store_vector(bf16 *to, const float *from) {
    *reinterpret_cast<uint4 *>(to) =
        make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]),
                   pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7]));
}

// Loads or stores four elements: for kernels that read one storage and write the other, where four
// f32 are the widest access. The pointer is aligned to four elements.
__device__ static inline void load_four(float *to, const float *from) {
    load_vector(to, from);
}
__device__ static inline void load_four(float *to, const bf16 *from) {
    uint2 v = *reinterpret_cast<const uint2 *>(from);
    to[0] = __uint_as_float(v.x << 16), to[1] = __uint_as_float(v.x & 0xffff0000u);
    to[2] = __uint_as_float(v.y << 16), to[3] = __uint_as_float(v.y & 0xffff0000u);
}
__device__ static inline void store_four(float *to, const float *from) {
    store_vector(to, from);
}
__device__ static inline void store_four(bf16 *to, const float *from) {
    *reinterpret_cast<uint2 *>(to) =
        make_uint2(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]));
}

// A run: the WIDTH elements of a row of D from element d < D, which one thread works on. WIDTH is a
// multiple of Vector<T>::COUNT. With VECTORS (rows_are_vectors) it is read and written by whole
// vectors, otherwise element by element up to the row's end; elements past it read as 0. Which
// thread adds what is the same in both, and so are the sums' bits.
template <bool VECTORS, int WIDTH, typename T>
__device__ static inline void load_run(float *to, const T *row, int d, int D) {
    if (VECTORS) {
#pragma unroll
        for (int i = 0; i < WIDTH; i += Vector<T>::COUNT) load_vector(to + i, row + d + i);
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) to[i] = d + i < D ? to_float(row[d + i]) : 0.0f;
    }
}
template <bool VECTORS, int WIDTH, typename T>
__device__ static inline void store_run(T *row, const float *from, int d, int D) {
    if (VECTORS) {
#pragma unroll
        for (int i = 0; i < WIDTH; i += Vector<T>::COUNT) store_vector(row + d + i, from + i);
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            if (d + i < D) row[d + i] = from_float<T>(from[i]);
    }
}

// Whether rows of D elements of T, starting at a 16-byte aligned address, can be read by whole
// vectors.
template <typename T> static inline bool rows_are_vectors(const void *data, int64_t D) {
    return D % Vector<T>::COUNT == 0 && (uintptr_t)data % 16 == 0;
}

// The device pointer of a tensor, checked for type and place.
template <typename T> static inline DType dtype_of();
template <> inline DType dtype_of<float>() {
    return F32;
}
template <> inline DType dtype_of<bf16>() {
    return BF16;
}
template <> inline DType dtype_of<__half>() {
    return F16;
}
template <> inline DType dtype_of<int8_t>() {
    return I8;
}
template <> inline DType dtype_of<double>() {
    return F64;
}
template <> inline DType dtype_of<int32_t>() {
    return I32;
}
template <> inline DType dtype_of<int64_t>() {
    return I64;
}
template <> inline DType dtype_of<uint8_t>() {
    return U8;
}
template <typename T> static inline T *device_data(Tensor x) {
    CHECK(x.dtype == dtype_of<T>(), "a %s tensor taken as %s", dtype_name(x.dtype),
          dtype_name(dtype_of<T>()));
    CHECK(x.place == ON_DEVICE || tensor_elements(x) == 0 || !x.data,
          "a %s tensor in host memory is given to a kernel", dtype_name(x.dtype));
    return static_cast<T *>(x.data);
}

#endif
