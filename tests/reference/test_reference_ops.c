// The ops of kernels.h against PyTorch (make_op_fixtures.py).
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fixture.h"

// Expected values are f64 results of the same f32 inputs; an op rounds each of its few dozen
// operations to 2^-24 = 6e-8 of the largest intermediate, and errors partly cancel.
static const double OP_TOLERANCE = 2e-6;

static Device dev;

static int open_device(void **state) {
    (void)state;
    Error err = {0};
    return device_open(&dev, "cpu", 1, 0, 1, &err) ? 0 : -1;
}

static Tensor result_like(Fixture *f, Tensor x) {
    return fixture_result_2d(f, x.dtype, x.shape[0], x.shape[1]);
}

// ---- attention ----------------------------------------------------------------------------------

static void fill_rotations(Tensor cosines, Tensor sines, double theta) {
    int64_t T = cosines.shape[0], half = cosines.shape[1];
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)t * pow(theta, -(double)i / (double)half);
            tensor_f32(cosines)[t * half + i] = (float)cos(angle);
            tensor_f32(sines)[t * half + i] = (float)sin(angle);
        }
}

static AttentionShape read_attention_shape(Fixture *f, const char *name) {
    return (AttentionShape){
        fixture_int(f, "%s/config/heads", name), fixture_int(f, "%s/config/kv_heads", name),
        fixture_int(f, "%s/config/d_head", name), fixture_int(f, "%s/config/d_value", name)};
}

static void assert_attention(const char *name) {
    Fixture *f = fixture_open("attention");
    AttentionShape s = read_attention_shape(f, name);
    int64_t T = fixture_int(f, "%s/config/T", name);
    AttentionRule rule = {
        .shape = s, .T = T, .scale = (float)fixture_double(f, "%s/config/scale", name)};
    Tensor cosines = fixture_result_2d(f, F32, T, s.d_head / 2), sines = result_like(f, cosines);
    fill_rotations(cosines, sines, fixture_double(f, "%s/config/theta", name));

    Tensor qkv = fixture_tensor(f, F32, "%s/qkv", name);
    rope(&dev, qkv, s, cosines, sines, (RowPositions){.T = T}, false);
    fixture_assert_close(f, qkv, OP_TOLERANCE, "%s/rotated", name);

    Tensor out = fixture_result_2d(f, F32, qkv.shape[0], s.heads * s.d_value);
    Tensor lse = fixture_result_2d(f, F32, qkv.shape[0], s.heads);
    attention_forward(&dev, out, lse, (Tensor){0}, qkv, rule);
    fixture_assert_close(f, out, OP_TOLERANCE, "%s/out", name);
    fixture_assert_close(f, lse, OP_TOLERANCE, "%s/lse", name);

    Tensor dout = fixture_tensor(f, F32, "%s/dout", name), dqkv = result_like(f, qkv);
    attention_backward(&dev, dqkv, (Tensor){0}, dout, qkv, out, lse, rule);
    fixture_assert_close(f, dqkv, OP_TOLERANCE, "%s/drotated", name);
    rope(&dev, dqkv, s, cosines, sines, (RowPositions){.T = T}, true);
    fixture_assert_close(f, dqkv, OP_TOLERANCE, "%s/dqkv", name);
    fixture_close(f);
}

static void attention_with_rope_agrees(void **state) {
    (void)state;
    assert_attention("grouped");
    assert_attention("single_kv_wide_values");
    assert_attention("all_heads");
}

