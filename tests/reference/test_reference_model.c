// The MoE layer, and ten training steps of whole models, against PyTorch (make_fixtures.py).
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "fixture.h"
#include "model/moe_layer.h"
#include "worker/lr_schedule.h"
#include "worker/optimizer.h"

// f32 against f64 from the same inputs, relative to the largest element: 1e-6 at most is seen,
// after ten steps too, since AdamW passes on relative errors. Five times that leaves room for other
// compilers and matrix libraries.
static const double TOLERANCE = 5e-6;

static Device dev;
static ProcessGroups groups;

static int open_rank(void **state) {
    (void)state;
    Error err = {0};
    comm_init(&(int){0}, &(char **){NULL});
    groups = process_groups_open(1, NULL);
    return device_open(&dev, "cpu", 1, 0, 1, &err) ? 0 : -1;
}

static int close_rank(void **state) {
    (void)state;
    process_groups_close(&groups);
    comm_finalize();
    return 0;
}

static MoeConfig read_moe_config(Fixture *f, const char *name) {
    return (MoeConfig){
        .experts = {1, {(int32_t)fixture_int(f, "%s/config/experts", name)}},
        .top_k = {1, {(int32_t)fixture_int(f, "%s/config/top_k", name)}},
        .d_ff = {1, {(int32_t)fixture_int(f, "%s/config/moe_d_ff", name)}},
        .every = 1,
        .router = {(RouterKind)fixture_int(f, "%s/config/router", name),
                   fixture_int(f, "%s/config/normalize_top_k", name) != 0},
        .capacity_factor = {fixture_int(f, "%s/config/capacity_numerator", name),
                            fixture_int(f, "%s/config/capacity_denominator", name)},
        .min_capacity = fixture_int(f, "%s/config/min_capacity", name),
        .drop = (DropPolicy)fixture_int(f, "%s/config/drop", name),
        .renormalize_after_drop = fixture_int(f, "%s/config/renormalize_after_drop", name) != 0,
        .routing_group = (RoutingGroup)fixture_int(f, "%s/config/routing_group", name),
        .balance = {1,
                    {{.scope = (int)fixture_int(f, "%s/config/balance_scope", name),
                      .factor = fixture_double(f, "%s/config/balance_loss", name)}}},
        .z_loss = fixture_double(f, "%s/config/z_loss", name),
        .max_expert_replicas = 1,
    };
}

static ModelSplit read_split(Fixture *f, const char *name, int64_t sequences) {
    return (ModelSplit){
        .ranks = 1,
        .expert_parallel = 1,
        .shards = fixture_int(f, "%s/config/shards", name),
        .sequences = sequences,
        .context = fixture_int(f, "%s/config/T", name),
        .micro_batches = 1,
        .fixed_tree = true,
        .training = true,
    };
}

static void load_tensor(Fixture *f, Tensor to, const char *name, const char *dataset) {
    Tensor from = fixture_tensor(f, F32, "%s/%s", name, dataset);
    assert_int_equal(tensor_elements(from), tensor_elements(to));
    memcpy(to.data, from.data, tensor_bytes(to));
}

// ---- one MoE layer ------------------------------------------------------------------------------

// A model of one MoE layer of which only that layer runs.
static void open_layer_model(Model *model, Fixture *f, const char *name) {
    ModelConfig config = {
        .vocab_size = 2,
        .d_model = fixture_int(f, "%s/config/d_model", name),
        .layers = 1,
        .d_ff = 1,
        .activation = (Activation)fixture_int(f, "%s/config/activation", name),
        .norm_eps = 1e-5,
        .init_std = 1,
        .attention = {{1, 1, 2, 2}, 10000.0},
        .moe = read_moe_config(f, name),
    };
    model_measure(model, &config, read_split(f, name, fixture_int(f, "%s/config/sequences", name)),
                  &dev);
    model_allocate(model, groups, 1);
    model_init_parameters(model);
}

