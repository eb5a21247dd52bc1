#include "model/model_config.h"

#include <math.h>
#include <string.h>

#include "model/rope.h"

const BiasFacts BIASES[] = {
    [BIAS_NONE] = {{"false", "none, as in Llama, Mixtral and DeepSeek"}},
    [BIAS_QKV] = {{"qkv", "queries, keys and values alone, as in Qwen2"}, .qkv = true},
    [BIAS_ATTENTION] = {{"attention", "these and attention's output, as in InternLM"},
                        .qkv = true,
                        .output = true},
    [BIAS_LAYERS] = {{"true", "these, feed-forwards and experts, as in GPT-2"},
                     .qkv = true,
                     .output = true,
                     .feed_forward = true},
    [BIAS_HEAD] = {{"head", "these and the head, as in Phi-2"},
                   .qkv = true,
                   .output = true,
                   .feed_forward = true,
                   .head = true},
    [BIAS_NO_QKV] = {{"no_qkv", "all of head but queries, keys and values, as in makeMoE"},
                     .output = true,
                     .feed_forward = true,
                     .head = true},
};
const ChoiceTable BIAS_CHOICES = CHOICE_TABLE(BIASES);

double model_residual_std(const ModelConfig *config) {
    if (config->init_depth == DEPTH_EQUAL) return config->init_std;
    return config->init_std / sqrt(2.0 * (double)config->layers);
}

void per_layer_shorten(PerLayer *list) {
    for (int64_t period = 1; period < list->count; period++) {
        bool repeats = list->count % period == 0;
        for (int64_t i = period; repeats && i < list->count; i++)
            repeats = list->values[i] == list->values[i - period];
        if (!repeats) continue;
        memset(list->values + period, 0, (size_t)(list->count - period) * sizeof *list->values);
        list->count = period;
    }
}

int64_t model_vocab_size(const ModelConfig *config, int64_t tokens) {
    return tokens + (config->objective == OBJECTIVE_MASKED);
}

bool moe_is_due(const MoeConfig *config, int64_t layer) {
    return layer % config->every == (config->first ? 0 : config->every - 1);
}

int64_t model_blocks(const ModelConfig *config) {
    return config->layers + config->mtp.layers;
}

// The value of a block.
static int64_t block_value(const ModelConfig *config, const PerLayer *list, int64_t block) {
    return layer_value(list, block < config->layers ? block : config->layers - 1);
}

PositionKind model_positions(const ModelConfig *config, int64_t layer) {
    return (PositionKind)block_value(config, &config->attention.positions, layer);
}

int64_t model_window(const ModelConfig *config, int64_t layer) {
    return block_value(config, &config->attention.window, layer);
}

double attention_scale(const AttentionConfig *config) {
    return config->scale > 0 ? config->scale : 1.0 / sqrt((double)config->shape.d_head);
}

int64_t attention_d_rope(const AttentionConfig *config) {
    return config->d_rope > 0 ? config->d_rope
                              : 2 * rope_pairs(&config->rope, config->shape.d_head);
}

bool model_has_mixer(const ModelConfig *config, MixerKind kind) {
    for (int64_t layer = 0; layer < config->layers; layer++)
        if (model_mixer(config, layer) == kind) return true;
    return false;
}

MixerKind model_mixer(const ModelConfig *config, int64_t layer) {
    return (MixerKind)block_value(config, &config->mixer, layer);
}

FeedForwardKind moe_feed_forward(const MoeConfig *moe, int64_t layer) {
    bool has_experts = layer_value(&moe->experts, layer) > 0;
    return has_experts && moe_is_due(moe, layer) ? FEED_FORWARD_MOE : FEED_FORWARD_DENSE;
}

FeedForwardKind model_feed_forward(const ModelConfig *config, int64_t layer) {
    if (config->feed_forward.count > 0)
        return (FeedForwardKind)block_value(config, &config->feed_forward, layer);
    return moe_feed_forward(&config->moe, layer < config->layers ? layer : config->layers - 1);
}

bool model_has_feed_forward(const ModelConfig *config, FeedForwardKind kind) {
    for (int64_t layer = 0; layer < config->layers; layer++)
        if (model_feed_forward(config, layer) == kind) return true;
    return false;
}

