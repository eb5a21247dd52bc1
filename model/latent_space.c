#include "model/latent_space.h"

void latent_space_declare(LatentSpace *space, Work *work, MoeShape shape) {
    const ModelConfig *config = work->config;
    int64_t D = config->d_model, L = shape.width;
    if (!shape.latent) return;
    space->width = L;
    bool bias = BIASES[config->bias].feed_forward;
    space->down = linear_declare(
        work,
        (Param){.rank = 2, .shape = {L, D}, .group = GROUP_HIDDEN, .init_std = config->init_std},
        bias, "moe.latent_down");
    space->up = linear_declare(work,
                               (Param){.rank = 2,
                                       .shape = {D, L},
                                       .group = GROUP_HIDDEN,
                                       .init_std = model_residual_std(config)},
                               bias, "moe.latent_up");
}

void latent_space_layout(LatentSpace *space, Work *work, Arena *activations, Arena *scratch) {
    if (space->width == 0) return;
    int64_t N = work->shape.N, L = space->width;
    space->z = arena_2d(activations, work->storage, N, L);
    space->sum = arena_2d(activations, work->storage, N, L);
    space->dz = arena_2d(scratch, work->storage, N, L);
    space->dsum = arena_2d(scratch, work->storage, N, L);
}

void latent_space_bound(const ModelConfig *config, MoeShape shape, LayerBound *bound) {
    if (!shape.latent) return;
    double D = (double)config->d_model, L = (double)shape.width;
    bound->parameters += 2 * D * L + D + L;
    bound->kept += 2 * L;
}

void latent_space_cost(const LatentSpace *space, const Work *work, LayerCost *cost) {
    cost->flops_per_token += 4 * (double)work->config->d_model * (double)space->width;
}

Tensor latent_space_enter(LatentSpace *space, Work *work, Tensor x) {
    if (space->width == 0) return x;
    space->x = x;
    linear_forward(work, space->down, space->z, x);
    return space->z;
}

Tensor latent_space_sum(const LatentSpace *space, Tensor out) {
    return space->width > 0 ? space->sum : out;
}

void latent_space_leave(LatentSpace *space, Work *work, Tensor out) {
    if (space->width > 0) linear_forward(work, space->up, out, space->sum);
}

Tensor latent_space_leave_backward(LatentSpace *space, Work *work, Tensor dout) {
    if (space->width == 0) return dout;
    linear_backward(work, space->up, space->dsum, dout, space->sum);
    return space->dsum;
}

Tensor latent_space_gradient(const LatentSpace *space, Tensor dx) {
    return space->width > 0 ? space->dz : dx;
}

void latent_space_enter_backward(LatentSpace *space, Work *work, Tensor dx) {
    if (space->width > 0) linear_backward(work, space->down, dx, space->dz, space->x);
}
