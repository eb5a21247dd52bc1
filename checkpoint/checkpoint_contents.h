// What every checkpoint holds beside its tensors, and how a file of both is laid out and sealed.
// Not collective.
#ifndef MOETRAIN_CHECKPOINT_CHECKPOINT_CONTENTS_H
#define MOETRAIN_CHECKPOINT_CHECKPOINT_CONTENTS_H

#include "checkpoint/manifest.h"
#include "checkpoint/state_tensors.h"

enum { ABOUT_TENSORS = 3 };

// What rank 0 saves besides the tensors, as tensors over its own copies.
typedef struct SmallContents {
    TrainState state;
    UtilizationHistory no_history; // to be freed by the caller
    char created_utc[32];
    SavedTensor tensors[STATE_TENSORS + UTILIZATION_TENSORS_MAX + ABOUT_TENSORS];
    int tensor_count;
} SmallContents;
void small_contents_collect(const Checkpoint *checkpoint, SmallContents *small);

// Everything that is saved, on the rank that lays the file out.
void checkpoint_list_datasets(const Checkpoint *checkpoint, const SmallContents *small,
                              Manifest *manifest);

// Manifest and hashes, then the header that declares them valid, and waits for the disk. False with
// exit 5.
bool checkpoint_seal(const char *temporary, Manifest *manifest, FileHeader *header, Error *err);

#endif
