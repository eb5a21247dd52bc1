#include "worker/train.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/log.h"
#include "worker/compare_products.h"
#include "worker/evaluate.h"
#include "worker/outcome.h"
#include "worker/prepare.h"
#include "worker/report.h"
#include "worker/run_lock.h"
#include "worker/run_requests.h"
#include "worker/run_status.h"
#include "worker/save.h"
#include "worker/signals.h"
#include "worker/starts.h"
#include "worker/watchdog.h"

// One optimizer step, top to bottom. Collective over all ranks.
static bool training_step(Trainer *trainer, StepMetrics *row, Error *err) {
    const TrainConfig *config = &trainer->config;
    TrainState *state = &trainer->state;
    Model *model = &trainer->model;
    *row = report_begin_step(trainer);
    if (!routing_record_before_step(&trainer->routing, model, state->step + 1, err)) return false;

    // Forward and backward over the micro-batches; gradients and statistics add up.
    for (int64_t m = 0; m < config->micro_batches; m++) {
        watchdog_beat("forward and backward");
        DataCursor cursor = {state->data_epoch, state->data_index};
        if (!batch_read_training(&trainer->batch, trainer->data.training, (uint64_t)config->seed,
                                 cursor, err))
            return false;
        model_train_micro_batch(model, trainer->batch.tokens, trainer->batch.targets, m,
                                (uint32_t)state->step);
        cursor = data_cursor_advance(cursor, trainer->batch.total, trainer->data.windows);
        state->data_epoch = cursor.epoch;
        state->data_index = cursor.index;
    }
    watchdog_beat("summing up the step");
    if (!routing_record_after_step(&trainer->routing, model, state->step + 1, err)) return false;
    statistics_reduce(&model->stats, &model->work);
    report_read_statistics(trainer, row);

    // Clip by the global norm and update; a step that is not finite, or far from those before it,
    // changes nothing, on every rank.
    row->gradient_norm = optimizer_gradient_norm(&trainer->optimizer, model);
    bool finite = isfinite(row->loss) && isfinite(row->gradient_norm);
    bool outlier = finite && step_outliers_find(&trainer->outliers, row->loss, row->gradient_norm,
                                                state->step + 1);
    row->skipped = !finite || outlier;
    if (finite) state->skipped_in_row = 0;
    if (!row->skipped) {
        watchdog_beat("updating the parameters");
        double clip = config->optimizer.clip_norm;
        double scale = clip > 0 && row->gradient_norm > clip ? clip / row->gradient_norm : 1;
        optimizer_update(&trainer->optimizer, model, row->lr, ++state->adam_steps, scale);
        model_after_step(model);
        optimizer_average(&trainer->optimizer, model);
    } else if (!finite) {
        state->skipped_steps++;
        state->skipped_in_row++;
        log_warn("step %lld: loss %g, gradient norm %g: not finite, step skipped (%lld in a row)",
                 (long long)state->step + 1, row->loss, row->gradient_norm,
                 (long long)state->skipped_in_row);
    }
    state->step++;
    state->tokens += config->batch * config->context;
    trainer->last_loss = row->loss;
    report_end_step(trainer, row);
    return true;
}

// ---- the run ------------------------------------------------------------------------------------

// *signal: that interrupted the evaluation, which then counts as not made; or 0. Collective over
// all ranks.
static bool evaluate_now(Trainer *trainer, int *signal, Error *err) {
    *signal = 0;
    if (!trainer->data.validation) return true;
    Evaluation result;
    bool average = trainer->config.eval_weights == WEIGHTS_EMA;
    Optimizer *optimizer = &trainer->optimizer;
    if (average) optimizer_lend_average(optimizer, &trainer->model, &trainer->evaluation, true);
    bool ok = evaluate_model(&trainer->evaluation, trainer->data.validation,
                             &trainer->evaluation_batch, &trainer->config, &result, err);
    if (average) optimizer_lend_average(optimizer, &trainer->model, &trainer->evaluation, false);
    if (!ok) return false;
    *signal = result.signal;
    trainer->state.evaluation_due = result.signal != 0;
    if (result.signal) return true;
    report_evaluation(trainer, &result);
    run_status_evaluation(trainer->state.step, result.loss);
    return true;
}

// What is due after a step: evaluation and checkpoint. *signal: one that any rank has received, or
// 0. Finished steps are saved before it is obeyed. Collective over all ranks.
static bool finish_step(Trainer *trainer, int *signal, Error *err) {
    const TrainConfig *config = &trainer->config;
    int64_t step = trainer->state.step;
    *signal = 0;
    if ((config->eval_every > 0 && step % config->eval_every == 0) || step == config->steps)
        if (!evaluate_now(trainer, signal, err)) return false;
    bool asked = run_requests_pending();
    if (!*signal) {
        *signal = signals_agreed_with(trainer->session.groups.world, &asked);
        if (asked) run_requests_obey(trainer);
    }
    return *signal ? save_checkpoint(trainer, err) : save_when_due(trainer, err);
}

