#include "model/attention_gate.h"

static const Choice GATES[] = {
    [GATE_NONE] = {"none", "nothing"},
    [GATE_HEAD] = {"head", "a sigmoid of the layer's input for each head"},
    [GATE_ELEMENT] = {"element", "a sigmoid of it for each channel of each head (Qwen3-Next)"},
};
const ChoiceTable ATTENTION_GATE_CHOICES = CHOICE_TABLE(GATES);

int64_t output_gate_width(const ModelConfig *config) {
    AttentionShape s = config->attention.shape;
    switch (config->attention.gate) {
    case GATE_NONE:
        break;
    case GATE_HEAD:
        return s.heads;
    case GATE_ELEMENT:
        return s.heads * s.d_value;
    }
    return 0;
}

static bool is_none(const Work *work) {
    return work->config->attention.gate == GATE_NONE;
}

void output_gate_declare(OutputGate *gate, Work *work) {
    if (is_none(work)) return;
    gate->gate =
        linear_declare(work,
                       (Param){.rank = 2,
                               .shape = {output_gate_width(work->config), work->config->d_model},
                               .group = GROUP_HIDDEN,
                               .init_std = work->config->init_std},
                       false, "attention.gate");
}

void output_gate_layout(OutputGate *gate, Work *work, Arena *activations, Arena *scratch) {
    if (is_none(work)) return;
    AttentionShape s = work->config->attention.shape;
    int64_t N = work->shape.N, G = output_gate_width(work->config);
    gate->gates = arena_2d(activations, work->storage, N, G);
    gate->out = arena_2d(activations, work->storage, N, s.heads * s.d_value);
    gate->dgates = arena_2d(scratch, work->storage, N, G);
    gate->dx = arena_2d(scratch, work->storage, N, work->config->d_model);
}

Tensor output_gate_forward(OutputGate *gate, Work *work, Tensor heads, Tensor x) {
    if (is_none(work)) return heads;
    linear_forward(work, gate->gate, gate->gates, x);
    gate_forward(work->dev, gate->out, heads, gate->gates);
    return gate->out;
}

Tensor output_gate_result(const OutputGate *gate, const Work *work, Tensor heads) {
    return is_none(work) ? heads : gate->out;
}

void output_gate_backward(OutputGate *gate, Work *work, Tensor dheads, Tensor heads) {
    if (is_none(work)) return;
    gate_backward(work->dev, dheads, gate->dgates, dheads, heads, gate->gates);
}

void output_gate_backward_input(OutputGate *gate, Work *work, Tensor dx, Tensor x) {
    if (is_none(work)) return;
    linear_backward(work, gate->gate, gate->dx, gate->dgates, x);
    add(work->dev, dx, dx, gate->dx);
}
