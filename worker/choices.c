#include "worker/choices.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "worker/evaluate.h"
#include "worker/run/signals.h"
#include "worker/watch/watchdog.h"

// ---- the file -----------------------------------------------------------------------------------

static void *grown(void *array, int64_t count, size_t size) {
    array = realloc(array, (size_t)count * size);
    CHECK_MEMORY(array, "no memory for %lld questions", (long long)count);
    return array;
}

// One line's question. False with exit 3 and what is wrong with it.
static bool add_question(Questions *q, json_t *object, Error *err) {
    json_t *context = json_object_get(object, "context"), *choice;
    json_t *choices = json_object_get(object, "choices"), *gold = json_object_get(object, "gold");
    size_t i, count = json_array_size(choices);
    if (!json_is_string(context) || count == 0 || !json_is_integer(gold))
        return error_set(err, EXIT_DATA,
                         "a question is {\"context\": TEXT, \"choices\": [TEXT, …], \"gold\": "
                         "NUMBER}");
    if (json_integer_value(gold) < 0 || json_integer_value(gold) >= (json_int_t)count)
        return error_set(err, EXIT_DATA, "gold is %lld, but choices are numbered from 0 to %zu",
                         (long long)json_integer_value(gold), count - 1);
    q->rows = grown(q->rows, q->row_count + (int64_t)count, sizeof *q->rows);
    q->questions = grown(q->questions, q->count + 1, sizeof *q->questions);
    q->questions[q->count++] = (Question){
        .first = q->row_count, .count = (int64_t)count, .gold = (int64_t)json_integer_value(gold)};
    json_array_foreach(choices, i, choice) {
        ChoiceRow row = {json_string_value(context), json_string_value(choice)};
        if (!row.choice || !row.choice[0])
            return error_set(err, EXIT_DATA, "choice %zu is no text, or empty", i);
        int64_t bytes = (int64_t)(strlen(row.context) + strlen(row.choice));
        if (bytes > q->longest) q->longest = bytes;
        q->rows[q->row_count++] = row;
    }
    return true;
}

bool questions_read(Questions *q, const char *path, Error *err) {
    *q = (Questions){.path = path};
    bool ok = json_rows_read(&q->lines, path, err);
    for (int64_t i = 0; ok && i < q->lines.count; i++)
        ok = add_question(q, q->lines.rows[i], err) ||
             error_prefix(err, "%s: line %lld", path, (long long)q->lines.lines[i]);
    return ok;
}

void questions_free(Questions *q) {
    json_rows_free(&q->lines);
    free(q->questions);
    free(q->rows);
    *q = (Questions){0};
}

// ---- rows of tokens -----------------------------------------------------------------------------

// A row as the model is asked: *count targets, of which those from *first on are the choice's.
typedef struct TokenRow {
    int64_t room;            // tokens of the longest row at most
    int32_t *tokens, *spare; // scratch of that, and one more
    int64_t first, count;
    int64_t begin; // of its tokens
} TokenRow;

static bool encode_row(TokenRow *t, ChoiceRow row, const Vocabulary *vocabulary, int64_t T,
                       Error *err) {
    size_t head = strlen(row.context), bytes = head + strlen(row.choice);
    while (head > 0 && isspace((unsigned char)row.context[head - 1])) head--;
    char *text = malloc(bytes + 1);
    CHECK_MEMORY(text, "no memory for %zu bytes", bytes);
    snprintf(text, bytes + 1, "%s%s", row.context, row.choice);
    int64_t whole = 0, context = 0;
    bool ok = vocabulary_encode(vocabulary, text, t->tokens + 1, t->room, &whole, err);
    text[head] = '\0';
    ok = ok && vocabulary_encode(vocabulary, text, t->spare, t->room, &context, err);
    free(text);
    if (!ok) return false;
    int64_t scored = whole - context;
    if (scored <= 0 || scored > T)
        return error_set(err, EXIT_DATA,
                         scored > 0 ? "a choice of %lld tokens is longer than train.context (%lld)"
                                    : "a choice adds %lld tokens to its context of %lld",
                         (long long)scored, (long long)(scored > 0 ? T : context));
    t->tokens[0] = vocabulary_first_token(vocabulary);
    t->begin = context == 0 ? 0 : 1;
    t->count = whole - t->begin;
    if (t->count > T) {
        t->begin += t->count - T;
        t->count = T;
    }
    t->first = t->count - scored;
    return true;
}

// ---- answers ------------------------------------------------------------------------------------

static int64_t characters(const char *text) {
    int64_t count = 0;
    for (; *text; text++) count += (*text & 0xc0) != 0x80;
    return count;
}

