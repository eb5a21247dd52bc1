#include "worker/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/batch.h"
#include "worker/evaluate.h"
#include "worker/lr_schedule.h"
#include "worker/metrics.h"
#include "worker/plan.h"
#include "worker/restore.h"
#include "worker/run_dir.h"
#include "worker/signals.h"
#include "worker/watchdog.h"

typedef struct Trainer {
    TrainConfig config; // model.vocab_size filled in
    const char *config_yaml;
    Session session;
    Vocabulary vocabulary;
    DataFile *train_file, *validation_file;
    int64_t windows; // of an epoch of the training file
    BatchBuffer batch;
    Model model;
    Optimizer optimizer;
    TrainState state;
    UtilizationHistory utilization; // kept on every rank, meaningful everywhere, saved by rank 0
    double *entropy;                // (MoE layers) of the step
    Metrics *metrics;               // rank 0
    Plan plan;
    double gemm_gflops;     // limit of all ranks together
    double flops_a_step;    // over all ranks
    size_t resident_before; // of this process, before the arenas
    size_t free_before;     // of the device, before the arenas
    int64_t steps_done;     // by this process
    double seconds_a_step;  // running mean, for the ETA
    int64_t saved_step;     // of the newest checkpoint; -1: none
    int64_t
        sent_in_steps[TRAFFIC_KINDS]; // bytes that this rank sent while training, not evaluating
} Trainer;

// ---- one step ------------------------------------------------------------------------------------------

// What the step's statistics say, once they are summed over shards and ranks.
static void read_statistics(Trainer *trainer, StepMetrics *row) {
    Statistics *stats = &trainer->model.stats;
    int64_t layers = stats->layers, E = stats->experts;
    int64_t choices = 0, dropped = 0;
    row->loss = statistics_loss(stats);
    row->moe = layers > 0;
    for (int64_t layer = 0; layer < layers; layer++) {
        row->balance_loss += statistics_balance(stats, layer) / (double)layers;
        row->z_loss += statistics_z(stats, layer) / (double)layers;
        row->router_entropy += statistics_entropy(stats, layer) / (double)layers;
        int64_t sum = 0, busiest = 0;
        for (int64_t e = 0; e < E; e++) {
            int64_t lost = statistics_dropped(stats, layer)[e];
            int64_t load = statistics_routed(stats, layer)[e] + lost; // what the router asked for
            sum += load;
            busiest = load > busiest ? load : busiest;
            dropped += lost;
        }
        choices += sum;
        double imbalance = (double)busiest * (double)E / (double)sum;
        if (imbalance > row->load_imbalance) row->load_imbalance = imbalance;
    }
    if (layers == 0) return;
    row->drop_rate = (double)dropped / (double)choices;
}

static void record_utilization(Trainer *trainer) {
    Statistics *stats = &trainer->model.stats;
    if (stats->layers == 0) return;
    const TrainConfig *config = &trainer->config;
    for (int64_t layer = 0; layer < stats->layers; layer++)
        trainer->entropy[layer] = statistics_entropy(stats, layer);
    utilization_add(&trainer->utilization, statistics_routed(stats, 0),
                    statistics_dropped(stats, 0), statistics_weight_mass(stats, 0),
                    trainer->entropy);
    int64_t every = config->utilization_every > 0 ? config->utilization_every : config->log_every;
    if (trainer->state.step % every == 0)
        utilization_close_row(&trainer->utilization, trainer->state.step);
}

// Called with sign -1 before a step and 1 after it: adds what was sent between.
static void count_sent(Trainer *trainer, int sign) {
    for (int kind = 0; kind < TRAFFIC_KINDS; kind++)
        trainer->sent_in_steps[kind] += sign * traffic_sent_bytes((TrafficKind)kind);
}

