// The gate of attention's output that attention.gate names (Qwen3-Next; arXiv:2505.06708):
//   out = heads · σ(x W_gᵀ), a gate for each head or for each channel of the heads
#ifndef MOETRAIN_MODEL_ATTENTION_GATE_H
#define MOETRAIN_MODEL_ATTENTION_GATE_H

#include "model/linear.h"

// All zero where the model has none.
typedef struct OutputGate {
    Linear gate;       // weight (G, D)
    Tensor gates;      // (N, G) stored: before the sigmoid
    Tensor out;        // (N, H·d_value) stored
    Tensor dgates, dx; // (N, G), (N, D) stored: scratch of the backward pass
} OutputGate;

int64_t output_gate_width(const ModelConfig *config); // G; 0: none
void output_gate_declare(OutputGate *gate, Work *work);
void output_gate_layout(OutputGate *gate, Work *work, Arena *activations, Arena *scratch);
// What is projected: gate->out, or heads themselves.   x (N, D), heads (N, H·d_value) stored
Tensor output_gate_forward(OutputGate *gate, Work *work, Tensor heads, Tensor x);
// What output_gate_forward has returned.
Tensor output_gate_result(const OutputGate *gate, const Work *work, Tensor heads);
// dheads comes as the gradient of the result and leaves as that of heads; the gate's gradients are
// overwritten.
void output_gate_backward(OutputGate *gate, Work *work, Tensor dheads, Tensor heads);
// dx (N, D) += what the gate's input gets, after output_gate_backward.
void output_gate_backward_input(OutputGate *gate, Work *work, Tensor dx, Tensor x);

#endif
