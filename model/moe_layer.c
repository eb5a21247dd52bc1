#include "model/moe_layer.h"

void moe_layer_declare(MoeLayer *moe, Work *work, int64_t layer, int64_t moe_layer) {
    router_declare(&moe->router, work, layer, moe_layer);
    experts_declare(&moe->experts, work, layer);
}

void moe_layer_layout(MoeLayer *moe, Work *work, Arena *activations, Arena *scratch) {
    int64_t D = work->config->d_model, K = work->config->moe.top_k;
    router_layout(&moe->router, work, activations, scratch);
    dispatch_layout(&moe->dispatch, work, activations);
    int64_t max_rows = moe->dispatch.max_rows;
    moe->expert_in = arena_2d(activations, F32, max_rows, D);
    moe->sent_out = arena_2d(activations, F32, work->N * K, D);

    size_t mark = arena_mark(scratch);
    dispatch_layout_scratch(&moe->dispatch, work, scratch);
    moe->expert_out = work->ep_size > 1 ? arena_2d(scratch, F32, max_rows, D) : moe->sent_out;
    moe->dweights = arena_2d(scratch, F32, work->N, K);
    experts_layout(&moe->experts, work, max_rows, activations, scratch);
    // The router's backward pass runs while dweights is alive, after the experts' scratch is free.
    router_layout_backward(&moe->router, work, scratch);
    arena_release(scratch, mark);
}

void moe_layer_forward(MoeLayer *moe, Work *work, Statistics *stats, Tensor out, Tensor x) {
    Router *router = &moe->router;
    Dispatch *d = &moe->dispatch;
    router_choose(router, work, stats, x);
    dispatch_plan(d, work, router->ids, router->kept);
    dispatch_tokens(d, work, moe->expert_in, x);
    experts_forward(&moe->experts, work, moe->expert_out, moe->expert_in,
                    dispatch_segments(d, work));
    if (work->ep_size > 1)
        dispatch_return(d, work, moe->sent_out, moe->expert_out, TRAFFIC_COMBINE);
    combine_forward(work->dev, out, moe->sent_out, d->slot_row, router->scaled);
}

void moe_layer_backward(MoeLayer *moe, Work *work, Tensor dx, Tensor dout) {
    Router *router = &moe->router;
    Dispatch *d = &moe->dispatch;
    // sent_out, expert_out and expert_in turn into their own gradients one after the other.
    combine_backward(work->dev, moe->sent_out, moe->dweights, dout, moe->sent_out, d->slot_row,
                     router->scaled);
    if (work->ep_size > 1) dispatch_rows(d, work, moe->expert_out, moe->sent_out, TRAFFIC_COMBINE);
    experts_backward(&moe->experts, work, moe->expert_in, moe->expert_out, moe->expert_in,
                     dispatch_segments(d, work));
    Tensor dsent = moe->expert_in;
    if (work->ep_size > 1) {
        dispatch_return(d, work, moe->sent_out, moe->expert_in, TRAFFIC_DISPATCH);
        dsent = moe->sent_out;
    }
    combine_forward(work->dev, dx, dsent, d->slot_row, (Tensor){0});
    router_choose_backward(router, work, dx, moe->dweights);
}
