// Learning rates and decays by the names of parameters.
#include "worker/optimizer/update_groups.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static ParamTable parameters(void) {
    ParamTable table = {0};
    param_add(&table, (Param){.rank = 2, .shape = {4, 4}}, "embedding");
    param_add(&table, (Param){.rank = 2, .shape = {4, 4}, .lr_scale = 0.5f}, "layers.0.moe.router");
    param_add(&table, (Param){.rank = 1, .shape = {4}, .group = GROUP_NO_DECAY}, "layers.0.norm");
    param_add(&table, (Param){.rank = 1, .shape = {4}, .update = UPDATE_RULE}, "layers.0.moe.bias");
    param_add(&table, (Param){.rank = 2, .shape = {4, 4}}, "head");
    param_add(&table, (Param){.rank = 1, .shape = {4}, .group = GROUP_NO_DECAY}, "norm");
    return table;
}

static OptimizerConfig with_groups(int64_t count, const GroupRule *rules) {
    OptimizerConfig config = {.weight_decay = 0.25, .groups.count = count};
    for (int64_t i = 0; i < count; i++) config.groups.maps[i] = rules[i];
    return config;
}

static void the_first_group_that_matches_is_a_parameters(void **state) {
    (void)state;
    ParamTable table = parameters();
    const GroupRule rules[] = {
        {"*.moe.router", 0.125, 0}, {"layers.?.*", 3, 0.75}, {"emb*", 0, GROUP_DECAY_AS_BEFORE}};
    OptimizerConfig config = with_groups(3, rules);
    Error err = {0};
    assert_true(update_groups_check(&table, &config, &err));
    UpdateGroups groups;
    update_groups_init(&groups, &table, &config);
    static const UpdateGroup want[] = {{0, 0.25}, {0.0625, 0}, {3, 0.75},
                                       {3, 0.75}, {1, 0.25},   {1, 0}}; // 0.0625: times its own
    for (int i = 0; i < 6; i++) {
        assert_true(groups.groups[groups.row[i]].lr_scale == want[i].lr_scale);
        assert_true(groups.groups[groups.row[i]].weight_decay == want[i].weight_decay);
    }
    update_groups_free(&groups);
    param_table_free(&table);
}

static void a_group_of_nothing_is_refused(void **state) {
    (void)state;
    static const struct {
        GroupRule rules[2];
        const char *parts[2];
    } cases[] = {
        {{{"emb*", 1, 0}, {"*.moe.ruoter", 1, 0}}, {"'*.moe.ruoter'", "'layers.0.moe.router'?"}},
        {{{"*", 1, 0}, {"*.norm", 1, 0}}, {"'*.norm'", "narrower pattern first"}},
        {{{"emb*", 1, 0}, {"*.bias", 1, 0}}, {"layers.0.moe.bias", "no optimizer changes"}},
        {{{"emb*", 1, 0}, {"something", 1, 0}}, {"'something'", "moetrain inspect"}},
    };
    ParamTable table = parameters();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        OptimizerConfig config = with_groups(2, cases[i].rules);
        Error err = {0};
        assert_false(update_groups_check(&table, &config, &err));
        assert_int_equal(err.exit_code, EXIT_CONFIG);
        for (int part = 0; part < 2; part++)
            if (!strstr(err.message, cases[i].parts[part])) fail_msg("%s", err.message);
    }
    param_table_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_group_that_matches_is_a_parameters),
        cmocka_unit_test(a_group_of_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
