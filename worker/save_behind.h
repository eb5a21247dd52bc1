// A checkpoint that a thread writes while training goes on (checkpoint.async). Beginning and commit
// are collective, between two steps; the thread knows no MPI. At most one is in flight.
//
// Parameters and the optimizer's states, nearly all of it, change in the update alone: the thread
// copies them while the next step runs forward and backward, and the update helps with what is
// left (CheckFreq, FAST 2021). So training hardly waits, and the copy needs no more memory than one
// taken at once. A GPU's state is in the host's memory already when its download is done, and is
// not copied again.
#ifndef MOETRAIN_WORKER_SAVE_BEHIND_H
#define MOETRAIN_WORKER_SAVE_BEHIND_H

#include <pthread.h>
#include <stdatomic.h>

#include "checkpoint/checkpoint.h"

typedef struct SaveBehind {
    CheckpointSave *save; // NULL: none is in flight
    CheckpointCopy copy;  // kept from one save to the next
    bool copied;          // the update may come
    int64_t updates;      // of the parameters, before it
    int64_t step;
    double begin;   // as the caller gave it
    double stalled; // seconds that training has waited for it so far
    pthread_t thread;
    atomic_bool done;
    bool ok;
    Error err;
} SaveBehind;

// Copies what the next step changes before its update, and begins to copy the rest and to write.
// begin, the same on every rank: the time of its attempt. Not collective.
void save_behind_start(SaveBehind *behind, CheckpointSave *save, int64_t step, double begin);
// Before parameters or the optimizer's states change: returns when all is copied. Without a save in
// flight it does nothing. Not collective.
void save_behind_before_update(SaveBehind *behind);
// Whether all ranks have written theirs; with `wait` it returns when they have. Collective over all
// ranks.
bool save_behind_written(SaveBehind *behind, bool wait);
// The commit of what all have written; none is in flight afterwards. Collective over all ranks.
bool save_behind_finish(SaveBehind *behind, CheckpointKeep keep, Error *err);
void save_behind_close(SaveBehind *behind); // legal on a zeroed one; none is in flight

#endif