bool model_is_routed(const ModelConfig *config, int64_t layer) {
    switch (model_feed_forward(config, layer)) {
    case FEED_FORWARD_MOE:
    case FEED_FORWARD_PR_MOE:
    case FEED_FORWARD_LATENT_MOE:
        return true;
    case FEED_FORWARD_DENSE:
    case FEED_FORWARD_PEER:
    case FEED_FORWARD_SOFT_MOE:
        break;
    }
    return false;
}

void model_config_of_layer(ModelConfig *one, const ModelConfig *config, int64_t layer) {
    FeedForwardKind feed_forward = model_feed_forward(config, layer);
    *one = *config;
    PerLayer *lists[] = {&one->mixer,       &one->attention.positions, &one->attention.window,
                         &one->moe.experts, &one->moe.top_k,           &one->moe.d_ff};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        *lists[i] = (PerLayer){1, {(int32_t)layer_value(lists[i], layer)}};
    one->feed_forward = (PerLayer){1, {(int32_t)feed_forward}};
    one->layers = 1;
    one->mtp.layers = 0;
    one->moe.hash_layers = layer < config->moe.hash_layers;
}

MoeShape moe_shape(const ModelConfig *config, int64_t layer) {
    const MoeConfig *moe = &config->moe;
    int64_t experts = block_value(config, &moe->experts, layer);
    int64_t top_k = block_value(config, &moe->top_k, layer);
    // What a token's id decides has no use for experts by which the router spares work.
    int64_t zero = experts > 0 && !moe_is_hashed(moe, layer) ? moe->zero_experts : 0;
    FeedForwardKind kind = model_feed_forward(config, layer);
    bool latent = kind == FEED_FORWARD_LATENT_MOE;
    return (MoeShape){.experts = experts,
                      .zero = zero,
                      .scored = experts + zero,
                      .top_k = top_k,
                      .d_ff = block_value(config, &moe->d_ff, layer),
                      .slots = moe->router.kind == EXPERT_CHOICE ? experts : top_k,
                      .residual = kind == FEED_FORWARD_PR_MOE,
                      .latent = latent,
                      .width = latent ? moe->latent_width : config->d_model};
}

bool moe_has_gate(const MoeConfig *config) {
    return config->router.kind != HASH;
}

bool moe_is_hashed(const MoeConfig *config, int64_t layer) {
    return !moe_has_gate(config) || layer < config->hash_layers;
}

int64_t moe_hot_experts(const MoeConfig *config, MoeShape shape) {
    int64_t hot = config->hot_experts;
    if (hot > 0) return hot;
    for (hot = shape.top_k; shape.experts % hot != 0;) hot++;
    return hot;
}

// cf·K·G/(E + Z) of G tokens.
static int64_t rounded_capacity(const MoeConfig *config, MoeShape shape, int64_t tokens) {
    Rational cf = config->capacity_factor;
    if (cf.numerator == 0 && config->router.kind == EXPERT_CHOICE) cf = (Rational){1, 1};
    double factor = (double)cf.numerator / (double)cf.denominator, G = (double)tokens;
    double K = (double)shape.top_k, E = (double)shape.scored;
    int64_t above, below = cf.denominator * shape.scored;
    switch (config->capacity_rounding) {
    case CAPACITY_CEIL:
        if (__builtin_mul_overflow(cf.numerator * shape.top_k, tokens, &above)) return tokens;
        return above / below + (above % below != 0);
    case CAPACITY_FLOOR:
        return (int64_t)(G * (factor * K) / E);
    case CAPACITY_CEIL_F64:
        return (int64_t)ceil(G * K / E * factor);
    case CAPACITY_CEIL_F32:
        return (int64_t)ceilf((float)(G / E) * (float)(factor * K));
    case CAPACITY_FLOOR_PER_CHOICE:
        return shape.top_k *
               (int64_t)(factor * (double)((tokens + shape.scored - 1) / shape.scored));
    }
    return tokens;
}

int64_t balance_denominator(const MoeConfig *config, MoeShape shape, int64_t tokens) {
    bool one = config->balance_choices == BALANCE_FIRST_CHOICES; // of a token
    return one || config->balance_share == SHARE_OF_TOKENS ? tokens : shape.top_k * tokens;
}

int64_t moe_capacity(const MoeConfig *config, MoeShape shape, int64_t tokens) {
    if (config->capacity_factor.numerator == 0 && config->router.kind != EXPERT_CHOICE) return -1;
    int64_t capacity = rounded_capacity(config, shape, tokens);
    if (capacity < config->min_capacity) capacity = config->min_capacity;
    return capacity < tokens ? capacity : tokens; // an expert is chosen once by a token
}
