#include "worker/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/host_memory.h"
#include "kernels/log.h"
#include "model/zero_experts.h"
#include "worker/data/data_names.h"
#include "worker/optimizer/lr_schedule.h"
#include "worker/run/run_status.h"
#include "worker/run/time_limit.h"
#include "worker/trainer.h"

void report_run(const Trainer *trainer) {
    const TrainConfig *config = &trainer->config;
    log_info("moetrain " MOETRAIN_VERSION " | %d rank%s x %d thread%s (%s) | %s | %s", comm_size(),
             comm_size() == 1 ? "" : "s", trainer->session.dev.threads,
             trainer->session.dev.threads == 1 ? "" : "s", trainer->session.threads.reason,
             trainer->session.dev.description, comm_library());
    log_info("model: %lld parameters, %lld active for a token | vocabulary %lld | expert parallel "
             "%lld | %lld shards",
             (long long)trainer->plan.total_params, (long long)trainer->plan.active_params,
             (long long)config->model.vocab_size, (long long)config->expert_parallel,
             (long long)config->shards);
    const DataMix *mix = &trainer->data.training;
    const TrainState *state = &trainer->state;
    DataCursor cursor = {state->data_epoch, state->data_index};
    for (int s = 0; s < mix->count; s++) {
        char share[48] = "";
        if (mix->count > 1)
            snprintf(share, sizeof share, ", %.4g%% of the windows",
                     100.0 * (double)mix->schedule.share[s] / (double)mix->schedule.period);
        const Packing *packing = data_file_packing(mix->files[s]);
        char padding[48] = "";
        if (packing)
            snprintf(padding, sizeof padding, ", %.2f%% padding", 100 * packing_padding(packing));
        log_info("data: %s, %lld tokens%s%s, %.2f epochs in %lld steps of %lld x %lld tokens",
                 config->data.train.maps[s].path, (long long)data_file_tokens(mix->files[s]), share,
                 padding, data_mix_epochs(mix, s, config, cursor, state->step),
                 (long long)config->steps, (long long)config->batch, (long long)config->context);
    }
    log_info("GEMM rate at the start: %.0f GFLOP/s | run: %s", trainer->report.gemm_gflops,
             config->run_dir);
    time_limit_log();
}

StepMetrics report_begin_step(Trainer *trainer) {
    Report *report = &trainer->report;
    const TrainConfig *config = &trainer->config;
    report->begin = clock_seconds();
    step_times_begin(&trainer->times);
    for (int kind = 0; kind < TRAFFIC_KINDS; kind++)
        report->sent_before[kind] = traffic_sent_bytes((TrafficKind)kind);
    return (StepMetrics){.lr = lr_at(&config->optimizer, trainer->state.step, config->steps)};
}

void report_read_statistics(const Trainer *trainer, StepMetrics *row) {
    const Statistics *stats = &trainer->model.stats;
    row->loss = statistics_loss(stats);
    row->figures = statistics_figures(stats);
}

// Rank 0 keeps the history, of a model whose layers report anything.
static void add_to_utilization(Trainer *trainer) {
    if (comm_rank() != 0 || trainer->utilization.series_count == 0) return;
    const Statistics *stats = &trainer->model.stats;
    const TrainConfig *config = &trainer->config;
    utilization_add(&trainer->utilization, tensor_f64(stats->host_sums),
                    tensor_i64(stats->host_counts));
    int64_t every = config->utilization_every > 0 ? config->utilization_every : config->log_every;
    if (trainer->state.step % every == 0)
        utilization_close_row(&trainer->utilization, trainer->state.step);
}

void report_end_step(Trainer *trainer, StepMetrics *row) {
    Report *report = &trainer->report;
    const TrainConfig *config = &trainer->config;
    add_to_utilization(trainer);
    dead_experts_watch(&trainer->dead_experts, &trainer->model.stats, trainer->state.step);
    for (int kind = 0; kind < TRAFFIC_KINDS; kind++)
        report->sent_in_steps[kind] +=
            traffic_sent_bytes((TrafficKind)kind) - report->sent_before[kind];
    row->step = trainer->state.step;
    row->tokens = trainer->state.tokens;
    row->skipped_steps = trainer->state.skipped_steps;
    SpikePolicy policy = config->optimizer.spike_policy;
    row->outlier_steps = config->optimizer.skip_z > 0 ? trainer->outliers.found : -1;
    row->outliers_applied = policy == SPIKE_LOG;
    row->rollbacks = policy == SPIKE_ROLLBACK ? trainer->outliers.rollbacks[ROLLBACK_TIMES] : -1;
    row->step_seconds = clock_seconds() - report->begin;
    step_times_end(&trainer->times, row->step_seconds);
    row->tokens_per_second = (double)(config->batch * config->context) / row->step_seconds;
    // Dropped choices count as if they had been computed, as in the plan.
    row->flops = report->most_flops_a_step -
                 3 * zero_experts_spared_flops(&config->model, &trainer->model.stats);
    row->gflops = row->flops / row->step_seconds / 1e9;
    row->gemm_share = row->gflops / report->gemm_gflops;
}

// A row of metrics has means over the steps since the one before.
static void take_means(Report *report, StepMetrics *row) {
    double mean = report->row_seconds / (double)report->row_steps;
    row->tokens_per_second *= row->step_seconds / mean;
    row->step_seconds = mean;
    row->gflops = report->row_flops / report->row_seconds / 1e9;
    row->gemm_share = row->gflops / report->gemm_gflops;
    report->row_seconds = report->row_flops = 0;
    report->row_steps = 0;
}