// One optimizer step, top to bottom. Collective over all ranks.
static bool training_step(Trainer *trainer, StepMetrics *row, Error *err) {
    const TrainConfig *config = &trainer->config;
    TrainState *state = &trainer->state;
    Model *model = &trainer->model;
    double begin = clock_seconds();
    count_sent(trainer, -1);
    *row = (StepMetrics){.lr = lr_at(&config->optimizer, state->step, config->steps)};

    // Forward and backward over the micro-batches; gradients and statistics add up.
    for (int64_t m = 0; m < config->micro_batches; m++) {
        watchdog_beat("forward and backward");
        DataCursor cursor = {state->data_epoch, state->data_index};
        if (!batch_read_training(&trainer->batch, trainer->train_file, (uint64_t)config->seed,
                                 cursor, err))
            return false;
        model_train_micro_batch(model, trainer->batch.tokens, trainer->batch.targets, m == 0,
                                (uint32_t)state->micro_batches);
        cursor = data_cursor_advance(cursor, trainer->batch.total, trainer->windows);
        state->data_epoch = cursor.epoch;
        state->data_index = cursor.index;
        state->micro_batches++;
    }
    watchdog_beat("summing up the step");
    statistics_reduce(&model->stats, &model->work);
    read_statistics(trainer, row);

    // Clip by the global norm and update; a step that is not finite changes nothing, on every rank.
    row->gradient_norm = optimizer_gradient_norm(&trainer->optimizer, model);
    if (isfinite(row->loss) && isfinite(row->gradient_norm)) {
        double clip = config->optimizer.clip_norm;
        double scale = clip > 0 && row->gradient_norm > clip ? clip / row->gradient_norm : 1;
        optimizer_update(&trainer->optimizer, model, &config->optimizer, row->lr,
                         ++state->adam_steps, scale);
        state->skipped_in_row = 0;
    } else {
        state->skipped_steps++;
        state->skipped_in_row++;
        log_warn("step %lld: loss %g, gradient norm %g: not finite, step skipped (%lld in a row)",
                 (long long)state->step + 1, row->loss, row->gradient_norm,
                 (long long)state->skipped_in_row);
    }
    state->step++;
    state->tokens += config->batch * config->context;
    record_utilization(trainer);
    count_sent(trainer, 1);

    row->step = state->step;
    row->tokens = state->tokens;
    row->skipped_steps = state->skipped_steps;
    row->step_seconds = clock_seconds() - begin;
    row->tokens_per_second = (double)(config->batch * config->context) / row->step_seconds;
    row->gflops = trainer->flops_a_step / row->step_seconds / 1e9;
    row->gemm_share = row->gflops / trainer->gemm_gflops;
    return true;
}

// ---- reporting -----------------------------------------------------------------------------------------

static void report_step(Trainer *trainer, StepMetrics *row) {
    const TrainConfig *config = &trainer->config;
    // The mean forgets slowly, so that the ETA follows a machine that becomes slower or faster.
    double weight = trainer->steps_done < 20 ? 1.0 / (double)(trainer->steps_done + 1) : 0.05;
    trainer->seconds_a_step += weight * (row->step_seconds - trainer->seconds_a_step);
    trainer->steps_done++;
    row->eta_seconds = trainer->seconds_a_step * (double)(config->steps - row->step);
    metrics_write_step(trainer->metrics, row);

    char line[512];
    bool due = row->step % config->log_every == 0 || row->step == config->steps;
    if (!due) return;
    metrics_format_step(row, config->steps, line, sizeof line);
    log_info("%s", line);
}

static bool evaluate_now(Trainer *trainer, Error *err) {
    if (!trainer->validation_file) return true;
    watchdog_beat("evaluation");
    Evaluation result;
    if (!evaluate_model(&trainer->model, trainer->validation_file, &trainer->batch,
                        &trainer->config, &result, err))
        return false;
    metrics_write_evaluation(trainer->metrics, trainer->state.step, result.loss,
                             result.bits_per_byte, result.seconds);
    char bits[64] = "";
    if (result.bits_per_byte >= 0)
        snprintf(bits, sizeof bits, " | %.4f bits per byte", result.bits_per_byte);
    log_info("validation at step %lld | loss %.4f%s | %lld tokens in %.1f s",
             (long long)trainer->state.step, result.loss, bits, (long long)result.tokens,
             result.seconds);
    return true;
}

// Plan against fact: the memory of rank 0 and the bytes it sent a step.
static void report_plan(Trainer *trainer) {
    const double mib = 1.0 / 1048576.0;
    double worst = (double)plan_worst_bytes(&trainer->plan) * mib;
    if (trainer->session.dev.place == ON_DEVICE) {
        double free_now = (double)device_free_bytes(&trainer->session.dev);
        log_info("memory of rank 0's GPU: planned %.1f MiB for the worst routing, taken %.1f with "
                 "the kernels' workspace",
                 worst, ((double)trainer->free_before - free_now) * mib);
    } else {
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        double before = (double)trainer->resident_before * mib;
        double planned = before + (double)plan_resident_bytes(&trainer->plan) * mib;
        double fact = (double)usage.ru_maxrss / 1024.0;
        log_info("memory of rank 0: planned %.1f MiB with even routing, %.1f at most (%.1f of it "
                 "program and libraries), peak %.1f, ratio %.3f",
                 planned, before + worst, before, fact, fact / planned);
    }
    for (int kind = 0; kind < TRAFFIC_OTHER && comm_size() > 1; kind++) {
        double sent = (double)trainer->sent_in_steps[kind] / (double)trainer->steps_done;
        log_info("sent by rank 0 in a step, %-10s planned %14.0f bytes, fact %14.0f",
                 traffic_name((TrafficKind)kind), trainer->plan.sent_bytes[kind], sent);
    }
}

