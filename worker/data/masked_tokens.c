#include "worker/data/masked_tokens.h"

#include "kernels/rng.h"

MaskRule mask_rule(const TrainConfig *config, int64_t vocabulary) {
    if (config->model.objective != OBJECTIVE_MASKED) return (MaskRule){0};
    return (MaskRule){.share = config->mask_share,
                      .mask_token = (int32_t)vocabulary,
                      .seed = (uint64_t)config->seed};
}

// What a token that was drawn becomes.
static int32_t replaced(const MaskRule *rule, int32_t token, const uint32_t words[4]) {
    if (words[1] % 10 < 8) return rule->mask_token;
    return words[1] % 10 == 8 ? (int32_t)(words[2] % (uint32_t)rule->mask_token) : token;
}

static void mask_drawn(const MaskRule *rule, RngStream stream, int64_t first, int64_t count,
                       int32_t *tokens, int32_t *targets) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t words[4];
        rng_words(stream, (uint64_t)(first + i), words);
        bool drawn = (double)words[0] < rule->share * 4294967296.0 && targets[i] != NO_TARGET;
        targets[i] = drawn ? tokens[i] : NO_TARGET;
        if (drawn) tokens[i] = replaced(rule, tokens[i], words);
    }
}

void mask_training_tokens(const MaskRule *rule, uint32_t epoch, int64_t first, int64_t count,
                          int32_t *tokens, int32_t *targets) {
    mask_drawn(rule, (RngStream){rule->seed, RNG_MASK, epoch, 0}, first, count, tokens, targets);
}

void mask_evaluation_tokens(const MaskRule *rule, int64_t first, int64_t count, int32_t *tokens,
                            int32_t *targets) {
    if (rule->passes == 0) {
        RngStream stream = {rule->seed, RNG_EVALUATION_MASK, 0, 0};
        mask_drawn(rule, stream, first, count, tokens, targets);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        bool masked = (first + i) % rule->passes == rule->pass && targets[i] != NO_TARGET;
        targets[i] = masked ? tokens[i] : NO_TARGET;
        if (masked) tokens[i] = rule->mask_token;
    }
}
