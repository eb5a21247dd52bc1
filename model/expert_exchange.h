// Rows through the experts of all ranks of a group: they are dispatched, its experts work on
// what has arrived, and what they make returns. While a chunk is computed, the next one is being
// dispatched and the one before combined; the layer's own work is done while the first one is on
// its way.
#ifndef MOETRAIN_MODEL_EXPERT_EXCHANGE_H
#define MOETRAIN_MODEL_EXPERT_EXCHANGE_H

#include "model/dispatch.h"

// What the experts of a rank do with a chunk of their rows.   x, dx (R, in)   out, dout (R, out)
typedef struct ExpertRule {
    // x must stay until the backward pass.
    void (*forward)(void *experts, Work *work, Tensor out, Tensor x, ExpertChunk chunk);
    // dx overwritten, and may be x itself; dout destroyed.
    void (*backward)(void *experts, Work *work, Tensor dx, Tensor dout, Tensor x,
                     ExpertChunk chunk);
} ExpertRule;

// What travels, and who works on it: the caller's, and the layer's as long as it lives. Several
// exchanges may have one plan.
typedef struct ExpertTraffic {
    Dispatch *plan;
    const ExpertRule *rule;
    void *experts;
    int64_t in, out; // widths of the rows that experts take and make
    // In digests: what experts have been sent, and what has come back; likewise of gradients, which
    // travel the other way.
    const char *dispatched, *returned;
} ExpertTraffic;

// R rows an expert rank receives, M rows that it sends.
typedef struct ExpertExchange {
    ExpertTraffic of;
    Tensor expert_in; // (R, in) stored: expert rows; becomes its own gradient
    Tensor sent_out;  // (M, out) stored: expert outputs in send order; becomes its own gradient
    // scratch; with one rank in the group expert_in and sent_out themselves, or none
    Tensor sent_in;                   // (M, in) stored: rows that leave; their gradient
    Tensor expert_out;                // (R, out) stored
    Tensor received_in, received_out; // (R, in), (R, out) stored; one, where these are equal
} ExpertExchange;

// What is done meanwhile, with this rank's tokens or their gradients; NULL: nothing.
typedef struct Beside {
    void (*run)(void *context, Work *work, Tensor tokens);
    void *context;
    Tensor tokens;
} Beside;

// The plan is laid out before; experts by the caller, these last, since their scratch is free
// between the passes; who holds the mark of the other.
void expert_exchange_layout(ExpertExchange *exchange, ExpertTraffic of, Work *work,
                            Arena *activations);
void expert_exchange_layout_scratch(ExpertExchange *exchange, Work *work, Arena *scratch);
// Bytes that this rank sends in a step's dispatches and combines, added to sent_bytes by their
// kind.
void expert_exchange_cost(const ExpertExchange *exchange, const Work *work,
                          double sent_bytes[TRAFFIC_KINDS]);

// After dispatch_plan: from rows x (dispatch_gather) to sent_out. Collective over expert_parallel.
void expert_exchange_forward(ExpertExchange *exchange, Work *work, Tensor x, Beside beside);
// From the gradient of sent_out, in sent_out: that of the sent rows, which is returned. Collective
// likewise.
Tensor expert_exchange_backward(ExpertExchange *exchange, Work *work, Beside beside);

#endif