// ---- checkpoints ---------------------------------------------------------------------------------------

static Checkpoint describe_state(Trainer *trainer, const HostState *host) {
    Checkpoint checkpoint = {.state = trainer->state,
                             .config_yaml = trainer->config_yaml,
                             .utilization = &trainer->utilization};
    checkpoint.tensors = saved_tensors(host, &trainer->vocabulary, &checkpoint.tensor_count);
    return checkpoint;
}

static bool save(Trainer *trainer, Error *err) {
    if (trainer->saved_step == trainer->state.step) return true;
    double begin = clock_seconds();
    watchdog_beat("saving a checkpoint");
    HostState host;
    host_state_open(&host, &trainer->model, &trainer->optimizer);
    host_state_download(&host);
    Checkpoint checkpoint = describe_state(trainer, &host);
    bool ok =
        checkpoint_save(trainer->config.run_dir, &checkpoint, (int)trainer->config.keep_last, err);
    free(checkpoint.tensors);
    host_state_close(&host);
    if (!ok) return false;
    trainer->saved_step = trainer->state.step;
    log_info("saved %s/checkpoints/step-%08lld.h5 in %.2f s", trainer->config.run_dir,
             (long long)trainer->state.step, clock_seconds() - begin);
    return true;
}

// The checkpoint that `resume` asks for; empty: begin at zero. Collective over all ranks.
static bool choose_checkpoint(const TrainConfig *config, char path[CHECKPOINT_PATH_BYTES],
                              Error *err) {
    path[0] = 0;
    if (strcmp(config->resume, "never") == 0) {
        bool empty = comm_rank() != 0 || !run_dir_has_checkpoints(config->run_dir);
        if (!empty)
            error_set(err, EXIT_CONFIG,
                      "resume: never, but %s/checkpoints holds checkpoints, which would be "
                      "overwritten; choose another run.dir or resume: auto",
                      config->run_dir);
        return comm_agree(empty, err);
    }
    bool automatic = strcmp(config->resume, "auto") == 0,
         must = strcmp(config->resume, "must") == 0;
    if (!automatic && !must) {
        snprintf(path, CHECKPOINT_PATH_BYTES, "%s", config->resume);
        return checkpoint_verify(path, err);
    }
    if (!checkpoint_find_latest(config->run_dir, path, err)) return false;
    if (must && path[0] == 0)
        return error_set(err, EXIT_CHECKPOINT,
                         "resume: must, but %s/checkpoints holds no checkpoint; check run.dir or "
                         "use resume: auto to begin at step 0",
                         config->run_dir);
    return true;
}

static bool resume(Trainer *trainer, Error *err) {
    const TrainConfig *config = &trainer->config;
    char path[CHECKPOINT_PATH_BYTES], data_id[sizeof trainer->state.data_id];
    memcpy(data_id, trainer->state.data_id, sizeof data_id);
    if (!choose_checkpoint(config, path, err)) return false;
    if (path[0] == 0) return true;

    HostState host;
    host_state_open(&host, &trainer->model, &trainer->optimizer);
    Checkpoint checkpoint = describe_state(trainer, &host);
    bool ok = checkpoint_load(path, &checkpoint, err);
    if (ok) host_state_upload(&host);
    free(checkpoint.tensors);
    host_state_close(&host);
    if (!ok) return false;
    trainer->state = checkpoint.state;
    if (strcmp(data_id, trainer->state.data_id) != 0)
        return error_set(err, EXIT_DATA,
                         "%s: not the data that %s was trained on (identity %s, then %s); restore "
                         "the file, or choose another run.dir to begin anew",
                         config->data.train, path, data_id, trainer->state.data_id);
    trainer->saved_step = trainer->state.step;
    log_info("resumed from %s at step %lld", path, (long long)trainer->state.step);
    return true;
}

// ---- the run -------------------------------------------------------------------------------------------

