#include "launcher/scale/scale_point.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/config.h"
#include "launcher/config_rules.h"
#include "launcher/own_process.h"
#include "worker/run/json_file.h"

const char *const SCALE_MODE_NAMES[] = {"strong", "weak", "experts"};

static const char CONFIG_NAME[] = "scale.yaml", LOG_NAME[] = "scale.log";
enum { WORD_BYTES = CONFIG_PATH_BYTES + 64, MOST_CHANGES = 8, ROWS_A_RUN = 4 };

// ---- its configuration --------------------------------------------------------------------------

static void run_dir(const ScalePlan *plan, const ScalePoint *point, int64_t repeat, char *dir,
                    size_t bytes) {
    snprintf(dir, bytes, "%s/np-%d/%s-%lld", plan->output, point->ranks,
             point->even ? "even" : "learned", (long long)repeat);
}

// Steps of a row of metrics: a run has a few, whose times show how much they vary.
static int64_t row_steps(const ScalePlan *plan) {
    int64_t steps = plan->steps / ROWS_A_RUN;
    return steps > 0 ? steps : 1;
}

// The warm-up is as long as a number of rows.
static int64_t warm_up_steps(const ScalePlan *plan) {
    int64_t row = row_steps(plan);
    return (plan->warm_up + row - 1) / row * row;
}

Config *scale_point_config(const ScalePlan *plan, const ScalePoint *point, int64_t repeat,
                           Error *err) {
    char words[MOST_CHANGES][WORD_BYTES], dir[CONFIG_PATH_BYTES];
    const char *list[MOST_CHANGES];
    int count = 0;
    run_dir(plan, point, repeat, dir, sizeof dir);
    int64_t steps = warm_up_steps(plan) + plan->steps;
    snprintf(words[count++], WORD_BYTES, "run.dir=%s", dir);
    snprintf(words[count++], WORD_BYTES, "train.steps=%lld", (long long)steps);
    snprintf(words[count++], WORD_BYTES, "log.every=%lld", (long long)row_steps(plan));
    snprintf(words[count++], WORD_BYTES, "eval.every=0");
    snprintf(words[count++], WORD_BYTES, "checkpoint.every=0");
    if (point->even) snprintf(words[count++], WORD_BYTES, "moe.force=balanced");
    if (point->batch != plan->batch)
        snprintf(words[count++], WORD_BYTES, "train.batch=%lld", (long long)point->batch);
    if (point->experts != plan->experts)
        snprintf(words[count++], WORD_BYTES, "moe.experts=%lld", (long long)point->experts);
    for (int i = 0; i < count; i++) list[i] = words[i];
    const ConfigOverrides sets[] = {{.words = plan->overrides, .count = plan->override_count},
                                    {.words = list, .count = count}};
    Config *config = config_new();
    if (config_read_changed(config, plan->path, plan->text, plan->bytes, sets, 2, err))
        return config;
    free(config);
    return NULL;
}

static bool grow(const ScalePlan *plan, const ScalePoint *point, const char *what, int64_t of_first,
                 int64_t *value, Error *err) {
    int64_t all = of_first * point->ranks;
    *value = all / plan->first_ranks;
    return all % plan->first_ranks == 0 ||
           error_set(err, EXIT_CONFIG,
                     "command line: %s is %lld on %d ranks and cannot grow to %d: begin --np with "
                     "a number of ranks that divides it, such as 1",
                     what, (long long)of_first, plan->first_ranks, point->ranks);
}

bool scale_point_plan(const ScalePlan *plan, ScalePoint *point, Error *err) {
    point->batch = plan->batch;
    point->experts = plan->experts;
    if (plan->mode != SCALE_STRONG &&
        !grow(plan, point, "train.batch", plan->batch, &point->batch, err))
        return false;
    if (plan->mode == SCALE_EXPERTS &&
        !grow(plan, point, "moe.experts", plan->experts, &point->experts, err))
        return false;
    TrainConfig *train = calloc(1, sizeof *train);
    CHECK_MEMORY(train, "out of memory");
    bool ok = true;
    for (int64_t repeat = 1; ok && repeat <= plan->repeats; repeat++) {
        char dir[CONFIG_PATH_BYTES];
        run_dir(plan, point, repeat, dir, sizeof dir);
        Config *config = scale_point_config(plan, point, repeat, err);
        ok = config && (repeat > 1 || config_check_ranks(config, point->ranks, train, err) ||
                        error_prefix(err, "on %d ranks", point->ranks));
        // A run that is done is not gone on with to more steps.
        ok = ok && own_process_check_config(dir, CONFIG_NAME, config, "train.steps", err);
        free(config);
    }
    free(train);
    return ok;
}

// ---- running it ---------------------------------------------------------------------------------

