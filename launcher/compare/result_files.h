// The files of a comparison: FOLDER/table.md for people, FOLDER/table.csv with all digits,
// FOLDER/runs.csv each run, FOLDER/curves.svg the losses over the steps. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_RESULT_FILES_H
#define MOETRAIN_LAUNCHER_COMPARE_RESULT_FILES_H

#include "launcher/compare/result_table.h"

// Writes the four into the comparison's folder. False with exit 5.
bool results_write(const Comparison *comparison, ComparedResults results, Error *err);

#endif