static bool open_data(Trainer *trainer, Error *err) {
    TrainConfig *config = &trainer->config;
    bool ok = vocabulary_open(&trainer->vocabulary, &config->data, err) &&
              data_file_open(&trainer->train_file, config->data.train, &trainer->vocabulary,
                             comm_rank(), comm_size(), err) &&
              data_file_identity(trainer->train_file, trainer->state.data_id, err);
    if (ok && config->data.validation[0])
        ok = data_file_open(&trainer->validation_file, config->data.validation,
                            &trainer->vocabulary, comm_rank(), comm_size(), err);
    if (!comm_agree(ok, err)) return false;

    config->model.vocab_size = trainer->vocabulary.size;
    trainer->windows = data_file_windows(trainer->train_file, config->context);
    if (trainer->windows < 1)
        return error_set(err, EXIT_DATA,
                         "%s: %lld tokens are too few for train.context %lld; give more data or a "
                         "smaller train.context",
                         config->data.train, (long long)data_file_tokens(trainer->train_file),
                         (long long)config->context);
    int64_t micro_batch = config->batch / config->micro_batches;
    if (trainer->validation_file &&
        data_file_windows(trainer->validation_file, config->context) < micro_batch)
        return error_set(
            err, EXIT_DATA,
            "%s: %lld tokens are too few for one evaluation batch of %lld sequences of "
            "%lld tokens; give more data, or reduce train.batch or train.context",
            config->data.validation, (long long)data_file_tokens(trainer->validation_file),
            (long long)micro_batch, (long long)config->context);
    return true;
}

// The matrix limit of all ranks together, measured at the same time so that they share the machine as in training.
static double measure_gemm(Trainer *trainer) {
    barrier(trainer->session.groups.world);
    double gflops =
        device_measure_gemm_gflops(&trainer->session.dev, session_storage(&trainer->config));
    all_reduce_sum(trainer->session.groups.world, tensor_1d(&gflops, F64, 1), REDUCE_ANY_ORDER,
                   (Tensor){0}, TRAFFIC_OTHER);
    return gflops;
}

static size_t resident_bytes(void) {
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%ld %ld", &ignored, &pages) != 2) pages = 0;
    fclose(file);
    return (size_t)pages * 4096;
}

// Whether a GPU has room for what was measured. (Host memory is taken page by page, as tokens come.) Collective over all ranks.
static bool check_room(Trainer *trainer, Error *err) {
    Device *dev = &trainer->session.dev;
    const Model *model = &trainer->model;
    double mib = 1.0 / 1048576.0;
    size_t working = model->activation_arena.peak_bytes + model->scratch_arena.peak_bytes;
    size_t wanted = model->parameter_arena.peak_bytes + model->gradient_arena.peak_bytes +
                    trainer->optimizer.arena.peak_bytes + working;
    trainer->free_before = device_free_bytes(dev);
    bool ok = dev->place == ON_HOST || wanted <= trainer->free_before;
    if (!ok)
        error_set(err, EXIT_IO,
                  "%s: a rank needs %.0f MiB (parameters %.0f, gradients %.0f, optimizer %.0f, "
                  "activations and scratch %.0f for the worst routing) and %.0f MiB are free; use "
                  "more ranks, a smaller train.batch, more train.micro_batches, "
                  "train.precision=bf16, or a moe.capacity_factor, which bounds the worst case",
                  dev->description, (double)wanted * mib,
                  (double)model->parameter_arena.peak_bytes * mib,
                  (double)model->gradient_arena.peak_bytes * mib,
                  (double)trainer->optimizer.arena.peak_bytes * mib, (double)working * mib,
                  (double)trainer->free_before * mib);
    return comm_agree(ok, err);
}

// Everything before the first step. Collective over all ranks.
static bool prepare(Trainer *trainer, Error *err) {
    TrainConfig *config = &trainer->config;
    if (!open_data(trainer, err)) return false;
    bool ok = comm_rank() != 0 || run_dir_open(config->run_dir, err);
    if (!comm_agree(ok, err) || !session_open(&trainer->session, config, err)) return false;
    trainer->gemm_gflops = measure_gemm(trainer);
    trainer->resident_before = resident_bytes();

    trainer->plan = plan_make(config, comm_size());
    trainer->flops_a_step =
        trainer->plan.train_flops_per_token * (double)(config->batch * config->context);
    model_measure(&trainer->model, &config->model,
                  session_split(config, comm_size(), comm_rank(), true), &trainer->session.dev);
    optimizer_measure(&trainer->optimizer, &trainer->model);
    if (!check_room(trainer, err)) return false;
    model_allocate(&trainer->model, trainer->session.groups, (uint64_t)config->seed);
    optimizer_allocate(&trainer->optimizer, &trainer->model);
    batch_open(&trainer->batch, &trainer->session.dev, trainer->model.work.B, config->context,
               comm_rank(), comm_size());
    Statistics *stats = &trainer->model.stats;
    utilization_init(&trainer->utilization, stats->layers, stats->experts);
    trainer->entropy = calloc((size_t)stats->layers + 1, sizeof *trainer->entropy);
    CHECK(trainer->entropy, "no memory for %lld layers", (long long)stats->layers);
    if (!resume(trainer, err)) return false;

    ok = comm_rank() != 0 ||
         (run_dir_write_config(config->run_dir, trainer->config_yaml, err) &&
          metrics_open(&trainer->metrics, config->run_dir, trainer->state.step, err));
    return comm_agree(ok, err);
}

