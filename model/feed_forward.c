#include "model/feed_forward.h"

#include <stdio.h>

#include "kernels/integers.h"

void feed_forward_declare(FeedForward *ffn, Work *work, int64_t d_ff, const char *name) {
    const ModelConfig *config = work->config;
    int64_t D = config->d_model, F = ffn->d_ff = d_ff;
    int64_t wide = activation_input_width(config->activation, F);
    bool bias = BIASES[config->bias].feed_forward;
    ffn->gate_up = linear_declare(work,
                                  (Param){.rank = 2,
                                          .shape = {wide, D},
                                          .fused = {F, wide - F},
                                          .group = GROUP_HIDDEN,
                                          .init_std = config->init_std},
                                  bias, "%s.gate_up", name);
    ffn->down = linear_declare(work,
                               (Param){.rank = 2,
                                       .shape = {D, F},
                                       .group = GROUP_HIDDEN,
                                       .init_std = model_residual_std(config)},
                               bias, "%s.down", name);
}

void feed_forward_layout(FeedForward *ffn, Work *work, Arena *activations, Arena *scratch) {
    int64_t N = work->shape.N, F = ffn->d_ff;
    ffn->hidden = arena_2d(activations, work->storage, N,
                           activation_input_width(work->config->activation, F));
    ffn->activated = arena_2d(scratch, work->storage, N, F);
    ffn->dactivated = arena_2d(scratch, work->storage, N, F);
}

void feed_forward_cost(const FeedForward *ffn, const Work *work, LayerCost *cost) {
    const ModelConfig *config = work->config;
    int64_t F = ffn->d_ff;
    cost->flops_per_token +=
        2 * (double)config->d_model * (double)(activation_input_width(config->activation, F) + F);
    cost->scratch.F = larger(cost->scratch.F, F);
}

void feed_forward_forward(FeedForward *ffn, Work *work, Tensor out, Tensor x) {
    ffn->x = x;
    linear_forward(work, ffn->gate_up, ffn->hidden, x);
    activation_forward(work->dev, ffn->activated, ffn->hidden, work->config->activation);
    linear_forward(work, ffn->down, out, ffn->activated);
}

void feed_forward_backward(FeedForward *ffn, Work *work, Tensor dx, Tensor dout) {
    activation_forward(work->dev, ffn->activated, ffn->hidden, work->config->activation);
    linear_backward(work, ffn->down, ffn->dactivated, dout, ffn->activated);
    activation_backward(work->dev, ffn->hidden, ffn->dactivated, ffn->hidden,
                        work->config->activation);
    linear_backward(work, ffn->gate_up, dx, ffn->hidden, ffn->x);
}

// ---- the layer kind -----------------------------------------------------------------------------

static void declare(void *self, Work *work, int64_t layer) {
    (void)layer;
    feed_forward_declare(self, work, work->config->d_ff, "ffn");
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    (void)stats;
    size_t mark = arena_mark(scratch);
    feed_forward_layout(self, work, activations, scratch);
    arena_release(scratch, mark);
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    feed_forward_cost(self, work, cost);
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    (void)stats;
    feed_forward_forward(self, work, out, x);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    feed_forward_backward(self, work, dx, dout);
}

static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    (void)layer;
    bound->parameters += 3 * (double)config->d_model * (double)config->d_ff;
    bound->kept += 3 * (double)config->d_ff;
}

const LayerKind DENSE_FEED_FORWARD = {
    .state_bytes = sizeof(FeedForward),
    .bound = bound,
    .declare = declare,
    .layout = layout,
    .cost = cost,
    .forward = forward,
    .backward = backward,
};
