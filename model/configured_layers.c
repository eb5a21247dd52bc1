#include "model/configured_layers.h"

#include "kernels/integers.h"
#include "model/multi_token_prediction.h"

// The layers of a configuration.
static void layers_of(const ModelConfig *config, int64_t layer, const LayerKind *kinds[2]) {
    kinds[0] = MIXERS[model_mixer(config, layer)].kind;
    kinds[1] = FEED_FORWARDS[model_feed_forward(config, layer)].kind;
}

LayerBound model_bound(const ModelConfig *config) {
    LayerBound bound = {.choices = 1};
    const LayerKind *kinds[2];
    for (int64_t layer = 0; layer < model_blocks(config); layer++) {
        layers_of(config, layer, kinds);
        for (int i = 0; i < 2; i++) kinds[i]->bound(config, layer, &bound);
        bound.parameters += 8 * (double)config->d_model; // norms
        bound.kept += 10 * (double)config->d_model;      // norms and the residual stream
    }
    mtp_bound(config, &bound);
    return bound;
}

int64_t model_experts_divisor(const ModelConfig *config) {
    int64_t divisor = 0;
    const LayerKind *kinds[2];
    for (int64_t layer = 0; layer < config->layers; layer++) {
        layers_of(config, layer, kinds);
        for (int i = 0; i < 2; i++)
            if (kinds[i]->experts)
                divisor = greatest_common_divisor(divisor, kinds[i]->experts(config, layer));
    }
    return divisor;
}

const char *model_unshared_experts(const ModelConfig *config, int64_t ranks) {
    const LayerKind *kinds[2];
    for (int64_t layer = 0; layer < config->layers; layer++) {
        layers_of(config, layer, kinds);
        for (int i = 0; i < 2; i++) {
            int64_t experts = kinds[i]->experts ? kinds[i]->experts(config, layer) : 0;
            if (experts > 0 && (kinds[i]->experts_evenly ? experts % ranks != 0 : experts < ranks))
                return kinds[i]->experts_name;
        }
    }
    return NULL;
}

int64_t model_uneven_experts(const ModelConfig *config, int64_t ranks) {
    const LayerKind *kinds[2];
    for (int64_t layer = 0; layer < config->layers; layer++) {
        layers_of(config, layer, kinds);
        for (int i = 0; i < 2; i++) {
            int64_t experts = kinds[i]->experts ? kinds[i]->experts(config, layer) : 0;
            if (experts % ranks != 0) return experts;
        }
    }
    return 0;
}

bool model_check_device(const ModelConfig *config, const Device *dev, Error *err) {
    const LayerKind *kinds[2];
    for (int64_t layer = 0; layer < config->layers; layer++) {
        layers_of(config, layer, kinds);
        for (int i = 0; i < 2; i++)
            if (kinds[i]->check_device && !kinds[i]->check_device(config, layer, dev, err))
                return false;
    }
    return true;
}

bool model_for_generation(ModelConfig *config, Error *err) {
    if (config->objective == OBJECTIVE_MASKED)
        return error_set(
            err, EXIT_CONFIG,
            "with train.objective=masked a token is predicted from both sides, so that "
            "nothing can be generated; train with train.objective=causal");
    const LayerKind *kinds[2];
    for (int64_t layer = 0; layer < config->layers; layer++) {
        layers_of(config, layer, kinds);
        for (int i = 0; i < 2; i++)
            if (kinds[i]->for_generation && !kinds[i]->for_generation(config, err)) return false;
    }
    return true;
}
