#include "model/shared_experts.h"

#include <stdio.h>

int64_t shared_experts_width(const MoeConfig *config, int64_t d_ff) {
    return config->shared_d_ff > 0 ? config->shared_d_ff : config->shared_experts * d_ff;
}

void shared_experts_declare(SharedExperts *shared, Work *work, int64_t layer, int64_t width) {
    if (width == 0) return;
    char name[PARAM_NAME_BYTES];
    snprintf(name, sizeof name, "layers.%lld.moe.shared", (long long)layer);
    feed_forward_declare(&shared->ffn, work, width, name);
    shared->has_gate = work->config->moe.shared_gate;
    if (!shared->has_gate) return;
    Param gate = {.rank = 2,
                  .shape = {1, work->config->d_model},
                  .readout = true,
                  .init_std = work->config->init_std};
    shared->gate = linear_declare(work, gate, false, "%s.gate", name);
}

void shared_experts_layout(SharedExperts *shared, Work *work, Arena *activations, Arena *scratch) {
    if (shared->ffn.d_ff == 0) return;
    int64_t N = work->shape.N, D = work->config->d_model;
    feed_forward_layout(&shared->ffn, work, activations, scratch);
    shared->out = arena_2d(shared->has_gate ? activations : scratch, work->storage, N, D);
    shared->scratch.dx = arena_2d(scratch, work->storage, N, D);
    if (!shared->has_gate) return;
    shared->logits = arena_2d(activations, F32, N, 1);
    shared->scratch.dout = arena_2d(scratch, work->storage, N, D);
    shared->scratch.dlogits = arena_2d(scratch, F32, N, 1);
    if (work->storage != F32)
        shared->scratch.dlogits_stored = arena_2d(scratch, work->storage, N, 1);
}

void shared_experts_bound(const ModelConfig *config, int64_t width, LayerBound *bound) {
    bound->parameters += (double)config->d_model * (3 * (double)width + 1);
    bound->kept += 3 * (double)width + (double)config->d_model + 1;
}

void shared_experts_cost(const SharedExperts *shared, const Work *work, LayerCost *cost) {
    if (shared->ffn.d_ff == 0) return;
    feed_forward_cost(&shared->ffn, work, cost);
    if (shared->has_gate) cost->flops_per_token += 2 * (double)work->config->d_model;
}

void shared_experts_forward(SharedExperts *shared, Work *work, Tensor x) {
    if (shared->ffn.d_ff == 0) return;
    shared->x = x;
    feed_forward_forward(&shared->ffn, work, shared->out, x);
    if (shared->has_gate) linear_forward(work, shared->gate, shared->logits, x);
}

void shared_experts_add(SharedExperts *shared, Work *work, Tensor out) {
    if (shared->ffn.d_ff == 0) return;
    if (shared->has_gate)
        gated_add_forward(work->dev, out, shared->out, shared->logits);
    else
        add(work->dev, out, out, shared->out);
}

void shared_experts_backward(SharedExperts *shared, Work *work, Tensor dout) {
    if (shared->ffn.d_ff == 0) return;
    if (shared->has_gate) {
        gated_add_backward(work->dev, shared->scratch.dout, shared->scratch.dlogits, dout,
                           shared->out, shared->logits);
        dout = shared->scratch.dout;
    }
    feed_forward_backward(&shared->ffn, work, shared->scratch.dx, dout);
}

void shared_experts_add_backward(SharedExperts *shared, Work *work, Tensor dx) {
    if (shared->ffn.d_ff == 0) return;
    add(work->dev, dx, dx, shared->scratch.dx);
    if (!shared->has_gate) return;
    Tensor dlogits = work_stored(work, shared->scratch.dlogits_stored, shared->scratch.dlogits);
    linear_backward(work, shared->gate, shared->scratch.dx, dlogits, shared->x);
    add(work->dev, dx, dx, shared->scratch.dx);
}
