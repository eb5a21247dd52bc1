#include "worker/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "worker/restore.h"
#include "worker/run/signals.h"
#include "worker/session.h"
#include "worker/watch/watchdog.h"

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
