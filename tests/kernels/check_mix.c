// A mixture of two branches and its gradients on every device and in every storage, also in place.
#include "harness.h"

#include <math.h>

typedef struct Case {
    Tensor a, b, logits, dout, out, in_place, da, db, dlogits;
} Case;

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    mix_forward(dev, c->out, c->a, c->b, c->logits);
    copy(dev, c->in_place, c->a);
    mix_forward(dev, c->in_place, c->in_place, c->b, c->logits);
    mix_backward(dev, c->da, c->db, c->dlogits, c->dout, c->a, c->b, c->logits);
}

static void check_on(Device *dev, int64_t N, int64_t D, DType T) {
    begin_case("%s mix %s N=%lld D=%lld", dev->name, dtype_name(T), (long long)N, (long long)D);
    Tensor a = random_2d(N, D), b = random_2d(N, D), dout = random_2d(N, D);
    Case c = {.a = stored_as(T, a),
              .b = stored_as(T, b),
              .dout = stored_as(T, dout),
              .logits = random_2d(N, 2),
              .out = new_2d(T, N, D),
              .in_place = new_2d(T, N, D),
              .da = new_2d(T, N, D),
              .db = new_2d(T, N, D),
              .dlogits = new_2d(F32, N, 2)};
    for (int64_t i = 0; i < 2 * N; i++) tensor_f32(c.logits)[i] *= 6;
    run_on(dev, run_ops, &c,
           TENSORS(&c.a, &c.b, &c.logits, &c.dout, &c.out, &c.in_place, &c.da, &c.db, &c.dlogits));
    double *out = new_doubles(N * D), *da = new_doubles(N * D), *db = new_doubles(N * D);
    double *size = new_doubles(N * D), *dlogits = new_doubles(2 * N), *unit = new_doubles(2 * N);
    for (int64_t n = 0; n < N; n++) {
        const float *z = tensor_f32(c.logits) + 2 * n;
        double most = fmax((double)z[0], (double)z[1]);
        double of_a = exp((double)z[0] - most), of_b = exp((double)z[1] - most);
        double sum = of_a + of_b, in_a = 0, in_b = 0, absolute = 0;
        of_a /= sum, of_b /= sum;
        for (int64_t i = n * D; i < (n + 1) * D; i++) {
            double x = (double)tensor_f32(a)[i], y = (double)tensor_f32(b)[i];
            double from = (double)tensor_f32(dout)[i];
            out[i] = of_a * x + of_b * y;
            size[i] = fabs(of_a * x) + fabs(of_b * y);
            da[i] = of_a * from;
            db[i] = of_b * from;
            in_a += from * x;
            in_b += from * y;
            absolute += fabs(from) * (fabs(x) + fabs(y));
        }
        // Of a softmax: p (g - p·g of both).
        dlogits[2 * n] = of_a * (in_a - (of_a * in_a + of_b * in_b));
        dlogits[2 * n + 1] = of_b * (in_b - (of_a * in_a + of_b * in_b));
        unit[2 * n] = unit[2 * n + 1] = of_a * of_b * absolute;
    }
    // A share has an exponential of 2 ulp, of an argument up to 12. A sum of D in a fixed order
    // strays by √D.
    expect_near("out", c.out, out, storage_eps(T), size, 32 * F32_EPS);
    expect_near("da", c.da, da, storage_eps(T) + 32 * F32_EPS, NULL, 1e-30);
    expect_near("db", c.db, db, storage_eps(T) + 32 * F32_EPS, NULL, 1e-30);
    expect_near("dlogits", c.dlogits, dlogits, 0, unit, (64 + 4 * sqrt((double)D)) * F32_EPS);
    expect_same_bytes("out in place", c.in_place, c.out.data);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.out, c.da, c.db, c.dlogits}, 4);
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
