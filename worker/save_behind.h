// A checkpoint that a thread writes while training goes on (checkpoint.async). Beginning and commit
// are collective, between two steps; the thread knows no MPI. At most one is in flight.
#ifndef MOETRAIN_WORKER_SAVE_BEHIND_H
#define MOETRAIN_WORKER_SAVE_BEHIND_H

#include <pthread.h>
#include <stdatomic.h>

#include "checkpoint/checkpoint.h"

typedef struct SaveBehind {
    CheckpointSave *save; // NULL: none is in flight
    CheckpointCopy copy;  // kept from one save to the next
    int64_t step;
    double begin;   // as the caller gave it
    double stalled; // seconds that training has waited for it so far
    pthread_t thread;
    atomic_bool done;
    bool ok;
    Error err;
} SaveBehind;

// Copies what is to be written, so that training may change it, and begins to write. begin, the
// same on every rank: the time of its attempt. Not collective.
void save_behind_start(SaveBehind *behind, CheckpointSave *save, int64_t step, double begin);
// Whether all ranks have written theirs; with `wait` it returns when they have. Collective over all
// ranks.
bool save_behind_written(SaveBehind *behind, bool wait);
// The commit of what all have written; none is in flight afterwards. Collective over all ranks.
bool save_behind_finish(SaveBehind *behind, CheckpointKeep keep, Error *err);
void save_behind_close(SaveBehind *behind); // legal on a zeroed one; none is in flight

#endif
