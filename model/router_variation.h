// Balance losses that are the squared coefficient of variation CV² of a sum over tokens, variance
// over squared mean over the experts (Shazeer et al. 2017, arXiv:1701.06538): of their gate weights
// (importance), and of the probabilities that noise drawn anew would choose them (noisy load,
// appendix A). Other than the share f of the load they have a gradient through the sum itself, so
// that the scope must be known when the backward pass begins: sequence, shard or batch. Whole
// numbers are summed (balance_ops.h), in any order.
#ifndef MOETRAIN_MODEL_ROUTER_VARIATION_H
#define MOETRAIN_MODEL_ROUTER_VARIATION_H

#include "model/router.h"

// Takes `slopes` from the activations, for the kinds that have terms. Not collective.
void router_layout_variations(Router *router, const Work *work, Arena *activations, Arena *scratch);
// Adds the terms of a micro-batch to the statistics, and makes `slopes`. Collective over world when
// a term's scope is batch.
void router_add_variations(Router *router, Work *work, Statistics *stats);
// dweights (N, K) += the gradient of importance. Not collective.
void router_importance_backward(const Router *router, Work *work, Tensor dweights);
// dlogits, dscale (N, E) += the gradient of noisy load by the raw logits and by the noise's scale.
// Not collective.
void router_noisy_load_backward(const Router *router, Work *work, Tensor dlogits, Tensor dscale);

#endif
