// This rank's experts: for each expert e, y = act(x W₁[e]ᵀ + b₁[e]) W₂[e]ᵀ + b₂[e] over the rows
// that were routed to it, as one grouped matrix product over all of them (MegaBlocks,
// arXiv:2211.15841, without padding). The biases b are optional. While training, moe.dropout drops
// act(…) or y.
#ifndef MOETRAIN_MODEL_EXPERTS_H
#define MOETRAIN_MODEL_EXPERTS_H

#include "model/expert_exchange.h"
#include "model/expert_linear.h"

typedef struct Experts {
    int64_t d_ff;         // F
    Linear gate_up, down; // weights (E, 2F or F, D) and (E, D, F), of D = MoeShape.width
    Tensor hidden;        // (R, 2F or F) stored, before the activation; becomes its own gradient

    int64_t layer;  // of the model: the stream of its dropout
    Tensor numbers; // (R) i64 of rows; with dropout alone

    // scratch
    Tensor activated;  // (R, F), recomputed in the backward pass
    Tensor dactivated; // (R, F)
} Experts;

void experts_declare(Experts *experts, MoeShape shape, const ExpertPlaces *places, Work *work,
                     int64_t layer);
// Of one expert's forward pass over one row.
double experts_flops(const ModelConfig *config, MoeShape shape);
void experts_layout(Experts *experts, Work *work, int64_t max_rows, Arena *activations,
                    Arena *scratch);
// After dispatch_plan: numbers the rows for dropout, the same on any ranks. Not collective.
void experts_number_rows(Experts *experts, Work *work, const Dispatch *dispatch);
// Of an exchange whose `experts` is Experts.
extern const ExpertRule FEED_FORWARD_EXPERTS;

#endif
