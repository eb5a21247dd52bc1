#include "kernels/self_test.h"

#include <math.h>

#include "kernels/arena.h"
#include "kernels/clock.h"
#include "kernels/kernels.h"

// The tensors of the two functions below, on the device, with what the host sees of them.
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

bool device_check_limit(const Device *dev, const char *key, int64_t size, int64_t most,
                        Error *err) {
    if (most == 0 || size <= most) return true;
    return error_set(err, EXIT_CONFIG,
                     "%s (%lld) is more than device: %s takes, %lld; set it to at most that, "
                     "or use device: cpu",
                     key, (long long)size, dev->name, (long long)most);
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

// x and w of ones; y is x wᵀ.
typedef struct Measured {
    Arena device, host;
    Tensor x, w, y, host_x, host_w;
} Measured;

static void measured_layout(Measured *p, DType storage, int64_t rows, int64_t width) {
    p->x = arena_2d(&p->device, storage, rows, width);
    p->w = arena_3d(&p->device, storage, 1, width, width);
    p->y = arena_2d(&p->device, storage, rows, width);
    p->host_x = arena_mirror(&p->host, p->x);
    p->host_w = arena_mirror(&p->host, p->w);
}

// Of a CPU the time of its threads, which other programs do not add to; of a GPU the clock's.
static double device_seconds(const Device *dev) {
    struct timespec used;
    if (dev->place == ON_DEVICE) return clock_seconds();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return ((double)used.tv_sec + 1e-9 * (double)used.tv_nsec) / dev->threads;
}

// Seconds of one product: the least of the batches that fit into the budget, of one at least, and
// on a busy machine of ten budgets, until three have come near to it: those that nobody disturbed.
// A batch is one product, or as many as keep a GPU busy while the host launches them.
static double product_seconds(Device *dev, DType storage, int64_t rows, int64_t width,
                              double budget) {
    const double near = 1.03;
    const int alike = 3, most_budgets = 10;
    const double batch_seconds = 1e-2;
    Measured p;
    arena_measure(&p.device, "a measured product", dev);
    arena_measure(&p.host, "a measured product", NULL);
    measured_layout(&p, storage, rows, width);
    arena_allocate(&p.device);
    arena_allocate(&p.host);
    measured_layout(&p, storage, rows, width);
    fill_ones(p.host_x); // touches every page
    fill_ones(p.host_w);
    device_upload(dev, p.x, p.host_x);
    device_upload(dev, p.w, p.host_w);
    Segments all = {.groups = 1, .parts = 1, .offsets = (const int64_t[]){0, rows}};
    matmul_forward(dev, p.y, p.x, p.w, all); // a GPU's library chooses an algorithm at the first
    device_synchronize(dev);
    double best = INFINITY, begin = clock_seconds(), passed;
    int calls = 1, seen = 0;
    do {
        double start = device_seconds(dev);
        for (int i = 0; i < calls; i++) matmul_forward(dev, p.y, p.x, p.w, all);
        device_synchronize(dev);
        double seconds = (device_seconds(dev) - start) / calls;
        seen = best > near * seconds ? 1 : seconds <= near * best ? seen + 1 : seen;
        best = fmin(best, seconds);
        passed = clock_seconds() - begin;
        if (dev->place == ON_DEVICE) calls = best < batch_seconds ? (int)(batch_seconds / best) : 1;
    } while (passed < budget || (seen < alike && passed < most_budgets * budget));
    arena_free(&p.device);
    arena_free(&p.host);
    return best;
}

double device_measure_gemm_gflops(Device *opened, DType storage) {
    // Of the host: short, so that some products fall between what else the machine does.
    enum { ROWS = 256, WIDTH = 512, LEAST_SQUARE = 256, MOST_SQUARE = 8192 };
    // Seconds. A core needs a hundredth for a product; a GPU some time until its clock is high.
    const double host_budget = 0.05, budget = 0.2, glance = 5e-3, long_enough = 1e-3;
    Device bare = *opened, *dev = &bare; // no trace: it would be as long as the time allows
    bare.backend = opened->bare;
    if (dev->place == ON_HOST)
        return 2e-9 * ROWS * WIDTH * WIDTH /
               product_seconds(dev, storage, ROWS, WIDTH, host_budget);
    bare.fixed_order = false;
    int64_t side = LEAST_SQUARE;
    while (side < MOST_SQUARE && product_seconds(dev, storage, side, side, glance) < long_enough)
        side *= 2;
    double seconds = product_seconds(dev, storage, side, side, budget);
    return 2e-9 * (double)(side * side) * (double)side / seconds;
}