static void assert_moe_layer(const char *name) {
    Fixture *f = fixture_open("moe_layer");
    Model model;
    open_layer_model(&model, f, name);
    Work *work = &model.work;
    MoeLayer *moe = model.blocks[0].feed_forward.state;
    load_tensor(f, work_value(work, moe->router.weight), name, "router");
    load_tensor(f, work_value(work, moe->experts.gate_up.weight), name, "gate_up");
    load_tensor(f, work_value(work, moe->experts.down.weight), name, "down");

    Tensor x = fixture_tensor(f, F32, "%s/x", name);
    Tensor out = fixture_result_2d(f, F32, x.shape[0], x.shape[1]);
    statistics_clear(&model.stats, &dev);
    MOE_FEED_FORWARD.forward(moe, work, &model.stats, out, x);
    fixture_assert_equal(f, moe->router.ids, "%s/ids", name);
    fixture_assert_equal(f, moe->router.kept, "%s/kept", name);
    fixture_assert_close(f, out, TOLERANCE, "%s/out", name);

    Tensor dout = fixture_tensor(f, F32, "%s/dout", name);
    Tensor dx = fixture_result_2d(f, F32, x.shape[0], x.shape[1]);
    MOE_FEED_FORWARD.backward(moe, work, dx, dout);
    fixture_assert_close(f, dx, TOLERANCE, "%s/dx", name);
    fixture_assert_close(f, work_gradient(work, moe->router.weight), TOLERANCE, "%s/drouter", name);
    fixture_assert_close(f, work_gradient(work, moe->experts.gate_up.weight), TOLERANCE,
                         "%s/dgate_up", name);
    fixture_assert_close(f, work_gradient(work, moe->experts.down.weight), TOLERANCE, "%s/ddown",
                         name);

    statistics_reduce(&model.stats, work);
    double balance_value = statistics_value(&model.stats, "balance", 0);
    double z_value = statistics_value(&model.stats, "z", 0);
    Tensor balance = tensor_1d(&balance_value, F64, 1), z = tensor_1d(&z_value, F64, 1);
    fixture_assert_close(f, balance, TOLERANCE, "%s/balance", name);
    fixture_assert_close(f, z, TOLERANCE, "%s/z", name);
    Tensor routed = fixture_tensor(f, I64, "%s/routed", name);
    Tensor dropped = fixture_tensor(f, I64, "%s/dropped", name);
    assert_memory_equal(dropped.data, statistics_count_values(&model.stats, "dropped", 0),
                        tensor_bytes(dropped));
    assert_memory_equal(routed.data, statistics_count_values(&model.stats, "routed", 0),
                        tensor_bytes(routed));
    model_free(&model);
    fixture_close(f);
}

static void moe_layers_agree_forward_and_backward(void **state) {
    (void)state;
    assert_moe_layer("position");
    assert_moe_layer("probability");
    assert_moe_layer("dropless");
    assert_moe_layer("renormalized");
    assert_moe_layer("switch");
}

// ---- ten steps of a whole model -----------------------------------------------------------------

static ModelConfig read_model_config(Fixture *f, const char *name) {
    ModelConfig config = {
        .vocab_size = fixture_int(f, "%s/config/vocab_size", name),
        .d_model = fixture_int(f, "%s/config/d_model", name),
        .layers = fixture_int(f, "%s/config/layers", name),
        .d_ff = fixture_int(f, "%s/config/d_ff", name),
        .tied_embeddings = fixture_int(f, "%s/config/tied_embeddings", name) != 0,
        .activation = (Activation)fixture_int(f, "%s/config/activation", name),
        .norm_eps = fixture_double(f, "%s/config/norm_eps", name),
        .init_std = 1,
        .attention = {{fixture_int(f, "%s/config/heads", name),
                       fixture_int(f, "%s/config/kv_heads", name),
                       fixture_int(f, "%s/config/d_head", name),
                       fixture_int(f, "%s/config/d_value", name)},
                      fixture_double(f, "%s/config/rope_theta", name)},
        .moe = read_moe_config(f, name),
    };
    config.moe.every = fixture_int(f, "%s/config/every", name);
    config.moe.first = fixture_int(f, "%s/config/first", name) != 0;
    return config;
}

