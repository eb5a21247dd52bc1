#include "worker/huggingface/export_proof.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"
#include "worker/restore.h"
#include "worker/watch/watchdog.h"

enum { SOURCES = 2, MOST_TOKENS = 48 };

typedef struct Run {
    const ModelConfig *config;
    const WeightSource *sources[SOURCES];
    int64_t N; // tokens
    Session *session;
    Arena arena, host_arena;
    Tensor tokens, streams[SOURCES]; // (N) i32, (N, D) f32 each
    Model stage;
    float *logits; // (N, V) of the first source
} Run;

static void layout(Run *run) {
    run->tokens = arena_1d(&run->arena, I32, run->N);
    for (int s = 0; s < SOURCES; s++)
        run->streams[s] = arena_2d(&run->arena, F32, run->N, run->config->d_model);
}

// Token numbers all over the vocabulary, the same for every model of its size.
static void open_run(Run *run) {
    Device *dev = &run->session->dev;
    arena_measure(&run->arena, "streams", dev);
    layout(run);
    arena_allocate(&run->arena);
    layout(run);
    arena_measure(&run->host_arena, "tokens", NULL);
    arena_mirror(&run->host_arena, run->tokens);
    arena_allocate(&run->host_arena);
    Tensor host = arena_mirror(&run->host_arena, run->tokens);
    for (int64_t n = 0; n < run->N; n++)
        tensor_i32(host)[n] = (int32_t)((n * 7919 + 3) * (n + 1) % run->config->vocab_size);
    device_upload(dev, run->tokens, host);
    run->logits = malloc((size_t)(run->N * run->config->vocab_size) * sizeof *run->logits);
    CHECK_MEMORY(run->logits, "no memory for the logits of %lld tokens", (long long)run->N);
}

static void close_run(Run *run) {
    arena_free(&run->arena);
    arena_free(&run->host_arena);
    free(run->logits);
}

// Whether this stage needs a parameter that is of no layer.
static bool is_used(const char *name, bool first, bool last, bool tied) {
    bool table = strcmp(name, "embedding") == 0;
    return table ? first || (last && tied) : last;
}

// The stage's parameters from a source: those of its only layer are the model's of `layer`.
static bool load_stage(Run *run, const WeightSource *source, int64_t layer, Error *err) {
    static const char own[] = "layers.0.";
    const ParamTable *params = &run->stage.params;
    bool first = layer == 0, last = layer == run->config->layers - 1, ok = true;
    HostState host;
    host_state_open(&host, &run->stage, NULL);
    for (int i = 0; ok && i < params->count; i++) {
        const Param *row = &params->rows[i];
        char name[PARAM_NAME_BYTES + 24];
        bool of_layer = strncmp(row->name, own, sizeof own - 1) == 0;
        if (!of_layer && !is_used(row->name, first, last, run->config->tied_embeddings)) continue;
        if (of_layer)
            snprintf(name, sizeof name, "layers.%lld.%s", (long long)layer,
                     row->name + sizeof own - 1);
        else
            snprintf(name, sizeof name, "%s", row->name);
        const ParamTable *whole = &source->map->model.params;
        const Param *theirs = param_find(whole, name);
        CHECK(theirs, "the model has no parameter %s", name);
        SliceShape slice = slice_shape(row);
        float *values = tensor_f32(param_tensor(params, host.values, i));
        for (int64_t e = 0; ok && e < slice.slices; e++) {
            watchdog_beat("reading weights");
            ok = weight_source_read(source, (int)(theirs - whole->rows), e,
                                    values + e * slice.rows * slice.columns, err);
        }
    }
    if (ok) host_state_upload(&host);
    host_state_close(&host);
    return ok;
}

static void compare_logits(Run *run, int source, Proof *proof) {
    int64_t V = run->config->vocab_size;
    Tensor logits = model_stream_logits(&run->stage, run->streams[source]);
    for (int64_t n = 0; n < run->N; n++) {
        const float *row = model_read_logits(&run->stage, logits, n);
        float *first = run->logits + n * V;
        if (source == 0) memcpy(first, row, (size_t)V * sizeof *first);
        for (int64_t v = 0; v < V; v++) {
            double by = fabs((double)row[v] - (double)first[v]);
            if (!(by <= proof->largest)) proof->largest = by; // NaN as well
            if (source == 0) proof->of_logit = fmax(proof->of_logit, fabs((double)row[v]));
        }
    }
}

static bool run_layer(Run *run, int64_t layer, Proof *proof, Error *err) {
    ModelConfig *one = calloc(1, sizeof *one);
    CHECK_MEMORY(one, "no memory for a configuration");
    model_config_of_layer(one, run->config, layer);
    model_measure(&run->stage, one, model_split_alone(run->N), &run->session->dev);
    free(one);
    bool ok = model_check(&run->stage, err);
    if (ok) model_allocate(&run->stage, run->session->groups, 0);
    for (int s = 0; ok && s < SOURCES; s++) {
        ok = load_stage(run, run->sources[s], layer, err);
        if (!ok) break;
        model_stream_forward(&run->stage, layer == 0 ? run->tokens : (Tensor){0}, run->streams[s]);
        if (layer == run->config->layers - 1) compare_logits(run, s, proof);
    }
    model_free(&run->stage);
    return ok;
}

bool export_proof(const ModelConfig *config, int64_t context, const WeightSource *first,
                  const WeightSource *second, Session *session, Proof *proof, Error *err) {
    Run run = {.config = config,
               .sources = {first, second},
               .N = smaller(context, MOST_TOKENS),
               .session = session};
    *proof = (Proof){.tokens = run.N};
    open_run(&run);
    bool ok = true;
    for (int64_t layer = 0; ok && layer < config->layers; layer++)
        ok = run_layer(&run, layer, proof, err);
    close_run(&run);
    return ok;
}