static void describe_run(const Trainer *trainer) {
    const TrainConfig *config = &trainer->config;
    log_info("moetrain " MOETRAIN_VERSION " | %d rank%s x %d thread%s | %s | %s", comm_size(),
             comm_size() == 1 ? "" : "s", trainer->session.dev.threads,
             trainer->session.dev.threads == 1 ? "" : "s", trainer->session.dev.description,
             comm_library());
    log_info("model: %lld parameters, %lld active for a token | vocabulary %lld | expert parallel "
             "%lld | %lld shards",
             (long long)trainer->plan.total_params, (long long)trainer->plan.active_params,
             (long long)config->model.vocab_size, (long long)config->expert_parallel,
             (long long)config->shards);
    log_info("data: %s, %lld tokens, %.2f epochs in %lld steps of %lld x %lld tokens",
             config->data.train, (long long)data_file_tokens(trainer->train_file),
             (double)(config->steps * config->batch) / (double)trainer->windows,
             (long long)config->steps, (long long)config->batch, (long long)config->context);
    log_info("GEMM limit measured: %.0f GFLOP/s | run: %s", trainer->gemm_gflops, config->run_dir);
}

// A signal seen by any rank is obeyed by all. Returns its number or 0. Collective over all ranks.
static int agreed_signal(Trainer *trainer) {
    double number = signals_received();
    all_reduce_max(trainer->session.groups.world, tensor_1d(&number, F64, 1), TRAFFIC_OTHER);
    return (int)number;
}

// Steps until the last one, a signal or an error. Returns the exit code. Collective over all ranks.
static int train(Trainer *trainer, Error *err) {
    const TrainConfig *config = &trainer->config;
    TrainState *state = &trainer->state;
    StepMetrics row;
    if (state->step >= config->steps)
        log_info("step %lld of %lld is reached already: nothing to train", (long long)state->step,
                 (long long)config->steps);
    while (state->step < config->steps) {
        if (!training_step(trainer, &row, err)) return err->exit_code;
        report_step(trainer, &row);
        if (config->max_skipped > 0 && state->skipped_in_row >= config->max_skipped) {
            if (!save(trainer, err)) return err->exit_code;
            error_set(err, EXIT_NUMERIC,
                      "%lld steps in a row were not finite; the state is saved. Lower train.lr, "
                      "or resume from an earlier checkpoint",
                      (long long)state->skipped_in_row);
            return err->exit_code;
        }
        bool last = state->step == config->steps;
        if ((config->eval_every > 0 && state->step % config->eval_every == 0) || last)
            if (!evaluate_now(trainer, err)) return err->exit_code;
        if ((config->checkpoint_every > 0 && state->step % config->checkpoint_every == 0) || last)
            if (!save(trainer, err)) return err->exit_code;
        int number = agreed_signal(trainer);
        if (number && !last) {
            if (!save(trainer, err)) return err->exit_code;
            log_info("stopped by %s after step %lld; run the same command again to go on",
                     signal_name(number), (long long)state->step);
            return EXIT_REQUEUE;
        }
    }
    return EXIT_DONE;
}

int train_run(const TrainConfig *config, const char *config_yaml, Error *err) {
    Trainer *trainer = calloc(1, sizeof *trainer);
    CHECK(trainer, "no memory for the trainer");
    trainer->config = *config;
    trainer->config_yaml = config_yaml;
    trainer->saved_step = -1;
    signals_install();
    watchdog_start(config->hang_timeout);

    int exit_code = EXIT_DONE;
    if (!prepare(trainer, err)) {
        exit_code = err->exit_code;
    } else {
        describe_run(trainer);
        exit_code = train(trainer, err);
        if (trainer->steps_done > 0) report_plan(trainer);
    }
    watchdog_stop();
    metrics_close(trainer->metrics);
    utilization_free(&trainer->utilization);
    free(trainer->entropy);
    batch_close(&trainer->batch);
    optimizer_free(&trainer->optimizer);
    model_free(&trainer->model);
    data_file_close(trainer->train_file);
    data_file_close(trainer->validation_file);
    vocabulary_free(&trainer->vocabulary);
    session_close(&trainer->session);
    free(trainer);
    return exit_code;
}
