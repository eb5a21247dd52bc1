// A checkpoint that one process makes of something else, at any path, while no more than a block of
// it is in memory: what it is made of is asked for block by block. Not collective.
#ifndef MOETRAIN_CHECKPOINT_CHECKPOINT_STREAM_H
#define MOETRAIN_CHECKPOINT_CHECKPOINT_STREAM_H

#include "checkpoint/checkpoint.h"

// Gives `elements` elements of tensors[tensor] from `first` on; those of a tensor come in order,
// each once. False with the error that ends the writing.
typedef bool (*CheckpointFill)(void *context, int tensor, int64_t first, int64_t elements,
                               void *out, Error *err);

// Makes the file `path`, which must not exist, of checkpoint->tensors (their data is not looked at)
// and everything else that a checkpoint holds: under a temporary name beside it, which gets its own
// once every byte is on the disk and what was sealed has been read again. False with exit 5, or as
// `fill` has it; nothing is then left.
bool checkpoint_stream(const char *path, const Checkpoint *checkpoint, CheckpointFill fill,
                       void *context, Error *err);

#endif
