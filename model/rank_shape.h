// A rank's share of the batch: how many sequences and shards, and the parts in which sums over them
// are made.
#ifndef MOETRAIN_MODEL_RANK_SHAPE_H
#define MOETRAIN_MODEL_RANK_SHAPE_H

#include "model/model.h"

// The shares of a rank of the split. Its dense_offsets are the caller's to free.
RankShape rank_shape(const ModelConfig *config, ModelSplit split);

#endif