static OptimizerConfig read_optimizer_config(Fixture *f, const char *name) {
    return (OptimizerConfig){
        .lr = fixture_double(f, "%s/config/lr", name),
        .min_lr = fixture_double(f, "%s/config/min_lr", name),
        .schedule = LR_COSINE,
        .warmup_steps = fixture_int(f, "%s/config/warmup_steps", name),
        .beta1 = fixture_double(f, "%s/config/beta1", name),
        .beta2 = fixture_double(f, "%s/config/beta2", name),
        .eps = fixture_double(f, "%s/config/eps", name),
        .weight_decay = fixture_double(f, "%s/config/weight_decay", name),
        .clip_norm = fixture_double(f, "%s/config/clip_norm", name),
    };
}

// What the steps reported, in the shapes of the fixture.
typedef struct Reports {
    Tensor loss, balance, z, gradient_norm, lr; // (steps) or (steps, MoE layers) f64
    Tensor routed, dropped;                     // (steps · MoE layers, E) i32
} Reports;

static Reports open_reports(Fixture *f, int64_t steps, int64_t moe_layers, int64_t experts) {
    return (Reports){
        .loss = fixture_result_1d(f, F64, steps),
        .balance = fixture_result_2d(f, F64, steps, moe_layers),
        .z = fixture_result_2d(f, F64, steps, moe_layers),
        .gradient_norm = fixture_result_1d(f, F64, steps),
        .lr = fixture_result_1d(f, F64, steps),
        .routed = fixture_result_2d(f, I32, steps * moe_layers, experts),
        .dropped = fixture_result_2d(f, I32, steps * moe_layers, experts),
    };
}

static void report_step(Reports *reports, int64_t step, Statistics *stats) {
    tensor_f64(reports->loss)[step] = statistics_loss(stats);
    int64_t moe_layers = reports->balance.shape[1], experts = reports->routed.shape[1];
    for (int64_t layer = 0, row = step * moe_layers; row < (step + 1) * moe_layers; layer++) {
        if (!statistics_find(stats, "balance", layer)) continue;
        tensor_f64(reports->balance)[row] = statistics_value(stats, "balance", layer);
        tensor_f64(reports->z)[row] = statistics_value(stats, "z", layer);
        const int64_t *routed = statistics_count_values(stats, "routed", layer);
        const int64_t *dropped = statistics_count_values(stats, "dropped", layer);
        for (int64_t e = 0; e < experts; e++) {
            tensor_i32(reports->routed)[row * experts + e] = (int32_t)routed[e];
            tensor_i32(reports->dropped)[row * experts + e] = (int32_t)dropped[e];
        }
        row++;
    }
}

// Cuts inputs and targets, one ahead, out of `count` sequences of T + 1 tokens.
static void cut_tokens(const int32_t *text, int64_t count, int64_t T, int32_t *inputs,
                       int32_t *targets) {
    for (int64_t b = 0; b < count; b++)
        for (int64_t t = 0; t < T; t++) {
            inputs[b * T + t] = text[b * (T + 1) + t];
            targets[b * T + t] = text[b * (T + 1) + t + 1];
        }
}

static void assert_params_close(Fixture *f, Model *model, ParamSet set, const char *name,
                                const char *group) {
    for (int i = 0; i < model->params.count; i++)
        fixture_assert_close(f, param_tensor(&model->params, set, i), TOLERANCE, "%s/%s/%s", name,
                             group, model->params.rows[i].name);
}

