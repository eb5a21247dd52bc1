// Dense products through the library's algorithms: a row has the same bits in a product of any
// number of rows, whatever the library makes of the number; values are right; and the choices are
// said. The emulation's library misbehaves on request (CMakeLists.txt): refuses numbers of rows,
// follows them, loses the end of a split sum.
//   check_products [library|own [ROWS]]
//   whether products of any rows must be the library's, or some our own kernels'
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/arena.h"
#include "kernels/kernels.h"

enum { SKIPPED = 77 };
static int64_t most = 2200; // rows
static Device dev;
static int failed = 0;

typedef struct Case {
    const char *name;
    DType type;
    int64_t n, depth;
} Case;

typedef struct Tensors {
    Arena device, host;
    Tensor x, w, dy, y, dx, dw;
    Tensor host_x, host_w, host_dy, host_y, host_dx, host_dw;
} Tensors;

static void layout(Tensors *t, const Case *c) {
    t->x = arena_2d(&t->device, c->type, most, c->depth);
    t->w = arena_3d(&t->device, c->type, 1, c->n, c->depth);
    t->dy = arena_2d(&t->device, c->type, most, c->n);
    t->y = arena_2d(&t->device, c->type, most, c->n);
    t->dx = arena_2d(&t->device, c->type, most, c->depth);
    t->dw = arena_3d(&t->device, F32, 1, c->n, c->depth);
    t->host_x = arena_mirror(&t->host, t->x), t->host_w = arena_mirror(&t->host, t->w);
    t->host_dy = arena_mirror(&t->host, t->dy), t->host_y = arena_mirror(&t->host, t->y);
    t->host_dx = arena_mirror(&t->host, t->dx), t->host_dw = arena_mirror(&t->host, t->dw);
}

static void fail(const Case *c, const char *what, int64_t rows) {
    printf("FAILED %s: %s, %lld rows\n", c->name, what, (long long)rows);
    failed = 1;
}

// Numbers of all bits, or with `ones` 1, whose sums are exact.
static void fill(Tensor x, uint32_t seed, bool ones) {
    for (int64_t i = 0; i < tensor_elements(x); i++) {
        uint32_t bits = ((uint32_t)i + seed) * 2654435761u;
        bits = (bits ^ bits >> 15) * 2246822519u;
        float value = ones ? 1.0f : (float)(bits >> 8) * 0x1p-23f - 1.0f;
        memcpy(&bits, &value, sizeof bits);
        if (x.dtype == BF16)
            tensor_bf16(x)[i] = (uint16_t)(bits >> 16);
        else
            tensor_f32(x)[i] = value;
    }
}

static Segments rows_of(int64_t *offsets, int64_t rows) {
    offsets[0] = 0, offsets[1] = rows;
    return (Segments){.groups = 1, .parts = 1, .offsets = offsets};
}

static void same_bits_for_any_rows(const Case *c, Tensors *t) {
    const int64_t counts[] = {most - 1, most - 151, most / 2, 257, 130, 129, 65, 24, 7, 1};
    int64_t offsets[2];
    Segments all = rows_of(offsets, most);
    matmul_forward(&dev, t->y, t->x, t->w, all);
    matmul_backward_input(&dev, t->dx, t->dy, t->w, all);
    device_download(&dev, t->host_y, t->y);
    device_download(&dev, t->host_dx, t->dx);
    size_t y_bytes = tensor_bytes(t->y), dx_bytes = tensor_bytes(t->dx);
    char *y = malloc(y_bytes + dx_bytes), *dx = y + y_bytes;
    CHECK(y, "no memory");
    memcpy(y, t->host_y.data, y_bytes);
    memcpy(dx, t->host_dx.data, dx_bytes);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int64_t rows = counts[i], first = i % 2 ? most - rows : 0;
        Segments some = rows_of(offsets, rows);
        fill_zero(&dev, t->y);
        fill_zero(&dev, t->dx);
        matmul_forward(&dev, tensor_rows(t->y, 0, rows), tensor_rows(t->x, first, rows), t->w,
                       some);
        matmul_backward_input(&dev, tensor_rows(t->dx, 0, rows), tensor_rows(t->dy, first, rows),
                              t->w, some);
        device_download(&dev, t->host_y, t->y);
        device_download(&dev, t->host_dx, t->dx);
        size_t y_row = y_bytes / (size_t)most, dx_row = dx_bytes / (size_t)most, n = (size_t)rows;
        if (memcmp(t->host_y.data, y + (size_t)first * y_row, n * y_row) != 0)
            fail(c, "y differs", rows);
        if (memcmp(t->host_dx.data, dx + (size_t)first * dx_row, n * dx_row) != 0)
            fail(c, "dx differs", rows);
        for (size_t k = n * y_row; k < y_bytes; k++)
            if (((char *)t->host_y.data)[k] != 0) {
                fail(c, "y is written behind its rows", rows);
                break;
            }
    }
    free(y);
}

