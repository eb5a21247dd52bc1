#include "model/experts.h"

#include <math.h>

void experts_declare(Experts *experts, Work *work, int64_t layer) {
    const ModelConfig *config = work->config;
    int64_t E = config->moe.experts, D = config->d_model, F = config->moe.d_ff;
    int64_t wide = activation_input_width(config->activation, F);
    float std = (float)config->init_std;
    float residual_std = (float)(config->init_std / sqrt(2.0 * (double)config->layers));
    experts->gate_up =
        param_add(work->params, PARAM_EXPERT, INIT_NORMAL, std, true, 3, (int64_t[]){E, wide, D},
                  "layers.%lld.moe.experts.gate_up", (long long)layer);
    experts->down =
        param_add(work->params, PARAM_EXPERT, INIT_NORMAL, residual_std, true, 3,
                  (int64_t[]){E, D, F}, "layers.%lld.moe.experts.down", (long long)layer);
}

void experts_layout(Experts *experts, Work *work, int64_t max_rows, Arena *activations,
                    Arena *scratch) {
    int64_t F = work->config->moe.d_ff;
    int64_t wide = activation_input_width(work->config->activation, F);
    experts->hidden = arena_2d(activations, F32, max_rows, wide);
    size_t mark = arena_mark(scratch);
    experts->activated = arena_2d(scratch, F32, max_rows, F);
    experts->dactivated = arena_2d(scratch, F32, max_rows, F);
    arena_release(scratch, mark);
}

// The first `rows` of a buffer laid out for the worst case.
static Tensor used(Tensor buffer, Segments rows) {
    return tensor_rows(buffer, 0, rows.offsets[rows.groups * rows.parts]);
}

void experts_forward(Experts *experts, Work *work, Tensor out, Tensor x, Segments rows) {
    Tensor hidden = used(experts->hidden, rows), activated = used(experts->activated, rows);
    matmul_forward(work->dev, hidden, used(x, rows), work_value(work, experts->gate_up), rows);
    activation_forward(work->dev, activated, hidden, work->config->activation);
    matmul_forward(work->dev, used(out, rows), activated, work_value(work, experts->down), rows);
}

void experts_backward(Experts *experts, Work *work, Tensor dx, Tensor dout, Tensor x,
                      Segments rows) {
    Tensor hidden = used(experts->hidden, rows), activated = used(experts->activated, rows);
    Tensor dactivated = used(experts->dactivated, rows);
    dout = used(dout, rows);
    activation_forward(work->dev, activated, hidden, work->config->activation);
    matmul_backward_weight(work->dev, work_gradient(work, experts->down), dout, activated, rows);
    matmul_backward_input(work->dev, dactivated, dout, work_value(work, experts->down), rows);
    activation_backward(work->dev, hidden, dactivated, hidden, work->config->activation);
    matmul_backward_weight(work->dev, work_gradient(work, experts->gate_up), hidden, used(x, rows),
                           rows);
    matmul_backward_input(work->dev, used(dx, rows), hidden, work_value(work, experts->gate_up),
                          rows);
}
