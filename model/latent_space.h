// A narrower space in which a layer's experts work (LatentMoE, arXiv:2601.18089; Nemotron 3):
//   out = (Σ_k w_k · expert_k(x W_downᵀ)) W_upᵀ
// What travels to the experts and back is L wide instead of D, and so are their matrices. The
// router and shared experts see x.
#ifndef MOETRAIN_MODEL_LATENT_SPACE_H
#define MOETRAIN_MODEL_LATENT_SPACE_H

#include "model/layer_kind.h"
#include "model/linear.h"

typedef struct LatentSpace {
    int64_t width;   // L; 0: there is none, experts see x itself
    Linear down, up; // weights (L, D) and (D, L)
    Tensor x;        // (N, D) stored input, borrowed
    Tensor z;        // (N, L) stored: x W_downᵀ
    Tensor sum;      // (N, L) stored: what a token's experts have made
    Tensor dz, dsum; // (N, L) stored, scratch
} LatentSpace;

void latent_space_declare(LatentSpace *space, Work *work, MoeShape shape);
// The caller holds the mark of its scratch.
void latent_space_layout(LatentSpace *space, Work *work, Arena *activations, Arena *scratch);
void latent_space_bound(const ModelConfig *config, MoeShape shape, LayerBound *bound);
void latent_space_cost(const LatentSpace *space, const Work *work, LayerCost *cost);

// Each function does nothing where there is no space, and what is in it is then what is outside.
// What experts see of x.
Tensor latent_space_enter(LatentSpace *space, Work *work, Tensor x);
// Where what they make of each token is added up, to become `out`; and it does.
Tensor latent_space_sum(const LatentSpace *space, Tensor out);
void latent_space_leave(LatentSpace *space, Work *work, Tensor out);
// Backward: the gradient of that sum; where that of what experts see is to go, to become dx; and it
// does.
Tensor latent_space_leave_backward(LatentSpace *space, Work *work, Tensor dout);
Tensor latent_space_gradient(const LatentSpace *space, Tensor dx);
void latent_space_enter_backward(LatentSpace *space, Work *work, Tensor dx);

#endif
