// The ops that choose experts for tokens and carry tokens there and back (kernels.h has what holds
// for all ops).
#ifndef MOETRAIN_KERNELS_ROUTING_OPS_H
#define MOETRAIN_KERNELS_ROUTING_OPS_H

#include "kernels/choice.h"
#include "kernels/deal.h"
#include "kernels/device.h"
#include "kernels/rng.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// ---- router -------------------------------------------------------------------------------------

typedef enum RouterKind {
    SOFTMAX_TOPK, // choose the K largest logits, softmax over those K (Mixtral, arXiv:2401.04088)
    // softmax over all E, choose K; renormalised over K only when asked (Switch, arXiv:2101.03961)
    TOPK_SOFTMAX,
    // s = sigmoid(z): weights s_i / Σ_chosen s, of a single choice s itself, times the scaling
    // factor (DeepSeek-V3, arXiv:2412.19437)
    SIGMOID,
    SQRT_SOFTPLUS, // the same with s = sqrt(log(1 + e^z)) (DeepSeek-V4)
    // SOFTMAX_TOPK of logits to which router_noise has been added (Shazeer et al. 2017,
    // arXiv:1701.06538; makeMoE)
    NOISY_TOPK,
    // choose the K largest of logits + bias, where sinkhorn_bias evens out the load; weights: the
    // softmax over all E or, of a single choice, its sigmoid (Megatron-LM; BASE, arXiv:2103.16716)
    SINKHORN,
    // the chosen weigh as by SOFTMAX_TOPK: for experts chosen by token id (model/hash_routing.c)
    HASH,
    // the weights of TOPK_SOFTMAX, of every expert: each then takes its best tokens
    // (model/expert_choice.c)
    EXPERT_CHOICE,
} RouterKind;
extern const ChoiceTable ROUTER_CHOICES;
typedef struct RouterRule {
    RouterKind kind;
    bool normalize_top_k;  // TOPK_SOFTMAX only
    double scaling_factor; // SIGMOID, SQRT_SOFTPLUS only: what a token's weights sum to
    bool alone;            // SIGMOID only: a chosen one's weight is its score, whatever the others'
    bool given;            // the ids are input: something else has chosen (router_forward)
    // The experts lie in so many equal groups, of which a token's experts are in the best
    // top_groups (DeepSeek-V2, V3); groups <= 1: any.
    int64_t groups, top_groups;
} RouterRule;
enum { ROUTER_GROUPS_MAX = 32 };

// What a rule makes of a logit: its score ...
typedef enum RouterScore { SCORE_EXP, SCORE_SIGMOID, SCORE_SQRT_SOFTPLUS } RouterScore;
// ... and what a chosen one's weight is: over the sum of all scores (exponentials only), over that
// of the chosen, or the score itself.
typedef enum RouterWeighing { WEIGH_OVER_ALL, WEIGH_OVER_CHOSEN, WEIGH_ALONE } RouterWeighing;
RouterScore router_score(RouterRule rule, int64_t K);
RouterWeighing router_weighing(RouterRule rule, int64_t K);
// Whether the weights are times the scaling factor.
bool router_scales(RouterKind kind);
// How many of its largest scores a group of `size` experts is judged by: K / top_groups, at least 1
// and at most all.
int64_t router_group_choices(RouterRule rule, int64_t size, int64_t K);
// Whether a token's single weight is always the same, so that the router learns nothing from it.
bool router_single_weight_is_1(RouterRule rule);

// What the router decides about N tokens.
typedef struct Routing {
    Tensor ids;     // (N, K) i32: the chosen experts, best first, ties: the lower number; or given
    Tensor weights; // (N, K): their gate weights
    Tensor lse;     // (N): log-sum-exp of all E logits
    Tensor squares; // (N): Σ of the squares of all E logits; data NULL: not asked for
} Routing;
// What router_forward and expert_load find in each of `parts` equal runs of tokens.
typedef struct RouterSums {
    Tensor prob_sum;    // (parts, E) f64: Σ of the probabilities P, in token order
    Tensor entropy_sum; // (parts) f64: Σ of the entropy of P, nats
    Tensor lse2_sum;    // (parts) f64: Σ lse²
    Tensor weight_mass; // (parts, E) f64: Σ of the kept choices' weights, (token, slot) order
    Tensor tokens_per_expert; // (parts, E) i32: choices before dropping
    Tensor dropped;           // (parts, E) i32: those of them that were dropped
    // (parts, E) i32: each token's first choice alone, of which f of the load is then taken; data
    // NULL: of tokens_per_expert
    Tensor first_choices;
} RouterSums;

