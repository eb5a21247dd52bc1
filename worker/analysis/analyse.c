#include "worker/analysis/analyse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/new_folder.h"
#include "checkpoint/table_file.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/analysis/expert_figures.h"
#include "worker/data/data_names.h"
#include "worker/data/open_data.h"
#include "worker/evaluate.h"
#include "worker/run/signals.h"
#include "worker/watch/watchdog.h"

enum { MOST_SETS = 64 };

typedef struct Analysis {
    Session session;
    Restored restored;
    BatchBuffer batch;
    ExpertAccount account;
    NewFolder folder;
    char *words; // of options->data, cut at its commas
    const char *paths[MOST_SETS], *names[MOST_SETS];
    DataFile *files[MOST_SETS];
    int count;
} Analysis;

// ---- data sets ----------------------------------------------------------------------------------

static bool add_set(Analysis *a, const char *path, const char *name, Error *err) {
    if (a->count == MOST_SETS)
        return error_set(err, EXIT_CONFIG, "more than %d data sets", MOST_SETS);
    a->paths[a->count] = path;
    a->names[a->count++] = name;
    return true;
}

// Those of --data, which have their paths as names, or those of the configuration.
static bool list_sets(Analysis *a, const TrainConfig *config, const char *given, Error *err) {
    const ValidationSets *sets = &config->data.validation;
    for (int64_t i = 0; !given && i < sets->count; i++) {
        const char *name = validation_set_name(sets, (int)i);
        if (!add_set(a, sets->maps[i].path, name[0] ? name : sets->maps[i].path, err)) return false;
    }
    a->words = given ? strdup(given) : NULL;
    char *rest = a->words;
    for (char *path; rest && (path = strsep(&rest, ","));)
        if (path[0] && !add_set(a, path, path, err)) return false;
    return a->count > 0 ||
           error_set(err, EXIT_CONFIG, "command line: nothing to read; name data sets: --data A,B");
}

// All, before any is read. Collective over all ranks.
static bool open_sets(Analysis *a, Error *err) {
    char identity[40];
    bool ok = true;
    for (int set = 0; ok && set < a->count; set++)
        ok = open_data(&a->files[set], "--data", a->paths[set], PART_VALIDATION,
                       &a->restored.vocabulary, identity, err);
    return ok;
}

// Collective over all ranks.
static bool read_set(Analysis *a, const TrainConfig *config, int set, Error *err) {
    Evaluation result = {0};
    expert_account_begin_set(&a->account, set);
    bool ok =
        evaluate_model(&a->restored.model, a->files[set], &a->batch, config, NULL, &result, err);
    if (ok && result.signal)
        return error_set(err, EXIT_REQUEUE, "stopped by %s: the analysis is not complete",
                         signal_name(result.signal));
    if (ok)
        log_info("%s: loss %.6f nats a token, %lld tokens in %.1f s", a->names[set], result.loss,
                 (long long)result.tokens, result.seconds);
    return ok;
}

// ---- what is written ----------------------------------------------------------------------------

static void add_table(Table *tables, int *count, Tensor values, const char *folder, int64_t layer,
                      const char *name) {
    Table *table = &tables[(*count)++];
    table->values = values;
    if (layer < 0)
        snprintf(table->name, sizeof table->name, "%s%s", folder, name);
    else
        snprintf(table->name, sizeof table->name, "%s%lld/%s", folder, (long long)layer, name);
}

static bool write_tables(const Analysis *a, Error *err) {
    const ExpertAccount *account = &a->account;
    enum { TABLES_OF_LAYER = 4, OTHERS = 3 };
    Table *tables = calloc((size_t)account->count * TABLES_OF_LAYER + OTHERS, sizeof *tables);
    char path[sizeof a->folder.temporary + 16], *names = NULL;
    size_t bytes = 0;
    int count = 0;
    FILE *lines = open_memstream(&names, &bytes);
    CHECK_MEMORY(tables && lines, "no memory for a list of tables");
    for (int s = 0; s < a->count; s++) fprintf(lines, "%s\n", a->names[s]);
    CHECK_MEMORY(fclose(lines) == 0 && names, "no memory for names");
    int64_t sets = account->sets, V = account->vocab_size;
    add_table(tables, &count, tensor_1d(names, U8, (int64_t)bytes), "", -1, "data_sets");
    add_table(tables, &count, tensor_1d(account->set_tokens, I64, sets), "", -1, "set_tokens");
    add_table(tables, &count, tensor_1d(account->tokens, I64, V), "", -1, "tokens");
    for (int64_t i = 0; i < account->count; i++) {
        const LayerAccount *of = &account->layers[i];
        int64_t E = of->experts;
        add_table(tables, &count, tensor_2d(of->together, I64, E, E), "layers/", of->layer,
                  "coactivation");
        add_table(tables, &count, tensor_2d(of->of_set, I64, sets, E), "layers/", of->layer,
                  "domains");
        add_table(tables, &count, tensor_2d(of->first_of_set, I64, sets, E), "layers/", of->layer,
                  "domains_first");
        add_table(tables, &count, tensor_2d(of->of_token, I32, V, E), "layers/", of->layer,
                  "vocabulary");
    }
    snprintf(path, sizeof path, "%s/tables.h5", a->folder.temporary);
    bool ok = table_file_write(path, tables, count, err);
    free(names);
    free(tables);
    return ok;
}

