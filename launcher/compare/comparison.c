#include "launcher/compare/comparison.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/config_rules.h"
#include "worker/plan.h"

// ---- lists --------------------------------------------------------------------------------------

void changes_add(Changes *changes, int line, const char *format, ...) {
    size_t count = (size_t)changes->count + 1;
    changes->words = realloc(changes->words, count * sizeof *changes->words);
    changes->lines = realloc(changes->lines, count * sizeof *changes->lines);
    CHECK_MEMORY(changes->words && changes->lines, "no memory for %zu changes", count);
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&changes->words[changes->count], format, arguments);
    va_end(arguments);
    CHECK_MEMORY(length >= 0, "no memory for a change");
    changes->lines[changes->count++] = line;
}

void changes_pop(Changes *changes) {
    free(changes->words[--changes->count]);
}

void changes_free(Changes *changes) {
    for (int i = 0; i < changes->count; i++) free(changes->words[i]);
    free(changes->words);
    free(changes->lines);
    *changes = (Changes){0};
}

ComparedRow *comparison_add_row(Comparison *comparison, const char *name, int line) {
    size_t count = (size_t)comparison->row_count + 1;
    comparison->rows = realloc(comparison->rows, count * sizeof *comparison->rows);
    CHECK_MEMORY(comparison->rows, "no memory for %zu rows", count);
    ComparedRow *row = &comparison->rows[comparison->row_count++];
    *row = (ComparedRow){.line = line};
    snprintf(row->name, sizeof row->name, "%s", name);
    return row;
}

void comparison_free(Comparison *comparison) {
    for (int i = 0; i < comparison->row_count; i++) changes_free(&comparison->rows[i].changes);
    changes_free(&comparison->set);
    for (int i = 0; i < comparison->grid_count; i++) changes_free(&comparison->grid[i].values);
    for (int i = 0; i < comparison->search.key_count; i++)
        changes_free(&comparison->search.keys[i].values);
    free(comparison->rows);
    free(comparison->config_text);
    *comparison = (Comparison){0};
}

// ---- keys ---------------------------------------------------------------------------------------

bool comparison_leaves(const char *key, Error *err) {
    bool dir = strcmp(key, "run.dir") == 0;
    if (!dir && strcmp(key, "run.seed") != 0) return true;
    return error_set(err, EXIT_CONFIG, "%s is the comparison's: %s", key,
                     dir ? "each run has a folder of its own, below that of -o"
                         : "write seeds: [1, 2, 3]");
}

// ---- configurations -----------------------------------------------------------------------------

static ConfigOverrides in_file(const Comparison *comparison, const Changes *changes) {
    return (ConfigOverrides){.words = (const char *const *)changes->words,
                             .count = changes->count,
                             .lines = changes->lines,
                             .folder = comparison->folder};
}

bool comparison_config(const Comparison *comparison, const ComparedRow *row, int64_t seed,
                       const char *run_dir, Config *config, Error *err) {
    char dir_word[CONFIG_PATH_BYTES + 16], seed_word[48];
    const char *words[] = {dir_word, seed_word};
    snprintf(dir_word, sizeof dir_word, "run.dir=%s", run_dir);
    snprintf(seed_word, sizeof seed_word, "run.seed=%lld", (long long)seed);
    const ConfigOverrides sets[] = {
        in_file(comparison, &comparison->set),
        in_file(comparison, &row->changes),
        {.words = comparison->overrides, .count = comparison->override_count},
        {.words = words, .count = 2},
    };
    return config_read_changed(config, comparison->config, comparison->config_text,
                               comparison->config_bytes, sets, sizeof sets / sizeof *sets, err) ||
           error_prefix(err, "%s: row %s", comparison->source, row->name);
}

static bool plan_row(ComparedRow *row, const Config *config, int ranks, Error *err) {
    TrainConfig train;
    Plan plan;
    PlanHost host = {.ranks = ranks, .threads = 1, .place = ON_HOST};
    if (!config_check_ranks(config, ranks, &train, err) ||
        !plan_resolve_vocabulary(&train, NULL, err))
        return false;
    if (train.data.validation.count == 0)
        return error_set(err, EXIT_CONFIG,
                         "data.validation is empty: rows are compared by the loss on it; name a "
                         "text");
    if (!plan_make(&train, host, &plan, err)) return false;
    row->total_params = plan.total_params;
    row->active_params = plan.active_params;
    row->flops_per_token = plan.train_flops_per_token;
    return true;
}

bool comparison_plan(const Comparison *comparison, ComparedRow *row, Error *err) {
    Config *config = config_new();
    bool ok =
        comparison_config(comparison, row, comparison->seeds[0], comparison->output, config, err) &&
        (plan_row(row, config, comparison->ranks, err) ||
         error_prefix(err, "%s: row %s", comparison->source, row->name));
    free(config);
    return ok;
}
