#include "kernels/fingerprint.h"

#include <math.h>
#include <stdio.h>

#include <xxhash.h>

#include "kernels/arena.h"
#include "kernels/kernels.h"

// Numbers between -1 and 1 with all bits of a float, from integers alone.
static void fill(Tensor x, uint32_t state) {
    for (int64_t i = 0; i < tensor_elements(x); i++) {
        state = state * 1664525u + 1013904223u;
        tensor_f32(x)[i] = (float)(int32_t)state * 0x1p-31f;
    }
}

typedef struct Operands {
    Arena device, host;
    Tensor x, w, y, dx, dw;
    Tensor host_x, host_w, host_y, host_dx, host_dw;
} Operands;

static void layout(Operands *o, int64_t M, int64_t N, int64_t K) {
    o->x = arena_2d(&o->device, F32, M, K);
    o->w = arena_3d(&o->device, F32, 1, N, K);
    o->y = arena_2d(&o->device, F32, M, N);
    o->dx = arena_2d(&o->device, F32, M, K);
    o->dw = arena_3d(&o->device, F32, 1, N, K);
    o->host_x = arena_mirror(&o->host, o->x);
    o->host_w = arena_mirror(&o->host, o->w);
    o->host_y = arena_mirror(&o->host, o->y);
    o->host_dx = arena_mirror(&o->host, o->dx);
    o->host_dw = arena_mirror(&o->host, o->dw);
}

static void add_tensor(XXH3_state_t *hash, Device *dev, Tensor host, Tensor x) {
    device_download(dev, host, x);
    XXH3_64bits_update(hash, host.data, tensor_bytes(host));
}

static void add_products(XXH3_state_t *hash, Device *dev, int64_t M, int64_t N, int64_t K) {
    Operands o;
    arena_measure(&o.device, "a fingerprint", dev);
    arena_measure(&o.host, "a fingerprint", NULL);
    layout(&o, M, N, K);
    arena_allocate(&o.device);
    arena_allocate(&o.host);
    layout(&o, M, N, K);
    fill(o.host_x, 1);
    fill(o.host_w, 2);
    device_upload(dev, o.x, o.host_x);
    device_upload(dev, o.w, o.host_w);
    Segments rows = {.groups = 1, .parts = 1, .offsets = (const int64_t[]){0, M}};
    matmul_forward(dev, o.y, o.x, o.w, rows);
    matmul_backward_input(dev, o.dx, o.y, o.w, rows);
    matmul_backward_weight(dev, o.dw, o.y, o.x, rows);
    add_tensor(hash, dev, o.host_y, o.y);
    add_tensor(hash, dev, o.host_dx, o.dx);
    add_tensor(hash, dev, o.host_dw, o.dw);
    arena_free(&o.device);
    arena_free(&o.host);
}

// The C library has versions of its functions for processors with and without fused multiply-add.
static void add_functions(XXH3_state_t *hash) {
    enum { ARGUMENTS = 4096 };
    for (int i = 1; i <= ARGUMENTS; i++) {
        volatile double x = (double)i * 0.0137; // computed here, not by the compiler
        double values[] = {exp(-x), log(x), pow(0.999, x), cos(x), sin(x), logf((float)x)};
        XXH3_64bits_update(hash, values, sizeof values);
    }
}

void device_fingerprint(Device *dev, char text[FINGERPRINT_BYTES]) {
    XXH3_state_t *hash = XXH3_createState();
    CHECK_MEMORY(hash, "no memory for a hash");
    XXH3_64bits_reset(hash);
    if (dev->place == ON_HOST) {
        add_products(hash, dev, 130, 130, 1100);
        add_products(hash, dev, 3, 1100, 130);
    }
    add_functions(hash);
    snprintf(text, FINGERPRINT_BYTES, "%016llx", (unsigned long long)XXH3_64bits_digest(hash));
    XXH3_freeState(hash);
}
