// What a model is trained for (train.objective), from the logits to the loss that is minimised.
// Whatever the objective, the loss is a mean over the targets of the global batch, and nothing is
// divided by a number of ranks anywhere: gradients of ranks are summed.
//
// A new objective is a word in model_config.h and a row in loss.c.
#ifndef MOETRAIN_MODEL_LOSS_H
#define MOETRAIN_MODEL_LOSS_H

#include "kernels/choice.h"
#include "model/statistics.h"

typedef struct Loss {
    Tensor logits;      // (N, V) stored; becomes its own gradient
    Tensor losses;      // (N) nats
    Tensor host_losses; // the host's mirror, where nothing is trained
} Loss;

typedef struct Objective {
    Choice choice;
    void (*layout)(Loss *loss, Work *work, Arena *activations);
    // From loss->logits: adds each shard's share of the step's mean loss to the statistics, and
    // turns the logits into their gradient.   targets (N) i32, as the data loader makes them
    void (*train)(Loss *loss, Work *work, Statistics *stats, Tensor targets);
    // From loss->logits: every token's loss, on the host (N). Logits are used up.
    const float *(*evaluate)(Loss *loss, Work *work, Tensor targets);
} Objective;

extern const Objective OBJECTIVES[]; // by ObjectiveKind
extern const ChoiceTable OBJECTIVE_CHOICES;

static inline const Objective *objective_of(const Work *work) {
    return &OBJECTIVES[work->config->objective];
}

#endif
