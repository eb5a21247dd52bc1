// The norm of queries and keys that attention.qk_norm names (kernels/attention_ops.h), between
// their projection and what turns them.
#ifndef MOETRAIN_MODEL_QK_NORM_H
#define MOETRAIN_MODEL_QK_NORM_H

#include "model/work.h"

// All zero where the model has none.
typedef struct QueryKeyNorm {
    int q_weight, k_weight; // parameters (qk_norm_q_width), (qk_norm_k_width)
    Tensor x;               // (N, W) stored: the projected rows
    Tensor rstd;            // (N, groups)
    Tensor dq, dk;          // (N, widths of the weights) scratch of the backward pass
} QueryKeyNorm;

void query_key_norm_declare(QueryKeyNorm *norm, Work *work);
void query_key_norm_layout(QueryKeyNorm *norm, Work *work, Arena *activations, Arena *scratch);
// Where the rows (N, W) of the projection go that query_key_norm_forward makes `out` of: out itself
// where there is no norm.
Tensor query_key_norm_input(const QueryKeyNorm *norm, const Work *work, Tensor out);
void query_key_norm_forward(QueryKeyNorm *norm, Work *work, Tensor out);
// dx (N, W) stored comes as the gradient of out and leaves as that of the projected rows.
void query_key_norm_backward(QueryKeyNorm *norm, Work *work, Tensor dx);

#endif
