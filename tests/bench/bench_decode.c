// How fast is text generated, beside how fast memory can be read? Tokens a second with one new
// token at a time, the bytes that each of them reads (the weights that it uses, and its part of the
// key/value cache), and their share of what a plain sum of as many bytes reaches on the same
// threads. Then the same model reading a prompt.
//
//     OMP_NUM_THREADS=2 build/release/tests/bench/bench_decode [weights=KIND] [key=value …]
//
// The model is random, and larger than any cache; weights=int8 holds its weights as --weights does.
// Best of several rounds, of which each measures all three: a slower minute hits all.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "launcher/config.h"
#include "model/model.h"
#include "worker/session.h"

enum { VOCABULARY = 4096, TOKENS = 16, ROUNDS = 7, PROMPT = 256 };

static const char MODEL[] = "data.train: none\n"
                            "train.context: 512\n"
                            "model.d_model: 1024\n"
                            "model.layers: 4\n"
                            "model.feed_forward: dense\n"
                            "model.d_ff: 4096\n"
                            "attention.heads: 16\n"
                            "attention.kv_heads: 4\n";

// Memory that is only read.
static float *new_block(size_t bytes) {
    float *x = aligned_alloc(64, (bytes + 63) / 64 * 64);
    CHECK_MEMORY(x, "no memory for %zu bytes", bytes);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < (int64_t)(bytes / sizeof *x); i++) x[i] = 1.0f;
    return x;
}

// Seconds of a sum over it.
static double measure_reading(const float *x, size_t bytes) {
    int64_t n = (int64_t)(bytes / sizeof *x) / 64 * 64;
    double begin = clock_seconds();
    float sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    CHECK(sum > 0, "the sum is %g", (double)sum);
    return clock_seconds() - begin;
}

static void open_model(Model *model, Model *owner, const TrainConfig *config, int64_t width,
                       WeightKind weights, Session *session) {
    ModelConfig shape = config->model;
    shape.vocab_size = VOCABULARY;
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = 1,
                        .sequences = 1,
                        .context = width,
                        .positions = config->context,
                        .micro_batches = 1,
                        .storage = session_storage(config),
                        .decoding = true};
    session_hold_weights(&split, weights);
    if (owner)
        model_measure_beside(model, owner, &shape, split);
    else
        model_measure(model, &shape, split, &session->dev);
    model_allocate(model, session->groups, 1);
    if (!owner) model_init_parameters(model);
}

// Bytes of the weights that a token's products read; a token's embedding is next to nothing.
static double weight_bytes(const Model *model) {
    double embedding = (double)VOCABULARY * (double)model->config.d_model;
    DType type = model->narrow.type != F32 ? model->narrow.type : model->work.storage;
    return ((double)model_active_params(model) - embedding) * (double)dtype_bytes(type);
}

// Seconds to read `count` tokens, `width` at a time.
static double measure(Model *model, KvCache *cache, Tensor tokens, int64_t first, int64_t count) {
    double begin = clock_seconds();
    for (int64_t i = 0; i < count; i += tokens.shape[0])
        model_decode(model, cache, tokens, first + i);
    return clock_seconds() - begin;
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    Config *config = config_new();
    Error err = {0};
    WeightKind weights = WEIGHTS_AS_TRAINED;
    const char word[] = "weights=";
    int first = argc > 1 && strncmp(argv[1], word, sizeof word - 1) == 0 ? 2 : 1;
    CHECK(first == 1 || weight_kind_find(argv[1] + sizeof word - 1, &weights), "%s", argv[1]);
    CHECK(config_read(config, "bench_decode", MODEL, sizeof MODEL - 1, (const char **)argv + first,
                      argc - first, &err),
          "%s", err.message);
    config->train.expert_parallel = 1;
    Session session = {0};
    CHECK(session_open(&session, &config->train, &err), "%s", err.message);
    Model reading, decoding;
    KvCache cache;
    open_model(&reading, NULL, &config->train, PROMPT, weights, &session);
    open_model(&decoding, &reading, &config->train, 1, weights, &session);
    kv_cache_open(&cache, &reading, config->train.context);
    int32_t ids[PROMPT];
    for (int i = 0; i < PROMPT; i++) ids[i] = i * 37 % VOCABULARY;
    Tensor tokens = tensor_1d(ids, I32, PROMPT);

    double kept = 0;
    for (int64_t layer = 0; layer < reading.config.layers; layer++)
        kept += (double)(PROMPT + TOKENS / 2) * (double)cache.layers[layer].shape[1] *
                (double)dtype_bytes(reading.work.storage);
    double bytes = weight_bytes(&reading) + kept;
    float *block = new_block((size_t)bytes);
    double prompt = INFINITY, text = INFINITY, sum = INFINITY;
    for (int round = 0; round < ROUNDS; round++) {
        prompt = fmin(prompt, measure(&reading, &cache, tokens, 0, PROMPT));
        text = fmin(text, measure(&decoding, &cache, tensor_range(tokens, 0, 1), PROMPT, TOKENS));
        sum = fmin(sum, measure_reading(block, (size_t)bytes));
    }
    double reached = 1e-9 * bytes * TOKENS / text, peak = 1e-9 * bytes / sum;
    printf("%.1f M parameters, %.1f M active, %s, %d threads\n",
           1e-6 * (double)model_total_params(&reading),
           1e-6 * (double)model_active_params(&reading),
           weights == WEIGHTS_AS_TRAINED ? dtype_name(reading.work.storage)
                                         : choice_row(WEIGHT_CHOICES, (int)weights)->word,
           session.dev.threads);
    printf("decoding   %8.1f tokens/s, %.1f MB a token, %.1f GB/s: %.0f %% of %.1f GB/s\n",
           TOKENS / text, 1e-6 * bytes, reached, 100 * reached / peak, peak);
    printf("prompt     %8.1f tokens/s, %.1f GFLOP/s\n", PROMPT / prompt,
           2e-9 * PROMPT * (double)model_active_params(&reading) / prompt);
    free(block);
    kv_cache_close(&cache);
    model_free(&decoding);
    model_free(&reading);
    session_close(&session);
    free(config);
    comm_finalize();
    return 0;
}
