// The two softmaxes of Soft MoE and their gradients on every device.
#include "harness.h"

#include <math.h>

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

int main(void) {
    static const int64_t shapes[][3] = {{0, 4, 3},   {1, 1, 1},     {3, 7, 5},
                                        {2, 33, 64}, {1, 100, 130}, {5, 9, 257}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int d = 0; d < device_count(); d++)
            check_on(device_at(d), shapes[s][0], shapes[s][1], shapes[s][2]);
    return failures();
}
