#include "kernels/self_test.h"

#include <math.h>

#include "kernels/arena.h"
#include "kernels/clock.h"
#include "kernels/kernels.h"

// The tensors of a product, on the device, with what the host sees of them.
typedef struct Product {
    Arena device, host;
    Tensor x, w, y, dx, dw;                          // of y = x wᵀ and its backward pass
    Tensor host_x, host_w, host_y, host_dx, host_dw; // the same when the device is the host
} Product;

static void product_layout(Product *p, DType dtype, int64_t M, int64_t N, int64_t K) {
    p->x = arena_2d(&p->device, dtype, M, K);
    p->w = arena_3d(&p->device, dtype, 1, N, K);
    p->y = arena_2d(&p->device, dtype, M, N);
    p->dx = arena_2d(&p->device, dtype, M, K);
    p->dw = arena_3d(&p->device, F32, 1, N, K);
    p->host_x = arena_mirror(&p->host, p->x);
    p->host_w = arena_mirror(&p->host, p->w);
    p->host_y = arena_mirror(&p->host, p->y);
    p->host_dx = arena_mirror(&p->host, p->dx);
    p->host_dw = arena_mirror(&p->host, p->dw);
}

static void product_open(Product *p, Device *dev, DType dtype, int64_t M, int64_t N, int64_t K) {
    arena_measure(&p->device, "a measured product", dev);
    arena_measure(&p->host, "a measured product", NULL);
    product_layout(p, dtype, M, N, K);
    arena_allocate(&p->device);
    arena_allocate(&p->host);
    product_layout(p, dtype, M, N, K);
}

static void product_close(Product *p) {
    arena_free(&p->device);
    arena_free(&p->host);
}

bool device_self_test(Device *dev, Error *err) {
    // Small whole numbers: every product and sum is exact in f32, in any order.
    enum { M = 67, N = 45, K = 33 };
    Product p;
    product_open(&p, dev, F32, M, N, K);
    float *x = tensor_f32(p.host_x), *w = tensor_f32(p.host_w);
    for (int i = 0; i < M * K; i++) x[i] = (float)(i * 7 % 13 - 6);
    for (int i = 0; i < N * K; i++) w[i] = (float)(i * 5 % 11 - 5);
    device_upload(dev, p.x, p.host_x);
    device_upload(dev, p.w, p.host_w);
    Segments rows = {.groups = 1, .parts = 1, .offsets = (const int64_t[]){0, M}};
    matmul_forward(dev, p.y, p.x, p.w, rows);
    matmul_backward_input(dev, p.dx, p.y, p.w, rows);
    matmul_backward_weight(dev, p.dw, p.y, p.x, rows);
    device_download(dev, p.host_y, p.y);
    device_download(dev, p.host_dx, p.dx);
    device_download(dev, p.host_dw, p.dw);
    const float *y = tensor_f32(p.host_y), *dx = tensor_f32(p.host_dx), *dw = tensor_f32(p.host_dw);
    bool equal = true;
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float sum = 0;
            for (int k = 0; k < K; k++) sum += x[m * K + k] * w[n * K + k];
            equal = equal && y[m * N + n] == sum;
        }
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++) {
            float sum = 0;
            for (int n = 0; n < N; n++) sum += y[m * N + n] * w[n * K + k];
            equal = equal && dx[m * K + k] == sum;
        }
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) {
            float sum = 0;
            for (int m = 0; m < M; m++) sum += y[m * N + n] * x[m * K + k];
            equal = equal && dw[n * K + k] == sum;
        }
    product_close(&p);
    if (equal) return true;
    return error_set(err, EXIT_COMMUNICATION,
                     "the matrix library computes wrong products on this processor (%s)",
                     dev->description);
}

static void fill_ones(Tensor x) {
    int64_t n = tensor_elements(x);
    if (x.dtype == BF16)
        for (int64_t i = 0; i < n; i++) tensor_bf16(x)[i] = 0x3f80;
    else
        for (int64_t i = 0; i < n; i++) tensor_f32(x)[i] = 1.0f;
}

