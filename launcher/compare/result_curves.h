// FOLDER/curves.svg: the validation loss of each row over the steps, as the mean over its seeds,
// with the standard deviation at the end. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_RESULT_CURVES_H
#define MOETRAIN_LAUNCHER_COMPARE_RESULT_CURVES_H

#include "launcher/compare/result_table.h"

// The text, to be freed by the caller; NULL while there is no curve of two points. *bytes: its
// length.
char *curves_draw(const Comparison *comparison, ComparedResults results, size_t *bytes);

#endif