// Chooses the K experts of every token and their gate weights; fills the first three of the sums.
// A token's probabilities P over all E are its scores over their sum: the softmax of its logits or,
// by SIGMOID, s / Σ s, taken as the softmax of log s so that they sum to 1 however small all s are.
// Choices are by logit; with a bias, whose data is not NULL, by score + bias, the score being s or,
// of rules of exponentials, P; SINKHORN has a bias of the logits for each part. Nothing else
// depends on the bias. With groups, choices are by score (+ bias) too, and a group's score is the
// sum of its router_group_choices largest.
// By a rule whose ids are given they stay as they are, in any order, and the chosen are weighed by
// their logits, so that gradients reach the router as ever. One that is not in [0, E) is no expert:
// its weight is 0, among the chosen it does not count, and it has no gradient.
//   logits (N, E)   bias (E), of SINKHORN (parts, E)
void router_forward(Device *dev, Routing routing, RouterSums sums, Tensor logits, Tensor bias,
                    RouterRule rule);
// Gradient of: the gate weights; the balance term Σ_e balance[p, e] · Σ_{t in p} P_te; the z-loss
// z_scale · Σ lse².
//   dlogits (N, E) overwritten   dweights (N, K)   logits (N, E)
//   balance (parts, E) f32: what multiplies P, constant (no gradient through f)
void router_backward(Device *dev, Tensor dlogits, Tensor dweights, Routing routing, Tensor logits,
                     RouterRule rule, Tensor balance, float z_scale);

// For each of `parts` equal runs of tokens the bias of the logits by which Sinkhorn and Knopp's
// iterations even out its experts' load: log d_e, from d = 1, `iterations` times
//   c_n = 1 / (rows · Σ_e d_e a_ne),  d_e = 1 / (E · Σ_n c_n a_ne)
// with a a row's exp(logits) over the largest of them, so that c_n a_ne d_e is a plan that gives
// each token, and in the end each expert, an equal share (Megatron-LM's sinkhorn; BASE,
// arXiv:2103.16716). Sums in f64.
//   bias (parts, E) f32   logits (N, E)   a (N, E) f32, c (N) f64: scratch
void sinkhorn_bias(Device *dev, Tensor bias, Tensor logits, Tensor a, Tensor c, int64_t iterations);
#define SINKHORN_LEAST 1e-30 // of Σ_n c_n a_ne, where all a of an expert are 0 in f32

// Numbers of a router that are drawn for each token.
typedef struct RouterNoise {
    RngStream stream;
    int64_t first_token; // global number of row 0
} RouterNoise;
// out = logits + ε · softplus(scale), ε standard normal: number (first_token + n) · E + e of the
// stream, numbers 4i to 4i + 3 by Box and Muller from its words at i.
//   out, logits, scale (N, E)
void router_noise_forward(Device *dev, Tensor out, Tensor logits, Tensor scale, RouterNoise noise);
// dscale = dlogits · ε · sigmoid(scale).
void router_noise_backward(Device *dev, Tensor dscale, Tensor dlogits, Tensor scale,
                           RouterNoise noise);
// out = x times a factor uniform in [1 - amount, 1 + amount), by number (first_token + n) · D + d,
// words as above (Switch, arXiv:2101.03961). Its own backward pass.
//   out, x (N, D) f32; out may be x
void router_jitter(Device *dev, Tensor out, Tensor x, float amount, RouterNoise noise);

// ---- experts that no score chooses --------------------------------------------------------------

// Every expert in turn: choice k of token t = first_token + n goes to expert (t·K + k) mod E.
//   ids (N, K) i32
void choose_in_turn(Device *dev, Tensor ids, int64_t E, int64_t first_token);
// Numbers what each of a token's H heads has chosen among E of its own through all H·E: expert e of
// head h is h·E + e.   out (N, H·K) i32   ids (N·H, K) i32
void choices_of_heads(Device *dev, Tensor out, Tensor ids, int64_t E);

