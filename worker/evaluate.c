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
#include "worker/open_data.h"
#include "worker/restore.h"
#include "worker/session.h"
#include "worker/signals.h"
#include "worker/watchdog.h"

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

bool evaluation_measure_beside(Model *model, Model *trained, const TrainConfig *config,
                               int64_t ranks, int64_t rank, Error *err) {
    ModelConfig evaluated = evaluation_model_config(config);
    evaluated.vocab_size = trained->config.vocab_size;
    for (int64_t windows = trained->work.shape.B;; windows /= 2) {
        ModelSplit split = evaluation_split(config, windows, ranks, rank);
        bool fits = model_measure_beside(model, trained, &evaluated, split);
        Error refused = {0};
        bool ok = model_check(model, &refused);
        if ((fits && ok) || windows == 1) {
            model_make_room(trained, model);
            if (!ok) *err = refused;
            return ok;
        }
        model_free(model);
    }
}

// nats of a batch's windows, each the sum over its tokens: those of all ranks (batch->total).
// Collective over all ranks.
static void window_losses(Model *model, BatchBuffer *batch, int64_t first_window, double *sums) {
    int64_t *of_file = &model->work.step.counted_tokens;
    *of_file = 0;
    for (int64_t b = 0; b < batch->B; b++) *of_file += tensor_i64(batch->counts)[b];
    const float *losses = model_token_losses(model, batch->tokens, batch->targets,
                                             (first_window + batch->first) * batch->T);
    memset(sums, 0, (size_t)batch->total * sizeof *sums);
    for (int64_t b = 0; b < batch->B; b++)
        for (int64_t i = 0; i < tensor_i64(batch->counts)[b]; i++)
            sums[batch->first + b] += (double)losses[b * batch->T + i];
    // Each window has one rank that is not zero, so that no order of summing changes a bit.
    all_reduce_sum(model->work.groups.world, tensor_1d(sums, F64, batch->total), REDUCE_ANY_ORDER,
                   (Tensor){0}, TRAFFIC_OTHER);
}

