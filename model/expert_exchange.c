#include "model/expert_exchange.h"

void expert_exchange_layout(ExpertExchange *e, DispatchShape shape, Work *work,
                            Arena *activations) {
    dispatch_layout(&e->dispatch, shape, work, activations);
    e->expert_in = arena_2d(activations, work->storage, e->dispatch.max_rows, shape.width);
    e->sent_out = arena_2d(activations, work->storage, e->dispatch.max_sent, shape.width);
}

void expert_exchange_layout_scratch(ExpertExchange *e, Work *work, Arena *scratch) {
    dispatch_layout_scratch(&e->dispatch, work, scratch);
    e->expert_out = e->sent_out;
    if (work->shape.ep_size > 1)
        e->expert_out =
            arena_2d(scratch, work->storage, e->dispatch.max_rows, e->dispatch.shape.width);
}

double expert_exchange_sent_bytes(const ExpertExchange *e, const Work *work) {
    int64_t ep = work->shape.ep_size;
    double away = (double)e->dispatch.max_sent * (double)(ep - 1) / (double)ep; // leave the rank
    return 2 * (double)work->shape.micro_batches * away * (double)e->dispatch.shape.width *
           (double)dtype_bytes(work->storage);
}

static void run(Beside beside, Work *work) {
    if (beside.run) beside.run(beside.context, work, beside.tokens);
}

static void chunk_forward(ExpertExchange *e, Work *work, ExpertChunk chunk) {
    experts_forward(&e->experts, work, e->expert_out, e->expert_in, chunk);
}
static void chunk_backward(ExpertExchange *e, Work *work, ExpertChunk chunk) {
    experts_backward(&e->experts, work, e->expert_in, e->expert_out, e->expert_in, chunk);
}

// How rows go through the experts. Backward, what is dispatched are gradients of outputs, whose way
// is that of combine, and what is combined are gradients of inputs.
typedef enum Pass { FORWARD, BACKWARD } Pass;
static const struct PassRule {
    TrafficKind dispatch, combine;
    void (*compute)(ExpertExchange *e, Work *work, ExpertChunk chunk);
} pass_rules[] = {
    [FORWARD] = {TRAFFIC_DISPATCH, TRAFFIC_COMBINE, chunk_forward},
    [BACKWARD] = {TRAFFIC_COMBINE, TRAFFIC_DISPATCH, chunk_backward},
};

// Rows `sent` are dispatched; the experts turn the rows that have arrived into finished ones, which
// are combined into sent_out.
static void travel(ExpertExchange *e, Work *work, Pass pass, Tensor sent, Beside beside) {
    Dispatch *d = &e->dispatch;
    const struct PassRule *rule = &pass_rules[pass];
    Tensor arrived = pass == FORWARD ? e->expert_in : e->expert_out;
    Tensor finished = pass == FORWARD ? e->expert_out : e->expert_in;
    Pending dispatched = dispatch_send(d, work, 0, sent, rule->dispatch), combined = {0};
    run(beside, work);
    for (int64_t chunk = 0; chunk < d->chunks; chunk++) {
        Pending next = {0};
        if (chunk + 1 < d->chunks) next = dispatch_send(d, work, chunk + 1, sent, rule->dispatch);
        dispatch_arrive(d, work, chunk, &dispatched, arrived, rule->dispatch);
        rule->compute(e, work, dispatch_chunk(d, work, chunk));
        if (chunk > 0) dispatch_returned(d, work, chunk - 1, &combined, e->sent_out, rule->combine);
        combined = dispatch_return(d, work, chunk, e->sent_out, finished, rule->combine);
        dispatched = next;
    }
    dispatch_returned(d, work, d->chunks - 1, &combined, e->sent_out, rule->combine);
}

void expert_exchange_forward(ExpertExchange *e, Work *work, Beside beside) {
    if (work->shape.ep_size > 1) {
        travel(e, work, FORWARD, e->dispatch.sent_buffer, beside);
        return;
    }
    run(beside, work);
    chunk_forward(e, work, dispatch_chunk(&e->dispatch, work, 0));
}

Tensor expert_exchange_backward(ExpertExchange *e, Work *work, Beside beside) {
    if (work->shape.ep_size > 1) {
        travel(e, work, BACKWARD, e->sent_out, beside);
        return e->sent_out;
    }
    run(beside, work);
    chunk_backward(e, work, dispatch_chunk(&e->dispatch, work, 0));
    return e->expert_in;
}