// One token at a time with a cache must give the rows of the whole sequence.
static void attention_decode_agrees(void **state) {
    (void)state;
    Fixture *f = fixture_open("attention");
    AttentionShape s = read_attention_shape(f, "grouped");
    int64_t T = fixture_int(f, "grouped/config/T"), width = attention_kv_width(s);
    AttentionRule rule = {
        .shape = s, .T = T, .scale = (float)fixture_double(f, "grouped/config/scale")};
    Tensor cosines = fixture_result_2d(f, F32, T, s.d_head / 2), sines = result_like(f, cosines);
    fill_rotations(cosines, sines, fixture_double(f, "grouped/config/theta"));
    Tensor qkv = fixture_tensor(f, F32, "grouped/qkv");
    Tensor out = fixture_result_2d(f, F32, qkv.shape[0], s.heads * s.d_value);
    Tensor cache = fixture_result_2d(f, F32, T, width);
    for (int64_t n = 0; n < qkv.shape[0]; n++) {
        Tensor row = tensor_rows(qkv, n, 1);
        rope(&dev, row, s, cosines, sines, (RowPositions){.T = 1, .first = n % T}, false);
        Tensor kv = tensor_2d(tensor_f32(row) + (row.shape[1] - width), F32, 1, width);
        copy(&dev, tensor_rows(cache, n % T, 1), kv);
        attention_decode(&dev, tensor_rows(out, n, 1), row, cache, rule, n % T);
    }
    fixture_assert_close(f, out, OP_TOLERANCE, "grouped/out");
    fixture_close(f);
}

// ---- routing ------------------------------------------------------------------------------------

static void assert_router(const char *name) {
    Fixture *f = fixture_open("routing");
    RouterRule rule = {.kind = (RouterKind)fixture_int(f, "%s/config/router", name),
                       .normalize_top_k = fixture_int(f, "%s/config/normalize_top_k", name) != 0,
                       .scaling_factor = 1};
    int64_t parts = fixture_int(f, "%s/config/parts", name);
    Tensor logits = fixture_tensor(f, F32, "%s/logits", name);
    Tensor dweights = fixture_tensor(f, F32, "%s/dweights", name);
    int64_t N = logits.shape[0], E = logits.shape[1], K = dweights.shape[1];
    Routing routing = {.ids = fixture_result_2d(f, I32, N, K),
                       .weights = result_like(f, dweights),
                       .lse = fixture_result_1d(f, F32, N)};
    RouterSums sums = {.prob_sum = fixture_result_2d(f, F64, parts, E),
                       .entropy_sum = fixture_result_1d(f, F64, parts),
                       .lse2_sum = fixture_result_1d(f, F64, parts)};
    router_forward(&dev, routing, sums, logits, (Tensor){0}, rule);
    fixture_assert_equal(f, routing.ids, "%s/ids", name);
    fixture_assert_close(f, routing.weights, OP_TOLERANCE, "%s/weights", name);
    fixture_assert_close(f, routing.lse, OP_TOLERANCE, "%s/lse", name);
    fixture_assert_close(f, sums.prob_sum, OP_TOLERANCE, "%s/prob_sum", name);
    fixture_assert_close(f, sums.entropy_sum, OP_TOLERANCE, "%s/entropy_sum", name);
    fixture_assert_close(f, sums.lse2_sum, OP_TOLERANCE, "%s/lse2_sum", name);

    Tensor balance = fixture_tensor(f, F32, "%s/balance", name), dlogits = result_like(f, logits);
    float z_scale = (float)fixture_double(f, "%s/config/z_scale", name);
    router_backward(&dev, dlogits, dweights, routing, logits, rule, balance, z_scale);
    fixture_assert_close(f, dlogits, OP_TOLERANCE, "%s/dlogits", name);
    fixture_close(f);
}

static void routers_agree(void **state) {
    (void)state;
    assert_router("softmax_topk");
    assert_router("topk_softmax");
    assert_router("topk_softmax_normalized");
}

