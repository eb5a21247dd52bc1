#include "compare_generation.h"

#include <math.h>
#include <stdlib.h>

#include "comm/process_groups.h"
#include "kernels/cpu/bf16.h"
#include "model/configured_layers.h"
#include "model/model.h"
#include "worker/session.h"

// A vocabulary that no vector's width divides, larger than a block of its sums; and tokens that are
// read at once.
enum { VOCABULARY = 259, SEQUENCES = 2, CHUNK = 16 };

typedef struct Comparison {
    Device dev;
    ProcessGroups groups;
    int64_t T;
    Model training, whole, decoding, reading;
    KvCache cache;
    Tensor tokens, targets; // (SEQUENCES, T) i32
} Comparison;

static Tensor tokens_of(int64_t count, uint32_t step) {
    Tensor tokens = tensor_1d(calloc((size_t)count, sizeof(int32_t)), I32, count);
    CHECK_MEMORY(tokens.data, "no memory for tokens");
    for (int64_t n = 0; n < count; n++) {
        uint32_t words[4];
        rng_words((RngStream){3, RNG_TEST, step, 0}, (uint64_t)n, words);
        tensor_i32(tokens)[n] = (int32_t)(words[0] % VOCABULARY);
    }
    return tokens;
}

static void open_model(Comparison *c, Model *model, ModelConfig config, ModelSplit split) {
    split.ranks = split.expert_parallel = split.shards = split.micro_batches = 1;
    split.positions = c->T;
    Error err = {0};
    if (!split.training) CHECK(model_for_generation(&config, &err), "%s", err.message);
    model_measure(model, &config, split, &c->dev);
    model_allocate(model, c->groups, 1);
    model_init_parameters(model);
}

static void open_comparison(Comparison *c, const TrainConfig *config) {
    Error err = {0};
    CHECK(device_open(&c->dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    c->dev.fixed_order = true;
    c->groups = process_groups_open(1, &c->dev);
    c->T = config->context;
    c->tokens = tokens_of(SEQUENCES * c->T, 0);
    c->targets = tokens_of(SEQUENCES * c->T, 1);
    ModelConfig model = config->model;
    model.vocab_size = VOCABULARY;
    model.moe.max_expert_replicas = 1;
    DType storage = session_storage(config);
    open_model(c, &c->training, model,
               (ModelSplit){
                   .sequences = SEQUENCES, .context = c->T, .storage = storage, .training = true});
    open_model(c, &c->whole, model,
               (ModelSplit){.sequences = 1, .context = c->T, .storage = storage});
    open_model(c, &c->decoding, model,
               (ModelSplit){.sequences = 1, .context = 1, .storage = storage, .decoding = true});
    open_model(
        c, &c->reading, model,
        (ModelSplit){.sequences = 1, .context = CHUNK, .storage = storage, .decoding = true});
    kv_cache_open(&c->cache, &c->decoding, c->T);
}

static void close_comparison(Comparison *c) {
    kv_cache_close(&c->cache);
    model_free(&c->training);
    model_free(&c->whole);
    model_free(&c->decoding);
    model_free(&c->reading);
    process_groups_close(&c->groups);
    device_close(&c->dev);
    free(c->tokens.data);
    free(c->targets.data);
}

static double number_at(Tensor x, int64_t i) {
    return x.dtype == F32 ? tensor_f32(x)[i] : f32_from_bf16(tensor_bf16(x)[i]);
}

// The largest difference between two tensors of logits, over their root mean square.
static double difference(Tensor a, Tensor b) {
    double most = 0, squares = 0;
    for (int64_t i = 0; i < tensor_elements(a); i++) {
        double x = number_at(a, i), y = number_at(b, i);
        most = fmax(most, isfinite(x) && isfinite(y) ? fabs(x - y) : INFINITY);
        squares += x * x;
    }
    return most / sqrt(squares / (double)tensor_elements(a));
}

// Tokens one at a time, and every now and then many at once.
static double compare_cache(Comparison *c, Tensor tokens, Tensor logits, int64_t singles) {
    double most = 0;
    for (int64_t t = 0; t < c->T;) {
        bool many = t % (singles + CHUNK) == singles && t + CHUNK <= c->T;
        Model *model = many ? &c->reading : &c->decoding;
        int64_t n = many ? CHUNK : 1;
        Tensor rows = model_decode(model, &c->cache, tensor_range(tokens, t, n), t);
        most = fmax(most, difference(rows, tensor_rows(logits, t, n)));
        t += n;
    }
    return most;
}

// Of losses; the logits are used up.
static double compare_training(Comparison *c, Tensor losses, Tensor targets, Tensor logits) {
    Tensor own = tensor_range(c->whole.loss.losses, 0, c->T);
    cross_entropy(&c->dev, own, logits, targets, 0);
    return difference(own, losses);
}

bool compare_generation(FILE *answers, const TrainConfig *config, Error *err) {
    ModelConfig generating = config->model;
    if (!model_for_generation(&generating, err)) return false;
    Comparison c = {0};
    double cache = 0, training = 0;
    open_comparison(&c, config);
    Tensor positions = tokens_of(SEQUENCES * c.T, 0); // each sequence is a document
    for (int64_t i = 0; i < SEQUENCES * c.T; i++) tensor_i32(positions)[i] = (int32_t)(i % c.T);
    if (config->data.documents == DOCUMENTS_MASK) model_set_documents(&c.training, positions, 0);
    model_train_micro_batch(&c.training, c.tokens, c.targets, 0, 0);
    for (int64_t s = 0; s < SEQUENCES; s++) {
        Tensor tokens = tensor_range(c.tokens, s * c.T, c.T);
        Tensor logits = model_logits(&c.whole, tokens);
        cache = fmax(cache, compare_cache(&c, tokens, logits, s == 0 ? c.T : 3));
        Tensor losses = tensor_range(c.training.loss.losses, s * c.T, c.T);
        Tensor targets = tensor_range(c.targets, s * c.T, c.T);
        training = fmax(training, compare_training(&c, losses, targets, logits));
    }
    fprintf(answers, "compared %.3g %.3g\n", cache, training);
    free(positions.data);
    close_comparison(&c);
    return true;
}
