// Router against the reference: choices exactly, also with ties; weights, statistics and gradients in f32.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor logits, ids, weights, lse, prob_sum, entropy_sum, lse2_sum, dweights, dlogits, balance;
    RouterRule rule;
    int64_t parts;
} Case;

static const float z_scale = 0.01f;

static Case new_case(int64_t N, int64_t E, int64_t K, int64_t parts, RouterRule rule) {
    return (Case){random_2d(N, E),
                  new_2d(I32, N, K),
                  new_2d(F32, N, K),
                  new_1d(F32, N),
                  new_2d(F64, parts, E),
                  new_1d(F64, parts),
                  new_1d(F64, parts),
                  random_2d(N, K),
                  new_2d(F32, N, E),
                  random_2d(parts, E),
                  rule,
                  parts};
}

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    router_forward(dev, c->ids, c->weights, c->lse, c->prob_sum, c->entropy_sum, c->lse2_sum,
                   c->logits, c->rule, c->parts);
}
static void run_backward(Device *dev, void *context) {
    Case *c = context;
    router_backward(dev, c->dlogits, c->dweights, c->ids, c->weights, c->logits, c->lse, c->rule,
                    c->balance, z_scale, c->parts);
}
static void run_both(Device *dev, void *context) {
    run_forward(dev, context);
    run_backward(dev, context);
}

static void check(int64_t N, int64_t E, int64_t K, int64_t parts, RouterRule rule, bool ties) {
    begin_case("router N=%lld E=%lld K=%lld parts=%lld rule %d%s%s", (long long)N, (long long)E,
               (long long)K, (long long)parts, rule.kind, rule.normalize_top_k ? " normalised" : "",
               ties ? " ties" : "");
    Case c = new_case(N, E, K, parts, rule);
    float *z = tensor_f32(c.logits);
    for (int64_t i = 0; i < N * E; i++) z[i] = ties ? (float)random_below(3) : 8.0f * z[i];
    int32_t *ids = new_2d(I32, N, K).data;
    double *weights = new_doubles(N * K), *lse = new_doubles(N), *prob = new_doubles(parts * E);
    double *entropy = new_doubles(parts), *lse2 = new_doubles(parts), *dz = new_doubles(N * E);
    for (int64_t p = 0, rows = N / parts; p < parts; p++) {
        int64_t n = p * rows;
        reference_router_forward(ids + n * K, weights + n * K, lse + n, prob + p * E, entropy + p,
                                 lse2 + p, z + n * E, rule, rows, E, K);
        reference_router_backward(dz + n * E, tensor_f32(c.dweights) + n * K, ids + n * K,
                                  z + n * E, rule, tensor_f32(c.balance) + p * E, (double)z_scale,
                                  rows, E, K);
    }
    Device dev = open_cpu(0);
    run_both(&dev, &c);
    expect_same_bytes("ids", c.ids, ids);
    // Logits up to 8: z - lse is rounded to 2^-21, and so are weights and probabilities, relatively.
    double relative = 32 * F32_EPS;
    expect_near("weights", c.weights, weights, relative, NULL, 0);
    expect_near("lse", c.lse, lse, 4 * F32_EPS, NULL, 4 * F32_EPS);
    expect_near("prob_sum", c.prob_sum, prob, relative, NULL, 0);
    expect_near("entropy_sum", c.entropy_sum, entropy, relative, NULL,
                (double)N * log((double)E + 1) * 32 * F32_EPS);
    expect_near("lse2_sum", c.lse2_sum, lse2, 16 * F32_EPS, NULL, 0);
    // Gradients are products of numbers of size 1 (weights, dweights, balance) and 0.02 · lse.
    expect_near("dlogits", c.dlogits, dz, relative, NULL, 32 * F32_EPS);
    expect_same_for_any_threads(
        run_both, &c,
        (Tensor[]){c.ids, c.weights, c.lse, c.prob_sum, c.entropy_sum, c.lse2_sum, c.dlogits}, 7);
    release_all();
}

// Logits that are not numbers must not produce ids outside of the experts: memory safety depends on them.
static void check_nan(void) {
    begin_case("NaN logits");
    Case c = new_case(4, 6, 3, 1, (RouterRule){.kind = SOFTMAX_TOPK});
    for (int64_t i = 0; i < 12; i++) tensor_f32(c.logits)[i] = NAN;
    Device dev = open_cpu(0);
    run_forward(&dev, &c);
    for (int64_t i = 0; i < 12; i++)
        expect(tensor_i32(c.ids)[i] >= 0 && tensor_i32(c.ids)[i] < 6, "id %d",
               tensor_i32(c.ids)[i]);
    expect(isnan(tensor_f32(c.lse)[0]), "the NaN is hidden");
    release_all();
}

static void bench(int64_t N, int64_t E, int64_t K) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, E, K, 1, (RouterRule){.kind = SOFTMAX_TOPK});
        double f = time_call(run_forward, &dev, &c), b = time_call(run_backward, &dev, &c);
        printf("router %lld tokens, %lld experts, top-%lld, %d threads: forward %.1f us, backward "
               "%.1f us\n",
               (long long)N, (long long)E, (long long)K, threads, 1e6 * f, 1e6 * b);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(512, 8, 2);
        bench(4096, 64, 2);
        bench(4096, 512, 8);
        return 0;
    }
    static const RouterRule rules[] = {
        {SOFTMAX_TOPK, false}, {TOPK_SOFTMAX, false}, {TOPK_SOFTMAX, true}};
    for (int r = 0; r < 3; r++)
        for (int ties = 0; ties < 2; ties++) {
            check(0, 4, 2, 1, rules[r], ties);
            check(1, 1, 1, 1, rules[r], ties);
            check(5, 3, 3, 1, rules[r], ties);
            check(32, 8, 2, 4, rules[r], ties);
            check(33, 65, 1, 1, rules[r], ties);
            check(12, 512, 8, 2, rules[r], ties);
        }
    check_nan();
    return failures();
}
