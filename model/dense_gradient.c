#include "model/dense_gradient.h"

Tensor node_sums(const Work *work, int node, int64_t offset, int64_t elements) {
    Tensor sums = tensor_rows(work->node_gradients, node - 1, 1);
    return tensor_range(tensor_reshape_1d(sums, tensor_elements(sums)), offset, elements);
}

Tensor node_gradient(const Work *work, int param, int share, int node) {
    if (node == 0) return work_use_gradient(work, param, share);
    const Param *row = &work->params->rows[param];
    int64_t offset = share == OWN_GRADIENT ? row->node_offset : work->node_share_offset[share];
    Tensor x = node_sums(work, node, offset, param_elements(row));
    return row->rank == 2 ? tensor_reshape_2d(x, row->shape[0], row->shape[1]) : x;
}

Tensor node_rows(const Work *work, int node, Tensor x) {
    int64_t of_part = x.shape[0] / work->shape.dense_parts;
    ShardRun parts = work->shape.nodes[node];
    return tensor_rows(x, of_part * parts.first, of_part * parts.count);
}

// A node's rows as those of a dense product.
static Segments node_segments(const Work *work, int node) {
    Segments rows = work_dense_rows(work);
    rows.parts = work->shape.nodes[node].count; // parts are equal, so that they end as the first do
    return rows;
}

void weight_gradient(Work *work, int weight, int share, Tensor dy, Tensor x) {
    for (int node = 0; node < work->shape.node_count; node++)
        matmul_backward_weight(work->dev, as_matrix(node_gradient(work, weight, share, node)),
                               node_rows(work, node, dy), node_rows(work, node, x),
                               node_segments(work, node));
}

void bias_gradient(Work *work, int bias, int share, Tensor dy) {
    for (int node = 0; node < work->shape.node_count; node++)
        bias_backward(work->dev, as_row(node_gradient(work, bias, share, node)),
                      node_rows(work, node, dy), node_segments(work, node));
}

void lookup_gradient(Work *work, int table, int share, Tensor dout, Tensor tokens, Tensor order) {
    for (int node = 0; node < work->shape.node_count; node++) {
        Tensor of_node = node_rows(work, node, tokens);
        int64_t room = tensor_elements(order) - tensor_elements(tokens) + tensor_elements(of_node);
        embedding_backward(work->dev, node_gradient(work, table, share, node),
                           node_rows(work, node, dout), of_node, work->shape.nodes[node].count,
                           tensor_range(order, 0, room));
    }
}

// ---- norms --------------------------------------------------------------------------------------

Tensor norm_node_statistics(const Work *work, NormKind kind, Arena *scratch) {
    bool one = work->shape.most_nodes == 1; // the same room on all ranks
    return arena_2d(scratch, F32, norm_statistics(kind), one ? 0 : work->shape.N);
}

// The node's columns of statistics (norm_statistics, N), one behind the other.
static Tensor columns_of_node(const Work *work, int node, Tensor room, Tensor statistics) {
    int64_t of_part = work->shape.N / work->shape.dense_parts, rows = statistics.shape[0];
    ShardRun parts = work->shape.nodes[node];
    int64_t width = of_part * parts.count;
    Tensor out = tensor_range(tensor_reshape_1d(room, tensor_elements(room)), 0, rows * width);
    out = tensor_reshape_2d(out, rows, width);
    copy_columns(work->dev, out, statistics,
                 (ColumnBlocks){.blocks = 1, .width = width, .x_first = of_part * parts.first});
    return out;
}

void norm_gradient(Work *work, NormGradient gradient, Tensor dx, Tensor dout, Tensor x,
                   Tensor statistics, NormParams params, NormRule rule) {
    int weight = gradient.weight, bias = gradient.bias, nodes = work->shape.node_count;
    for (int node = 0; node < nodes; node++) {
        NormParams sums = {.weight = node_gradient(work, weight, OWN_GRADIENT, node)};
        if (bias >= 0) sums.bias = node_gradient(work, bias, OWN_GRADIENT, node);
        Tensor columns =
            nodes == 1 ? statistics : columns_of_node(work, node, gradient.columns, statistics);
        normalize_backward(work->dev, node_rows(work, node, dx), sums, node_rows(work, node, dout),
                           node_rows(work, node, x), columns, params, rule,
                           node_rows(work, node, gradient.partial));
    }
}
