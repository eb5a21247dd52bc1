// muP (model/initialization.h): what a few steps of Adam change in activations does not grow with
// the width, and does without it (the coordinate check of arXiv:2203.03466, appendix D.1).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "model/initialization.h"
#include "model/moe_layer.h"
#include "worker/optimizer/optimizer.h"

enum { BASE = 32, WIDEST = 256, SEQUENCES = 4, T = 16, N = SEQUENCES * T, VOCABULARY = 29 };
enum { STEPS = 4, MEASURES = 3 };
static const char *const MEASURE_NAMES[MEASURES] = {"logits", "residual stream", "router logits"};

static ModelConfig model_of(int64_t width, bool mup) {
    ModelConfig config = {.vocab_size = VOCABULARY,
                          .d_model = width,
                          .layers = 2,
                          .activation = SWIGLU,
                          .norm_eps = 1e-5,
                          .init_std = 0.1,
                          .mup_base_width = mup ? BASE : 0,
                          .attention = {.shape = {4, 4, width / 4, width / 4}, .rope_theta = 100},
                          .moe = {.experts = {1, {4}},
                                  .top_k = {1, {2}},
                                  .d_ff = {1, {(int32_t)(2 * width)}},
                                  .every = 1,
                                  .first = true,
                                  .router = {.kind = SOFTMAX_TOPK},
                                  .capacity_factor = {0, 1},
                                  .min_capacity = 1,
                                  .shared_experts = 1,
                                  .shared_gate = true,
                                  .max_expert_replicas = 1}};
    config.mup_base_d_head = BASE / 4;
    if (mup) config.attention.scale = mup_attention_scale(&config);
    return config;
}

static Tensor measured(Model *model, int what) {
    const MoeLayer *moe = model->blocks[1].feed_forward.state;
    if (what == 0) return model->loss.logits;
    return what == 1 ? model->final_norm.x : moe->router.logits;
}

// How far STEPS steps change each of the measured tensors: the root of the mean square.
static void train(int64_t width, bool mup, double change[MEASURES]) {
    Model model;
    Device dev;
    Error err = {0};
    Optimizer optimizer;
    ModelConfig config = model_of(width, mup);
    OptimizerConfig adam = {.kind = OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-12};
    int32_t tokens[N], targets[N];
    float *before[MEASURES];
    CHECK(device_open(&dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    model_measure(&model, &config,
                  (ModelSplit){.ranks = 1,
                               .expert_parallel = 1,
                               .shards = 1,
                               .sequences = SEQUENCES,
                               .context = T,
                               .micro_batches = 1,
                               .fixed_tree = true,
                               .training = true},
                  &dev);
    model_allocate(&model, process_groups_open(1, &dev), 5);
    model_init_parameters(&model);
    optimizer_measure(&optimizer, &model, &adam);
    optimizer_allocate(&optimizer, &model);
    for (int64_t n = 0; n < N; n++) {
        tokens[n] = (int32_t)(rng_u32((RngStream){1, RNG_TEST, 0, 0}, (uint64_t)n) % VOCABULARY);
        targets[n] = (int32_t)(rng_u32((RngStream){2, RNG_TEST, 0, 0}, (uint64_t)n) % VOCABULARY);
    }
    Tensor in = tensor_1d(tokens, I32, N), wanted = tensor_1d(targets, I32, N);
    model_logits(&model, in);
    for (int i = 0; i < MEASURES; i++) {
        Tensor x = measured(&model, i);
        before[i] = malloc(tensor_bytes(x));
        CHECK_MEMORY(before[i], "no memory");
        memcpy(before[i], x.data, tensor_bytes(x));
    }
    for (int step = 0; step < STEPS; step++) {
        model_train_micro_batch(&model, in, wanted, 0, (uint32_t)step);
        optimizer_update(&optimizer, &model, 0.005, step + 1, 1);
    }
    model_logits(&model, in);
    for (int i = 0; i < MEASURES; i++) {
        Tensor x = measured(&model, i);
        double sum = 0;
        for (int64_t k = 0; k < tensor_elements(x); k++) {
            double by = (double)tensor_f32(x)[k] - (double)before[i][k];
            sum += by * by;
        }
        change[i] = sqrt(sum / (double)tensor_elements(x));
        free(before[i]);
    }
    optimizer_free(&optimizer);
    process_groups_close(&model.work.groups);
    model_free(&model);
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    int failed = 0;
    for (int mup = 0; mup < 2; mup++) {
        double narrow[MEASURES], wide[MEASURES];
        train(BASE, mup, narrow);
        train(WIDEST, mup, wide);
        for (int i = 0; i < MEASURES; i++) {
            // Eight times the width: without muP a step of Adam moves a product of the width by up
            // to eight times as much. With it they stay or, of the router, whose initial values
            // are of its second order, fall; what remains are the first steps' chances.
            double ratio = wide[i] / narrow[i];
            bool ok = mup ? ratio > 0.2 && ratio < 1.8 : i == 1 || ratio > 3;
            printf("%s  %s %s: changed by %.4g at width %d, %.4g at %d, ratio %.2f\n",
                   ok ? "ok    " : "FAILED", mup ? "muP" : "plain", MEASURE_NAMES[i], narrow[i],
                   (int)BASE, wide[i], (int)WIDEST, ratio);
            failed += !ok;
        }
    }
    comm_finalize();
    return failed > 0;
}
