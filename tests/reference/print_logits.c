// The logits of a checkpoint's model for tokens given as numbers, a row for each token:
//   print_logits CHECKPOINT TOKEN …
// On the way it looks whether the model in stages is the model: the same logits, and stages of one
// layer that are that layer.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "launcher/checkpoint_config.h"
#include "launcher/config_rules.h"
#include "model/configured_layers.h"
#include "worker/restore.h"

static void check_stages(const ModelConfig *config) {
    ModelConfig *one = calloc(1, sizeof *one);
    CHECK_MEMORY(one, "out of memory");
    for (int64_t layer = 0; layer < config->layers; layer++) {
        model_config_of_layer(one, config, layer);
        MoeShape a = moe_shape(one, 0), b = moe_shape(config, layer);
        CHECK(one->layers == 1 && model_mixer(one, 0) == model_mixer(config, layer) &&
                  model_feed_forward(one, 0) == model_feed_forward(config, layer) &&
                  model_positions(one, 0) == model_positions(config, layer) &&
                  layer_value(&one->attention.window, 0) ==
                      layer_value(&config->attention.window, layer) &&
                  a.experts == b.experts && a.top_k == b.top_k && a.d_ff == b.d_ff,
              "the stage of layer %lld is another", (long long)layer);
    }
    free(one);
}

static void check_stream(Model *model, Tensor tokens, Tensor logits, int64_t count) {
    int64_t D = model->config.d_model, V = model->config.vocab_size;
    float *stream = calloc((size_t)(count * D), sizeof *stream);
    float *whole = calloc((size_t)(count * V), sizeof *whole);
    CHECK_MEMORY(stream && whole, "out of memory");
    memcpy(whole, tensor_f32(logits), (size_t)(count * V) * sizeof *whole);
    Tensor x = tensor_2d(stream, F32, count, D);
    model_stream_forward(model, tokens, x);
    CHECK(memcmp(whole, tensor_f32(model_stream_logits(model, x)),
                 (size_t)(count * V) * sizeof *whole) == 0,
          "the model in stages has other logits");
    free(stream);
    free(whole);
}

static bool print(const char *path, int count, char **words, Error *err) {
    Config *config = config_new();
    TrainConfig *train = calloc(1, sizeof *train);
    Session session = {0};
    Restored restored = {0};
    CHECK_MEMORY(train, "out of memory");
    const char *const overrides[] = {"device=cpu"};
    if (!checkpoint_config_read(config, path, overrides, 1, err) ||
        !config_resolve_ranks(config, 1, train, err) || !session_open(&session, train, err) ||
        !model_for_generation(&train->model, err))
        return false;
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = 1,
                        .sequences = 1,
                        .context = count,
                        .micro_batches = 1,
                        .storage = session_storage(train)};
    if (!restore_model(&restored, train, split, &session, config->source, err)) return false;
    int32_t *tokens = calloc((size_t)count, sizeof *tokens);
    CHECK_MEMORY(tokens, "out of memory");
    for (int i = 0; i < count; i++) tokens[i] = (int32_t)strtol(words[i], NULL, 10);
    Tensor input = tensor_1d(tokens, I32, count);
    Tensor logits = model_logits(&restored.model, input);
    check_stages(&restored.model.config);
    check_stream(&restored.model, input, logits, count);
    for (int64_t row = 0; row < count; row++) {
        const float *values = model_read_logits(&restored.model, logits, row);
        for (int64_t v = 0; v < restored.model.config.vocab_size; v++)
            printf("%.9g%c", (double)values[v],
                   v + 1 < restored.model.config.vocab_size ? ' ' : '\n');
    }
    free(tokens);
    restore_free(&restored);
    session_close(&session);
    free(train);
    free(config);
    return true;
}

int main(int argc, char **argv) {
    Error err = {0};
    comm_init(&argc, &argv);
    bool ok = argc > 2 && print(argv[1], argc - 2, argv + 2, &err);
    if (!ok) fprintf(stderr, "print_logits: %s\n", err.message);
    comm_finalize();
    return ok ? 0 : 1;
}
