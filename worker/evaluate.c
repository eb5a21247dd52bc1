#include "worker/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "model/router_health.h"
#include "model/zero_experts.h"
#include "worker/choices.h"
#include "worker/data/data_names.h"
#include "worker/data/open_data.h"
#include "worker/restore.h"
#include "worker/run/signals.h"
#include "worker/session.h"
#include "worker/watch/watchdog.h"
#include "worker/weight_table.h"

static ModelConfig evaluation_model_config(const TrainConfig *config) {
    ModelConfig model = config->model;
    // Experts that choose take of each sequence what they take in training.
    if (model.moe.router.kind != EXPERT_CHOICE || config->eval_capacity_factor.numerator > 0)
        model.moe.capacity_factor = config->eval_capacity_factor;
    model.moe.dispatch = DISPATCH_EXACT; // padded needs a capacity
    return model;
}

// `windows`: of each rank at a time.
static ModelSplit evaluation_split(const TrainConfig *config, int64_t windows, int64_t ranks,
                                   int64_t rank) {
    return (ModelSplit){
        .ranks = ranks,
        .rank = rank,
        .expert_parallel = config->expert_parallel,
        .shards = windows * ranks,
        .sequences = windows * ranks,
        .context = config->context,
        .micro_batches = 1,
        .storage = session_storage(config),
        .chunks = config->exchange_chunks,
        .shard_rows = true,
    };
}

bool evaluation_reads_documents(const TrainConfig *config) {
    return config->data.documents == DOCUMENTS_MASK || config->model.objective == OBJECTIVE_MASKED;
}

// As many windows at a time as fit into the memory of a trained model, at least one, halved from
// its own share on.
static int64_t windows_that_fit(Model *trained, const ModelConfig *evaluated,
                                const TrainConfig *config, int64_t ranks, int64_t rank) {
    for (int64_t windows = trained->work.shape.B;; windows /= 2) {
        Model model;
        Error ignored = {0};
        ModelSplit split = evaluation_split(config, windows, ranks, rank);
        bool fits = model_measure_beside(&model, trained, evaluated, split) &&
                    model_check(&model, &ignored);
        model_free(&model);
        if (fits || windows == 1) return windows;
    }
}

bool evaluation_measure_beside(Model *model, Model *trained, const TrainConfig *config,
                               int64_t ranks, int64_t rank, Error *err) {
    ModelConfig evaluated = evaluation_model_config(config);
    evaluated.vocab_size = trained->config.vocab_size;
    // All ranks take the same number: what fits on the last one, whose share of all is the least.
    Model last;
    model_measure(&last, &trained->config, session_split(config, ranks, ranks - 1, true),
                  trained->work.dev);
    int64_t windows = windows_that_fit(&last, &evaluated, config, ranks, ranks - 1);
    model_free(&last);
    model_measure_beside(model, trained, &evaluated,
                         evaluation_split(config, windows, ranks, rank));
    model_make_room(trained, model);
    return model_check(model, err);
}

void evaluation_window_losses(Model *model, BatchBuffer *batch, int64_t first_window,
                              WindowLoss *windows) {
    const int32_t *targets = tensor_i32(batch->host_targets);
    int64_t *of_file = &model->work.step.counted_tokens;
    *of_file = 0;
    for (int64_t b = 0; b < batch->B; b++) *of_file += tensor_i64(batch->counts)[b];
    model_set_documents(model, batch->positions, 0);
    const float *losses = model_token_losses(model, batch->tokens, batch->targets,
                                             (first_window + batch->first) * batch->T);
    memset(windows, 0, (size_t)batch->total * sizeof *windows);
    for (int64_t b = 0; b < batch->B; b++)
        for (int64_t i = tensor_i64(batch->firsts)[b]; i < tensor_i64(batch->counts)[b]; i++) {
            if (targets[b * batch->T + i] == NO_TARGET) continue;
            windows[batch->first + b].nats += (double)losses[b * batch->T + i];
            windows[batch->first + b].targets++;
        }
    // Each window has one rank that is not zero, so that no order of summing changes a bit.
    all_reduce_sum(model->work.groups.world, tensor_1d(windows, F64, 2 * batch->total),
                   REDUCE_ANY_ORDER, (Tensor){0}, TRAFFIC_OTHER);
}

