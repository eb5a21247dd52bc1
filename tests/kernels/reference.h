// Every op of kernels.h once more, in double and in the plainest loops: what the fast ones are
// compared with. Written from the formulas, not from the code under test. Arrays are row-major;
// letters as in kernels.h. `magnitude` arguments (may be NULL) receive the same sums over absolute
// values: the scale of rounding errors.
#ifndef MOETRAIN_TESTS_KERNELS_REFERENCE_H
#define MOETRAIN_TESTS_KERNELS_REFERENCE_H

#include "kernels/kernels.h"

// y (M, N), x (M, K), w (G, N, K)
void reference_matmul_forward(double *y, double *magnitude, const float *x, const float *w,
                              Segments rows, int64_t N, int64_t K);
void reference_matmul_backward_input(double *dx, double *magnitude, const float *dy, const float *w,
                                     Segments rows, int64_t N, int64_t K);
void reference_matmul_backward_weight(double *dw, double *magnitude, const float *dy,
                                      const float *x, Segments rows, int64_t N, int64_t K);

// magnitude: Σ |dy|, for the bound of the rounding errors
void reference_bias_backward(double *dbias, double *magnitude, const float *dy, Segments rows,
                             int64_t N);

void reference_embedding_backward(double *dweight, double *magnitude, const float *dout,
                                  const int32_t *tokens, int64_t N, int64_t D, int64_t V);

// bias and dbias are NULL where the norm has none; magnitude (2, D): Σ |terms| of dweight and dbias
void reference_normalize_forward(double *out, double *statistics, const float *x,
                                 const float *weight, const float *bias, NormRule rule, int64_t N,
                                 int64_t D);
// dx: the op's contribution, without what was there before
void reference_normalize_backward(double *dx, double *dweight, double *dbias, double *magnitude,
                                  const float *dout, const float *x, const float *weight,
                                  NormRule rule, int64_t N, int64_t D);

void reference_qk_norm_forward(double *out, double *rstd, const float *x, AttentionShape s,
                               QkNorm norm, int64_t N);
// dweights: of q, then of k, summed over all rows. dx_unit (N, W) and magnitude (as dweights): the
// sums' terms without their signs.
void reference_qk_norm_backward(double *dx, double *dx_unit, double *dweights, double *magnitude,
                                const float *dout, const float *x, AttentionShape s, QkNorm norm,
                                int64_t N);

// Rotates one row at `position`; the angles of `pairs` pairs are given.
void reference_rope(double *row, AttentionShape s, const float *cosines, const float *sines,
                    int64_t pairs, int64_t position, bool inverse);

void reference_attention_forward(double *out, double *lse, double *largest, const float *qkv,
                                 AttentionRule rule, int64_t N);
// dsinks (H): with SOFTMAX_SINK alone.
void reference_attention_backward(double *dqkv, double *dsinks, const float *dout, const float *qkv,
                                  AttentionRule rule, int64_t N);
// How far results stray when p, the gradient of the scores and `out` are each rounded with a
// relative error of at most 1: such errors are independent, so the root of the sum of their
// squares. out_unit (N, H·d_value) dqkv_unit (N, W) dsinks_unit (H)
void reference_attention_rounding(double *out_unit, double *dqkv_unit, double *dsinks_unit,
                                  const float *dout, const float *qkv, AttentionRule rule,
                                  int64_t N);

void reference_activation_forward(double *out, const float *in, Activation kind, int64_t N,
                                  int64_t F);
void reference_activation_backward(double *din, const float *dout, const float *in, Activation kind,
                                   int64_t N, int64_t F);

// The rows' numbers are on the host, if they are given.
void reference_dropout(double *out, const float *x, Dropout rule, int64_t N, int64_t D);

// Exact choices; the sums are over all N tokens (one part).
void reference_router_forward(int32_t *ids, double *weights, double *lse, double *prob_sum,
                              double *entropy_sum, double *lse2_sum, const float *logits,
                              const float *bias, RouterRule rule, int64_t N, int64_t E, int64_t K);
// What expert e of a token is chosen by; bias NULL: none.
double reference_key(const float *z, const float *bias, RouterRule rule, double lse, int64_t e,
                     int64_t K);
// What a group of `size` experts is judged by.
double reference_group_score(const double *keys, RouterRule rule, int64_t size, int64_t K);
// balance (E): one part
void reference_router_backward(double *dlogits, const float *dweights, const int32_t *ids,
                               const float *logits, RouterRule rule, const float *balance,
                               double z_scale, int64_t N, int64_t E, int64_t K);

// Exact. One routing group of N tokens whose first row is first_token.
void reference_capacity_assign(uint8_t *kept, int32_t *routed, int32_t *dropped, const int32_t *ids,
                               const float *weights, int64_t N, int64_t K, int64_t E,
                               int64_t capacity, DropPolicy policy, RngStream stream,
                               int64_t first_token);
// Exact.
void reference_permutation_plan(int32_t *slot_row, int32_t *row_choice, int32_t *counts,
                                const int32_t *ids, const uint8_t *kept, const int32_t *places,
                                int64_t N, int64_t K, int64_t E, int64_t parts,
                                int64_t padded_rows);
// Rank r of a group has experts first_expert[r] to first_expert[r + 1] - 1, and shards likewise.
typedef struct ReferenceCut {
    int64_t ranks;
    const int64_t *first_expert, *first_shard; // (ranks + 1)
} ReferenceCut;
// Exact: what `rank` must find.   counts (E, G): rows of every expert from every shard
typedef struct ReferenceExchange { // as ExchangePlan
    int64_t *offsets, *send_rows, *receive_rows;
    int32_t *to_expert, *to_received;
} ReferenceExchange;
void reference_exchange_plan(ReferenceExchange to, const int32_t *counts, ReferenceCut cut,
                             int64_t rank, int64_t chunks, int64_t parts, int64_t max_rows);
// Exact. Rows past the last are left alone.
void reference_expert_row_numbers(int64_t *numbers, const int32_t *counts, const int32_t *experts,
                                  ReferenceCut cut, int64_t rank, RowNumbering rule);
void reference_combine_forward(double *out, const float *y, const int32_t *slot_row,
                               const float *weights, int64_t N, int64_t D, int64_t K);
// Rows of dy that no choice names are left alone.
void reference_combine_backward(double *dy, double *dweights, const float *dout, const float *y,
                                const int32_t *slot_row, const float *weights, int64_t N, int64_t D,
                                int64_t K);
void reference_renormalize_forward(double *scaled, const float *weights, const uint8_t *kept,
                                   int64_t N, int64_t K);
void reference_renormalize_backward(double *dweights, const float *dscaled, const float *weights,
                                    const uint8_t *kept, int64_t N, int64_t K);

void reference_cross_entropy(double *losses, double *dlogits, const float *logits,
                             const int32_t *targets, double scale, int64_t N, int64_t V);

// One element of w, m and v.
void reference_adamw(double *w, double *m, double *v, double g, int group, AdamW rule);
void reference_sgd(double *w, double *m, double g, int group, Sgd rule);
void reference_lion(double *w, double *m, double g, int group, Lion rule);

#endif
