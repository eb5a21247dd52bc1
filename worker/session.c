#include "worker/session.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/warm_up.h"
#include "kernels/heartbeat.h"
#include "kernels/log.h"
#include "kernels/self_test.h"
#include "model/configured_layers.h"
#include "worker/compare_ranks.h"

// Ranks cannot share a GPU. Every rank finds the same error. Collective over all ranks.
static bool check_gpus(const Device *dev, Error *err) {
    enum { ROW = 1 + DEVICE_IDENTITY_BYTES }; // place, identity
    int ranks = comm_size();
    uint8_t own[ROW] = {(uint8_t)dev->place};
    memcpy(own + 1, dev->identity, DEVICE_IDENTITY_BYTES);
    uint8_t *rows = calloc((size_t)ranks, ROW);
    CHECK_MEMORY(rows, "no memory for the devices of %d ranks", ranks);
    all_gather(comm_world(), tensor_1d(rows, U8, (int64_t)ranks * ROW), tensor_1d(own, U8, ROW),
               TRAFFIC_OTHER);
    bool ok = true;
    for (int a = 0; a < ranks && ok; a++) {
        const uint8_t *first = rows + (size_t)a * ROW;
        for (int b = a + 1; b < ranks && ok && first[0] == ON_DEVICE; b++)
            if (memcmp(first, rows + (size_t)b * ROW, ROW) == 0)
                ok = error_set(err, EXIT_COMMUNICATION,
                               "ranks %d and %d have the same GPU: one rank takes one GPU; start "
                               "fewer ranks, give each its own with CUDA_VISIBLE_DEVICES, or use "
                               "device: cpu",
                               a, b);
    }
    free(rows);
    return ok;
}

bool session_open(Session *session, const TrainConfig *config, Error *err) {
    watchdog_beat("opening and testing the device");
    session->threads = threads_choose((int)config->threads, comm_local_sharers(threads_cpus_key()),
                                      comm_local_sharers(threads_cgroup_key()));
    if (session->threads.warning[0]) log_warn("%s", session->threads.warning);
    bool ok = device_open(&session->dev, config->device, session->threads.threads,
                          comm_local_rank(), comm_local_size(), err);
    if (ok) {
        session->dev.fixed_order |= config->reproducible == REPRODUCIBLE_RANKS;
        ok = model_check_device(&config->model, &session->dev, err) &&
             device_self_test(&session->dev, err);
    }
    if (!comm_agree(ok, err) || !check_gpus(&session->dev, err) ||
        !compare_devices(&session->dev, config->reproducible, err))
        return false;
    session->groups = process_groups_open((int)config->expert_parallel, &session->dev);
    collectives_warm_up(session->groups, &session->dev,
                        config->reproducible == REPRODUCIBLE_RANKS ? REDUCE_FIXED_TREE
                                                                   : REDUCE_ANY_ORDER);
    return true;
}

void session_close(Session *session) {
    if (session->groups.world) process_groups_close(&session->groups);
    device_close(&session->dev);
}

DType session_storage(const TrainConfig *config) {
    DType storage = F32;
    switch (config->precision) {
    case PRECISION_F32:
        break;
    case PRECISION_BF16:
        storage = BF16;
        break;
    }
    return storage;
}

void session_hold_weights(ModelSplit *split, WeightKind weights) {
    if (weights == WEIGHTS_AS_TRAINED) return;
    split->storage = F32;
    split->weights = weight_type(weights);
}

ModelSplit session_split(const TrainConfig *config, int64_t ranks, int64_t rank, bool training) {
    return (ModelSplit){
        .ranks = ranks,
        .rank = rank,
        .expert_parallel = config->expert_parallel,
        .shards = config->shards / config->micro_batches,
        .sequences = config->batch / config->micro_batches,
        .context = config->context,
        .micro_batches = config->micro_batches,
        .storage = session_storage(config),
        .sources = training ? config->data.train.count : 0,
        .chunks = config->exchange_chunks,
        .check_exchanges = config->check_exchanges,
        .fixed_tree = config->reproducible == REPRODUCIBLE_RANKS,
        .training = training,
    };
}
