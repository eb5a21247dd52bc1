#include "model/experts.h"

void experts_declare(Experts *experts, MoeShape shape, Work *work, int64_t layer) {
    const ModelConfig *config = work->config;
    int64_t E = shape.experts, D = config->d_model, F = experts->d_ff = shape.d_ff;
    int64_t wide = activation_input_width(config->activation, F);
    double active = (double)shape.top_k / (double)E;
    experts->gate_up = param_add(work->params,
                                 (Param){.kind = PARAM_EXPERT,
                                         .rank = 3,
                                         .shape = {E, wide, D},
                                         .init_std = config->init_std,
                                         .active = active},
                                 "layers.%lld.moe.experts.gate_up", (long long)layer);
    experts->down = param_add(work->params,
                              (Param){.kind = PARAM_EXPERT,
                                      .rank = 3,
                                      .shape = {E, D, F},
                                      .init_std = model_residual_std(config),
                                      .active = active},
                              "layers.%lld.moe.experts.down", (long long)layer);
}

void experts_layout(Experts *experts, Work *work, int64_t max_rows, Arena *activations,
                    Arena *scratch) {
    int64_t F = experts->d_ff;
    int64_t wide = activation_input_width(work->config->activation, F);
    experts->hidden = arena_2d(activations, work->storage, max_rows, wide);
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
// The chunk's matrices.
static Tensor experts_of(Tensor weights, ExpertChunk chunk) {
    return tensor_rows(weights, chunk.first_expert, chunk.rows.groups);
}

void experts_forward(Experts *experts, Work *work, Tensor out, Tensor x, ExpertChunk chunk) {
    Tensor gate_up = experts_of(work_matrix(work, experts->gate_up), chunk);
    Tensor down = experts_of(work_matrix(work, experts->down), chunk);
    Tensor hidden = rows_up_to(experts->hidden, chunk);
    Tensor activated = rows_up_to(experts->activated, chunk);
    matmul_forward(work->dev, hidden, rows_up_to(x, chunk), gate_up, chunk.rows);
    activation_forward(work->dev, rows_of(activated, chunk), rows_of(hidden, chunk),
                       work->config->activation);
    matmul_forward(work->dev, rows_up_to(out, chunk), activated, down, chunk.rows);
}

void experts_backward(Experts *experts, Work *work, Tensor dx, Tensor dout, Tensor x,
                      ExpertChunk chunk) {
    Activation kind = work->config->activation;
    Tensor gate_up = experts_of(work_matrix(work, experts->gate_up), chunk);
    Tensor down = experts_of(work_matrix(work, experts->down), chunk);
    Tensor dgate_up = experts_of(work_gradient(work, experts->gate_up), chunk);
    Tensor ddown = experts_of(work_gradient(work, experts->down), chunk);
    Tensor hidden = rows_up_to(experts->hidden, chunk);
    Tensor activated = rows_up_to(experts->activated, chunk);
    Tensor dactivated = rows_up_to(experts->dactivated, chunk);
    dx = rows_up_to(dx, chunk);
    dout = rows_up_to(dout, chunk);
    x = rows_up_to(x, chunk);
    activation_forward(work->dev, rows_of(activated, chunk), rows_of(hidden, chunk), kind);
    matmul_backward_weight(work->dev, ddown, dout, activated, chunk.rows);
    matmul_backward_input(work->dev, dactivated, dout, down, chunk.rows);
    activation_backward(work->dev, rows_of(hidden, chunk), rows_of(dactivated, chunk),
                        rows_of(hidden, chunk), kind);
    matmul_backward_weight(work->dev, dgate_up, hidden, x, chunk.rows);
    matmul_backward_input(work->dev, dx, hidden, gate_up, chunk.rows);
}
