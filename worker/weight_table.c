#include "worker/weight_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "model/configured_layers.h"
#include "model/routing_tape.h"
#include "worker/data/open_data.h"
#include "worker/evaluate.h"
#include "worker/generation/decoder.h"
#include "worker/run/signals.h"
#include "worker/watch/watchdog.h"

// ---- choices of experts -------------------------------------------------------------------------

// Those that this rank's tokens make, layer after layer and batch after batch, in f32's pass; later
// passes are compared with them.
typedef struct Choices {
    RoutingTape tape;
    const Model *model;
    int32_t *ids; // of f32
    int64_t count, room, at;
    bool compares;
    double compared, moved;
} Choices;

static bool among(int32_t id, const int32_t *ids, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

static void keep(Choices *c, const int32_t *ids, int64_t count) {
    if (c->count + count > c->room) {
        c->room = 2 * (c->count + count);
        c->ids = realloc(c->ids, (size_t)c->room * sizeof *c->ids);
        CHECK_MEMORY(c->ids, "no memory for %lld choices", (long long)c->room);
    }
    memcpy(c->ids + c->count, ids, (size_t)count * sizeof *ids);
    c->count += count;
}

static void compare(Choices *c, const int32_t *ids, int64_t tokens, int64_t K) {
    CHECK(c->at + tokens * K <= c->count, "more tokens are routed than before");
    for (int64_t i = 0; i < tokens * K; i++)
        c->moved += !among(ids[i], c->ids + c->at + i / K * K, K);
    c->compared += (double)(tokens * K);
    c->at += tokens * K;
}

static void passed(void *context, int64_t tokens) {
    Choices *c = context;
    if (c->model->config.moe.router.kind == EXPERT_CHOICE) return; // every token has all as choices
    for (int64_t layer = 0; layer < c->model->config.layers; layer++) {
        Tensor ids = c->tape.layers[layer];
        if (!ids.data) continue;
        if (c->compares)
            compare(c, tensor_i32(ids), tokens, ids.shape[1]);
        else
            keep(c, tensor_i32(ids), tokens * ids.shape[1]);
    }
}

// Gives the model a tape.
static void listen(Choices *c, Model *model, bool compares) {
    c->model = model;
    c->compares = compares;
    c->at = 0;
    c->compared = c->moved = 0;
    routing_tape_open(&c->tape, &model->config, model->work.shape.N);
    c->tape.passed = passed;
    c->tape.context = c;
    model->work.tape = &c->tape;
}

static void stop_listening(Choices *c) {
    routing_tape_close(&c->tape, &c->model->config);
    c->model = NULL;
    double sums[] = {c->moved, c->compared};
    all_reduce_sum(comm_world(), tensor_1d(sums, F64, 2), REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_OTHER);
    c->moved = sums[0], c->compared = sums[1];
}

// ---- a row --------------------------------------------------------------------------------------

typedef struct Row {
    double loss, megabytes;
    double tokens_per_second; // 0: such a model writes no text
} Row;

static bool measure_loss(Row *row, Choices *choices, const TrainConfig *config, Session *session,
                         const char *checkpoint_path, WeightKind kind, Error *err) {
    Restored restored = {0};
    BatchBuffer batch = {0};
    DataFile *file = NULL;
    Evaluation result = {0};
    char identity[40];
    bool ok = evaluation_restore(&restored, &batch, config, session, checkpoint_path,
                                 config->context, kind, err) &&
              open_data(&file, "data.validation", config->data.validation.maps[0].path,
                        PART_VALIDATION, &restored.vocabulary, identity, err);
    if (ok) {
        listen(choices, &restored.model, kind != WEIGHTS_F32);
        ok = evaluate_model(&restored.model, file, &batch, config, NULL, &result, err);
        stop_listening(choices);
    }
    if (ok && result.signal)
        ok = error_set(err, EXIT_REQUEUE, "stopped by %s: the evaluation is not complete",
                       signal_name(result.signal));
    row->loss = result.loss;
    row->megabytes = 1e-6 * (double)restored.model.parameter_arena.used_bytes;
    data_file_close(file);
    batch_close(&batch);
    restore_free(&restored);
    return ok;
}

// The best of some rounds over the first tokens of a text.
static bool measure_speed(Row *row, const TrainConfig *config, Session *session,
                          const char *checkpoint_path, WeightKind kind, Error *err) {
    enum { TOKENS = 64, ROUNDS = 3 };
    TrainConfig writer = *config;
    Error refused;
    Decoder decoder = {0};
    int32_t tokens[TOKENS] = {0};
    int64_t count = config->context < TOKENS ? config->context : TOKENS;
    if (!model_for_generation(&writer.model, &refused)) return true;
    if (!decoder_open(&decoder, config, session, checkpoint_path, kind, false, err)) {
        decoder_close(&decoder);
        return false;
    }
    for (int round = 0; round < ROUNDS; round++) {
        decoder_forget(&decoder, 0);
        double begin = clock_seconds();
        for (int64_t n = 1; n <= count; n++) decoder_read(&decoder, tokens, n);
        watchdog_beat("generation");
        row->tokens_per_second =
            fmax(row->tokens_per_second, (double)count / (clock_seconds() - begin));
    }
    decoder_close(&decoder);
    return true;
}

static void print_row(const Row *row, const Row *f32, const Choices *choices, WeightKind kind) {
    printf("%-8s %10.6f", choice_row(WEIGHT_CHOICES, (int)kind)->word, row->loss);
    if (kind == WEIGHTS_F32)
        printf(" %11s", "");
    else
        printf(" %+11.6f", row->loss - f32->loss);
    printf(" %10.3f", row->megabytes);
    if (row->tokens_per_second > 0)
        printf(" %10.1f", row->tokens_per_second);
    else
        printf(" %10s", "-");
    if (choices->compared > 0) printf(" %12.4f %%", 100 * choices->moved / choices->compared);
    puts("");
    fflush(stdout);
}

bool weight_table_print(const TrainConfig *config, const char *checkpoint_path, Error *err) {
    Session session = {0};
    Choices choices = {0};
    Row f32 = {0};
    if (config->data.validation.count == 0)
        return error_set(err, EXIT_CONFIG,
                         "data.validation is empty: nothing to evaluate; add data.validation=FILE");
    bool ok = session_open(&session, config, err);
    if (ok && comm_rank() == 0)
        printf("%-8s %10s %11s %10s %10s %14s\n", "weights", "loss", "difference", "MB", "tokens/s",
               "choices moved");
    for (WeightKind kind = WEIGHTS_F32; ok && kind < WEIGHT_KINDS; kind++) {
        Row row = {0};
        ok = measure_loss(&row, &choices, config, &session, checkpoint_path, kind, err) &&
             measure_speed(&row, config, &session, checkpoint_path, kind, err);
        if (kind == WEIGHTS_F32) f32 = row;
        if (ok && comm_rank() == 0) print_row(&row, &f32, &choices, kind);
    }
    free(choices.ids);
    session_close(&session);
    return ok;
}
