#include "worker/evaluate_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/comm.h"
#include "kernels/log.h"
#include "model/router_health.h"
#include "model/zero_experts.h"
#include "worker/choices.h"
#include "worker/data/data_names.h"
#include "worker/data/open_data.h"
#include "worker/evaluate.h"
#include "worker/run/signals.h"
#include "worker/session.h"
#include "worker/watch/watchdog.h"
#include "worker/weight_table.h"

// Beside a feed-forward's loads: what its router's other figures are.
static void describe_router(const Statistics *stats, const StatisticsColumn *routed,
                            char text[96]) {
    char share[48] = "";
    int64_t zero = zero_choices(stats, routed->layer), computed = 0;
    for (int64_t e = 0; e < routed->count; e++) computed += statistics_counts_of(stats, routed)[e];
    if (statistics_find(stats, ZERO_COLUMN, routed->layer) && zero + computed > 0)
        snprintf(share, sizeof share, ", zero %.1f%%",
                 100.0 * (double)zero / (double)(zero + computed));
    snprintf(
        text, 96, "%s, logit rms %.3g", share,
        root_mean_square(statistics_count_values(stats, ROUTER_SQUARES_COLUMN, routed->layer)));
}

// How each layer's experts were used, where it has any.
static void tell_health(const Statistics *stats, RouterPlace place) {
    double *max_vio = calloc((size_t)stats->column_count + 1, sizeof *max_vio);
    CHECK_MEMORY(max_vio, "no memory for %d columns", stats->column_count);
    RouterHealth health;
    const StatisticsColumn *column;
    char text[128], more[96] = "";
    int layers = 0;
    for (int i = 0; (column = router_health_next(stats, place, &i, &health));) {
        router_health_of_layer(health, column->count, text);
        if (place == ROUTER_OF_FEED_FORWARD) describe_router(stats, column, more);
        log_info("layer %lld%s: %s%s", (long long)column->layer, ROUTER_NAMES[place].of, text,
                 more);
        max_vio[layers++] = health.max_vio;
    }
    router_health_over_layers(max_vio, layers, text);
    if (layers > 0) log_info("%s", text);
    free(max_vio);
}

// What an evaluation of a checkpoint opens.
typedef struct Evaluating {
    Session session;
    Restored restored;
    BatchBuffer batch;
    Questions questions;
} Evaluating;

static bool complete(int signal, Error *err) {
    return signal == 0 ||
           error_set(err, EXIT_REQUEUE, "stopped by %s: the evaluation is not complete",
                     signal_name(signal));
}

// Pseudo-perplexity: each token's loss where it is masked and all others but every so manieth are
// not. Collective over all ranks.
static bool tell_pseudo_perplexity(Evaluating *e, DataFile *file, const TrainConfig *config,
                                   Error *err) {
    MaskRule *masks = &e->batch.masks;
    double nats = 0, tokens = 0, seconds = 0;
    masks->passes = config->eval_mask_passes;
    for (masks->pass = 0; masks->pass < masks->passes; masks->pass++) {
        Evaluation result = {0};
        if (!evaluate_model(&e->restored.model, file, &e->batch, config, NULL, &result, err) ||
            !complete(result.signal, err))
            return false;
        nats += result.loss * (double)result.tokens;
        tokens += (double)result.tokens;
        seconds += result.seconds;
    }
    masks->passes = masks->pass = 0;
    double loss = tokens > 0 ? nats / tokens : 0;
    log_info("pseudo-perplexity %.4f, %.6f nats a token: %.0f tokens, each masked in one of %lld "
             "passes, in %.1f s",
             exp(loss), loss, tokens, (long long)config->eval_mask_passes, seconds);
    return true;
}

// What an evaluation gave. Not collective.
static void tell_set(const Evaluating *e, const TrainConfig *config, const char *name,
                     const Evaluation *result, const EvaluateOptions *options) {
    for (int place = 0; place < ROUTER_PLACES; place++)
        tell_health(&e->restored.model.stats, (RouterPlace)place);
    char bits[64] = "", capacity[64];
    if (result->tokens == 0) {
        log_info("validation%s%s of step %lld: nothing is to be predicted", name[0] ? " on " : "",
                 name, (long long)e->restored.state.step);
        return;
    }
    if (result->bits_per_byte >= 0)
        snprintf(bits, sizeof bits, ", %.4f bits per byte", result->bits_per_byte);
    evaluation_describe_capacity(config, capacity);
    bool held = options->weights != WEIGHTS_AS_TRAINED;
    log_info(
        "validation%s%s of step %lld: loss %.6f nats a %stoken, perplexity %.4f%s, %lld tokens "
        "in %.1f s, %s%s%s",
        name[0] ? " on " : "", name, (long long)e->restored.state.step, result->loss,
        e->batch.masks.share > 0 ? "masked " : "", exp(result->loss), bits,
        (long long)result->tokens, result->seconds, capacity, held ? ", weights in " : "",
        held ? choice_row(WEIGHT_CHOICES, (int)options->weights)->word : "");
}

