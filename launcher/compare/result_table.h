// The tables of a comparison: one line a row, mean ± standard deviation over the seeds that are
// done. Of a search the best is first. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_RESULT_TABLE_H
#define MOETRAIN_LAUNCHER_COMPARE_RESULT_TABLE_H

#include <stdio.h>

#include "launcher/compare/compared_run.h"
#include "launcher/compare/comparison.h"
#include "launcher/compare/run_result.h"

// The runs and what they have come to, (count) each.
typedef struct ComparedResults {
    const ComparedRun *runs;
    const RunResult *results;
    int count;
} ComparedResults;

// Mean, and the standard deviation with count - 1, of the numbers that are known; NaN where there
// are too few.
typedef struct Spread {
    int count;
    double mean, deviation;
} Spread;
Spread spread_of(const double *values, int count);

// For people; with all digits; and each run by itself.
void table_print(FILE *out, const Comparison *comparison, ComparedResults results);
void table_print_rows(FILE *out, const Comparison *comparison, ComparedResults results);
void table_print_runs(FILE *out, const Comparison *comparison, ComparedResults results);

#endif
