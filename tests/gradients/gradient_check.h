// Directional finite differences of a whole tiny model on one rank.
//
// For every parameter tensor w and several directions v: (L(w + h v) - L(w - h v)) / 2h against the
// analytic gradient · v, with L = terms.loss · cross-entropy + Σ_layers (α · balance + c · z),
// summed in double from the statistics. The forward pass is f32; see gradient_check.c for step size
// and tolerance.
//
// The balance loss has no gradient through f (the shares of choices), and finite differences do not
// see one either: f changes only when a token's choice flips, and evaluations in which any choice
// flips are thrown away.
#ifndef MOETRAIN_TESTS_GRADIENTS_GRADIENT_CHECK_H
#define MOETRAIN_TESTS_GRADIENTS_GRADIENT_CHECK_H

#include "model/model.h"

typedef struct GradientCase {
    const char *sentence; // what holds when it passes
    ModelConfig model;
    int64_t micro_batches;
    int64_t shards;
    // The loss without cross-entropy: only the balance and z terms of `model`, whose gradient is
    // what is left when the gradient with both coefficients at zero is taken away.
    bool router_terms_only;
    bool documents; // sequences of several, masked
} GradientCase;

// A small model with experts in every layer, dropless; cases change what they are about.
ModelConfig tiny_model(void);

// Prints a line a case: of all, of those whose sentence has the program's argument in it, or of one
// in N by "every=N".
// Returns the program's exit code.
int gradient_cases_run(int argc, char **argv, const GradientCase *cases, int count);

#endif
