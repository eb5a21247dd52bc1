// `moetrain diff-runs A B`: where two runs part that should be the same, by their digests
// (watch/step_digests.h).
#ifndef MOETRAIN_WORKER_DIFF_RUNS_H
#define MOETRAIN_WORKER_DIFF_RUNS_H

#include "kernels/check.h"

// Run directories, or files of digests. Prints a line: equal, or the first step, place, window or
// expert that differs, in the order in which a step computes. 0: nothing differs in the steps that
// both have. 1: something does. Otherwise the exit code of *err: 2 where there is nothing to
// compare, 4 where a file is damaged, 5 where it cannot be read. Not collective.
int diff_runs(const char *run, const char *other, Error *err);

#endif
