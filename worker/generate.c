#include "worker/generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "worker/data_format.h"
#include "worker/restore.h"
#include "worker/sampler.h"
#include "worker/session.h"
#include "worker/signals.h"
#include "worker/watchdog.h"

// A text being written. The model sees a window of at most `context` tokens; when it is full, the
// newer half of it, at least one token, becomes the beginning of the next window.
typedef struct Generator {
    Restored restored;
    KvCache cache;
    bool recompute; // the whole window again for each token, instead of the cache
    int64_t context;
    int32_t *tokens; // prompt and continuation
    int64_t count;   // tokens so far
    int64_t given;   // of them in the prompt; 0: it is empty
    int64_t begin;   // first token of the window
    int64_t cached;  // tokens of the window whose keys and values are in the cache
    Arena arena, host_arena;
    Tensor input, host_input; // (1) or, when recomputing, (context) i32; the host's mirror
    int32_t *order;           // scratch of the sampler
    double *probabilities;
} Generator;

// Logits (V) for the token after the last one.
static const float *next_logits(Generator *g) {
    Model *model = &g->restored.model;
    if (g->count - g->begin > g->context) {
        g->begin = g->count - (g->context + 1) / 2;
        g->cached = 0;
    }
    int64_t length = g->count - g->begin;
    int32_t *input = tensor_i32(g->host_input);
    if (g->recompute) {
        // Attention is causal and routing dropless: what stands behind the last token changes
        // nothing.
        memset(input, 0, tensor_bytes(g->host_input));
        memcpy(input, g->tokens + g->begin, (size_t)length * sizeof *input);
        device_upload(model->work.dev, g->input, g->host_input);
        return model_read_logits(model, model_logits(model, g->input), length - 1);
    }
    Tensor logits = {0};
    for (; g->cached < length; g->cached++) {
        input[0] = g->tokens[g->begin + g->cached];
        device_upload(model->work.dev, g->input, g->host_input);
        logits = model_decode(model, &g->cache, g->input, g->cached);
    }
    return model_read_logits(model, logits, 0);
}

static void write_token(const Generator *g, int32_t token) {
    char text[32];
    int bytes = vocabulary_decode(&g->restored.vocabulary, token, text);
    fwrite(text, 1, (size_t)bytes, stdout);
    fflush(stdout);
}

// What the text begins with. Token numbers are written as decode writes them, apart from each other
// and from what follows.
static void write_prompt(const Generator *g, const char *prompt) {
    bool numbers = data_format_facts(g->restored.vocabulary.format)->numbers;
    if (!numbers) fputs(prompt, stdout);
    for (int64_t i = 0; numbers && i < g->given; i++) write_token(g, g->tokens[i]);
}

static bool encode_prompt(Generator *g, const GenerateOptions *options, Error *err) {
    size_t prompt_bytes = strlen(options->prompt);
    int64_t room = (int64_t)prompt_bytes + options->tokens + 1;
    g->tokens = calloc((size_t)room, sizeof *g->tokens);
    CHECK_MEMORY(g->tokens, "no memory for %lld tokens", (long long)room);
    if (!vocabulary_encode(&g->restored.vocabulary, options->prompt, g->tokens,
                           (int64_t)prompt_bytes, &g->count, err))
        return error_prefix(err, "--prompt");
    g->given = g->count;
    if (g->count > 0) return true;
    // Without a prompt the text begins after a line break, or after token 0 where there is none.
    if (!vocabulary_encode(&g->restored.vocabulary, "\n", g->tokens, 1, &g->count, err))
        *err = (Error){0};
    if (g->count == 0) g->tokens[g->count++] = 0;
    return true;
}

static void open_input(Generator *g, Device *dev, int64_t tokens) {
    arena_measure(&g->arena, "input", dev);
    arena_measure(&g->host_arena, "input", NULL);
    arena_mirror(&g->host_arena, arena_1d(&g->arena, I32, tokens));
    arena_allocate(&g->arena);
    arena_allocate(&g->host_arena);
    g->input = arena_1d(&g->arena, I32, tokens);
    g->host_input = arena_mirror(&g->host_arena, g->input);
}

static bool generate(Generator *g, const TrainConfig *config, Session *session,
                     const char *checkpoint_path, const GenerateOptions *options, Error *err) {
    if (comm_size() > 1)
        return error_set(err, EXIT_CONFIG,
                         "generate works with one rank, not %d; run it without mpirun",
                         comm_size());
    if (!session_open(session, config, err)) return false;
    TrainConfig single = *config;
    if (!model_for_generation(&single.model, err)) return false;
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = 1,
                        .sequences = 1,
                        .context = options->recompute ? config->context : 1,
                        .positions = config->context,
                        .micro_batches = 1,
                        .storage = session_storage(config)};
    if (!restore_model(&g->restored, &single, split, session, checkpoint_path, err) ||
        !encode_prompt(g, options, err))
        return false;
    int64_t V = g->restored.model.config.vocab_size;
    g->recompute = options->recompute;
    g->context = config->context;
    open_input(g, &session->dev, split.context);
    g->order = calloc((size_t)V, sizeof *g->order);
    g->probabilities = calloc((size_t)V, sizeof *g->probabilities);
    CHECK_MEMORY(g->order && g->probabilities, "no memory for generation");
    if (!g->recompute) kv_cache_open(&g->cache, &g->restored.model, config->context);

    write_prompt(g, options->prompt);
    for (int64_t i = 0; i < options->tokens; i++) {
        watchdog_beat("generation");
        int number = signals_received();
        if (number)
            return putchar('\n'),
                   error_set(err, EXIT_REQUEUE, "stopped by %s after %lld of %lld tokens",
                             signal_name(number), (long long)i, (long long)options->tokens);
        const float *logits = next_logits(g);
        int32_t token = sample_token(logits, V, options->temperature, options->top_k,
                                     options->top_p, options->seed, i, g->order, g->probabilities);
        g->tokens[g->count++] = token;
        write_token(g, token);
    }
    putchar('\n');
    if (fflush(stdout) != 0 || ferror(stdout))
        return error_set(err, EXIT_IO, "cannot write the text to stdout");
    return true;
}

int generate_run(const TrainConfig *config, const char *checkpoint_path,
                 const GenerateOptions *options, Error *err) {
    Generator g = {0};
    Session session = {0};
    watchdog_start(config->hang_timeout);
    bool ok = generate(&g, config, &session, checkpoint_path, options, err);
    watchdog_stop();
    if (g.cache.layers) kv_cache_close(&g.cache);
    restore_free(&g.restored);
    free(g.tokens);
    arena_free(&g.arena);
    arena_free(&g.host_arena);
    free(g.order);
    free(g.probabilities);
    session_close(&session);
    return ok ? EXIT_DONE : err->exit_code;
}
