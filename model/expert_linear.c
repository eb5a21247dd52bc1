#include "model/expert_linear.h"

static int64_t end_of(ExpertChunk chunk) {
    return chunk.rows.offsets[chunk.rows.groups * chunk.rows.parts];
}
// All rows up to a chunk's last.
static Tensor rows_up_to(Tensor buffer, ExpertChunk chunk) {
    return tensor_rows(buffer, 0, end_of(chunk));
}
Tensor expert_rows_of(Tensor buffer, ExpertChunk chunk) {
    int64_t first = chunk.rows.offsets[0];
    return tensor_rows(buffer, first, end_of(chunk) - first);
}
// The chunk's matrices or biases.
static Tensor experts_of(Tensor weights, ExpertChunk chunk) {
    return tensor_rows(weights, chunk.first_expert, chunk.rows.groups);
}

void expert_linear_forward(Work *work, Linear linear, Tensor y, Tensor x, ExpertChunk chunk) {
    y = rows_up_to(y, chunk);
    linear_multiply(work, linear, y, rows_up_to(x, chunk), chunk.rows, chunk.first_expert);
    if (linear.bias >= 0)
        bias_forward(work->dev, y, experts_of(work_value(work, linear.bias), chunk), chunk.rows);
}

void expert_linear_backward(Work *work, Linear linear, Tensor dx, Tensor dy, Tensor x,
                            ExpertChunk chunk) {
    Tensor weights = experts_of(work_matrix(work, linear.weight), chunk);
    Tensor dweights = experts_of(work_gradient(work, linear.weight), chunk);
    dy = rows_up_to(dy, chunk);
    matmul_backward_weight(work->dev, dweights, dy, rows_up_to(x, chunk), chunk.rows);
    if (linear.bias >= 0)
        bias_backward(work->dev, experts_of(work_gradient(work, linear.bias), chunk), dy,
                      chunk.rows);
    matmul_backward_input(work->dev, rows_up_to(dx, chunk), dy, weights, chunk.rows);
}

static void forward(void *linear, Work *work, Tensor out, Tensor x, ExpertChunk chunk) {
    expert_linear_forward(work, *(Linear *)linear, out, x, chunk);
}

static void backward(void *linear, Work *work, Tensor dx, Tensor dout, Tensor x,
                     ExpertChunk chunk) {
    expert_linear_backward(work, *(Linear *)linear, dx, dout, x, chunk);
}

const ExpertRule LINEAR_EXPERTS = {.forward = forward, .backward = backward};
