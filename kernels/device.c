#include "kernels/device.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else // fuzz builds
static void omp_set_num_threads(int threads) {
    (void)threads;
}
#endif

#include "kernels/backend.h"
#include "kernels/clock.h"

// OMP_NUM_THREADS when it holds a number, otherwise the cores this process may run on.
static int default_threads(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    long wanted = text ? strtol(text, NULL, 10) : 0;
    if (wanted > 0) return (int)wanted;
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
    return CPU_COUNT(&cores);
}

bool device_open(Device *dev, const char *kind, int threads, Error *err) {
    if (strcmp(kind, "cuda") == 0)
        return error_set(err, EXIT_COMMUNICATION,
                         "this build has no CUDA backend; use device: cpu");
    if (strcmp(kind, "cpu") != 0 && strcmp(kind, "auto") != 0)
        return error_set(err, EXIT_CONFIG, "unknown device '%s'; use cpu, cuda or auto", kind);
    if (threads < 0)
        return error_set(err, EXIT_CONFIG, "%d threads; use 0 for all cores, or more", threads);
    *dev = (Device){.backend = &cpu_backend, .name = cpu_backend.name};
    dev->threads = threads > 0 ? threads : default_threads();
    omp_set_num_threads(dev->threads);
    cpu_backend.describe(dev->description, sizeof dev->description);
    return true;
}

bool device_self_test(Device *dev, Error *err) {
    // Small whole numbers: every product and sum is exact in f32, in any order.
    enum { M = 67, N = 45, K = 33 };
    static float x[M * K], w[N * K], y[M * N], dx[M * K], dw[N * K];
    for (int i = 0; i < M * K; i++) x[i] = (float)(i * 7 % 13 - 6);
    for (int i = 0; i < N * K; i++) w[i] = (float)(i * 5 % 11 - 5);
    Tensor tx = tensor_2d(x, F32, M, K), tw = tensor_3d(w, F32, 1, N, K);
    Tensor ty = tensor_2d(y, F32, M, N), tdx = tensor_2d(dx, F32, M, K);
    Tensor tdw = tensor_3d(dw, F32, 1, N, K);
    Segments rows = {1, 1, (const int64_t[]){0, M}};
    matmul_forward(dev, ty, tx, tw, rows);
    matmul_backward_input(dev, tdx, ty, tw, rows);
    matmul_backward_weight(dev, tdw, ty, tx, rows);
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
    if (equal) return true;
    return error_set(err, EXIT_COMMUNICATION,
                     "the matrix library computes wrong products on this processor (%s)",
                     dev->description);
}

double device_measure_gemm_gflops(Device *dev) {
    enum { ROWS = 512, WIDTH = 1024 };
    const double budget_seconds = 0.2;
    float *block = calloc((size_t)(2 * ROWS + WIDTH) * WIDTH, sizeof *block);
    if (!block) die(EXIT_IO, __FILE__, __LINE__, "no memory for the GEMM measurement");
    for (int i = 0; i < (2 * ROWS + WIDTH) * WIDTH; i++) block[i] = 1.0f; // touch every page
    Tensor y = tensor_2d(block, F32, ROWS, WIDTH);
    Tensor x = tensor_2d(block + ROWS * WIDTH, F32, ROWS, WIDTH);
    Tensor w = tensor_3d(block + 2 * ROWS * WIDTH, F32, 1, WIDTH, WIDTH);
    Segments rows = {1, 1, (const int64_t[]){0, ROWS}};
    double best_seconds = INFINITY, begin = clock_seconds();
    do {
        double start = clock_seconds();
        matmul_forward(dev, y, x, w, rows);
        best_seconds = fmin(best_seconds, clock_seconds() - start);
    } while (clock_seconds() - begin < budget_seconds);
    free(block);
    return 2e-9 * ROWS * WIDTH * WIDTH / best_seconds;
}
