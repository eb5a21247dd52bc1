// A whole model on the CPU and on a GPU (or its emulation): the same parameters and tokens must
// give the same choices, losses and gradients, within tolerances that follow from the storage type.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "model/model.h"
#include "model/router_health.h"

enum { V = 29, T = 24, SEQUENCES = 4, SHARDS = 2, SKIPPED = 77 };

static int failed = 0;

typedef struct Case {
    const char *name;
    ModelConfig config;
    DType storage;
    // Largest relative error, in the 2-norm, of a parameter's gradient, and of the loss.
    double gradient_tolerance, loss_tolerance;
    bool documents; // sequences of several, masked
} Case;

// One model on one device, after one micro-batch.
typedef struct Run {
    Device dev;
    ProcessGroups groups;
    Model model;
    Arena batch, host;
    Tensor tokens, targets, host_tokens, host_targets;
    Tensor positions, host_positions; // of documents
    Tensor dense, experts;            // gradients on the host
    Tensor rules;                     // values that rules have changed after the step, on the host
    double loss, balance, z;
} Run;

static void layout(Run *run) {
    run->tokens = arena_1d(&run->batch, I32, SEQUENCES * T);
    run->targets = arena_1d(&run->batch, I32, SEQUENCES * T);
    run->host_tokens = arena_mirror(&run->host, run->tokens);
    run->host_targets = arena_mirror(&run->host, run->targets);
    run->positions = arena_1d(&run->batch, I32, SEQUENCES * T);
    run->host_positions = arena_mirror(&run->host, run->positions);
    run->dense = arena_mirror(&run->host, run->model.gradients.sum.run[RUN_DENSE]);
    run->experts = arena_mirror(&run->host, run->model.gradients.sum.run[RUN_EXPERT]);
    run->rules = arena_mirror(&run->host, run->model.values.run[RUN_RULE]);
}

static bool open_run(Run *run, const Case *c, const char *kind) {
    Error err = {0};
    *run = (Run){0};
    if (!device_open(&run->dev, kind, 1, 0, 1, &err)) {
        printf("skipped: %s\n", err.message);
        return false;
    }
    run->dev.fixed_order = true;
    run->groups = process_groups_open(1, &run->dev);
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = SHARDS,
                        .sequences = SEQUENCES,
                        .context = T,
                        .micro_batches = 1,
                        .storage = c->storage,
                        .fixed_tree = true,
                        .training = true};
    model_measure(&run->model, &c->config, split, &run->dev);
    model_allocate(&run->model, run->groups, 11);
    model_init_parameters(&run->model);
    arena_measure(&run->batch, "batch", &run->dev);
    arena_measure(&run->host, "batch", NULL);
    layout(run);
    arena_allocate(&run->batch);
    arena_allocate(&run->host);
    layout(run);
    return true;
}

static void close_run(Run *run) {
    model_free(&run->model);
    arena_free(&run->batch);
    arena_free(&run->host);
    process_groups_close(&run->groups);
    device_close(&run->dev);
}

// Places in documents of some rows; the last ones' targets are none.
static void part_documents(Run *run) {
    int32_t *position = tensor_i32(run->host_positions), *target = tensor_i32(run->host_targets);
    int64_t targets = 0;
    for (int64_t i = 0; i < SEQUENCES * T; i++) {
        bool begins = i % T == 0 || rng_u32((RngStream){6, RNG_TEST, 0, 0}, (uint64_t)i) % 7 == 0;
        position[i] = begins ? 0 : position[i - 1] + 1;
        if (begins && i > 0) target[i - 1] = NO_TARGET;
    }
    for (int64_t i = 0; i < SEQUENCES * T; i++) targets += target[i] != NO_TARGET;
    device_upload(&run->dev, run->positions, run->host_positions);
    model_set_documents(&run->model, run->positions, targets);
}

static void train(Run *run, bool documents) {
    Device *dev = &run->dev;
    for (int64_t i = 0; i < SEQUENCES * T; i++) {
        uint32_t words[4];
        rng_words((RngStream){5, RNG_TEST, 0, 0}, (uint64_t)i, words);
        tensor_i32(run->host_tokens)[i] = (int32_t)(words[0] % V);
        tensor_i32(run->host_targets)[i] = (int32_t)(words[1] % V);
    }
    if (documents) part_documents(run);
    device_upload(dev, run->tokens, run->host_tokens);
    device_upload(dev, run->targets, run->host_targets);
    model_train_micro_batch(&run->model, run->tokens, run->targets, 0, 0);
    statistics_reduce(&run->model.stats, &run->model.work);
    run->loss = statistics_loss(&run->model.stats);
    if (statistics_find(&run->model.stats, "balance", 0)) {
        run->balance = statistics_value(&run->model.stats, "balance", 0);
        run->z = statistics_value(&run->model.stats, "z", 0);
    }
    device_download(dev, run->dense, run->model.gradients.sum.run[RUN_DENSE]);
    device_download(dev, run->experts, run->model.gradients.sum.run[RUN_EXPERT]);
    model_after_step(&run->model);
    device_download(dev, run->rules, run->model.values.run[RUN_RULE]);
}

