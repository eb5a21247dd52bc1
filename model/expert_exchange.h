// Rows through the experts of all ranks of a group: they are dispatched, its experts work on
// what has arrived, and what they make returns. While a chunk is computed, the next one is being
// dispatched and the one before combined; the layer's own work is done while the first one is on
// its way.
#ifndef MOETRAIN_MODEL_EXPERT_EXCHANGE_H
#define MOETRAIN_MODEL_EXPERT_EXCHANGE_H

#include "model/dispatch.h"
#include "model/experts.h"

// R rows an expert rank receives, M rows that it sends, W their width.
typedef struct ExpertExchange {
    Dispatch dispatch;
    Experts experts;
    Tensor expert_in;  // (R, W) stored: expert rows; becomes its own gradient
    Tensor sent_out;   // (M, W) stored: expert outputs in send order; becomes its own gradient
    Tensor expert_out; // (R, W) stored, scratch; sent_out itself when the group has one rank
} ExpertExchange;

// What is done meanwhile, with this rank's tokens or their gradients; NULL: nothing.
typedef struct Beside {
    void (*run)(void *context, Work *work, Tensor tokens);
    void *context;
    Tensor tokens;
} Beside;

// The experts are declared and laid out by the caller, these last, since their scratch is free
// between the passes; who holds the mark of the other.
void expert_exchange_layout(ExpertExchange *exchange, DispatchShape shape, Work *work,
                            Arena *activations);
void expert_exchange_layout_scratch(ExpertExchange *exchange, Work *work, Arena *scratch);
// Bytes that this rank sends in each of a step's dispatches, forward and backward together, and
// combines.
double expert_exchange_sent_bytes(const ExpertExchange *exchange, const Work *work);

// After dispatch_plan and dispatch_gather: sent_out. Collective over expert_parallel.
void expert_exchange_forward(ExpertExchange *exchange, Work *work, Beside beside);
// From the gradient of sent_out, in sent_out: that of the sent rows, which is returned. Collective
// likewise.
Tensor expert_exchange_backward(ExpertExchange *exchange, Work *work, Beside beside);

#endif
