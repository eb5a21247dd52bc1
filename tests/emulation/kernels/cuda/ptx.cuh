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

static inline float power_of_two(float x) {
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

typedef emulation::SharedPanel SharedPanel;
static inline SharedPanel shared_panel(const void *first, int next) {
    return {static_cast<const unsigned char *>(first), next};
}
static inline SharedPanel shared_panel_from(SharedPanel panel, int bytes) {
    return {panel.first + bytes, panel.next};
}
static inline void warpgroup_arrive() {}
static inline void shared_for_products() {}
static inline void warpgroup_commit() {
    emulation::close_products();
}
template <int pending> static inline void warpgroup_wait() {
    emulation::wait_products(pending);
}
template <bool A_OUTERMOST, bool B_OUTERMOST>
static inline void warpgroup_multiply_256(float d[128], SharedPanel a, SharedPanel b, bool keep,
                                          emulation::Place at = emulation::Place::current()) {
    emulation::multiply_later(d, 256, a, A_OUTERMOST, b, B_OUTERMOST, keep, at);
}
template <bool A_OUTERMOST, bool B_OUTERMOST>
static inline void warpgroup_multiply_128(float d[64], SharedPanel a, SharedPanel b, bool keep,
                                          emulation::Place at = emulation::Place::current()) {
    emulation::multiply_later(d, 128, a, A_OUTERMOST, b, B_OUTERMOST, keep, at);
}
template <bool A_OUTERMOST, bool B_OUTERMOST>
static inline void warpgroup_multiply_64(float d[32], SharedPanel a, SharedPanel b, bool keep,
                                         emulation::Place at = emulation::Place::current()) {
    emulation::multiply_later(d, 64, a, A_OUTERMOST, b, B_OUTERMOST, keep, at);
}
static inline void warpgroup_add_64(float d[32], const uint32_t a[4], SharedPanel b,
                                    emulation::Place at = emulation::Place::current()) {
    emulation::add_later(d, 64, a, b, at);
}
static inline void warpgroup_add_128(float d[64], const uint32_t a[4], SharedPanel b,
                                     emulation::Place at = emulation::Place::current()) {
    emulation::add_later(d, 128, a, b, at);
}

#endif
