#include "model/norm.h"

void norm_declare(Norm *norm, Work *work, const char *name) {
    int64_t D = work->config->d_model;
    norm->weight = param_add(
        work->params, (Param){.rank = 1, .shape = {D}, .init = INIT_ONES, .group = GROUP_NO_DECAY},
        "%s", name);
}

void norm_layout(Norm *norm, Work *work, bool takes_branch, Arena *activations, Arena *scratch) {
    int64_t N = work->shape.N, D = work->config->d_model;
    norm->rstd = arena_1d(activations, F32, N);
    norm->out = arena_2d(activations, work->storage, N, D);
    if (takes_branch) norm->sum = arena_2d(activations, F32, N, D);
    size_t mark = arena_mark(scratch);
    norm->partial = arena_2d(scratch, F32, work->shape.dense_parts, D);
    arena_release(scratch, mark);
}

Tensor norm_forward(Norm *norm, Work *work, Residual in) {
    norm->x = in.branch.data ? norm->sum : in.x;
    rmsnorm_forward(work->dev, norm->out, norm->rstd, norm->sum, in.x, in.branch,
                    work_value(work, norm->weight), (float)work->config->norm_eps);
    return norm->x;
}

void norm_backward(Norm *norm, Work *work, Tensor dx, Tensor dout) {
    rmsnorm_backward(work->dev, dx, work_gradient(work, norm->weight), dout, norm->x, norm->rstd,
                     work_value(work, norm->weight), work->shape.dense_parts, norm->partial);
}