enum { MOST_DRAWN = 64 }; // experts of a token at most
typedef struct ExpertDraw {
    int64_t experts; // E: drawn are experts 0 … E-1
    RngStream stream;
    int64_t first_token; // global number of row 0
} ExpertDraw;
// Draws a token's K experts one after another, each among those that are left with a probability in
// proportion to its weight: by integers, so that the same experts are drawn everywhere. Of the
// stream, choice k takes the number tokens[n]·K + k, so that equal tokens draw equal experts, or
// (first_token + n)·K + k where tokens have no data.
//   ids (N, K) i32, in the order drawn   tokens (N) i32
//   ends (E) i32: running sums of the weights, at least K of which are not 0; data NULL: each is 1
void choose_by_draw(Device *dev, Tensor ids, Tensor tokens, Tensor ends, ExpertDraw draw);

// ---- capacity -----------------------------------------------------------------------------------

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
// The same for the documents of sequences: a row whose position is 0 begins one, and so does a
// sequence; positions count on. An expert takes capacities[n] choices of a document of n rows.
//   positions (N) i32   capacities (T + 1) i32, with T the rows of a sequence
//   tokens_per_expert, dropped (sequences, E) i32 and order: scratch
void capacity_assign_documents(Device *dev, Tensor kept, Tensor tokens_per_expert, Tensor dropped,
                               Tensor ids, Tensor weights, Tensor positions, Tensor capacities,
                               CapacityRule rule, Tensor order);
// With zero-computation experts, which are those from E on: none of them is ever full, so their
// choices are kept; what travels is what is kept of the others.
//   kept (N, K) u8: read, and written   travels (N, K) u8   ids (N, K) i32
void keep_zero_choices(Device *dev, Tensor kept, Tensor travels, Tensor ids, int64_t E);
// What each part's tokens asked of each expert, for the balance loss and the utilization history:
// fills three of the sums. With kept_alone what was not kept was no choice: nothing has
// been dropped.
//   ids (N, K) i32   weights (N, K)   kept (N, K) u8
void expert_load(Device *dev, RouterSums sums, Tensor ids, Tensor weights, Tensor kept,
                 bool kept_alone);

// Where a training step adds it up: a row of `totals` for each of its rows' equal share of the
// parts.
typedef struct RouterTotals {
    Tensor totals;       // (S, columns) f64
    int64_t z, entropy;  // the column of each
    int64_t weight_mass; // first of E columns
    // i64: choices kept (E), and dropped (at most E: of the first experts, where others drop none)
    Tensor routed, dropped;
} RouterTotals;
// One load-balancing loss.
typedef struct LoadTerm {
    double coefficient; // α
    double choices;     // that a count is a share of: K times the tokens over which f is taken
    int64_t parts;      // neighbouring parts, from a multiple of it on, whose choices are counted
    int counts_row;     // of `counts`, which are taken instead; -1: none
    int64_t column;     // of its loss in the totals
} LoadTerm;
enum { LOAD_TERMS_MAX = 8 };
typedef struct BalanceRule {
    LoadTerm terms[LOAD_TERMS_MAX];
    int count;
    double per_step_token; // 1 / tokens of the step: turns sums into the means that enter the loss
} BalanceRule;
// Turns one MoE layer's sums into the balance coefficients and adds them to the totals. With count
// the choices of an expert that a term takes:
//   share[term, p, e] = E · per_step_token · count / choices;
//   balance (parts, E) f32 = Σ_term coefficient · share
//   totals += Σ_e share · prob_sum;  per_step_token · lse2_sum;  per_step_token · entropy_sum;
//     weight_mass
//   routed += tokens_per_expert - dropped;  dropped += dropped
//   counts (rows, E) i64; data NULL: no term takes them
void router_totals(Device *dev, RouterTotals to, Tensor balance, RouterSums sums, Tensor counts,
                   BalanceRule rule);
