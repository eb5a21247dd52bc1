// The table of parameters: it takes any number of rows, and a model stays small enough for any
// stack.
#include "model/params.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/model.h"
#include "model/placement.h"

static void a_table_takes_as_many_rows_as_there_are(void **state) {
    (void)state;
    ParamTable table = {0};
    for (int i = 0; i < 10000; i++) {
        // 15 elements, padded to 16
        int row = param_add(&table, (Param){.rank = 2, .shape = {3, 5}}, "layers.%d.w", i);
        assert_int_equal(row, i);
    }
    assert_int_equal(table.count, 10000);
    assert_string_equal(table.rows[9999].name, "layers.9999.w");
    assert_int_equal(table.rows[9999].offset, 9999 * 16);
    assert_int_equal(table.elements[RUN_DENSE], 10000 * 16);
    param_table_free(&table);
    assert_int_equal(table.count, 0);
    param_table_free(&table); // legal on a zeroed one
}

// Four experts, of which this rank holds the last two.
static void each_kind_of_row_has_its_run(void **state) {
    (void)state;
    ParamTable table = {.ep_size = 2, .ep_rank = 1};
    param_add(&table, (Param){.rank = 1, .shape = {20}, .init = INIT_ONES}, "scale");
    param_add(&table, (Param){.kind = PARAM_EXPERT, .rank = 2, .shape = {4, 9}, .active = 0.25},
              "experts");
    param_add(&table, (Param){.rank = 1, .shape = {4}, .update = UPDATE_RULE}, "load_bias");
    param_add(&table, (Param){.rank = 1, .shape = {3}, .group = GROUP_NO_DECAY}, "bias");
    const Param *scale = &table.rows[0], *experts = &table.rows[1], *load_bias = &table.rows[2],
                *bias = &table.rows[3];
    assert_int_equal(scale->run, RUN_DENSE);
    assert_int_equal(bias->run, RUN_DENSE);
    assert_int_equal(bias->offset, 32);
    assert_int_equal(experts->run, RUN_EXPERT);
    assert_int_equal(experts->first, 2);
    assert_int_equal(experts->count, 2);
    assert_int_equal(load_bias->run, RUN_RULE);
    assert_int_equal(load_bias->offset, 0);
    assert_int_equal(table.elements[RUN_DENSE], 48);
    assert_int_equal(table.elements[RUN_EXPERT], 32);
    assert_int_equal(table.elements[RUN_RULE], 16);
    assert_int_equal(param_elements(experts), 36);
    assert_int_equal(param_active_elements(experts), 9);
    assert_int_equal(param_active_elements(bias), 3);
    assert_ptr_equal(param_find(&table, "load_bias"), load_bias);
    assert_null(param_find(&table, "load"));
    assert_true(param_groups[scale->group].decay);
    assert_false(param_groups[bias->group].decay);
    param_table_free(&table);
}

// Wherever an expert lives, it is the same row, and the same segment of a norm, with the same first
// values.
static void rows_follow_their_experts(void **state) {
    (void)state;
    enum { E = 4, D = 9 };
    const int32_t expert_at[E] = {2, 0, 3, 1};
    Placement placement = {0};
    ExpertPlaces *places = placement_table(&placement, 0, ROUTER_OF_FEED_FORWARD, E);
    placement_set(places, expert_at);
    Param row = {.kind = PARAM_EXPERT, .rank = 2, .shape = {E, D}, .init_std = 1};
    ParamTable whole = {.ep_size = 1}, half = {.ep_size = 2, .ep_rank = 1};
    param_add(&whole, row, "experts");
    row.places = places;
    param_add(&half, row, "experts");
    float all[E * D], here[2 * D];
    param_init_row(&whole.rows[0], all, 7);
    param_init_row(&half.rows[0], here, 7);
    for (int64_t i = 0; i < 2; i++) {
        int64_t expert = expert_at[2 + i];
        assert_int_equal(places->place_of[expert], 2 + i);
        assert_int_equal(param_global_row(&half.rows[0], i), expert);
        assert_int_equal(param_global_segment(&half.rows[0], i), expert);
        assert_memory_equal(here + i * D, all + expert * D, D * sizeof *here);
    }
    param_table_free(&whole);
    param_table_free(&half);
    placement_free(&placement);
}

