#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// Rows of f32, or of bf16 that pass through f32 scratch.
typedef struct GateRows {
    float *x, *dout, *gate; // (W), (W), (G)
} GateRows;

static GateRows rows_in_scratch(int64_t W, int64_t G) {
    float *memory = thread_scratch((size_t)(2 * W + G) * sizeof *memory);
    return (GateRows){memory, memory + W, memory + 2 * W};
}

void gate_forward_cpu(Device *dev, Tensor out, Tensor x, Tensor gate) {
    int64_t N = x.shape[0], W = x.shape[1], G = gate.shape[1], width = W / G;
    bool narrow = x.dtype == BF16;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        GateRows row = narrow ? rows_in_scratch(W, G) : (GateRows){0};
        if (narrow) {
            widen_bf16(row.x, tensor_bf16(x) + n * W, W);
            widen_bf16(row.gate, tensor_bf16(gate) + n * G, G);
        }
        const float *in = narrow ? row.x : tensor_f32(x) + n * W;
        const float *gates = narrow ? row.gate : tensor_f32(gate) + n * G;
        float *to = narrow ? row.x : tensor_f32(out) + n * W;
        if (width == 1) {
            for (int64_t g = 0; g < G; g++) to[g] = in[g] * sigmoid_f32(gates[g]);
        } else {
            for (int64_t g = 0; g < G; g++) {
                float open = sigmoid_f32(gates[g]);
                for (int64_t c = g * width; c < (g + 1) * width; c++) to[c] = in[c] * open;
            }
        }
        if (narrow) round_to_bf16(tensor_bf16(out) + n * W, to, W);
    }
}

// dx comes as dout; with s = σ(gate): dgate = s (1 - s) Σ dout · x, dx = dout · s.
static void backward_row(float *dx, const float *x, const float *gate, float *dgate, int64_t G,
                         int64_t width) {
    if (width == 1) {
#pragma omp simd // dgate may be gate
        for (int64_t g = 0; g < G; g++) {
            float open = sigmoid_f32(gate[g]);
            dgate[g] = open * (1.0f - open) * dx[g] * x[g];
            dx[g] *= open;
        }
        return;
    }
    for (int64_t g = 0; g < G; g++) {
        float open = sigmoid_f32(gate[g]);
        dgate[g] = open * (1.0f - open) * dot_product(dx + g * width, x + g * width, width);
        for (int64_t c = g * width; c < (g + 1) * width; c++) dx[c] *= open;
    }
}

void gate_backward_cpu(Device *dev, Tensor dx, Tensor dgate, Tensor dout, Tensor x, Tensor gate) {
    int64_t N = x.shape[0], W = x.shape[1], G = gate.shape[1], width = W / G;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        if (x.dtype == F32) {
            float *to = tensor_f32(dx) + n * W;
            if (dx.data != dout.data) memcpy(to, tensor_f32(dout) + n * W, (size_t)W * sizeof *to);
            backward_row(to, tensor_f32(x) + n * W, tensor_f32(gate) + n * G,
                         tensor_f32(dgate) + n * G, G, width);
        } else {
            GateRows row = rows_in_scratch(W, G);
            widen_bf16(row.x, tensor_bf16(x) + n * W, W);
            widen_bf16(row.dout, tensor_bf16(dout) + n * W, W);
            widen_bf16(row.gate, tensor_bf16(gate) + n * G, G);
            backward_row(row.dout, row.x, row.gate, row.gate, G, width);
            round_to_bf16(tensor_bf16(dx) + n * W, row.dout, W);
            round_to_bf16(tensor_bf16(dgate) + n * G, row.gate, G);
        }
    }
}
