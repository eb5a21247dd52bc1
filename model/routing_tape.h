// The experts that the tokens of a step have chosen, on the way to a file or from one: worker/ owns
// the tape and moves it between steps; layers write to it or obey it while they train, and write to
// it while they are evaluated.
#ifndef MOETRAIN_MODEL_ROUTING_TAPE_H
#define MOETRAIN_MODEL_ROUTING_TAPE_H

#include "model/model_config.h"

typedef struct Work Work;

typedef struct RoutingTape {
    bool gives; // its experts are chosen; otherwise it takes down what is chosen
    // Of each layer of the model, on the host: (micro-batches · N, K) i32, this rank's tokens of
    // the step's micro-batches one after another. Without data: a layer without experts.
    Tensor *layers;
    // After a pass of an evaluation over `tokens` tokens of the file. NULL: nothing.
    void (*passed)(void *context, int64_t tokens);
    void *context;
} RoutingTape;

// A tape that takes what layers with experts choose, over at most `rows` tokens of a pass, with its
// own memory; the work needs to be given it. Not collective.
void routing_tape_open(RoutingTape *tape, const ModelConfig *config, int64_t rows);
void routing_tape_close(RoutingTape *tape, const ModelConfig *config); // legal on a zeroed one

// Takes the ids (N, K) down, if there is a tape that takes. Waits for the device then. Not
// collective.
void routing_tape_take(Work *work, int64_t layer, Tensor ids);

#endif
