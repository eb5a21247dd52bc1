#include "model/linear.h"

#include <stdarg.h>
#include <stdio.h>

#include "model/dense_gradient.h"
#include "model/initialization.h"

Linear linear_share(Work *work, int weight, bool has_bias, const char *name) {
    work->params->rows[weight].multiplies = true;
    if (!has_bias) return (Linear){.weight = weight, .bias = -1};
    const Param *row = &work->params->rows[weight];
    Param bias = {.kind = row->kind,
                  .rank = row->rank - 1,
                  .init = INIT_ZEROS,
                  .group = GROUP_NO_DECAY,
                  .places = row->places,
                  .active = row->active};
    for (int i = 0; i < bias.rank; i++) bias.shape[i] = row->shape[i];
    return (Linear){.weight = weight, .bias = param_add(work->params, bias, "%s.bias", name)};
}

Linear linear_declare(Work *work, Param weight, bool has_bias, const char *name_format, ...) {
    char name[PARAM_NAME_BYTES];
    va_list args;
    va_start(args, name_format);
    int length = vsnprintf(name, sizeof name, name_format, args);
    va_end(args);
    CHECK(length < (int)sizeof name, "parameter name %s… is too long", name);
    init_linear(work->config, &weight);
    return linear_share(work, param_add(work->params, weight, "%s", name), has_bias, name);
}

void linear_multiply(Work *work, Linear linear, Tensor y, Tensor x, Segments rows, int64_t first) {
    int weight = linear.weight;
    if (work->narrow) {
        QuantizedMatrix narrow = work->narrow->matrices[weight];
        matmul_quantized(work->dev, y, x, quantized_range(narrow, first, rows.groups), rows);
        return;
    }
    Tensor w = work_matrix(work, weight);
    if (w.rank == 2) w = as_matrix(w);
    matmul_forward(work->dev, y, x, tensor_rows(w, first, rows.groups), rows);
}

void linear_forward(Work *work, Linear linear, Tensor y, Tensor x) {
    Segments rows = work_dense_rows(work);
    linear_multiply(work, linear, y, x, rows, 0);
    if (linear.bias >= 0) bias_forward(work->dev, y, as_row(work_value(work, linear.bias)), rows);
}

void linear_backward_shared(Work *work, Linear linear, int weight_share, int bias_share, Tensor dx,
                            Tensor dy, Tensor x) {
    weight_gradient(work, linear.weight, weight_share, dy, x);
    if (linear.bias >= 0) bias_gradient(work, linear.bias, bias_share, dy);
    if (dx.data)
        matmul_backward_input(work->dev, dx, dy, as_matrix(work_matrix(work, linear.weight)),
                              work_dense_rows(work));
}

void linear_backward(Work *work, Linear linear, Tensor dx, Tensor dy, Tensor x) {
    linear_backward_shared(work, linear, OWN_GRADIENT, OWN_GRADIENT, dx, dy, x);
}
