// The rules of other systems (compat) against values of make_compat_fixtures.py: capacity, choices,
// who is dropped, weights and loss, on sizes that do not divide.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fixture.h"
#include "launcher/config.h"

static const char *const CASES[] = {"even", "odd", "small", "tenths"};
static Device dev;

// The moe section under `compat` for the sizes of a case.
static void read_config(Config *config, Fixture *f, const char *system, const char *name, int64_t E,
                        int64_t K) {
    char compat[64], experts[64], top_k[64], factor[64];
    Error err = {0};
    int64_t capacity = fixture_int(f, "%s/%s/config/capacity", system, name);
    snprintf(compat, sizeof compat, "compat=%s", system);
    snprintf(experts, sizeof experts, "moe.experts=%lld", (long long)E);
    snprintf(top_k, sizeof top_k, "moe.top_k=%lld", (long long)K);
    snprintf(factor, sizeof factor, "moe.capacity_factor=%lld/%lld",
             (long long)fixture_int(f, "%s/%s/config/numerator", system, name),
             (long long)fixture_int(f, "%s/%s/config/denominator", system, name));
    const char *const overrides[] = {"data.train=x", compat, experts, top_k, factor};
    // A system without drops has no capacity by default either.
    int count = capacity < 0 ? 4 : 5;
    if (!config_read(config, "/compat.yaml", "", 0, overrides, count, &err))
        fail_msg("%s", err.message);
}

static void assert_case(const char *system, const char *name) {
    Fixture *f = fixture_open("compat");
    Tensor logits = fixture_tensor(f, F32, "%s/%s/logits", system, name);
    Tensor wanted = fixture_tensor(f, F32, "%s/%s/weights", system, name);
    int64_t N = logits.shape[0], E = logits.shape[1], K = wanted.shape[1];
    Config *config = config_new();
    read_config(config, f, system, name, E, K);
    const MoeConfig *moe = &config->train.model.moe;
    MoeShape shape = moe_shape(&config->train.model, 0);
    int64_t capacity = moe_capacity(moe, shape, N);
    int64_t published = fixture_int(f, "%s/%s/config/capacity", system, name);
    // More than all tokens is as many as there are.
    if (capacity != published && !(capacity == N && published > N))
        fail_msg("%s, %s: capacity %lld, wanted %lld", system, name, (long long)capacity,
                 (long long)published);

    Routing routing = {fixture_result_2d(f, I32, N, K), fixture_result_2d(f, F32, N, K),
                       fixture_result_1d(f, F32, N)};
    RouterSums sums = {.prob_sum = fixture_result_2d(f, F64, 1, E),
                       .entropy_sum = fixture_result_1d(f, F64, 1),
                       .lse2_sum = fixture_result_1d(f, F64, 1),
                       .weight_mass = fixture_result_2d(f, F64, 1, E),
                       .tokens_per_expert = fixture_result_2d(f, I32, 1, E),
                       .dropped = fixture_result_2d(f, I32, 1, E)};
    Tensor kept = fixture_result_2d(f, U8, N, K), scaled = fixture_result_2d(f, F32, N, K);
    router_forward(&dev, routing, sums, logits, (Tensor){0}, moe->router);
    fixture_assert_equal(f, routing.ids, "%s/%s/ids", system, name);
    capacity_assign(&dev, kept, fixture_result_2d(f, I32, 1, E), fixture_result_2d(f, I32, 1, E),
                    routing.ids, routing.weights,
                    (CapacityRule){.capacity = capacity, .policy = moe->drop},
                    fixture_result_1d(f, I32, N * K + E + 1));
    fixture_assert_equal(f, kept, "%s/%s/kept", system, name);
    for (int64_t i = 0; i < N * K; i++)
        tensor_f32(scaled)[i] = tensor_u8(kept)[i] ? tensor_f32(routing.weights)[i] : 0;
    if (moe->renormalize_after_drop) renormalize_forward(&dev, scaled, routing.weights, kept);
    // Exponentials and sums of f32: some ulp.
    fixture_assert_close(f, scaled, 2e-6, "%s/%s/weights", system, name);

    bool first_choices = strcmp(system, "gshard") == 0 || strcmp(system, "deepspeed") == 0 ||
                         strcmp(system, "tutel") == 0;
    if (!first_choices) {
        Tensor totals = fixture_result_2d(f, F64, 1, E + 3);
        expert_load(&dev, sums, routing.ids, scaled, kept, false);
        LoadTerm term = {
            .choices = (double)balance_denominator(moe, shape, N), .parts = 1, .counts_row = -1};
        router_totals(&dev,
                      (RouterTotals){.totals = totals,
                                     .z = 1,
                                     .entropy = 2,
                                     .weight_mass = 3,
                                     .routed = fixture_result_1d(f, I64, E),
                                     .dropped = fixture_result_1d(f, I64, E)},
                      fixture_result_2d(f, F32, 1, E), sums, (Tensor){0},
                      (BalanceRule){{term}, 1, 1.0 / (double)N});
        fixture_assert_close(f, tensor_range(totals, 0, 1), 2e-6, "%s/%s/loss", system, name);
    }
    free(config);
    fixture_close(f);
}

#define SYSTEM(name)                                                                               \
    static void name##_routes_and_drops_as_there(void **state) {                                   \
        (void)state;                                                                               \
        for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) assert_case(#name, CASES[i]);    \
    }
SYSTEM(megatron)
SYSTEM(gshard)
SYSTEM(switch)
SYSTEM(deepspeed)
SYSTEM(tutel)
SYSTEM(mixtral)
SYSTEM(olmoe)
SYSTEM(qwen3)
SYSTEM(deepseek_v3)
SYSTEM(gpt_oss)

// A key that is given wins; others still follow the system.
static void given_keys_win(void **state) {
    (void)state;
    Config *config = config_new();
    Error err = {0};
    const char *const overrides[] = {"data.train=x", "compat=megatron", "moe.drop=position"};
    assert_true(config_read(config, "/compat.yaml", "", 0, overrides, 3, &err));
    assert_int_equal(config->train.model.moe.drop, DROP_POSITION);
    assert_int_equal(config->train.model.moe.capacity_rounding, CAPACITY_CEIL_F64);
    assert_true(config->train.model.moe.balance.maps[0].factor == 0.01);
    free(config);
}

int main(void) {
    Error err = {0};
    CHECK(device_open(&dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(megatron_routes_and_drops_as_there),
        cmocka_unit_test(gshard_routes_and_drops_as_there),
        cmocka_unit_test(switch_routes_and_drops_as_there),
        cmocka_unit_test(deepspeed_routes_and_drops_as_there),
        cmocka_unit_test(tutel_routes_and_drops_as_there),
        cmocka_unit_test(mixtral_routes_and_drops_as_there),
        cmocka_unit_test(olmoe_routes_and_drops_as_there),
        cmocka_unit_test(qwen3_routes_and_drops_as_there),
        cmocka_unit_test(deepseek_v3_routes_and_drops_as_there),
        cmocka_unit_test(gpt_oss_routes_and_drops_as_there),
        cmocka_unit_test(given_keys_win),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
