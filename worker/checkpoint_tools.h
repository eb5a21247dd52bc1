// `moetrain checkpoint …`: what one does with checkpoints between runs. Each reads every byte that
// it tells of and compares it with its hash. Not collective.
#ifndef MOETRAIN_WORKER_CHECKPOINT_TOOLS_H
#define MOETRAIN_WORKER_CHECKPOINT_TOOLS_H

#include "checkpoint/checkpoint.h"

// A line for each of these files, or for each checkpoint of a folder: its step and digest, or what
// is wrong. Exit code 4 when one is damaged, 5 when one cannot be read, otherwise 0.
int checkpoint_tool_verify(const char *path, Error *err);
// What differs: keys of the configuration, numbers of the state, tensors that one lacks, shapes,
// and how many elements by how much. 0 when nothing of what was computed does (then both have one
// digest), 1 when something does.
int checkpoint_tool_diff(const char *path, const char *other, Error *err);
// Parameters, their averages and the vocabulary as arrays for numpy.load, under the names that they
// have in the checkpoint.
int checkpoint_tool_export_npz(const char *path, const char *npz, Error *err);
// Removes from a folder what `keep` does not keep, as a save does, up to the newest checkpoint that
// holds, which is verified first and always stays. Damaged later ones are named and left alone.
int checkpoint_tool_prune(const char *folder, CheckpointKeep keep, Error *err);

#endif
