// Gradients of dense parameters over this rank's shards. Where those are several nodes of the fixed
// tree over all shards (comm/shard_run.h) each node has a sum of its own, which ranks add up
// (gradients.h): what adds rows up goes through here.
//
// `share` is as in work_use_gradient. Rows lie shard by shard, equally many of each. All sums are
// overwritten.
#ifndef MOETRAIN_MODEL_DENSE_GRADIENT_H
#define MOETRAIN_MODEL_DENSE_GRADIENT_H

#include "model/work.h"

// Elements of work->node_gradients that are of a further node, [1, work->shape.node_count).
Tensor node_sums(const Work *work, int node, int64_t offset, int64_t elements);
// A gradient's place for the sum over one node, [0, work->shape.node_count).
Tensor node_gradient(const Work *work, int param, int share, int node);
// The rows of x that are of one node.
Tensor node_rows(const Work *work, int node, Tensor x);

// Of a weight (out, in): dyᵀ x.   dy (N, out)   x (N, in)
void weight_gradient(Work *work, int weight, int share, Tensor dy, Tensor x);
// Of a bias (out): the rows' sum.   dy (N, out)
void bias_gradient(Work *work, int bias, int share, Tensor dy);
// Of a table (V, D), of which each token read a row.
//   dout (N, D)   tokens (N) i32   order (N + V + 1) i32 scratch
void lookup_gradient(Work *work, int table, int share, Tensor dout, Tensor tokens, Tensor order);

// Of a norm's weight (D), and of its bias, -1: none; and dx, as normalize_backward has it.
typedef struct NormGradient {
    int weight, bias;
    Tensor partial; // (dense_parts, D for each of the two) scratch
    Tensor columns; // as norm_node_statistics lays out
} NormGradient;
// Room for a node's statistics in scratch: none where there is one node.
Tensor norm_node_statistics(const Work *work, NormKind kind, Arena *scratch);
void norm_gradient(Work *work, NormGradient gradient, Tensor dx, Tensor dout, Tensor x,
                   Tensor statistics, NormParams params, NormRule rule);

#endif
