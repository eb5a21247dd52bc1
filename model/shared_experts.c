#include "model/shared_experts.h"

#include <stdio.h>

#include "kernels/integers.h"
#include "model/stream_digests.h"

int64_t shared_experts_width(const MoeConfig *moe, MoeShape shape) {
    if (moe->shared_d_ff > 0) return moe->shared_d_ff;
    int64_t experts = shape.residual ? larger(moe->shared_experts, 1) : moe->shared_experts;
    return experts * shape.d_ff;
}

static SharedJoin join_of(const ModelConfig *config, MoeShape shape) {
    if (shape.residual) return SHARED_MIXED;
    return config->moe.shared_gate ? SHARED_GATED : SHARED_ADDED;
}

// Logits of a token: of the gate, or of both coefficients.
static int64_t gate_width(const SharedExperts *shared) {
    return shared->join == SHARED_MIXED ? 2 : 1;
}

void shared_experts_declare(SharedExperts *shared, Work *work, MoeShape shape) {
    const ModelConfig *config = work->config;
    int64_t width = shared_experts_width(&config->moe, shape);
    if (width == 0) return;
    feed_forward_declare(&shared->ffn, work, width, "moe.shared");
    shared->join = join_of(config, shape);
    if (shared->join == SHARED_ADDED) return;
    bool mixed = shared->join == SHARED_MIXED;
    Param gate = {.rank = 2,
                  .shape = {gate_width(shared), config->d_model},
                  .readout = true,
                  .init_std = config->init_std};
    shared->gate = linear_declare(work, gate, mixed && BIASES[config->bias].feed_forward,
                                  "moe.shared.%s", mixed ? "coefficient" : "gate");
}

void shared_experts_layout(SharedExperts *shared, Work *work, Arena *activations, Arena *scratch) {
    if (shared->ffn.d_ff == 0) return;
    int64_t N = work->shape.N, D = work->config->d_model;
    feed_forward_layout(&shared->ffn, work, activations, scratch);
    bool added = shared->join == SHARED_ADDED;
    shared->out = arena_2d(added ? scratch : activations, work->storage, N, D);
    shared->scratch.dx = arena_2d(scratch, work->storage, N, D);
    if (added) return;
    int64_t gate = gate_width(shared);
    shared->logits = arena_2d(activations, F32, N, gate);
    shared->scratch.dout = arena_2d(scratch, work->storage, N, D);
    shared->scratch.dlogits = arena_2d(scratch, F32, N, gate);
    if (work->storage != F32)
        shared->scratch.dlogits_stored = arena_2d(scratch, work->storage, N, gate);
    if (shared->join != SHARED_MIXED) return;
    shared->routed = arena_2d(activations, work->storage, N, D);
    shared->scratch.drouted = arena_2d(scratch, work->storage, N, D);
}

void shared_experts_bound(const ModelConfig *config, MoeShape shape, LayerBound *bound) {
    double width = (double)shared_experts_width(&config->moe, shape), D = (double)config->d_model;
    bound->parameters += D * (3 * width + 2);
    bound->kept += 3 * width + 2 * D + 2;
}

void shared_experts_cost(const SharedExperts *shared, const Work *work, LayerCost *cost) {
    if (shared->ffn.d_ff == 0) return;
    feed_forward_cost(&shared->ffn, work, cost);
    if (shared->join != SHARED_ADDED)
        cost->flops_per_token += 2 * (double)(work->config->d_model * gate_width(shared));
}

void shared_experts_forward(SharedExperts *shared, Work *work, Tensor x) {
    if (shared->ffn.d_ff == 0) return;
    shared->x = x;
    feed_forward_forward(&shared->ffn, work, shared->out, x);
    digest_part(work, "shared", shared->out);
    if (shared->join != SHARED_ADDED) linear_forward(work, shared->gate, shared->logits, x);
}

Tensor shared_experts_routed(const SharedExperts *shared, Tensor out) {
    return shared->join == SHARED_MIXED ? shared->routed : out;
}

void shared_experts_join(SharedExperts *shared, Work *work, Tensor out) {
    if (shared->ffn.d_ff == 0) return;
    switch (shared->join) {
    case SHARED_ADDED:
        add(work->dev, out, out, shared->out);
        break;
    case SHARED_GATED:
        gated_add_forward(work->dev, out, shared->out, shared->logits);
        break;
    case SHARED_MIXED:
        mix_forward(work->dev, out, shared->routed, shared->out, shared->logits);
        break;
    }
}

Tensor shared_experts_routed_backward(SharedExperts *shared, Work *work, Tensor dout) {
    if (shared->join != SHARED_MIXED) return dout;
    mix_backward(work->dev, shared->scratch.drouted, shared->scratch.dout, shared->scratch.dlogits,
                 dout, shared->routed, shared->out, shared->logits);
    return shared->scratch.drouted;
}

void shared_experts_backward(SharedExperts *shared, Work *work, Tensor dout) {
    if (shared->ffn.d_ff == 0) return;
    if (shared->join == SHARED_GATED)
        gated_add_backward(work->dev, shared->scratch.dout, shared->scratch.dlogits, dout,
                           shared->out, shared->logits);
    feed_forward_backward(&shared->ffn, work, shared->scratch.dx,
                          shared->join == SHARED_ADDED ? dout : shared->scratch.dout);
}

void shared_experts_add_backward(SharedExperts *shared, Work *work, Tensor dx) {
    if (shared->ffn.d_ff == 0) return;
    add(work->dev, dx, dx, shared->scratch.dx);
    if (shared->join == SHARED_ADDED) return;
    Tensor dlogits = work_stored(work, shared->scratch.dlogits_stored, shared->scratch.dlogits);
    linear_backward(work, shared->gate, shared->scratch.dx, dlogits, shared->x);
    add(work->dev, dx, dx, shared->scratch.dx);
}