// A value in a run of its own, which a set of gradients or moments does not have.
static void a_row_changed_by_a_rule_has_a_value_and_nothing_else(void **state) {
    (void)state;
    ParamTable table = {0};
    param_add(&table, (Param){.rank = 1, .shape = {5}}, "w");
    int row = param_add(&table, (Param){.rank = 1, .shape = {4}, .update = UPDATE_RULE}, "bias");
    Arena arena;
    ParamSet values, gradients;
    arena_measure(&arena, "parameters", NULL);
    for (int pass = 0; pass < 2; pass++) {
        values = param_values_layout(&table, &arena);
        gradients = param_set_layout(&table, &arena, F32);
        if (pass == 0) arena_allocate(&arena);
    }
    assert_int_equal(tensor_elements(values.run[RUN_RULE]), 16);
    assert_null(gradients.run[RUN_RULE].data);
    assert_ptr_equal(param_tensor(&table, values, row).data, values.run[RUN_RULE].data);
    arena_free(&arena);
    param_table_free(&table);
}

// The initial values of the row "w" in a table of three rows, with and without others beside it.
static void initial_values(float w[12], bool more_rows) {
    ParamTable table = {0};
    Arena arena;
    ParamSet values;
    Device dev;
    Error err = {0};
    assert_true(device_open(&dev, "cpu", 1, 0, 1, &err));
    const Param matrix = {.rank = 2, .shape = {3, 4}, .init_std = 1};
    if (more_rows) param_add(&table, matrix, "before");
    int row = param_add(&table, matrix, "w");
    param_add(&table, matrix, "v");
    if (more_rows) param_add(&table, matrix, "after");
    arena_measure(&arena, "parameters", NULL);
    for (int pass = 0; pass < 2; pass++) {
        values = param_values_layout(&table, &arena);
        if (pass == 0) arena_allocate(&arena);
    }
    param_init(&table, &dev, values, 7);
    memcpy(w, param_tensor(&table, values, row).data, 12 * sizeof *w);
    const float *v = tensor_f32(param_tensor(&table, values, row + 1));
    for (int i = 0; i < 12; i++) assert_true(w[i] != v[i] && w[i] != 0);
    arena_free(&arena);
    param_table_free(&table);
}

static void a_row_changes_no_other_rows_values(void **state) {
    (void)state;
    float alone[12], among[12];
    initial_values(alone, false);
    initial_values(among, true);
    assert_memory_equal(alone, among, sizeof alone);
}

static void a_model_is_small(void **state) {
    (void)state;
    assert_in_range(sizeof(Model), 1, 65536);
}

static void names_begin_with_the_scope(void **state) {
    (void)state;
    ParamTable table = {0};
    param_scope(&table, "layers", 3);
    param_add(&table, (Param){.rank = 1, .shape = {5}}, "%s_norm", "ffn");
    param_scope(&table, NULL, 0);
    param_add(&table, (Param){.rank = 1, .shape = {5}}, "final_norm");
    assert_string_equal(table.rows[0].name, "layers.3.ffn_norm");
    assert_string_equal(table.rows[1].name, "final_norm");
    param_table_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_begin_with_the_scope),
        cmocka_unit_test(a_table_takes_as_many_rows_as_there_are),
        cmocka_unit_test(each_kind_of_row_has_its_run),
        cmocka_unit_test(rows_follow_their_experts),
        cmocka_unit_test(a_row_changed_by_a_rule_has_a_value_and_nothing_else),
        cmocka_unit_test(a_row_changes_no_other_rows_values),
        cmocka_unit_test(a_model_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
