// Batch normalization of the queries that find experts (arXiv:1502.03167; of product keys
// arXiv:1907.05242, of PEER arXiv:2407.04153), so that keys are found evenly. Without gain and
// bias.
//
// Training normalises the tokens of each shard by their own mean and variance (as ranks do whose
// statistics are not synchronised; arXiv:1705.08741): nothing travels for it, and the bits are the
// same on any number of ranks. Evaluation and generation use averages over steps: after each the
// mean and variance of all its tokens, by the fixed tree over shards, move them by a tenth
// (PyTorch's momentum).
#ifndef MOETRAIN_MODEL_QUERY_NORM_H
#define MOETRAIN_MODEL_QUERY_NORM_H

#include "model/statistics.h"

typedef struct QueryNorm {
    int64_t layer, width;
    const char *name;                // of the statistics' column
    int mean, variance;              // parameters (width): averages over steps
    int sums;                        // first place of the column: of x, then of x²
    ColumnMoments batch;             // (S, width) of the last forward pass of training
    Tensor host_mean, host_variance; // mirrors of the averages
} QueryNorm;

// "….peer.query_mean_WHICH" and "….peer.query_variance_WHICH".
void query_norm_declare(QueryNorm *norm, Work *work, int64_t layer, int64_t width,
                        const char *which);
void query_norm_layout(QueryNorm *norm, Work *work, Statistics *stats, Arena *activations);
// Nothing of the rest is collective. In place, queries (N, width) f32.
void query_norm_forward(QueryNorm *norm, Work *work, Statistics *stats, Tensor queries);
// From normalised queries; dqueries in place.
void query_norm_backward(const QueryNorm *norm, Work *work, Tensor dqueries, Tensor queries);
void query_norm_after_step(QueryNorm *norm, Work *work, const Statistics *stats);

#endif
