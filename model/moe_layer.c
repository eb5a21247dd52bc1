#include "model/moe_layer.h"

static bool check_device(const ModelConfig *config, int64_t layer, const Device *dev, Error *err) {
    MoeShape shape = moe_shape(config, layer);
    return device_check_limit(dev, "moe.experts", shape.experts, dev->limits.experts, err) &&
           device_check_limit(dev, "moe.top_k", shape.top_k, dev->limits.top_k, err);
}

static void declare(void *self, Work *work, int64_t layer) {
    MoeLayer *moe = self;
    router_declare(&moe->router, work, layer);
    experts_declare(&moe->experts, work, layer);
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    MoeLayer *moe = self;
    int64_t D = work->config->d_model, K = moe->router.shape.top_k;
    router_layout(&moe->router, work, activations, scratch);
    router_report(&moe->router, stats);
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

static bool check(const void *self, const Work *work, Error *err) {
    const MoeLayer *moe = self;
    return dispatch_check(&moe->dispatch, &work->config->moe, err);
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const MoeLayer *moe = self;
    const ModelConfig *config = work->config;
    MoeShape shape = moe->router.shape;
    int64_t E = shape.experts, K = shape.top_k, F = shape.d_ff;
    int64_t wide = activation_input_width(config->activation, F);
    cost->flops_per_token += 2 * (double)config->d_model * (double)(K * (wide + F) + E);

    int64_t ep = work->ep_size;
    double micro = (double)work->micro_batches;
    // Forward and backward each dispatch once and combine once.
    double away = (double)moe->dispatch.max_sent * (double)(ep - 1) / (double)ep; // leave the rank
    double bytes = 2 * micro * away * (double)config->d_model * (double)dtype_bytes(work->storage);
    cost->sent_bytes[TRAFFIC_DISPATCH] += bytes;
    cost->sent_bytes[TRAFFIC_COMBINE] += bytes;
    if (config->moe.dispatch == DISPATCH_EXACT)
        cost->sent_bytes[TRAFFIC_COUNTS] +=
            micro * (double)((ep - 1) * (E / ep) * work->shards * (int64_t)sizeof(int32_t));
    if (config->moe.balance_scope == BALANCE_BATCH)
        cost->sent_bytes[TRAFFIC_STATISTICS] +=
            micro *
            (double)all_reduce_sum_sent_bytes((int)(work->total_shards / work->shards), E, I64);

    ScratchShape *scratch = &cost->scratch;
    scratch->E = larger(scratch->E, E);
    scratch->K = larger(scratch->K, K);
    scratch->F = larger(scratch->F, F);
    scratch->parts = larger(scratch->parts, work->expert_parts);
    scratch->group = larger(scratch->group, work->N / routing_groups(work));
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

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    MoeLayer *moe = self;
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

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    MoeLayer *moe = self;
    Router *router = &moe->router;
    Dispatch *d = &moe->dispatch;
    // sent_out, expert_out and expert_in turn into their own gradients one after the other. Padding
    // rows of sent_out hold what the experts made of zeros: their gradient is zero.
    Tensor padding = d->room >= 0 ? d->row_choice : (Tensor){0};
    combine_backward(work->dev, moe->sent_out, moe->dweights, dout, moe->sent_out, d->slot_row,
                     padding, router->scaled);
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

// A token's text must not depend on its neighbours: nothing is dropped, and padded dispatch needs a
// capacity.
static void for_generation(ModelConfig *config) {
    config->moe.capacity_factor = (Rational){0, 1};
    config->moe.dispatch = DISPATCH_EXACT;
}

const LayerKind MOE_FEED_FORWARD = {
    .state_bytes = sizeof(MoeLayer),
    .check_device = check_device,
    .declare = declare,
    .layout = layout,
    .check = check,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .for_generation = for_generation,
};
