// Muon (Keller Jordan 2024, https://kellerjordan.github.io/posts/muon): the momentum of each hidden
// matrix is replaced by the nearest matrix with orthogonal rows or columns, nearly: five steps of
// Newton–Schulz bring its singular values to between 0.7 and 1.2. Of Moonlight (arXiv:2502.16982):
// decoupled decay, and the factor 0.2 · sqrt(max(rows, columns)), which gives an update the RMS of
// AdamW's, so that train.lr and train.weight_decay are the same for all parameters.
//
//   m = momentum · m + g;  u = g + momentum · m (Nesterov) or m
//   X₀ = u / (‖u‖ + 1e-7);  A = X Xᵀ;  X ← (a I + b A + c A²) X, five times
//   w -= lr · (0.2 · sqrt(max(rows, columns)) · X + weight_decay · w)
//
// Embeddings, head, router, norms and biases go by AdamW, as in both. Each expert is a matrix of
// its own, and so are query, key, value, gate and up, although they lie in one parameter: they are
// different maps, whose updates would otherwise share one spectrum. The heads of one projection
// stay together, as in both sources. All of it in f32.
#include <math.h>

#include "worker/optimizer/optimizer_rule.h"

enum { STEPS = 5 };
static const double COEFFICIENTS[] = {3.4445, -4.7750, 2.0315}; // a, b, c of Jordan
static const float EPS = 1e-7f;

static Tensor range_2d(Tensor x, int64_t first, int64_t rows, int64_t columns) {
    return tensor_reshape_2d(tensor_range(x, first, rows * columns), rows, columns);
}
static Tensor by_matrix(Tensor x, int64_t count) {
    return tensor_reshape_3d(x, count, x.shape[0] / count, x.shape[1]);
}

// One step from x to y, both (count · rows, columns), times `factor`. The smaller side has the Gram
// matrix: XᵀX where columns are fewer, with y = x (a I + b A + c A²). A and A² are symmetric, so
// that products with their transposes do.
static void newton_schulz(Device *dev, const MatrixStack *stack, Tensor y, Tensor x,
                          const Tensor gram[2], double factor) {
    int64_t count = stack->count, side = matrix_side(stack);
    bool wide = stack->rows <= stack->columns;
    Tensor a = range_2d(gram[0], 0, count * side, side);
    Tensor b = range_2d(gram[1], 0, count * side, side);
    if (wide)
        matmul_forward(dev, a, x, by_matrix(x, count), stack->matrices);
    else
        matmul_backward_weight(dev, by_matrix(a, count), x, x, stack->matrices);
    matmul_forward(dev, b, a, by_matrix(a, count), stack->grams);
    matrix_polynomial(dev, by_matrix(b, count), by_matrix(a, count),
                      (MatrixPolynomial){(float)(factor * COEFFICIENTS[0]),
                                         (float)(factor * COEFFICIENTS[1]),
                                         (float)(factor * COEFFICIENTS[2])});
    if (wide)
        matmul_backward_input(dev, y, b, by_matrix(x, count), stack->matrices);
    else
        matmul_forward(dev, y, x, by_matrix(b, count), stack->matrices);
}

static void orthogonalize(const OptimizerUpdate *update, const MatrixStack *stack) {
    int64_t rows = stack->count * stack->rows;
    for (int step = 0; step < STEPS; step++) {
        Tensor x = range_2d(update->scratch[step % 2], stack->first, rows, stack->columns);
        Tensor y = range_2d(update->scratch[(step + 1) % 2], stack->first, rows, stack->columns);
        double longer = (double)(stack->rows > stack->columns ? stack->rows : stack->columns);
        newton_schulz(update->dev, stack, y, x, update->gram,
                      step == STEPS - 1 ? 0.2 * sqrt(longer) : 1);
    }
}

static void update_matrices(const OptimizerUpdate *update) {
    const OptimizerConfig *config = update->config;
    const HiddenMatrices *matrices = update->matrices;
    Device *dev = update->dev;
    int64_t n = update->values.shape[0];
    Tensor direction = update->scratch[0], result = update->scratch[STEPS % 2];
    Momentum momentum = {.momentum = (float)config->momentum,
                         .nesterov = config->nesterov,
                         .grad_scale = (float)update->grad_scale};
    momentum_direction(dev, direction, update->gradients, update->states[0], momentum);
    sum_of_squares(dev, matrices->squares, direction, matrices->offsets, (Tensor){0});
    normalize_segments(dev, direction, matrices->squares, matrices->offsets, EPS);
    // Padding has a step of 0.
    fill_zero(dev, tensor_range(result, n - PARAM_ALIGNMENT, PARAM_ALIGNMENT));
    for (int i = 0; i < matrices->stack_count; i++) orthogonalize(update, &matrices->stacks[i]);
    DecayedStep step;
    update_rates(update, step.lr, step.weight_decay);
    decayed_step(dev, update->values, update->copy, result, update->groups, step);
}

const OptimizerRule MUON = {.states = {"optimizer/m"}, .update = update_matrices, .others = &ADAMW};
