// Going back: a run that goes on from an earlier checkpoint of its own folder gives up what came
// after it. That is moved aside, never removed, into RUN/checkpoints/abandoned-…/, where no resume
// looks.
//
// In which order, so that after a crash at any moment no resume takes a checkpoint that was given
// up:
//   1. the folder is made under its name + ".moving". From here on the going back counts, and is
//     finished by the next start.
//   2. checkpoints after the step are renamed into it, one after another
//   3. metrics.jsonl is copied into it (moved, when nothing of the old run stays)
//   4. the folder loses the ".moving"
// Before 1 nothing has happened. Nothing here is collective; rank 0 does it, under the lock of the
// run's folder.
#ifndef MOETRAIN_CHECKPOINT_GOING_BACK_H
#define MOETRAIN_CHECKPOINT_GOING_BACK_H

#include <stdint.h>

#include "kernels/check.h"

enum { GOING_BACK_WHOLE = -1 }; // as a step: all checkpoints are given up

// Moves the checkpoints of RUN_DIR after `step` aside, and says so; does nothing when there are
// none. `run` is the identity of the run they belong to, for the folder's name; empty when it is
// not known. False with exit 5.
bool going_back_to(const char *run_dir, const char *run, int64_t step, Error *err);
// Finishes what a crash interrupted, and says so. To be called before any checkpoint of RUN_DIR is
// looked for. False with exit 5.
bool going_back_finish(const char *run_dir, Error *err);

#endif
