// A gated branch and its gradients on every device and in every storage, also in place.
#include "harness.h"

#include <math.h>
#include <string.h>

typedef struct Case {
    Tensor before, out, y, logits, dout, dy, dlogits, in_place, dlogits_again;
} Case;

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    copy(dev, c->out, c->before);
    gated_add_forward(dev, c->out, c->y, c->logits);
    gated_add_backward(dev, c->dy, c->dlogits, c->dout, c->y, c->logits);
    copy(dev, c->in_place, c->dout);
    gated_add_backward(dev, c->in_place, c->dlogits_again, c->in_place, c->y, c->logits);
}

static void check_on(Device *dev, int64_t N, int64_t D, DType T) {
    begin_case("%s gated add %s N=%lld D=%lld", dev->name, dtype_name(T), (long long)N,
               (long long)D);
    Tensor before = random_2d(N, D), y = random_2d(N, D), dout = random_2d(N, D);
    Case c = {.before = stored_as(T, before),
              .y = stored_as(T, y),
              .dout = stored_as(T, dout),
              .logits = random_2d(N, 1),
              .out = new_2d(T, N, D),
              .dy = new_2d(T, N, D),
              .in_place = new_2d(T, N, D),
              .dlogits = new_2d(F32, N, 1),
              .dlogits_again = new_2d(F32, N, 1)};
    for (int64_t n = 0; n < N; n++) tensor_f32(c.logits)[n] *= 12;
    run_on(dev, run_ops, &c,
           TENSORS(&c.before, &c.out, &c.y, &c.logits, &c.dout, &c.dy, &c.dlogits, &c.in_place,
                   &c.dlogits_again));
    double *out = new_doubles(N * D), *dy = new_doubles(N * D), *dlogits = new_doubles(N);
    double *unit = new_doubles(N);
    for (int64_t n = 0; n < N; n++) {
        double z = (double)tensor_f32(c.logits)[n], g = 1 / (1 + exp(-z));
        dlogits[n] = unit[n] = 0;
        for (int64_t i = n * D; i < (n + 1) * D; i++) {
            double value = (double)tensor_f32(y)[i], from = (double)tensor_f32(dout)[i];
            out[i] = (double)tensor_f32(before)[i] + g * value;
            dy[i] = g * from;
            dlogits[n] += g * (1 - g) * from * value;
            unit[n] += fabs(g * from * value);
        }
    }
    // The sigmoid has an exponential of 2 ulp, of an argument up to 12; 1 - g cancels, which the
    // unit of dlogits, without that factor, allows for. A sum of D in a fixed order strays by √D.
    expect_near("out", c.out, out, storage_eps(T), NULL, 8 * F32_EPS);
    expect_near("dy", c.dy, dy, storage_eps(T) + 16 * F32_EPS, NULL, 1e-30);
    expect_near("dlogits", c.dlogits, dlogits, 0, unit, (8 + 4 * sqrt((double)D)) * F32_EPS);
    expect_same_bytes("dy in place", c.in_place, c.dy.data);
    expect_same_bytes("dlogits in place", c.dlogits_again, c.dlogits.data);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.out, c.dy, c.dlogits}, 3);
    release_all();
}

int main(void) {
    static const int64_t shapes[][2] = {{0, 8}, {1, 1}, {9, 7}, {33, 64}, {5, 300}, {3, 1027}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int d = 0; d < device_count(); d++)
                check_on(device_at(d), shapes[s][0], shapes[s][1], bf16 ? BF16 : F32);
    return failures();
}