bool evaluate_model(Model *model, DataFile *file, BatchBuffer *batch, const TrainConfig *config,
                    Evaluation *result, Error *err) {
    double begin = clock_seconds(), sum = 0;
    int64_t tokens = data_file_tokens(file) - 1, T = batch->T;
    int64_t windows = data_file_evaluation_windows(file, T);
    if (config->eval_batches > 0 && config->eval_batches <= (windows - 1) / config->batch) {
        windows = config->eval_batches * config->batch;
        tokens = windows * T;
    }
    *result = (Evaluation){.tokens = tokens};
    if (windows == 0)
        return error_set(err, EXIT_DATA,
                         "%s: one token has no successor to predict; give a longer "
                         "data.validation",
                         config->data.validation);
    double *sums = malloc((size_t)batch->total * sizeof *sums);
    CHECK_MEMORY(sums, "no memory for %lld sums", (long long)batch->total);
    bool ok = true;
    statistics_clear(&model->stats, model->work.dev);
    for (int64_t i = 0; ok && i * batch->total < windows; i++) {
        watchdog_beat("evaluation");
        result->signal = signals_agreed(model->work.groups.world);
        if (result->signal) break;
        ok = batch_read_evaluation(batch, file, i, windows, err);
        if (!ok) break;
        window_losses(model, batch, i * batch->total, sums);
        for (int64_t w = 0; w < batch->total; w++) sum += sums[w];
    }
    free(sums);
    if (ok) statistics_reduce_counts(&model->stats, &model->work);
    result->figures = statistics_evaluation_figures(&model->stats);
    double bytes = data_file_bytes_per_token(file);
    result->loss = sum / (double)tokens;
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

void evaluation_describe_health(const Evaluation *result, char text[160]) {
    text[0] = 0;
    for (int i = 0; i < result->figures.count; i++) {
        size_t used = strlen(text);
        snprintf(text + used, 160 - used, "%s%s %.3g", i == 0 ? " | " : ", ",
                 result->figures.of[i].summary->field, result->figures.of[i].value);
    }
}

// How each layer's experts were used, of a model that has any.
static void tell_health(const Statistics *stats) {
    double *max_vio = calloc((size_t)stats->column_count + 1, sizeof *max_vio);
    CHECK_MEMORY(max_vio, "no memory for %d columns", stats->column_count);
    RouterHealth health;
    const StatisticsColumn *column;
    char text[128];
    int layers = 0;
    for (int i = 0; (column = router_health_next(stats, &i, &health));) {
        router_health_of_layer(health, column->count, text);
        int64_t zero = zero_choices(stats, column->layer), computed = 0;
        for (int64_t e = 0; e < column->count; e++)
            computed += statistics_counts_of(stats, column)[e];
        char share[48] = "";
        if (statistics_find(stats, ZERO_COLUMN, column->layer) && zero + computed > 0)
            snprintf(share, sizeof share, ", zero %.1f%%",
                     100.0 * (double)zero / (double)(zero + computed));
        log_info(
            "layer %lld: %s%s, logit rms %.3g", (long long)column->layer, text, share,
            root_mean_square(statistics_count_values(stats, ROUTER_SQUARES_COLUMN, column->layer)));
        max_vio[layers++] = health.max_vio;
    }
    router_health_over_layers(max_vio, layers, text);
    if (layers > 0) log_info("%s", text);
    free(max_vio);
}

static bool evaluate(const TrainConfig *config, const char *checkpoint_path, Session *session,
                     Restored *restored, BatchBuffer *batch, DataFile **file, Error *err) {
    if (!config->data.validation[0])
        return error_set(err, EXIT_CONFIG,
                         "data.validation is empty: nothing to evaluate; add data.validation=FILE");
    if (!session_open(session, config, err)) return false;
    int64_t windows = config->batch / config->micro_batches / comm_size();
    ModelSplit split =
        evaluation_split(config, windows > 0 ? windows : 1, comm_size(), comm_rank());
    TrainConfig evaluated = *config;
    evaluated.model = evaluation_model_config(config);
    if (!restore_model(restored, &evaluated, split, session, checkpoint_path, err)) return false;
    char identity[40];
    if (!open_data(file, "data.validation", config->data.validation, &restored->vocabulary,
                   identity, err))
        return false;

    Evaluation result;
    batch_open(batch, &session->dev, restored->model.work.shape.B, config->context, comm_rank(),
               comm_size());
    if (!evaluate_model(&restored->model, *file, batch, config, &result, err)) return false;
    if (result.signal)
        return error_set(err, EXIT_REQUEUE, "stopped by %s: the evaluation is not complete",
                         signal_name(result.signal));
    tell_health(&restored->model.stats);
    char bits[64] = "", capacity[64];
    if (result.bits_per_byte >= 0)
        snprintf(bits, sizeof bits, ", %.4f bits per byte", result.bits_per_byte);
    evaluation_describe_capacity(config, capacity);
    log_info("validation of step %lld: loss %.6f nats a token, perplexity %.4f%s, %lld tokens in "
             "%.1f s, %s",
             (long long)restored->state.step, result.loss, exp(result.loss), bits,
             (long long)result.tokens, result.seconds, capacity);
    return true;
}

int evaluate_run(const TrainConfig *config, const char *checkpoint_path, Error *err) {
    Session session = {0};
    Restored restored = {0};
    BatchBuffer batch = {0};
    DataFile *file = NULL;
    watchdog_start(config->hang_timeout);
    bool ok = evaluate(config, checkpoint_path, &session, &restored, &batch, &file, err);
    watchdog_stop();
    data_file_close(file);
    batch_close(&batch);
    restore_free(&restored);
    session_close(&session);
    return ok ? EXIT_DONE : err->exit_code;
}
