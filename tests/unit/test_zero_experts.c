// Zero-computation experts in a layer: what is counted, what travels, and what they add.
#include "model/zero_experts.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "model/experts.h"
#include "model/model.h"
#include "model/moe_layer.h"

enum { N = 32, D = 12, E = 4, Z = 3, K = 3 };

typedef struct Fixture {
    Device dev;
    Model model;
    MoeLayer *moe;
    float x[N * D], out[N * D];
} Fixture;

static ModelConfig config_of(void) {
    return (ModelConfig){.vocab_size = 5,
                         .d_model = D,
                         .layers = 1,
                         .d_ff = 6,
                         .tied_embeddings = true,
                         .activation = SWIGLU,
                         .norm_eps = 1e-5,
                         .init_std = 0.5,
                         .attention = {{2, 2, 6, 6}, 100},
                         .moe = {.experts = {1, {E}},
                                 .top_k = {1, {K}},
                                 .d_ff = {1, {5}},
                                 .every = 1,
                                 .first = true,
                                 .router = {.kind = SOFTMAX_TOPK},
                                 .capacity_factor = {3, 4},
                                 .min_capacity = 1,
                                 .max_expert_replicas = 1,
                                 .zero_experts = Z}};
}

// The forward pass of the layer alone, over tokens that are the same for every configuration.
static void run_layer(Fixture *f, ModelConfig config) {
    *f = (Fixture){0};
    Error err = {0};
    assert_true(device_open(&f->dev, "cpu", 1, 0, 1, &err));
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = 2,
                        .sequences = 4,
                        .context = N / 4,
                        .micro_batches = 1,
                        .training = true};
    model_measure(&f->model, &config, split, &f->dev);
    model_allocate(&f->model, process_groups_open(1, &f->dev), 7);
    model_init_parameters(&f->model);
    Layer *layer = &f->model.blocks[0].feed_forward;
    assert_ptr_equal(layer->kind, &MOE_FEED_FORWARD);
    f->moe = layer->state;
    RngStream stream = {.seed = 3, .purpose = RNG_TEST};
    for (uint64_t i = 0; i < N * D; i++) f->x[i] = (float)rng_normal(stream, i);
    statistics_clear(&f->model.stats, &f->dev);
    layer->kind->forward(layer->state, &f->model.work, &f->model.stats,
                         tensor_2d(f->out, F32, N, D), tensor_2d(f->x, F32, N, D));
}

static void close_layer(Fixture *f) {
    process_groups_close(&f->model.work.groups);
    model_free(&f->model);
    device_close(&f->dev);
}

static int32_t id_of(const Fixture *f, int64_t choice) {
    return tensor_i32(f->moe->router.ids)[choice];
}

static void every_choice_is_computed_dropped_or_costs_nothing(void **state) {
    (void)state;
    Fixture f;
    run_layer(&f, config_of());
    const Router *router = &f.moe->router;
    int64_t counts[E + Z] = {0}, lost[E + Z] = {0}, travelling = 0;
    for (int64_t c = 0; c < N * K; c++) {
        bool kept = tensor_u8(router->kept)[c], travels = tensor_u8(router->travels)[c];
        assert_true(id_of(&f, c) >= E ? kept && !travels : kept == travels);
        assert_int_equal(tensor_i32(f.moe->plan.slot_row)[c] >= 0, travels);
        (kept ? counts : lost)[id_of(&f, c)]++;
        travelling += travels;
    }
    assert_int_equal(f.moe->plan.sent, travelling);
    statistics_reduce(&f.model.stats, &f.model.work);
    const int64_t *routed = statistics_count_values(&f.model.stats, "routed", 0);
    const int64_t *dropped = statistics_count_values(&f.model.stats, "dropped", 0);
    const int64_t *zero = statistics_count_values(&f.model.stats, ZERO_COLUMN, 0);
    int64_t all = zero_choices(&f.model.stats, 0), drops = 0;
    for (int e = 0; e < E; e++) {
        assert_int_equal(routed[e], counts[e]);
        assert_int_equal(dropped[e], lost[e]);
        all += routed[e] + dropped[e];
        drops += dropped[e];
    }
    for (int e = 0; e < Z; e++) assert_int_equal(zero[e], counts[E + e]);
    assert_int_equal(all, N * K);
    assert_true(drops > 0 && zero_choices(&f.model.stats, 0) > 0);
    close_layer(&f);
}

