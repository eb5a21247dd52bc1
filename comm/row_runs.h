// Which rows go to, or come from, each rank of a group. Not collective.
#ifndef MOETRAIN_COMM_ROW_RUNS_H
#define MOETRAIN_COMM_ROW_RUNS_H

#include <stdint.h>

// For each rank of the group: how many rows, and the first of them. first NULL: one run after the
// other from row 0. The arrays lie on the host and may change when the call that takes them
// returns.
typedef struct RowRuns {
    const int64_t *rows;
    const int64_t *first;
} RowRuns;
// The first row of the run of rank p.
int64_t run_first(RowRuns runs, int p);

#endif
