// Gates of the experts of each head, which do not compete (SwitchHead, arXiv:2312.07987):
//   s = σ(x W_hᵀ) of the E experts of each of H heads; of a head the k largest count, each weighed
//   by its own s
// Expert e of head h is number h·E + e of all.
#ifndef MOETRAIN_MODEL_HEAD_GATE_H
#define MOETRAIN_MODEL_HEAD_GATE_H

#include "model/head_balance.h"

typedef struct HeadGate {
    RouterPlace place;
    int64_t H, E, k;
    int weight;     // parameter (H·E, D)
    int routed;     // the counts (H·E) of choices, by their first place
    Tensor logits;  // (N·H, E)
    Tensor chosen;  // (N·H, k) i32: of a head's experts
    Tensor ids;     // (N, H·k) i32: of all
    Tensor weights; // (N·H, k)
    Tensor lse;     // (N·H)
    HeadBalance balance;
    struct {
        RouterSums sums;
        Tensor x_f32, dx;        // (N, D) f32
        Tensor dlogits, nothing; // (N·H, E), (1, E) of zeros
    } scratch;
} HeadGate;

void head_gate_declare(HeadGate *gate, RouterPlace place, Work *work);
void head_gate_layout(HeadGate *gate, Work *work, Statistics *stats, int64_t layer,
                      Arena *activations);
// Free between the two calls below.
void head_gate_layout_scratch(HeadGate *gate, Work *work, Arena *scratch);
// Fills ids and weights and counts the choices; adds to the statistics. Collective over world when
// a term of moe.balance is of importance and its scope is batch.   x (N, D) stored
void head_gate_route(HeadGate *gate, Work *work, Statistics *stats, Tensor x);
// dx (N, D) stored += the gradient through the weights, also of importance.
//   dweights (N·H, k), destroyed
void head_gate_backward(HeadGate *gate, Work *work, Tensor dx, Tensor dweights, Tensor x);

#endif
