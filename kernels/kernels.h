// Every op of the program: documented and checked here, computed by a backend (backend.h).
//
// Conventions for all ops. Tensors are contiguous f32 unless stated. An op never allocates and never
// communicates; none is collective. Shape mismatches are fatal with the tensor's name. Results do not
// depend on the number of threads, and each row's result depends only on its own segment (see Segments):
// that is what makes training bit-identical on any number of ranks.
//
// Letters: N tokens (rows), D model width, F hidden width, V vocabulary, E experts, K choices a token,
// H query heads, KV key/value heads, T tokens of a sequence.
#ifndef MOETRAIN_KERNELS_KERNELS_H
#define MOETRAIN_KERNELS_KERNELS_H

#include "kernels/device.h"
#include "kernels/rng.h"

// How the rows of a matrix belong together: `groups` weight matrices, each serving `parts` runs of rows.
// The rows of group g, part p are offsets[g * parts + p] .. offsets[g * parts + p + 1].
//   dense layers   groups = 1, parts = this rank's shards
//   experts        groups = this rank's experts, parts = its share of the fixed gradient groups
// A library call never sees rows of two segments, so a segment's bits do not depend on what lies around it.
typedef struct Segments {
    int64_t groups, parts;
    const int64_t *offsets; // groups * parts + 1 row numbers, ascending, host memory
} Segments;

// ---- matrices ------------------------------------------------------------------------------------------

// y = x wᵀ for each segment with its group's matrix.
//   y (M, N)   x (M, K)   w (G, N, K)
void matmul_forward(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows);
// dx = dy w.   dx (M, K)   dy (M, N)   w (G, N, K)
void matmul_backward_input(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows);
// dw[g] = Σ_p dy[g,p]ᵀ x[g,p], overwriting; the parts are summed as the fixed binary tree
// ((0+1)+(2+3))+…, so parts must be a power of two unless it is 1. Groups without rows get zeros.
//   dw (G, N, K)   dy (M, N)   x (M, K)
void matmul_backward_weight(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows);

// ---- embedding -----------------------------------------------------------------------------------------

// out[n] = weight[tokens[n]].   out (N, D)   tokens (N) i32, each in 0..V-1 (checked by the data loader)   weight (V, D)
void embedding_forward(Device *dev, Tensor out, Tensor tokens, Tensor weight);
// dweight[v] = Σ dout[n] over tokens[n] = v, overwriting. Tokens are cut into `parts` equal runs (shards);
// within a part the sum runs in token order from +0, the parts are summed as the fixed binary tree.
//   dweight (V, D)   dout (N, D)   tokens (N) i32   order (N + V + 1) i32 scratch
void embedding_backward(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                        Tensor order);

// ---- RMSNorm (arXiv:1910.07467) ------------------------------------------------------------------------

// out = x · rstd · weight, rstd = 1 / sqrt(mean(x²) + eps).   out, x (N, D)   rstd (N)   weight (D)
void rmsnorm_forward(Device *dev, Tensor out, Tensor rstd, Tensor x, Tensor weight, float eps);
// dx += (the residual stream's gradient is already there); dweight overwritten, tree over `parts` equal runs of rows.
//   dx, dout, x (N, D)   dweight, weight (D)   rstd (N)   partial (parts, D) scratch
void rmsnorm_backward(Device *dev, Tensor dx, Tensor dweight, Tensor dout, Tensor x, Tensor rstd,
                      Tensor weight, int64_t parts, Tensor partial);

// ---- attention -----------------------------------------------------------------------------------------

// One row of the fused projection holds H query heads, KV key heads and KV value heads:
//   [ q_0 … q_{H-1} (d_head each) | k_0 … k_{KV-1} (d_head) | v_0 … v_{KV-1} (d_value) ]
// H is a multiple of KV; query head h reads key/value head h / (H / KV). (GQA, arXiv:2305.13245)
typedef struct AttentionShape {
    int64_t heads, kv_heads, d_head, d_value;
} AttentionShape;
int64_t attention_qkv_width(AttentionShape s); // H·d_head + KV·(d_head + d_value)
int64_t attention_kv_width(AttentionShape s);  // KV·(d_head + d_value), the tail of a row: one cache row

