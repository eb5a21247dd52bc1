// One MoE layer, forward and backward, as the number of experts grows at constant top-k, tokens and
// width: the work stays the same, so the time should too. Prints ms and the ratio to the first row.
//   bench_moe_layer [tokens d_model d_ff repetitions]      (default 4096 256 512 7)
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "model/moe_layer.h"

typedef struct Bench {
    ModelConfig config;
    ParamTable params;
    Placement placement;
    int64_t rows[2]; // of the one part
    Work work;
    MoeLayer layer;
    Statistics stats;
    Arena memory[5]; // parameters, gradients, activations, scratch, the host's mirrors
    Tensor x, out, dx;
} Bench;

static void layout(Bench *b) {
    b->work.values = b->work.matrices = param_values_layout(&b->params, &b->memory[0]);
    b->work.gradients = param_set_layout(&b->params, &b->memory[1], F32);
    b->x = arena_2d(&b->memory[2], F32, b->work.shape.N, b->config.d_model);
    b->out = arena_2d(&b->memory[2], F32, b->work.shape.N, b->config.d_model);
    b->dx = arena_2d(&b->memory[2], F32, b->work.shape.N, b->config.d_model);
    placement_layout(&b->placement, &b->memory[0]);
    statistics_begin(&b->stats);
    MOE_FEED_FORWARD.layout(&b->layer, &b->work, &b->stats, &b->memory[2], &b->memory[3]);
    statistics_layout(&b->stats, &b->work, &b->memory[2]);
}

static void open_bench(Bench *b, Device *dev, ProcessGroups groups, ModelConfig config, int64_t N) {
    static const char *const names[5] = {"parameters", "gradients", "activations", "scratch",
                                         "mirrors"};
    memset(b, 0, sizeof *b);
    b->config = config;
    b->rows[1] = N;
    b->work = (Work){
        .dev = dev,
        .config = &b->config,
        .groups = groups,
        .host = &b->memory[4],
        .storage = F32,
        .training = true,
        .shape = {.B = 1,
                  .T = N,
                  .N = N,
                  .micro_batches = 1,
                  .shards = 1,
                  .ranks = 1,
                  .deal = {.shards = 1, .ranks = 1, .group_size = 1},
                  .ep_size = 1,
                  .group_shards = deal_evenly(1, 1),
                  .expert_replicas = 1,
                  .chunks = 1,
                  .dense_parts = 1,
                  .expert_parts = 1,
                  .dense_offsets = b->rows,
                  .node_count = 1,
                  .most_nodes = 1,
                  .nodes = {{0, 1}}},
        .params = &b->params,
        .placement = &b->placement,
        .step = {.seed = 1},
    };
    MOE_FEED_FORWARD.declare(&b->layer, &b->work, 0);
    for (int i = 0; i < 5; i++) arena_measure(&b->memory[i], names[i], NULL);
    layout(b);
    for (int i = 0; i < 5; i++) arena_allocate(&b->memory[i]);
    layout(b);
    placement_upload(&b->placement, dev);
    param_init(&b->params, dev, b->work.values, 1);
    float *x = tensor_f32(b->x);
    for (int64_t i = 0; i < tensor_elements(b->x); i++)
        x[i] = (float)rng_normal((RngStream){2, RNG_TEST, 0, 0}, (uint64_t)i);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    int64_t N = argc > 1 ? atoll(argv[1]) : 4096, D = argc > 2 ? atoll(argv[2]) : 256;
    int64_t F = argc > 3 ? atoll(argv[3]) : 512, repetitions = argc > 4 ? atoll(argv[4]) : 7;
    if (repetitions < 1 || repetitions > 100) repetitions = 7;
    Device dev;
    Error err = {0};
    if (!device_open(&dev, "cpu", 0, 0, 1, &err))
        die(EXIT_COMMUNICATION, __FILE__, __LINE__, "%s", err.message);
    ProcessGroups groups = process_groups_open(1, &dev);
    printf("%s, %d threads; %lld tokens, d_model %lld, d_ff %lld, top-2\n", dev.description,
           dev.threads, (long long)N, (long long)D, (long long)F);
    static const int64_t experts[] = {8, 64, 512};
    static Bench bench;
    for (int k = 0; k < ACTIVATION_CHOICES.count; k++) {
        double base = 0;
        for (int i = 0; i < 3; i++) {
            ModelConfig config = {.d_model = D,
                                  .layers = 1,
                                  .activation = (Activation)k,
                                  .init_std = 0.02,
                                  .moe = {.experts = {1, {(int32_t)experts[i]}},
                                          .top_k = {1, {2}},
                                          .d_ff = {1, {(int32_t)F}},
                                          .every = 1,
                                          .first = true,
                                          .capacity_factor = {0, 1},
                                          .max_expert_replicas = 1,
                                          .balance = {1, {{.factor = 0.01}}}}};
            open_bench(&bench, &dev, groups, config, N);
            double ms[100];
            for (int64_t r = -2; r < repetitions;
                 r++) { // two unmeasured: first touch of the memory
                double begin = clock_seconds();
                MOE_FEED_FORWARD.forward(&bench.layer, &bench.work, &bench.stats, bench.out,
                                         bench.x);
                MOE_FEED_FORWARD.backward(&bench.layer, &bench.work, bench.dx, bench.out);
                if (r >= 0) ms[r] = 1e3 * (clock_seconds() - begin);
            }
            qsort(ms, (size_t)repetitions, sizeof *ms, by_size);
            double median = ms[repetitions / 2];
            if (i == 0) base = median;
            int64_t weights = D * (activation_input_width((Activation)k, F) + F);
            double gflop = 3 * 2.0 * (double)(N * 2) * (double)weights / 1e9;
            printf("%-9s %4lld experts %8.1f ms  %6.1f GFLOP/s  ratio %.2f\n",
                   choice_row(ACTIVATION_CHOICES, k)->word, (long long)experts[i], median,
                   gflop / median * 1e3, median / base);
            for (int m = 0; m < 5; m++) arena_free(&bench.memory[m]);
            param_table_free(&bench.params);
            placement_free(&bench.placement);
        }
    }
    process_groups_close(&groups);
    comm_finalize();
    return 0;
}
