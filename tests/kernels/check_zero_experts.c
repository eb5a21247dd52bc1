// Zero-computation experts: what is kept and what travels exactly; identity and its gradients
// against sums in double, on every device and in every storage.
#include "harness.h"

#include <math.h>
#include <string.h>

typedef struct Case {
    int64_t E;
    Tensor ids, weights, kept, travels;                // (N, K)
    Tensor out, dx, x, dout, dweights;                 // (N, D) T, and (N, K)
    Tensor out_before, dx_before, dw_before, kept_raw; // what they were
} Case;

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    copy(dev, c->out, c->out_before);
    copy(dev, c->dx, c->dx_before);
    copy(dev, c->dweights, c->dw_before);
    identity_experts_forward(dev, c->out, c->x, c->ids, c->weights, c->E);
    identity_experts_backward(dev, c->dx, c->dweights, c->dout, c->x, c->ids, c->weights, c->E);
    keep_zero_choices(dev, c->kept, c->travels, c->ids, c->E);
}

// K different ones of E experts and Z zero experts; a few tokens have the one kind alone.
static Tensor random_ids(int64_t N, int64_t K, int64_t E, int64_t Z) {
    Tensor ids = new_2d(I32, N, K);
    for (int64_t n = 0; n < N; n++) {
        int64_t first = random_below(E + Z);
        if (n % 5 == 1 && K <= E) first = 0;
        if (n % 5 == 2 && K <= Z) first = E;
        for (int64_t k = 0; k < K; k++)
            tensor_i32(ids)[n * K + k] = (int32_t)((first + k) % (E + Z));
    }
    return ids;
}

// kept is 0, 1 or, as no op writes it, another number that means 1.
static Tensor random_marks(int64_t N, int64_t K) {
    Tensor marks = new_2d(U8, N, K);
    for (int64_t i = 0; i < N * K; i++) tensor_u8(marks)[i] = (uint8_t)random_below(3);
    return marks;
}

static void check_marks(const Case *c) {
    int64_t choices = tensor_elements(c->ids);
    uint8_t *kept = copy_of(c->kept_raw).data, *travels = new_1d(U8, choices).data;
    for (int64_t i = 0; i < choices; i++) {
        bool is_zero = tensor_i32(c->ids)[i] >= c->E;
        travels[i] = kept[i] && !is_zero;
        kept[i] = kept[i] || is_zero;
    }
    expect_same_bytes("kept", c->kept, kept);
    expect_same_bytes("travels", c->travels, travels);
}

static void check_on(Device *dev, DType T, int64_t N, int64_t D, int64_t K, int64_t E, int64_t Z) {
    begin_case("zero experts on %s %s N=%lld D=%lld K=%lld of %lld and %lld", dev->name,
               dtype_name(T), (long long)N, (long long)D, (long long)K, (long long)E, (long long)Z);
    Tensor x = random_2d(N, D), dout = random_2d(N, D), out = random_2d(N, D);
    Tensor dx = random_2d(N, D);
    Case c = {.E = E,
              .ids = random_ids(N, K, E, Z),
              .weights = random_2d(N, K),
              .kept_raw = random_marks(N, K),
              .travels = new_2d(U8, N, K),
              .x = stored_as(T, x),
              .dout = stored_as(T, dout),
              .out_before = stored_as(T, out),
              .dx_before = stored_as(T, dx),
              .dw_before = random_2d(N, K),
              .out = new_2d(T, N, D),
              .dx = new_2d(T, N, D),
              .dweights = new_2d(F32, N, K)};
    c.kept = copy_of(c.kept_raw);
    run_on(dev, run_ops, &c,
           TENSORS(&c.ids, &c.weights, &c.kept, &c.travels, &c.x, &c.dout, &c.out_before,
                   &c.dx_before, &c.dw_before, &c.out, &c.dx, &c.dweights));
    check_marks(&c);
    double *want_out = new_doubles(N * D), *want_dx = new_doubles(N * D),
           *unit = new_doubles(N * K);
    double *row_unit = new_doubles(N * D), *want_dw = new_doubles(N * K);
    for (int64_t n = 0; n < N; n++) {
        double weight = 0, magnitude = 0, product = 0, products = 0;
        for (int64_t d = n * D; d < (n + 1) * D; d++) {
            product += (double)tensor_f32(dout)[d] * (double)tensor_f32(x)[d];
            products += fabs((double)tensor_f32(dout)[d] * (double)tensor_f32(x)[d]);
        }
        for (int64_t i = n * K; i < (n + 1) * K; i++) {
            bool is_zero = tensor_i32(c.ids)[i] >= E;
            weight += is_zero ? (double)tensor_f32(c.weights)[i] : 0;
            magnitude += is_zero ? fabs((double)tensor_f32(c.weights)[i]) : 0;
            want_dw[i] = is_zero ? product : (double)tensor_f32(c.dw_before)[i];
            unit[i] = is_zero ? products : 0;
        }
        for (int64_t d = n * D; d < (n + 1) * D; d++) {
            want_out[d] = (double)tensor_f32(out)[d] + weight * (double)tensor_f32(x)[d];
            want_dx[d] = (double)tensor_f32(dx)[d] + weight * (double)tensor_f32(dout)[d];
            row_unit[d] = magnitude;
        }
    }
    // K - 1 additions of weights, a product and a sum, of numbers below 1; the last rounding is the
    // storage's. A sum of D products in a fixed order strays by √D. What no zero choice names has
    // no unit: it is exact.
    double steps = (double)(K + 2) * F32_EPS;
    double relative = storage_eps(T) + 2 * F32_EPS;
    expect_near("out", c.out, want_out, relative, row_unit, steps);
    expect_near("dx", c.dx, want_dx, relative, row_unit, steps);
    expect_near("dweights", c.dweights, want_dw, 0, unit, (4 + 4 * sqrt((double)D)) * F32_EPS);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.out, c.dx, c.dweights}, 3);
    release_all();
}

int main(void) {
    static const int64_t shapes[][5] = {
        // N, D, K, E, Z
        {0, 8, 2, 4, 2},    {1, 1, 1, 1, 1},       {9, 7, 3, 4, 3},    {33, 64, 2, 8, 8},
        {20, 300, 4, 8, 0}, {6, 1027, 40, 50, 60}, {300, 16, 2, 2, 2}, {5, 5, 2, 0, 3}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int d = 0; d < device_count(); d++)
                check_on(device_at(d), bf16 ? BF16 : F32, shapes[s][0], shapes[s][1], shapes[s][2],
                         shapes[s][3], shapes[s][4]);
    return failures();
}
