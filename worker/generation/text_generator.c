#include "worker/generation/text_generator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "worker/data/data_format.h"
#include "worker/generation/sample_json.h"
#include "worker/generation/sampler.h"
#include "worker/run/signals.h"
#include "worker/watch/watchdog.h"

bool text_generator_open(TextGenerator *g, const TrainConfig *config, Session *session,
                         const char *checkpoint_path, const GenerateOptions *options, Error *err) {
    *g = (TextGenerator){.options = options};
    if (!decoder_open(&g->decoder, config, session, checkpoint_path, options->weights,
                      options->recompute, err))
        return false;
    g->vocabulary = &g->decoder.restored.vocabulary;
    size_t V = (size_t)g->vocabulary->size;
    g->coloured = expert_colours_wanted(options);
    if (options->experts >= 0 &&
        !expert_colours_open(&g->colours, &g->decoder, options->experts, err))
        return false;
    if (g->coloured) expert_colours_legend(&g->colours, stdout);
    g->stream = (TextStream){.out = options->json || g->coloured ? NULL : stdout,
                             .stops = options->stops,
                             .stop_count = options->stop_count};
    g->logits = calloc(V, sizeof *g->logits);
    g->seen = calloc(V, sizeof *g->seen);
    g->order = calloc(V, sizeof *g->order);
    g->probabilities = calloc(V, sizeof *g->probabilities);
    CHECK_MEMORY(g->logits && g->seen && g->order && g->probabilities, "no memory for generation");
    return true;
}

void text_generator_close(TextGenerator *g) {
    expert_colours_close(&g->colours);
    decoder_close(&g->decoder);
    text_stream_free(&g->stream);
    token_times_free(&g->times);
    free(g->tokens);
    free(g->logprobs);
    free(g->logits);
    free(g->seen);
    free(g->order);
    free(g->probabilities);
    *g = (TextGenerator){0};
}

// ---- a beginning --------------------------------------------------------------------------------

static void make_room(TextGenerator *g, int64_t tokens) {
    if (tokens <= g->room) return;
    g->room = tokens;
    g->tokens = realloc(g->tokens, (size_t)tokens * sizeof *g->tokens);
    g->logprobs = realloc(g->logprobs, (size_t)tokens * sizeof *g->logprobs);
    CHECK_MEMORY(g->tokens && g->logprobs, "no memory for %lld tokens", (long long)tokens);
}

bool text_generator_begin(TextGenerator *g, const char *prompt, Error *err) {
    int64_t most = vocabulary_most_tokens((int64_t)strlen(prompt));
    make_room(g, most + 1);
    decoder_forget(&g->decoder, 0);
    g->prompt = prompt;
    g->begin = g->count = g->given = g->shown = 0;
    if (!vocabulary_encode(g->vocabulary, prompt, g->tokens, most, &g->count, err)) {
        g->count = 0;
        return false;
    }
    g->shown = g->count;
    if (g->count == 0) g->tokens[g->count++] = vocabulary_first_token(g->vocabulary);
    g->given = g->count;
    return true;
}

void text_generator_go_on(TextGenerator *g) {
    g->prompt = "";
    g->given = g->count;
    g->shown = 0;
}

// Token numbers are written as decode writes them, apart from each other and from what follows.
void text_generator_show_prompt(TextGenerator *g) {
    bool numbers = data_format_facts(g->vocabulary->format)->numbers;
    if (g->coloured) return;
    if (!numbers) fputs(g->prompt, stdout);
    for (int64_t i = 0; numbers && i < g->shown; i++) {
        char scratch[32];
        size_t bytes;
        const char *text = vocabulary_decode(g->vocabulary, g->tokens[i], scratch, &bytes);
        fwrite(text, 1, bytes, stdout);
    }
    fflush(stdout);
}

// ---- a continuation -----------------------------------------------------------------------------

// Logits (V) for the token after the last one. Collective over all ranks.
static const float *next_logits(TextGenerator *g) {
    int64_t context = g->decoder.context;
    if (g->count - g->begin > context) {
        g->begin = g->count - (context + 1) / 2;
        decoder_forget(&g->decoder, 0);
    }
    return decoder_read(&g->decoder, g->tokens + g->begin, g->count - g->begin);
}