// Likewise what is told of a mix's sources.
static void take_sources(Trainer *trainer, StepMetrics *row) {
    SourceLosses *losses = &trainer->data.losses;
    SourceLoads *loads = &trainer->data.loads;
    const Statistics *stats = &trainer->model.stats;
    row->sources = losses->sources;
    row->source_loads = loads->sources > 0;
    for (int s = 0; s < losses->sources; s++) {
        row->source_names[s] = data_source_name(&trainer->config.data.train.maps[s]);
        row->source_losses[s] = source_losses_mean(losses, s);
        row->source_imbalances[s] = source_loads_imbalance(loads, stats, s);
        row->source_distances[s] = source_loads_distance(loads, stats, s);
    }
    source_losses_clear(losses);
    source_loads_clear(loads);
}

// Collective over all ranks.
static void look_for_stragglers(Trainer *trainer, StepMetrics *row) {
    Stragglers *stragglers = &trainer->stragglers;
    int64_t steps = step_times_look(&trainer->times);
    if (steps == 0) return;
    memcpy(row->parts, trainer->times.parts, sizeof row->parts);
    stragglers_judge(stragglers, &trainer->times, steps, row->step);
    row->slowest_rank = stragglers->slowest;
    row->slowest_score = stragglers->score;
    run_status_stragglers(stragglers);
}

void report_times(const Trainer *trainer) {
    const StepTimes *times = &trainer->times;
    char text[STEP_PARTS_BYTES];
    if (times->total_steps == 0) return;
    double sum = step_parts_sum(times->total), steps = (double)times->total_steps;
    log_info("%.1f ms a step on %d ranks: %s; of computing alone, evenly shared, %.1f ms "
             "(efficiency %.1f %%)",
             1e3 * sum / steps, times->ranks, step_parts_describe(times->total, text),
             1e3 * times->total[PART_COMPUTE] / steps, 100 * times->total[PART_COMPUTE] / sum);
}

void report_step(Trainer *trainer, StepMetrics *row) {
    Report *report = &trainer->report;
    const TrainConfig *config = &trainer->config;
    // The mean forgets slowly, so that the ETA follows a machine that becomes slower or faster.
    double weight = report->steps_done < 20 ? 1.0 / (double)(report->steps_done + 1) : 0.05;
    report->seconds_a_step += weight * (row->step_seconds - report->seconds_a_step);
    report->steps_done++;
    row->eta_seconds = report->seconds_a_step * (double)(config->steps - row->step);
    report->row_seconds += row->step_seconds;
    report->row_flops += row->flops;
    report->row_steps++;

    bool last = row->step == config->steps || row->step == config->stop_at;
    bool line_due = row->step % config->log_every == 0 || last;
    if (!line_due && !row->skipped && !config->log_every_row) return;
    take_means(report, row);
    take_sources(trainer, row);
    if (line_due) look_for_stragglers(trainer, row);
    Error gone = {0}; // said by run_watch_look
    if (comm_rank() == 0 &&
        run_watch_look(&trainer->run_watch, config->run_dir, trainer->config_yaml, &gone))
        metrics_write_step(report->metrics, row);
    if (!line_due) return;
    char line[512];
    metrics_format_step(row, config->steps, line, sizeof line);
    log_info("%s", line);
}

void report_evaluation(const Trainer *trainer, int set, const Evaluation *result) {
    long long step = (long long)trainer->state.step;
    const char *name = validation_set_name(&trainer->config.data.validation, set);
    metrics_write_evaluation(trainer->report.metrics, step, name, result->loss,
                             result->bits_per_byte, &result->figures, result->tokens,
                             result->seconds);
    char bits[64] = "", capacity[64], health[HEALTH_BYTES];
    if (result->bits_per_byte >= 0)
        snprintf(bits, sizeof bits, " | %.4f bits per byte", result->bits_per_byte);
    evaluation_describe_capacity(&trainer->config, capacity);
    evaluation_describe_health(result, health);
    log_info("validation%s%s at step %lld | loss %.4f%s%s | %lld tokens in %.1f s, %s",
             name[0] ? " on " : "", name, step, result->loss, bits, health,
             (long long)result->tokens, result->seconds, capacity);
}

void report_plan(Trainer *trainer) {
    const Report *report = &trainer->report;
    const double mib = 1.0 / 1048576.0;
    double worst = (double)plan_worst_bytes(&trainer->plan) * mib;
    if (trainer->session.dev.place == ON_DEVICE) {
        double free_now = (double)device_free_bytes(&trainer->session.dev);
        log_info("memory of rank 0's GPU: planned %.1f MiB for the worst routing, taken %.1f with "
                 "the kernels' workspace",
                 worst, ((double)report->free_before - free_now) * mib);
    } else {
        double before = (double)report->resident_before * mib;
        double beside = (double)plan_beside_bytes(&trainer->plan) * mib;
        double planned = before + beside + (double)plan_resident_bytes(&trainer->plan) * mib;
        double fact = (double)peak_resident_bytes() * mib;
        log_info("memory of rank 0: planned %.1f MiB with even routing, %.1f at most (%.1f of it "
                 "program, libraries and data), peak %.1f, ratio %.3f",
                 planned, before + beside + worst, before, fact, fact / planned);
    }
    for (int kind = 0; kind < TRAFFIC_OTHER && comm_size() > 1; kind++) {
        double sent = (double)report->sent_in_steps[kind] / (double)report->steps_done;
        log_info("sent by rank 0 in a step, %-10s planned %14.0f bytes, fact %14.0f",
                 traffic_name((TrafficKind)kind), trainer->plan.sent_bytes[kind], sent);
    }
}
