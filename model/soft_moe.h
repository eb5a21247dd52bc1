// Soft MoE (Puigcerver et al., arXiv:2308.00951): instead of tokens that choose experts, each of E
// experts has P slots, and a slot is a convex mixture of all tokens of a sequence. With S = E·P and
// the logits Z = X Φᵀ of T tokens and S slots:
//   X̃ = D(Z)ᵀ X, D the softmax over tokens;  Ỹ_s = expert_{s mod E}(X̃_s)
//   Y = C(Z) Ỹ, C the softmax over slots
// Nothing is chosen or dropped, every expert has the same number of rows, and slots travel instead
// of tokens. A token's output depends on all tokens of its sequence, also on later ones.
//
// How much an expert is used is what tokens take of its slots, Σ C over tokens: the counts
// "combine_mass", SLOT_WEIGHT_UNITS a token (kernels/routing_ops.h). How much slots pick among
// tokens is "slot_concentration", the mean over sequences and slots of Σ D² over tokens: 1/T where
// slots are plain means of their sequence, 1 where they are single tokens; its inverse is the
// number of tokens that, evenly weighed, would be as concentrated.
#ifndef MOETRAIN_MODEL_SOFT_MOE_H
#define MOETRAIN_MODEL_SOFT_MOE_H

#include "model/experts.h"
#include "model/layer_kind.h"

typedef struct SoftMoeLayer {
    MoeShape shape;
    int64_t layer, slots; // S of a sequence
    int mass;             // the counts (E), by their first place
    int concentration;    // its column
    Linear phi;           // weight (S, D)
    ExpertPlaces *places;
    Dispatch plan; // of B·S slots
    Experts experts;
    ExpertExchange routed;
    Tensor x;                               // (N, D) stored input, borrowed
    Tensor dispatch, combine;               // (N, S) f32: D and C
    Tensor dispatch_stored, combine_stored; // as matrix products read them
    Tensor slots_out;                       // (B·S, D) stored: Ỹ
    // Constant: who works on each slot, (B·S, 1), and rows of each sequence (B + 1) i64.
    Tensor ids, kept, host_kept, offsets, host_offsets;
    int64_t prepared_for; // work->memory_uses; -1: never
    struct {
        Tensor logits;              // (N, S); their gradient
        Tensor logits_stored;       // that as matrix products read it
        Tensor ddispatch, dcombine; // (N, S)
        Tensor wide;                // (B, S, D) f32: sums over tokens
        Tensor slots;               // (B·S, D) stored: X̃, and gradients
        Tensor dx;                  // (N, D) stored
    } scratch;
} SoftMoeLayer;

// Forward and backward are collective over expert_parallel.
extern const LayerKind SOFT_MOE_FEED_FORWARD;

#endif
