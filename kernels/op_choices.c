// The words of the enumerations in kernels.h that a user can name.
#include "kernels/kernels.h"

static const Choice ACTIVATIONS[] = {
    [SWIGLU] = {"swiglu", "silu(gate) * up, two matrices before the hidden layer"},
    [RELU] = {"relu", "max(0, x)"},
};
const ChoiceTable ACTIVATION_CHOICES = CHOICE_TABLE(ACTIVATIONS);

static const Choice ROUTERS[] = {
    [SOFTMAX_TOPK] = {"softmax_topk", "softmax over the chosen logits (Mixtral)"},
    [TOPK_SOFTMAX] = {"topk_softmax", "choose from the full softmax (Switch)"},
};
const ChoiceTable ROUTER_CHOICES = CHOICE_TABLE(ROUTERS);

static const Choice DROPS[] = {
    [DROP_POSITION] = {"position", "later tokens lose, second choices before first ones"},
    [DROP_PROBABILITY] = {"probability", "smaller gate weights lose"},
    [DROP_RANDOM] = {"random", "chance decides, the same on any ranks"},
};
const ChoiceTable DROP_CHOICES = CHOICE_TABLE(DROPS);
