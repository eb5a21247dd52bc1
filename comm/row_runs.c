#include "comm/row_runs.h"

int64_t run_first(RowRuns runs, int p) {
    if (runs.first) return runs.first[p];
    int64_t first = 0;
    for (int i = 0; i < p; i++) first += runs.rows[i];
    return first;
}