// A product of ones.
static void measured_open(Product *p, Device *dev, DType storage, int64_t rows, int64_t columns,
                          int64_t depth) {
    product_open(p, dev, storage, rows, columns, depth);
    fill_ones(p->host_x); // touches every page
    fill_ones(p->host_w);
    fill_ones(p->host_y);
    device_upload(dev, p->x, p->host_x);
    device_upload(dev, p->w, p->host_w);
    device_upload(dev, p->y, p->host_y);
}

static double thread_seconds(void) {
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

// Of one thread of a CPU, by its own clock, to which other programs add only what they take from
// its caches; the least of many, so that some were disturbed by nobody. layer: the three products,
// as a layer has them; otherwise dx = dy w alone, the fastest one, in the thread's second cache.
static double thread_gflops(Device *dev, DType storage, bool layer) {
    const int64_t rows = layer ? 256 : 64, columns = layer ? 512 : 256, depth = layer ? 512 : 128;
    const double budget = 0.05;
    Product p;
    measured_open(&p, dev, storage, rows, columns, depth);
    double least = INFINITY, begin = clock_seconds();
    Segments all = {.groups = 1, .parts = 1, .offsets = (const int64_t[]){0, rows}};
    do {
        double start = thread_seconds();
        matmul_backward_input(dev, p.dx, p.y, p.w, all);
        if (layer) {
            matmul_backward_weight(dev, p.dw, p.y, p.x, all);
            matmul_forward(dev, p.y, p.x, p.w, all);
        }
        least = fmin(least, thread_seconds() - start);
    } while (clock_seconds() - begin < budget);
    product_close(&p);
    return (layer ? 3 : 1) * 2e-9 * (double)(rows * columns * depth) / least;
}

// All threads at once, as they train; inside the loop an op has one thread.
static double host_gflops(Device *dev, DType storage, bool layer) {
    double sum = 0;
#pragma omp parallel num_threads(dev->threads) reduction(+ : sum)
    sum += thread_gflops(dev, storage, layer);
    return sum;
}

// Seconds of one product of a GPU: the least of the batches that fit into the budget, each as many
// products as keep it busy while the host launches them.
static double product_seconds(Device *dev, DType storage, int64_t side, double budget) {
    const double batch_seconds = 1e-2;
    Product p;
    measured_open(&p, dev, storage, side, side, side);
    Segments all = {.groups = 1, .parts = 1, .offsets = (const int64_t[]){0, side}};
    matmul_forward(dev, p.y, p.x, p.w, all); // the library chooses an algorithm at the first
    device_synchronize(dev);
    double least = INFINITY, begin = clock_seconds();
    int calls = 1;
    do {
        double start = clock_seconds();
        for (int i = 0; i < calls; i++) matmul_forward(dev, p.y, p.x, p.w, all);
        device_synchronize(dev);
        least = fmin(least, (clock_seconds() - start) / calls);
        calls = least < batch_seconds ? (int)(batch_seconds / least) : 1;
    } while (clock_seconds() - begin < budget);
    product_close(&p);
    return least;
}

static double square_gflops(Device *dev, DType storage) {
    enum { LEAST_SIDE = 256, MOST_SIDE = 8192 };
    // Seconds. A GPU needs some time until its clock is high.
    const double budget = 0.2, glance = 5e-3, long_enough = 1e-3;
    int64_t side = LEAST_SIDE;
    while (side < MOST_SIDE && product_seconds(dev, storage, side, glance) < long_enough) side *= 2;
    return 2e-9 * (double)(side * side) * (double)side /
           product_seconds(dev, storage, side, budget);
}

static double measure_gflops(const Device *opened, DType storage, bool layer) {
    Device dev = *opened; // without a trace: it would be as long as the time allows
    dev.backend = opened->bare;
    if (dev.place == ON_HOST) return host_gflops(&dev, storage, layer);
    dev.fixed_order = false;
    return square_gflops(&dev, storage);
}

double device_measure_gemm_gflops(const Device *dev, DType storage) {
    return measure_gflops(dev, storage, false);
}

double device_measure_layer_gflops(const Device *dev, DType storage) {
    return measure_gflops(dev, storage, true);
}
