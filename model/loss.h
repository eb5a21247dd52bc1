// Cross-entropy over the vocabulary, averaged over all target tokens of the global batch. Nothing
// is divided by a number of ranks anywhere: gradients of ranks are summed.
#ifndef MOETRAIN_MODEL_LOSS_H
#define MOETRAIN_MODEL_LOSS_H

#include "model/statistics.h"

typedef struct Loss {
    Tensor logits;      // (N, V) stored; becomes its own gradient
    Tensor losses;      // (N) nats
    Tensor host_losses; // the host's mirror, where nothing is trained
} Loss;

void loss_layout(Loss *loss, Work *work, Arena *activations);
// From loss->logits: adds each shard's share of the step's mean loss to the statistics. While
// training logits become their gradient. targets (N) i32
void loss_forward_backward(Loss *loss, Work *work, Statistics *stats, Tensor targets);
// From loss->logits: every token's loss, on the host (N). Logits are used up.
const float *loss_of_tokens(Loss *loss, Work *work, Tensor targets);

#endif
