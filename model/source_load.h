// Which experts the tokens of each data source choose, where training data is a mix: whether
// sources keep different experts busy (domain specialization, OLMoE, arXiv:2409.02060, §5.2). Not
// collective.
#ifndef MOETRAIN_MODEL_SOURCE_LOAD_H
#define MOETRAIN_MODEL_SOURCE_LOAD_H

#include "model/router.h"

// The counts of a layer, all choices, dropped ones too: [source · experts + expert]. There are none
// where data has one source.
#define SOURCE_LOAD_COLUMN "source_load"

// Asks for the column of a layer; returns its first place, -1 where there is none.
int source_load_column(Statistics *stats, const Work *work, int64_t layer, int64_t experts);
// Adds a micro-batch's choices, window by window of this rank. Of experts that choose, the tokens
// that they took.
void source_load_count(const Router *router, Work *work, Statistics *stats);

#endif