// Rotates the q and k heads in place (RoPE, arXiv:2104.09864, half-split pairs (i, i + d_head/2), as Llama):
// row r has position first_position + r % T. `inverse` rotates back: the backward pass of the op.
//   qkv (N, W)   cosines, sines (positions, d_head/2) f32
void rope(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, int64_t T,
          int64_t first_position, bool inverse);

// Causal softmax attention within each sequence of T rows; scores times `scale`; O(T) extra memory.
//   out (N, H·d_value)   lse (N, H) log-sum-exp of the scaled scores   qkv (N, W) after rope; N a multiple of T
void attention_forward(Device *dev, Tensor out, Tensor lse, Tensor qkv, AttentionShape s, int64_t T,
                       float scale);
//   dqkv (N, W) overwritten   dout, out (N, H·d_value)
void attention_backward(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, Tensor out, Tensor lse,
                        AttentionShape s, int64_t T, float scale);
// Attention of one new token against a cache: row `position` of the cache is the token itself (already stored).
//   out (1, H·d_value)   qkv (1, W) after rope   cache (positions, KV·(d_head + d_value))
void attention_decode(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionShape s,
                      int64_t position, float scale);

// ---- feed-forward --------------------------------------------------------------------------------------

typedef enum Activation {
    SWIGLU, // silu(gate) · up, arXiv:2002.05202; the input row is [gate (F) | up (F)]
    RELU,   // max(0, x); the input row is x (F)
} Activation;
int64_t activation_input_width(Activation kind, int64_t F); // 2F or F

//   out (N, F)   in (N, 2F or F)
void activation_forward(Device *dev, Tensor out, Tensor in, Activation kind);
// din overwritten; din may be `in` itself (in place).
void activation_backward(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind);

// ---- router --------------------------------------------------------------------------------------------

typedef enum RouterKind {
    SOFTMAX_TOPK, // choose the K largest logits, softmax over those K (Mixtral, arXiv:2401.04088)
    TOPK_SOFTMAX, // softmax over all E, choose K; renormalised over K only when asked (Switch, arXiv:2101.03961)
} RouterKind;
typedef struct RouterRule {
    RouterKind kind;
    bool normalize_top_k; // TOPK_SOFTMAX only
} RouterRule;

// Chooses the K experts of every token and their gate weights. Ties go to the lower expert number.
//   ids (N, K) i32, best first   weights (N, K)   lse (N) log-sum-exp of all E logits
//   logits (N, E)
//   prob_sum (parts, E) f64: Σ over the part's tokens of the full softmax, in token order
//   entropy_sum (parts) f64: Σ of the full softmax's entropy, nats;   lse2_sum (parts) f64: Σ lse²
void router_forward(Device *dev, Tensor ids, Tensor weights, Tensor lse, Tensor prob_sum,
                    Tensor entropy_sum, Tensor lse2_sum, Tensor logits, RouterRule rule,
                    int64_t parts);
// Gradient of: the gate weights; the balance term Σ_e balance[p, e] · Σ_{t in p} P_te; the z-loss z_scale · Σ lse².
//   dlogits (N, E) overwritten   dweights, weights (N, K)   ids (N, K)   logits (N, E)   lse (N)
//   balance (parts, E) f32: what multiplies P, constant (no gradient through f)
void router_backward(Device *dev, Tensor dlogits, Tensor dweights, Tensor ids, Tensor weights,
                     Tensor logits, Tensor lse, RouterRule rule, Tensor balance, float z_scale,
                     int64_t parts);

typedef enum DropPolicy {
    DROP_POSITION,    // first choices of all tokens in token order, then second choices, … (GShard, Switch)
    DROP_PROBABILITY, // keep the largest gate weights, ties to the lower token (Megatron probs)
    DROP_RANDOM,      // keep a uniformly random set, by counter: smallest rng_u32(stream, (first_token + n)·K + k), ties to the lower (n, k)
} DropPolicy;

// Marks which choices survive capacity, separately for each of `groups` equal runs of tokens and each expert.
//   kept (N, K) u8   ids (N, K) i32   weights (N, K)   capacity: choices an expert takes of a group; < 0: dropless
//   chosen, dropped (groups, E) i32: choices before dropping, and choices dropped
//   order (N·K + E + 1) i32 scratch
//   first_token: global number of row 0, for DROP_RANDOM
void capacity_assign(Device *dev, Tensor kept, Tensor chosen, Tensor dropped, Tensor ids,
                     Tensor weights, int64_t groups, int64_t capacity, DropPolicy policy,
                     RngStream stream, int64_t first_token, Tensor order);
