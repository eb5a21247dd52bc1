// The ops of attention (kernels.h has what holds for all ops).
#ifndef MOETRAIN_KERNELS_ATTENTION_OPS_H
#define MOETRAIN_KERNELS_ATTENTION_OPS_H

#include "kernels/choice.h"
#include "kernels/device.h"
#include "kernels/rng.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// One row of the fused projection holds H query heads, KV key heads and KV value heads:
//   [ q_0 … q_{H-1} (d_head each) | k_0 … k_{KV-1} (d_head) | v_0 … v_{KV-1} (d_value) ]
// H is a multiple of KV; query head h reads key/value head h / (H / KV). (GQA, arXiv:2305.13245)
typedef struct AttentionShape {
    int64_t heads, kv_heads, d_head, d_value;
} AttentionShape;
int64_t attention_qkv_width(AttentionShape s); // H·d_head + KV·(d_head + d_value)
int64_t
attention_kv_width(AttentionShape s); // KV·(d_head + d_value), the tail of a row: one cache row

// What RMS norm (norms.h) is taken of before queries and keys are turned: each head alone, with one
// weight for all of them, or all query heads and all key heads together.
typedef enum QkNormKind { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_WHOLE } QkNormKind;
extern const ChoiceTable QK_NORM_CHOICES;
typedef struct QkNorm {
    QkNormKind kind; // not QK_NORM_NONE
    float eps;
    Tensor q_weight, k_weight; // (qk_norm_q_width), (qk_norm_k_width)
} QkNorm;
int64_t qk_norm_q_width(AttentionShape s, QkNormKind kind); // d_head or H·d_head
int64_t qk_norm_k_width(AttentionShape s, QkNormKind kind); // d_head or KV·d_head
int64_t qk_norm_groups(AttentionShape s, QkNormKind kind);  // of a row: H + KV or 2
// out = x with each group of q and of k over its root mean square, times its weight; values are
// copied.
//   out, x (N, W) T   rstd (N, groups) what each group was multiplied by
void qk_norm_forward(Device *dev, Tensor out, Tensor rstd, Tensor x, AttentionShape s, QkNorm norm);
// dx comes as the gradient of out and leaves as that of x. What each row adds to the weights'
// gradients, its heads summed in order, is overwritten.
//   dx, x (N, W) T   dq_weight (N, q_width)   dk_weight (N, k_width)   rstd (N, groups)
void qk_norm_backward(Device *dev, Tensor dx, Tensor dq_weight, Tensor dk_weight, Tensor x,
                      Tensor rstd, AttentionShape s, QkNorm norm);

// out = x · σ(gate): each of a row's G gates serves W / G columns one after the other.
//   out, x (N, W) T   gate (N, G) T, G divides W
void gate_forward(Device *dev, Tensor out, Tensor x, Tensor gate);
// dx and dgate overwritten; dx may be dout.   dx, dout, x (N, W) T   dgate, gate (N, G) T
void gate_backward(Device *dev, Tensor dx, Tensor dgate, Tensor dout, Tensor x, Tensor gate);

// Where rows stand: row r of sequences of T rows at first + r % T, or at of_rows[r].
typedef struct RowPositions {
    int64_t T, first;
    Tensor of_rows; // (N) i32; data NULL: none
} RowPositions;
// Rotates the q and k heads in place (RoPE, arXiv:2104.09864, half-split pairs (i, i + P), as
// Llama) by each row's position. The channels from 2 P on stay. `inverse` rotates back: the
// backward pass of the op.
//   qkv (N, W) T   cosines, sines (positions, P) f32, 2 P <= d_head
void rope(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, RowPositions at,
          bool inverse);

// What the softmax divides by beside Σ exp(score) over the keys that a query sees, so that a head
// may attend to nothing.
typedef enum AttentionSoftmax { SOFTMAX_PLAIN, SOFTMAX_OFF_BY_ONE, SOFTMAX_SINK } AttentionSoftmax;
extern const ChoiceTable ATTENTION_SOFTMAX_CHOICES;

// Each probability becomes 0 with chance `rate`, and otherwise grows by 1 / (1 - rate), with the
// rate rounded to 2^-16. Key j of its sequence (from 0), query row n and query head h: 16 bits,
// those of j % 2 (0: the low ones) in word j % 8 / 2 of the stream's words at index
// ((first_token + n) · H + h) · ⌈T / 8⌉ + j / 8; below rate · 2^16 they drop. The backward pass
// draws them again. attention_decode drops nothing.
typedef struct AttentionDropout {
    float rate; // 0: none; below 1
    RngStream stream;
    int64_t first_token; // number of row 0
} AttentionDropout;
static inline uint32_t attention_drop_below(float rate) { // of 2^16
    uint32_t below = (uint32_t)(rate * 65536.0f + 0.5f);
    return below < 65535 ? below : 65535;
}
static inline float attention_kept_factor(float rate) {
    return 65536.0f / (65536.0f - (float)attention_drop_below(rate));
}

// What attends to what, and how: softmax attention within each sequence, causal unless it is
// bidirectional.
typedef struct AttentionRule {
    AttentionShape shape;
    int64_t T;   // rows of a sequence; attention_decode does not ask
    float scale; // of the scores; positive
    AttentionSoftmax softmax;
    Tensor sinks;   // (H) f32, SOFTMAX_SINK alone: a logit of each query head
    int64_t window; // a query sees so many keys, its own the last of them; 0: all before it
    // A query also sees the later keys whose own queries see it: a window reaches as far to both
    // sides, a document is seen whole. Not for attention_decode.
    bool bidirectional;
    // (N) i32, data NULL: none. A row's place in its document, whose keys alone it sees: they begin
    // so many rows before it, and lie in its sequence. Not for attention_decode.
    Tensor positions;
    // 0: none; otherwise a score becomes softcap · tanh(score / softcap) (Gemma 2,
    // arXiv:2408.00118)
    float softcap;
    // (H) f32, none negative; data NULL: none. Then slopes[h] · |query - key| is taken off each
    // score (ALiBi, arXiv:2108.12409).
    Tensor slopes;
    AttentionDropout dropout;
} AttentionRule;

//   out (N, H·d_value) T   lse (N, H) f32 logarithm of what the softmax divides by
//   largest (N, H) f32: the largest score of a row before softcap and slopes; data NULL: not wanted
//   qkv (N, W) T after rope; N a multiple of T
// O(T) extra memory.
void attention_forward(Device *dev, Tensor out, Tensor lse, Tensor largest, Tensor qkv,
                       AttentionRule rule);
//   dqkv (N, W) T overwritten   dout, out (N, H·d_value) T
//   dsinks (N, H) f32 overwritten, SOFTMAX_SINK alone: what each row adds to the gradient of its
//     head's sink, -exp(sink - lse) · Σ dout · out
void attention_backward(Device *dev, Tensor dqkv, Tensor dsinks, Tensor dout, Tensor qkv,
                        Tensor out, Tensor lse, AttentionRule rule);
// Attention of n new tokens against a cache: the rows of the cache from `position` on are the
// tokens themselves (already stored). On the CPU in the bits that attention_forward has for them.
//   out (n, H·d_value) T   qkv (n, W) T after rope   cache (positions, KV·(d_head + d_value)) T
void attention_decode(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                      int64_t position);

#ifdef __cplusplus
}
#endif

#endif