// The likeliest choice, of equal ones the first; by_length: by its share of each character.
static int64_t answer(const Questions *q, Question of, const double *scores, bool by_length) {
    int64_t best = 0;
    double most = 0;
    for (int64_t i = 0; i < of.count; i++) {
        const char *choice = q->rows[of.first + i].choice;
        double score = scores[of.first + i] / (by_length ? (double)characters(choice) : 1.0);
        if (i == 0 || score > most) best = i, most = score;
    }
    return best;
}

static void print_answer(int64_t number, Question of, const double *scores, int64_t choice,
                         int64_t by_length) {
    json_t *logprobs = json_array();
    for (int64_t i = 0; i < of.count; i++)
        json_array_append_new(logprobs, json_real(scores[of.first + i]));
    json_t *object = json_pack("{sI so sI sI sI}", "question", (json_int_t)number, "logprobs",
                               logprobs, "choice", (json_int_t)choice, "choice_by_length",
                               (json_int_t)by_length, "gold", (json_int_t)of.gold);
    CHECK_MEMORY(object, "no memory for a line of JSON");
    json_dumpf(object, stdout, 0);
    putchar('\n');
    json_decref(object);
}

static void count_answers(const Questions *q, const double *scores, bool json,
                          ChoicesResult *result) {
    int64_t right = 0, right_by_length = 0;
    for (int64_t i = 0; i < q->count; i++) {
        Question of = q->questions[i];
        int64_t choice = answer(q, of, scores, false), by_length = answer(q, of, scores, true);
        right += choice == of.gold;
        right_by_length += by_length == of.gold;
        if (json && comm_rank() == 0) print_answer(i, of, scores, choice, by_length);
    }
    fflush(stdout);
    result->accuracy = (double)right / (double)q->count;
    result->accuracy_by_length = (double)right_by_length / (double)q->count;
}

// This rank's rows of batch number `index`.
static void fill_batch(const Questions *q, TokenRow *t, BatchBuffer *batch,
                       const Vocabulary *vocabulary, int64_t index) {
    int64_t T = batch->T;
    memset(batch->host_tokens.data, 0, tensor_bytes(batch->host_tokens));
    memset(batch->host_targets.data, 0, tensor_bytes(batch->host_targets));
    for (int64_t b = 0; b < batch->B; b++) {
        int64_t row = index * batch->total + batch->first + b;
        Error never = {0};
        t->first = t->count = 0;
        if (row < q->row_count)
            CHECK(encode_row(t, q->rows[row], vocabulary, T, &never), "%s", never.message);
        tensor_i64(batch->firsts)[b] = t->first;
        tensor_i64(batch->counts)[b] = t->count;
        size_t bytes = (size_t)t->count * sizeof(int32_t);
        memcpy(tensor_i32(batch->host_tokens) + b * T, t->tokens + t->begin, bytes);
        memcpy(tensor_i32(batch->host_targets) + b * T, t->tokens + t->begin + 1, bytes);
    }
    batch_upload(batch);
}

bool questions_answer(const Questions *q, Model *model, BatchBuffer *batch,
                      const Vocabulary *vocabulary, bool json, ChoicesResult *result, Error *err) {
    double begin = clock_seconds();
    TokenRow t = {.room = vocabulary_most_tokens(q->longest)};
    t.tokens = calloc((size_t)t.room + 1, sizeof *t.tokens);
    t.spare = calloc((size_t)t.room + 1, sizeof *t.spare);
    int64_t batches = (q->row_count + batch->total - 1) / batch->total;
    double *scores = calloc((size_t)q->row_count, sizeof *scores);
    WindowLoss *losses = calloc((size_t)batch->total, sizeof *losses);
    CHECK_MEMORY(t.tokens && t.spare && scores && losses, "no memory for %lld rows",
                 (long long)q->row_count);
    *result = (ChoicesResult){0};
    bool ok = true;
    for (int64_t i = 0; ok && i < q->row_count; i++) // every rank finds the same
        ok = encode_row(&t, q->rows[i], vocabulary, batch->T, err) ||
             error_prefix(err, "%s: row %lld of its choices", q->path, (long long)(i + 1));
    for (int64_t i = 0; ok && i < batches; i++) {
        watchdog_beat("evaluation");
        result->signal = signals_agreed(model->work.groups.world);
        if (result->signal) break;
        fill_batch(q, &t, batch, vocabulary, i);
        evaluation_window_losses(model, batch, i * batch->total, losses);
        for (int64_t w = 0; w < batch->total && i * batch->total + w < q->row_count; w++)
            scores[i * batch->total + w] = -losses[w].nats;
    }
    if (ok && !result->signal) count_answers(q, scores, json, result);
    result->seconds = clock_seconds() - begin;
    free(t.tokens);
    free(t.spare);
    free(scores);
    free(losses);
    return ok;
}
