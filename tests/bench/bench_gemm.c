// Which matrix product is fastest on this machine? The ops of kernels.h against oneDNN, OpenBLAS
// and LIBXSMM as far as they were installed at build time, on shapes of real layers.
//
//     OPENBLAS_CORETYPE=SKYLAKEX build/release/tests/bench/bench_gemm
//
// (OpenBLAS does not know processors newer than itself and then takes its slowest kernel.)
// Candidates run in turn and each keeps its best time, so that a slow moment of the machine hits
// all. With several threads each one multiplies its share of the rows; weight gradients are
// measured on one thread only.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>
#ifdef WITH_OPENBLAS
#include <cblas-openblas.h>
#endif
#ifdef WITH_LIBXSMM
#include <libxsmm.h>
#endif

#include "kernels/clock.h"
#include "kernels/kernels.h"

typedef enum Product { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT } Product;

// One product of a layer: y (M, N), x (M, K), w (N, K).
typedef struct Problem {
    Product product;
    int64_t M, N, K;
    const float *a, *b; // x and w, dy and w, dy and x
    float *out;
} Problem;

// ---- candidates ---------------------------------------------------------------------------------

static void with_onednn(Problem p) {
    switch (p.product) {
    case FORWARD:
        dnnl_sgemm('N', 'T', p.M, p.N, p.K, 1.0f, p.a, p.K, p.b, p.K, 0.0f, p.out, p.N);
        break;
    case BACKWARD_INPUT:
        dnnl_sgemm('N', 'N', p.M, p.K, p.N, 1.0f, p.a, p.N, p.b, p.K, 0.0f, p.out, p.K);
        break;
    case BACKWARD_WEIGHT:
        dnnl_sgemm('T', 'N', p.N, p.K, p.M, 1.0f, p.a, p.N, p.b, p.K, 0.0f, p.out, p.K);
        break;
    }
}

#ifdef WITH_OPENBLAS
static void with_openblas(Problem p) {
    int M = (int)p.M, N = (int)p.N, K = (int)p.K;
    switch (p.product) {
    case FORWARD:
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1.0f, p.a, K, p.b, K, 0.0f,
                    p.out, N);
        break;
    case BACKWARD_INPUT:
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, K, N, 1.0f, p.a, N, p.b, K, 0.0f,
                    p.out, K);
        break;
    case BACKWARD_WEIGHT:
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, N, K, M, 1.0f, p.a, N, p.b, K, 0.0f,
                    p.out, K);
        break;
    }
}
#endif

#ifdef WITH_LIBXSMM
// Its generated kernels are column-major and transpose the second operand only, so the forward
// product pays for a transposed copy of w, as it would in training, where w changes every step.
static void with_libxsmm(Problem p) {
    static _Thread_local float *transposed = NULL;
    int M = (int)p.M, N = (int)p.N, K = (int)p.K, flags = 0;
    int m = K, n = M, k = N, a_width = K, b_width = N, out_width = K;
    const float one = 1.0f, zero = 0.0f, *left = p.b;
    if (p.product == FORWARD) {
        transposed = realloc(transposed, (size_t)(p.N * p.K) * sizeof *transposed);
        libxsmm_otrans(transposed, p.b, sizeof *p.b, K, N, K, N);
        left = transposed;
        m = N, k = K, a_width = N, b_width = K, out_width = N;
    } else if (p.product == BACKWARD_WEIGHT) {
        n = N, k = M, flags = LIBXSMM_GEMM_FLAG_TRANS_B;
    }
    libxsmm_smmfunction run =
        libxsmm_smmdispatch(m, n, k, &a_width, &b_width, &out_width, &one, &zero, &flags, NULL);
    if (run) run(left, p.a, p.out);
}
#endif

// ---- measuring ----------------------------------------------------------------------------------

// The library on equal shares of the rows.
static void run_library(void (*library)(Problem), Problem p, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        Problem share = p;
        int64_t first = p.M * t / threads, a_width = p.product == FORWARD ? p.K : p.N;
        share.M = p.M * (t + 1) / threads - first;
        share.a += first * a_width;
        share.out += first * (p.product == FORWARD ? p.N : p.K);
        library(share);
    }
}

