#include "worker/prepare.h"

#include <stdio.h>
#include <stdlib.h>

#include "comm/comm.h"
#include "kernels/host_memory.h"
#include "kernels/log.h"
#include "kernels/self_test.h"
#include "worker/compare_ranks.h"
#include "worker/data/open_data.h"
#include "worker/evaluate.h"
#include "worker/resume.h"
#include "worker/run/outcome.h"
#include "worker/run/run_dir.h"
#include "worker/run/run_lock.h"
#include "worker/run/run_requests.h"
#include "worker/run/run_status.h"
#include "worker/save.h"
#include "worker/watch/rank_health.h"
#include "worker/watch/watchdog.h"

static bool token_folder_name(const char *run_dir, char folder[CONFIG_PATH_BYTES], Error *err) {
    return snprintf(folder, CONFIG_PATH_BYTES, "%s/tokens", run_dir) < CONFIG_PATH_BYTES ||
           error_set(err, EXIT_CONFIG, "run.dir %.60s...: too long a path", run_dir);
}

// Vocabulary and files, the same on all ranks: what follows from them here and later is then the
// same everywhere.
static bool open_files(Trainer *trainer, Error *err) {
    TrainConfig *config = &trainer->config;
    const DataConfig *data = &config->data;
    bool ok = vocabulary_open(&trainer->data.vocabulary, data, err);
    if (!comm_agree(ok, err)) return false;
    if (trainer->data.vocabulary.tokenizer &&
        !token_folder_name(config->run_dir, trainer->data.vocabulary.token_folder, err))
        return false; // on every rank
    if (!data_mix_open(&trainer->data.training, config, &trainer->data.vocabulary,
                       trainer->state.data_id, err) ||
        !compare_vocabularies(&trainer->data.vocabulary, err))
        return false;
    for (int64_t i = 0; i < data->validation.count; i++) {
        char identity[40];
        const char *path = data->validation.maps[i].path;
        DataFile **file = &trainer->data.validation[i];
        trainer->data.validation_count++;
        if (!open_data(file, "data.validation", path, PART_VALIDATION, &trainer->data.vocabulary,
                       identity, err))
            return false;
        if (data_file_tokens(*file) < 2)
            return error_set(err, EXIT_DATA,
                             "%s: one token has no successor to predict; give a longer "
                             "data.validation",
                             path);
    }
    config->model.vocab_size = model_vocab_size(&config->model, trainer->data.vocabulary.size);
    return true;
}

// The GEMM rate of all ranks together, measured at the same time, since the clock of a CPU falls
// with its work. A rank measures what its threads do while nothing disturbs them; of that it has as
// much as CPUs fall to it.
static double measure_gemm(Trainer *trainer) {
    const Session *session = &trainer->session;
    barrier(trainer->session.groups.world);
    double gflops =
        device_measure_gemm_gflops(&trainer->session.dev, session_storage(&trainer->config));
    double cpus = session->threads.cpus, threads = session->threads.threads;
    if (session->dev.place == ON_HOST && cpus < threads) gflops *= cpus / threads;
    all_reduce_sum(trainer->session.groups.world, tensor_1d(&gflops, F64, 1), REDUCE_ANY_ORDER,
                   (Tensor){0}, TRAFFIC_OTHER);
    return gflops;
}

// Whether the host has room for its ranks when tokens spread evenly, before any of it is touched;
// pages of the worst routing are taken as tokens come. Collective over all ranks.
static bool check_host_room(Trainer *trainer, Error *err) {
    const Plan *plan = &trainer->plan;
    const double mib = 1.0 / 1048576.0;
    bool on_host = trainer->session.dev.place == ON_HOST;
    size_t arenas = on_host ? plan_resident_bytes(plan) : 0;
    size_t most = on_host ? plan_worst_bytes(plan) - arenas : 0;
    size_t wanted = arenas + plan_beside_bytes(plan);
    HostMemory memory = host_memory();
    size_t own = memory.own_bytes / (size_t)comm_local_sharers(memory.own_group);
    size_t shared = memory.shared_bytes / (size_t)comm_local_size();
    size_t available = own < shared ? own : shared;
    bool ok = wanted <= available;
    if (!ok)
        error_set(
            err, EXIT_IO,
            "a rank needs %.0f MiB of host memory when tokens spread evenly (parameters %.0f, "
            "gradients %.0f, optimizer %.0f, activations and scratch %.0f) and %.0f MiB are "
            "free for each of the %d ranks here (%s); use more hosts, a smaller train.batch, "
            "more train.micro_batches, or train.precision=bf16",
            (double)wanted * mib, on_host ? (double)plan->parameter_bytes * mib : 0.0,
            on_host ? (double)plan->gradient_bytes * mib : 0.0,
            on_host ? (double)plan->optimizer_bytes * mib : 0.0,
            on_host ? (double)(plan->activation_bytes + plan->scratch_bytes) * mib : 0.0,
            (double)available * mib, comm_local_size(), memory.limit);
    else if (wanted + most > available)
        log_warn(
            "a rank may need up to %.0f MiB when routing is uneven and %.0f MiB are free (%s); "
            "a moe.capacity_factor bounds the worst case",
            (double)(wanted + most) * mib, (double)available * mib, memory.limit);
    return comm_agree(ok, err);
}