static void identity_adds_the_input_times_its_weights(void **state) {
    (void)state;
    static Fixture identity, nothing;
    ModelConfig config = config_of();
    run_layer(&identity, config);
    config.moe.zero_kind = ZERO_NULL;
    run_layer(&nothing, config);
    bool any = false;
    for (int64_t i = 0; i < N * D; i++) any = any || nothing.out[i] != 0;
    assert_true(any); // experts add something, too
    for (int64_t n = 0; n < N; n++) {
        float weight = 0;
        for (int64_t c = n * K; c < (n + 1) * K; c++)
            if (id_of(&identity, c) >= E) weight += tensor_f32(identity.moe->router.weights)[c];
        // One product and one sum, not contracted: the same bits.
        for (int64_t d = n * D; d < (n + 1) * D; d++) {
            float product = weight * identity.x[d];
            assert_true(identity.out[d] == nothing.out[d] + product);
        }
    }
    close_layer(&identity);
    close_layer(&nothing);
}

// Sums of three weights that were divided by their sum: a few roundings of 2^-24.
static void expect_sums_to_one(double sum) {
    if (fabs(sum - 1) > 1e-6) fail_msg("the weights of a token sum to %.9g", sum);
}

static void weights_of_what_adds_something_sum_to_one_when_renormalised(void **state) {
    (void)state;
    for (int kind = ZERO_IDENTITY; kind <= ZERO_NULL; kind++) {
        Fixture f;
        ModelConfig config = config_of();
        config.moe.zero_kind = (ZeroKind)kind;
        config.moe.renormalize_after_drop = true;
        run_layer(&f, config);
        const Router *router = &f.moe->router;
        const uint8_t *adds = tensor_u8(kind == ZERO_NULL ? router->travels : router->kept);
        for (int64_t n = 0; n < N; n++) {
            double sum = 0;
            bool any = false;
            for (int64_t c = n * K; c < (n + 1) * K; c++) {
                double weight = (double)tensor_f32(router->scaled)[c];
                any = any || adds[c];
                sum += weight;
                if (!adds[c]) assert_true(weight == 0);
            }
            if (any) expect_sums_to_one(sum);
        }
        close_layer(&f);
    }
}

static void capacity_is_over_the_even_load(void **state) {
    (void)state;
    ModelConfig config = config_of();
    config.moe.capacity_factor = (Rational){1, 1};
    assert_int_equal(moe_capacity(&config.moe, moe_shape(&config, 0), 70), 30); // 70 · 3 / 7
    config.moe.zero_experts = 0;
    assert_int_equal(moe_capacity(&config.moe, moe_shape(&config, 0), 70), 53); // 70 · 3 / 4
}

static void layers_by_token_id_have_none(void **state) {
    (void)state;
    ModelConfig config = config_of();
    config.moe.hash_layers = 1;
    assert_int_equal(moe_shape(&config, 0).zero, 0);
    assert_int_equal(moe_shape(&config, 0).scored, E);
    assert_int_equal(moe_shape(&config, 1).scored, E + Z);
}

static LayerCost cost_of(ModelConfig config) {
    Fixture f;
    run_layer(&f, config);
    LayerCost cost = model_cost(&f.model);
    close_layer(&f);
    return cost;
}

static void flops_of_a_token_lie_between_all_choices_and_what_is_left_of_them(void **state) {
    (void)state;
    ModelConfig config = config_of();
    for (int64_t zero = 1; zero <= K + 1; zero++) {
        config.moe.zero_experts = 0;
        LayerCost without = cost_of(config);
        assert_true(without.flops_below == 0 && without.flops_above == 0);
        config.moe.zero_experts = zero;
        LayerCost with = cost_of(config);
        double expert = experts_flops(&config, moe_shape(&config, 0));
        double most = without.flops_per_token + 2.0 * D * (double)zero; // the wider router
        double least = most - (double)(zero < K ? zero : K) * expert;
        double spared = (double)(K * zero) / (double)(E + zero) * expert;
        assert_true(fabs(with.flops_per_token + with.flops_above - most) < 1e-9 * most);
        assert_true(fabs(with.flops_per_token - with.flops_below - least) < 1e-9 * most);
        assert_true(fabs(with.flops_per_token - (most - spared)) < 1e-9 * most);
    }
}

static void spared_flops_are_those_of_as_many_choices(void **state) {
    (void)state;
    Fixture f;
    ModelConfig config = config_of();
    run_layer(&f, config);
    statistics_reduce(&f.model.stats, &f.model.work);
    double wanted = (double)zero_choices(&f.model.stats, 0) * 2 * D * (2 * 5 + 5); // SwiGLU
    assert_true(zero_experts_spared_flops(&config, &f.model.stats) == wanted);
    close_layer(&f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_choice_is_computed_dropped_or_costs_nothing),
        cmocka_unit_test(identity_adds_the_input_times_its_weights),
        cmocka_unit_test(weights_of_what_adds_something_sum_to_one_when_renormalised),
        cmocka_unit_test(capacity_is_over_the_even_load),
        cmocka_unit_test(layers_by_token_id_have_none),
        cmocka_unit_test(flops_of_a_token_lie_between_all_choices_and_what_is_left_of_them),
        cmocka_unit_test(spared_flops_are_those_of_as_many_choices),
    };
    comm_init(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finalize();
    return failed;
}