static void run_op(Device *dev, Problem p) {
    Segments rows = {.groups = 1, .parts = 1, .offsets = (const int64_t[]){0, p.M}};
    // The ops do not write what is const here.
    Tensor a = tensor_2d((void *)(uintptr_t)p.a, F32, p.M, p.product == FORWARD ? p.K : p.N);
    Tensor w = tensor_3d((void *)(uintptr_t)p.b, F32, 1, p.N, p.K);
    switch (p.product) {
    case FORWARD:
        matmul_forward(dev, tensor_2d(p.out, F32, p.M, p.N), a, w, rows);
        break;
    case BACKWARD_INPUT:
        matmul_backward_input(dev, tensor_2d(p.out, F32, p.M, p.K), a, w, rows);
        break;
    case BACKWARD_WEIGHT:
        matmul_backward_weight(dev, tensor_3d(p.out, F32, 1, p.N, p.K), a,
                               tensor_2d((void *)(uintptr_t)p.b, F32, p.M, p.K), rows);
        break;
    }
}

static const struct Candidate {
    const char *name;
    void (*run)(Problem); // NULL: the op of kernels.h
} candidates[] = {
    {"moetrain", NULL},
    {"oneDNN", with_onednn},
#ifdef WITH_OPENBLAS
    {"OpenBLAS", with_openblas},
#endif
#ifdef WITH_LIBXSMM
    {"LIBXSMM", with_libxsmm},
#endif
};
enum { CANDIDATES = sizeof candidates / sizeof *candidates };

static void measure(Device *dev, Problem p) {
    static const char *const names[] = {"y = x w^T", "dx = dy w", "dw = dy^T x"};
    double best[CANDIDATES], flops = 2.0 * (double)p.M * (double)p.N * (double)p.K;
    for (int c = 0; c < CANDIDATES; c++) best[c] = INFINITY;
    int64_t rounds = (int64_t)(4e9 / flops) + 5;
    if (rounds > 2000) rounds = 2000;
    for (int64_t round = 0; round < rounds; round++)
        for (int c = 0; c < CANDIDATES; c++) {
            double start = clock_seconds();
            if (candidates[c].run)
                run_library(candidates[c].run, p, dev->threads);
            else
                run_op(dev, p);
            best[c] = fmin(best[c], clock_seconds() - start);
        }
    printf("%-12s %5lld %5lld %5lld %8d", names[p.product], (long long)p.M, (long long)p.N,
           (long long)p.K, dev->threads);
    for (int c = 0; c < CANDIDATES; c++) printf(" %9.1f", 1e-9 * flops / best[c]);
    putchar('\n');
}

static float *new_matrix(int64_t rows, int64_t columns) {
    float *x = aligned_alloc(64, (size_t)(rows * columns + 15) / 16 * 64);
    CHECK(x, "no memory");
    for (int64_t i = 0; i < rows * columns; i++) x[i] = (float)(i % 7) - 3.0f;
    return x;
}

int main(void) {
    static const int64_t shapes[][3] = {
        {16, 512, 128},  {64, 512, 128},   {256, 512, 128},   {512, 512, 128},
        {64, 128, 512},  {256, 128, 512},  {512, 128, 512},   {512, 384, 128},
        {512, 65, 128},  {16, 1408, 512},  {64, 1408, 512},   {512, 1408, 512},
        {64, 512, 1408}, {512, 512, 1408}, {4096, 512, 1408}, {2048, 1536, 512}};
    setenv("OPENBLAS_NUM_THREADS", "1", 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("GFLOP/s, best of many runs\nproduct          M     N     K  threads");
    for (int c = 0; c < CANDIDATES; c++) printf(" %9s", candidates[c].name);
    putchar('\n');
    for (int threads = 1; threads <= 2; threads++) {
        Device dev;
        Error err = {0};
        CHECK(device_open(&dev, "cpu", threads, 0, 1, &err), "%s", err.message);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            int64_t M = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
            float *x = new_matrix(M, K), *w = new_matrix(N, K), *dy = new_matrix(M, N);
            float *y = new_matrix(M, N), *dx = new_matrix(M, K), *dw = new_matrix(N, K);
            measure(&dev, (Problem){FORWARD, M, N, K, x, w, y});
            measure(&dev, (Problem){BACKWARD_INPUT, M, N, K, dy, w, dx});
            if (threads == 1) measure(&dev, (Problem){BACKWARD_WEIGHT, M, N, K, dy, x, dw});
            free(x), free(w), free(dy), free(y), free(dx), free(dw);
        }
    }
    return 0;
}
