#include "worker/session.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "comm/comm.h"

// Threads for a rank that was told nothing: where it may run on the whole host, its share of the cores.
static int default_threads(void) {
    cpu_set_t cores;
    if (getenv("OMP_NUM_THREADS") || sched_getaffinity(0, sizeof cores, &cores) != 0) return 0;
    int count = CPU_COUNT(&cores);
    if (count < sysconf(_SC_NPROCESSORS_ONLN)) return count; // bound by mpirun or Slurm
    return count > comm_local_size() ? count / comm_local_size() : 1;
}

bool session_open(Session *session, const TrainConfig *config, Error *err) {
    int threads = config->threads > 0 ? (int)config->threads : default_threads();
    bool ok = device_open(&session->dev, config->device, threads, comm_local_rank(),
                          comm_local_size(), err);
    if (ok) {
        session->dev.fixed_order |= config->reproducible == REPRODUCIBLE_RANKS;
        ok = device_self_test(&session->dev, err);
    }
    if (!comm_agree(ok, err)) return false;
    session->groups = process_groups_open((int)config->expert_parallel, &session->dev);
    return true;
}

void session_close(Session *session) {
    if (session->groups.world) process_groups_close(&session->groups);
    device_close(&session->dev);
}

DType session_storage(const TrainConfig *config) {
    return config->precision == PRECISION_BF16 ? BF16 : F32;
}

ModelSplit session_split(const TrainConfig *config, int64_t ranks, int64_t rank, bool training) {
    return (ModelSplit){
        .ranks = ranks,
        .rank = rank,
        .expert_parallel = config->expert_parallel,
        .shards = config->shards,
        .sequences = config->batch / config->micro_batches,
        .context = config->context,
        .micro_batches = config->micro_batches,
        .storage = session_storage(config),
        .chunks = config->exchange_chunks,
        .fixed_tree = config->reproducible == REPRODUCIBLE_RANKS,
        .training = training,
    };
}
