// The two softmaxes of Soft MoE and their gradients on every device.
#include "harness.h"

#include <math.h>
#include <string.h>

typedef struct Case {
    int64_t T;
    Tensor logits, ddispatch, dcombine, dispatch, combine, dlogits;
} Case;

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    slot_weights_forward(dev, c->dispatch, c->combine, c->logits, c->T);
    slot_weights_backward(dev, c->dlogits, c->ddispatch, c->dcombine, c->dispatch, c->combine,
                          c->T);
}

// Of `count` numbers, `step` apart: their softmax, and its gradient added to dz.
static void softmax(double *p, double *dz, double *unit, const float *z, const float *dp,
                    int64_t count, int64_t step) {
    double largest = -INFINITY, sum = 0, mean = 0, size = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, (double)z[i * step]);
    for (int64_t i = 0; i < count; i++) sum += p[i * step] = exp((double)z[i * step] - largest);
    for (int64_t i = 0; i < count; i++) {
        p[i * step] /= sum;
        mean += p[i * step] * (double)dp[i * step];
        size += p[i * step] * fabs((double)dp[i * step]);
    }
    for (int64_t i = 0; i < count; i++) {
        dz[i * step] += p[i * step] * ((double)dp[i * step] - mean);
        unit[i * step] += p[i * step] * (fabs((double)dp[i * step]) + size);
    }
}

static void check_on(Device *dev, int64_t B, int64_t T, int64_t S) {
    int64_t N = B * T;
    begin_case("%s slot weights B=%lld T=%lld S=%lld", dev->name, (long long)B, (long long)T,
               (long long)S);
    Case c = {.T = T,
              .logits = random_2d(N, S),
              .ddispatch = random_2d(N, S),
              .dcombine = random_2d(N, S),
              .dispatch = new_2d(F32, N, S),
              .combine = new_2d(F32, N, S),
              .dlogits = new_2d(F32, N, S)};
    for (int64_t i = 0; i < N * S; i++) tensor_f32(c.logits)[i] *= 6;
    run_on(dev, run_ops, &c,
           TENSORS(&c.logits, &c.ddispatch, &c.dcombine, &c.dispatch, &c.combine, &c.dlogits));
    double *dispatch = new_doubles(N * S), *combine = new_doubles(N * S);
    double *dlogits = new_doubles(N * S), *unit = new_doubles(N * S);
    for (int64_t i = 0; i < N * S; i++) dlogits[i] = unit[i] = 0;
    for (int64_t n = 0; n < N; n++)
        softmax(combine + n * S, dlogits + n * S, unit + n * S, tensor_f32(c.logits) + n * S,
                tensor_f32(c.dcombine) + n * S, S, 1);
    for (int64_t b = 0; b < B; b++)
        for (int64_t s = 0; s < S; s++) {
            int64_t first = b * T * S + s;
            softmax(dispatch + first, dlogits + first, unit + first, tensor_f32(c.logits) + first,
                    tensor_f32(c.ddispatch) + first, T, S);
        }
    // An exponential has 2 ulp of an argument of up to 12, whose difference is rounded; a sum in a
    // fixed order strays by at most half an ulp of each addition.
    double rounding = (32 + (double)(T > S ? T : S)) * F32_EPS;
    expect_near("dispatch", c.dispatch, dispatch, rounding, NULL, 1e-30);
    expect_near("combine", c.combine, combine, rounding, NULL, 1e-30);
    expect_near("dlogits", c.dlogits, dlogits, 0, unit, 2 * rounding);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.dispatch, c.combine, c.dlogits}, 3);
    release_all();
}

// ---- what experts get ---------------------------------------------------------------------------

static void run_count(Device *dev, void *context) {
    Case *c = context;
    count_slot_weights(dev, c->logits, c->combine);
}

// Weights of which all sums are exact but for the rounding to units: the same everywhere.
static void check_count(int64_t n, int64_t E, int64_t P) {
    Case c = {.combine = new_2d(F32, n, E * P)};
    int64_t *before = new_1d(I64, E).data, *want = new_1d(I64, E).data;
    for (int64_t e = 0; e < E; e++) want[e] = before[e] = ((int64_t)1 << 33) + e;
    for (int64_t i = 0; i < n * E * P; i++)
        tensor_f32(c.combine)[i] = i == 5 ? NAN : (float)random_below(1 << 20) * 0x1p-22f;
    for (int64_t i = 0; i < n * E; i++) {
        float sum = 0;
        for (int64_t p = 0; p < P; p++) sum += tensor_f32(c.combine)[i / E * E * P + p * E + i % E];
        want[i % E] += isnan(sum) ? 0 : (int64_t)rint((double)sum * 0x1p20);
    }
    for (int d = 0; d < device_count(); d++) {
        begin_case("%s slots of %lld tokens, %lld experts x %lld", device_at(d)->name, (long long)n,
                   (long long)E, (long long)P);
        c.logits = new_1d(I64, E);
        memcpy(c.logits.data, before, (size_t)E * sizeof *before);
        run_on(device_at(d), run_count, &c, TENSORS(&c.logits, &c.combine));
        expect_same_bytes("counts", c.logits, want);
    }
    release_all();
}

int main(void) {
    check_count(0, 3, 1);
    check_count(1, 1, 1);
    check_count(37, 8, 3);
    check_count(1200, 70, 2);
    static const int64_t shapes[][3] = {{0, 4, 3},   {1, 1, 1},     {3, 7, 5},
                                        {2, 33, 64}, {1, 100, 130}, {5, 9, 257}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int d = 0; d < device_count(); d++)
            check_on(device_at(d), shapes[s][0], shapes[s][1], shapes[s][2]);
    return failures();
}