// out[e] = Σ_p x[p, e], or out[e] += that.   out (E) i64   x (parts, E) i32 or i64
void sum_columns(Device *dev, Tensor out, Tensor x, bool add);
// counts[e] += how many of the ids are e and kept; ids below 0 and from E on are none.
//   counts (E) i64   ids (n, K) i32   kept (n, K) u8; data NULL: all are
void count_ids(Device *dev, Tensor counts, Tensor ids, Tensor kept);
// counts[p, e] = how many tokens of part p have e as their first choice.
//   counts (parts, E) i32   ids (N, K) i32, K >= 1; one that is no expert counts nowhere
void count_first_choices(Device *dev, Tensor counts, Tensor ids);
// Adds up the mean squares of the logits of n tokens, in any order with the same bits: counts[0]
// += whole parts of squares / E, counts[1] += the rest in units of 2^-32, counts[2] += n. A mean
// square that is not a number is 0, one beyond 2^40 is that.
//   counts (3) i64   squares (n) f32, as of router_forward
void count_squares(Device *dev, Tensor counts, Tensor squares, int64_t E);
// The square root of the mean of what has been counted; 0 of nothing. On the host.
double root_mean_square(const int64_t *counts);

// A histogram of f32 numbers, in which their n-th largest is found to a 32nd of its power of two:
// QUANTILE_HALF bins of each sign, 32 of each power of two from 2^-16 to 2^4; what is smaller is in
// the bins beside 0, what is larger in those at the ends. Bin i is that of
//   x >= 0: QUANTILE_HALF + j   x < 0, NaN: QUANTILE_HALF - 1 - j
// with j the upper bits of |x| (its bits >> QUANTILE_SHIFT) from QUANTILE_LEAST on.
enum {
    QUANTILE_SHIFT = 18,
    QUANTILE_LEAST = (127 - 16) * 32,
    QUANTILE_HALF = 20 * 32,
    QUANTILE_BINS = 2 * QUANTILE_HALF,
};
// Where quantile balancing counts how far each token's score of an expert is above what would be
// enough to be chosen: with s the scores that a bias is added to (router_forward) and a_t the
// (K+1)-th largest of s_t + bias of token t,
//   counts[e, bin of s_te - a_t] += 1
//   counts (E, QUANTILE_BINS) i64   logits (N, E)   lse (N)   bias (E)   K < E
void quantile_counts(Device *dev, Tensor counts, Tensor logits, Tensor lse, Tensor bias, int64_t K,
                     RouterRule rule);
// The n-th largest (from 1) of the numbers that were counted, which lie evenly in their bin. On the
// host.   counts (QUANTILE_BINS)
double quantile_largest(const int64_t *counts, int64_t n);

// ---- slots --------------------------------------------------------------------------------------

// The two softmaxes of logits z of tokens and slots (Soft MoE, arXiv:2308.00951): what a slot takes
// of each of the T tokens of its sequence, and what a token takes of each slot. A row's share in
// the first depends on all of its sequence.
//   dispatch, combine, logits (N, S); N a multiple of T
void slot_weights_forward(Device *dev, Tensor dispatch, Tensor combine, Tensor logits, int64_t T);
// dlogits, overwritten, from the gradients of both.   all (N, S)
void slot_weights_backward(Device *dev, Tensor dlogits, Tensor ddispatch, Tensor dcombine,
                           Tensor dispatch, Tensor combine, int64_t T);
// Adds up what tokens take of each expert's slots, e, e + E, e + 2E, …, in whole units, so that it
// is the same in any order of tokens: counts[e] += Σ_n round(SLOT_WEIGHT_UNITS · their sum), each
// token's in f32 and in the order of slots. One that is not a number is 0.
//   counts (E) i64   weights (n, S) f32 in [0, 1], as `combine`; S a multiple of E
void count_slot_weights(Device *dev, Tensor counts, Tensor weights);
enum { SLOT_WEIGHT_UNITS = 1 << 20 };

// ---- permutation --------------------------------------------------------------------------------

// Orders the kept choices by (place of the expert, part, token, slot): the order in which they
// travel.
//   ids (N, K) i32: in [0, E) where kept, any elsewhere   kept (N, K) u8
//   places (E) i32: of the experts, each of [0, E) once: they are dealt to ranks by place
//   slot_row (N, K) i32: row of the choice in that order, or -1 when dropped
//   row_choice (N·K) i32, or less where fewer can be kept: for each row its choice n·K + k; rows
//     past the last are -1
//   counts (E, parts) i32: kept choices of the expert at each place from each of `parts` equal runs
//     of tokens
// With padded_rows < 0 rows follow each other without gaps. With padded_rows ≥ 0 every (expert,
// part) has exactly `padded_rows` rows, the first ones used, and row_choice is
// (E·parts·padded_rows): sizes that nobody has to wait for. No (expert, part) may keep more than
// that.
void permutation_plan(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts, Tensor ids,
                      Tensor kept, Tensor places, int64_t parts, int64_t padded_rows);

