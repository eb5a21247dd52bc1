// The matrices that one parameter holds, for rules that take each as a matrix and not as a list of
// elements: one, those that are fused in it, or those of each expert.
#ifndef MOETRAIN_WORKER_OPTIMIZER_HIDDEN_MATRICES_H
#define MOETRAIN_WORKER_OPTIMIZER_HIDDEN_MATRICES_H

#include "kernels/kernels.h"
#include "model/params.h"

// Matrices of one shape that follow each other. With several of them, or of experts, products go by
// segments, so that an expert has the same bits whatever experts its rank has beside it.
typedef struct MatrixStack {
    int64_t first; // element of the parameter
    int64_t count, rows, columns;
    Segments matrices;   // of rows: (count · rows, columns)
    Segments grams;      // of rows of their Gram matrices: (count · side, side)
    Tensor row_offsets;  // i64 (count + 1), of matrices
    Tensor gram_offsets; // i64 (count + 1), of grams
    Tensor host_offsets[2];
} MatrixStack;

typedef struct HiddenMatrices {
    MatrixStack stacks[PARAM_FUSED_MAX];
    int stack_count;
    bool of_experts;
    int64_t count;  // of matrices in all stacks
    Tensor offsets; // i64 (count + 1): the element where each begins
    Tensor squares; // f64 (count): room for ‖·‖² of each
    Tensor host_offsets;
} HiddenMatrices;

// Those of this rank's share of a parameter. Not collective.
HiddenMatrices hidden_matrices_of(const Param *row);
// The smaller side of a stack's matrices.
int64_t matrix_side(const MatrixStack *stack);
// Elements of the largest stack's Gram matrices.
int64_t hidden_matrices_gram_elements(const HiddenMatrices *matrices);
// Places the tables in the arenas, the host's side of them in `host`; then fills them.
void hidden_matrices_layout(HiddenMatrices *matrices, Arena *arena, Arena *host);
void hidden_matrices_fill(HiddenMatrices *matrices, Device *dev);

#endif