// What each of `parts` equal runs of tokens asked of each expert, for the balance loss and the utilization history.
//   chosen, dropped (parts, E) i32: choices before dropping, and choices dropped
//   weight_mass (parts, E) f64: Σ of the kept choices' weights, in (token, slot) order
//   ids (N, K) i32   weights (N, K)   kept (N, K) u8
void expert_load(Device *dev, Tensor chosen, Tensor dropped, Tensor weight_mass, Tensor ids,
                 Tensor weights, Tensor kept);

// ---- permutation ---------------------------------------------------------------------------------------

// Orders the kept choices by (expert, part, token, slot): the order in which they travel.
//   slot_row (N, K) i32: row of the choice in that order, or -1 when dropped
//   row_choice (N·K) i32: for each row its choice n·K + k; rows past the last are -1
//   counts (E, parts) i32: kept choices of each expert from each of `parts` equal runs of tokens (host-readable)
void permutation_plan(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts, Tensor ids,
                      Tensor kept, int64_t parts);
// out[r] = x[index[r] / divisor] for r < rows.   out (≥rows, D)   x (·, D)   index (≥rows) i32
// divisor = K gathers tokens by choice, 1 gathers rows.
void gather_rows(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows, int64_t divisor);
// out[n] = Σ_k w[n,k] · y[slot_row[n,k]] over kept choices, in slot order from 0; `weights` with data NULL means 1.
//   out (N, D)   y (R, D)   slot_row (N, K) i32   weights (N, K)
void combine_forward(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights);
// dy[slot_row[n,k]] = w[n,k] · dout[n]; dweights[n,k] = dout[n] · y[slot_row[n,k]], 0 for dropped choices.
//   dy (R, D)   dweights, weights (N, K)   dout (N, D)   y (R, D); dy may be y itself (in place)
void combine_backward(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                      Tensor slot_row, Tensor weights);
// Divides each token's surviving weights by their sum (renormalize_after_drop); tokens that lost all keep 0.
//   scaled (N, K) out   weights (N, K)   kept (N, K) u8
void renormalize_forward(Device *dev, Tensor scaled, Tensor weights, Tensor kept);
// dweights from dscaled, in place: dscaled becomes dweights (zero for dropped choices).
void renormalize_backward(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights, Tensor kept);

// ---- loss ----------------------------------------------------------------------------------------------

// Softmax cross-entropy, in place: losses[n] = lse(logits[n]) - logits[n, target]; then, when scale is not 0,
// logits become their gradient times scale: (softmax - onehot) · scale.
//   losses (N)   logits (N, V)   targets (N) i32
void cross_entropy(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale);

// ---- elementwise and sums ------------------------------------------------------------------------------

void fill_zero(Device *dev, Tensor x);
void copy(Device *dev, Tensor out, Tensor x);          // same bytes
void add(Device *dev, Tensor out, Tensor a, Tensor b); // out = a + b; out may be a or b
// sums[p] = Σ x over the p-th of `parts` equal runs, f64, in element order.   sums (parts) f64   x (n) f32
void segment_sum(Device *dev, Tensor sums, Tensor x, int64_t parts);
// sums[r] = Σ x² over row r of x, f64, in fixed blocks of 4096 elements then in block order.
//   sums (rows) f64   x (rows, …)
void sum_of_squares(Device *dev, Tensor sums, Tensor x);

// ---- optimizer -----------------------------------------------------------------------------------------

typedef struct AdamW {
    float lr, beta1, beta2, eps, weight_decay;
    float bias_correction1, bias_correction2; // 1 - beta^t
    float grad_scale;                         // clipping: multiplies every gradient
} AdamW;
// Decoupled weight decay (arXiv:1711.05101): g' = g · grad_scale; m, v moments of g';
// w -= lr · (m̂ / (sqrt(v̂) + eps) + weight_decay · w).   w, g, m, v of one shape
void adamw_update(Device *dev, Tensor w, Tensor g, Tensor m, Tensor v, AdamW rule);

#endif
