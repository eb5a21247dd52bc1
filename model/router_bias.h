// The bias b that is added to an expert's score when experts are chosen, nowhere else, and evens
// out their load without a loss. After a step, with c the choices of the step before dropping:
//   sign          b_i += u sign(mean c - c_i)            (DeepSeek-V3, arXiv:2412.19437)
//   proportional  b_i += u (mean c - c_i) / mean c       (arXiv:2408.15664 has this without the
//                 division: u means the same for every batch)
// and then b -= mean(b). And, with s the scores and b = -beta,
//   quantile      beta_i = ema beta_i + (1 - ema) q_i, where q_i is the (N K/E + 1)-th largest over
//                 the step's N tokens of s_ti - a_t, and a_t the (K+1)-th largest of s_t - beta
//                 (Marin; Megatron's qb_dual_update): under this beta expert i would have been
//                 chosen by N K/E tokens, had the others stayed. Order statistics are exact in
//                 any order; here they come from a histogram (quantile_counts), whose counts are
//                 added up over micro-batches and ranks: the same bits on any of them.
// u, and 1 - ema, fall to 0 as moe.bias_steps and moe.bias_decay_steps say.
#ifndef MOETRAIN_MODEL_ROUTER_BIAS_H
#define MOETRAIN_MODEL_ROUTER_BIAS_H

#include "model/router.h"

void router_declare_bias(Router *router, Work *work);
// Takes what a rule keeps during a step.
void router_layout_bias(Router *router, Work *work, Arena *activations);
// The bias (E); data NULL: none. Not collective.
Tensor router_bias(const Router *router, const Work *work);
// Looks at a micro-batch's scores, while training. Not collective.
void router_watch_scores(Router *router, Work *work);
// Moves the bias by the step's load of all ranks: the same bits on every rank. Collective over
// world for quantile.
void router_after_step(Router *router, Work *work, const Statistics *stats);
// Bytes that a rank sends for it in a step.
double router_bias_sent_bytes(const Router *router, const Work *work);

#endif
