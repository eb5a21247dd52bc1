// Every op of the program: documented and checked here, computed by a backend (backend.h).
//
// Conventions for all ops. Tensors are contiguous, in the device's memory, f32 unless stated. T
// marks storage that is f32 or bf16, in one call the same for all T; arithmetic is f32 always, and
// a T result is rounded once, to nearest even. An op never communicates; none is collective. Shape
// mismatches are fatal with the tensor's name. Results do not depend on the number of threads, and
// with dev->fixed_order each row's result depends only on its own segment (see Segments): that is
// what makes training bit-identical on any number of ranks. No op adds floats in an order that
// timing decides.
//
// Letters: N tokens (rows), D model width, F hidden width, V vocabulary, E experts, K choices a
// token, H query heads, KV key/value heads, T tokens of a sequence.
#ifndef MOETRAIN_KERNELS_KERNELS_H
#define MOETRAIN_KERNELS_KERNELS_H

#include "kernels/activations.h"
#include "kernels/choice.h"
#include "kernels/device.h"
#include "kernels/norms.h"
#include "kernels/rng.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// How the rows of a matrix belong together: `groups` weight matrices, each serving `parts` runs of
// rows. The rows of group g, part p are offsets[g * parts + p] .. offsets[g * parts + p + 1].
//   dense layers   groups = 1, parts = this rank's shards
//   experts        groups = this rank's experts, parts = its share of the fixed gradient groups
// A library call never sees rows of two segments, so a segment's bits do not depend on what lies
// around it.
typedef struct Segments {
    int64_t groups, parts;
    const int64_t *offsets; // groups * parts + 1 row numbers, ascending, host memory
    // the same (groups * parts + 1) i64 where kernels can read them; data NULL: dense, 1 group
    Tensor device_offsets;
} Segments;

// ---- matrices -----------------------------------------------------------------------------------

// y = x wᵀ for each segment with its group's matrix.
//   y (M, N) T, or f32 from bf16   x (M, K) T   w (G, N, K) T
void matmul_forward(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows);
// dx = dy w.   dx (M, K) T, or f32 from bf16   dy (M, N) T   w (G, N, K) T
void matmul_backward_input(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows);
// dw[g] = Σ_p dy[g,p]ᵀ x[g,p], overwriting; the parts are summed as the fixed binary tree
// ((0+1)+(2+3))+…, so parts must be a power of two unless it is 1. Groups without rows get zeros.
//   dw (G, N, K) f32   dy (M, N) T   x (M, K) T
void matmul_backward_weight(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows);

// y[r] += bias[g] in the rows of each group; sums in f32, stored as T.
//   y (M, N) T   bias (G, N) f32
void bias_forward(Device *dev, Tensor y, Tensor bias, Segments rows);
// dbias[g] = Σ_p Σ_r dy[g,p,r], overwriting: in each part an order that follows from its number of
// rows alone, the parts as the fixed binary tree. Groups without rows get zeros. The parts of a
// dense layer are equal runs of rows.
//   dbias (G, N) f32   dy (M, N) T
void bias_backward(Device *dev, Tensor dbias, Tensor dy, Segments rows);

// ---- embedding ----------------------------------------------------------------------------------

// out[n] = weight[tokens[n]].
//   out (N, D)   tokens (N) i32, each in 0..V-1 (checked by the data loader)   weight (V, D)
void embedding_forward(Device *dev, Tensor out, Tensor tokens, Tensor weight);
// dweight[v] = Σ dout[n] over tokens[n] = v, overwriting. Tokens are cut into `parts` equal runs
// (shards); within a part the sum runs in token order from +0, the parts are summed as the fixed
// binary tree.
//   dweight (V, D)   dout (N, D)   tokens (N) i32   order (N + V + 1) i32 scratch
void embedding_backward(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                        Tensor order);

// ---- norms --------------------------------------------------------------------------------------

// norms.h has their list.
extern const ChoiceTable NORM_CHOICES;
bool norm_has_bias(NormKind kind);
int64_t norm_statistics(NormKind kind); // of each row, kept for the backward pass
typedef struct NormRule {
    NormKind kind;
    float eps;
} NormRule;
typedef struct NormParams { // or their gradients
    Tensor weight, bias;    // (D); the bias has no data where the norm has none
} NormParams;

// The residual stream takes in a branch and is normalised, in one pass over memory:
// sum = x + branch; out = the norm of each row of sum.
//   out (N, D) T   statistics (norm_statistics, N)   sum, x (N, D) f32; sum may be x
//   branch (N, D) T; data NULL: none, sum is then not written
void normalize_forward(Device *dev, Tensor out, Tensor statistics, Tensor sum, Tensor x,
                       Tensor branch, NormParams params, NormRule rule);
