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
    bool ok = device_open(&session->dev, config->device, threads, err) &&
              device_self_test(&session->dev, err);
    if (!comm_agree(ok, err)) return false;
    session->groups = process_groups_open((int)config->expert_parallel);
    return true;
}

void session_close(Session *session) {
    if (session->groups.world) process_groups_close(&session->groups);
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
        .fixed_tree = config->reproducible == REPRODUCIBLE_RANKS,
        .training = training,
    };
}
