#include "worker/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/log.h"
#include "worker/compare_products.h"
#include "worker/evaluate.h"
#include "worker/prepare.h"
#include "worker/report.h"
#include "worker/roll_back.h"
#include "worker/run/outcome.h"
#include "worker/run/run_lock.h"
#include "worker/run/run_requests.h"
#include "worker/run/run_status.h"
#include "worker/run/signals.h"
#include "worker/run/starts.h"
#include "worker/run/time_limit.h"
#include "worker/save.h"
#include "worker/watch/rank_health.h"
#include "worker/watch/watchdog.h"

// Forward and backward over the micro-batches, from `cursor` on, which moves past them: gradients
// and statistics of the step, summed over ranks; loss and norm into *row. Collective over all
// ranks.
static bool compute_gradients(Trainer *trainer, DataCursor *cursor, StepMetrics *row, Error *err) {
    const TrainConfig *config = &trainer->config;
    Model *model = &trainer->model;
    int64_t step = trainer->state.step;
    int64_t targets;
    recheck_begin(&trainer->recheck);
    if (!batch_count_targets(&trainer->batch, &trainer->data.training, *cursor,
                             config->micro_batches, &targets, err))
        return false;
    model_set_documents(model, trainer->batch.positions, targets);
    model_set_ahead(model, trainer->batch.ahead_tokens, trainer->batch.ahead_targets);
    for (int64_t m = 0; m < config->micro_batches; m++) {
        watchdog_beat_each_step("forward and backward");
        if (!batch_read_training(&trainer->batch, &trainer->data.training, *cursor, err))
            return false;
        model->work.step.sources = tensor_i32(trainer->batch.sources);
        model_train_micro_batch(model, trainer->batch.tokens, trainer->batch.targets, m,
                                (uint32_t)step);
        source_losses_take(&trainer->data.losses, &trainer->batch, m, model_trained_losses(model));
        *cursor = data_mix_advance(&trainer->data.training, *cursor, trainer->batch.total);
    }
    watchdog_beat_each_step("summing up the step");
    recheck_add_statistics(&trainer->recheck);
    statistics_reduce(&model->stats, &model->work);
    if (!exchange_check_verify(&model->exchange_check, &model->work, &model->stats, err))
        return error_prefix(err, "step %lld", (long long)step + 1);
    report_read_statistics(trainer, row);
    row->untargeted = targets == 0 && batch_leaves_out_targets(&trainer->batch);
    if (row->untargeted) row->loss = NAN;
    row->gradient_norm = optimizer_gradient_norm(&trainer->optimizer, model);
    step_digests_take_gradients(&trainer->digests);
    return true;
}

static bool is_finite(const StepMetrics *row) {
    return (isfinite(row->loss) || row->untargeted) && isfinite(row->gradient_norm);
}

// Computes the step once more from the same tokens when that is due. False with exit 6 when it
// gives other bits. Collective over all ranks.
static bool compute_again(Trainer *trainer, const StepMetrics *row, bool outlier, Error *err) {
    const TrainState *state = &trainer->state;
    bool suspicious = outlier || !is_finite(row);
    if (!recheck_is_due(&trainer->recheck, state->step + 1, row->loss, row->gradient_norm,
                        suspicious))
        return true;
    StepMetrics again = *row;
    DataCursor cursor = {state->data_epoch, state->data_index};
    if (!compute_gradients(trainer, &cursor, &again, err) ||
        !recheck_compare(&trainer->recheck, state->step + 1, again.loss, again.gradient_norm, err))
        return false;
    if (suspicious)
        log_info("step %lld, computed twice, gave the same bits: what is strange comes from its "
                 "data and the state, not from the machine",
                 (long long)state->step + 1);
    return true;
}

// What becomes of an outlier, by train.spike_policy: row->skipped, row->rolled_back. Collective
// over all ranks.
static bool treat_outlier(Trainer *trainer, StepMetrics *row, const char *why, Error *err) {
    static const char *const ends[] = {[SPIKE_LOG] =
                                           "applied all the same (train.spike_policy: log)",
                                       [SPIKE_SKIP] = "step skipped (train.skip_z)",
                                       [SPIKE_ROLLBACK] = "a spike (train.spike_policy: rollback)"};
    SpikePolicy policy = trainer->config.optimizer.spike_policy;
    log_warn("step %lld: %s: %s", (long long)trainer->state.step + 1, why, ends[policy]);
    row->skipped = policy != SPIKE_LOG;
    return policy != SPIKE_ROLLBACK || roll_back(trainer, &row->rolled_back, err);
}

