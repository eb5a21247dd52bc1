#include "model/model_config.h"

#include <math.h>

double model_residual_std(const ModelConfig *config) {
    return config->init_std / sqrt(2.0 * (double)config->layers);
}

bool model_layer_is_moe(const ModelConfig *config, int64_t layer) {
    const MoeConfig *moe = &config->moe;
    if (moe->experts == 0) return false;
    return layer % moe->every == (moe->first ? 0 : moe->every - 1);
}

int64_t model_moe_layers(const ModelConfig *config) {
    int64_t count = 0;
    for (int64_t layer = 0; layer < config->layers; layer++)
        if (model_layer_is_moe(config, layer)) count++;
    return count;
}

int64_t moe_capacity(const MoeConfig *config, int64_t tokens) {
    Rational cf = config->capacity_factor;
    if (cf.numerator == 0) return -1;
    int64_t above, below = cf.denominator * config->experts, capacity = tokens;
    if (!__builtin_mul_overflow(cf.numerator * config->top_k, tokens, &above))
        capacity = above / below + (above % below != 0);
    if (capacity < config->min_capacity) capacity = config->min_capacity;
    return capacity < tokens ? capacity : tokens; // an expert is chosen once by a token
}
