#include "model/linear.h"

void linear_forward(Work *work, int weight, Tensor y, Tensor x) {
    matmul_forward(work->dev, y, x, as_matrix(work_matrix(work, weight)), work_dense_rows(work));
}

void linear_backward(Work *work, int weight, Tensor dx, Tensor dy, Tensor x) {
    Segments rows = work_dense_rows(work);
    matmul_backward_weight(work->dev, as_matrix(work_gradient(work, weight)), dy, x, rows);
    if (dx.data)
        matmul_backward_input(work->dev, dx, dy, as_matrix(work_matrix(work, weight)), rows);
}
