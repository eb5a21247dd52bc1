#include "model/configured_layers.h"

#include <string.h>

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

// Whether one of the words is the key, "moe.*" any that begins so. NULL: there are none.
static bool lists_key(const char *const *words, const char *key, bool refused) {
    for (; words && *words; words++) {
        const char *word = *words;
        if ((word[0] == '!') != refused) continue;
        if (refused) word++;
        size_t length = strlen(word), begin = length - 1;
        if (word[begin] == '*' ? strncmp(word, key, begin) == 0 : strcmp(word, key) == 0)
            return true;
    }
    return false;
}

static bool row_reads(const LayerChoice *row, const char *key) {
    return lists_key(row->keys, key, false) && !lists_key(row->keys, key, true);
}

static bool any_row_reads(const LayerChoice *rows, ChoiceTable choices, const char *key) {
    for (int i = 0; i < choices.count; i++)
        if (row_reads(&rows[i], key)) return true;
    return false;
}

bool model_reads_key(const ModelConfig *config, const char *key) {
    for (int64_t layer = 0; layer < config->layers; layer++)
        if (row_reads(&MIXERS[model_mixer(config, layer)], key) ||
            row_reads(&FEED_FORWARDS[model_feed_forward(config, layer)], key))
            return true;
    return !any_row_reads(MIXERS, MIXER_CHOICES, key) &&
           !any_row_reads(FEED_FORWARDS, FEED_FORWARD_CHOICES, key);
}
