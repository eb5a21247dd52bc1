#include "model/experts.h"

#include "kernels/integers.h"
#include "model/dropout.h"

static bool drops(const Work *work, DropoutPlace place) {
    const MoeConfig *moe = &work->config->moe;
    return dropout_is_due(work, moe->dropout) && moe->dropout_at == place;
}

void experts_declare(Experts *experts, MoeShape shape, Work *work, int64_t layer) {
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
                                              .group = GROUP_HIDDEN,
                                              .init_std = config->init_std,
                                              .active = active},
                                      bias, "layers.%lld.moe.experts.gate_up", (long long)layer);
    experts->down = linear_declare(
        work,
        (Param){.kind = PARAM_EXPERT,
                .rank = 3,
                .shape = {E, D, F},
                .group = GROUP_HIDDEN,
                // a latent space has its own way back
                .init_std = shape.latent ? config->init_std : model_residual_std(config),
                .active = active},
        bias, "layers.%lld.moe.experts.down", (long long)layer);
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

// Buffers are laid out for the worst case. All rows up to a chunk's last, and the rows of the chunk
// alone.
static int64_t end_of(ExpertChunk chunk) {
    return chunk.rows.offsets[chunk.rows.groups * chunk.rows.parts];
}
static Tensor rows_up_to(Tensor buffer, ExpertChunk chunk) {
    return tensor_rows(buffer, 0, end_of(chunk));
}
static Tensor rows_of(Tensor buffer, ExpertChunk chunk) {
    int64_t first = chunk.rows.offsets[0];
    return tensor_rows(buffer, first, end_of(chunk) - first);
}
// The chunk's matrices or biases.
static Tensor experts_of(Tensor weights, ExpertChunk chunk) {
    return tensor_rows(weights, chunk.first_expert, chunk.rows.groups);
}

static void chunk_linear_forward(Work *work, Linear linear, Tensor y, Tensor x, ExpertChunk chunk) {
    linear_multiply(work, linear, y, x, chunk.rows, chunk.first_expert);
    if (linear.bias >= 0)
        bias_forward(work->dev, y, experts_of(work_value(work, linear.bias), chunk), chunk.rows);
}

// dx may be x: it is written last.
static void chunk_linear_backward(Work *work, Linear linear, Tensor dx, Tensor dy, Tensor x,
                                  ExpertChunk chunk) {
    Tensor weights = experts_of(work_matrix(work, linear.weight), chunk);
    Tensor dweights = experts_of(work_gradient(work, linear.weight), chunk);
    matmul_backward_weight(work->dev, dweights, dy, x, chunk.rows);
    if (linear.bias >= 0)
        bias_backward(work->dev, experts_of(work_gradient(work, linear.bias), chunk), dy,
                      chunk.rows);
    matmul_backward_input(work->dev, dx, dy, weights, chunk.rows);
}

// Of this rank's expert_parallel group the ranks are neighbours, hence their shards too.
void experts_number_rows(Experts *experts, Work *work, const Dispatch *d) {
    if (!experts->numbers.data) return;
    const RankShape *shape = &work->shape;
    int64_t group = shape->rank / shape->ep_size * shape->ep_size;
    int64_t of_micro_batch = shape->shards * shape->ranks;
    int64_t choices = d->shape.tokens / shape->shards * d->shape.K;
    expert_row_numbers(work->dev, experts->numbers, d->plan.offsets, d->all_counts,
                       (RowNumbering){.first_expert = d->shape.E / shape->ep_size * shape->ep_rank,
                                      .first_shard = work->step.micro_batch * of_micro_batch +
                                                     group * shape->shards,
                                      .shards = of_micro_batch * shape->micro_batches,
                                      .most = larger(choices, d->padded_rows)});
}

// In place: rows of a chunk, or their gradient.
static void drop_rows(Experts *experts, Work *work, Tensor x, ExpertChunk chunk) {
    dropout(work->dev, x, x,
            (Dropout){.rate = work->config->moe.dropout,
                      .stream = work_stream(work, RNG_DROPOUT_EXPERT, experts->layer),
                      .rows = rows_of(experts->numbers, chunk)});
}

// activated from hidden, in both passes.
static void activate(Experts *experts, Work *work, Tensor activated, Tensor hidden,
                     ExpertChunk chunk) {
    activation_forward(work->dev, activated, hidden, work->config->activation);
    if (drops(work, DROPOUT_HIDDEN)) drop_rows(experts, work, activated, chunk);
}

void experts_forward(Experts *experts, Work *work, Tensor out, Tensor x, ExpertChunk chunk) {
    Tensor hidden = rows_up_to(experts->hidden, chunk);
    Tensor activated = rows_up_to(experts->activated, chunk);
    chunk_linear_forward(work, experts->gate_up, hidden, rows_up_to(x, chunk), chunk);
    activate(experts, work, rows_of(activated, chunk), rows_of(hidden, chunk), chunk);
    chunk_linear_forward(work, experts->down, rows_up_to(out, chunk), activated, chunk);
    if (drops(work, DROPOUT_OUTPUT)) drop_rows(experts, work, rows_of(out, chunk), chunk);
}

void experts_backward(Experts *experts, Work *work, Tensor dx, Tensor dout, Tensor x,
                      ExpertChunk chunk) {
    Activation kind = work->config->activation;
    Tensor hidden = rows_up_to(experts->hidden, chunk);
    Tensor activated = rows_up_to(experts->activated, chunk);
    Tensor dactivated = rows_up_to(experts->dactivated, chunk);
    dx = rows_up_to(dx, chunk);
    dout = rows_up_to(dout, chunk);
    x = rows_up_to(x, chunk);
    if (drops(work, DROPOUT_OUTPUT)) drop_rows(experts, work, rows_of(dout, chunk), chunk);
    activate(experts, work, rows_of(activated, chunk), rows_of(hidden, chunk), chunk);
    chunk_linear_backward(work, experts->down, dactivated, dout, activated, chunk);
    if (drops(work, DROPOUT_HIDDEN)) drop_rows(experts, work, rows_of(dactivated, chunk), chunk);
    activation_backward(work->dev, rows_of(hidden, chunk), rows_of(dactivated, chunk),
                        rows_of(hidden, chunk), kind);
    chunk_linear_backward(work, experts->gate_up, dx, hidden, x, chunk);
}
