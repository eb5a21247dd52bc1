// The router: scores every token against every expert, chooses K, drops what exceeds an expert's
// capacity, and carries the balance terms.
//   z = x W_gᵀ (f32);  ids, weights = top-K rule of z (Mixtral arXiv:2401.04088, Switch
//     arXiv:2101.03961)
//   z += ε · softplus(x W_noiseᵀ), ε standard normal (noisy_top_k: Shazeer et al. 2017,
//     arXiv:1701.06538); x times uniform(1 - jitter, 1 + jitter) for the router alone (Switch)
//   capacity C = max(min_capacity, ⌈cf·K·G / E⌉) for each routing group of G tokens and expert
//   load-balancing loss α·E·Σ f_i·P_i (Switch), z-loss c·mean(lse(z)²) of z without noise (ST-MoE,
//     arXiv:2202.08906)
//   instead of, or beside, the first: a bias b of the choice alone (router_bias.h)
#ifndef MOETRAIN_MODEL_ROUTER_H
#define MOETRAIN_MODEL_ROUTER_H

#include "model/layer_kind.h"
#include "model/router_names.h"

// Zero-computation experts (zero_experts.h) have logits behind those of the E experts, and what is
// said of E here holds for all E + Z, but for capacity: they are never full.
//
// Where it adds up what it finds: scalars "balance" (the first balance term without its coefficient
// α: E·Σ f·P is 1 when tokens spread evenly, a CV² is 0), those of the other terms, as
// "balance_step" and "balance_importance_shard", "z" (mean lse² without its coefficient c) and
// "entropy" (of the router's probabilities P, nats a token), the vector "weight_mass" (Σ of the
// kept choices' gate weights) and the counts "routed" and "dropped", together N·K with "zero",
// those of zero-computation experts, which have a "zero_weight_mass" too; and "router_bias" as it
// was in the step. A mixer's router has others of its own (router_names.h).
typedef struct RouterColumns {
    int balance[BALANCE_TERMS_MAX]; // of each term
    int z, entropy, dropped, squares;
    int source_load;         // source_load.h; -1: none, as `squares` may be
    int weight_mass, routed; // and right behind the experts' places those of "zero_…" and "zero"
} RouterColumns;

typedef struct Router {
    int weight;    // parameter (E, D); -1: no gate, the chosen weigh the same
    int noise;     // parameter (E, D), of NOISY_TOPK: the logits of the noise's size; -1: none
    int gate_bias; // parameter (E) of the logits, learned; -1: none
    int bias;      // parameter (E) that a rule changes; -1: none
    MoeShape shape;
    RouterPlace place;
    int64_t layer;         // of the model
    RouterColumns columns; // of the statistics

    // What it has chosen, and what else the backward pass needs of the micro-batch.
    Tensor ids;         // (N, K) i32
    Tensor weights;     // (N, K) gate weights
    Tensor scaled;      // (N, K) after renormalize_after_drop; the same tensor without it
    Tensor kept;        // (N, K) u8
    Tensor travels;     // (N, K) u8: kept choices of the E experts
    Tensor x;           // (N, D) stored input, borrowed
    Tensor logits, lse; // (N, E), with noise; (N)
    Tensor noise_scale; // (N, E), of NOISY_TOPK
    // What z-loss acts on: with noise the logits (N, E) before it, and their (N) log-sum-exp;
    // otherwise `logits` and `lse`
    Tensor raw_logits, raw_lse;
    Tensor document_balance; // (N, E) of each row, where a term is of documents
    Tensor balance;          // (balance parts, E) f32: what multiplies P in the loss
    // (balance parts, E) f32: likewise what multiplies an addend of each kind whose loss is the
    // variation of a sum (router_variation.h); data NULL: no term is of it
    Tensor slopes[BALANCE_KIND_COUNT];
    Tensor counts; // (2, E) i64: choices of the micro-batch and of the step; data NULL: unused

    Tensor quantiles, host_quantiles; // (E, QUANTILE_BINS) i64: of the step (router_bias.h)

    RouterRule rule; // of the forward pass: whether a chooser (chooser.h) gave the ids

    struct { // forced_routing.c: running sums (E) i32 of a skewed draw's weights, when made
        Tensor ends, host_ends;
        int64_t made_for; // work->memory_uses; -1: never
    } forced;
    Tensor host_capacities;                // (T + 1) i32: the mirror of scratch.capacities
    struct {                               // of the forward pass
        Tensor x_f32;                      // (N, D) f32 copy of x for the scores, or x with jitter
        RouterSums sums;                   // of each balance part
        Tensor squares;                    // (N): Σ of the squares of raw_logits
        Tensor variation_sums, batch_sums; // (balance parts, E), (1, E) i64: of one kind's terms
        Tensor sinkhorn, sinkhorn_a, sinkhorn_c; // of SINKHORN: (parts, E) bias, scratch
        Tensor group_tokens_per_expert, group_dropped, order; // of capacity_assign
        Tensor capacities; // (T + 1) i32 by a document's length, of GROUP_DOCUMENT
    } scratch;
    struct {                       // of the backward pass, while the caller's dscaled is alive
        Tensor dlogits, dx, x_f32; // (N, E), (N, D), (N, D)
        Tensor dscale, dx_noise;   // (N, E), (N, D), of NOISY_TOPK
    } backward_scratch;
} Router;

// A mixer's router obeys the keys moe.… of routers, of losses and of the bias as a feed-forward's
// does, but it drops nothing and nobody else chooses for it.
void router_declare(Router *router, RouterPlace place, MoeShape shape, Work *work, int64_t layer);
// The number of its random streams (work_stream), which no other router of the model has.
int64_t router_stream(const Router *router, const ModelConfig *config);
void router_layout(Router *router, Work *work, Arena *activations, Arena *scratch);
// Of its gate and of what it tells other ranks.
void router_cost(const Router *router, const Work *work, LayerCost *cost);
// The backward pass's scratch, which must not overlap dscaled: called while the caller's mark
// protects that.
void router_layout_backward(Router *router, Work *work, Arena *scratch);
// Fills ids, scaled, kept, travels; adds to the statistics, in evaluations the choices alone.
// Collective over world when a balance term's scope is batch or step.
//   x (N, D) stored; must stay until the backward pass
void router_route(Router *router, Work *work, Statistics *stats, Tensor x);
// dx (N, D) stored += the gradient through gate weights, balance loss and z-loss.
//   dscaled (N, K), destroyed
void router_choose_backward(Router *router, Work *work, Tensor dx, Tensor dscaled);

#endif
