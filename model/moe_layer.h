// A Mixture-of-Experts feed-forward: out[n] = Σ_k w[n,k] · expert_{ids[n,k]}(x[n]) over the choices
// that were kept, in slot order (Shazeer et al. arXiv:1701.06538; GShard arXiv:2006.16668). Choices
// dropped for capacity add nothing. Shared experts, where there are any, add to it or are mixed
// with it, and zero-computation experts add to it. In a latent space (latent_space.h) experts see a
// narrower x, and the sum returns from there.
#ifndef MOETRAIN_MODEL_MOE_LAYER_H
#define MOETRAIN_MODEL_MOE_LAYER_H

#include "model/experts.h"
#include "model/latent_space.h"
#include "model/layer_kind.h"
#include "model/router.h"
#include "model/shared_experts.h"

// Its state, open to tests.
typedef struct MoeLayer {
    MoeShape shape;
    Router router;
    ExpertPlaces *places;
    Dispatch plan;
    Experts experts;
    ExpertExchange routed;
    SharedExperts shared;
    LatentSpace latent;
    Tensor seen;     // (N, W) stored, borrowed: what experts see of each token; W = shape.width
    Tensor dweights; // (N, K) scratch
} MoeLayer;

// Forward and backward are collective over expert_parallel; forward also over world, where
// a balance term's scope is batch or step, and after_step where moe.bias_update is quantile.
extern const LayerKind MOE_FEED_FORWARD;

#endif
