#include "model/expert_exchange.h"

#include "model/stream_digests.h"

void expert_exchange_layout(ExpertExchange *e, ExpertTraffic of, Work *work, Arena *activations) {
    e->of = of;
    e->expert_in = arena_2d(activations, work->storage, of.plan->max_rows, of.in);
    e->sent_out = arena_2d(activations, work->storage, of.plan->max_sent, of.out);
}

void expert_exchange_layout_scratch(ExpertExchange *e, Work *work, Arena *scratch) {
    const Dispatch *d = e->of.plan;
    e->sent_in = e->expert_in;
    e->expert_out = e->sent_out;
    if (work->shape.ep_size == 1) return;
    e->sent_in = arena_2d(scratch, work->storage, d->max_sent, e->of.in);
    e->received_in = e->received_out = arena_2d(scratch, work->storage, d->max_rows, e->of.in);
    if (e->of.out != e->of.in)
        e->received_out = arena_2d(scratch, work->storage, d->max_rows, e->of.out);
    e->expert_out = arena_2d(scratch, work->storage, d->max_rows, e->of.out);
}

// Forward what is dispatched has one width and what is combined the other; backward the reverse.
void expert_exchange_cost(const ExpertExchange *e, const Work *work,
                          double sent_bytes[TRAFFIC_KINDS]) {
    const Dispatch *d = e->of.plan;
    int64_t E = d->shape.places->E, others = E - deal_count(d->cut.experts, d->cut.rank);
    double away = (double)d->max_sent * (double)others / (double)E; // leave the rank
    double of_step =
        2 * (double)work->shape.micro_batches * away * (double)dtype_bytes(work->storage);
    sent_bytes[TRAFFIC_DISPATCH] += of_step * (double)e->of.in;
    sent_bytes[TRAFFIC_COMBINE] += of_step * (double)e->of.out;
}

static void run(Beside beside, Work *work) {
    if (beside.run) beside.run(beside.context, work, beside.tokens);
}

static void chunk_forward(ExpertExchange *e, Work *work, ExpertChunk chunk) {
    e->of.rule->forward(e->of.experts, work, e->expert_out, e->expert_in, chunk);
}
static void chunk_backward(ExpertExchange *e, Work *work, ExpertChunk chunk) {
    e->of.rule->backward(e->of.experts, work, e->expert_in, e->expert_out, e->expert_in, chunk);
}

// How rows go through the experts; with one rank in the group, without a way.
typedef struct Pass {
    TrafficKind dispatch, combine;
    const char *there, *back; // in digests
    void (*compute)(ExpertExchange *e, Work *work, ExpertChunk chunk);
    Tensor sent, received, arrived;   // what is dispatched, where it lands, and in experts' order
    Tensor finished, leaving, became; // what experts make, how it returns, and in send order
} Pass;

// The experts turn the rows that have arrived into finished ones.
static void work_on(ExpertExchange *e, Work *work, Pass pass, int64_t number) {
    ExpertChunk chunk = dispatch_chunk(e->of.plan, work, number);
    digest_expert_rows(work, pass.there, pass.arrived, e->of.plan->shape.places, chunk.first_expert,
                       chunk.rows);
    pass.compute(e, work, chunk);
}

// Rows are dispatched; those that have arrived are worked on, and combined.
static void travel(ExpertExchange *e, Work *work, Pass pass, Beside beside) {
    Dispatch *d = e->of.plan;
    Pending dispatched = dispatch_send(d, work, 0, pass.received, pass.sent, pass.dispatch);
    Pending combined = {0};
    run(beside, work);
    for (int64_t chunk = 0; chunk < d->chunks; chunk++) {
        Pending next = {0};
        if (chunk + 1 < d->chunks)
            next = dispatch_send(d, work, chunk + 1, pass.received, pass.sent, pass.dispatch);
        dispatch_arrive(d, work, chunk, &dispatched, pass.arrived, pass.received, pass.dispatch);
        work_on(e, work, pass, chunk);
        if (chunk > 0) dispatch_returned(d, work, chunk - 1, &combined, pass.became, pass.combine);
        combined =
            dispatch_return(d, work, chunk, pass.became, pass.leaving, pass.finished, pass.combine);
        dispatched = next;
    }
    dispatch_returned(d, work, d->chunks - 1, &combined, pass.became, pass.combine);
}

static void pass_through(ExpertExchange *e, Work *work, Pass pass, Beside beside) {
    Tensor slot_row = e->of.plan->slot_row;
    if (work->shape.ep_size > 1) {
        travel(e, work, pass, beside);
    } else {
        run(beside, work);
        work_on(e, work, pass, 0);
    }
    digest_gathered(work, pass.back, pass.became,
                    tensor_reshape_1d(slot_row, tensor_elements(slot_row)));
}

void expert_exchange_forward(ExpertExchange *e, Work *work, Tensor x, Beside beside) {
    dispatch_gather(e->of.plan, work, e->sent_in, x);
    Pass forward = {.dispatch = TRAFFIC_DISPATCH,
                    .combine = TRAFFIC_COMBINE,
                    .there = e->of.dispatched,
                    .back = e->of.returned,
                    .compute = chunk_forward,
                    .sent = e->sent_in,
                    .received = e->received_in,
                    .arrived = e->expert_in,
                    .finished = e->expert_out,
                    .leaving = e->received_out,
                    .became = e->sent_out};
    pass_through(e, work, forward, beside);
}

// What is dispatched are gradients of outputs, whose way is that of combine, and what is combined
// are gradients of inputs.
Tensor expert_exchange_backward(ExpertExchange *e, Work *work, Beside beside) {
    Pass backward = {.dispatch = TRAFFIC_COMBINE,
                     .combine = TRAFFIC_DISPATCH,
                     .there = e->of.returned,
                     .back = e->of.dispatched,
                     .compute = chunk_backward,
                     .sent = e->sent_out,
                     .received = e->received_out,
                     .arrived = e->expert_out,
                     .finished = e->expert_in,
                     .leaving = e->received_in,
                     .became = e->sent_in};
    pass_through(e, work, backward, beside);
    return e->sent_in;
}
