// The list of norms of the residual stream. From it follow the enumeration, the words of
// model.norm, what a norm has of parameters and keeps for the backward pass, and what the backends
// must have. A new one is a row here, its functions in cpu/norm_cpu.c and cuda/norm_cuda.cu and its
// reference in tests/kernels/reference.c; each of the three does not compile without.
//
//   ROW(value, word, params, statistics, meaning)
//     word       what a user writes, and the name of the functions
//     params     1: a weight; 2: and a bias, (D) each
//     statistics numbers of each row that the backward pass needs: 1: what x is multiplied by,
//                rstd; 2: and what is subtracted before, the mean
//     meaning    as a formula, for help
#ifndef MOETRAIN_KERNELS_NORMS_H
#define MOETRAIN_KERNELS_NORMS_H

#define NORMS(ROW)                                                                                 \
    ROW(RMSNORM, rmsnorm, 1, 1, "x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467)")           \
    ROW(LAYERNORM, layernorm, 2, 2,                                                                \
        "(x - mean) / sqrt(variance + eps) * weight + bias (arXiv:1607.06450)")

#define ROW(value, word, params, statistics, meaning) value,
typedef enum NormKind { NORMS(ROW) } NormKind;
#undef ROW

#endif