// The i-th token of continuation `sample`, from the logits before it.
static int32_t choose_token(TextGenerator *g, const float *logits, int64_t sample, int64_t i) {
    const GenerateOptions *options = g->options;
    int64_t V = g->vocabulary->size;
    if (options->repetition_penalty != 1) {
        memcpy(g->logits, logits, (size_t)V * sizeof *logits);
        penalize_repetition(g->logits, V, g->seen, options->repetition_penalty);
        logits = g->logits;
    }
    Sampling rule = {.temperature = options->temperature,
                     .top_k = options->top_k,
                     .top_p = options->top_p,
                     .seed = options->seed,
                     .sample = (uint32_t)sample};
    int32_t token = sample_token(logits, V, rule, i, g->order, g->probabilities);
    if (options->logprobs) g->logprobs[i] = -decoder_loss(&g->decoder, token);
    return token;
}

// The text is its beginning again, most of it read.
static void rewind_text(TextGenerator *g) {
    make_room(g, g->given + g->options->tokens);
    g->count = g->given;
    if (g->begin > 0) decoder_forget(&g->decoder, 0);
    decoder_forget(&g->decoder, g->given);
    g->begin = 0;
    g->next_shown = g->given - g->shown;
    g->shown_bytes = 0;
    memset(g->seen, 0, (size_t)g->vocabulary->size * sizeof *g->seen);
    for (int64_t i = 0; i < g->count; i++) g->seen[g->tokens[i]] = true;
    text_stream_clear(&g->stream);
}

// False when the text has come to a stop string.
static bool add_token(TextGenerator *g, int32_t token) {
    char scratch[32];
    size_t bytes;
    g->tokens[g->count++] = token;
    g->seen[token] = true;
    const char *text = vocabulary_decode(g->vocabulary, token, scratch, &bytes);
    return text_stream_add(&g->stream, text, bytes);
}

// Shows in colours what the text has more and the stream does not hold back: it may turn out to be
// a stop string, of which a token may have a part. Tokens from number `known` on have no colour.
static void show_coloured(TextGenerator *g, int64_t known) {
    for (; g->coloured && g->next_shown < g->count; g->next_shown++) {
        int64_t i = g->next_shown;
        char scratch[32];
        size_t bytes, room = g->stream.shown - g->shown_bytes;
        const char *text = vocabulary_decode(g->vocabulary, g->tokens[i], scratch, &bytes);
        bool prompt = i < g->given;
        if (!prompt && bytes > room) {
            if (!g->stream.stopped) return; // the rest may come
            bytes = room;
        }
        int64_t place = i < g->begin || i >= known ? -1 : i - g->begin;
        expert_colours_show(&g->colours, stdout, place, text, bytes);
        if (!prompt) g->shown_bytes += bytes;
    }
}

// The end of a text; in colours its last token is read as well.
static void end_text(TextGenerator *g, bool read) {
    text_stream_show_rest(&g->stream);
    if (!g->coloured) return;
    int64_t known = read ? g->count : g->next_shown;
    if (read) next_logits(g);
    show_coloured(g, known);
    expert_colours_end(&g->colours, stdout);
}

// Collective over all ranks.
static bool any_rank(bool here) {
    double any = here;
    if (comm_size() > 1) all_reduce_max(comm_world(), tensor_1d(&any, F64, 1), TRAFFIC_OTHER);
    return any > 0;
}

bool text_generator_write(TextGenerator *g, int64_t sample, bool idle, Error *err) {
    bool goes_on = !idle;
    rewind_text(g);
    token_times_begin(&g->times);
    for (int64_t i = 0; i < g->options->tokens && any_rank(goes_on); i++) {
        watchdog_beat("generation");
        int number = signals_agreed(g->decoder.restored.model.work.groups.world);
        if (number)
            return end_text(g, false),
                   error_set(err, EXIT_REQUEUE, "stopped by %s after %lld of %lld tokens",
                             signal_name(number), (long long)i, (long long)g->options->tokens);
        const float *logits = next_logits(g);
        show_coloured(g, g->count);
        if (!goes_on) continue;
        goes_on = add_token(g, choose_token(g, logits, sample, i));
        token_times_add(&g->times);
    }
    end_text(g, true);
    return true;
}

char *text_generator_json(const TextGenerator *g) {
    return sample_json((Sample){.prompt = g->prompt,
                                .text = g->stream.text ? g->stream.text : "",
                                .text_bytes = g->stream.bytes,
                                .tokens = g->tokens + g->given,
                                .logprobs = g->options->logprobs ? g->logprobs : NULL,
                                .count = g->count - g->given,
                                .times = g->options->timings ? &g->times : NULL,
                                .finish_reason = g->stream.stopped ? "stop" : "length"});
}
