#include "worker/save_behind.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/heartbeat.h"

static void *write_it(void *taken) {
    SaveBehind *behind = taken;
    heartbeat_behind();
    behind->ok = checkpoint_save_write(behind->save, &behind->err);
    atomic_store(&behind->done, true);
    return NULL;
}

void save_behind_start(SaveBehind *behind, CheckpointSave *save, int64_t step, double begin) {
    sigset_t all, before;
    checkpoint_save_begin_copy(save, &behind->copy);
    behind->save = save;
    behind->copied = false;
    behind->step = step;
    behind->begin = begin;
    behind->err = (Error){0};
    atomic_store(&behind->done, false);
    // Signals are for the threads that are there anyway.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    CHECK(pthread_create(&behind->thread, NULL, write_it, behind) == 0,
          "cannot start a thread that saves; leave checkpoint.async out");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void save_behind_before_update(SaveBehind *behind) {
    double begin = clock_seconds();
    if (!behind->save || behind->copied) return;
    watchdog_beat("waiting for the copy of a checkpoint");
#pragma omp parallel
    checkpoint_save_copy(behind->save);
    behind->copied = true;
    behind->stalled += clock_seconds() - begin;
}

// The thread's signs of life are the main thread's while that waits for it.
static void join(SaveBehind *behind) {
    unsigned long seen = heartbeat_count_behind();
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec++;
        if (pthread_clockjoin_np(behind->thread, NULL, CLOCK_MONOTONIC, &until) == 0) return;
        if (heartbeat_count_behind() != seen) watchdog_beat(NULL);
        seen = heartbeat_count_behind();
    }
}

bool save_behind_written(SaveBehind *behind, bool wait) {
    double begin = clock_seconds();
    bool joined = wait;
    if (wait) join(behind);
    double missing = !atomic_load(&behind->done);
    all_reduce_max(comm_world(), tensor_1d(&missing, F64, 1), TRAFFIC_OTHER);
    if (missing == 0 && !joined) join(behind);
    behind->stalled += clock_seconds() - begin;
    return missing == 0;
}

bool save_behind_finish(SaveBehind *behind, CheckpointKeep keep, Error *err) {
    double begin = clock_seconds();
    *err = behind->err;
    bool ok = checkpoint_save_end(behind->save, behind->ok, keep, err);
    behind->save = NULL;
    behind->stalled += clock_seconds() - begin;
    return ok;
}

void save_behind_close(SaveBehind *behind) {
    free(behind->copy.data);
    behind->copy = (CheckpointCopy){0};
}