// The loop of worker/train.c with the fixture's tokens.
static void run_steps(Fixture *f, const char *name, Model *model, Optimizer *optimizer,
                      Reports *reports) {
    OptimizerConfig config = read_optimizer_config(f, name);
    int64_t steps = fixture_int(f, "%s/config/steps", name), T = model->work.shape.T;
    int64_t B = model->work.shape.B, micro_batches = model->work.shape.micro_batches;
    Tensor text = fixture_tensor(f, I32, "%s/text", name); // (steps, micro_batches · B, T + 1)
    Tensor tokens = fixture_result_1d(f, I32, B * T), targets = fixture_result_1d(f, I32, B * T);
    for (int64_t step = 0; step < steps; step++) {
        for (int64_t micro = 0; micro < micro_batches; micro++) {
            int64_t first = (step * micro_batches + micro) * B;
            cut_tokens(tensor_i32(text) + first * (T + 1), B, T, tensor_i32(tokens),
                       tensor_i32(targets));
            model_train_micro_batch(model, tokens, targets, micro, 0);
        }
        statistics_reduce(&model->stats, &model->work);
        report_step(reports, step, &model->stats);
        if (step == 0) assert_params_close(f, model, model->gradients.sum, name, "first_gradients");
        double norm = optimizer_gradient_norm(optimizer, model), lr = lr_at(&config, step, steps);
        double scale = norm > config.clip_norm ? config.clip_norm / norm : 1.0;
        optimizer_update(optimizer, model, lr, step + 1, scale);
        tensor_f64(reports->gradient_norm)[step] = norm;
        tensor_f64(reports->lr)[step] = lr;
    }
}

static void assert_training(const char *name) {
    Fixture *f = fixture_open("training");
    ModelConfig config = read_model_config(f, name);
    int64_t micro_batches = fixture_int(f, "%s/config/micro_batches", name);
    config.moe.max_expert_replicas = micro_batches;
    ModelSplit split = read_split(f, name, fixture_int(f, "%s/config/batch", name) / micro_batches);
    split.micro_batches = micro_batches;
    Model model;
    Optimizer optimizer;
    model_measure(&model, &config, split, &dev);
    model_allocate(&model, groups, 1);
    model_init_parameters(&model);
    OptimizerConfig rule = read_optimizer_config(f, name);
    optimizer_measure(&optimizer, &model, &rule);
    optimizer_allocate(&optimizer, &model);
    for (int i = 0; i < model.params.count; i++) {
        char dataset[PARAM_NAME_BYTES + 8] = "start/";
        strncat(dataset, model.params.rows[i].name, PARAM_NAME_BYTES);
        load_tensor(f, param_tensor(&model.params, model.values, i), name, dataset);
    }

    int64_t moe_layers = 0;
    for (int64_t layer = 0; layer < config.layers; layer++)
        if (statistics_find(&model.stats, "routed", layer)) moe_layers++;
    Reports reports = open_reports(f, fixture_int(f, "%s/config/steps", name), moe_layers,
                                   config.moe.experts.values[0]);
    run_steps(f, name, &model, &optimizer, &reports);
    fixture_assert_close(f, reports.loss, TOLERANCE, "%s/steps/loss", name);
    fixture_assert_close(f, reports.balance, TOLERANCE, "%s/steps/balance", name);
    fixture_assert_close(f, reports.z, TOLERANCE, "%s/steps/z", name);
    fixture_assert_close(f, reports.gradient_norm, TOLERANCE, "%s/steps/gradient_norm", name);
    fixture_assert_close(f, reports.lr, 1e-12, "%s/steps/lr", name);
    fixture_assert_equal(f, reports.routed, "%s/steps/routed", name);
    fixture_assert_equal(f, reports.dropped, "%s/steps/dropped", name);
    assert_params_close(f, &model, model.values, name, "end");
    optimizer_free(&optimizer);
    model_free(&model);
    fixture_close(f);
}

static void ten_steps_of_a_tied_model_agree(void **state) {
    (void)state;
    assert_training("tied");
}

static void ten_steps_with_gradient_accumulation_agree(void **state) {
    (void)state;
    assert_training("untied");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moe_layers_agree_forward_and_backward),
        cmocka_unit_test(ten_steps_of_a_tied_model_agree),
        cmocka_unit_test(ten_steps_with_gradient_accumulation_agree),
    };
    return cmocka_run_group_tests(tests, open_rank, close_rank);
}
