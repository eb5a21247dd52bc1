#include "model/feed_forward.h"

#include "model/linear.h"

typedef struct FeedForward {
    Linear gate_up, down; // weights (2F or F, D) and (D, F)
    Tensor x;             // (N, D) input, borrowed
    Tensor hidden;        // (N, 2F or F) before the activation; becomes its own gradient
    Tensor activated;     // (N, F) scratch, recomputed in the backward pass
    Tensor dactivated;    // (N, F) scratch
} FeedForward;

static void declare(void *self, Work *work, int64_t layer) {
    FeedForward *ffn = self;
    const ModelConfig *config = work->config;
    int64_t D = config->d_model, F = config->d_ff;
    int64_t wide = activation_input_width(config->activation, F);
    bool bias = BIASES[config->bias].feed_forward;
    ffn->gate_up = linear_declare(work,
                                  (Param){.rank = 2,
                                          .shape = {wide, D},
                                          .fused = {F, wide - F},
                                          .group = GROUP_HIDDEN,
                                          .init_std = config->init_std},
                                  bias, "layers.%lld.ffn.gate_up", (long long)layer);
    ffn->down = linear_declare(work,
                               (Param){.rank = 2,
                                       .shape = {D, F},
                                       .group = GROUP_HIDDEN,
                                       .init_std = model_residual_std(config)},
                               bias, "layers.%lld.ffn.down", (long long)layer);
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    (void)stats;
    FeedForward *ffn = self;
    int64_t N = work->shape.N, F = work->config->d_ff;
    ffn->hidden = arena_2d(activations, work->storage, N,
                           activation_input_width(work->config->activation, F));
    size_t mark = arena_mark(scratch);
    ffn->activated = arena_2d(scratch, work->storage, N, F);
    ffn->dactivated = arena_2d(scratch, work->storage, N, F);
    arena_release(scratch, mark);
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    (void)self;
    const ModelConfig *config = work->config;
    int64_t F = config->d_ff;
    cost->flops_per_token +=
        2 * (double)config->d_model * (double)(activation_input_width(config->activation, F) + F);
    if (F > cost->scratch.F) cost->scratch.F = F;
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    (void)stats;
    FeedForward *ffn = self;
    ffn->x = x;
    linear_forward(work, ffn->gate_up, ffn->hidden, x);
    activation_forward(work->dev, ffn->activated, ffn->hidden, work->config->activation);
    linear_forward(work, ffn->down, out, ffn->activated);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    FeedForward *ffn = self;
    activation_forward(work->dev, ffn->activated, ffn->hidden, work->config->activation);
    linear_backward(work, ffn->down, ffn->dactivated, dout, ffn->activated);
    activation_backward(work->dev, ffn->hidden, ffn->dactivated, ffn->hidden,
                        work->config->activation);
    linear_backward(work, ffn->gate_up, dx, ffn->hidden, ffn->x);
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