static json_t *read_object(const char *dir, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return json_file_read(path);
}

// Its exit code; -1: it has not ended. message: what it said of an error.
static int outcome_of(const char *dir, char *message, size_t bytes) {
    json_t *outcome = read_object(dir, "outcome.json");
    int code = outcome ? (int)json_integer_value(json_object_get(outcome, "exit_code")) : -1;
    const char *said = json_string_value(json_object_get(outcome, "message"));
    if (message) snprintf(message, bytes, "%s", said ? said : "");
    json_decref(outcome);
    return code;
}

int scale_point_run(const ScalePlan *plan, const ScalePoint *point, int64_t repeat, Error *err) {
    char dir[CONFIG_PATH_BYTES];
    run_dir(plan, point, repeat, dir, sizeof dir);
    if (outcome_of(dir, NULL, 0) == EXIT_DONE) return EXIT_DONE;
    Config *config = scale_point_config(plan, point, repeat, err);
    bool ok = config && own_process_write_config(dir, CONFIG_NAME, config, err);
    free(config);
    if (!ok) return err->exit_code;
    return own_process_train(NULL, dir, CONFIG_NAME, LOG_NAME, "scale", point->ranks,
                             plan->launcher, NULL, err);
}

void scale_point_last_error(const ScalePlan *plan, ScalePoint *point, int64_t repeat) {
    char dir[CONFIG_PATH_BYTES];
    run_dir(plan, point, repeat, dir, sizeof dir);
    own_process_last_error(dir, LOG_NAME, point->message, sizeof point->message);
}

// ---- what came of it ----------------------------------------------------------------------------

typedef struct Rows {
    double *step_ms;
    int count;
    double parts[STEP_PARTS]; // sums, ms
} Rows;

static void take_row(Rows *rows, json_t *row) {
    size_t count = (size_t)rows->count + 1;
    rows->step_ms = realloc(rows->step_ms, count * sizeof *rows->step_ms);
    CHECK_MEMORY(rows->step_ms, "no memory for %zu rows", count);
    double ms = json_number_value(json_object_get(row, "step_ms"));
    rows->step_ms[rows->count++] = ms;
    json_t *parts = json_object_get(row, "step_parts_ms");
    if (!parts) rows->parts[PART_COMPUTE] += ms; // one rank
    for (int i = 0; i < STEP_PARTS; i++)
        rows->parts[i] += json_number_value(json_object_get(parts, STEP_PART_NAMES[i]));
}

static void read_rows(Rows *rows, const char *dir, int64_t warm_up) {
    char path[PATH_MAX];
    size_t i;
    json_t *row;
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    json_t *all = json_file_rows(path);
    // clang-format off
    json_array_foreach(all, i, row) {
        int64_t step = (int64_t)json_integer_value(json_object_get(row, "step"));
        if (step > warm_up && json_object_get(row, "step_ms")) take_row(rows, row);
    }
    // clang-format on
    json_decref(all);
}

static int compare(const void *a, const void *b) {
    double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

// Between the two nearest of the sorted numbers.
static double percentile(const double *sorted, int count, double share) {
    double at = share * (count - 1);
    int below = (int)at, above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

void scale_point_read(const ScalePlan *plan, ScalePoint *point) {
    Rows rows = {0};
    point->runs = point->failed = 0;
    point->message[0] = 0;
    for (int64_t repeat = 1; repeat <= plan->repeats; repeat++) {
        char dir[CONFIG_PATH_BYTES], message[sizeof point->message];
        run_dir(plan, point, repeat, dir, sizeof dir);
        int code = outcome_of(dir, message, sizeof message);
        if (code == EXIT_DONE) {
            read_rows(&rows, dir, warm_up_steps(plan));
            point->runs++;
        } else if (code >= 0) {
            point->failed++;
            memcpy(point->message, message, sizeof message);
        }
    }
    point->step_ms = point->low_ms = point->high_ms = point->tokens_per_second = NAN;
    point->efficiency = NAN;
    double sum = 0;
    for (int i = 0; i < STEP_PARTS; i++) sum += rows.parts[i];
    for (int i = 0; i < STEP_PARTS; i++)
        point->parts[i] = rows.count > 0 ? rows.parts[i] / sum : NAN;
    if (rows.count > 0) {
        qsort(rows.step_ms, (size_t)rows.count, sizeof *rows.step_ms, compare);
        point->step_ms = percentile(rows.step_ms, rows.count, 0.5);
        point->tokens_per_second = 1e3 * (double)(point->batch * plan->context) / point->step_ms;
        point->low_ms = percentile(rows.step_ms, rows.count, 0.1);
        point->high_ms = percentile(rows.step_ms, rows.count, 0.9);
    }
    free(rows.step_ms);
}
