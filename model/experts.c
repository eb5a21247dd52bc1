#include "model/experts.h"

#include "kernels/integers.h"
#include "model/dropout.h"

static bool drops(const Work *work, DropoutPlace place) {
    const MoeConfig *moe = &work->config->moe;
    return dropout_is_due(work, moe->dropout) && moe->dropout_at == place;
}

void experts_declare(Experts *experts, MoeShape shape, const ExpertPlaces *places, Work *work,
                     int64_t layer) {
    const ModelConfig *config = work->config;
    int64_t E = shape.experts, D = shape.width, F = experts->d_ff = shape.d_ff;
    int64_t wide = activation_input_width(config->activation, F);
    double active = (double)shape.top_k / (double)shape.scored;
    bool bias = BIASES[config->bias].feed_forward;
    experts->layer = layer;
    experts->gate_up = linear_declare(work,
                                      (Param){.kind = PARAM_EXPERT,
                                              .rank = 3,
                                              .shape = {E, wide, D},
                                              .fused = {F, wide - F},
                                              .places = places,
                                              .group = GROUP_HIDDEN,
                                              .init_std = config->init_std,
                                              .active = active},
                                      bias, "moe.experts.gate_up");
    experts->down = linear_declare(
        work,
        (Param){.kind = PARAM_EXPERT,
                .rank = 3,
                .shape = {E, D, F},
                .places = places,
                .group = GROUP_HIDDEN,
                // a latent space has its own way back
                .init_std = shape.latent ? config->init_std : model_residual_std(config),
                .active = active},
        bias, "moe.experts.down");
}

double experts_flops(const ModelConfig *config, MoeShape shape) {
    int64_t wide = activation_input_width(config->activation, shape.d_ff);
    return 2 * (double)shape.width * (double)(wide + shape.d_ff);
}

void experts_layout(Experts *experts, Work *work, int64_t max_rows, Arena *activations,
                    Arena *scratch) {
    int64_t F = experts->d_ff;
    int64_t wide = activation_input_width(work->config->activation, F);
    experts->hidden = arena_2d(activations, work->storage, max_rows, wide);
    if (dropout_is_due(work, work->config->moe.dropout))
        experts->numbers = arena_1d(activations, I64, max_rows);
    size_t mark = arena_mark(scratch);
    experts->activated = arena_2d(scratch, work->storage, max_rows, F);
    experts->dactivated = arena_2d(scratch, work->storage, max_rows, F);
    arena_release(scratch, mark);
}

// Of this rank's expert_parallel group the ranks are neighbours, hence their shards too.
void experts_number_rows(Experts *experts, Work *work, const Dispatch *d) {
    if (!experts->numbers.data) return;
    const RankShape *shape = &work->shape;
    int64_t choices = d->shape.tokens / shape->shards * d->shape.K;
    expert_row_numbers(work->dev, experts->numbers, d->plan.offsets, d->all_counts,
                       d->shape.places->experts, d->cut,
                       (RowNumbering){.first_shard = work->step.micro_batch * shape->all_shards +
                                                     shape->group_first_shard,
                                      .shards = shape->all_shards * shape->micro_batches,
                                      .most = larger(choices, d->padded_rows)});
}

// In place: rows of a chunk, or their gradient.
static void drop_rows(Experts *experts, Work *work, Tensor x, ExpertChunk chunk) {
    dropout(work->dev, x, x,
            (Dropout){.rate = work->config->moe.dropout,
                      .stream = work_stream(work, RNG_DROPOUT_EXPERT, experts->layer),
                      .rows = expert_rows_of(experts->numbers, chunk)});
}

// activated from hidden, in both passes.
static void activate(Experts *experts, Work *work, Tensor activated, Tensor hidden,
                     ExpertChunk chunk) {
    activation_forward(work->dev, activated, hidden, work->config->activation);
    if (drops(work, DROPOUT_HIDDEN)) drop_rows(experts, work, activated, chunk);
}

static void forward(void *self, Work *work, Tensor out, Tensor x, ExpertChunk chunk) {
    Experts *experts = self;
    Tensor hidden = experts->hidden, activated = experts->activated;
    expert_linear_forward(work, experts->gate_up, hidden, x, chunk);
    activate(experts, work, expert_rows_of(activated, chunk), expert_rows_of(hidden, chunk), chunk);
    expert_linear_forward(work, experts->down, out, activated, chunk);
    if (drops(work, DROPOUT_OUTPUT)) drop_rows(experts, work, expert_rows_of(out, chunk), chunk);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout, Tensor x, ExpertChunk chunk) {
    Experts *experts = self;
    Activation kind = work->config->activation;
    Tensor hidden = experts->hidden, dactivated = expert_rows_of(experts->dactivated, chunk);
    Tensor activated = experts->activated;
    if (drops(work, DROPOUT_OUTPUT)) drop_rows(experts, work, expert_rows_of(dout, chunk), chunk);
    activate(experts, work, expert_rows_of(activated, chunk), expert_rows_of(hidden, chunk), chunk);
    expert_linear_backward(work, experts->down, experts->dactivated, dout, activated, chunk);
    if (drops(work, DROPOUT_HIDDEN)) drop_rows(experts, work, dactivated, chunk);
    activation_backward(work->dev, expert_rows_of(hidden, chunk), dactivated,
                        expert_rows_of(hidden, chunk), kind);
    expert_linear_backward(work, experts->gate_up, dx, hidden, x, chunk);
}

const ExpertRule FEED_FORWARD_EXPERTS = {.forward = forward, .backward = backward};