// One validation set. Collective over all ranks.
static bool evaluate_set(Evaluating *e, const TrainConfig *config, int set,
                         const EvaluateOptions *options, Error *err) {
    bool per_document = options->per_document;
    DataFile *file = NULL;
    DocumentLosses documents = {0};
    const char *name = validation_set_name(&config->data.validation, set);
    char identity[40];
    Evaluation result = {0};
    Model *model = &e->restored.model;
    bool ok = open_data(&file, "data.validation", config->data.validation.maps[set].path,
                        PART_VALIDATION, &e->restored.vocabulary, identity, err);
    if (ok && per_document) // all ranks read the same
        ok = comm_agree(document_losses_open(&documents, file, &e->restored.vocabulary, err), err);
    ok = ok && evaluate_model(model, file, &e->batch, config, per_document ? &documents : NULL,
                              &result, err);
    if (ok && per_document && !result.signal) document_losses_print(&documents, name);
    document_losses_close(&documents);
    ok = ok && complete(result.signal, err);
    if (ok) tell_set(e, config, name, &result, options);
    if (ok && e->batch.masks.share > 0) ok = tell_pseudo_perplexity(e, file, config, err);
    data_file_close(file);
    return ok;
}

static bool evaluate_sets(Evaluating *e, const TrainConfig *config, const char *checkpoint_path,
                          const EvaluateOptions *options, Error *err) {
    if (config->data.validation.count == 0)
        return error_set(err, EXIT_CONFIG,
                         "data.validation is empty: nothing to evaluate; add data.validation=FILE");
    bool ok = session_open(&e->session, config, err) &&
              evaluation_restore(&e->restored, &e->batch, config, &e->session, checkpoint_path,
                                 config->context, options->weights, err);
    if (options->per_document) e->restored.vocabulary.content.documents = true;
    for (int set = 0; ok && set < config->data.validation.count; set++)
        ok = evaluate_set(e, config, set, options, err);
    return ok;
}

// Windows as long as the longest text needs, which is at most a token a byte but for a space in
// front: what stands behind a text costs time alone, unless it competes for experts.
static int64_t context_for(const Questions *q, const TrainConfig *config) {
    enum { STEP = 64 };
    int64_t needed = (q->longest + 2 + STEP - 1) / STEP * STEP;
    return config->eval_capacity_factor.numerator > 0 || needed > config->context ? config->context
                                                                                  : needed;
}

static bool evaluate_choices(Evaluating *e, const TrainConfig *config, const char *checkpoint_path,
                             const EvaluateOptions *options, Error *err) {
    Questions *q = &e->questions;
    if (!session_open(&e->session, config, err) || !questions_read(q, options->choices, err) ||
        !evaluation_restore(&e->restored, &e->batch, config, &e->session, checkpoint_path,
                            context_for(q, config), options->weights, err))
        return false;
    ChoicesResult result;
    if (!questions_answer(q, &e->restored.model, &e->batch, &e->restored.vocabulary, options->json,
                          &result, err) ||
        !complete(result.signal, err))
        return false;
    char capacity[64];
    evaluation_describe_capacity(config, capacity);
    log_info("choices of step %lld: accuracy %.4f, by length %.4f, %lld questions, %lld choices in "
             "%.1f s, %s",
             (long long)e->restored.state.step, result.accuracy, result.accuracy_by_length,
             (long long)q->count, (long long)q->row_count, result.seconds, capacity);
    return true;
}

// A masked model has no probability of a text.
static bool check_options(const TrainConfig *config, const EvaluateOptions *options, Error *err) {
    const char *word = options->choices        ? "--choices"
                       : options->per_document ? "--per-document"
                                               : NULL;
    return config->model.objective != OBJECTIVE_MASKED || !word ||
           error_set(err, EXIT_CONFIG,
                     "%s adds up what each token costs after those before it, and "
                     "train.objective=masked has no such order; leave it out",
                     word);
}

int evaluate_run(const TrainConfig *config, const char *checkpoint_path,
                 const EvaluateOptions *options, Error *err) {
    Evaluating e = {0};
    if (!check_options(config, options, err)) return err->exit_code;
    watchdog_start(config->hang_timeout, config->hang_floor);
    bool ok = true;
    if (options->every_weights)
        ok = weight_table_print(config, checkpoint_path, err);
    else if (options->choices)
        ok = evaluate_choices(&e, config, checkpoint_path, options, err);
    else
        ok = evaluate_sets(&e, config, checkpoint_path, options, err);
    questions_free(&e.questions);
    batch_close(&e.batch);
    restore_free(&e.restored);
    session_close(&e.session);
    return ok ? EXIT_DONE : err->exit_code;
}