static void expect_close(const char *name, const char *what, double got, double want,
                         double tolerance) {
    double error = fabs(got - want) / (fabs(want) + 1e-30);
    if (error <= tolerance) return;
    printf(
        "FAILED %s: %s is %.9g on the GPU and %.9g on the CPU, relative error %.2g, allowed %.2g\n",
        name, what, got, want, error, tolerance);
    failed = 1;
}

// ‖got − want‖ / ‖want‖ of each parameter; returns the worst.
static double compare_gradients(const Case *c, Run *gpu, Run *cpu) {
    const ParamTable *table = &cpu->model.params;
    double worst = 0;
    for (int i = 0; i < table->count; i++) {
        const Param *row = &table->rows[i];
        if (row->run == RUN_RULE) continue; // no gradient
        int64_t n = tensor_elements(param_tensor(table, cpu->model.values, i));
        const float *got = tensor_f32(row->run == RUN_DENSE ? gpu->dense : gpu->experts);
        const float *want = tensor_f32(row->run == RUN_DENSE ? cpu->dense : cpu->experts);
        double difference = 0, norm = 0;
        for (int64_t k = row->offset; k < row->offset + n; k++) {
            double d = (double)got[k] - (double)want[k];
            difference += d * d;
            norm += (double)want[k] * (double)want[k];
        }
        double error = sqrt(difference / (norm + 1e-60));
        worst = fmax(worst, error);
        if (error <= c->gradient_tolerance) continue;
        printf("FAILED %s: gradient of %s differs by %.2g of its norm, allowed %.2g\n", c->name,
               row->name, error, c->gradient_tolerance);
        failed = 1;
    }
    return worst;
}

// Sums of squares of logits, which are as near as the logits; the number of tokens is exact.
static void compare_squares(const Case *c, const int64_t got[3], const int64_t want[3]) {
    expect_close(c->name, "squares of logits", (double)got[0] + ldexp((double)got[1], -32),
                 (double)want[0] + ldexp((double)want[1], -32), c->loss_tolerance);
    expect_close(c->name, "tokens with squares", (double)got[2], (double)want[2], 0);
}

static void compare_counts(const Case *c, Run *gpu, Run *cpu) {
    Statistics *a = &gpu->model.stats, *b = &cpu->model.stats;
    for (int i = 0; i < b->column_count; i++) {
        const StatisticsColumn *column = &b->columns[i];
        if (column->kind != STATISTICS_COUNTS) continue;
        const int64_t *got = statistics_counts_of(a, column);
        const int64_t *want = statistics_counts_of(b, column);
        if (strcmp(column->name, ROUTER_SQUARES_COLUMN) == 0) {
            compare_squares(c, got, want);
            continue;
        }
        for (int64_t e = 0; e < column->count; e++) {
            if (got[e] == want[e]) continue;
            printf("FAILED %s: layer %lld, expert %lld: %s %lld on the GPU, %lld on the CPU\n",
                   c->name, (long long)column->layer, (long long)e, column->name, (long long)got[e],
                   (long long)want[e]);
            failed = 1;
        }
    }
}

static bool check(const Case *c) {
    static Run cpu, gpu;
    if (!open_run(&gpu, c, "cuda")) return false;
    if (!open_run(&cpu, c, "cpu")) return false;
    train(&gpu, c->documents);
    train(&cpu, c->documents);
    expect_close(c->name, "loss", gpu.loss, cpu.loss, c->loss_tolerance);
    expect_close(c->name, "balance", gpu.balance, cpu.balance, c->loss_tolerance);
    expect_close(c->name, "z", gpu.z, cpu.z, c->loss_tolerance);
    double worst = compare_gradients(c, &gpu, &cpu);
    if (c->storage == F32) compare_counts(c, &gpu, &cpu);
    if (memcmp(gpu.rules.data, cpu.rules.data, tensor_bytes(cpu.rules)) != 0) {
        printf("FAILED %s: biases of the choice differ\n", c->name); // they follow the same counts
        failed = 1;
    }
    printf("%-52s loss %.7f, worst gradient error %.2g\n", c->name, gpu.loss, worst);
    close_run(&gpu);
    close_run(&cpu);
    return true;
}

static ModelConfig base_config(void) {
    return (ModelConfig){.vocab_size = V,
                         .d_model = 32,
                         .layers = 2,
                         .d_ff = 40,
                         .tied_embeddings = true,
                         .activation = SWIGLU,
                         .norm_eps = 1e-5,
                         .init_std = 0.1,
                         .attention = {{4, 2, 8, 8}, 10000},
                         .moe = {.experts = {1, {4}},
                                 .top_k = {1, {2}},
                                 .d_ff = {1, {24}},
                                 .every = 1,
                                 .first = true,
                                 .router = {.kind = SOFTMAX_TOPK},
                                 .capacity_factor = {0, 1},
                                 .min_capacity = 1,
                                 .balance = {1, {{.factor = 0.01}}},
                                 .z_loss = 0.001,
                                 .max_expert_replicas = 2}};
}

