// The list of activations of feed-forwards and experts. From it follow the enumeration, the words
// of model.activation, widths and FLOPs, and what the backends must have. A new one is a row here,
// its functions in cpu/activation_cpu.c and cuda/activation_cuda.cu and its reference in
// tests/kernels/reference.c; each of the three does not compile without.
//
//   ROW(value, word, inputs, meaning)
//     word    what a user writes, and the name of the functions
//     inputs  parts of F elements that make a row of the input: 1: x; 2: gate, then up
//     meaning as a formula, for help
#ifndef MOETRAIN_KERNELS_ACTIVATIONS_H
#define MOETRAIN_KERNELS_ACTIVATIONS_H

#define ACTIVATIONS(ROW)                                                                           \
    ROW(SWIGLU, swiglu, 2, "silu(gate) * up (arXiv:2002.05202)")                                   \
    ROW(RELU, relu, 1, "max(0, x)")                                                                \
    ROW(GELU, gelu, 1, "x * P(normal < x) (arXiv:1606.08415)")                                     \
    ROW(GELU_TANH, gelu_tanh, 1, "x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, as GPT-2")    \
    ROW(GEGLU, geglu, 2, "gelu(gate) * up (arXiv:2002.05202)")                                     \
    ROW(RELU2, relu2, 1, "max(0, x)^2 (arXiv:2109.08668)")                                         \
    ROW(SWIGLU_OAI, swiglu_oai, 2,                                                                 \
        "g sigmoid(1.702 g) * (u + 1), g = min(gate, 7), u = up within -7 and 7 (gpt-oss)")        \
    ROW(SWIGLU_LIMIT, swiglu_limit, 2,                                                             \
        "silu(g) * u, g = min(gate, 10), u = up within -10 and 10 (DeepSeek-V4)")

#define ROW(value, word, inputs, meaning) value,
typedef enum Activation { ACTIVATIONS(ROW) } Activation;
#undef ROW

#endif
