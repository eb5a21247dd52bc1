// Whole models against PyTorch: each row of models.h5 (make_model_fixtures.py) is a configuration,
// parameters and tokens, and what PyTorch makes of them: losses, routers' counts, gradients and, of
// several steps, the parameters at the end; on the GPU or its emulation where the build and the
// machine have one, otherwise on the CPU.
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "fixture.h"
#include "launcher/config.h"
#include "model/router_balance.h"
#include "tests/kernels/harness.h"
#include "worker/data/masked_tokens.h"
#include "worker/data/tokens_ahead.h"
#include "worker/optimizer/lr_schedule.h"
#include "worker/optimizer/optimizer.h"
#include "worker/session.h"

// f32 against f64 from the same inputs, relative to the largest element. The inputs are those of
// which PyTorch's own f32 has gradients within 1e-6; ours are within 3.3e-6, after ten steps too.
// Three times that leaves room for other compilers, matrix libraries and orders of sums.
static const double TOLERANCE = 1e-5;
enum { VOCABULARY = 13, CASES_MAX = 256, PARAMS_MAX = 256 };
static const double UNIT = 0x1p-10; // of the parameters at the start

typedef struct RouterAt {
    RouterPlace place;
    int64_t layer;
} RouterAt;

// One row on one device.
typedef struct Run {
    Fixture *f;
    const char *name;
    Device *dev;
    const TrainConfig *config;
    ProcessGroups groups;
    Model model;
    Optimizer optimizer;
    int64_t offset[PARAMS_MAX]; // of each parameter in the fixture's lists
    RouterAt routers[2 * PER_LAYER_MAX];
    int64_t router_count;
    Arena batch;
    Tensor tokens, targets, ahead_tokens, ahead_targets;
} Run;

// ---- opening ------------------------------------------------------------------------------------

static void read_config(Config *config, Fixture *f, const char *name) {
    static const char *const overrides[] = {"data.train=x", "parallel.expert=1"};
    Error err = {0};
    const char *text = fixture_text(f, "%s/config", name);
    if (!config_read(config, "/models.yaml", text, strlen(text), overrides, 2, &err))
        fail_msg("%s: %s", name, err.message);
    config->train.model.vocab_size = model_vocab_size(&config->train.model, VOCABULARY);
}

// Where each of the model's parameters is in the fixture; both have the same ones.
static void place_parameters(Run *run) {
    const ParamTable *params = &run->model.params;
    int64_t end = 0, found = 0;
    char *rest = NULL;
    for (char *name = strtok_r(fixture_text(run->f, "%s/names", run->name), "\n", &rest); name;
         name = strtok_r(NULL, "\n", &rest)) {
        const Param *row = param_find(params, name);
        if (!row) fail_msg("%s: the model has no %s", run->name, name);
        run->offset[row - params->rows] = end;
        end += param_elements(row);
        found++;
    }
    assert_int_equal(params->count, found);
    assert_int_equal(end, tensor_elements(fixture_tensor(run->f, F32, "%s/start", run->name)));
}

static void load_parameters(Run *run) {
    Model *model = &run->model;
    Tensor start = fixture_tensor(run->f, F32, "%s/start", run->name);
    for (int64_t i = 0; i < tensor_elements(start); i++) tensor_f32(start)[i] *= (float)UNIT;
    for (int i = 0; i < model->params.count; i++) {
        Tensor to = param_tensor(&model->params, model->values, i);
        device_upload(run->dev, to, tensor_range(start, run->offset[i], tensor_elements(to)));
    }
    model_refresh_matrices(model);
}

static void layout_batch(Run *run) {
    int64_t N = run->model.work.shape.N;
    run->tokens = arena_1d(&run->batch, I32, N);
    run->targets = arena_1d(&run->batch, I32, N);
    run->ahead_tokens = arena_1d(&run->batch, I32, run->config->model.mtp.layers * N);
    run->ahead_targets = arena_1d(&run->batch, I32, run->config->model.mtp.layers * N);
}

static void open_run(Run *run) {
    const TrainConfig *config = run->config;
    Model *model = &run->model;
    Error err = {0};
    run->groups = process_groups_open(1, run->dev);
    model_measure(model, &config->model, session_split(config, 1, 0, true), run->dev);
    if (!model_check(model, &err) || !update_groups_check(&model->params, &config->optimizer, &err))
        fail_msg("%s: %s", run->name, err.message);
    model_allocate(model, run->groups, (uint64_t)config->seed);
    assert_in_range(model->params.count, 1, PARAMS_MAX);
    place_parameters(run);
    load_parameters(run);
    optimizer_measure(&run->optimizer, model, &config->optimizer);
    optimizer_allocate(&run->optimizer, model);
    optimizer_begin_average(&run->optimizer, model);
    arena_measure(&run->batch, "batch", run->dev);
    layout_batch(run);
    arena_allocate(&run->batch);
    layout_batch(run);
    for (int64_t layer = 0; layer < model_blocks(&config->model); layer++)
        for (int place = ROUTER_OF_MIXER; place >= ROUTER_OF_FEED_FORWARD; place--)
            if (statistics_find(&model->stats, ROUTER_NAMES[place].routed, layer))
                run->routers[run->router_count++] = (RouterAt){(RouterPlace)place, layer};
}

