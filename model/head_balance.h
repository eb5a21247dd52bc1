// Importance of the experts of heads (Shazeer et al. 2017, arXiv:1701.06538): the terms of
// moe.balance whose kind that is. With V_h,e the sum of the gate weights with which the tokens of a
// scope have chosen expert e of head h, each adds
//   factor · the mean over heads and scopes of CV²(V_h), variance over squared mean
// for values and outputs each. Other kinds have no meaning here: gates do not compete, so that
// there are no probabilities, and they have no noise. An expert that no token of the scope has
// chosen gets no gradient, but its rivals' weights fall.
#ifndef MOETRAIN_MODEL_HEAD_BALANCE_H
#define MOETRAIN_MODEL_HEAD_BALANCE_H

#include "model/router_names.h"
#include "model/statistics.h"

// Of one projection; by scope, those without a term empty.
enum { HEAD_BALANCE_SCOPES = BALANCE_BATCH + 1 };
typedef struct HeadBalance {
    int64_t H, E;                       // experts of a head
    int columns[HEAD_BALANCE_SCOPES];   // of the statistics: "value_importance_shard"
    Tensor slopes[HEAD_BALANCE_SCOPES]; // (parts, H·E) f32: of a gate weight of each part
    Tensor sums;                        // (parts, H·E) i64 scratch
} HeadBalance;

// The column of the statistics that has a term, and the figure in metrics.jsonl, its mean over the
// layers; NULL: heads have no such one. Borrowed.
const char *head_balance_column(RouterPlace place, BalanceTerm term);
// Asks for columns of the statistics and takes `slopes` from the activations.
void head_balance_layout(HeadBalance *balance, RouterPlace place, Work *work, Statistics *stats,
                         int64_t layer, Arena *activations);
// Free between the two calls below.
void head_balance_layout_scratch(HeadBalance *balance, const Work *work, Arena *scratch);
// Adds the terms of a micro-batch to the statistics and makes `slopes`. Collective over world when
// a term's scope is batch.   ids (N, H·k) i32 of all experts   weights (N, H·k)
void head_balance_add(const HeadBalance *balance, Work *work, Statistics *stats, Tensor ids,
                      Tensor weights);
// dweights (N, H·k) += the gradient.
void head_balance_backward(const HeadBalance *balance, Work *work, Tensor dweights, Tensor ids);
// Bytes that it sends for a micro-batch, for the plan.
double head_balance_sent_bytes(const HeadBalance *balance, const Work *work);

#endif
