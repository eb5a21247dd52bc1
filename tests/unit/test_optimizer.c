// The optimizer's groups, ranges and states, and what of them is saved, over a table of parameters
// without layers.
#include "worker/optimizer/optimizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "worker/restore.h"

static const OptimizerConfig config = {
    .kind = OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.5};

typedef struct Fixture {
    Model model;
    Optimizer optimizer;
    Device dev;
    int matrix, scale, experts, rule, slow;
} Fixture;

static void layout(Model *model) {
    model->values = param_values_layout(&model->params, &model->parameter_arena);
    model->gradients.sum = param_set_layout(&model->params, &model->gradient_arena, F32);
}

static void fill(Tensor x, float value) {
    for (int64_t i = 0; i < tensor_elements(x); i++) tensor_f32(x)[i] = value;
}

// Values of 1 everywhere.
static void open_fixture(Fixture *f) {
    *f = (Fixture){0};
    Error err = {0};
    assert_true(device_open(&f->dev, "cpu", 1, 0, 1, &err));
    Model *model = &f->model;
    ParamTable *table = &model->params;
    f->matrix = param_add(table, (Param){.rank = 2, .shape = {3, 5}}, "matrix");
    f->rule = param_add(table, (Param){.rank = 1, .shape = {4}, .update = UPDATE_RULE}, "rule");
    f->scale = param_add(table, (Param){.rank = 1, .shape = {5}, .group = GROUP_NO_DECAY}, "scale");
    f->experts =
        param_add(table, (Param){.kind = PARAM_EXPERT, .rank = 2, .shape = {2, 8}}, "experts");
    f->slow = param_add(table, (Param){.rank = 1, .shape = {28}, .lr_scale = 0.5f}, "slow");
    model->work = (Work){.dev = &f->dev, .params = table, .shape = {.ep_size = 1}};
    model->work.groups = process_groups_open(1, &f->dev);
    arena_measure(&model->parameter_arena, "parameters", NULL);
    arena_measure(&model->gradient_arena, "gradients", NULL);
    layout(model);
    arena_allocate(&model->parameter_arena);
    arena_allocate(&model->gradient_arena);
    layout(model);
    optimizer_measure(&f->optimizer, model, &config);
    optimizer_allocate(&f->optimizer, model);
    for (int i = 0; i < table->count; i++) fill(param_tensor(table, model->values, i), 1);
}

static void close_fixture(Fixture *f) {
    optimizer_free(&f->optimizer);
    process_groups_close(&f->model.work.groups);
    model_free(&f->model);
}

static float value_of(const Fixture *f, int row) {
    return tensor_f32(param_tensor(&f->model.params, f->model.values, row))[0];
}

static void a_group_says_whether_weights_decay(void **state) {
    (void)state;
    Fixture f;
    open_fixture(&f);
    optimizer_update(&f.optimizer, &f.model, 0.25, 1, 1); // all gradients are zero
    assert_true(value_of(&f, f.matrix) == 1 - 0.25f * 0.5f);
    assert_true(value_of(&f, f.experts) == 1 - 0.25f * 0.5f);
    assert_true(value_of(&f, f.scale) == 1);
    close_fixture(&f);
}

static void a_parameter_scales_its_learning_rate(void **state) {
    (void)state;
    Fixture f;
    open_fixture(&f);
    const UpdateGroups *table = &f.optimizer.table;
    assert_int_equal(table->count, 3);
    assert_int_equal(table->row[f.matrix], table->row[f.experts]);
    optimizer_update(&f.optimizer, &f.model, 0.25, 1, 1);
    assert_true(value_of(&f, f.slow) == 1 - 0.125f * 0.5f);
    Tensor slow = param_tensor(&f.model.params, f.model.values, f.slow);
    assert_true(tensor_f32(slow)[27] == 1 - 0.125f * 0.5f);
    close_fixture(&f);
}

// 15 + 5 + 16 + 28 elements have a gradient of 2. The first step of AdamW is lr, whatever the
// gradient.
static void what_a_rule_changes_is_no_business_of_the_optimizer(void **state) {
    (void)state;
    Fixture f;
    open_fixture(&f);
    for (int i = 0; i < f.model.params.count; i++)
        if (i != f.rule) fill(param_tensor(&f.model.params, f.model.gradients.sum, i), 2);
    assert_true(fabs(optimizer_gradient_norm(&f.optimizer, &f.model) - 16) < 1e-6);
    optimizer_update(&f.optimizer, &f.model, 0.25, 1, 1);
    assert_true(fabsf(value_of(&f, f.scale) - 0.75f) < 1e-6f);
    assert_true(value_of(&f, f.rule) == 1);
    close_fixture(&f);
}

static void ranges_and_states_are_those_of_the_rules(void **state) {
    (void)state;
    Fixture f;
    open_fixture(&f);
    const Optimizer *optimizer = &f.optimizer;
    assert_int_equal(optimizer->range_count, 2); // a run each
    assert_int_equal(optimizer->ranges[0].elements, f.model.params.elements[RUN_DENSE]);
    assert_int_equal(optimizer->ranges[1].elements, f.model.params.elements[RUN_EXPERT]);
    assert_int_equal(optimizer->state_count, 2);
    assert_string_equal(optimizer->states[0].name, "optimizer/m");
    assert_string_equal(optimizer->states[1].name, "optimizer/v");
    assert_true(optimizer_has_state(optimizer, 1, f.experts));
    assert_false(optimizer_has_state(optimizer, 1, f.rule));
    close_fixture(&f);
}

static const SavedTensor *find(const SavedTensor *saved, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(saved[i].name, name) == 0) return &saved[i];
    return NULL;
}

static void every_value_and_state_is_saved(void **state) {
    (void)state;
    Fixture f;
    HostState host;
    int count;
    open_fixture(&f);
    host_state_open(&host, &f.model, &f.optimizer);
    SavedTensor *saved = saved_tensors(&host, &(Vocabulary){0}, &count);
    assert_int_equal(count, 5 + 4 + 4);
    const SavedTensor *rule = find(saved, count, "parameters/rule");
    assert_non_null(rule);
    assert_int_equal(rule->elements, 4);
    assert_true(rule->replicated);
    assert_ptr_equal(rule->data, f.model.values.run[RUN_RULE].data);
    assert_null(find(saved, count, "optimizer/m/rule"));
    const SavedTensor *experts = find(saved, count, "optimizer/v/experts");
    assert_non_null(experts);
    assert_int_equal(experts->elements, 16);
    assert_false(experts->replicated);
    assert_ptr_equal(experts->data, f.optimizer.states[1].set.run[RUN_EXPERT].data);
    assert_non_null(find(saved, count, "optimizer/m/scale"));
    free(saved);
    host_state_close(&host);
    close_fixture(&f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_says_whether_weights_decay),
        cmocka_unit_test(a_parameter_scales_its_learning_rate),
        cmocka_unit_test(what_a_rule_changes_is_no_business_of_the_optimizer),
        cmocka_unit_test(ranges_and_states_are_those_of_the_rules),
        cmocka_unit_test(every_value_and_state_is_saved),
    };
    comm_init(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finalize();
    return failed;
}
