// The files of RUN/checkpoints: step-%08lld.h5, and step-%08lld.h5.tmp while one is being written.
// Folders beside them hold what was given up (going_back.h). Nothing here is collective; rank 0
// does it.
#ifndef MOETRAIN_CHECKPOINT_CHECKPOINT_LIST_H
#define MOETRAIN_CHECKPOINT_CHECKPOINT_LIST_H

#include <stdint.h>

#include "checkpoint/checkpoint.h"

enum { CHECKPOINT_NAME_BYTES = 32 };
// The name of the checkpoint of a step: "step-00000010.h5".
void checkpoint_name(int64_t step, char name[CHECKPOINT_NAME_BYTES]);
// The step in such a name at the end of a path; -1 where there is none.
int64_t checkpoint_step(const char *path);

typedef struct CheckpointList {
    int64_t *steps; // newest first
    int64_t count;
} CheckpointList;

// The checkpoints of a directory by their names; empty when there is no such directory. Free the
// result.
bool checkpoint_list_read(CheckpointList *list, const char *directory, Error *err);
void checkpoint_list_free(CheckpointList *list); // legal on a zeroed one

// Removes what crashed saves left behind. Failures only warn.
void checkpoint_list_remove_temporary(const char *directory);
// Keeps what `keep` says of the checkpoints up to `step`, and the newest healthy one up to it, so
// that however often a run is started again after it broke, the last good state stays; removes the
// others. Later ones are left alone: they are damaged and were passed over. Their names are gone on
// return; what they took is freed by a thread, because that takes as long as writing it did.
// Failures only warn; returns how many stay for that.
int64_t checkpoint_list_prune(const char *directory, int64_t step, CheckpointKeep keep);
// Until that is done.
void checkpoint_list_wait_freed(void);

#endif
