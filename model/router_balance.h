// What keeps experts evenly loaded by a loss, and what is told of their load: the load-balancing
// losses and the router's statistics (router.h has their formulas). Not collective, where nothing
// else is said.
#ifndef MOETRAIN_MODEL_ROUTER_BALANCE_H
#define MOETRAIN_MODEL_ROUTER_BALANCE_H

#include "model/router.h"

// ---- statistics and balance loss ----------------------------------------------------------------

// The column of the statistics that has term i: "balance", or another's name; of mixers
// "attention_balance", and from the second on with its number behind. Borrowed.
const char *router_balance_column(RouterPlace place, const BalanceTerms *terms, int64_t i);
// Asks for its columns of the statistics, and for what is told of them.
void router_report(Router *router, const Work *work, Statistics *stats);
// Takes `balance` from the activations, and from the scratch what is summed over tokens.
void router_layout_sums(Router *router, Work *work, Arena *activations, Arena *scratch);
// Adds a micro-batch's sums to the statistics, and makes `balance` of them, which the backward pass
// multiplies with P. Collective over world when a term's scope is batch or step.
void router_add_statistics(Router *router, Work *work, Statistics *stats);
// What the backward pass multiplies P with: (parts, E), or of each row (N, E).
Tensor router_balance_coefficients(const Router *router, const Work *work);
// Bytes that it sends for a micro-batch, for the plan.
double router_balance_sent_bytes(const Router *router, const Work *work);
// Evaluation, which has no statistics but these: adds the micro-batch's choices, dropped ones too,
// to "routed", so that router_health.h has its figures. Of experts that choose, the tokens that
// they took.
void router_count_evaluation(const Router *router, Work *work, Statistics *stats);

#endif
