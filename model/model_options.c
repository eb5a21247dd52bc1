#include "kernels/integers.h"
#include "kernels/option_rows.h"
#include "model/block.h"
#include "model/layer_kind.h"

static void derive_d_ff(void *section) {
    ModelConfig *model = section;
    int64_t D = model->d_model;
    bool gated = activation_is_gated(model->activation);
    model->d_ff = gated ? (8 * D + 3 * 32 - 1) / (3 * 32) * 32 : 4 * D;
}

static void derive_init_depth(void *section) {
    ModelConfig *model = section;
    model->init_depth = model->init == WEIGHTS_NORMAL ? DEPTH_SCALED : DEPTH_EQUAL;
}

static void derive_embedding_init_std(void *section) {
    ModelConfig *model = section;
    model->embedding_init_std = model->init_std;
}

// What moe.experts, moe.every and moe.first say.
static void derive_feed_forward(void *section) {
    ModelConfig *model = section;
    int64_t experts = model->moe.experts.count, every = model->moe.every;
    int64_t period = every / greatest_common_divisor(every, experts) * experts;
    PerLayer list = {.count = period <= PER_LAYER_MAX ? period : model->layers};
    for (int64_t layer = 0; layer < list.count; layer++)
        list.values[layer] = (int32_t)moe_feed_forward(&model->moe, layer);
    per_layer_shorten(&list);
    model->feed_forward = list;
}

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("model.d_model", FUNCTION, d_model, DEFAULT("128"), RANGE(1, 65536),
        "width of the residual stream"),
    INTEGER("model.layers", FUNCTION, layers, DEFAULT("4"), RANGE(1, PER_LAYER_MAX),
        "blocks: a mixer, a feed-forward and their norms"),
    CHOICE("model.activation", FUNCTION, activation, DEFAULT("swiglu"), OF(ACTIVATION_CHOICES),
        "of dense feed-forwards and of experts"),
    INTEGER("model.d_ff", FUNCTION, d_ff,
        DERIVED("8/3 model.d_model rounded up to a multiple of 32 with a gated model.activation, else 4 model.d_model",
                derive_d_ff), RANGE(1, 1e6),
        "hidden width of dense feed-forwards"),
    CHOICES("model.mixer", FUNCTION, mixer, DEFAULT("attention"), OF(MIXER_CHOICES),
        "what takes tokens of other positions in, in each layer"),
    CHOICES("model.feed_forward", FUNCTION, feed_forward,
        DERIVED("moe where moe.every and moe.first say so and moe.experts is above 0, otherwise dense", derive_feed_forward),
        OF(FEED_FORWARD_CHOICES),
        "what works on each token alone, in each layer"),
    FLAG("model.tied_embeddings", FUNCTION, tied_embeddings, DEFAULT("true"),
        "one matrix for token embedding and output (Press and Wolf, arXiv:1608.05859)"),
    CHOICE("model.bias", FUNCTION, bias, DEFAULT("false"), OF(BIAS_CHOICES),
        "linear layers that add a bias; the router has its own key, moe.gate_bias"),
    CHOICE("model.norm", FUNCTION, norm, DEFAULT("rmsnorm"), OF(NORM_CHOICES),
        "of the residual stream, where model.norm_place says"),
    CHOICE("model.norm_place", FUNCTION, norm_place, DEFAULT("pre"), OF(NORM_PLACE_CHOICES),
        "where norms stand around f, each mixer and feed-forward"),
    NUMBER("model.norm_eps", FUNCTION, norm_eps, DEFAULT("1e-05"), RANGE(1e-12, 1),
        "added to the mean square (variance) that a norm divides by the root of"),
    CHOICE("model.init", STATE, init, DEFAULT("normal"), OF(WEIGHT_INIT_CHOICES),
        "standard deviation of the normal numbers that linear weights begin with; biases begin with 0"),
    NUMBER("model.init_std", STATE, init_std, DEFAULT("0.02"), RANGE(1e-9, 10),
        "standard deviation of initial weights (GPT-2: 0.02), with another model.init of those alone that are no linear weights"),
    CHOICE("model.init_depth", STATE, init_depth,
        DERIVED("scaled with model.init: normal, otherwise equal", derive_init_depth), OF(INIT_DEPTH_CHOICES),
        "initial weights back into the residual stream"),
    NUMBER("model.embedding_init_std", STATE, embedding_init_std, DERIVED("model.init_std", derive_embedding_init_std),
        RANGE(1e-9, 10),
        "standard deviation of initial embeddings, of tokens and of learned positions"),
    INTEGER("model.mup_base_width", FUNCTION, mup_base_width, DEFAULT("0"), RANGE(0, 65536),
        "muP (arXiv:2203.03466): the model.d_model at which learning rates and initial weights were tuned; with m = "
        "model.d_model / this, weights between hidden layers begin with 1/sqrt(m) and learn with 1/m of what they would, "
        "logits are multiplied by 1/m; all widths grow together; 0: off"),
    NUMBER("model.embedding_scale", FUNCTION, embedding_scale, DEFAULT("1"), RANGE(1e-6, 1e6),
        "multiplies the token embedding; sqrt(model.d_model) in Gemma (arXiv:2403.08295)"),
    NUMBER("model.logit_scale", FUNCTION, logit_scale, DEFAULT("1"), RANGE(1e-6, 1e6),
        "multiplies the head's product; 0.0625 in Command R (Cohere)"),
    NUMBER("model.logit_softcap", FUNCTION, logit_softcap, DEFAULT("0"), RANGE(0, 1e6),
        "cap * tanh(logits / cap), at most so much; 30 in Gemma 2 (arXiv:2408.00118); 0: none"),
};
// clang-format on

const OptionSection MODEL_OPTIONS = SECTION(ROWS, NULL);
