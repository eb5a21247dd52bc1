// How a model is cut over ranks, and a rank's share of the batch: how many sequences and shards,
// and the parts in which sums over them are made. Nothing here is collective.
#ifndef MOETRAIN_MODEL_RANK_SHAPE_H
#define MOETRAIN_MODEL_RANK_SHAPE_H

#include "model/exchange_check.h"
#include "model/work.h"

// How a model is cut over ranks and micro-batches.
typedef struct ModelSplit {
    int64_t ranks, rank;
    int64_t expert_parallel; // divides ranks and experts
    int64_t shards;          // of a micro-batch over all ranks (comm/shard_run.h)
    int64_t sequences;       // of a micro-batch over all ranks; shards divide it
    int64_t context;         // T
    int64_t positions;       // of the longest sequence, at least T; 0 means T
    int64_t micro_batches;   // of a step
    DType storage;           // of activations and of the matrices' copies: F32 or BF16
    DType weights;           // without training, storage F32: of the matrices (narrow_weights.h)
    int64_t sources;         // of the data, whose loads are told apart; below 2: none
    int64_t chunks;          // pieces of the token exchange at most; 0 means 1
    ExchangeChecks check_exchanges;
    bool fixed_tree; // sum gradients so that the bits do not depend on the number of ranks
    // without training: rows are multiplied shard by shard, as by fixed_tree
    bool shard_rows;
    bool training;     // false: no gradients, no backward pass
    bool decoding;     // for model_decode: one sequence, `context` new tokens of it at a time
    bool even_routing; // planning only: room for evenly spread tokens instead of the worst case
} ModelSplit;

// One rank that reads one sequence of `context` tokens.
ModelSplit model_split_alone(int64_t context);

// How shards of a micro-batch are dealt to ranks: to each set of experts first.
ShardDeal model_shard_deal(const ModelConfig *config, int64_t shards, int64_t ranks,
                           int64_t expert_parallel);
// The shares of a rank of the split. Its dense_offsets are the caller's to free.
RankShape rank_shape(const ModelConfig *config, ModelSplit split);

#endif
