// Which experts a rank gets, so that the busiest rank has little more to do than the mean. Every
// rank has as many as before (kernels/deal.h), so that parameters and buffers stay as they were
// planned: a partition into parts of given sizes.
#ifndef MOETRAIN_MODEL_BALANCED_DEAL_H
#define MOETRAIN_MODEL_BALANCED_DEAL_H

#include "kernels/deal.h"

// The expert at each place, (E), from the rows of each, (E): longest processing time first (Graham
// 1969) among ranks that have room, as DeepSeek's EPLB packs, then exchanges of two experts between
// the busiest rank and another as long as they help. The experts of a rank are in order. All stay
// in order where no better deal was found. Follows from its arguments alone. Not collective.
void balanced_deal(int32_t *expert_at, const int64_t *rows, Deal deal, int64_t ranks);
// The rows of the busiest rank.
int64_t busiest_rank_rows(const int32_t *expert_at, const int64_t *rows, Deal deal, int64_t ranks);

#endif
