// Mixture of attention heads (MoA, Zhang et al., arXiv:2210.05144): of E experts with a query and
// an output projection each, a token's router chooses K; keys and values are shared by all.
//   q_i = x W_q,iᵀ of each chosen i;  [k v] = x Wkvᵀ;  q, k rotated
//   out = Σ_i w_i · softmax(q_i kᵀ / sqrt(d_head), causal) v · W_o,iᵀ
// So attention is that of K query heads over one key/value head, those of the slots of a token:
// attention.heads says how many, attention.experts among how many. Tokens travel to the experts'
// queries and heads to their output projections by one plan; nothing is dropped. Gate weights,
// balance losses and the bias are those of all routers (router.h), where the paper has a softmax
// over all, divided by a sum of the chosen through which no gradient goes.
#ifndef MOETRAIN_MODEL_MOA_H
#define MOETRAIN_MODEL_MOA_H

#include "model/expert_linear.h"
#include "model/layer_kind.h"
#include "model/qk_norm.h"
#include "model/router.h"

typedef struct MoaLayer {
    int64_t layer;
    Router router;
    Linear query, output; // weights (E, d_head, D) and (E, D, d_value)
    Linear kv;            // weight (d_head + d_value, D)
    QueryKeyNorm norm;
    ExpertPlaces *places;
    Dispatch plan;
    ExpertExchange queries, outputs;
    PositionKind positions;
    Tensor x;                   // (N, D) stored input, borrowed
    Tensor qkv_rows;            // (N, W) stored, after rotation
    Tensor heads, lse;          // (N, K·d_value) stored, (N, K)
    struct {                    // rows of all kinds hold values, and gradients
        Tensor q_rows, kv_rows; // (N·K, d_head), (N, d_head + d_value) stored
        Tensor dheads, dqkv;    // (N, K·d_value), (N, W) stored
        Tensor dweights;        // (N, K)
        Tensor dx;              // (N, D) stored: through keys and values
    } scratch;
} MoaLayer;

// Forward and backward are collective over expert_parallel; forward also over world, where a
// balance term's scope is batch or step, and after_step where moe.bias_update is quantile.
extern const LayerKind MOA;

#endif