static void assert_capacity(const char *name, DropPolicy policy, const char *policy_name) {
    Fixture *f = fixture_open("routing");
    Tensor ids = fixture_tensor(f, I32, "%s/ids", name);
    Tensor weights = fixture_tensor(f, F32, "%s/weights", name);
    int64_t N = ids.shape[0], K = ids.shape[1];
    int64_t E = fixture_tensor(f, F32, "%s/logits", name).shape[1];
    int64_t groups = fixture_int(f, "%s/config/groups", name);
    // make_op_fixtures.py: RNG_DROP, then a and b.
    CapacityRule rule = {
        .capacity = fixture_int(f, "%s/config/capacity", name),
        .policy = policy,
        .stream = {(uint64_t)fixture_int(f, "%s/config/seed", name), RNG_DROP, 7, 2},
        .first_token = fixture_int(f, "%s/config/first_token", name),
    };
    Tensor kept = fixture_result_2d(f, U8, N, K);
    Tensor routed = fixture_result_2d(f, I32, groups, E), dropped = result_like(f, routed);
    Tensor order = fixture_result_1d(f, I32, N * K + E + 1);
    capacity_assign(&dev, kept, routed, dropped, ids, weights, rule, order);
    fixture_assert_equal(f, kept, "%s/kept_%s", name, policy_name);
    int64_t all_routed = 0, all_dropped = 0, all_kept = 0;
    for (int64_t i = 0; i < groups * E; i++) {
        all_routed += tensor_i32(routed)[i];
        all_dropped += tensor_i32(dropped)[i];
    }
    for (int64_t i = 0; i < N * K; i++) all_kept += tensor_u8(kept)[i];
    assert_int_equal(N * K, all_routed);
    assert_int_equal(N * K, all_kept + all_dropped);
    fixture_close(f);
}

static void every_drop_policy_agrees(void **state) {
    (void)state;
    const char *const rules[] = {"softmax_topk", "topk_softmax", "topk_softmax_normalized"};
    for (int i = 0; i < 3; i++) {
        assert_capacity(rules[i], DROP_POSITION, "position");
        assert_capacity(rules[i], DROP_PROBABILITY, "probability");
        assert_capacity(rules[i], DROP_RANDOM, "random"); // and with it Philox and its counters
    }
}

// ---- optimizer ----------------------------------------------------------------------------------

static void adamw_agrees_over_several_steps(void **state) {
    (void)state;
    Fixture *f = fixture_open("adamw");
    double beta1 = fixture_double(f, "adamw/config/beta1");
    double beta2 = fixture_double(f, "adamw/config/beta2");
    Tensor start = fixture_tensor(f, F32, "adamw/start");
    Tensor gradients = fixture_tensor(f, F32, "adamw/gradients");
    Tensor scales = fixture_tensor(f, F32, "adamw/grad_scales");
    int64_t steps = gradients.shape[0], n = gradients.shape[1];
    int64_t whole = (n + 15) / 16 * 16; // the op takes a run of parameters with its padding, zeros
    Tensor w = fixture_result_1d(f, F32, whole), g = fixture_result_1d(f, F32, whole);
    Tensor m = fixture_result_1d(f, F32, whole), v = fixture_result_1d(f, F32, whole);
    Tensor weights = fixture_result_2d(f, F32, steps, n); // after each step
    Tensor groups = fixture_result_1d(f, U8, whole / 16);
    copy(&dev, tensor_rows(w, 0, n), start);
    for (int64_t step = 0; step < steps; step++) {
        AdamW rule = {
            .lr = {(float)fixture_double(f, "adamw/config/lr")},
            .beta1 = (float)beta1,
            .beta2 = (float)beta2,
            .eps = (float)fixture_double(f, "adamw/config/eps"),
            .weight_decay = {(float)fixture_double(f, "adamw/config/weight_decay")},
            .bias_correction1 = (float)(1.0 - pow(beta1, (double)(step + 1))),
            .bias_correction2 = (float)(1.0 - pow(beta2, (double)(step + 1))),
            .grad_scale = tensor_f32(scales)[step],
        };
        copy(&dev, tensor_rows(g, 0, n), tensor_rows(gradients, step, 1));
        adamw_update(&dev, w, (Tensor){0}, g, m, v, groups, rule);
        copy(&dev, tensor_rows(weights, step, 1), tensor_rows(w, 0, n));
    }
    fixture_assert_close(f, weights, OP_TOLERANCE, "adamw/weights");
    fixture_assert_close(f, tensor_rows(m, 0, n), OP_TOLERANCE, "adamw/m");
    fixture_assert_close(f, tensor_rows(v, 0, n), OP_TOLERANCE, "adamw/v");
    fixture_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_with_rope_agrees),
        cmocka_unit_test(attention_decode_agrees),
        cmocka_unit_test(routers_agree),
        cmocka_unit_test(every_drop_policy_agrees),
        cmocka_unit_test(adamw_agrees_over_several_steps),
    };
    return cmocka_run_group_tests(tests, open_device, NULL);
}
