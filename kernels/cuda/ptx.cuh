// What only the GPU compiler understands: inline PTX and dynamic shared memory. The one file of
// kernels/cuda/ with inline assembly. tests/emulation/kernels/cuda/ptx.cuh does the same on a CPU
// and stands before this one in its include path.
#ifndef MOETRAIN_KERNELS_CUDA_PTX_CUH
#define MOETRAIN_KERNELS_CUDA_PTX_CUH

#include <cuda_runtime.h>
#include <stdint.h>

// Declares `name` as the block's dynamic shared memory (16-byte aligned), as an array of `type`.
#define DYNAMIC_SHARED(type, name)                                                                 \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];                          \
    type *name = reinterpret_cast<type *>(dynamic_shared_bytes)

// d += a b for one warp: a (16, 16) row-major bf16, b (16, 8) column-major bf16, d (16, 8) f32,
// spread over the lanes as the PTX ISA draws it for mma.m16n8k16: with g = lane / 4, t = lane % 4,
// two bf16 a register,
//   a[0] row g, columns 2t 2t+1;  a[1] row g+8;  a[2] row g, columns 2t+8 2t+9;  a[3] row g+8,
//     likewise
//   b[0] rows 2t 2t+1, column g;  b[1] rows 2t+8 2t+9, column g
//   d[0] d[1] row g, columns 2t 2t+1;  d[2] d[3] row g+8
__device__ static inline void mma_bf16_m16n8k16(float d[4], const uint32_t a[4],
                                                const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 by 8 matrices of 16-bit elements from shared memory: lanes 8i … 8i+7 give the addresses
// (16-byte aligned) of the rows of matrix i; r[i] receives row lane/4, columns 2(lane%4) and the
// next, of matrix i. Whole warp.
__device__ static inline void ldmatrix_x4(uint32_t r[4], const void *shared_row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(shared_row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same with each matrix transposed: r[i] receives rows 2(lane%4) and the next, column lane/4,
// of matrix i.
__device__ static inline void ldmatrix_x4_transposed(uint32_t r[4], const void *shared_row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(shared_row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Starts copying 16 bytes from global to shared memory (both 16-byte aligned) without registers;
// writes zeros instead, and reads nothing, unless `inside`. The bytes may be read after
// cp_async_wait and then a barrier.
__device__ static inline void cp_async_16(void *shared, const void *global, bool inside) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
                 "r"(bytes)
                 : "memory");
}
// Closes a group of this thread's copies.
__device__ static inline void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `pending` of this thread's newest groups are unfinished.
template <int pending> __device__ static inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#endif
