#include "kernels/quantize.h"

#include <math.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/f16.h"

static const struct KindFacts {
    Choice choice;
    DType type;
} KINDS[] = {
    [WEIGHTS_AS_TRAINED] = {{"trained", "as train.precision has them"}, F32},
    [WEIGHTS_F32] = {{"f32", "32 bits"}, F32},
    [WEIGHTS_BF16] = {{"bf16", "16 bits: the range of f32, 8 bits of precision"}, BF16},
    [WEIGHTS_FP16] = {{"fp16", "16 bits: up to 65504, 11 bits of precision"}, F16},
    [WEIGHTS_INT8] = {{"int8", "8 bits, and a scale for each row"}, I8},
};
const ChoiceTable WEIGHT_CHOICES = CHOICE_TABLE(KINDS);

DType weight_type(WeightKind kind) {
    return KINDS[kind].type;
}

bool weight_kind_find(const char *word, WeightKind *kind) {
    int found = choice_find(WEIGHT_CHOICES, word);
    if (found >= 0) *kind = (WeightKind)found;
    return found >= 0;
}

QuantizedMatrix quantized_range(QuantizedMatrix w, int64_t first, int64_t count) {
    int64_t N = w.values.shape[1];
    w.values = tensor_rows(w.values, first, count);
    if (w.scales.data) w.scales = tensor_range(w.scales, first * N, count * N);
    return w;
}

// ---- rows ---------------------------------------------------------------------------------------

// Whether all are numbers below `limit`; *bad is one that is not.
static bool all_below(const float *x, int64_t n, float limit, float *bad) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) < limit)) return *bad = x[i], false;
    return true;
}

static void quantize_row(int8_t *to, float *scale, const float *x, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(x[i]));
    *scale = largest / 127;
    for (int64_t i = 0; i < n; i++) {
        float q = *scale > 0 ? rintf(x[i] / *scale) : 0;
        to[i] = (int8_t)fminf(fmaxf(q, -127), 127); // of subnormal numbers a quotient is rough
    }
}

bool quantize_rows(DType type, void *values, float *scales, const float *from, int64_t rows,
                   int64_t depth, Error *err) {
    CHECK(type == BF16 || type == F16 || type == I8, "weights of %s", dtype_name(type));
    const float limit = type == F16 ? 65520.0f : INFINITY; // what is not rounded to infinity
    float bad = 0;
    bool ok = true;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *x = from + r * depth;
        float own = 0;
        if (!all_below(x, depth, limit, &own)) {
#pragma omp critical
            ok = false, bad = own;
        }
        if (type == BF16) round_to_bf16((uint16_t *)values + r * depth, x, depth);
        for (int64_t i = 0; type == F16 && i < depth; i++)
            ((uint16_t *)values)[r * depth + i] = f16_from_f32(x[i]);
        if (type == I8) quantize_row((int8_t *)values + r * depth, scales + r, x, depth);
    }
    return ok || error_set(err, EXIT_NUMERIC,
                           isfinite(bad)
                               ? "a weight is %g, and fp16 ends at 65504; take bf16 or int8"
                               : "a weight is %g, which computes nothing; take another checkpoint",
                           (double)bad);
}
