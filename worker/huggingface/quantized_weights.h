// Weights that a folder of Hugging Face's form holds in few bits, which are read as what they stand
// for, f32:
//   fp8    NAME F8_E4M3 (rows, columns) times NAME_scale_inv, a number for each block of so many
//          rows and columns (DeepSeek-V3, arXiv:2412.19437, §3.3; transformers' finegrained_fp8)
//   mxfp4  NAME_blocks U8 (experts, out, in / 32, 16), two numbers of E2M1 a byte, the lower half
//          first, times 2^(NAME_scales - 127), U8 (experts, out, in / 32): together NAME (experts,
//          in, out) (Open Compute Project's Microscaling Formats 1.0; transformers' mxfp4)
// Not collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_QUANTIZED_WEIGHTS_H
#define MOETRAIN_WORKER_HUGGINGFACE_QUANTIZED_WEIGHTS_H

#include "worker/huggingface/weight_place.h"

// How weights are stored in fewer bits, as quantization_config of config.json says.
typedef enum QuantizationKind { QUANTIZED_NOT, QUANTIZED_FP8, QUANTIZED_MXFP4 } QuantizationKind;
typedef struct Quantization {
    QuantizationKind kind;
    int64_t block[2]; // of QUANTIZED_FP8: rows and columns of a scale
} Quantization;

// Puts the tensors of a list and their scales, which become `used`, together under the names that
// the families' rules have; the order of the list is then to be made anew. *joined, what `tensor`
// of mxfp4 points to, is to be freed by the caller, in any case. False with exit 4 where one lacks
// the other, or shapes are not of each other, and where something is stored in few bits that
// `quantization` does not say.
bool quantized_weights_join(WeightPlace *places, int64_t count, const Quantization *quantization,
                            StoredTensor **joined, Error *err);

// Elements [first, first + count) of a place that has scales. False as safetensors_read.
bool quantized_weights_read(const Quantization *quantization, const WeightPlace *place,
                            int64_t first, int64_t count, float *out, Error *err);

#endif
