#include "model/norm.h"

#include "model/dense_gradient.h"

void norm_declare(Norm *norm, Work *work, const char *name) {
    int64_t D = work->config->d_model;
    Param weight = {.rank = 1, .shape = {D}, .init = INIT_ONES, .group = GROUP_NO_DECAY};
    Param bias = {.rank = 1, .shape = {D}, .init = INIT_ZEROS, .group = GROUP_NO_DECAY};
    norm->weight = param_add(work->params, weight, "%s", name);
    norm->bias = -1;
    if (norm_has_bias(work->config->norm))
        norm->bias = param_add(work->params, bias, "%s.bias", name);
}

void norm_layout(Norm *norm, Work *work, bool takes_branch, Arena *activations, Arena *scratch) {
    Tensor out = arena_2d(activations, work->storage, work->shape.N, work->config->d_model);
    norm_layout_into(norm, work, out, takes_branch, activations, scratch);
}

void norm_layout_into(Norm *norm, Work *work, Tensor out, bool takes_branch, Arena *activations,
                      Arena *scratch) {
    int64_t N = work->shape.N, D = work->config->d_model;
    norm->statistics = arena_2d(activations, F32, norm_statistics(work->config->norm), N);
    norm->out = out;
    if (takes_branch) norm->sum = arena_2d(activations, F32, N, D);
    size_t mark = arena_mark(scratch);
    norm->partial = arena_2d(scratch, F32, work->shape.dense_parts, norm->bias < 0 ? D : 2 * D);
    norm->columns = norm_node_statistics(work, work->config->norm, scratch);
    arena_release(scratch, mark);
}

static NormRule norm_rule(const Work *work) {
    return (NormRule){work->config->norm, (float)work->config->norm_eps};
}

static NormParams norm_values(const Norm *norm, Work *work) {
    return (NormParams){work_value(work, norm->weight),
                        norm->bias < 0 ? (Tensor){0} : work_value(work, norm->bias)};
}

Tensor norm_forward(Norm *norm, Work *work, Residual in) {
    if (in.branch.data && in.branch.dtype != norm->out.dtype) { // an output wider than the branch
        add(work->dev, norm->sum, in.x, in.branch);
        in = (Residual){.x = norm->sum};
    }
    norm->x = in.branch.data ? norm->sum : in.x;
    normalize_forward(work->dev, norm->out, norm->statistics, norm->sum, in.x, in.branch,
                      norm_values(norm, work), norm_rule(work));
    return norm->x;
}

void norm_backward(Norm *norm, Work *work, Tensor dx, Tensor dout) {
    NormGradient gradient = {norm->weight, norm->bias, norm->partial, norm->columns};
    norm_gradient(work, gradient, dx, dout, norm->x, norm->statistics, norm_values(norm, work),
                  norm_rule(work));
}