// dx += (the residual stream's gradient is already there); dparams overwritten, tree over `parts`
// equal runs of rows.
//   dx, x (N, D) f32; x is the forward pass's sum   dout (N, D) T   statistics as they were written
//   partial (parts, D, or 2D with a bias) scratch
void normalize_backward(Device *dev, Tensor dx, NormParams dparams, Tensor dout, Tensor x,
                        Tensor statistics, NormParams params, NormRule rule, Tensor partial);

// ---- attention ----------------------------------------------------------------------------------

// One row of the fused projection holds H query heads, KV key heads and KV value heads:
//   [ q_0 … q_{H-1} (d_head each) | k_0 … k_{KV-1} (d_head) | v_0 … v_{KV-1} (d_value) ]
// H is a multiple of KV; query head h reads key/value head h / (H / KV). (GQA, arXiv:2305.13245)
typedef struct AttentionShape {
    int64_t heads, kv_heads, d_head, d_value;
} AttentionShape;
int64_t attention_qkv_width(AttentionShape s); // H·d_head + KV·(d_head + d_value)
int64_t
attention_kv_width(AttentionShape s); // KV·(d_head + d_value), the tail of a row: one cache row

// Rotates the q and k heads in place (RoPE, arXiv:2104.09864, half-split pairs (i, i + d_head/2),
// as Llama): row r has position first_position + r % T. `inverse` rotates back: the backward pass
// of the op.
//   qkv (N, W) T   cosines, sines (positions, d_head/2) f32
void rope(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, int64_t T,
          int64_t first_position, bool inverse);

// What the softmax divides by beside Σ exp(score) over the keys that a query sees, so that a head
// may attend to nothing.
typedef enum AttentionSoftmax { SOFTMAX_PLAIN, SOFTMAX_OFF_BY_ONE, SOFTMAX_SINK } AttentionSoftmax;
extern const ChoiceTable ATTENTION_SOFTMAX_CHOICES;

// What attends to what, and how: causal softmax attention within each sequence.
typedef struct AttentionRule {
    AttentionShape shape;
    int64_t T;   // rows of a sequence; attention_decode does not ask
    float scale; // of the scores; positive
    AttentionSoftmax softmax;
    Tensor sinks;   // (H) f32, SOFTMAX_SINK alone: a logit of each query head
    int64_t window; // a query sees so many keys, its own the last of them; 0: all before it
} AttentionRule;

//   out (N, H·d_value) T   lse (N, H) f32 logarithm of what the softmax divides by
//   qkv (N, W) T after rope; N a multiple of T
// O(T) extra memory.
void attention_forward(Device *dev, Tensor out, Tensor lse, Tensor qkv, AttentionRule rule);
//   dqkv (N, W) T overwritten   dout, out (N, H·d_value) T
void attention_backward(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, Tensor out, Tensor lse,
                        AttentionRule rule);
// What each row and head adds to the gradient of its sink: -exp(sink - lse) · Σ dout · out.
//   dsinks (N, H) f32 overwritten   dout, out (N, H·d_value) T   lse (N, H)   sinks (H)
void attention_sink_backward(Device *dev, Tensor dsinks, Tensor dout, Tensor out, Tensor lse,
                             Tensor sinks);
// Attention of one new token against a cache: row `position` of the cache is the token itself
// (already stored).
//   out (1, H·d_value) T   qkv (1, W) T after rope   cache (positions, KV·(d_head + d_value)) T
void attention_decode(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                      int64_t position);

// ---- feed-forward -------------------------------------------------------------------------------

// What a hidden layer does, element by element: activations.h has their list.
extern const ChoiceTable ACTIVATION_CHOICES;
bool activation_is_gated(Activation kind);                  // the input row is [gate (F) | up (F)]
int64_t activation_input_width(Activation kind, int64_t F); // 2F when gated, else F
//   out (N, F) T   in (N, 2F or F) T
void activation_forward(Device *dev, Tensor out, Tensor in, Activation kind);
// din overwritten; din may be `in` itself (in place).   din, in (N, 2F or F) T   dout (N, F) T
void activation_backward(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind);

// ---- router -------------------------------------------------------------------------------------

