// Rows that a comparison finds by itself: every combination of a grid, or trials drawn at random,
// some of which successive halving ends early (Jamieson and Talwalkar, arXiv:1502.07943).
//
// A trial's value of a key is a function of (seed, key, number of the draw), so which trials there
// are depends on the seed alone, and more of them begin with the same ones. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_SEARCH_H
#define MOETRAIN_LAUNCHER_COMPARE_SEARCH_H

#include "launcher/compare/comparison.h"

// Puts every combination of the grid in the place of each row, or of the configuration as it is
// where there are no rows. Without a grid nothing changes. False with exit 2.
bool grid_expand(Comparison *comparison, Error *err);

// Adds the trials of the search as rows; a draw that breaks a rule or is there already is drawn
// again. False with exit 2 where too few are legal.
bool search_draw(Comparison *comparison, Error *err);

// ---- successive halving -------------------------------------------------------------------------

enum { HALVING_RUNGS = 16 };

// The steps up to which trials are trained, in rising order: `total`, and that divided by `factor`
// again and again while it is no less than `least`. Returns their number.
int halving_rungs(int64_t total, int64_t least, int64_t factor, int64_t steps[HALVING_RUNGS]);

// How many of `trials` are left in rung 0, 1, …: a share of 1/factor of those before, one at least.
int halving_left(int trials, int64_t factor, int rung);

// Which `keep` of the trials, those in[i], have the lowest losses: the others leave. A trial that
// failed has a loss of NaN, and of equal ones the first stays.
void halving_select(const double *losses, bool *in, int count, int keep);

#endif
