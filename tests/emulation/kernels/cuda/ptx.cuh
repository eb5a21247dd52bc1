// The emulated twin of kernels/cuda/ptx.cuh, which says what each function means: the same names on
// the emulated GPU.
#ifndef MOETRAIN_KERNELS_CUDA_PTX_CUH
#define MOETRAIN_KERNELS_CUDA_PTX_CUH

#include "cuda_emulation.h"

#define DYNAMIC_SHARED(type, name)                                                                 \
    type *name = reinterpret_cast<type *>(emulation::dynamic_shared())

static inline void mma_bf16_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2],
                                     emulation::Place at = emulation::Place::current()) {
    emulation::multiply_matrices(d, a, b, at);
}
static inline void ldmatrix_x4(uint32_t r[4], const void *shared_row,
                               emulation::Place at = emulation::Place::current()) {
    emulation::load_matrices(r, shared_row, false, at);
}
static inline void ldmatrix_x4_transposed(uint32_t r[4], const void *shared_row,
                                          emulation::Place at = emulation::Place::current()) {
    emulation::load_matrices(r, shared_row, true, at);
}

static inline void cp_async_16(void *shared, const void *global, bool inside,
                               emulation::Place at = emulation::Place::current()) {
    emulation::copy_later(shared, global, inside, at);
}
static inline void cp_async_commit() {
    emulation::close_copies();
}
template <int pending> static inline void cp_async_wait() {
    emulation::wait_copies(pending);
}

#endif