typedef enum RouterKind {
    SOFTMAX_TOPK, // choose the K largest logits, softmax over those K (Mixtral, arXiv:2401.04088)
    // softmax over all E, choose K; renormalised over K only when asked (Switch, arXiv:2101.03961)
    TOPK_SOFTMAX,
    // s = sigmoid(z): weights s_i / (Σ_chosen s + 1e-20), of a single choice s itself, times the
    // scaling factor (DeepSeek-V3, arXiv:2412.19437)
    SIGMOID,
} RouterKind;
extern const ChoiceTable ROUTER_CHOICES;
typedef struct RouterRule {
    RouterKind kind;
    bool normalize_top_k;  // TOPK_SOFTMAX only
    double scaling_factor; // SIGMOID only: what a token's weights sum to
} RouterRule;
#define SIGMOID_SUM_LEAST 1e-20f
// Whether a token's single weight is always the same, so that the router learns nothing from it.
bool router_single_weight_is_1(RouterRule rule);

// What the router decides about N tokens.
typedef struct Routing {
    Tensor ids;     // (N, K) i32: the chosen experts, best first; ties: the lower number
    Tensor weights; // (N, K): their gate weights
    Tensor lse;     // (N): log-sum-exp of all E logits
} Routing;
// What router_forward and expert_load find in each of `parts` equal runs of tokens.
typedef struct RouterSums {
    Tensor prob_sum;    // (parts, E) f64: Σ of the probabilities P, in token order
    Tensor entropy_sum; // (parts) f64: Σ of the entropy of P, nats
    Tensor lse2_sum;    // (parts) f64: Σ lse²
    Tensor weight_mass; // (parts, E) f64: Σ of the kept choices' weights, (token, slot) order
    Tensor tokens_per_expert; // (parts, E) i32: choices before dropping
    Tensor dropped;           // (parts, E) i32: those of them that were dropped
} RouterSums;

// Chooses the K experts of every token and their gate weights; fills the first three of the sums.
// A token's probabilities P over all E are its scores over their sum: the softmax of its logits or,
// by SIGMOID, s / Σ s, taken as the softmax of log s so that they sum to 1 however small all s are.
// Choices are by logit; with a bias, whose data is not NULL, by score + bias, the score being the
// sigmoid or, of the other rules, P. Nothing else depends on the bias.
//   logits (N, E)   bias (E)
void router_forward(Device *dev, Routing routing, RouterSums sums, Tensor logits, Tensor bias,
                    RouterRule rule);
// Gradient of: the gate weights; the balance term Σ_e balance[p, e] · Σ_{t in p} P_te; the z-loss
// z_scale · Σ lse².
//   dlogits (N, E) overwritten   dweights (N, K)   logits (N, E)
//   balance (parts, E) f32: what multiplies P, constant (no gradient through f)
void router_backward(Device *dev, Tensor dlogits, Tensor dweights, Routing routing, Tensor logits,
                     RouterRule rule, Tensor balance, float z_scale);

typedef enum DropPolicy {
    // first choices of all tokens in token order, then second choices, … (GShard, Switch)
    DROP_POSITION,
    DROP_PROBABILITY, // keep the largest gate weights, ties to the lower token (Megatron probs)
    // keep a uniformly random set, by counter: smallest rng_u32(stream, (first_token + n)·K + k),
    // ties to the lower (n, k)
    DROP_RANDOM,
} DropPolicy;
extern const ChoiceTable DROP_CHOICES;

typedef struct CapacityRule {
    int64_t capacity; // choices an expert takes of a group; < 0: dropless
    DropPolicy policy;
    RngStream stream;    // DROP_RANDOM
    int64_t first_token; // DROP_RANDOM: global number of row 0
} CapacityRule;

// Marks which choices survive capacity, separately for each of `groups` equal runs of tokens and
// each expert.
//   kept (N, K) u8   ids (N, K) i32   weights (N, K)
//   tokens_per_expert, dropped (groups, E) i32: choices before dropping, and choices dropped
//   order (N·K + E + 1) i32 scratch
void capacity_assign(Device *dev, Tensor kept, Tensor tokens_per_expert, Tensor dropped, Tensor ids,
                     Tensor weights, CapacityRule rule, Tensor order);
// What each part's tokens asked of each expert, for the balance loss and the utilization history:
// fills the last three of the sums.
//   ids (N, K) i32   weights (N, K)   kept (N, K) u8
void expert_load(Device *dev, RouterSums sums, Tensor ids, Tensor weights, Tensor kept);

