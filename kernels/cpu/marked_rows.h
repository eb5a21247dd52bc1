// Which rows of very many an op touches: those with a mark that is not 0, or those that list_names
// has found somebody to name. Few are, so whole runs of rows are passed over at once.
#ifndef MOETRAIN_KERNELS_CPU_MARKED_ROWS_H
#define MOETRAIN_KERNELS_CPU_MARKED_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/integers.h"

enum { ROW_RUN = 64 }; // rows that are passed over together

static inline int64_t row_run_end(int64_t first, int64_t rows) {
    return smaller(first + ROW_RUN, rows);
}

// Whether any of the rows [first, end) has a mark.
static inline bool any_marked(const int32_t *marks, int64_t first, int64_t end) {
    int32_t any = 0;
    for (int64_t r = first; r < end; r++) any |= marks[r];
    return any != 0;
}

// Whether anybody names any of them.
static inline bool any_listed(const int32_t *listed, int64_t first, int64_t end) {
    return listed[end] > listed[first];
}

#endif