// Whether a GPU has room for what was measured. Collective over all ranks.
static bool check_room(Trainer *trainer, Error *err) {
    Device *dev = &trainer->session.dev;
    const Model *model = &trainer->model;
    double mib = 1.0 / 1048576.0;
    size_t working =
        model->activation_arena.peak_bytes + model->scratch_arena.peak_bytes + dev->reserve_bytes;
    size_t wanted = model->parameter_arena.peak_bytes + model->gradient_arena.peak_bytes +
                    trainer->optimizer.arena.peak_bytes + working;
    trainer->report.free_before = device_free_bytes(dev);
    bool ok = dev->place == ON_HOST || wanted <= trainer->report.free_before;
    if (!ok)
        error_set(err, EXIT_IO,
                  "%s: a rank needs %.0f MiB (parameters %.0f, gradients %.0f, optimizer %.0f, "
                  "activations, scratch and kernels %.0f for the worst routing) and %.0f MiB are "
                  "free; use more ranks, a smaller train.batch, more train.micro_batches, "
                  "train.precision=bf16, or a moe.capacity_factor, which bounds the worst case",
                  dev->description, (double)wanted * mib,
                  (double)model->parameter_arena.peak_bytes * mib,
                  (double)model->gradient_arena.peak_bytes * mib,
                  (double)trainer->optimizer.arena.peak_bytes * mib, (double)working * mib,
                  (double)trainer->report.free_before * mib);
    return comm_agree(ok, err);
}

bool prepare_run(Trainer *trainer, Error *err) {
    TrainConfig *config = &trainer->config;
    watchdog_beat("opening the data");
    if (!open_files(trainer, err)) return false;
    bool ok = comm_rank() != 0 || (run_dir_open(config->run_dir, err) &&
                                   run_lock_take(config->run_dir, "lock", comm_size(), err));
    if (!comm_follow(ok, err)) return false;
    outcome_begin(config->run_dir);
    run_status_begin(config);
    rank_health_begin(config->run_dir);
    run_requests_begin(config->run_dir);
    if (!session_open(&trainer->session, config, err)) return false;
    watchdog_beat("measuring the device");
    trainer->report.gemm_gflops = measure_gemm(trainer);
    trainer->report.resident_before = resident_bytes();

    PlanHost host = {comm_size(), trainer->session.dev.threads, trainer->session.dev.place};
    if (!plan_make(config, host, &trainer->plan, err)) return false;
    trainer->report.most_flops_a_step =
        trainer->plan.most_flops_per_token * (double)(config->batch * config->context);
    model_measure(&trainer->model, &config->model,
                  session_split(config, comm_size(), comm_rank(), true), &trainer->session.dev);
    optimizer_measure(&trainer->optimizer, &trainer->model, &config->optimizer);
    // A second time after plan_make: nothing is refused here.
    if (trainer->data.validation_count > 0 &&
        !evaluation_measure_beside(&trainer->evaluation, &trainer->model, config, comm_size(),
                                   comm_rank(), err))
        return false;
    if (!check_host_room(trainer, err) || !check_room(trainer, err)) return false;
    watchdog_beat("taking memory");
    model_allocate(&trainer->model, trainer->session.groups, (uint64_t)config->seed);
    optimizer_allocate(&trainer->optimizer, &trainer->model);
    bool documents = config->data.documents == DOCUMENTS_MASK;
    batch_open(&trainer->batch, &trainer->session.dev, &trainer->model.work.shape, documents,
               config->model.mtp.layers);
    trainer->batch.masks = mask_rule(config, trainer->data.vocabulary.size);
    source_losses_open(&trainer->data.losses, &trainer->data.training, &trainer->batch,
                       config->batch);
    source_loads_open(&trainer->data.loads, &trainer->model.stats, trainer->data.training.count);
    if (trainer->data.validation_count > 0) {
        model_allocate(&trainer->evaluation, trainer->session.groups, (uint64_t)config->seed);
        batch_open(&trainer->evaluation_batch, &trainer->session.dev,
                   &trainer->evaluation.work.shape, evaluation_reads_documents(config), 0);
        trainer->evaluation_batch.masks = trainer->batch.masks;
    }
    if (comm_rank() == 0) {
        const Statistics *stats = &trainer->model.stats;
        utilization_shape(&trainer->utilization, stats->columns, stats->column_count);
        utilization_allocate(&trainer->utilization);
    }
    dead_experts_open(&trainer->dead_experts, &trainer->model.stats, config->dead_expert_steps);
    step_outliers_open(&trainer->outliers, &config->optimizer);
    recheck_open(&trainer->recheck, &trainer->model, config);
    if (config->check_replicas_every > 0)
        replica_check_open(&trainer->replicas, &trainer->model, &trainer->optimizer);
    step_times_open(&trainer->times, config->straggler_steps > 0 ? comm_size() : 1);
    stragglers_open(&trainer->stragglers, config->straggler_steps, &trainer->model.work.shape);
    step_digests_open(&trainer->digests, config->digest_every, &trainer->model,
                      &trainer->optimizer);
    watchdog_beat("looking for a checkpoint and loading it");
    if (!save_prepare(trainer, err) || !resume_run(trainer, err)) return false;
    run_status_resumed(trainer->state.step, trainer->saved_step);

    watchdog_beat("opening the file of routing");
    if (trainer->state.step < config->steps &&
        !routing_record_open(&trainer->routing, config, &trainer->model, trainer->state.step, err))
        return false;

    // A configuration that nothing will be trained with says nothing about what is in the folder.
    bool finished = trainer->state.step >= config->steps;
    ok = comm_rank() != 0 ||
         ((finished || run_dir_write_config(config->run_dir, trainer->config_yaml, err)) &&
          metrics_open(&trainer->report.metrics, config->run_dir, trainer->state.step, err) &&
          step_digests_open_file(&trainer->digests, config->run_dir, trainer->state.step, err));
    if (ok && comm_rank() == 0) run_watch_begin(&trainer->run_watch, config->run_dir);
    return comm_follow(ok, err);
}
