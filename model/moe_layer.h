// A Mixture-of-Experts feed-forward: out[n] = Σ_k w[n,k] · expert_{ids[n,k]}(x[n]) over the choices
// that were kept, in slot order (Shazeer et al. arXiv:1701.06538; GShard arXiv:2006.16668). Choices
// dropped for capacity add nothing.
#ifndef MOETRAIN_MODEL_MOE_LAYER_H
#define MOETRAIN_MODEL_MOE_LAYER_H

#include "model/dispatch.h"
#include "model/experts.h"
#include "model/router.h"

typedef struct MoeLayer {
    Router router;
    Dispatch dispatch;
    Experts experts;
    Tensor expert_in;  // (R, D) stored: expert rows; becomes its own gradient
    Tensor sent_out;   // (M, D) stored: expert outputs in send order; becomes its own gradient
    Tensor expert_out; // (R, D) stored, scratch; sent_out itself when the group has one rank
    Tensor dweights;   // (N, K) scratch
} MoeLayer;

void moe_layer_declare(MoeLayer *moe, Work *work, int64_t layer);
void moe_layer_layout(MoeLayer *moe, Work *work, Arena *activations, Arena *scratch);
void moe_layer_report(MoeLayer *moe, Statistics *stats);
//   out, x (N, D) stored; x must stay until the backward pass. Collective over expert_parallel (and
//     world, see router_choose).
void moe_layer_forward(MoeLayer *moe, Work *work, Statistics *stats, Tensor out, Tensor x);
//   dx, dout (N, D) stored; dx overwritten. Collective over expert_parallel.
void moe_layer_backward(MoeLayer *moe, Work *work, Tensor dx, Tensor dout);

#endif
