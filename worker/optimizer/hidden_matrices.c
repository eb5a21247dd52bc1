#include "worker/optimizer/hidden_matrices.h"

#include "kernels/integers.h"

// ---- shapes -------------------------------------------------------------------------------------

static void add_stack(HiddenMatrices *matrices, int64_t count, int64_t rows, int64_t columns) {
    MatrixStack *last =
        matrices->stack_count > 0 ? &matrices->stacks[matrices->stack_count - 1] : NULL;
    matrices->count += count;
    if (last && last->rows == rows) {
        last->count += count;
        return;
    }
    int64_t first = last ? last->first + last->count * last->rows * columns : 0;
    matrices->stacks[matrices->stack_count++] =
        (MatrixStack){.first = first, .count = count, .rows = rows, .columns = columns};
}

HiddenMatrices hidden_matrices_of(const Param *row) {
    CHECK(row->rank >= 2, "%s is no matrix", row->name);
    HiddenMatrices matrices = {.of_experts = row->rank == 3};
    int64_t rows = row->shape[row->rank - 2], columns = row->shape[row->rank - 1];
    int64_t outer = row->rank == 3 ? row->count : 1;
    int64_t fused[PARAM_FUSED_MAX] = {row->fused[0] > 0 ? row->fused[0] : rows};
    for (int i = 1; i < PARAM_FUSED_MAX; i++) fused[i] = row->fused[i];
    if (outer == 1 && row->rank == 2) {
        for (int i = 0; i < PARAM_FUSED_MAX; i++)
            if (fused[i] > 0) add_stack(&matrices, 1, fused[i], columns);
        return matrices;
    }
    CHECK(rows % fused[0] == 0, "%s: experts with fused matrices of different shapes", row->name);
    for (int i = 1; i < PARAM_FUSED_MAX; i++)
        CHECK(fused[i] == 0 || fused[i] == fused[0],
              "%s: experts with fused matrices of different shapes", row->name);
    add_stack(&matrices, outer * (rows / fused[0]), fused[0], columns);
    return matrices;
}

int64_t matrix_side(const MatrixStack *stack) {
    return smaller(stack->rows, stack->columns);
}

int64_t hidden_matrices_gram_elements(const HiddenMatrices *matrices) {
    int64_t most = 0;
    for (int i = 0; i < matrices->stack_count; i++) {
        int64_t side = matrix_side(&matrices->stacks[i]);
        most = larger(most, matrices->stacks[i].count * side * side);
    }
    return most;
}

// ---- tables -------------------------------------------------------------------------------------

void hidden_matrices_layout(HiddenMatrices *matrices, Arena *arena, Arena *host) {
    for (int i = 0; i < matrices->stack_count; i++) {
        MatrixStack *stack = &matrices->stacks[i];
        stack->row_offsets = arena_1d(arena, I64, stack->count + 1);
        stack->gram_offsets = arena_1d(arena, I64, stack->count + 1);
        stack->host_offsets[0] = arena_mirror(host, stack->row_offsets);
        stack->host_offsets[1] = arena_mirror(host, stack->gram_offsets);
    }
    matrices->offsets = arena_1d(arena, I64, matrices->count + 1);
    matrices->host_offsets = arena_mirror(host, matrices->offsets);
    matrices->squares = arena_1d(arena, F64, matrices->count);
}

static Segments fill_segments(Device *dev, Tensor offsets, Tensor host, int64_t rows,
                              bool one_dense) {
    int64_t *at = tensor_i64(host), count = host.shape[0] - 1;
    for (int64_t i = 0; i <= count; i++) at[i] = i * rows;
    device_upload(dev, offsets, host);
    Segments segments = {.groups = count, .parts = 1, .offsets = at, .device_offsets = offsets};
    if (one_dense) segments.device_offsets = (Tensor){0};
    return segments;
}

void hidden_matrices_fill(HiddenMatrices *matrices, Device *dev) {
    int64_t *at = tensor_i64(matrices->host_offsets), n = 0;
    for (int i = 0; i < matrices->stack_count; i++) {
        MatrixStack *stack = &matrices->stacks[i];
        bool one_dense = stack->count == 1 && !matrices->of_experts;
        stack->matrices =
            fill_segments(dev, stack->row_offsets, stack->host_offsets[0], stack->rows, one_dense);
        stack->grams = fill_segments(dev, stack->gram_offsets, stack->host_offsets[1],
                                     matrix_side(stack), one_dense);
        for (int64_t k = 0; k < stack->count; k++)
            at[n++] = stack->first + k * stack->rows * stack->columns;
        at[n] = stack->first + stack->count * stack->rows * stack->columns;
    }
    device_upload(dev, matrices->offsets, matrices->host_offsets);
}
