// How the tokens of each source of a mix spread over experts, in the steps since it was last told,
// made of the columns of model/source_load.h. Counts, hence the same on any number of ranks. Not
// collective.
#ifndef MOETRAIN_WORKER_DATA_SOURCE_LOADS_H
#define MOETRAIN_WORKER_DATA_SOURCE_LOADS_H

#include "model/statistics.h"

typedef struct SourceLoads {
    int sources;     // 0: one source, or no layer with experts, and nothing is kept
    int64_t width;   // counts of all layers together
    int64_t *counts; // (width), layer by layer (sources, experts)
} SourceLoads;

void source_loads_open(SourceLoads *loads, const Statistics *stats, int sources);
void source_loads_close(SourceLoads *loads); // legal on a zeroed struct

// After a step, whose totals are known.
void source_loads_add(SourceLoads *loads, const Statistics *stats);
// The busiest expert's choices by a source's tokens over the mean expert's, in the worst layer; NaN
// without a token of it.
double source_loads_imbalance(const SourceLoads *loads, const Statistics *stats, int source);
// How far a source's shares of the experts are from those of all tokens together: half the sum of
// the differences (total variation), the mean over layers. 0: like all others; near 1: experts of
// its own. NaN without a token of it.
double source_loads_distance(const SourceLoads *loads, const Statistics *stats, int source);
void source_loads_clear(SourceLoads *loads);

#endif
