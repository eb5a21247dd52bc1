#include "worker/prepare.h"

#include <stdio.h>
#include <stdlib.h>

#include "comm/comm.h"
#include "worker/resume.h"
#include "worker/run_dir.h"
#include "worker/run_lock.h"
#include "worker/watchdog.h"

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

bool prepare_run(Trainer *trainer, Error *err) {
    TrainConfig *config = &trainer->config;
    watchdog_beat("opening the data");
    if (!open_data(trainer, err)) return false;
    bool ok = comm_rank() != 0 || (run_dir_open(config->run_dir, err) &&
                                   run_lock_take(config->run_dir, comm_size(), err));
    if (!comm_agree(ok, err) || !session_open(&trainer->session, config, err)) return false;
    watchdog_beat("measuring the device");
    trainer->gemm_gflops = measure_gemm(trainer);
    trainer->resident_before = resident_bytes();

    trainer->plan = plan_make(config, comm_size());
    trainer->flops_a_step =
        trainer->plan.train_flops_per_token * (double)(config->batch * config->context);
    model_measure(&trainer->model, &config->model,
                  session_split(config, comm_size(), comm_rank(), true), &trainer->session.dev);
    optimizer_measure(&trainer->optimizer, &trainer->model);
    if (!check_room(trainer, err)) return false;
    watchdog_beat("making the first parameters");
    model_allocate(&trainer->model, trainer->session.groups, (uint64_t)config->seed);
    optimizer_allocate(&trainer->optimizer, &trainer->model);
    batch_open(&trainer->batch, &trainer->session.dev, trainer->model.work.B, config->context,
               comm_rank(), comm_size());
    Statistics *stats = &trainer->model.stats;
    utilization_init(&trainer->utilization, stats->layers, stats->experts);
    trainer->entropy = calloc((size_t)stats->layers + 1, sizeof *trainer->entropy);
    CHECK(trainer->entropy, "no memory for %lld layers", (long long)stats->layers);
    watchdog_beat("looking for a checkpoint and loading it");
    if (!resume_run(trainer, err)) return false;

    ok = comm_rank() != 0 ||
         (run_dir_write_config(config->run_dir, trainer->config_yaml, err) &&
          metrics_open(&trainer->metrics, config->run_dir, trainer->state.step, err));
    return comm_agree(ok, err);
}
