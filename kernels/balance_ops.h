// The ops of the balance losses that are not of choices (kernels.h has what holds for all ops).
#ifndef MOETRAIN_KERNELS_BALANCE_OPS_H
#define MOETRAIN_KERNELS_BALANCE_OPS_H

#include "kernels/routing_ops.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// Sums over tokens whose coefficient of variation is a loss are whole numbers of 2^-30, to which
// each addend is rounded: they are the same in any order, on any number of ranks. An addend lies in
// [0, BALANCE_ADDEND_MAX]; what is not a number is 0 there.
#define BALANCE_UNIT 0x1p-30
enum { BALANCE_ADDEND_MAX = 1024 };

// Importance (Shazeer et al. 2017, arXiv:1701.06538, eq. 6): sums[p, e] = Σ of the gate weights
// with which tokens of part p have chosen expert e; ids that are no experts have none.
//   sums (parts, E) i64, of BALANCE_UNIT   ids (N, K) i32   weights (N, K)
void importance_sums(Device *dev, Tensor sums, Tensor ids, Tensor weights);
// dweights[n, k] += slopes[part of n, ids[n, k]], where that is an expert.
//   dweights (N, K)   ids (N, K) i32   slopes (parts, E) f32
void importance_backward(Device *dev, Tensor dweights, Tensor ids, Tensor slopes);

// What noisy_top_k has made of a token's x (router_noise_forward): z, z + ε · softplus(scale), and
// scale. (N, E) each.
typedef struct NoisyLogits {
    Tensor raw, noisy, scale;
} NoisyLogits;
// Smooth load (arXiv:1701.06538, appendix A): sums[p, e] = Σ over the tokens of part p of
//   P(e) = Φ((z_e - h_e) / σ_e),  σ = softplus(scale), at least NOISE_LEAST:
// the probability that expert e is among the K largest if its noise is drawn again and the others'
// stays, with h_e the K-th largest noisy logit of the others, ties to the lower expert. K < E.
//   sums (parts, E) i64, of BALANCE_UNIT
void noisy_load_sums(Device *dev, Tensor sums, NoisyLogits logits, int64_t K);
// dlogits, dscale += the gradient of Σ slopes · P, also through h, by the raw logits and by scale.
// There is none through a σ that is NOISE_LEAST.
//   dlogits, dscale (N, E)   slopes (parts, E) f32
void noisy_load_backward(Device *dev, Tensor dlogits, Tensor dscale, Tensor slopes,
                         NoisyLogits logits, int64_t K);
#define NOISE_LEAST 1e-6

// What z-loss and its gradient are of logits that do not choose: lse (N) their log-sum-exp, squares
// (N) Σ z², lse2_sum[p] f64 the sum of lse² over the tokens of each of its parts, as in
// router_forward.   logits (N, E)
void logit_sums(Device *dev, Tensor lse, Tensor squares, Tensor lse2_sum, Tensor logits);
// dlogits (N, E) += the gradient of scale · Σ lse².
void z_loss_backward(Device *dev, Tensor dlogits, Tensor logits, Tensor lse, float scale);

// A loss coefficient · CV²: the squared coefficient of variation, variance over squared mean, of
// the sums of each scope, and the mean of that over the scopes (arXiv:1701.06538, eq. 7 and 11).
typedef struct VariationTerm {
    double coefficient;
    int64_t run;        // neighbouring rows of the sums, from a multiple of it on: one scope
    double scope_share; // tokens of a scope over those of the step
    double part_share;  // tokens of a part over those of the step
    int64_t column;     // of the loss in the totals
} VariationTerm;
// With V the sums of a scope and M their mean, both in units of 1,
//   slopes[p, e] = coefficient · scope_share · 2 / (E M) · ((V_e - M) / M - CV²), or += that;
//   totals[row, column] += Σ over the row's parts of part_share · CV².
// Where all V are 0 so are CV² and the slopes.
//   totals (rows, columns) f64, a row for an equal share of the parts   slopes (parts, E) f32
//   sums (R, E) i64, of BALANCE_UNIT: a row for an equal share of the parts
void variation_totals(Device *dev, Tensor totals, Tensor slopes, Tensor sums, VariationTerm term,
                      bool add);

// The load-balancing loss of each document, the mean of them by their tokens.
typedef struct DocumentTerm {
    int64_t T; // rows of a sequence, which parts documents, too
    double coefficient;
    double per_step_token;  // 1 / tokens of the step
    double choices_a_token; // what `count` is a share of
    bool first_choices;     // that it counts alone
    RouterScore score;      // whose softmax of logarithms the probabilities P are
    int64_t column;         // of the loss in the totals
} DocumentTerm;
// With count the choices of expert e in document d, which has n rows:
//   share[d, e] = E · per_step_token · count / (choices_a_token · n)
//   balance[row] = base[part of the row] + coefficient · share[document of the row]
//   totals[r, column] += Σ_d Σ_e share · Σ P, over the r-th equal share of the sequences
// A row whose position is 0 begins a document, as does a sequence.
//   balance (N, E) f32 overwritten   base (parts, E) f32   logits (N, E)   ids (N, K) i32: one that
//   is no expert counts nowhere   positions (N) i32   totals (R, columns) f64
void document_balance(Device *dev, Tensor balance, Tensor totals, Tensor base, Tensor logits,
                      Tensor ids, Tensor positions, DocumentTerm term);

#ifdef __cplusplus
}
#endif

#endif
