#include "worker/data/tokens_ahead.h"

#include "kernels/kernels.h"

// Whether row i's window, and its document, goes on with the next row.
static bool goes_on(const int32_t *targets, const int32_t *positions, int64_t i, int64_t T) {
    bool inside = (i + 1) % T != 0 && targets[i] != NO_TARGET;
    return inside && (!positions || positions[i + 1] > 0);
}

void tokens_ahead(int64_t modules, int64_t windows, int64_t T, const int32_t *targets,
                  const int32_t *positions, int32_t *tokens, int32_t *targets_of) {
    const int64_t N = windows * T;
    const int32_t *before = targets; // what the model, or the module before, is to predict
    for (int64_t k = 0; k < modules; k++) {
        for (int64_t i = 0; i < N; i++) {
            tokens[k * N + i] = before[i] == NO_TARGET ? 0 : before[i];
            targets_of[k * N + i] = goes_on(targets, positions, i, T) ? before[i + 1] : NO_TARGET;
        }
        before = targets_of + k * N;
    }
}
