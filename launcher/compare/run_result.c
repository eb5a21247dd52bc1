#include "launcher/compare/run_result.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/run/json_file.h"

static double real(json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static json_t *read_object(const char *run_dir, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", run_dir, name);
    return json_file_read(path);
}

// Steps since the row before, with their means.
static void take_training(RunResult *result, json_t *row, int64_t step) {
    double steps = (double)(step - result->step), drops = real(row, "drop_rate");
    result->seconds += steps * real(row, "step_ms") / 1e3;
    result->drop_rate += (drops - result->drop_rate) * steps / (double)step;
    result->tokens_per_second = real(row, "tokens") / result->seconds;
    result->step = step;
}

// The largest of all routers: "max_vio" of feed-forwards, "attention_max_vio" of MoA, and so on.
// NaN: there is none.
static double largest_max_vio(json_t *row) {
    static const char end[] = "max_vio";
    const size_t length = sizeof end - 1;
    double largest = NAN;
    const char *key;
    json_t *value;
    // clang-format off
    json_object_foreach(row, key, value) {
        size_t bytes = strlen(key);
        if (bytes >= length && strcmp(key + bytes - length, end) == 0) largest = fmax(largest, real(row, key));
    }
    // clang-format on
    return largest;
}

static void take_evaluation(RunResult *result, json_t *row, int64_t step) {
    size_t count = (size_t)result->point_count + 1;
    result->points = realloc(result->points, count * sizeof *result->points);
    CHECK_MEMORY(result->points, "no memory for %zu evaluations", count);
    result->val_loss = real(row, "val_loss");
    result->val_bits_per_byte = real(row, "val_bits_per_byte");
    result->max_vio = largest_max_vio(row);
    result->val_tokens_per_second = real(row, "val_tokens") / real(row, "val_seconds");
    result->points[result->point_count++] = (ValidationPoint){step, result->val_loss};
}

// Of several validation sets the first is compared.
static void read_metrics(RunResult *result, const char *run_dir, int64_t until) {
    char path[PATH_MAX];
    size_t i;
    json_t *row;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    json_t *rows = json_file_rows(path);
    // clang-format off
    json_array_foreach(rows, i, row) {
        int64_t step = (int64_t)json_integer_value(json_object_get(row, "step"));
        bool evaluated = result->point_count > 0 &&
                         result->points[result->point_count - 1].step >= step;
        if (step < 1 || step > until) continue;
        if (json_object_get(row, "step_ms") && step > result->step) take_training(result, row, step);
        if (json_object_get(row, "val_loss") && !evaluated) take_evaluation(result, row, step);
    }
    // clang-format on
    json_decref(rows);
}

void run_result_read(RunResult *result, const char *run_dir, int64_t step) {
    *result = (RunResult){.val_loss = NAN,
                          .val_bits_per_byte = NAN,
                          .tokens_per_second = NAN,
                          .max_vio = NAN,
                          .val_tokens_per_second = NAN};
    read_metrics(result, run_dir, step);
    json_t *status = read_object(run_dir, "status.json");
    json_t *outcome = read_object(run_dir, "outcome.json");
    json_t *inference = read_object(run_dir, INFERENCE_NAME);
    result->token_ms = real(inference, "token_ms");
    result->peak_memory_mib = real(status, "peak_memory_mib");
    int code = (int)json_integer_value(json_object_get(outcome, "exit_code"));
    bool saved = outcome && (code == EXIT_DONE || code == EXIT_REQUEUE);
    result->done =
        saved && result->point_count > 0 && result->points[result->point_count - 1].step == step;
    result->failed = outcome && !saved;
    result->exit_code = code;
    const char *message = json_string_value(json_object_get(outcome, "message"));
    snprintf(result->message, sizeof result->message, "%s", message ? message : "");
    if (result->step == 0) result->seconds = result->drop_rate = NAN;
    result->steps = (double)result->step;
    json_decref(status);
    json_decref(outcome);
    json_decref(inference);
}

void run_result_free(RunResult *result) {
    free(result->points);
    *result = (RunResult){0};
}
