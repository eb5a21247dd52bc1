#include "worker/train_config.h"

// All feed-forwards' parameters, and numbers kept for a token, at most.
static double feed_forward_parameters(const ModelConfig *model) {
    double sum = 0, D = (double)model->d_model;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        MoeShape moe = moe_shape(model, layer);
        sum += model_feed_forward(model, layer) == FEED_FORWARD_MOE
                   ? (double)moe.experts * D * (3 * (double)moe.d_ff + 1)
                   : 3 * D * (double)model->d_ff;
    }
    return sum;
}

static double feed_forward_activations(const ModelConfig *model) {
    double sum = 0, D = (double)model->d_model;
    bool padded = model->moe.dispatch == DISPATCH_PADDED;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        MoeShape moe = moe_shape(model, layer);
        double rows = (double)(padded ? moe.experts : moe.top_k);
        sum += model_feed_forward(model, layer) == FEED_FORWARD_MOE
                   ? rows * (3 * (double)moe.d_ff + 4 * D) + (double)moe.experts
                   : 3 * (double)model->d_ff;
    }
    return sum;
}

// Sizes are counted in 64 bits everywhere else; this bound leaves room for every product of them
// that is ever made.
static bool check(const void *section, const OptionRules *rules) {
    const double most = 1e16; // numbers of one kind
    const TrainConfig *train = section;
    const ModelConfig *model = &train->model;
    const AttentionShape *s = &model->attention.shape;
    bool text = train->data.vocab_size == 0; // then at most the code points of Unicode
    double vocabulary = text ? 0x110000 : (double)train->data.vocab_size;
    double D = (double)model->d_model, layers = (double)model->layers;
    double attention = (double)(s->heads * (s->d_head + s->d_value)) +
                       (double)(s->kv_heads * (s->d_head + s->d_value));
    double parameters =
        2 * vocabulary * D + layers * D * (attention + 2) + feed_forward_parameters(model);
    if (parameters > most)
        return option_broken(
            rules, "model.layers", "model.d_model",
            "a model of %.2g parameters is beyond what can be planned, %.0e; reduce "
            "model.layers, model.d_model, model.d_ff, moe.experts or moe.d_ff",
            parameters, most);
    double tokens = (double)(train->batch / train->micro_batches) * (double)train->context;
    double activations =
        tokens * (vocabulary + layers * (2 * attention + 6 * D) + feed_forward_activations(model));
    if (activations > most)
        return option_broken(
            rules, "train.batch", "train.context",
            "a micro-batch of %.2g tokens with %.2g numbers to keep is beyond what can "
            "be planned, %.0e; raise train.micro_batches or reduce train.batch, "
            "train.context or the model",
            tokens, activations, most);
    return true;
}

const OptionSection SIZE_RULES = {.check = check};
