#include "kernels/option_rows.h"
#include "model/model_config.h"

static void derive_d_ff(void *section) {
    ModelConfig *model = section;
    int64_t D = model->d_model;
    bool gated = activation_is_gated(model->activation);
    model->d_ff = gated ? (8 * D + 3 * 32 - 1) / (3 * 32) * 32 : 4 * D;
}

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("model.d_model", FUNCTION, d_model, DEFAULT("128"), RANGE(1, 65536),
        "width of the residual stream"),
    INTEGER("model.layers", FUNCTION, layers, DEFAULT("4"), RANGE(1, PER_LAYER_MAX),
        "blocks: norm, attention, norm, feed-forward"),
    CHOICE("model.activation", FUNCTION, activation, DEFAULT("swiglu"), OF(ACTIVATION_CHOICES),
        "of dense feed-forwards and of experts"),
    INTEGER("model.d_ff", FUNCTION, d_ff,
        DERIVED("8/3 model.d_model rounded up to a multiple of 32 with a gated model.activation, else 4 model.d_model",
                derive_d_ff), RANGE(1, 1e6),
        "hidden width of dense feed-forwards"),
    FLAG("model.tied_embeddings", FUNCTION, tied_embeddings, DEFAULT("true"),
        "one matrix for token embedding and output"),
    NUMBER("model.norm_eps", FUNCTION, norm_eps, DEFAULT("1e-05"), RANGE(1e-12, 1),
        "RMSNorm: added to the mean square"),
    NUMBER("model.init_std", STATE, init_std, DEFAULT("0.02"), RANGE(1e-9, 10),
        "standard deviation of initial weights"),
};
// clang-format on

const OptionSection MODEL_OPTIONS = SECTION(ROWS, NULL);
