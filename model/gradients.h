// The sums of gradients: over ranks while the layers below still compute, and over the
// micro-batches of a step. Layers write into work->gradients and know nothing of it; where a rank
// has several nodes of the tree, dense_gradient.h writes those of further nodes beside them, in
// room for the bucket at work and the one before, which ranks are adding up.
//
// A parameter that is used several times has a share of its gradient for each further use: by the
// fixed tree each is a sum of its own, and all are added after the step.
//
// Gradients are summed in buckets, each the part of the parameters that is ready at one moment of
// the backward pass: the embedding, each layer, final norm and head. Dense gradients are summed
// over all ranks, expert gradients over the ranks that hold the same experts.
//
// By the fixed tree (train.reproducible: ranks) a bucket is summed over ranks in each micro-batch:
// shards are dealt to micro-batches first, so the tree over ranks lies below the one over
// micro-batches. (Dealt to ranks first, ranks would be summed once a step; but an expert's rank
// then meets the shards of all ranks in every micro-batch, and would have to keep a tree for each
// of those ranks, as many gradients as all their experts together have.) In any order micro-batches
// add up, and ranks are summed after the last one.
#ifndef MOETRAIN_MODEL_GRADIENTS_H
#define MOETRAIN_MODEL_GRADIENTS_H

#include "model/work.h"

// Ranges of the runs that are ready together.
typedef struct GradientBucket {
    int64_t first[GRADIENT_RUNS], elements[GRADIENT_RUNS];
    int64_t node_offset; // of its dense sums over further nodes in work->node_gradients
} GradientBucket;

typedef struct GradientSet {
    ParamSet params;
    Tensor shares; // all of them (elements), sums of their own
} GradientSet;

// levels of the tree over micro-batches, of which there are at most a million
enum { WAITING_MAX = 20 };

typedef struct Gradients {
    GradientBucket *buckets;
    int count, capacity;
    // The row of the table of each share, and the last bucket that there was when it was added.
    int shared[GRADIENT_SHARES_MAX], share_bucket[GRADIENT_SHARES_MAX], share_count;
    // The gradients of the step: complete after its last micro-batch. A set of their own only where
    // micro-batches are added one after the other.
    ParamSet sum;
    // By the fixed tree: sums over 1, 2, 4, … micro-batches that wait for their other half.
    GradientSet waiting[WAITING_MAX];
    int waiting_count;
    Tensor shares;    // of the set that layers write into: work->shares are its parts
    Tensor scratch;   // of the tree over ranks, beside every layer's: it runs while layers do
    Pending *pending; // sums over ranks that have been begun in this micro-batch
    int pending_count;
    // (gradients_sums, 2) i64: takes the checksum of each piece that is to be summed over ranks, as
    // this rank has computed it, until the step's end; data NULL: nothing does.
    Tensor local_sums;
} Gradients;

void gradients_init(Gradients *gradients);
void gradients_free(Gradients *gradients); // legal on a zeroed struct

// The rows added to the table since the last call are ready together. Returns the bucket's number;
// they count from 0.
int gradients_add_bucket(Gradients *gradients, const ParamTable *table);
// A further use of dense row `row` of the table: work->shares, under the number that is returned,
// takes its gradient, before the last bucket that there is so far is ready.
int gradients_add_share(Gradients *gradients, int row);

// Places work's gradients and all sums, after the last bucket was added.
void gradients_layout(Gradients *gradients, Work *work, Arena *arena, Arena *scratch);
// Pieces that local_sums tells apart: each bucket's dense and expert parts, and shares, which count
// as dense.
int64_t gradients_sums(const Gradients *gradients);
ParamRun gradients_sum_run(const Gradients *gradients, int64_t piece);
// Bytes of the host's memory, and of those that one rank sends in a step.
size_t gradients_host_bytes(const Gradients *gradients);
int64_t gradients_sent_bytes(const Gradients *gradients, const Work *work);

// The backward pass of a micro-batch has finished a share, unless it is OWN_GRADIENT, or a bucket
// and all shares of its rows.
// Collective over world and expert_replicas, in the same order on every rank.
void gradients_share_ready(Gradients *gradients, Work *work, int share);
void gradients_ready(Gradients *gradients, Work *work, int bucket);
// All buckets are ready: waits for the ranks and takes the micro-batch into the step's sum.
// Collective likewise.
void gradients_finish(Gradients *gradients, Work *work);

#endif