// One optimizer step, top to bottom. Collective over all ranks.
static bool training_step(Trainer *trainer, StepMetrics *row, Error *err) {
    const TrainConfig *config = &trainer->config;
    TrainState *state = &trainer->state;
    Model *model = &trainer->model;
    DataCursor cursor = {state->data_epoch, state->data_index};
    char why[STEP_OUTLIER_BYTES];
    *row = report_begin_step(trainer);
    data_mix_begin_step(&trainer->data.training, cursor, state->step);
    step_digests_begin_step(&trainer->digests, state->step + 1);
    if (!routing_record_before_step(&trainer->routing, model, state->step + 1, err) ||
        !compute_gradients(trainer, &cursor, row, err))
        return false;

    // A step that is not finite, or far from those before it, changes nothing, on every rank.
    bool finite = is_finite(row);
    bool outlier =
        finite && step_outliers_judge(&trainer->outliers, row->loss, row->gradient_norm, why);
    row->skipped = !finite;
    if (!compute_again(trainer, row, outlier, err)) return false;
    if (outlier && !treat_outlier(trainer, row, why, err)) return false;
    if (row->rolled_back) return true;
    if (!routing_record_after_step(&trainer->routing, model, state->step + 1, err)) return false;
    if (finite) step_outliers_enter(&trainer->outliers, row->loss, row->gradient_norm, outlier);
    if (finite) state->skipped_in_row = 0;

    // Clip by the global norm and update.
    if (!row->skipped) {
        save_behind_before_update(&trainer->behind);
        watchdog_beat_each_step("updating the parameters");
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
    source_losses_add_step(&trainer->data.losses, &trainer->data.training,
                           (DataCursor){state->data_epoch, state->data_index});
    source_loads_add(&trainer->data.loads, &model->stats);
    state->data_epoch = cursor.epoch;
    state->data_index = cursor.index;
    state->step++;
    state->tokens += config->batch * config->context;
    if (step_digests_due(&trainer->digests)) {
        optimizer_catch_up(&trainer->optimizer);
        step_digests_end_step(&trainer->digests, state->step);
    }
    if (!row->untargeted) trainer->last_loss = row->loss;
    report_end_step(trainer, row);
    return true;
}

// ---- the run ------------------------------------------------------------------------------------

// *signal: that interrupted the evaluation, which then counts as not made; or 0. Collective over
// all ranks.
static bool evaluate_now(Trainer *trainer, int *signal, Error *err) {
    *signal = 0;
    trainer->state.evaluation_due = false; // also where validation was taken away meanwhile
    bool average = trainer->config.eval_weights == WEIGHTS_EMA;
    Optimizer *optimizer = &trainer->optimizer;
    if (trainer->data.validation_count == 0) return true;
    if (average) optimizer_lend_average(optimizer, &trainer->model, &trainer->evaluation, true);
    optimizer_catch_up(optimizer);
    bool ok = true;
    for (int set = 0; ok && !*signal && set < trainer->data.validation_count; set++) {
        Evaluation result;
        ok = evaluate_model(&trainer->evaluation, trainer->data.validation[set],
                            &trainer->evaluation_batch, &trainer->config, NULL, &result, err);
        *signal = ok ? result.signal : 0;
        if (!ok || result.signal) break;
        if (result.tokens == 0) { // which would be a loss of 0
            ok = error_set(err, EXIT_DATA,
                           "%s: none of its tokens is %s; give a longer data.validation",
                           trainer->config.data.validation.maps[set].path,
                           trainer->config.model.objective == OBJECTIVE_MASKED
                               ? "masked"
                               : "followed by another of its document");
            break;
        }
        report_evaluation(trainer, set, &result);
        if (set == 0) run_status_evaluation(trainer->state.step, result.loss);
    }
    if (average) optimizer_lend_average(optimizer, &trainer->model, &trainer->evaluation, false);
    trainer->state.evaluation_due = *signal != 0;
    return ok;
}

// Whether this start is to end here, before the run's last step.
static bool stops_here(const Trainer *trainer) {
    int64_t stop = trainer->config.stop_at, step = trainer->state.step;
    return stop > 0 && step >= stop && step < trainer->config.steps;
}

// What is due after a step: evaluation and checkpoint. *signal: one that any rank has received, or
// 0. Finished steps are saved before it is obeyed. Collective over all ranks.
static bool finish_step(Trainer *trainer, int *signal, Error *err) {
    const TrainConfig *config = &trainer->config;
    int64_t step = trainer->state.step;
    *signal = 0;
    bool due = config->eval_every > 0 && step % config->eval_every == 0;
    if (due || step == config->steps || stops_here(trainer))
        if (!evaluate_now(trainer, signal, err)) return false;
    bool asked = run_requests_pending();
    if (!*signal) {
        *signal = signals_agreed_with(trainer->session.groups.world, &asked);
        if (asked && !run_requests_obey(trainer, err)) return false;
    }
    if (!*signal && stops_here(trainer)) *signal = STOP_AT;
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

// False, with nothing saved, when it is due and ranks differ in what they hold alike. Collective
// over all ranks.
static bool compare_replicas_when_due(Trainer *trainer, Error *err) {
    int64_t every = trainer->config.check_replicas_every, step = trainer->state.step;
    if (every == 0 || step % every != 0) return true; // what has copies does not lag (gradients.c)
    return replica_check_compare(&trainer->replicas, step, err);
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
    if (!signal && stops_here(trainer)) signal = STOP_AT; // a start before this one went further
    if (signal && state->step < config->steps && !save_checkpoint(trainer, err))
        return err->exit_code;
    while (state->step < config->steps && !signal) {
        if (!training_step(trainer, &row, err)) return err->exit_code;
        run_lock_confirm();
        if (row.rolled_back) continue;
        run_status_step(&row);
        time_limit_step(row.step_seconds);
        report_step(trainer, &row);
        if (trainer->report.steps_done == 1 && !compare_products(&trainer->session.dev, err))
            return err->exit_code;
        if (!compare_replicas_when_due(trainer, err) || !go_on_after_skips(trainer, err))
            return err->exit_code;
        if (!finish_step(trainer, &signal, err)) return err->exit_code;
    }
    report_times(trainer);
    if (state->step >= config->steps && !state->evaluation_due) return EXIT_DONE;
    trainer->stopped_by = signal;
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
    replica_check_close(&trainer->replicas);
    recheck_close(&trainer->recheck);
    step_times_close(&trainer->times);
    stragglers_close(&trainer->stragglers);
    step_digests_close(&trainer->digests);
    save_behind_close(&trainer->behind);
    host_state_close(&trainer->host);
    batch_close(&trainer->batch);
    batch_close(&trainer->evaluation_batch);
    routing_record_close(&trainer->routing);
    optimizer_free(&trainer->optimizer);
    model_free(&trainer->evaluation);
    model_free(&trainer->model);
    data_mix_close(&trainer->data.training);
    source_losses_close(&trainer->data.losses);
    source_loads_close(&trainer->data.loads);
    for (int i = 0; i < trainer->data.validation_count; i++)
        data_file_close(trainer->data.validation[i]);
    vocabulary_free(&trainer->data.vocabulary);
    session_close(&trainer->session);
}

static void tell_outcome(const Trainer *trainer, int exit_code, const Error *err) {
    char stopped[96];
    snprintf(stopped, sizeof stopped, "stopped by %s, everything is saved",
             signal_name(trainer->stopped_by));
    bool failed = err->message[0];
    if (trainer->stopped_by == STOP_TIME_LIMIT) outcome_out_of_time();
    outcome_write(exit_code, failed ? err->message : exit_code == EXIT_DONE ? "done" : stopped);
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
    time_limit_begin(config->max_minutes, config->checkpoint_async);
    watchdog_start(config->hang_timeout, config->hang_floor);

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
    rank_health_end();
    run_status_end();
    if (log_rank() == 0) tell_outcome(trainer, exit_code, err);
    outcome_end();
    watchdog_leave(exit_code);
    close_run(trainer);
    free(trainer);
    return exit_code;
}
