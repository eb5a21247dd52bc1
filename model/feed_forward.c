#include "model/feed_forward.h"

#include "model/linear.h"

void feed_forward_declare(FeedForward *ffn, Work *work, int64_t layer) {
    const ModelConfig *config = work->config;
    int64_t D = config->d_model, F = config->d_ff;
    int64_t wide = activation_input_width(config->activation, F);
    ffn->gate_up = param_add(work->params,
                             (Param){.rank = 2, .shape = {wide, D}, .init_std = config->init_std},
                             "layers.%lld.ffn.gate_up", (long long)layer);
    ffn->down = param_add(
        work->params, (Param){.rank = 2, .shape = {D, F}, .init_std = model_residual_std(config)},
        "layers.%lld.ffn.down", (long long)layer);
}

void feed_forward_layout(FeedForward *ffn, Work *work, Arena *activations, Arena *scratch) {
    int64_t N = work->N, F = work->config->d_ff;
    ffn->hidden = arena_2d(activations, work->storage, N,
                           activation_input_width(work->config->activation, F));
    size_t mark = arena_mark(scratch);
    ffn->activated = arena_2d(scratch, work->storage, N, F);
    ffn->dactivated = arena_2d(scratch, work->storage, N, F);
    arena_release(scratch, mark);
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
