// Causal grouped-query attention with rotary positions:
//   [q k v] = x Wqkvᵀ;  q, k rotated;  out = softmax(q kᵀ / sqrt(d_head), causal) v · Woᵀ
// (arXiv:1706.03762, GQA arXiv:2305.13245, RoPE arXiv:2104.09864.) Query head h uses key/value head
// h / (H / KV); kv_heads = heads is plain multi-head, 1 is multi-query attention.
#ifndef MOETRAIN_MODEL_ATTENTION_H
#define MOETRAIN_MODEL_ATTENTION_H

#include "model/work.h"

// cos and sin of every position and frequency; one for all layers.
typedef struct RopeTable {
    Tensor cosines, sines;           // (positions, d_head / 2)
    Tensor host_cosines, host_sines; // the host's mirrors
} RopeTable;
void rope_table_layout(RopeTable *table, const ModelConfig *config, int64_t positions, Arena *arena,
                       Arena *host);
void rope_table_fill(RopeTable *table, Device *dev, const ModelConfig *config);

typedef struct Attention {
    int qkv, output; // parameters (W, D) and (D, H·d_value)
    const RopeTable *rope;
    Tensor x;            // (N, D) input, borrowed
    Tensor qkv_rows;     // (N, W) stored, after rotation
    Tensor heads, lse;   // (N, H·d_value) stored, (N, H)
    Tensor dheads, dqkv; // scratch of the backward pass
} Attention;

void attention_declare(Attention *a, Work *work, int64_t layer);
void attention_layout(Attention *a, Work *work, Arena *activations, Arena *scratch);
//   out, x (N, D) stored; x must stay until the backward pass
void attention_layer_forward(Attention *a, Work *work, Tensor out, Tensor x);
//   dx, dout (N, D) stored; dx overwritten
void attention_layer_backward(Attention *a, Work *work, Tensor dx, Tensor dout);
// One new token at `position`: its keys and values go into the cache (positions, KV·(d_head +
// d_value)).
//   out, x (1, D)
void attention_layer_decode(Attention *a, Work *work, Tensor out, Tensor x, Tensor cache,
                            int64_t position);

#endif