// Where a training step adds it up: a row of `totals` for each of its rows' equal share of the
// parts.
typedef struct RouterTotals {
    Tensor totals;               // (S, columns) f64
    int64_t balance, z, entropy; // the column of each
    int64_t weight_mass;         // first of E columns
    Tensor routed, dropped;      // (E) i64: choices kept, and dropped
} RouterTotals;
typedef struct BalanceRule {
    double coefficient;    // α of the balance loss
    double per_step_token; // 1 / tokens of the step: turns sums into the means that enter the loss
    double choices;        // that a count is a share of: K times the tokens over which f is taken
} BalanceRule;
// Turns one MoE layer's sums into the balance coefficients and adds them to the totals. With count
// the choices of an expert in the part, or in `batch_tokens_per_expert` (E) i64 when its data is
// not NULL:
//   share[p, e] = E · per_step_token · count / choices;
//   balance (parts, E) f32 = coefficient · share
//   totals += Σ_e share · prob_sum;  per_step_token · lse2_sum;  per_step_token · entropy_sum;
//     weight_mass
//   routed += tokens_per_expert - dropped;  dropped += dropped
void router_totals(Device *dev, RouterTotals to, Tensor balance, RouterSums sums,
                   Tensor batch_tokens_per_expert, BalanceRule rule);
// out[e] = Σ_p x[p, e].   out (E) i64   x (parts, E) i32
void sum_columns(Device *dev, Tensor out, Tensor x);

// ---- permutation --------------------------------------------------------------------------------

// Orders the kept choices by (expert, part, token, slot): the order in which they travel.
//   slot_row (N, K) i32: row of the choice in that order, or -1 when dropped
//   row_choice (N·K) i32: for each row its choice n·K + k; rows past the last are -1
//   counts (E, parts) i32: kept choices of each expert from each of `parts` equal runs of tokens
// With padded_rows < 0 rows follow each other without gaps. With padded_rows ≥ 0 every (expert,
// part) has exactly `padded_rows` rows, the first ones used, and row_choice is
// (E·parts·padded_rows): sizes that nobody has to wait for. No (expert, part) may keep more than
// that.
void permutation_plan(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts, Tensor ids,
                      Tensor kept, int64_t parts, int64_t padded_rows);

// Who sends how much to whom in the all-to-all of a group of `ep` ranks, and in which order
// received rows serve the experts. Sent rows are ordered (expert, shard, …). They travel in
// `chunks` exchanges: the c-th carries the c-th run of every rank's experts (E/ep experts, chunks
// divides them), so that a rank can compute one while the next is on its way. Received rows are
// ordered (chunk, source rank, expert, shard, …), expert rows (expert, source rank, shard, …).
typedef struct ExchangePlan {
    // (E/ep · parts + 1) i64: expert rows of each expert and gradient part (Segments)
    Tensor offsets;
    Tensor send_rows;    // (chunks, ep) i64
    Tensor receive_rows; // (chunks, ep) i64
    Tensor to_expert;    // (R) i32: received row of each expert row; R as many as there may be
    Tensor to_received;  // (R) i32: expert row of each received row; rows past the last: -1 in both
} ExchangePlan;
//   counts (E, S) i32: what this rank sends
//   all_counts (ep, E/ep, S) i32: what each rank sends to this one
// parts divides ep · S. Rows past R are counted in offsets and receive_rows but not entered: the
// caller must check.
void exchange_plan(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts, int64_t parts);

// out[r] = x[index[r] / divisor] for r < rows, zeros where index[r] < 0.
//   out (≥rows, D) T   x (·, D) T   index (≥rows) i32
// divisor = K gathers tokens by choice, 1 gathers rows.
void gather_rows(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows, int64_t divisor);
// out[n] = Σ_k w[n,k] · y[slot_row[n,k]] over kept choices, in slot order from 0; `weights` with
// data NULL means 1.
//   out (N, D) T   y (R, D) T   slot_row (N, K) i32   weights (N, K)
void combine_forward(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights);
// dy[slot_row[n,k]] = w[n,k] · dout[n]; dweights[n,k] = dout[n] · y[slot_row[n,k]], 0 for dropped
// choices; rows that row_choice says are padding become zeros.
//   dy (R, D) T   dweights, weights (N, K)   dout (N, D) T
//   y (R, D) T; dy may be y itself (in place)
//   row_choice (at most R) i32: -1 where no choice names a row; data NULL: such rows of dy, if
//     there are any, are left alone
void combine_backward(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                      Tensor slot_row, Tensor row_choice, Tensor weights);
// Divides each token's surviving weights by their sum (renormalize_after_drop); tokens that lost
// all keep 0.
//   scaled (N, K) out   weights (N, K)   kept (N, K) u8
void renormalize_forward(Device *dev, Tensor scaled, Tensor weights, Tensor kept);
// dweights from dscaled, in place: dscaled becomes dweights (zero for dropped choices).
void renormalize_backward(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights, Tensor kept);

