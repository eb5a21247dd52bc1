// PEER, parameter-efficient expert retrieval (He 2024, arXiv:2407.04153): a feed-forward of n²
// experts of one hidden neuron each, of which every head of a token finds the top_k by product keys
// (arXiv:1907.05242):
//   q_h = x W_hᵀ, q'_h = x W'_hᵀ;  score of expert i·n + j: q_h · key_i + q'_h · key'_j
//   y = Σ_h Σ_{e in the top_k of head h} softmax(scores of those)_e · act(x · up_e) down_e
// Heads share keys and experts. With a gated activation an expert is act(x · gate_e, x · up_e).
// Queries may be batch normalised (query_norm.h).
//
// Of a half's scores only those of chosen keys have a gradient. Where these are many of all the
// products with it are dense, otherwise over the chosen: other sums, so that sizes alone decide. Of
// experts the chosen are always gathered: at 240 of 1,296 for a token that takes three quarters of
// the time of dense products alone, without their mask, at 128 of 1,024 half; dense ones win from a
// quarter of all experts on (tests/bench/bench_named_rows; AMD EPYC, AVX-512, forward and backward;
// on AVX2, whose dense products are slower, from 0.3 on).
//
// Experts are dealt to the ranks of an expert-parallel group. Tokens do not travel each to its
// experts, of which a few are on every rank: every rank gets the tokens of the group, adds up what
// its own experts make of each, and returns that. Numbers of experts are cut into equal parts, as
// many as ranks at most share them, and sums over experts are the fixed tree over these, whichever
// rank has them.
#ifndef MOETRAIN_MODEL_PEER_H
#define MOETRAIN_MODEL_PEER_H

#include "model/layer_kind.h"
#include "model/linear.h"
#include "model/query_norm.h"

// One half of the keys.
typedef struct KeyHalf {
    Linear query;                     // weight (H·d_key, D)
    int keys;                         // parameter (n, d_key)
    QueryNorm norm;                   // peer.query_norm=batch
    Tensor queries;                   // (N, H·d_key) f32, normalised
    Tensor scores;                    // (scored, n) f32 scratch: of some queries at a time
    Tensor chosen;                    // (N·H, top_k) i32 scratch: keys of the experts chosen
    Tensor dscores;                   // (N·H, n) scratch, where there are few keys
    Tensor dqueries, dqueries_stored; // (N, H·d_key) scratch, and as matrix products read it
} KeyHalf;

// Its state, open to tests. K = heads · top_k choices of a token, M tokens of the group.
typedef struct PeerLayer {
    int64_t layer, n, heads, top_k, d_key;
    KeyHalf halves[2];
    int gate, up, down;          // parameters (n², D); gate -1: the activation has none
    int counts;                  // of peer_usage.h
    Tensor ids, weights;         // (N, K) i32, f32
    Tensor all_ids, all_weights; // (M, K): of the group; the same tensors when it has one rank
    Tensor x, all_x;             // (N, D) stored, borrowed; (M, D)
    Tensor hidden;               // (M, K or 2K) f32, [gate | up]; becomes its own gradient
    Tensor activated;            // (M, K) f32 scratch; times the weights
    Tensor all_dout;             // (M, D) stored, scratch
    Tensor dproduct, dweights;   // (M, K) scratch
    Tensor own_dweights;         // (N, K) scratch
    Tensor partial, returned;    // (M, D) f32 scratch: of this rank's experts; of its tokens
    Tensor at, listed;           // list_names of all_ids
    Tensor dx_f32;               // (N, D) scratch
    Tensor dsums;                // (N·H, top_k) f32 scratch: of the experts' sums of scores
    Tensor key_at, key_listed;   // list_names of chosen keys, scratch, where there are many
    Tensor head_offsets;         // (dense_parts + 1) i64 on the host: rows of queries of each part
    int64_t scored;              // queries that are scored at once
} PeerLayer;

// Forward and backward are collective over expert_parallel.
extern const LayerKind PEER_FEED_FORWARD;

#endif