// A group of ranks that share E experts, e of them on this one, and G shards, S of them this one's.
// Experts are numbered by their places.
typedef struct ExchangeCut {
    int64_t ranks, rank;
    Deal experts, shards;
} ExchangeCut;

// Who sends how much to whom in the all-to-all of such a group, and in which order received rows
// serve the experts. Sent rows are ordered (expert, shard, …). They travel in `chunks` exchanges:
// the c-th carries the c-th run of every rank's experts (chunks divides those of each), so that a
// rank can compute one while the next is on its way. Received rows are ordered (chunk, source rank,
// expert, shard, …), expert rows (expert, source rank, shard, …).
typedef struct ExchangePlan {
    Tensor offsets; // (e · parts + 1) i64: expert rows of each expert and gradient part (Segments)
    Tensor send_rows;    // (chunks, ranks) i64
    Tensor receive_rows; // (chunks, ranks) i64
    Tensor to_expert;    // (R) i32: received row of each expert row; R as many as there may be
    Tensor to_received;  // (R) i32: expert row of each received row; rows past the last: -1 in both
} ExchangePlan;
//   counts (E, S) i32: what this rank sends
//   all_counts (e · G) i32: what each rank sends to this one, (e, S of that rank) from each
// parts divides G. Rows past R are counted in offsets and receive_rows but not entered: the caller
// must check.
void exchange_plan(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts,
                   ExchangeCut cut, int64_t parts);

// Numbers of expert rows that are the same on whatever ranks they are: the i-th row that expert e
// of this rank has of the j-th shard of the group, by source rank and shard, is number
//   (experts[first_place + e] · shards + first_shard + j) · most + i.
typedef struct RowNumbering {
    int64_t first_shard, shards; // of the group, among all; all
    int64_t most;                // rows at most of an expert and a shard
} RowNumbering;
//   numbers (R) i64: rows past the last are left alone   offsets, all_counts: see above
//   experts (E) i32: by place
void expert_row_numbers(Device *dev, Tensor numbers, Tensor offsets, Tensor all_counts,
                        Tensor experts, ExchangeCut cut, RowNumbering rule);

// A tensor of which rows that an op does not ask for may still be on their way from other ranks.
typedef Tensor Arriving;
// out[r] = x[index[r] / divisor] for r < rows, zeros where index[r] < 0.
//   out (≥rows, D) T   x (·, D) T   index (≥rows) i32
// divisor = K gathers tokens by choice, 1 gathers rows.
void gather_rows(Device *dev, Tensor out, Arriving x, Tensor index, int64_t rows, int64_t divisor);
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
// Zero-computation experts that return their input: those from E on. With w_n a token's weights of
// them, added in slot order, out[n] += w_n · x[n]; a token without any is left alone.
//   out, x (N, D) T   ids (N, K) i32   weights (N, K)
void identity_experts_forward(Device *dev, Tensor out, Tensor x, Tensor ids, Tensor weights,
                              int64_t E);
// dx[n] += w_n · dout[n]; dweights[n,k] = dout[n] · x[n] where ids[n,k] >= E, left alone elsewhere.
//   dx, dout, x (N, D) T, none of them another   dweights, weights (N, K)
void identity_experts_backward(Device *dev, Tensor dx, Tensor dweights, Tensor dout, Tensor x,
                               Tensor ids, Tensor weights, int64_t E);
// Divides each token's surviving weights by their sum (renormalize_after_drop); tokens that lost
// all keep 0.
//   scaled (N, K) out   weights (N, K)   kept (N, K) u8
void renormalize_forward(Device *dev, Tensor scaled, Tensor weights, Tensor kept);
// dweights from dscaled, in place: dscaled becomes dweights (zero for dropped choices).
void renormalize_backward(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights, Tensor kept);

#ifdef __cplusplus
}
#endif

#endif