// ---- loss ---------------------------------------------------------------------------------------

// Softmax cross-entropy, in place: losses[n] = lse(logits[n]) - logits[n, target]; then, when scale
// is not 0, logits become their gradient times scale: (softmax - onehot) · scale.
//   losses (N)   logits (N, V) T   targets (N) i32
void cross_entropy(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale);

// ---- elementwise and sums -----------------------------------------------------------------------

void fill_zero(Device *dev, Tensor x);
void copy(Device *dev, Tensor out, Tensor x); // same bytes
// out = x in another storage: f32 to bf16 rounds to nearest even, bf16 to f32 is exact.
void convert(Device *dev, Tensor out, Tensor x);
// out = a + b, each of the three f32 or bf16; out may be a or b.
void add(Device *dev, Tensor out, Tensor a, Tensor b);
// sums[p, column] += (Σ x over the p-th of P equal runs, f64) / divisor.
//   sums (P, columns) f64   x (n) f32
void segment_sum(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor);
// sums[s] = Σ x² over elements offsets[s] .. offsets[s + 1], f64, in fixed blocks of 4096 elements
// from the segment's start, then over the blocks in an order that their number fixes.
//   sums (S) f64   x (n)   offsets (S + 1) i64, ascending within 0..n
void sum_of_squares(Device *dev, Tensor sums, Tensor x, Tensor offsets);

// ---- optimizer ----------------------------------------------------------------------------------

// Groups of parameters that one update tells apart, each with its own rate and decay.
enum { UPDATE_GROUPS = 8 };

typedef struct AdamW {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
    float beta1, beta2, eps;
    float bias_correction1, bias_correction2; // 1 - beta^t
    float grad_scale;                         // clipping: multiplies every gradient
} AdamW;
// Decoupled weight decay (arXiv:1711.05101): g' = g · grad_scale; m, v moments of g';
// w -= lr · (m̂ / (sqrt(v̂) + eps) + weight_decay · w). All parameters of a run in one call.
//   w, g, m, v (n)   copy (n) bf16: receives w rounded; data NULL: none
//   groups (n / 16) u8: which lr and weight_decay each 16 elements have; n is a multiple of 16
void adamw_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, Tensor groups,
                  AdamW rule);

typedef struct Sgd {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
    float momentum;
    bool nesterov;
    float grad_scale; // as AdamW's
} Sgd;
// As torch.optim.SGD without dampening, its decay coupled: g' = g · grad_scale + weight_decay · w;
// m = momentum · m + g'; w -= lr · (nesterov ? g' + momentum · m : m). Tensors as of adamw_update.
void sgd_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Sgd rule);

typedef struct Lion {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
    float beta1, beta2;
    float grad_scale; // as AdamW's
} Lion;
// Lion (arXiv:2302.06675): g' = g · grad_scale; w -= lr · (sign(beta1 · m + (1 - beta1) · g') +
// weight_decay · w), where sign(0) is 0; then m = beta2 · m + (1 - beta2) · g'. Tensors as of
// adamw_update.
void lion_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Lion rule);

// What Muon is made of beside matrix products.
typedef struct Momentum {
    float momentum;
    bool nesterov;
    float grad_scale; // as AdamW's
} Momentum;
// g' = g · grad_scale; m = momentum · m + g'; u = nesterov ? g' + momentum · m : m.
//   u, g, m (n), n a multiple of 16
void momentum_direction(Device *dev, Tensor u, Tensor g, Tensor m, Momentum rule);
// x /= sqrt(squares[s]) + eps for elements offsets[s] .. offsets[s + 1]; others stay.
//   x (n)   squares (S) f64   offsets (S + 1) i64, ascending within 0..n
void normalize_segments(Device *dev, Tensor x, Tensor squares, Tensor offsets, float eps);

typedef struct MatrixPolynomial {
    float identity, linear, quadratic;
} MatrixPolynomial;
// square = identity · I + linear · a + quadratic · square, for each of G matrices; with a² in
// `square` it is a polynomial of a.
//   square, a (G, n, n)
void matrix_polynomial(Device *dev, Tensor square, Tensor a, MatrixPolynomial p);

typedef struct DecayedStep {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
} DecayedStep;
// w -= lr · (step + weight_decay · w). Tensors as of adamw_update, step (n).
void decayed_step(Device *dev, Tensor w, Tensor copy, Tensor step, Tensor groups, DecayedStep rule);

#ifdef __cplusplus
}
#endif

#endif