// The evaluation that a signal had interrupted when the run was saved. Collective over all ranks.
static bool make_up_evaluation(Trainer *trainer, int *signal, Error *err) {
    *signal = 0;
    if (!trainer->state.evaluation_due) return true;
    if (!evaluate_now(trainer, signal, err)) return false;
    if (*signal || trainer->state.step < trainer->config.steps) return true;
    trainer->saved_step = -1; // the last checkpoint says that it is due
    return save_checkpoint(trainer, err);
}

// False, with the state saved, when too many steps in a row were skipped. Collective over all
// ranks.
static bool go_on_after_skips(Trainer *trainer, Error *err) {
    int64_t most = trainer->config.max_skipped, skipped = trainer->state.skipped_in_row;
    if (most == 0 || skipped < most) return true;
    if (!save_checkpoint(trainer, err)) return false;
    return error_set(err, EXIT_NUMERIC,
                     "%lld steps in a row were not finite; the state is saved. Lower train.lr, or "
                     "resume from an earlier checkpoint",
                     (long long)skipped);
}

// Steps until the last one, a signal or an error. Returns the exit code. Collective over all ranks.
static int train(Trainer *trainer, Error *err) {
    const TrainConfig *config = &trainer->config;
    TrainState *state = &trainer->state;
    StepMetrics row;
    int signal;
    if (state->step >= config->steps)
        log_info("step %lld of %lld is reached already: nothing to train", (long long)state->step,
                 (long long)config->steps);
    if (!make_up_evaluation(trainer, &signal, err)) return err->exit_code;
    if (!signal) signal = signals_agreed(trainer->session.groups.world);
    if (signal && state->step < config->steps && !save_checkpoint(trainer, err))
        return err->exit_code;
    while (state->step < config->steps && !signal) {
        if (!training_step(trainer, &row, err)) return err->exit_code;
        run_lock_confirm();
        run_status_step(&row);
        report_step(trainer, &row);
        if (trainer->report.steps_done == 1 && !compare_products(&trainer->session.dev, err))
            return err->exit_code;
        if (!go_on_after_skips(trainer, err)) return err->exit_code;
        if (!finish_step(trainer, &signal, err)) return err->exit_code;
    }
    if (state->step >= config->steps && !state->evaluation_due) return EXIT_DONE;
    log_info(
        "stopped by %s after step %lld, everything is saved; run the same command again to go on",
        signal_name(signal), (long long)state->step);
    return EXIT_REQUEUE;
}

static void close_run(Trainer *trainer) {
    row_file_close(trainer->report.metrics);
    run_requests_end();
    run_lock_release(); // nothing is written from here on
    utilization_free(&trainer->utilization);
    dead_experts_close(&trainer->dead_experts);
    step_outliers_close(&trainer->outliers);
    save_behind_close(&trainer->behind);
    batch_close(&trainer->batch);
    batch_close(&trainer->evaluation_batch);
    routing_record_close(&trainer->routing);
    optimizer_free(&trainer->optimizer);
    model_free(&trainer->evaluation);
    model_free(&trainer->model);
    data_file_close(trainer->data.training);
    data_file_close(trainer->data.validation);
    vocabulary_free(&trainer->data.vocabulary);
    session_close(&trainer->session);
}

int train_run(const TrainConfig *config, const char *config_yaml, const KeyRule *key_rules,
              Error *err) {
    Trainer *trainer = calloc(1, sizeof *trainer);
    CHECK_MEMORY(trainer, "no memory for the trainer");
    trainer->config = *config;
    trainer->config_yaml = config_yaml;
    trainer->key_rules = key_rules;
    trainer->saved_step = -1;
    log_show_time();
    watchdog_start(config->hang_timeout);

    int exit_code = EXIT_DONE;
    if (!prepare_run(trainer, err)) {
        exit_code = err->exit_code;
    } else {
        report_run(trainer);
        exit_code = starts_write(trainer, err) ? train(trainer, err) : err->exit_code;
        save_settle(trainer); // where an error ends the run
        if (trainer->report.steps_done > 0) report_plan(trainer);
    }
    watchdog_stop();
    run_status_end();
    const char *message = err->message[0]          ? err->message
                          : exit_code == EXIT_DONE ? "done"
                                                   : "stopped by a signal, everything is saved";
    if (log_rank() == 0) outcome_write(exit_code, message);
    outcome_end();
    close_run(trainer);
    free(trainer);
    return exit_code;
}