static bool add_figure(const Analysis *a, const char *name, Svg *svg, Error *err) {
    bool ok = new_folder_add(&a->folder, name, svg->text, svg->bytes, err);
    free(svg->text);
    return ok;
}

static bool write_figures(const Analysis *a, Error *err) {
    Svg svg;
    figure_coactivation(&svg, &a->account);
    if (!add_figure(a, "coactivation.svg", &svg, err)) return false;
    figure_domains(&svg, &a->account, a->names);
    if (!add_figure(a, "domains.svg", &svg, err)) return false;
    figure_vocabulary(&svg, &a->account, &a->restored.vocabulary);
    return add_figure(a, "vocabulary.svg", &svg, err);
}

static int64_t bytes_of(const ExpertAccount *account) {
    int64_t bytes = 1 << 20;
    for (int64_t i = 0; i < account->count; i++) {
        int64_t E = account->layers[i].experts;
        bytes += 4 * account->vocab_size * E + 8 * E * (E + 2 * account->sets);
    }
    return bytes;
}

// Rank 0.
static bool write_folder(const Analysis *a, Error *err) {
    return write_tables(a, err) && write_figures(a, err) && new_folder_publish(&a->folder, err);
}

// Reads all sets and fills the folder, which is there, with what is found. Collective over
// all ranks.
static bool fill_folder(Analysis *a, const TrainConfig *config, Error *err) {
    for (int set = 0; set < a->count; set++)
        if (!read_set(a, config, set, err)) return false;
    expert_account_reduce(&a->account);
    watchdog_beat("writing the analysis");
    bool ok = comm_rank() != 0 || write_folder(a, err);
    return comm_follow(ok, err);
}

// ---- the whole ----------------------------------------------------------------------------------

static bool run(Analysis *a, const TrainConfig *config, const char *checkpoint_path,
                const AnalyseOptions *options, Error *err) {
    bool named = comm_rank() != 0 || new_folder_name(&a->folder, options->folder, err);
    if (!list_sets(a, config, options->data, err) || !comm_follow(named, err) ||
        !session_open(&a->session, config, err) ||
        !evaluation_restore(&a->restored, &a->batch, config, &a->session, checkpoint_path,
                            config->context, WEIGHTS_AS_TRAINED, err) ||
        !open_sets(a, err) ||
        !expert_account_open(&a->account, &a->restored.model, &a->batch, a->count, err))
        return false;
    bool made = comm_rank() != 0 || new_folder_make(&a->folder, bytes_of(&a->account), err);
    if (!comm_follow(made, err)) return false;
    bool ok = fill_folder(a, config, err);
    if (!ok && comm_rank() == 0) new_folder_remove(&a->folder);
    if (!ok) return false;
    log_info("%s: tables.h5, coactivation.svg, domains.svg, vocabulary.svg", options->folder);
    return true;
}

int analyse_run(const TrainConfig *config, const char *checkpoint_path,
                const AnalyseOptions *options, Error *err) {
    Analysis *a = calloc(1, sizeof *a);
    CHECK_MEMORY(a, "no memory for an analysis");
    watchdog_start(config->hang_timeout, config->hang_floor);
    bool ok = run(a, config, checkpoint_path, options, err);
    for (int set = 0; set < a->count; set++) data_file_close(a->files[set]);
    expert_account_close(&a->account);
    batch_close(&a->batch);
    restore_free(&a->restored);
    session_close(&a->session);
    free(a->words);
    free(a);
    return ok ? EXIT_DONE : err->exit_code;
}