bool evaluate_model(Model *model, DataFile *file, BatchBuffer *batch, const TrainConfig *config,
                    DocumentLosses *documents, Evaluation *result, Error *err) {
    double begin = clock_seconds(), sum = 0, targets = 0;
    int64_t T = batch->T;
    int64_t stride = config->eval_stride > 0 ? config->eval_stride : T;
    int64_t windows = data_file_evaluation_windows(file, T, stride);
    if (config->eval_batches > 0 && config->eval_batches <= (windows - 1) / config->batch)
        windows = config->eval_batches * config->batch;
    *result = (Evaluation){0};
    if (windows == 0)
        return error_set(err, EXIT_DATA,
                         "%s: one token has no successor to predict; give a longer "
                         "data.validation",
                         data_file_content(file)->file.path);
    WindowLoss *losses = malloc((size_t)batch->total * sizeof *losses);
    CHECK_MEMORY(losses, "no memory for %lld sums", (long long)batch->total);
    bool ok = true;
    statistics_clear(&model->stats, model->work.dev);
    for (int64_t i = 0; ok && i * batch->total < windows; i++) {
        watchdog_beat("evaluation");
        result->signal = signals_agreed(model->work.groups.world);
        if (result->signal) break;
        ok = batch_read_evaluation(batch, file, stride, i, windows, err);
        if (!ok) break;
        evaluation_window_losses(model, batch, i * batch->total, losses);
        if (documents)
            document_losses_take(documents, batch, tensor_f32(model->loss.host_losses),
                                 i * batch->total, stride);
        for (int64_t w = 0; w < batch->total; w++) {
            sum += losses[w].nats;
            targets += losses[w].targets;
        }
    }
    free(losses);
    if (ok) statistics_reduce_counts(&model->stats, &model->work);
    result->figures = statistics_evaluation_figures(&model->stats);
    bool masked = config->model.objective == OBJECTIVE_MASKED;
    double bytes = masked ? 0 : data_file_bytes_per_token(file);
    result->tokens = (int64_t)targets;
    result->loss = targets > 0 ? sum / targets : 0;
    result->bits_per_byte = bytes > 0 ? result->loss / log(2.0) / bytes : -1;
    result->seconds = clock_seconds() - begin;
    return ok;
}

void evaluation_describe_capacity(const TrainConfig *config, char text[64]) {
    Rational factor = config->eval_capacity_factor;
    const char *average = config->eval_weights == WEIGHTS_EMA ? ", averaged weights" : "";
    if (config->model.moe.router.kind == EXPERT_CHOICE)
        snprintf(text, 64, "experts choose in each sequence%s", average);
    else if (factor.numerator == 0)
        snprintf(text, 64, "dropless%s", average);
    else
        snprintf(text, 64, "capacity factor %g%s",
                 (double)factor.numerator / (double)factor.denominator, average);
}

void evaluation_describe_health(const Evaluation *result, char text[HEALTH_BYTES]) {
    text[0] = 0;
    for (int i = 0; i < result->figures.count; i++) {
        size_t used = strlen(text);
        snprintf(text + used, HEALTH_BYTES - used, "%s%s %.3g", i == 0 ? " | " : ", ",
                 result->figures.of[i].summary->field, result->figures.of[i].value);
    }
}

bool evaluation_restore(Restored *restored, BatchBuffer *batch, const TrainConfig *config,
                        Session *session, const char *checkpoint_path, int64_t context,
                        WeightKind weights, Error *err) {
    int64_t windows = config->batch / config->micro_batches / comm_size();
    ModelSplit split =
        evaluation_split(config, windows > 0 ? windows : 1, comm_size(), comm_rank());
    session_hold_weights(&split, weights);
    split.context = context;
    split.positions = config->context;
    TrainConfig evaluated = *config;
    evaluated.model = evaluation_model_config(config);
    if (!restore_model(restored, &evaluated, split, session, checkpoint_path, err)) return false;
    batch_open(batch, &session->dev, &restored->model.work.shape,
               context == config->context && evaluation_reads_documents(config), 0);
    batch->masks = mask_rule(config, restored->vocabulary.size);
    return true;
}

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

// Windows as long as the longest text needs, which is at most a token a byte: what stands behind a
// text costs time alone, unless it competes for experts.
static int64_t context_for(const Questions *q, const TrainConfig *config) {
    enum { STEP = 64 };
    int64_t needed = (q->longest + 1 + STEP - 1) / STEP * STEP;
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