// Of ones, every sum is the number of what is summed.
static void nothing_is_left_out(const Case *c, Tensors *t) {
    const int64_t counts[] = {most, most / 256 * 256, most / 2, 200, 65};
    int64_t offsets[2];
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        Segments rows = rows_of(offsets, counts[i]);
        matmul_forward(&dev, t->y, t->x, t->w, rows);
        matmul_backward_weight(&dev, t->dw, t->dy, t->x, rows);
        device_download(&dev, t->host_y, t->y);
        device_download(&dev, t->host_dw, t->dw);
        for (int64_t k = 0; k < tensor_elements(t->dw); k++)
            if (tensor_f32(t->host_dw)[k] != (float)counts[i]) {
                fail(c, "a sum over rows is wrong", counts[i]);
                break;
            }
        if (c->type == F32)
            for (int64_t k = 0; k < counts[i] * c->n; k++)
                if (tensor_f32(t->host_y)[k] != (float)c->depth) {
                    fail(c, "a sum over columns is wrong", counts[i]);
                    break;
                }
    }
}

static int own_kernels, library;
static void count_line(void *context, const char *line) {
    (void)context;
    printf("%s\n", line);
    if (strncmp(line, "any rows", 8) != 0) return;
    if (strstr(line, "OWN KERNEL"))
        own_kernels++;
    else
        library++;
}

static void check(const Case *c) {
    Tensors t;
    arena_measure(&t.device, "test", &dev);
    arena_measure(&t.host, "test", NULL);
    layout(&t, c);
    arena_allocate(&t.device);
    arena_allocate(&t.host);
    layout(&t, c);
    fill(t.host_x, 1, false), fill(t.host_w, 2, false), fill(t.host_dy, 3, false);
    device_upload(&dev, t.x, t.host_x);
    device_upload(&dev, t.w, t.host_w);
    device_upload(&dev, t.dy, t.host_dy);
    dev.fixed_order = true;
    same_bits_for_any_rows(c, &t);
    fill(t.host_x, 1, true), fill(t.host_w, 2, true), fill(t.host_dy, 3, true);
    device_upload(&dev, t.x, t.host_x);
    device_upload(&dev, t.w, t.host_w);
    device_upload(&dev, t.dy, t.host_dy);
    nothing_is_left_out(c, &t);
    dev.fixed_order = false;
    nothing_is_left_out(c, &t);
    arena_free(&t.device);
    arena_free(&t.host);
}

int main(int argc, char **argv) {
    Error err = {0};
    comm_init(&argc, &argv);
    if (!device_open(&dev, "cuda", 1, 0, 1, &err)) {
        printf("skipped: %s\n", err.message);
        comm_finalize();
        return SKIPPED;
    }
    if (argc > 2) most = strtoll(argv[2], NULL, 10);
    const Case cases[] = {
        {"f32", F32, 200, 40},
        {"bf16", BF16, 136, 264}, // both products have more than one tile across
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i]);
    device_products(&dev, count_line, NULL);
    if (argc > 1 && strcmp(argv[1], "library") == 0 && own_kernels > 0) {
        printf("FAILED: %d products by our own kernels\n", own_kernels);
        failed = 1;
    }
    if (argc > 1 && strcmp(argv[1], "own") == 0 && own_kernels == 0) {
        printf("FAILED: no product by our own kernels\n");
        failed = 1;
    }
    device_close(&dev);
    comm_finalize();
    return failed;
}
