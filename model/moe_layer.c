#include "model/moe_layer.h"

void moe_layer_declare(MoeLayer *moe, Work *work, int64_t layer) {
    router_declare(&moe->router, work, layer);
    experts_declare(&moe->experts, work, layer);
}

void moe_layer_layout(MoeLayer *moe, Work *work, Arena *activations, Arena *scratch) {
    int64_t D = work->config->d_model, K = moe->router.shape.top_k;
    router_layout(&moe->router, work, activations, scratch);
    dispatch_layout(&moe->dispatch, moe->router.shape, work, activations);
    int64_t max_rows = moe->dispatch.max_rows;
    moe->expert_in = arena_2d(activations, work->storage, max_rows, D);
    moe->sent_out = arena_2d(activations, work->storage, moe->dispatch.max_sent, D);

    size_t mark = arena_mark(scratch);
    dispatch_layout_scratch(&moe->dispatch, work, scratch);
    moe->expert_out =
        work->ep_size > 1 ? arena_2d(scratch, work->storage, max_rows, D) : moe->sent_out;
    moe->dweights = arena_2d(scratch, F32, work->N, K);
    experts_layout(&moe->experts, work, max_rows, activations, scratch);
    // The router's backward pass runs while dweights is alive, after the experts' scratch is free.
    router_layout_backward(&moe->router, work, scratch);
    arena_release(scratch, mark);
}

void moe_layer_report(MoeLayer *moe, Statistics *stats) {
    router_report(&moe->router, stats);
}

// A pass of the experts over one chunk: expert_out or its gradient from what has arrived in
// `arrived`.
typedef void (*ChunkPass)(MoeLayer *moe, Work *work, ExpertChunk chunk);

static void forward_pass(MoeLayer *moe, Work *work, ExpertChunk chunk) {
    experts_forward(&moe->experts, work, moe->expert_out, moe->expert_in, chunk);
}
static void backward_pass(MoeLayer *moe, Work *work, ExpertChunk chunk) {
    experts_backward(&moe->experts, work, moe->expert_in, moe->expert_out, moe->expert_in, chunk);
}

// Rows `sent` travel to the experts, which turn `arrived` into `finished`, whose rows travel back
// into moe->sent_out. While a chunk is computed the next one is on its way there and the one before
// on its way back.
static void there_and_back(MoeLayer *moe, Work *work, Tensor sent, TrafficKind there,
                           Tensor arrived, ChunkPass pass, Tensor finished, TrafficKind back) {
    Dispatch *d = &moe->dispatch;
    int64_t chunks = d->chunks;
    Pending coming = dispatch_send(d, work, 0, sent, there), going = {0};
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        Pending next = {0};
        if (chunk + 1 < chunks) next = dispatch_send(d, work, chunk + 1, sent, there);
        dispatch_arrive(d, work, chunk, &coming, arrived);
        pass(moe, work, dispatch_chunk(d, work, chunk));
        collective_wait(&going);
        going = dispatch_return(d, work, chunk, moe->sent_out, finished, back);
        coming = next;
    }
    collective_wait(&going);
}

void moe_layer_forward(MoeLayer *moe, Work *work, Statistics *stats, Tensor out, Tensor x) {
    Router *router = &moe->router;
    Dispatch *d = &moe->dispatch;
    router_choose(router, work, stats, x);
    dispatch_plan(d, work, router->ids, router->kept);
    dispatch_gather(d, work, moe->expert_in, x);
    if (work->ep_size == 1) {
        forward_pass(moe, work, dispatch_chunk(d, work, 0));
    } else {
        there_and_back(moe, work, d->sent_buffer, TRAFFIC_DISPATCH, moe->expert_in, forward_pass,
                       moe->expert_out, TRAFFIC_COMBINE);
    }
    combine_forward(work->dev, out, moe->sent_out, d->slot_row, router->scaled);
}

void moe_layer_backward(MoeLayer *moe, Work *work, Tensor dx, Tensor dout) {
    Router *router = &moe->router;
    Dispatch *d = &moe->dispatch;
    // sent_out, expert_out and expert_in turn into their own gradients one after the other. No
    // choice writes the padding rows of sent_out: they keep what an expert without biases makes of
    // zeros, zeros.
    combine_backward(work->dev, moe->sent_out, moe->dweights, dout, moe->sent_out, d->slot_row,
                     router->scaled);
    Tensor dsent = moe->sent_out;
    if (work->ep_size == 1) {
        backward_pass(moe, work, dispatch_chunk(d, work, 0));
        dsent = moe->expert_in;
    } else {
        there_and_back(moe, work, moe->sent_out, TRAFFIC_COMBINE, moe->expert_out, backward_pass,
                       moe->expert_in, TRAFFIC_DISPATCH);
    }
    combine_forward(work->dev, dx, dsent, d->slot_row, (Tensor){0});
    router_choose_backward(router, work, dx, moe->dweights);
}
