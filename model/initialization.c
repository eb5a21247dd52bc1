#include "model/initialization.h"

#include <math.h>

static const Choice WEIGHT_INITS[] = {
    [WEIGHTS_NORMAL] = {"normal", "of standard deviation model.init_std (GPT-2)"},
    [WEIGHTS_KAIMING] = {"kaiming", "sqrt(2 / inputs) (He et al., arXiv:1502.01852)"},
    [WEIGHTS_XAVIER] = {"xavier", "sqrt(2 / (inputs + outputs)) (Glorot and Bengio 2010)"},
};
const ChoiceTable WEIGHT_INIT_CHOICES = CHOICE_TABLE(WEIGHT_INITS);

static const Choice INIT_DEPTHS[] = {
    [DEPTH_SCALED] = {"scaled", "smaller by sqrt(2 model.layers) (GPT-2)"},
    [DEPTH_EQUAL] = {"equal", "as of all other weights"},
};
const ChoiceTable INIT_DEPTH_CHOICES = CHOICE_TABLE(INIT_DEPTHS);

// 1 / m; 1 without muP.
static double width_share(const ModelConfig *config) {
    if (config->mup_base_width == 0) return 1;
    return (double)config->mup_base_width / (double)config->d_model;
}

// Rows of each of the fused matrices; where these differ, in the mean.
static double fan_out_of(const Param *weight) {
    int parts = 0;
    for (int i = 0; i < PARAM_FUSED_MAX; i++) parts += weight->fused[i] > 0;
    return (double)weight->shape[weight->rank - 2] / (double)(parts > 0 ? parts : 1);
}

void init_linear(const ModelConfig *config, Param *weight) {
    double usual = weight->init_std / config->init_std, share = width_share(config);
    double fan_in = (double)weight->shape[weight->rank - 1];
    bool hidden = weight->group == GROUP_HIDDEN, follows_width = hidden || weight->readout;
    switch (config->init) {
    case WEIGHTS_NORMAL:
        if (follows_width) weight->init_std *= sqrt(share);
        break;
    case WEIGHTS_KAIMING:
        weight->init_std = usual * sqrt(2 / fan_in);
        break;
    case WEIGHTS_XAVIER:
        weight->init_std = usual * sqrt(2 / (fan_in + fan_out_of(weight)));
        break;
    }
    if (weight->readout) weight->init_std *= sqrt(share);
    if (follows_width) weight->lr_scale = (float)share;
}

double init_embedding_std(const ModelConfig *config) {
    return config->embedding_init_std > 0 ? config->embedding_init_std : config->init_std;
}

double logit_factor(const ModelConfig *config) {
    return (config->logit_scale > 0 ? config->logit_scale : 1) * width_share(config);
}

double mup_attention_scale(const ModelConfig *config) {
    return sqrt((double)config->mup_base_d_head) / (double)config->attention.shape.d_head;
}
