// Zero-computation experts (MoE++, arXiv:2410.07348; LongCat-Flash, arXiv:2509.01322): beside the E
// experts of a layer a token may choose among Z that compute nothing, with numbers from E on. The
// router scores them like the others, so that it learns how much work a token is worth: 0 to K
// experts of it. Nothing travels for them.
//   identity   expert(x) = x: out[n] += Σ_{k: ids[n,k] >= E} w[n,k] · x[n] (MoE++'s copy expert)
//   null       expert(x) = 0 (MoE++'s zero expert); with renormalize_after_drop the weights of the
//              others sum to 1
// Balance losses, the bias of the choice and z-loss act on all E + Z; capacity on the E alone, over
// the load that each of the E + Z has when all are chosen equally often.
#ifndef MOETRAIN_MODEL_ZERO_EXPERTS_H
#define MOETRAIN_MODEL_ZERO_EXPERTS_H

#include "model/router.h"

#define ZERO_COLUMN "zero" // the counts of the choices of each

// Adds their share of the tokens x, as experts see them, to `out`. Not collective.
//   out, x (N, D) stored
void zero_experts_forward(const Router *router, Work *work, Tensor out, Tensor x);
// Adds it to dx, and fills its places of dweights (N, K), where 0 stands.
//   dx, dout, x (N, D) stored, dx none of the others
void zero_experts_backward(const Router *router, Work *work, Tensor dx, Tensor dweights,
                           Tensor dout, Tensor x);

// A layer's choices of them, in the totals of a step or an evaluation; 0 where it has none.
int64_t zero_choices(const Statistics *stats, int64_t layer);
// Has "zero_share" told: their share of all choices, over all layers.
void zero_experts_summarize(Statistics *stats);
// Multiply-adds, counted as two, of the forward pass that the step's choices of them have spared
// beside as many choices of experts.
double zero_experts_spared_flops(const ModelConfig *config, const Statistics *stats);

#endif
