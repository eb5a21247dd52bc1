#include "worker/evaluate.h"

#include <math.h>
#include <stdio.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/open_data.h"
#include "worker/restore.h"
#include "worker/session.h"
#include "worker/watchdog.h"

bool evaluate_model(Model *model, DataFile *file, BatchBuffer *batch, const TrainConfig *config,
                    Evaluation *result, Error *err) {
    double begin = clock_seconds(), sum = 0;
    int64_t batches = data_file_windows(file, batch->T) / batch->total;
    if (config->eval_batches > 0 && config->eval_batches < batches) batches = config->eval_batches;
    if (batches == 0)
        return error_set(
            err, EXIT_DATA,
            "%s: %lld tokens are too few for one evaluation batch of %lld sequences of "
            "%lld tokens; give a longer data.validation, or reduce train.batch or "
            "train.context",
            config->data.validation, (long long)data_file_tokens(file), (long long)batch->total,
            (long long)batch->T);
    for (int64_t i = 0; i < batches; i++) {
        watchdog_beat("evaluation");
        if (!batch_read_in_order(batch, file, i, err)) return false;
        sum += model_evaluate(model, batch->tokens, batch->targets);
    }
    double bytes = data_file_bytes_per_token(file);
    result->loss = sum / (double)batches;
    result->bits_per_byte = bytes > 0 ? result->loss / log(2.0) / bytes : -1;
    result->tokens = batches * batch->total * batch->T;
    result->seconds = clock_seconds() - begin;
    return true;
}

static bool evaluate(const TrainConfig *config, const char *checkpoint_path, Session *session,
                     Restored *restored, BatchBuffer *batch, DataFile **file, Error *err) {
    if (!config->data.validation[0])
        return error_set(err, EXIT_CONFIG,
                         "data.validation is empty: nothing to evaluate; add data.validation=FILE");
    if (!session_open(session, config, err)) return false;
    ModelSplit split = session_split(config, comm_size(), comm_rank(), false);
    if (!restore_model(restored, config, split, session, checkpoint_path, err)) return false;
    char identity[40];
    if (!open_data(file, "data.validation", config->data.validation, &restored->vocabulary,
                   identity, err))
        return false;

    Evaluation result;
    batch_open(batch, &session->dev, restored->model.work.B, config->context, comm_rank(),
               comm_size());
    if (!evaluate_model(&restored->model, *file, batch, config, &result, err)) return false;
    char bits[64] = "";
    if (result.bits_per_byte >= 0)
        snprintf(bits, sizeof bits, ", %.4f bits per byte", result.bits_per_byte);
    log_info(
        "validation of step %lld: loss %.6f nats a token, perplexity %.4f%s, %lld tokens in %.1f s",
        (long long)restored->state.step, result.loss, exp(result.loss), bits,
        (long long)result.tokens, result.seconds);
    return true;
}

int evaluate_run(const TrainConfig *config, const char *checkpoint_path, Error *err) {
    Session session = {0};
    Restored restored = {0};
    BatchBuffer batch = {0};
    DataFile *file = NULL;
    bool ok = evaluate(config, checkpoint_path, &session, &restored, &batch, &file, err);
    data_file_close(file);
    batch_close(&batch);
    restore_free(&restored);
    session_close(&session);
    return ok ? EXIT_DONE : err->exit_code;
}
