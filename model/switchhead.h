// SwitchHead (Csordás et al., arXiv:2312.07987): attention of few heads, whose value and output
// projections are experts, E of each head, with gates that do not compete (head_gate.h):
//   q_h, k_h = x W_hᵀ, rotated;  v_h = Σ_e s_e · x W_v,h,eᵀ over k experts by the token seen
//   out = Σ_h Σ_e s'_e · (softmax(q_h k_hᵀ / sqrt(d_head), causal) v_h) W_o,h,eᵀ over k experts
//   by the token that sees
// attention.heads is H, attention.experts E and attention.top_k k. Tokens travel to the value
// experts and heads to the output experts; nothing is dropped. No loss balances, as in the paper,
// unless moe.balance has terms of importance (head_balance.h).
#ifndef MOETRAIN_MODEL_SWITCHHEAD_H
#define MOETRAIN_MODEL_SWITCHHEAD_H

#include "model/expert_linear.h"
#include "model/head_gate.h"
#include "model/layer_kind.h"
#include "model/positions.h"
#include "model/qk_norm.h"

// Experts of one of the projections, and who chooses among them.
typedef struct HeadExperts {
    HeadGate gate;
    Linear weights; // (H·E, d_value, D) of values, (H·E, D, d_value) of outputs
    ExpertPlaces *places;
    Dispatch plan;
    ExpertExchange exchange;
    Tensor dgates; // (N·H, k) scratch
} HeadExperts;

typedef struct SwitchHeadLayer {
    int64_t layer;
    Linear qk; // weight (2·H·d_head, D)
    HeadExperts values, outputs;
    QueryKeyNorm norm;
    PositionKind positions;
    Tensor x;                   // (N, D) stored input, borrowed
    Tensor qkv_rows;            // (N, W) stored, after rotation
    Tensor heads, lse;          // (N, H·d_value) stored, (N, H)
    Tensor kept, host_kept;     // (N, H·k) u8: all are
    int64_t prepared_for;       // work->memory_uses; -1: never
    struct {                    // rows of all kinds hold values, and gradients
        Tensor qk_rows, v_rows; // (N, 2·H·d_head), (N·H, d_value) stored
        Tensor dheads, dqkv;    // (N, H·d_value), (N, W) stored
        Tensor dx;              // (N, D) stored: through queries and keys
    } scratch;
} SwitchHeadLayer;

// Forward and backward are collective over expert_parallel; forward also over world, where a term
// of importance has the scope batch.
extern const LayerKind SWITCHHEAD;

#endif
