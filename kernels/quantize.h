// Weights in fewer bits than they were trained in, for models that only compute forward. A matrix
// is quantised by rows: bf16 and f16 round each number to nearest; i8 takes the nearest multiple of
// the row's largest number / 127 (LLM.int8, arXiv:2208.07339, without its outliers), so that an
// error is at most 1/254 of that number.
#ifndef MOETRAIN_KERNELS_QUANTIZE_H
#define MOETRAIN_KERNELS_QUANTIZE_H

#include "kernels/choice.h"
#include "kernels/tensor.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// Row n of matrix g stands for values[g, n] · scales[g · N + n], or with bf16 and f16 for values
// alone.
typedef struct QuantizedMatrix {
    Tensor values; // (N, K) or (G, N, K): bf16, f16 or i8
    Tensor scales; // (G · N) f32; without data but for i8
} QuantizedMatrix;

// How the weights of a model that computes forward are held.
typedef enum WeightKind {
    WEIGHTS_AS_TRAINED, // by train.precision
    WEIGHTS_F32,
    WEIGHTS_BF16,
    WEIGHTS_FP16,
    WEIGHTS_INT8,
    WEIGHT_KINDS
} WeightKind;
extern const ChoiceTable WEIGHT_CHOICES;
DType weight_type(WeightKind kind);
// False where the word is of no kind.
bool weight_kind_find(const char *word, WeightKind *kind);

// Matrices [first, first + count) of a (G, N, K) one.
QuantizedMatrix quantized_range(QuantizedMatrix w, int64_t first, int64_t count);
// Quantises `rows` rows of `from` (rows, depth) into host memory, with i8 scales (rows). The same
// bits on any number of threads. False with exit 6 where f16 has no such number, or it is none.
bool quantize_rows(DType type, void *values, float *scales, const float *from, int64_t rows,
                   int64_t depth, Error *err);

#ifdef __cplusplus
}
#endif

#endif
