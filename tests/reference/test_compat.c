// The rules of other systems (compat) against values of make_compat_fixtures.py: capacity, choices,
// who is dropped, weights and loss, on sizes that do not divide; on every device.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fixture.h"
#include "launcher/config.h"
#include "tests/kernels/harness.h"

static const char *const CASES[] = {"even", "odd", "small", "tenths"};

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

// What the router does with the tokens of one case.
typedef struct Case {
    const MoeConfig *moe;
    Tensor logits, kept, scaled, of_group, dropped_of_group, order, balance;
    Routing routing;
    RouterSums sums;
    CapacityRule rule;
    RouterTotals to;
    LoadTerm term;
} Case;

static Case new_case(Fixture *f, const MoeConfig *moe, MoeShape shape, Tensor logits, int64_t K) {
    int64_t N = logits.shape[0], E = logits.shape[1];
    Case c = {
        .moe = moe,
        .logits = logits,
        .kept = fixture_result_2d(f, U8, N, K),
        .scaled = fixture_result_2d(f, F32, N, K),
        .of_group = fixture_result_2d(f, I32, 1, E),
        .dropped_of_group = fixture_result_2d(f, I32, 1, E),
        .order = fixture_result_1d(f, I32, N * K + E + 1),
        .balance = fixture_result_2d(f, F32, 1, E),
        .routing = {.ids = fixture_result_2d(f, I32, N, K),
                    .weights = fixture_result_2d(f, F32, N, K),
                    .lse = fixture_result_1d(f, F32, N)},
        .sums = {.prob_sum = fixture_result_2d(f, F64, 1, E),
                 .entropy_sum = fixture_result_1d(f, F64, 1),
                 .lse2_sum = fixture_result_1d(f, F64, 1),
                 .weight_mass = fixture_result_2d(f, F64, 1, E),
                 .tokens_per_expert = fixture_result_2d(f, I32, 1, E),
                 .dropped = fixture_result_2d(f, I32, 1, E)},
        .rule = {.policy = moe->drop},
        .to = {.totals = fixture_result_2d(f, F64, 1, E + 3),
               .z = 1,
               .entropy = 2,
               .weight_mass = 3,
               .routed = fixture_result_1d(f, I64, E),
               .dropped = fixture_result_1d(f, I64, E)},
        .term = {.choices = (double)balance_denominator(moe, shape, N),
                 .parts = 1,
                 .counts_row = -1},
    };
    if (moe->balance_choices == BALANCE_FIRST_CHOICES)
        c.sums.first_choices = fixture_result_2d(f, I32, 1, E);
    return c;
}

static void run(Device *dev, void *context) {
    Case *c = context;
    int64_t N = c->logits.shape[0];
    router_forward(dev, c->routing, c->sums, c->logits, (Tensor){0}, c->moe->router);
    capacity_assign(dev, c->kept, c->of_group, c->dropped_of_group, c->routing.ids,
                    c->routing.weights, c->rule, c->order);
    if (c->moe->renormalize_after_drop)
        renormalize_forward(dev, c->scaled, c->routing.weights, c->kept);
    else
        copy(dev, c->scaled, c->routing.weights);
    expert_load(dev, c->sums, c->routing.ids, c->scaled, c->kept, false);
    if (c->sums.first_choices.data) count_first_choices(dev, c->sums.first_choices, c->routing.ids);
    router_totals(dev, c->to, c->balance, c->sums, (Tensor){0},
                  (BalanceRule){{c->term}, 1, 1.0 / (double)N});
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

    for (int d = 0; d < device_count(); d++) {
        Case c = new_case(f, moe, shape, logits, K);
        c.rule.capacity = capacity;
        run_on(device_at(d), run, &c,
               TENSORS(&c.logits, &c.routing.ids, &c.routing.weights, &c.routing.lse, &c.kept,
                       &c.scaled, &c.sums.prob_sum, &c.sums.entropy_sum, &c.sums.lse2_sum,
                       &c.sums.weight_mass, &c.sums.tokens_per_expert, &c.sums.dropped,
                       &c.sums.first_choices, &c.of_group, &c.dropped_of_group, &c.order,
                       &c.to.totals, &c.to.routed, &c.to.dropped, &c.balance));
        fixture_assert_equal(f, c.routing.ids, "%s/%s/ids", system, name);
        fixture_assert_equal(f, c.kept, "%s/%s/kept", system, name);
        for (int64_t i = 0; i < N * K; i++)
            if (!tensor_u8(c.kept)[i]) tensor_f32(c.scaled)[i] = 0;
        // Exponentials and sums of f32: some ulp.
        fixture_assert_close(f, c.scaled, 2e-6, "%s/%s/weights", system, name);
        fixture_assert_close(f, tensor_range(c.to.totals, 0, 1), 2e-6, "%s/%s/loss", system, name);
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