static void close_run(Run *run) {
    arena_free(&run->batch);
    optimizer_free(&run->optimizer);
    model_free(&run->model);
    process_groups_close(&run->groups);
}

// ---- comparing ----------------------------------------------------------------------------------

// What a set has of each parameter, against a list of the fixture.
static void assert_parameters(Run *run, const ParamTable *params, ParamSet set, const char *list) {
    Tensor wanted = fixture_tensor(run->f, F64, "%s/%s", run->name, list);
    Tensor room = fixture_result_1d(run->f, F32, tensor_elements(wanted));
    for (int i = 0; i < params->count; i++) {
        if (!set.run[params->rows[i].run].data) continue; // what a rule changes has no gradient
        Tensor there = param_tensor(params, set, i);
        Tensor here = tensor_range(room, run->offset[i], tensor_elements(there));
        device_download(run->dev, here, there);
        fixture_assert_near(here, tensor_range(wanted, run->offset[i], tensor_elements(here)),
                            TOLERANCE, "%s on %s: %s of %s", run->name, run->dev->name, list,
                            params->rows[i].name);
    }
}

static void assert_number(Run *run, double got, double wanted, const char *what) {
    fixture_assert_near(tensor_1d(&got, F64, 1), tensor_1d(&wanted, F64, 1), TOLERANCE,
                        "%s on %s: %s", run->name, run->dev->name, what);
}

// The row of a list over steps.
static const double *of_step(Run *run, const char *list, int64_t step) {
    Tensor all = fixture_tensor(run->f, F64, "%s/%s", run->name, list);
    return tensor_f64(all) + step * (tensor_elements(all) / run->config->steps);
}

static void assert_routers(Run *run, int64_t step) {
    const Statistics *stats = &run->model.stats;
    const BalanceTerms *terms = &run->config->model.moe.balance;
    const double *term = of_step(run, "terms", step), *z = of_step(run, "z", step);
    const double *routed = of_step(run, "routed", step), *dropped = of_step(run, "dropped", step);
    for (int64_t i = 0; i < run->router_count; i++) {
        RouterAt at = run->routers[i];
        const RouterNames *names = &ROUTER_NAMES[at.place];
        int64_t experts = statistics_find(stats, names->routed, at.layer)->count, most = experts;
        int64_t scored = experts;
        if (at.place == ROUTER_OF_FEED_FORWARD) {
            scored = moe_shape(&run->config->model, at.layer).scored;
            most += run->config->model.moe.zero_experts; // also of hashed layers
        }
        for (int64_t t = 0; t == 0 || t < terms->count; t++) {
            const char *column = router_balance_column(at.place, terms, t);
            assert_number(run, statistics_value(stats, column, at.layer), *term++, column);
        }
        assert_number(run, statistics_value(stats, names->z, at.layer), z[i], names->z);
        // Zero ones follow.
        const int64_t *kept = statistics_count_values(stats, names->routed, at.layer);
        const int64_t *lost = statistics_count_values(stats, names->dropped, at.layer);
        for (int64_t e = 0; e < scored; e++)
            assert_number(run, (double)kept[e], routed[e], names->routed);
        for (int64_t e = 0; e < experts; e++)
            assert_number(run, (double)lost[e], dropped[e], names->dropped);
        routed += most, dropped += most;
    }
}

static void assert_modules(Run *run, int64_t step) {
    const Statistics *stats = &run->model.stats;
    const ModelConfig *model = &run->config->model;
    if (model->mtp.layers == 0) return;
    const double *wanted = of_step(run, "modules", step);
    for (int64_t k = 0; k < model->mtp.layers; k++, wanted += 3) {
        int64_t layer = model->layers + k;
        assert_number(run, statistics_value(stats, "mtp_nats", layer), wanted[0], "nats");
        const int64_t *guesses = statistics_count_values(stats, "mtp_guesses", layer);
        assert_int_equal(guesses[0], wanted[1]);
        assert_int_equal(guesses[1], wanted[2]);
    }
}

static void assert_slots(Run *run, int64_t step) {
    const ModelConfig *model = &run->config->model;
    if (!model_has_feed_forward(model, FEED_FORWARD_SOFT_MOE)) return;
    const double *wanted = of_step(run, "concentration", step);
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_feed_forward(model, layer) == FEED_FORWARD_SOFT_MOE)
            assert_number(run, statistics_value(&run->model.stats, "slot_concentration", layer),
                          *wanted++, "slot_concentration");
}

// ---- running ------------------------------------------------------------------------------------