// f32: both sides round every product and sum to 24 bits, in different orders. Sums of some hundred
// terms and a chain of some ten operations leave about 10·√100·2^-24, 6e-6 of a gradient's norm.
static const double F32_GRADIENT = 2e-5, F32_LOSS = 2e-6;
// bf16: both sides round the same values to 8 bits, but a value at the edge between two may fall to
// either side, 2^-8 of it; downstream of the first such value everything is slightly different.
// About ten roundings lie between tokens and loss: √10·2^-8 is 1.2e-2.
static const double BF16_GRADIENT = 2.5e-2, BF16_LOSS = 2e-3;
// Where a rounding decides (a choice that is dropped or not, a ReLU that is open or not), one of
// the 96 tokens may go the other way: √(1/96) of a gradient's norm, 1e-1, in the layers below.
static const double BF16_DECISIONS = 1.5e-1;

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    setvbuf(stdout, NULL, _IOLBF, 0); // what was found stays when a check ends the process
    ModelConfig dropless = base_config(), drops = base_config(), dense = base_config();
    drops.moe.capacity_factor = (Rational){3, 4};
    drops.moe.router = (RouterRule){.kind = TOPK_SOFTMAX, .normalize_top_k = true};
    drops.moe.drop = DROP_PROBABILITY;
    drops.moe.renormalize_after_drop = true;
    drops.moe.balance.maps[0].scope = BALANCE_SEQUENCE;
    drops.moe.routing_group = GROUP_SEQUENCE;
    drops.tied_embeddings = false;
    drops.attention.shape = (AttentionShape){3, 1, 6, 5};
    ModelConfig padded = drops;
    padded.moe.dispatch = DISPATCH_PADDED;
    padded.moe.drop = DROP_POSITION;
    padded.moe.balance.maps[0].scope = BALANCE_BATCH;
    ModelConfig biased = padded;
    biased.bias = BIAS_HEAD;
    biased.norm = LAYERNORM;
    biased.activation = GEGLU;
    dense.moe = (MoeConfig){0};
    dense.activation = RELU;
    ModelConfig sigmoids = base_config();
    sigmoids.moe.router = (RouterRule){.kind = SIGMOID, .scaling_factor = 2.5};
    sigmoids.moe.bias_update = BIAS_UPDATE_SIGN;
    sigmoids.moe.bias_rate = 0.001;
    ModelConfig ragged = padded;
    ragged.layers = 3;
    ragged.feed_forward = (PerLayer){3, {FEED_FORWARD_MOE, FEED_FORWARD_DENSE, FEED_FORWARD_MOE}};
    ragged.moe.experts = (PerLayer){3, {4, 0, 6}};
    ragged.moe.top_k = (PerLayer){3, {2, 9, 3}};
    ragged.moe.d_ff = (PerLayer){3, {24, 1, 10}};
    ragged.attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
    ModelConfig windows = base_config();
    windows.attention.softmax = SOFTMAX_SINK;
    windows.attention.window = (PerLayer){2, {5, 0}};
    ModelConfig documents = windows;
    documents.attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
    documents.moe.capacity_factor = (Rational){3, 4};
    documents.moe.routing_group = GROUP_DOCUMENT;
    documents.moe.balance.maps[0].scope = BALANCE_DOCUMENT;
    const Case cases[] = {
        {"dropless, f32", dropless, F32, F32_GRADIENT, F32_LOSS, false},
        {"drops, renormalised, odd heads, f32", drops, F32, F32_GRADIENT, F32_LOSS, false},
        {"sinks and windows, f32", windows, F32, F32_GRADIENT, F32_LOSS, false},
        {"sinks and windows, bf16", windows, BF16, BF16_GRADIENT, BF16_LOSS, false},
        {"documents, sinks and windows, f32", windows, F32, F32_GRADIENT, F32_LOSS, true},
        {"documents, sinks and windows, bf16", windows, BF16, BF16_GRADIENT, BF16_LOSS, true},
        {"documents, learned positions, balance and groups of documents, f32", documents, F32,
         F32_GRADIENT, F32_LOSS, true},
        {"sigmoids with a bias of the choice, f32", sigmoids, F32, F32_GRADIENT, F32_LOSS, false},
        {"padded, batch balance, f32", padded, F32, F32_GRADIENT, F32_LOSS, false},
        {"padded, biases everywhere, layernorm, geglu, f32", biased, F32, F32_GRADIENT, F32_LOSS,
         false},
        {"layers of different sizes, learned positions, f32", ragged, F32, F32_GRADIENT, F32_LOSS,
         false},
        {"dense, relu, f32", dense, F32, F32_GRADIENT, F32_LOSS, false},
        {"dropless, bf16", dropless, BF16, BF16_GRADIENT, BF16_LOSS, false},
        {"drops, renormalised, odd heads, bf16", drops, BF16, BF16_DECISIONS, BF16_LOSS, false},
        {"dense, relu, bf16", dense, BF16, BF16_DECISIONS, BF16_LOSS, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!check(&cases[i])) {
            comm_finalize();
            return SKIPPED;
        }
    comm_finalize();
    return failed;
}
