#include "model/rope.h"

#include <math.h>

static const Choice SCALINGS[] = {
    [ROPE_AS_TRAINED] = {"none", "the angles that theta gives"},
    [ROPE_LINEAR] = {"linear", "positions are divided by attention.rope_factor (arXiv:2306.15595)"},
    [ROPE_NTK] = {"ntk", "theta times rope_factor^(d / (d - 2)) of d channels turned (NTK-aware)"},
    [ROPE_YARN] = {"yarn", "slow pairs as linear, fast ones as they are (arXiv:2309.00071)"},
    [ROPE_LLAMA3] = {"llama3", "likewise, mixed by their turns (Llama 3.1, arXiv:2407.21783)"},
};
const ChoiceTable ROPE_SCALING_CHOICES = CHOICE_TABLE(SCALINGS);

int64_t rope_pairs(const RopeConfig *config, int64_t d_head) {
    if (config->fraction <= 0) return d_head / 2;
    return (int64_t)((double)d_head * config->fraction + 1e-9) / 2;
}

// The number of the pair, not whole, that turns so many times over the original context.
static double pair_that_turns(const RopeConfig *config, double theta, double turns, int64_t pairs) {
    double positions = (double)config->original_context / (2 * M_PI * turns);
    return (double)pairs * log(positions) / log(theta);
}

// 0: pair i turns as it was trained; 1: it is slowed by the whole factor.
static double yarn_share(const RopeConfig *config, double theta, int64_t i, int64_t pairs) {
    double first = pair_that_turns(config, theta, config->beta_fast, pairs);
    double last = pair_that_turns(config, theta, config->beta_slow, pairs);
    if (config->truncate) {
        first = floor(first);
        last = ceil(last);
    }
    first = fmax(first, 0);
    last = fmin(last, (double)(2 * pairs - 1)); // as published: channels, not pairs
    if (last <= first) last = first + 0.001;    // a step
    return fmin(fmax(((double)i - first) / (last - first), 0), 1);
}

// The same of llama3.
static double llama3_share(const RopeConfig *config, double frequency) {
    double turns = (double)config->original_context * frequency / (2 * M_PI);
    double kept = (turns - config->beta_slow) / (config->beta_fast - config->beta_slow);
    return 1 - fmin(fmax(kept, 0), 1);
}

double rope_frequency(const RopeConfig *config, double theta, int64_t i, int64_t pairs) {
    double part = (double)i / (double)pairs;
    double frequency = pow(theta, -part);
    switch (config->scaling) {
    case ROPE_AS_TRAINED:
        break;
    case ROPE_LINEAR:
        return frequency / config->factor;
    case ROPE_NTK:
        if (pairs == 1) return frequency; // it turns once a position whatever theta is
        return frequency * pow(config->factor, -part * (double)pairs / (double)(pairs - 1));
    case ROPE_YARN:
    case ROPE_LLAMA3: {
        double share = config->scaling == ROPE_YARN ? yarn_share(config, theta, i, pairs)
                                                    : llama3_share(config, frequency);
        return frequency * (1 - share) + frequency / config->factor * share;
    }
    }
    return frequency;
}

double rope_length(const RopeConfig *config) {
    return config->attention_factor > 0 ? config->attention_factor : 1;
}

bool rope_counts_turns(const RopeConfig *config) {
    return config->scaling == ROPE_YARN || config->scaling == ROPE_LLAMA3;
}

double rope_default_beta_fast(const RopeConfig *config) {
    return config->scaling == ROPE_LLAMA3 ? 4 : 32;
}

double rope_default_attention_factor(const RopeConfig *config) {
    return config->scaling == ROPE_YARN ? 0.1 * log(config->factor) + 1 : 1;
}