// Inputs and targets, one ahead, of a micro-batch; text (steps, batch, T + 1) u8.
static void upload_tokens(Run *run, Tensor text, int64_t step, int64_t micro_batch) {
    int64_t T = run->config->context, N = run->model.work.shape.N, sequences = N / T;
    Tensor host[2] = {fixture_result_1d(run->f, I32, N), fixture_result_1d(run->f, I32, N)};
    const uint8_t *from =
        tensor_u8(text) + (step * run->config->batch + micro_batch * sequences) * (T + 1);
    for (int64_t i = 0; i < N; i++)
        for (int64_t ahead = 0; ahead < 2; ahead++)
            tensor_i32(host[ahead])[i] = from[i / T * (T + 1) + i % T + ahead];
    MaskRule masks = mask_rule(run->config, VOCABULARY);
    int64_t first = (step * run->config->batch + micro_batch * sequences) * T, targets = 0;
    if (masks.share > 0)
        mask_training_tokens(&masks, 0, first, N, tensor_i32(host[0]), tensor_i32(host[1]));
    for (int64_t i = 0; i < N; i++) targets += tensor_i32(host[1])[i] != NO_TARGET;
    model_set_documents(&run->model, (Tensor){0}, targets * run->config->micro_batches);
    device_upload(run->dev, run->tokens, host[0]);
    device_upload(run->dev, run->targets, host[1]);
    int64_t modules = run->config->model.mtp.layers;
    Tensor ahead[2] = {fixture_result_1d(run->f, I32, modules * N),
                       fixture_result_1d(run->f, I32, modules * N)};
    tokens_ahead(modules, sequences, T, tensor_i32(host[1]), NULL, tensor_i32(ahead[0]),
                 tensor_i32(ahead[1]));
    device_upload(run->dev, run->ahead_tokens, ahead[0]);
    device_upload(run->dev, run->ahead_targets, ahead[1]);
    model_set_ahead(&run->model, run->ahead_tokens, run->ahead_targets);
}

// A step as worker/train.c makes it.
static void take_step(Run *run, Tensor text, int64_t step) {
    const TrainConfig *config = run->config;
    Model *model = &run->model;
    for (int64_t micro_batch = 0; micro_batch < config->micro_batches; micro_batch++) {
        upload_tokens(run, text, step, micro_batch);
        model_train_micro_batch(model, run->tokens, run->targets, micro_batch, (uint32_t)step);
    }
    statistics_reduce(&model->stats, &model->work);
    double norm = optimizer_gradient_norm(&run->optimizer, model);
    double lr = lr_at(&config->optimizer, step, config->steps), clip = config->optimizer.clip_norm;
    assert_number(run, statistics_loss(&model->stats), *of_step(run, "loss", step), "loss");
    if (step == 0) assert_parameters(run, &model->params, model->gradients.sum, "gradients");
    if (run->router_count > 0) assert_routers(run, step);
    assert_modules(run, step);
    assert_slots(run, step);
    assert_number(run, norm, *of_step(run, "gradient_norm", step), "gradient_norm");
    assert_number(run, lr, *of_step(run, "lr", step), "lr");
    double scale = clip > 0 && norm > clip ? clip / norm : 1;
    optimizer_update(&run->optimizer, model, lr, step + 1, scale);
    model_after_step(model);
    optimizer_average(&run->optimizer, model);
}

static void assert_case(Fixture *f, const char *name, Device *dev, const TrainConfig *config) {
    Run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    *run = (Run){.f = f, .name = name, .dev = dev, .config = config};
    open_run(run);
    Tensor text = fixture_tensor(f, U8, "%s/text", name);
    for (int64_t step = 0; step < config->steps; step++) take_step(run, text, step);
    optimizer_catch_up(&run->optimizer);
    if (config->steps > 1) assert_parameters(run, &run->model.params, run->model.values, "end");
    if (config->optimizer.ema > 0) {
        const OptimizerState *average = &run->optimizer.states[run->optimizer.average];
        assert_parameters(run, &average->params, average->set, "average");
    }
    close_run(run);
    free(run);
}

static void agrees_with_pytorch(void **state) {
    const char *name = *state;
    Fixture *f = fixture_open("models");
    Config *config = config_new();
    read_config(config, f, name);
    assert_case(f, name, device_at(device_count() - 1), &config->train);
    free(config);
    fixture_close(f);
}

static int open_ranks(void **state) {
    (void)state;
    comm_init(&(int){0}, &(char **){NULL});
    return 0;
}

static int close_ranks(void **state) {
    (void)state;
    comm_finalize();
    return 0;
}

// A test for each row of the fixture.
int main(void) {
    Fixture *f = fixture_open("models");
    struct CMUnitTest tests[CASES_MAX];
    size_t count = 0;
    char *rest = NULL;
    for (char *name = strtok_r(fixture_text(f, "cases"), "\n", &rest); name && count < CASES_MAX;
         name = strtok_r(NULL, "\n", &rest))
        tests[count++] = (struct CMUnitTest){
            .name = name, .test_func = agrees_with_pytorch, .initial_state = name};
    int failed = _cmocka_run_group_tests("models", tests, count, open_ranks, close_ranks);
    fixture_close(f);
    return failed;
}
