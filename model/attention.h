// Grouped-query attention, causal unless train.objective is masked:
//   [q k v] = x Wqkvᵀ;  q, k rotated;  out = softmax(q kᵀ / sqrt(d_head), causal) v · Woᵀ
// (arXiv:1706.03762, GQA arXiv:2305.13245.) Query head h uses key/value head h / (H / KV); kv_heads
// = heads is plain multi-head, 1 is multi-query attention. attention.softmax adds 1 or exp of a
// learned logit of each head, its sink, to the denominators (arXiv:2508.10925); with
// attention.window a query sees the last so many keys alone (Mistral, arXiv:2310.06825). Whether
// and how queries and keys are rotated by their positions is said in positions.h.
#ifndef MOETRAIN_MODEL_ATTENTION_H
#define MOETRAIN_MODEL_ATTENTION_H

#include "model/layer_kind.h"
#include "model/positions.h"

extern const LayerKind ATTENTION;

// What the configuration says of the softmax of a layer's heads, whatever has made their queries,
// keys and values.
//   sinks (H) f32: with attention.softmax sink alone
AttentionRule attention_rule(const Work *work, AttentionShape shape, int64_t layer, Tensor sinks);
// A run of columns of rows of queries, keys and values, which stand in this order.
static inline ColumnBlocks attention_columns(int64_t width, int64_t out_first, int64_t x_first) {
    return (ColumnBlocks){.blocks = 1, .width = width, .out_first = out_first, .x_first = x_first};
}
// Keys that a query of the layer sees, in the mean over a sequence: those at its ends see fewer.
double attention_mean_keys(const Work *work, int64_t layer);
// Whether the device's kernels take heads so wide: a LayerKind's check_device. Not collective.
bool attention_check_device(const ModelConfig *config, int64_t layer, const Device *dev,
                            Error *err);

#endif
